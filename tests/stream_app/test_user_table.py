"""Users in memory, and their packed state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.errors import StoreError
from stream_app.model.item_index import ItemIndex, user_tokens
from stream_app.model.user_table import UserTable


def table(max_users: int = 100, max_items: int = 8) -> UserTable:
    """An empty table."""
    return UserTable(ItemIndex(), max_users, max_items)


def fill(t: UserTable, user_id: str, items: list[str], offset: int = 5) -> None:
    """Give a user a history."""
    row = t.load(user_id, None)
    numbers = [t.items.number(i) for i in items]
    t.users.items[row, : len(numbers)] = numbers
    t.users.best[row, : len(numbers)] = range(10, 10 + len(numbers))
    t.users.length[row], t.users.last_ms[row] = len(numbers), 1_700_000_000_000
    t.offset[row], t.partition[row] = offset, 3


def test_a_packed_state_comes_back_in_any_table() -> None:
    """Items, feedback, clock, offset and partition survive, whatever numbers the other process gives."""
    mine, other = table(), table()
    fill(mine, "u1", ["a", "b", "c"], offset=2**40)
    for i in ("z", "c", "a"):
        other.items.number(i)
    row = other.load("u1", mine.pack("u1"))
    assert [other.items.keys[i] for i in other.users.items[row, :3]] == [mine.items.keys[i] for i in range(3)]
    assert other.users.best[row, :3].tolist() == [10, 11, 12] and other.users.length[row] == 3
    assert (other.offset_of("u1"), other.partition[row]) == (2**40, 3)
    assert other.users.last_ms[row] == 1_700_000_000_000
    assert other.pack("u1") == mine.pack("u1")


def test_a_user_without_items_has_a_state_too() -> None:
    """Someone who was only shown lists keeps clock and offset."""
    mine, other = table(), table()
    fill(mine, "u1", [], offset=9)
    other.load("u1", mine.pack("u1"))
    assert other.offset_of("u1") == 9 and other.users.length[0] == 0


def test_a_shorter_memory_keeps_the_latest_items() -> None:
    """A state with more items than fit loses the oldest."""
    mine, other = table(), table(max_items=2)
    fill(mine, "u1", ["a", "b", "c"])
    row = other.load("u1", mine.pack("u1"))
    assert other.items.keys[other.users.items[row]].tolist() == mine.items.keys[1:3].tolist()
    assert other.users.best[row].tolist() == [11, 12]


@pytest.mark.parametrize("spoil", [b"", b"U1", b"XX" + bytes(22), b"U2" + bytes(22)])
def test_foreign_states_are_refused(spoil: bytes) -> None:
    """Bytes that are no state of this version say whose they are and what to do; the user is not loaded."""
    t = table()
    with pytest.raises(StoreError, match=r"user 'u1' is of an unknown format: delete its key"):
        t.load("u1", spoil)
    assert "u1" not in t and len(t) == 0


@pytest.mark.parametrize("cut", [-1, -9, 1])
def test_cut_states_are_refused(cut: int) -> None:
    """A state that lost or gained bytes is refused."""
    mine = table()
    fill(mine, "u1", ["a", "b"])
    state = mine.pack("u1")
    with pytest.raises(StoreError, match="is cut"):
        table().load("u1", state[:cut] if cut < 0 else state + b"x")


def test_the_least_recently_used_makes_room() -> None:
    """A full table evicts who was used longest ago, and the newcomer finds nothing of theirs."""
    t = table(max_users=2)
    fill(t, "u1", ["a", "b"])
    fill(t, "u2", ["a"])
    t.row("u1")
    row = t.load("u3", None)
    assert t.in_memory() == ["u1", "u3"] and "u2" not in t
    assert t.users.length[row] == 0 and t.offset_of("u3") == -1 and t.users.last_ms[row] == -1
    assert (t.users.tokens[row, :1] == user_tokens("u3", {})).all() and not t.users.tokens[row, 1:].any()


def test_loading_a_user_again_replaces_the_user() -> None:
    """Who is loaded twice has one row, which nobody else gets."""
    t = table()
    fill(t, "u1", ["a"])
    t.load("u1", None)
    rows = {t.load(f"v{i}", None) for i in range(5)}
    assert t.row("u1") not in rows and len(rows) == 5 and t.users.length[t.row("u1")] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["load", "forget", "leave", "row"]), st.integers(0, 9)), max_size=60)
)
def test_no_two_users_share_a_row(steps: list[tuple[str, int]]) -> None:
    """Loading, forgetting, leaving partitions and evicting in any order keep one row per user."""
    t = table(max_users=4)
    for what, k in steps:
        user_id = f"u{k}"
        if what == "load":
            row = t.load(user_id, None)
            t.partition[row] = k % 3
        elif what == "forget":
            t.forget(user_id)
        elif what == "leave":
            t.forget_partitions({k % 3})
            assert all(t.partition[t.row(u)] != k % 3 for u in t.in_memory())
        elif user_id in t:
            t.row(user_id)
            assert t.in_memory()[-1] == user_id
        rows = [t.row(u) for u in t.in_memory()]
        assert len(set(rows)) == len(rows) == len(t) <= 4 and all(0 <= r < len(t.offset) for r in rows)


def test_growing_keeps_users_and_lists() -> None:
    """Past the first 256 users, earlier ones are what they were."""
    t = table(max_users=1_000)
    fill(t, "u0", ["a", "b"])
    t.remember_lists(np.array([0], np.int32), np.array([[1, -1]], np.int32))
    before = t.pack("u0")
    for i in range(1, 600):
        t.load(f"u{i}", None)
    t.remember_lists(np.array([599], np.int32), np.array([[1, 0]], np.int32))
    assert t.pack("u0") == before
    assert t.offered(np.array([1], np.int32)) == ["u0", "u599"]
    assert t.offered(np.array([0], np.int32)) == ["u599"]


def test_what_a_user_was_offered_is_forgotten_with_the_user() -> None:
    """A newcomer in the row of a user who left was offered nothing."""
    t = table(max_users=1)
    t.load("u1", None)
    t.remember_lists(np.array([0], np.int32), np.array([[4, 2]], np.int32))
    assert t.offered(np.array([2], np.int32)) == ["u1"]
    t.load("u2", None)
    assert t.offered(np.array([2], np.int32)) == []
    t.forget("u2")
    assert t.offered(np.array([2, -1], np.int32)) == []


def test_what_the_shop_says_about_a_user_stays() -> None:
    """A description given before, during or after a stay in memory is used; erasing the user erases it."""
    t = table(max_users=1)
    t.describe("u1", {"age": 34})
    row = t.load("u1", None)
    known = user_tokens("u1", {"age": 34})
    assert t.users.tokens[row, :2].tolist() == known and not t.users.tokens[row, 2:].any()
    t.describe("u1", {"age": 44})
    assert t.users.tokens[row, 1] == user_tokens("u1", {"age": 44})[1]
    t.forget("u1")
    row = t.load("u1", None)
    assert not t.users.tokens[row, 1:].any()
