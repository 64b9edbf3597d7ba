"""Which weights go: rank them, then keep the best.

A mask is True where a weight stays, as in `sklearn`'s `get_support` and `torch.nn.utils.prune`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pruning.errors import ParameterError
from pruning.tokens import field_id
from pruning.weights import Snapshot

SERVED_BYTES = 3.6  # of one feature in an int8 artefact, rounded up: turns a byte budget into a count


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much to remove; exactly one of the forms.

    Parameters
    ----------
    remove
        A share of the live weights (float in [0, 1)) or a number of weights (int ≥ 0).
    keep
        How many weights stay at most.
    max_bytes
        Size of the served artefact.
    significance
        Keep weights whose Wald statistic w²H exceeds the χ² quantile: .05 keeps what is significant at 5 %.

    Examples
    --------
    >>> [amount.kept(1000) for amount in (Amount(.9), Amount(10), Amount(keep=50), Amount(max_bytes=360))]
    [100, 990, 50, 100]
    """

    remove: float | int | None = None
    keep: int | None = None
    max_bytes: int | None = None
    significance: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        if len(given) != 1:
            raise ParameterError(
                f"give exactly one of remove, keep, max_bytes, significance; got {given or 'none'}"
            )
        name, value = next(iter(given.items()))
        if isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise ParameterError(f"{name} is {value!r}: expected a number of at least 0")
        if isinstance(self.remove, float) and self.remove >= 1.0:
            raise ParameterError(f"remove is {self.remove!r}: a share is below 1 (an int counts weights)")
        if self.significance is not None and not 0 < self.significance < 1:
            raise ParameterError(f"significance is {self.significance!r}: expected between 0 and 1")

    def kept(self, live: int) -> int:
        """How many of `live` weights stay."""
        if self.keep is not None:
            return min(self.keep, live)
        if self.max_bytes is not None:
            return min(int(self.max_bytes / SERVED_BYTES), live)
        if isinstance(self.remove, float):
            return live - round(self.remove * live)
        return max(0, live - int(self.remove or 0))


class _Pruner:
    """Ranks the weights and keeps the best; subclasses say what is important."""

    def __init__(
        self,
        amount: float | int | None = None,
        *,
        keep: int | None = None,
        max_bytes: int | None = None,
        significance: float | None = None,
    ):
        self.amount = Amount(amount, keep, max_bytes, significance)

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """The importance of every weight, float64 (n,)."""
        raise NotImplementedError

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays, bool (n,); a dead weight never stays, ties fall to the lower token.

        Raises
        ------
        NonFiniteError, EmptyModelError
            If the snapshot cannot be pruned.
        """
        snapshot.check()
        live = snapshot.live
        mask = np.zeros(len(snapshot), np.bool_)
        if self.amount.significance is not None:
            wald = snapshot.weights**2 * snapshot.curvature
            significant: NDArray[np.bool_] = wald > special.chdtri(1, self.amount.significance)
            return live & significant
        kept = self.amount.kept(int(live.sum()))
        scores = np.where(live, self.importance_scores(snapshot), -np.inf)
        mask[np.lexsort((snapshot.keys, -scores))[:kept]] = True
        return mask

    def __repr__(self) -> str:
        given = [f"{k}={v!r}" for k, v in dataclasses.asdict(self.amount).items() if v is not None]
        return f"{type(self).__name__}({', '.join(given)})"


class SaliencyPruner(_Pruner):
    """Optimal brain damage: keep the weights whose loss would cost most, ½w²H.

    H is Σg² or Σp(1−p)x², so the saliency is half of the weight's Wald statistic.

    Parameters
    ----------
    amount
        A share of the live weights to remove (float) or a number of weights (int).
    keep, max_bytes, significance
        The other ways to say how much; see `Amount`.
    power
        Of H. 1 is the formula; ½ trusts frequent features less and is the better ranking where tastes drift
        and most of the model goes, see docs/pruning.md.

    Examples
    --------
    >>> s = Snapshot(np.array([1, 2, 3], np.uint64), np.array([.1, -.5, .3]), np.array([100., 1., 9.]))
    >>> SaliencyPruner(1).compute_mask(s)           # .5, .125, .405: the largest weight is the least known
    array([ True, False,  True])
    >>> MagnitudePruner(1).compute_mask(s)
    array([False,  True,  True])

    References
    ----------
    LeCun, Y., Denker, J., Solla, S., 1990. Optimal brain damage. NeurIPS.
    """

    def __init__(
        self,
        amount: float | int | None = None,
        *,
        keep: int | None = None,
        max_bytes: int | None = None,
        significance: float | None = None,
        power: float = 1.0,
    ):
        super().__init__(amount, keep=keep, max_bytes=max_bytes, significance=significance)
        if not 0 <= power <= 1:
            raise ParameterError(f"power is {power!r}: expected 0 to 1")
        self.power = power

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """½w²H, float64 (n,)."""
        scores: NDArray[np.float64] = 0.5 * snapshot.weights**2 * snapshot.curvature**self.power
        return scores


class MagnitudePruner(_Pruner):
    """Keep the largest weights, |w|: the baseline, and unsafe where features differ in frequency.

    Examples
    --------
    >>> s = Snapshot(np.array([1, 2], np.uint64), np.array([.1, -.5]), np.ones(2))
    >>> MagnitudePruner(.5).compute_mask(s)
    array([False,  True])
    """

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """|w|, float64 (n,)."""
        return np.abs(snapshot.weights)


class CountPruner(_Pruner):
    """Keep the features seen most often.

    Raises
    ------
    ParameterError
        From `compute_mask`, if the model does not count.

    Examples
    --------
    >>> s = Snapshot(np.array([1, 2], np.uint64), np.ones(2), np.ones(2), count=np.array([9, 3]))
    >>> CountPruner(1).compute_mask(s)
    array([ True, False])
    """

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """How many examples had the feature, float64 (n,)."""
        if snapshot.count is None:
            raise ParameterError("this model does not count its features: use another pruner")
        return snapshot.count.astype(np.float64)


class DualThresholdPruner:
    """L1 at export: keep the weights whose dual |z| exceeds a threshold, as if FTRL had been given that λ₁.

    Parameters
    ----------
    l1
        The threshold, ≥ 0.

    Examples
    --------
    >>> s = Snapshot(np.array([1, 2], np.uint64), np.ones(2), np.ones(2), dual=np.array([-3., .5]))
    >>> DualThresholdPruner(1.).compute_mask(s)
    array([ True, False])
    """

    def __init__(self, l1: float):
        if not (math.isfinite(l1) and l1 >= 0):
            raise ParameterError(f"l1 is {l1!r}: expected a finite number of at least 0")
        self.l1 = l1

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """|z|, float64 (n,)."""
        if snapshot.dual is None:
            raise ParameterError("this model has no dual z (only FTRL has): use another pruner")
        return np.abs(snapshot.dual)

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays, bool (n,)."""
        snapshot.check()
        kept: NDArray[np.bool_] = self.importance_scores(snapshot) > self.l1
        return kept & snapshot.live


class StalenessPruner:
    """Keep what was touched within the last `max_age` steps.

    Examples
    --------
    >>> last = np.array([5, 90])
    >>> s = Snapshot(np.array([1, 2], np.uint64), np.ones(2), np.ones(2), last_step=last, step=100)
    >>> StalenessPruner(50).compute_mask(s)
    array([False,  True])
    """

    def __init__(self, max_age: int):
        if max_age < 0:
            raise ParameterError(f"max_age is {max_age!r}: expected at least 0 steps")
        self.max_age = max_age

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """The last step that touched the feature, float64 (n,)."""
        if snapshot.last_step is None:
            raise ParameterError("this model does not know when it touched a feature: use another pruner")
        return snapshot.last_step.astype(np.float64)

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays, bool (n,)."""
        snapshot.check()
        fresh: NDArray[np.bool_] = self.importance_scores(snapshot) >= snapshot.step - self.max_age
        return fresh & snapshot.live


class FieldPruner:
    """Remove whole fields: the only pruning that makes scoring linearly cheaper.

    `pruning.importance.select_fields` says which.

    Parameters
    ----------
    drop
        Field numbers (`field_id`) or names.
    then
        A pruner for what is left, or None.

    Examples
    --------
    >>> s = Snapshot(np.array([1 << 48, 2 << 48], np.uint64), np.ones(2), np.ones(2))
    >>> FieldPruner([1]).compute_mask(s)
    array([False,  True])
    """

    def __init__(self, drop: Iterable[int | str], then: _Pruner | None = None):
        self.drop = frozenset(field_id(f) if isinstance(f, str) else int(f) for f in drop)
        self.then = then

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays, bool (n,)."""
        stays = ~np.isin(snapshot.field, np.array(sorted(self.drop), np.uint16)) & snapshot.live
        if self.then is None:
            return stays
        left = dataclasses.replace(snapshot, weights=np.where(stays, snapshot.weights, 0.0))
        return self.then.compute_mask(left)


def refit_intercept(logits: ArrayLike, y: ArrayLike, steps: int = 20) -> float:
    """What to add to the intercept so that the mean prediction is the mean label again: 1-D Newton.

    Pruning moves the mean of the logits; this repairs the calibration of what is left.

    Parameters
    ----------
    logits
        Of the pruned model on recent events, (n,).
    y
        Their labels, (n,); both classes must occur.

    Examples
    --------
    >>> shift = refit_intercept([1., 1., 1., 1.], [1, 0, 0, 0])
    >>> round(1 / (1 + math.exp(-(1 + shift))), 6)
    0.25
    """
    s, labels = np.asarray(logits, np.float64), np.asarray(y, np.float64)
    if not len(s) or not 0 < labels.mean() < 1:
        raise ParameterError("the intercept is fitted on events of both classes")
    shift = 0.0
    for _ in range(steps):
        p = special.expit(s + shift)
        slope = float((p * (1 - p)).sum())
        step = float((labels - p).sum()) / max(slope, 1e-12)
        shift += max(-2.0, min(2.0, step))  # damped: Newton overshoots where the logistic is flat
        if abs(step) < 1e-12:
            break
    return shift
