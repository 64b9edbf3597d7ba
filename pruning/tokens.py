"""Features as 64-bit tokens: 16 bits name the field, 48 bits the value.

The hashing trick without a vocabulary: a learner, a release and a worker agree on a
feature because they hash the same text, and the field stays readable from the token,
so that scales, importance and pruning can work field by field.

References
----------
Weinberger, K., Dasgupta, A., Langford, J., Smola, A., Attenberg, J., 2009. Feature hashing for
large scale multitask learning. ICML.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping
from hashlib import blake2b
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.errors import NonFiniteError

VALUE_BITS = 48
VALUE_MASK = (1 << VALUE_BITS) - 1


@functools.lru_cache(maxsize=4096)
def field_id(name: str) -> int:
    """The 16-bit number of a field.

    >>> 0 <= field_id("genre") < 65_536
    True
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=2).digest(), "little")


def token(field: str, value: str) -> int:
    """The 64-bit token of `field=value`; never 0, which marks an empty table slot.

    >>> token("genre", "drama") == token("genre", "drama")
    True
    >>> token("genre", "drama") >> VALUE_BITS == field_id("genre")
    True
    """
    # The field once more: its 16 bits collide now and then.
    text = f"{field}={value}".encode("utf-8", "surrogatepass")
    digest = int.from_bytes(blake2b(text, digest_size=6).digest(), "little")
    return (field_id(field) << VALUE_BITS) | (digest or 1)


@nb.njit(nb.uint64(nb.uint64, nb.uint64, nb.uint64), cache=True, inline="always")
def cross(field: np.uint64, a: np.uint64, b: np.uint64) -> np.uint64:
    """The token of the pair (`a`, `b`) in `field` (a `field_id`): ordered, compiled, callable from kernels.

    >>> f = np.uint64(field_id("gender×genre"))
    >>> pair = cross(f, np.uint64(token("gender", "F")), np.uint64(token("genre", "drama")))
    >>> int(pair) >> VALUE_BITS == int(f)
    True
    """
    h = a * np.uint64(0x9E3779B97F4A7C15) ^ b  # splitmix64's finaliser over both words
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    value = h & np.uint64(0xFFFFFFFFFFFF)
    return (np.uint64(field) << np.uint64(48)) | (value | np.uint64(value == np.uint64(0)))


def name_token(name: str) -> int:
    """The token of a feature name: `field=value`, or a field alone.

    >>> name_token("genre=drama") == token("genre", "drama"), name_token("price") == token("price", "")
    (True, True)
    """
    field, _, value = name.partition("=")
    return token(field, value)


def feature_token(key: Hashable) -> int:
    """The token of a feature name as River models use them: text, number or tuple.

    ========================  =======================================
    key                       token
    ========================  =======================================
    int of 2⁴⁸ or more        the key itself: it is a token already
    `"genre=drama"`           `token("genre", "drama")`
    `"price"`                 `token("price", "")`
    `("genre", "drama")`      `token("genre", "drama")`
    anything else             `token(type name, repr)`
    ========================  =======================================

    >>> feature_token("genre=drama") == feature_token(("genre", "drama")) == token("genre", "drama")
    True
    >>> feature_token(token("price", "")) == feature_token("price")
    True
    """
    if isinstance(key, str):
        return _name_token(key)
    if isinstance(key, int | np.integer) and int(key) >= 1 << VALUE_BITS and int(key) < 1 << 64:
        return int(key)
    if isinstance(key, tuple) and key:
        return token(str(key[0]), "\x1f".join(map(str, key[1:])))
    return token(type(key).__name__, repr(key))


# Only texts are remembered: 1, 1.0 and True are one key to a cache and three features to us.
_name_token = functools.lru_cache(maxsize=1 << 17)(name_token)


@functools.lru_cache(maxsize=1 << 17, typed=True)
def _text_token(key: Hashable, value: str) -> int:
    return token(key if isinstance(key, str) else str(key), value)


def encode(x: Mapping[Hashable, Any]) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """The tokens and values of a River feature dict; a text value becomes part of the token.

    Parameters
    ----------
    x
        Feature name → number, bool or text. A text `v` under the name `k` is the token of `k=v` with value 1.

    Returns
    -------
    keys uint64 (n,), values float32 (n,), in the order of `x`. Finite values beyond ±3e38 are clipped.

    Raises
    ------
    NonFiniteError
        If a value is NaN, infinite or not a number.

    Examples
    --------
    >>> keys, values = encode({"genre": "drama", "price": 2.5, "new": True})
    >>> int(keys[0]) == token("genre", "drama"), values.tolist()
    (True, [1.0, 2.5, 1.0])
    """
    keys = [_text_token(k, v) if isinstance(v, str) else feature_token(k) for k, v in x.items()]
    try:
        values = np.array([1.0 if isinstance(v, str) else v for v in x.values()], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _not_a_number(x) from error
    if values.ndim != 1 or not np.isfinite(values).all():
        raise _not_a_number(x)
    return np.array(keys, np.uint64), np.minimum(np.maximum(values, -3e38), 3e38).astype(np.float32)


def _not_a_number(x: Mapping[Hashable, Any]) -> NonFiniteError:
    """The error for the first value that is not a finite number."""
    for key, value in x.items():
        try:
            good = isinstance(value, str) or math.isfinite(value)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            return NonFiniteError(f"feature {key!r} is {value!r}: give a finite number, a bool or a text")
    return NonFiniteError("a value is not a finite number")
