"""Truths about numbered items and their top-k."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.evaluation.metrics import order_by_score
from stream_app.evaluation.ranking import ItemNumbers, top_k

ids_lists = st.lists(st.text(max_size=3), max_size=40)


@given(ids_lists)
def test_items_are_numbered_in_order_of_arrival(ids: list[str]) -> None:
    """Numbers count up from 0, and `text_order` is the place of each id among the sorted ones."""
    items = ItemNumbers()
    numbers = [items.add(item_id) for item_id in ids]
    distinct = list(dict.fromkeys(ids))
    assert items.ids == distinct
    assert numbers == [distinct.index(item_id) for item_id in ids]
    assert items.text_order[: len(items)].tolist() == [sorted(distinct).index(i) for i in distinct]


def test_numbering_outgrows_its_first_arrays() -> None:
    """A thousand items are numbered and ordered as well as ten."""
    items = ItemNumbers()
    for n in range(1000):
        items.add(str(n))
    order = sorted(range(1000), key=str)
    assert np.argsort(items.text_order[:1000]).tolist() == order


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf, np.nan]), max_size=30),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
)
def test_top_k_equals_sorting(scores: list[float], k: int, random) -> None:  # type: ignore[no-untyped-def]
    """The compiled top-k is the head of the full order, without excluded and impossible items."""
    ids = [str(n) for n in range(len(scores))]
    random.shuffle(ids)
    items = ItemNumbers()
    for item_id in ids:
        items.add(item_id)
    excluded = [n for n in range(len(ids)) if random.random() < 0.3]
    possible = [int(i) for i in order_by_score(scores, ids) if scores[i] > -np.inf and int(i) not in excluded]
    best = top_k(np.array(scores), items.text_order, np.array(excluded, dtype=np.int64), k)
    assert best.tolist() == possible[:k]
