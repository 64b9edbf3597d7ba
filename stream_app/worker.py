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
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
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
from stream_app.lists.exploring import Exploration
from stream_app.lists.rules import RulesFile
from stream_app.model.key_ring import KeyRing
from stream_app.model.release import Overlay, Release
from stream_app.ownership import Held, Ownership
from stream_app.recommender import Lists, Outcome, Recommender
from stream_app.store import Store, lists_json
from stream_app.telemetry import Metrics
from stream_app.transport import Connection, EventSource, LogReader, OutMessage, Sender, ensure_topics

POLL_S = 0.1
COMMIT_S = 0.25
MOST_ERASED = 1_000_000  # users whose erasure is remembered for a rebuild from the log, those erased last
RENEWED = 1_000  # lists made again per turn after a new release
T = TypeVar("T")
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


def topics(settings: Settings) -> dict[str, tuple[int, bool]]:
    """The topics of one system: name → (partitions, compacted)."""
    n = settings.partitions
    exposures = {settings.exposures_topic: (n, False)} if settings.explore_places else {}
    return exposures | {
        settings.events_topic: (n, False),
        settings.examples_topic: (n, False),
        settings.items_topic: (1, True),
        settings.users_topic: (n, True),
        settings.control_topic: (1, False),
        settings.dead_letter_topic: (1, False),
    }


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
            neighbours=settings.neighbours,
            max_users=settings.max_users_in_memory,
            max_items_per_user=settings.max_items_per_user,
            rules=self._rules.rules,
            budget=settings.budget,
            explore=Exploration(settings.explore_places, settings.explore_share)
            if settings.explore_places
            else None,
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
        self._lost: set[int] = set()  # partitions that were taken from us, their users still in memory
        self._erased = KeyRing(MOST_ERASED, 2)  # user's token, time of the tombstone in milliseconds
        self._items = LogReader(connection, settings.items_topic)
        self._users = LogReader(connection, settings.users_topic)
        self._sender = Sender(connection)
        self._policy = DecodePolicy(max_bytes=settings.max_event_bytes)
        self._batch = asyncio.Lock()  # held while a batch is under way
        self._done: dict[int, int] = {}  # partition → next offset to commit
        self._effect: asyncio.Task[None] | None = None  # of the last batch
        self._outdated: list[str] = []  # users whose lists are of another release
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
        await self._items.start()
        await self._users.start()
        await self._sync()  # first: what is described has to be less than what is used
        while not (await self._items.caught_up() and await self._users.caught_up()):
            await self._follow(POLL_S)
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
            batches = await self._source.poll(self.settings.batch_size, POLL_S)
            handled = 0
            for partition, records in batches.items():
                await self._handle(partition, records)
                handled += len(records)
            await self._end_rebuilds()
            if not handled:
                await self._settle()
            await self._renew()
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
            await self._load(events, held)
        except EmptiedError:
            await self._rebuild(partition, records[0].offset)
            return False
        work = asyncio.to_thread(self._compute, partition, offsets, events, rejected)
        messages, lists, outcome = await work
        failpoint("worker.after_apply")
        await self._settle()
        if self._ownership.held(partition) is not held:
            return False

        async def take_effect() -> None:
            if not muted:
                await self._try(lambda: self._sender.send(messages), "sending examples")
            failpoint("worker.after_send")
            place = records[-1].offset
            try:
                await self._try(
                    lambda: self.store.write(lists, outcome.states, held.fence, place), "writing lists"
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
        return messages + self._exposures(lists), lists, outcome

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
                events.append(
                    decode_event(r.value, key=r.key, headers=r.headers, policy=self._policy, now_ms=now_ms)
                )
                offsets.append(r.offset)
            except EventError as error:
                rejected.append(
                    Rejected(r.topic, r.partition, r.offset, r.key, r.value, error.field, error.reason)
                )
        return offsets, events, rejected

    async def _load(self, events: Sequence[Event], held: Held) -> None:
        users = self.recommender.users
        missing = self.recommender.missing(events)
        states = await self._try(lambda: self.store.load_states(missing, held.fence), "loading users")
        for user_id, state in zip(missing, states, strict=True):
            try:
                users.load(user_id, state)
            except StoreError as error:
                self.log.error("%s; the user starts afresh", error)
                users.load(user_id, None)

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
            await self._try(lambda: self._sender.send(self._exposures(lists)), "sending exposures")  # noqa: B023
            try:
                await self._try(lambda: self.store.write(lists, states, held.fence), "writing lists")  # noqa: B023
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
                erase = partial(self.store.erase_user, user.id, r.partition, r.offset)
                await self._try(erase, "erasing a user")
        if gone:
            await self._withdraw(gone)

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
            self._outdated = self.recommender.users.in_memory()

    async def _renew(self) -> None:
        """After a new release, a rollback or other rules, make the lists of the users in memory again.

        Some at a turn; nobody reads a list of a model that is no longer served for longer than this takes.
        """
        some, self._outdated = self._outdated[:RENEWED], self._outdated[RENEWED:]
        if some:
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
                self.recommender.serve(await asyncio.to_thread(Release.from_bytes, data), version)
                self._overlays, self._publication = 0, None
                self.metrics.releases.inc()
                self._outdated = self.recommender.users.in_memory()
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
