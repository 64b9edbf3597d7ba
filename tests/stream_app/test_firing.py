"""Timers and changed items beside events: when the clock moves by itself, and where changes count from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.events import Event, Item, User
from stream_app.fencing import TriggerWrites
from stream_app.firing import GRACE_MS, LONGEST_TURN_MS, Firing, count_decisions, users_of_messages
from stream_app.lookout import Lookout
from stream_app.recommender import Recommender
from stream_app.telemetry import Metrics
from stream_app.triggers.engine import Look, TriggerEngine
from stream_app.triggers.memory import NEVER_MS
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules_file import parse_trigger_rules
from stream_app.worker import Worker

NOON = 1_767_614_400_000  # 2026-01-05T12:00Z
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
RULES = "".join(
    f'[[rules]]\nname = "{name}"\nhold_out = 0.0\n'
    for name in ("cart_abandonment", "price_drop", "back_in_stock", "win_back")
)


@dataclass
class Store:
    """What triggers keep in Redis, in dictionaries."""

    timers: dict[str, int] = field(default_factory=dict)
    watching: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, bytes] = field(default_factory=dict)

    async def trigger_places(self, partitions: Iterable[int]) -> dict[int, dict[str, bytes]]:
        return dict.fromkeys(partitions, self.places)

    async def due_users(self, partition: int, clock_ms: int, most: int) -> tuple[list[str], int | None]:
        due = sorted((at, user) for user, at in self.timers.items() if at <= clock_ms)
        return [user for _, user in due[:most]], min(self.timers.values(), default=None)

    async def watchers(self, partition: int, item_ids: Sequence[str]) -> list[list[str]]:
        return [list(self.watching.get(item_id, [])) for item_id in item_ids]

    async def unwatch(self, partition: int, item_id: str, user_ids: Sequence[str]) -> None:
        self.watching[item_id] = [u for u in self.watching[item_id] if u not in user_ids]

    def write(self, writes: TriggerWrites) -> None:
        for user, due in writes.timers:
            if due is None:
                self.timers.pop(user, None)
            else:
                self.timers[user] = due
        for item_id, user, _ in writes.watched:
            self.watching.setdefault(item_id, []).append(user)
        if writes.clock_ms >= 0:
            self.places |= {"clock": b"%d" % writes.clock_ms, "wall": b"%d" % writes.wall_ms}
        self.places["items"] = b"%d" % writes.items_place


class World:
    """A worker's triggers on a store in memory; `restart` begins with nothing but what the store holds."""

    def __init__(self) -> None:
        self.wall_ms = NOON + 1_000_000 * MINUTE
        self.store = Store()
        self.states: dict[str, bytes] = {}
        self.log: list[Item] = []
        self.said: list[tuple[str, str, str]] = []
        self.offset = -1

    async def start(self, **settings: Any) -> None:
        self.recommender = Recommender(triggers=TriggerEngine(parse_trigger_rules(RULES)), **settings)
        lookout = self.recommender.lookout
        assert lookout is not None
        self.lookout: Lookout = lookout
        self.firing = Firing(self.recommender, lookout, self.store, lambda: self.wall_ms)  # type: ignore[arg-type]
        for user in "uvw":
            self.recommender.observe_user(User(user, True))
        await self.firing.begin(1)
        for offset, item in enumerate(self.log):
            self.firing.note(offset, item)
        self.firing.caught_up()
        await self.firing.take(0)

    def happen(self, what: str, at_ms: int, user: str = "u", item: str = "a", **fields: Any) -> None:
        self.load([user])
        self.offset += 1
        event = Event(f"e{self.offset}", what, at_ms, user, item_id=item, **fields)
        outcome = self.recommender.apply(0, [self.offset], [event.not_after(self.wall_ms)])
        self.states |= dict(outcome.states)
        self._keep(outcome.looks, ())

    def describe(self, item_id: str, **fields: Any) -> None:
        self.log.append(Item(item_id, **fields))
        self.firing.note(len(self.log) - 1, self.log[-1])

    def load(self, users: Sequence[str]) -> None:
        for user in self.recommender.users.keep(dict.fromkeys(users)):
            self.recommender.users.load(user, self.states.get(user))

    async def turn(self, took_ms: int, *, silent: bool) -> None:
        self.wall_ms += took_ms
        self.firing.pass_time(0, self.firing.turn(), silent=silent)
        while (task := await self.firing.next(0)) is not None:
            self.load([u for u in task.users if u in self.states])
            known = [u for u in task.users if u in self.recommender.users]
            looks, gone = task.look(known)
            self.states |= dict(self.recommender.users.pack_all([k.user_id for k in looks]))
            await self.firing.done(0, task, gone)
            self._keep(looks, task.users if task.item_id is None else ())

    def _keep(self, looks: Sequence[Look], waited: Sequence[str]) -> None:
        self.store.write(self.firing.writes(0, looks, waited))
        self.said += [(d.user_id, d.rule.name, d.held) for look in looks for d in look.decisions]

    async def silence(self, ms: int) -> None:
        """Let so much time pass without events, a second at a time."""
        for _ in range(0, ms, 1_000):
            await self.turn(1_000, silent=True)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.start()
    return world


CART = ("u", "cart_abandonment", "")


async def test_other_users_events_move_the_clock(world: World) -> None:
    """A timer fires when the partition's events have passed it by a little, with no event of its user."""
    world.happen("add_to_cart", NOON)
    world.happen("view_item", NOON + 30 * MINUTE, "v")
    await world.turn(100, silent=False)
    assert world.said == []
    world.happen("view_item", NOON + 31 * MINUTE, "v")
    await world.turn(100, silent=False)
    assert world.said == [CART] and "u" not in world.store.timers


async def test_an_idle_partition_goes_by_the_wall(world: World) -> None:
    """After a grace time the clock goes on by itself, as fast as time passes."""
    world.happen("add_to_cart", NOON)
    await world.silence(30 * MINUTE)
    assert world.said == []
    await world.silence(GRACE_MS + 6_000)
    assert world.said == [CART]


async def test_what_waits_in_kafka_stops_the_clock(world: World) -> None:
    """Without events at hand, but not silent: the broker is away, or there is more to read."""
    world.happen("add_to_cart", NOON)
    for _ in range(100):
        await world.turn(60_000, silent=False)
    assert world.said == []


async def test_a_clock_that_is_set_fires_nothing(world: World) -> None:
    """A day forward counts as one long turn, a day back as nothing."""
    world.happen("add_to_cart", NOON)
    for step in (DAY, -2 * DAY, DAY):
        await world.turn(step, silent=True)
        await world.silence(GRACE_MS)
    assert world.said == []
    assert world.lookout.clocks[0] - NOON <= 3 * (GRACE_MS + LONGEST_TURN_MS)


async def test_events_from_the_future_happen_now(world: World) -> None:
    """One clock that is wrong does not fire everybody's timers."""
    world.happen("add_to_cart", world.wall_ms)
    world.happen("view_item", world.wall_ms + 20 * HOUR, "v")
    await world.turn(1_000, silent=False)
    assert world.said == [] and world.lookout.clocks[0] == world.wall_ms - 1_000


async def test_timers_survive_a_restart(world: World) -> None:
    """Another worker goes on where the last one stopped; the time in between has passed."""
    world.happen("add_to_cart", NOON)
    world.wall_ms += 29 * MINUTE
    await world.start()
    await world.silence(2 * MINUTE)
    assert world.said == [CART]


async def test_downtime_does_not_outrun_events_that_wait(world: World) -> None:
    """The clock counts the time without a worker only when there is nothing to read."""
    world.happen("add_to_cart", NOON)
    world.wall_ms += 2 * HOUR
    await world.start()
    await world.turn(100, silent=False)
    world.happen("purchase", NOON + 10 * MINUTE)
    await world.silence(MINUTE)
    assert world.said == []


async def test_changes_of_items_count_once(world: World) -> None:
    """Users in memory or not hear of a change once; a worker that reads all items again says nothing new."""
    world.describe("a", price=20.0)
    for user in "uv":
        world.happen("add_to_wishlist", NOON, user)
    await world.turn(100, silent=False)
    await world.start()  # nobody is in memory
    world.describe("a", price=10.0)
    await world.turn(100, silent=False)
    assert world.said == [("u", "price_drop", ""), ("v", "price_drop", "")]
    await world.start()
    await world.turn(100, silent=False)
    assert len(world.said) == 2


async def test_changes_while_no_worker_ran_are_found(world: World) -> None:
    """What lies behind the place that was written is news."""
    world.describe("a", price=20.0)
    world.happen("add_to_wishlist", NOON)
    world.log.append(Item("a", price=10.0))
    await world.start()
    await world.turn(100, silent=False)
    assert world.said == [("u", "price_drop", "")]


async def test_who_watches_no_more_leaves_the_index(world: World) -> None:
    """A user whose memory has forgotten the item, or who is gone, is not asked again."""
    world.describe("a", price=20.0)
    world.happen("add_to_wishlist", NOON)
    world.store.watching["a"].append("stranger")
    for n in range(30):
        world.happen("view_item", NOON + n + 1, item=f"b{n}")
    world.describe("a", price=10.0)
    await world.turn(100, silent=False)
    assert world.said == [] and world.store.watching["a"] in ([], ["stranger"])


async def test_slices_fit_into_memory() -> None:
    """A worker that holds few users looks at no more of them at once."""
    world = World()
    await world.start(max_users=3)
    users = [f"u{n}" for n in range(10)]
    for user in users:
        world.recommender.observe_user(User(user, True))
        world.happen("add_to_cart", NOON, user)
    world.happen("view_item", NOON + HOUR, "v")
    await world.turn(100, silent=False)
    assert sorted(user for user, *_ in world.said) == users and world.store.timers == {}


async def test_a_day_is_as_it_was_foretold(world: World) -> None:
    """Events one by one through a worker's triggers, and through a preview: the same decisions."""
    preview = Preview(parse_trigger_rules(RULES))
    for user in "uvw":
        preview.feed(User(user, True))
    kinds = ["add_to_cart", "view_item", "add_to_wishlist", "purchase", "select_item", "remove_from_cart"]
    for n in range(300):
        at_ms = NOON + n * 7 * MINUTE + (n % 5) * 11 * MINUTE
        what, user, item = kinds[n * 7 % 6], "uvw"[n * 5 % 3], "abcd"[n * 3 % 4]
        preview.feed(Event(f"e{n}", what, at_ms, user, item_id=item))
        world.happen(what, at_ms, user, item)
        await world.turn(10, silent=False)
    foretold = [(d.user_id, d.rule.name, d.held) for d in preview.decisions]
    assert len(foretold) > 10 and world.said == foretold


def test_users_and_counts_of_decisions(world: World) -> None:
    """Who gets a message, and what the metrics say of it."""
    engine = world.lookout.engine
    added = Event("e", "add_to_cart", NOON, "u", item_id="a")
    look = engine.on_events("u", None, -1, [(added, NOON, 0)])
    looks = [engine.on_time("u", look.packed, NOON, NOON + HOUR), Look("v", None, NEVER_MS)]
    assert users_of_messages(looks) == ["u"]
    metrics = Metrics()
    count_decisions(metrics, looks)
    assert metrics.triggers.labels("cart_abandonment", "sent")._value.get() == 1


def test_a_rule_may_not_wait_longer_than_users_are_remembered() -> None:
    """It could never fire, so the worker does not start."""
    with pytest.raises(ConfigError, match=r"win_back.*RECS_STATE_TTL_DAYS=7"):
        Worker(Settings(state_ttl_days=7))
