"""A sparse matrix that grows: rows sorted by column, in two flat arrays, 12 bytes per entry."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = NDArray[np.int32]

_START, _LENGTH, _CAPACITY = 0, 1, 2
_FIRST_CAPACITY = 8


class SparseRows:
    """A sparse matrix of non-negative numbers, all zero at first.

    Examples
    --------
    >>> m = SparseRows()
    >>> m.add_symmetric(2, np.array([0, 1]), np.array([1.0, 0.5]))
    >>> m.weighted_sum(np.array([0, 1]), np.array([1.0, 2.0]), n=3)
    array([0., 0., 2.])
    """

    def __init__(self) -> None:
        self._columns = np.zeros(1024, dtype=np.int32)
        self._values = np.zeros(1024)
        self._rows = np.zeros((64, 3), dtype=np.int64)  # start, length, capacity
        self._used = 0

    @property
    def nnz(self) -> int:
        """The number of entries."""
        return int(self._rows[:, _LENGTH].sum())

    @property
    def arrays(self) -> tuple[Columns, Floats, Ints]:
        """Columns, values, and each row's start, length and capacity in them, for compiled code."""
        return self._columns, self._values, self._rows

    def lengths(self, n: int) -> Ints:
        """The number of entries in each of the first `n` rows, `(n,)`."""
        self._make_rows(n)
        return self._rows[:n, _LENGTH]

    def add(self, i: int, j: int, amount: float) -> None:
        """Add `amount` to the entry (i, j)."""
        self._make_rows(i + 1)
        self._columns, self._values, self._used = _add(
            self._columns, self._values, self._rows, self._used, i, j, amount
        )

    def add_symmetric(self, i: int, others: Ints, amounts: Floats) -> None:
        """Add `amounts[n]` to the entries (i, others[n]) and (others[n], i)."""
        self._make_rows(max(i, int(others.max(initial=0))) + 1)
        self._columns, self._values, self._used = _add_symmetric(
            self._columns, self._values, self._rows, self._used, i, others, amounts
        )

    def _make_rows(self, n: int) -> None:
        while n > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])

    def weighted_sum(self, rows: Ints, weights: Floats, n: int) -> Floats:
        """The first `n` columns of the weighted sum of some rows, `(n,)`."""
        return np.asarray(_weighted_sum(self._columns, self._values, self._rows, rows, weights, n))


@nb.njit(cache=True, nogil=True)
def _add(columns, values, rows, used, row, column, amount):  # type: ignore[no-untyped-def]
    start, length, capacity = rows[row]
    place = np.searchsorted(columns[start : start + length], column)
    if place < length and columns[start + place] == column:
        values[start + place] += amount
        return columns, values, used
    if length == capacity:  # the row moves to the end, with twice the room
        capacity = max(2 * capacity, _FIRST_CAPACITY)
        while used + capacity > columns.size:
            columns = np.concatenate((columns, np.zeros_like(columns)))
            values = np.concatenate((values, np.zeros_like(values)))
        columns[used : used + length] = columns[start : start + length]
        values[used : used + length] = values[start : start + length]
        start = used
        used += capacity
        rows[row, _START] = start
        rows[row, _CAPACITY] = capacity
    for p in range(start + length, start + place, -1):
        columns[p] = columns[p - 1]
        values[p] = values[p - 1]
    columns[start + place] = column
    values[start + place] = amount
    rows[row, _LENGTH] = length + 1
    return columns, values, used


@nb.njit(cache=True, nogil=True)
def _add_symmetric(columns, values, rows, used, i, others, amounts):  # type: ignore[no-untyped-def]
    for n in range(others.size):
        columns, values, used = _add(columns, values, rows, used, i, others[n], amounts[n])
        columns, values, used = _add(columns, values, rows, used, others[n], i, amounts[n])
    return columns, values, used


@nb.njit(cache=True, nogil=True)
def _weighted_sum(columns, values, rows, which, weights, n):  # type: ignore[no-untyped-def]
    total = np.zeros(n)
    for r in range(which.size):
        start, length, _ = rows[which[r]]
        for p in range(start, start + length):
            if columns[p] < n:
                total[columns[p]] += weights[r] * values[p]
    return total
