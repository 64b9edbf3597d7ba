"""How long until an event shows: from the moment it happens to a list in Redis that knows of it.

A system (`roles`) first works off a topic that was filled before: that tells the peak, and leaves it with
users, a model and releases. Then events come at 20 % and at 60 % of the peak, open loop: each has its moment
in a schedule that waits for nobody, and time counts from there, so that a producer or a system that falls
behind does not hide it. Some events are watched: a reader asks Redis every millisecond whether the list of
their user names the time of the event. Producer, reader, broker and Redis share the machine's cores with the
system.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis
from confluent_kafka import Producer

from benchmarks.roles import System, system, wait
from benchmarks.timing import at_most
from benchmarks.workload import preload, shop_events
from stream_app.embedded import EmbeddedRedis
from tests.servers import KafkaServer

SHARES = (0.2, 0.6)  # of the peak
WATCHED_PER_S = 250
TICK_S = 0.001  # of producer and reader
LINGER_MS = 5  # of the producer
SETTLE_S = 3.0  # at the beginning of each load, not counted
BACKLOG_EVERY_MS = 30  # between events that are there before: an hour of them, so that carts come due
LOST_S = 5.0  # a watched event that takes longer is given up, and counts as that long
EVENT_TIME = re.compile(rb'"event_time":"([^"]+)Z"')
WHEN = re.compile(rb'"event_time":\d+')


@dataclass
class Watch:
    """Events under way whose lists are waited for, and how long others took."""

    open: dict[str, tuple[float, int]] = field(default_factory=dict)  # user → moment, event time in ms
    taken_s: list[float] = field(default_factory=list)
    is_over: bool = False

    def follow(self, url: str) -> None:
        """Look into Redis until it is over and nothing is open."""
        with redis.Redis.from_url(url) as client:
            while self.open or not self.is_over:
                waiting = list(self.open.items())
                values = (
                    client.mget([f"rec:v1:user:{{{user}}}:top" for user, _ in waiting]) if waiting else []
                )
                now = time.time()
                for (user, (moment, ms)), value in zip(waiting, values, strict=True):
                    if _event_ms(value) >= ms or now - moment > LOST_S:
                        self.taken_s.append(now - moment)
                        del self.open[user]
                time.sleep(TICK_S)


def _event_ms(value: bytes | None) -> int:
    """The event time of a list, −1 where there is none."""
    found = None if value is None else EVENT_TIME.search(value)
    return -1 if found is None else int(np.datetime64(found[1].decode(), "ms").astype(np.int64))


def produce(bootstrap: str, topic: str, rate: float, seconds: float, watch: Watch, seed: int) -> float:
    """Send events on schedule, watching some; returns the rate that was kept."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": LINGER_MS})
    events = shop_events(int(rate * seconds), seed=seed)
    every, began, sent = max(1, int(rate / WATCHED_PER_S)), time.time(), 0
    for due in _ticks(began, seconds):
        while sent < int((due - began) * rate):
            found = next(events, None)
            if found is None:
                break
            key, value = found
            moment = began + sent / rate
            ms = int(moment * 1000)
            user = key.decode()
            if sent % every == 0 and user not in watch.open and moment - began > SETTLE_S:
                watch.open[user] = (moment, ms)
            producer.produce(topic, WHEN.sub(b'"event_time":%d' % ms, value), key)
            sent += 1
        producer.poll(0)
    producer.flush(10)
    return sent / (time.time() - began)


def _ticks(began: float, seconds: float) -> Iterator[float]:
    """The time, every millisecond or as often as the caller comes back."""
    while (now := time.time()) < began + seconds:
        yield now
        time.sleep(TICK_S)
    yield began + seconds


def before_now(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Events up to now: the clock of the triggers would jump else, and everything be due at once."""
    began_ms = int(time.time() * 1000) - count * BACKLOG_EVERY_MS
    for n, (key, value) in enumerate(shop_events(count)):
        yield key, WHEN.sub(b'"event_time":%d' % (began_ms + n * BACKLOG_EVERY_MS), value)


def offered(running: System, topic: str, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Latency at a rate."""
    watch = Watch()
    reader = threading.Thread(target=watch.follow, args=(running.redis.url,))
    reader.start()
    try:
        kept = produce(running.kafka.bootstrap, topic, rate, seconds, watch, seed)
    finally:
        watch.is_over = True
        reader.join()
    taken = 1e3 * np.array(watch.taken_s)
    places = {f"p{q:g}_ms": round(float(np.percentile(taken, q)), 1) for q in (50, 90, 99, 99.9)}
    return {"events_per_s": round(kept, 1), "watched": len(taken), **places, "most_ms": round(taken.max(), 1)}


def run(backlog: int = 120_000, seconds: float = 30) -> dict[str, Any]:
    """Measure the peak, then latency at shares of it.

    Parameters
    ----------
    backlog
        Events that are there before the system starts.
    seconds
        How long each load lasts.
    """
    with KafkaServer(heap="1g") as kafka, EmbeddedRedis() as store:
        if preload(kafka.bootstrap, "latency", before_now(backlog)) != backlog:
            raise RuntimeError("the broker did not take all events")
        with system(kafka, store, "latency", "1") as running:
            wait(lambda: running.applied() > 0, "the first event")
            began, first = time.perf_counter(), running.applied()
            wait(lambda: running.applied() >= backlog, "the last event")
            peak = (backlog - first) / (time.perf_counter() - began)
            time.sleep(2)  # the learner's backlog
            found = {
                f"at {share:.0%}": offered(running, "latency", share * peak, seconds, seed)
                for seed, share in enumerate(SHARES, 1)
            }
    return {
        "results": {"peak_eps": round(peak, 1), "linger_ms": LINGER_MS, **found},
        "goals": {"p99_ms at 60 %": at_most(found["at 60%"]["p99_ms"], 50)},
    }
