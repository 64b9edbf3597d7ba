"""Item attributes that are numbers, as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.events import Item
from stream_app.model.item_index import ItemIndex
from stream_app.model.learning import Learner
from stream_app.model.measures import MEASURES, WIDEST, Measures, measure

known = st.one_of(st.none(), st.floats(-1e9, 1e9))


@given(st.lists(st.tuples(known, known), min_size=1, max_size=20))
def test_a_measure_is_standardised_over_the_items_that_have_it(
    values: list[tuple[float | None, ...]],
) -> None:
    """(measured − mean) / standard deviation, clipped; an item without it is average."""
    measures = Measures(len(values) + 2)
    for i, (price, size) in enumerate(values):
        measures.put(i, {"price": price, "size": size})
    standard = measures.standard(len(values))
    for name in ("price", "size"):
        column = ("price", "size").index(name)
        mine = [None if v[column] is None else np.float32(measure(v[column])) for v in values]
        there = np.array([m for m in mine if m is not None], np.float64)
        expected = [
            0.0 if m is None else np.clip((m - there.mean()) / (there.std() + 1e-3), -WIDEST, WIDEST)
            for m in mine
        ]
        place = measures.names.index(name) if name in measures.names else 2
        assert standard[: len(mine), place] == pytest.approx(expected, abs=2e-3)
    assert not standard[len(values) :].any()


def test_the_first_numbers_met_are_measured() -> None:
    """Neither text, truth, what is not finite nor an attribute too many is measured."""
    measures = Measures(2)
    measures.put(0, {"a": "9", "b": True, "c": math.nan, "d": [1, 2], "e": 2})
    measures.put(1, {f"n{k}": k for k in range(MEASURES)})
    assert measures.names == ["e", *(f"n{k}" for k in range(MEASURES - 1))]
    assert len(set(measures.tokens.tolist())) == MEASURES


def test_a_new_description_is_measured_anew() -> None:
    """What the shop no longer says of an item is not known of it any more."""
    measures = Measures(2)
    measures.put(0, {"price": 9.0, "size": 3})
    measures.put(0, {"size": 4})
    assert np.isnan(measures.raw[0, 0]) and measures.raw[0, 1] == pytest.approx(measure(4))


def test_measures_follow_their_items() -> None:
    """Growing and giving up numbers leave every item its own."""
    index = ItemIndex()
    for n in range(1500):
        index.describe(f"i{n}", price=float(n), categories=(), attributes={}, servable=True)
    keep = np.arange(len(index)) % 3 == 0
    index.compact(keep)
    kept = [index.measured.raw[index.number(f"i{n}"), 0] for n in range(0, 1500, 3)]
    assert kept == pytest.approx([measure(n) for n in range(0, 1500, 3)], rel=1e-6)
    assert np.isnan(index.measured.raw[len(index) :]).all()


def test_a_restored_learner_measures_as_the_saved_one() -> None:
    """A checkpoint holds names and measures."""
    learner = Learner()
    for n in range(5):
        learner.observe_item(Item(f"i{n}", price=1.0 + n, attributes={"size": n * n}))
    again, _ = Learner.from_bytes(learner.to_bytes())
    assert again.items.measured.names == learner.items.measured.names
    assert (again.items.measured.tokens == learner.items.measured.tokens).all()
    assert (again.items.measures[:5] == learner.items.measures[:5]).all()
    assert again.to_bytes() == learner.to_bytes()
