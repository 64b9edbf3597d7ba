"""Withdrawn items leave the lists in Redis that no worker makes again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from stream_app import withdrawal
from stream_app.errors import StoreError
from stream_app.events import Event, Item
from stream_app.lists.arranging import ListPolicy
from stream_app.lists.rules import parse_rules
from stream_app.lists.shared import SharedLists
from stream_app.online import OnlineRecommender
from stream_app.recommender import Offered
from stream_app.served_json import list_json, shared_list_json
from stream_app.store import Store
from stream_app.withdrawal import Withdrawal


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store over an empty Redis."""
    store = Store(redis_url, list_ttl_days=2)
    yield store
    await store.close()


def list_of(user: str, *items: str) -> tuple[str, bytes]:
    """A user's list."""
    return user, list_json(Offered(user, [(i, 1.0) for i in items], True, 0), "m", 0)


async def shown(store: Store, user: str) -> list[str]:
    """The items of a user's list."""
    found = await store.read_list(user)
    assert found is not None
    return [item["item_id"] for item in found["items"]]


async def walk(sweep: Withdrawal) -> int:
    """Go through all lists; returns how many were changed."""
    changed = 0
    while not sweep.is_done:
        changed += await sweep.step()
    return changed


async def test_withdrawn_items_leave_every_list(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of users and of similar items lose the item and nothing else, and live on as long as before."""
    monkeypatch.setattr(withdrawal, "SLICE", 50)
    hostile = ["a}:top", "ü ", '"', "{x}"]
    users = [*(f"u{n}" for n in range(500)), *hostile]
    await store.write([list_of(u, "i1", 'gone"', "i2") for u in users], [(u, b"state") for u in users])
    await store.write_shared([], [("i1", shared_list_json([('gone"', 2.0), ("i2", 1.0)], "m", 0, "similar"))])
    sweep = Withdrawal(store, lambda item: item != 'gone"')
    assert sweep.is_done and await sweep.step() == 0
    sweep.begin()
    assert await walk(sweep) == 505
    for user in users:
        assert await shown(store, user) == ["i1", "i2"]
    assert await store.load_states(users) == [b"state"] * len(users)
    ttl: Any = await store._redis.ttl(store.keys.top("u1"))
    assert 2 * 86_400 - 60 < ttl <= 2 * 86_400
    sweep.begin()
    assert await walk(sweep) == 0


async def test_a_list_made_meanwhile_is_left_alone(store: Store) -> None:
    """Between reading and writing a worker was faster: its list stays."""
    await store.write([list_of("u", "gone", "i1")], [])
    [(key, before)] = (await store.scan_lists(0, 1_000))[1]
    await store.write([list_of("u", "gone", "i3")], [])
    assert await store.replace([(key, before, b"{}")]) == 0
    assert await shown(store, "u") == ["gone", "i3"]


async def test_what_is_withdrawn_on_the_way_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that goes while a walk is half done leaves the lists that the walk has passed, too."""
    monkeypatch.setattr(withdrawal, "SLICE", 20)
    await store.write([list_of(f"u{n}", "a", "b", "c") for n in range(200)], [])
    gone = {"a"}
    sweep = Withdrawal(store, lambda item: item not in gone)
    sweep.begin()
    for _ in range(4):
        await sweep.step()
    gone.add("b")
    sweep.begin()
    await walk(sweep)
    assert all([await shown(store, f"u{n}") == ["c"] for n in range(200)])


async def test_a_redis_that_is_away_costs_a_slice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error the walk goes on where it was."""
    await store.write([list_of("u", "gone", "i1")], [])
    sweep = Withdrawal(store, lambda item: item != "gone")
    sweep.begin()

    async def away(*_: Any) -> int:
        raise StoreError("away")

    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(store, "replace", away)
        await sweep.step()
    assert await walk(sweep) == 1 and await shown(store, "u") == ["i1"]


def test_shop_and_rules_decide() -> None:
    """Sold out or denied is not shown; what nobody described is."""
    online = OnlineRecommender(compress=False)
    online.observe(Event("e", "view_item", 0, "u", item_id="known"))
    online.observe_item(Item("sold-out", stock=0))
    policy = ListPolicy(
        online.learner.items, parse_rules('[[rules]]\nname = "d"\naction = "deny"\nitem = "x"')
    )
    policy.at(0)
    for shared in (SharedLists(online.learner, 5), SharedLists(online.learner, 5, policy)):
        answers = [shared.may_show(i) for i in ("known", "never-met", "sold-out", "x")]
        assert answers == [True, True, False, shared.policy is None]
