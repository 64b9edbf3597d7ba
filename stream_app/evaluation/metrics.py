"""Quality in numbers: pure functions on arrays.

The ranking metrics come in two families. Most take `ranks`: for each test, the place of the right item in
a list of recommendations, counted from 0, and `ABSENT` where it is not in the list. Impressions have
several right items, so `ndcg_of_list` takes the relevance of a whole list in ranked order.

Every mean over nothing is nan, never 0: there was no measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, xlogy
from scipy.stats import rankdata

ABSENT = -1
"""The rank of an item that is not in the list."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


# ---------------------------------------------------------------------------------- one right item


def hits(ranks: ArrayLike, k: int) -> Floats:
    """1 for each test whose item is among the first `k`, else 0.

    >>> hits([0, 9, 10, ABSENT], k=10)
    array([1., 1., 0., 0.])
    """
    r = _ranks(ranks, k)
    return ((r >= 0) & (r < k)).astype(np.float64)


def gains(ranks: ArrayLike, k: int) -> Floats:
    """1 / log2(rank + 2) for each test whose item is among the first `k`, else 0.

    This is the NDCG of a list with one right item, whose ideal gain is 1.

    >>> gains([0, 2, 10], k=10)
    array([1. , 0.5, 0. ])
    """
    r = _ranks(ranks, k)
    return hits(r, k) / np.log2(np.maximum(r, 0) + 2.0)


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Share of tests whose item is among the first `k`.

    >>> recall_at_k([0, 9, 10, ABSENT], k=10)
    0.5
    """
    return mean(hits(ranks, k))


def ndcg_at_k(ranks: ArrayLike, k: int) -> float:
    """Mean normalised discounted cumulative gain of lists with one right item each.

    References
    ----------
    Järvelin, K., Kekäläinen, J., 2002. Cumulated gain-based evaluation of IR techniques. ACM TOIS 20(4).

    >>> ndcg_at_k([0, 2, ABSENT], k=10)
    0.5
    """
    return mean(gains(ranks, k))


def mrr_at_k(ranks: ArrayLike, k: int) -> float:
    """Mean of 1 / (rank + 1), 0 for an item that is not among the first `k`.

    >>> mrr_at_k([0, 1, ABSENT], k=10)
    0.5
    """
    r = _ranks(ranks, k)
    return mean(hits(r, k) / (np.maximum(r, 0) + 1.0))


def hit_rate_at_k(ranks: ArrayLike, events: ArrayLike, k: int) -> float:
    """Share of events with at least one of their items among the first `k`.

    It differs from recall only where one event has several items, such as an order.

    Parameters
    ----------
    ranks
        One rank per test, `(n,)`.
    events
        The number of the event each test belongs to, `(n,)`.
    k
        Length of the list.

    Examples
    --------
    >>> hit_rate_at_k([0, ABSENT, ABSENT], events=[1, 1, 2], k=10)
    0.5
    """
    _, event = np.unique(np.asarray(events), return_inverse=True)
    return mean(np.bincount(event, weights=hits(ranks, k)) > 0)


def rank_of(target: int, scores: ArrayLike, item_ids: Sequence[str]) -> int:
    """The place of `item_ids[target]` when all items are ordered by score, from 0.

    Equal scores are ordered by item id, ascending, as text. Counting only the items with a strictly
    greater score would put the first event of a stream, where all scores are equal, on place 0.

    >>> rank_of(2, [0.0, 0.0, 0.0], ["a", "b", "c"])
    2
    """
    s = np.asarray(scores, dtype=np.float64)
    return sum(
        s[i] > s[target] or (s[i] == s[target] and item_ids[i] < item_ids[target]) for i in range(len(s))
    )


def _ranks(ranks: ArrayLike, k: int) -> Ints:
    if k < 1:
        raise ValueError(f"k is {k}; a list has at least one place")
    return np.asarray(ranks, dtype=np.int64).reshape(-1)


# ---------------------------------------------------------------------------------- several right items


def order_by_score(scores: ArrayLike, item_ids: Sequence[str]) -> Ints:
    """The order of the items, best first; equal scores by item id, ascending, as text.

    A score of nan or −∞ comes last.

    >>> order_by_score([1.0, 2.0, 1.0], ["b", "c", "a"])
    array([1, 2, 0])
    """
    s = np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if s.shape != (len(item_ids),):
        raise ValueError(f"{len(item_ids)} items need as many scores, but the shape is {s.shape}")
    return np.array(sorted(range(len(s)), key=lambda i: (-s[i], item_ids[i])), dtype=np.int64)


def ndcg_of_list(relevant: ArrayLike, k: int) -> float:
    """Normalised discounted cumulative gain of one list with binary relevance.

    Parameters
    ----------
    relevant
        Whether each item is relevant, in ranked order, the whole list and not only its first `k`.
    k
        Places that count. The ideal list has min(k, number of relevant items) of them filled.

    Returns
    -------
    float
        Between 0 and 1; nan for a list without a relevant item.

    Examples
    --------
    >>> ndcg_of_list([False, False, True], k=10)
    0.5
    """
    if k < 1:
        raise ValueError(f"k is {k}; a list has at least one place")
    rel = np.asarray(relevant, dtype=np.bool_)
    discounts = 1.0 / np.log2(np.arange(2, min(k, rel.size) + 2))
    n_relevant = int(rel.sum())
    if n_relevant == 0:
        return float("nan")
    return float(discounts[rel[:k]].sum() / discounts[: min(n_relevant, k)].sum())


def random_ndcg(n_relevant: int, n: int, k: int) -> float:
    """The expected `ndcg_of_list` of `n` items in random order, of which `n_relevant` are relevant.

    >>> random_ndcg(2, 2, k=10)
    1.0
    """
    if not 0 < n_relevant <= n:
        return float("nan")
    discounts = 1.0 / np.log2(np.arange(2, min(k, n) + 2))
    return float(n_relevant / n * discounts.sum() / discounts[: min(n_relevant, k)].sum())


# ---------------------------------------------------------------------------------- beyond accuracy


def coverage(times_recommended: ArrayLike) -> float:
    """Share of the items that were recommended at least once.

    >>> coverage([3, 0, 1, 0])
    0.5
    """
    return mean(np.asarray(times_recommended) > 0)


def self_information(count: ArrayLike, total: float) -> Floats:
    """−log2(count / total) bits: how surprising an item is that took `count` of `total` events.

    An item without events counts as if it had one. The mean over the recommended items is the novelty of
    the lists.

    References
    ----------
    Zhou, T., et al., 2010. Solving the apparent diversity-accuracy dilemma of recommender systems. PNAS.

    >>> self_information([8, 1, 0], total=8)
    array([0., 3., 3.])
    """
    share = np.maximum(np.asarray(count, dtype=np.float64), 1.0) / max(total, 1.0)
    return -np.log2(share) + 0.0  # + 0: no negative zero


# ---------------------------------------------------------------------------------- scores and probabilities


def auc(y: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, exact: equal scores count half.

    >>> auc([1, 0, 1, 0], [0.9, 0.1, 0.5, 0.5])
    0.875
    """
    label, s = _pairs(y, scores)
    n_positive = float(label.sum())
    n_negative = label.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    rank_sum = float(rankdata(s)[label == 1].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def pairwise_auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Share of pairs whose positive item has the higher score; equal scores count half.

    The two items of a pair belong to the same user and moment, so scores need not be comparable between
    users. Pairs with nan on either side are left out.

    References
    ----------
    Rendle, S., et al., 2009. BPR: Bayesian personalized ranking from implicit feedback. UAI, eq. 1.

    >>> pairwise_auc([2.0, 1.0], [1.0, 1.0])
    0.75
    """
    p = np.asarray(positive, dtype=np.float64)
    n = np.asarray(negative, dtype=np.float64)
    valid = ~(np.isnan(p) | np.isnan(n))
    p, n = p[valid], n[valid]
    return mean((p > n) + 0.5 * (p == n))


def log_loss(y: ArrayLike, p: ArrayLike, eps: float = 1e-7) -> float:
    """Mean of −y·ln p − (1 − y)·ln(1 − p), with p clipped to [eps, 1 − eps].

    >>> round(log_loss([1, 0], [0.5, 0.5]), 4)
    0.6931
    """
    label, prob = _pairs(y, p)
    prob = np.clip(prob, eps, 1 - eps)
    return mean(-xlogy(label, prob) - xlogy(1 - label, 1 - prob))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well probabilities match frequencies.

    Attributes
    ----------
    ece
        Expected calibration error: mean |frequency − mean probability| over bins of equal width, weighted by
        the number of predictions in the bin. 0 is perfect.
    slope, intercept
        Of the logistic regression of the outcome on logit(p). 1 and 0 are perfect; a slope below 1 says that
        the model is too sure of itself.
    """

    ece: float
    slope: float
    intercept: float


def calibration(y: ArrayLike, p: ArrayLike, bins: int = 15, eps: float = 1e-7) -> Calibration:
    """Expected calibration error, calibration slope and intercept.

    Parameters
    ----------
    y
        Outcomes, 0 or 1, `(n,)`.
    p
        Predicted probabilities, `(n,)`.
    bins
        Bins of equal width on [0, 1].
    eps
        Probabilities are clipped to [eps, 1 − eps].

    References
    ----------
    Guo, C., et al., 2017. On calibration of modern neural networks. ICML (the error, 15 bins).
    Cox, D. R., 1958. Two further applications of a model for binary regression. Biometrika (the slope).

    Examples
    --------
    >>> c = calibration([0, 0, 0, 1, 0, 1, 1, 1], [0.25] * 4 + [0.75] * 4)
    >>> c.ece, round(c.slope, 6), abs(round(c.intercept, 6))
    (0.0, 1.0, 0.0)
    """
    label, prob = _pairs(y, p)
    prob = np.clip(prob, eps, 1 - eps)
    if label.size == 0:
        return Calibration(float("nan"), float("nan"), float("nan"))
    place = np.minimum((prob * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, weights=label - prob, minlength=bins)
    return Calibration(float(np.abs(gap).sum() / label.size), *_recalibrate(label, logit(prob)))


def probabilities_of_scores(scores: ArrayLike, blocks: int = 100) -> Floats:
    """Turn scores into probabilities by a logistic curve that is fitted to earlier tests only.

    The scores of models have no common scale. Here each score s becomes σ(a·z + b) with
    z = sign(s)·ln(1 + |s|); a and b are fitted, for each block of tests, to all blocks before it. So the
    probabilities are as strictly prequential as the scores, and the logloss of two models can be compared.
    As Platt does, the curve is fitted to (m + 1) / (m + 2) and 1 / (m + 2) instead of 1 and 0, m being the
    number of earlier tests, which keeps it from being certain after a few.

    Parameters
    ----------
    scores
        Of the right item and of the other one of each test, in stream order, `(n, 2)`; nan is left out.
    blocks
        How many equal blocks the tests are cut into. Tests before the first fit get ½.

    Returns
    -------
    array, (n, 2)
        The probability that each item is the right one.

    References
    ----------
    Platt, J., 1999. Probabilistic outputs for support vector machines. Advances in large margin classifiers.

    Examples
    --------
    >>> p = probabilities_of_scores([[3.0, 1.0], [2.0, 0.0], [1.0, 2.0], [3.0, 0.0]], blocks=4)
    >>> p[0].tolist(), bool(p[3, 0] > p[3, 1])
    ([0.5, 0.5], True)
    """
    s = np.asarray(scores, dtype=np.float64).reshape(-1, 2)
    z = np.sign(s) * np.log1p(np.abs(s))
    p = np.where(np.isnan(z), np.nan, 0.5)
    for block in np.array_split(np.arange(len(z)), blocks)[1:]:
        if block.size == 0:
            continue
        past = z[: block[0]]
        valid = np.isfinite(past)
        if not valid.any():
            continue
        m = len(past)
        y = np.broadcast_to([(m + 1) / (m + 2), 1 / (m + 2)], past.shape)
        slope, intercept = _recalibrate(y[valid], past[valid])
        if np.isfinite(slope):
            p[block] = expit(slope * z[block] + intercept)
    return p


def _recalibrate(y: Floats, z: Floats, steps: int = 50) -> tuple[float, float]:
    """Slope and intercept of y ~ σ(slope·z + intercept), by Newton's method."""
    if y.min() == y.max() or z.min() == z.max():
        return float("nan"), float("nan")  # not determined
    centre, scale = z.mean(), z.std()  # in these units the steps below are of the right size
    X = np.column_stack([(z - centre) / scale, np.ones_like(z)])  # (n, 2)
    b = np.zeros(2)
    for _ in range(steps):
        q = expit(X @ b)
        w = q * (1 - q)
        hessian = (X * w[:, None]).T @ X + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, X.T @ (y - q))
        b += np.clip(step, -1.0, 1.0)  # far from the optimum a full step may overshoot
        if np.abs(step).max() < 1e-9:
            break
    slope = b[0] / scale
    return float(slope), float(b[1] - slope * centre)


def _pairs(y: ArrayLike, s: ArrayLike) -> tuple[Floats, Floats]:
    a = np.asarray(y, dtype=np.float64).reshape(-1)
    b = np.asarray(s, dtype=np.float64).reshape(-1)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} outcomes need as many predictions, but there are {b.size}")
    return a, b


# ---------------------------------------------------------------------------------- means and their noise


def mean(values: ArrayLike) -> float:
    """The arithmetic mean; nan of nothing.

    >>> mean([1, 2]), mean([])
    (1.5, nan)
    """
    v = np.asarray(values, dtype=np.float64)
    return float(v.mean()) if v.size else float("nan")


def clustered_standard_error(values: ArrayLike, clusters: ArrayLike) -> float:
    """Standard error of the mean of `values` whose members of one cluster depend on each other.

    The events of one user are not independent, so users are the clusters. For the difference of two models
    pass the differences of their values: the pairing takes most of the noise away.

    References
    ----------
    Cameron, A. C., Miller, D. L., 2015. A practitioner's guide to cluster-robust inference. J. Human
    Resources 50(2): the variance of a mean, with the factor G / (G − 1).

    >>> round(clustered_standard_error([1, 1, 0, 0], [7, 7, 8, 8]), 3)
    0.5
    >>> round(clustered_standard_error([1, 1, 0, 0], [1, 2, 3, 4]), 3)
    0.289
    """
    v = np.asarray(values, dtype=np.float64)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(cluster.max()) + 1 if v.size else 0
    if n_clusters < 2:
        return float("nan")
    sums = np.bincount(cluster, weights=v - v.mean())
    return float(np.sqrt(n_clusters / (n_clusters - 1) * (sums**2).sum()) / v.size)
