"""`recs triggers deliver` on the real broker: killed, and asked to end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

from tests.integration.harness import Deployment, Message
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
