"""Items by number: the index that rows, tokens and lists of one process share.

Inside a process an item is a small integer, the row of every table. Between processes it travels
as its key, the 64-bit token of its id, because every process numbers items in its own order. When there are
more items than the budget has numbers for, the least useful give theirs back (`eviction`).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.tokens import token
from stream_app.events.records import Item, Tombstone
from stream_app.model.budget import BUDGET, Budget
from stream_app.model.eviction import NOBODY, Follower, Renumbering, crowded
from stream_app.model.key_ring import KeyRing
from stream_app.model.measures import Measures

ITEM_TOKENS = 24  # tokens per item at most, the item's own first
LONGEST_LABEL = 64  # characters
USER_TOKENS = 8  # tokens per user at most, the user's own first
MOST_FIELDS = 256  # names of attributes that are remembered, to read weights by
UNKNOWN = ""  # stands for an id that is not known yet, only its key


def item_key(item_id: str) -> int:
    """The 64-bit key of an item id.

    >>> item_key("sku-1") == token("item", "sku-1")
    True
    """
    return token("item", item_id)


def item_tokens(
    item_id: str, price: float | None, categories: Iterable[str], attributes: Mapping[str, Any]
) -> list[int]:
    """What the model may learn about an item, as tokens; its own comes first.

    Prices become bands of about a third, other numbers wider ones, years their decade.

    >>> len(item_tokens("sku-1", 18.99, ("shoes",), {"brand": "acme", "colours": ["red", "blue"]}))
    6
    """
    tokens = [item_key(item_id)]
    tokens += [token("category", category) for category in categories]
    if price is not None and price > 0:
        tokens.append(token("price", str(round(math.log(price) / math.log(1.35)))))
    tokens += _attribute_tokens(attributes)
    return list(dict.fromkeys(tokens))[:ITEM_TOKENS]


def user_tokens(user_id: str, attributes: Mapping[str, Any]) -> list[int]:
    """What the model may learn about a user, as tokens; the user's own comes first, ages become decades.

    >>> user_tokens("u1", {"age": 34})[1] == token("age", "3")
    True
    """
    tokens = [token("user", user_id)]
    age = attributes.get("age")
    if isinstance(age, int | float) and not isinstance(age, bool) and 0 < age < 150:
        tokens.append(token("age", str(int(age) // 10)))
    tokens += _attribute_tokens({name: value for name, value in attributes.items() if name != "age"})
    return list(dict.fromkeys(tokens))[:USER_TOKENS]


def _attribute_tokens(attributes: Mapping[str, Any]) -> list[int]:
    """Numbers first, then labels; text that is too long for a label says nothing about other items."""
    labels, numbers = [], []
    for name, values in attributes.items():
        for value in values if isinstance(values, list | tuple) else (values,):
            if isinstance(value, str):
                if 0 < len(value) <= LONGEST_LABEL:
                    labels.append(token(name, value))
            elif isinstance(value, int | float):
                numbers.append(token(name, _band(value)))
    return numbers + labels


_YEAR_S = 31_556_952.0


def _band(value: float) -> str:
    """A number as the name of its neighbourhood: wide ones, so that what is learned of one item helps others.

    Up to 10 a whole number; a year, and seconds or milliseconds since 1970, a decade; else a step of ×3.

    >>> _band(1987), _band(819_590_400), _band(6.6), _band(250), _band(0.0312)
    ('decade 198', 'decade 199', '7', '×3^5', '×3^-3')
    """
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return "0"
    if 1000 <= value < 3000:
        return f"decade {int(value) // 10}"
    for unit in (1.0, 1000.0):
        if 1e8 * unit <= value < 4e9 * unit:
            return f"decade {int(1970 + value / unit / _YEAR_S) // 10}"
    if 1 <= size <= 10:
        return str(round(value))
    return ("-" if value < 0 else "") + f"×3^{round(math.log(size) / math.log(3.0))}"


def note_fields(fields: set[str], names: Iterable[str]) -> None:
    """Add names of attributes to `fields`, as long as there is room."""
    if len(fields) < MOST_FIELDS:
        fields.update(names)


class ItemIndex:
    """Numbers items in the order in which this process meets them, and keeps what ranking needs of each.

    Whoever keeps numbers from one call to the next follows the index (`follow`).

    Parameters
    ----------
    budget
        How many items and tokens there is room for. A batch may exceed it; `compact` makes room afterwards.

    Attributes
    ----------
    ids
        Item ids by number; `UNKNOWN` where only the key was met.
    keys
        uint64 (n,).
    tokens
        What is known of each item: numbers into `vocabulary`, its own token first, −1 where it has fewer,
        int32 (capacity, ITEM_TOKENS).
    vocabulary
        The distinct tokens of all items, uint64 (token capacity,), 0 behind the last.
    servable
        uint8 (capacity,), 1 when the item may be shown: its id is known and the shop did not hide,
        delete or sell it out.
    measured
        Attributes that are numbers, as numbers.
    evicted
        Items that gave up their number so far.

    Examples
    --------
    >>> index = ItemIndex()
    >>> index.number("sku-1"), index.number("sku-2"), index.number("sku-1")
    (0, 1, 0)
    >>> index.ids[1], len(index)
    ('sku-2', 2)
    """

    def __init__(self, budget: Budget = BUDGET) -> None:
        self.budget = budget
        self.evicted = 0
        self.ids: list[str] = []
        self.fields: set[str] = set()  # names of items' attributes
        self._by_id: dict[str, int] = {}
        self._by_key: dict[int, int] = {}
        self.keys: NDArray[np.uint64] = np.zeros(1024, np.uint64)
        self.tokens: NDArray[np.int32] = np.full((1024, ITEM_TOKENS), -1, np.int32)
        self.vocabulary: NDArray[np.uint64] = np.zeros(2048, np.uint64)
        self._token_number: dict[int, int] = {}
        self.servable: NDArray[np.uint8] = np.zeros(1024, np.uint8)
        self.measured = Measures(1024)
        self._withdrawn = KeyRing(max(1024, budget.items // 4), 1)  # of items without number
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def capacity(self) -> int:
        """Rows that the tables have room for, the last one nobody's; grows by doubling up to the budget."""
        return len(self.keys)

    @property
    def is_crowded(self) -> bool:
        """Whether items or tokens should make room before the next batch."""
        return crowded(len(self), self.budget) or len(self._token_number) > self.budget.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the tables; the dicts and texts beside them take about 250 per item and 100 per token."""
        arrays = (self.keys, self.tokens, self.vocabulary, self.servable, self.measured.raw, self.measures)
        return sum(a.nbytes for a in arrays) + self._withdrawn.nbytes

    @property
    def measures(self) -> NDArray[np.float32]:
        """What is measured of each item, in standard deviations, (capacity, MEASURES)."""
        return self.measured.standard(len(self))

    def number(self, item_id: str) -> int:
        """The number of an item, a new one when it was never met."""
        i = self._by_id.get(item_id)
        if i is not None:
            return i
        key = item_key(item_id)
        i = self._by_key.get(key)
        if i is None:
            i = self._append(key)
        self.ids[i] = item_id
        self._by_id[item_id] = i
        self.servable[i] = key not in self._withdrawn
        return i

    def find(self, item_id: str) -> int | None:
        """The number of an item, None when it was never met."""
        return self._by_id.get(item_id)

    def numbers_of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The numbers of item keys, new ones (not servable until their id is met) where needed."""
        by_key, append = self._by_key, self._append
        out = [by_key[key] if key in by_key else append(key) for key in keys.tolist()]
        return np.array(out, np.int32)

    def find_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The numbers of item keys, `NOBODY` where an item has none."""
        find = self._by_key.get
        return np.array([find(key, NOBODY) for key in keys.tolist()], np.int32)

    def remember_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The numbers of items of long ago: new ones where needed until the budget is reached, then `NOBODY`.

        Otherwise whoever comes back would bring all items back that once gave up their numbers.
        """
        return self.find_keys(keys) if self.evicted else self.numbers_of_keys(keys)

    def withdraw(self, item_id: str) -> None:
        """The shop deleted an item: it is not shown, not even when somebody meets it again."""
        i = self._by_id.get(item_id)
        if i is None:
            self._withdrawn.put([item_key(item_id)])
        else:
            self.servable[i] = 0

    def is_withdrawn(self, item_id: str) -> bool:
        """Whether the shop hid, deleted or sold out an item, as far as that is remembered."""
        i = self._by_id.get(item_id)
        return not self.servable[i] if i is not None else item_key(item_id) in self._withdrawn

    def describe(
        self,
        item_id: str,
        *,
        price: float | None,
        categories: Iterable[str],
        attributes: Mapping[str, Any],
        servable: bool,
    ) -> int:
        """Take over what the shop says about an item; returns its number."""
        i = self.number(item_id)
        note_fields(self.fields, attributes)
        self.measured.put(i, {"price": price, **attributes})
        tokens = item_tokens(item_id, price, categories, attributes)
        self.tokens[i] = -1
        self.tokens[i, : len(tokens)] = [self._number_of_token(token) for token in tokens]
        self.servable[i] = servable
        if servable:
            self._withdrawn.remove(int(self.keys[i]))
        return i

    def observe(self, item: Item | Tombstone) -> None:
        """Take over a version of an item, or that it was deleted.

        >>> index = ItemIndex()
        >>> index.observe(Item("sku-1", price=9.0, stock=0))
        >>> index.is_withdrawn("sku-1")
        True
        """
        if isinstance(item, Tombstone):
            self.withdraw(item.id)
            return
        self.describe(
            item.item_id,
            price=item.price,
            categories=item.categories,
            attributes=item.attributes,
            servable=item.is_available,
        )

    # Making room

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of every renumbering for as long as it lives."""
        self._followers.add(follower)

    def compact(self, keep: NDArray[np.bool_]) -> None:
        """Take the numbers of all items but those where `keep` (n,) is true, and of tokens that nobody has.

        What was withdrawn is remembered. Arrays are made anew: whoever kept an old one keeps what it was.
        """
        n = len(self)
        capacity = _room_for(int(keep.sum()), self.capacity, self.budget.items)
        moved = Renumbering.of(keep, self.keys, capacity)
        ids = np.flatnonzero(~keep & (self.servable[:n] == 0))
        for i in ids.tolist():
            if self.ids[i]:
                self._withdrawn.put([int(self.keys[i])])
        self.evicted += n - len(moved.kept)
        self.ids = [self.ids[i] for i in moved.kept.tolist()]
        self._by_id = {item_id: i for i, item_id in enumerate(self.ids) if item_id}
        self.keys, self.servable = moved.rows(self.keys, 0), moved.rows(self.servable, 0)
        self.tokens = moved.rows(self.tokens, -1)
        self.measured.renumber(moved)
        self._by_key = {key: i for i, key in enumerate(self.keys[: len(self)].tolist())}
        self._compact_tokens()
        for follower in self._followers:
            follower.renumber(moved)

    def _compact_tokens(self) -> None:
        """Number the tokens anew that items have; when these are too many, those that few items share go."""
        tokens, most = self.tokens[: len(self)], self.budget.tokens * 3 // 4
        shared = np.bincount(tokens[tokens >= 0], minlength=len(self.vocabulary))
        used = np.flatnonzero(shared)
        if len(used) > most:
            is_own = np.zeros(len(shared), np.bool_)
            is_own[tokens[:, 0]] = True
            best = np.lexsort((used, -shared[used], ~is_own[used]))
            used = np.sort(used[best[: max(most, int(is_own.sum()))]])
        new = np.full(len(shared) + 1, -1, np.int32)  # the last one stands for "no token"
        new[used] = np.arange(len(used), dtype=np.int32)
        tokens = new[tokens]
        if ((tokens[:, :-1] < 0) & (tokens[:, 1:] >= 0)).any():  # rows have no gaps
            tokens = np.take_along_axis(tokens, np.argsort(tokens < 0, axis=1, kind="stable"), axis=1)
        self.tokens[: len(self)] = tokens
        vocabulary = np.zeros(_room_for(len(used), len(self.vocabulary), self.budget.tokens), np.uint64)
        vocabulary[: len(used)] = self.vocabulary[used]
        self.vocabulary = vocabulary
        self._token_number = {key: v for v, key in enumerate(vocabulary[: len(used)].tolist())}

    # Saving

    def withdrawn_keys(self) -> NDArray[np.uint64]:
        """The keys of withdrawn items without number, uint64 (w,)."""
        return self._withdrawn.records()[:, 0]

    def restore(
        self,
        ids: list[str],
        keys: NDArray[np.uint64],
        tokens: NDArray[np.uint64],
        servable: NDArray[np.uint8],
        withdrawn: Iterable[int] = (),
    ) -> None:
        """Take over the items of a checkpoint into an empty index, their tokens as `token_keys` gave them."""
        for i, key in enumerate(keys.tolist()):
            self._append(key)
            known = [self._number_of_token(token) for token in tokens[i].tolist() if token]
            self.tokens[i, : len(known)] = known
        n = len(ids)
        self.ids = list(ids)
        self._by_id = {item_id: i for i, item_id in enumerate(ids) if item_id}
        self.servable[:n] = servable
        for key in withdrawn:
            self._withdrawn.put([key])

    def token_keys(self) -> NDArray[np.uint64]:
        """The tokens of all items themselves, uint64 (n, ITEM_TOKENS), 0 where an item has fewer."""
        tokens = self.tokens[: len(self)]
        return np.where(tokens >= 0, self.vocabulary[tokens], 0).astype(np.uint64)

    def _number_of_token(self, key: int) -> int:
        number = self._token_number.get(key)
        if number is None:
            number = self._token_number[key] = len(self._token_number)
            if number == len(self.vocabulary):
                self.vocabulary = _with_rows(self.vocabulary, _larger(number, self.budget.tokens), 0)
            self.vocabulary[number] = key
        return number

    def _append(self, key: int) -> int:
        i = len(self.ids)
        if i + 1 == self.capacity:  # the last row is nobody's
            rows = _larger(self.capacity, self.budget.items + 1)
            self.keys, self.servable = _with_rows(self.keys, rows, 0), _with_rows(self.servable, rows, 0)
            self.tokens = _with_rows(self.tokens, rows, -1)
            self.measured.grow(rows)
        self.ids.append(UNKNOWN)
        self._by_key[key] = i
        self.keys[i] = key
        self.tokens[i, 0] = self._number_of_token(key)
        return i


def _larger(size: int, most: int) -> int:
    """The next size of a full table: twice as large up to `most`, then a little."""
    return min(2 * size, most) if size < most else size + max(64, size // 8)


def _room_for(n: int, size: int, most: int) -> int:
    """The size of a table of `n` after a compaction: what it was, but no more than `most` needs."""
    return min(size, max(most, n) + 1)


def _with_rows(array: NDArray[Any], rows: int, empty: int) -> NDArray[Any]:
    out = np.full((rows, *array.shape[1:]), empty, array.dtype)
    out[: len(array)] = array
    return out
