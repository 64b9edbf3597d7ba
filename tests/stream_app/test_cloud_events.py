"""Trigger messages are CloudEvents to a library that is not ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

from stream_app.events import Event, User
from stream_app.simulator import Shop
from stream_app.triggers.deciding import Decision
from stream_app.triggers.effect import decode_exposure
from stream_app.triggers.gates import NO_CONSENT
from stream_app.triggers.messages import Recommendation, cloud_event
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules_file import builtin_rules
from stream_app.webhook import headers

PICKS = [Recommendation("sku-1", 2.5, "goes with “sku-2”"), Recommendation("é/{}", -0.25, "")]


@pytest.fixture(scope="module")
def decisions() -> list[Decision]:
    """What the built-in rules decide on a simulated shop, and on buyers whose names are hard to write."""
    run = Preview(builtin_rules())
    shop = Shop(3, n_items=200, n_users=300)
    for record in (*shop.users(), *shop.items(), *shop.records(12_000)):
        run.feed(record)
    last_ms = max(d.at_ms for d in run.decisions)
    for n, user_id in enumerate(["ü@example.org", 'a"b\\', "\u202eabc", "0"]):
        run.feed(User(user_id, n % 2 == 0))
        run.feed(Event(f"p{n}", "purchase", last_ms, user_id, item_id="sku-00001", value=1.0))
    run.feed(Event("end", "view_item", last_ms + 40 * 86_400_000, "u00000", item_id="sku-00001"))
    return run.decisions


def received(decision: Decision) -> Iterator[tuple[BaseCloudEvent, bytes]]:
    """A message as the library reads it from a record of Kafka, and from the request of a webhook."""
    value = cloud_event(decision, "rec", "65b9f3cc", [] if decision.held else PICKS)
    content_type = {"content-type": b"application/cloudevents+json"}
    yield from_kafka_event(KafkaMessage(content_type, decision.user_id.encode(), value)), value
    sent = headers([b"k" * 32], json.loads(value)["id"], 1, value)
    yield from_http_event(HTTPMessage({k.title(): v for k, v in sent.items()}, value)), value


def test_a_foreign_library_reads_every_message(decisions: list[Decision]) -> None:
    """Attributes and data come out as they went in, for each rule that fired, sent and held back."""
    assert len({d.rule.name for d in decisions}) >= 4
    assert {"", NO_CONSENT} <= {d.held for d in decisions}
    for decision in decisions:
        for event, value in received(decision):
            written = json.loads(value)
            assert event.get_specversion() == "1.0"
            assert event.get_type() == f"recs.trigger.{decision.rule.name}.v1"
            assert event.get_source() == "/recs/rec"
            assert event.get_subject() == decision.user_id == written["data"]["user_id"]
            assert event.get_id() == written["id"]
            assert event.get_time() == datetime.fromtimestamp(decision.at_ms / 1000, UTC)
            assert event.get_datacontenttype() == "application/json"
            assert event.get_data() == written["data"]
            assert not event.get_extension("owner")


def test_our_reader_agrees(decisions: list[Decision]) -> None:
    """The report of effects reads rule, user, time and reason as the library does."""
    for decision in decisions:
        exposure = decode_exposure(cloud_event(decision, "rec", "1"))
        assert exposure[1:] == (decision.rule.name, decision.user_id, decision.at_ms, decision.held)
