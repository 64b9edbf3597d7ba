"""Truths about the plan: what is asked, and when, without any model."""

from __future__ import annotations

import numpy as np

from stream_app.evaluation.plan import Plan, make_plan
from stream_app.events import Event, EventItem, Item


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


def test_a_file_sorted_by_item_is_shuffled_by_the_seed() -> None:
    """Lots and negatives depend on the seed alone, and the report will say how many events were moved."""
    events = [view(1000 * u, f"u{u}", str(i)) for u in range(30) for i in range(u, u + 6)]
    plans = [make_plan(events, seed=seed) for seed in (1, 1, 2)]
    assert plans[0].n_shuffled == len(events)
    assert plans[0].questions == plans[1].questions != plans[2].questions
    assert make_plan(events, shuffle=False).n_shuffled == 0


def test_late_events_are_asked_in_their_place() -> None:
    """Questions follow time, not the file, and the plan counts the events that moved."""
    plan = make_plan([view(1, "u", "a"), view(3, "u", "c"), view(2, "u", "b")])
    assert (asked(plan), plan.n_out_of_order) == (["a", "b", "c"], 1)


def test_an_empty_stream_has_an_empty_plan() -> None:
    """No records, no tests, no error."""
    plan = make_plan([])
    assert (plan.n_events, plan.n_tests, plan.n_items, plan.n_users) == (0, 0, 0, 0)
