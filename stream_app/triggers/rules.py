"""Trigger rules as values: when a message is due to a user, and when it is held back."""

from __future__ import annotations

import datetime as dt
import functools
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.tokens import VALUE_BITS, VALUE_MASK, token
from stream_app.rule_tables import NEVER
from stream_app.triggers.conditions import Conditions

Semantics = Literal["once", "edge", "changed"]
SEMANTICS: tuple[str, ...] = get_args(Semantics)
InQuietHours = Literal["postpone", "drop"]
IN_QUIET_HOURS: tuple[str, ...] = get_args(InQuietHours)
CAUSES = ("idle", "price", "stock", "score")
"""What can cause a message, beside event types."""

_MINUTE = 60_000


@dataclass(frozen=True)
class QuietHours:
    """Minutes of a local day in which nothing is sent, from the one to before the other.

    >>> night = QuietHours(21 * 60, 8 * 60)
    >>> night.contains(23 * 60), night.contains(8 * 60), night.contains(12 * 60)
    (True, False, False)
    """

    start: int
    end: int

    def contains(self, minute: int) -> bool:
        """Whether a minute of the day belongs to them."""
        if self.start <= self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def end_after(self, at_ms: int, zone: zoneinfo.ZoneInfo) -> int:
        """The first minute after an instant in them that does not belong to them, by the clock on the wall.

        Where the clock is put forward over their end, that is the minute that it is put to. Where it is put
        back into them, they go on until it comes to their end again.

        >>> night = QuietHours(21 * 60, 8 * 60)
        >>> night.end_after(1_767_657_600_000, zone_of("UTC")) - 1_767_657_600_000  # at midnight: in 8 hours
        28800000
        """
        began = at_ms - at_ms % _MINUTE
        end = began + self._minutes_left(began, zone) * _MINUTE
        if _offset(began, zone) == _offset(end, zone):
            return end
        low, high = began // _MINUTE, end // _MINUTE  # the clock is put between the two
        while high - low > 1:
            middle = (low + high) // 2
            if _offset(middle * _MINUTE, zone) == _offset(began, zone):
                low = middle
            else:
                high = middle
        put = high * _MINUTE
        return put + self._minutes_left(put, zone) * _MINUTE

    def _minutes_left(self, at_ms: int, zone: zoneinfo.ZoneInfo) -> int:
        """How far their end is, by the clock on the wall; 0 outside of them."""
        _, minute = local(at_ms, zone)
        return (self.end - minute) % 1440 if self.contains(minute) else 0


@dataclass(frozen=True)
class Rule:
    """One rule; docs/triggers.md has what each member means.

    Attributes
    ----------
    on
        `idle`, `price`, `stock` or `score`, or types of events.
    delay_ms, cooldown_ms, expires_ms
        Silence or wait before it is due; pause after a message of it; how long the message is good for.
    cap_per_day
        Messages of it to one user on a local day, 0: any number.
    in_quiet_hours
        Look again when they are over, or drop it.
    audience, hold_out
        Shares of the users who may get it, and who are held out to compare with; between 0 and 1.
    from_ms, until_ms
        In force from the one to before the other, milliseconds since 1970.
    """

    name: str
    on: tuple[str, ...]
    conditions: Conditions = field(default_factory=Conditions)
    version: int = 1
    owner: str = ""
    delay_ms: int = 0
    semantics: Semantics = "changed"
    cooldown_ms: int = 0
    cap_per_day: int = 0
    quiet_hours: QuietHours | None = None
    in_quiet_hours: InQuietHours = "drop"
    priority: int = 50
    audience: float = 1.0
    hold_out: float = 0.0
    expires_ms: int = 86_400_000
    from_ms: int = 0
    until_ms: int = NEVER
    enabled: bool = True

    def is_on(self, cause: str) -> bool:
        """Whether a cause is one of the rule's."""
        return cause in self.on

    @functools.cached_property
    def speaks_of_cart(self) -> bool:
        """Whether it looks at the cart: then what it says is news when the cart has changed."""
        return any(name.startswith("cart.") for name in self.conditions.names)

    @property
    def can_wait(self) -> bool:
        """Whether what it says may be worth saying later: not of what a user does or likes this minute."""
        return self.delay_ms > 0 or self.is_on("price") or self.is_on("stock")

    def is_active(self, at_ms: int) -> bool:
        """Whether the rule is in force at a time."""
        return self.from_ms <= at_ms < self.until_ms


@dataclass(frozen=True)
class TriggerRules:
    """All rules of a system, those that are switched off included.

    Attributes
    ----------
    time_zone
        Of users whose attributes name none.
    cap_per_day
        Messages of all rules to one user on a local day.
    pause_ms
        Between two messages to one user.
    recommendations
        Items recommended in a message.
    """

    rules: tuple[Rule, ...] = ()
    time_zone: str = "UTC"
    cap_per_day: int = 3
    pause_ms: int = 0
    recommendations: int = 5

    @property
    def enabled(self) -> Sequence[Rule]:
        """The rules at work, by priority, the highest first; of the same, in the order of the file."""
        return sorted((rule for rule in self.rules if rule.enabled), key=lambda rule: -rule.priority)


def share_of(rule: str, purpose: str, user_id: str) -> float:
    """Where a user stands between 0 and 1, for ever the same for a rule and a purpose.

    >>> round(sum(share_of("r", "audience", f"u{n}") < 0.1 for n in range(10_000)) / 10_000, 2)
    0.1
    """
    return (token(f"{rule}:{purpose}", user_id) & VALUE_MASK) / (1 << VALUE_BITS)


@functools.lru_cache(maxsize=1024)
def zone_of(name: str, default: str = "UTC") -> zoneinfo.ZoneInfo:
    """A time zone by name; the default where there is no such zone."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return zoneinfo.ZoneInfo(default)


def local(at_ms: int, zone: zoneinfo.ZoneInfo) -> tuple[int, int]:
    """Day, counted from the year 1, and minute of the day of an instant in a zone.

    >>> local(1_767_607_200_000, zone_of("Asia/Tokyo"))  # 2026-01-05T10:00Z
    (739621, 1140)
    """
    time = dt.datetime.fromtimestamp(at_ms / 1000, zone)
    return time.toordinal(), 60 * time.hour + time.minute


def _offset(at_ms: int, zone: zoneinfo.ZoneInfo) -> dt.timedelta | None:
    return dt.datetime.fromtimestamp(at_ms / 1000, zone).utcoffset()
