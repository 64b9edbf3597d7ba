"""Triggers from a broker to a receiver: retries, order, dead letters, expiry, and what is committed when."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.config import Settings, load_settings
from stream_app.delivery import Deliverer, Window
from stream_app.embedded import EmbeddedBroker, free_port
from stream_app.errors import ConfigError
from stream_app.events.dead_letters import Rejected
from stream_app.transport import Connection, LogReader, Sender
from stream_app.webhook import Endpoint, parse_secrets
from tests.stream_app.receivers import SECRET, Received, Receiver, Reply

NOW = 1_767_607_200.0  # 2026-01-05T10:00:00Z
BROKEN = [b"not json", b"[]", b'{"id": "a"}', b'{"id": "a\\nb", "data": {}}', b'{"id": 7, "data": {}}', b""]


class Clock:
    """A clock that moves when somebody sleeps; while it stands, sleepers do not wake up."""

    def __init__(self) -> None:
        self.now = NOW
        self.sleepers = 0
        self.runs = asyncio.Event()
        self.runs.set()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the others run, and be later."""
        self.sleepers += 1
        await self.runs.wait()
        self.sleepers -= 1
        self.now += seconds
        await asyncio.sleep(0)


def message(message_id: str, user_id: str = "u1", **data: Any) -> tuple[bytes, bytes]:
    """Key and value of a trigger."""
    value = {
        "specversion": "1.0", "id": message_id, "type": "recs.trigger.win_back.v1", "source": "/recs/rec",
        "subject": user_id, "time": "2026-01-05T10:00:00.000Z", "data": {"rule": "win_back", **data},
    }  # fmt: skip
    return user_id.encode(), json.dumps(value).encode()


class Bench:
    """A broker with the topics, and the deliverers of one test."""

    def __init__(self, bootstrap: str, **settings: Any) -> None:
        self.settings: Settings = load_settings(
            kafka_bootstrap=bootstrap, io_timeout_s=10, session_timeout_s=2, **settings
        )
        self.connection = Connection.of(self.settings)
        self.clock = Clock()
        self.turns = 0  # of the deliverer
        self._over = False

    async def send(self, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Put messages into the topic."""
        sender = Sender(self.connection)
        await sender.start()
        await sender.send([(self.settings.triggers_topic, k, v, None) for k, v in messages])
        await sender.stop()

    @asynccontextmanager
    async def deliverer(self, url: str, **options: Any) -> AsyncIterator[Deliverer]:
        """A deliverer that works until the context ends."""
        async with Endpoint(url, parse_secrets(SECRET), timeout_s=2, clock=self.clock) as endpoint:
            deliverer = Deliverer(
                self.settings, endpoint, clock=self.clock, sleep=self.clock.sleep, **options
            )
            await deliverer.start()
            working = asyncio.create_task(self._work(deliverer))
            try:
                yield deliverer
            finally:
                self._over = True
                await working
                await deliverer.stop()

    async def _work(self, deliverer: Deliverer) -> None:
        self._over = False
        while not self._over:
            await deliverer.step()
            self.turns += 1

    async def until(self, holds: Callable[[], bool], within_s: float = 20) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.005)

    def committed(self) -> int:
        """Messages of the topic that the group is done with."""
        group = f"{self.settings.group}-webhook"
        onlooker = Consumer({"bootstrap.servers": self.settings.kafka_bootstrap, "group.id": group})
        places = [TopicPartition(self.settings.triggers_topic, p) for p in range(4)]
        found = onlooker.committed(places, timeout=10)
        onlooker.close()
        return sum(max(0, place.offset) for place in found)

    async def dead_letters(self) -> list[Rejected]:
        """What is in the dead-letter topic."""
        reader = LogReader(self.connection, self.settings.trigger_dead_letter_topic)
        await reader.start()
        found = []
        while not await reader.caught_up():
            found += [Rejected.from_dead_letter(m.value or b"") for m in await reader.poll(100, 0.1)]
        await reader.stop()
        return found


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Return the function that makes a bench on an embedded broker."""
    with EmbeddedBroker(topics={"triggers": 4, "triggers.dlq": 1}) as broker:
        yield lambda **settings: Bench(broker.bootstrap, **settings)


async def test_a_receiver_that_fails_at_first(bench: Callable[..., Bench]) -> None:
    """Every message arrives in the end, a user's in order, each try with the same id and its own time."""
    seen: Counter[str] = Counter()

    def twice_busy(received: Received) -> Reply:
        seen[received.id] += 1
        return Reply(204 if seen[received.id] > 2 else 503)

    it = bench(webhook_concurrency=4)
    await it.send([message(f"{user}.{n}", user) for n in range(5) for user in ("u1", "u2", "u3", "u4")])
    with Receiver(twice_busy) as receiver:
        async with it.deliverer(receiver.url) as deliverer:
            await it.until(lambda: len(receiver.requests) == 60 and deliverer.idle)
    assert set(seen.values()) == {3} and all(received.is_signed() for received in receiver.requests)
    for user in ("u1", "u2", "u3", "u4"):
        assert [i for i in receiver.ids if i.startswith(user)] == [
            f"{user}.{n}" for n in range(5) for _ in "123"
        ]
    assert len({received.headers["webhook-timestamp"] for received in receiver.requests}) > 1
    assert deliverer.metrics.registry.get_sample_value("recs_webhooks_total") == 20
    assert deliverer.metrics.registry.get_sample_value("recs_webhook_failures_total") == 40
    assert it.committed() == 20 and not await it.dead_letters()


async def test_what_cannot_be_delivered_is_kept(bench: Callable[..., Bench]) -> None:
    """Refused, given up after n tries, or no trigger at all: a dead letter each, and the next goes on."""
    it = bench(webhook_tries=3)
    bad, busy, good = message("bad"), message("busy"), message("good")
    await it.send([bad, busy, *((b"u1", value) for value in BROKEN), good])
    answers = {"bad": Reply(404, {}, b"gone"), "busy": Reply(500), "good": Reply(200, {}, b"thanks")}
    with Receiver(lambda received: answers[received.id]) as receiver:
        async with it.deliverer(receiver.url) as deliverer:
            await it.until(lambda: "good" in receiver.ids and deliverer.idle)
    assert receiver.ids == ["bad", "busy", "busy", "busy", "good"]
    letters = await it.dead_letters()
    assert [letter.value for letter in letters] == [bad[1], busy[1], *BROKEN]
    assert letters[0].reason == "HTTP 404: gone; given up after 1 try" and letters[0].key == b"u1"
    assert letters[1].reason == "HTTP 500; given up after 3 tries"
    assert all(letter.reason.startswith("is no trigger") for letter in letters[2:])
    assert it.committed() == 3 + len(BROKEN)


async def test_what_has_expired_is_dropped(bench: Callable[..., Bench]) -> None:
    """A message is not sent at or after the time it expires, even if that comes between two tries."""
    it = bench(webhook_tries=100)
    await it.send([
        message("old", expires_at="2026-01-05T10:00:00.000Z"),
        message("soon", expires_at="2026-01-05T12:00:30.000+02:00"),
        message("later", expires_at="2026-01-06T10:00:00Z"),
    ])  # fmt: skip
    with Receiver(lambda received: Reply(503 if received.id == "soon" else 204)) as receiver:
        async with it.deliverer(receiver.url) as deliverer:
            await it.until(lambda: "later" in receiver.ids and deliverer.idle)
    assert "old" not in receiver.ids and 3 <= receiver.ids.count("soon") <= 7
    assert deliverer.metrics.registry.get_sample_value("recs_webhooks_expired_total") == 2
    assert it.committed() == 3 and not await it.dead_letters()


async def test_retry_after_is_for_everybody(bench: Callable[..., Bench]) -> None:
    """Once the receiver asks to be left alone for a minute, no message is sent before that is over."""
    it = bench(webhook_concurrency=1)
    await it.send([message(f"m{n}", f"u{n}") for n in range(5)])
    answers = iter([Reply(429, {"retry-after": "60"})])
    with Receiver(lambda _: next(answers, Reply())) as receiver:
        async with it.deliverer(receiver.url) as deliverer:
            await it.until(lambda: len(receiver.requests) == 6 and deliverer.idle)
    times = [int(received.headers["webhook-timestamp"]) for received in receiver.requests]
    assert times[0] == NOW and min(times[1:]) >= NOW + 60


async def test_a_receiver_that_is_away(bench: Callable[..., Bench]) -> None:
    """Nothing is committed while nobody listens; when somebody does, everything arrives."""
    it = bench(webhook_tries=100)
    port = free_port()
    await it.send([message("m1"), message("m2")])
    async with it.deliverer(f"http://127.0.0.1:{port}/hook") as deliverer:
        failures = deliverer.metrics.registry.get_sample_value
        await it.until(lambda: (failures("recs_webhook_failures_total") or 0) > 3)
        it_was_idle = deliverer.idle
        with Receiver(port=port) as receiver:
            await it.until(lambda: deliverer.idle)
    assert not it_was_idle and receiver.ids == ["m1", "m2"]


async def test_stopped_in_the_middle(bench: Callable[..., Bench]) -> None:
    """What was not delivered when the process ended is delivered by the next, and nothing else twice."""
    it = bench()
    it.clock.runs.clear()
    await it.send([message(f"m{n}", f"u{n % 3}") for n in range(9)])
    with Receiver(lambda received: Reply(503 if received.id == "m4" else 204)) as receiver:
        async with it.deliverer(receiver.url) as deliverer:
            await it.until(lambda: len(receiver.requests) == 8 and it.clock.sleepers == 1)
    assert not deliverer.ready and "m7" not in receiver.ids  # it waits for m4, which is of the same user
    before = it.committed()
    assert before < 9
    with Receiver() as receiver:
        async with it.deliverer(receiver.url) as deliverer:
            await it.until(lambda: "m7" in receiver.ids and deliverer.idle)
    assert receiver.ids.index("m4") < receiver.ids.index("m7") and len(receiver.ids) == 9 - before
    assert it.committed() == 9


async def test_no_more_than_the_window_is_under_way(bench: Callable[..., Bench]) -> None:
    """While a window of messages waits for another try, no further ones are read."""
    it = bench()
    it.clock.runs.clear()
    await it.send([message(f"m{n:02d}", f"u{n}") for n in range(30)])
    busy = True
    with Receiver(lambda _: Reply(503 if busy else 204)) as receiver:
        async with it.deliverer(receiver.url, window=5) as deliverer:
            await it.until(lambda: it.clock.sleepers >= 5)
            turns = it.turns
            await it.until(lambda: it.turns > turns + 2)
            assert len(receiver.requests) <= 5 + 1  # a poll that began with room for one may bring it
            busy = False
            it.clock.runs.set()
            await it.until(lambda: len(set(receiver.ids)) == 30 and deliverer.idle)
    assert it.committed() == 30


def test_only_what_has_no_gap_is_committed() -> None:
    """Offsets end in any order; the one to commit is behind the last of an unbroken row, per partition."""
    window = Window()
    for offset in (3, 4, 7):
        window.begin(0, offset)
        window.begin(1, offset)
    for offset in (7, 4):
        window.end(0, offset)
    assert window.take() == {} and len(window) == 4
    window.end(0, 3)
    window.end(1, 3)
    assert window.take() == {0: 8, 1: 4}
    window.forget({1})
    window.end(1, 4)  # it ended after the partition had gone
    assert window.take() == {} and len(window) == 0


@pytest.mark.parametrize(
    ("secret", "url", "wanted"),
    [
        ("hunter2", "http://127.0.0.1:1/", "RECS_WEBHOOK_SECRET: expected whsec_"),
        (SECRET, "crm?token=hunter2", "RECS_WEBHOOK_URL or --url: expected https"),
        (SECRET, "", "no receiver: give --url or set RECS_WEBHOOK_URL"),
    ],
)
def test_wrong_settings_end_with_a_line(secret: str, url: str, wanted: str) -> None:
    """Without a receiver, or with a secret that is none, the command says so and quotes neither."""
    environment = {"RECS_WEBHOOK_SECRET": secret, "RECS_WEBHOOK_URL": url}
    result = CliRunner().invoke(app, ["triggers", "deliver"], env=environment)
    assert isinstance(result.exception, ConfigError) and str(result.exception).startswith(wanted)
    assert "hunter2" not in str(result.exception)
