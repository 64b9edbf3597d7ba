"""Memory while new users, items and words come for ever: the real core and a real Redis, without Kafka.

What a worker and a learner do in batches happens in one process: events are applied, examples, overlays and
releases travel as bytes, lists of 100 items and states are written to Redis, the learner is saved. Kafka is
left out so that more events fit into five minutes. What fills up once and stays full (caches of texts,
descriptions of users) begins full. `RECS_BENCH_EVENTS` says how many events.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import redis
from matplotlib.figure import Figure

from benchmarks.churn import Churn
from benchmarks.core import Core
from stream_app.config import load_settings
from stream_app.embedded import EmbeddedRedis
from stream_app.keys import escape
from stream_app.model.user_table import MOST_DESCRIBED
from stream_app.recommender import Lists
from stream_app.served_json import lists_json
from stream_app.store import Store

PICTURE = Path(__file__).parents[1] / "docs" / "memory.png"
EVENTS = 1_000_000
BATCH = 2_000
CACHED = 65_536  # texts that the store keeps by user and by item
EVERY = 20_000  # events between two looks
SAVE_EVERY = 100_000  # events between two checkpoints
WARM = 0.5  # of the run, after which memory should stand still
MAX_MODEL_MB = 160
MOST_MB_PER_MILLION = 1.0
SETTINGS = {
    "max_model_mb": MAX_MODEL_MB, "max_features": 100_000, "neighbours": 100, "list_size": 100,
    "max_users_in_memory": 10_000, "max_items_per_user": 128,
}  # fmt: skip


def run(events: int | None = None) -> dict[str, Any]:
    """Run the core for many events and look at its memory all the while."""
    events = events or int(os.environ.get("RECS_BENCH_EVENTS", EVENTS))
    with EmbeddedRedis() as server:
        looks, took_s, stored = asyncio.run(_run(events, server.url))
    warm = looks[looks["events"] >= WARM * events]
    slope, error = slope_of(warm["events"] / 1e6, warm["rss_mb"])
    most = float(max(looks["learner_mb"].max(), looks["worker_mb"].max()))
    draw(looks, events, PICTURE)
    results = {
        "events": events, "seconds": round(took_s, 1), "events_per_s": round(events / took_s),
        "rss_mb_per_million_events": round(slope, 2), "ci95": round(1.96 * error, 2),
        "rss_mb": {"warm": float(warm["rss_mb"][0]), "end": float(looks["rss_mb"][-1])},
        "learner_mb": float(looks["learner_mb"][-1]), "worker_mb": float(looks["worker_mb"][-1]),
        "most_model_mb": round(most, 1), "items_met": int(looks["met"][-1]),
        "items_evicted": int(looks["evicted"][-1]), "items": int(looks["items"][-1]), **stored,
        "looks": {name: looks[name].tolist() for name in looks.dtype.names or ()},
    }  # fmt: skip
    return {
        "results": results,
        "goals": {
            "RSS, MB per million events": {
                "value": results["rss_mb_per_million_events"],
                "goal": f"< {MOST_MB_PER_MILLION:g}, or 0 within ± {results['ci95']}",
                "ok": slope < max(MOST_MB_PER_MILLION, 1.96 * error),
            },
            "model, MB": {"value": most, "goal": MAX_MODEL_MB, "ok": most <= MAX_MODEL_MB},
            "Redis bytes per recommendation": _at_most(stored["redis_bytes_per_recommendation"], 40),
            "bytes of a user's state, mean": _at_most(stored["state_bytes"]["mean"], 2_000),
        },
    }


def _fill(core: Core) -> None:
    """Begin with what fills up once and for all as full as it gets: caches, and descriptions of users."""
    for n in range(CACHED):
        lists = Lists([f"fill-{n}"], [[f"fill-{n}"]], [[0.0]], [True], np.zeros(1, np.int64))
        lists_json(lists, "none", 0)
        escape(f"fill-{n}")
    for n in range(MOST_DESCRIBED):
        core.recommender.users.describe(f"fill-{n}", {})


def _at_most(value: float, goal: float) -> dict[str, Any]:
    return {"value": value, "goal": goal, "ok": value <= goal}


async def _run(events: int, url: str) -> tuple[np.ndarray, float, dict[str, Any]]:
    store = Store(url)
    core = Core(load_settings(**SETTINGS, redis_url=url), store)
    _fill(core)
    churn, looks, began = Churn(), [], time.perf_counter()
    for items, users, batch in churn.batches(events, BATCH):
        core.describe(items, users)
        await core.apply(batch)
        if core.events % SAVE_EVERY == 0:
            core.learner.to_bytes()
        if core.events % EVERY == 0:
            looks.append((
                core.events, _rss_mb(), core.learner_bytes / 1e6, core.worker_bytes / 1e6,
                len(core.learner.items), churn.items + core.events * churn.new_items // 1000,
                core.learner.items.evicted,
            ))  # fmt: skip
    took_s = time.perf_counter() - began
    await store.close()
    names = ("events", "rss_mb", "learner_mb", "worker_mb", "items", "met", "evicted")
    table = np.array(looks, [(n, np.float64) for n in names])
    return table, took_s, _stored(url)


def _stored(url: str) -> dict[str, Any]:
    """What lists and states take in Redis, its own bookkeeping included, by a sample of keys."""
    server = redis.Redis.from_url(url)
    lists, states, items = [], [], []
    for key in server.scan_iter(match="rec:v1:user:*", count=10_000):
        if len(lists) + len(states) >= 20_000:
            break
        size = int(server.memory_usage(key))
        if key.endswith(b":top"):
            lists.append(size)
            items.append(server.get(key).count(b'"item_id"'))
        else:
            states.append((size, server.strlen(key)))
    full = np.array(items) == SETTINGS["list_size"]
    state = np.array(states)
    of_place = np.array(lists)[full].mean() / SETTINGS["list_size"]
    return {
        "redis_bytes_per_recommendation": round(float(of_place), 1),
        "full_lists": round(float(full.mean()), 3),
        "state_bytes": {
            "mean": round(float(state[:, 1].mean())), "p99": round(float(np.percentile(state[:, 1], 99))),
            "max": int(state[:, 1].max()), "in_redis_mean": round(float(state[:, 0].mean())),
        },
        "redis_mb": round(server.info("memory")["used_memory"] / 1e6, 1),
        "redis_users": server.dbsize() // 2,
    }  # fmt: skip


def slope_of(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of a line through points in order of time, and its standard error.

    Neighbouring points are alike, so the error is that of as many independent ones as their correlation
    leaves: n (1 − r) / (1 + r).

    >>> slope_of(np.arange(10.0), 2 * np.arange(10.0) + np.array([1, -1] * 5))[0].round(1)
    1.9
    """
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    r = float(np.clip((rest[1:] * rest[:-1]).sum() / max((rest * rest).sum(), 1e-12), 0, 0.99))
    free = max(len(x) * (1 - r) / (1 + r) - 2, 1)
    return slope, float(np.sqrt((rest * rest).sum() / free / (x * x).sum()))


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def draw(looks: np.ndarray, events: int, path: Path) -> None:
    """A picture of memory and items over the run."""
    figure = Figure((8, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = looks["events"] / 1e6
    top.plot(x, looks["rss_mb"], label="process: worker, learner and generator", color="#333333")
    top.plot(x, looks["learner_mb"], label="the learner's model", color="#1f77b4")
    top.plot(x, looks["worker_mb"], label="the worker's model", color="#2ca02c")
    top.axhline(MAX_MODEL_MB, ls="--", lw=1, color="#d62728", label="RECS_MAX_MODEL_MB")
    top.set(ylabel="MB", ylim=(0, None), title="Memory while users, items and words come and go for ever")
    bottom.plot(x, looks["met"] / 1e3, label="items met so far", color="#888888")
    bottom.plot(x, looks["items"] / 1e3, label="items with a number", color="#1f77b4")
    bottom.set(ylabel="thousands", xlabel="million events", ylim=(0, None), xlim=(0, events / 1e6))
    for axes in (top, bottom):
        axes.legend(loc="best", fontsize=8, frameon=False)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
