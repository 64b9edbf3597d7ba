"""Where River keeps its weights: the one place that knows the insides of its models.

A model is a set of weight tables. Each says how to read it, which optimizer remembers its features, and what
a missing entry means, because that decides how a weight is removed::

    absent     models                                    how a weight is removed
    ─────────  ────────────────────────────────────────  ─────────────────────────────────────────────
    zero       linear, PA, ALMA, softmax, FM weights     its key is deleted
    one        FwFM's field pair weights                 zero is written
    random     rows of FM, FFM, FwFM, BiasedMF, FunkMF   zeros are written (a deleted row is born again)
    random     rows of HOFM                              ±1e-30 is written (its gradient divides by them)

Removing from `weights` alone would resurrect the weight from the optimizer's memory: FTRL's z, momenta and
averages go with it, Σg² stays unless told otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from river import base, compose, facto, linear_model, optim, reco

from pruning.errors import UnsupportedModelError

Shape = Literal["scalar", "row", "nested", "labels"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one attribute of a model class holds weights.

    Parameters
    ----------
    attribute
        Name of the attribute.
    shape
        `scalar`: key → weight; `row`: key → vector; `nested`: key → field or degree → vector;
        `labels`: label → key → weight.
    optimizer
        Attribute of the optimizer whose memory has the same keys, or None.
    absent
        What the model reads for a missing key.
    zero
        What is written where an entry is removed and the key must stay.
    """

    attribute: str
    shape: Shape = "scalar"
    optimizer: str | None = None
    absent: Literal["zero", "one", "random"] = "zero"
    zero: float = 0.0


_FM = (Layout("weights", optimizer="weight_optimizer"), Layout("latents", "row", absent="random"))
_FFM = (_FM[0], Layout("latents", "nested", absent="random"))
_HOFM = (_FM[0], Layout("latents", "nested", absent="random", zero=1e-30))
_LATENT_PAIR = tuple(
    Layout(f"{side}_latents", "row", optimizer, "random")
    for side, optimizer in (("u", "u_latent_optimizer"), ("i", "i_latent_optimizer"))
)
_BIASED = (
    Layout("u_biases", optimizer="u_bias_optimizer"),
    Layout("i_biases", optimizer="i_bias_optimizer"),
    *_LATENT_PAIR,
)
_FUNK = (
    Layout("u_latents", "row", "u_optimizer", "random"),
    Layout("i_latents", "row", "i_optimizer", "random"),
)

LAYOUTS: dict[type, tuple[Layout, ...]] = {
    linear_model.base.GLM: (Layout("_weights", optimizer="optimizer"),),
    linear_model.PAClassifier: (Layout("weights"),),
    linear_model.PARegressor: (Layout("weights"),),
    linear_model.ALMAClassifier: (Layout("w"),),
    linear_model.SoftmaxRegression: (Layout("weights", "labels", "optimizers"),),
    facto.FMClassifier: _FM,
    facto.FMRegressor: _FM,
    facto.FFMClassifier: _FFM,
    facto.FFMRegressor: _FFM,
    facto.FwFMClassifier: (*_FM, Layout("interaction_weights", "scalar", "int_weight_optimizer", "one")),
    facto.FwFMRegressor: (*_FM, Layout("interaction_weights", "scalar", "int_weight_optimizer", "one")),
    facto.HOFMClassifier: _HOFM,
    facto.HOFMRegressor: _HOFM,
    reco.BiasedMF: _BIASED,
    reco.FunkMF: _FUNK,
}

# What optimizers remember by feature. First moments would resurrect a weight and always go with it; second
# moments are learning rates: keeping them makes a feature that comes back learn carefully.
FIRST_MOMENTS = ("z", "m", "s", "avg_w")
SECOND_MOMENTS = ("n", "g2", "v", "v_hat", "u", "s2")
SUM_OF_SQUARES = {optim.FTRLProximal: "n", optim.AdaGrad: "g2"}


@dataclasses.dataclass(frozen=True, eq=False)
class WeightTable:
    """One table of weights inside a River model: a live view.

    Parameters
    ----------
    name
        Path for people, such as `latents` or `weights[action]`.
    model
        The estimator that owns it.
    layout
        How the attribute holds the weights.
    label
        The class, for tables of one class.

    Examples
    --------
    >>> model = linear_model.PAClassifier()
    >>> model.learn_one({"a": 1.0, "b": 0.5}, True)
    >>> (table,) = weight_tables(model)
    >>> table.names(), table.values().round(2).ravel().tolist()
    (['a', 'b'], [0.8, 0.4])
    """

    name: str
    model: Any
    layout: Layout
    label: Hashable = None

    @property
    def data(self) -> Any:
        """The mapping itself."""
        data = getattr(self.model, self.layout.attribute)
        return data[self.label] if self.layout.shape == "labels" else data

    @property
    def optimizers(self) -> list[Any]:
        """The optimizer of the table, and those wrapped inside it."""
        found = getattr(self.model, self.layout.optimizer) if self.layout.optimizer else None
        if self.layout.shape == "labels" and found is not None:
            found = found.get(self.label)
        chain = []
        while found is not None:
            chain.append(found)
            found = getattr(found, "optimizer", None)
        return chain

    @property
    def has_rows(self) -> bool:
        """Whether an entry is a vector."""
        return self.layout.shape in ("row", "nested")

    def names(self) -> list[Hashable]:
        """The keys; (key, field or degree) where tables are nested."""
        if self.layout.shape == "nested":
            return [(key, inner) for key, rows in self.data.items() for inner in rows]
        return list(self.data.keys())

    def values(self) -> NDArray[np.float64]:
        """The weights in the order of `names`, (n, k); k = 1 for scalars."""
        data = self.data
        names = self.names()
        if self.layout.shape == "nested":
            rows = [row for inner in data.values() for row in inner.values()]
        else:
            held = data.to_dict() if hasattr(data, "to_dict") else data
            rows = [held[name] for name in names]
        return np.array(rows, np.float64).reshape(len(rows), -1 if rows else 1)

    def memory(self, kinds: tuple[str, ...]) -> list[Any]:
        """What the optimizers remember by feature, of some kinds."""
        if self.layout.shape == "nested" or (self.has_rows and self.layout.optimizer is None):
            return []
        tables = [getattr(o, kind, None) for o in self.optimizers for kind in kinds]
        if "z" in kinds:
            tables.append(getattr(self.model, "cum_l1", None))
        return [table for table in tables if hasattr(table, "pop") and hasattr(table, "keys")]

    def curvature(self) -> NDArray[np.float64] | None:
        """Σg² per weight, (n, k), where the optimizer keeps it; else None."""
        for optimizer in self.optimizers:
            for kind, attribute in SUM_OF_SQUARES.items():
                if isinstance(optimizer, kind):
                    held, width = getattr(optimizer, attribute), self.values().shape[1]
                    rows = [np.broadcast_to(held.get(name, 0.0), width) for name in self.names()]
                    return np.array(rows, np.float64).reshape(-1, width)
        return None

    def dual(self) -> dict[Hashable, float] | None:
        """FTRL's z by feature, if the optimizer is FTRL."""
        held = [o.z for o in self.optimizers if isinstance(o, optim.FTRLProximal)]
        return dict(held[0]) if held else None

    @property
    def absent_is_zero(self) -> bool:
        """Whether a deleted key reads as zero in prediction and learning."""
        initializer = getattr(self.model, "initializer", None)
        started_at_zero = initializer is None or isinstance(initializer, optim.initializers.Zeros)
        newton = any(isinstance(o, optim.Newton) for o in self.optimizers)
        return self.layout.absent == "zero" and started_at_zero and not newton

    def write(self, values: NDArray[np.float64], *, forget: bool = True, keep_curvature: bool = True) -> None:
        """Put values (n, k) in place of `values()`; a zero removes its weight and what would revive it.

        Parameters
        ----------
        values
            New weights in the order of `names`.
        forget
            Whether the optimizer forgets the first moments of removed weights.
        keep_curvature
            Whether Σg² and other second moments of removed weights stay.
        """
        data, forgotten = self.data, []
        for name, row in zip(self.names(), values, strict=True):
            gone = row == 0.0
            if self.has_rows:
                target = data[name[0]] if self.layout.shape == "nested" else data  # type: ignore[index]
                last = name[1] if self.layout.shape == "nested" else name  # type: ignore[index]
                target[last] = np.where(gone, self.layout.zero, row)
                forgotten += [name] if gone.all() else []
            elif gone[0]:
                forgotten.append(name)
                if self.absent_is_zero:
                    data.pop(name, None)
                else:
                    data[name] = 0.0
            else:
                data[name] = float(row[0])
        if not forget:
            return
        for table in self.memory(FIRST_MOMENTS if keep_curvature else FIRST_MOMENTS + SECOND_MOMENTS):
            for name in forgotten:
                table.pop(name, None)


def final_models(model: Any) -> list[tuple[str, Any]]:
    """The estimators that hold weights inside pipelines and one-vs-rest, each with a prefix.

    >>> from river import multiclass, preprocessing
    >>> inner = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    >>> model = multiclass.OneVsRestClassifier(inner)
    >>> for label in ("a", "b"):
    ...     model.learn_one({"x": 1.0}, label)
    >>> [prefix for prefix, _ in final_models(model)]
    ['[a]', '[b]']
    """
    if isinstance(model, compose.Pipeline):
        return final_models(list(model.steps.values())[-1])
    if isinstance(getattr(model, "classifiers", None), dict):  # one-vs-rest, one-vs-one
        return [
            (f"[{label}]{prefix}", inner)
            for label, each in model.classifiers.items()
            for prefix, inner in final_models(each)
        ]
    if isinstance(model, base.Wrapper) and not _layouts(model):
        return final_models(model._wrapped_model)
    return [("", model)]


def weight_tables(model: Any) -> list[WeightTable]:
    """All weight tables of a River model, or of what is inside its pipeline or wrapper.

    Raises
    ------
    UnsupportedModelError
        If a model keeps its weights somewhere else.

    Examples
    --------
    >>> from river import facto, preprocessing
    >>> model = preprocessing.MinMaxScaler() | facto.FMClassifier(n_factors=3, seed=1)
    >>> model.learn_one({"a": 1.0, "b": 2.0}, True)
    >>> [(table.name, table.values().shape) for table in weight_tables(model)]
    [('weights', (2, 1)), ('latents', (2, 3))]
    """
    tables = []
    for prefix, inner in final_models(model):
        layouts = _layouts(inner)
        if not layouts:
            supported = ", ".join(sorted(kind.__name__ for kind in LAYOUTS))
            raise UnsupportedModelError(
                f"{type(inner).__name__} keeps its weights where they are not known; supported are "
                f"{supported}, their subclasses, pipelines and one-vs-rest around them, and models with "
                "weight_snapshot()"
            )
        for layout in layouts:
            name = prefix + layout.attribute.lstrip("_")
            if layout.shape == "labels":
                labels = getattr(inner, layout.attribute)
                tables += [WeightTable(f"{name}[{label}]", inner, layout, label) for label in labels]
            else:
                tables.append(WeightTable(name, inner, layout))
    return tables


def _layouts(model: Any) -> tuple[Layout, ...]:
    return next((LAYOUTS[kind] for kind in type(model).__mro__ if kind in LAYOUTS), ())


class _Reader(Mapping[Hashable, Any]):
    """Reads a table of latent rows; a missing row is zeros and stays missing."""

    def __init__(self, data: Mapping[Hashable, Any], missing: Any):
        self._data, self._missing = data, missing

    def __getitem__(self, key: Hashable) -> Any:
        if key not in self._data:
            return self._missing
        value = self._data[key]
        return _Reader(value, self._missing._missing) if isinstance(value, dict) else value

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


@contextlib.contextmanager
def reading_only(model: Any) -> Iterator[None]:
    """While predicting inside, River's factorization models create no random rows for unknown features.

    An unknown feature, user or item then has a zero row: it adds nothing but its (missing) weight. Not for
    several threads at once: the tables of the model are swapped and swapped back.

    >>> model = facto.FMClassifier(seed=1)
    >>> model.learn_one({"a": 1.0, "b": 1.0}, True)
    >>> with reading_only(model):
    ...     _ = model.predict_proba_one({"a": 1.0, "unknown": 1.0})
    >>> sorted(model.latents)
    ['a', 'b']
    """
    swapped: list[tuple[Any, str, Any]] = []
    try:
        for table in weight_tables(model):
            layout = table.layout
            if layout.shape == "labels" or not isinstance(table.data, dict):
                continue
            missing: Any = {"zero": 0.0, "one": 1.0}.get(layout.absent)
            if missing is None:
                missing = np.zeros(table.model.n_factors)
                missing = _Reader({}, missing) if layout.shape == "nested" else missing
            swapped.append((table.model, layout.attribute, table.data))
            setattr(table.model, layout.attribute, _Reader(table.data, missing))
        yield
    finally:
        for owner, attribute, data in swapped:
            setattr(owner, attribute, data)
