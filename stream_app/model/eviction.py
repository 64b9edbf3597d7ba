"""Who gives up a number when all are taken, and how tables by number follow.

Items that something was learned of are worth their decayed count, the others (described by the shop, or only
mentioned) nothing but their newness. Both leave in one sweep that frees many numbers at once, so that its
cost per new item is constant. Those that stay keep their order: numbers decide ties, so lists do not change
but for the items that left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_app.model.budget import Budget

NOBODY = -1
"""The number of an item that gave up its own. The last row of every table stays empty, so that kernels may
read the row of nobody like any other."""


@dataclass(frozen=True)
class Renumbering:
    """Items that stay move together; the others become `NOBODY`.

    Attributes
    ----------
    kept
        The old numbers of those who stay, rising, int32 (k,).
    new
        The new number of each old one, int32 (old capacity,).
    keys
        The keys by old number, uint64 (old capacity,).
    capacity
        Rows that tables have afterwards, the last one nobody's.

    Examples
    --------
    >>> moved = Renumbering.of(np.array([True, False, True]), np.zeros(4, np.uint64), 4)
    >>> moved.new.tolist(), moved.rows(np.array([7, 8, 9, 0]), empty=0).tolist()
    ([0, -1, 1, -1], [7, 9, 0, 0])
    """

    kept: NDArray[np.int32]
    new: NDArray[np.int32]
    keys: NDArray[np.uint64]
    capacity: int

    @classmethod
    def of(cls, keep: NDArray[np.bool_], keys: NDArray[np.uint64], capacity: int) -> Renumbering:
        """The renumbering that leaves the items where `keep` (n,) is true."""
        kept = np.flatnonzero(keep).astype(np.int32)
        new = np.full(len(keys), NOBODY, np.int32)
        new[kept] = np.arange(len(kept), dtype=np.int32)
        return cls(kept, new, keys, capacity)

    def rows(self, table: NDArray[Any], empty: float) -> NDArray[Any]:
        """A table by number after it: rows of those who stay, then rows of `empty`."""
        out = np.full((self.capacity, *table.shape[1:]), empty, table.dtype)
        kept = self.kept[: np.searchsorted(self.kept, len(table))]  # a table may not have grown yet
        out[: len(kept)] = table[kept]
        return out

    def numbers(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """The new numbers of those of `numbers` (m,) who stay."""
        moved = self.new[numbers]
        found: NDArray[np.int32] = moved[moved != NOBODY]
        return found


class Follower(Protocol):
    """Something that holds item numbers."""

    def renumber(self, moved: Renumbering) -> None:
        """Replace every number that is held by its new one."""


def half_life_use(
    count: NDArray[np.float32], last: NDArray[np.int64], half_life: float
) -> NDArray[np.float64]:
    """How useful items are, (n,): the step at which their decayed count falls to one.

    Ordered like count · 2^(−age / half-life), and never too small for a float.

    >>> half_life_use(np.array([0, 3], np.float32), np.array([100, 90]), 10).tolist()
    [100.0, 110.0]
    """
    use: NDArray[np.float64] = last + half_life * np.log2(1.0 + count.astype(np.float64))
    return use


def crowded(n: int, budget: Budget) -> bool:
    """Whether `n` items are so many that some have to go before the next batch."""
    return 16 * n > 15 * budget.items


def who_stays(
    touched: NDArray[np.bool_], use: NDArray[np.float64], budget: Budget, *, judge_touched: bool = True
) -> NDArray[np.bool_]:
    """Which of n items keep their numbers, bool (n,).

    Touched items may take 7/8 of the budget; then those of least use go, the older of two equals first, until
    they take 3/4. What is left is the others'; when it is taken but for a sixteenth, their oldest go.

    Parameters
    ----------
    touched
        Whether something was learned of each item, bool (n,).
    use
        How useful that is, float64 (n,).
    judge_touched
        Whether touched items may go now.

    Examples
    --------
    >>> who_stays(np.ones(8, bool), np.array([5., 1, 1, 9, 9, 9, 9, 9]), Budget(8)).astype(int).tolist()
    [1, 0, 0, 1, 1, 1, 1, 1]
    """
    keep = np.ones(len(touched), np.bool_)
    numbers = np.flatnonzero(touched)
    if judge_touched and 8 * len(numbers) > 7 * budget.items:
        order = np.lexsort((numbers, use[numbers]))  # the least useful first
        keep[numbers[order[: len(numbers) - budget.items * 3 // 4]]] = False
    n_touched, others = int((keep & touched).sum()), np.flatnonzero(~touched)
    room = max(0, budget.items * 15 // 16 - n_touched)
    if len(others) > room:
        most = room - max(budget.items // 32, room // 8)
        keep[others[: len(others) - max(0, most)]] = False
    return keep
