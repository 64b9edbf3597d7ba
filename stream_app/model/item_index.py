"""Items by number: the index that rows, tokens and lists of one process share.

Inside a process an item is a small integer, the row of every table. Between processes it travels
as its key, the 64-bit token of its id, because every process numbers items in its own order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.tokens import token

ITEM_TOKENS = 24  # tokens per item at most, the item's own first
LONGEST_LABEL = 64  # characters
USER_TOKENS = 8  # tokens per user at most, the user's own first
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

    Prices become bands of about a third, other numbers keep two digits, years their decade.

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
    """Labels first, then numbers; text that is too long for a label says nothing about other items."""
    labels, numbers = [], []
    for name, values in attributes.items():
        for value in values if isinstance(values, list | tuple) else (values,):
            if isinstance(value, str):
                if 0 < len(value) <= LONGEST_LABEL:
                    labels.append(token(name, value))
            elif isinstance(value, int | float):
                numbers.append(token(name, _band(value)))
    return labels + numbers


def _band(value: float) -> str:
    """A number as the name of its neighbourhood: two digits of it, three of a year.

    >>> _band(1987), _band(269), _band(0.0312)
    ('1.99e+03', '2.7e+02', '0.031')
    """
    return f"{value:.3g}" if 1000 <= abs(value) < 10_000 else f"{value:.2g}"


class ItemIndex:
    """Numbers items in the order in which this process meets them, and keeps what ranking needs of each.

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

    Examples
    --------
    >>> index = ItemIndex()
    >>> index.number("sku-1"), index.number("sku-2"), index.number("sku-1")
    (0, 1, 0)
    >>> index.ids[1], len(index)
    ('sku-2', 2)
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.fields: set[str] = set()  # names of items' attributes
        self._by_id: dict[str, int] = {}
        self._by_key: dict[int, int] = {}
        self.keys: NDArray[np.uint64] = np.zeros(1024, np.uint64)
        self.tokens: NDArray[np.int32] = np.full((1024, ITEM_TOKENS), -1, np.int32)
        self.vocabulary: NDArray[np.uint64] = np.zeros(2048, np.uint64)
        self._token_number: dict[int, int] = {}
        self.servable: NDArray[np.uint8] = np.zeros(1024, np.uint8)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def capacity(self) -> int:
        """Rows that the tables have room for; grows by doubling."""
        return len(self.keys)

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
        self.servable[i] = 1
        return i

    def find(self, item_id: str) -> int | None:
        """The number of an item, None when it was never met."""
        return self._by_id.get(item_id)

    def numbers_of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The numbers of item keys, new ones (not servable until their id is met) where needed."""
        by_key, append = self._by_key, self._append
        out = [by_key[key] if key in by_key else append(key) for key in keys.tolist()]
        return np.array(out, np.int32)

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
        self.fields.update(attributes)
        tokens = item_tokens(item_id, price, categories, attributes)
        self.tokens[i] = -1
        self.tokens[i, : len(tokens)] = [self._number_of_token(token) for token in tokens]
        self.servable[i] = servable
        return i

    def restore(
        self,
        ids: list[str],
        keys: NDArray[np.uint64],
        tokens: NDArray[np.uint64],
        servable: NDArray[np.uint8],
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

    def token_keys(self) -> NDArray[np.uint64]:
        """The tokens of all items themselves, uint64 (n, ITEM_TOKENS), 0 where an item has fewer."""
        tokens = self.tokens[: len(self)]
        return np.where(tokens >= 0, self.vocabulary[tokens], 0).astype(np.uint64)

    def _number_of_token(self, key: int) -> int:
        number = self._token_number.get(key)
        if number is None:
            number = self._token_number[key] = len(self._token_number)
            if number == len(self.vocabulary):
                self.vocabulary = _doubled(self.vocabulary, 0)
            self.vocabulary[number] = key
        return number

    def _append(self, key: int) -> int:
        i = len(self.ids)
        if i == self.capacity:
            self.keys, self.servable = _doubled(self.keys, 0), _doubled(self.servable, 0)
            self.tokens = _doubled(self.tokens, -1)
        self.ids.append(UNKNOWN)
        self._by_key[key] = i
        self.keys[i] = key
        self.tokens[i, 0] = self._number_of_token(key)
        return i


def _doubled(array: NDArray[Any], empty: int) -> NDArray[Any]:
    out = np.full((2 * len(array), *array.shape[1:]), empty, array.dtype)
    out[: len(array)] = array
    return out
