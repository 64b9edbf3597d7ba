"""What triggers have to do beside events: timers that are due, and items that changed, slice by slice.

Each partition has its own clock, its timers in Redis, and its own place in the topic `items`. The clock is
that of the events. While none come it goes on by itself, a little behind the wall, never faster than time
passes: a clock that is set forward fires nothing.

A slice is computed, sent, acknowledged, and then written together with the states that it changed. A crash
in between repeats it from the same states: the same messages with the same ids.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from stream_app.errors import StoreError
from stream_app.events import Item, Tombstone
from stream_app.fencing import TriggerWrites
from stream_app.lookout import Lookout
from stream_app.recommender import Lists, Recommender
from stream_app.store import Store
from stream_app.telemetry import Metrics
from stream_app.transport import OutMessage
from stream_app.triggers.deciding import Decision
from stream_app.triggers.engine import LATE_MS, Look
from stream_app.triggers.intent import Intent
from stream_app.triggers.memory import NEVER_MS, due_of, unpack_memory
from stream_app.triggers.messages import Recommendation, cloud_event
from stream_app.triggers.shelf import Change

SLICE = 500  # users per turn and partition; fewer where fewer fit into memory
GRACE_MS = 10_000  # silence after which a partition's clock goes on by itself
LONGEST_TURN_MS = 5_000  # a turn that seems to have taken longer was a clock that was set
LONGEST_AWAY_MS = 86_400_000  # time without a worker that counts as silence
CHANGES_AT_ONCE = 200  # items whose watchers are asked for in one round trip
MOST_CHANGES = 100_000  # kept for partitions that other workers may hand over


T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A slice of work: users to load, how to look at them, and what is done afterwards.

    Attributes
    ----------
    look
        Looks at those of the users who still have a state; also returns who need not be asked again.
    item_id
        The item that changed; None for timers.
    items_place
        Offset in the topic `items` that is done with when this slice is; negative before the last slice.
    """

    users: Sequence[str]
    look: Callable[[Sequence[str]], tuple[list[Look], list[str]]]
    item_id: str | None = None
    items_place: int = -1


@dataclass
class _Partition:
    """What triggers of a partition are at.

    Attributes
    ----------
    place
        Offset in `items` up to which changes were held against the users of the partition.
    next_due_ms
        Not later than the first timer; 0 when nobody knows.
    silent_ms
        How long there have been no events.
    away_ms
        How long there was no worker before that.
    """

    place: int
    next_due_ms: int = 0
    silent_ms: int = 0
    away_ms: int = 0
    tasks: deque[Task] = field(default_factory=deque)


class Firing:
    """Timers and item changes of one worker's partitions.

    Parameters
    ----------
    recommender
        With a lookout.
    clock
        Milliseconds on the wall.
    """

    def __init__(
        self, recommender: Recommender, lookout: Lookout, store: Store, clock_ms: Callable[[], int]
    ) -> None:
        self._recommender, self._lookout, self._store, self._clock_ms = recommender, lookout, store, clock_ms
        self._slice = min(SLICE, lookout.users.max_users)
        self._partitions: dict[int, _Partition] = {}
        self._offsets: list[int] = []  # of `_changes`
        self._changes: list[Change] = []
        self._known = -1  # changes up to here concern nobody
        self._read = -1  # the last offset of `items`
        self._turn_ms = clock_ms()

    # Partitions

    async def begin(self, partitions: int) -> None:
        """Find out, before items are read from the beginning, which of their changes everybody knows."""
        places = await self._store.trigger_places(range(partitions))
        known = [int(place["items"]) for place in places.values() if "items" in place]
        self._known = min(known, default=NEVER_MS)

    async def take(self, partition: int) -> None:
        """Go on with a partition where its last owner stopped; what is not known of it begins now."""
        found = (await self._store.trigger_places([partition]))[partition]
        place = int(found.get("items", self._read))
        self._partitions[partition] = one = _Partition(min(place, self._read))
        if "clock" in found:
            self._lookout.moved_to(partition, int(found["clock"]))
            one.away_ms = min(max(0, self._clock_ms() - int(found["wall"])), LONGEST_AWAY_MS)
        try:
            self._lookout.intents[partition] = Intent(found.get("intent"))
        except StoreError as error:
            log.error("%s; it begins afresh", error)

    def holds(self, partition: int) -> bool:
        """Whether a partition was taken."""
        return partition in self._partitions

    def left(self, partitions: Iterable[int]) -> None:
        """Partitions go to other workers."""
        for partition in partitions:
            self._partitions.pop(partition, None)
            self._lookout.clocks.pop(partition, None)
            self._lookout.intents.pop(partition, None)

    def forget(self, partition: int) -> None:
        """What Redis held of a partition is lost: its clock begins again with what is replayed."""
        if partition in self._partitions:
            self._partitions[partition] = _Partition(self._read)
        self._lookout.clocks.pop(partition, None)

    # The clock

    def turn(self) -> int:
        """Begin a turn; returns how long the last one took, milliseconds."""
        now_ms = self._clock_ms()
        took = min(max(0, now_ms - self._turn_ms), LONGEST_TURN_MS)
        self._turn_ms = now_ms
        return took

    def pass_time(self, partition: int, took_ms: int, *, silent: bool) -> None:
        """Let time pass in a partition; only in a silent one does that move the clock."""
        one = self._partitions.get(partition)
        if one is None:
            return
        if not silent:
            one.silent_ms = one.away_ms = 0
            return
        before = max(one.silent_ms, GRACE_MS)
        one.silent_ms += took_ms + one.away_ms
        one.away_ms = 0
        clock = self._lookout.clocks.get(partition, -1)
        if clock >= 0 and one.silent_ms > before:
            self._lookout.moved_to(partition, min(clock + one.silent_ms - before, self._clock_ms()))

    # What there is to do

    def caught_up(self) -> None:
        """All items have been read: from now on every change counts."""
        self._known = -1

    def note(self, offset: int, item: Item | Tombstone) -> None:
        """Take over a version of an item."""
        change = self._lookout.engine.observe_item(item)
        self._read = max(self._read, offset)
        if change is None or offset <= self._known or not self._lookout.engine.follows_items:
            return
        self._offsets.append(offset)
        self._changes.append(change)
        if len(self._offsets) > 2 * MOST_CHANGES:
            del self._offsets[:MOST_CHANGES], self._changes[:MOST_CHANGES]

    def may_be_due(self, partition: int) -> bool:
        """Whether `next` will ask Redis, where the last batch has to be written by then."""
        one = self._partitions.get(partition)
        clock = self._lookout.clocks.get(partition, -1)
        if one is None or clock < 0:
            return False
        return one.next_due_ms <= clock - LATE_MS or (bool(self._offsets) and self._offsets[-1] > one.place)

    async def next(self, partition: int) -> Task | None:
        """The next slice of a partition, None when there is nothing to do now."""
        one = self._partitions.get(partition)
        clock = self._lookout.clocks.get(partition, -1)
        if one is None or clock < 0:
            return None
        upto = clock - LATE_MS
        if one.next_due_ms <= upto:
            users, first = await self._store.due_users(partition, upto, self._slice)
            one.next_due_ms = NEVER_MS if first is None else first
            if users:
                return Task(users, lambda some: (self._lookout.on_time(some, upto), []))
        if not one.tasks:
            await self._find_watchers(partition, one)
        return one.tasks.popleft() if one.tasks else None

    async def _find_watchers(self, partition: int, one: _Partition) -> None:
        """Make slices of who watches the next items that changed."""
        start = bisect_right(self._offsets, one.place)
        offsets = self._offsets[start : start + CHANGES_AT_ONCE]
        changes = self._changes[start : start + CHANGES_AT_ONCE]
        if not changes:
            one.place = max(one.place, self._read)
            return
        watchers = await self._store.watchers(partition, [change.item_id for change in changes])
        for offset, change, users in zip(offsets, changes, watchers, strict=True):
            for begin in range(0, len(users), self._slice):
                some, is_last = users[begin : begin + self._slice], begin + self._slice >= len(users)
                one.tasks.append(self._of_change(partition, offset, change, some, is_last))
        if not one.tasks:
            one.place = offsets[-1]

    def _of_change(
        self, partition: int, offset: int, change: Change, users: Sequence[str], is_last: bool
    ) -> Task:
        def look(some: Sequence[str]) -> tuple[list[Look], list[str]]:
            return self._lookout.on_change(some, change, offset, self._lookout.clocks.get(partition, -1))

        return Task(users, look, change.item_id, offset if is_last else -1)

    # What comes of it

    def writes(self, partition: int, looks: Sequence[Look], waited: Sequence[str] = ()) -> TriggerWrites:
        """What Redis has to know after looks at users of a partition.

        Parameters
        ----------
        waited
            Users whose timers were due, those who are not there any more included.
        """
        one = self._partitions.get(partition)
        due = dict.fromkeys(waited, NEVER_MS)
        due |= {look.user_id: look.due_ms for look in looks if look.moved or look.user_id in due}
        timers = [(user_id, _or_none(due_ms)) for user_id, due_ms in due.items()]
        if one is not None:
            one.next_due_ms = min([one.next_due_ms, *due.values()])
        clock, intent = self._lookout.clocks.get(partition, -1), self._lookout.intents.get(partition)
        return TriggerWrites(
            timers,
            [(item_id, look.user_id, clock) for look in looks for item_id in look.watched],
            clock_ms=clock,
            wall_ms=self._clock_ms(),
            items_place=-1 if one is None else one.place,
            intent=b"" if intent is None else intent.pack(),
        )

    def pending(self, user_ids: Sequence[str]) -> TriggerWrites:
        """What users in memory wait for, to be written where it was lost."""
        tails = ((u, self._lookout.users.tails.get(u)) for u in user_ids)
        memories = [(u, unpack_memory(tail)) for u, tail in tails if tail is not None]
        return TriggerWrites(
            [(u, due) for u, m in memories if (due := due_of(m)) < NEVER_MS],
            [(item_id, u, watch.since_ms) for u, m in memories for item_id, watch in m.watches.items()],
        )

    async def done(self, partition: int, task: Task, gone: Sequence[str]) -> None:
        """A slice has taken effect; `gone` are those who do not watch its item any more."""
        if task.item_id is not None:
            await self._store.unwatch(partition, task.item_id, gone)
        one = self._partitions.get(partition)
        if one is not None and task.items_place >= 0:
            one.place = max(one.place, task.items_place)

    def messages(
        self, looks: Sequence[Look], lists: Lists, topic: str, suppressed_topic: str, namespace: str
    ) -> list[OutMessage]:
        """The messages of looks; those that are sent carry what is recommended to the user now.

        Parameters
        ----------
        lists
            With the list of every user who is to get a message.
        """
        decisions = [d for look in looks for d in look.decisions]
        sent = [d for d in decisions if not d.held]
        picks = iter(self._recommended(sent, lists))
        version = self._recommender.model.version
        messages: list[OutMessage] = []
        for d in decisions:
            value = cloud_event(d, namespace, version, () if d.held else next(picks))
            messages.append((suppressed_topic if d.held else topic, d.user_id.encode(), value, None))
        return messages

    def _recommended(self, sent: Sequence[Decision], lists: Lists) -> list[list[Recommendation]]:
        """What is recommended in messages: the best of the list without what the message is about."""
        if not sent:
            return []
        places = {user_id: n for n, user_id in enumerate(lists.user_ids)}
        most = self._lookout.engine.rules.recommendations
        picks = []
        for d in sent:
            place, about = places[d.user_id], {item["item_id"] for item in d.items}
            listed = zip(lists.items[place], lists.scores[place], strict=True)
            picks.append([*islice((pick for pick in listed if pick[0] not in about), most)])
        reasons = self._recommender.reasons([d.user_id for d in sent], picks)
        return [
            [Recommendation(i, s, why) for (i, s), why in zip(some, whys, strict=True)]
            for some, whys in zip(picks, reasons, strict=True)
        ]


def fitting(work: Sequence[tuple[int, T, Task]], most: int) -> list[list[tuple[int, T, Task]]]:
    """Slices of work of several partitions, as many together as have no more than so many users.

    >>> work = [(p, None, Task(["u"] * n, lambda _: ([], []))) for p, n in enumerate((3, 2, 4))]
    >>> [[p for p, _, _ in some] for some in fitting(work, 5)]
    [[0, 1], [2]]
    """
    found: list[list[tuple[int, T, Task]]] = []
    room = 0
    for one in work:
        users = len(one[2].users)
        if not found or users > room:
            found.append([])
            room = most
        found[-1].append(one)
        room -= users
    return found


def users_of_messages(looks: Sequence[Look]) -> list[str]:
    """Users who are to get a message."""
    return [look.user_id for look in looks if any(not d.held for d in look.decisions)]


def count_decisions(metrics: Metrics, looks: Sequence[Look]) -> None:
    """Count what became of the rules that matched."""
    for (rule, outcome), n in Counter(
        (d.rule.name, d.held or "sent") for look in looks for d in look.decisions
    ).items():
        metrics.triggers.labels(rule, outcome).inc(n)


def _or_none(due_ms: int) -> int | None:
    return None if due_ms >= NEVER_MS else due_ms
