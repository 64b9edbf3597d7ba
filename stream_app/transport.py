"""Kafka: the only file that talks to it. Batches in, acknowledged messages out, compacted topics followed.

Every wait is bounded: aiokafka's idempotent producer would wait for ever for a broker that is down.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.helpers import create_ssl_context
from aiokafka.structs import TopicPartition

from stream_app.config import Settings
from stream_app.errors import TransportError
from stream_app.events import Message

OutMessage = tuple[str, bytes | None, bytes | None, int | None]
"""What is sent: topic, key, value, and partition, None for the one that the key decides."""


@dataclass(frozen=True)
class Connection:
    """How to reach the brokers."""

    bootstrap: str
    timeout_s: float = 30.0
    security: str = "PLAINTEXT"
    username: str = ""
    password: str = ""
    ca_file: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Connection:
        """The connection that the settings describe."""
        return cls(
            settings.kafka_bootstrap,
            settings.io_timeout_s,
            settings.kafka_security,
            settings.kafka_username,
            settings.kafka_password.get_secret_value(),
            None if settings.kafka_ca_file is None else str(settings.kafka_ca_file),
        )

    def arguments(self) -> dict[str, Any]:
        """Arguments of every aiokafka client."""
        arguments: dict[str, Any] = {"bootstrap_servers": self.bootstrap, "security_protocol": self.security}
        if self.security.endswith("SSL"):
            arguments["ssl_context"] = create_ssl_context(cafile=self.ca_file)
        if self.security.startswith("SASL"):
            arguments |= {
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return arguments

    async def ask(self, answer: Awaitable[Any], what: str) -> Any:
        """Await a client's answer; every failure becomes a `TransportError` that says what was tried."""
        try:
            return await asyncio.wait_for(answer, self.timeout_s)
        except (KafkaError, OSError, ssl.SSLError, TimeoutError) as error:
            text = str(error) or type(error).__name__
            raise TransportError(
                f"Kafka at {self.bootstrap}: {what} failed: {text}; "
                "is it running, and is RECS_KAFKA_BOOTSTRAP right?"
            ) from error

    async def begin(self, client: Any, what: str) -> None:
        """Start a client; one that cannot start is closed again."""
        try:
            await self.ask(client.start(), what)
        except TransportError:
            await _stop(client)
            raise


async def ensure_topics(
    connection: Connection, topics: Mapping[str, tuple[int, bool]], replication: int = 1
) -> None:
    """Create the topics that do not exist: name → (partitions, compacted)."""
    admin = AIOKafkaAdminClient(**connection.arguments())
    try:
        await connection.ask(admin.start(), "connecting")
        existing = set(await connection.ask(admin.list_topics(), "listing topics"))
        missing = [
            NewTopic(
                name,
                partitions,
                replication,
                topic_configs={"cleanup.policy": "compact"} if compacted else {},
            )
            for name, (partitions, compacted) in topics.items()
            if name not in existing
        ]
        for topic in missing:
            try:
                await connection.ask(admin.create_topics([topic]), f"creating topic {topic.name}")
            except TransportError as error:
                if not isinstance(error.__cause__, TopicAlreadyExistsError):
                    raise
    finally:
        await admin.close()


async def list_topics(connection: Connection) -> dict[str, int]:
    """The topics that exist, with their numbers of partitions."""
    admin = AIOKafkaAdminClient(**connection.arguments())
    try:
        await connection.ask(admin.start(), "connecting")
        found = await connection.ask(admin.describe_topics(), "listing topics")
        return {topic["topic"]: len(topic["partitions"]) for topic in found}
    finally:
        await admin.close()


@dataclass(frozen=True)
class Bounds:
    """The first offset of a partition, the one behind its last, and the group's committed one, if any."""

    begin: int
    end: int
    committed: int | None


class EventSource:
    """The partitions of one topic that belong to this member of a group.

    Offsets are committed only when the caller says so (`commit`), after the effects of their messages are
    durable. When partitions are taken away, `on_revoked` runs first and may still finish and commit;
    `on_assigned` hears of those that come.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        group: str,
        *,
        instance: str = "",
        session_timeout_s: float = 30.0,
        on_revoked: Callable[[set[int]], Awaitable[None]] | None = None,
        on_assigned: Callable[[set[int]], None] | None = None,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer: Any = None  # made by `start`, in the loop that will use it
        self._arguments: dict[str, Any] = {
            "group_id": group,
            "group_instance_id": instance or None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "max_partition_fetch_bytes": 4 << 20,
            "session_timeout_ms": int(session_timeout_s * 1000),
            "heartbeat_interval_ms": int(session_timeout_s * 1000 / 10),
            "max_poll_interval_ms": 300_000,
        }
        self._on_revoked, self._on_assigned = on_revoked, on_assigned

    async def start(self) -> None:
        """Join the group."""
        source = self

        class _Listener(aiokafka.ConsumerRebalanceListener):
            async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
                partitions = {p.partition for p in revoked}
                if source._on_revoked is not None and partitions:
                    await source._on_revoked(partitions)

            async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
                if source._on_assigned is not None:
                    source._on_assigned({p.partition for p in assigned})

        self._consumer = aiokafka.AIOKafkaConsumer(**self._connection.arguments(), **self._arguments)
        await self._connection.begin(self._consumer, f"reading topic {self._topic}")
        self._consumer.subscribe([self._topic], listener=_Listener())

    async def stop(self) -> None:
        """Leave the group."""
        await _stop(self._consumer)

    async def poll(self, most: int, wait_s: float) -> dict[int, list[Message]]:
        """Up to `most` messages by partition, in offset order; waits `wait_s` for the first.

        During a rebalance there are none. The client would wait for its end, but the rebalance waits in turn
        for `on_revoked`, which may wait for the caller.
        """

        async def get() -> dict[TopicPartition, list[Message]]:
            try:
                return await asyncio.wait_for(
                    self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=most), wait_s + 0.4
                )
            except TimeoutError:
                return {}

        batches = await self._connection.ask(get(), f"reading topic {self._topic}")
        return {p.partition: records for p, records in batches.items() if records}

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read, by partition, of partitions that are still ours."""
        if not offsets:
            return
        ours = {p.partition for p in self._consumer.assignment()}
        positions = {TopicPartition(self._topic, p): o for p, o in offsets.items() if p in ours}
        if positions:
            await self._connection.ask(self._consumer.commit(positions), "committing offsets")

    async def bounds(self, partition: int) -> Bounds:
        """What a partition holds, and how far the group has read it."""
        at = TopicPartition(self._topic, partition)
        what = f"reading offsets of {self._topic}"
        begin = await self._connection.ask(self._consumer.beginning_offsets([at]), what)
        end = await self._connection.ask(self._consumer.end_offsets([at]), what)
        return Bounds(begin[at], end[at], await self._connection.ask(self._consumer.committed(at), what))

    async def position(self, partition: int) -> int:
        """The offset of the next message that `poll` returns of an assigned partition."""
        at = TopicPartition(self._topic, partition)
        return int(await self._connection.ask(self._consumer.position(at), "reading a position"))

    async def is_silent(self, partition: int, within_s: float = 5.0) -> bool:
        """Whether the broker said, not longer ago than that, that there is nothing more to read."""
        at = TopicPartition(self._topic, partition)
        if at not in self._consumer.assignment():
            return False
        end, asked_ms = self._consumer.highwater(at), self._consumer.last_poll_timestamp(at)
        if end is None or asked_ms is None or asked_ms < (time.time() - within_s) * 1000:
            return False
        return await self.position(partition) >= int(end)

    def rewind(self, partition: int, offset: int) -> None:
        """Read a partition from an offset on, if it is still ours."""
        at = TopicPartition(self._topic, partition)
        if at in self._consumer.assignment():
            self._consumer.seek(at, offset)

    def hold(self, held: bool) -> None:
        """Let `poll` return nothing of the assigned partitions, or go on; the member stays in its group."""
        partitions = self._consumer.assignment()
        if held:
            self._consumer.pause(*partitions)
        else:
            self._consumer.resume(*partitions)

    def assigned(self) -> set[int]:
        """The partitions that belong to this member now."""
        return {p.partition for p in self._consumer.assignment()}

    async def lag(self) -> int:
        """Messages that wait in the assigned partitions, as far as the last fetch told."""
        total = 0
        for partition in self._consumer.assignment():
            end = self._consumer.highwater(partition)
            if end is not None:
                total += max(0, end - await self._connection.ask(self._consumer.position(partition), "lag"))
        return total


class LogReader:
    """All partitions of a topic from given offsets on, without a group: the reader keeps its own place."""

    def __init__(self, connection: Connection, topic: str, *, from_end: bool = False) -> None:
        self._connection = connection
        self._topic = topic
        self._from_end = from_end
        self._consumer: Any = None  # made by `start`
        self._arguments: dict[str, Any] = {
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "max_partition_fetch_bytes": 4 << 20,
        }
        self._ends: dict[TopicPartition, int] = {}

    async def start(self, offsets: Mapping[int, int] | None = None) -> None:
        """Begin to read: at `offsets` (partition → next offset), elsewhere at the beginning.

        Raises
        ------
        TransportError
            If the topic does not exist, or an offset lies before the log's beginning or behind its end:
            messages were deleted or the topic was made anew, so what was learned does not belong to it.
        """
        ask = self._connection.ask
        arguments = self._connection.arguments() | self._arguments
        self._consumer = aiokafka.AIOKafkaConsumer(self._topic, **arguments)
        await self._connection.begin(self._consumer, f"reading topic {self._topic}")
        partitions = sorted(self._consumer.assignment())
        if not partitions:
            raise TransportError(f"topic {self._topic!r} does not exist; start a worker, which creates it")
        self._ends = await ask(self._consumer.end_offsets(partitions), "reading end offsets")
        begins = await ask(self._consumer.beginning_offsets(partitions), "reading begin offsets")
        for partition in partitions:
            offset = (offsets or {}).get(partition.partition)
            if offset is not None and not begins[partition] <= offset <= self._ends[partition]:
                raise TransportError(
                    f"{self._topic}[{partition.partition}] holds offsets {begins[partition]} to "
                    f"{self._ends[partition]}, but {offset} is wanted: messages were "
                    "deleted or the topic was made anew; remove the checkpoint to begin afresh"
                )
            place = self._ends[partition] if self._from_end else begins[partition]
            self._consumer.seek(partition, place if offset is None else offset)

    async def stop(self) -> None:
        """Close the connection."""
        await _stop(self._consumer)

    async def poll(self, most: int, wait_s: float) -> list[Message]:
        """Up to `most` messages, in offset order within a partition; waits `wait_s` for the first."""
        batches = await self._connection.ask(
            self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=most),
            f"reading topic {self._topic}",
        )
        return [record for records in batches.values() for record in records]

    async def caught_up(self) -> bool:
        """Whether everything that was there at the start has been read."""
        for partition, end in self._ends.items():
            if end and await self._consumer.position(partition) < end:
                return False
        return True


class Sender:
    """Sends messages, and waits until the brokers have them.

    Parameters
    ----------
    linger_ms
        How long a batch waits for company. The callers here hand over everything they have at once and wait
        for it, so 0 is right unless many of them share a sender.
    """

    def __init__(self, connection: Connection, *, linger_ms: int = 0) -> None:
        self._connection = connection
        self._producer: Any = None  # made by `start`
        self._arguments: dict[str, Any] = {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": linger_ms,
            "max_batch_size": 1 << 20,  # one message of examples, or a thousand events, in one batch
            "max_request_size": 8 << 20,
            "compression_type": "lz4",
            "request_timeout_ms": int(connection.timeout_s * 1000),
        }

    async def start(self) -> None:
        """Connect."""
        self._producer = aiokafka.AIOKafkaProducer(**self._connection.arguments(), **self._arguments)
        await self._connection.begin(self._producer, "connecting")

    async def stop(self) -> None:
        """Send what waits, and disconnect."""
        await _stop(self._producer)

    async def send(self, messages: Sequence[OutMessage]) -> None:
        """Send (topic, key, value, partition or None) in order; returns when all are acknowledged."""
        if not messages:
            return
        waiting = [
            await self._connection.ask(
                self._producer.send(topic, value, key=key, partition=partition), f"writing topic {topic}"
            )
            for topic, key, value, partition in messages
        ]
        await self._connection.ask(asyncio.gather(*waiting), f"writing topic {messages[0][0]}")

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        return len(
            await self._connection.ask(self._producer.partitions_for(topic), f"looking up topic {topic}")
        )


async def _stop(client: Any) -> None:
    """Stop a client, if it was made; one that hangs is left behind after a few seconds."""
    if client is None:
        return
    try:
        await asyncio.wait_for(client.stop(), 5)
    except (KafkaError, OSError, TimeoutError):
        return
