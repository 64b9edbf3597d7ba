"""Names become the same tokens many at a time as one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pruning.texts import NameTable, encode_names
from pruning.tokens import feature_token, name_token

NAMES = st.lists(st.text(max_size=12), max_size=30)


@given(NAMES, NAMES)
def test_names_have_the_tokens_that_they_have_alone(first: list[str], second: list[str]) -> None:
    """Any text, met before or new, even with a NUL inside, has the token that `name_token` gives it."""
    table = NameTable()
    for names in (first, second, first):
        assert table.tokens(names).tolist() == [name_token(name) for name in names]


def test_a_full_table_is_emptied_and_goes_on() -> None:
    """More names than a table remembers, at once or one after the other, still have their tokens."""
    table = NameTable(most=8)
    names = [f"item={n}" for n in range(50)]
    assert table.tokens(names).tolist() == [name_token(name) for name in names]
    for name in names:
        assert table.tokens([name])[0] == name_token(name)


def test_encoded_names_are_the_features_of_a_dictionary() -> None:
    """An example of names is the dictionary that gives each of them the value 1, and may be empty."""
    keys, values, indptr = encode_names([["a=1", "b"], [], ["c"]])
    assert keys.tolist() == [feature_token("a=1"), feature_token("b"), feature_token("c")]
    assert np.all(values == 1)
    assert indptr.tolist() == [0, 2, 2, 3]
