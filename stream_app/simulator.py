"""A simulated shop: items, users with drifting tastes, and the events of their sessions.

Users choose by the affinities of `stream_app.choice`, so a recommender has something true to find. A
session shows lists of items; the user clicks by affinity and by position, views, puts some into the cart
and may buy. Stock runs out and comes back, prices drop and recover, new items appear.

Everything follows from the seed: the same seed gives the same events, and fewer events are the
beginning of more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from stream_app.choice import DAY_MS, ChoiceModel, Floats, Ints
from stream_app.events import encode_event
from stream_app.events.records import Event, EventItem, Item, User

START_MS = 1_767_571_200_000  # 2026-01-05, a Monday
LIST_LENGTH = 12
MAX_LISTS = 4  # per session
CANDIDATES = 96  # items drawn per list, half from the category the session is about
SESSIONS_PER_STEP = 64
PRICE_CHANGES = 0.02  # of the items, per day

# How busy each hour of a day is (UTC), and each day of a week from Monday.
_HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 9, 8, 7, 7, 8, 9, 10, 12, 13, 12, 9, 5], dtype=float)
_WEEKDAYS = np.array([1.0, 1.0, 1.0, 1.0, 1.1, 1.3, 1.4])


class Shop:
    """A shop whose visitors choose by a known rule.

    Parameters
    ----------
    seed
        Everything random follows from it.
    n_items, n_users, n_categories
        The size of the shop; there are twice as many brands as categories.
    drift
        Whether tastes turn slowly in event time, by a right angle in about eight days.
    taste_shift_at
        Index of the event, to within about 500, from which on everybody likes other categories and brands.
    start_ms
        Event time of the first session, milliseconds since 1970.
    sessions_per_day
        By default one for every second user.

    Examples
    --------
    >>> shop = Shop(seed=1, n_items=200, n_users=50)
    >>> first, second = list(shop.events(100)), list(shop.events(100))
    >>> first == second, first[0].event_type
    (True, 'view_item_list')
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        n_items: int = 1_000,
        n_users: int = 2_000,
        n_categories: int = 12,
        drift: bool = True,
        taste_shift_at: int | None = None,
        start_ms: int = START_MS,
        sessions_per_day: float | None = None,
    ) -> None:
        if n_items < max(2 * LIST_LENGTH, n_categories) or n_users < 1 or n_categories < 1:
            raise ValueError(
                f"a shop needs ≥ {2 * LIST_LENGTH} items and no more categories, and ≥ 1 category and user"
            )
        self.seed = seed
        self.taste_shift_at = taste_shift_at
        self.sessions_per_day = sessions_per_day or n_users / 2
        self.item_ids = [f"sku-{i:05d}" for i in range(n_items)]
        self.user_ids = [f"u{u:05d}" for u in range(n_users)]
        self._item_index = {item_id: i for i, item_id in enumerate(self.item_ids)}
        self._user_index = {user_id: u for u, user_id in enumerate(self.user_ids)}
        self.choice = ChoiceModel(
            np.random.default_rng([seed, 0]),
            n_items=n_items,
            n_users=n_users,
            n_categories=n_categories,
            drift=drift,
            start_ms=start_ms,
        )

    def items(self) -> Iterator[Item]:
        """The items that the shop sells when it opens."""
        choice = self.choice
        for i in np.flatnonzero(choice.launch_ms == 0).tolist():
            yield choice.item(i, self.item_ids[i], float(choice.price[i]), int(choice.stock[i]))

    def users(self) -> Iterator[User]:
        """All users, with age, gender, country and their consent to marketing."""
        return (self.choice.user(u, user_id) for u, user_id in enumerate(self.user_ids))

    def events(self, n: int) -> Iterator[Event]:
        """The first `n` events, in order of event time."""
        return (record for record in self.records(n) if isinstance(record, Event))

    def records(self, n: int) -> Iterator[Event | Item]:
        """The first `n` events with the changes of items between them, in order of event time.

        An item comes again, with its new state, when its price or stock changes, and for the first time
        when it is new.
        """
        left = n
        for record in _Visits(self).records() if n > 0 else ():
            yield record
            left -= isinstance(record, Event)
            if left == 0:
                return

    def affinity(
        self, user_id: str, item_id: str, *, at_ms: int | None = None, shifted: bool = False
    ) -> float:
        """How much the user likes the item: the true utility, which no recommender sees.

        Parameters
        ----------
        user_id, item_id
            A user and an item of this shop.
        at_ms
            Event time; by default the opening.
        shifted
            After the taste shift instead of before.

        Raises
        ------
        KeyError
            The shop does not know the user or the item.
        """
        return float(self.affinities(user_id, at_ms=at_ms, shifted=shifted)[self._item_index[item_id]])

    def affinities(self, user_id: str, *, at_ms: int | None = None, shifted: bool = False) -> Floats:
        """The affinity of one user to all items, in the order of `item_ids`: (n_items,)."""
        choice = self.choice
        users = np.array([self._user_index[user_id]])
        times = np.array([choice.start_ms if at_ms is None else at_ms])
        every = np.arange(choice.n_items)[None, :]
        utility = choice.utilities(users, every, choice.taste(users, times, shifted), shifted)
        affinity: Floats = utility[0] + np.log(choice.popularity)
        return affinity

    def bad_messages(self, n: int) -> list[bytes]:
        """`n` malformed messages of the kinds that reach a topic sooner or later; none is a valid event.

        >>> Shop(seed=1).bad_messages(3) == Shop(seed=1).bad_messages(3)
        True
        """
        rng = np.random.default_rng([self.seed, 2])
        kinds = rng.integers(10, size=n).tolist()
        return [_spoil(event, kind, rng) for event, kind in zip(self.events(n), kinds, strict=True)]


class _Visits:
    """One run through the sessions of a shop: its random numbers, clock, stock and prices."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.choice = choice = shop.choice
        self.rng = np.random.default_rng([shop.seed, 1])
        self.n_events = self.n_sessions = self.n_requests = 0
        self.work = 0.0  # operational time: the integral of how busy the shop is, in mean days
        self.price = choice.price.copy()
        self.stock = choice.stock.copy()
        self.on_sale = choice.launch_ms == 0  # launched already
        self.restock_ms = np.zeros(choice.n_items, dtype=np.int64)  # 0: nothing ordered
        by_category = np.argsort(choice.category, kind="stable")
        self.shelf = by_category  # items in order of category
        self.shelf_end = np.cumsum(choice.popularity[by_category])
        counts = np.bincount(choice.category, minlength=choice.n_categories)
        ends = np.concatenate([[0.0], self.shelf_end[np.cumsum(counts) - 1]])
        self.category_from, self.category_to = ends[:-1], ends[1:]
        # One frozen object per item and position, shared by all impressions.
        self.shown = [[EventItem(i, position=p + 1) for i in shop.item_ids] for p in range(LIST_LENGTH)]
        week = np.concatenate([[0.0], np.cumsum(np.outer(_WEEKDAYS, _HOURS).ravel())])  # (169,)
        self.week_work = week / week[-1] * 7.0

    def records(self) -> Iterator[Event | Item]:
        pending: list[tuple[int, int, Event | Item]] = []
        for order in itertools.count():
            begin_ms = self._clock(self.work)
            arrivals = self.rng.exponential(1 / self.shop.sessions_per_day, size=SESSIONS_PER_STEP)
            starts = np.array([self._clock(w) for w in self.work + np.cumsum(arrivals)])
            self.work += float(arrivals.sum())
            pending += [(begin_ms, -1, item) for item in self._shop_changes(begin_ms)]
            pending += [(e.event_time_ms, order, e) for e in self._step(starts)]
            # Sessions of the next step begin after this one's last; whatever is earlier is final.
            pending.sort(key=lambda entry: entry[:2])
            until = int(starts[-1])
            cut = next((k for k, entry in enumerate(pending) if entry[0] >= until), len(pending))
            yield from (record for _, _, record in pending[:cut])
            del pending[:cut]

    def _clock(self, work: float) -> int:
        weeks, rest = divmod(work, 7.0)
        hours = float(np.interp(rest, self.week_work, np.arange(len(self.week_work))))
        return self.choice.start_ms + int(weeks * 7 * DAY_MS + hours * DAY_MS / 24)

    def _shop_changes(self, now_ms: int) -> list[Item]:
        """Launch, restock, and change prices; the items that changed."""
        choice, rng = self.choice, self.rng
        launched = ~self.on_sale & (choice.launch_ms <= now_ms)
        self.on_sale |= launched
        arrived = (self.restock_ms > 0) & (self.restock_ms <= now_ms)
        self.stock[arrived] += rng.integers(20, 200, size=int(arrived.sum()))
        self.restock_ms[arrived] = 0
        empty = (self.stock == 0) & (self.restock_ms == 0)
        self.restock_ms[empty] = now_ms + rng.integers(DAY_MS // 4, 2 * DAY_MS, size=int(empty.sum()))
        in_step = SESSIONS_PER_STEP / self.shop.sessions_per_day  # days
        reduced = rng.random(choice.n_items) < PRICE_CHANGES * in_step
        back = reduced & (self.price < choice.price)
        factor = rng.uniform(0.6, 0.9, size=int(reduced.sum()))
        self.price[reduced] = np.round(choice.price[reduced] * factor, 2)
        self.price[back] = choice.price[back]
        changed = np.flatnonzero((launched | arrived | empty | reduced) & self.on_sale)
        ids = self.shop.item_ids
        return [choice.item(i, ids[i], float(self.price[i]), int(self.stock[i])) for i in changed.tolist()]

    def _step(self, starts: Ints) -> Iterator[Event]:
        """The events of the sessions that begin at `starts` (s,); sessions overlap, so not yet in order."""
        shop, choice, rng = self.shop, self.choice, self.rng
        shifted = shop.taste_shift_at is not None and self.n_events >= shop.taste_shift_at
        users = rng.choice(choice.n_users, size=len(starts), p=choice.activity)  # (s,)
        n_lists = np.minimum(rng.geometric(0.55, size=len(starts)), MAX_LISTS)  # (s,)
        row = np.repeat(np.arange(len(starts)), n_lists)  # (r,): the session of each list
        taste = choice.taste(users, starts, shifted)  # (s, c)
        intent = np.argmax(taste + rng.gumbel(size=taste.shape), axis=1)  # (s,): a draw from softmax(taste)
        items, utility = self._lists(users[row], taste[row], intent[row], shifted)  # (r, L), -1: no item
        liking = utility - utility.mean(axis=1, keepdims=True)
        bias = 1 / (1 + 0.15 * np.arange(LIST_LENGTH))  # of the position
        clicked = (rng.random(liking.shape) < bias / (1 + np.exp(1.6 - 1.5 * liking))) & (items >= 0)
        then = rng.random(liking.shape)  # what follows a view: low wishlist, high cart
        carted = clicked & (then > 0.93 - 0.05 * np.clip(liking, -1, 2))
        pauses = rng.exponential(9_000, size=(*liking.shape, 2)) + 400  # ms before a click, before a cart
        buys = rng.random(len(starts)) < 0.45
        columns = (items, clicked, then, carted, pauses)
        lists = zip(*(column.tolist() for column in columns), strict=True)
        sessions = zip(starts.tolist(), users.tolist(), n_lists.tolist(), buys.tolist(), strict=True)
        for start, user, count, buy in sessions:
            yield from self._session(start, user, list(itertools.islice(lists, count)), buy)

    def _lists(self, users: Ints, taste: Floats, intent: Ints, shifted: bool) -> tuple[Ints, Floats]:
        """What users (r,) who look for categories `intent` (r,) are shown, and its utility: both (r, L)."""
        choice, rng, half = self.choice, self.rng, CANDIDATES // 2
        low, high = self.category_from[intent][:, None], self.category_to[intent][:, None]
        draw = rng.random((len(users), CANDIDATES))
        draw[:, :half] = low + (high - low) * draw[:, :half]
        draw[:, half:] *= self.shelf_end[-1]
        place = np.minimum(np.searchsorted(self.shelf_end, draw), choice.n_items - 1)
        items = np.sort(self.shelf[place], axis=1)  # (r, m)
        utility = choice.utilities(users, items, taste, shifted)
        score = 0.7 * utility + rng.gumbel(size=utility.shape)
        score[:, 1:][items[:, 1:] == items[:, :-1]] = -np.inf  # drawn twice
        score[~(self.on_sale & (self.stock > 0))[items]] = -np.inf
        top = np.argsort(-score, axis=1)[:, :LIST_LENGTH]
        items[score == -np.inf] = -1
        return np.take_along_axis(items, top, axis=1), np.take_along_axis(utility, top, axis=1)

    def _session(self, start: int, user: int, lists: list[Any], buy: bool) -> Iterator[Event]:
        shop = self.shop
        who = {"user_id": shop.user_ids[user], "session_id": f"s{self.n_sessions}"}
        self.n_sessions += 1
        cart: list[int] = []
        now = float(start)
        for items, clicked, then, carted, pauses in lists:
            request_id = f"r{self.n_requests}"
            self.n_requests += 1
            shown = tuple(self.shown[p][i] for p, i in enumerate(items) if i >= 0)
            yield self._event("view_item_list", now, **who, request_id=request_id, items=shown)
            for p, item in enumerate(items):
                if not clicked[p]:
                    continue
                item_id, price = shop.item_ids[item], float(self.price[item])
                now += pauses[p][0]
                yield self._event("select_item", now, **who, item_id=item_id, request_id=request_id)
                now += 350
                yield self._event("view_item", now, **who, item_id=item_id, value=price)
                if then[p] < 0.05:
                    yield self._event("add_to_wishlist", now + 2_500, **who, item_id=item_id, value=price)
                if carted[p] and item not in cart:
                    cart.append(item)
                    now += pauses[p][1]
                    yield self._event("add_to_cart", now, **who, item_id=item_id, value=price, quantity=1)
            now += 3_000
        cart = [item for item in cart if self.stock[item] > 0]
        if not cart or not buy:
            return
        lines = tuple(EventItem(shop.item_ids[i], float(self.price[i]), 1) for i in cart)
        value = round(sum(line.price or 0.0 for line in lines), 2)
        yield self._event("begin_checkout", now + 8_000, **who, value=value, items=lines)
        yield self._event("purchase", now + 45_000, **who, value=value, items=lines)
        for item in cart:
            self.stock[item] -= 1

    def _event(self, event_type: str, at_ms: float, **fields: Any) -> Event:
        self.n_events += 1
        if "value" in fields:
            fields["currency"] = "EUR"
        return Event(f"sim-{self.shop.seed}-{self.n_events}", event_type, int(at_ms), **fields)


def _spoil(event: Event, kind: int, rng: np.random.Generator) -> bytes:
    """One way in which a message can be bad."""
    good = encode_event(event)
    user = f'"user_id":"{event.user_id}"'.encode()
    time = good[good.index(b'"event_time":') :].split(b",")[0]
    spoiled = (
        good[: int(rng.integers(1, len(good)))],  # cut off
        good.replace(user, b'"user_id":"\xff\xfe"'),  # not UTF-8
        good.replace(time + b",", b""),  # no time
        good.replace(event.event_type.encode(), b"spin_the_wheel", 1),  # unknown type
        good.replace(time, b'"event_time":"yesterday"'),
        good.replace(time, b'"event_time":1e308'),
        good.replace(user, b'"user_id":"' + b"u" * 2_000 + b'"'),  # id too long
        good.replace(user, b'"user_id":"a\\u0000b"'),  # NUL
        b"[" * int(rng.integers(2_000, 20_000)),  # nested for ever
        rng.bytes(40),  # garbage
    )
    return spoiled[kind]
