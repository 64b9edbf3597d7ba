"""Truths about the growing sparse matrix."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.evaluation.sparse_rows import SparseRows

N = 80  # more than the first table of rows holds
additions = st.lists(
    st.tuples(st.integers(0, N - 1), st.lists(st.integers(0, N - 1), max_size=20, unique=True)), max_size=40
)


@settings(deadline=None)
@given(additions, st.integers(0, 2**32 - 1))
def test_it_equals_a_dense_matrix(steps: list[tuple[int, list[int]]], seed: int) -> None:
    """Whatever is added, weighted sums of rows are those of a dense matrix."""
    rng = np.random.default_rng(seed)
    sparse, dense = SparseRows(), np.zeros((N, N))
    for i, others in steps:
        amounts = rng.random(len(others))
        sparse.add_symmetric(i, np.array(others, dtype=np.int64), amounts)
        for j, amount in zip(others, amounts, strict=True):
            dense[i, j] += amount
            dense[j, i] += amount
    known = 1 + max([max([i, *others]) for i, others in steps], default=-1)
    rows, weights = rng.permutation(known)[:10], rng.random(min(known, 10))
    assert np.allclose(sparse.weighted_sum(rows, weights, N), weights @ dense[rows])
    assert sparse.nnz == np.count_nonzero(dense)


def test_a_row_grows_without_losing_anything() -> None:
    """A row that outgrows its place moves and keeps its entries, in order of columns."""
    sparse = SparseRows()
    for j in range(5000, 0, -1):
        sparse.add_symmetric(0, np.array([j]), np.array([float(j)]))
    total = sparse.weighted_sum(np.array([0]), np.array([1.0]), 5001)
    assert total.tolist() == list(range(5001))
