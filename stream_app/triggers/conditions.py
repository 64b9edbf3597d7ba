"""Conditions of trigger rules: comparisons of what is known of a user, a cart, an item, an event or a score.

A comparison with something that is not known does not hold. Nothing here runs code that a rule brings: an
attribute is one of `ATTRIBUTES`, an operator one of `OPERATORS`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stream_app.events import Event
from stream_app.triggers.memory import CARTED, VIEWED, WISHED, Memory, Watch
from stream_app.triggers.shelf import Shelved

_MINUTE, _DAY = 60_000, 86_400_000


class Facts:
    """What a rule is held against: a user at an instant, and what caused the look."""

    __slots__ = (
        "at_ms", "attributes", "event", "item", "item_id", "last_ms", "level", "memory", "score", "watch",
    )  # fmt: skip

    def __init__(
        self,
        memory: Memory,
        last_ms: int,
        at_ms: int,
        attributes: Mapping[str, Any],
        event: Event | None = None,
    ) -> None:
        self.memory = memory
        self.last_ms = last_ms  # time of the user's last event
        self.at_ms = at_ms
        self.attributes = attributes  # of the user
        self.event = event
        self.item_id: str | None = None
        self.item: Shelved | None = None
        self.watch: Watch | None = None
        self.level: float | None = None  # the price that the user knows
        self.score: tuple[float, int] | None = None  # probability of buying, and its band


def _cart_value(f: Facts) -> float | None:
    prices = [line.price * line.quantity for line in f.memory.cart.values() if line.price is not None]
    return round(sum(prices), 2) if prices else None


def _drop(f: Facts) -> float | None:
    if f.item is None or f.item.price is None or f.level is None or f.level <= 0:
        return None
    return 100.0 * (f.level - f.item.price) / f.level


def _watched(bit: int) -> Callable[[Facts], bool | None]:
    return lambda f: None if f.watch is None else bool(f.watch.how & bit)


@dataclass(frozen=True)
class Attribute:
    """Something that a condition may ask for.

    Attributes
    ----------
    kind
        `number`, `text`, `flag`, `names` (several texts) or `any`.
    read
        Its value, None where it is not known.
    by_time
        Whether it changes by time alone.
    """

    kind: str
    read: Callable[[Facts], Any]
    by_time: bool = False


ATTRIBUTES: Mapping[str, Attribute] = {
    "user.purchases": Attribute("number", lambda f: f.memory.purchases),
    "user.days_since_purchase": Attribute(
        "number", lambda f: (f.at_ms - f.memory.bought_ms) / _DAY if f.memory.purchases else None, True
    ),
    "user.idle_minutes": Attribute("number", lambda f: (f.at_ms - f.last_ms) / _MINUTE, True),
    "cart.items": Attribute("number", lambda f: len(f.memory.cart)),
    "cart.quantity": Attribute("number", lambda f: sum(line.quantity for line in f.memory.cart.values())),
    "cart.value": Attribute("number", _cart_value),
    "item.id": Attribute("text", lambda f: f.item_id),
    "item.price": Attribute("number", lambda f: f.item and f.item.price),
    "item.stock": Attribute("number", lambda f: f.item and f.item.stock),
    "item.drop_percent": Attribute("number", _drop),
    "item.categories": Attribute("names", lambda f: f.item and f.item.categories),
    "item.is_viewed": Attribute("flag", _watched(VIEWED)),
    "item.is_wished": Attribute("flag", _watched(WISHED)),
    "item.is_carted": Attribute("flag", _watched(CARTED)),
    "event.item_id": Attribute("text", lambda f: f.event and f.event.item_id),
    "event.value": Attribute("number", lambda f: f.event and f.event.value),
    "event.quantity": Attribute("number", lambda f: f.event and f.event.quantity),
    "score.intent": Attribute("number", lambda f: f.score and f.score[0]),
    "score.band": Attribute("number", lambda f: f.score and f.score[1]),
}
OPEN = ("user.attributes.", "item.attributes.", "event.attributes.")
"""Beginnings of names that the shop completes."""


def attribute_of(name: str) -> Attribute | None:
    """The attribute of a name, None when there is none such."""
    found = ATTRIBUTES.get(name)
    if found is not None:
        return found
    start = next((s for s in OPEN if name.startswith(s) and len(name) > len(s)), None)
    if start is None:
        return None
    key = name[len(start) :]
    if start == "user.attributes.":
        return Attribute("any", lambda f: f.attributes.get(key))
    if start == "item.attributes.":
        return Attribute("any", lambda f: f.item and f.item.attributes.get(key))
    return Attribute("any", lambda f: f.event and f.event.attributes.get(key))


def _in(value: Any, wanted: Any) -> bool:
    return any(v in wanted for v in value) if isinstance(value, list | tuple) else value in wanted


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, list | tuple):
        return wanted in value
    return bool(value == wanted and isinstance(value, bool) == isinstance(wanted, bool))


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": _equal,
    "!=": lambda value, wanted: not _equal(value, wanted),
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": _in,
    "not in": lambda value, wanted: not _in(value, wanted),
}
ORDERED = ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class Condition:
    """One comparison: what, how, with what.

    Attributes
    ----------
    waits
        Whether time alone can make it hold.
    of_event
        Whether it asks for the event.

    Examples
    --------
    >>> Condition("cart.items", ">=", 1).holds(Facts(Memory(), 0, 0, {}))
    False
    """

    name: str
    operator: str
    value: Any

    _read: Callable[[Facts], Any] = field(init=False, repr=False, compare=False)
    _compare: Callable[[Any, Any], bool] = field(init=False, repr=False, compare=False)
    waits: bool = field(init=False, repr=False, compare=False)
    of_event: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        attribute = attribute_of(self.name)
        if attribute is None or self.operator not in OPERATORS:
            raise ValueError(f"{self.name} {self.operator}: no such attribute or operator")
        object.__setattr__(self, "_read", attribute.read)
        object.__setattr__(self, "_compare", OPERATORS[self.operator])
        object.__setattr__(self, "waits", attribute.by_time)
        object.__setattr__(self, "of_event", self.name.startswith("event."))

    def holds(self, facts: Facts) -> bool:
        """Whether it holds; what is not known, or cannot be ordered against the value, does not."""
        value = self._read(facts)
        if value is None:
            return False
        try:
            return bool(self._compare(value, self.value))
        except TypeError:
            return False


@dataclass(frozen=True)
class Conditions:
    """All of some conditions, at least one of some others, and none of the rest."""

    all: tuple[Condition, ...] = ()
    any: tuple[Condition, ...] = ()
    none: tuple[Condition, ...] = ()

    @property
    def names(self) -> list[str]:
        """The attributes that they ask for."""
        return [c.name for c in (*self.all, *self.any, *self.none)]

    @functools.cached_property
    def of_event(self) -> Conditions:
        """Those of them that ask for the event."""
        return Conditions(*(tuple(c for c in some if c.of_event) for some in (self.all, self.any, self.none)))

    @functools.cached_property
    def after_event(self) -> Conditions:
        """Those of them that can change after the event: what it was like remains so."""
        rest = (tuple(c for c in some if not c.of_event) for some in (self.all, self.any, self.none))
        return Conditions(*rest)

    def hold(self, facts: Facts) -> bool:
        """Whether they hold now."""
        for c in self.all:
            if not c.holds(facts):
                return False
        for c in self.none:
            if c.holds(facts):
                return False
        return not self.any or any(c.holds(facts) for c in self.any)

    def may_hold(self, facts: Facts) -> bool:
        """Whether they hold now or may come to hold by time alone."""
        for c in self.all:
            if not c.waits and not c.holds(facts):
                return False
        for c in self.none:
            if not c.waits and c.holds(facts):
                return False
        return not self.any or any(c.waits or c.holds(facts) for c in self.any)
