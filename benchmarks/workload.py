"""The events that every throughput benchmark reads: a shop with Zipf-distributed users and items.

Written into a topic of a real broker before the clock starts, so that a benchmark measures the reader alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

TYPES = ("view_item", "add_to_cart", "purchase")
START_S = 1_767_600_000  # 2026-01-05, any fixed moment


def shop_events(
    count: int, *, users: int = 20_000, items: int = 10_000, seed: int = 0
) -> Iterator[tuple[bytes, bytes]]:
    """Yield `count` pairs of key and JSON value, about 190 bytes each, 10 ms apart.

    Parameters
    ----------
    count
        Number of events.
    users, items
        How many there are; event n picks each with a probability proportional to 1 / rank.
    seed
        Seed of the random generator; the same seed gives the same bytes.

    Examples
    --------
    >>> key, value = next(shop_events(1, seed=7))
    >>> key, msgspec.json.decode(value)["event_type"]
    (b'u...', 'view_item')
    """
    random = np.random.default_rng(seed)
    user_of = random.choice(users, size=count, p=_zipf(users))
    item_of = random.choice(items, size=count, p=_zipf(items))
    type_of = random.choice(len(TYPES), size=count, p=(0.9, 0.08, 0.02))
    encode = msgspec.json.Encoder().encode
    for n, (user, item, kind) in enumerate(
        zip(user_of.tolist(), item_of.tolist(), type_of.tolist(), strict=True)
    ):
        event = {
            "event_id": f"e{seed}-{n:012d}",
            "event_type": TYPES[kind],
            "event_time": START_S * 1000 + n * 10,
            "user_id": f"u{user}",
            "session_id": f"s{user}-{n // 50_000}",
            "item_id": f"i{item}",
            "value": 10 + item % 90,
            "currency": "USD",
        }
        yield f"u{user}".encode(), encode(event)


def preload(bootstrap: str, topic: str, events: Iterator[tuple[bytes, bytes]], *, partitions: int = 4) -> int:
    """Create the topic, write the events keyed by user, and return how many were acknowledged."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    # Batches of about 1,000 messages, as a busy shop's producers fill them within their linger.
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000}
    )
    acknowledged = 0

    def count(error: object, message: object) -> None:
        nonlocal acknowledged
        acknowledged += error is None

    for key, value in events:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=count)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    deadline = time.monotonic() + 120
    while producer.flush(1) and time.monotonic() < deadline:
        pass
    return acknowledged


def _zipf(size: int) -> np.ndarray:
    weights: np.ndarray = 1.0 / np.arange(1, size + 1)
    weights /= weights.sum()
    return weights
