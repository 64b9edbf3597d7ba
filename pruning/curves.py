"""The size/quality curve of a model: candidates of many sizes, each judged by the guard, and its picture."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pruning.artefact import Artefact
from pruning.errors import ParameterError
from pruning.evaluation import Quality, evaluate
from pruning.examples import Examples
from pruning.guard import Guard, GuardDecision
from pruning.importance import log_loss
from pruning.ledger import DecisionRecord
from pruning.pruners import SaliencyPruner
from pruning.quantization import Float32, Int8, Quantizer
from pruning.weights import Snapshot, snapshot


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """One size of the model: what it weighs, how good it is, what the guard says.

    Parameters
    ----------
    kept
        Share of the live weights that stay.
    weights, bytes
        Size of the artefact.
    quality
        On the examples.
    decision
        Of the guard, against the dense export on the same examples.

    Examples
    --------
    >>> from river import linear_model
    >>> rows = [({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2)) for i in range(2000)]
    >>> model = linear_model.LogisticRegression()
    >>> for x, y in rows:
    ...     model.learn_one(x, y)
    >>> point = curve(model, Examples.from_river(rows), shares=(.5,)).points[0]
    >>> point.weights, point.quality.accuracy, point.decision.verdict  # right as often, and less sure
    (1, 1.0, 'reject')
    """

    kept: float
    weights: int
    bytes: int
    quality: Quality
    decision: GuardDecision


@dataclasses.dataclass(frozen=True)
class Curve:
    """The dense export and smaller candidates of one snapshot, the largest first.

    Parameters
    ----------
    dense_bytes, dense_weights, dense
        Size and quality of the dense float32 export.
    points
        The candidates.

    Examples
    --------
    >>> from river import linear_model
    >>> rows = [({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2)) for i in range(2000)]
    >>> model = linear_model.LogisticRegression()
    >>> for x, y in rows:
    ...     model.learn_one(x, y)
    >>> found = curve(model, Examples.from_river(rows), shares=(1., .5))
    >>> found.dense_weights, [point.weights for point in found.points], found.smallest_promoted.weights
    (2, [2, 1], 2)
    """

    dense_bytes: int
    dense_weights: int
    dense: Quality
    points: tuple[CurvePoint, ...]

    @property
    def smallest_promoted(self) -> CurvePoint | None:
        """The last point before the guard first rejects; pruning may go this far, round by round."""
        best = None
        for point in self.points:
            if point.decision.verdict == "reject":
                break
            best = point if point.decision.promoted else best
        return best


SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06, 0.04, 0.02, 0.01)


def curve(
    model: Any,
    examples: Examples,
    *,
    shares: Sequence[float] = SHARES,
    pruner: Callable[..., Any] = SaliencyPruner,
    quantizer: Quantizer | None = None,
    guard: Guard | None = None,
    until_rejected: bool = False,
) -> Curve:
    """Build a candidate for every share of the weights and judge each: nothing is promoted.

    Parameters
    ----------
    model
        A model `snapshot` knows, or a `Snapshot`.
    examples
        Events the model has not learned.
    shares
        Shares of the live weights that stay, falling.
    pruner
        Called with `keep=…`.
    quantizer, guard
        `Int8()` and `Guard()` unless told otherwise.
    until_rejected
        Stop at the first rejection: iterative pruning.

    Examples
    --------
    >>> import numpy as np
    >>> from river import linear_model, optim
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 4000)
    >>> rows = [({"good": float(g), f"noise={rng.integers(99)}": 1.0}, bool(g)) for g in labels]
    >>> model = linear_model.LogisticRegression(optim.FTRLProximal(alpha=.5))
    >>> for x, y in rows[:2000]:
    ...     model.learn_one(x, y)
    >>> found = curve(model, Examples.from_river(rows[2000:]), shares=(.5, .02), guard=Guard(tolerance=.01))
    >>> [(point.weights, point.decision.verdict) for point in found.points]
    [(50, 'promote'), (2, 'reject')]
    """
    if any(not 0 < share <= 1 for share in shares) or list(shares) != sorted(shares, reverse=True):
        raise ParameterError("shares lie in (0, 1] and fall")
    frozen = (model if isinstance(model, Snapshot) else snapshot(model)).check()
    guard = Guard() if guard is None else guard
    dense = Artefact.build(frozen, None, Float32())
    part = (examples.keys, examples.values, examples.indptr)
    dense_losses = log_loss(dense.score_many(*part), examples.y)
    live = int(frozen.live.sum())
    points = []
    for share in shares:
        mask = pruner(keep=max(1, round(share * live))).compute_mask(frozen)
        candidate = Artefact.build(frozen, mask, quantizer or Int8())
        losses = log_loss(candidate.score_many(*part), examples.y)
        decision = guard.judge(dense_losses, losses)
        measured = evaluate(candidate, examples)
        points.append(CurvePoint(share, len(candidate), candidate.nbytes, measured, decision))
        if until_rejected and decision.verdict == "reject":
            break
    return Curve(dense.nbytes, len(dense), evaluate(dense, examples), tuple(points))


def plot_history(records: Sequence[DecisionRecord], path: str | os.PathLike[str]) -> Path:
    """Draw a ledger as a PNG: bytes served and the measured change of the loss over the trainer's steps.

    Parameters
    ----------
    records
        `Ledger.read()`.
    path
        Where the picture goes; matplotlib is needed.

    Examples
    --------
    >>> import tempfile
    >>> record = DecisionRecord("a1", None, "promote", "as good", step=500, bytes_after=2048)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_history([record], Path(folder) / "history.png").read_bytes()[1:4]
    b'PNG'
    """
    figure, (sizes, losses) = _figure("Proposals and what became of them")
    for verdict, (marker, color) in {**_MARKS, "rollback": ("v", "#5a3e9e")}.items():
        chosen = [r for r in records if r.verdict == verdict]
        if not chosen:
            continue
        style = {"marker": marker, "color": color, "label": verdict}
        sizes.scatter([r.step for r in chosen], [r.bytes_after / 1024 for r in chosen], **style)
        measured = [r for r in chosen if "difference" in r.evidence]
        losses.scatter(
            [r.step for r in measured], [r.evidence["difference"] * 1e4 for r in measured], **style
        )
    sizes.set_ylabel("artefact, KiB")
    losses.set_ylabel("loss over the dense export, 1e-4")
    losses.axhline(0, color="black", linestyle=":")
    for axis in (sizes, losses):
        axis.set_xlabel("examples learned")
        axis.grid(alpha=0.25)
    if records:
        sizes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return Path(path)


def _figure(title: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an optional extra, and slow to import
    except ImportError as error:
        raise ParameterError("drawing needs matplotlib: pip install 'stream-recommender[plots]'") from error
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, 2)


_MARKS = {"promote": ("o", "#2a7f3f"), "undecided": ("s", "#b8860b"), "reject": ("X", "#b03030")}


def plot(found: Curve, path: str | os.PathLike[str], title: str = "Size and quality") -> Path:
    """Draw logloss and AUC over bytes with the guard's verdicts as a PNG; needs matplotlib.

    Returns
    -------
    The path.

    Examples
    --------
    >>> import tempfile
    >>> from river import linear_model
    >>> rows = [({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2)) for i in range(2000)]
    >>> model = linear_model.LogisticRegression()
    >>> for x, y in rows:
    ...     model.learn_one(x, y)
    >>> found = curve(model, Examples.from_river(rows), shares=(1., .5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot(found, Path(folder) / "curve.png").read_bytes()[1:4]
    b'PNG'
    """
    figure, axes = _figure(title)
    sizes = [p.bytes / 1024 for p in found.points]
    for axis, name in zip(axes, ("logloss", "auc"), strict=True):
        values = [getattr(p.quality, name) for p in found.points]
        axis.plot(sizes, values, color="#8090a0", linewidth=1, zorder=1)
        for verdict, (marker, color) in _MARKS.items():
            chosen = [i for i, p in enumerate(found.points) if p.decision.verdict == verdict]
            if chosen:
                x, y = [sizes[i] for i in chosen], [values[i] for i in chosen]
                axis.scatter(x, y, marker=marker, color=color, label=verdict, zorder=2)
        dense = getattr(found.dense, name)
        axis.axhline(dense, color="black", linestyle=":", label="dense float32")
        if (
            name == "logloss" and found.points
        ):  # what is accepted sets the scale: noise should look like noise
            accepted = found.points[0].decision.evidence["tolerance"]
            axis.axhspan(dense, dense + accepted, color="#2a7f3f", alpha=0.08, label="accepted by the guard")
            axis.set_ylim(min(*values, dense - accepted), max(*values, dense + 1.5 * accepted))
        else:
            axis.set_ylim(min(*values, dense - 5e-3), max(*values, dense + 5e-3))
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}")
        axis.set_xlabel(f"artefact, KiB (dense: {found.dense_bytes / 1024:,.0f})")
        axis.set_ylabel({"logloss": "logloss, lower is better", "auc": "AUC, higher is better"}[name])
        axis.grid(alpha=0.25)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    return Path(path)
