"""How much to remove, and when: shares of the weights that were live when the schedule began.

Several rounds buy control of the risk, not accuracy: one shot at the end was as good or better in most
comparisons (docs/pruning.md).
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from pruning.errors import ParameterError


class Schedule(Protocol):
    """What an online pruner asks."""

    def share(self, step: int) -> float:
        """The share of weights that should be gone at this step."""
        ...


def _check(share: float, begin: int, end: int) -> None:
    if not 0 <= share < 1 or begin < 0 or end < begin:
        raise ParameterError("final lies in [0, 1) and 0 ≤ begin ≤ end")


@dataclasses.dataclass(frozen=True)
class OneShot:
    """Everything at one step.

    >>> OneShot(.9, at=100).share(99), OneShot(.9, at=100).share(100)
    (0.0, 0.9)
    """

    final: float
    at: int = 0

    def __post_init__(self) -> None:
        _check(self.final, self.at, self.at)

    def share(self, step: int) -> float:
        """0 before `at`, `final` from then on."""
        return self.final if step >= self.at else 0.0


@dataclasses.dataclass(frozen=True)
class Cubic:
    """Fast at first, then ever slower: final · (1 − (1 − t)³).

    >>> [round(Cubic(.9, 0, 100).share(step), 3) for step in (0, 50, 100, 999)]
    [0.0, 0.787, 0.9, 0.9]

    References
    ----------
    Zhu, M., Gupta, S., 2018. To prune, or not to prune. ICLR workshop.
    """

    final: float
    begin: int
    end: int

    def __post_init__(self) -> None:
        _check(self.final, self.begin, self.end)

    def share(self, step: int) -> float:
        """Between 0 at `begin` and `final` at `end`."""
        t = min(1.0, max(0.0, (step - self.begin) / max(self.end - self.begin, 1)))
        return self.final * (1 - (1 - t) ** 3)


@dataclasses.dataclass(frozen=True)
class Exponential:
    """The same share of what is left in every equal stretch of steps: 1 − (1 − final)^t.

    >>> [round(Exponential(.75, 0, 100).share(step), 3) for step in (0, 50, 100)]
    [0.0, 0.5, 0.75]
    """

    final: float
    begin: int
    end: int

    def __post_init__(self) -> None:
        _check(self.final, self.begin, self.end)

    def share(self, step: int) -> float:
        """Between 0 at `begin` and `final` at `end`."""
        t = min(1.0, max(0.0, (step - self.begin) / max(self.end - self.begin, 1)))
        return 1.0 - float((1.0 - self.final) ** t)
