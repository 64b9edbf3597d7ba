"""What operators and the shop say beside events: commands, erased users, items that must not be shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from stream_app.events import Event, encode_event, encode_item
from stream_app.events.records import Item
from tests.integration.harness import SMALL, Deployment, feed
from tests.integration.verifier import recompute, unpack

# Every proposal is promoted: what is tested is what commands do, not what the guard thinks.
EASY = {"prune_amount": 0, "guard_tolerance": 10, "guard_overlap": 0, "guard_samples": 50}


class Shop:
    """A system with a worker and a learner in one process, and the users and items of a small stream."""

    def __init__(self, system: Deployment) -> None:
        self.system = system
        self.process = system.start("worker", "learner", wait=False)
        shared = system.key("global", "trending")
        feed(system, lambda: len(system.ledger) > 2_000 and system.redis.exists(shared), "the model begins")
        self.users = sorted(recompute(system.ledger, system.settings).users)

    @property
    def current(self) -> str:
        """The version of the release that is served."""
        version = self.system.redis.get(self.system.key("model", "current"))
        return version.decode() if isinstance(version, bytes) else ""

    def top(self, user_id: str) -> list[str]:
        """The items in a user's list."""
        value = self.system.redis.get(self.system.key("user", f"{{{user_id}}}", "top"))
        return [] if value is None else [i["item_id"] for i in json.loads(value)["items"]]  # type: ignore[arg-type]

    def act(self, user_id: str, items: list[str]) -> None:
        """Let a user view items, and wait until that is known."""
        known = len(self.system.ledger)
        self.system.send_events(
            (
                user_id.encode(),
                encode_event(Event(f"e{known}-{i}", "view_item", 1_767_607_200_000, user_id, i)),
            )
            for i in items
        )
        self.system.until_consumed()

    def history(self) -> list[dict[str, Any]]:
        """What the command line tells about releases."""
        if not (self.system.settings.state_dir / "ledger.jsonl").exists():
            return []
        done = self.recs("prune", "history", "--json")
        return list(json.loads(done.stdout))

    def recs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line with this system's settings."""
        done = self.system.recs(*arguments)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def shop(module_deploy: Callable[..., Deployment]) -> Shop:
    """A running system; the tests of this file use different users and items of it."""
    return Shop(module_deploy(**(SMALL | EASY)))


def test_prune_now_and_rollback(shop: Shop) -> None:
    """`recs prune now` puts a release on trial, the guard lets it serve, rollback takes it back."""
    first = shop.current
    shop.recs("prune", "now")
    feed(shop.system, lambda: shop.current not in ("", first), "the pruned release is served")
    shop.recs("prune", "rollback", "--reason", "a test")
    shop.system.until(lambda: shop.current == first, "the release before is served")
    verdicts = [(r["verdict"], r["reason"]) for r in shop.history()]
    assert [v for v, _ in verdicts] == ["promote", "rollback"]
    assert verdicts[1][1] == "a test"


@pytest.mark.parametrize("how", ["tombstone", "command"])
def test_erased_user_is_gone_and_may_come_back(shop: Shop, how: str) -> None:
    """An erased user's keys vanish; what the user does afterwards stays, even over a restart."""
    system, user_id = shop.system, f"erased-{how}"
    shop.act(user_id, ["a", "b"])
    assert system.state(user_id) is not None
    if how == "tombstone":
        system.send(system.settings.users_topic, [(user_id.encode(), None)])
    else:
        shop.recs("erase", user_id)
    system.until(lambda: not list(system.redis.scan_iter(f"*{user_id}*", count=1000)), "all keys are gone")

    shop.act(user_id, ["c"])
    shop.process.terminate()
    shop.process = system.start("worker", "learner")
    packed = system.state(user_id)
    assert packed is not None, "the old tombstone erased the new state"
    assert len(unpack(packed).items) == 1, "something of the time before is left"


@pytest.mark.parametrize("how", ["hidden", "sold out", "tombstone"])
def test_withdrawn_item_leaves_all_lists(shop: Shop, how: str) -> None:
    """Hidden, sold out or deleted, it leaves the lists of users in memory, of others, and the shared ones."""
    system = shop.system
    for user_id in shop.users[:40]:
        shop.system.send_events([(user_id.encode(), _checkout(user_id, how))])
    system.until_consumed()
    item_id = shop.top(shop.users[0])[0]
    value = {
        "hidden": encode_item(Item(item_id, is_hidden=True)),
        "sold out": encode_item(Item(item_id, stock=0)),
        "tombstone": None,
    }[how]
    system.send(system.settings.items_topic, [(item_id.encode(), value)])
    in_memory = shop.users[:40]
    system.until(lambda: not any(item_id in shop.top(u) for u in shop.users), f"{item_id} leaves all lists")
    shop.act(f"passer-by-{how[:3]}", ["a"])  # shared lists are made again with what is learned next

    def left_shared() -> bool:
        values = [system.redis.get(system.key("global", n)) for n in ("popular", "trending", "latest")]
        return not any(f'"{item_id}"'.encode() in v for v in values if isinstance(v, bytes))

    system.until(left_shared, f"{item_id} leaves the shared lists")
    size = system.settings.list_size
    system.until(lambda: all(len(shop.top(u)) == size for u in in_memory), "lists are whole again")


def _checkout(user_id: str, how: str) -> bytes:
    return encode_event(Event(f"checkout-{how}-{user_id}", "begin_checkout", 1_767_607_200_000, user_id))


def test_bad_command_is_ignored(shop: Shop) -> None:
    """A message that is no command stops nothing."""
    system = shop.system
    system.send(system.settings.control_topic, [(None, b"\xff"), (None, b"{}"), (None, b'{"command":"fly"}')])
    shop.act("somebody", ["a"])
    assert shop.process.running
