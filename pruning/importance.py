"""Which fields matter: measured on examples before they are learned, without extra model calls.

For an additive logit s = Σ_f c_f the loss without a field, or with a stranger's value in it, follows from the
contributions alone: loss(s − c_f) and loss(s − c_f + c_f′). A ranking on a stale snapshot misleads; update
this one with every batch the model is about to learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruning.errors import NonFiniteError, ParameterError
from pruning.tokens import VALUE_BITS


def log_loss(logits: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Logistic loss per example, (n,), exact for large logits.

    >>> log_loss([0., 800.], [1, 0]).round(4).tolist()
    [0.6931, 800.0]
    """
    s = np.asarray(logits, np.float64)
    losses: NDArray[np.float64] = np.logaddexp(0.0, s) - np.asarray(y, np.float64) * s
    return losses


def field_contributions(
    keys: NDArray[np.uint64],
    contributions: NDArray[np.floating],
    indptr: NDArray[np.int64],
    fields: NDArray[np.uint16],
) -> NDArray[np.float64]:
    """What every field adds to every logit, (n, F).

    Parameters
    ----------
    keys
        Tokens of all examples, (nnz,).
    contributions
        Weight times value of each, (nnz,).
    indptr
        Example i owns entries indptr[i] to indptr[i+1], (n+1,).
    fields
        The fields asked for, sorted, (F,); others are left out.

    Examples
    --------
    >>> keys = np.array([1 << 48, 2 << 48, 2 << 48], np.uint64) + np.uint64(5)
    >>> field_contributions(keys, np.array([.5, 1., 2.]), np.array([0, 2, 3]), np.array([1, 2], np.uint16))
    array([[0.5, 1. ],
           [0. , 2. ]])
    """
    n = len(indptr) - 1
    field = (keys >> np.uint64(VALUE_BITS)).astype(np.uint16)
    column = np.minimum(np.searchsorted(fields, field), len(fields) - 1)
    known = fields[column] == field
    cell = np.repeat(np.arange(n), np.diff(indptr)) * len(fields) + column
    sums = np.bincount(cell[known], np.asarray(contributions, np.float64)[known], n * len(fields))
    return np.asarray(sums, np.float64).reshape(n, len(fields))


class FieldImportance:
    """Progressive importance of fields: by leaving one out, and by permutation.

    Parameters
    ----------
    fields
        Field numbers, or names through `field_id`.
    seed
        Of the strangers' values that permutation draws.
    reservoir
        How many past examples strangers are drawn from.

    Examples
    --------
    >>> importance = FieldImportance([1, 2])
    >>> parts = np.array([[2., 0.], [-2., 0.]])                    # field 1 decides, field 2 says nothing
    >>> importance.update(parts, np.array([1, 0]))
    >>> importance.leave_one_out()
    {1: 0.566..., 2: 0.0}

    References
    ----------
    Fumagalli, F., Muschalik, M., Hüllermeier, E., Hammer, B., 2023. Incremental permutation feature
    importance (iPFI). Machine Learning 112.
    """

    def __init__(self, fields: Collection[int], seed: int = 0, reservoir: int = 1000):
        if not fields or reservoir < 1:
            raise ParameterError("give at least one field and a reservoir of at least 1")
        self.fields = np.array(sorted(fields), np.uint16)
        self._rng = np.random.default_rng(seed)
        self._pool = np.empty((reservoir, len(self.fields)))  # (R, F)
        self._seen = 0
        self._permuted = 0
        self._left_out = np.zeros(len(self.fields))
        self._strangers = np.zeros(len(self.fields))

    def update(self, parts: NDArray[np.float64], y: ArrayLike, intercept: ArrayLike = 0.0) -> None:
        """Count examples the model has not learned yet.

        Parameters
        ----------
        parts
            Contributions per example and field, (n, F): `field_contributions`.
        y
            Labels, (n,).
        intercept
            The rest of the logit: a constant, or (n,).
        """
        if parts.ndim != 2 or parts.shape[1] != len(self.fields):
            raise ParameterError(f"parts have the shape {parts.shape}, expected (n, {len(self.fields)})")
        if not np.isfinite(parts).all():
            raise NonFiniteError("a contribution is NaN or infinite")
        y = np.asarray(y, np.float64)
        s = parts.sum(axis=1) + intercept  # (n,)
        loss = log_loss(s, y)
        drawn = self._draw(len(parts))
        for f in range(len(self.fields)):
            rest = s - parts[:, f]
            self._left_out[f] += (log_loss(rest, y) - loss).sum()
            if drawn is not None:
                self._strangers[f] += (log_loss(rest + drawn[:, f], y) - loss).sum()
        self._permuted += 0 if drawn is None else len(parts)
        self._remember(parts)

    def _draw(self, n: int) -> NDArray[np.float64] | None:
        held = min(self._seen, len(self._pool))
        if held == 0:
            return None
        picks = self._rng.integers(0, held, (n, len(self.fields)))
        return self._pool[picks, np.arange(len(self.fields))]

    def _remember(self, parts: NDArray[np.float64]) -> None:
        for row in parts[-len(self._pool) :] if self._seen == 0 else parts:
            self._seen += 1
            if self._seen <= len(self._pool):
                self._pool[self._seen - 1] = row
            elif (place := self._rng.integers(0, self._seen)) < len(self._pool):
                self._pool[place] = row

    def leave_one_out(self) -> dict[int, float]:
        """Field → how much the mean loss rises when its contribution is left out."""
        means = self._left_out / max(self._seen, 1)
        return {int(f): float(v) for f, v in zip(self.fields, means, strict=True)}

    def permutation(self) -> dict[int, float]:
        """Field → how much the mean loss rises when another example's contribution takes its place."""
        means = self._strangers / max(self._permuted, 1)
        return {int(f): float(v) for f, v in zip(self.fields, means, strict=True)}


@dataclasses.dataclass(frozen=True)
class FieldSelection:
    """The result of backward selection.

    Parameters
    ----------
    dropped
        Fields to leave out, in the order they went.
    losses
        The measured loss with all fields and after each drop; its last entry is the selection's.
    measured
        How many field sets were measured.

    Examples
    --------
    >>> worth = {1: .3, 2: -.1, 3: 0.}                              # field → what the loss gains without it
    >>> def measure(dropped):
    ...     return 1 + sum(worth[f] for f in dropped), {f: w for f, w in worth.items() if f not in dropped}
    >>> select_fields(measure)
    FieldSelection(dropped=(2, 3), losses=(1, 0.9, 0.9), measured=6)
    """

    dropped: tuple[int, ...]
    losses: tuple[float, ...]
    measured: int


Measure = Callable[[frozenset[int]], tuple[float, Mapping[int, float]]]


def select_fields(
    measure: Measure, *, tolerance: float = 0.0, probes: int = 3, at_least: int = 1
) -> FieldSelection:
    """Guarded backward selection: drop fields while the measured progressive loss does not rise.

    Parameters
    ----------
    measure
        Called with the fields to leave out; trains without them and returns the progressive mean loss and
        the importance of every field that is left (`FieldImportance.leave_one_out`).
    tolerance
        Accepted rise of the loss per drop.
    probes
        How many of the least important fields are tried in a round; the best of them goes.
    at_least
        Fields that stay in any case.

    Examples
    --------
    >>> worth = {1: .3, 2: -.1, 3: 0.}
    >>> def measure(dropped):
    ...     return 1 + sum(worth[f] for f in dropped), {f: w for f, w in worth.items() if f not in dropped}
    >>> select_fields(measure).dropped
    (2, 3)
    """
    loss, importance = measure(frozenset())
    dropped: list[int] = []
    losses, measured = [loss], 1
    while len(importance) > at_least:
        weakest = sorted(importance, key=lambda f: (importance[f], f))[:probes]
        trials = [(*measure(frozenset([*dropped, f])), f) for f in weakest]
        measured += len(trials)
        trial_loss, trial_importance, field = min(trials, key=lambda t: (t[0], t[2]))
        if trial_loss > loss + tolerance:
            break
        loss, importance = trial_loss, trial_importance
        dropped.append(field)
        losses.append(loss)
    return FieldSelection(tuple(dropped), tuple(losses), measured)
