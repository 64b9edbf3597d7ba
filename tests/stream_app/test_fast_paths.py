"""Every fast path does what its readable twin does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import ItemIndex
from stream_app.model.retrieval import _find
from stream_app.model.user_table import UserTable
from stream_app.recommender import Lists, Recommender
from stream_app.served_json import list_json, lists_json
from stream_app.simulator import Shop

ids = st.text(min_size=1, max_size=8)
scores = st.floats(-50, 50, width=32)


@given(
    user=ids,
    places=st.lists(st.tuples(ids, scores), max_size=5),
    time=st.one_of(st.just(-1), st.integers(10**12, 2 * 10**12)),
    personal=st.booleans(),
)
def test_lists_are_written_together_as_they_are_one_by_one(user, places, time, personal):
    """The hand-made JSON says the same as the encoder's, whatever the ids hold."""
    one = Lists(
        [user], [[i for i, _ in places]], [[s for _, s in places]], [personal], np.array([time], np.int64)
    )
    [(user_id, data)] = lists_json(one, "v%1", 1_767_607_200_123)
    assert user_id == user
    assert msgspec.json.decode(data) == msgspec.json.decode(list_json(one[0], "v%1", 1_767_607_200_123))


def test_many_lists_keep_their_order():
    """Each user gets the own list, and a slice of lists is a list of them."""
    lists = Lists(["a", "b"], [["x"], ["y", "z"]], [[1.0], [2.0, 0.5]], [True, False], np.array([-1, 5]))
    written = [(user_id, msgspec.json.decode(data)) for user_id, data in lists_json(lists, "v", 0)]
    expected = [(o.user_id, msgspec.json.decode(list_json(o, "v", 0))) for o in lists]
    assert written == expected
    assert lists[:1] == [lists[0]]
    assert lists_json(Lists(), "v", 0) == []


@pytest.fixture
def table():
    items = ItemIndex()
    users = UserTable(items, max_items=8)
    random = np.random.default_rng(0)
    for u in range(20):
        row, n = users.load(f"u{u}", None), u % 9
        users.users.items[row, :n] = [items.number(f"i{i}") for i in random.integers(0, 50, n)]
        users.users.best[row, :n] = random.integers(1, 255, n)
        users.users.length[row], users.users.last_ms[row] = n, u * 1000
        users.offset[row], users.partition[row] = u * 7 - 1, u % 4
    return users


def test_states_are_packed_together_as_they_are_one_by_one(table):
    """`pack_all` gives every user the bytes that `pack` gives, in the order asked for."""
    wanted = table.in_memory()[::-1]
    assert table.pack_all(wanted) == [(user_id, table.pack(user_id)) for user_id in wanted]
    assert table.pack_all([]) == []


def _advance_one_by_one(table, rows, partition, offsets):
    new = []
    for row, offset in zip(rows, offsets, strict=True):
        known = offset <= table.offset[row] and partition == table.partition[row]
        new.append(not known)
        if not known:
            table.offset[row], table.partition[row] = offset, partition
    return new


@given(rows=st.lists(st.integers(0, 5), max_size=30), start=st.integers(0, 40), partition=st.integers(0, 3))
def test_offsets_advance_together_as_they_do_one_by_one(rows, start, partition):
    """A batch skips exactly the events that a loop over them skips, and leaves the same offsets behind."""
    tables = [UserTable(ItemIndex()) for _ in range(2)]
    for t in tables:
        for u in range(6):
            row = t.load(f"u{u}", None)
            t.offset[row], t.partition[row] = 7 * u, u % 2
    offsets = np.arange(start, start + len(rows))
    new = tables[0].advance(np.array(rows, np.int32), partition, offsets)
    assert new.tolist() == _advance_one_by_one(tables[1], rows, partition, offsets)
    assert (tables[0].offset == tables[1].offset).all()
    assert (tables[0].partition == tables[1].partition).all()


def test_an_offset_that_comes_twice_in_a_batch_counts_once(table):
    """The second event with an offset was there before, whoever's it is said to be."""
    rows = table.rows_of(["u0", "u0", "u1"])
    assert table.advance(rows, 0, np.array([90, 90, 90])).tolist() == [True, False, False]


def _served(batch_size, events):
    recommender = Recommender(k=5)
    lists, states = {}, {}
    for start in range(0, len(events), batch_size):
        batch = events[start : start + batch_size]
        for user_id in recommender.missing(batch):
            recommender.users.load(user_id, None)
        outcome = recommender.apply(0, range(start, start + len(batch)), batch)
        lists |= {offered.user_id: offered for offered in outcome.lists}
        states |= dict(outcome.states)
    return lists, states


def test_batches_of_any_size_lead_to_the_same_states():
    """How a stream is cut into batches changes neither the users' states nor their last lists."""
    events = list(Shop(3, n_items=40, n_users=15, n_categories=3).events(300))
    lists, states = _served(300, events)
    lists_of_ones, states_of_ones = _served(1, events)
    assert states == states_of_ones
    assert lists == lists_of_ones


@given(st.lists(st.integers(0, 40), max_size=70), st.integers(0, 40), st.integers(0, 5))
def test_sixteen_at_once_find_what_one_by_one_finds(items, wanted, start):
    """The first place of an item from a start on, or the end."""
    start = min(start, len(items))
    place = _find(np.array(items, np.int32), start, len(items), wanted)
    assert place == next((k for k in range(start, len(items)) if items[k] == wanted), len(items))


@given(st.lists(st.lists(st.integers(-1, 9), min_size=4, max_size=4), max_size=6))
def test_items_are_mentioned_in_the_order_of_their_first_mention(rows):
    """What a walk through the examples meets first comes first, and once."""
    numbers = np.array(rows, np.int32).reshape(-1, 4)
    e = len(numbers)
    examples = ExampleBatch(
        partition=0, offsets=np.arange(e), times_ms=np.arange(e), ids=[""] * 10,
        keys=np.arange(10, dtype=np.uint64),
        history=numbers[:, :2], length=np.zeros(e, np.int32), gap=np.zeros(e, np.uint8),
        kind=np.zeros(e, np.uint8), weight=np.ones(e, np.float32),
        users=np.zeros((e, 8), np.uint64), item=numbers[:, 2:],
        count=np.zeros(e, np.int32), numbers=np.zeros((e, 2, 1), np.float32),
    )  # fmt: skip
    assert examples.mentioned().tolist() == [*dict.fromkeys(n for row in rows for n in row if n >= 0)]
