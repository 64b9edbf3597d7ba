"""Triggers on the real broker: whatever crashes, each (cause, rule) is said once, and as the preview says."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

from stream_app.events import (
    Event,
    Item,
    User,
    decode_event,
    decode_item,
    encode_event,
    encode_item,
    encode_user,
)
from stream_app.simulator import Shop
from stream_app.triggers.messages import message_id
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules_file import builtin_rules
from tests.integration.harness import SMALL, Deployment, Message

HOUR = 3_600_000
Said = dict[str, set[str]]  # id → what became of it


def said(system: Deployment) -> tuple[Said, int]:
    """What stands on both topics by id, and how many messages are repeats."""
    found: Said = {}
    messages = [
        json.loads(m.value())
        for topic in (system.settings.triggers_topic, system.settings.suppressed_topic)
        for m in system.read(topic)
    ]
    for message in messages:
        assert message["type"] == f"recs.trigger.{message['data']['rule']}.v1"
        held = message["data"].get("suppressed", "")
        found.setdefault(message["id"], set()).add(held)
    return found, len(messages) - len(found)


def foretold(preview: Preview) -> Said:
    """What a preview says about the same history."""
    return {message_id(d.rule.name, d.user_id, d.key): {d.held} for d in preview.decisions}


def kill_at(system: Deployment, *places: str) -> None:
    """Start a worker for each place, and let it die there."""
    for place in places:
        doomed = system.start("worker", wait=False, FAILPOINT=place)
        assert doomed.exit_code(60) == -signal.SIGKILL, doomed.log()


def shop_log(system: Deployment) -> tuple[list[Message], list[Message], list[Message], list[Event]]:
    """Users, items and events of a small shop, and one late event per partition that moves its clock."""
    shop = Shop(3, n_items=120, n_users=150)
    users: list[Message] = [(u.user_id.encode(), encode_user(User(u.user_id, True))) for u in shop.users()]
    items: list[Message] = [(i.item_id.encode(), encode_item(i)) for i in shop.items()]
    events: list[Message] = [(e.user_id.encode(), encode_event(e)) for e in shop.events(4_000)]
    last_ms = max(e.event_time_ms for e in shop.events(4_000))
    clocks = [
        Event(f"clock{p}", "view_item", last_ms + 2 * HOUR, f"clock{p}", item_id="sku-00001")
        for p in range(system.settings.partitions)
    ]
    return users, items, events, clocks


def test_each_cause_is_said_once_whatever_crashes(deploy: Callable[..., Deployment]) -> None:
    """Killed at every step of firing, for timers and for items, workers say what the preview says."""
    system = deploy(instance="w1", **(SMALL | {"max_users_in_memory": 100, "partitions": 1}))
    users, items, events, clocks = shop_log(system)
    system.send(system.settings.users_topic, users)
    system.send(system.settings.items_topic, items)
    system.send_events(events)
    for partition, clock in enumerate(clocks):
        message: Message = (clock.user_id.encode(), encode_event(clock))
        system.send(system.settings.events_topic, [message], partition)

    preview = Preview(builtin_rules())
    for key, _ in users:
        assert key is not None
        preview.feed(User(key.decode(), True))
    for key, value in items:
        preview.feed(decode_item(key, value))
    for sent in sorted(system.ledger, key=lambda s: (s.partition, s.offset)):
        preview.feed(decode_event(sent.value, key=sent.key), sent.partition, sent.offset)
    timers = foretold(preview)
    assert {d.rule.name for d in preview.decisions} == {"cart_abandonment", "high_intent"} and len(
        timers
    ) > 20

    assert sum(d.due_ms < d.at_ms for d in preview.decisions) > 10  # quiet hours put them off
    kill_at(system, "worker.after_send:kill:9", "trigger.after_send:kill:2", "trigger.after_write:kill:3")
    kill_at(system, "trigger.after_send:kill:4", "trigger.after_send:kill:6")  # by day and by night
    worker = system.start("worker", wait=False)
    system.until_consumed()
    system.until(lambda: said(system)[0].keys() >= timers.keys(), "all timers have fired")
    assert worker.terminate() == 0
    found, repeats = said(system)
    assert found == timers and repeats > 0

    drops: list[Message] = []
    for key, value in items[:60]:
        item = decode_item(key, value)
        assert isinstance(item, Item) and item.price is not None
        changed = Item(item.item_id, item.title, round(item.price / 2, 2), 9, categories=item.categories)
        drops.append((key, encode_item(changed)))
        preview.feed(changed)
    everything = foretold(preview)
    assert {d.rule.name for d in preview.decisions} >= {"cart_abandonment", "price_drop"}
    system.send(system.settings.items_topic, drops)
    kill_at(system, "trigger.after_send:kill:1", "trigger.after_write:kill:2")
    system.start("worker")
    system.until(lambda: said(system)[0].keys() >= everything.keys(), "all changes were held against users")
    assert said(system)[0] == everything

    check_erased(system, json.loads(system.read(system.settings.triggers_topic)[-1].value())["subject"])


def check_erased(system: Deployment, user: str) -> None:
    """Erase a user who was sent something: no key, timer or watcher speaks of the user any more."""
    assert mentions(system, user)
    system.send(system.settings.users_topic, [(user.encode(), None)])
    system.until(lambda: not mentions(system, user), f"{user} is forgotten")


def mentions(system: Deployment, user: str) -> list[Any]:
    """Keys of a user, and sorted sets that the user stands in."""
    keys = [*system.redis.scan_iter(system.key("*"), count=1000)]
    sets = [k for k in keys if b":watchers:" in k or k.endswith(b":timers")]
    found = [k for k in sets if system.redis.zscore(k, user) is not None]
    return found + [k for k in keys if b"{%b}" % user.encode() in k]
