"""Numbers as categories: quantile bins learned online, stable within a release.

A linear model on tokens sees a number as one of a few bins. The edges follow the stream only when `refresh`
is called (or every `every` examples), so that a feature means the same between two releases.
"""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from river import base

from pruning.errors import NonFiniteError, ParameterError


class QuantileBins(base.Transformer):  # type: ignore[misc]  # River is untyped here
    """Replaces each number `x` of feature `k` by the feature `k=b`, where b is its quantile bin.

    Text and bool features pass through. Edges are quantiles of a uniform sample of the stream; before the
    first `refresh` a number is binned by its sign and power of two, which needs no history.

    Parameters
    ----------
    bins
        How many, 2 to 256.
    every
        Refresh the edges after so many examples; None leaves it to `refresh`.
    sample
        Numbers kept per feature.
    seed
        Of the sample.

    Examples
    --------
    >>> bins = QuantileBins(bins=4, every=None)
    >>> for i in range(100):
    ...     bins.learn_one({"price": float(i), "genre": "drama"})
    >>> bins.refresh()
    >>> bins.transform_one({"price": 30.0, "genre": "drama"})
    {'price=1': 1, 'genre': 'drama'}
    """

    def __init__(self, bins: int = 16, every: int | None = 10_000, sample: int = 1000, seed: int = 0):
        if not 2 <= bins <= 256 or sample < bins or (every is not None and every < 1):
            raise ParameterError("bins is 2 to 256, sample at least bins, every at least 1 or None")
        self.bins = bins
        self.every = every
        self.sample = sample
        self.seed = seed
        self.edges: dict[Hashable, tuple[float, ...]] = {}
        self._rng = np.random.default_rng(seed)
        self._samples: dict[Hashable, list[float]] = {}
        self._seen: dict[Hashable, int] = {}
        self._examples = 0

    def learn_one(self, x: Mapping[Hashable, Any]) -> None:
        """Remember the numbers of an example."""
        for key in sorted((k for k, v in x.items() if _is_number(v)), key=repr):
            value = float(x[key])
            if not np.isfinite(value):
                raise NonFiniteError(f"feature {key!r} is {value!r}: only finite numbers can be binned")
            held, seen = self._samples.setdefault(key, []), self._seen.get(key, 0)
            self._seen[key] = seen + 1
            if seen < self.sample:
                held.append(value)
            elif (place := int(self._rng.integers(0, seen + 1))) < self.sample:
                held[place] = value
        self._examples += 1
        if self.every is not None and self._examples % self.every == 0:
            self.refresh()

    def transform_one(self, x: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same example with a feature per bin."""
        return dict(
            (f"{key}={self._bin(key, float(value))}", 1) if _is_number(value) else (key, value)
            for key, value in x.items()
        )

    def refresh(self) -> None:
        """Set the edges to the quantiles of the sample: the meaning of the features changes here only."""
        inner = np.linspace(0, 1, self.bins + 1)[1:-1]
        for key, held in self._samples.items():
            self.edges[key] = tuple(np.unique(np.quantile(held, inner)).tolist())

    def _bin(self, key: Hashable, value: float) -> str:
        edges = self.edges.get(key)
        if edges is not None:
            return str(int(np.searchsorted(edges, value, side="right")))
        if value == 0 or not np.isfinite(value):
            return "0e" if value == 0 else "bad"
        return f"{'-' if value < 0 else ''}e{int(np.floor(np.log2(abs(value))))}"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, bool | np.bool_)
