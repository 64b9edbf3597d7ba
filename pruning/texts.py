"""Feature names to tokens, many at a time: 25 names of an example take about a microsecond.

A name's token is a BLAKE2 digest (`pruning.tokens`), which takes longer than learning it. So tokens are
remembered by a cheap 64-bit hash of the name, and names are looked up joined into one text, by compiled
code: Python then has no object to touch per feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.tokens import name_token

_MOST = 1 << 17  # names remembered; then the table is emptied and fills up again with what is in use
_END = b"\0"


class NameTable:
    """Tokens of the names met of late.

    Examples
    --------
    >>> table = NameTable()
    >>> table.tokens(["genre=drama", "price"]).tolist() == [name_token("genre=drama"), name_token("price")]
    True
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._forget()

    def _forget(self) -> None:
        self._table = np.zeros((2 * self._most, 2), np.uint64)  # hash, 0 marks a free slot; token
        self._used = 0

    def tokens(self, names: Sequence[str]) -> NDArray[np.uint64]:
        """The tokens of names, uint64 (n,), as `name_token` gives them one by one."""
        text = "\0".join(names).encode("utf-8", "surrogatepass") + _END
        n = len(names)
        out, hashes = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        if not n or text.count(_END) != n:  # a name with a NUL inside
            return np.array([*map(name_token, names)], np.uint64)
        if _resolve(np.frombuffer(text, np.uint8), self._table, out, hashes) < n:
            self._learn(names, out, hashes)
        return out

    def _learn(self, names: Sequence[str], out: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> None:
        """Fill in the tokens of names that were not met before, and remember them."""
        new = np.flatnonzero(out == 0)
        out[new] = [name_token(names[x]) for x in new.tolist()]
        if self._used + len(new) > self._most:
            self._forget()
        kept = new[: self._most]
        self._used += _remember(self._table, hashes[kept], out[kept])


_names = NameTable()


def encode_names(
    examples: Sequence[Sequence[str]],
) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.int64]]:
    """Examples given as the names of their features, each with the value 1, as an encoded batch.

    Returns
    -------
    keys uint64 (nnz,), values float32 (nnz,), indptr int64 (n+1,): what `learn_many_encoded` takes.

    Examples
    --------
    >>> keys, values, indptr = encode_names([["genre=drama", "new"], ["genre=horror"]])
    >>> int(keys[0]) == name_token("genre=drama"), values.tolist(), indptr.tolist()
    (True, [1.0, 1.0, 1.0], [0, 2, 3])
    """
    keys = _names.tokens([*chain.from_iterable(examples)])
    indptr = np.zeros(len(examples) + 1, np.int64)
    np.cumsum([*map(len, examples)], out=indptr[1:])
    return keys, np.ones(len(keys), np.float32), indptr


@nb.njit(cache=True, nogil=True, inline="always")
def _slot(table, h):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while table[slot, 0] != h and table[slot, 0] != 0:
        slot = (slot + np.uint64(1)) & mask
    return slot


@nb.njit(cache=True, nogil=True)
def _resolve(text, table, out, hashes):  # type: ignore[no-untyped-def]
    """Tokens of the NUL-terminated names in `text` as far as the table has them; returns of how many."""
    n, found, start = 0, 0, np.uint64(0xCBF29CE484222325)
    h = start
    for x in range(len(text)):
        byte = np.uint64(text[x])
        if byte:
            h = (h ^ byte) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(29)
            continue
        h |= np.uint64(h == np.uint64(0))
        slot = _slot(table, h)
        hashes[n] = h
        if table[slot, 0] == h:
            out[n] = table[slot, 1]
            found += 1
        n += 1
        h = start
    return found


@nb.njit(cache=True, nogil=True)
def _remember(table, hashes, tokens):  # type: ignore[no-untyped-def]
    """Put tokens under their hashes; returns how many were new."""
    new = 0
    for k in range(len(hashes)):
        slot = _slot(table, hashes[k])
        new += table[slot, 0] == 0
        table[slot, 0], table[slot, 1] = hashes[k], tokens[k]
    return new
