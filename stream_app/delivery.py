"""From the topic `triggers` to a webhook: each message at least once, in order per user, with the same key.

    poll ─▶ one task per message ─▶ POST, again and again ─┬▶ delivered
            (a user's messages                             ├▶ expired: dropped
             wait for each other)                          └▶ refused, or n tries: to `triggers.dlq`

An offset is committed when everything up to it has been dealt with. A crash, or a partition that goes to
another member, repeats what was under way: the receiver sees it twice, with the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Protocol

import msgspec

from stream_app.config import Settings
from stream_app.errors import RecsError
from stream_app.events import Message
from stream_app.events.dead_letters import Rejected
from stream_app.failpoints import failpoint
from stream_app.telemetry import Metrics
from stream_app.transport import Connection, EventSource, Sender, ensure_topics
from stream_app.webhook import Answer, is_id, pause_s

log = logging.getLogger(__name__)

POLL_S = 0.1
COMMIT_S = 0.25
GRACE_S = 5.0  # for tries under way when the process is asked to end


class Receiver(Protocol):
    """Where messages go: `webhook.Endpoint`, and what a test puts in its place."""

    async def post(self, message_id: str, body: bytes) -> Answer:
        """Try once."""
        ...


class _Data(msgspec.Struct):
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Trigger(msgspec.Struct):
    """Of a message, what delivering needs."""

    id: str
    data: _Data


_decode = msgspec.json.Decoder(_Trigger).decode


@dataclass
class Window:
    """Which offsets are under way, and up to where everything is done.

    Examples
    --------
    >>> window = Window()
    >>> for offset in (5, 6, 7):
    ...     window.begin(0, offset)
    >>> window.end(0, 6)
    >>> window.take(), len(window)
    ({}, 2)
    >>> window.end(0, 5)
    >>> window.take(), window.take(), len(window)
    ({0: 7}, {}, 1)
    """

    _open: dict[int, dict[int, bool]] = field(default_factory=dict)  # partition → offset → done, in order
    _next: dict[int, int] = field(default_factory=dict)  # partition → offset to commit

    def begin(self, partition: int, offset: int) -> None:
        """A message is under way; offsets of a partition come in order."""
        self._open.setdefault(partition, {})[offset] = False

    def end(self, partition: int, offset: int) -> None:
        """A message has been dealt with."""
        mine = self._open.get(partition, {})
        if offset in mine:
            mine[offset] = True
        while mine and mine[first := next(iter(mine))]:
            del mine[first]
            self._next[partition] = first + 1

    def forget(self, partitions: Iterable[int]) -> None:
        """Partitions belong to somebody else."""
        for partition in partitions:
            self._open.pop(partition, None)
            self._next.pop(partition, None)

    def take(self) -> dict[int, int]:
        """The offsets to commit that were not taken before, by partition."""
        taken, self._next = self._next, {}
        return taken

    def __len__(self) -> int:
        return sum(not done for mine in self._open.values() for done in mine.values())


class Deliverer:
    """Posts the triggers of the partitions that it owns. Start as many as there are partitions, at most.

    Parameters
    ----------
    settings
        The same for all roles of one system.
    receiver
        Where triggers go.
    window
        Messages under way at the same time, those that wait for their next try included.
    seed
        Of the jitter.
    clock
        Seconds since 1970; a trigger whose ``expires_at`` has come is dropped.
    sleep
        Waits for so many seconds.
    """

    def __init__(
        self,
        settings: Settings,
        receiver: Receiver,
        *,
        window: int = 1_000,
        seed: int = 0,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics() if metrics is None else metrics
        self.ready = False
        self._receiver = receiver
        self._most = window
        self._rng = random.Random(seed)
        self._clock, self._sleep = clock, sleep
        self._turns = asyncio.Semaphore(settings.webhook_concurrency)
        self._quiet_until = 0.0  # the receiver asked to be left alone
        self._window = Window()
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}  # by partition and offset
        self._last: dict[bytes | None, asyncio.Task[None]] = {}  # a user's latest message
        self._busy: set[asyncio.Task[None] | None] = set()  # a request or a dead letter is under way
        self._failure: BaseException | None = None
        self._stopping = False
        self._last_commit = 0.0
        self._connection = Connection.of(settings)
        self._sender = Sender(self._connection)
        self._source = EventSource(
            self._connection,
            settings.triggers_topic,
            f"{settings.group}-webhook",
            instance=settings.instance,
            session_timeout_s=settings.session_timeout_s,
            on_revoked=self._leave,
        )

    async def start(self) -> None:
        """Connect, and join the group."""
        topics = {
            self.settings.triggers_topic: (self.settings.partitions, False),
            self.settings.trigger_dead_letter_topic: (1, False),
        }
        await ensure_topics(self._connection, topics, self.settings.replication)
        await self._sender.start()
        await self._source.start()
        self.ready = True

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set, then end in good order."""
        try:
            await self.start()
            while not stop.is_set():
                await self.step()
        finally:
            await self.stop()

    async def step(self) -> int:
        """One turn: take in messages while there is room, commit what is done; returns how many came.

        Raises
        ------
        TransportError
            If Kafka cannot be read or took no dead letter; a new process repeats what was under way.
        """
        if self._failure is not None:
            raise self._failure
        room = self._most - len(self._tasks)
        self._source.hold(room <= 0)  # polling goes on: a member that does not poll loses its partitions
        batches = await self._source.poll(max(room, 1), POLL_S)
        for partition, records in batches.items():
            for record in records:
                self._begin(partition, record)
        if time.monotonic() - self._last_commit >= COMMIT_S:
            await self._commit()
        return sum(map(len, batches.values()))

    async def stop(self) -> None:
        """Let the requests under way end, within a few seconds, begin no other, commit, disconnect."""
        self.ready, self._stopping = False, True
        await _cancel([task for task in self._tasks.values() if task not in self._busy])
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=GRACE_S)
        await _cancel(list(self._tasks.values()))
        await self._commit()
        await self._source.stop()
        await self._sender.stop()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._tasks

    def _begin(self, partition: int, record: Message) -> None:
        """Start to deliver a message, after those of the same user."""
        place = (partition, record.offset)
        self._window.begin(*place)
        task = asyncio.create_task(self._in_turn(self._last.get(record.key), partition, record))
        self._tasks[place] = self._last[record.key] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.pop(place, None)
            if self._last.get(record.key) is task:
                del self._last[record.key]
            if not task.cancelled() and task.exception() is not None:
                self._failure = task.exception()

        task.add_done_callback(ended)

    async def _leave(self, partitions: set[int]) -> None:
        """Partitions go to another member: stop what is under way, commit what is done."""
        await _cancel([task for (p, _), task in self._tasks.items() if p in partitions])
        await self._commit()
        self._window.forget(partitions)

    async def _commit(self) -> None:
        """A failed commit costs nothing: the messages come again, with the same ids."""
        self._last_commit = time.monotonic()
        try:
            await self._source.commit(self._window.take())
        except RecsError as error:
            log.warning("%s", error)

    async def _in_turn(self, before: asyncio.Task[None] | None, partition: int, record: Message) -> None:
        if before is not None:
            await asyncio.wait([before])
            if before.cancelled() or before.exception() is not None:
                raise asyncio.CancelledError  # not delivered, so nothing of this user may overtake it
        await self._deliver(record)
        failpoint("deliver.after_effect")
        self._window.end(partition, record.offset)

    async def _deliver(self, record: Message) -> None:
        """Post a message until it is delivered, expired, refused, or tried often enough."""
        value = record.value or b""
        try:
            trigger = _decode(value)
            if not is_id(trigger.id):
                raise msgspec.ValidationError("`id` cannot stand in a header")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await self._bury(record, f"is no trigger: {error}")
            return
        tried, reason = 0, ""
        while tried < self.settings.webhook_tries:
            async with self._turns:
                await self._wait_for_quiet()
                if self._expired(trigger):
                    self.metrics.webhooks_expired.inc()
                    return
                with self._under_way():
                    answer = await self._receiver.post(trigger.id, value)
            tried, reason = tried + 1, answer.reason
            if answer.verdict == "delivered":
                self.metrics.webhooks.inc()
                return
            self.metrics.webhook_failures.inc()
            if answer.verdict == "refused":
                break
            if answer.wait_s:
                self._quiet_until = max(self._quiet_until, self._clock() + answer.wait_s)
            if tried < self.settings.webhook_tries:
                await self._pause(tried)
        await self._bury(record, f"{reason}; given up after {tried} {'try' if tried == 1 else 'tries'}")

    def _expired(self, trigger: _Trigger) -> bool:
        end = trigger.data.expires_at
        return end is not None and end.timestamp() <= self._clock()

    async def _pause(self, tried: int) -> None:
        if self._stopping:
            raise asyncio.CancelledError
        await self._sleep(pause_s(tried, self._rng))

    async def _wait_for_quiet(self) -> None:
        """Leave the receiver alone as long as its last ``Retry-After`` asked, whoever it was said to."""
        while (wait_s := self._quiet_until - self._clock()) > 0:
            await self._sleep(wait_s)

    async def _bury(self, record: Message, reason: str) -> None:
        log.warning("%s[%d]@%d: %s", record.topic, record.partition, record.offset, reason)
        letter = Rejected(
            record.topic, record.partition, record.offset, record.key, record.value, "value", reason
        )
        with self._under_way():
            topic = self.settings.trigger_dead_letter_topic
            await self._sender.send([(topic, record.key, letter.to_dead_letter(), None)])
        self.metrics.webhook_dead_letters.inc()

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        task = asyncio.current_task()
        self._busy.add(task)
        try:
            yield
        finally:
            self._busy.discard(task)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
