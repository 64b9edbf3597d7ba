"""The curvature of River models that do not keep one: Σp(1−p)·(∂logit/∂w)² from the examples they see.

FTRL and AdaGrad store Σg² anyway. For every other optimizer, and for the latent rows of factorization models,
watch some recent examples with a tracker before pruning; without it saliency is magnitude, which is unsafe
for latent rows.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import base, compose, facto, reco

from pruning.errors import ParameterError, UnsupportedModelError
from pruning.tables import WeightTable, final_models, reading_only, weight_tables

Row = NDArray[np.float64]


class FisherTracker:
    """Collects the diagonal of the Fisher information, weight by weight.

    For a classifier every squared derivative counts p(1−p), for a regressor with squared loss 1.

    Parameters
    ----------
    model
        A linear model, FM, FFM, BiasedMF or FunkMF of River, also at the end of a pipeline.
    decay
        Old examples count decay^age; 1 never forgets.

    Examples
    --------
    >>> model = facto.FMClassifier(seed=1)
    >>> tracker = FisherTracker(model)
    >>> for i in range(50):
    ...     x = {f"u_{i % 5}": 1.0, f"i_{i % 7}": 1.0}
    ...     tracker.update(x)
    ...     model.learn_one(x, bool(i % 2))
    >>> {name: h.shape for name, h in tracker.curvature().items()}
    {'weights': (12, 1), 'latents': (12, 10)}
    """

    def __init__(self, model: Any, decay: float = 1.0):
        found = final_models(model)
        if len(found) != 1 or isinstance(found[0][1], facto.fwfm.FwFM | facto.hofm.HOFM):
            kind = type(found[0][1]).__name__ if found else type(model).__name__
            raise UnsupportedModelError(
                f"{kind} has no derivatives here; supported are linear models, FM, FFM, BiasedMF and FunkMF"
            )
        self.model = model
        self.decay = decay
        self._inner = found[0][1]
        self._tables = {t.name: t for t in weight_tables(model)}
        self._sums: dict[str, dict[Hashable, Row]] = {
            name: collections.defaultdict(lambda: np.zeros(1)) for name in self._tables
        }
        self._scale = 1.0  # of a new example, so that old ones need not be touched: decay^−age

    def update(self, x: Any, item: Hashable = None) -> None:
        """Count an example; call it before `learn_one`.

        Parameters
        ----------
        x
            A feature dict, or the user for BiasedMF and FunkMF.
        item
            The item, for BiasedMF and FunkMF.
        """
        if isinstance(self._inner, reco.BiasedMF | reco.FunkMF):
            self._matrix_factorization(x, item)
        else:
            self._features(x)
        self._scale /= self.decay

    def curvature(self) -> dict[str, NDArray[np.float64]]:
        """Table name → H in the order of the table's names now, (n, k); 0 for what was not seen."""
        found = {}
        for name, table in self._tables.items():
            width = table.values().shape[1]
            rows = [np.broadcast_to(self._sums[name].get(key, np.zeros(1)), width) for key in table.names()]
            found[name] = np.array(rows, np.float64).reshape(-1, width) / self._scale
        return found

    def _add(self, table: WeightTable, key: Hashable, derivative: Any, weight: float) -> None:
        sums = self._sums[table.name]
        sums[key] = sums[key] + self._scale * weight * np.asarray(derivative, np.float64) ** 2

    def _features(self, x: Mapping[Hashable, Any]) -> None:
        if isinstance(self.model, compose.Pipeline):
            for step in list(self.model.steps.values())[:-1]:
                x = step.transform_one(x)
        inner = self._inner
        weight = 1.0
        with reading_only(inner):
            if isinstance(inner, base.Classifier):
                p = float(inner.predict_proba_one(x).get(True, 0.5))
                weight = p * (1 - p)
        if hasattr(inner, "_ohe_cat_features"):
            x = inner._ohe_cat_features(x)
        for table in self._tables.values():
            if not table.has_rows:
                for key, value in x.items():
                    self._add(table, key, value, weight)
            elif table.layout.shape == "row":
                rows = {j: table.data[j] for j in x if j in table.data}
                total = sum((v * x[j] for j, v in rows.items()), np.zeros(inner.n_factors))
                for j, v in rows.items():
                    self._add(table, j, x[j] * (total - v * x[j]), weight)
            else:
                self._field_aware(table, x, weight)

    def _field_aware(self, table: WeightTable, x: Mapping[Any, float], weight: float) -> None:
        """FFM: ∂/∂v[j, f] = Σ over partners i of field f of x_j x_i v[i, field(j)]."""
        field, rows = self._inner._field, table.data
        sums: dict[Hashable, Row] = collections.defaultdict(lambda: np.zeros(self._inner.n_factors))
        for j in x:
            for i in x:
                if i != j and i in rows and field(j) in rows[i]:
                    sums[j, field(i)] += x[j] * x[i] * rows[i][field(j)]
        for key, derivative in sums.items():
            self._add(table, key, derivative, weight)

    def _matrix_factorization(self, user: Hashable, item: Hashable) -> None:
        own = {"u": user, "i": item}
        for table in self._tables.values():
            side = table.layout.attribute[0]
            if not table.has_rows:
                self._add(table, own[side], 1.0, 1.0)
            else:
                other = self._tables["i_latents" if side == "u" else "u_latents"].data
                if (partner := own["i" if side == "u" else "u"]) in other:
                    self._add(table, own[side], other[partner], 1.0)


def reduce_rank(
    rows: NDArray[np.float64], rank: int, mass: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Rotate latent rows to their principal axes and drop the tail: the best rows of a lower rank.

    A rotation changes no inner product, so with `rank` = k every factorization machine predicts the same.

    Parameters
    ----------
    rows
        V, (n, k). For BiasedMF and FunkMF stack users over items: both must turn together.
    rank
        Columns that stay, 1 to k.
    mass
        How often each row is used, (n,): frequent rows are kept more exactly.

    Returns
    -------
    V·W in its first `rank` columns and zeros behind, (n, k).

    Examples
    --------
    >>> v = np.array([[1., 1.], [2., 2.], [3., 3.]])
    >>> reduced = reduce_rank(v, 1)
    >>> bool(np.allclose(reduced @ reduced.T, v @ v.T)), int(np.count_nonzero(reduced))
    (True, 3)
    """
    if not 1 <= rank <= rows.shape[1]:
        raise ParameterError(f"rank is {rank}, the rows have {rows.shape[1]} factors")
    weighted = rows if mass is None else rows * np.sqrt(np.asarray(mass, np.float64))[:, None]
    _, _, axes = np.linalg.svd(weighted, full_matrices=False)
    turned: NDArray[np.float64] = rows @ axes.T
    turned = np.pad(turned, ((0, 0), (0, rows.shape[1] - turned.shape[1])))
    turned[:, rank:] = 0.0
    return turned


class RankPruner:
    """Lowers the rank of a River FM, BiasedMF or FunkMF in place by dropping principal axes.

    For serving: an optimizer that remembers single factors (AdaGrad and the like) forgets them. HOFM, FFM and
    FwFM have no common rotation.

    Parameters
    ----------
    rank
        Factors that stay.

    Examples
    --------
    >>> model = reco.FunkMF(n_factors=4, seed=1)
    >>> for i in range(40):
    ...     model.learn_one(i % 5, i % 7, float(i % 2))
    >>> before = model.predict_one(1, 1)
    >>> RankPruner(4).apply(model); bool(np.isclose(model.predict_one(1, 1), before))
    True
    """

    def __init__(self, rank: int):
        self.rank = rank

    def apply(self, model: Any) -> None:
        """Rotate and cut; the model is unchanged if it is not supported."""
        tables = [t for t in weight_tables(model) if t.has_rows]
        inner = tables[0].model if tables else model
        if not isinstance(inner, facto.fm.FM | reco.BiasedMF | reco.FunkMF) or isinstance(
            inner, facto.fwfm.FwFM
        ):
            raise UnsupportedModelError(f"{type(inner).__name__} has no rows that one rotation serves")
        stacked = np.vstack([t.values() for t in tables])
        turned = reduce_rank(stacked, self.rank)
        start = 0
        for table in tables:
            n = len(table.names())
            for name, row in zip(table.names(), turned[start : start + n], strict=True):
                table.data[name] = row
            for held in table.memory(("m", "s", "avg_w", "n", "g2", "v", "v_hat", "u", "s2")):
                held.clear()
            start += n
