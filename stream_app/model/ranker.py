"""The compiled default model: FTRL-Proximal logistic regression with River's interface.

State lives in an open-addressing hash table keyed by 64-bit tokens, so one compiled call learns or scores
thousands of examples without a Python object per feature. A slot is half a cache line, so a token costs one
read of the memory::

    token uint64 (0 marks a free slot) · z float64 · Σg² float64 · last step (40 bits) and count (24 bits)

z and Σg² are FTRL's state: the weight is their closed form and never stored. `seen` is the last step that
touched the feature and how many examples did, up to 2²⁴ − 1.

The table doubles when it is 3/4 full, until `max_features`. There the least useful eighth is forgotten in one
sweep, so the bound is never exceeded: count · √|w| / (age + now/5), frequent, strong and recent features
stay. Saliency, the right ranking of what is served, would keep rare features that can no longer grow.
What is kept depends on the examples alone, not on the table's size or layout, so a model restored from bytes
continues bit for bit.

`pruning.optim.FTRLProximal` in River's `LogisticRegression` is the readable twin; a test holds both equal.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray
from river import base

from pruning.envelope import aligned, seal, unseal
from pruning.errors import CapacityError, NonFiniteError, ParameterError
from pruning.simd import prefetch
from pruning.tokens import encode
from pruning.weights import Snapshot

_MAGIC = b"RECSFTRL"
_FORMAT = 1
_START = 1 << 10  # slots of an empty table
_CLIP = 1e6  # values and gradients beyond ±1e6 are clipped: sums of squares stay far from overflow
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio: Fibonacci hashing
_EMPTY = np.empty(0, np.float32)
_RECENT = 16_384  # tokens of the latest examples that are remembered
_COUNT_BITS = 24
_MAX_COUNT = (1 << _COUNT_BITS) - 1


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
        How many features are kept at most; each costs 32 bytes, the table up to three times that.

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

    def __init__(  # River's constructors take positional parameters
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
        self._recent: deque[tuple[int, int, NDArray[np.uint64]]] = deque()  # steps before and after, tokens
        self._recent_size = 0

    def _allocate(self, capacity: int) -> None:
        self._table = aligned(bytes(capacity * 32)).view(np.uint64).reshape(capacity, 4)
        self._real = self._table.view(np.float64)  # the same memory: z and Σg² are columns 1 and 2

    # River's interface

    def learn_one(self, x: Mapping[Hashable, Any], y: Any, w: float = 1.0) -> None:
        """Learn one example; `y` is a bool or 0/1, `w` its weight.

        Raises
        ------
        NonFiniteError
            If a value, the label or the weight is not finite; the model is unchanged.
        """
        keys, values = encode(x)
        weights = _EMPTY if w == 1.0 else np.array([w], np.float32)
        self._learn_checked(keys, values, np.array([0, len(keys)]), np.array([y], np.float32), weights)

    def predict_proba_one(self, x: Mapping[Hashable, Any]) -> dict[bool, float]:  # type: ignore[override]
        """The probabilities of False and True."""
        keys, values = encode(x)
        out = np.empty(1, np.float64)
        indptr = np.array([0, len(keys)])
        _score(self._table, self._real, self._constant, self._hyper, keys, values, indptr, out)
        logit = out[0]
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
        return self._learn_checked(keys, values, indptr, labels, weights)

    def _learn_checked(
        self,
        keys: NDArray[np.uint64],
        values: NDArray[np.float32],
        indptr: NDArray[np.int64],
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Learn a batch whose layout is known to be sound."""
        n = len(indptr) - 1
        if len(labels) != n or len(weights) not in (0, n):
            raise ParameterError(
                f"{n} examples, {len(labels)} labels and {len(weights)} weights do not match"
            )
        if not (labels >= 0).all() or not (labels <= 1).all():
            raise NonFiniteError("a label is outside of [0, 1]: give bool, 0/1 or a probability")
        if len(weights) and not ((weights >= 0).all() and np.isfinite(weights).all()):
            raise NonFiniteError("a weight is negative, NaN or infinite")
        longest = len(keys) if n == 1 else int(np.diff(indptr).max(initial=0))
        if longest > self.max_features:
            raise CapacityError(f"an example has {longest} features, max_features is {self.max_features}")

        p = np.empty(n, np.float64)
        done = 0
        while done < n:
            limit = min(len(self._table) * 3 // 4, self.max_features)
            done, self._used = _learn(
                self._table, self._real, self._constant, self._hyper, self._used, limit, self._step,
                keys, values, indptr, labels, weights, done, p,
            )  # fmt: skip
            if done < n:
                self._make_room(int(indptr[done + 1] - indptr[done]))
        self._step += n
        self._remember(n, keys)
        return p

    def _remember(self, examples: int, keys: NDArray[np.uint64]) -> None:
        """Keep the tokens of the latest batches, so that a small overlay need not read the whole table."""
        self._recent.append((self._step - examples, self._step, keys[: _RECENT + 1].copy()))
        self._recent_size += min(len(keys), _RECENT + 1)
        while self._recent_size > _RECENT:
            self._recent_size -= len(self._recent.popleft()[2])

    def score_many_encoded(
        self, keys: NDArray[np.uint64], values: NDArray[np.float32], indptr: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The logits of encoded examples, float64 (n,); see `learn_many_encoded` for the layout."""
        keys, values, indptr = _batch(keys, values, indptr)
        out = np.empty(len(indptr) - 1, np.float64)
        _score(self._table, self._real, self._constant, self._hyper, keys, values, indptr, out)
        return out

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The weights of tokens, float32 (n,); 0 for a token that is not held."""
        keys = np.ascontiguousarray(keys, np.uint64)
        out = np.empty(len(keys), np.float32)
        _lookup(self._table, self._real, self._hyper, keys, out)
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
        return self._table.nbytes

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
        step = max(step, 0)
        if self._recent and self._recent[0][0] <= step:
            learned = [keys for _, after, keys in self._recent if after > step]
            keys = np.unique(np.concatenate(learned)) if learned else np.zeros(0, np.uint64)
            last = np.empty(len(keys), np.uint64)
            _last_steps(self._table, keys, last)
            keys = keys[last > np.uint64(step)]
        else:
            touched = self._table[:, 3] >> np.uint64(_COUNT_BITS) > np.uint64(step)
            keys = np.sort(self._table[touched, 0])
        return keys, self.lookup(keys)

    def weight_snapshot(self) -> Snapshot:
        """A frozen copy of the weights and their statistics: what `pruning.snapshot` asks models for."""
        rows = self._sorted_rows()
        z, n = np.ascontiguousarray(rows.view(np.float64)[:, 1:3].T)
        return Snapshot(
            keys=rows[:, 0].copy(),
            weights=_closed_form(z, n, *self._hyper[:4]),
            curvature=n,
            dual=z,
            count=(rows[:, 3] & np.uint64(_MAX_COUNT)).astype(np.int64),
            last_step=(rows[:, 3] >> np.uint64(_COUNT_BITS)).astype(np.int64),
            intercept=self.intercept_weight,
            step=self._step,
        )

    def forget(self, keys: NDArray[np.uint64], keep_curvature: bool = True) -> int:
        """Set the weights of tokens to zero and return how many were held.

        With `keep_curvature` the slot and its Σg² stay, so that a feature that comes back starts with its
        small learning rate: that cuts the damage of eviction. Without, the slots are freed.
        """
        held = self._table[:, 0] != 0
        wanted = np.isin(self._table[:, 0], np.asarray(keys, np.uint64)) & held
        if keep_curvature:
            self._real[wanted, 1] = 0.0
        else:
            self._rebuild(self._table[held & ~wanted], len(self._table))
        return int(wanted.sum())

    def to_bytes(self) -> bytes:
        """The whole state as checksummed bytes, without pickle; equal states give equal bytes."""
        meta = {
            "alpha": self.alpha, "beta": self.beta, "l1": self.l1, "l2": self.l2,
            "intercept": bool(self.intercept), "max_features": int(self.max_features), "step": self._step,
        }  # fmt: skip
        return seal(_MAGIC, _FORMAT, meta, {"rows": self._sorted_rows(), "constant": self._constant})

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
        capacity = _START
        while capacity * 3 // 4 < len(arrays["rows"]):
            capacity *= 2
        model._rebuild(arrays["rows"].copy(), capacity)
        model._constant[:] = arrays["constant"]
        model._step = step
        return model

    def _sorted_rows(self) -> NDArray[np.uint64]:
        rows: NDArray[np.uint64] = self._table[self._table[:, 0] != 0]
        return rows[np.argsort(rows[:, 0])].copy()

    def _make_room(self, need: int) -> None:
        capacity = len(self._table)
        rows = self._table[self._table[:, 0] != 0]
        if self._used + need <= self.max_features:
            self._rebuild(rows, capacity * 2)
            return
        keep = min(self.max_features - self.max_features // 8, self.max_features - need)
        z, n = rows.view(np.float64)[:, 1:3].T
        count = (rows[:, 3] & np.uint64(_MAX_COUNT)).astype(np.float64)
        last = (rows[:, 3] >> np.uint64(_COUNT_BITS)).astype(np.float64)
        now = last.max()
        use = count * np.sqrt(np.abs(_closed_form(z, n, *self._hyper[:4]))) / (now - last + now / 5)
        self._rebuild(rows[_best(use, rows, keep)], capacity)

    def _rebuild(self, rows: NDArray[np.uint64], capacity: int) -> None:
        self._allocate(capacity)
        _place(self._table, rows)
        self._used = len(rows)


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


def _best(use: NDArray[np.float64], rows: NDArray[np.uint64], keep: int) -> NDArray[np.bool_]:
    """The `keep` most useful rows; at the edge the most recently touched, then the lower token.

    Only the ties at the edge are sorted: the learner waits for this.
    """
    if keep == 0:
        return np.zeros(len(rows), np.bool_)
    edge = np.partition(use, len(rows) - keep)[len(rows) - keep]
    chosen = np.asarray(use > edge, np.bool_)
    ties = np.flatnonzero(use == edge)
    age = ~rows[ties, 3] >> np.uint64(_COUNT_BITS)
    chosen[ties[np.lexsort((rows[ties, 0], age))[: keep - int(chosen.sum())]]] = True
    return chosen


def _closed_form(
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
def _home(table, key):  # type: ignore[no-untyped-def]
    """The slot where the search for `key` begins."""
    h = key * np.uint64(_MULTIPLIER)
    return (h ^ (h >> np.uint64(32))) & np.uint64(len(table) - 1)


@nb.njit(cache=True, nogil=True, inline="always")
def _find(table, key):  # type: ignore[no-untyped-def]
    """The slot that holds `key`, or the free slot where it belongs."""
    mask = np.uint64(len(table) - 1)
    slot = _home(table, key)
    while table[slot, 0] != key and table[slot, 0] != 0:
        slot = (slot + np.uint64(1)) & mask
    return slot


@nb.njit(cache=True, nogil=True)
def _place(table, rows):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        slot = _find(table, rows[i, 0])
        for column in range(4):
            table[slot, column] = rows[i, column]


@nb.njit(cache=True, nogil=True)
def _learn(  # type: ignore[no-untyped-def]
    table, real, constant, hyper, used, limit, step, keys, values, indptr, labels, weights, start, p_out
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
        if (
            i + 1 < len(indptr) - 1
        ):  # the slots of the next example are on their way while this one is learned
            for j in range(last, indptr[i + 2]):
                prefetch(table, _home(table, keys[j]) >> np.uint64(1))
        logit = 0.0
        if hyper[4] != 0.0 and constant[1] > 0.0:
            logit = -constant[0] * alpha / (hyper[1] + math.sqrt(constant[1]))
        for j in range(first, last):
            slot = _find(table, keys[j])
            slots[j - first] = slot
            if table[slot, 0] == 0:
                table[slot, 0] = keys[j]
                used += 1
            else:
                value = min(max(np.float64(values[j]), -_CLIP), _CLIP)
                logit += _weight(real[slot, 1], real[slot, 2], hyper) * value
        p = 1.0 / (1.0 + math.exp(-min(max(logit, -35.0), 35.0)))
        p_out[i] = p
        error = p - labels[i]
        if len(weights):
            error *= weights[i]
        for j in range(first, last):
            slot = slots[j - first]
            value = min(max(np.float64(values[j]), -_CLIP), _CLIP)
            g = min(max(error * value, -_CLIP), _CLIP)
            z, n = real[slot, 1], real[slot, 2]
            total = n + g * g
            real[slot, 1] = z + g - (math.sqrt(total) - math.sqrt(n)) / alpha * _weight(z, n, hyper)
            real[slot, 2] = total
            count = table[slot, 3] & np.uint64(_MAX_COUNT)
            count += np.uint64(count < np.uint64(_MAX_COUNT))
            table[slot, 3] = np.uint64(step + i + 1) << np.uint64(_COUNT_BITS) | count
        if hyper[4] != 0.0:
            g = min(max(error, -_CLIP), _CLIP)
            z, n = constant[0], constant[1]
            total = n + g * g
            w = -z * alpha / (hyper[1] + math.sqrt(n)) if n > 0.0 else 0.0
            constant[0] = z + g - (math.sqrt(total) - math.sqrt(n)) / alpha * w
            constant[1] = total
    return len(indptr) - 1, used


@nb.njit(cache=True, nogil=True)
def _score(table, real, constant, hyper, keys, values, indptr, out):  # type: ignore[no-untyped-def]
    start = 0.0
    if hyper[4] != 0.0 and constant[1] > 0.0:
        start = -constant[0] * hyper[0] / (hyper[1] + math.sqrt(constant[1]))
    for i in range(len(out)):
        logit = start
        if i + 1 < len(out):
            for j in range(indptr[i + 1], indptr[i + 2]):
                prefetch(table, _home(table, keys[j]) >> np.uint64(1))
        for j in range(indptr[i], indptr[i + 1]):
            slot = _find(table, keys[j])
            if table[slot, 0] != 0:
                value = min(max(np.float64(values[j]), -_CLIP), _CLIP)
                logit += _weight(real[slot, 1], real[slot, 2], hyper) * value
        out[i] = logit


@nb.njit(cache=True, nogil=True)
def _lookup(table, real, hyper, keys, out):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        slot = _find(table, keys[i])
        out[i] = _weight(real[slot, 1], real[slot, 2], hyper) if table[slot, 0] != 0 else 0.0


@nb.njit(cache=True, nogil=True)
def _last_steps(table, keys, out):  # type: ignore[no-untyped-def]
    """The step that each token was last learned in, into `out` (n,); 0 for a token that is not held."""
    for i in range(len(keys)):
        slot = _find(table, keys[i])
        held = table[slot, 0] != 0
        out[i] = table[slot, 3] >> np.uint64(_COUNT_BITS) if held else np.uint64(0)
