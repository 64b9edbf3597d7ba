"""Truths about decoding: every message becomes one event or one reason."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from stream_app.errors import EventError
from stream_app.events import (
    CANONICAL_TYPES,
    DecodePolicy,
    Event,
    EventItem,
    decode_event,
    decode_events,
    decode_item,
    decode_user,
    decoding,
    encode_event,
    feedback,
)
from stream_app.events.records import LATEST_MS

T_MS = 1_767_607_200_123
CONTRACT = {
    "event_id": "018f", "event_type": "add_to_cart", "event_time": "2026-01-05T10:00:00.123Z",
    "user_id": "u1", "anonymous_id": "a9", "session_id": "s1",
    "item_id": "sku-1", "value": 18.99, "currency": "USD", "quantity": 1,
    "request_id": "rec-77", "items": [{"item_id": "sku-1", "price": 18.99, "quantity": 1, "position": 3}],
    "context": {"device": "ios"}, "attributes": {},
}  # fmt: skip
VIEW = {"event_id": "e1", "event_type": "view_item", "event_time": T_MS, "user_id": "u1", "item_id": "a"}


class FakeMessage(NamedTuple):
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic: str = "events"
    partition: int = 0
    offset: int = 0


def raw(**changes: Any) -> bytes:
    """A valid event with some members changed; None removes a member."""
    return json.dumps({k: v for k, v in (VIEW | changes).items() if v is not None}).encode()


def error(message: bytes | None, **options: Any) -> EventError:
    with pytest.raises(EventError) as caught:
        decode_event(message, **options)
    return caught.value


def slow(message: bytes) -> Event:
    return decoding._slow(message, (), DecodePolicy(), LATEST_MS, None)


class TestCanonicalEvents:
    def test_contract_example(self) -> None:
        """The example of the contract decodes to the fields it shows."""
        event = decode_event(json.dumps(CONTRACT).encode(), key=b"u1")
        assert event == Event(
            "018f", "add_to_cart", T_MS, "u1", "sku-1", "s1", 18.99, "USD", 1, "rec-77",
            (EventItem("sku-1", 18.99, 1, 3),), {"device": "ios"}, {}, "a9",
        )  # fmt: skip

    @pytest.mark.parametrize("event_type", CANONICAL_TYPES)
    def test_both_paths_agree(self, event_type: str) -> None:
        """The typed decode and the tolerant decode give equal events."""
        message = json.dumps(CONTRACT | {"event_type": event_type}).encode()
        fast = decoding._fast(message, DecodePolicy(), LATEST_MS)
        assert fast is not None
        assert fast == slow(message)

    def test_round_trip(self) -> None:
        """What is encoded decodes to the same event."""
        event = decode_event(json.dumps(CONTRACT).encode())
        assert decode_event(encode_event(event)) == event

    def test_order_of_many_items_is_one_event(self) -> None:
        """A purchase may name its items only in the list."""
        event = decode_event(
            raw(event_type="purchase", item_id=None, items=[{"item_id": "a"}, {"item_id": "b"}])
        )
        assert event.item_id is None
        assert event.item_ids() == ("a", "b")

    @pytest.mark.parametrize("name", ["user_id", "event_type", "event_time", "item_id"])
    def test_missing_field_is_named(self, name: str) -> None:
        """The error names the field that is missing."""
        assert error(raw(**{name: None})).field == name

    def test_integer_ids_become_text(self) -> None:
        """Ids may be integers, also inside lists."""
        event = decode_event(raw(user_id=7, item_id=8, event_id=9, items=[{"item_id": 8}]), key=b"7")
        assert (event.user_id, event.item_id, event.event_id, event.items[0].item_id) == ("7", "8", "9", "8")

    def test_price_beside_the_item_is_kept(self) -> None:
        """A price or position that stands beside item_id moves into items."""
        assert decode_event(raw(price=9.5, position=2)).items == (EventItem("a", 9.5, None, 2),)

    def test_nested_context_is_kept(self) -> None:
        """Context may be nested, within reason."""
        context = {"page": {"url": "/a", "tags": ["x"]}}
        assert decode_event(raw(context=context)).context == context

    def test_rating_needs_a_value(self) -> None:
        """A rating without value is no rating."""
        assert error(raw(event_type="rate")).field == "value"


class TestEventTime:
    @pytest.mark.parametrize(
        "time",
        ["2026-01-05T10:00:00.123Z", "2026-01-05T11:00:00.123+01:00", "2026-01-05 10:00:00.123", T_MS,
         str(T_MS),
         T_MS / 1000, str(T_MS / 1000), T_MS * 1000, T_MS * 1_000_000, "2026-01-05 10:00:00.123 UTC"],
    )  # fmt: skip
    def test_notations(self, time: object) -> None:
        """ISO-8601 and epoch numbers of any unit mean the same moment, on both paths."""
        assert decode_event(raw(event_time=time)).event_time_ms == T_MS
        assert slow(raw(event_time=time)).event_time_ms == T_MS

    def test_seconds(self) -> None:
        """Small numbers are seconds, and a date is its midnight in UTC."""
        assert decode_event(raw(event_time=1_767_607_200)).event_time_ms == 1_767_607_200_000
        assert decode_event(raw(event_time="2026-01-05")).event_time_ms == 1_767_571_200_000

    @pytest.mark.parametrize(
        "time",
        ["soon", "", -1, 0, 1e308, -1e308, 10**400, "1e308", "nan", "inf", "1989-12-31", "2201-01-01", True,
         [], {},
         "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
    )  # fmt: skip
    def test_nonsense_is_refused(self, time: object) -> None:
        """What is no time between 1990 and 2200 is refused by name."""
        assert error(raw(event_time=time)).field in ("event_time", "value")

    def test_future_is_measured_by_the_callers_clock(self) -> None:
        """With a clock, a time more than a day ahead is refused, one less ahead is not."""
        assert error(raw(), now_ms=T_MS - 86_400_001).field == "event_time"
        assert decode_event(raw(), now_ms=T_MS - 86_400_000).event_time_ms == T_MS


class TestHostileInput:
    @pytest.mark.parametrize(
        "message",
        [None, b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b"NaN", b"[" * 100_000, b'{"a":' * 50_000,
         b'{"user_id":"\xff"}', b'\x00\x00\x00\x00\x07{"user_id":"u"}',
         b'{"user_id": 1' + b"0" * 9000 + b"}"],
    )  # fmt: skip
    def test_garbage(self, message: bytes | None) -> None:
        """Garbage is refused as a whole."""
        assert error(message).field == "value"

    @pytest.mark.parametrize("id_", ["", "a\0b", "x" * 513, "é" * 257, 1.5, True, [], {"id": 1}])
    def test_impossible_ids(self, id_: object) -> None:
        """Empty, too long, or NUL-carrying ids are refused, as are values of other types."""
        assert error(raw(user_id=id_)).field == "user_id"

    def test_lone_surrogates(self) -> None:
        """A lone surrogate is refused wherever it stands."""
        for field in ("user_id", "item_id", "context"):
            value = b'{"a":"\\ud800x"}' if field == "context" else b'"\\ud800x"'
            message = raw(**{field: "HERE"}).replace(b'"HERE"', value)
            assert error(message).field in (field, "value")

    @pytest.mark.parametrize(
        "id_", ["\r\nSET a b", "*", "{tag}", "../../etc", "\u202eabc", "😀" * 128, "a" * 512, " "]
    )
    def test_hostile_ids_are_data(self, id_: str) -> None:
        """Strange ids pass through unchanged."""
        assert decode_event(raw(user_id=id_), key=id_.encode()).user_id == id_

    def test_size_is_checked_before_parsing(self) -> None:
        """A message over the cap is refused, even when it would not parse."""
        failure = error(b"{" + b" " * 2000, policy=DecodePolicy(max_bytes=1000))
        assert failure.reason == "has 2001 bytes; the limit is 1000"

    @pytest.mark.parametrize("value", ["1e309", "1e308", "-1e13", '"NaN"', '"inf"', '"much"', "true", "[]"])
    def test_impossible_amounts(self, value: str) -> None:
        """Amounts that are no finite, plausible numbers are refused."""
        assert error(raw(value="HERE").replace(b'"HERE"', value.encode())).field == "value"

    def test_depth_and_big_integers_in_context(self) -> None:
        """What could not be encoded again does not get in."""
        deep: dict[str, Any] = {}
        for _ in range(20):
            deep = {"a": deep}
        assert error(raw(context=deep)).field == "context"
        assert error(raw(attributes={"n": 2**64})).field == "attributes"

    def test_too_many_items(self) -> None:
        """An event lists at most a thousand items."""
        items = [{"item_id": str(n)} for n in range(1_001)]
        assert error(raw(items=items)).field == "items"
        assert len(decode_event(raw(items=items[:1_000])).items) == 1_000

    def test_negative_quantity(self) -> None:
        """A negative quantity is refused; a return is a refund."""
        assert error(raw(quantity=-1)).field == "quantity"

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )
    names = st.sampled_from(
        [*CONTRACT, "userId", "type", "event", "properties", "products", "specversion", "source", "id",
         "data",
         "price", "productDetails", "data_base64", "params"]
    )  # fmt: skip

    @seed(1)
    @settings(max_examples=300, deadline=None, database=None)
    @given(
        members=st.dictionaries(names, json_values, max_size=6), base=st.booleans(), cut=st.integers(0, 400)
    )
    def test_only_event_errors(self, members: dict[str, Any], base: bool, cut: int) -> None:
        """Any message gives an event that encodes again, or an EventError, and never anything else."""
        message = json.dumps((CONTRACT if base else {}) | members).encode()
        for text in (message, message[:cut]):
            try:
                event = decode_event(text, headers=[("ce_id", b"\xff"), ("ce_specversion", None)])
            except EventError:
                continue
            assert decode_event(encode_event(event)).user_id == event.user_id

    @seed(2)
    @settings(max_examples=300, deadline=None, database=None)
    @given(message=st.binary(max_size=200), key=st.binary(max_size=10) | st.none())
    def test_bytes(self, message: bytes, key: bytes | None) -> None:
        """No bytes raise anything but EventError, as event, item or user."""
        for decode in (lambda: decode_event(message, key=key), lambda: decode_item(key, message),
                       lambda: decode_user(key, message)):  # fmt: skip
            try:
                decode()
            except EventError as failure:
                assert failure.field and failure.reason


class TestKeys:
    def test_key_must_be_the_user(self) -> None:
        """An event under another user's key is refused, for its partition is not its user's."""
        assert error(raw(), key=b"u2").field == "key"
        assert decode_event(raw(), key=b'"u1"').user_id == "u1"
        assert decode_event(raw(), key=b"u2", policy=DecodePolicy(check_key=False)).user_id == "u1"

    def test_key_stands_in_for_a_missing_user(self) -> None:
        """Without user and visitor, the key is the user."""
        assert decode_event(raw(user_id=None), key=b"u9").user_id == "u9"


class TestDerivedIds:
    def test_same_content_same_id(self) -> None:
        """The derived id does not depend on how the message was written."""
        one = decode_event(raw(event_id=None))
        other = decode_event(
            raw(event_id=None, event_type="View Item", event_time="2026-01-05T10:00:00.123Z")
        )
        assert one.event_id == other.event_id
        assert one.event_id != decode_event(raw(event_id=None, item_id="b")).event_id


class TestBatches:
    def test_every_message_is_somewhere(self) -> None:
        """Accepted and rejected add up to what came, and what was rejected is kept with its place."""
        bad = FakeMessage(b'\xff{"user_id"', b"u1", (), "events", 3, 42)
        accepted, rejected = decode_events([FakeMessage(raw()), bad, FakeMessage(None), FakeMessage(raw())])
        assert (len(accepted), len(rejected)) == (2, 2)
        assert (rejected[0].partition, rejected[0].offset, rejected[0].value) == (3, 42, bad.value)


class TestFeedback:
    def test_weights(self) -> None:
        """A purchase says more than a view; an impression says nothing."""
        assert feedback(decode_event(raw(event_type="purchase"))) == [("a", 5.0)]
        assert feedback(decode_event(raw())) == [("a", 1.0)]
        assert feedback(decode_event(raw(event_type="view_item_list"))) == []

    def test_ratings(self) -> None:
        """A rating counts from the threshold on, and more the higher it is."""
        ratings = [decode_event(raw(event_type="rate", value=v)) for v in (3.9, 4, 5)]
        assert [feedback(r) for r in ratings] == [[], [("a", 1.0)], [("a", 1.25)]]

    def test_item_outside_its_list(self) -> None:
        """Each item counts once, whether it stands in item_id, in items, or in both."""
        event = decode_event(raw(event_type="purchase", items=[{"item_id": "b"}, {"item_id": "b"}]))
        assert feedback(event, {"purchase": 2.0}) == [("a", 2.0), ("b", 2.0)]


def test_events_are_cheap_to_keep() -> None:
    """Events are not tracked by the garbage collector."""
    assert msgspec.structs.fields(Event)[0].name == "event_id"
    assert Event.__struct_config__.gc is False
