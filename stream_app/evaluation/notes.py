"""What a reader has to know about a stream before believing its figures.

Every stream has a report, however odd it is; what is odd is said beside the figures. `notes_of` looks at the
plan alone, before any model runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from stream_app.evaluation.plan import Plan
from stream_app.events import Event, Item, User

FEW_TESTS = 100  # fewer say little, whatever the figures are


def notes_of(plan: Plan, k: int) -> tuple[str, ...]:
    """The notes on a plan whose lists have `k` places.

    Examples
    --------
    >>> from stream_app.evaluation.plan import make_plan
    >>> views = [Event(str(t), "view_item", t, "u", item_id="i") for t in (1, 3, 2)]
    >>> for note in notes_of(make_plan(views), 10):
    ...     print(note)
    tests of items that nothing had named before: 1 of 1, misses for every model
    only 1 tests: little can be told from them
    repeated choices: 2, learned and not tested
    only one user: errors, which compare users, cannot be given
    only one item: there is nothing to choose from
    late events: 1 of 3, sorted to their place
    items never described: 1 of 1
    """
    if not plan.n_events:
        return ("no events: nothing was tested",)
    return (*_on_tests(plan), *_on_size(plan, k), *_on_order(plan), *_on_descriptions(plan))


def _on_size(plan: Plan, k: int) -> Iterator[str]:
    events_of = Counter(record.user_id for record in plan.records if isinstance(record, Event))
    once = sum(n == 1 for n in events_of.values())
    if plan.n_users == 1:
        yield "only one user: errors, which compare users, cannot be given"
    elif once:
        yield f"users with a single event: {once:,} of {plan.n_users:,}"
    if plan.n_items == 1:
        yield "only one item: there is nothing to choose from"
    elif 1 < plan.n_items <= k:
        yield f"lists of {k} hold all {plan.n_items} items: only their order tells models apart"


def _on_tests(plan: Plan) -> Iterator[str]:
    n, first_time = plan.n_tests, int((~plan.is_known).sum())
    if not n:
        yield "no event is positive feedback on a new item: nothing was tested"
    if first_time:
        yield f"tests of items that nothing had named before: {first_time:,} of {n:,}, misses for every model"
    if 0 < n < FEW_TESTS:
        yield f"only {n} tests: little can be told from them"
    if plan.n_repeated:
        yield f"repeated choices: {plan.n_repeated:,}, learned and not tested"
    if plan.impressions:
        yield f"shown lists with a later click: {len(plan.impressions):,}"


def _on_order(plan: Plan) -> Iterator[str]:
    times = {record.event_time_ms for record in plan.records if isinstance(record, Event)}
    if plan.n_out_of_order:
        yield f"late events: {plan.n_out_of_order:,} of {plan.n_events:,}, sorted to their place"
    if len(times) == 1 < plan.n_events:
        yield "all events have the same time: what came first is the order of the file"
    if plan.n_shuffled:
        yield f"events of equal time, ordered by lot: {plan.n_shuffled:,}; the file is sorted by item"


def _on_descriptions(plan: Plan) -> Iterator[str]:
    items = {record.item_id for record in plan.records if isinstance(record, Item)}
    users = {record.user_id for record in plan.records if isinstance(record, User)}
    named = {i for record in plan.records if isinstance(record, Event) for i in record.item_ids()}
    active = {record.user_id for record in plan.records if isinstance(record, Event)}
    if named - items:
        yield f"items never described: {len(named - items):,} of {len(named):,}"
    if users and active - users:
        yield f"users never described: {len(active - users):,} of {len(active):,}"
