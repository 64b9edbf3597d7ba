"""The recommender: each event once, lists that hold only what may be shown, reasons that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.events import Event, EventItem, Item, Tombstone, User
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import item_key
from stream_app.model.release import Overlay, Release
from stream_app.model.served_model import empty_artefact
from stream_app.recommender import Offered, Outcome, Recommender, Share
from tests.stream_app.worlds import Pair, feed, random_events, view_event


@pytest.fixture(scope="module")
def model() -> tuple[Release, Overlay]:
    """What a learner of 500 events tells workers."""
    learner = Pair().run(random_events(500)).learner
    empty = learner.tables(np.zeros(0, np.int32), 100)
    return Release(empty_artefact(), 0, empty), learner.overlay(0, 0, 100)


def worker(model: tuple[Release, Overlay], **kwargs: int) -> Recommender:
    """A new worker with that model."""
    recommender = Recommender(**({"k": 8} | kwargs))
    recommender.model.load(model[0], "v1")
    recommender.model.apply(model[1])
    return recommender


def bytes_of(outcome: Outcome) -> tuple[bytes | None, list[Offered], list[tuple[str, bytes]]]:
    """What an outcome makes durable."""
    return outcome.examples and outcome.examples.to_bytes(), outcome.lists, outcome.states  # type: ignore[return-value]


def ids(offered: Offered) -> list[str]:
    """The items of a list."""
    return [item_id for item_id, _ in offered.items]


EVENTS = random_events(80, 9)


def test_a_batch_gives_examples_lists_and_states(model: tuple[Release, Overlay]) -> None:
    """Every user of the batch gets one list and one state; new feedback gives examples in offset order."""
    outcome = feed(worker(model), EVENTS, 100)
    active = {e.user_id for e in EVENTS}
    assert {o.user_id for o in outcome.lists} == active == {u for u, _ in outcome.states}
    assert len(outcome.lists) == len(outcome.states) == len(active)
    assert (outcome.applied, outcome.skipped) == (80, 0)
    assert outcome.examples is not None and outcome.examples.partition == 0
    offsets = outcome.examples.offsets.tolist()
    assert offsets == sorted(offsets) and set(offsets) <= set(range(100, 180))
    quiet = {100 + k for k, e in enumerate(EVENTS) if e.event_type == "view_item_list"}
    assert not quiet & set(offsets)
    latest = {e.user_id: e.event_time_ms for e in EVENTS}
    for offered in outcome.lists:
        assert len(offered.items) == 8 and offered.event_time_ms == latest[offered.user_id]
        scores = [s for _, s in offered.items]
        assert scores == sorted(scores, reverse=True)


def test_applied_events_are_skipped(model: tuple[Release, Overlay]) -> None:
    """Offsets that are not above the user's last one change nothing: no example, list or state."""
    recommender = worker(model)
    feed(recommender, EVENTS, 100)
    before = {u: recommender.users.pack(u) for u in recommender.users.in_memory()}
    again = feed(recommender, EVENTS, 100)
    assert again == Outcome(None, [], [], 0, 80)
    assert {u: recommender.users.pack(u) for u in recommender.users.in_memory()} == before


def test_an_offset_of_another_partition_is_new(model: tuple[Release, Overlay]) -> None:
    """A user who moved to another partition is not held to the old offsets."""
    recommender = worker(model)
    feed(recommender, EVENTS[:5], 1_000)
    elsewhere = [view_event(k, e.user_id, f"new-{k}") for k, e in enumerate(EVENTS[:5])]
    moved = recommender.apply(1, range(5), elsewhere)
    assert moved.applied == 5 and moved.examples is not None and moved.examples.partition == 1


@pytest.mark.parametrize("shared", [False, True])
def test_partitions_applied_together_lead_to_the_same(model: tuple[Release, Overlay], shared: bool) -> None:
    """Several partitions at once come out as one after the other, also where a user is in two of them."""
    partition_of = {e.user_id: n % 3 for n, e in enumerate(EVENTS)}
    shares = []
    for p in range(3):
        mine = [e for n, e in enumerate(EVENTS) if (n % 3 if shared else partition_of[e.user_id]) == p]
        shares.append(Share(p, range(100, 100 + len(mine)), mine))
    together, alone = worker(model), worker(model)
    for recommender in (together, alone):
        for user_id in recommender.missing(EVENTS):
            recommender.users.load(user_id, None)
    outcomes = together.apply_all(shares)
    for share, outcome in zip(shares, outcomes, strict=True):
        theirs = alone.apply(share.partition, share.offsets, share.events)
        assert bytes_of(outcome) == bytes_of(theirs)
        assert outcome.applied == theirs.applied == len(share.events)


@pytest.mark.parametrize("cut", [0, 13, 79])
def test_a_crash_before_the_states_are_written_leaves_no_trace(
    model: tuple[Release, Overlay], cut: int
) -> None:
    """A new process with the states of before makes the same examples, lists and states, byte for byte."""
    first = worker(model)
    states = dict(feed(first, EVENTS[:cut]).states)
    expected = bytes_of(feed(first, EVENTS[cut:], cut))
    second = worker(model)
    second.items.number("met-in-another-order")
    examples, lists, packed = bytes_of(feed(second, EVENTS[cut:], cut, states=states))
    assert (examples, packed) == (expected[0], expected[2])
    assert [o.user_id for o in lists] == [o.user_id for o in expected[1]]
    for mine, theirs in zip(lists, expected[1], strict=True):
        assert mine == theirs


def test_a_batch_half_written_is_finished(model: tuple[Release, Overlay]) -> None:
    """When only some states were written, the others' events are applied again and nobody's twice."""
    whole = worker(model)
    states = dict(feed(whole, EVENTS).states)
    half = dict(list(states.items())[::2])
    again = feed(worker(model), EVENTS, states=half)
    assert dict(again.states) == {u: s for u, s in states.items() if u not in half}
    assert again.skipped == sum(e.user_id in half for e in EVENTS)


@pytest.mark.parametrize("every", [1, 9])
def test_how_events_are_cut_into_batches_makes_no_difference(
    model: tuple[Release, Overlay], every: int
) -> None:
    """Examples and final states are the same for any batches, orders of several items included."""
    items = tuple(EventItem(f"i{k}") for k in (3, 8, 11))
    events = [*EVENTS[:40], Event("o", "purchase", EVENTS[40].event_time_ms, "u1", items=items), *EVENTS[41:]]

    def run(size: int) -> tuple[list[list[object]], dict[str, bytes]]:
        recommender, rows, states = worker(model), [], dict[str, bytes]()
        for start in range(0, len(events), size):
            outcome = feed(recommender, events[start : start + size], start)
            states |= dict(outcome.states)
            b = outcome.examples
            for e in range(len(b) if b is not None else 0):
                assert b is not None
                keys = [*b.keys.tolist(), None]
                rows.append([int(b.offsets[e]), [keys[i] for i in b.item[e]], b.numbers[e].tolist()])
        return rows, states

    assert run(every) == run(len(events))


def test_seen_hidden_sold_out_and_deleted_items_are_never_served(model: tuple[Release, Overlay]) -> None:
    """Whatever the shop withdraws leaves every list, and it is known who had it."""
    recommender = worker(model)
    first = feed(recommender, EVENTS)
    held = ids(first.lists[0])
    withdrawn = [
        Item(held[0], is_hidden=True),
        Item(held[1], stock=0),
        Tombstone(held[2]),
        Item(held[3], stock=-5),
    ]
    assert [recommender.observe_item(item) for item in withdrawn] == [True] * 4
    assert [recommender.observe_item(item) for item in withdrawn] == [False] * 4
    assert not recommender.observe_item(Tombstone("never-heard-of"))
    holding = set(recommender.holding(held[:4]))
    assert holding == {o.user_id for o in first.lists if set(ids(o)) & set(held[:4])}
    for offered in recommender.lists(recommender.users.in_memory()):
        assert not set(ids(offered)) & set(held[:4])
    assert recommender.holding(held[:4]) == []
    assert recommender.holding(["never-heard-of", "nor-of-this"]) == []
    recommender.observe_item(Item(held[0], stock=3))
    assert any(held[0] in ids(o) for o in recommender.lists(recommender.users.in_memory()))
    for offered in recommender.lists(recommender.users.in_memory()):
        row = recommender.users.row(offered.user_id)
        seen = recommender.users.users.items[row, : recommender.users.users.length[row]]
        assert not {recommender.items.ids[i] for i in seen} & set(ids(offered))


def test_seen_items_may_be_served_when_asked_for(model: tuple[Release, Overlay]) -> None:
    """Without the exclusion, what the user has bought may be on top again."""
    recommender = worker(model)
    feed(recommender, EVENTS)
    rows = np.array([recommender.users.row(u) for u in recommender.users.in_memory()], np.int32)
    gaps = np.ones(len(rows), np.uint8)
    with_seen, _, _ = recommender.top(rows, gaps, 20, exclude_seen=False)
    users = recommender.users.users
    assert any(
        np.isin(with_seen[m], users.items[row, : users.length[row]]).any() for m, row in enumerate(rows)
    )


def test_an_unknown_user_gets_what_everybody_is_offered(model: tuple[Release, Overlay]) -> None:
    """Without a history the list comes from the pool and says that it is not personal."""
    recommender = worker(model)
    recommender.users.load("nobody", None)
    offered = recommender.lists(["nobody"])[0]
    pool = {recommender.items.ids[i] for i in recommender.model.view.pool}
    assert len(offered.items) == 8 and set(ids(offered)) <= pool
    assert not offered.personal and offered.event_time_ms == -1
    assert feed(recommender, [view_event(0, "nobody", "i1")]).lists[0].personal


def test_a_catalogue_of_one_item_gives_lists_of_one() -> None:
    """Who has seen it gets an empty list, everybody else that item."""
    pair = Pair().run([view_event(t, f"u{t}", "only") for t in range(5)], every=1)
    pair.recommender.users.load("new", None)
    assert ids(pair.recommender.lists(["new"])[0]) == ["only"]
    assert ids(pair.recommender.lists(["u3"])[0]) == []


def test_a_list_longer_than_the_catalogue_holds_it_all(model: tuple[Release, Overlay]) -> None:
    """K above the number of items gives every item the user has not seen, once each."""
    recommender = worker(model, k=100)
    offered = feed(recommender, [view_event(0, "x", "i3")]).lists[0]
    assert sorted(ids(offered)) == sorted(f"i{k}" for k in range(25) if k != 3)


def test_eviction_changes_no_list(model: tuple[Release, Overlay]) -> None:
    """A worker that holds two users at a time offers what one that holds them all offers."""
    small, large = worker(model, max_users=2), worker(model)
    states: dict[str, bytes] = {}
    for offset, event in enumerate(EVENTS):
        a = feed(small, [event], offset, states=states)
        states |= dict(a.states)
        assert a.lists == feed(large, [event], offset).lists
        assert len(small.users) <= 2
    assert states == {u: large.users.pack(u) for u in large.users.in_memory()}


HOSTILE = [
    "\r\nSET x 1",
    "*",
    "{u}:top",
    "../../etc",
    "\u202eabc",
    "a" * 512,
    "%00",
    "''--",
    "😀",
    "item=1",
    " ",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_ids_stay_data(model: tuple[Release, Overlay], hostile: str) -> None:
    """Any text is a user or an item like others: learned, offered and packed."""
    recommender = worker(model)
    outcome = feed(recommender, [view_event(0, hostile, hostile), view_event(1, hostile, "i2")])
    assert outcome.examples is not None and outcome.states[0][0] == hostile
    again = ExampleBatch.from_bytes(outcome.examples.to_bytes())
    assert hostile in again.ids and item_key(hostile) in again.keys
    assert hostile not in ids(outcome.lists[0])
    pair = Pair().run([view_event(t, f"u{t}", hostile) for t in range(3)], every=1)
    pair.recommender.users.load("new", None)
    assert ids(pair.recommender.lists(["new"])[0]) == [hostile]


def test_a_user_who_is_erased_is_new_again(model: tuple[Release, Overlay]) -> None:
    """A tombstone forgets history, offset and description."""
    recommender = worker(model)
    recommender.observe_user(User("u1", True, {"age": 30}))
    feed(recommender, EVENTS, 500)
    recommender.observe_user(Tombstone("u1"))
    assert "u1" not in recommender.users
    feed(recommender, [view_event(0, "u1", "i1")], 3)
    assert recommender.users.offset_of("u1") == 3
    row = recommender.users.row("u1")
    assert recommender.users.users.length[row] == 1 and not recommender.users.users.tokens[row, 1:].any()


def test_time_that_goes_backwards_is_no_danger(model: tuple[Release, Overlay]) -> None:
    """Late events keep the latest clock, and lists are stamped with the latest event of the batch."""
    recommender = worker(model)
    outcome = feed(
        recommender, [view_event(50, "u", "i1"), view_event(3, "u", "i2"), view_event(9, "u", "i3")]
    )
    assert outcome.lists[0].event_time_ms == view_event(50, "u", "").event_time_ms
    row = recommender.users.row("u")
    assert recommender.users.users.last_ms[row] == view_event(50, "u", "").event_time_ms


def test_no_events_lead_to_nothing(model: tuple[Release, Overlay]) -> None:
    """An empty batch, and a batch of quiet events, are handled; the latter still moves offset and list."""
    recommender = worker(model)
    assert feed(recommender, []) == Outcome(None, [], [], 0, 0)
    quiet = feed(recommender, [view_event(0, "u", "i1", "view_item_list")], 7)
    assert quiet.examples is None and len(quiet.lists) == len(quiet.states) == 1
    assert recommender.users.offset_of("u") == 7


def test_reasons_add_up_to_the_score(model: tuple[Release, Overlay]) -> None:
    """The parts of a reason sum to the score in the list; "goes with" names an item of the history."""
    recommender = worker(model)
    feed(recommender, EVENTS)
    texts = set()
    for offered in recommender.lists(recommender.users.in_memory()):
        row = recommender.users.row(offered.user_id)
        users = recommender.users.users
        history = {recommender.items.ids[i] for i in users.items[row, : users.length[row]]}
        for item_id, score in offered.items:
            reason = recommender.explain(offered.user_id, item_id)
            assert reason is not None and sum(reason.parts.values()) == pytest.approx(score, abs=1e-3)
            assert reason.because is None or reason.because in history
            texts.add(reason.text.split()[0])
    assert "goes" in texts


def test_a_reason_depends_on_its_user_alone(model: tuple[Release, Overlay]) -> None:
    """Explaining one user after another gives what explaining each first gives."""
    recommender = worker(model)
    feed(recommender, EVENTS)
    recommender.users.load("nobody", None)
    alone = worker(model)
    alone.users.load("nobody", None)
    for item_id in ("i1", "i2", "i12"):
        recommender.explain("u1", item_id)
        assert recommender.explain("nobody", item_id) == alone.explain("nobody", item_id)
    assert recommender.explain("u1", "never-heard-of") is None
    assert recommender.explain("not-in-memory", "i1") is None


def test_a_new_item_says_so(model: tuple[Release, Overlay]) -> None:
    """An item without any event is new in the shop."""
    recommender = worker(model)
    recommender.observe_item(Item("brand-new", price=5.0, categories=("shoes",)))
    recommender.users.load("u", None)
    reason = recommender.explain("u", "brand-new")
    assert reason is not None and reason.text == "new in the shop"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 2**20)), max_size=40))
def test_any_order_of_times_and_repeats_is_survived(
    model: tuple[Release, Overlay], steps: list[tuple[int, int, int]]
) -> None:
    """Random users, items and times give distinct items per list, none of them seen, and finite scores."""
    recommender = worker(model)
    outcome = feed(recommender, [view_event(t, f"u{u}", f"i{i}") for u, i, t in steps])
    for offered in outcome.lists:
        seen = {f"i{i}" for u, i, _ in steps if f"u{u}" == offered.user_id}
        assert len(set(ids(offered))) == len(offered.items) and not seen & set(ids(offered))
        assert all(np.isfinite(s) for _, s in offered.items)


def test_reasons_of_many_are_those_of_each(model: tuple[Release, Overlay]) -> None:
    """What the kernel says of all lists at once is what `explain` says of every item."""
    recommender = worker(model)
    feed(recommender, EVENTS)
    recommender.observe_item(Item("brand-new"))
    recommender.users.load("cold", None)
    users, items = recommender.users.in_memory(), [i for i in recommender.items.ids if i]
    picks, explained = [], []
    for n, user in enumerate(users):
        reasons = [(item, recommender.explain(user, item)) for item in items[n % 3 :: 3] if n != 1]
        picks.append([(item, sum(r.parts.values())) for item, r in reasons if r is not None])
        explained.append([r.text for _, r in reasons if r is not None])
    assert recommender.reasons(users, picks) == explained
    assert {text.split()[0] for some in explained for text in some} >= {"goes", "new", "fits"}
    known = explained[-1].index("fits your taste")  # with a lower score there is less taste in it
    assert recommender.reasons(users[-1:], [[(picks[-1][known][0], -100.0)]]) == [["trending now"]]
    assert recommender.reasons([], []) == []
