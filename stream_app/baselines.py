"""The recommenders to compare with, by name, each learning event by event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from stream_app.baseline import Baseline
from stream_app.baseline_counts import ClickRate, Popularity
from stream_app.baseline_factors import IncrementalMF, RiverBiasedMF
from stream_app.baseline_neighbours import ItemKNN, SessionKNN
from stream_app.errors import ConfigError
from stream_app.events import DEFAULT_WEIGHTS

__all__ = [
    "BASELINES",
    "Baseline",
    "ClickRate",
    "IncrementalMF",
    "ItemKNN",
    "Popularity",
    "RiverBiasedMF",
    "SessionKNN",
    "make_baselines",
]

DEFAULT_BASELINES = ("popularity", "item_knn", "river_biased_mf")

_MAKERS: dict[str, Callable[..., Baseline]] = {
    "popularity": lambda seed, **feedback: Popularity(**feedback),
    "popularity_fading": lambda seed, **feedback: Popularity(half_life=5_000, **feedback),
    "item_knn": lambda seed, **feedback: ItemKNN(**feedback),
    "session_knn": lambda seed, **feedback: SessionKNN(**feedback),
    "isgd": lambda seed, **feedback: IncrementalMF(seed=seed, **feedback),
    "river_biased_mf": lambda seed, **feedback: RiverBiasedMF(seed=seed, **feedback),
    "click_rate": lambda seed, **feedback: ClickRate(**feedback),
}

BASELINES = tuple(_MAKERS)
"""The names that `make_baselines` knows."""


def make_baselines(
    names: Iterable[str] = DEFAULT_BASELINES,
    *,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    rating_threshold: float = 4.0,
    seed: int = 0,
) -> dict[str, Baseline]:
    """Fresh baselines by name.

    Parameters
    ----------
    names
        Some of `BASELINES`.
    weights, rating_threshold
        What positive feedback is; see `stream_app.events.feedback`.
    seed
        Of the models that draw.

    Raises
    ------
    ConfigError
        A name is unknown.

    Examples
    --------
    >>> list(make_baselines(["popularity", "item_knn"]))
    ['popularity', 'item_knn']
    """
    made: dict[str, Baseline] = {}
    for name in names:
        if name not in _MAKERS:
            raise ConfigError(f"baselines: {name!r} is unknown; the baselines are {', '.join(BASELINES)}")
        made[name] = _MAKERS[name](seed, weights=weights, rating_threshold=rating_threshold)
    return made
