"""What triggers brought: who bought after a message, beside who would have got it but was held out.

The unit is a user under a rule, at the first time that the rule meant the user: a *first exposure*. What
counts is that the message was to be sent, not that it was delivered or read (*intention to treat*), because
nobody knows who of the held-out users would have read it. A user converts by a purchase within the window
after that time, whatever was bought. Over all rules a user counts once, at the first exposure of any rule.

An exposure whose window was still open when the data end counts nowhere yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

import msgspec

from stream_app.errors import EventError
from stream_app.events.records import Event, iso_time
from stream_app.triggers.uplift import Counts, Interval, difference, ratio

HOLD_OUT = "hold_out"
TYPE_PREFIX = "recs.trigger."


class Exposure(NamedTuple):
    """A rule meant a user: sent, held out, or suppressed for another reason."""

    id: str
    rule: str
    user_id: str
    at_ms: int
    suppressed: str = ""


@dataclass(frozen=True)
class Arm:
    """Users of one side: how many, how many bought, and for how much."""

    users: int = 0
    converted: int = 0
    revenue: float = 0.0

    @property
    def rate(self) -> float | None:
        """The share that bought."""
        return self.converted / self.users if self.users else None


@dataclass(frozen=True)
class Effect:
    """What became of the users of a rule, or of all.

    Attributes
    ----------
    rule
        Its name; ``all`` for all rules together.
    sent, held_out
        Users whose first exposure was a message, or a hold-out.
    uplift
        Share of buyers with the message minus share without, in points of 1; None without a comparison.
    ratio
        One share over the other; 1.1 says that a tenth more of the users bought.
    open
        Users whose window was not over when the data end.
    """

    rule: str
    sent: Arm
    held_out: Arm
    uplift: Interval | None
    ratio: Interval | None
    open: int = 0

    @property
    def verdict(self) -> str:
        """What the interval says, in one word or a few."""
        if self.uplift is None:
            return "nobody to compare with"
        if not self.uplift.excludes(0.0):
            return "not proven"
        return "more bought" if self.uplift.value > 0 else "fewer bought"


@dataclass(frozen=True)
class EffectReport:
    """The effect of all rules.

    Attributes
    ----------
    first_ms, end_ms
        The first exposure, and where the data end; None without any.
    messages, suppressed
        By rule: messages sent, and matches that were held back, by reason. Each id counts once.
    rules, overall
        Effects by rule, and of all together; groups of rules are compared inside each rule (`uplift`).
    repeats, unreadable
        Messages whose id had come before, and messages that were none.
    """

    window_ms: int
    first_ms: int | None
    end_ms: int | None
    messages: Mapping[str, int]
    suppressed: Mapping[str, Mapping[str, int]]
    rules: tuple[Effect, ...]
    overall: Effect
    purchases: int
    repeats: int
    unreadable: int = 0

    def to_json_object(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``, the rates included."""
        found = asdict(self)
        for effect, plain in zip(
            (*self.rules, self.overall), (*found["rules"], found["overall"]), strict=True
        ):
            plain["verdict"] = effect.verdict
            plain["sent"]["rate"], plain["held_out"]["rate"] = effect.sent.rate, effect.held_out.rate
        for name in ("first", "end"):
            ms = found.pop(f"{name}_ms")
            found[name] = None if ms is None else iso_time(ms)
        return found


class _Data(msgspec.Struct):
    rule: str
    suppressed: str = ""


class _Message(msgspec.Struct):
    id: str
    type: str
    subject: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    data: _Data


_decode = msgspec.json.Decoder(_Message).decode


def decode_exposure(value: bytes) -> Exposure:
    """Read a message of `triggers` or `triggers.suppressed`.

    Raises
    ------
    EventError
        If it is none.

    Examples
    --------
    >>> decode_exposure(b'{"id": "a1", "type": "recs.trigger.win_back.v1", "subject": "u1",'
    ...     b'"time": "2026-01-05T10:00:00Z", "data": {"rule": "win_back", "suppressed": "hold_out"}}')
    Exposure(id='a1', rule='win_back', user_id='u1', at_ms=1767607200000, suppressed='hold_out')
    """
    try:
        message = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventError("value", f"is no trigger: {error}") from error
    if not message.type.startswith(TYPE_PREFIX):
        raise EventError("type", f"{message.type!r} is no {TYPE_PREFIX}…")
    at_ms = round(message.time.timestamp() * 1000)
    return Exposure(message.id, message.data.rule, message.subject, at_ms, message.data.suppressed)


def amount(event: Event) -> float:
    """The money of a purchase: its value, else what its items cost.

    >>> from stream_app.events import EventItem
    >>> amount(Event("e", "purchase", 0, "u", items=(EventItem("a", 2.5, 2), EventItem("b", 1.0))))
    6.0
    """
    if event.value is not None:
        return event.value
    return sum((i.price or 0.0) * (1 if i.quantity is None else i.quantity) for i in event.items)


@dataclass
class EffectTally:
    """Takes exposures and events in any order, each as often as it comes, and reports.

    Examples
    --------
    >>> tally = EffectTally()
    >>> tally.add_exposure(Exposure("a", "win_back", "u1", 0))
    >>> tally.add_exposure(Exposure("b", "win_back", "u2", 0, "hold_out"))
    >>> tally.add_event(Event("e1", "purchase", 1_000, "u1", value=9.0))
    >>> tally.add_event(Event("e2", "view_item", 90_000, "u2", item_id="i"))
    >>> report = tally.report(60_000)
    >>> report.overall.sent, report.overall.held_out, report.overall.verdict
    (Arm(users=1, converted=1, revenue=9.0), Arm(users=1, converted=0, revenue=0.0), 'not proven')
    """

    _first: dict[tuple[str, str], Exposure] = field(default_factory=dict)  # by rule and user
    _purchases: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # of a user: when, how much
    _seen: set[bytes] = field(default_factory=set)
    _messages: Counter[str] = field(default_factory=Counter)
    _suppressed: dict[str, Counter[str]] = field(default_factory=dict)
    _end_ms: int | None = None
    _repeats: int = 0

    def add_exposure(self, exposure: Exposure) -> None:
        """A message that was sent or held back."""
        if self._is_repeat(f"{exposure.suppressed}\x00{exposure.id}"):
            self._repeats += 1
            return
        self._note_time(exposure.at_ms)
        if exposure.suppressed:
            self._suppressed.setdefault(exposure.rule, Counter())[exposure.suppressed] += 1
        else:
            self._messages[exposure.rule] += 1
        if exposure.suppressed in ("", HOLD_OUT):
            place = (exposure.rule, exposure.user_id)
            before = self._first.get(place)
            if before is None or exposure.at_ms < before.at_ms:
                self._first[place] = exposure

    def add_event(self, event: Event) -> None:
        """Anything that a user did; purchases count, everything else says how far the data go."""
        self._note_time(event.event_time_ms)
        if event.event_type == "purchase" and not self._is_repeat(f"event\x00{event.event_id}"):
            mine = self._purchases.setdefault(event.user_id, [])
            mine.append((event.event_time_ms, amount(event)))

    def report(self, window_ms: int, *, unreadable: int = 0) -> EffectReport:
        """What is known so far, with a conversion window of so many milliseconds."""
        by_rule: dict[str, list[Exposure]] = {
            name: [] for name in sorted({*self._messages, *self._suppressed})
        }
        by_user: dict[str, Exposure] = {}
        for exposure in self._first.values():
            by_rule[exposure.rule].append(exposure)
            other = by_user.get(exposure.user_id)
            if other is None or (exposure.at_ms, exposure.rule) < (other.at_ms, other.rule):
                by_user[exposure.user_id] = exposure
        overall: dict[str, list[Exposure]] = {}
        for exposure in by_user.values():
            overall.setdefault(exposure.rule, []).append(exposure)
        return EffectReport(
            window_ms,
            min((e.at_ms for e in self._first.values()), default=None),
            self._end_ms,
            {name: self._messages[name] for name in by_rule},
            {name: dict(self._suppressed.get(name, Counter()).most_common()) for name in by_rule},
            tuple(self._effect(name, [some], window_ms) for name, some in by_rule.items()),
            self._effect("all", overall.values(), window_ms),
            sum(map(len, self._purchases.values())),
            self._repeats,
            unreadable,
        )

    def _effect(self, name: str, groups: Iterable[list[Exposure]], window_ms: int) -> Effect:
        """The effect on the first exposures of some groups, compared inside each."""
        sent = held_out = Arm()
        counts = []
        still_open = 0
        for group in groups:
            closed = [e for e in group if self._end_ms is not None and e.at_ms + window_ms <= self._end_ms]
            still_open += len(group) - len(closed)
            mine = self._arm([e for e in closed if not e.suppressed], window_ms)
            base = self._arm([e for e in closed if e.suppressed], window_ms)
            counts.append(Counts(mine.converted, mine.users, base.converted, base.users))
            sent, held_out = _added(sent, mine), _added(held_out, base)
        return Effect(name, sent, held_out, difference(counts), ratio(counts), still_open)

    def _arm(self, exposures: list[Exposure], window_ms: int) -> Arm:
        converted, revenue = 0, 0.0
        for e in exposures:
            bought = [v for at, v in self._purchases.get(e.user_id, ()) if 0 < at - e.at_ms <= window_ms]
            converted += bool(bought)
            revenue += sum(bought)
        return Arm(len(exposures), converted, round(revenue, 2))

    def _note_time(self, ms: int) -> None:
        self._end_ms = ms if self._end_ms is None else max(self._end_ms, ms)

    def _is_repeat(self, name: str) -> bool:
        digest = blake2b(name.encode(), digest_size=8).digest()
        if digest in self._seen:
            return True
        self._seen.add(digest)
        return False


def _added(a: Arm, b: Arm) -> Arm:
    return Arm(a.users + b.users, a.converted + b.converted, round(a.revenue + b.revenue, 2))
