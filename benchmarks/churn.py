"""A shop that never stands still: new users, new items and new words for ever, old ones never again.

At any time a few thousand items are on sale and as many users are about, both a window that moves with the
events: popular ones are drawn oftener, and whoever leaves the window at its far end does not come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stream_app.events import Event, EventItem, Item, Tombstone, User

START_MS = 1_767_600_000_000  # 2026-01-05, any fixed moment
KINDS = ("view_item", "add_to_cart", "purchase", "view_item_list")
SHARES = (0.84, 0.08, 0.03, 0.05)
LISTED = 10  # items of a list that is shown


@dataclass(frozen=True)
class Churn:
    """How large the shop is, and how fast it changes.

    Attributes
    ----------
    users, items
        Users and items that are about at any time.
    new_users, new_items
        Of 1,000 events, how many bring a new one.
    words
        Values of attributes that items share at any time; a tenth as many are new with as many new items.
    """

    users: int = 20_000
    items: int = 8_000
    new_users: int = 30
    new_items: int = 40
    words: int = 500

    def batches(
        self, events: int, size: int = 2_000, seed: int = 0
    ) -> Iterator[tuple[list[Item | Tombstone], list[User], list[Event]]]:
        """Batches of what the shop says of items and users, and of events.

        >>> items, users, events = next(Churn().batches(2_000, 10))
        >>> len(items) >= 8_000, len(events), events[0].event_type in KINDS
        (True, 10, True)
        """
        rng = np.random.default_rng(seed)
        first_item, first_user = 0, 0  # the oldest in the window
        known = 0
        for start in range(0, events, size):
            n = min(size, events - start)
            last_item = self.items + (start + n) * self.new_items // 1000
            items: list[Item | Tombstone] = [self._item(i) for i in range(known, last_item)]
            known, gone = last_item, last_item - self.items
            items += [Tombstone(f"i{i}") for i in range(first_item, gone) if i % 2]  # the others just go
            first_item = gone
            last_user = self.users + (start + n) * self.new_users // 1000
            users = [self._user(u) for u in range(first_user + self.users, last_user) if u % 2]
            first_user = last_user - self.users
            yield items, users, list(self._events(rng, start, n, first_item, first_user))

    def _events(
        self, rng: np.random.Generator, start: int, n: int, first_item: int, first_user: int
    ) -> Iterator[Event]:
        """Users near the new end are about oftener; items have a popularity of their own."""
        users = first_user + self.users - 1 - (self.users * rng.random(n) ** 2).astype(np.int64)
        ranks = (self.items * rng.random((n, LISTED)) ** 3).astype(np.int64)
        items = first_item + (ranks * 2_654_435_761 - first_item) % self.items  # a rank moves with the item
        kinds = rng.choice(len(KINDS), n, p=SHARES)
        for x, (user, kind) in enumerate(zip(users.tolist(), kinds.tolist(), strict=True)):
            at, name = START_MS + (start + x) * 10, f"e{start + x}"
            if KINDS[kind] == "view_item_list":
                shown = tuple(EventItem(f"i{i}") for i in dict.fromkeys(items[x].tolist()))
                yield Event(name, KINDS[kind], at, f"u{user}", items=shown, request_id=name)
            else:
                yield Event(name, KINDS[kind], at, f"u{user}", item_id=f"i{items[x, 0]}")

    def _item(self, i: int) -> Item:
        word = i * 10 // self.items * self.words // 100
        attributes = {
            "brand": f"b{word + i * 7 % self.words}",
            "colour": f"c{i % 12}",
            "series": f"s{i // 3}",
        }
        categories = (f"k{word // 10 + i % (self.words // 10)}",)
        return Item(f"i{i}", price=5.0 + i % 97, categories=categories, attributes=attributes)

    @staticmethod
    def _user(u: int) -> User:
        return User(f"u{u}", None, {"age": 18 + u % 60, "country": f"x{u % 9}", "club": f"g{u // 50}"})
