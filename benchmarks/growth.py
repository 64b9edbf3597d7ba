"""Cost of an event as users, items and words grow tenfold and a hundredfold: processor time, the real core.

Every user remembers 20 items from the beginning. Each shop is taught until everything in it was met, then
the processor time of further events is taken, with the overlays that a busy shop would get meanwhile. A
release is timed by itself and counted as often as it is made. Redis and Kafka are left out: their cost per
event does not know how large the shop is.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.figure import Figure

from benchmarks.churn import Churn
from benchmarks.core import Core
from stream_app.config import load_settings
from stream_app.events import Event

PICTURE = Path(__file__).parents[1] / "docs" / "growth.png"
BASE = Churn(users=1_000, items=500, new_users=0, new_items=0, words=100)
FACTORS = (1, 10, 100)
WHAT = {"users": ("users",), "items": ("items",), "words": ("words",), "all": ("users", "items", "words")}
WARM, MEASURED, ROUNDS = 20_000, 10_000, 3
BATCH = 200  # so few that hardly anybody comes twice: one list per event in shops of any size
HISTORY = 20  # items of each user


def run(factors: tuple[int, ...] = FACTORS) -> dict[str, Any]:
    """Grow one thing, then all, and take the time of an event."""
    first = measure(BASE)
    costs = {name: {str(f): first if f == 1 else measure(grown(name, f)) for f in factors} for name in WHAT}
    draw(costs, PICTURE)
    return {"results": costs, "goals": {f"{name} ×{factors[-1]}": _goal(name, costs[name]) for name in WHAT}}


def grown(what: str, factor: int) -> Churn:
    """The base shop with more of something.

    >>> grown("items", 10).items
    5000
    """
    return replace(BASE, **{name: factor * getattr(BASE, name) for name in WHAT[what]})


def measure(shop: Churn) -> dict[str, float]:
    """Processor time per event of a shop, µs, by step."""
    return asyncio.run(_measure(shop))


async def _measure(shop: Churn) -> dict[str, float]:
    core = Core(load_settings(max_users_in_memory=200_000, max_items_per_user=HISTORY, prune_interval=10**9))
    await _fill(core, shop)
    begun = core.events
    warm = max(WARM, 2 * shop.items)
    warm += -warm % BATCH
    rounds: list[dict[str, float]] = []
    for items, users, events in shop.batches(warm + MEASURED * ROUNDS, BATCH):
        core.describe(items, users)
        if core.events - begun >= warm and (core.events - begun - warm) % MEASURED == 0:
            rounds.append(dict(core.cpu_s))
        await core.apply(events)
    rounds.append(dict(core.cpu_s))
    best = min(range(ROUNDS), key=lambda r: sum(rounds[r + 1].values()) - sum(rounds[r].values()))
    cost = {step: (rounds[best + 1][step] - rounds[best][step]) / MEASURED * 1e6 for step in core.cpu_s}
    rows, began = len(core.learner.all_rows()), time.process_time()
    core.cycle.propose()
    cost["release"] = (time.process_time() - began) / max(10_000, rows) * 1e6
    cost["µs"] = sum(cost.values())
    return {step: round(us, 1) for step, us in cost.items()}


async def _fill(core: Core, shop: Churn) -> None:
    """Give every user the history of one of a few who have one."""
    models = 200
    for items, users, events in shop.batches(models * HISTORY, BATCH, seed=1):
        core.describe(items, users)
        await core.apply([replace_user(event, f"u{n % models}") for n, event in enumerate(events)])
    table = core.recommender.users
    states = [table.pack(f"u{n}") for n in range(models)]
    for n in range(models, shop.users):
        table.load(f"u{n}", states[n % models])


def replace_user(event: Event, user_id: str) -> Event:
    """The same event of another user.

    >>> replace_user(Event("e", "view_item", 0, "u1", item_id="a"), "u2").user_id
    'u2'
    """
    return msgspec.structs.replace(event, user_id=user_id)


def _goal(name: str, cost: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Whether the cost grows no faster than the logarithm of the size."""
    size = min(getattr(BASE, one) for one in WHAT[name])
    most = max(map(int, cost))
    ratio, bound = cost[str(most)]["µs"] / cost["1"]["µs"], math.log(most * size) / math.log(size)
    return {
        "value": round(ratio, 2),
        "goal": f"≤ {bound:.2f}, as log {most * size:,} / log {size:,}",
        "ok": ratio <= bound,
    }


def draw(costs: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A picture of the cost over the size."""
    figure = Figure((8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = {"users": "users", "items": "items", "words": "words", "all": "all three"}
    for name, by_factor in costs.items():
        x = [int(f) for f in by_factor]
        left.plot(x, [by_factor[str(f)]["µs"] for f in x], marker="o", label=labels[name])
    x = [int(f) for f in costs["all"]]
    first = costs["all"]["1"]["µs"]
    logarithm = [first * math.log(f * BASE.items) / math.log(BASE.items) for f in x]
    left.plot(x, logarithm, ls="--", color="#999999", label="as the logarithm of the items")
    left.set(xscale="log", ylim=(0, None), xlabel="times as many", ylabel="µs of processor time per event",
             title="The cost of an event")  # fmt: skip
    left.legend(fontsize=8, frameon=False, loc="lower right")
    steps = [step for step in costs["all"]["1"] if step != "µs"]
    bottom = [0.0] * len(x)
    for step in steps:
        height = [costs["all"][str(f)][step] for f in x]
        right.bar([f"×{f}" for f in x], height, bottom=bottom, label=step, width=0.6)
        bottom = [a + b for a, b in zip(bottom, height, strict=True)]
    right.set(title="Where it goes, all three grown", ylabel="µs per event")
    right.legend(fontsize=8, frameon=False, loc="upper left")
    right.set(ylim=(0, 1.35 * max(bottom)))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, axis="y")
    figure.savefig(path, dpi=130)
