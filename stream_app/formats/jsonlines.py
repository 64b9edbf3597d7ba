"""The formats that hold one JSON object per line: our own, Metarank's, OTTO's.

Our own lines are what the topics carry. A line is an item or a user instead of an event when it says
``"record": "item"`` or ``"record": "user"``, or when it has an id but neither type nor time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_app.errors import EventError
from stream_app.events import DEFAULT_POLICY, DecodePolicy, decode_event, event_from_fields
from stream_app.events.catalogue import decode_item, decode_user
from stream_app.events.fields import attributes, identifier, number, parse_object, show
from stream_app.events.records import MAX_AMOUNT, Item, User
from stream_app.formats.lines import Record

MAX_LINE_BYTES = 16_000_000  # one OTTO line is a whole session

_OTTO_TYPES = {"clicks": "view_item", "carts": "add_to_cart", "orders": "purchase"}
_EVENT_MARKS = (b"type", b"event", b"time", b"specversion")


def parse_canonical(line: bytes, policy: DecodePolicy = DEFAULT_POLICY) -> tuple[Record, ...]:
    """The event, item or user of one line in our own format.

    >>> parse_canonical(b'{"record": "item", "item_id": "a", "price": 9.5}')[0].price
    9.5
    """
    try:
        if b'"record"' not in line:
            return (decode_event(line, policy=policy),)
    except EventError:
        message = parse_object(line, policy.max_bytes)
        if any(mark in name.encode().lower() for name in message for mark in _EVENT_MARKS):
            raise
        kind: Any = "user" if "user_id" in message else "item" if "item_id" in message else None
        if kind is None:
            raise
    else:
        kind = parse_object(line, policy.max_bytes).get("record")
    if kind == "item":
        item = decode_item(None, line)
        assert isinstance(item, Item)  # a line is never empty, so never a tombstone
        return (item,)
    if kind == "user":
        user = decode_user(None, line)
        assert isinstance(user, User)
        return (user,)
    if kind in (None, "event"):
        return (decode_event(line, policy=policy),)
    raise EventError("record", f"{show(kind)} is unknown; write event, item or user")


def parse_otto(line: bytes) -> list[Record]:
    """The events of one OTTO session; the session is the user, a click is a view of the item's page.

    >>> [r.event_type for r in parse_otto(
    ...     b'{"session": 7, "events": [{"aid": 1, "ts": 1659304800025, "type": "clicks"}]}')]
    ['view_item']
    """
    message = parse_object(line, MAX_LINE_BYTES)
    session, entries = identifier("session", message.get("session")), message.get("events")
    if session is None:
        raise EventError("session", "is missing")
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise EventError("events", "is not a list of objects")
    return [
        event_from_fields(
            {
                "event_id": f"otto:{session}:{n}",
                "event_type": _OTTO_TYPES.get(str(entry.get("type")), entry.get("type")),
                "event_time": entry.get("ts"),
                "user_id": session,
                "session_id": session,
                "item_id": entry.get("aid"),
            }
        )
        for n, entry in enumerate(entries)
    ]


def parse_metarank(line: bytes) -> tuple[Record, ...]:
    """The record of one line in Metarank's event format.

    A ``ranking`` is a `view_item_list` whose request id is the ranking's id; an ``interaction`` names its
    ranking as request id, and a click is a `select_item`.

    >>> parse_metarank(b'{"event": "item", "id": "1", "item": "a", "timestamp": "1636907100000", '
    ...                b'"fields": [{"name": "genres", "value": ["drama"]}]}')[0].categories
    ('drama',)
    """
    message = parse_object(line, MAX_LINE_BYTES)
    kind = message.get("event")
    if kind == "item":
        return (_metarank_item(message),)
    if kind == "user":
        user_id = identifier("user", message.get("user"))
        if user_id is None:
            raise EventError("user", "is missing")
        return (User(user_id, attributes=attributes(_metarank_fields(message), {})),)
    fields = {
        "event_id": message.get("id"),
        "event_time": message.get("timestamp"),
        "user_id": message.get("user") or message.get("session"),
        "session_id": message.get("session"),
    }
    if kind == "ranking":
        return (
            event_from_fields(
                fields
                | {
                    "event_type": "view_item_list",
                    "request_id": message.get("id"),
                    "items": _positions(message.get("items")),
                }
            ),
        )
    if kind == "interaction":
        return (
            event_from_fields(
                fields
                | {
                    "event_type": message.get("type"),
                    "request_id": message.get("ranking"),
                    "item_id": message.get("item"),
                }
            ),
        )
    raise EventError("event", f"{show(kind)} is unknown; Metarank has item, user, ranking and interaction")


def _positions(items: Any) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(isinstance(i, Mapping) for i in items):
        raise EventError("items", "is not a list of objects")
    return [{"item_id": item.get("id"), "position": n} for n, item in enumerate(items, start=1)]


def _metarank_fields(message: Mapping[str, Any]) -> dict[str, Any]:
    fields = message.get("fields")
    if not isinstance(fields, list) or not all(isinstance(f, Mapping) for f in fields):
        raise EventError("fields", "is not a list of objects")
    return {str(f.get("name")): f.get("value") for f in fields}


def _metarank_item(message: Mapping[str, Any]) -> Item:
    fields = _metarank_fields(message)
    item_id = identifier("item", message.get("item"))
    if item_id is None:
        raise EventError("item", "is missing")
    title = fields.pop("title", None)
    price = number("price", fields.pop("price", None), 0, MAX_AMOUNT)
    categories: list[str] = []
    for name in ("genres", "categories", "category"):
        value = fields.pop(name, None)
        categories += [value] if isinstance(value, str) else [v for v in value or () if isinstance(v, str)]
    return Item(
        item_id,
        title if isinstance(title, str) else None,
        None if price is None else float(price),
        categories=tuple(categories),
        attributes=attributes(fields, {}),
    )
