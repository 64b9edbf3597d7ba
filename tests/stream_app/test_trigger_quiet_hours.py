"""Quiet hours: what waits for their end, what is then looked at anew, and when they end."""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.events import Event, Item, User
from stream_app.triggers.deciding import Decision
from stream_app.triggers.memory import MOST_BYTES, MOST_PUT_OFF, unpack_memory
from stream_app.triggers.messages import cloud_event_fields, message_id
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules import QuietHours, local, zone_of
from stream_app.triggers.rules_file import parse_trigger_rules
from tests.stream_app import test_firing, test_lookout
from tests.stream_app.test_trigger_engine import ALL, DAY, DROP, HOUR, MINUTE, NOON, World, event

NIGHT = NOON + 10 * HOUR  # 22:00 UTC
MORNING = NOON + 20 * HOUR  # 08:00 UTC, when the built-in quiet hours end


def only(name: str, more: str = "") -> str:
    """One built-in rule without hold-out, and with something else."""
    return f'[[rules]]\nname = "{name}"\nhold_out = 0.0\n{more}'


def wished(world: World, at_ms: int = NOON, **fields: Any) -> None:
    """Wish for an item that costs 20."""
    world.engine.observe_item(Item("a", price=20.0, **fields))
    world.happen(event("add_to_wishlist", at_ms))


def test_a_cart_of_the_night_is_spoken_of_in_the_morning() -> None:
    """Nothing is said at night; the message says since when it waits, expires as ever, and keeps its id."""
    world = World()
    world.happen(event("add_to_cart", NIGHT, value=20.0))
    world.until(MORNING - 1)
    assert world.decisions == [] and world.due["u"] == MORNING
    world.until(MORNING + 5 * DAY)
    [decision] = world.decisions
    assert (decision.held, decision.at_ms, decision.key) == ("", MORNING, f"cart@{NIGHT}")
    assert decision.evidence["postponed_from"] == "2026-01-05T22:30:00.000Z"
    message = cloud_event_fields(decision, "shop", "")
    assert message["time"] == "2026-01-06T08:00:00.000Z"
    assert message["data"]["expires_at"] == "2026-01-07T22:30:00.000Z"
    world.said()
    world.until(MORNING + 9 * DAY)
    assert world.said() == []


@pytest.mark.parametrize(
    "more", [DROP, 'expires = "9 h"', "until = 2026-01-06T07:00:00Z"], ids=["drop", "expires", "until"]
)
def test_what_is_not_worth_waiting_for_is_dropped_at_night(more: str) -> None:
    """Because the rule says so, because it would have expired, or because the rule is over by then."""
    world = World(only("cart_abandonment", more))
    world.happen(event("add_to_cart", NIGHT))
    world.until(NIGHT + HOUR)
    assert world.said() == [("cart_abandonment", "quiet_hours")]
    world.until(MORNING + DAY)
    assert world.said() == []


def test_a_cart_that_changes_at_night_is_spoken_of_once() -> None:
    """Whoever comes back is waited for; the morning speaks of the cart as it is then."""
    world = World()
    world.happen(event("add_to_cart", NIGHT))
    world.until(NIGHT + HOUR)
    world.happen(event("add_to_cart", NIGHT + 2 * HOUR, "b"))
    world.until(MORNING)
    [decision] = world.decisions
    assert decision.key == f"cart@{NIGHT + 2 * HOUR}" and len(decision.items) == 2
    assert decision.evidence["postponed_from"] == "2026-01-06T00:30:00.000Z"
    early = World()
    early.happen(event("add_to_cart", NIGHT))
    early.until(NIGHT + HOUR)
    early.happen(event("view_item", MORNING - MINUTE, "b"))
    early.until(MORNING + HOUR)
    assert [d.at_ms for d in early.decisions] == [MORNING + 29 * MINUTE]


def test_the_morning_asks_everything_again() -> None:
    """A cart that was bought is forgotten; consent, caps and the hold-out are those of the morning."""
    bought, silent, held = World(), World(), World(ALL.replace("hold_out = 0.0", "hold_out = 1.0"))
    for world in (bought, silent, held):
        world.happen(event("add_to_cart", NIGHT))
        world.until(NIGHT + HOUR)
        assert world.said() == []
    bought.happen(event("purchase", NIGHT + 2 * HOUR))
    silent.engine.observe_user(User("u", False))
    for world in (bought, silent, held):
        world.until(MORNING)
    assert bought.said() == []
    assert silent.said() == [("cart_abandonment", "no_consent")]
    assert held.said() == [("cart_abandonment", "hold_out")]


def test_a_zone_that_changes_meanwhile_is_that_of_now() -> None:
    """Whoever has moved sleeps on: the message waits once more, as long as it is good."""
    world = World()
    world.happen(event("add_to_cart", NIGHT))
    world.until(NIGHT + HOUR)
    world.engine.observe_user(User("u", True, {"time_zone": "America/New_York"}))
    world.until(MORNING)
    assert world.said() == [] and world.due["u"] == MORNING + 5 * HOUR  # 08:00 there
    world.until(MORNING + 5 * HOUR)
    assert [d.key for d in world.decisions] == [f"cart@{NIGHT}"]
    assert world.decisions[0].evidence["postponed_from"] == "2026-01-05T22:30:00.000Z"


def test_a_price_that_fell_at_night_is_news_in_the_morning() -> None:
    """With the price of the morning, and the id of the first fall, however often it fell."""
    world = World()
    wished(world)
    for n, price in enumerate((16.0, 15.0, 15.5)):
        world.change("a", NIGHT + n * HOUR, price=price)
    assert world.said() == [] and world.due["u"] == MORNING
    world.until(MORNING)
    [decision] = world.decisions
    assert decision.reason == "a costs 15.50, was 20.00" and decision.key == f"a@{NOON}/0/16.0"
    world.change("a", MORNING + 2 * DAY, price=15.0)
    assert world.said() == [("price_drop", "")]  # less than a tenth below what was said: no news


def test_a_price_that_is_no_news_in_the_morning_is_not_spoken_of() -> None:
    """It rose again, or the user has seen it meanwhile; the next fall is news as if nothing had been."""
    risen, seen, bought = World(), World(), World()
    for world in (risen, seen, bought):
        wished(world)
        world.change("a", NIGHT, price=10.0)
    risen.change("a", NIGHT + HOUR, price=20.0)
    seen.happen(event("view_item", NIGHT + HOUR))
    bought.happen(event("purchase", NIGHT + HOUR))
    for world in (risen, seen, bought):
        world.until(MORNING)
    assert risen.said() == seen.said() == []
    assert bought.said() == [("price_drop", "purchased")]
    risen.change("a", MORNING + HOUR, price=10.0)
    assert risen.said() == [("price_drop", "")]


def test_what_came_back_at_night_and_is_still_there_is_said_once() -> None:
    """If it is sold out again by the morning nothing is said; when it comes back by day, that is news."""
    there, gone = World(), World()
    for world in (there, gone):
        world.change("a", NOON, stock=0)
        world.happen(event("view_item", NOON))
        world.change("a", NIGHT, stock=3)
    gone.change("a", NIGHT + HOUR, stock=0)
    for world in (there, gone):
        world.until(MORNING)
    assert there.said() == [("back_in_stock", "")] and gone.said() == []
    for world in (there, gone):
        world.change("a", MORNING + HOUR, stock=0)
        world.change("a", MORNING + 2 * HOUR, stock=5)
    assert there.said() == [] and gone.said() == [("back_in_stock", "")]


def test_what_waits_for_the_same_morning_competes() -> None:
    """The first by priority that nothing holds back is sent."""
    world = World()
    wished(world)
    world.change("a", NIGHT, price=10.0)
    world.happen(event("add_to_cart", NIGHT + HOUR, "b"))
    world.until(MORNING)
    assert world.said() == [("cart_abandonment", ""), ("price_drop", "lower_priority")]


def test_only_so_many_items_wait() -> None:
    """What is more is dropped, and a memory stays small."""
    world = World()
    names = [f"{n}-" + "x" * 30 for n in range(MOST_PUT_OFF + 3)]
    for n, name in enumerate(names):
        world.engine.observe_item(Item(name, price=20.0))
        world.happen(event("add_to_wishlist", NOON + n, name))
    for name in names:
        world.change(name, NIGHT, price=10.0)
    dropped = world.said()
    assert dropped and set(dropped) == {("price_drop", "quiet_hours")}
    packed = world.users["u"]
    assert packed is not None and len(packed) <= MOST_BYTES + 8
    assert sum("/" in name for name in unpack_memory(packed).timers) == MOST_PUT_OFF
    world.until(MORNING)
    assert [held for _, held in world.said()].count("") == 1


def test_a_delayed_rule_waits_with_what_its_event_was_like() -> None:
    """In the morning it speaks of the event of the evening."""
    rules = """[[rules]]\nname = "big"\non = "add_to_wishlist"\ndelay = "2 h"\nquiet_hours = "21:00-08:00"
any = [["event.value", ">=", 50], ["user.purchases", ">=", 9]]"""
    world = World(rules)
    world.happen(event("add_to_wishlist", NIGHT, value=60.0))
    world.until(MORNING)
    assert [(d.key, d.held) for d in world.decisions] == [(f"add_to_wishlist@{NIGHT}", "")]


# When they end

ZONES = (
    "UTC", "Europe/Stockholm", "America/New_York", "America/St_Johns", "Australia/Lord_Howe",
    "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Apia",
)  # fmt: skip


def end_by_looking(quiet: QuietHours, at_ms: int, zone: zoneinfo.ZoneInfo) -> int:
    """The same, minute by minute."""
    at_ms -= at_ms % MINUTE
    while quiet.contains(local(at_ms, zone)[1]):
        at_ms += MINUTE
    return at_ms


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(ZONES),
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.one_of(
        st.integers(1_325_200_000_000, 1_325_300_000_000),  # Apia leaves out 2011-12-30
        st.integers(1_774_600_000_000, 1_774_850_000_000),  # Europe springs forward
        st.integers(1_792_800_000_000, 1_793_620_000_000),  # Europe and America fall back
        st.integers(1_767_000_000_000, 1_799_000_000_000),
    ),
)
def test_quiet_hours_end_when_the_clock_on_the_wall_says_so(
    zone: str, start: int, end: int, at_ms: int
) -> None:
    """Through every change of clocks, as one finds out by looking at the clock each minute."""
    quiet = QuietHours(start, end)
    if quiet.contains(local(at_ms, zone_of(zone))[1]):
        assert quiet.end_after(at_ms, zone_of(zone)) == end_by_looking(quiet, at_ms, zone_of(zone))


@pytest.mark.parametrize(
    ("hours", "at", "end"),
    [
        ((21 * 60, 2 * 60 + 30), "2026-03-29T00:59:30Z", "2026-03-29T01:00:00Z"),  # 02:30 is left out: 03:00
        ((21 * 60, 8 * 60), "2026-03-28T22:00:00Z", "2026-03-29T06:00:00Z"),
        ((21 * 60, 2 * 60 + 30), "2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z"),  # the first 02:30 …
        ((21 * 60, 2 * 60 + 30), "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"),  # … and the second
        ((21 * 60, 3 * 60), "2026-10-25T00:10:00Z", "2026-10-25T02:00:00Z"),  # 03:00 comes once, late
    ],
)
def test_clocks_that_are_put_at_night(hours: tuple[int, int], at: str, end: str) -> None:
    """In Stockholm, in spring and in autumn."""
    zone = zone_of("Europe/Stockholm")
    assert QuietHours(*hours).end_after(ms(at), zone) == ms(end)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


# The same decisions, whatever happens to workers

LOGS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["add_to_cart", "view_item", "add_to_wishlist", "select_item", "purchase"]),
        st.integers(0, 300),  # minutes since the event before
        st.sampled_from([0, 0, 0, 1, 45, 700]),  # minutes that it is late
        st.sampled_from("ij"),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LOGS, st.lists(st.integers(1, 9), max_size=40), st.booleans())
def test_nights_do_not_depend_on_batches(
    rows: Sequence[tuple[str, str, int, int, str]], sizes: list[int], fires: bool
) -> None:
    """Over days and nights: batches of any size decide as a preview, and no id is said twice."""
    log, minute = [], 0
    for n, (user, what, gap, late, item) in enumerate(rows):
        minute += gap
        log.append(test_lookout.event(n, user, what, minute - late, item))
    found = test_lookout.decided(log, sizes, fires=fires)
    assert found == test_lookout.foretold(log)
    assert len(ids(found)) == len(found)


def ids(decisions: Sequence[Decision]) -> set[str]:
    return {message_id(d.rule.name, d.user_id, d.key) for d in decisions}


async def test_a_night_of_restarts_is_as_it_was_foretold() -> None:
    """Carts, prices and stock over four days, a new worker after every event: what a preview says, once."""
    preview = Preview(parse_trigger_rules(test_firing.RULES))
    world = test_firing.World()
    await world.start()
    for user in "uvw":
        preview.feed(User(user, True))
    kinds = ["add_to_cart", "view_item", "add_to_wishlist", "purchase", "select_item"]
    for n in range(150):
        at_ms = NOON + n * 40 * MINUTE
        what, user, item = kinds[n * 7 % 5], "uvw"[n * 5 % 3], "abcd"[n * 3 % 4]
        preview.feed(Event(f"e{n}", what, at_ms, user, item_id=item))
        world.happen(what, at_ms, user, item)
        await world.turn(10, silent=False)
        if n % 3 == 0:
            change = Item("abcd"[n // 6 % 4], price=20.0 - n * 7 % 13, stock=n // 3 % 2 * 4)
            preview.feed(change)
            world.describe(change.item_id, price=change.price, stock=change.stock)
            await world.turn(10, silent=False)
        await world.start()
    foretold = [(d.user_id, d.rule.name, d.held) for d in preview.decisions]
    waited = [d for d in preview.decisions if d.due_ms < d.at_ms]
    assert {d.rule.name for d in waited} >= {"cart_abandonment", "price_drop", "back_in_stock"}
    assert world.said == foretold and len(ids(preview.decisions)) == len(foretold)


class Crashing(test_firing.World):
    """Every slice is sent, and then the worker dies before it is written; the next one repeats it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str]] = []
        self.crashes = 0

    async def turn(self, took_ms: int, *, silent: bool) -> None:
        self.wall_ms += took_ms
        self.firing.pass_time(0, self.firing.turn(), silent=silent)
        while (task := await self.firing.next(0)) is not None:
            self.load([u for u in task.users if u in self.states])
            looks, gone = task.look([u for u in task.users if u in self.recommender.users])
            decided = [d for look in looks for d in look.decisions]
            self.sent += [(message_id(d.rule.name, d.user_id, d.key), d.held) for d in decided]
            self.crashes += 1
            if self.crashes % 2:
                await self.start()
                continue
            self.states |= dict(self.recommender.users.pack_all([k.user_id for k in looks]))
            await self.firing.done(0, task, gone)
            self._keep(looks, task.users if task.item_id is None else ())


async def test_a_crash_at_every_slice_says_each_cause_once() -> None:
    """Through nights and mornings messages are repeated with id and outcome, and no other is said."""
    crashing, calm = Crashing(), test_firing.World()
    for world in (crashing, calm):
        await world.start()
        for n in range(100):
            world.happen(
                ["add_to_cart", "view_item", "add_to_wishlist"][n % 3],
                NOON + n * 40 * MINUTE,
                "uvw"[n * 5 % 3],
                "abcd"[n // 3 % 4],
            )
            world.describe("abcd"[n // 6 % 4], price=20.0 - n * 7 % 13, stock=n // 3 % 2 * 4)
            await world.turn(10, silent=False)
    assert len(crashing.sent) > 50 and len(set(crashing.sent)) == len({id_ for id_, _ in crashing.sent})
    assert crashing.said == calm.said and len(calm.said) > 25
