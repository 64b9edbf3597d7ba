"""Truths about items and users: they read back as written, and faults are named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_app.errors import EventError
from stream_app.events.catalogue import decode_item, decode_user, encode_item, encode_user
from stream_app.events.records import Item, Tombstone, User


def test_item_round_trip() -> None:
    """An item reads back as it was written; its key is its id."""
    item = Item("a", "Shoe", 9.5, 3, True, ("shoes", "red"), {"brand": "acme", "sizes": [38, 39]})
    assert decode_item(b"a", encode_item(item)) == item
    assert not item.is_available


def test_user_round_trip() -> None:
    """A user reads back as it was written; consent may be unknown."""
    for consent in (True, False, None):
        user = User("u", consent, {"age": 30, "country": "SE"})
        assert decode_user(b"u", encode_user(user)) == user


def test_tombstones() -> None:
    """No value means deleted; without a key nobody knows what."""
    assert decode_item(b"a", None) == Tombstone("a")
    assert decode_user(b"u", b"") == Tombstone("u")
    with pytest.raises(EventError, match="key"):
        decode_user(None, None)


@pytest.mark.parametrize(
    ("message", "field"),
    [({"price": -1}, "price"), ({"price": "x"}, "price"), ({"categories": [1]}, "categories"),
     ({"is_hidden": "no"}, "is_hidden"), ({"attributes": {"a": {}}}, "attributes.a"), ({"title": 3},
      "title"),
     ({"item_id": "other"}, "key"), ({"stock": []}, "stock"), ({"attributes": []}, "attributes")],
)  # fmt: skip
def test_bad_items(message: dict[str, Any], field: str) -> None:
    """The error names the field of the item that is wrong."""
    with pytest.raises(EventError) as caught:
        decode_item(b"a", json.dumps(message).encode())
    assert caught.value.field == field


def test_bad_consent() -> None:
    """Consent is true, false or unknown, never guessed."""
    with pytest.raises(EventError, match=r"consent\.marketing"):
        decode_user(b"u", b'{"consent":{"marketing":"yes"}}')
