"""Keys of items that gave up their number while users remember them.

A user's row holds item numbers. Where an item has none any more, the row holds `NOBODY` and the item's key
waits here, so that the packed state is what it would have been, and so that an item which gets a number again
is found in the histories of those who met it. Places leave a row at its front only, so of the keys that wait
for a row, the last ones belong to the places that are still there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba as nb
import numpy as np
from numpy.typing import NDArray

from stream_app.model.eviction import NOBODY, Renumbering
from stream_app.model.item_index import ItemIndex


class LostKeys:
    """The keys behind the places of rows that hold `NOBODY`.

    Parameters
    ----------
    items
        The index whose numbers the rows hold.

    Examples
    --------
    >>> items, row = ItemIndex(), np.array([NOBODY, 0], np.int32)
    >>> lost = LostKeys(items)
    >>> lost.put(7, row, np.array([5, items.keys[0]], np.uint64))
    >>> int(lost.keys_of(7, row)[0]), len(lost)
    (5, 1)
    """

    def __init__(self, items: ItemIndex) -> None:
        self._items = items
        self._keys: dict[int, NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, row: int, numbers: NDArray[np.int32], keys: NDArray[np.uint64]) -> None:
        """Keep what is lost of a row whose places have these `numbers` and `keys` (n,)."""
        lost = keys[numbers == NOBODY]
        if len(lost):
            self._keys[row] = lost
        else:
            self._keys.pop(row, None)

    def keys_of(self, row: int, numbers: NDArray[np.int32]) -> NDArray[np.uint64]:
        """The keys of all places of a row, uint64 (n,)."""
        return self._all_keys(row, numbers, self._items.keys)

    def _all_keys(
        self, row: int, numbers: NDArray[np.int32], of_items: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        keys = of_items[numbers]
        if row in self._keys:
            lost, places = self._keys[row], np.flatnonzero(numbers == NOBODY)
            keys[places] = lost[len(lost) - len(places) :]
        return keys

    def keys_of_many(
        self, rows: NDArray[np.int32], numbers: NDArray[np.int32], filled: NDArray[np.int32]
    ) -> NDArray[np.uint64]:
        """The keys of all places of rows, one row behind the other.

        Parameters
        ----------
        rows
            Which rows, int32 (m,).
        numbers
            The numbers of their places in the same order, int32 (Σ filled,).
        filled
            Places of each, int32 (m,).
        """
        keys = self._items.keys[numbers]
        if self._keys:
            ends = np.cumsum(filled)
            for x, row in enumerate(rows.tolist()):
                if row in self._keys:
                    part = slice(int(ends[x] - filled[x]), int(ends[x]))
                    keys[part] = self.keys_of(row, numbers[part])
        return keys

    def find_again(self, rows: Iterable[int], numbers: NDArray[np.int32], filled: NDArray[np.int32]) -> None:
        """Put the numbers of items that have one again into rows of `numbers` (u, L), `filled` (u,) of it."""
        if not self._keys:
            return
        for row in {*rows} & self._keys.keys():
            own = numbers[row, : filled[row]]
            keys = self.keys_of(row, own)
            places = np.flatnonzero(own == NOBODY)
            own[places] = self._items.find_keys(keys[places])
            self.put(row, own, keys)

    def renumber(
        self,
        moved: Renumbering,
        rows: NDArray[np.int32],
        numbers: NDArray[np.int32],
        filled: NDArray[np.int32],
    ) -> None:
        """Follow the index: give the places of `rows` (m,) their new numbers, keep the keys of the lost."""
        loses = np.zeros(len(rows), np.bool_)
        _renumber_rows(moved.new, rows, numbers, filled, loses)
        for row in rows[loses].tolist():
            own = numbers[row, : filled[row]]
            keys = self._all_keys(row, own, moved.keys)
            own[:] = moved.new[own]
            self.put(row, own, keys)


@nb.njit(cache=True, nogil=True)
def _renumber_rows(new, rows, numbers, filled, loses):  # type: ignore[no-untyped-def]
    """Renumber the rows that lose nothing, and say which do."""
    for r in range(len(rows)):
        u = rows[r]
        for x in range(filled[u]):
            i = numbers[u, x]
            loses[r] |= i >= 0 and new[i] < 0
        if not loses[r]:
            for x in range(filled[u]):
                numbers[u, x] = new[numbers[u, x]]
