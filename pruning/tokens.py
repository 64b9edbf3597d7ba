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
from hashlib import blake2b

import numba as nb
import numpy as np

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
    digest = int.from_bytes(blake2b(value.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "little")
    return (field_id(field) << VALUE_BITS) | (digest or 1)


@nb.njit(nb.uint64(nb.uint64, nb.uint64, nb.uint64), cache=True, inline="always")
def cross(field: int, a: int, b: int) -> int:
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
