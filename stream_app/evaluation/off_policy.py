"""What would another way of filling places have been worth? Estimates from logged lists.

Each logged place has the item that was shown, the probability with which it was drawn (its *propensity*, see
`stream_app.lists.exploring`), and a reward, 1 when the user chose it. Another policy would have shown the
same item there with the probability `target`. Two estimates of its mean reward per place::

    IPS     mean(w · r)           w = target / propensity      unbiased
    SNIPS   Σ(w · r) / Σ w                                     slightly biased, smaller variance

References
----------
Horvitz, D.G., Thompson, D.J., 1952. A generalization of sampling without replacement from a finite universe.
Swaminathan, A., Joachims, T., 2015. The self-normalized estimator for counterfactual learning. NIPS.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from stream_app.errors import InputError
from stream_app.events import Event


@dataclass(frozen=True)
class Estimate:
    """A policy's mean reward per place.

    Attributes
    ----------
    value
        The estimate.
    low, high
        Its confidence interval, from the normal distribution.
    n
        Logged places.
    effective
        (Σw)² / Σw²: as many places of the policy itself would tell as much.
    """

    value: float
    low: float
    high: float
    n: int
    effective: float


@dataclass(frozen=True)
class LoggedPlace:
    """One place of a list that was drawn for.

    Attributes
    ----------
    best
        The item that the ranking would have shown; `item` is what was shown.
    place
        From 1.
    reward
        1 when the user chose the item before the next list was made, else 0.
    """

    user_id: str
    item: str
    best: str
    place: int
    propensity: float
    reward: float = 0.0


def ips(
    rewards: ArrayLike, propensities: ArrayLike, targets: ArrayLike, *, confidence: float = 0.95
) -> Estimate:
    """Inverse propensity scoring.

    Parameters
    ----------
    rewards, propensities, targets
        Of each logged place, (n,): what it brought, how likely what was shown was, and how likely the other
        policy would have shown it.
    confidence
        Of the interval.

    Raises
    ------
    InputError
        If lengths differ, a propensity is not in (0, 1] or a target not in [0, 1].

    Examples
    --------
    >>> ips([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0]).value
    1.0
    """
    r, w = _weighted(rewards, propensities, targets)
    gain = w * r  # (n,)
    return _estimate(float(gain.mean()), gain - gain.mean(), w, confidence)


def snips(
    rewards: ArrayLike, propensities: ArrayLike, targets: ArrayLike, *, confidence: float = 0.95
) -> Estimate:
    """Self-normalised inverse propensity scoring; the interval comes from the delta method.

    Parameters and errors are those of `ips`. The value of a policy that would have shown
    nothing of the log is NaN.

    Examples
    --------
    >>> snips([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], [1, 0, 1, 1]).value
    0.6666666666666666
    """
    r, w = _weighted(rewards, propensities, targets)
    if not w.any():
        return Estimate(np.nan, np.nan, np.nan, len(w), 0.0)
    value = float((w * r).sum() / w.sum())
    return _estimate(value, w * (r - value) / w.mean(), w, confidence)


def _weighted(
    rewards: ArrayLike, propensities: ArrayLike, targets: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r, p, t = (np.asarray(x, np.float64) for x in (rewards, propensities, targets))
    if not (r.shape == p.shape == t.shape and r.ndim == 1 and len(r)):
        sizes = ", ".join(map(str, (r.size, p.size, t.size)))
        raise InputError(f"{sizes} rewards, propensities, targets: give as many of each, at least one")
    if not (np.isfinite(r).all() and ((p > 0) & (p <= 1)).all() and ((t >= 0) & (t <= 1)).all()):
        raise InputError("rewards must be finite, propensities in (0, 1], targets in [0, 1]")
    return r, t / p


def _estimate(
    value: float, influence: NDArray[np.float64], w: NDArray[np.float64], confidence: float
) -> Estimate:
    n = len(w)
    error = float(np.sqrt((influence**2).sum() / max(n - 1, 1) / n))
    half = error * float(stats.norm.ppf((1 + confidence) / 2))
    square = float((w**2).sum())
    return Estimate(value, value - half, value + half, n, float(w.sum() ** 2 / square) if square else 0.0)


def logged_places(
    exposures: Iterable[Mapping[str, Any]],
    events: Iterable[Event],
    *,
    is_choice: Callable[[Event], bool] = lambda event: event.event_type not in ("view_item_list", "refund"),
) -> list[LoggedPlace]:
    """Join the lists that were made with what their users did next.

    Parameters
    ----------
    exposures
        Lists as they are in Redis and in the topic of exposures, decoded, in the order of their making; of
        those of one user and event time the last one counts.
    events
        In order of time.
    is_choice
        Which events are choices; everything but impressions and refunds unless told otherwise.

    Returns
    -------
    The places that were drawn for, list by list; a choice counts for the latest list made before it.
    """
    lists: dict[tuple[str, int], Mapping[str, Any]] = {}
    for exposure in exposures:
        if exposure["event_time"] is not None:
            lists[exposure["user_id"], _milliseconds(exposure["event_time"])] = exposure
    choices: dict[str, list[tuple[int, str]]] = {}
    for event in events:
        if is_choice(event):
            of_user = choices.setdefault(event.user_id, [])
            of_user += [(event.event_time_ms, item) for item in event.item_ids()]
    by_user: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for (user_id, made_ms), exposure in sorted(lists.items(), key=lambda entry: entry[0]):
        by_user.setdefault(user_id, []).append((made_ms, exposure))
    found = []
    for user_id, made in by_user.items():
        ends = [*(made_ms for made_ms, _ in made[1:]), 2**62]
        for (start, exposure), end in zip(made, ends, strict=True):
            chosen = {item for at, item in choices.get(user_id, ()) if start < at <= end}
            for place, item in enumerate(exposure["items"], 1):
                if "propensity" in item:
                    shown = item["item_id"]
                    best = item.get("instead_of", shown)
                    found.append(
                        LoggedPlace(user_id, shown, best, place, item["propensity"], float(shown in chosen))
                    )
    return found


def _milliseconds(iso: str) -> int:
    return int(dt.datetime.fromisoformat(iso).timestamp() * 1000)
