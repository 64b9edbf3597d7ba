"""What comes in: shop events, items and users, decoded from Kafka messages.

A canonical event takes a fast path: one typed msgspec decode that also checks ranges. Whatever
that refuses takes the slow path, which understands other dialects and words the error. Both
paths give the same event for the same message, and neither raises anything but `EventError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Protocol, cast

import msgspec
from msgspec import Meta

from stream_app.errors import EventError
from stream_app.events.catalogue import decode_item, decode_user, encode_item, encode_user
from stream_app.events.dead_letters import Rejected
from stream_app.events.dialects import Headers, canonical_type, is_cloudevent, to_canonical
from stream_app.events.fields import (
    identifier,
    key_text,
    number,
    parse_object,
    parse_time_ms,
    plain_object,
    show,
    time_ms,
)
from stream_app.events.records import (
    CANONICAL_TYPES,
    EARLIEST_MS,
    LATEST_MS,
    MAX_AMOUNT,
    MAX_ID_BYTES,
    MAX_ITEMS,
    MAX_POSITION,
    MAX_QUANTITY,
    Amount,
    Event,
    EventItem,
    EventType,
    Id,
    Int64,
    Item,
    Quantity,
    Tombstone,
    User,
    iso_time,
)

__all__ = [
    "CANONICAL_TYPES",
    "DEFAULT_POLICY",
    "DEFAULT_WEIGHTS",
    "DecodePolicy",
    "Event",
    "EventItem",
    "Item",
    "Message",
    "Rejected",
    "Tombstone",
    "User",
    "decode_event",
    "decode_events",
    "decode_item",
    "decode_user",
    "encode_event",
    "encode_item",
    "encode_user",
    "event_from_fields",
    "feedback",
    "with_derived_id",
]

_NEEDS_NO_ITEM = frozenset({"begin_checkout", "purchase", "refund"})

DEFAULT_WEIGHTS: dict[str, float] = {
    "view_item_list": 0.0,
    "select_item": 0.5,
    "view_item": 1.0,
    "add_to_wishlist": 2.0,
    "add_to_cart": 3.0,
    "remove_from_cart": 0.0,
    "begin_checkout": 0.0,
    "purchase": 5.0,
    "refund": 0.0,
    "rate": 1.0,
}
"""How much one event of each type says for its items; 0 says nothing. Ratings are scaled by their value."""


class DecodePolicy(msgspec.Struct, frozen=True):
    """What the decoder tolerates.

    Parameters
    ----------
    max_bytes
        Larger messages are refused before they are parsed.
    max_future_ms
        How far ahead of the caller's clock an event's time may be.
    accept_unknown_types
        Keep events of unknown types, their type written in snake case, instead of refusing them.
    check_key
        Refuse an event whose message key is not its user: it sits in a partition whose worker does not
        own that user's state. Messages without a key pass.
    """

    max_bytes: int = 1_000_000
    max_future_ms: int = 86_400_000
    accept_unknown_types: bool = False
    check_key: bool = True


DEFAULT_POLICY = DecodePolicy()

# ---------------------------------------------------------------------------------- the fast path

_Flat = dict[str, str | Int64 | float | bool | None]


class _Wire(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """The canonical JSON of an event; ranges are checked while it is parsed.

    An unknown member may be an alias or a CloudEvent's, which only the slow path knows.
    """

    event_type: EventType
    event_time: datetime | int | float
    user_id: Id
    event_id: Id | None = None
    item_id: Id | None = None
    session_id: Id | None = None
    value: Amount | None = None
    currency: Annotated[str, Meta(max_length=16)] | None = None
    quantity: Quantity | None = None
    request_id: Id | None = None
    items: Annotated[tuple[EventItem, ...], Meta(max_length=MAX_ITEMS)] = ()
    context: _Flat = {}
    attributes: _Flat = {}
    anonymous_id: Id | None = None


_decode_wire = msgspec.json.Decoder(_Wire).decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_PARSE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _fast(raw: bytes, policy: DecodePolicy, latest_ms: int) -> Event | None:
    """The event of a well-formed canonical message, or None when the slow path has to look at it."""
    if len(raw) > policy.max_bytes or b"\\u0000" in raw:
        return None
    try:
        w = _decode_wire(raw)
    except _PARSE_ERRORS:
        return None
    ms = time_ms(w.event_time)
    if (
        not EARLIEST_MS <= ms <= latest_ms
        or (w.item_id is None and not w.items and w.event_type not in _NEEDS_NO_ITEM)
        or (w.event_type == "rate" and w.value is None)
    ):
        return None
    event = Event(
        w.event_id or "", w.event_type, ms, w.user_id, w.item_id, w.session_id, w.value, w.currency,
        w.quantity, w.request_id, w.items, w.context, w.attributes, w.anonymous_id,
    )  # fmt: skip
    return event if w.event_id else with_derived_id(event)


def with_derived_id(event: Event, salt: str = "") -> Event:
    """The event with an `event_id` that is a hash of everything else.

    The same content gives the same id however it was written, so a message that is delivered twice is
    still one event. `salt` keeps events apart that are equal on purpose, such as equal lines of a file.
    """
    digest = blake2b(_encode_sorted(msgspec.structs.replace(event, event_id=salt)), digest_size=12)
    return msgspec.structs.replace(event, event_id=digest.hexdigest())


# ---------------------------------------------------------------------------------- the slow path


def _slow(
    raw: bytes | None, headers: Headers, policy: DecodePolicy, latest_ms: int, key: bytes | None
) -> Event:
    fields = to_canonical(parse_object(raw, policy.max_bytes), headers)
    if "user_id" not in fields:
        # Segment and GA4 know visitors before they know users; without either, the key is the user.
        fields["user_id"] = fields.get("anonymous_id") or key_text(key)
    return event_from_fields(fields, policy=policy, latest_ms=latest_ms)


def event_from_fields(
    fields: Mapping[str, Any],
    *,
    policy: DecodePolicy = DEFAULT_POLICY,
    latest_ms: int = LATEST_MS,
    salt: str = "",
) -> Event:
    """Check canonical fields of any origin and make them an event.

    Parameters
    ----------
    fields
        Canonical names (plus ``price`` and ``position`` of a single item) to loosely typed values: numbers
        may be text, ids may be integers, the type may be an alias.
    policy
        What is tolerated.
    latest_ms
        The last accepted event time.
    salt
        Goes into the derived `event_id` where `fields` has none.

    Raises
    ------
    EventError
        A field is missing or wrong.

    Examples
    --------
    >>> event_from_fields({"event_type": "buy", "event_time": "2026-01-05", "user_id": 7, "item_id": "a",
    ...                    "event_id": "e1"}).event_type
    'purchase'
    """
    event_type = _event_type(fields.get("event_type"), policy)
    item_id = identifier("item_id", fields.get("item_id"))
    items = _items(fields.get("items"))
    if item_id is not None and not items and ("price" in fields or "position" in fields):
        items = (_event_item("", {**fields, "item_id": item_id}),)
    if item_id is None and not items and event_type in CANONICAL_TYPES and event_type not in _NEEDS_NO_ITEM:
        raise EventError("item_id", f"is missing; {event_type} needs item_id or items")
    value = number("value", fields.get("value"), -MAX_AMOUNT, MAX_AMOUNT)
    if event_type == "rate" and value is None:
        raise EventError("value", "is missing; rate needs the rating in value")
    user_id = identifier("user_id", fields.get("user_id"))
    if user_id is None:
        raise EventError("user_id", "is missing; send a non-empty string or integer")
    event = Event(
        event_id=identifier("event_id", fields.get("event_id"), 2 * MAX_ID_BYTES) or "",
        event_type=event_type,
        event_time_ms=parse_time_ms(fields.get("event_time"), latest_ms),
        user_id=user_id,
        item_id=item_id,
        session_id=identifier("session_id", fields.get("session_id")),
        value=None if value is None else float(value),
        currency=_currency(fields.get("currency")),
        quantity=number("quantity", fields.get("quantity"), 0, MAX_QUANTITY),
        request_id=identifier("request_id", fields.get("request_id")),
        items=items,
        context=plain_object("context", fields.get("context")),
        attributes=plain_object("attributes", fields.get("attributes")),
        anonymous_id=identifier("anonymous_id", fields.get("anonymous_id")),
    )
    return event if event.event_id else with_derived_id(event, salt)


def _event_type(value: Any, policy: DecodePolicy) -> str:
    if not isinstance(value, str) or not value.strip():
        raise EventError("event_type", "is missing; send one of " + ", ".join(CANONICAL_TYPES))
    known = canonical_type(value)
    if known is not None:
        return known
    if policy.accept_unknown_types and len(value) <= 64:
        return re.sub(r"\W+", "_", value.strip().lower())
    raise EventError("event_type", f"{show(value)} is unknown; send one of " + ", ".join(CANONICAL_TYPES))


def _currency(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 16:
        raise EventError("currency", f"{show(value)} is not a currency code such as USD")
    return value


def _items(value: Any) -> tuple[EventItem, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise EventError("items", f"{show(value)} is not a list of items")
    if len(value) > MAX_ITEMS:
        raise EventError("items", f"has {len(value)} items; the limit is {MAX_ITEMS}")
    return tuple(
        _event_item(f"items[{i}].", item if isinstance(item, Mapping) else {"item_id": item})
        for i, item in enumerate(value)
    )


def _event_item(where: str, item: Mapping[str, Any]) -> EventItem:
    item_id = identifier(f"{where}item_id", item.get("item_id"))
    if item_id is None:
        raise EventError(f"{where}item_id", "is missing; send a non-empty string or integer")
    price = number(f"{where}price", item.get("price"), 0, MAX_AMOUNT)
    position = number(f"{where}position", item.get("position"), 0, MAX_POSITION)
    if position is not None and position != int(position):
        raise EventError(f"{where}position", f"{position} is not a whole number")
    return EventItem(
        item_id,
        None if price is None else float(price),
        number(f"{where}quantity", item.get("quantity"), 0, MAX_QUANTITY),
        None if position is None else int(position),
    )


def _check_key(key: bytes, user_id: str) -> None:
    expected = user_id.encode()
    if key not in (expected, b'"' + expected + b'"'):
        raise EventError("key", f"is {show(key)} but user_id is {show(user_id)}; produce with key = user_id")


# ---------------------------------------------------------------------------------- one message


def decode_event(
    raw: bytes | None,
    *,
    key: bytes | None = None,
    headers: Headers = (),
    policy: DecodePolicy = DEFAULT_POLICY,
    now_ms: int | None = None,
) -> Event:
    """Decode the value of one message of the topic ``events``.

    Parameters
    ----------
    raw
        JSON: a canonical event, a known dialect, or a CloudEvent in structured mode.
    key
        The message key, which is the user id.
    headers
        The message headers; ``ce_`` headers make it a CloudEvent in binary mode.
    policy
        What is tolerated.
    now_ms
        The caller's clock; events from more than `policy.max_future_ms` ahead are refused. Without it, only
        times after 2200 are.

    Raises
    ------
    EventError
        The message is not a valid event; the error names the field.

    Examples
    --------
    >>> decode_event(b'{"event_type":"view","event_time":1767607200,"user_id":"u1","item_id":"a"}').event_type
    'view_item'
    >>> decode_event(b'{"event_type":"view","event_time":"soon","user_id":"u1","item_id":"a"}')
    Traceback (most recent call last):
    ...
    stream_app.errors.EventError: event_time: 'soon' is not a time; ...
    """
    latest_ms = LATEST_MS if now_ms is None else now_ms + policy.max_future_ms
    event = None
    if raw is not None and not (headers and is_cloudevent(headers)):
        event = _fast(raw, policy, latest_ms)
    if event is None:
        event = _slow(raw, headers, policy, latest_ms, key)
    if key and policy.check_key:
        _check_key(key, event.user_id)
    return event


class Message(Protocol):
    """The part of a Kafka consumer record that the decoder reads."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


def decode_events(
    messages: Iterable[Message], *, policy: DecodePolicy = DEFAULT_POLICY, now_ms: int | None = None
) -> tuple[list[Event], list[Rejected]]:
    """Decode a batch; every message is in exactly one of the two lists, in order.

    Parameters
    ----------
    messages
        Consumer records of aiokafka, or anything with the same attributes.
    policy, now_ms
        As for `decode_event`.
    """
    events: list[Event] = []
    rejected: list[Rejected] = []
    for m in messages:
        try:
            events.append(decode_event(m.value, key=m.key, headers=m.headers, policy=policy, now_ms=now_ms))
        except EventError as error:
            rejected.append(
                Rejected(m.topic, m.partition, m.offset, m.key, m.value, error.field, error.reason)
            )
    return events, rejected


# ---------------------------------------------------------------------------------- encoding


def encode_event(event: Event) -> bytes:
    """The canonical JSON of an event; `decode_event` reads the same event back.

    Examples
    --------
    >>> encode_event(Event("e1", "view_item", 1767607200123, "u1", item_id="a"))
    b'{"event_type":"view_item","event_time":"2026-01-05T10:00:00.123Z","user_id":"u1","event_id":"e1","item_id":"a"}'
    """
    wire = _Wire(
        cast(Any, event.event_type), cast(Any, iso_time(event.event_time_ms)), event.user_id, event.event_id,
        event.item_id, event.session_id, event.value, event.currency, event.quantity, event.request_id,
        event.items, event.context, event.attributes, event.anonymous_id,
    )  # fmt: skip
    return _encode(wire)


# ---------------------------------------------------------------------------------- feedback


def feedback(
    event: Event, weights: Mapping[str, float] = DEFAULT_WEIGHTS, rating_threshold: float = 4.0
) -> list[tuple[str, float]]:
    """The items that the event speaks well of, with how much it says.

    Parameters
    ----------
    event
        Any event.
    weights
        Event type → weight; types with weight 0 and unknown types say nothing.
    rating_threshold
        A ``rate`` event counts from this value on; its weight is scaled by value ÷ threshold.

    Returns
    -------
    list of (item_id, weight)
        One entry per item of the event, in order; empty when it is no positive feedback.

    Examples
    --------
    >>> feedback(Event("e", "purchase", 0, "u", items=(EventItem("a"), EventItem("b"))))
    [('a', 5.0), ('b', 5.0)]
    >>> feedback(Event("e", "rate", 0, "u", item_id="a", value=3.0))
    []
    """
    weight = weights.get(event.event_type, 0.0)
    if event.event_type == "rate":
        value = event.value or 0.0
        weight = weight * value / rating_threshold if value >= rating_threshold > 0 else 0.0
    if weight <= 0:
        return []
    if not event.items and event.item_id is not None:
        return [(event.item_id, weight)]
    return [(item_id, weight) for item_id in event.item_ids()]
