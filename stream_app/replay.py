"""Send records to Kafka: a file, a simulated shop, an operator's command."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from stream_app.config import Settings
from stream_app.events import Event, Item, User, encode_event, encode_item, encode_user
from stream_app.transport import Connection, OutMessage, Sender, ensure_topics
from stream_app.worker import topics

CHUNK = 1_000


async def send_records(
    settings: Settings, records: Iterable[Event | Item | User], *, rate: float | None = None
) -> dict[str, int]:
    """Send records to their topics, in order; returns how many of each kind.

    Parameters
    ----------
    rate
        Events per second; as fast as the brokers take them without.

    Raises
    ------
    TransportError
        If Kafka does not answer; what was sent before has been acknowledged.
    """
    connection = Connection.of(settings)
    await ensure_topics(connection, topics(settings), settings.replication)
    sender = Sender(connection)
    await sender.start()
    sent = {"events": 0, "items": 0, "users": 0}
    size = CHUNK if rate is None else max(1, min(CHUNK, round(rate / 10)))
    started = time.monotonic()
    try:
        chunk: list[OutMessage] = []
        for record in records:
            kind, topic, key, value = _message(settings, record)
            sent[kind] += 1
            chunk.append((topic, key, value, None))
            if len(chunk) >= size:
                await sender.send(chunk)
                chunk = []
                if rate is not None:
                    await asyncio.sleep(max(0.0, started + sent["events"] / rate - time.monotonic()))
        await sender.send(chunk)
    finally:
        await sender.stop()
    return sent


def _message(settings: Settings, record: Event | Item | User) -> tuple[str, str, bytes, bytes]:
    if isinstance(record, Event):
        return "events", settings.events_topic, record.user_id.encode(), encode_event(record)
    if isinstance(record, Item):
        return "items", settings.items_topic, record.item_id.encode(), encode_item(record)
    return "users", settings.users_topic, record.user_id.encode(), encode_user(record)


async def send_command(settings: Settings, command: dict[str, Any]) -> None:
    """Send a command to the control topic."""
    sender = Sender(Connection.of(settings))
    await sender.start()
    try:
        await sender.send([(settings.control_topic, None, msgspec.json.encode(command), None)])
    finally:
        await sender.stop()
