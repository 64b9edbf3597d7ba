"""How good a model or artefact is on encoded examples, and the size/quality curve of a model."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pruning.artefact import Artefact
from pruning.errors import ParameterError
from pruning.guard import Guard, GuardDecision
from pruning.importance import FieldImportance, Measure, field_contributions, log_loss
from pruning.pruners import SaliencyPruner
from pruning.quantization import Float32, Int8, Quantizer
from pruning.tokens import VALUE_BITS, encode
from pruning.weights import Snapshot, snapshot


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Encoded, labelled examples: example i owns entries indptr[i] to indptr[i+1].

    Parameters
    ----------
    keys, values
        uint64 and float32, (nnz,).
    indptr
        int64 (n+1,).
    y
        Labels, 0 or 1, (n,).

    Examples
    --------
    >>> some = Examples.from_river([({"genre": "drama"}, True), ({"genre": "horror", "price": 2.}, False)])
    >>> len(some), some.indptr.tolist(), some.y.tolist()
    (2, [0, 1, 3], [1.0, 0.0])
    """

    keys: NDArray[np.uint64]
    values: NDArray[np.float32]
    indptr: NDArray[np.int64]
    y: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.y)

    def part(self, first: int, last: int) -> Examples:
        """Examples `first` to `last`, without the last."""
        first, last = min(first, len(self)), min(last, len(self))
        cut = slice(self.indptr[first], self.indptr[last])
        indptr = self.indptr[first : last + 1] - self.indptr[first]
        return Examples(self.keys[cut], self.values[cut], indptr, self.y[first:last])

    def without(self, fields: Collection[int]) -> Examples:
        """The same examples without the features of some fields."""
        own = self.keys >> np.uint64(VALUE_BITS)
        return self._select(~np.isin(own, np.array(sorted(fields), np.uint64)))

    def only(self, artefact: Artefact) -> Examples:
        """The same examples with the features that an artefact has kept.

        Training a fresh model on them refits what is left: weights learned beside features that are gone are
        not the best ones without them.
        """
        return self._select(artefact.lookup(self.keys) != 0)

    def _select(self, keep: NDArray[np.bool_]) -> Examples:
        ends = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return Examples(self.keys[keep], self.values[keep], ends, self.y)

    @classmethod
    def from_river(cls, rows: Iterable[tuple[Mapping[Hashable, Any], Any]]) -> Examples:
        """Encode River's (x, y) pairs."""
        keys, values, ends, labels = [], [], [0], []
        for x, y in rows:
            k, v = encode(x)
            keys.append(k)
            values.append(v)
            ends.append(ends[-1] + len(k))
            labels.append(float(y))
        if not labels:
            raise ParameterError("there are no examples")
        return cls(np.concatenate(keys), np.concatenate(values), np.array(ends), np.array(labels, np.float32))


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good probabilities are; the threshold of accuracy, precision and recall is ½.

    Parameters
    ----------
    logloss, auc, accuracy, precision, recall
        The usual; NaN where a class or a positive prediction is missing.
    mean_prediction
        To be compared with the mean label.
    coverage
        Share of the examples' features that have a weight.
    nanoseconds
        To score one example; NaN if it was not timed.
    """

    logloss: float
    auc: float
    accuracy: float
    precision: float
    recall: float
    mean_prediction: float
    coverage: float = float("nan")
    nanoseconds: float = float("nan")


def auc(scores: ArrayLike, y: ArrayLike) -> float:
    """Area under the ROC curve; ties count half. NaN if a class is missing.

    >>> auc([.1, .4, .35, .8], [0, 0, 1, 1])
    0.75
    """
    positive = np.asarray(y) > 0
    n, total = int(positive.sum()), len(positive)
    if n in (0, total):
        return float("nan")
    _, place, ties = np.unique(np.asarray(scores, np.float64), return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2)[place]
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (total - n)))


def quality(logits: ArrayLike, y: ArrayLike, **more: float) -> Quality:
    """The measures of a vector of logits.

    >>> q = quality([2., -1., 3.], [1, 0, 0])
    >>> round(q.precision, 2), q.recall, round(q.accuracy, 3)
    (0.5, 1.0, 0.667)
    """
    s, labels = np.asarray(logits, np.float64), np.asarray(y) > 0
    said = s > 0
    hit = float((said & labels).sum())
    return Quality(
        logloss=float(log_loss(s, labels).mean()),
        auc=auc(s, labels),
        accuracy=float((said == labels).mean()),
        precision=hit / float(said.sum()) if said.any() else float("nan"),
        recall=hit / float(labels.sum()) if labels.any() else float("nan"),
        mean_prediction=float(special.expit(s).mean()),
        **more,
    )


def evaluate(artefact: Artefact, examples: Examples) -> Quality:
    """Score examples with an artefact, timed, and measure it."""
    part = (examples.keys, examples.values, examples.indptr)
    artefact.score_many(*part)  # compiles, and warms the caches
    start = time.perf_counter_ns()
    logits = artefact.score_many(*part)
    spent = (time.perf_counter_ns() - start) / len(examples)
    covered = float((artefact.lookup(examples.keys) != 0).mean()) if len(examples.keys) else float("nan")
    return quality(logits, examples.y, coverage=covered, nanoseconds=spent)


class EncodedLearner(Protocol):
    """A model that learns encoded batches in order, such as `stream_app.model.FTRLClassifier`."""

    def learn_many_encoded(
        self,
        keys: NDArray[np.uint64],
        values: NDArray[np.float32],
        indptr: NDArray[np.int64],
        y: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Learn examples one after the other; the probability of each before it was learned, (n,)."""
        ...

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The weights of tokens, (n,)."""
        ...


def progressive(examples: Examples, make: Callable[[], EncodedLearner], *, batch: int = 1000) -> Measure:
    """The measure `select_fields` asks for: test-then-learn on logged examples without some fields.

    Parameters
    ----------
    examples
        Logged examples in time order.
    make
        Returns an untrained model.
    batch
        Importance is measured on so many examples before they are learned.

    Returns
    -------
    A function of the fields to leave out: progressive logloss, and field → what leaving it out would cost.
    """
    fields = np.unique(examples.keys >> np.uint64(VALUE_BITS))

    def measure(dropped: frozenset[int]) -> tuple[float, dict[int, float]]:
        left = examples.without(dropped)
        model, importance = make(), FieldImportance([int(f) for f in fields if int(f) not in dropped])
        total = 0.0
        for i in range(0, len(left), batch):
            part = left.part(i, i + batch)
            contributions = model.lookup(part.keys) * part.values
            importance.update(
                field_contributions(part.keys, contributions, part.indptr, importance.fields), part.y
            )
            p = model.learn_many_encoded(part.keys, part.values, part.indptr, part.y)
            total -= float(np.log(np.where(part.y > 0, p, 1 - p)).sum())
        return total / len(left), importance.leave_one_out()

    return measure


def top_k_overlap(
    dense: NDArray[np.float64], candidate: NDArray[np.float64], indptr: NDArray[np.int64], k: int = 10
) -> float:
    """Mean share of the top-k that two scorings of the same lists agree on; the guard's overlap.

    Parameters
    ----------
    dense, candidate
        Scores of the items of all lists, one list behind the other, (nnz,).
    indptr
        List i owns entries indptr[i] to indptr[i+1], (n+1,).
    k
        Of a list with fewer items, all count.

    Examples
    --------
    >>> top_k_overlap(np.array([3., 2., 1.]), np.array([3., 1., 2.]), np.array([0, 3]), k=2)
    0.5
    """
    shares = []
    for first, last in itertools.pairwise(indptr.tolist()):
        size = min(k, last - first)
        if size:
            ours, theirs = (
                set(np.argsort(-s[first:last], kind="stable")[:size].tolist()) for s in (dense, candidate)
            )
            shares.append(len(ours & theirs) / size)
    return float(np.mean(shares)) if shares else float("nan")


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


_MARKS = {"promote": ("o", "#2a7f3f"), "undecided": ("s", "#b8860b"), "reject": ("X", "#b03030")}


def plot(found: Curve, path: str | os.PathLike[str], title: str = "Size and quality") -> Path:
    """Draw logloss and AUC over bytes with the guard's verdicts as a PNG; needs matplotlib.

    Returns
    -------
    The path.
    """
    try:
        from matplotlib import ticker  # noqa: PLC0415  # an optional extra, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ParameterError("drawing needs matplotlib: pip install 'stream-recommender[plots]'") from error
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    figure.suptitle(title)
    sizes = [p.bytes / 1024 for p in found.points]
    for axis, name in zip(figure.subplots(1, 2), ("logloss", "auc"), strict=True):
        values = [getattr(p.quality, name) for p in found.points]
        axis.plot(sizes, values, color="#8090a0", linewidth=1, zorder=1)
        for verdict, (marker, color) in _MARKS.items():
            chosen = [i for i, p in enumerate(found.points) if p.decision.verdict == verdict]
            if chosen:
                x, y = [sizes[i] for i in chosen], [values[i] for i in chosen]
                axis.scatter(x, y, marker=marker, color=color, label=verdict, zorder=2)
        axis.axhline(getattr(found.dense, name), color="black", linestyle=":", label="dense float32")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
        axis.set_xlabel(f"artefact, KiB (dense: {found.dense_bytes / 1024:,.0f})")
        axis.set_ylabel({"logloss": "logloss, lower is better", "auc": "AUC, higher is better"}[name])
        axis.grid(alpha=0.25)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    return Path(path)
