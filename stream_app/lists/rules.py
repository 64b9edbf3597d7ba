"""Business rules for lists, as data: what may be shown, what stands where, what is moved up or down.

A TOML file holds them::

    diversity = 0.3                      # 0: by score alone
    at_most = { category = 4, brand = 2 }  # items of one list that share a category, a brand, …

    [[rules]]
    name = "no alcohol"
    action = "deny"                      # allow, deny, pin or boost
    category = ["beer", "wine"]

    [[rules]]
    name = "winter sale"
    action = "boost"
    attributes = { season = "winter" }
    factor = 2.0                         # doubles the odds against every other item
    from = 2026-11-20
    until = 2026-12-24T18:00:00Z

    [[rules]]
    name = "new flagship"
    action = "pin"
    item = "sku-7"
    place = 1

A rule speaks of the items that match all of `item`, `category`, `brand` and `attributes` that it names; where
one of these has several values, any of them will do.

`allow`   with one or more of them in force, nothing else is shown
`deny`    never shown; wins over everything
`pin`     the user's best match stands at `place`, unless the user has chosen it before
`boost`   the odds of the item against any other are multiplied by `factor`, below 1 divided
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from stream_app.errors import ConfigError
from stream_app.events import Item
from stream_app.events.records import Scalar
from stream_app.rule_tables import NEVER, Members, WrongError, is_number, is_whole

Action = Literal["allow", "deny", "pin", "boost"]
ACTIONS: tuple[str, ...] = get_args(Action)
MOST_PINS = 64  # a kernel keeps the pins that an item matches in the bits of one word
MOST_PLACES = 100  # the longest list
MOST_FACTOR = 1e6
_KINDS = ("item", "category", "brand", "attributes")


@dataclass(frozen=True)
class Rule:
    """One rule; see the module for what its members mean.

    Attributes
    ----------
    items, categories
        Ids and names, any of which will do; empty: not asked for.
    attributes
        Attribute → values, any of which will do; `brand` is one of them.
    place
        From 1, of a pin.
    factor
        Of a boost.
    from_ms, until_ms
        In force from the one to before the other, milliseconds since 1970.
    """

    name: str
    action: Action
    items: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    attributes: Mapping[str, frozenset[Scalar]] = field(default_factory=dict)
    place: int = 0
    factor: float = 1.0
    from_ms: int = 0
    until_ms: int = NEVER

    def matches(self, item_id: str, item: Item | None) -> bool:
        """Whether the rule speaks of an item; one that the shop never described matches by its id alone.

        >>> rule = Rule("r", "deny", categories=frozenset({"beer"}))
        >>> rule.matches("i1", Item("i1", categories=("drinks", "beer"))), rule.matches("i2", None)
        (True, False)
        """
        if self.items and item_id not in self.items:
            return False
        if item is None:
            return not self.categories and not self.attributes
        if self.categories and self.categories.isdisjoint(item.categories):
            return False
        return all(
            not wanted.isdisjoint(_values(item.attributes.get(name)))
            for name, wanted in self.attributes.items()
        )

    def is_active(self, now_ms: int) -> bool:
        """Whether the rule is in force at a time."""
        return self.from_ms <= now_ms < self.until_ms


@dataclass(frozen=True)
class ListRules:
    """All that a file says.

    Attributes
    ----------
    at_most
        `category` or the name of an attribute → items of one list that may share a value of it.
    diversity
        What an item's score loses when all that is known of it is known of an item above it, too; ≥ 0, in the
        units of scores: with ln 2 = 0.69 its odds are halved.
    """

    rules: tuple[Rule, ...] = ()
    at_most: Mapping[str, int] = field(default_factory=dict)
    diversity: float = 0.0

    def active(self, now_ms: int) -> tuple[Rule, ...]:
        """The rules in force at a time, in the order of the file."""
        return tuple(rule for rule in self.rules if rule.is_active(now_ms))


def load_rules(path: Path) -> ListRules:
    """Read a file of rules.

    Raises
    ------
    ConfigError
        If it cannot be read, or a rule is wrong: the text names file, rule and key.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"list rules {path}: {reason}") from error
    return parse_rules(text, str(path))


class RulesFile:
    """A file of rules that is read again when it changes.

    Parameters
    ----------
    path
        The file, or None for no rules at all.

    Attributes
    ----------
    rules
        As they were read last, None without a file.

    Raises
    ------
    ConfigError
        As `load_rules` does.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._seen = self._stamp()
        self.rules = None if path is None else load_rules(path)

    def changed(self) -> ListRules | None:
        """The rules if the file was changed since the last look, else None.

        Raises
        ------
        ConfigError
            As `load_rules` does, once per change; the rules from before stay.
        """
        stamp = self._stamp()
        if self.path is None or stamp == self._seen:
            return None
        self._seen = stamp
        self.rules = load_rules(self.path)
        return self.rules

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = None if self.path is None else self.path.stat()
        except OSError:
            return None
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def parse_rules(text: str, path: str = "rules") -> ListRules:
    """Read rules from TOML.

    Raises
    ------
    ConfigError
        As `load_rules` does.

    Examples
    --------
    >>> parse_rules('diversity = 0.5').diversity
    0.5
    >>> parse_rules('[[rules]]\\nname = "x"\\naction = "pin"\\nitem = "i1"')
    Traceback (most recent call last):
    ...
    stream_app.errors.ConfigError: rules: rule 'x', place: is missing; a pin needs one, 1 to 100
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    try:
        return _rules(document)
    except WrongError as error:
        raise ConfigError(f"{path}: {error}") from None


def _rules(document: Mapping[str, Any]) -> ListRules:
    top = Members("", document)
    diversity, at_most, rules = top.take("diversity"), top.take("at_most"), top.take("rules")
    top.end("diversity, at_most, [[rules]]")
    if diversity is not None and not (is_number(diversity) and 0 <= diversity <= MOST_FACTOR):
        raise top.wrong("diversity", f"{diversity!r} is no number from 0")
    if at_most is not None and not isinstance(at_most, dict):
        raise top.wrong("at_most", f"{at_most!r} is no table such as {{ category = 4 }}")
    for name, most in (at_most or {}).items():
        if not (isinstance(most, int) and not isinstance(most, bool) and most >= 1):
            raise top.wrong(f"at_most.{name}", f"{most!r} is no whole number from 1")
    if not isinstance(rules or [], list) or not all(isinstance(rule, dict) for rule in rules or []):
        raise top.wrong("rules", "is no list; begin each rule with [[rules]]")
    found = tuple(_rule(number, rule) for number, rule in enumerate(rules or [], 1))
    names = [rule.name for rule in found]
    for name in names:
        if names.count(name) > 1:
            raise WrongError(
                f"rule {name!r}, name: is that of several rules; `--why` could not tell them apart"
            )
    if sum(rule.action == "pin" for rule in found) > MOST_PINS:
        raise WrongError(f"rules: more than {MOST_PINS} pins")
    return ListRules(found, dict(at_most or {}), float(diversity or 0.0))


def _rule(number: int, members: Mapping[str, Any]) -> Rule:
    name = members.get("name")
    if not (isinstance(name, str) and name):
        raise WrongError(f"rule {number}, name: {'is missing' if name is None else f'{name!r} is no text'}")
    table = Members(f"rule {name!r}, ", {key: value for key, value in members.items() if key != "name"})
    action = table.take("action")
    if action not in ACTIONS:
        raise table.wrong("action", f"{action!r} is none of {', '.join(ACTIONS)}")
    place, factor = table.take("place"), table.take("factor")
    if (place is not None) != (action == "pin"):
        wrong = (
            "is for pins only" if place is not None else f"is missing; a pin needs one, 1 to {MOST_PLACES}"
        )
        raise table.wrong("place", wrong)
    if place is not None and not (is_whole(place) and 1 <= place <= MOST_PLACES):
        raise table.wrong("place", f"{place!r} is no whole number from 1 to {MOST_PLACES}")
    if (factor is not None) != (action == "boost"):
        wrong = "is for boosts only" if factor is not None else "is missing; a boost needs one, above 0"
        raise table.wrong("factor", wrong)
    if factor is not None and not (is_number(factor) and 1 / MOST_FACTOR <= factor <= MOST_FACTOR):
        raise table.wrong("factor", f"{factor!r} is no number above 0, at most {MOST_FACTOR:g}")
    items, categories = _names(table, "item"), _names(table, "category")
    attributes = _attributes(table)
    from_ms, until_ms = table.take_time("from", 0), table.take_time("until", NEVER)
    if until_ms <= from_ms:
        raise table.wrong("until", "is not after `from`")
    table.end(f"name, action, place, factor, from, until, {', '.join(_KINDS)}")
    if not items and not categories and not attributes:
        raise WrongError(f"rule {name!r}: speaks of no items; give one of {', '.join(_KINDS)}")
    return Rule(
        name, action, items, categories, attributes, place or 0, float(factor or 1.0), from_ms, until_ms
    )


def _names(table: Members, key: str) -> frozenset[str]:
    value = table.take(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if (value is not None and not values) or not all(isinstance(v, str) and v for v in values):
        raise table.wrong(key, f"{value!r} is neither text nor a list of texts")
    return frozenset(values)


def _attributes(table: Members) -> dict[str, frozenset[Scalar]]:
    brand, given = table.take("brand"), table.take("attributes")
    if given is not None and not (isinstance(given, dict) and given):
        raise table.wrong("attributes", f'{given!r} is no table such as {{ season = "winter" }}')
    found = {}
    for name, value in ((given or {}) | ({} if brand is None else {"brand": brand})).items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(v, str | int | float) for v in values):
            key = "brand" if brand is not None and name == "brand" else f"attributes.{name}"
            raise table.wrong(
                key, f"{value!r} is neither a text, a number, true or false, nor a list of them"
            )
        found[name] = frozenset(values)
    return found


def _values(value: Scalar | list[Scalar] | None) -> list[Scalar]:
    return value if isinstance(value, list) else [] if value is None else [value]
