"""Which weights go: rank them, then keep the best.

A mask is True where a weight stays, as in `sklearn`'s `get_support` and `torch.nn.utils.prune`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pruning.errors import ParameterError
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
            significant: NDArray[np.bool_] = wald > stats.chi2.ppf(1 - self.amount.significance, df=1)
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

    def importance_scores(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """½w²H, float64 (n,)."""
        scores: NDArray[np.float64] = 0.5 * snapshot.weights**2 * snapshot.curvature
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
