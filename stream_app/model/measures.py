"""What is measured of items: their attributes that are numbers, each on the scale of its own spread.

Tokens cut a number into bands, so that what is learned of one item helps its neighbours; a measure keeps the
number, so that two items can be compared by it. The first few attributes met are measured, the price among
them. A measure travels by its name, never by its place, so that every process may have its own order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.tokens import token
from stream_app.model.eviction import Renumbering

MEASURES = 8  # attributes that are measured
WIDEST = 6.0  # standard deviations


def measure(value: float) -> float:
    """A number as it is measured: its logarithm with its sign, because prices and counts differ by factors.

    >>> round(measure(math.e - 1), 6), measure(0), round(measure(1 - math.e), 6)
    (1.0, 0.0, -1.0)
    """
    return math.copysign(math.log1p(abs(value)), value)


class Measures:
    """Measured attributes of items by number.

    Attributes
    ----------
    names
        The attributes that are measured, in the order in which they were met.
    tokens
        What the ranker knows them by, uint64 (MEASURES,).
    raw
        As measured, float32 (capacity, MEASURES), NaN where an item has none.

    Examples
    --------
    >>> measures = Measures(4)
    >>> for i, price in enumerate((1.0, 10.0, 100.0)):
    ...     measures.put(i, {"price": price, "colour": "red"})
    >>> measures.names, measures.standard(3)[:, 0].round(1)
    (['price'], array([-1.2, -0.1,  1.3,  0. ], dtype=float32))
    """

    def __init__(self, capacity: int) -> None:
        self.names: list[str] = []
        self.tokens: NDArray[np.uint64] = np.zeros(MEASURES, np.uint64)
        self.raw: NDArray[np.float32] = np.full((capacity, MEASURES), np.nan, np.float32)
        self._standard: NDArray[np.float32] | None = None

    def put(self, i: int, attributes: Mapping[str, Any]) -> None:
        """Take over what is known of an item."""
        row = np.full(MEASURES, np.nan, np.float32)
        for name, value in attributes.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                place = self._place(name)
                if place is not None:
                    row[place] = measure(value)
        if not np.array_equal(row, self.raw[i], equal_nan=True):
            self.raw[i], self._standard = row, None

    def _place(self, name: str) -> int | None:
        if name in self.names:
            return self.names.index(name)
        if len(self.names) == MEASURES:
            return None
        self.restore([*self.names, name])
        return len(self.names) - 1

    def standard(self, n: int) -> NDArray[np.float32]:
        """In standard deviations from the mean over the first `n` items, (capacity, MEASURES).

        0 where an item has none. It follows from the items alone, and is computed when they have changed.
        """
        if self._standard is None:
            self._standard = np.zeros_like(self.raw)
            standardise(self.raw, n, self._standard)
        return self._standard

    def grow(self, capacity: int) -> None:
        """Make room for more items."""
        raw = np.full((capacity, MEASURES), np.nan, np.float32)
        raw[: len(self.raw)] = self.raw
        self.raw, self._standard = raw, None

    def renumber(self, moved: Renumbering) -> None:
        """Keep the measures of the items that stay, under their new numbers."""
        self.raw, self._standard = moved.rows(self.raw, np.nan), None

    def restore(self, names: list[str], raw: NDArray[np.float32] | None = None) -> None:
        """Take over what was saved: `names`, and `raw` of the first items."""
        self.names, self._standard = list(names), None
        self.tokens[: len(names)] = [token(name, "measure") for name in names]
        if raw is not None:
            self.raw[: len(raw)] = raw


@nb.njit(cache=True, nogil=True)
def standardise(raw, n, out):  # type: ignore[no-untyped-def]
    """Write (raw − mean) / standard deviation of each column over its first `n` rows, clipped; NaN is 0."""
    for m in range(raw.shape[1]):
        known, total = 0, 0.0
        for i in range(n):
            if not np.isnan(raw[i, m]):
                known += 1
                total += raw[i, m]
        mean, squares = total / max(known, 1), 0.0
        for i in range(n):
            if not np.isnan(raw[i, m]):
                squares += (raw[i, m] - mean) ** 2
        scale = 1.0 / (np.sqrt(squares / max(known, 1)) + 1e-3)
        for i in range(n):
            if not np.isnan(raw[i, m]):
                out[i, m] = min(WIDEST, max(-WIDEST, (raw[i, m] - mean) * scale))
