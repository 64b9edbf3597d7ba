"""The compiled default model: FTRL-Proximal logistic regression with River's interface.

State lives in a structure of arrays, an open-addressing hash table keyed by 64-bit tokens, so one compiled
call learns or scores thousands of examples without a Python object per feature::

    keys  uint64 (capacity,)       0 marks a free slot
    zn    float64 (capacity, 2)    FTRL's dual z and Σg²: the weight is their closed form, never stored
    seen  int64 (capacity, 2)      how many examples touched the slot, and the last step that did

The table doubles when it is 3/4 full, until `max_features`. There the least salient eighth (½w²Σg², ties: the
stalest) is forgotten in one sweep, so the bound is never exceeded. Which features are kept depends on the
examples alone, not on the table's size or layout, so a model restored from bytes continues bit for bit.

`pruning.optim.FTRLProximal` in River's `LogisticRegression` is the readable twin; a test holds both equal.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray
from river import base

from pruning.envelope import seal, unseal
from pruning.errors import CapacityError, NonFiniteError, ParameterError
from pruning.tokens import encode
from pruning.weights import Snapshot

_MAGIC = b"RECSFTRL"
_FORMAT = 1
_START = 1 << 10  # slots of an empty table
_CLIP = 1e6  # values and gradients beyond ±1e6 are clipped: sums of squares stay far from overflow
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio: Fibonacci hashing
_EMPTY = np.empty(0, np.float32)


class FTRLClassifier(base.Classifier):  # type: ignore[misc]  # River is untyped here
    """Binary logistic regression learned by FTRL-Proximal, compiled, in bounded memory.

    Parameters
    ----------
    alpha
        Learning rate, > 0.
    beta
        Smoothing of the per-coordinate learning rate, ≥ 0.
    l1
        Weights whose dual |z| ≤ l1 are exactly zero.
    l2
        Shrinkage.
    intercept
        Learn an unregularised constant.
    max_features
        How many features are kept at most; each costs 40 bytes, the table up to twice that.

    Examples
    --------
    >>> model = FTRLClassifier(alpha=0.1)
    >>> for _ in range(20):
    ...     model.learn_one({"genre": "drama", "price": 1.5}, True)
    ...     model.learn_one({"genre": "horror", "price": 1.5}, False)
    >>> model.predict_one({"genre": "drama", "price": 1.5})
    True
    >>> len(model), model.step
    (3, 40)

    References
    ----------
    McMahan, H.B. et al., 2013. Ad click prediction: a view from the trenches. KDD.
    """

    def __init__(  # noqa: PLR0917  # River's constructors take positional parameters
        self,
        alpha: float = 0.05,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 1.0,
        intercept: bool = False,
        max_features: int = 1_000_000,
    ):
        for name, value, least in (("alpha", alpha, 1e-12), ("beta", beta, 0), ("l1", l1, 0), ("l2", l2, 0)):
            if not (math.isfinite(value) and value >= least):
                raise ParameterError(f"{name} is {value!r}: expected a finite number of at least {least:g}")
        if max_features < 1:
            raise ParameterError(f"max_features is {max_features!r}: expected at least 1")
        self.alpha = alpha
        self.beta = beta
        self.l1 = l1
        self.l2 = l2
        self.intercept = intercept
        self.max_features = max_features
        self._hyper = np.array([alpha, beta, l1, l2, float(intercept)], np.float64)
        self._constant = np.zeros(2, np.float64)  # z and Σg² of the intercept
        self._allocate(_START)
        self._used = 0
        self._step = 0

    def _allocate(self, capacity: int) -> None:
        self._keys = np.zeros(capacity, np.uint64)
        self._zn = np.zeros((capacity, 2), np.float64)
        self._seen = np.zeros((capacity, 2), np.int64)

    # River's interface

    def learn_one(self, x: Mapping[Hashable, Any], y: Any, w: float = 1.0) -> None:
        """Learn one example; `y` is a bool or 0/1, `w` its weight.

        Raises
        ------
        NonFiniteError
            If a value, the label or the weight is not finite; the model is unchanged.
        """
        keys, values = encode(x)
        indptr = np.array([0, len(keys)], np.int64)
        weight = None if w == 1.0 else np.array([w], np.float32)
        self.learn_many_encoded(keys, values, indptr, np.array([y], np.float32), weight)

    def predict_proba_one(self, x: Mapping[Hashable, Any]) -> dict[bool, float]:  # type: ignore[override]
        """The probabilities of False and True."""
        keys, values = encode(x)
        logit = self.score_many_encoded(keys, values, np.array([0, len(keys)], np.int64))[0]
        p = 1.0 / (1.0 + math.exp(-min(max(float(logit), -35.0), 35.0)))
        return {False: 1.0 - p, True: p}

    # Encoded batches

    def learn_many_encoded(
        self,
        keys: NDArray[np.uint64],
        values: NDArray[np.float32],
        indptr: NDArray[np.int64],
        y: ArrayLike,
        weight: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Learn examples one after the other in compiled code, without the interpreter's lock.

        Parameters
        ----------
        keys
            Tokens of all examples, one example behind the other, uint64 (nnz,).
        values
            Their values, float32 (nnz,); beyond ±1e6 they are clipped.
        indptr
            Example i owns entries indptr[i] to indptr[i+1], int64 (n+1,).
        y
            Labels in [0, 1], (n,).
        weight
            Weights ≥ 0 of the examples, (n,), or None for 1.

        Returns
        -------
        The probability of each example before it was learned, float64 (n,).

        Raises
        ------
        NonFiniteError
            If a value, label or weight is not finite or out of range; nothing was learned.
        CapacityError
            If one example has more than `max_features` features; nothing was learned.
        """
        keys, values, indptr = _batch(keys, values, indptr)
        labels = np.ascontiguousarray(y, np.float32)
        weights = _EMPTY if weight is None else np.ascontiguousarray(weight, np.float32)
        n = len(indptr) - 1
        if len(labels) != n or (weight is not None and len(weights) != n):
            raise ParameterError(
                f"{n} examples, {len(labels)} labels and {len(weights)} weights do not match"
            )
        if not (labels >= 0).all() or not (labels <= 1).all():
            raise NonFiniteError("a label is outside of [0, 1]: give bool, 0/1 or a probability")
        if len(weights) and not ((weights >= 0).all() and np.isfinite(weights).all()):
            raise NonFiniteError("a weight is negative, NaN or infinite")
        longest = int(np.diff(indptr).max(initial=0))
        if longest > self.max_features:
            raise CapacityError(f"an example has {longest} features, max_features is {self.max_features}")

        p = np.empty(n, np.float64)
        done = 0
        while done < n:
            limit = min(len(self._keys) * 3 // 4, self.max_features)
            done, self._used = _learn(
                self._keys, self._zn, self._seen, self._constant, self._hyper, self._used, limit,
                self._step, keys, values, indptr, labels, weights, done, p,
            )  # fmt: skip
            if done < n:
                self._make_room(int(indptr[done + 1] - indptr[done]))
        self._step += n
        return p

    def score_many_encoded(
        self, keys: NDArray[np.uint64], values: NDArray[np.float32], indptr: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The logits of encoded examples, float64 (n,); see `learn_many_encoded` for the layout."""
        keys, values, indptr = _batch(keys, values, indptr)
        out = np.empty(len(indptr) - 1, np.float64)
        _score(self._keys, self._zn, self._constant, self._hyper, keys, values, indptr, out)
        return out

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The weights of tokens, float32 (n,); 0 for a token that is not held."""
        keys = np.ascontiguousarray(keys, np.uint64)
        out = np.empty(len(keys), np.float32)
        _lookup(self._keys, self._zn, self._hyper, keys, out)
        return out

    # State

    @property
    def step(self) -> int:
        """How many examples were learned."""
        return self._step

    @property
    def intercept_weight(self) -> float:
        """The learned constant; 0 when `intercept` is off."""
        z, n = self._constant
        return -z * self.alpha / (self.beta + math.sqrt(n)) if n > 0 else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the feature table."""
        return self._keys.nbytes + self._zn.nbytes + self._seen.nbytes

    @property
    def _raw_memory_usage(self) -> int:
        return self.nbytes

    def __len__(self) -> int:
        return self._used

    def touched_since(self, step: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """The tokens learned after `step`, sorted, and their weights now: the overlay over a release.

        >>> model = FTRLClassifier()
        >>> model.learn_one({"a": 1}, True)
        >>> model.learn_one({"b": 1}, True)
        >>> len(model.touched_since(0)[0]), len(model.touched_since(1)[0]), len(model.touched_since(2)[0])
        (2, 1, 0)
        """
        slots = np.flatnonzero(self._seen[:, 1] > step)
        keys = np.sort(self._keys[slots])
        return keys, self.lookup(keys)

    def weight_snapshot(self) -> Snapshot:
        """A frozen copy of the weights and their statistics: what `pruning.snapshot` asks models for."""
        slots = self._sorted_slots()
        z, n = np.ascontiguousarray(self._zn[slots].T)
        return Snapshot(
            keys=self._keys[slots],
            weights=_closed_form(z, n, *self._hyper[:4]),
            curvature=n,
            dual=z,
            count=self._seen[slots, 0],
            last_step=self._seen[slots, 1],
            intercept=self.intercept_weight,
            step=self._step,
        )

    def forget(self, keys: NDArray[np.uint64], keep_curvature: bool = True) -> int:
        """Set the weights of tokens to zero and return how many were held.

        With `keep_curvature` the slot and its Σg² stay, so that a feature that comes back starts with its
        small learning rate: that cuts the damage of eviction. Without, the slots are freed.
        """
        wanted = np.isin(self._keys, np.asarray(keys, np.uint64)) & (self._keys != 0)
        if keep_curvature:
            self._zn[wanted, 0] = 0.0
        else:
            self._rebuild(np.flatnonzero(~wanted & (self._keys != 0)), len(self._keys))
        return int(wanted.sum())

    def to_bytes(self) -> bytes:
        """The whole state as checksummed bytes, without pickle; equal states give equal bytes."""
        slots = self._sorted_slots()
        meta = {
            "alpha": self.alpha, "beta": self.beta, "l1": self.l1, "l2": self.l2,
            "intercept": bool(self.intercept), "max_features": int(self.max_features), "step": self._step,
        }  # fmt: skip
        arrays = {
            "keys": self._keys[slots], "zn": self._zn[slots], "seen": self._seen[slots],
            "constant": self._constant,
        }  # fmt: skip
        return seal(_MAGIC, _FORMAT, meta, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> FTRLClassifier:
        """Restore `to_bytes`; learning continues bit for bit.

        Raises
        ------
        ArtefactError
            `ForeignFileError`, `NewerFormatError` or `DamagedFileError`.
        """
        meta, arrays = unseal(data, _MAGIC, _FORMAT)
        step = meta.pop("step")
        model = cls(**meta)
        keys = arrays["keys"]
        capacity = _START
        while capacity * 3 // 4 < min(len(keys), model.max_features):
            capacity *= 2
        model._allocate(capacity)
        model._constant[:] = arrays["constant"]
        _place(model._keys, model._zn, model._seen, keys, arrays["zn"], arrays["seen"])
        model._used, model._step = len(keys), step
        return model

    def _sorted_slots(self) -> NDArray[np.intp]:
        slots = np.flatnonzero(self._keys)
        return slots[np.argsort(self._keys[slots])]

    def _make_room(self, need: int) -> None:
        capacity = len(self._keys)
        if self._used + need <= self.max_features:
            self._rebuild(np.flatnonzero(self._keys), capacity * 2)
            return
        keep = min(self.max_features - self.max_features // 8, self.max_features - need)
        slots = np.flatnonzero(self._keys)
        z, n = self._zn[slots].T
        saliency = _closed_form(z, n, *self._hyper[:4]) ** 2 * n
        order = np.lexsort((self._keys[slots], -self._seen[slots, 1], -saliency))
        self._rebuild(slots[order[:keep]], capacity)

    def _rebuild(self, slots: NDArray[np.intp], capacity: int) -> None:
        keys, zn, seen = self._keys[slots], self._zn[slots], self._seen[slots]
        self._allocate(capacity)
        _place(self._keys, self._zn, self._seen, keys, zn, seen)
        self._used = len(keys)


def _batch(
    keys: ArrayLike, values: ArrayLike, indptr: ArrayLike
) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.int64]]:
    """Check the layout of an encoded batch once, so that the kernels need not."""
    keys = np.ascontiguousarray(keys, np.uint64)
    values = np.ascontiguousarray(values, np.float32)
    indptr = np.ascontiguousarray(indptr, np.int64)
    if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(keys) or len(values) != len(keys):
        raise ParameterError(f"indptr does not cut {len(keys)} keys and {len(values)} values into examples")
    if not keys.all():
        raise ParameterError("token 0 marks an empty slot and cannot be a feature")
    if (np.diff(indptr) < 0).any():
        raise ParameterError("indptr must not fall")
    if not np.isfinite(values).all():
        raise NonFiniteError("a value is NaN or infinite: only finite numbers can be learned or scored")
    return keys, values, indptr


def _closed_form(  # noqa: PLR0917
    z: NDArray[np.float64], n: NDArray[np.float64], alpha: float, beta: float, l1: float, l2: float
) -> NDArray[np.float64]:
    """FTRL's weight, exactly as `_weight` computes it in the kernels."""
    rate = (beta + np.sqrt(n)) / alpha + l2
    live = (np.abs(z) > l1) & (rate > 0)
    return np.where(live, -(z - np.copysign(l1, z)) / np.where(live, rate, 1.0), 0.0)


@nb.njit(cache=True, nogil=True, inline="always")
def _weight(z, n, hyper):  # type: ignore[no-untyped-def]
    rate = (hyper[1] + math.sqrt(n)) / hyper[0] + hyper[3]
    if abs(z) <= hyper[2] or rate <= 0.0:
        return 0.0
    return -(z - math.copysign(hyper[2], z)) / rate


@nb.njit(cache=True, nogil=True, inline="always")
def _find(table, key):  # type: ignore[no-untyped-def]
    """The slot that holds `key`, or the free slot where it belongs."""
    mask = np.uint64(len(table) - 1)
    h = key * np.uint64(_MULTIPLIER)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while table[slot] != key and table[slot] != 0:
        slot = (slot + np.uint64(1)) & mask
    return slot


@nb.njit(cache=True, nogil=True)
def _place(table, zn, seen, keys, new_zn, new_seen):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    for i in range(len(keys)):
        slot = _find(table, keys[i])
        table[slot] = keys[i]
        zn[slot] = new_zn[i]
        seen[slot] = new_seen[i]


@nb.njit(cache=True, nogil=True)
def _learn(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    table, zn, seen, constant, hyper, used, limit, step, keys, values, indptr, labels, weights, start, p_out
):  # fmt: skip
    """Learn examples from `start` on; stop before one that might not fit and return its number."""
    longest = 0
    for i in range(start, len(indptr) - 1):
        longest = max(longest, indptr[i + 1] - indptr[i])
    slots = np.empty(longest, np.uint64)
    alpha = hyper[0]
    for i in range(start, len(indptr) - 1):
        first, last = indptr[i], indptr[i + 1]
        if used + (last - first) > limit:
            return i, used
        logit = 0.0
        if hyper[4] != 0.0 and constant[1] > 0.0:
            logit = -constant[0] * alpha / (hyper[1] + math.sqrt(constant[1]))
        for j in range(first, last):
            slot = _find(table, keys[j])
            slots[j - first] = slot
            if table[slot] == 0:
                table[slot] = keys[j]
                used += 1
            else:
                value = min(max(np.float64(values[j]), -_CLIP), _CLIP)
                logit += _weight(zn[slot, 0], zn[slot, 1], hyper) * value
        p = 1.0 / (1.0 + math.exp(-min(max(logit, -35.0), 35.0)))
        p_out[i] = p
        error = p - labels[i]
        if len(weights):
            error *= weights[i]
        for j in range(first, last):
            slot = slots[j - first]
            value = min(max(np.float64(values[j]), -_CLIP), _CLIP)
            g = min(max(error * value, -_CLIP), _CLIP)
            z, n = zn[slot, 0], zn[slot, 1]
            total = n + g * g
            zn[slot, 0] = z + g - (math.sqrt(total) - math.sqrt(n)) / alpha * _weight(z, n, hyper)
            zn[slot, 1] = total
            seen[slot, 0] += 1
            seen[slot, 1] = step + i + 1
        if hyper[4] != 0.0:
            g = min(max(error, -_CLIP), _CLIP)
            z, n = constant[0], constant[1]
            total = n + g * g
            w = -z * alpha / (hyper[1] + math.sqrt(n)) if n > 0.0 else 0.0
            constant[0] = z + g - (math.sqrt(total) - math.sqrt(n)) / alpha * w
            constant[1] = total
    return len(indptr) - 1, used


@nb.njit(cache=True, nogil=True)
def _score(table, zn, constant, hyper, keys, values, indptr, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    start = 0.0
    if hyper[4] != 0.0 and constant[1] > 0.0:
        start = -constant[0] * hyper[0] / (hyper[1] + math.sqrt(constant[1]))
    for i in range(len(out)):
        logit = start
        for j in range(indptr[i], indptr[i + 1]):
            slot = _find(table, keys[j])
            if table[slot] != 0:
                value = min(max(np.float64(values[j]), -_CLIP), _CLIP)
                logit += _weight(zn[slot, 0], zn[slot, 1], hyper) * value
        out[i] = logit


@nb.njit(cache=True, nogil=True)
def _lookup(table, zn, hyper, keys, out):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        slot = _find(table, keys[i])
        out[i] = _weight(zn[slot, 0], zn[slot, 1], hyper) if table[slot] != 0 else 0.0
