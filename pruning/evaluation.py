"""How good probabilities are: the usual measures, and the overlap of lists."""

from __future__ import annotations

import dataclasses
import itertools
import time

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pruning.artefact import Artefact
from pruning.examples import Examples
from pruning.importance import log_loss


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

    Examples
    --------
    >>> measured = quality([2., -1., 3.], [1, 0, 0])
    >>> measured.auc, measured.recall, round(measured.mean_prediction, 3)
    (0.5, 1.0, 0.701)
    >>> measured.coverage                                           # only `evaluate` knows the features
    nan
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
    """Score examples with an artefact, timed, and measure it.

    >>> from pruning import Snapshot, token
    >>> weights = Snapshot(np.array([token("genre", "drama")], np.uint64), np.array([1.]), np.ones(1))
    >>> unseen = Examples.from_river([({"genre": "drama"}, True), ({"genre": "horror"}, False)])
    >>> measured = evaluate(Artefact.build(weights), unseen)
    >>> measured.auc, measured.coverage, measured.nanoseconds > 0
    (1.0, 0.5, True)
    """
    part = (examples.keys, examples.values, examples.indptr)
    artefact.score_many(*part)  # compiles, and warms the caches
    start = time.perf_counter_ns()
    logits = artefact.score_many(*part)
    spent = (time.perf_counter_ns() - start) / len(examples)
    covered = float((artefact.lookup(examples.keys) != 0).mean()) if len(examples.keys) else float("nan")
    return quality(logits, examples.y, coverage=covered, nanoseconds=spent)


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
