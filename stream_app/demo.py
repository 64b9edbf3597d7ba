"""The demo: the whole system in one process, a simulated shop, and what became of its events.

Everything is real but the shop: events go through a broker and Redis, are learned, pruned, judged and served.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from stream_app.app import System
from stream_app.config import Settings, load_settings
from stream_app.demo_report import DemoReport, Place, Sizes, render
from stream_app.embedded import EmbeddedBroker, EmbeddedRedis
from stream_app.errors import RecsError
from stream_app.events import Event, Item, encode_event, encode_item, encode_user, feedback
from stream_app.simulator import Shop
from stream_app.telemetry import Metrics
from stream_app.transport import Connection, LogReader, OutMessage, Sender
from stream_app.worker import topics

CHUNK = 500  # events sent at once, and then checked against the lists that were there before
AHEAD = 4_000  # events the shop may be ahead of the worker: the embedded broker forgets what is too old
LOOKS = 25  # users per chunk whose waiting list is looked at
CLICKS = 4
SHOWN = 8  # places of the list


@dataclass
class Waiting:
    """How good the lists were that waited in Redis when users made their next choice."""

    hits: list[tuple[bool, bool]] = field(default_factory=list)  # in the user's list, in the popular list

    def share(self, part: slice) -> tuple[float, float]:
        """Share of choices that were in the list, and in the list of popular items."""
        own, popular = np.array(self.hits[part] or [(False, False)], float).mean(axis=0)
        return float(own), float(popular)


class Demo:
    """One run of the demo.

    Parameters
    ----------
    events
        Events that the shop sends.
    bad
        Malformed messages among them.
    seed
        Of the shop.
    """

    def __init__(self, console: Console, *, events: int = 40_000, bad: int = 40, seed: int = 7) -> None:
        self.console = console
        self.n_events = events
        self.n_bad = bad
        self.shop = Shop(seed, n_items=1_000, n_users=1_500)
        self.items: dict[str, Item] = {}
        self.waiting = Waiting()
        self.produced = 0
        self.seconds = 0.0
        self.last_ms = 0  # latest event time
        self.user = ""
        self.clicked: list[str] = []
        self.before: list[Place] = []
        self.after: list[Place] = []
        self.triggers: list[dict[str, Any]] = []

    async def run(self, *, serve: bool = False) -> DemoReport:
        """Run the demo, show its result, and return it; with `serve`, go on until interrupted."""
        names = {name: partitions for name, (partitions, _) in topics(load_settings()).items()}
        self.console.print("[bold]Starting[/] a broker, Redis, a worker and a learner in this process …")
        with (
            EmbeddedBroker(topics=names) as broker,
            EmbeddedRedis() as redis,
            tempfile.TemporaryDirectory() as folder,
        ):
            settings = load_settings(
                kafka_bootstrap=broker.bootstrap,
                redis_url=redis.url,
                state_dir=folder,
                prune_first=1_500,
                prune_interval=5_000,
                guard_samples=800,
                overlay_interval_s=0.2,  # a day of the shop passes in seconds
            )
            with self.console.status("compiling kernels (the first time only, about a minute)"):
                await asyncio.to_thread(warm_up)
            async with System(settings, ["worker", "learner"]) as system:
                # The embedded broker answers a fetch with one batch: the fuller, the better.
                sender = Sender(Connection.of(settings), linger_ms=20)
                await sender.start()
                try:
                    await self._describe(settings, sender)
                    await self._stream(settings, system, sender)
                    await self._click(settings, system, sender)
                    self.triggers = await self._triggers(settings)
                    report = self._report(system)
                    self.console.print(render(report))
                    if serve:
                        await self._serve(settings, system, sender, broker.bootstrap, redis.url)
                finally:
                    await sender.stop()
        return report

    # Sending

    async def _describe(self, settings: Settings, sender: Sender) -> None:
        items = list(self.shop.items())
        self.items = {item.item_id: item for item in items}
        await sender.send([(settings.items_topic, i.item_id.encode(), encode_item(i), None) for i in items])
        await sender.send(
            [(settings.users_topic, u.user_id.encode(), encode_user(u), None) for u in self.shop.users()]
        )

    async def _stream(self, settings: Settings, system: System, sender: Sender) -> None:
        bad = iter(self.shop.bad_messages(self.n_bad))
        every = max(1, self.n_events // max(1, self.n_bad))
        started = time.monotonic()
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=self.console,
        ) as progress:  # fmt: skip
            task = progress.add_task("the shop is open", total=self.n_events, note="")
            for events, items in _chunks(self.shop, self.n_events):
                await self._check(system, events)
                messages: list[OutMessage] = [
                    (settings.items_topic, i.item_id.encode(), encode_item(i), None) for i in items
                ]
                for event in events:
                    if self.produced % every == every - 1 and (message := next(bad, None)) is not None:
                        messages.append((settings.events_topic, None, message, None))
                        self.produced += 1
                    messages.append(
                        (settings.events_topic, event.user_id.encode(), encode_event(event), None)
                    )
                    self.produced += 1
                self.last_ms = max(self.last_ms, events[-1].event_time_ms)
                self.items |= {item.item_id: item for item in items}
                await sender.send(messages)
                while self.produced - self._handled(system) > AHEAD:
                    await self._breathe(system)
                progress.update(task, completed=self._handled(system), note=_note(system))
            for message in bad:
                await sender.send([(settings.events_topic, None, message, None)])
                self.produced += 1
            while self._handled(system) < self.produced:
                await self._breathe(system)
                progress.update(task, completed=self._handled(system), note=_note(system))
            progress.update(task, completed=self.n_events)
        self.seconds = time.monotonic() - started

    def _handled(self, system: System) -> int:
        metrics = system.metrics
        return int(value(metrics.events) + value(metrics.skipped) + value(metrics.dead_letters))

    async def _breathe(self, system: System) -> None:
        reason = system.crash_reason()
        if reason is not None:
            raise RecsError(f"a service stopped: {reason}") from reason
        await asyncio.sleep(0.02)

    async def _check(self, system: System, events: Sequence[Event]) -> None:
        """Was what users are about to choose in the list that waits for them?"""
        store = system.services["worker"].store
        popular = await store.read_shared("popular")
        shown = {i["item_id"] for i in (popular or {"items": []})["items"]}
        users = system.services["worker"].recommender.users
        chosen: dict[str, str] = {}  # user → the first item chosen that is new to the user
        for event in events:
            for item_id, _ in feedback(event)[:1]:
                new = event.user_id not in users or not users.knows(event.user_id, item_id)
                if new and event.user_id not in chosen and len(chosen) < LOOKS:
                    chosen[event.user_id] = item_id
        for item_id, found in zip(chosen.values(), await store.read_lists(list(chosen)), strict=True):
            own = {i["item_id"] for i in found["items"]} if found else shown
            self.waiting.hits.append((item_id in own, item_id in shown))

    # One user, before and after

    async def _click(self, settings: Settings, system: System, sender: Sender) -> None:
        """Let one user click a few popular items of a category that the list does not lead with."""
        worker, learner = system.services["worker"], system.services["learner"].learner
        users = worker.recommender.users
        self.user = next((u for u in reversed(users.in_memory()) if len(users.history(u)) >= 3), "")
        if not self.user:
            return
        self.before = await self._look(system)
        numbers = learner.all_rows()
        numbers = numbers[np.argsort(-learner.stats.count[numbers], kind="stable")]
        leading = {self._category(place.item_id) for place in self.before}
        fresh = [
            item_id
            for item_id in (learner.items.ids[n] for n in numbers if learner.items.servable[n])
            if self._category(item_id) not in leading and not users.knows(self.user, item_id)
        ]
        clicked = [i for i in fresh if self._category(i) == self._category(fresh[0])][:CLICKS]
        self.clicked = [self._title(item_id) for item_id in clicked]
        for n, item_id in enumerate(clicked):
            event = Event(f"demo-{n}", "view_item", self.last_ms + 1000 * (n + 1), self.user, item_id=item_id)
            await sender.send([(settings.events_topic, self.user.encode(), encode_event(event), None)])
            self.produced += 1
        while self._handled(system) < self.produced:
            await self._breathe(system)
        self.after = await self._look(system)

    async def _look(self, system: System) -> list[Place]:
        worker = system.services["worker"]
        found = await worker.store.read_list(self.user)
        places = []
        for item in (found or {"items": []})["items"][:SHOWN]:
            reason = worker.recommender.explain(self.user, item["item_id"])
            because = f"goes with {self._title(reason.because)}" if reason and reason.because else None
            places.append(
                Place(
                    item["item_id"], self._title(item["item_id"]), because or (reason.text if reason else "")
                )
            )
        return places

    def _title(self, item_id: str) -> str:
        item = self.items.get(item_id)
        return item.title if item is not None and item.title else item_id

    def _category(self, item_id: str) -> str:
        item = self.items.get(item_id)
        return item.categories[-1] if item is not None and item.categories else ""

    # Triggers

    async def _triggers(self, settings: Settings) -> list[dict[str, Any]]:
        """Two messages of different rules that were sent last, and one that was held back."""
        sent = await _messages(settings, settings.triggers_topic)
        held = await _messages(settings, settings.suppressed_topic)
        latest = {m["type"]: m for m in sent if m["data"]["recommendations"]}  # the last of each rule
        two = sorted(latest.values(), key=lambda m: str(m["time"]))[-2:]
        telling = [m for m in held if m["data"]["suppressed"] not in ("no_consent", "hold_out")]
        return two + (telling or held)[-1:]

    # The result

    def _report(self, system: System) -> DemoReport:
        metrics, learner = system.metrics, system.services["learner"]
        cycle, ledger = learner.cycle, learner.cycle.agent.ledger.read()
        hits = len(self.waiting.hits)
        first, _ = self.waiting.share(slice(0, max(1, hits // 10)))
        now, popular = self.waiting.share(slice(-max(1, hits // 3), None))
        promoted = next((r for r in reversed(ledger) if r.version == cycle.active.version), None)
        sizes = [] if promoted is None else [
            Sizes("weights of the ranker", promoted.weights_before, promoted.weights_after),
            Sizes("bytes of the ranker", promoted.bytes_before, promoted.bytes_after),
            Sizes("neighbour links", int(learner.learner.graph.length.sum()), cycle.active.links),
        ]  # fmt: skip
        return DemoReport(
            produced=self.produced,
            applied=int(value(metrics.events)),
            dead_letters=int(value(metrics.dead_letters)),
            lists=int(value(metrics.lists)),
            seconds=self.seconds,
            hit_rate_first=first,
            hit_rate_now=now,
            hit_rate_popular=popular,
            sizes=sizes,
            release=cycle.active.version,
            release_bytes=len(cycle.active.data),
            decisions=ledger,
            user=self.user,
            clicked=self.clicked,
            before=self.before,
            after=self.after,
            triggers=self.triggers,
            titles={item_id: self._title(item_id) for item_id in _mentioned(self.triggers)},
            trigger_counts=_trigger_counts(metrics),
        )

    async def _serve(
        self, settings: Settings, system: System, sender: Sender, bootstrap: str, redis_url: str
    ) -> None:
        host = redis_url.rsplit("//", maxsplit=1)[-1].split("/", maxsplit=1)[0].rpartition("@")[2]
        lines = [
            "Still running; Ctrl-C stops everything.",
            f"  redis-cli -u {redis_url} GET 'rec:v1:user:{{{self.user}}}:top'",
            f"  RECS_KAFKA_BOOTSTRAP={bootstrap} RECS_REDIS_URL=redis://{host} recs get {self.user} --why",
        ]
        self.console.print(Panel(Group(*lines), expand=False))
        more = Shop(self.shop.seed + 1, n_items=1_000, n_users=1_500).events(10_000_000)
        while True:
            events = [next(more) for _ in range(20)]
            await sender.send(
                [(settings.events_topic, e.user_id.encode(), encode_event(e), None) for e in events]
            )
            await self._breathe(system)
            await asyncio.sleep(0.2)


def _chunks(shop: Shop, n: int) -> Iterator[tuple[list[Event], list[Item]]]:
    events: list[Event] = []
    items: list[Item] = []
    for record in shop.records(n):
        if isinstance(record, Event):
            events.append(record)
        else:
            items.append(record)
        if len(events) == CHUNK:
            yield events, items
            events, items = [], []
    if events:
        yield events, items


async def _messages(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """All messages that a topic holds, by time."""
    reader = LogReader(Connection.of(settings), topic)
    found: list[dict[str, Any]] = []
    try:
        await reader.start()
        while not await reader.caught_up():
            found += [json.loads(r.value or b"") for r in await reader.poll(5_000, 0.1)]
    finally:
        await reader.stop()
    return sorted(found, key=lambda message: str(message["time"]))


def _mentioned(messages: Sequence[dict[str, Any]]) -> set[str]:
    data = [m["data"] for m in messages]
    because = {p["why"].removeprefix("goes with ") for d in data for p in d["recommendations"]}
    return because | {i["item_id"] for d in data for i in (*d["items"], *d["recommendations"])}


def _trigger_counts(metrics: Metrics) -> dict[str, dict[str, int]]:
    """Rule → outcome → how often."""
    counts: dict[str, dict[str, int]] = {}
    for sample in next(iter(metrics.triggers.collect())).samples:
        if sample.name.endswith("_total"):
            counts.setdefault(sample.labels["rule"], {})[sample.labels["outcome"]] = int(sample.value)
    return counts


def _note(system: System) -> str:
    cycle = system.services["learner"].cycle
    return f"{value(system.metrics.examples):,.0f} learned, release {cycle.active.version[:8]}"


def value(metric: Any) -> float:
    """The present value of a counter without labels."""
    return float(next(iter(metric.collect())).samples[0].value)


def warm_up() -> None:
    """Compile all kernels, or load them from the cache, by running a small stream through the whole core."""
    from stream_app.online import OnlineRecommender

    shop = Shop(1, n_items=60, n_users=20, n_categories=4)
    online = OnlineRecommender(first=150, interval=200, samples=20)
    for item in shop.items():
        online.observe_item(item)
    for user in shop.users():
        online.observe_user(user)
    for event in shop.events(1_200):
        online.observe(event)
    online.recommend(shop.user_ids[0], 0, 5)
