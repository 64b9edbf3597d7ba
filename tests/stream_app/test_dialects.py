"""Truths about foreign shapes: other vocabularies and envelopes give the same events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_app.errors import EventError
from stream_app.events import DecodePolicy, EventItem, decode_event, feedback
from stream_app.events.dialects import canonical_type, squash

T_MS = 1_767_607_200_123


def raw(**changes: Any) -> bytes:
    """A valid event with some members changed."""
    message = {
        "event_type": "view_item",
        "event_time": T_MS,
        "user_id": "u1",
        "item_id": "a",
        "event_id": "e1",
    }
    return json.dumps(message | changes).encode()


def error(message: bytes) -> EventError:
    with pytest.raises(EventError) as caught:
        decode_event(message)
    return caught.value


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Product Added", "add_to_cart"), ("Order Completed", "purchase"), ("Product List Viewed",
     "view_item_list"),
     ("detail-page-view", "view_item"), ("purchase-complete", "purchase"), ("transaction", "purchase"),
     ("product_view", "view_item"), ("VIEW", "view_item"), ("click", "select_item"), ("cart",
      "add_to_cart"),
     ("buy", "purchase"), ("com.example.shop.purchase.v1", "purchase"), ("hello", None), (".", None),
      ("", None)],
)  # fmt: skip
def test_type_aliases(name: str, expected: str | None) -> None:
    """Names of other vocabularies are known whatever their case and separators."""
    assert canonical_type(name) == expected


def test_unknown_type() -> None:
    """Unknown types are refused unless the policy keeps them."""
    assert error(raw(event_type="Spin Wheel")).field == "event_type"
    kept = decode_event(raw(event_type="Spin Wheel"), policy=DecodePolicy(accept_unknown_types=True))
    assert kept.event_type == "spin_wheel"
    assert feedback(kept) == []


def test_segment() -> None:
    """A Segment track call is one of our events."""
    event = decode_event(
        json.dumps({
            "type": "track", "event": "Order Completed", "messageId": "m1", "userId": None,
            "anonymousId": "a1",
            "timestamp": "2026-01-05T10:00:00.123Z", "context": {"locale": "sv-SE"},
            "properties": {"order_id": "o1", "revenue": "25.0", "currency": "SEK",
                           "products": [{"product_id": "a", "price": 10, "quantity": 2}, {"sku": "b",
                           "price": 5}]},
        }).encode()
    )  # fmt: skip
    assert (event.event_id, event.event_type, event.user_id, event.value) == (
        "m1",
        "purchase",
        "a1",
        25.0,
    )
    assert event.items == (EventItem("a", 10.0, 2), EventItem("b", 5.0))


def test_snowplow() -> None:
    """A Snowplow ecommerce action is read from its schema-named members."""
    event = decode_event(
        json.dumps({
            "event_id": "e", "event_name": "snowplow_ecommerce_action", "domain_userid": "d1",
            "collector_tstamp": "2026-01-05T10:00:00.123Z",
            "unstruct_event_com_snowplowanalytics_snowplow_ecommerce_snowplow_ecommerce_action_1":
                {"type": "add_to_cart"},
            "contexts_com_snowplowanalytics_snowplow_ecommerce_product_1": [{"id": "a", "price": 3.5}],
        }).encode()
    )  # fmt: skip
    assert (event.event_type, event.user_id, event.items) == ("add_to_cart", "d1", (EventItem("a", 3.5),))


def test_google_retail() -> None:
    """A Google Retail user event is one of our events."""
    event = decode_event(
        json.dumps({
            "eventType": "purchase-complete", "visitorId": "v1", "eventTime": "2026-01-05T10:00:00.123Z",
            "productDetails": [{"product": {"id": "a"}, "quantity": 2}],
            "purchaseTransaction": {"revenue": 20.0, "currencyCode": "USD"},
        }).encode()
    )  # fmt: skip
    assert (event.event_type, event.user_id, event.value, event.currency) == (
        "purchase",
        "v1",
        20.0,
        "USD",
    )
    assert event.items == (EventItem("a", quantity=2),)


def test_cloudevent_structured() -> None:
    """A structured CloudEvent is identified by source and id; its data is the event."""
    envelope = {"specversion": "1.0", "source": "/shop", "id": "7", "type": "com.shop.view.v1",
                "time": "2026-01-05T10:00:00.123Z", "data": {"user_id": "u1",
                "item_id": "a"}}  # fmt: skip
    event = decode_event(json.dumps(envelope).encode())
    assert (event.event_id, event.event_type, event.event_time_ms) == ("/shop#7", "view_item", T_MS)
    assert error(json.dumps(envelope | {"id": None}).encode()).field == "event_id"
    assert error(json.dumps(envelope | {"data": [1]}).encode()).field == "data"


def test_cloudevent_binary() -> None:
    """In binary mode the headers are the envelope, the value is the event; other headers mean nothing."""
    headers = [("ce_specversion", b"1.0"), ("ce_source", b"/shop"), ("ce_id", b"8"), ("ce_type", b"view")]
    assert decode_event(raw(), headers=headers).event_id == "/shop#8"
    assert decode_event(raw(), headers=[("traceparent", b"00")]).event_id == "e1"


def test_canonical_names_win() -> None:
    """Where a message has the canonical name and an alias, the canonical one counts, whatever the order."""
    for members in ({"item_id": "a", "sku": "b"}, {"sku": "b", "item_id": "a"}):
        message = {"event_type": "view", "event_time": T_MS, "user_id": "u"} | members
        assert decode_event(json.dumps(message).encode()).item_id == "a"


def test_aliases_beside_canonical_names_count() -> None:
    """An otherwise canonical event may use an alias for a single member."""
    assert decode_event(raw(sessionId="s7")).session_id == "s7"
    assert decode_event(raw(items=[{"sku": "b", "index": 2}])).items == (EventItem("b", position=2),)


def test_long_names_are_compared_as_they_are() -> None:
    """Absurdly long names match nothing and are not remembered."""
    assert squash("A" * 1_000) == "A" * 1_000
