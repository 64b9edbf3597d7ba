"""Truths about the plan: what is asked, and when, without any model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.events import Event, EventItem, Item, User
from stream_app.prequential import (
    Plan,
    in_time_order,
    looks_sorted_by_item,
    make_plan,
    shuffle_equal_times,
)


def view(t: int, user_id: str, item_id: str) -> Event:
    return Event(f"{t}-{user_id}-{item_id}", "view_item", t, user_id, item_id=item_id)


def rate(t: int, user_id: str, item_id: str, value: float) -> Event:
    return Event(f"{t}-{user_id}-{item_id}", "rate", t, user_id, item_id=item_id, value=value)


def asked(plan: Plan) -> list[str]:
    return [q.item_id for index in sorted(plan.questions) for q in plan.questions[index]]


def test_positive_feedback_is_tested_and_nothing_else() -> None:
    """A low rating, an impression and a removal ask nothing."""
    events = [
        rate(1, "u", "a", 4.0),
        rate(2, "u", "b", 3.0),
        Event("l", "view_item_list", 3, "u", items=(EventItem("c"),)),
        Event("r", "remove_from_cart", 4, "u", item_id="d"),
        view(5, "u", "e"),
    ]
    assert asked(make_plan(events)) == ["a", "e"]


def test_weights_and_threshold_decide_what_is_positive() -> None:
    """What counts is configuration."""
    events = [rate(1, "u", "a", 3.0), view(2, "u", "b")]
    plan = make_plan(events, weights={"rate": 1.0}, rating_threshold=3.0)
    assert asked(plan) == ["a"]


def test_an_item_is_known_after_any_event_that_names_it() -> None:
    """A low rating or an impression makes an item known; a description does not."""
    events = [
        Item("x"),
        rate(1, "u", "a", 1.0),
        Event("l", "view_item_list", 2, "u", items=(EventItem("b"),)),
        view(3, "v", "a"),
        view(4, "v", "b"),
        view(5, "v", "x"),
        view(6, "w", "x"),
    ]
    plan = make_plan(events)
    assert asked(plan) == ["a", "b", "x", "x"]
    assert plan.is_known.tolist() == [True, True, False, True]
    assert plan.n_items == 3


def test_seen_means_earlier_positive_feedback() -> None:
    """An item is repeated after positive feedback on it, not after a low rating."""
    events = [rate(1, "u", "a", 2.0), rate(2, "u", "a", 5.0), rate(3, "u", "a", 5.0), view(4, "v", "a")]
    plan = make_plan(events)
    assert (asked(plan), plan.n_repeated) == (["a", "a"], 1)
    repeat = make_plan(events, exclude_seen=False)
    assert (asked(repeat), repeat.n_repeated) == (["a", "a", "a"], 0)


def test_an_order_asks_for_each_of_its_items() -> None:
    """All items of one event are asked at once; one that is named twice is asked once."""
    order = Event("o", "purchase", 2, "u", items=(EventItem("a"), EventItem("b"), EventItem("b")))
    plan = make_plan([view(1, "u", "a"), order])
    assert asked(plan) == ["a", "b"]
    assert [q.item_id for q in plan.questions[1]] == ["b"]


def test_negatives_are_known_and_not_chosen() -> None:
    """A sampled negative is known by then, was not chosen by the user, and is not the right item."""
    rng = np.random.default_rng(5)
    events = [
        view(t, f"u{u}", f"i{i}")
        for t, (u, i) in enumerate(zip(rng.integers(9, size=400), rng.integers(60, size=400), strict=True))
    ]
    plan = make_plan(events)
    known: set[str] = set()
    chosen: dict[str, set[str]] = {}
    n_negatives = 0
    for index, event in enumerate(events):
        mine = chosen.setdefault(event.user_id, set())
        for q in plan.questions.get(index, ()):
            if q.negative_id is not None:
                n_negatives += 1
                assert q.negative_id in known - mine - {q.item_id}
            else:
                assert not known - mine - {q.item_id}
        known.add(str(event.item_id))
        mine.add(str(event.item_id))
    assert n_negatives > 200


def test_the_first_event_of_a_users_second_is_marked() -> None:
    """Seconds are the user's own; feedback of the same second by others does not matter."""
    events = [view(1000, "u", "a"), view(1000, "v", "a"), view(1999, "u", "b"), view(2000, "u", "c")]
    assert make_plan(events).is_first_of_second.tolist() == [True, True, False, True]


def test_history_and_item_count_are_those_before_the_event() -> None:
    """What is noted about a test was true before its event."""
    events = [view(1, "u", "a"), view(2, "u", "b"), view(3, "v", "a"), view(4, "u", "c")]
    plan = make_plan(events)
    assert plan.history.tolist() == [0, 1, 0, 2]
    assert plan.item_count.tolist() == [0, 0, 1, 0]


# ---------------------------------------------------------------------------------- impressions


def shown(t: int, user_id: str, request_id: str | None, *item_ids: str) -> Event:
    items = tuple(EventItem(item_id, position=p) for p, item_id in enumerate(item_ids, start=1))
    return Event(f"s{t}", "view_item_list", t, user_id, items=items, request_id=request_id)


def click(t: int, user_id: str, request_id: str | None, item_id: str) -> Event:
    return Event(f"c{t}", "select_item", t, user_id, item_id=item_id, request_id=request_id)


def test_an_impression_is_asked_when_one_of_its_items_is_clicked_later() -> None:
    """Clicks are found by user and request; lists without a click are not asked."""
    events = [
        shown(1, "u", "r1", "a", "b", "c"),
        shown(2, "u", "r2", "a", "b"),
        shown(3, "v", "r1", "x", "y"),
        click(4, "u", "r1", "b"),
        click(5, "u", "r1", "c"),
        click(6, "u", "r1", "not shown"),
        click(7, "w", "r2", "a"),
    ]
    impressions = make_plan(events).impressions
    assert list(impressions) == [0]
    assert impressions[0].item_ids == ("a", "b", "c")
    assert impressions[0].positions == (1, 2, 3)
    assert impressions[0].clicked == {"b", "c"}


def test_a_click_before_its_impression_does_not_count() -> None:
    """Only later clicks make an impression worth asking."""
    assert not make_plan([click(1, "u", "r", "a"), shown(2, "u", "r", "a", "b")]).impressions


def test_impressions_without_a_request_are_left_out() -> None:
    """Nothing ties a click to a list without a request_id."""
    assert not make_plan([shown(1, "u", None, "a", "b"), click(2, "u", None, "a")]).impressions


# ---------------------------------------------------------------------------------- order


def test_late_events_are_sorted_to_their_place() -> None:
    """Events behind a later one are counted and moved; the rest keeps its order."""
    events = [view(1, "u", "a"), view(3, "u", "c"), view(2, "u", "b"), view(3, "u", "d")]
    ordered, n_late = in_time_order(events)
    assert [e.item_id for e in ordered if isinstance(e, Event)] == ["a", "b", "c", "d"]
    assert n_late == make_plan(events).n_out_of_order == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20))
def test_descriptions_are_never_moved_before_earlier_events(steps: list[tuple[bool, int]]) -> None:
    """An item stays behind every event that stood before it, and keeps its order among items."""
    records = [Item(str(n)) if is_item else view(t, "u", str(n)) for n, (is_item, t) in enumerate(steps)]
    ordered, _ = in_time_order(records)
    place = {id(record): n for n, record in enumerate(ordered)}
    assert sorted(place) == sorted(id(r) for r in records)
    for n, item in enumerate(records):
        if isinstance(item, Item):
            assert all(place[id(r)] < place[id(item)] for r in records[:n])
    times = [r.event_time_ms for r in ordered if isinstance(r, Event)]
    assert times == sorted(times)


def test_only_records_are_accepted() -> None:
    """Anything but an event, an item or a user is refused by name."""
    with pytest.raises(TypeError, match="not a dict"):
        in_time_order([{"event_type": "view"}])  # type: ignore[list-item]


def many_at_once(order: str, n_users: int = 30, n_items: int = 6) -> list[Event]:
    rng = np.random.default_rng(1)
    events = []
    for u in range(n_users):
        items = rng.choice(1000, size=n_items, replace=False)
        items = {"ascending": np.sort(items), "descending": np.sort(items)[::-1]}.get(order, items)
        events += [view(1000 * u, f"u{u}", str(i)) for i in items]
    return events


@pytest.mark.parametrize(
    ("order", "is_sorted"), [("ascending", True), ("descending", True), ("random", False)]
)
def test_a_file_sorted_by_item_is_recognised(order: str, is_sorted: bool) -> None:
    """Numbers in order within equal times are suspicious, in either direction; chance is not."""
    events = many_at_once(order)
    assert looks_sorted_by_item(events) is is_sorted
    assert make_plan(events).n_shuffled == (len(events) if is_sorted else 0)
    assert not looks_sorted_by_item(events[:10])


def test_shuffling_moves_equal_times_only() -> None:
    """Each user's events of one moment and type change places among themselves, by the seed."""
    records = [User("u"), shown(5, "u", "r", "a", "b"), *(click(5, "u", "r", i) for i in "abcdefgh")]
    records += [view(6, "u", "z"), view(5, "v", "y")]
    shuffled, n = shuffle_equal_times(records, np.random.default_rng(0))
    again, _ = shuffle_equal_times(records, np.random.default_rng(0))
    assert n == 8
    assert shuffled == again != records
    assert shuffled[:2] + shuffled[10:] == records[:2] + records[10:]
    assert sorted(map(repr, shuffled)) == sorted(map(repr, records))


def test_the_same_seed_gives_the_same_plan() -> None:
    """Lots and negatives depend on the seed alone."""
    events = many_at_once("ascending")
    plans = [make_plan(events, seed=seed) for seed in (1, 1, 2)]
    assert plans[0].questions == plans[1].questions != plans[2].questions


def test_an_empty_stream_has_an_empty_plan() -> None:
    """No records, no tests, no error."""
    plan = make_plan([])
    assert (plan.n_events, plan.n_tests, plan.n_items, plan.n_users) == (0, 0, 0, 0)
