"""Prune and quantize a River model where it stands, or a copy of it.

The serving path exports an `Artefact` and leaves the trainer dense: that is the better recipe. These
functions are for models that serve themselves, and for factorization models.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pruning.errors import EmptyModelError, NonFiniteError, ParameterError
from pruning.pruners import SaliencyPruner
from pruning.tables import WeightTable, weight_tables
from pruning.weights import Snapshot

Model = TypeVar("Model")


class Pruner(Protocol):
    """What is asked of a pruner here: a mask over a flat table."""

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays."""
        ...


class Rounder(Protocol):
    """What is asked of a quantizer here: served values of a matrix of rows."""

    def round_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values that would be served, (n, k)."""
        ...


@dataclasses.dataclass(frozen=True)
class TableReport:
    """What happened to one table: entries that are not zero, before and after."""

    table: str
    live_before: int
    live_after: int


@dataclasses.dataclass(frozen=True)
class InPlaceReport:
    """What `prune_model` did, table by table."""

    tables: tuple[TableReport, ...]

    @property
    def share_kept(self) -> float:
        """Live entries after over before."""
        before = sum(t.live_before for t in self.tables)
        return sum(t.live_after for t in self.tables) / before if before else 1.0


def prune_model(
    model: Any,
    pruner: Pruner | None = None,
    *,
    scope: Literal["entry", "row"] = "entry",
    tables: tuple[str, ...] | None = None,
    curvature: Mapping[str, NDArray[np.float64]] | None = None,
    keep_curvature: bool = True,
) -> InPlaceReport:
    """Remove the least important weights of a River model, table by table.

    All masks are computed before anything is written, so the model is pruned whole or not at all.

    Parameters
    ----------
    model
        Any model of `pruning.tables.LAYOUTS`, also in a pipeline or one-vs-rest.
    pruner
        `SaliencyPruner(.5)` unless told otherwise; its amount applies to every table.
    scope
        `entry`: single weights; `row`: whole latent rows, ranked by their summed importance.
    tables
        Names of the tables to prune, as in the report; all by default.
    curvature
        Table name → H of every entry, (n, k), where the optimizer keeps none: `FisherTracker.curvature`.
        Without it H is 1 and saliency becomes magnitude, which is unsafe for latent rows.
    keep_curvature
        Whether Σg² of removed weights stays: if a feature comes back it learns carefully.

    Raises
    ------
    UnsupportedModelError, EmptyModelError, NonFiniteError, ParameterError
        The model is unchanged.

    Examples
    --------
    >>> from river import linear_model, optim
    >>> model = linear_model.LogisticRegression(optim.AdaGrad(.3))
    >>> for i in range(100):
    ...     model.learn_one({"good": i % 2, "noise": i % 3}, bool(i % 2))
    >>> prune_model(model, SaliencyPruner(1)).share_kept, list(model.weights)
    (0.5, ['good'])
    """
    pruner = SaliencyPruner(0.5) if pruner is None else pruner
    if scope not in ("entry", "row"):
        raise ParameterError(f"scope is {scope!r}: expected 'entry' or 'row'")
    found = weight_tables(model)
    if tables is not None and (unknown := set(tables) - {t.name for t in found}):
        raise ParameterError(f"no table {sorted(unknown)}: the model has {[t.name for t in found]}")
    chosen = [t for t in found if tables is None or t.name in tables]
    plans = []
    for table in chosen:
        values = table.values()
        if not np.isfinite(values).all():
            raise NonFiniteError(f"table {table.name} holds NaN or infinity: restore an older state")
        if (np.abs(values) > 1e-20).any():
            given = (curvature or {}).get(table.name)
            plans.append((table, values, _mask(table, values, pruner, scope, given)))
    if not plans:
        raise EmptyModelError("the model has no live weight yet: let it learn first")
    reports = []
    for table, values, mask in plans:
        table.write(np.where(mask, values, 0.0), keep_curvature=keep_curvature)
        reports.append(TableReport(table.name, int((np.abs(values) > 1e-20).sum()), int(mask.sum())))
    return InPlaceReport(tuple(reports))


def _mask(
    table: WeightTable,
    values: NDArray[np.float64],
    pruner: Pruner,
    scope: str,
    given: NDArray[np.float64] | None,
) -> NDArray[np.bool_]:
    n, k = values.shape
    h = given if given is not None else table.curvature()
    h = np.ones_like(values) if h is None else h
    if h.shape != values.shape:
        raise ParameterError(f"curvature of {table.name} has the shape {h.shape}, the table {values.shape}")
    values = np.where(np.abs(values) > 1e-20, values, 0.0)  # what HOFM writes for zero is dead
    if scope == "row" and k > 1:  # a row is one weight whose saliency is the sum of its entries'
        norm = np.sqrt((values**2 * h).sum(axis=1))
        flat = Snapshot(np.arange(1, n + 1, dtype=np.uint64), norm, np.ones(n))
        keep = pruner.compute_mask(flat)[:, None]
        return np.asarray(np.broadcast_to(keep, values.shape) & (values != 0), np.bool_)
    flat = Snapshot(np.arange(1, n * k + 1, dtype=np.uint64), values.ravel(), h.ravel())
    return pruner.compute_mask(flat).reshape(n, k)


def quantize_model(model: Any, quantizer: Rounder) -> float:
    """Round every weight of a River model to what the quantizer serves; return the largest error.

    Precision changes, memory does not: River keeps 8-byte floats.

    Examples
    --------
    >>> from river import linear_model
    >>> from pruning.quantization import FixedPoint
    >>> model = linear_model.PAClassifier()
    >>> model.learn_one({"a": 1.0, "b": 0.5}, True)
    >>> error = quantize_model(model, FixedPoint(2, 3))
    >>> error <= 1 / 16, model.weights["a"]
    (True, 0.75)
    """
    plans = [(table, values) for table in weight_tables(model) if len(values := table.values())]
    rounded = [quantizer.round_rows(values) for _, values in plans]
    worst = 0.0
    for (table, values), new in zip(plans, rounded, strict=True):
        dead = np.abs(values) <= 1e-20
        served = np.where(dead, values, new)
        table.write(served, forget=False)
        worst = max(worst, float(np.abs(served - values).max(initial=0.0)))
    return worst


def compressed(
    model: Model, pruner: Pruner | None = None, quantizer: Rounder | None = None, **how: Any
) -> Model:
    """A pruned, and if asked quantized, deep copy; the model itself is untouched.

    `how` is passed to `prune_model`.

    Examples
    --------
    >>> from river import linear_model, optim
    >>> model = linear_model.LogisticRegression(optim.AdaGrad(.3))
    >>> for i in range(100):
    ...     model.learn_one({"good": i % 2, "noise": i % 3}, bool(i % 2))
    >>> small = compressed(model, SaliencyPruner(1))
    >>> list(small.weights), sorted(model.weights)
    (['good'], ['good', 'noise'])
    """
    copied = copy.deepcopy(model)
    prune_model(copied, pruner, **how)
    if quantizer is not None:
        quantize_model(copied, quantizer)
    return copied
