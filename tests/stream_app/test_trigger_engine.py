"""The core of triggers: what events, items and time lead to, and that each cause leads to it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.events import Event, EventItem, Item, User
from stream_app.triggers.deciding import Decision
from stream_app.triggers.engine import TriggerEngine
from stream_app.triggers.gates import REASONS
from stream_app.triggers.memory import LISTENED, MOST_BYTES, NEVER_MS, unpack_memory
from stream_app.triggers.messages import message_id
from stream_app.triggers.rules_file import parse_trigger_rules

NOON = 1_767_614_400_000  # 2026-01-05T12:00Z
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
ALL = '[[rules]]\nname = "cart_abandonment"\nhold_out = 0.0\n' + "".join(
    f'[[rules]]\nname = "{name}"\nhold_out = 0.0\n'
    for name in ("price_drop", "back_in_stock", "high_intent", "win_back")
)


DROP = 'in_quiet_hours = "drop"'


@dataclass
class World:
    """Users with their packed memories, as a worker would hold them."""

    rules: str = ALL
    users: dict[str, bytes | None] = field(default_factory=dict)
    last_ms: dict[str, int] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    due: dict[str, int] = field(default_factory=dict)
    items: int = 0

    def __post_init__(self) -> None:
        self.engine = TriggerEngine(parse_trigger_rules(self.rules))
        for user in ("u", "v", "w"):
            self.engine.observe_user(User(user, True))

    def happen(self, *events: Event) -> None:
        """Apply events of one user in one look."""
        user = events[0].user_id
        timed = [(e, e.event_time_ms, 0) for e in events]
        look = self.engine.on_events(user, self.users.get(user), self.last_ms.get(user, -1), timed)
        self.last_ms[user] = max(self.last_ms.get(user, -1), *(e.event_time_ms for e in events))
        self._keep(look)

    def until(self, clock_ms: int) -> None:
        """Let the partition's clock stand at a time."""
        for user in list(self.users):
            if self.due.get(user, NEVER_MS) <= clock_ms:
                self._keep(self.engine.on_time(user, self.users[user], self.last_ms[user], clock_ms))

    def change(self, item_id: str, at_ms: int, **fields: Any) -> None:
        """Describe an item anew, and hold it against everybody."""
        change = self.engine.observe_item(Item(item_id, **fields))
        self.items += 1
        for user in list(self.users) if change is not None else []:
            look = self.engine.on_change(
                user, self.users[user], self.last_ms[user], change, self.items, at_ms
            )
            if look is not None:
                self._keep(look)

    def _keep(self, look: Any) -> None:
        self.users[look.user_id] = look.packed
        self.due[look.user_id] = look.due_ms
        self.decisions += look.decisions

    def said(self) -> list[tuple[str, str]]:
        """Rule and outcome of each decision since the last call."""
        said = [(d.rule.name, d.held) for d in self.decisions]
        self.decisions.clear()
        return said


def event(what: str, at_ms: int, item: str | None = "a", user: str = "u", **fields: Any) -> Event:
    return Event(f"{user}-{what}-{at_ms}", what, at_ms, user, item_id=item, **fields)


CART = [("cart_abandonment", "")]


def test_a_cart_is_abandoned_after_half_an_hour_of_silence() -> None:
    """At its due time, not before, and once."""
    world = World()
    world.happen(event("add_to_cart", NOON, value=20.0))
    world.until(NOON + 30 * MINUTE - 1)
    assert world.said() == []
    world.until(NOON + 31 * MINUTE)
    [decision] = world.decisions
    assert decision.at_ms == NOON + 30 * MINUTE and decision.items == (
        {"item_id": "a", "price": 20.0, "quantity": 1},
    )
    world.until(NOON + 5 * DAY)
    assert world.said() == CART


def test_what_the_user_does_next_finds_the_timer_fired() -> None:
    """An event after the due time fires first what was due, as the clock would have."""
    by_event, by_clock = World(), World()
    for world in (by_event, by_clock):
        world.happen(event("add_to_cart", NOON, value=20.0))
    by_clock.until(NOON + 40 * MINUTE)
    for world in (by_event, by_clock):
        world.happen(event("purchase", NOON + 45 * MINUTE))
    assert by_event.decisions == by_clock.decisions and by_event.said() == CART
    assert by_event.users == by_clock.users


@pytest.mark.parametrize("what", ["purchase", "remove_from_cart"])
def test_a_cart_that_was_bought_or_emptied_is_not_abandoned(what: str) -> None:
    """The timer goes with the cart."""
    world = World()
    world.happen(event("add_to_cart", NOON))
    world.happen(event(what, NOON + MINUTE))
    assert world.due["u"] == NEVER_MS or what == "purchase"  # whoever bought may be won back one day
    world.until(NOON + 20 * DAY)
    assert world.said() == []


def test_every_event_puts_the_reminder_off() -> None:
    """Silence counts from the last event of any type; the timer is moved when it comes due, not before."""
    world = World()
    world.happen(event("add_to_cart", NOON))
    world.last_ms["u"] = NOON + 20 * MINUTE  # an event that triggers do not look at
    world.until(NOON + 30 * MINUTE)
    assert world.said() == [] and world.due["u"] == NOON + 50 * MINUTE
    world.until(NOON + 50 * MINUTE)
    assert world.said() == CART


def test_a_cart_that_did_not_change_is_not_spoken_of_again() -> None:
    """`changed`: the next message needs another cart; the cooldown holds even then."""
    world = World()
    world.happen(event("add_to_cart", NOON))
    world.until(NOON + HOUR)
    world.happen(event("view_item", NOON + 2 * HOUR, "b"))
    world.until(NOON + 4 * HOUR)
    assert world.said() == CART
    world.happen(event("add_to_cart", NOON + 5 * HOUR, "b"))
    world.until(NOON + 6 * HOUR)
    assert world.said() == [("cart_abandonment", "cooldown")]
    world.happen(event("add_to_cart", NOON + 2 * DAY, "c"))
    world.until(NOON + 2 * DAY + HOUR)
    assert world.said() == CART


def test_late_and_repeated_events_fire_nothing_again() -> None:
    """The same events a second time, and an old cart after the purchase, change neither cart nor timers."""
    world = World()
    added, bought = event("add_to_cart", NOON, value=9.0), event("purchase", NOON + MINUTE)
    world.happen(added, added, bought, added)
    assert unpack_memory(world.users["u"] or b"").cart == {}
    world.happen(event("add_to_cart", NOON + 2 * MINUTE, "b"))
    world.until(NOON + 33 * MINUTE)
    world.happen(event("add_to_cart", NOON + 2 * MINUTE, "b"))
    world.until(NOON + 20 * HOUR)
    assert world.said() == CART


def test_buyers_are_won_back_once_per_absence() -> None:
    """Nothing is said to who never bought; a second absence is another one."""
    world = World()
    world.happen(event("view_item", NOON, user="v"))
    world.happen(event("purchase", NOON))
    world.until(NOON + 29 * DAY)
    assert world.said() == []
    world.until(NOON + 90 * DAY)
    assert world.said() == [("win_back", "")]
    world.happen(event("select_item", NOON + 91 * DAY))  # not listened to, but whoever was away is looked at
    assert world.engine.concerns("select_item", NOON + 91 * DAY, world.users["u"]) is False  # armed again
    world.until(NOON + 130 * DAY)
    assert world.said() == [("win_back", "")]


def test_a_price_is_news_when_it_is_a_tenth_below_what_the_user_knows() -> None:
    """Small drops add up; the way back up and down again is no news; a further drop is."""
    world = World()
    world.engine.observe_item(Item("a", price=20.0))
    world.happen(event("add_to_wishlist", NOON))
    for price in (19.0, 18.5, 18.0):
        world.change("a", NOON + HOUR, price=price)
    [decision] = world.decisions
    assert decision.reason == "a costs 18.00, was 20.00" and decision.evidence["drop_percent"] == 10.0
    for hour, price in enumerate((22.0, 18.0, 17.0), 2):
        world.change("a", NOON + hour * HOUR, price=price)
    assert world.said() == [("price_drop", "")]
    world.change("a", NOON + 3 * DAY, price=15.0)
    assert world.said() == [("price_drop", "")]


def test_prices_of_items_only_seen_or_bought_are_no_news() -> None:
    """A view alone is not enough for the built-in rule; what was bought since is held back."""
    world = World()
    world.happen(event("view_item", NOON, "seen", value=20.0))
    world.happen(event("add_to_cart", NOON, "bought", value=20.0), event("purchase", NOON + 1, "bought"))
    world.change("seen", NOON + HOUR, price=5.0)
    assert world.said() == []
    world.change("bought", NOON + HOUR, price=5.0)
    assert world.said() == [("price_drop", "purchased")]


def test_missing_prices_and_negative_stock_are_defined() -> None:
    """Without a price there is no drop, and the first one counts from then; stock below zero is none."""
    world = World()
    world.happen(event("add_to_wishlist", NOON))
    world.change("a", NOON + 1, price=None)
    world.change("a", NOON + 2, price=20.0)
    assert world.said() == []
    world.change("a", NOON + 3, price=10.0, stock=-5)
    assert world.said() == [("price_drop", "out_of_stock")]
    world.change("a", NOON + 4, price=10.0, stock=3)
    assert world.said() == [("back_in_stock", "")]


def test_stock_that_comes_and_goes_is_news_once() -> None:
    """Until the user looks at the item again."""
    world = World()
    world.happen(event("view_item", NOON))
    for hour, stock in enumerate((5, 0, 5, 0, 5), 1):
        world.change("a", NOON + hour * MINUTE, stock=stock)
    assert world.said() == [("back_in_stock", "")]
    world.happen(event("view_item", NOON + DAY))
    for hour, stock in enumerate((0, 5), 1):
        world.change("a", NOON + DAY + hour * MINUTE, stock=stock)
    assert world.said() == [("back_in_stock", "")]


def test_who_saw_it_sold_out_hears_when_it_is_back() -> None:
    """Even from a program that has not seen the change itself: the user's memory says that it was out."""
    world = World()
    world.change("a", NOON, stock=0)
    world.happen(event("view_item", NOON))
    later = World(users=dict(world.users), last_ms=dict(world.last_ms))
    later.change("a", NOON + MINUTE, stock=2)
    assert later.said() == [("back_in_stock", "")]


def test_one_message_wins() -> None:
    """A change that is news twice leads to one message, of the higher priority."""
    world = World()
    world.engine.observe_item(Item("a", price=20.0, stock=0))
    world.happen(event("add_to_wishlist", NOON))
    world.change("a", NOON + MINUTE, price=10.0, stock=1)
    assert world.said() == [("back_in_stock", ""), ("price_drop", "lower_priority")]


def test_who_is_held_back_leaves_the_place_to_the_next() -> None:
    """The first by priority that nothing holds back is sent."""
    world = World(ALL.replace('"back_in_stock"\n', '"back_in_stock"\naudience = 0.0\n'))
    world.engine.observe_item(Item("a", price=20.0, stock=0))
    world.happen(event("add_to_wishlist", NOON))
    world.change("a", NOON + MINUTE, price=10.0, stock=1)
    assert world.said() == [("back_in_stock", "audience"), ("price_drop", "")]


def test_the_same_version_of_an_item_again_says_nothing() -> None:
    """A slice that is repeated after a crash finds what it did."""
    rules = ALL.replace('"back_in_stock"\n', '"back_in_stock"\nsemantics = "changed"\n')
    world = World(rules)
    world.engine.observe_item(Item("a", stock=0))
    world.happen(event("view_item", NOON))
    change = world.engine.observe_item(Item("a", stock=1))
    assert change is not None
    for _ in range(2):
        look = world.engine.on_change("u", world.users["u"], NOON, change, 7, NOON + 1)
        assert look is not None
        world._keep(look)
    assert world.said() == [("back_in_stock", "")]


@pytest.mark.parametrize(
    ("user", "rules", "at_ms", "held"),
    [
        (User("u", None), "", NOON, "no_consent"),
        (User("u", False), "", NOON, "no_consent"),
        (User("u", True), "audience = 0.0", NOON, "audience"),
        (User("u", True), "hold_out = 1.0", NOON, "hold_out"),
        (User("u", True), DROP, NOON + 9 * HOUR, "quiet_hours"),
        (User("u", True, {"time_zone": "Asia/Tokyo"}), DROP, NOON, "quiet_hours"),
        (User("u", True, {"time_zone": "America/New_York"}), "", NOON + 9 * HOUR, ""),
        (User("u", True, {"time_zone": "Mars/Olympus"}), "", NOON, ""),
        (User("u", True), "until = 2026-01-05T12:00:00Z", NOON, None),
    ],
)
def test_what_holds_a_message_back(user: User, rules: str, at_ms: int, held: str | None) -> None:
    """Each reason by itself; outside of its dates a rule says nothing at all."""
    world = World(f'[[rules]]\nname = "cart_abandonment"\n{rules or "hold_out = 0.0"}')
    world.engine.observe_user(user)
    world.happen(event("add_to_cart", at_ms))
    world.until(at_ms + HOUR)
    assert world.said() == ([] if held is None else [("cart_abandonment", held)])


def test_caps_and_pauses_count_days_of_the_user() -> None:
    """Three messages on a local day and no more; the hold-out counts as sent."""
    rules = """cap_per_day = 3\npause = "0 s"\n[[rules]]\nname = "seen"\non = "view_item"
cap_per_day = 2\n[[rules]]\nname = "wished"\non = "add_to_wishlist"\nhold_out = 1.0"""
    world = World(rules)
    for minute, what in enumerate(["view_item"] * 3 + ["add_to_wishlist"] * 2):
        world.happen(event(what, NOON + minute * MINUTE))
    assert world.said() == [
        ("seen", ""), ("seen", ""), ("seen", "daily_cap"), ("wished", "hold_out"), ("wished", "daily_cap"),
    ]  # fmt: skip
    world.happen(event("view_item", NOON + DAY))
    assert world.said() == [("seen", "")]


def test_rules_of_ones_own_wait_after_an_event() -> None:
    """A rule on an event with a delay speaks when it has passed, of that event; conditions hold then, too."""
    rules = """[[rules]]\nname = "wished"\non = "add_to_wishlist"\ndelay = "2 h"
all = [["user.purchases", "=", 0]]\nnone = [["user.attributes.country", "=", "NO"]]"""
    world = World(rules)
    world.engine.observe_user(User("w", True, {"country": "NO"}))
    for user in "uvw":
        world.happen(event("add_to_wishlist", NOON, user=user))
    world.happen(event("purchase", NOON + HOUR, user="v"))
    world.until(NOON + 2 * HOUR)
    assert [(d.user_id, d.rule.name, d.reason) for d in world.decisions] == [
        ("u", "wished", "2 h after add_to_wishlist")
    ]


def test_a_rule_that_waits_remembers_what_its_event_was_like() -> None:
    """Conditions on the event held when it happened and hold for ever; those on the user are asked again."""
    rules = """pause = "0 s"\n[[rules]]\nname = "big"\non = "add_to_cart"\ndelay = "2 h"
all = [["event.value", ">=", 50], ["cart.items", ">=", 1]]
none = [["event.item_id", "=", "gift"]]
any = [["event.attributes.channel", "=", "app"], ["user.purchases", ">=", 1]]"""
    added = {"value": 80.0, "attributes": {"channel": "app"}}
    for what, fields, said in (
        ("app", added, [("big", "")]),
        ("cheap", added | {"value": 20.0}, []),
        ("gift", added, []),
        ("web", added | {"attributes": {}}, []),
    ):
        world = World(rules)
        world.happen(event("add_to_cart", NOON, what, **fields))
        world.until(NOON + 2 * HOUR)
        assert [d for d in world.said() if d[0] == "big"] == said, what
    emptied = World(rules)
    emptied.happen(event("add_to_cart", NOON, **added), event("remove_from_cart", NOON + HOUR))
    emptied.until(NOON + 2 * HOUR)
    assert ("big", "") not in emptied.said()
    buyer = World(rules)  # the other one of `any` held then, and holds still
    buyer.happen(event("purchase", NOON - DAY), event("add_to_cart", NOON, value=80.0))
    buyer.until(NOON + 2 * HOUR)
    assert ("big", "") in buyer.said()


def test_edge_needs_the_condition_to_fail_in_between() -> None:
    """A rule that stays true speaks once; after it was false, again."""
    rules = """pause = "0 s"\n[[rules]]\nname = "big"\non = "add_to_cart"\nsemantics = "edge"
all = [["cart.value", ">=", 100]]"""
    world = World(rules)
    prices = [60.0, 60.0, 60.0]
    for n, price in enumerate(prices):
        world.happen(event("add_to_cart", NOON + n, f"i{n}", value=price))
    assert world.said() == [("big", "")]
    world.happen(event("purchase", NOON + 10), event("add_to_cart", NOON + 11, "x", value=5.0))
    world.happen(event("add_to_cart", NOON + 12, "y", value=100.0))
    assert world.said() == [("big", "")]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*sorted(LISTENED), "select_item"]),
        st.integers(0, 3 * DAY),
        st.sampled_from(["a", "b", "c", "long" * 30]),
        st.one_of(st.none(), st.floats(-5, 1e6)),
        st.one_of(st.none(), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=40,
)


def log_of(rows: Sequence[tuple[Any, ...]]) -> list[Event]:
    return [
        Event(f"e{n}", what, NOON + at, "u", item_id=item, value=value, quantity=quantity)
        for n, (what, at, item, value, quantity) in enumerate(rows)
    ]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(EVENTS, st.lists(st.integers(1, 5), min_size=40, max_size=40))
def test_batches_do_not_matter(rows: Sequence[tuple[Any, ...]], sizes: list[int]) -> None:
    """One event at a time or many: the same decisions, the same memory, and no id twice."""
    log, one, many = log_of(rows), World(), World()
    for e in log:
        one.happen(e)
    start = 0
    for size in sizes:
        if start < len(log):
            many.happen(*log[start : start + size])
        start += size
    assert one.decisions == many.decisions and one.users == many.users
    for world in (one, many):
        world.until(NOON + 100 * DAY)
    ids = [message_id(d.rule.name, d.user_id, d.key) for d in one.decisions]
    assert len(ids) == len(set(ids)) and all(d.held in ("", *REASONS) for d in one.decisions)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(EVENTS)
def test_a_log_that_is_sent_twice_says_everything_once(rows: Sequence[tuple[Any, ...]]) -> None:
    """Duplicates of the whole log, at later offsets, lead to no second message of a cause."""
    world = World()
    log = sorted(log_of(rows), key=lambda e: e.event_time_ms)
    for e in [*log, *log]:
        world.happen(e)
    world.until(NOON + 100 * DAY)
    ids = [message_id(d.rule.name, d.user_id, d.key) for d in world.decisions]
    assert len(ids) == len(set(ids))


def test_a_memory_stays_small() -> None:
    """However many items with however long ids: what is oldest is forgotten first."""
    world = World()
    for n in range(200):
        items = tuple(EventItem(f"{n}-{k}-" + "x" * 100, 1e6, 3) for k in range(5))
        world.happen(Event(f"e{n}", "add_to_cart", NOON + n, "u", items=items))
    packed = world.users["u"]
    assert packed is not None and len(packed) <= MOST_BYTES + 8
    assert any(item.startswith("199-") for item in unpack_memory(packed).watches)


def test_a_memory_that_cannot_be_read_begins_afresh() -> None:
    """Damage costs one user's memory, and stops nothing."""
    world = World()
    for packed in (b"", b"x" * 7, b"\0" * 8 + b"\xc1", b"\0" * 8 + b"\x91\x63"):
        world.users["u"] = packed
        world.happen(event("add_to_cart", NOON))
        assert unpack_memory(world.users["u"]).cart.keys() == {"a"}
