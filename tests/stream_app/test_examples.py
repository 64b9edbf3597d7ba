"""Batches of examples on the wire."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.errors import EventError
from stream_app.events import Event, EventItem
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import item_key
from tests.stream_app.worlds import Pair, feed, random_events


@pytest.fixture(scope="module")
def batch() -> ExampleBatch:
    """Examples with histories, negatives, repeats and orders of several items."""
    pair = Pair().run(random_events(150, 1))
    order = Event("o", "purchase", 1_767_600_900_000, "u1", items=tuple(EventItem(f"i{k}") for k in range(6)))
    outcome = feed(pair.recommender, [*random_events(60, 2), order, *random_events(9, 3)], pair.offset)
    assert outcome.examples is not None
    return outcome.examples


def assert_same(a: ExampleBatch, b: ExampleBatch) -> None:
    """Bit-equal columns of equal types."""
    for field in fields(ExampleBatch):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype and x.shape == y.shape and (x == y).all(), field.name
        else:
            assert x == y


def named(batch: ExampleBatch) -> list[tuple[object, ...]]:
    """The examples with the keys of their items instead of numbers."""
    keys = [*batch.keys.tolist(), None]
    return [
        (
            int(batch.offsets[e]), float(batch.weight[e]), int(batch.length[e]), int(batch.gap[e]),
            [keys[i] for i in batch.history[e]], [keys[i] for i in batch.item[e]],
            batch.numbers[e].tolist(), batch.users[e].tolist(),
        )
        for e in range(len(batch))
    ]  # fmt: skip


def test_the_wire_changes_nothing(batch: ExampleBatch) -> None:
    """What is read equals what was written, bit for bit, and is written the same again."""
    data = batch.to_bytes()
    again = ExampleBatch.from_bytes(data)
    assert_same(batch, again)
    assert again.to_bytes() == data
    assert (batch.count > 1).any() and (batch.count == 1).any()


def test_an_empty_selection_survives_the_wire(batch: ExampleBatch) -> None:
    """No examples are a batch too, of no parts."""
    none = batch.rows(np.zeros(len(batch), np.bool_))
    assert len(ExampleBatch.from_bytes(none.to_bytes())) == 0
    assert list(none.parts()) == [] and len(none.mentioned()) == 0


@pytest.mark.parametrize("most", [1, 3, 7, 1000])
def test_parts_keep_the_items_of_an_event_together(batch: ExampleBatch, most: int) -> None:
    """Parts are the batch in order; no offset is in two of them; each names only the items it mentions."""
    parts = list(batch.parts(most))
    assert [row for part in parts for row in named(part)] == named(batch)
    offsets = [set(part.offsets.tolist()) for part in parts]
    assert sum(map(len, offsets)) == len(set.union(*offsets))
    longest = int(np.bincount(batch.offsets).max())
    assert all(len(part) < most + longest for part in parts)
    for part in parts:
        mentioned = set(part.history.ravel().tolist()) | set(part.item.ravel().tolist())
        assert mentioned - {-1} == set(range(len(part.keys))) and len(part.ids) == len(part.keys)
        assert [item_key(i) for i in part.ids] == part.keys.tolist()
        assert_same(part, ExampleBatch.from_bytes(part.to_bytes()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(batch: ExampleBatch, place: int, flip: int) -> None:
    """Whichever byte of a message changes, it is refused as no batch of examples."""
    data = bytearray(batch.to_bytes())
    data[place % len(data)] ^= flip
    with pytest.raises(EventError, match="value: is no batch of examples"):
        ExampleBatch.from_bytes(bytes(data))


@pytest.mark.parametrize("data", [b"", b"{}", b"RECSEXMP", bytes(200)])
def test_foreign_messages_are_refused(batch: ExampleBatch, data: bytes) -> None:
    """What is no batch, or only the beginning of one, is refused."""
    for bad in (data, batch.to_bytes()[: len(data) + 70]):
        with pytest.raises(EventError, match="is no batch of examples"):
            ExampleBatch.from_bytes(bad)
