"""The system as tests see it: processes to start and kill, a log that is written down while it is produced.

What goes in is kept in a ledger, with partition and offset as the broker acknowledged them; what comes out is
read by clients that are not ours (confluent-kafka, redis-cli, kcat).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import redis
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from stream_app.config import Settings, load_settings
from stream_app.embedded import free_port
from stream_app.events import encode_event, encode_item
from stream_app.simulator import Shop
from stream_app.transport import Connection, ensure_topics
from stream_app.worker import topics

COMMANDS = {
    frozenset({"worker"}): ["worker"],
    frozenset({"learner"}): ["learner"],
    frozenset({"worker", "learner"}): ["worker", "--learner"],
    frozenset({"deliver"}): ["triggers", "deliver"],
}
ROOT = Path(__file__).parents[2]
T = TypeVar("T")
Message = tuple[bytes | None, bytes | None]  # key, value
SMALL = {"batch_size": 100, "partitions": 2, "checkpoint_interval_s": 0.2, "prune_first": 1_000_000}


@dataclass(frozen=True)
class Sent:
    """A message as the broker acknowledged it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Role:
    """A process of the system, with its log in a file."""

    def __init__(self, roles: list[str], env: dict[str, str], log: Path) -> None:
        self.roles = roles
        self.log_path = log
        self.page = f"http://127.0.0.1:{env['RECS_WEB_PORT']}"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream_app.cli", "--verbose", *COMMANDS[frozenset(roles)]],
                env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=log.parent,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether the process says so on its status page."""
        try:
            with urllib.request.urlopen(f"{self.page}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """The value of one of the process's counters."""
        with urllib.request.urlopen(f"{self.page}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith((f"recs_{name}_total ", f"recs_{name} ")):
                    return float(line.split()[-1])
        raise AssertionError(f"{self.page}/metrics names no {name}")

    def kill(self) -> None:
        """End the process as kill -9 does."""
        self.process.kill()
        self.process.wait()

    def terminate(self, within_s: float = 10.0) -> int:
        """Ask the process to end; returns its exit code, and fails when it does not end in time."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code(within_s)

    def exit_code(self, within_s: float) -> int:
        """Wait for the end of the process; returns its exit code, negative for a signal."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.roles} did not end within {within_s:g} s:\n{self.log()}") from None

    def log(self, lines: int = 30) -> str:
        """The last lines that the process wrote."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class Deployment:
    """One system with topics, group, namespace and folders of its own on shared servers.

    Parameters
    ----------
    bootstrap, redis_url
        The servers.
    folder
        For logs and the learner's state.
    settings
        Settings that differ from the defaults.
    """

    def __init__(self, bootstrap: str, redis_url: str, folder: Path, **settings: Any) -> None:
        name = f"t{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.values: dict[str, Any] = {
            "kafka_bootstrap": bootstrap,
            "redis_url": redis_url,
            "state_dir": folder / "state",
            "namespace": name,
            "group": name,
            **{f"{t}_topic": f"{name}.{t}" for t in ("events", "items", "users", "examples", "control")},
            "dead_letter_topic": f"{name}.events.dlq",
            "triggers_topic": f"{name}.triggers",
            "suppressed_topic": f"{name}.triggers.suppressed",
            "trigger_dead_letter_topic": f"{name}.triggers.dlq",
            "io_timeout_s": 15,
            "session_timeout_s": 6,
            **settings,
        }  # fmt: skip
        self.settings: Settings = load_settings(**self.values)
        self.redis: redis.Redis = redis.Redis.from_url(redis_url)
        self.roles: list[Role] = []
        self.ledger: list[Sent] = []  # what was sent to `events`
        client = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._producer = Producer({**client, "enable.idempotence": True, "linger.ms": 5})
        self._group = Consumer({**client, "group.id": self.settings.group})  # looks, and never joins
        self._started: Counter[str] = Counter()

    def create_topics(self) -> None:
        """Create the topics, as the first process would."""
        asyncio.run(ensure_topics(Connection.of(self.settings), topics(self.settings)))

    def start(self, *roles: str, wait: bool = True, **env: str) -> Role:
        """Start a process with some roles; with `wait`, return when it is ready."""
        name = "-".join(roles)
        self._started[name] += 1
        environment = self.environment() | {"RECS_WEB_PORT": str(free_port()), **env}
        role = Role(list(roles), environment, self.folder / f"{name}-{self._started[name]}.log")
        self.roles.append(role)
        if wait:
            self.until(lambda: role.ready, f"{name} is ready", within_s=60)
        return role

    def environment(self, **settings: Any) -> dict[str, str]:
        """The environment of a process with this system's settings, some of them replaced."""
        values = {f"RECS_{key.upper()}": str(value) for key, value in (self.values | settings).items()}
        inherited = {key: value for key, value in os.environ.items() if key != "FAILPOINT"}
        return inherited | values | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def recs(
        self, *arguments: str, within_s: float = 60, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "stream_app.cli", *arguments], env=self.environment(**settings),
            cwd=self.folder, capture_output=True, text=True, timeout=within_s, check=False,
        )  # fmt: skip

    def close(self) -> None:
        """Kill what still runs."""
        for role in self.roles:
            if role.running:
                role.kill()
        self._group.close()
        del self._producer, self._group  # while the broker lives: without one their end takes long
        self.redis.close()

    # In

    def send(self, topic: str, messages: Iterable[Message], partition: int | None = None) -> list[Sent]:
        """Send (key, value) messages in order; returns when the broker has them all."""
        sent: list[Sent] = []
        failed: list[KafkaError] = []

        def acknowledged(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed.append(error)
            else:
                sent.append(Sent(message.partition(), message.offset(), message.key(), message.value()))

        place = {} if partition is None else {"partition": partition}
        for key, value in messages:
            while True:
                try:
                    self._producer.produce(topic, value, key, on_delivery=acknowledged, **place)
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        left = self._producer.flush(30)
        assert not left and not failed, f"{left} messages unsent, {failed[:1]}"
        if topic == self.settings.events_topic:
            self.ledger += sent
        return sent

    def send_events(self, messages: Iterable[Message]) -> list[Sent]:
        """Send to `events`, and write it down in the ledger."""
        return self.send(self.settings.events_topic, messages)

    # Out

    def read(self, topic: str) -> list[Any]:
        """All messages of a topic, partition by partition in offset order."""
        consumer = Consumer(
            {"bootstrap.servers": self.settings.kafka_bootstrap, "log_level": 0, "group.id": "reader",
             "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        )  # fmt: skip
        try:
            partitions = consumer.list_topics(topic, 10).topics[topic].partitions
            messages: list[Any] = []
            for partition in sorted(partitions):
                low, high = self.until(lambda p=partition: _ends(consumer, topic, p), f"{topic} has a leader")  # type: ignore[misc]
                consumer.assign([TopicPartition(topic, partition, low)])
                place = low
                while place < high:
                    message = consumer.poll(10)
                    assert message is not None and message.error() is None, (
                        f"{topic}[{partition}]@{place}: {message}"
                    )
                    messages.append(message)
                    place = message.offset() + 1
            return messages
        finally:
            consumer.close()

    def committed(self) -> dict[int, int]:
        """The workers' committed offset by partition of `events`, none while the group has no coordinator."""
        places = [TopicPartition(self.settings.events_topic, p) for p in range(self.settings.partitions)]
        try:
            found = self._group.committed(places, timeout=10)
        except KafkaException:
            return {}
        return {p.partition: p.offset for p in found if p.offset > 0}

    def consumed(self) -> bool:
        """Whether the workers committed everything that the ledger holds."""
        ends: dict[int, int] = {}
        for sent in self.ledger:
            ends[sent.partition] = max(ends.get(sent.partition, 0), sent.offset + 1)
        return self.committed() == ends

    def until_consumed(self, within_s: float = 60.0) -> None:
        """Wait until the workers committed everything that was sent."""
        self.until(self.consumed, "all events are consumed", within_s)

    def dead_letters(self) -> list[dict[str, Any]]:
        """The letters of the dead-letter topic, repeats included."""
        return [json.loads(m.value()) for m in self.read(self.settings.dead_letter_topic)]

    def state(self, user_id: str) -> bytes | None:
        """The packed state of a user as it is in Redis; ids must need no escaping."""
        value = self.redis.get(f"{self.settings.namespace}:v1:user:{{{user_id}}}:state")
        assert value is None or isinstance(value, bytes)
        return value

    def key(self, *parts: str) -> str:
        """A key of this system's namespace."""
        return ":".join((self.settings.namespace, "v1", *parts))

    # Waiting

    def until(self, holds: Callable[[], T], what: str, within_s: float = 60.0) -> T:
        """Wait until a condition holds, and return what it returned; fail with the logs when it does not."""
        deadline = time.monotonic() + within_s
        while True:
            answer = holds()
            if answer:
                return answer
            dead = [
                r for r in self.roles if not r.running and r.process.returncode not in (0, -signal.SIGKILL)
            ]
            if time.monotonic() > deadline or dead:
                logs = "\n".join(f"--- {r.log_path.name}\n{r.log()}" for r in self.roles)
                why = f"{dead[0].roles} died" if dead else f"not within {within_s:g} s"
                raise AssertionError(f"{what}: {why}\n{logs}")
            time.sleep(0.05)


def _ends(consumer: Consumer, topic: str, partition: int) -> tuple[int, int] | None:
    """First and next offset of a partition, None while the client does not know its leader."""
    try:
        return cast(tuple[int, int], consumer.get_watermark_offsets(TopicPartition(topic, partition), 10))
    except KafkaException:
        return None


def shop_messages(events: int, seed: int = 3) -> tuple[list[Message], list[Message]]:
    """Items and events of a small simulated shop, with a few messages that are no events."""
    shop = Shop(seed, n_items=200, n_users=150)
    items = [(i.item_id.encode(), encode_item(i)) for i in shop.items()]
    messages: list[Message] = [(e.user_id.encode(), encode_event(e)) for e in shop.events(events)]
    for n in range(100, events, 500):
        messages.insert(n, (b"nobody", b'{"event_type": "view", "broken": %d}' % n))
    return items, messages


def feed(system: Deployment, holds: Callable[[], T], what: str, within_s: float = 90) -> T:
    """Send events bit by bit, so that the learner keeps up with the worker, until a condition holds."""

    def fed() -> T:
        answer = holds()
        if not answer:
            produce(system, 300, seed=len(system.ledger))
            system.until_consumed()
        return answer

    return system.until(fed, what, within_s)


def produce(system: Deployment, events: int, seed: int = 3) -> list[Message]:
    """Send a small shop's items and events; returns the items."""
    items, messages = shop_messages(events, seed)
    system.send(system.settings.items_topic, items)
    system.send_events(messages)
    return items
