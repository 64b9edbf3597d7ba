"""What the event pipeline is compared with on a real Kafka and Redis: the floor, and the naive build.

``floor`` does what no recommender can leave out, and nothing else: read, decode, touch the user in a
dictionary, write the two Redis keys of every distinct user in the batch, commit. No recommender on the same
clients and key layout can be faster. ``naive`` is what one would write first from the list of packages: a
Faust agent per event that lets a River model learn and score 200 candidates, then sets one key.

Each runs as a process of its own over a topic that was filled before; the clock runs from its first to its
last event. By hand::

    python -m benchmarks.pipeline_peers floor --bootstrap … --redis-url … --topic … --events …
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

import msgspec
import typer

TTL_S = 7 * 86_400
BATCH = 2_000  # most messages per poll
CANDIDATES = 200
LIST_LENGTH = 20
# 20 items with their scores, about 700 bytes, and an opaque state of 500: the sizes of the real keys.
ITEMS = json.dumps(
    [{"item_id": f"i{n:05d}", "score": 0.5} for n in range(LIST_LENGTH)], separators=(",", ":")
)
STATE = b"\x01" * 500


class Event(msgspec.Struct):
    """The fields of an event the peers look at."""

    event_id: str
    event_type: str
    event_time: int
    user_id: str
    item_id: str


async def floor(bootstrap: str, redis_url: str, topic: str, events: int) -> dict[str, Any]:
    """Read, decode, remember, write two keys per distinct user of the batch, commit."""
    import redis  # noqa: PLC0415  each peer loads its own libraries only
    from aiokafka import AIOKafkaConsumer  # noqa: PLC0415

    decode = msgspec.json.Decoder(Event).decode
    users: dict[str, tuple[int, str]] = {}
    done, batches, written, began = 0, 0, 0, 0.0
    with redis.Redis.from_url(redis_url) as client:
        async with AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=f"floor-{time.time_ns()}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        ) as consumer:
            while done < events:
                batch = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
                if not batch:
                    continue
                began = began or time.perf_counter()
                touched = set()
                for records in batch.values():
                    for record in records:
                        event = decode(record.value)
                        users[event.user_id] = (record.offset, event.item_id)
                        touched.add(event.user_id)
                    done += len(records)
                pipe = client.pipeline(transaction=False)
                for user in touched:
                    pipe.set(f"rec:v1:user:{{{user}}}:top", ITEMS, ex=TTL_S)
                    pipe.set(f"rec:v1:user:{{{user}}}:state", STATE, ex=TTL_S)
                pipe.execute()
                await consumer.commit()
                batches += 1
                written += len(touched)
            seconds = time.perf_counter() - began
    return {**_rate(done, seconds), "events_per_batch": done / batches, "users_per_event": written / done}


async def naive(bootstrap: str, redis_url: str, topic: str, events: int) -> dict[str, Any]:
    """Let a Faust agent take one event at a time: learn it, score 200 candidates, set one key."""
    import faust  # noqa: PLC0415
    import redis.asyncio  # noqa: PLC0415
    from river import linear_model, preprocessing  # noqa: PLC0415

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    client = redis.asyncio.Redis.from_url(redis_url)
    recent = dict.fromkeys(f"i{n}" for n in range(CANDIDATES))  # the latest distinct items, oldest first
    clicks: dict[str, int] = {}
    finished = asyncio.Event()
    done, began = 0, 0.0

    def features(user: str, item: str) -> dict[str, float]:
        return {
            "clicks": float(clicks.get(item, 0)),
            f"item={item}": 1.0,
            f"user={user}": 1.0,
        }

    with tempfile.TemporaryDirectory() as folder:
        app = faust.App(
            f"naive-{time.time_ns()}",
            broker=f"kafka://{bootstrap}",
            store="memory://",
            datadir=folder,
            web_enabled=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            loop=asyncio.get_running_loop(),
        )

        @app.agent(app.topic(topic, value_serializer="json"))
        async def recommend(stream: Any) -> None:
            nonlocal done, began
            async for event in stream:
                began = began or time.perf_counter()
                user, item = event["user_id"], event["item_id"]
                model.learn_one(features(user, item), event["event_type"] != "view_item")
                clicks[item] = clicks.get(item, 0) + 1
                recent.pop(item, None)
                recent[item] = None
                if len(recent) > CANDIDATES:
                    del recent[next(iter(recent))]
                scores = {item: model.predict_proba_one(features(user, item))[True] for item in recent}
                best = sorted(scores, key=scores.__getitem__, reverse=True)[:LIST_LENGTH]
                top = [{"item_id": item, "score": scores[item]} for item in best]
                await client.set(f"rec:v1:user:{{{user}}}:top", json.dumps(top), ex=TTL_S)
                done += 1
                if done >= events:
                    finished.set()
                    return

        await app.start()
        await finished.wait()
        seconds = time.perf_counter() - began
        await app.stop()
    await client.aclose()
    return _rate(done, seconds)


def measure(peer: str, bootstrap: str, redis_url: str, topic: str, events: int) -> dict[str, Any]:
    """Run one peer in a process of its own over a filled topic and return its report."""
    command = [sys.executable, "-m", "benchmarks.pipeline_peers", peer, "--bootstrap", bootstrap,
               "--redis-url", redis_url, "--topic", topic, "--events", str(events)]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _rate(events: int, seconds: float) -> dict[str, Any]:
    return {"events": events, "seconds": round(seconds, 3), "events_per_s": round(events / seconds, 1)}


def main(
    peer: Annotated[str, typer.Argument(help="floor or naive")],
    bootstrap: Annotated[str, typer.Option()],
    redis_url: Annotated[str, typer.Option()],
    topic: Annotated[str, typer.Option()],
    events: Annotated[int, typer.Option(help="stop after that many")],
) -> None:
    """Run one peer against servers that are there already, and print its rate as JSON."""
    peers = {"floor": floor, "naive": naive}
    if peer not in peers:
        raise typer.BadParameter(f"{peer!r} is neither floor nor naive")
    print(json.dumps(asyncio.run(peers[peer](bootstrap, redis_url, topic, events))))


if __name__ == "__main__":
    typer.run(main)
