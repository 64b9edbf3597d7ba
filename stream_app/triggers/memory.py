"""What triggers remember of a user: cart, watched items, purchases, pending times, and what was sent.

It travels at the end of the user's packed state, in the same fenced write as state and list::

    0   wake     int64    event time from which on the user has to be looked at, whatever happens
    8   memory   MessagePack array, its version first

A memory is bounded in everything and never longer than `MOST_BYTES`: what is oldest is forgotten first.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

import msgspec

from stream_app.errors import StoreError
from stream_app.events import Event
from stream_app.triggers.shelf import Shelf

MOST_BYTES = 1_800
MOST_LINES = 20  # of a cart
MOST_WATCHED = 24
MOST_PUT_OFF = 8  # messages about items that wait for the end of quiet hours
MOST_COUNTED = 1_000  # of what a visit counts
MOST_SENT = 16  # rules whose last message is remembered, the latest ones
NEVER_MS = 2**62
VIEWED, WISHED, CARTED, BOUGHT = 1, 2, 4, 8
CART_EVENTS = ("add_to_cart", "remove_from_cart", "purchase")
LISTENED = frozenset({"view_item", "add_to_wishlist", *CART_EVENTS})
"""Event types that change a memory."""

SESSION_MS = 30 * 60_000  # of silence end a visit
VERSION = 1
_HOW = {"view_item": VIEWED, "add_to_wishlist": WISHED, "add_to_cart": CARTED}
_WAKE = struct.Struct("<q")


class Line(msgspec.Struct, array_like=True, gc=False):
    """One item of a cart; `at_ms` is when it was last added to."""

    price: float | None
    quantity: float
    at_ms: int


class Told(msgspec.Struct, array_like=True, gc=False):
    """What a rule said of a watched item: how often, and at which price."""

    times: int
    price: float | None


class Watch(msgspec.Struct, array_like=True, gc=False):
    """An item that the user has seen, wished for, put into the cart or bought.

    Attributes
    ----------
    how
        Bits `VIEWED`, `WISHED`, `CARTED`, `BOUGHT`.
    since_ms
        When the user last showed interest: messages about the item are counted from there.
    price
        What it cost then, None where nobody said.
    was_out
        Whether it could not be bought then.
    told
        Rule → what it has said since.
    place
        Offset of the last version of the item that was held against the user.
    """

    how: int
    since_ms: int
    price: float | None
    was_out: bool = False
    told: dict[str, Told] | None = None  # most rules say nothing of most items, and a dict costs time
    place: int = -1


class Timer(msgspec.Struct, array_like=True, gc=False):
    """A pending rule: when it is due, and what it speaks of.

    Attributes
    ----------
    subject
        Empty where that is seen when it is due.
    first_ms
        When it was due before quiet hours put it off, 0 if they have not.
    by_event
        Whether one of the rule's `any` held for the event that it waits after.
    """

    due_ms: int
    subject: str
    first_ms: int = 0
    by_event: bool = False


class Sent(msgspec.Struct, array_like=True, gc=False):
    """The last message of a rule: when, on which local day, and which of that day it was."""

    at_ms: int
    day: int
    count: int


class Session(msgspec.Struct, array_like=True, gc=False):
    """The visit under way, in counts; see `intent`."""

    start_ms: int = 0
    last_ms: int = 0
    views: int = 0
    wishes: int = 0
    adds: int = 0
    removes: int = 0


class Memory(msgspec.Struct, array_like=True, gc=False):
    """All that triggers remember of one user.

    Examples
    --------
    >>> memory = Memory()
    >>> _ = remember(memory, Event("e", "add_to_cart", 5, "u", item_id="a", value=3.0), 5, Shelf())
    >>> memory.cart, memory.cart_ms
    ({'a': Line(price=3.0, quantity=1.0, at_ms=5)}, 5)
    >>> unpack_memory(pack_memory(memory, NEVER_MS)) == memory
    True
    """

    version: int = VERSION
    cart: dict[str, Line] = {}
    cart_ms: int = 0
    watches: dict[str, Watch] = {}
    bought_ms: int = 0
    purchases: int = 0
    timers: dict[str, Timer] = {}
    fired: dict[str, str] = {}
    sent: dict[str, Sent] = {}
    session: Session = msgspec.field(default_factory=Session)
    rules: int = 0  # stands for the rules that it was held against last


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Memory).decode


def pack_memory(memory: Memory, wake_ms: int) -> bytes:
    """A memory as bytes; of what does not fit the oldest is forgotten."""
    if len(memory.sent) > MOST_SENT:
        _keep_latest(memory, MOST_SENT)
    packed = _encode(memory)
    while len(packed) > MOST_BYTES:
        if memory.watches or memory.cart:
            table = memory.watches if len(memory.watches) >= len(memory.cart) else memory.cart
            _forget(table, max(1, len(table) // 4))
        elif memory.timers or memory.fired:
            memory.timers, memory.fired = {}, {}  # of very many rules
        elif memory.sent:
            _keep_latest(memory, len(memory.sent) // 2)
        else:
            break  # numbers only
        packed = _encode(memory)
    return _WAKE.pack(wake_ms) + packed


def forget_rules(memory: Memory, names: Collection[str]) -> None:
    """Forget what rules have said that are none of `names`: those of last year's campaigns."""
    memory.sent = {name: sent for name, sent in memory.sent.items() if name in names}
    memory.fired = {name: subject for name, subject in memory.fired.items() if name in names}
    for watch in memory.watches.values():
        if watch.told:
            watch.told = {name: told for name, told in watch.told.items() if name in names}


def _keep_latest(memory: Memory, most: int) -> None:
    latest = sorted(memory.sent.items(), key=lambda one: -one[1].at_ms)
    memory.sent = dict(latest[:most])


def unpack_memory(packed: bytes) -> Memory:
    """Read a memory back.

    Raises
    ------
    StoreError
        If the bytes are none, or of a version that this program does not know.
    """
    try:
        memory = _decode(memoryview(packed)[_WAKE.size :])
    except msgspec.MsgspecError as error:
        raise StoreError(f"what triggers remember of a user cannot be read: {error}") from error
    if memory.version != VERSION:
        raise StoreError(f"what triggers remember of a user is of version {memory.version}, not {VERSION}")
    return memory


def due_of(memory: Memory) -> int:
    """When the next timer is due, `NEVER_MS` without any."""
    return min([t.due_ms for t in memory.timers.values()]) if memory.timers else NEVER_MS


def wake_of(packed: bytes) -> int:
    """The time from which on a user has to be looked at, read without the rest.

    >>> wake_of(pack_memory(Memory(), 7))
    7
    """
    wake: int = _WAKE.unpack_from(packed)[0] if len(packed) >= _WAKE.size else 0
    return wake


def _forget(table: dict[str, Any], most: int) -> None:
    for key in [*islice(table, most)]:
        del table[key]


def remember(memory: Memory, event: Event, at_ms: int, shelf: Shelf) -> Sequence[str]:
    """Take over what an event of a type in `LISTENED` says; returns items that were not watched before.

    An event that is older than the last purchase cannot fill the cart again, and a line is not changed twice
    at the same instant, so late and repeated events change nothing.
    """
    what = event.event_type
    _visit(memory.session, what, at_ms)
    if what == "purchase":
        _buy(memory, event, at_ms)
        return ()
    how = _HOW.get(what, 0)
    if what not in CART_EVENTS and not event.items:  # most events by far
        if event.item_id is None:
            return ()
        is_new = _watch(memory.watches, event.item_id, how, at_ms, _price(event), shelf)
        return (event.item_id,) if is_new else ()
    new: list[str] = []
    for item_id, price, quantity in _lines(event):
        if what == "remove_from_cart":
            _take_out(memory, item_id, quantity, at_ms)
            continue
        if what == "add_to_cart":
            if at_ms <= memory.bought_ms:
                continue
            _put_in(memory, item_id, price, quantity, at_ms)
        if _watch(memory.watches, item_id, how, at_ms, price, shelf):
            new.append(item_id)
    return new


def _lines(event: Event) -> Sequence[tuple[str, float | None, float | None]]:
    """Items of an event with price and quantity, as far as it names them."""
    if event.items:
        return [(i.item_id, i.price, i.quantity) for i in event.items]
    if event.item_id is None:
        return ()
    return ((event.item_id, _price(event), event.quantity),)


def _price(event: Event) -> float | None:
    """The price of one piece of an event's only item, as far as it says so."""
    price = event.value
    if price is not None and event.quantity:
        price /= event.quantity
    return None if price is None or price < 0 else price


def _visit(session: Session, what: str, at_ms: int) -> None:
    if at_ms - session.last_ms > SESSION_MS:
        session.start_ms, session.last_ms = at_ms, at_ms
        session.views = session.wishes = session.adds = session.removes = 0
    elif at_ms > session.last_ms:
        session.last_ms = at_ms
    if what == "view_item":
        if session.views < MOST_COUNTED:
            session.views += 1
    elif what == "add_to_cart":
        session.adds = min(session.adds + 1, MOST_COUNTED)
    elif what == "add_to_wishlist":
        session.wishes = min(session.wishes + 1, MOST_COUNTED)
    elif what == "remove_from_cart":
        session.removes = min(session.removes + 1, MOST_COUNTED)


def _put_in(memory: Memory, item_id: str, price: float | None, quantity: float | None, at_ms: int) -> None:
    line = memory.cart.get(item_id)
    if line is None:
        memory.cart[item_id] = Line(price, 1.0 if quantity is None else float(quantity), at_ms)
        if len(memory.cart) > MOST_LINES:
            _forget(memory.cart, 1)
    elif at_ms > line.at_ms:
        line.quantity += 1 if quantity is None else quantity
        line.price = line.price if price is None else price
        line.at_ms = at_ms
    memory.cart_ms = max(memory.cart_ms, at_ms)


def _take_out(memory: Memory, item_id: str, quantity: float | None, at_ms: int) -> None:
    line = memory.cart.get(item_id)
    if line is None or at_ms <= line.at_ms:
        return
    line.quantity -= line.quantity if quantity is None else quantity
    line.at_ms = at_ms
    if line.quantity <= 0:
        del memory.cart[item_id]
    memory.cart_ms = max(memory.cart_ms, at_ms)


def _buy(memory: Memory, event: Event, at_ms: int) -> None:
    """A purchase empties the cart, but for what was put there later."""
    memory.purchases += at_ms != memory.bought_ms
    memory.bought_ms = max(memory.bought_ms, at_ms)
    if any(line.at_ms <= at_ms for line in memory.cart.values()):
        memory.cart = {i: line for i, line in memory.cart.items() if line.at_ms > at_ms}
        memory.cart_ms = max(memory.cart_ms, at_ms)
    for item_id in event.item_ids():
        watch = memory.watches.get(item_id)
        if watch is not None:
            watch.how |= BOUGHT


def _watch(
    watches: dict[str, Watch], item_id: str, how: int, at_ms: int, price: float | None, shelf: Shelf
) -> bool:
    """Watch an item, or watch it anew: it becomes the latest, and messages about it are counted afresh."""
    watch = watches.pop(item_id, None)
    if watch is not None:
        if at_ms <= watch.since_ms:  # late
            watch.how |= how
            watches[item_id] = watch
            return False
        how |= watch.how if how == VIEWED else watch.how & ~BOUGHT
    item = shelf.items.get(item_id)
    if item is None:
        watches[item_id] = Watch(how, at_ms, price)
    else:
        watches[item_id] = Watch(how, at_ms, item.price if price is None else price, not item.available)
    if len(watches) > MOST_WATCHED:
        del watches[next(iter(watches))]
    return watch is None
