"""What triggers know of items: price, stock, and which change of an item may be news to somebody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stream_app.events import Item, Tombstone

_NOTHING: Mapping[str, Any] = {}


class Shelved(NamedTuple):
    """An item as the shop described it last; stock below zero counts as none."""

    price: float | None
    stock: int | None
    available: bool
    categories: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = _NOTHING


class Change(NamedTuple):
    """A new version of an item that may be news.

    Attributes
    ----------
    cheaper
        It costs less than it did, or nobody knows what it did.
    back
        It can be bought, and could not before.
    maybe_back
        It can be bought, and nobody knows whether it could before.
    """

    item_id: str
    cheaper: bool
    back: bool
    maybe_back: bool = False


class Shelf:
    """All items by id.

    Parameters
    ----------
    with_details
        Keep categories and attributes, too, because rules ask for them.

    Examples
    --------
    >>> shelf = Shelf()
    >>> shelf.observe(Item("a", price=20.0, stock=3))
    Change(item_id='a', cheaper=True, back=False, maybe_back=True)
    >>> shelf.observe(Item("a", price=25.0, stock=0))
    >>> shelf.observe(Item("a", price=15.0, stock=1))
    Change(item_id='a', cheaper=True, back=True, maybe_back=False)
    """

    def __init__(self, with_details: bool = False) -> None:
        self.items: dict[str, Shelved] = {}
        self._with_details = with_details

    def observe(self, item: Item | Tombstone) -> Change | None:
        """Take over a version of an item; returns what may be news about it."""
        if isinstance(item, Tombstone):
            self.items.pop(item.id, None)
            return None
        before = self.items.get(item.item_id)
        details = (item.categories, item.attributes) if self._with_details else ()
        self.items[item.item_id] = Shelved(item.price, item.stock, item.is_available, *details)
        cheaper = item.price is not None and (
            before is None or before.price is None or item.price < before.price
        )
        back = item.is_available and before is not None and not before.available
        maybe_back = item.is_available and before is None
        return Change(item.item_id, cheaper, back, maybe_back) if cheaper or back or maybe_back else None

    def price(self, item_id: str) -> float | None:
        """What an item costs, None where nobody said."""
        item = self.items.get(item_id)
        return None if item is None else item.price

    def is_out(self, item_id: str) -> bool:
        """Whether an item is known and cannot be bought now."""
        item = self.items.get(item_id)
        return item is not None and not item.available
