"""The worker: events in, lists out. Each effect once, the effects of one batch while the next is computed.

    poll ─▶ decode ─▶ load states ─▶ apply (pure) ─┬▶ poll the next batch …
                                                   └▶ send examples, dead letters ─▶ write Redis ─▶ commit
                                                      └── wait for the acknowledgement of each ──┘

Batches take effect one after the other, never two at a time. A crash before the Redis write makes the batch
happen again, from the same state to the same outputs; after it, the events are known by their offsets and
skipped. Examples sent twice carry the same (partition, offset), and the learner learns them once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from mode import Service

from pruning.tokens import token
from stream_app.config import Settings
from stream_app.errors import (
    ConfigError,
    EmptiedError,
    EventError,
    FencedError,
    OffsetError,
    RecsError,
    ReleaseError,
    StoreError,
    TransportError,
)
from stream_app.events import DecodePolicy, Event, Message, Tombstone, decode_event, decode_item, decode_user
from stream_app.events.dead_letters import Rejected
from stream_app.failpoints import failpoint
from stream_app.firing import Firing, Task, count_decisions, users_of_messages
from stream_app.lists.exploring import Exploration
from stream_app.lists.rules import RulesFile
from stream_app.model.key_ring import KeyRing
from stream_app.model.release import Overlay, Release
from stream_app.model.user_table import tail_of
from stream_app.ownership import Held, Ownership
from stream_app.recommender import Lists, Outcome, Recommender
from stream_app.store import Store, lists_json
from stream_app.telemetry import Metrics
from stream_app.transport import Connection, EventSource, LogReader, OutMessage, Sender, ensure_topics
from stream_app.triggers.engine import Look, TriggerEngine
from stream_app.triggers.matching import in_words
from stream_app.triggers.memory import unpack_memory
from stream_app.triggers.rules import TriggerRules
from stream_app.triggers.rules_file import load_trigger_rules

POLL_S = 0.1
COMMIT_S = 0.25
MOST_ERASED = 1_000_000  # users whose erasure is remembered for a rebuild from the log, those erased last
RENEWED = 1_000  # lists made again per turn when there is nothing else to do …
RENEWED_BESIDE = 200  # … and beside a batch, so that its users wait 10 ms at most
T = TypeVar("T")
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


def topics(settings: Settings) -> dict[str, tuple[int, bool]]:
    """The topics of one system: name → (partitions, compacted)."""
    n = settings.partitions
    exposures = {settings.exposures_topic: (n, False)} if settings.explore_places else {}
    messages = {settings.triggers_topic: (n, False), settings.suppressed_topic: (n, False)}
    return (exposures | messages if settings.triggers else exposures) | {
        settings.events_topic: (n, False),
        settings.examples_topic: (n, False),
        settings.items_topic: (1, True),
        settings.users_topic: (n, True),
        settings.control_topic: (1, False),
        settings.dead_letter_topic: (1, False),
    }


def _trigger_rules(settings: Settings) -> TriggerRules:
    """The rules of triggers; none may wait for longer than a user is remembered."""
    rules = load_trigger_rules(settings.trigger_rules)
    for rule in rules.enabled:
        if rule.delay_ms > settings.state_ttl_days * 86_400_000:
            raise ConfigError(
                f"rule {rule.name!r}, delay: {in_words(rule.delay_ms)} is longer than users are remembered, "
                f"RECS_STATE_TTL_DAYS={settings.state_ttl_days:g}"
            )
    return rules


def make_store(settings: Settings) -> Store:
    """The store that the settings describe."""
    return Store(
        settings.redis_url.get_secret_value(),
        namespace=settings.namespace,
        list_ttl_days=settings.list_ttl_days,
        state_ttl_days=settings.state_ttl_days,
        timeout_s=settings.io_timeout_s,
    )


class Worker(Service):
    """Owns some partitions of `events` and the users in them.

    Parameters
    ----------
    settings
        The same for all roles of one system.
    clock
        Seconds since 1970, for `generated_at` and for event times from the future.
    """

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
        self._rules = RulesFile(settings.list_rules)
        self.recommender = Recommender(
            k=settings.list_size,
            weights=settings.event_weights,
            rating_threshold=settings.rating_threshold,
            again=settings.recommend_again,
            neighbours=settings.neighbours,
            max_users=settings.max_users_in_memory,
            max_items_per_user=settings.max_items_per_user,
            rules=self._rules.rules,
            budget=settings.budget,
            explore=Exploration(settings.explore_places, settings.explore_share)
            if settings.explore_places
            else None,
            triggers=TriggerEngine(_trigger_rules(settings)) if settings.triggers else None,
        )
        lookout = self.recommender.lookout
        self._firing = (
            None
            if lookout is None
            else Firing(self.recommender, lookout, self.store, lambda: int(self.clock() * 1000))
        )
        connection = Connection.of(settings)
        self._connection = connection
        self._source = EventSource(
            connection,
            settings.events_topic,
            settings.group,
            instance=settings.instance,
            session_timeout_s=settings.session_timeout_s,
            on_revoked=self._leave_partitions,
            on_assigned=self._note_assigned,
        )
        self._ownership = Ownership(self.store, self._source, settings.events_topic)
        self._busy = False  # triggers are due that a turn did not get to
        self._lost: set[int] = set()  # partitions that were taken from us, their users still in memory
        self._erased = KeyRing(MOST_ERASED, 2)  # user's token, time of the tombstone in milliseconds
        self._items = LogReader(connection, settings.items_topic)
        self._users = LogReader(connection, settings.users_topic)
        self._sender = Sender(connection)
        self._policy = DecodePolicy(max_bytes=settings.max_event_bytes)
        self._batch = asyncio.Lock()  # held while a batch is under way
        self._done: dict[int, int] = {}  # partition → next offset to commit
        self._effect: asyncio.Task[None] | None = None  # of the last batch
        self._outdated: dict[str, None] = {}  # users whose lists are of another release …
        self._is_urgent = False  # … which may not be served any longer
        self._release_step = -1  # of the release that is served
        self._overlays = 0  # overlays applied over the release
        self._publication: bytes | None = None  # the list of overlays that they come from
        self._examples_partitions = 1
        self._last_commit = self._last_sync = 0.0
        self.ready = False

    async def on_start(self) -> None:
        """Connect, read what the shop says about items and users, join the group."""
        await ensure_topics(self._connection, topics(self.settings), self.settings.replication)
        await self.store.ping()
        await self._sender.start()
        self._examples_partitions = await self._sender.partitions(self.settings.examples_topic)
        if self._firing is not None:
            await self._firing.begin(await self._sender.partitions(self.settings.events_topic))
        await self._items.start()
        await self._users.start()
        await self._sync()  # first: what is described has to be less than what is used
        while not (await self._items.caught_up() and await self._users.caught_up()):
            await self._follow(POLL_S)
        if self._firing is not None:
            self._firing.caught_up()
        self._follow_rules()
        await self._source.start()
        self.ready = True

    async def on_stop(self) -> None:
        """Finish the batch under way, commit, disconnect."""
        self.ready = False
        async with self._batch:
            for step in (
                self._settle,
                self._commit,
                self._source.stop,
                self._sender.stop,
                self._items.stop,
                self._users.stop,
            ):
                try:
                    await step()
                except RecsError as error:
                    self.log.warning("while stopping: %s", error)
        await self.store.close()

    @Service.task
    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self.step()
            except RecsError as error:
                await self.crash(error)
                return

    async def step(self) -> int:
        """One turn: follow items and users, look for a newer model, handle one batch; returns its events.

        The last batch may still be taking effect afterwards, but not after a turn without events.
        """
        async with self._batch:
            now = time.monotonic()
            if now - self._last_sync >= self.settings.overlay_interval_s / 2:
                self._last_sync = now
                await self._follow(0)
                await self._try(self._sync, "reading the model")
                self._follow_rules()
                await self._look_for_a_flush()
            await self._take_partitions()
            batches = await self._source.poll(self.settings.batch_size, 0 if self._busy else POLL_S)
            handled = 0
            for partition, records in batches.items():
                await self._handle(partition, records)
                handled += len(records)
            await self._end_rebuilds()
            self._busy = await self._fire(batches)
            if not handled:
                await self._settle()
            await self._renew(handled)
            if self._done and time.monotonic() - self._last_commit >= COMMIT_S:
                await self._commit()
            return handled

    async def erase(self, user_id: str) -> None:
        """Erase a user everywhere: the tombstone reaches all workers, this one included."""
        async with self._batch:
            await self._sender.send([(self.settings.users_topic, user_id.encode(), None, None)])

    # One batch

    async def _handle(self, partition: int, records: Sequence[Message]) -> None:
        held = self._ownership.held(partition)
        if held is None:  # not ours yet, or not any more
            self._source.rewind(partition, records[0].offset)
            return
        old = [r for r in records if r.offset < held.muted_until]
        for part, muted in ((old, True), (records[len(old) :], False)):
            if part and not await self._apply(partition, held, part, muted=muted):
                return

    async def _apply(
        self, partition: int, held: Held, records: Sequence[Message], *, muted: bool = False
    ) -> bool:
        """Apply a batch, and let it take effect while the next one is computed; muted, for its states only.

        Returns
        -------
        False when that cannot be: Redis turned out to be empty, or the partition belongs to another worker.
        """
        began = time.perf_counter()
        offsets, events, rejected = self._decode(records)
        if muted:  # dead letters were sent, and who was erased since stays erased
            sent_ms = {r.offset: r.timestamp for r in records}
            erased_ms = [self._erased_ms(event.user_id) for event in events]
            kept = [x for x, offset in enumerate(offsets) if sent_ms[offset] > erased_ms[x]]
            offsets, events, rejected = [offsets[x] for x in kept], [events[x] for x in kept], []
        try:
            await self._load([event.user_id for event in events], held)
        except EmptiedError:
            await self._rebuild(partition, records[0].offset)
            return False
        work = asyncio.to_thread(self._compute, partition, offsets, events, rejected)
        messages, lists, outcome = await work
        for user_id in outcome.lists.user_ids if self._outdated else ():
            self._outdated.pop(user_id, None)
        failpoint("worker.after_apply")
        await self._settle()
        if self._ownership.held(partition) is not held:
            return False
        triggers = None if self._firing is None else self._firing.writes(partition, outcome.looks)

        async def take_effect() -> None:
            if not muted:
                await self._try(lambda: self._sender.send(messages), "sending examples")
            failpoint("worker.after_send")
            place = records[-1].offset
            try:
                await self._try(
                    lambda: self.store.write(lists, outcome.states, held.fence, place, triggers),
                    "writing lists",
                )
            except FencedError as error:
                self._lose(partition, error)
                return
            failpoint("worker.after_write")
            self.metrics.lists.inc(len(outcome.lists))
            if muted:
                self.metrics.rebuilt.inc(outcome.applied)
                return
            self._done[partition] = records[-1].offset + 1
            self.metrics.events.inc(outcome.applied)
            self.metrics.skipped.inc(outcome.skipped)
            self.metrics.dead_letters.inc(len(rejected))
            count_decisions(self.metrics, outcome.looks)
            self.metrics.batch.observe(time.perf_counter() - began)

        self._effect = asyncio.create_task(take_effect())
        return True

    async def _settle(self) -> None:
        """Wait until the last batch has taken effect.

        Whatever changes the same keys or offsets has to wait for it: the next batch, a withdrawn item, an
        erased user, another owner of the partition. Loading need not: the last users are in memory.
        """
        effect, self._effect = self._effect, None
        if effect is not None:
            await effect
        if self._lost:  # not before: the next batch may have been under way with these users
            self.recommender.users.forget_partitions(self._lost)
            self._lost.clear()

    def _compute(
        self, partition: int, offsets: list[int], events: list[Event], rejected: list[Rejected]
    ) -> tuple[list[OutMessage], list[tuple[str, bytes]], Outcome]:
        """Apply a batch; returns its messages, its lists as bytes, and the outcome they were made of."""
        outcome = self.recommender.apply(partition, offsets, events)
        dead = self.settings.dead_letter_topic
        messages: list[OutMessage] = [(dead, r.key, r.to_dead_letter(), None) for r in rejected]
        if outcome.examples is not None:
            to = partition % self._examples_partitions  # one source partition stays in order
            messages += [
                (self.settings.examples_topic, None, part.to_bytes(), to) for part in outcome.examples.parts()
            ]
        lists = self._as_json(outcome.lists)
        messages += self._exposures(lists) + self._triggered(outcome.looks, outcome.lists)
        return messages, lists, outcome

    def _triggered(self, looks: Sequence[Look], lists: Lists) -> list[OutMessage]:
        """What triggers have to say, sent or held back."""
        s = self.settings
        if self._firing is None or not looks:
            return []
        return self._firing.messages(looks, lists, s.triggers_topic, s.suppressed_topic, s.namespace)

    def _exposures(self, lists: Sequence[tuple[str, bytes]]) -> list[OutMessage]:
        """What is kept of lists while places are drawn, so that estimates are possible."""
        if not self.settings.explore_places:
            return []
        return [(self.settings.exposures_topic, user_id.encode(), data, None) for user_id, data in lists]

    def _as_json(self, lists: Lists) -> list[tuple[str, bytes]]:
        return lists_json(lists, self.recommender.model.version, int(self.clock() * 1000))

    def _decode(self, records: Sequence[Message]) -> tuple[list[int], list[Event], list[Rejected]]:
        now_ms = int(self.clock() * 1000)
        offsets, events, rejected = [], [], []
        for r in records:
            try:
                event = decode_event(
                    r.value, key=r.key, headers=r.headers, policy=self._policy, now_ms=now_ms
                )
                # the record's time is the same whenever it is read, that of the wall is not
                events.append(event.not_after(r.timestamp) if r.timestamp >= 0 else event)
                offsets.append(r.offset)
            except EventError as error:
                rejected.append(
                    Rejected(r.topic, r.partition, r.offset, r.key, r.value, error.field, error.reason)
                )
        return offsets, events, rejected

    async def _load(self, user_ids: Sequence[str], held: Held, *, only_known: bool = False) -> None:
        """Bring users into memory, new ones, too, unless `only_known`."""
        users = self.recommender.users
        missing = users.keep(dict.fromkeys(user_ids))
        states = await self._try(lambda: self.store.load_states(missing, held.fence), "loading users")
        for user_id, state in zip(missing, states, strict=True):
            if state is None and only_known:
                continue
            try:
                users.load(user_id, state)
            except StoreError as error:
                self.log.error("%s; the user starts afresh", error)
                users.load(user_id, None)

    # Triggers

    async def _fire(self, batches: Mapping[int, Any]) -> bool:
        """Carry out a slice of what triggers have to do in each partition; says whether more may follow."""
        firing, busy = self._firing, False
        if firing is None:
            return False
        took_ms = firing.turn()
        for partition, held in self._ownership.all_held().items():
            if not firing.holds(partition):
                continue
            silent = partition not in batches and not held.muted_until
            silent = silent and await self._try(partial(self._source.is_silent, partition), "looking for lag")
            firing.pass_time(partition, took_ms, silent=silent)
            if firing.may_be_due(partition):
                await self._settle()
            task = await self._try(partial(firing.next, partition), "looking for due triggers")
            if task is not None:
                await self._carry_out(partition, held, task)
                busy = True
        return busy

    async def _carry_out(self, partition: int, held: Held, task: Task) -> None:
        """Look at users, send what comes of it, and write it down: a crash in between repeats the same."""
        firing = self._firing
        await self._settle()
        if firing is None or self._ownership.held(partition) is not held:
            return
        try:
            await self._load(task.users, held, only_known=True)
        except EmptiedError:
            await self._rebuild(partition, await self._source.position(partition))
            return
        looks, gone, messages, lists, states = await asyncio.to_thread(self._compute_task, task)
        if not held.muted_until:
            await self._try(lambda: self._sender.send(messages), "sending triggers")
        failpoint("trigger.after_send")
        writes = firing.writes(partition, looks, task.users if task.item_id is None else ())
        if task.items_place >= 0:
            writes = replace(writes, items_place=task.items_place)
        try:
            await self._try(
                lambda: self.store.write(lists, states, held.fence, None, writes), "writing triggers"
            )
        except FencedError as error:
            self._lose(partition, error)
            return
        failpoint("trigger.after_write")
        await self._try(partial(firing.done, partition, task, gone), "ending a trigger")
        self.metrics.lists.inc(len(lists))
        if not held.muted_until:
            count_decisions(self.metrics, looks)

    def _compute_task(
        self, task: Task
    ) -> tuple[list[Look], list[str], list[OutMessage], list[tuple[str, bytes]], list[tuple[str, bytes]]]:
        """Looks, users who watch no more, messages, lists and states of a slice."""
        users = self.recommender.users
        before = {u: users.tails.get(u) for u in task.users if u in users}
        looks, gone = task.look([*before])
        made = self.recommender.lists(users_of_messages(looks))
        lists = self._as_json(made)
        states = users.pack_all([k.user_id for k in looks if k.packed != before[k.user_id]])
        gone += [u for u in task.users if u not in before]
        return looks, gone, self._exposures(lists) + self._triggered(looks, made), lists, states

    async def _commit(self) -> None:
        """Commit what is done. A failure costs nothing: whoever reads the events again skips them."""
        done, self._done = self._done, {}
        self._last_commit = time.monotonic()
        try:
            await self._source.commit(done)
        except TransportError as error:
            self.log.warning("%s; the next commit makes up for it", error)
            self._done = done | self._done

    async def _leave_partitions(self, partitions: set[int]) -> None:
        """Another worker takes over: finish, commit, and forget the users of these partitions."""
        if self.should_stop:  # `on_stop` holds the lock, and waits for this
            return
        async with self._batch:
            await self._settle()
            await self._commit()
            self._ownership.left(partitions)
            if self._firing is not None:
                self._firing.left(partitions)
            self.recommender.users.forget_partitions(partitions)

    # Partitions

    def _note_assigned(self, partitions: set[int]) -> None:
        self._ownership.assigned(partitions)

    async def _take_partitions(self) -> None:
        """Make the partitions ours that Kafka gave us."""
        waiting = self._ownership.waiting()
        if waiting:
            await self._settle()
        for partition in waiting:
            bounds = await self._try(partial(self._ownership.bounds, partition), "reading offsets")
            held = await self._try(partial(self._ownership.take, partition, bounds), "claiming a partition")
            if self._firing is not None:
                await self._try(partial(self._firing.take, partition), "looking for triggers")
            if held.muted_until:
                self._say_rebuild(partition, held.muted_until)

    async def _look_for_a_flush(self) -> None:
        """Begin to rebuild the partitions of which Redis lost what it held."""
        for partition in await self._try(self._ownership.emptied, "looking for fences"):
            if partition in self._source.assigned():
                await self._rebuild(partition, await self._source.position(partition))

    async def _rebuild(self, partition: int, until: int) -> None:
        """Redis is empty: write what is in memory, and apply again the events before offset `until`."""
        held = self._ownership.held(partition)
        if held is None:
            return
        await self._settle()
        held.muted_until = max(held.muted_until, until)
        self._say_rebuild(partition, held.muted_until)
        users = self.recommender.users.of_partition(partition)
        if self._firing is not None:
            self._firing.forget(partition)
        await self._write(partition, users, with_states=True)
        bounds = await self._try(partial(self._ownership.bounds, partition), "reading offsets")
        self._source.rewind(partition, bounds.begin)

    async def _end_rebuilds(self) -> None:
        """Tell Redis of partitions whose states are complete again."""
        for partition, held in self._ownership.all_held().items():
            if held.muted_until and partition in self._source.assigned():
                if await self._source.position(partition) < held.muted_until:
                    continue
                await self._settle()
                await self._try(partial(self.store.rebuilt, held.fence), "ending a rebuild")
                held.muted_until = 0
                self.log.info("partition %d is rebuilt", partition)

    def _say_rebuild(self, partition: int, until: int) -> None:
        self.log.warning(
            "Redis lost the users of partition %d: rebuilt from events before %d",
            partition,
            until,
        )

    def _lose(self, partition: int, error: FencedError) -> None:
        """Another worker took a partition while we were away: what we know of it is worth nothing."""
        self.log.warning("%s; what was to be written is dropped", error)
        self.metrics.fenced.inc()
        self._done.pop(partition, None)
        self._ownership.left({partition})
        if self._firing is not None:
            self._firing.left({partition})
        self._lost.add(partition)

    async def _write(self, partition: int, user_ids: Sequence[str], *, with_states: bool = False) -> None:
        """Make the lists of users in memory again, all of one partition, and write them."""
        held = self._ownership.held(partition)
        for start in range(0, max(1, len(user_ids)), RENEWED):  # at least once: that puts the fence back
            some = user_ids[start : start + RENEWED]
            if held is None:
                return
            lists = self._as_json(await asyncio.to_thread(self.recommender.lists, some))
            states = self.recommender.users.pack_all(some) if with_states else []
            triggers = self._firing.pending(some) if with_states and self._firing is not None else None
            await self._try(partial(self._sender.send, self._exposures(lists)), "sending exposures")
            write = partial(self.store.write, lists, states, held.fence, None, triggers)
            try:
                await self._try(write, "writing lists")
            except FencedError as error:
                self._lose(partition, error)
                return
            self.metrics.lists.inc(len(some))

    # What changes beside events

    async def _follow(self, wait_s: float) -> None:
        """Take over new descriptions of items and users."""
        gone: set[str] = set()
        for r in await self._items.poll(5_000, wait_s):
            try:
                item = decode_item(r.key, r.value)
            except EventError as error:
                self.log.warning("%s[%d]@%d: %s", r.topic, r.partition, r.offset, error)
                continue
            if self._firing is not None:
                self._firing.note(r.offset, item)
            if self.recommender.observe_item(item):
                gone.add(item.id if isinstance(item, Tombstone) else item.item_id)
        for r in await self._users.poll(5_000, wait_s):
            try:
                user = decode_user(r.key, r.value)
            except EventError as error:
                self.log.warning("%s[%d]@%d: %s", r.topic, r.partition, r.offset, error)
                continue
            self.recommender.observe_user(user)
            if isinstance(user, Tombstone):
                self._erased.put([token("user", user.id), r.timestamp])
                await self._settle()
                await self._try(partial(self._erase, user.id, r.partition, r.offset), "erasing a user")
        if gone:
            await self._withdraw(gone)

    async def _erase(self, user_id: str, partition: int, offset: int) -> None:
        """Delete what Redis holds of a user, what triggers wait for included."""
        [state] = await self.store.load_states([user_id])
        watched = None
        with contextlib.suppress(StoreError):  # a state that cannot be read is deleted all the same
            if state is not None:
                of, tail = tail_of(state)
                watched = of, list(unpack_memory(tail).watches) if tail else []
        await self.store.erase_user(user_id, partition, offset, watched)

    def _erased_ms(self, user_id: str) -> int:
        """When a user was erased last, in milliseconds; −1 when not, as far as that is remembered."""
        record = self._erased.get(token("user", user_id))
        return -1 if record is None else record[1]

    def _follow_rules(self) -> None:
        """Take over a changed file of rules, and the rules that begin or end now."""
        policy = self.recommender.policy
        if policy is None:
            return
        try:
            rules = self._rules.changed()
        except ConfigError as error:
            self.log.error("%s; the rules from before stay in force", error)
            rules = None
        if rules is not None:
            policy.take(rules)
        if policy.at(int(self.clock() * 1000)):
            self._outdate(is_urgent=True)

    def _outdate(self, *, is_urgent: bool) -> None:
        """Let the lists of all users in memory be made again, at once if the old ones may not be served."""
        self._outdated = dict.fromkeys(self.recommender.users.in_memory())
        self._is_urgent |= is_urgent

    async def _renew(self, handled: int) -> None:
        """After a release, a rollback or other rules, make the lists of users in memory again, some a turn.

        Whoever has an event gets a list with it. The others wait while batches are full, because events wait
        then, too; but not after a rollback or with other rules: an old list may then not be served.
        """
        if not self._outdated or (2 * handled > self.settings.batch_size and not self._is_urgent):
            return
        most = RENEWED if self._is_urgent or not handled else RENEWED_BESIDE
        some = [*islice(self._outdated, most)]
        for user_id in some:
            del self._outdated[user_id]
        self._is_urgent &= bool(self._outdated)
        await self._remake(some)

    async def _remake(self, user_ids: Sequence[str]) -> None:
        """Make the lists of users again, as far as they are in memory."""
        users = self.recommender.users
        await self._settle()
        for partition, some in users.by_partition([u for u in user_ids if u in users]).items():
            await self._write(partition, some)

    async def _withdraw(self, gone: set[str]) -> None:
        """Make the lists again in which an item stands that may no longer be shown."""
        await self._remake(self.recommender.holding(gone))

    async def _sync(self) -> None:
        """Load the current release and the overlays that came since the last look."""
        version = await self.store.current_version()
        if version is None:
            return
        model = self.recommender.model
        try:
            if version != model.version:
                data = await self.store.read_release(version)
                if data is None:
                    return
                release = await asyncio.to_thread(Release.from_bytes, data)
                self.recommender.serve(release, version)
                self._overlays, self._publication = 0, None
                self.metrics.releases.inc()
                step = release.tables.step
                self._outdate(is_urgent=step < self._release_step)  # an earlier one again: a rollback
                self._release_step = step
                self.log.info("serving release %s", version)
            found, overlays = await self.store.read_overlays(version, self._overlays, self._publication)
            if found != self._publication:
                self._overlays, self._publication = 0, found
                model.drop_fresh()
            for data in overlays:
                self.recommender.refresh_model(Overlay.from_bytes(data))
                self._overlays += 1
        except ReleaseError as error:
            self.log.error("release %s is refused, %s is served on: %s", version, model.version, error)

    async def _try(self, action: Callable[[], Awaitable[T]], what: str) -> T:
        """Do something that can be done twice, until it works: nothing is lost while a server is away."""
        attempt = 0
        while True:
            try:
                return await action()
            except (FencedError, EmptiedError, OffsetError):
                raise  # doing it again does not help
            except RecsError as error:
                if self.should_stop:
                    raise
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                self.log.warning("%s: %s; again in %.1f s", what, error, pause)
                self.metrics.retries.inc()
                attempt += 1
                await self.sleep(pause)
