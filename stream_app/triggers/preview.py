"""What would these rules have sent? A history goes through the core of the triggers, and nothing is sent.

A preview holds all users in memory and looks at them as workers do: events in their order, timers when the
clock of the partition has passed, items as they change. So it says of a day what workers said on that day.
What it cannot know is what would have been recommended, and how users would have answered.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from stream_app.events import Event, Item, Tombstone, User
from stream_app.events.records import iso_time
from stream_app.triggers.deciding import Decision
from stream_app.triggers.engine import LATE_MS, Look, TriggerEngine
from stream_app.triggers.intent import Intent, Moment
from stream_app.triggers.memory import NEVER_MS
from stream_app.triggers.messages import cloud_event_fields
from stream_app.triggers.rules import TriggerRules


@dataclass(frozen=True)
class PreviewReport:
    """What rules would have sent.

    Attributes
    ----------
    days
        Day (UTC) → rule → messages.
    suppressed
        Rule → reason → messages that were held back.
    users
        Rule → users with a message.
    overlap
        Pairs of rules → users with messages of both.
    samples
        A few messages of each rule, without recommendations.
    """

    events: int
    first_ms: int
    last_ms: int
    days: Mapping[str, Mapping[str, int]]
    sent: Mapping[str, int]
    suppressed: Mapping[str, Mapping[str, int]]
    users: Mapping[str, int]
    overlap: Mapping[tuple[str, str], int]
    samples: Sequence[Mapping[str, Any]]

    def to_json_object(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "events": self.events,
            "from": None if self.first_ms < 0 else iso_time(self.first_ms),
            "until": None if self.last_ms < 0 else iso_time(self.last_ms),
            "sent": self.sent,
            "suppressed": self.suppressed,
            "users": self.users,
            "days": self.days,
            "overlap": [{"rules": list(pair), "users": n} for pair, n in self.overlap.items()],
            "samples": list(self.samples),
        }


@dataclass
class _Person:
    """A user: the packed memory, the time of the last event, the next timer, and the partition."""

    partition: int
    packed: bytes | None = None
    last_ms: int = -1
    due_ms: int = NEVER_MS


@dataclass
class _Clock:
    """A partition: its clock, its model, and the pending timers, some of which may not stand any more."""

    ms: int = -1
    offset: int = -1
    intent: Intent = field(default_factory=Intent)
    timers: list[tuple[int, str]] = field(default_factory=list)


class Preview:
    """Replays a history through the core.

    Parameters
    ----------
    now_ms
        No event of which nobody knows when it was written is later. Without it, each happens at its own time.

    Attributes
    ----------
    decisions
        All that was decided, in order.

    Examples
    --------
    >>> from stream_app.triggers.rules_file import builtin_rules
    >>> noon = 1_767_614_400_000
    >>> preview = Preview(builtin_rules())
    >>> preview.feed(User("u1", True))
    >>> preview.feed(Event("e1", "add_to_cart", noon, "u1", item_id="sku-1"))
    >>> preview.feed(Event("e2", "view_item", noon + 3_600_000, "u2", item_id="sku-1"))
    >>> preview.report().sent
    {'cart_abandonment': 1}
    """

    def __init__(self, rules: TriggerRules, now_ms: int | None = None) -> None:
        self.engine = TriggerEngine(rules)
        self.decisions: list[Decision] = []
        self._now_ms = now_ms
        self._people: dict[str, _Person] = {}
        self._watchers: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._clocks: defaultdict[int, _Clock] = defaultdict(_Clock)
        self._events = self._versions = 0
        self._first_ms = self._last_ms = -1

    def feed(
        self,
        record: Event | Item | User | Tombstone,
        partition: int = 0,
        offset: int | None = None,
        written_ms: int | None = None,
    ) -> None:
        """Apply the next record; events of one partition move the clock that its timers go by.

        Parameters
        ----------
        offset
            Of an event in its partition; the next one unless given.
        written_ms
            When an event was written to the topic: it did not happen later.
        """
        if isinstance(record, Event):
            limit_ms = self._now_ms if written_ms is None else written_ms
            self._apply(record if limit_ms is None else record.not_after(limit_ms), partition, offset)
        elif isinstance(record, Item):
            self._change(record)
        elif isinstance(record, User):
            self.engine.observe_user(record)

    def _apply(self, event: Event, partition: int, offset: int | None) -> None:
        at_ms, clock = event.event_time_ms, self._clocks[partition]
        upto_ms = max(at_ms, clock.ms - LATE_MS)
        offset = clock.offset + 1 if offset is None else offset
        clock.intent.advance(offset, clock.ms)
        clock.ms, clock.offset = max(clock.ms, at_ms), offset
        self._events += 1
        self._last_ms = max(self._last_ms, at_ms)
        self._first_ms = at_ms if self._first_ms < 0 else min(self._first_ms, at_ms)
        person = self._people.get(event.user_id)
        if person is None:
            person = self._people[event.user_id] = _Person(partition)
        if self.engine.concerns(event.event_type, upto_ms, person.packed):
            moments: list[Moment] = []
            turn = self.engine.begin(event.user_id, person.packed, person.last_ms, moments)
            self.engine.apply(turn, event, upto_ms, offset, clock.intent)
            look = self.engine.end(turn)
            clock.intent.absorb(moments)
            self._keep(look, person)
        person.last_ms = max(person.last_ms, at_ms)
        self._fire(clock)

    def _fire(self, clock: _Clock) -> None:
        """Fire what is due when a partition's clock has moved."""
        upto_ms = clock.ms - LATE_MS
        while clock.timers and clock.timers[0][0] <= upto_ms:
            due_ms, user_id = heapq.heappop(clock.timers)
            person = self._people[user_id]
            if person.due_ms == due_ms:
                self._keep(self.engine.on_time(user_id, person.packed, person.last_ms, upto_ms), person)

    def _change(self, item: Item) -> None:
        self._versions += 1
        change = self.engine.observe_item(item)
        if change is None:
            return
        watchers = self._watchers[item.item_id]
        for user_id in list(watchers):
            person = self._people[user_id]
            clock_ms = self._clocks[person.partition].ms
            look = self.engine.on_change(
                user_id, person.packed, person.last_ms, change, self._versions, clock_ms
            )
            if look is None:
                del watchers[user_id]
            else:
                self._keep(look, person)

    def _keep(self, look: Look, person: _Person) -> None:
        person.packed = look.packed
        if look.due_ms != person.due_ms:
            person.due_ms = look.due_ms
            if look.due_ms < NEVER_MS:
                heapq.heappush(self._clocks[person.partition].timers, (look.due_ms, look.user_id))
        for item_id in look.watched:
            self._watchers[item_id][look.user_id] = None
        self.decisions += look.decisions

    def report(self, last_ms: int | None = None, samples: int = 1, namespace: str = "rec") -> PreviewReport:
        """What was decided so far.

        Parameters
        ----------
        last_ms
            Count only what was decided within so much event time before the last event.
        samples
            Messages of each rule to show.
        """
        since = -1 if last_ms is None else self._last_ms - last_ms
        decided = [d for d in self.decisions if d.at_ms >= since]
        sent = [d for d in decided if not d.held]
        days: defaultdict[str, Counter[str]] = defaultdict(Counter)
        suppressed: defaultdict[str, Counter[str]] = defaultdict(Counter)
        of_user: defaultdict[str, set[str]] = defaultdict(set)
        shown: Counter[str] = Counter()
        messages = []
        for d in sorted(sent, key=lambda d: d.at_ms):
            days[iso_time(d.at_ms)[:10]][d.rule.name] += 1
            of_user[d.user_id].add(d.rule.name)
            if shown[d.rule.name] < samples:
                shown[d.rule.name] += 1
                messages.append(cloud_event_fields(d, namespace, "preview"))
        for d in decided:
            if d.held:
                suppressed[d.rule.name][d.held] += 1
        pairs = Counter(pair for rules in of_user.values() for pair in combinations(sorted(rules), 2))
        return PreviewReport(
            events=self._events,
            first_ms=max(self._first_ms, since) if self._events else -1,
            last_ms=self._last_ms,
            days={day: dict(count) for day, count in sorted(days.items())},
            sent=dict(Counter(d.rule.name for d in sent)),
            suppressed={rule: dict(count.most_common()) for rule, count in sorted(suppressed.items())},
            users=dict(Counter(rule for rules in of_user.values() for rule in sorted(rules))),
            overlap=dict(pairs.most_common()),
            samples=messages,
        )


def preview(
    rules: TriggerRules,
    records: Iterable[Event | Item | User],
    *,
    last_ms: int | None = None,
    samples: int = 1,
    now_ms: int | None = None,
) -> PreviewReport:
    """Replay records, events in the order in which they were written, and say what would have been sent."""
    run = Preview(rules, now_ms)
    for record in records:
        run.feed(record)
    return run.report(last_ms, samples)
