"""Which features a trainer takes in at all: not before they were seen a few times.

With a heavy tail, most features occur once; keeping them out bounds the trainer's memory from the other side
than eviction does. A feature that was pruned comes back the same way: it is admitted again when it is seen
often enough.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray
from river import base

from pruning.errors import ParameterError
from pruning.tokens import feature_token


class AdmissionFilter(base.Transformer):  # type: ignore[misc]  # River is untyped here
    """Lets features through once they were seen `min_count` times, counted in a fixed number of bytes.

    The counters are a counting Bloom filter of `hashes` rows with conservative update: a count is never too
    low; it is too high for a share of about (1 − e^(−features·hashes/counters))^hashes of new features, which
    are then let in early.

    Parameters
    ----------
    min_count
        How often a feature must be seen, 1 to 255; the occurrence that makes it so counts.
    counters
        Bytes of memory, a power of two.
    hashes
        Counters per feature, 1 to 8.
    half_life
        After so many learned examples all counts are halved; None never forgets.

    Examples
    --------
    >>> admission = AdmissionFilter(min_count=2)
    >>> admission.learn_one({"user=u1": 1, "item=i7": 1}); admission.learn_one({"user=u1": 1})
    >>> admission.transform_one({"user=u1": 1, "item=i7": 1})
    {'user=u1': 1}

    References
    ----------
    McMahan, H.B. et al., 2013. Ad click prediction: a view from the trenches. KDD, section 3.1.
    """

    def __init__(
        self, min_count: int = 2, counters: int = 1 << 20, hashes: int = 3, half_life: int | None = None
    ):
        if not 1 <= min_count <= 255 or not 1 <= hashes <= 8:
            raise ParameterError("min_count is 1 to 255 and hashes 1 to 8")
        if counters < 64 or counters & (counters - 1):
            raise ParameterError(f"counters is {counters!r}: expected a power of two of at least 64")
        if half_life is not None and half_life < 1:
            raise ParameterError("half_life is at least 1 example, or None")
        self.min_count = min_count
        self.counters = counters
        self.hashes = hashes
        self.half_life = half_life
        self._counts = np.zeros(counters, np.uint8)
        self._examples = 0

    def learn_one(self, x: Mapping[Hashable, Any]) -> None:
        """Count the features of an example."""
        keys = _tokens(x)
        self.admit_encoded(keys, np.array([0, len(keys)]))

    def transform_one(self, x: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The features that were seen often enough; counts nothing."""
        held = np.zeros(len(x), np.bool_)
        _read(self._counts, _tokens(x), self.hashes, self.min_count, held)
        return {k: v for (k, v), admitted in zip(x.items(), held, strict=True) if admitted}

    def admit_encoded(self, keys: NDArray[np.uint64], indptr: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Count the tokens of examples in order and tell which are admitted, bool (nnz,).

        Parameters
        ----------
        keys
            Tokens, uint64 (nnz,).
        indptr
            Example i owns entries indptr[i] to indptr[i+1], int64 (n+1,).
        """
        keys, indptr = np.ascontiguousarray(keys, np.uint64), np.ascontiguousarray(indptr, np.int64)
        admitted = np.zeros(len(keys), np.bool_)
        period = self.half_life or 0
        _count(self._counts, keys, indptr, self.hashes, self.min_count, period, self._examples, admitted)
        self._examples += len(indptr) - 1
        return admitted

    @property
    def nbytes(self) -> int:
        """Bytes of the counters."""
        return self._counts.nbytes


def _tokens(x: Mapping[Hashable, Any]) -> NDArray[np.uint64]:
    return np.array([feature_token((k, v) if isinstance(v, str) else k) for k, v in x.items()], np.uint64)


@nb.njit(cache=True, nogil=True, inline="always")
def _place(key, row, size):  # type: ignore[no-untyped-def]
    h = (key + np.uint64(row + 1) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xD6E8FEB86659FD93)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return (h ^ (h >> np.uint64(32))) & np.uint64(size - 1)


@nb.njit(cache=True, nogil=True)
def _count(counts, keys, indptr, hashes, least, period, seen, admitted):  # type: ignore[no-untyped-def]
    for i in range(len(indptr) - 1):
        if period and (seen + i) and (seen + i) % period == 0:
            for c in range(len(counts)):
                counts[c] >>= np.uint8(1)
        for j in range(indptr[i], indptr[i + 1]):
            low = 255
            for r in range(hashes):
                low = min(low, int(counts[_place(keys[j], r, len(counts))]))
            for r in range(hashes):  # conservative: only the smallest counters rise
                at = _place(keys[j], r, len(counts))
                if counts[at] == low and low < 255:
                    counts[at] += np.uint8(1)
            admitted[j] = low + 1 >= least


@nb.njit(cache=True, nogil=True)
def _read(counts, keys, hashes, least, held):  # type: ignore[no-untyped-def]
    for j in range(len(keys)):
        low = 255
        for r in range(hashes):
            low = min(low, int(counts[_place(keys[j], r, len(counts))]))
        held[j] = low >= least
