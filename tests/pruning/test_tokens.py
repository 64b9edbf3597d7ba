"""Feature names become tokens the same way everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import NonFiniteError
from pruning.tokens import cross, encode, feature_token, field_id, token


@given(st.text(), st.text())
def test_tokens_are_never_zero_and_name_their_field(field: str, value: str) -> None:
    """Every token carries its field in the top 16 bits and a value that is not 0."""
    t = token(field, value)
    assert t >> 48 == field_id(field)
    assert t & ((1 << 48) - 1)


def test_ready_tokens_pass_through_and_small_integers_do_not() -> None:
    """An integer of 2⁴⁸ or more is a token already; a smaller one is a name."""
    ready = token("genre", "drama")
    assert feature_token(ready) == feature_token(np.uint64(ready)) == ready
    assert feature_token(5) != 5


def test_crosses_keep_their_order() -> None:
    """The cross of (a, b) is not the cross of (b, a)."""
    f, a, b = np.uint64(field_id("f")), np.uint64(token("a", "1")), np.uint64(token("b", "2"))
    assert cross(f, a, b) != cross(f, b, a)


def test_text_values_join_the_token() -> None:
    """The feature {"genre": "drama"} is the feature {"genre=drama": 1}."""
    assert encode({"genre": "drama"})[0][0] == encode({"genre=drama": 1})[0][0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, [], 10**400])
def test_values_that_are_no_finite_numbers_are_named(value: object) -> None:
    """A value that cannot be learned raises an error that names the feature."""
    with pytest.raises(NonFiniteError, match="'price'"):
        encode({"price": value})


def test_equal_keys_of_other_types_are_other_features() -> None:
    """1, 1.0 and True are three features, whichever is seen first."""
    assert len({feature_token(1), feature_token(1.0), feature_token(True)}) == 3
    assert len({feature_token(("a", 1)), feature_token(("a", True))}) == 2
