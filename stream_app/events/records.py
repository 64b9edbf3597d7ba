"""The records that travel through the system: events, items, users, and what was deleted.

Plain frozen values. The bounds stand in the types, so that the typed JSON decode checks them while it
parses; whatever is built in code is trusted.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

MAX_ID_BYTES = 512
MAX_AMOUNT = 1e12
MAX_QUANTITY = 1e9
MAX_POSITION = 1_000_000
MAX_ITEMS = 1_000  # of one event
MAX_DEPTH = 16  # of context and attributes; deeper values could not be encoded again safely
EARLIEST_MS = 631_152_000_000  # 1990-01-01
LATEST_MS = 7_258_118_400_000  # 2200-01-01

_EPOCH = datetime(1970, 1, 1)

EventType = Literal[
    "view_item_list",
    "select_item",
    "view_item",
    "add_to_wishlist",
    "add_to_cart",
    "remove_from_cart",
    "begin_checkout",
    "purchase",
    "refund",
    "rate",
]
"""What a user can do, in the words of Google Analytics 4, plus ``rate``."""

CANONICAL_TYPES: tuple[str, ...] = get_args(EventType)

Scalar = str | int | float | bool

# The bounds that the typed decode checks. A character takes up to 4 bytes; longer ids are measured in bytes
# on the slow path.
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES // 4)]
Amount = Annotated[float, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
Price = Annotated[float, Meta(ge=0, le=MAX_AMOUNT)]
Quantity = Annotated[int, Meta(ge=0, le=int(MAX_QUANTITY))] | Annotated[float, Meta(ge=0, le=MAX_QUANTITY)]
Position = Annotated[int, Meta(ge=0, le=MAX_POSITION)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class EventItem(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """One item inside an event: an order line, or one place of a list that was shown.

    `price` is per piece; `position` counts from 1 in the order in which the shop numbered the list.
    """

    item_id: Id
    price: Price | None = None
    quantity: Quantity | None = None
    position: Position | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """What one user did, in canonical form.

    `event_type` is one of `CANONICAL_TYPES`. `event_time_ms` is milliseconds since 1970 in UTC.
    `value` is the amount of money, or the rating of a ``rate`` event. `request_id` names the list that
    was shown, so that a click finds its impression. An order of several items is one event with `items`.
    """

    event_id: str
    event_type: str
    event_time_ms: int
    user_id: str
    item_id: str | None = None
    session_id: str | None = None
    value: float | None = None
    currency: str | None = None
    quantity: int | float | None = None
    request_id: str | None = None
    items: tuple[EventItem, ...] = ()
    context: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    anonymous_id: str | None = None

    def not_after(self, ms: int) -> Event:
        """The event, at `ms` if it says that it happened later.

        >>> Event("e", "purchase", 9, "u").not_after(5).event_time_ms
        5
        """
        return self if self.event_time_ms <= ms else msgspec.structs.replace(self, event_time_ms=ms)

    def item_ids(self) -> tuple[str, ...]:
        """The ids of all items of the event, once each, in order.

        >>> Event("e", "purchase", 0, "u", items=(EventItem("a"), EventItem("b"))).item_ids()
        ('a', 'b')
        """
        if not self.items:
            return () if self.item_id is None else (self.item_id,)
        ids = dict.fromkeys(item.item_id for item in self.items)
        if self.item_id is not None and self.item_id not in ids:
            return (self.item_id, *ids)
        return tuple(ids)


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the shop says about an item; `stock` is None where it is not counted."""

    item_id: str
    title: str | None = None
    price: float | None = None
    stock: int | None = None
    is_hidden: bool = False
    categories: tuple[str, ...] = ()
    attributes: dict[str, Scalar | list[Scalar]] = {}

    @property
    def is_available(self) -> bool:
        """Whether the item may be recommended now."""
        return not self.is_hidden and (self.stock is None or self.stock > 0)


class User(msgspec.Struct, frozen=True):
    """What the shop says about a user; `marketing_consent` is None when nobody asked."""

    user_id: str
    marketing_consent: bool | None = None
    attributes: dict[str, Scalar | list[Scalar]] = {}


class Tombstone(msgspec.Struct, frozen=True):
    """The item or user of this id was deleted."""

    id: str


def iso_time(ms: int) -> str:
    """ISO-8601 in UTC with milliseconds.

    >>> iso_time(1767607200123)
    '2026-01-05T10:00:00.123Z'
    """
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"
