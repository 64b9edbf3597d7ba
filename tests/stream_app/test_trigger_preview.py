"""Previews: what they count, and the commands that show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.events import Event, Item, User, encode_event, encode_item, encode_user
from stream_app.triggers.preview import Preview, preview
from stream_app.triggers.rules_file import parse_trigger_rules

NOON = 1_767_614_400_000  # 2026-01-05T12:00Z
HOUR, DAY = 3_600_000, 86_400_000
RULES = parse_trigger_rules(
    "".join(f'[[rules]]\nname = "{n}"\nhold_out = 0.0\n' for n in ("cart_abandonment", "price_drop"))
)


def history() -> list[Event | Item | User]:
    """Two carts that are left on two days, one price that falls, a user without consent."""
    events = [
        Event("1", "add_to_cart", NOON, "u", item_id="a", value=20.0),
        Event("2", "add_to_cart", NOON, "nobody", item_id="a", value=20.0),
        Event("3", "view_item", NOON + HOUR, "v", item_id="b"),
        Event("4", "add_to_cart", NOON + 2 * DAY, "v", item_id="b", value=5.0),
        Event("5", "view_item", NOON + 2 * DAY + HOUR, "w", item_id="b"),
    ]
    return [User("u", True), User("v", True), Item("a", price=20.0), *events, Item("a", price=10.0)]


def test_a_preview_counts_days_rules_users_and_reasons() -> None:
    """Per day and rule what is sent, by reason what is not, and who would get messages of both."""
    report = preview(RULES, history(), samples=1)
    assert report.days == {
        "2026-01-05": {"cart_abandonment": 1},
        "2026-01-07": {"cart_abandonment": 1, "price_drop": 1},
    }
    assert report.sent == {"cart_abandonment": 2, "price_drop": 1}
    assert report.suppressed == {"cart_abandonment": {"no_consent": 1}, "price_drop": {"no_consent": 1}}
    assert report.overlap == {("cart_abandonment", "price_drop"): 1}
    assert [m["data"]["rule"] for m in report.samples] == ["cart_abandonment", "price_drop"]


def test_only_the_last_days_are_counted() -> None:
    """What came before still fills carts and memories."""
    run = Preview(RULES)
    for record in history():
        run.feed(record)
    assert run.report(DAY).sent == {"cart_abandonment": 1, "price_drop": 1}
    assert run.report(DAY).to_json_object()["from"] == "2026-01-06T13:00:00.000Z"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    encode = {Event: encode_event, Item: encode_item, User: encode_user}
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"\n".join(encode[type(r)](r) for r in history()))  # type: ignore[operator]
    return path


def test_the_command_compares_files_of_rules(tmp_path: Path, file: Path) -> None:
    """One object per file of rules for machines, one row per rule and file for people."""
    later = tmp_path / "later.toml"
    later.write_text('[[rules]]\nname = "cart_abandonment"\ndelay = "90 min"\nhold_out = 0.0')
    never = tmp_path / "never.toml"
    never.write_text('[[rules]]\nname = "cart_abandonment"\nenabled = false')
    command = ["triggers", "preview", str(later), str(never), "--from", str(file)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found[str(later)]["sent"]["cart_abandonment"] == 1
    assert "cart_abandonment" not in found[str(never)]["sent"]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "later.toml" in shown.stdout and "never.toml" in shown.stdout
    one = CliRunner().invoke(app, ["triggers", "preview", "--from", str(file), "--last", "3d"])
    assert one.exit_code == 0 and "cart_abandonment for u" in one.stdout


def test_validate_says_what_is_in_force(tmp_path: Path) -> None:
    """Rules by priority, and those that are switched off."""
    path = tmp_path / "own.toml"
    path.write_text('[[rules]]\nname = "win_back"\nenabled = false')
    done = CliRunner().invoke(app, ["triggers", "validate", str(path), "--json"])
    assert json.loads(done.stdout)["disabled"] == ["win_back"]
    text = CliRunner().invoke(app, ["triggers", "validate", str(path)]).stdout
    assert "4 rules by priority: cart_abandonment, back_in_stock" in text and "off: win_back" in text
