"""Files of trigger rules: what they may say, and how an error names rule, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_app.errors import ConfigError
from stream_app.triggers.rules import QuietHours
from stream_app.triggers.rules_file import builtin_rules, load_trigger_rules, parse_trigger_rules

EXAMPLE = """
time_zone = "Europe/Stockholm"
pause = "4 h"

[[rules]]
name = "win_back"
enabled = false

[[rules]]
name = "big_cart"
version = 3
owner = "crm"
on = "idle"
delay = "45 min"
all = [["cart.value", ">", 100], ["user.attributes.country", "in", ["SE", "NO"]]]
none = [["user.purchases", ">=", 5]]
semantics = "edge"
quiet_hours = "22:30-07:00"
audience = 0.5
hold_out = 0.2
from = 2026-11-20
until = 2026-12-24T18:00:00Z
"""


def test_a_file_changes_built_in_rules_and_adds_its_own() -> None:
    """Members that a file does not give are those of the built-in rule; other names are new rules."""
    rules = parse_trigger_rules(EXAMPLE)
    by_name = {rule.name: rule for rule in rules.rules}
    builtin = {rule.name: rule for rule in builtin_rules().rules}
    assert by_name.keys() == builtin.keys() | {"big_cart"}
    assert not by_name["win_back"].enabled and by_name["win_back"].delay_ms == builtin["win_back"].delay_ms
    assert by_name["price_drop"] == builtin["price_drop"]
    own = by_name["big_cart"]
    assert own.delay_ms == 45 * 60_000 and own.quiet_hours == QuietHours(22 * 60 + 30, 7 * 60)
    assert own.conditions.names == ["cart.value", "user.attributes.country", "user.purchases"]
    assert rules.time_zone == "Europe/Stockholm" and rules.pause_ms == 4 * 3_600_000
    assert [rule.name for rule in rules.enabled][:2] == ["cart_abandonment", "back_in_stock"]


def test_what_can_wait_is_postponed_unless_the_file_says_otherwise() -> None:
    """Silence, prices, stock and delayed events wait for the morning; the moment of an event does not."""
    text = "".join(
        f'[[rules]]\nname = "{name}"\n{on}\n'
        for name, on in {
            "now": 'on = "purchase"',
            "later": 'on = "purchase"\ndelay = "1 h"',
            "silence": 'on = "idle"\ndelay = "1 h"',
            "never": 'on = "idle"\ndelay = "1 h"\nin_quiet_hours = "drop"',
            "score": 'on = "score"',
        }.items()
    )
    found = {rule.name: rule.in_quiet_hours for rule in parse_trigger_rules(text).rules}
    assert found == {
        "cart_abandonment": "postpone", "price_drop": "postpone", "back_in_stock": "postpone",
        "high_intent": "drop", "win_back": "postpone", "now": "drop", "later": "postpone",
        "silence": "postpone", "never": "drop", "score": "drop",
    }  # fmt: skip


def test_built_in_rules_are_the_five() -> None:
    """The package brings five rules, all switched on, and no two of the same priority."""
    rules = builtin_rules()
    assert len(rules.enabled) == 5 and len({rule.priority for rule in rules.rules}) == 5


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('pausse = "1 h"', ("pausse", "known: time_zone, cap_per_day, pause")),
        ('time_zone = "Mars/Olympus"', ("time_zone", "'Mars/Olympus'", "IANA")),
        ("cap_per_day = -1", ("cap_per_day", "-1", "from 0")),
        ('[[rules]]\non = "idle"', ("rule 1, name", "is missing")),
        ('[[rules]]\nname = "Big Cart"', ("rule 1, name", "'Big Cart'")),
        ('[[rules]]\nname = "x"', ("rule 'x', on", "is missing", "idle, price, stock, score", "purchase")),
        ('[[rules]]\nname = "x"\non = "weather"', ("rule 'x', on", "'weather'", "idle")),
        ('[[rules]]\nname = "x"\non = ["idle", "purchase"]', ("rule 'x', on", "several")),
        ('[[rules]]\nname = "x"\non = "idle"', ("rule 'x', delay", "is missing")),
        ('[[rules]]\nname = "x"\non = "price"\ndelay = "1 h"', ("rule 'x', delay", '"price"')),
        ('[[rules]]\nname = "x"\non = "idle"\ndelay = "1 fortnight"', ("rule 'x', delay", "s, min, h, d")),
        ('[[rules]]\nname = "win_back"\nsemantics = "never"', ("semantics", "once, edge, changed")),
        (
            '[[rules]]\nname = "win_back"\nall = [["user.age", ">", 1]]',
            ("all", "'user.age'", "user.purchases"),
        ),
        ('[[rules]]\nname = "win_back"\nall = [["item.price", ">", 1]]', ("all", "'item.price'", "on idle")),
        ('[[rules]]\nname = "win_back"\nall = [["cart.items", "~", 1]]', ("all", "'~'", "not in")),
        ('[[rules]]\nname = "win_back"\nall = [["cart.items", ">", "a"]]', ("all", "'a'", "no number")),
        ('[[rules]]\nname = "win_back"\nall = [["cart.items", "in", 1]]', ("all", "in", "list of values")),
        ('[[rules]]\nname = "win_back"\nall = ["cart.items > 1"]', ("all", '["cart.items", ">=", 1]')),
        ('[[rules]]\nname = "win_back"\nquiet_hours = "9pm"', ("quiet_hours", "'9pm'", "21:00-08:00")),
        (
            '[[rules]]\nname = "win_back"\nin_quiet_hours = "wait"',
            ("in_quiet_hours", "'wait'", "postpone, drop"),
        ),
        (
            '[[rules]]\nname = "high_intent"\nin_quiet_hours = "postpone"',
            ("in_quiet_hours", "what can wait", '"idle", "price" or "stock"'),
        ),
        ('[[rules]]\nname = "win_back"\naudience = 1.5', ("audience", "1.5", "between 0 and 1")),
        ('[[rules]]\nname = "win_back"\nenabled = "no"', ("enabled", "'no'", "true nor false")),
        ('[[rules]]\nname = "win_back"\nfrom = 2026-02-01\nuntil = 2026-01-01', ("until", "not after")),
        ('[[rules]]\nname = "win_back"\ncolour = "red"', ("rule 'win_back', colour", "known: name, version")),
        ("[[rules]", ("TOML",)),
    ],
)
def test_an_error_names_rule_key_and_what_is_allowed(text: str, names: tuple[str, ...]) -> None:
    """Whoever wrote the file finds the place, and what could stand there."""
    with pytest.raises(ConfigError) as error:
        parse_trigger_rules(text, "own.toml")
    for name in ("own.toml", *names):
        assert name in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file is an error before anything starts; no file means the built-in rules."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_trigger_rules(tmp_path / "nowhere.toml")
    assert load_trigger_rules(None) == builtin_rules()
