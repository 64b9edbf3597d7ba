"""Truths about the order of streams: time decides, and nothing is given away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.evaluation.stream_order import in_time_order, looks_sorted_by_item, shuffle_equal_times
from stream_app.events import Event, Item, User


def view(t: int, user_id: str, item_id: str) -> Event:
    return Event(f"{t}-{user_id}-{item_id}", "view_item", t, user_id, item_id=item_id)


def test_late_events_are_sorted_to_their_place() -> None:
    """Events behind a later one are counted and moved; the rest keeps its order."""
    events = [view(1, "u", "a"), view(3, "u", "c"), view(2, "u", "b"), view(3, "u", "d")]
    ordered, n_late = in_time_order(events)
    assert [e.item_id for e in ordered if isinstance(e, Event)] == ["a", "b", "c", "d"]
    assert n_late == 1


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
    assert not looks_sorted_by_item(events[:10])


def test_shuffling_moves_equal_times_only() -> None:
    """Each user's events of one moment and type change places among themselves, by the seed."""
    shown = Event("s", "view_item_list", 5, "u", item_id="a")
    records = [User("u"), shown, *(Event(i, "select_item", 5, "u", item_id=i) for i in "abcdefgh")]
    records += [view(6, "u", "z"), view(5, "v", "y")]
    shuffled, n = shuffle_equal_times(records, np.random.default_rng(0))
    again, _ = shuffle_equal_times(records, np.random.default_rng(0))
    assert n == 8
    assert shuffled == again != records
    assert shuffled[:2] + shuffled[10:] == records[:2] + records[10:]
    assert sorted(map(repr, shuffled)) == sorted(map(repr, records))
