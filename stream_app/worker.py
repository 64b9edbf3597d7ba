"""The worker: events in, lists out. Each effect once, the effects of one batch while the next is computed.

    poll ─▶ decode ─▶ load states ─▶ apply (pure) ─┬▶ poll the next batch …
                                                   └▶ send examples, dead letters ─▶ write Redis ─▶ commit
                                                      └── wait for the acknowledgement of each ──┘

A batch is what a turn has read, of whatever partitions. Batches take effect one after the other, never two
at a time. A crash before the Redis write makes the batch happen again, from the same state to the same
outputs; after it, the events are known by their offsets and skipped. Examples sent twice carry the same
(partition, offset), and the learner learns them once.
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
from stream_app.applying import Applied, Applier, Part
from stream_app.config import Settings
from stream_app.errors import (
    ConfigError,
    EmptiedError,
    EventError,
    OffsetError,
    RecsError,
    ReleaseError,
    StoreError,
    TransportError,
)
from stream_app.events import Message, Tombstone, decode_item, decode_user
from stream_app.failpoints import failpoint
from stream_app.fencing import Effects, Fence, TriggerWrites
from stream_app.firing import Firing, Task, count_decisions, fitting
from stream_app.lists.exploring import Exploration
from stream_app.lists.rules import RulesFile
from stream_app.model.key_ring import KeyRing
from stream_app.model.release import Overlay, Release
from stream_app.model.user_table import tail_of
from stream_app.ownership import Held, Ownership
from stream_app.recommender import Recommender
from stream_app.store import Store
from stream_app.telemetry import Metrics
from stream_app.transport import Connection, EventSource, LogReader, OutMessage, Sender, ensure_topics
from stream_app.triggers.engine import TriggerEngine
from stream_app.triggers.matching import in_words
from stream_app.triggers.memory import unpack_memory
from stream_app.triggers.rules import TriggerRules
from stream_app.triggers.rules_file import load_trigger_rules

POLL_S = 0.1
COMMIT_S = 0.25
MOST_ERASED = 1_000_000  # users whose erasure is remembered for a rebuild from the log, those erased last
RENEWED = 1_000  # lists made again per turn when there is nothing else to do …
RENEWED_BESIDE = 25  # … and together with a batch, whose users wait half a millisecond longer
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
        self._applier = Applier(settings, self.recommender, self._firing, clock)
        self._batch = asyncio.Lock()  # held while a batch is under way
        self._done: dict[int, int] = {}  # partition → next offset to commit
        self._effect: asyncio.Task[None] | None = None  # of the last batch
        self._outdated: dict[str, None] = {}  # users whose lists are of another release …
        self._is_urgent = False  # … which may not be served any longer
        self._release_step = -1  # of the release that is served
        self._overlays = 0  # overlays applied over the release
        self._publication: bytes | None = None  # the list of overlays that they come from
        self._last_commit = self._last_sync = 0.0
        self.ready = False

    async def on_start(self) -> None:
        """Connect, read what the shop says about items and users, join the group."""
        await ensure_topics(self._connection, topics(self.settings), self.settings.replication)
        await self.store.ping()
        await self._sender.start()
        self._applier.examples_partitions = await self._sender.partitions(self.settings.examples_topic)
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
            handled = await self._handle(batches)
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

    async def _handle(self, batches: Mapping[int, Sequence[Message]]) -> int:
        """Apply what a turn has read, as one batch; returns how many events that were."""
        old, new = [], []
        for partition, records in batches.items():
            held = self._ownership.held(partition)
            if held is None:  # not ours yet, or not any more
                self._source.rewind(partition, records[0].offset)
                continue
            begin = sum(r.offset < held.muted_until for r in records)
            if begin:
                old.append(Part(partition, held, records[:begin], muted=True))
            if begin < len(records):
                new.append(Part(partition, held, records[begin:]))
        failed = await self._apply(old)
        await self._apply([part for part in new if part.partition not in failed])
        return sum(map(len, batches.values()))

    async def _apply(self, parts: Sequence[Part]) -> set[int]:
        """Apply parts, and let them take effect while the next are computed.

        Returns
        -------
        Partitions of which nothing can be applied: Redis turned out to be empty, or they belong to others.
        """
        began = time.perf_counter()
        failed: set[int] = set()
        while parts:
            batch = [self._applier.decode(part, self._erased_ms) for part in parts]
            try:
                users = [event.user_id for decoded in batch for event in decoded.events]
                await self._load(users, [part.held.fence for part in parts])
                break
            except EmptiedError as error:
                failed.update(error.partitions)
            for part in parts:
                if part.partition in failed:
                    await self._rebuild(part.partition, part.records[0].offset)
            parts = [part for part in parts if part.partition not in failed]
        if not parts:
            return failed
        beside = self._renewed_beside(users)
        applied, renewed = await asyncio.to_thread(self._applier.apply, batch, beside)
        failpoint("worker.after_apply")
        await self._settle()
        ours = [one for one in applied if self._ownership.held(one.part.partition) is one.part.held]
        effects = [self._effects_of(one) for one in ours] + self._effects_of_lists(renewed)
        messages = [message for one in ours for message in one.messages] + self._applier.exposures(renewed)
        self._effect = asyncio.create_task(self._take_effect(ours, effects, messages, began))
        return failed | {part.partition for part in parts} - {one.part.partition for one in ours}

    def _effects_of(self, applied: Applied) -> Effects:
        """What Redis has to hold after a part."""
        part, outcome = applied.part, applied.outcome
        triggers = TriggerWrites()
        if self._firing is not None:
            triggers = self._firing.writes(part.partition, outcome.looks)
        return Effects(part.held.fence, applied.lists, outcome.states, part.records[-1].offset, triggers)

    def _effects_of_lists(self, lists: Sequence[tuple[str, bytes]]) -> list[Effects]:
        """What Redis has to hold after lists were made again beside a batch."""
        users, made, found = self.recommender.users, dict(lists), []
        there = [user_id for user_id in made if user_id in users]  # not those of a partition just lost
        for partition, user_ids in users.by_partition(there).items():
            held = self._ownership.held(partition)
            if held is not None:
                found.append(Effects(held.fence, [(user_id, made[user_id]) for user_id in user_ids]))
        return found

    async def _take_effect(
        self,
        batch: Sequence[Applied],
        effects: Sequence[Effects],
        messages: Sequence[OutMessage],
        began: float,
    ) -> None:
        """Send, then write, then let commit: a crash in between repeats what came before it."""
        await self._try(lambda: self._sender.send(messages), "sending examples")
        failpoint("worker.after_send")
        refused = await self._write(effects)
        failpoint("worker.after_write")
        self.metrics.lists.inc(sum(len(e.lists) for e in effects if e.fence.partition not in refused))
        for applied in batch:
            part, outcome = applied.part, applied.outcome
            if part.partition in refused:
                continue
            if part.muted:
                self.metrics.rebuilt.inc(outcome.applied)
                continue
            self._done[part.partition] = part.records[-1].offset + 1
            self.metrics.events.inc(outcome.applied)
            self.metrics.skipped.inc(outcome.skipped)
            self.metrics.dead_letters.inc(applied.rejected)
            count_decisions(self.metrics, outcome.looks)
        self.metrics.batch.observe(time.perf_counter() - began)

    async def _write(self, effects: Sequence[Effects]) -> set[int]:
        """Write to Redis; returns the partitions that turned out to belong to other workers."""
        refused = await self._try(lambda: self.store.write_fenced(effects), "writing lists")
        for partition in refused:
            self._lose(partition)
        return refused

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

    async def _load(
        self, user_ids: Sequence[str], fences: Sequence[Fence], *, only_known: bool = False
    ) -> None:
        """Bring users into memory, new ones, too, unless `only_known`."""
        users = self.recommender.users
        missing = users.keep(dict.fromkeys(user_ids))
        states = await self._try(lambda: self.store.load_states(missing, fences), "loading users")
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
        firing = self._firing
        if firing is None:
            return False
        took_ms = firing.turn()
        mine = {p: held for p, held in self._ownership.all_held().items() if firing.holds(p)}
        for partition, held in mine.items():
            silent = partition not in batches and not held.muted_until
            silent = silent and await self._try(partial(self._source.is_silent, partition), "looking for lag")
            firing.pass_time(partition, took_ms, silent=silent)
        if any(map(firing.may_be_due, mine)):
            await self._settle()
        work = []
        for partition, held in mine.items():
            task = await self._try(partial(firing.next, partition), "looking for due triggers")
            if task is not None:
                work.append((partition, held, task))
        for some in fitting(work, self.recommender.users.max_users):
            await self._carry_out(some)
        return bool(work)

    async def _carry_out(self, work: Sequence[tuple[int, Held, Task]]) -> None:
        """Look at users, send what comes of it, and write it down: a crash in between repeats the same."""
        firing = self._firing
        await self._settle()
        work = [(p, held, task) for p, held, task in work if self._ownership.held(p) is held]
        if firing is None or not work:
            return
        try:
            users = [user_id for _, _, task in work for user_id in task.users]
            await self._load(users, [held.fence for _, held, _ in work], only_known=True)
        except EmptiedError as error:
            for partition in error.partitions:
                await self._rebuild(partition, await self._source.position(partition))
            await self._carry_out([one for one in work if one[0] not in error.partitions])
            return
        fired = await asyncio.to_thread(lambda: [self._applier.fire(task) for _, _, task in work])
        messages = [
            message
            for (_, held, _), one in zip(work, fired, strict=True)
            for message in ([] if held.muted_until else one.messages)
        ]
        await self._try(lambda: self._sender.send(messages), "sending triggers")
        failpoint("trigger.after_send")
        effects = []
        for (partition, held, task), one in zip(work, fired, strict=True):
            triggers = firing.writes(partition, one.looks, task.users if task.item_id is None else ())
            if task.items_place >= 0:
                triggers = replace(triggers, items_place=task.items_place)
            effects.append(Effects(held.fence, one.lists, one.states, None, triggers))
        refused = await self._write(effects)
        failpoint("trigger.after_write")
        for (partition, held, task), one in zip(work, fired, strict=True):
            if partition in refused:
                continue
            await self._try(partial(firing.done, partition, task, one.gone), "ending a trigger")
            self.metrics.lists.inc(len(one.lists))
            if not held.muted_until:
                count_decisions(self.metrics, one.looks)

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
        await self._rewrite(partition, users, with_states=True)
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

    def _lose(self, partition: int) -> None:
        """Another worker took a partition while we were away: what we know of it is worth nothing."""
        self.log.warning(
            "partition %d belongs to another worker since; what was to be written is dropped", partition
        )
        self.metrics.fenced.inc()
        self._done.pop(partition, None)
        self._ownership.left({partition})
        if self._firing is not None:
            self._firing.left({partition})
        self._lost.add(partition)

    async def _rewrite(self, partition: int, user_ids: Sequence[str], *, with_states: bool = False) -> None:
        """Make the lists of users in memory again, all of one partition, and write them."""
        held = self._ownership.held(partition)
        for start in range(0, max(1, len(user_ids)), RENEWED):  # at least once: that puts the fence back
            some = user_ids[start : start + RENEWED]
            if held is None:
                return
            lists = await asyncio.to_thread(self._applier.lists, some)
            effects = Effects(held.fence, lists)
            if with_states:
                triggers = TriggerWrites() if self._firing is None else self._firing.pending(some)
                states = self.recommender.users.pack_all(some)
                effects = replace(effects, states=states, triggers=triggers)
            await self._try(partial(self._sender.send, self._applier.exposures(lists)), "sending exposures")
            if await self._write([effects]):
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

    def _renewed_beside(self, user_ids: Sequence[str]) -> list[str]:
        """Some whose outdated lists are made again together with a batch, whose own users get new ones.

        The others wait while batches are full, because events wait then, too.
        """
        for user_id in user_ids if self._outdated else ():
            self._outdated.pop(user_id, None)
        if 2 * len(user_ids) > self.settings.batch_size:
            return []
        return self._take_outdated(RENEWED_BESIDE)

    def _take_outdated(self, most: int) -> list[str]:
        some = [*islice(self._outdated, most)]
        for user_id in some:
            del self._outdated[user_id]
        return [user_id for user_id in some if user_id in self.recommender.users]

    async def _renew(self, handled: int) -> None:
        """After a release, a rollback or other rules, make the lists of users in memory again, some a turn.

        While there are events, a few are made together with them; but not after a rollback or with other
        rules: an old list may then not be served.
        """
        if self._outdated and (self._is_urgent or not handled):
            await self._remake(self._take_outdated(RENEWED))
            self._is_urgent &= bool(self._outdated)

    async def _remake(self, user_ids: Sequence[str]) -> None:
        """Make the lists of users again, as far as they are in memory."""
        users = self.recommender.users
        await self._settle()
        for partition, some in users.by_partition([u for u in user_ids if u in users]).items():
            await self._rewrite(partition, some)

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
            except (EmptiedError, OffsetError):
                raise  # doing it again does not help
            except RecsError as error:
                if self.should_stop:
                    raise
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                self.log.warning("%s: %s; again in %.1f s", what, error, pause)
                self.metrics.retries.inc()
                attempt += 1
                await self.sleep(pause)
