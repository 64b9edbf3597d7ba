"""Who may write: a worker that slept too long may not; and what Redis lost comes back from the log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from stream_app.transport import Connection, ensure_topics
from stream_app.worker import topics
from tests.integration.harness import SMALL, Deployment, Role, shop_messages
from tests.integration.verifier import check_examples, check_users, recompute


def is_stopped(role: Role) -> bool:
    """Whether a process is suspended."""
    return Path(f"/proc/{role.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def test_a_worker_that_slept_too_long_writes_nothing(deploy: Callable[..., Deployment]) -> None:
    """Suspended before its write, it wakes when another has its partitions: its batch is refused."""
    system = deploy(**(SMALL | {"session_timeout_s": 1.5, "max_users_in_memory": 100}))
    items, messages = shop_messages(3_000)
    system.send(system.settings.items_topic, items)
    system.send_events(messages[:1_500])
    zombie = system.start("worker", wait=False, FAILPOINT="worker.after_send:stop:5")
    system.until(lambda: is_stopped(zombie), "the first sleeps")
    system.send_events(messages[1_500:])
    heir = system.start("worker")
    system.until_consumed()
    os.kill(zombie.process.pid, signal.SIGCONT)
    system.until(lambda: zombie.metric("fenced") >= 1, "the first is refused")
    more = shop_messages(600, seed=4)[1]
    system.send_events(more)
    system.until_consumed()
    expected = recompute(system.ledger, system.settings)
    check_users(system, expected)
    check_examples(system, expected)
    assert heir.running and zombie.running


def test_an_emptied_redis_is_rebuilt(deploy: Callable[..., Deployment]) -> None:
    """Flushed under a worker, and while none runs: users and lists come back, no example is sent again."""
    system = deploy(**(SMALL | {"batch_size": 30, "max_users_in_memory": 30}))
    items, messages = shop_messages(4_000)
    system.send(system.settings.items_topic, items)
    worker = system.start("worker", wait=False)
    system.send_events(messages[:3_000])
    system.until_consumed()
    before = len(system.read(system.settings.examples_topic))
    letters = len(system.dead_letters())

    def is_whole() -> bool:
        fences = system.redis.keys(system.key("partition", "*", "fence"))
        marks = system.redis.keys(system.key("partition", "*", "rebuild"))
        return len(fences) == 2 and not marks

    def check() -> None:
        system.until(is_whole, "all is rebuilt")
        expected = recompute(system.ledger, system.settings)
        check_users(system, expected)
        assert all(system.redis.exists(system.key("user", f"{{{u}}}", "top")) for u in expected.users)

    system.redis.flushall()
    check()
    assert worker.metric("events_rebuilt") > 0
    assert worker.terminate() == 0
    system.redis.flushall()
    worker = system.start("worker", wait=False)
    check()
    assert (
        len(system.read(system.settings.examples_topic)) == before and len(system.dead_letters()) == letters
    )
    system.redis.flushall()
    system.send_events(messages[3_000:])
    system.until_consumed()
    check()
    check_examples(system, recompute(system.ledger, system.settings))


def test_an_erased_user_is_not_rebuilt(deploy: Callable[..., Deployment]) -> None:
    """Events from before the tombstone stay without effect, those after it count."""
    system = deploy(**SMALL)

    def view(user: str, item: str, second: int) -> tuple[bytes, bytes]:
        event = {
            "event_type": "view_item",
            "event_time": 1_767_607_200 + second,
            "user_id": user,
            "item_id": item,
        }
        return user.encode(), json.dumps(event).encode()

    system.send_events([view("gone", "a", 0), view("back", "a", 1), view("stays", "a", 2)])
    worker = system.start("worker")
    system.until_consumed()
    system.send(system.settings.users_topic, [(b"gone", None), (b"back", None)])
    system.until(lambda: system.state("gone") is None and system.state("back") is None, "both are erased")
    system.send_events([view("back", "b", 3)])
    system.until_consumed()
    whole = system.state("back"), system.state("stays")
    assert worker.terminate() == 0
    system.redis.flushall()
    system.start("worker")
    system.until(lambda: system.state("back") and system.state("stays"), "users are back")
    system.until(lambda: not system.redis.keys(system.key("partition", "*", "rebuild")), "all is rebuilt")
    assert (system.state("back"), system.state("stays")) == whole and system.state("gone") is None


def test_a_topic_made_anew_is_refused(deploy: Callable[..., Deployment]) -> None:
    """Offsets of the new topic mean other events: the worker says so and ends."""
    system = deploy(**SMALL)
    _, messages = shop_messages(1_000)
    system.send_events(messages)
    worker = system.start("worker", wait=False)
    system.until_consumed()
    assert worker.terminate() == 0

    async def make_anew() -> None:
        connection = Connection.of(system.settings)
        admin = AIOKafkaAdminClient(**connection.arguments())
        await admin.start()
        await admin.delete_topics([system.settings.events_topic])
        await admin.close()
        await ensure_topics(connection, topics(system.settings))

    asyncio.run(make_anew())
    system.send(system.settings.events_topic, messages[:10])
    doomed = system.start("worker", wait=False)
    assert doomed.exit_code(60) == 69
    assert "the topic was made anew" in doomed.log() and "RECS_GROUP" in doomed.log()
