"""By turns: every competitor once per round, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Work = Callable[[], float]
"""Does a piece of work and returns the seconds that count."""


def clocked(work: Callable[[], Any]) -> Work:
    """The work, all of which counts.

    >>> clocked(lambda: None)() < 1
    True
    """

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


@dataclass(frozen=True)
class Rates:
    """Units per second of each competitor in each round.

    Examples
    --------
    >>> rates = Rates({"ours": [20.0, 40.0, 60.0], "theirs": [10.0, 10.0, 20.0]})
    >>> rates.median("ours"), rates.ratio("ours", "theirs")
    (40.0, 3.0)
    >>> rates.table()["theirs"]
    {'median': 10.0, 'least': 10.0, 'most': 20.0}
    """

    runs: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The typical rate of one competitor."""
        return statistics.median(self.runs[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast one is as another: the median over rounds, which share disturbances."""
        return statistics.median(a / b for a, b in zip(self.runs[name], self.runs[other], strict=True))

    def table(self) -> dict[str, dict[str, float]]:
        """Median and spread of all, for the report."""
        return {
            name: {"median": self.median(name), "least": min(runs), "most": max(runs)}
            for name, runs in self.runs.items()
        }


def by_turns(works: Mapping[str, tuple[float, Work]], rounds: int = 5) -> Rates:
    """Measure several kinds of work.

    Parameters
    ----------
    works
        Name → (units in one piece of work, the work). Each runs once before anything is measured.
    rounds
        Pieces of each.

    Examples
    --------
    >>> by_turns({"sleep": (100, lambda: 0.5)}, rounds=2).runs
    {'sleep': [200.0, 200.0]}
    """
    runs: dict[str, list[float]] = {name: [] for name in works}
    for _, work in works.values():
        work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, (units, work) in works.items():
                runs[name].append(units / work())
    finally:
        gc.enable()
    return Rates(runs)


def at_least(value: float, goal: float) -> dict[str, Any]:
    """A row of `goals`: met from `goal` on."""
    return {"value": value, "goal": f">= {goal:,}", "ok": value >= goal}


def at_most(value: float, goal: float) -> dict[str, Any]:
    """A row of `goals`: met up to `goal`."""
    return {"value": value, "goal": f"<= {goal:,}", "ok": value <= goal}
