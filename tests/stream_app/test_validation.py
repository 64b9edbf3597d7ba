"""Truths about the report on a file: it counts what is there and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from stream_app.errors import InputError
from stream_app.events import Event, Item, User, encode_event, encode_item, encode_user
from stream_app.formats import read
from stream_app.validation import validate

EXAMPLES = Path(__file__).parents[2] / "examples"
T_MS = 1_767_607_200_000


def view(event_id: str, at_ms: int, item_id: str = "a") -> bytes:
    return encode_event(Event(event_id, "view_item", at_ms, "u1", item_id))


def test_counts(tmp_path: Path) -> None:
    """The report counts records, types, bad lines, disorder, duplicates, and what nobody described."""
    path = tmp_path / "shop.jsonl"
    lines = [
        encode_item(Item("a", price=1.0)), encode_user(User("u1", True)), view("1", T_MS + 5_000), b"oops",
        view("2", T_MS, "b"), view("2", T_MS + 9_000), b'{"event_type":"view","event_time":1767607200}',
        encode_event(Event("3", "purchase", T_MS + 9_000, "u2", "a")),
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    report = validate(path, max_reasons=1)
    assert (report.format, report.events, report.items, report.users) == ("jsonl", 4, 1, 1)
    assert report.events_by_type == {"view_item": 3, "purchase": 1}
    assert (report.bad_lines, report.bad_fields) == (2, {"value": 1, "item_id": 1})
    assert report.bad_reasons == (
        f"{path}:4: value: is not JSON (JSON is malformed: invalid character (byte 0))",
    )
    assert (report.first_ms, report.last_ms) == (T_MS, T_MS + 9_000)
    assert (report.out_of_order, report.out_of_order_share, report.max_lateness_ms) == (1, 0.25, 5_000)
    assert report.duplicate_events == 1
    assert (report.active_users, report.active_items) == (2, 2)
    assert (report.undescribed_items, report.undescribed_users) == (1, 1)
    assert not report.ok


def test_report_is_plain_data(tmp_path: Path) -> None:
    """The report can be printed as JSON for machines."""
    path = tmp_path / "shop.jsonl"
    path.write_bytes(view("1", T_MS))
    assert msgspec.json.decode(msgspec.json.encode(validate(path)))["events"] == 1


def test_file_without_events(tmp_path: Path) -> None:
    """A file of items alone is readable, but not fit for replay."""
    path = tmp_path / "items.jsonl"
    path.write_bytes(encode_item(Item("a", price=1.0)))
    report = validate(path)
    assert (report.events, report.first_ms, report.out_of_order_share, report.ok) == (0, None, 0.0, False)


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that cannot be read at all raises."""
    with pytest.raises(InputError, match="No such file"):
        validate(tmp_path / "none")


def test_examples_are_valid() -> None:
    """The example shop is valid, in order, small, and describes all its items and users."""
    report = validate(EXAMPLES / "events.jsonl")
    assert report.ok
    assert report.events <= 40
    assert (report.out_of_order, report.duplicate_events) == (0, 0)
    described = [*read(EXAMPLES / "items.jsonl"), *read(EXAMPLES / "users.jsonl")]
    items = {r.item_id for r in described if isinstance(r, Item)}
    users = {r.user_id for r in described if isinstance(r, User)}
    events = [r for r in read(EXAMPLES / "events.jsonl") if isinstance(r, Event)]
    assert {e.user_id for e in events} <= users
    assert {i for e in events for i in e.item_ids()} <= items
