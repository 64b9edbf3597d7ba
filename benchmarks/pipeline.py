"""Kafka → decoded → user state → learned → recommended → Redis, on a real broker and a real Redis.

`ours` is one worker process and one learner process, as `recs worker` and `recs learner` start them, over
a topic that was filled before. The clock runs from the first event applied to the last one applied, written
and learned. Beside it, in the same run, what it is measured against (`pipeline_peers`): the naive build,
and the floor.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.pipeline_peers import measure
from benchmarks.workload import preload, shop_events
from stream_app.embedded import EmbeddedRedis, free_port
from tests.servers import KafkaServer

DEADLINE_S = 240
POLL_S = 0.1  # between looks at the counters: rendering them costs the process that is measured a millisecond


class Role:
    """A `recs` process with its page of counters."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile("w+", suffix=f".{name}.log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream_app.cli", name],
            env={**os.environ, **environment, "RECS_WEB_PORT": str(self.port)},
            stdout=self.log,
            stderr=self.log,
        )

    def counters(self) -> dict[str, float]:
        """The counters of the process; empty until it answers."""
        if self.process.poll() is not None:
            raise RuntimeError(f"a process ended: {Path(self.log.name).read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            return {}
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def rss_mb(self) -> float:
        """Resident memory of the process in megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """End the process in good order."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def ours(kafka: KafkaServer, redis: EmbeddedRedis, topic: str, events: int, run_id: str) -> dict[str, Any]:
    """One measured run; every topic but the events is new."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        names = {f"RECS_{n.upper()}_TOPIC": f"{topic}-{n}-{run_id}" for n in
                 ("items", "users", "examples", "control", "dead_letter")}  # fmt: skip
        environment = {
            "RECS_KAFKA_BOOTSTRAP": kafka.bootstrap, "RECS_REDIS_URL": redis.url, "RECS_EVENTS_TOPIC": topic,
            "RECS_GROUP": f"ours-{run_id}", "RECS_STATE_DIR": folder, **names,
        }  # fmt: skip
        learner = Role("learner", environment)
        stack.callback(learner.stop)
        _wait(lambda: "recs_examples_total" in learner.counters(), "the learner")
        worker = Role("worker", environment)
        stack.callback(worker.stop)
        began, first = 0.0, 0.0

        def started() -> bool:
            nonlocal began, first
            first = worker.counters().get("recs_events_total", 0.0)
            began = time.perf_counter()
            return first > 0

        _wait(started, "the first event")
        _wait(lambda: worker.counters().get("recs_events_total", 0.0) >= events, "the last event")
        written = time.perf_counter()
        _wait(lambda: _learned(learner) >= events * 0.999 or _idle(learner), "the last example")
        learned = time.perf_counter()
        if time.perf_counter() - written < 2:
            learned = max(written, learned - 0.5)
        counters = worker.counters()
        return {
            "events": events,
            "events_per_s": round((events - first) / (max(written, learned) - began), 1),
            "worker_events_per_s": round((events - first) / (written - began), 1),
            "lists": counters["recs_lists_total"],
            "batches": counters["recs_batch_seconds_count"],
            "examples": _learned(learner),
            "releases": learner.counters()["recs_releases_total"],
            "rss_mb": round(worker.rss_mb() + learner.rss_mb(), 1),
            "worker_rss_mb": round(worker.rss_mb(), 1),
            "learner_rss_mb": round(learner.rss_mb(), 1),
        }


def _learned(learner: Role) -> float:
    counters = learner.counters()
    return counters.get("recs_examples_total", 0.0) + counters.get("recs_examples_repeated_total", 0.0)


def _idle(learner: Role) -> bool:
    """Whether the learner has learned nothing for half a second."""
    before = _learned(learner)
    time.sleep(0.5)
    return _learned(learner) == before


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {DEADLINE_S} s")
        time.sleep(POLL_S)


def run(
    events: int = 100_000, floor_events: int = 200_000, naive_events: int = 4_000, repeats: int = 3
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
    with KafkaServer(heap="1g") as kafka, EmbeddedRedis() as redis:
        sizes = {"ours": events, "floor": floor_events, "naive": naive_events}
        for name, size in sizes.items():
            if preload(kafka.bootstrap, name, shop_events(size)) != size:
                raise RuntimeError(f"the broker did not take all events of {name}")
        for n in range(repeats):
            for name, size in sizes.items():
                redis.kill()
                redis.start()
                one = (
                    ours(kafka, redis, name, size, str(n)) if name == "ours"
                    else measure(name, kafka.bootstrap, redis.url, name, size)
                )  # fmt: skip
                runs[name].append(one)
    rates = {name: [one["events_per_s"] for one in many] for name, many in runs.items()}
    median = {name: statistics.median(many) for name, many in rates.items()}
    typical = min(runs["ours"], key=lambda one: abs(one["events_per_s"] - median["ours"]))
    return {
        "results": {
            "ours_eps": median["ours"], "naive_eps": median["naive"], "floor_eps": median["floor"],
            "rss_mb": typical["rss_mb"], "ours_over_naive": median["ours"] / median["naive"],
            "ours_over_floor": median["ours"] / median["floor"], "runs_eps": rates, "ours": typical,
        },
        "goals": {
            name: {"value": value, "goal": f">= {goal}", "ok": value >= goal}
            for name, value, goal in (
                ("ours_eps", median["ours"], 5_000),
                ("ours_over_naive", median["ours"] / median["naive"], 30),
                ("ours_over_floor", median["ours"] / median["floor"], 0.5),
            )
        },
    }  # fmt: skip
