"""The weights of a model, frozen: what pruners rank, quantizers round and artefacts store.

Any object with a method `weight_snapshot() -> Snapshot` can be frozen, and any River model whose weights are
one linear table, alone or at the end of a pipeline. `pruning.tables` knows where River keeps them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from river import compose

from pruning.errors import EmptyModelError, NonFiniteError, UnsupportedModelError
from pruning.tables import SUM_OF_SQUARES, WeightTable, weight_tables
from pruning.tokens import VALUE_BITS, feature_token


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights of a linear model at one step.

    Parameters
    ----------
    keys
        Tokens, sorted, unique, uint64 (n,).
    weights
        float64 (n,).
    curvature
        Σg² (FTRL, AdaGrad) or Σp(1−p)x² per weight, float64 (n,); ones where the model keeps none.
    dual
        FTRL's z, float64 (n,), if the model has it.
    count
        How many examples had the feature, int64 (n,), if the model counts.
    last_step
        The last step that touched the feature, int64 (n,), if the model knows.
    names
        Token → the feature name the model used, if it used names.
    intercept
        The constant of the logit.
    step
        How many examples the model had learned.

    Examples
    --------
    >>> s = Snapshot(keys=np.array([1, 2], np.uint64), weights=np.array([.5, 0]), curvature=np.ones(2))
    >>> len(s), s.live.tolist()
    (2, [True, False])
    """

    keys: NDArray[np.uint64]
    weights: NDArray[np.float64]
    curvature: NDArray[np.float64]
    dual: NDArray[np.float64] | None = None
    count: NDArray[np.int64] | None = None
    last_step: NDArray[np.int64] | None = None
    names: Mapping[int, Hashable] | None = None
    intercept: float = 0.0
    step: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def live(self) -> NDArray[np.bool_]:
        """Which weights are not zero."""
        live: NDArray[np.bool_] = self.weights != 0.0
        return live

    @property
    def field(self) -> NDArray[np.uint16]:
        """The field of every token, uint16 (n,)."""
        return (self.keys >> np.uint64(VALUE_BITS)).astype(np.uint16)

    def check(self) -> Snapshot:
        """Return itself, or say what makes it unusable.

        Raises
        ------
        NonFiniteError
            If a weight or statistic is NaN or infinite.
        EmptyModelError
            If no weight is live.
        """
        for name in ("weights", "curvature", "intercept"):
            if not np.isfinite(getattr(self, name)).all():
                raise NonFiniteError(
                    f"{name} of the model holds NaN or infinity: do not prune it, roll it back"
                )
        if not self.live.any():
            raise EmptyModelError("the model has no live weight yet: let it learn first")
        return self


@runtime_checkable
class SupportsSnapshot(Protocol):
    """A model that can freeze its own weights."""

    def weight_snapshot(self) -> Snapshot:
        """A frozen copy; the model may go on learning."""
        ...


def snapshot(model: Any) -> Snapshot:
    """Freeze the weights of a model.

    Parameters
    ----------
    model
        A model with `weight_snapshot()`, or a linear model of River, or a pipeline that ends in one.

    Raises
    ------
    UnsupportedModelError
        If the weights are somewhere else.

    Examples
    --------
    >>> from river import linear_model, optim, preprocessing
    >>> model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.AdaGrad(.1))
    >>> for i in range(9):
    ...     model.learn_one({"age": i, "height": -i}, i > 4)
    >>> snapshot(model).names.values()
    dict_values([...])
    """
    if isinstance(model, SupportsSnapshot):
        return model.weight_snapshot()
    if isinstance(model, compose.Pipeline):
        return snapshot(list(model.steps.values())[-1])
    tables = weight_tables(model)
    if len(tables) != 1 or tables[0].has_rows:
        raise UnsupportedModelError(
            f"{type(model).__name__} has the weight tables {[t.name for t in tables]}, an "
            "artefact holds one linear table: prune it in place with pruning.prune_model"
        )
    return _table_snapshot(tables[0])


def _table_snapshot(table: WeightTable) -> Snapshot:
    """The weights of a linear table, and of features whose weight is zero but whose Σg² is known."""
    weights = dict(zip(table.names(), table.values().ravel().tolist(), strict=True))
    remembered = table.memory(("n", "g2"))
    names = list(dict.fromkeys([*weights, *(name for held in remembered for name in held)]))
    tokens = np.array([feature_token(name) for name in names], np.uint64)
    order = np.argsort(tokens)
    if len(tokens) > 1 and (np.diff(tokens[order]) == 0).any():
        raise UnsupportedModelError(
            "two feature names have one token: rename one, such as 'a=b' and ('a', 'b')"
        )
    named = [names[i] for i in order]
    squares = next((dict(getattr(o, a)) for o in table.optimizers for k, a in SUM_OF_SQUARES.items()
                    if isinstance(o, k)), None)  # fmt: skip
    dual = table.dual()

    def column(held: Mapping[Hashable, float]) -> NDArray[np.float64]:
        return np.array([held.get(name, 0.0) for name in named], np.float64)

    return Snapshot(
        keys=tokens[order],
        weights=column(weights),
        curvature=np.ones(len(named)) if squares is None else column(squares),
        dual=None if dual is None else column(dual),
        names={int(k): name for k, name in zip(tokens[order], named, strict=True)},
        intercept=float(getattr(table.model, "intercept", 0.0)),
        step=max((int(getattr(o, "n_iterations", 0)) for o in table.optimizers), default=0),
    )
