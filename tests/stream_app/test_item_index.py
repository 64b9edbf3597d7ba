"""Items by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.tokens import token
from stream_app.model.item_index import (
    ITEM_TOKENS,
    UNKNOWN,
    USER_TOKENS,
    ItemIndex,
    item_key,
    item_tokens,
    user_tokens,
)


def described(index: ItemIndex, i: int) -> list[int]:
    """The tokens of an item."""
    return [int(index.vocabulary[v]) for v in index.tokens[i] if v >= 0]


def test_an_item_keeps_its_number_however_it_is_met() -> None:
    """By key first and by id later, or the other way round, it is one item."""
    index = ItemIndex()
    by_key = index.numbers_of_keys(np.array([item_key("b"), item_key("a"), item_key("b")], np.uint64))
    assert by_key.tolist() == [0, 1, 0] and index.ids == [UNKNOWN, UNKNOWN]
    assert index.find("a") is None and not index.servable[:2].any()
    assert index.number("a") == 1 and index.number("c") == 2 and index.find("a") == 1
    assert index.ids == [UNKNOWN, "a", "c"] and index.servable[:3].tolist() == [0, 1, 1]
    assert index.numbers_of_keys(index.keys[:3]).tolist() == [0, 1, 2]


def test_growing_keeps_items_and_tokens() -> None:
    """Past every doubling, numbers, keys, tokens and what may be shown are what they were."""
    index = ItemIndex()
    for i in range(2_500):
        index.describe(f"i{i}", price=None, categories=(f"c{i}",), attributes={}, servable=i % 2 == 0)
    assert index.capacity >= len(index) == 2_500 and len(index.vocabulary) >= 5_000
    for i in (0, 1, 1023, 1024, 2047, 2048, 2499):
        assert index.number(f"i{i}") == i and index.keys[i] == item_key(f"i{i}")
        assert described(index, i) == [item_key(f"i{i}"), token("category", f"c{i}")]
        assert index.servable[i] == (i % 2 == 0)


def test_being_met_again_does_not_bring_a_hidden_item_back() -> None:
    """Only the shop's own word makes an item servable again."""
    index = ItemIndex()
    index.describe("a", price=None, categories=(), attributes={}, servable=False)
    index.number("a")
    index.numbers_of_keys(np.array([item_key("a")], np.uint64))
    assert not index.servable[0]
    index.describe("a", price=None, categories=(), attributes={}, servable=True)
    assert index.servable[0]


def test_a_new_description_replaces_the_old_one() -> None:
    """Tokens of the old description are gone, the item's own stays first."""
    index = ItemIndex()
    index.describe("a", price=10.0, categories=("x", "y"), attributes={"brand": "b"}, servable=True)
    index.describe("a", price=None, categories=("y",), attributes={}, servable=True)
    assert described(index, 0) == [item_key("a"), token("category", "y")]


def test_tokens_are_bounded_and_distinct() -> None:
    """However much the shop says, an item has at most 16 tokens, its own first, and a user at most 8."""
    attributes = {f"a{k}": ["x", "y", "x", 1.5, True, None, {}] for k in range(30)}
    tokens = item_tokens("i", 1e-300, ["c"] * 20, attributes)
    assert len(tokens) == len(set(tokens)) == ITEM_TOKENS and tokens[0] == item_key("i")
    assert len(user_tokens("u", attributes)) == USER_TOKENS and all(tokens)


@pytest.mark.parametrize("age", [-1, 0, 150, True, "34", None, float("nan"), float("inf")])
def test_an_age_that_is_none_is_left_out(age: object) -> None:
    """Only numbers between 0 and 150 become a decade."""
    assert token("age", "3") not in user_tokens("u", {"age": age})


@given(st.floats(0.01, 1e9))
def test_prices_share_a_band_with_their_neighbours(price: float) -> None:
    """A price and one 1 % higher are in the same band or in the next."""
    bands = [token("price", str(b)) for b in range(-30, 100)]
    a, b = (item_tokens("i", p, (), {})[1] for p in (price, price * 1.01))
    assert bands.index(b) - bands.index(a) in (0, 1)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_any_text_is_an_id(ids: list[str]) -> None:
    """Whatever an id is made of, it is found again and comes back unchanged."""
    index = ItemIndex()
    numbers = [index.number(i) for i in ids]
    assert [index.ids[n] for n in numbers] == ids and len(index) == len(set(ids))


def test_a_restored_index_equals_the_saved_one() -> None:
    """Ids, keys, tokens and what may be shown come back; unknown ids stay unknown."""
    index = ItemIndex()
    for i in range(1_500):
        index.describe(f"i{i}", price=float(i), categories=(f"c{i % 7}",), attributes={}, servable=i % 3 > 0)
    index.numbers_of_keys(np.array([77], np.uint64))
    n = len(index)
    again = ItemIndex()
    again.restore(index.ids, index.keys[:n], index.token_keys(), index.servable[:n])
    assert again.ids == index.ids and (again.keys[:n] == index.keys[:n]).all()
    assert (again.token_keys() == index.token_keys()).all()
    assert (again.servable[:n] == index.servable[:n]).all()
    assert again.number("i7") == 7 and again.find(UNKNOWN) is None
