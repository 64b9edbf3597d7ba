"""Intervals for what a message changed: differences and ratios of two shares, in one group or in several.

Groups (*strata*) are rules here. Who is held out differs from rule to rule, and so does how often people buy;
adding up over rules first would confuse the two. So shares are compared inside each group, and the
comparisons are weighed with Mantel and Haenszel's weights, n₁n₀/(n₁ + n₀). One group is the plain case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple


class Counts(NamedTuple):
    """In one group: `hits` of `n` who got the message, `base_hits` of `base_n` who were held out."""

    hits: int
    n: int
    base_hits: int
    base_n: int


@dataclass(frozen=True)
class Interval:
    """An estimate, and the interval around it."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside."""
        return not self.low <= value <= self.high


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """A share and its score interval (Wilson, JASA 22:209, 1927).

    Examples
    --------
    >>> wilson(0, 10)
    Interval(value=0.0, low=0.0, high=0.2775...)
    """
    z = _z(confidence)
    p = hits / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    # At the ends of the scale rounding must not put the estimate outside of its interval.
    return Interval(p, min(p, (middle - half) / whole), max(p, (middle + half) / whole))


def difference(groups: Sequence[Counts], confidence: float = 0.95) -> Interval | None:
    """Share of hits with the message minus share without; None when nothing can be compared.

    Newcombe's hybrid score interval (Statistics in Medicine 17:873, 1998, method 10): the distances of each
    share to its own Wilson limits are added as squares. Over several groups they are added with the squared
    weights (MOVER; Zou and Donner, Statistics in Medicine 27:1693, 2008).

    Examples
    --------
    Newcombe's example (a), 56 of 70 against 48 of 80:

    >>> found = difference([Counts(56, 70, 48, 80)])
    >>> round(found.value, 4), round(found.low, 4), round(found.high, 4)
    (0.2, 0.0524, 0.3339)
    """
    groups = [g for g in groups if g.n and g.base_n]
    if not groups:
        return None
    weights = [g.n * g.base_n / (g.n + g.base_n) for g in groups]
    value = below = above = 0.0
    for weight, g in zip(weights, groups, strict=True):
        share = weight / sum(weights)
        p, q = wilson(g.hits, g.n, confidence), wilson(g.base_hits, g.base_n, confidence)
        value += share * (p.value - q.value)
        below += share**2 * ((p.value - p.low) ** 2 + (q.high - q.value) ** 2)
        above += share**2 * ((p.high - p.value) ** 2 + (q.value - q.low) ** 2)
    return Interval(value, value - math.sqrt(below), value + math.sqrt(above))


def ratio(groups: Sequence[Counts], confidence: float = 0.95) -> Interval | None:
    """Share of hits with the message over share without, and its interval; None when one of them is 0.

    Mantel and Haenszel's ratio with the variance of its logarithm (Greenland and Robins, Biometrics 41:55,
    1985). In one group that is the interval of Katz (Biometrics 34:469, 1978).

    Examples
    --------
    >>> found = ratio([Counts(56, 70, 48, 80)])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (1.333, 1.077, 1.651)
    """
    r = s = spread = 0.0
    for g in groups:
        if g.n and g.base_n:
            n = g.n + g.base_n
            r += g.hits * g.base_n / n
            s += g.base_hits * g.n / n
            spread += ((g.hits + g.base_hits) * g.n * g.base_n - g.hits * g.base_hits * n) / n**2
    if not r or not s:
        return None
    half = _z(confidence) * math.sqrt(spread / (r * s))
    return Interval(r / s, r / s * math.exp(-half), r / s * math.exp(half))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
