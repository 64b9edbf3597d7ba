"""Foreign shapes of shop events, rewritten to the canonical names.

A shop rarely speaks our names. This module knows the vocabulary of Segment's ecommerce
specification (version 2), Snowplow, Google Retail, GA4's export, short forms, and the two
CloudEvents 1.0 bindings for Kafka. It only renames: it returns a dictionary with canonical
keys and does not judge the values, which `stream_app.events.decoding` does for every message alike.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from stream_app.errors import EventError
from stream_app.events.records import CANONICAL_TYPES

Headers = Iterable[tuple[str, bytes | None]]

# Canonical type → what others call it. Compared without case, spaces, hyphens and underscores.
_TYPE_ALIASES = {
    "view_item_list": "impression impressions list_view view_list product_list_viewed product_list_view "
    "category_page_view home_page_view search_result_view view_search_results ranking",
    "select_item": "click clicks clicked item_click product_clicked product_click list_click select",
    "view_item": "view views viewed product_viewed product_view item_view view_product detail details "
    "detail_page_view product_detail_view page_view_item visit",
    "add_to_wishlist": "wishlist product_added_to_wishlist favorite favourite like bookmark save",
    "add_to_cart": "cart carts basket added_to_cart product_added add_cart cart_add add_to_basket add_to_bag",
    "remove_from_cart": "product_removed remove_cart cart_remove remove_from_basket remove_from_bag",
    "begin_checkout": "checkout checkout_started start_checkout checkout_start checkout_step "
    "initiate_checkout",
    "purchase": "buy bought order orders ordered order_completed order_placed purchased purchase_complete "
    "transaction sale conversion",
    "refund": "refunded order_refunded order_cancelled order_canceled return returned cancel cancellation",
    "rate": "rating ratings rated review product_reviewed",
}

# Canonical field → names to look for, in this order, compared like the types. The canonical name comes first.
_FIELD_ALIASES = {
    "event_id": "event_id message_id insert_id event_uuid uuid id",
    "event_type": "event_type event_name event type action",
    "event_time": "event_time event_timestamp timestamp original_timestamp derived_tstamp collector_tstamp "
    "datetime time ts",
    "user_id": "user_id visitor_id customer_id shopper_id uid user",
    "anonymous_id": "anonymous_id user_pseudo_id domain_userid client_id",
    "session_id": "session_id domain_sessionid ga_session_id session",
    "item_id": "item_id product_id content_id sku item product aid",
    "value": "value revenue total rating stars amount tr_total",
    "currency": "currency currency_code tr_currency",
    "quantity": "quantity qty",
    "price": "price unit_price",
    "position": "position index rank",
    "request_id": "request_id attribution_token recommendation_id impression_id",
    "items": "items products product_details line_items",
    "context": "context",
    "attributes": "attributes",
}
_ITEM_ALIASES = {
    "item_id": "item_id product_id sku id aid",
    "price": "price unit_price",
    "quantity": "quantity qty",
    "position": "position index rank item_list_index",
}
# Objects whose members count as members of the message itself, below the message's own.
_WRAPPERS = ("properties", "params", "ecommerce", "purchase_transaction", "purchaseTransaction")


MAX_NAME = 256  # characters; longer names are nobody's vocabulary, and are not worth a place in a cache


def squash(name: str) -> str:
    """Compare names without case, spaces and punctuation.

    >>> squash("Product Added") == squash("product-added") == "productadded"
    True
    """
    return _squash(name) if len(name) <= MAX_NAME else name


@functools.lru_cache(maxsize=4096)
def _squash(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


_TYPES = {squash(t): t for t in CANONICAL_TYPES} | {
    squash(alias): t for t, aliases in _TYPE_ALIASES.items() for alias in aliases.split()
}


_Table = dict[str, tuple[str, int]]  # squashed name → canonical field, how far down its list of names


def _table(aliases: dict[str, str]) -> _Table:
    return {
        squash(name): (field, rank)
        for field, names in aliases.items()
        for rank, name in enumerate(names.split())
    }


_FIELDS = _table(_FIELD_ALIASES)
_ITEM_FIELDS = _table(_ITEM_ALIASES)


def canonical_type(name: str) -> str | None:
    """The canonical event type that `name` stands for; None when nothing is known by this name.

    A reverse-DNS name is read by its last word and its version is dropped.

    >>> canonical_type("Order Completed"), canonical_type("com.shop.add-to-cart.v2")
    ('purchase', 'add_to_cart')
    >>> canonical_type("wave") is None
    True
    """
    found = _TYPES.get(squash(name))
    if found is None and "." in name:
        words = [w for w in name.split(".") if not re.fullmatch(r"v\d+", w)]
        found = _TYPES.get(squash(words[-1])) if words else None
    return found


def to_canonical(message: Mapping[str, Any], headers: Headers = ()) -> dict[str, Any]:
    """Rename the members of a decoded message to the canonical ones.

    Parameters
    ----------
    message
        The JSON object as it came.
    headers
        The Kafka headers, where CloudEvents in binary mode keep their attributes.

    Returns
    -------
    dict
        Only canonical keys (plus ``price`` and ``position`` of a single item), values untouched.

    Raises
    ------
    EventError
        The CloudEvents envelope is incomplete.

    Examples
    --------
    >>> to_canonical({"type": "track", "event": "Product Added", "userId": "u1",
    ...               "properties": {"product_id": "sku-1", "price": 9.5}})
    {'item_id': 'sku-1', 'price': 9.5, 'event_type': 'Product Added', 'user_id': 'u1'}
    """
    envelope, body = _unwrap_cloudevent(message, headers)
    flat: dict[str, Any] = {}
    for name in _WRAPPERS:
        inner = body.get(name)
        if isinstance(inner, Mapping):
            flat |= _squashed(inner)
    flat |= _squashed(body)
    fields = _pick(flat, _FIELDS)
    _read_snowplow(flat, fields)
    if isinstance(fields.get("item_id"), Mapping):  # {"product": {"id": …}}
        fields["item_id"] = _pick_item(fields["item_id"]).get("item_id")
    items = fields.get("items")
    if isinstance(items, list):
        fields["items"] = [_pick_item(item) if isinstance(item, Mapping) else item for item in items]
    for field, value in envelope.items():
        if field == "event_id" or field not in fields:
            fields[field] = value
    return fields


def is_cloudevent(headers: Headers) -> bool:
    """Whether the message is a CloudEvent in binary mode.

    >>> is_cloudevent([("traceparent", b"00-1"), ("ce_specversion", b"1.0")])
    True
    """
    return any(name.lower() == "ce_specversion" for name, _ in headers)


def _squashed(members: Mapping[str, Any]) -> dict[str, Any]:
    return {squash(name): value for name, value in members.items() if value is not None}


def _pick(flat: Mapping[str, Any], table: _Table) -> dict[str, Any]:
    """The members that `table` knows; of several names for one field, the first in its list counts."""
    fields: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    for name, value in flat.items():
        field, rank = table.get(name, ("", 0))
        if field and rank < ranks.get(field, 99):
            fields[field], ranks[field] = value, rank
    return fields


def _pick_item(item: Mapping[str, Any]) -> dict[str, Any]:
    product = item.get("product")  # Google Retail: {"product": {"id": …}, "quantity": 2}
    flat = _squashed(product) if isinstance(product, Mapping) else {}
    return _pick(flat | _squashed(item), _ITEM_FIELDS)


def _read_snowplow(flat: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Take the action and the products of Snowplow's ecommerce schemas, which hide in long member names."""
    for name, value in flat.items():
        if name.endswith("snowplowecommerceaction1") and isinstance(value, Mapping):
            fields["event_type"] = value.get("type", fields.get("event_type"))
        elif name.startswith("contexts") and name.endswith("product1") and isinstance(value, list):
            fields.setdefault("items", value)


def _unwrap_cloudevent(
    message: Mapping[str, Any], headers: Headers
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Split a CloudEvent into what its envelope says and its data; other messages pass as they are."""
    attributes: dict[str, Any] = {
        name[3:].lower(): value.decode("utf-8", "replace")
        for name, value in headers
        if name[:3].lower() == "ce_" and value is not None
    }
    body: Any = message
    if not attributes.get("specversion"):
        if "specversion" not in message:
            return {}, message
        attributes = {k: v for k, v in message.items() if k not in ("data", "data_base64")}
        body = _structured_data(message)
    source, id_ = attributes.get("source"), attributes.get("id")
    for name, value in (("source", source), ("id", id_)):
        if not isinstance(value, str) or not value:
            raise EventError("event_id", f"CloudEvents need a non-empty string in {name!r}")
    envelope: dict[str, Any] = {"event_id": f"{source}#{id_}"}
    if attributes.get("type"):
        envelope["event_type"] = attributes["type"]
    if attributes.get("time"):
        envelope["event_time"] = attributes["time"]
    if attributes.get("partitionkey"):
        envelope["user_id"] = attributes["partitionkey"]
    return envelope, body


def _structured_data(message: Mapping[str, Any]) -> Mapping[str, Any]:
    data = message.get("data")
    if data is None and isinstance(message.get("data_base64"), str):
        try:
            data = msgspec.json.decode(base64.b64decode(message["data_base64"], validate=True))
        except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise EventError("data_base64", f"does not hold JSON ({error})") from error
    if not isinstance(data, Mapping):
        raise EventError("data", "a CloudEvent's data must be a JSON object with the event's fields")
    return data
