"""The recommenders to compare with, by name, each learning event by event."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stream_app.evaluation.baseline import Baseline
from stream_app.evaluation.baseline_counts import ClickRate, Popularity
from stream_app.evaluation.baseline_factors import IncrementalMF, RiverBiasedMF
from stream_app.evaluation.baseline_neighbours import ItemKNN, SessionKNN

__all__ = [
    "BASELINES",
    "Baseline",
    "ClickRate",
    "IncrementalMF",
    "ItemKNN",
    "Popularity",
    "RiverBiasedMF",
    "SessionKNN",
]

BASELINES: Mapping[str, Callable[[], Baseline]] = {
    "popularity": Popularity,
    "popularity_fading": lambda: Popularity(half_life=5_000),
    "item_knn": ItemKNN,
    "session_knn": SessionKNN,
    "incremental_mf": IncrementalMF,
    "river_biased_mf": RiverBiasedMF,
    "click_rate": ClickRate,
}
"""Name → what makes a fresh baseline with its default parameters."""
