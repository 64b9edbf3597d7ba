"""Files of trigger rules (TOML): read, checked, and laid over the rules that come with the system.

An error names rule and key, and says what is allowed. A rule with the name of a built-in one changes only
the members that it gives; any other is a rule of its own.
"""

from __future__ import annotations

import re
import tomllib
import zoneinfo
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from stream_app.errors import ConfigError
from stream_app.events import CANONICAL_TYPES
from stream_app.rule_tables import NEVER, Members, WrongError, is_number, is_whole
from stream_app.triggers.conditions import (
    ATTRIBUTES,
    OPEN,
    OPERATORS,
    ORDERED,
    Condition,
    Conditions,
    attribute_of,
)
from stream_app.triggers.rules import (
    CAUSES,
    IN_QUIET_HOURS,
    SEMANTICS,
    InQuietHours,
    QuietHours,
    Rule,
    TriggerRules,
)

MOST_RULES = 16  # what is remembered of each has to fit into a user's state
_UNITS = {"s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "days": 86_400_000, "day": 86_400_000}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")
_TOP = ("time_zone", "cap_per_day", "pause", "recommendations")
_MEMBERS = (
    "name", "version", "owner", "on", "delay", "all", "any", "none", "semantics", "cooldown", "cap_per_day",
    "quiet_hours", "in_quiet_hours", "priority", "audience", "hold_out", "expires", "from", "until",
    "enabled",
)  # fmt: skip


def builtin_rules() -> TriggerRules:
    """The rules that come with the system.

    >>> [rule.name for rule in builtin_rules().rules]
    ['cart_abandonment', 'price_drop', 'back_in_stock', 'high_intent', 'win_back']
    """
    return _rules(_builtin())


def load_trigger_rules(path: Path | None) -> TriggerRules:
    """The built-in rules with a file of one's own laid over them.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a rule is wrong: the text names file, rule and key.
    """
    if path is None:
        return builtin_rules()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"trigger rules {path}: {reason}") from error
    return parse_trigger_rules(text, str(path))


def parse_trigger_rules(text: str, path: str = "rules") -> TriggerRules:
    """Read the text of a file of rules.

    Raises
    ------
    ConfigError
        As for `load_trigger_rules`.

    Examples
    --------
    >>> rules = parse_trigger_rules('''
    ... [[rules]]
    ... name = "win_back"
    ... delay = "14 days"
    ... ''')
    >>> next(r.delay_ms for r in rules.rules if r.name == "win_back") // 86_400_000
    14
    >>> parse_trigger_rules('[[rules]]\\nname = "x"\\non = "idle"\\ndelay = "3 fortnights"')
    Traceback (most recent call last):
    ...
    stream_app.errors.ConfigError: rules: rule 'x', delay: '3 fortnights' is no time such as "30 min";
        units: s, min, h, d, days
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    try:
        return _rules(_laid_over(_builtin(), document))
    except WrongError as error:
        raise ConfigError(f"{path}: {error}") from None


def _builtin() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("builtin.toml").read_text("utf-8"))


def _laid_over(builtin: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    own = document.get("rules", [])
    if not isinstance(own, list) or not all(isinstance(rule, dict) for rule in own):
        raise WrongError("rules: is no list; begin each rule with [[rules]]")
    names = [rule.get("name") for rule in own]
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            wrong = "is missing" if name is None else f"{name!r} is no name of up to 24 a–z, 0–9 and _"
            raise WrongError(f"rule {number}, name: {wrong}")
        if names.count(name) > 1:
            raise WrongError(f"rule {name!r}, name: is that of several rules")
    changed = dict(zip(names, own, strict=True))
    rules = [rule | changed.pop(rule["name"], {}) for rule in builtin["rules"]]
    return {**builtin, **document, "rules": [*rules, *changed.values()]}


def _rules(document: Mapping[str, Any]) -> TriggerRules:
    top = Members("", document)
    rules = tuple(_rule(rule) for rule in top.take("rules"))
    found = TriggerRules(
        rules,
        time_zone=_zone(top),
        cap_per_day=_whole(top, "cap_per_day", 3, 0, 1_000),
        pause_ms=_duration(top, "pause", 0),
        recommendations=_whole(top, "recommendations", 5, 0, 20),
    )
    top.end(", ".join((*_TOP, "[[rules]]")))
    if len(rules) > MOST_RULES:
        raise WrongError(f"rules: {len(rules)} are more than {MOST_RULES}, the built-in ones included")
    return found


def _rule(members: Mapping[str, Any]) -> Rule:
    name = members["name"]
    table = Members(f"rule {name!r}, ", {key: value for key, value in members.items() if key != "name"})
    on = _causes(table)
    delay_ms = _duration(table, "delay", 0)
    if on == ("idle",) and delay_ms <= 0:
        raise table.wrong("delay", 'is missing; a rule on "idle" needs one, such as "30 min"')
    if delay_ms and not (set(on) <= {"idle", *CANONICAL_TYPES}):
        raise table.wrong("delay", f'is for "idle" and events only, not for "{on[0]}"')
    semantics: Any = table.take("semantics") or "changed"
    if semantics not in SEMANTICS:
        raise table.wrong("semantics", f"{semantics!r} is none of {', '.join(SEMANTICS)}")
    conditions = Conditions(*(_conditions(table, key, on) for key in ("all", "any", "none")))
    rule = Rule(
        name,
        on,
        conditions,
        version=_whole(table, "version", 1, 1, 10**9),
        owner=_text(table, "owner"),
        delay_ms=delay_ms,
        semantics=semantics,
        cooldown_ms=_duration(table, "cooldown", 0),
        cap_per_day=_whole(table, "cap_per_day", 0, 0, 1_000),
        quiet_hours=_quiet_hours(table),
        priority=_whole(table, "priority", 50, 0, 1_000),
        audience=_share(table, "audience", 1.0),
        hold_out=_share(table, "hold_out", 0.0),
        expires_ms=_duration(table, "expires", 86_400_000),
        from_ms=table.take_time("from", 0),
        until_ms=table.take_time("until", NEVER),
        enabled=_flag(table, "enabled", True),
    )
    rule = replace(rule, in_quiet_hours=_in_quiet_hours(table, rule))
    if rule.until_ms <= rule.from_ms:
        raise table.wrong("until", "is not after `from`")
    table.end(", ".join(_MEMBERS))
    return rule


def _causes(table: Members) -> tuple[str, ...]:
    on = table.take("on")
    causes = on if isinstance(on, list) else [on]
    known = (*CAUSES, *CANONICAL_TYPES)
    wrong = [cause for cause in causes if cause not in known]
    if on is None or wrong or not causes:
        what = "is missing" if on is None else f"{(wrong or [on])[0]!r} is no cause"
        raise table.wrong("on", f"{what}; known: {', '.join(known)}")
    if len(causes) > 1 and not set(causes) <= set(CANONICAL_TYPES):
        raise table.wrong("on", "several causes can only be types of events")
    return tuple(dict.fromkeys(causes))


def _conditions(table: Members, key: str, on: tuple[str, ...]) -> tuple[Condition, ...]:
    given = table.take(key)
    if given is None:
        return ()
    if not isinstance(given, list):
        raise table.wrong(key, f'{given!r} is no list such as [["cart.items", ">=", 1]]')
    return tuple(_condition(table, key, one, on) for one in given)


def _condition(table: Members, key: str, given: Any, on: tuple[str, ...]) -> Condition:
    if not (isinstance(given, list) and len(given) == 3 and isinstance(given[0], str)):
        raise table.wrong(key, f'{given!r} is no condition such as ["cart.items", ">=", 1]')
    name, how, value = given
    attribute = attribute_of(name)
    names = [n for n in (*ATTRIBUTES, *(f"{start}NAME" for start in OPEN)) if _is_known_on(n, on)]
    if attribute is None:
        raise table.wrong(key, f"{name!r} is no attribute; known: {', '.join(names)}")
    if not _is_known_on(name, on):
        raise table.wrong(key, f"{name!r} is not known on {', '.join(on)}; known: {', '.join(names)}")
    if how not in OPERATORS:
        raise table.wrong(key, f"{name}: {how!r} is no operator; known: {' '.join(OPERATORS)}")
    values = value if isinstance(value, list) else [value]
    if ("in" in how) != isinstance(value, list) or not values:
        what = "needs a list of values" if "in" in how else "needs one value, no list"
        raise table.wrong(key, f"{name} {how}: {what}")
    for one in values:
        if not _fits(attribute.kind, one):
            raise table.wrong(key, f"{name}: {one!r} is no {_KINDS[attribute.kind]}")
    if how in ORDERED and (attribute.kind not in ("number", "any") or not is_number(value)):
        raise table.wrong(key, f"{name} {how}: only numbers can be ordered; use =, !=, in or not in")
    return Condition(name, how, value)


_KINDS = {"number": "number", "text": "text", "flag": "true or false", "names": "text", "any": "plain value"}


def _fits(kind: str, value: object) -> bool:
    if kind == "number":
        return is_number(value)
    if kind == "flag":
        return isinstance(value, bool)
    return isinstance(value, str) or (kind == "any" and (isinstance(value, bool) or is_number(value)))


def _is_known_on(name: str, on: tuple[str, ...]) -> bool:
    """Whether an attribute is known when a rule with these causes is held against somebody."""
    about = name.partition(".")[0]
    if about == "event":
        return set(on) <= set(CANONICAL_TYPES)
    return about in ("user", "cart") or (about == "item" and on[0] in ("price", "stock")) or about == on[0]


def parse_duration(key: str, text: str) -> int:
    """A time such as ``30 min`` in milliseconds.

    Raises
    ------
    ConfigError
        If it is none; the text names `key`.

    Examples
    --------
    >>> parse_duration("--last", "7d")
    604800000
    """
    try:
        return _duration(Members("", {key: text}), key, 0)
    except WrongError as error:
        raise ConfigError(str(error)) from None


def _duration(table: Members, key: str, default: int) -> int:
    value = table.take(key)
    if value is None:
        return default
    match = re.fullmatch(r"(\d{1,6}) ?([a-z]+)", value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        raise table.wrong(key, f'{value!r} is no time such as "30 min"; units: s, min, h, d, days')
    return int(match[1]) * _UNITS[match[2]]


def _whole(table: Members, key: str, default: int, least: int, most: int) -> int:
    value = table.take(key)
    if value is None:
        return default
    if not (is_whole(value) and least <= value <= most):
        raise table.wrong(key, f"{value!r} is no whole number from {least} to {most}")
    return int(value)


def _share(table: Members, key: str, default: float) -> float:
    value = table.take(key)
    if value is None:
        return default
    if not (is_number(value) and 0 <= value <= 1):
        raise table.wrong(key, f"{value!r} is no share between 0 and 1")
    return float(value)


def _text(table: Members, key: str) -> str:
    value = table.take(key)
    if not isinstance(value, str | None):
        raise table.wrong(key, f"{value!r} is no text")
    return value or ""


def _flag(table: Members, key: str, default: bool) -> bool:
    value = table.take(key)
    if not isinstance(value, bool | None):
        raise table.wrong(key, f"{value!r} is neither true nor false")
    return default if value is None else value


def _quiet_hours(table: Members) -> QuietHours | None:
    value = table.take("quiet_hours")
    if value in (None, ""):
        return None
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", str(value))
    if match is None:
        raise table.wrong("quiet_hours", f'{value!r} is no time of day such as "21:00-08:00", nor ""')
    hour_from, from_, hour_to, to = map(int, match.groups())
    return QuietHours(60 * hour_from + from_, 60 * hour_to + to)


def _in_quiet_hours(table: Members, rule: Rule) -> InQuietHours:
    """What becomes of a message in quiet hours: what can wait does, unless the file says otherwise."""
    value: Any = table.take("in_quiet_hours")
    if value is None:
        return "postpone" if rule.can_wait else "drop"
    if value not in IN_QUIET_HOURS:
        raise table.wrong("in_quiet_hours", f"{value!r} is none of {', '.join(IN_QUIET_HOURS)}")
    if value == "postpone" and not rule.can_wait:
        what = 'only rules on "idle", "price" or "stock", or with a delay'
        raise table.wrong("in_quiet_hours", f'"postpone" is for what can wait: {what}')
    found: InQuietHours = value
    return found


def _zone(top: Members) -> str:
    name = top.take("time_zone") or "UTC"
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise top.wrong(
            "time_zone", f"{name!r} is no time zone; names are those of the IANA, such as Europe/Stockholm"
        ) from None
    return str(name)
