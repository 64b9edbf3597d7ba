"""The weights of a model, frozen: what pruners rank, quantizers round and artefacts store.

Any object with a method `weight_snapshot() -> Snapshot` can be pruned; River's linear models, alone or at the
end of a pipeline, are read here. This is the one place that knows where River keeps weights and what their
optimizers remember about them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from river import compose, linear_model

from pruning.errors import EmptyModelError, NonFiniteError, UnsupportedModelError
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
    if isinstance(model, linear_model.base.GLM):
        return _glm_snapshot(model)
    raise UnsupportedModelError(
        f"{type(model).__name__} keeps its weights where they are not known: supported are models with "
        "weight_snapshot(), River's linear models, and pipelines that end in one of them"
    )


# Optimizer class → attribute that holds Σg² by feature. The others keep no second moment, or a decayed one.
_SUM_OF_SQUARES = {"FTRLProximal": "n", "AdaGrad": "g2"}


def _glm_snapshot(model: Any) -> Snapshot:
    weights = model._weights.to_dict()
    optimizer = model.optimizer
    kind = next((c.__name__ for c in type(optimizer).__mro__ if c.__name__ in _SUM_OF_SQUARES), None)
    second = dict(getattr(optimizer, _SUM_OF_SQUARES[kind])) if kind else None
    dual = dict(optimizer.z) if kind == "FTRLProximal" else None
    names = list(dict.fromkeys([*weights, *(second or {})]))
    tokens = np.array([feature_token(name) for name in names], np.uint64)
    order = np.argsort(tokens)
    named = [names[i] for i in order]

    def column(table: Mapping[Hashable, float] | None, absent: float) -> NDArray[np.float64]:
        return np.array([(table or {}).get(name, absent) for name in named], np.float64)

    return Snapshot(
        keys=tokens[order],
        weights=column(weights, 0.0),
        curvature=column(second, 0.0) if second is not None else np.ones(len(named)),
        dual=column(dual, 0.0) if dual is not None else None,
        names={int(k): name for k, name in zip(tokens[order], named, strict=True)},
        intercept=float(model.intercept),
        step=int(optimizer.n_iterations),
    )
