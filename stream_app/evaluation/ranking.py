"""Items as numbers, and the best `k` of them under the one rule for ties."""

from __future__ import annotations

import bisect

import numba as nb
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ItemNumbers:
    """The items that events have named, numbered in the order of their first event.

    Examples
    --------
    >>> items = ItemNumbers()
    >>> [items.add(item_id) for item_id in ("b", "a", "b")]
    [0, 1, 0]
    >>> items.ids, items.text_order[:2].tolist()
    (['b', 'a'], [1, 0])
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.numbers: dict[str, int] = {}
        self.text_order = np.zeros(64, dtype=np.int64)  # (capacity,): each item's place when sorted by id
        self._sorted_ids: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, item_id: str) -> int:
        """The number of an item, which is new or not."""
        number = self.numbers.get(item_id)
        if number is not None:
            return number
        number = self.numbers[item_id] = len(self.ids)
        if number == self.text_order.size:
            self.text_order = np.concatenate([self.text_order, np.zeros_like(self.text_order)])
        place = bisect.bisect(self._sorted_ids, item_id)
        self._sorted_ids.insert(place, item_id)
        order = self.text_order[:number]
        order[order >= place] += 1
        self.text_order[number] = place
        self.ids.append(item_id)
        return number


@nb.njit(cache=True, nogil=True)
def top_k(scores: Floats, text_order: Ints, excluded: Ints, k: int) -> Ints:
    """The numbers of the `k` best items, best first; equal scores in text order of their ids.

    Parameters
    ----------
    scores
        One score per item, `(n,)`; an item with nan or −∞ is never returned.
    text_order
        Each item's place when all ids are sorted, `(≥ n,)`.
    excluded
        Items that are left out, `(m,)`.
    k
        Length of the list.
    """
    allowed = np.ones(scores.size, dtype=np.bool_)
    for item in excluded:
        allowed[item] = False
    best = np.empty(min(k, scores.size), dtype=np.int64)
    n = 0
    for i in range(scores.size):
        if not allowed[i] or not scores[i] > -np.inf:
            continue
        place = n
        while place > 0:
            j = best[place - 1]
            if scores[j] > scores[i] or (scores[j] == scores[i] and text_order[j] < text_order[i]):
                break
            place -= 1
        if place == best.size:
            continue
        n = min(n + 1, best.size)
        for p in range(n - 1, place, -1):
            best[p] = best[p - 1]
        best[place] = i
    return best[:n]
