"""An alarm for the day when the model stops to fit: Page–Hinkley's test on the loss before learning. Pure.

Each example is predicted before it is learned; the alarm goes off when that loss has risen above its own mean
so far by more than `delta`, for long enough that the excess adds up to `threshold`::

    mₜ = mean(x₁ … xₜ)        Sₜ = Σ (xᵢ − mᵢ − delta)        alarm when Sₜ − min S > threshold

River has the same test (`river.drift.PageHinkley`, the oracle of ours); this one takes many values at once,
does not depend on how they are cut into batches, and its state is five numbers that go into a checkpoint.
`docs/ranking.md` says how `delta` and `threshold` were chosen, and why the alarm changes nothing by itself.

References
----------
Page, E.S., 1954. Continuous inspection schemes. Biometrika 41.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class PageHinkley:
    """Page–Hinkley's test for a rise of the mean.

    Parameters
    ----------
    delta
        Rise that is put up with, in units of the values.
    threshold
        Excess that has to add up, in the same units.
    least
        Values before the first alarm, and between two.

    Attributes
    ----------
    alarms
        How often it went off.

    Examples
    --------
    >>> test = PageHinkley(delta=0.1, threshold=3, least=10)
    >>> test.update(np.array([0.5] * 50 + [1.5] * 50))
    [53]
    >>> test.alarms
    1
    """

    def __init__(self, delta: float = 0.015, threshold: float = 20.0, least: int = 500) -> None:
        self.delta, self.threshold, self.least = delta, threshold, least
        self.alarms = 0
        self._reset()

    def __repr__(self) -> str:
        return f"PageHinkley(alarms={self.alarms}, mean={self.mean:.4g})"

    def _reset(self) -> None:
        self._n, self._total, self._excess, self._lowest = 0, 0.0, 0.0, np.inf

    @property
    def mean(self) -> float:
        """Mean of the values since the last alarm, NaN before the first."""
        return self._total / self._n if self._n else np.nan

    def update(self, values: NDArray[np.float64]) -> list[int]:
        """Take values in order, (n,); returns the places of those that set the alarm off and begin anew."""
        found: list[int] = []
        start = 0
        while start < len(values):
            at = self._first(values[start:])
            if at < 0:
                break
            start += at + 1
            found.append(start - 1)
            self.alarms += 1
            self._reset()
        return found

    def _first(self, values: NDArray[np.float64]) -> int:
        """Take values up to the first alarm, whose place is returned; −1: all of them, without any."""
        n = self._n + 1 + np.arange(len(values))
        total = np.cumsum(np.concatenate(([self._total], values)))[1:]
        excess = np.cumsum(np.concatenate(([self._excess], values - total / n - self.delta)))[1:]
        lowest = np.minimum.accumulate(np.minimum(excess, self._lowest))
        off = np.flatnonzero((excess - lowest > self.threshold) & (n >= self.least))
        last = int(off[0]) if len(off) else len(values) - 1
        self._n, self._total = int(n[last]), float(total[last])
        self._excess, self._lowest = float(excess[last]), float(lowest[last])
        return last if len(off) else -1

    def state(self) -> list[float]:
        """What has to be remembered, as plain numbers; parameters are not among them.

        >>> PageHinkley.restored(PageHinkley().state()).state() == PageHinkley().state()
        True
        """
        lowest = self._lowest if np.isfinite(self._lowest) else 0.0
        return [self.alarms, self._n, self._total, self._excess, float(lowest)]

    @classmethod
    def restored(cls, state: Sequence[float]) -> PageHinkley:
        """A test with the standard parameters that goes on from a `state`."""
        test = cls()
        test.alarms, test._n = int(state[0]), int(state[1])
        test._total, test._excess = float(state[2]), float(state[3])
        test._lowest = float(state[4]) if test._n else np.inf
        return test


def example_losses(
    p: NDArray[np.float64], labels: NDArray[np.float32], pairs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The mean log loss of each example's pairs, (e,).

    Parameters
    ----------
    p, labels
        Probability and label of each pair, example by example, (Σ pairs,).
    pairs
        How many each example has, ≥ 1, (e,).

    Examples
    --------
    >>> example_losses(np.array([0.5, 0.5, 0.25]), np.array([1, 0, 0]), np.array([2, 1])).round(3).tolist()
    [0.693, 0.288]
    """
    right = np.where(labels > 0.5, p, 1.0 - p)
    loss = -np.log(np.maximum(right, 1e-6))
    sums: NDArray[np.float64] = np.add.reduceat(loss, np.cumsum(pairs) - pairs)
    return sums / pairs
