"""The result of an evaluation: a frozen value that can be compared and written as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation import metrics

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """How good one model was.

    Attributes
    ----------
    metrics
        Name → value over all tests; nan where the model could not be asked. Names ending in ``_se`` are
        standard errors, with users as clusters.
    second_half, last_fifth, conservative
        The ranking metrics over the second half of the tests, over their last fifth, and over the first event
        of each user's second; in the first two, also those of the shown lists.
    slices
        Name of a part of the tests → its ranking metrics.
    curve
        Name of a metric → its value in each of up to 100 equal parts of the tests, or of the shown lists, in
        order.
    dropped
        Places of lists that went to items that were seen, named twice, or beyond k.
    seconds
        Time the model took to answer and learn everything.
    ranks
        The place of the right item in each list, `(n,)`; `metrics.ABSENT` where it was not in it.
    """

    metrics: Mapping[str, float]
    second_half: Mapping[str, float]
    last_fifth: Mapping[str, float]
    conservative: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    curve: Mapping[str, tuple[float, ...]]
    dropped: int
    seconds: float
    ranks: Ints = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model beats another on the same tests, and how sure that is."""

    value: float
    standard_error: float

    @property
    def z(self) -> float:
        """The difference in standard errors; beyond ±2 it is unlikely to be noise."""
        return self.value / self.standard_error if self.standard_error > 0 else math.nan


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What `stream_app.evaluation.evaluator.evaluate` found out.

    Attributes
    ----------
    events, users, items
        Events of the stream, their users and the items they name.
    seconds
        Time of everything.
    k, exclude_seen, seed
        As asked for.
    tests, first_time
        Tests, and those of them that no model could pass because nothing had named the item before.
    repeated
        Positive feedback on seen items, which was learned but not tested.
    impressions
        Shown lists with at least one later click.
    impression_reference
        NDCG of those lists as the shop showed them and in random order; empty without impressions.
    out_of_order, shuffled
        Events that were sorted to their place, and events with equal times whose order was drawn by lot.
    notes
        What is odd about the stream, and what was done about it; see `notes.notes_of`.
    curve_events, shown_curve_events
        The number of events up to the end of each part of the curves of the tests, and of the shown lists.
    models
        Name → quality.
    test_users
        Number of the user of each test, `(n,)`.
    """

    events: int
    users: int
    items: int
    seconds: float
    k: int
    exclude_seen: bool
    seed: int
    tests: int
    first_time: int
    repeated: int
    impressions: int
    impression_reference: Mapping[str, float]
    out_of_order: int
    shuffled: int
    notes: tuple[str, ...]
    curve_events: tuple[int, ...]
    shown_curve_events: tuple[int, ...]
    models: Mapping[str, ModelQuality]
    test_users: Ints = field(repr=False, compare=False)

    def difference(self, a: str, b: str, metric: str = "ndcg") -> Difference:
        """By how much model `a` beats model `b`, paired test by test.

        Parameters
        ----------
        a, b
            Names of models.
        metric
            ``ndcg`` or ``recall``.
        """
        value_of = {"ndcg": metrics.gains, "recall": metrics.hits}[metric]
        delta = value_of(self.models[a].ranks, self.k) - value_of(self.models[b].ranks, self.k)
        return Difference(metrics.mean(delta), metrics.clustered_standard_error(delta, self.test_users))

    def differences(self) -> dict[str, Difference]:
        """By how much the first model beats each other one, in NDCG; name of the other → difference."""
        first, *others = self.models or ("",)
        return {name: self.difference(first, name) for name in others}

    def with_note(self, note: str) -> EvaluationReport:
        """The same report with one more note: what the caller knows of the stream."""
        return replace(self, notes=(*self.notes, note))

    def to_json_object(self) -> dict[str, Any]:
        """The report as plain values; nan becomes None.

        The keys that ``recs evaluate --json`` promises are at the top level of the object and of each
        model; the rest explains them. ``differences`` are those of the first model from each other one.
        """
        counts = ("tests", "first_time", "repeated", "impressions", "out_of_order", "shuffled")
        return {
            "events": self.events,
            "users": self.users,
            "items": self.items,
            "seconds": round(self.seconds, 3),
            "models": {name: _plain(_model_object(quality)) for name, quality in self.models.items()},
            "protocol": {
                "k": self.k,
                "exclude_seen": self.exclude_seen,
                "seed": self.seed,
                **{name: getattr(self, name) for name in counts},
            },
            "differences": {
                name: _plain({f"ndcg@{self.k}": d.value, f"ndcg@{self.k}_se": d.standard_error})
                for name, d in self.differences().items()
            },
            "impression_reference": _plain(dict(self.impression_reference)),
            "notes": list(self.notes),
            "curve_events": list(self.curve_events),
            "shown_curve_events": list(self.shown_curve_events),
        }


def _model_object(quality: ModelQuality) -> dict[str, Any]:
    return {
        **quality.metrics,
        "second_half": dict(quality.second_half),
        "last_fifth": dict(quality.last_fifth),
        "conservative": dict(quality.conservative),
        "slices": {name: dict(values) for name, values in quality.slices.items()},
        "curve": {name: list(values) for name, values in quality.curve.items()},
        "dropped": quality.dropped,
        "seconds": round(quality.seconds, 3),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
