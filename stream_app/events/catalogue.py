"""Items and users: what the shop says about them, decoded from the compacted topics."""

from __future__ import annotations

from typing import Any

import msgspec

from stream_app.errors import EventError
from stream_app.events.fields import attributes, identifier, key_text, number, parse_object, show
from stream_app.events.records import MAX_AMOUNT, MAX_QUANTITY, Item, Tombstone, User

MAX_BYTES = 1_000_000

_encode = msgspec.json.Encoder().encode
_ITEM_NAMES = {"item_id": "item_id", "product_id": "item_id", "sku": "item_id", "id": "item_id"} | {
    name: name for name in ("title", "price", "stock", "is_hidden", "categories", "attributes")
}
_ITEM_NAMES |= {"name": "title", "category": "categories", "hidden": "is_hidden", "inventory": "stock"}


def decode_item(key: bytes | None, raw: bytes | None) -> Item | Tombstone:
    """Decode one message of the topic ``items``; a null or empty value is a tombstone.

    Members that are not part of `Item` and are plain values or lists of them become attributes.

    Raises
    ------
    EventError
        The message is not a valid item.

    Examples
    --------
    >>> decode_item(b"sku-1", b'{"price": 18.99, "stock": 0, "categories": ["shoes"], "brand": "acme"}')
    Item(item_id='sku-1', title=None, price=18.99, stock=0, is_hidden=False, categories=('shoes',),
         attributes={'brand': 'acme'})
    >>> decode_item(b"sku-1", None)
    Tombstone(id='sku-1')
    """
    if not raw:
        return Tombstone(_tombstone_id("item_id", key))
    message = parse_object(raw, MAX_BYTES)
    known = {_ITEM_NAMES[name]: value for name, value in message.items() if name in _ITEM_NAMES}
    item_id = _record_id("item_id", known.get("item_id"), key)
    title = known.get("title")
    if not isinstance(title, str | None):
        raise EventError("title", f"{show(title)} is not text")
    price = number("price", known.get("price"), 0, MAX_AMOUNT)
    stock = number("stock", known.get("stock"), -MAX_QUANTITY, MAX_QUANTITY)
    is_hidden = known.get("is_hidden", False)
    if not isinstance(is_hidden, bool):
        raise EventError("is_hidden", f"{show(is_hidden)} is neither true nor false")
    categories = known.get("categories") or ()
    if isinstance(categories, str):
        categories = (categories,)
    if not isinstance(categories, list | tuple) or not all(isinstance(c, str) and c for c in categories):
        raise EventError("categories", f"{show(categories)} is not a list of names")
    extra = {name: value for name, value in message.items() if name not in _ITEM_NAMES and name != "record"}
    return Item(
        item_id,
        title,
        None if price is None else float(price),
        None if stock is None else int(stock),
        is_hidden,
        tuple(categories),
        attributes(known.get("attributes"), extra),
    )


def decode_user(key: bytes | None, raw: bytes | None) -> User | Tombstone:
    """Decode one message of the topic ``users``; a null or empty value is a tombstone.

    Raises
    ------
    EventError
        The message is not a valid user.

    Examples
    --------
    >>> decode_user(b"u1", b'{"consent": {"marketing": true}, "attributes": {"country": "SE"}}')
    User(user_id='u1', marketing_consent=True, attributes={'country': 'SE'})
    """
    if not raw:
        return Tombstone(_tombstone_id("user_id", key))
    message = parse_object(raw, MAX_BYTES)
    user_id = _record_id("user_id", message.get("user_id", message.get("id")), key)
    consent = message.get("consent")
    if not isinstance(consent, dict | None):
        raise EventError("consent", f'{show(consent)} is not an object such as {{"marketing": true}}')
    marketing = (consent or {}).get("marketing")
    if not isinstance(marketing, bool | None):
        raise EventError("consent.marketing", f"{show(marketing)} is neither true nor false")
    names = ("user_id", "id", "consent", "attributes", "record")
    extra = {name: value for name, value in message.items() if name not in names}
    return User(user_id, marketing, attributes(message.get("attributes"), extra))


def _tombstone_id(field: str, key: bytes | None) -> str:
    id_ = identifier(field, key_text(key))
    if id_ is None:
        raise EventError("key", "is missing; a deletion needs the id as message key")
    return id_


def _record_id(field: str, value: Any, key: bytes | None) -> str:
    id_ = identifier(field, value)
    if id_ is None:
        id_ = identifier(field, key_text(key))
    if id_ is None:
        raise EventError(field, "is missing, and so is the message key")
    if key and key.strip(b'"') != id_.encode().strip(b'"'):
        raise EventError("key", f"is {show(key)} but {field} is {show(id_)}; produce with key = {field}")
    return id_


def encode_item(item: Item) -> bytes:
    """The canonical JSON of an item; `decode_item` reads the same item back.

    >>> encode_item(Item("sku-1", price=18.99, categories=("shoes",)))
    b'{"item_id":"sku-1","price":18.99,"categories":["shoes"]}'
    """
    return _encode(item)


def encode_user(user: User) -> bytes:
    """The canonical JSON of a user; `decode_user` reads the same user back.

    >>> encode_user(User("u1", True, {"country": "SE"}))
    b'{"user_id":"u1","consent":{"marketing":true},"attributes":{"country":"SE"}}'
    """
    record: dict[str, Any] = {"user_id": user.user_id}
    if user.marketing_consent is not None:
        record["consent"] = {"marketing": user.marketing_consent}
    if user.attributes:
        record["attributes"] = user.attributes
    return _encode(record)
