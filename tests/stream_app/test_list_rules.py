"""Files of list rules: what they may say, and how an error names file, rule and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.errors import ConfigError
from stream_app.events import Item
from stream_app.lists.rules import RulesFile, load_rules, parse_rules

DAY = 86_400_000
EXAMPLE = """
diversity = 0.3
at_most = { category = 4, brand = 2 }

[[rules]]
name = "no alcohol"
action = "deny"
category = ["beer", "wine"]

[[rules]]
name = "winter sale"
action = "boost"
attributes = { season = "winter" }
factor = 2.0
from = 1970-01-02
until = 1970-01-03T12:00:00+01:00

[[rules]]
name = "flagship"
action = "pin"
item = "sku-7"
brand = "acme"
place = 1
"""


def test_a_file_is_read() -> None:
    """Everything that the format has arrives, times in UTC."""
    rules = parse_rules(EXAMPLE)
    assert rules.diversity == 0.3 and rules.at_most == {"category": 4, "brand": 2}
    deny, boost, pin = rules.rules
    assert deny.categories == {"beer", "wine"} and boost.factor == 2.0
    assert (boost.from_ms, boost.until_ms) == (DAY, 2 * DAY + 11 * 3_600_000)
    assert pin.items == {"sku-7"} and pin.attributes == {"brand": {"acme"}} and pin.place == 1
    assert parse_rules("") == parse_rules("diversity = 0")


def test_rules_are_in_force_between_their_times() -> None:
    """`from` belongs to the time, `until` does not."""
    rules = parse_rules(EXAMPLE)
    in_force = [len(rules.active(t)) for t in (DAY - 1, DAY, 2 * DAY + 11 * 3_600_000)]
    assert in_force == [2, 3, 2]


def test_a_rule_asks_for_all_kinds_and_any_value() -> None:
    """Kinds are joined by and, values of one kind by or; lists of an item's values match by any of them."""
    deny, boost, pin = parse_rules(EXAMPLE).rules
    assert deny.matches("x", Item("x", categories=("wine",))) and not deny.matches("x", None)
    assert boost.matches("x", Item("x", attributes={"season": ["spring", "winter"]}))
    assert pin.matches("sku-7", Item("sku-7", attributes={"brand": "acme"}))
    assert not pin.matches("sku-7", Item("sku-7", attributes={"brand": "other"}))
    assert not pin.matches("sku-8", Item("sku-8", attributes={"brand": "acme"}))


RULE = '[[rules]]\nname = "x"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("diversity = -1", "diversity: -1 is no number"),
        ("divresity = 1", "divresity: is not known here; known: diversity"),
        ("at_most = { category = 0 }", "at_most.category: 0 is no whole number from 1"),
        ("rules = 3", "rules: is no list"),
        ("[[rules]]\naction = 'deny'", "rule 1, name: is missing"),
        (RULE + "action = 'hide'", "rule 'x', action: 'hide' is none of allow, deny, pin, boost"),
        (RULE + "action = 'deny'", "rule 'x': speaks of no items"),
        (RULE + "action = 'deny'\nitem = []", "rule 'x', item: [] is neither text nor a list"),
        (RULE + "action = 'deny'\nitem = 7", "rule 'x', item: 7 is neither text"),
        (RULE + "action = 'deny'\nitem = 'a'\nplace = 1", "rule 'x', place: is for pins only"),
        (RULE + "action = 'pin'\nitem = 'a'\nplace = 0", "rule 'x', place: 0 is no whole number from 1"),
        (RULE + "action = 'boost'\nitem = 'a'", "rule 'x', factor: is missing"),
        (RULE + "action = 'boost'\nitem = 'a'\nfactor = nan", "rule 'x', factor: nan is no number above 0"),
        (RULE + "action = 'deny'\nitem = 'a'\nfrom = '2026'", "rule 'x', from: '2026' is no date or time"),
        (RULE + "action = 'deny'\nitem = 'a'\nfrom = 2026-01-02\nuntil = 2026-01-01", "'x', until: is not"),
        (RULE + "action = 'deny'\nitem = 'a'\ncolour = 'red'", "rule 'x', colour: is not known here"),
        (RULE + "action = 'deny'\nattributes = {}", "rule 'x', attributes: {} is no table"),
        (2 * (RULE + "action = 'deny'\nitem = 'a'\n"), "rule 'x', name: is that of several rules"),
        ("diversity = ", "is not TOML"),
    ],
)  # fmt: skip
def test_an_error_names_rule_and_key(text: str, expected: str) -> None:
    """A wrong file is refused in one line that says where to look."""
    with pytest.raises(ConfigError) as error:
        parse_rules(text, "rules.toml")
    assert str(error.value).startswith("rules.toml: ") and expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A change is seen once; a wrong one is reported once and leaves the rules as they were."""
    path = tmp_path / "rules.toml"
    path.write_text("diversity = 1")
    file = RulesFile(path)
    assert file.rules == parse_rules("diversity = 1") and file.changed() is None
    path.write_text("diversity = 22")
    assert file.changed() == parse_rules("diversity = 22") and file.changed() is None
    path.write_text("diversity = 'x'")
    with pytest.raises(ConfigError, match="diversity"):
        file.changed()
    assert file.changed() is None and file.rules == parse_rules("diversity = 22")
    os.unlink(path)
    with pytest.raises(ConfigError, match="No such file"):
        file.changed()


def test_the_command_line_checks_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recs lists validate` says what is in force, or where the error is."""
    monkeypatch.delenv("RECS_LIST_RULES", raising=False)
    path = tmp_path / "rules.toml"
    path.write_text(EXAMPLE)
    result = CliRunner().invoke(app, ["lists", "validate", str(path)])
    assert result.exit_code == 0 and "3 rules, in force now: no alcohol, flagship" in result.output
    wrong = CliRunner().invoke(app, ["lists", "validate", str(tmp_path / "none.toml")])
    assert isinstance(wrong.exception, ConfigError) and "none.toml" in str(wrong.exception)
    nothing = CliRunner().invoke(app, ["lists", "validate"])
    assert isinstance(nothing.exception, ConfigError) and "RECS_LIST_RULES" in str(nothing.exception)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    """The path and the reason are in the text."""
    with pytest.raises(ConfigError, match=r"list rules .*: No such file"):
        load_rules(tmp_path / "rules.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_rules(tmp_path)
