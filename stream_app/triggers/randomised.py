"""Exposures and purchases whose true uplift is known: what a report of effects is checked with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stream_app.events.records import Event
from stream_app.triggers.effect import HOLD_OUT, Exposure

START_MS = 1_767_571_200_000  # 2026-01-05
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Truth:
    """How users of one rule behave.

    Attributes
    ----------
    users
        Who are exposed.
    hold_out
        The share of them that gets no message.
    base_rate
        The probability of a purchase within the window without a message.
    uplift
        What a message adds to it.
    """

    rule: str = "win_back"
    users: int = 1_000
    hold_out: float = 0.2
    base_rate: float = 0.1
    uplift: float = 0.05


def simulate(seed: int, *truths: Truth, window_ms: int = 7 * DAY_MS) -> Iterator[Exposure | Event]:
    """Randomised exposures over 30 days, purchases, and one last event that closes all windows.

    Everything follows from the seed. Users of one rule are no users of another. Some are exposed again, some
    buy twice, and some buy before their exposure or after the window, which must count for nothing.

    Examples
    --------
    >>> records = list(simulate(1, Truth(users=100)))
    >>> len([r for r in records if isinstance(r, Exposure) and r.suppressed]) / 100
    0.19
    """
    rng = np.random.default_rng(seed)
    number = 0
    for truth in truths:
        held_out = rng.random(truth.users) < truth.hold_out
        at_ms = START_MS + rng.integers(0, 30 * DAY_MS, truth.users)
        buys = rng.random(truth.users) < truth.base_rate + np.where(held_out, 0.0, truth.uplift)
        after_ms = rng.integers(1, window_ms, truth.users)
        habits = rng.integers(0, 10, truth.users).tolist()  # most have none of the four below
        for u in range(truth.users):
            user_id, at = f"{truth.rule}-{u}", int(at_ms[u])
            reason = HOLD_OUT if held_out[u] else ""
            yield Exposure(f"{user_id}-1", truth.rule, user_id, at, reason)
            if habits[u] == 0:
                yield Exposure(f"{user_id}-2", truth.rule, user_id, at + 40 * DAY_MS, reason)
            times = [at + int(after_ms[u])] if buys[u] else []
            times *= 1 + (habits[u] == 1)
            if habits[u] == 2:
                times.append(at - 1)
            if habits[u] == 3:
                times.append(at + window_ms + 1)
            for time_ms in times:
                number += 1
                yield Event(f"e{number}", "purchase", time_ms, user_id, item_id="sku-1", value=10.0)
    yield Event("last", "view_item", START_MS + 30 * DAY_MS + window_ms, "last", item_id="sku-1")
