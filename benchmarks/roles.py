"""A system as it is deployed: `recs` processes on a real Kafka and Redis, what they count and cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stream_app.embedded import EmbeddedRedis, free_port
from tests.servers import KafkaServer

DEADLINE_S = 240
POLL_S = 0.1  # between looks at the counters: rendering them costs the process that is measured a millisecond
TOPICS = ("items", "users", "examples", "control", "dead_letter")


class Role:
    """A `recs` process with its page of counters.

    Parameters
    ----------
    steps
        Where `benchmarks.steps` writes down what the process spent its time with; without, nothing looks.
    """

    def __init__(self, name: str, environment: dict[str, str], steps: Path | None = None) -> None:
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile("w+", suffix=f".{name}.log")  # noqa: SIM115
        module = "stream_app.cli" if steps is None else "benchmarks.steps"
        more = {"RECS_WEB_PORT": str(self.port), "RECS_STEPS_FILE": str(steps)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, name],
            env={**os.environ, **environment, **more},
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

    def counter(self, name: str) -> float:
        """One counter, 0 until the process answers."""
        return self.counters().get(name, 0.0)

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


@dataclass(frozen=True)
class System:
    """Running roles and servers."""

    kafka: KafkaServer
    redis: EmbeddedRedis
    learner: Role
    workers: list[Role]

    def applied(self) -> float:
        """Events that the workers have applied."""
        return sum(worker.counter("recs_events_total") for worker in self.workers)

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds that each part has used so far."""
        pids = {"learner": [self.learner.process.pid], "worker": [w.process.pid for w in self.workers],
                "kafka": [self.kafka.pid], "redis": [self.redis.pid]}  # fmt: skip
        return {name: sum(map(cpu_s, some)) for name, some in pids.items()}


@contextmanager
def system(
    kafka: KafkaServer,
    redis: EmbeddedRedis,
    topic: str,
    run_id: str,
    *,
    workers: int = 1,
    steps: Path | None = None,
) -> Iterator[System]:
    """A learner, then workers, over a topic of events; every other topic is new.

    Parameters
    ----------
    steps
        A folder for what the processes spent their time with, `worker.json` and `learner.json`.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        environment = {
            "RECS_KAFKA_BOOTSTRAP": kafka.bootstrap, "RECS_REDIS_URL": redis.url, "RECS_EVENTS_TOPIC": topic,
            "RECS_GROUP": f"ours-{run_id}", "RECS_STATE_DIR": folder,
        } | {f"RECS_{name.upper()}_TOPIC": f"{topic}-{name}-{run_id}" for name in TOPICS}  # fmt: skip

        def role(name: str) -> Role:
            one = Role(name, environment, None if steps is None else steps / f"{name}.json")
            stack.callback(one.stop)
            return one

        learner = role("learner")
        wait(lambda: "recs_examples_total" in learner.counters(), "the learner")
        yield System(kafka, redis, learner, [role("worker") for _ in range(workers)])


def cpu_s(pid: int | None) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {DEADLINE_S} s")
        time.sleep(POLL_S)
