"""`recs triggers deliver` on the real broker: killed, asked to end, and between a worker and a report."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

from stream_app.events import Event, User, encode_event, encode_user
from tests.integration.harness import SMALL, Deployment, Message
from tests.stream_app.receivers import SECRET, Receiver


def trigger(number: int) -> Message:
    """Key and value of a trigger; every seventh user's."""
    user_id = f"u{number % 7}"
    value = {
        "specversion": "1.0", "id": f"m{number}", "type": "recs.trigger.win_back.v1", "source": "/recs/rec",
        "subject": user_id, "time": "2026-01-05T10:00:00.000Z", "data": {"rule": "win_back"},
    }  # fmt: skip
    return user_id.encode(), json.dumps(value).encode()


def test_killed_while_it_delivers(deploy: Callable[..., Deployment]) -> None:
    """After a kill every trigger arrives, a user's in order; repeats carry the id that they had before."""
    system = deploy(partitions=2)
    sent = system.send(system.settings.triggers_topic, map(trigger, range(200)))
    with Receiver() as receiver:
        to = {"RECS_WEBHOOK_URL": receiver.url, "RECS_WEBHOOK_SECRET": SECRET}
        doomed = system.start("deliver", wait=False, FAILPOINT="deliver.after_effect:kill:60", **to)
        assert doomed.exit_code(60) == -signal.SIGKILL, doomed.log()
        before = set(receiver.ids)
        assert 60 <= len(before) < 200
        process = system.start("deliver", **to)
        system.until(lambda: len(set(receiver.ids)) == 200, "everything is delivered")
        assert process.metric("webhooks") <= 200 - 60 + 60
        assert process.terminate() == 0
        arrived = list(receiver.requests)

        idle = system.start("deliver", **to)  # what was committed when the last one ended is not repeated
        assert idle.terminate() == 0
        assert len(receiver.requests) == len(arrived)

    bodies: dict[str, set[bytes]] = {}
    for received in arrived:
        assert received.is_signed()
        bodies.setdefault(received.id, set()).add(received.body)
    assert bodies == {f"m{n}": {trigger(n)[1]} for n in range(200)} and len(sent) == 200
    for user in range(7):
        first = list(dict.fromkeys(r.id for r in arrived if json.loads(r.body)["subject"] == f"u{user}"))
        assert first == [f"m{n}" for n in range(user, 200, 7)]


MINUTE_MS = 60_000


def did(user_id: str, what: str, at_ms: int) -> Message:
    """Key and value of an event."""
    event = Event(f"{user_id}-{what}-{at_ms}", what, at_ms, user_id, item_id="sku-1", value=10.0)
    return user_id.encode(), encode_event(event)


def test_from_a_cart_to_the_report(deploy: Callable[..., Deployment]) -> None:
    """Carts that were left reach the webhook, but for those held out; the report counts who bought later."""
    # Yesterday at ten: no quiet hours, and what is sent has not expired yet.
    morning_ms = int(time.time()) // 86_400 * 86_400_000 - 14 * 60 * MINUTE_MS
    system = deploy(**SMALL)
    people = [f"u{n}" for n in range(60)]
    consent = [(u.encode(), encode_user(User(u, True))) for u in people]
    system.send(system.settings.users_topic, consent)
    system.start("worker")

    def pass_to(at_ms: int) -> None:
        for partition in range(system.settings.partitions):
            clock = did(f"clock{partition}", "view_item", at_ms)
            system.ledger += system.send(system.settings.events_topic, [clock], partition)
        system.until_consumed()

    with Receiver() as receiver:
        system.start("deliver", RECS_WEBHOOK_URL=receiver.url, RECS_WEBHOOK_SECRET=SECRET)
        system.send_events(did(u, "add_to_cart", morning_ms) for u in people)
        system.until_consumed()
        pass_to(morning_ms + 31 * MINUTE_MS)

        def decided() -> bool:
            s = system.settings
            return len(system.read(s.triggers_topic)) + len(system.read(s.suppressed_topic)) == len(people)

        system.until(decided, "each cart is sent or held back")
        sent = {json.loads(m.value())["id"]: m.value() for m in system.read(system.settings.triggers_topic)}
        system.until(lambda: len(receiver.requests) == len(sent), "all are delivered")
        assert {r.id: r.body for r in receiver.requests} == sent
    system.send_events(did(u, "purchase", morning_ms + 60 * MINUTE_MS) for u in people[:20])
    pass_to(morning_ms + 120 * MINUTE_MS)

    report = json.loads(system.recs("triggers", "report", "--json", "--window", "1h").stdout)
    [cart] = report["rules"]
    assert cart["rule"] == "cart_abandonment"
    assert report["messages"]["cart_abandonment"] == cart["sent"]["users"] == len(sent)
    held_out = report["suppressed"]["cart_abandonment"]["hold_out"]
    assert held_out == cart["held_out"]["users"] == len(people) - len(sent) > 0
    assert cart["sent"]["converted"] + cart["held_out"]["converted"] == 20
    assert cart["sent"]["revenue"] + cart["held_out"]["revenue"] == 200.0
