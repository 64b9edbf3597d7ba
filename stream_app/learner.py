"""The learner: examples in; releases, overlays and shared lists out; everything in one checkpoint.

It reads `examples` without a consumer group: its place is written into the same file as what it learned, so
the two never differ. Between checkpoints nothing is lost that the log does not still hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mode import Service

from pruning import GuardDecision, Ledger, PruningError
from stream_app.checkpoints import StateDir
from stream_app.config import Settings
from stream_app.errors import ConfigError, EventError, RecsError, ReleaseError, StoreError
from stream_app.events import Item, Tombstone, decode_item
from stream_app.events.records import iso_time
from stream_app.failpoints import failpoint
from stream_app.lists.arranging import ListPolicy
from stream_app.lists.rules import RulesFile
from stream_app.lists.shared import SharedLists
from stream_app.model.eviction import Renumbering
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import ItemIndex
from stream_app.model.learning import Learner, ranker_step
from stream_app.model.ranker import FTRLClassifier
from stream_app.model.releasing import Published, ReleaseCycle
from stream_app.model.served_model import NO_ITEMS
from stream_app.online import default_agent
from stream_app.served_json import shared_list_json
from stream_app.telemetry import Metrics
from stream_app.transport import Connection, LogReader, ensure_topics
from stream_app.withdrawal import Withdrawal
from stream_app.worker import make_store, topics

POLL_S = 0.05
MOST_OVERLAY_ROWS = 2_000  # item rows per overlay; the rest waits for the next one
MOST_OVERLAY_WEIGHTS = 2_000_000  # in all overlays over one release, before they are put together again
MOST_OVERLAYS = 600  # over one release, before they are put together again
MOST_SIMILAR = 500  # lists of similar items per overlay


class LearnerService(Service):
    """Learns from `examples`, and publishes what it learned."""

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.metrics = Metrics() if metrics is None else metrics
        self.clock = clock
        self.store = make_store(settings)
        self.files = StateDir(settings.state_dir)
        self.learner = Learner(settings.make_ranker(), ItemIndex(settings.budget))
        self.learner.items.follow(self)
        self.cycle = self._make_cycle()
        self._rules = RulesFile(settings.list_rules)
        self._shared = self._make_shared()
        self._withdrawal = Withdrawal(self.store, self._may_show)
        self._connection = Connection.of(settings)
        self._examples = LogReader(self._connection, settings.examples_topic)
        self._items = LogReader(self._connection, settings.items_topic)
        self._places: dict[int, int] = {}  # partition of examples → next offset
        self._sent = (0, 0)  # steps up to which workers know everything …
        self._late = NO_ITEMS  # … but the rows of these items
        self._sent_weights = 0  # in all overlays since the release was published
        self._published: Published | None = None
        self._last_overlay = self._next_checkpoint = 0.0
        self._saved_step = -1
        self._alarms = 0  # of drift, told
        self._turn = asyncio.Lock()  # held while the model is read or changed
        self.ready = False

    def renumber(self, moved: Renumbering) -> None:
        """Follow the index of items."""
        self._late = moved.numbers(self._late)

    def _make_shared(self) -> SharedLists:
        rules = self._rules.rules
        policy = None if rules is None else ListPolicy(self.learner.items, rules)
        return SharedLists(self.learner, self.settings.list_size, policy)

    def _make_cycle(self) -> ReleaseCycle:
        s = self.settings
        agent = default_agent(
            Ledger(self.files.ledger),
            tolerance=s.guard_tolerance,
            samples=s.guard_samples,
            overlap=s.guard_overlap,
        )
        return ReleaseCycle(
            self.learner,
            agent,
            amount=s.prune_amount,
            width=s.neighbours,
            interval=s.prune_interval,
            first=s.prune_first,
        )

    async def on_start(self) -> None:
        """Load the checkpoint, go to the place that it names, publish the release that it serves."""
        await ensure_topics(self._connection, topics(self.settings), self.settings.replication)
        await self.store.ping()
        self._restore()
        await self._items.start()
        while not await self._items.caught_up():
            await self._follow(POLL_S)
        await self._examples.start(self._places)
        await self._publish(self.cycle.active)
        self._withdrawal.begin()  # of what was withdrawn while nobody looked
        self._next_checkpoint = time.monotonic() + self.settings.checkpoint_interval_s
        self.ready = True

    async def on_stop(self) -> None:
        """Save a last checkpoint and disconnect."""
        started, self.ready = self.ready, False
        async with self._turn:
            try:
                if started:  # otherwise the checkpoint on disk was not read yet
                    self._checkpoint()
            except RecsError as error:
                self.log.error("the last checkpoint failed: %s", error)
            for step in (self._examples.stop, self._items.stop):
                try:
                    await step()
                except RecsError as error:
                    self.log.warning("while stopping: %s", error)
        await self.store.close()

    @Service.task
    async def _run(self) -> None:
        while not self.should_stop:
            try:
                async with self._turn:
                    await self.step()
            except RecsError as error:
                await self.crash(error)
                return

    async def step(self) -> int:
        """One turn: learn what came, publish what is due, save when it is time; returns examples learned."""
        learned = 0
        for record in await self._examples.poll(50, POLL_S):
            learned += await self._learn(record.value)
            self._places[record.partition] = record.offset + 1
            failpoint("learner.after_learn")
        now = time.monotonic()
        if now - self._last_overlay >= self.settings.overlay_interval_s:
            self._last_overlay = now
            await self._follow(0)
            self._follow_rules()
            await self._publish_fresh()
        await self._withdraw()
        if now >= self._next_checkpoint:
            began = time.monotonic()
            await asyncio.to_thread(self._checkpoint)
            took = (now := time.monotonic()) - began  # grows with the model; a twentieth of all time at most
            self._next_checkpoint = now + max(self.settings.checkpoint_interval_s, 20 * took)
        return learned

    # Commands

    async def prune_now(self) -> str:
        """Put a release on trial at once; returns what was done, in words."""
        async with self._turn:
            published = self.cycle.propose()
        return (
            "there is nothing to prune yet"
            if published is None
            else f"release {published.version} is on trial"
        )

    async def rollback(self, reason: str) -> str:
        """Serve the previous release again; returns what was done, in words."""
        async with self._turn:
            try:
                published = self.cycle.rollback(reason, self._now())
            except PruningError as error:
                return str(error)
            await self._publish(published)
        return f"release {published.version} is served again"

    # Learning

    async def _learn(self, value: bytes | None) -> int:
        try:
            batch = ExampleBatch.from_bytes(value or b"")
        except EventError as error:
            self.log.error("a batch of examples is skipped: %s", error)
            return 0
        learned, decision = await asyncio.to_thread(self._learn_batch, batch)
        self.metrics.examples.inc(learned)
        self.metrics.repeats.inc(len(batch) - learned)
        await self._tell_drift()
        if decision is not None:
            self.log.info("%s: %s", decision.verdict, decision.reason)
        active = self.cycle.active
        if active is not self._published:
            self.files.save_release(active.version, active.data)
            await self._publish(active)
        return learned

    async def _tell_drift(self) -> None:
        """Say aloud that the model has begun to fit worse, once per alarm."""
        drift, drifted = self.learner.drift, self.learner.drifted
        self.metrics.loss.set(drift.mean)
        if drift.alarms == self._alarms or drifted is None:
            return
        self.metrics.drift.inc(drift.alarms - self._alarms)
        self._alarms = drift.alarms
        step, at = drifted[0], iso_time(drifted[1])
        self.log.warning(
            "drift: the ranker's loss has risen for a while, at example %d, event time %s", step, at
        )
        alarm = {"step": step, "event_time": at, "alarms": drift.alarms, "noticed_at": self._now()}
        try:
            await self.store.write_alarm(alarm)
        except StoreError as error:
            self.log.warning("the alarm is in this log only: %s", error)

    def _learn_batch(self, batch: ExampleBatch) -> tuple[int, GuardDecision | None]:
        new = batch.rows(batch.offsets > self.learner.high_water.get(batch.partition, -1))
        if not len(new):
            return 0, None
        self.learner.learn(new)
        return len(new), self.cycle.observe(new, time=self._now())

    # Publishing

    async def _publish(self, active: Published) -> None:
        """Make a release the current one, with everything learned since it was exported on top."""
        overlay = self.learner.overlay(active.step, active.ranker_step, self.settings.neighbours)
        report = {
            "version": active.version, "step": active.step, "published_at": self._now(),
            "weights": len(active.release.ranker), "weights_dense": len(self.learner.ranker)
            if isinstance(self.learner.ranker, FTRLClassifier) else None,
            "links": active.links, "bytes": len(active.data), "items": len(active.release.tables.rows),
        }  # fmt: skip
        try:
            await self.store.publish_release(active.version, active.data, report, overlay.to_bytes())
        except StoreError as error:
            self.log.warning("release %s is not out yet: %s", active.version, error)
            self._published = None
            return
        self._published = active
        self._sent, self._late = (self.learner.step, ranker_step(self.learner.ranker)), NO_ITEMS
        self._sent_weights = len(overlay.weights)
        self.metrics.releases.inc()

    async def _publish_fresh(self) -> None:
        """Send what was learned since the last time, and the lists for users nobody knows."""
        active = self.cycle.active
        try:
            if self._published is not active:
                await self._publish(active)
            if self._published is not None and self.learner.step > self._sent[0]:
                await self._push_overlay(self._published)
            if self.learner.step:
                await self._publish_shared()
        except StoreError as error:
            self.log.warning("workers get the news later: %s", error)

    async def _push_overlay(self, active: Published) -> None:
        learner, upto = self.learner, (self.learner.step, ranker_step(self.learner.ranker))
        rows = np.union1d(self._late, learner.rows_since(self._sent[0])).astype(np.int32)
        rows = rows[np.argsort(learner.stats.count[rows], kind="stable")]  # what is rare changes most
        overlay = learner.overlay(*self._sent, self.settings.neighbours, rows[:MOST_OVERLAY_ROWS])
        count = await self.store.push_overlay(active.version, overlay.to_bytes())
        if count == 0:  # Redis was emptied
            self._shared.begin_again()
        self._sent_weights += len(overlay.weights)
        too_many = count > MOST_OVERLAYS or self._sent_weights > MOST_OVERLAY_WEIGHTS
        if count == 0 or too_many:  # reading them all takes too long, and workers keep all these weights
            await self._publish(active)
        else:
            self._sent, self._late = upto, rows[MOST_OVERLAY_ROWS:]

    async def _publish_shared(self) -> None:
        """Write the lists that belong to no user."""
        version = self._published.version if self._published is not None else "none"
        now_ms = int(self.clock() * 1000)
        everybody, similar = await asyncio.to_thread(
            lambda: (self._shared.everybody(), self._shared.similar(MOST_SIMILAR))
        )
        await self.store.write_shared(
            [(name, shared_list_json(pairs, version, now_ms, name)) for name, pairs in everybody.items()],
            [(item, shared_list_json(pairs, version, now_ms, "similar")) for item, pairs in similar.items()],
        )

    async def _follow(self, wait_s: float) -> None:
        """Take over new descriptions of items."""
        for r in await self._items.poll(5_000, wait_s):
            try:
                item = decode_item(r.key, r.value)
            except EventError as error:
                self.log.warning("%s[%d]@%d: %s", r.topic, r.partition, r.offset, error)
                continue
            self._describe(item)

    def _follow_rules(self) -> None:
        """Take over a changed file of rules, and the rules that begin or end now."""
        policy = self._shared.policy
        if policy is None:
            return
        try:
            rules = self._rules.changed()
            if rules is not None:
                policy.take(rules)
        except ConfigError as error:
            self.log.error("%s; the rules from before stay in force", error)
        if policy.at(int(self.clock() * 1000)):
            self._withdrawal.begin()

    def _may_show(self, item_id: str) -> bool:
        return self._shared.may_show(item_id)

    async def _withdraw(self) -> None:
        """Take what may no longer be shown out of some of the lists in Redis."""
        try:
            self.metrics.withdrawn.inc(await self._withdrawal.step())
        except StoreError as error:
            self.log.warning("withdrawn items leave lists later: %s", error)

    def _describe(self, item: Item | Tombstone) -> None:
        if isinstance(item, Tombstone) or not item.is_available:
            self._withdrawal.begin()
        self.learner.observe_item(item)
        if self._shared.policy is not None:
            self._shared.policy.observe(item)

    # Saving

    def _checkpoint(self) -> None:
        """Save learner, place and active release in one file."""
        if self.learner.step == self._saved_step or not isinstance(self.learner.ranker, FTRLClassifier):
            return
        active, previous = self.cycle.active, self.cycle.previous
        extra = {
            "places": sorted(self._places.items()),
            "active": active.version,
            "previous": None if previous is None else previous.version,
        }
        self.files.save_release(active.version, active.data)
        self.files.save(self.learner.to_bytes(extra))
        self._saved_step = self.learner.step

    def _restore(self) -> None:
        loaded = self.files.load(self.settings.budget)
        if loaded is None:
            return
        self.learner, extra = loaded
        self.learner.items.follow(self)
        self.cycle = self._make_cycle()
        self._shared = self._make_shared()
        self._places = dict(extra["places"])  # type: ignore[call-overload]
        self._saved_step, self._alarms = self.learner.step, self.learner.drift.alarms
        releases = []
        for name in ("active", "previous"):
            try:
                if extra[name] is not None:
                    releases.append(self.files.load_release(str(extra[name])))
            except ReleaseError as error:
                self.log.error("%s; the next release replaces it", error)
                break
        if releases:
            self.cycle.restore(*releases)
        self.log.info("going on after %d examples", self.learner.step)

    def _now(self) -> str:
        return iso_time(int(self.clock() * 1000))
