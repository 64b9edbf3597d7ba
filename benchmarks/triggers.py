"""What triggers cost a worker: CPU and events per second, Redis for pending timers, draining due ones.

`cpu` is the core alone, batch by batch with and without triggers by turns. `worker` is a `recs worker`
process on a real broker and Redis, by turns with and without; its CPU time is what is compared, because
servers and programs share the machine. Everybody agreed to messages, and carts become due meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis as redis_client
from confluent_kafka import Producer

from benchmarks.pipeline import Role
from benchmarks.workload import START_S, preload, shop_events
from stream_app.embedded import EmbeddedRedis
from stream_app.events import Event, User, decode_event, encode_user
from stream_app.fencing import Effects, TriggerWrites
from stream_app.recommender import Recommender
from stream_app.simulator import Shop
from stream_app.store import Store
from stream_app.triggers.engine import TriggerEngine
from stream_app.triggers.rules_file import builtin_rules
from tests.servers import KafkaServer

BATCH = 2_000
CART_MS = (START_S + 4 * 3600) * 1000  # noon: no quiet hours
DUE_MS = CART_MS + 31 * 60_000
PARTITIONS = 4
DEADLINE_S = 120


def run(events: int = 60_000, repeats: int = 3, timers: int = 1_000_000, due: int = 10_000) -> dict[str, Any]:
    """Measure all of it.

    Parameters
    ----------
    events
        Read by each worker of each round.
    repeats
        Rounds with and without triggers.
    timers
        Pending at once in Redis.
    due
        Timers that are due at once.
    """
    results: dict[str, Any] = {
        "cpu": cpu([decode_event(value, key=key) for key, value in workload(events)]),
        "cpu_of_a_shop": cpu(list(Shop(1).events(events))),
        "timers": asyncio.run(timer_bytes(timers)),
    }
    with KafkaServer(heap="1g") as kafka, EmbeddedRedis() as redis:
        results["worker"] = workers(kafka, redis, events, repeats)
        results["drain"] = drain(kafka, redis, due)
    goals = {
        "us_per_event": (results["cpu"]["us_per_event"], "<= 5"),
        "with_over_without": (results["worker"]["ratio"], ">= 0.9"),
        "timers_mb": (results["timers"]["megabytes"], "<= 150"),
        "drain_s": (results["drain"]["seconds"], "<= 2"),
    }
    return {
        "results": results,
        "goals": {
            name: {"value": v, "goal": goal, "ok": _meets(v, goal)} for name, (v, goal) in goals.items()
        },
    }


def _meets(value: float, goal: str) -> bool:
    sign, bound = goal.split()
    return value <= float(bound) if sign == "<=" else value >= float(bound)


def workload(count: int) -> Iterator[tuple[bytes, bytes]]:
    """The events of the other benchmarks, 100 ms apart instead of 10, so that carts become due."""
    for key, value in shop_events(count):
        event = msgspec.json.decode(value)
        event["event_time"] = CART_MS + 10 * (event["event_time"] - START_S * 1000)
        yield key, msgspec.json.encode(event)


# The core


def cpu(events: list[Event]) -> dict[str, Any]:
    """CPU of the core per event, in batches by turns; the first fifth warms up."""
    sides = {name: _recommender(name == "with", events) for name in ("with", "without")}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    looking: list[float] = []
    fired = 0
    lookout = sides["with"].lookout
    assert lookout is not None
    look = lookout.on_events

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        found = look(*arguments)
        looking.append(time.process_time() - began)
        return found

    lookout.on_events = timed  # type: ignore[method-assign]
    for n, start in enumerate(range(0, len(events), BATCH)):
        batch = events[start : start + BATCH]
        for name in sorted(sides, reverse=n % 2 == 0):
            side = sides[name]
            for user_id in side.missing(batch):
                side.users.load(user_id, None)
            began = time.process_time()
            outcome = side.apply(0, range(start, start + len(batch)), batch)
            spent[name].append(time.process_time() - began)
            fired += sum(len(k.decisions) for k in outcome.looks)
    warm = len(spent["with"]) // 5
    per_event = {name: 1e6 * statistics.median(some[warm:]) / BATCH for name, some in spent.items()}
    tails = [len(tail) for tail in sides["with"].users.tails.values() if tail]
    return {
        "us_per_event": round(1e6 * statistics.median(looking[warm:]) / BATCH, 2),
        "us_per_event_of_all": {name: round(value, 2) for name, value in per_event.items()},
        "ratio": round(
            statistics.median(
                b / a for a, b in zip(spent["with"][warm:], spent["without"][warm:], strict=True)
            ),
            3,
        ),
        "decisions": fired,
        "bytes_remembered_per_user": round(statistics.mean(tails), 1),
    }


def _recommender(triggers: bool, events: list[Event]) -> Recommender:
    made = Recommender(k=20, triggers=TriggerEngine(builtin_rules()) if triggers else None)
    for user_id in dict.fromkeys(event.user_id for event in events):
        made.observe_user(User(user_id, True))
    return made


# Redis


async def timer_bytes(count: int) -> dict[str, Any]:
    """Redis memory of pending timers, written as a worker writes them."""
    with EmbeddedRedis() as redis, redis_client.Redis.from_url(redis.url) as onlooker:
        store = Store(redis.url)
        fences = [(await store.claim(partition)).fence for partition in range(PARTITIONS)]
        before = onlooker.info("memory")["used_memory"]
        for start in range(0, count, BATCH):
            some = [(f"u{n:08d}", CART_MS + n) for n in range(start, min(count, start + BATCH))]
            fence = fences[start // BATCH % PARTITIONS]
            await store.write_fenced([Effects(fence, triggers=TriggerWrites(some))])
        used = onlooker.info("memory")["used_memory"] - before
        await store.close()
    return {"timers": count, "megabytes": round(used / 1e6, 1), "bytes_per_timer": round(used / count, 1)}


# Workers


@contextmanager
def worker(
    kafka: KafkaServer, redis: EmbeddedRedis, topic: str, name: str, **settings: str
) -> Iterator[Role]:
    """A worker process over a topic of events; everything else of it is new."""
    topics = {f"RECS_{n.upper()}_TOPIC": f"{topic}-{n}-{name}" for n in
              ("items", "examples", "control", "dead_letter", "triggers", "suppressed")}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        environment = {
            "RECS_KAFKA_BOOTSTRAP": kafka.bootstrap, "RECS_REDIS_URL": redis.url, "RECS_EVENTS_TOPIC": topic,
            "RECS_USERS_TOPIC": f"{topic}-users", "RECS_GROUP": f"{topic}-{name}", "RECS_STATE_DIR": folder,
            "RECS_NAMESPACE": name, **topics, **settings,
        }  # fmt: skip
        role = Role("worker", environment)
        stack.callback(role.stop)
        yield role


def workers(kafka: KafkaServer, redis: EmbeddedRedis, events: int, repeats: int) -> dict[str, Any]:
    """Events per second and CPU per event of worker processes, with and without triggers by turns."""
    consents = ((f"u{n}".encode(), encode_user(User(f"u{n}", True))) for n in range(20_000))
    preload(kafka.bootstrap, "load-users", consents, partitions=PARTITIONS)
    preload(kafka.bootstrap, "load", workload(events), partitions=PARTITIONS)
    runs: dict[str, list[Mapping[str, float]]] = {"with": [], "without": []}
    for n in range(repeats):
        for name in sorted(runs, reverse=n % 2 == 0):
            with worker(kafka, redis, "load", f"{name}{n}", RECS_TRIGGERS=str(name == "with")) as role:
                runs[name].append(_measured(role, events))
    cpu_us = {name: statistics.median(one["cpu_us"] for one in some) for name, some in runs.items()}
    return {
        "events_per_s": {name: [round(one["events_per_s"]) for one in some] for name, some in runs.items()},
        "cpu_us_per_event": {name: round(value, 1) for name, value in cpu_us.items()},
        "ratio": round(cpu_us["without"] / cpu_us["with"], 3),
        "ratio_of_clock": round(
            statistics.median(one["events_per_s"] for one in runs["with"])
            / statistics.median(one["events_per_s"] for one in runs["without"]), 3,
        ),
        "decisions": runs["with"][-1]["decisions"],
    }  # fmt: skip


def _measured(role: Role, events: int) -> dict[str, float]:
    """From about a tenth of the events on, so that starting is over, to the last."""
    first = _wait(
        lambda: _of(role, "events") if _of(role, "events") >= events / 10 else 0.0, "the first events"
    )
    began, cpu_began = time.perf_counter(), _cpu_s(role)
    _wait(lambda: _of(role, "events") >= events, "the last event")
    took, cpu_took = time.perf_counter() - began, _cpu_s(role) - cpu_began
    read = events - first
    return {"events_per_s": read / took, "cpu_us": 1e6 * cpu_took / read, "decisions": _of(role, "triggers")}


def drain(kafka: KafkaServer, redis: EmbeddedRedis, due: int) -> dict[str, Any]:
    """Time from events that make carts due to the last message, and how other events fare meanwhile."""
    names = [f"d{n}" for n in range(due)]
    consents = ((n.encode(), encode_user(User(n, True))) for n in names)
    preload(kafka.bootstrap, "due-users", consents, partitions=PARTITIONS)
    carts = ((n.encode(), _event(n, "add_to_cart", CART_MS + x % 1000)) for x, n in enumerate(names))
    preload(kafka.bootstrap, "due", carts, partitions=PARTITIONS)
    others = [f"o{n}" for n in range(1_000)]
    with worker(kafka, redis, "due", "drain") as role:
        _wait(lambda: _of(role, "events") >= due, "all carts")
        delays = {}
        for name, at_ms in (("quiet", CART_MS + 2_000), ("draining", DUE_MS)):
            before = _of(role, "events")
            _send(kafka, "due", [(o.encode(), _event(o, "view_item", at_ms)) for o in others])
            began = time.perf_counter()
            _wait(lambda before=before: _of(role, "events") >= before + len(others), "the others' events")  # type: ignore[misc]
            delays[name] = round(time.perf_counter() - began, 3)
        _wait(lambda: _of(role, "triggers") >= due, "the last message")
        seconds = time.perf_counter() - began
    return {"timers": due, "seconds": round(seconds, 2), "seconds_of_1000_events": delays}


def _event(user_id: str, kind: str, at_ms: int) -> bytes:
    return msgspec.json.encode(
        {"event_id": f"{user_id}-{kind}-{at_ms}", "event_type": kind, "event_time": at_ms, "user_id": user_id,
         "item_id": f"i{hash(user_id) % 500}", "value": 20.0}
    )  # fmt: skip


def _send(kafka: KafkaServer, topic: str, messages: list[tuple[bytes, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for key, value in messages:
        producer.produce(topic, value, key)
    producer.flush(30)


def _of(role: Role, name: str) -> float:
    """A counter of a process, summed over its labels."""
    start = f"recs_{name}_total"
    return sum(value for key, value in role.counters().items() if key == start or key.startswith(start + "{"))


def _cpu_s(role: Role) -> float:
    fields = Path(f"/proc/{role.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {DEADLINE_S} s")
        time.sleep(0.02)
    return found
