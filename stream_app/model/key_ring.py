"""Small records by 64-bit key in a fixed number of places: when all are taken, the oldest record goes.

What a process has to remember of things without number (users that the shop described, users that were
erased, items that were withdrawn) costs 8 bytes per number and about 10 for finding it, in place of the
hundred and more of a dict.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba as nb
import numpy as np
from numpy.typing import NDArray

FIRST = 256  # places of an empty ring; a quarter more whenever they are taken, up to the most
GONE = np.uint64(0)  # the key of a place whose record was removed


class KeyRing:
    """Records of `width` unsigned numbers, the first of which is the key.

    Parameters
    ----------
    most
        Records kept; one more takes the place of the one that was put in first.
    width
        Numbers per record, the key included.

    Examples
    --------
    >>> ring = KeyRing(most=2, width=2)
    >>> for key in (5, 6, 7):
    ...     ring.put([key, key * 10])
    >>> ring.get(5), ring.get(7), len(ring)
    (None, [7, 70], 2)
    """

    def __init__(self, most: int, width: int) -> None:
        self.most = most
        self._records: NDArray[np.uint64] = np.zeros((min(FIRST, most), width), np.uint64)
        self._slots: NDArray[np.int32] = np.full(2 * FIRST, -1, np.int32)  # place of a record, −1: free
        self._written = 0  # places that were ever written, at most `most`
        self._next = 0  # where the next new record goes, once all places were written
        self._filled = 0  # slots that are not free
        self._removed = 0

    def __len__(self) -> int:
        return self._written - self._removed

    def __contains__(self, key: int) -> bool:
        return self._place(key) >= 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return self._records.nbytes + self._slots.nbytes

    def get(self, key: int) -> list[int] | None:
        """The record of a key, None when there is none."""
        place = self._place(key)
        return None if place < 0 else [int(x) for x in self._records[place]]

    def put(self, record: Sequence[int]) -> None:
        """Keep a record, in place of what was kept under its key; what it lacks in width is 0."""
        place = self._place(record[0])
        if place < 0:
            place = self._take_place()
            self._enter(np.uint64(record[0]), place)
        self._records[place] = 0
        self._records[place, : len(record)] = record

    def remove(self, key: int) -> None:
        """Forget the record of a key, if there is one."""
        place = self._place(key)
        if place >= 0:
            self._records[place] = GONE
            self._removed += 1

    def records(self) -> NDArray[np.uint64]:
        """All records, the oldest first, uint64 (n, width)."""
        kept = np.roll(self._records[: self._written], -self._next, axis=0)
        found: NDArray[np.uint64] = kept[kept[:, 0] != GONE]
        return found

    def _place(self, key: int) -> int:
        return int(_find(self._slots, self._records, np.uint64(key)))

    def _take_place(self) -> int:
        if self._written < self.most:
            if self._written == len(self._records):
                n = min(self.most, len(self._records) * 5 // 4)
                self._records = np.concatenate(
                    (self._records, np.zeros((n - self._written, self._records.shape[1]), np.uint64))
                )
            self._written += 1
            return self._written - 1
        place, self._next = self._next, (self._next + 1) % self.most
        self._removed -= int(self._records[place, 0] == GONE)
        return place

    def _enter(self, key: np.uint64, place: int) -> None:
        """Make a key be found; slots of records that went stay filled until they are too many."""
        self._records[place, 0] = key
        if 4 * (self._filled + 1) > 3 * len(self._slots):
            size = len(self._slots)
            while size < 2 * (len(self) + 1):
                size *= 2
            self._slots = np.full(size, -1, np.int32)
            self._filled = int(_enter_all(self._slots, self._records[: self._written]))
        else:
            self._filled += int(_enter_one(self._slots, self._records, place))


@nb.njit(cache=True, nogil=True, inline="always")
def _home(slots, key):  # type: ignore[no-untyped-def]
    return ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & np.uint64(len(slots) - 1)


@nb.njit(cache=True, nogil=True)
def _find(slots, records, key):  # type: ignore[no-untyped-def]
    """The place of a key, −1 when it has none."""
    slot, mask = _home(slots, key), np.uint64(len(slots) - 1)
    while slots[slot] >= 0:
        if records[slots[slot], 0] == key and key != GONE:
            return np.int64(slots[slot])
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@nb.njit(cache=True, nogil=True)
def _enter_one(slots, records, place):  # type: ignore[no-untyped-def]
    """Let the record at `place` be found, once; returns how many more slots are filled."""
    slot, mask = _home(slots, records[place, 0]), np.uint64(len(slots) - 1)
    while slots[slot] >= 0:
        if slots[slot] == place:  # left over from an earlier stay of the same key
            return 0
        slot = (slot + np.uint64(1)) & mask
    slots[slot] = place
    return 1


@nb.njit(cache=True, nogil=True)
def _enter_all(slots, records):  # type: ignore[no-untyped-def]
    filled = 0
    for place in range(len(records)):
        if records[place, 0] != GONE:
            filled += _enter_one(slots, records, place)
    return filled
