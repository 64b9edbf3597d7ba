"""Kafka → decoded → user state → learned → recommended → Redis, on a real broker and a real Redis.

`ours` is one worker process and one learner process, as `recs worker` and `recs learner` start them, over
a topic that was filled before. The clock runs from the first event applied to the last one applied, written
and learned. Beside it, in the same run, what it is measured against (`pipeline_peers`): the naive build,
and the floor. Two further runs have two workers, and a profiler (`steps`) that says where the time goes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pipeline_peers import measure
from benchmarks.roles import Role, System, system, wait
from benchmarks.timing import at_least
from benchmarks.workload import preload, shop_events
from stream_app.embedded import EmbeddedRedis
from tests.servers import KafkaServer

IDLE_S = 0.5  # without a new example: the learner has learned all there is


def ours(
    kafka: KafkaServer,
    redis: EmbeddedRedis,
    topic: str,
    events: int,
    run_id: str,
    *,
    workers: int = 1,
    steps: Path | None = None,
) -> dict[str, Any]:
    """One measured run; every topic but the events is new."""
    with system(kafka, redis, topic, run_id, workers=workers, steps=steps) as running:
        wait(lambda: running.applied() > 0, "the first event")
        began, first, cpu = time.perf_counter(), running.applied(), running.cpu_s()
        wait(lambda: running.applied() >= events, "the last event")
        written = time.perf_counter()
        learned = _all_learned(running.learner)
        seconds = max(written, learned) - began
        used = {name: seconds - cpu[name] for name, seconds in running.cpu_s().items()}
        lists = sum(worker.counter("recs_lists_total") for worker in running.workers)
        return {
            "events": events,
            "events_per_s": round((events - first) / seconds, 1),
            "worker_events_per_s": round((events - first) / (written - began), 1),
            "cpu_us_per_event": {name: round(s / (events - first) * 1e6, 1) for name, s in used.items()},
            "lists": lists,
            "batches": sum(worker.counter("recs_batch_seconds_count") for worker in running.workers),
            "examples": _learned(running.learner),
            "releases": running.learner.counter("recs_releases_total"),
            **_memory(running),
        }


def _memory(running: System) -> dict[str, float]:
    worker, learner = sum(w.rss_mb() for w in running.workers), running.learner.rss_mb()
    return {"rss_mb": round(worker + learner, 1), "worker_rss_mb": round(worker, 1),
            "learner_rss_mb": round(learner, 1)}  # fmt: skip


def _learned(learner: Role) -> float:
    counters = learner.counters()
    return counters.get("recs_examples_total", 0.0) + counters.get("recs_examples_repeated_total", 0.0)


def _all_learned(learner: Role) -> float:
    """Wait until the learner has nothing left; returns when that was."""
    before, changed = _learned(learner), time.perf_counter()
    while time.perf_counter() - changed < IDLE_S:
        time.sleep(IDLE_S / 10)
        now = _learned(learner)
        if now != before:
            before, changed = now, time.perf_counter()
    return changed


def steps_us(
    kafka: KafkaServer, redis: EmbeddedRedis, topic: str, events: int
) -> dict[str, dict[str, float]]:
    """Processor time per event, by process and step, of a run that is watched."""
    with tempfile.TemporaryDirectory() as folder:
        cpu = ours(kafka, redis, topic, events, "steps", steps=Path(folder))["cpu_us_per_event"]
        shares = {
            role: json.loads((Path(folder) / f"{role}.json").read_text()) for role in ("worker", "learner")
        }
    return {
        role: {"all": cpu[role], **{step: round(share * cpu[role], 2) for step, share in found.items()}}
        for role, found in shares.items()
    }


def run(
    events: int = 150_000, floor_events: int = 200_000, naive_events: int = 4_000, repeats: int = 3
) -> dict[str, Any]:
    """Measure ours, the floor and the naive build by turns, and report medians.

    Parameters
    ----------
    events, floor_events, naive_events
        Events that each reads to the end of its topic.
    repeats
        Rounds; in each, all three run.
    """
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "floor": [], "naive": []}
    sizes = {"ours": events, "floor": floor_events, "naive": naive_events}
    with KafkaServer(heap="1g") as kafka, EmbeddedRedis() as redis:
        for name, size in sizes.items():
            if preload(kafka.bootstrap, name, shop_events(size)) != size:
                raise RuntimeError(f"the broker did not take all events of {name}")
        for n in range(repeats):
            for name, size in sizes.items():
                _empty(redis)
                one = (
                    ours(kafka, redis, name, size, str(n)) if name == "ours"
                    else measure(name, kafka.bootstrap, redis.url, name, size)
                )  # fmt: skip
                runs[name].append(one)
        _empty(redis)
        two = ours(kafka, redis, "ours", events, "two", workers=2)
        _empty(redis)
        steps = steps_us(kafka, redis, "ours", events)
    rates = {name: [one["events_per_s"] for one in many] for name, many in runs.items()}
    median = {name: statistics.median(many) for name, many in rates.items()}
    typical = min(runs["ours"], key=lambda one: abs(one["events_per_s"] - median["ours"]))
    over = {other: _ratio(rates["ours"], rates[other]) for other in ("naive", "floor")}
    return {
        "results": {
            "ours_eps": median["ours"], "naive_eps": median["naive"], "floor_eps": median["floor"],
            "rss_mb": typical["rss_mb"], "ours_over_naive": over["naive"], "ours_over_floor": over["floor"],
            "runs_eps": rates, "ours": typical, "two_workers": two, "steps_us": steps,
        },
        "goals": {
            "ours_eps": at_least(median["ours"], 15_000),
            "ours_over_naive": at_least(over["naive"], 30),
            "ours_over_floor": at_least(over["floor"], 0.5),
        },
    }  # fmt: skip


def _empty(redis: EmbeddedRedis) -> None:
    redis.kill()
    redis.start()


def _ratio(some: list[float], others: list[float]) -> float:
    """The median over rounds, which share what disturbs them."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))
