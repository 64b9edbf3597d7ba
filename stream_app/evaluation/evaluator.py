"""Prequential evaluation: every model answers the plan's questions, then learns, event by event.

    records ──make_plan──▶ Plan ──run (once per model)──▶ Answers ──evaluate──▶ EvaluationReport

See `plan` for what is asked and `protocols` for what a model must offer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation import metrics
from stream_app.evaluation.examination import Answers, run
from stream_app.evaluation.notes import notes_of
from stream_app.evaluation.pictures import plot
from stream_app.evaluation.plan import Plan, make_plan
from stream_app.evaluation.protocols import Recommender
from stream_app.evaluation.report import EvaluationReport, ModelQuality
from stream_app.evaluation.stream_order import Record
from stream_app.evaluation.views import render
from stream_app.events import DEFAULT_WEIGHTS, Event

__all__ = ["EvaluationReport", "ModelQuality", "evaluate", "plot", "render"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Progress = Callable[[str, int, int], None]
"""Called with the name of the model, the records done and all records."""

HISTORY_EDGES = (0, 1, 4, 12, 40)  # items a user chose before: new, short … long
NEW_ITEM_EVENTS = 10
CURVE_BINS = 100


def evaluate(
    records: Iterable[Record],
    models: Mapping[str, Recommender],
    *,
    k: int = 10,
    exclude_seen: bool = True,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    rating_threshold: float = 4.0,
    shuffle: bool | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> EvaluationReport:
    """Test and teach each model on the same stream, and report how good it was.

    Parameters
    ----------
    records
        Events, items and users as `stream_app.formats.read` yields them. Events that are out of time order
        are sorted, and counted.
    models
        Name → a model that has learned nothing yet. It is trained by the evaluation.
    k
        Length of the lists.
    exclude_seen
        Items the user already chose are not recommended and such events are not scored; False scores them.
    weights, rating_threshold
        What positive feedback is; see `stream_app.events.feedback`.
    shuffle
        Whether to draw the order of one user's events with equal times by lot; None decides by the data.
    seed
        Of those lots and of the sampled negatives that AUC and logloss need.
    progress
        Called now and then.
    clock
        Seconds, for the durations in the report.

    Examples
    --------
    >>> from stream_app.evaluation.baselines import Popularity
    >>> views = [Event(str(t), "view_item", t * 1000, f"u{t % 7}", item_id=f"i{t % 3}") for t in range(21)]
    >>> report = evaluate(views, {"popularity": Popularity()}, k=2)
    >>> report.tests, report.models["popularity"].metrics["recall@2"]
    (21, 0.809...)
    """
    if k < 1:
        raise ValueError(f"k is {k}; a list has at least one place")
    started = clock()
    plan = make_plan(
        records,
        exclude_seen=exclude_seen,
        weights=weights,
        rating_threshold=rating_threshold,
        shuffle=shuffle,
        seed=seed,
    )
    slices = slice_masks(plan)
    qualities: dict[str, ModelQuality] = {}
    for name, model in models.items():
        tell = None if progress is None else (lambda done, n, name=name: progress(name, done, n))
        answers = run(model, plan, k=k, exclude_seen=exclude_seen, progress=tell, clock=clock)
        qualities[name] = _quality(plan, answers, slices, k)
    return EvaluationReport(
        events=plan.n_events,
        users=plan.n_users,
        items=plan.n_items,
        seconds=clock() - started,
        k=k,
        exclude_seen=exclude_seen,
        seed=seed,
        tests=plan.n_tests,
        first_time=int((~plan.is_known).sum()),
        repeated=plan.n_repeated,
        impressions=len(plan.impressions),
        impression_reference=_impression_reference(plan, k),
        out_of_order=plan.n_out_of_order,
        shuffled=plan.n_shuffled,
        notes=notes_of(plan, k),
        curve_events=_curve_events(plan, plan.event),
        shown_curve_events=_curve_events(plan, np.array(sorted(plan.impressions), np.int64)),
        models=qualities,
        test_users=plan.user,
    )


# ---------------------------------------------------------------------------------- from answers to quality


def slice_masks(plan: Plan) -> dict[str, Bools]:
    """Parts of the tests that are reported on their own: name → `(n,)`.

    Head items are the most chosen ones that together have half of the tests; the tail is the rest.
    """
    masks: dict[str, Bools] = {}
    for low, high in zip(HISTORY_EDGES, (*HISTORY_EDGES[1:], None), strict=True):
        in_range = plan.history >= low
        if high is None:
            masks[f"history {low}+"] = in_range
        else:
            name = f"history {low}" if high == low + 1 else f"history {low}–{high - 1}"
            masks[name] = in_range & (plan.history < high)
    is_new = plan.item_count < NEW_ITEM_EVENTS
    masks["item first time"] = ~plan.is_known
    masks[f"item new (< {NEW_ITEM_EVENTS} events)"] = plan.is_known & is_new
    masks["item old"] = plan.is_known & ~is_new
    is_head = _is_head(plan)
    masks["item head"] = is_head
    masks["item tail"] = ~is_head
    for event_type in sorted(set(plan.event_type.tolist())):
        masks[f"event {event_type}"] = plan.event_type == event_type
    return masks


def _is_head(plan: Plan) -> Bools:
    items = [q.item_id for questions in plan.questions.values() for q in questions]
    if not items:
        return np.zeros(0, dtype=np.bool_)
    _, item, count = np.unique(np.array(items), return_inverse=True, return_counts=True)
    order = np.argsort(-count, kind="stable")
    before = np.cumsum(count[order]) - count[order]
    head = np.zeros(count.size, dtype=np.bool_)
    head[order] = before < 0.5 * count.sum()
    return head[item]


def _curve_bins(n: int) -> list[Ints]:
    return [b for b in np.array_split(np.arange(n), CURVE_BINS) if b.size]


def _curve_events(plan: Plan, asked: Ints) -> tuple[int, ...]:
    """The number of events up to the last question of each part of a curve.

    Parameters
    ----------
    asked
        Index of the record of each question, `(n,)`, rising.
    """
    n_events = np.cumsum([isinstance(record, Event) for record in plan.records])
    return tuple(int(n_events[asked[b[-1]]]) for b in _curve_bins(len(asked)))


def _impression_reference(plan: Plan, k: int) -> dict[str, float]:
    """NDCG of the order in which the shop showed the lists, and of a random order."""
    shown, drawn = [], []
    for impression in plan.impressions.values():
        relevant = [item_id in impression.clicked for item_id in impression.item_ids]
        order = np.argsort(impression.positions, kind="stable")
        shown.append(metrics.ndcg_of_list(np.array(relevant)[order], k))
        drawn.append(metrics.random_ndcg(sum(relevant), len(relevant), k))
    return {"as_shown": metrics.mean(shown), "random": metrics.mean(drawn)} if shown else {}


def _quality(plan: Plan, answers: Answers, slices: Mapping[str, Bools], k: int) -> ModelQuality:
    rank = answers.rank
    second_half, last_fifth = (_latest(plan, answers, part, k) for part in (2, 5))
    values = {
        f"recall@{k}": metrics.recall_at_k(rank, k),
        f"ndcg@{k}": metrics.ndcg_at_k(rank, k),
        f"mrr@{k}": metrics.mrr_at_k(rank, k),
        f"hit_rate@{k}": metrics.hit_rate_at_k(rank, plan.event, k),
        f"recall@{k}_se": metrics.clustered_standard_error(metrics.hits(rank, k), plan.user),
        f"ndcg@{k}_se": metrics.clustered_standard_error(metrics.gains(rank, k), plan.user),
        f"coverage@{k}": _coverage(plan, answers),
        f"novelty@{k}": metrics.mean(answers.novelty[~np.isnan(answers.novelty)]),
        "auc": metrics.pairwise_auc(answers.score[:, 0], answers.score[:, 1]),
        **_probability_metrics(answers),
    }
    if plan.impressions:
        values[f"impression_ndcg@{k}"] = metrics.mean(answers.impression_ndcg)
    bins = _curve_bins(plan.n_tests)
    curve = {
        f"recall@{k}": tuple(metrics.recall_at_k(rank[b], k) for b in bins),
        f"ndcg@{k}": tuple(metrics.ndcg_at_k(rank[b], k) for b in bins),
    }
    if plan.impressions:
        shown = answers.impression_ndcg
        curve[f"impression_ndcg@{k}"] = tuple(metrics.mean(shown[b]) for b in _curve_bins(len(shown)))
    return ModelQuality(
        metrics=values,
        second_half=second_half,
        last_fifth=last_fifth,
        conservative=_ranking(rank[plan.is_first_of_second], k),
        slices={name: _ranking(rank[mask], k) for name, mask in slices.items()},
        curve=curve,
        dropped=answers.dropped,
        seconds=answers.seconds,
        ranks=rank,
    )


def _latest(plan: Plan, answers: Answers, part: int, k: int) -> dict[str, float]:
    """Quality in the last `part`-th of the tests, and of the shown lists."""
    shown = answers.impression_ndcg
    values = _ranking(answers.rank[plan.n_tests - plan.n_tests // part :], k)
    if plan.impressions:
        values[f"impression_ndcg@{k}"] = metrics.mean(shown[len(shown) - len(shown) // part :])
    return values


def _ranking(rank: Ints, k: int) -> dict[str, float]:
    return {
        "tests": float(rank.size),
        f"recall@{k}": metrics.recall_at_k(rank, k),
        f"ndcg@{k}": metrics.ndcg_at_k(rank, k),
    }


def _coverage(plan: Plan, answers: Answers) -> float:
    named = {i for record in plan.records if isinstance(record, Event) for i in record.item_ids()}
    return len(answers.recommended & named) / len(named) if named else float("nan")


def _probability_metrics(answers: Answers) -> dict[str, float]:
    """Logloss and calibration of the scores as probabilities, and of the model's own probabilities."""
    found = {}
    for own, proba in (("", metrics.probabilities_of_scores(answers.score)), ("own_", answers.proba)):
        y, p = _labelled(proba)
        calibration = metrics.calibration(y, p)
        found[f"{own}logloss"] = metrics.log_loss(y, p)
        found[f"{own}ece"] = calibration.ece
        found[f"{own}calibration_slope"] = calibration.slope
    return found


def _labelled(proba: Floats) -> tuple[Floats, Floats]:
    """Outcomes and probabilities of all items that have one: right items, then negatives, `(≤ 2n,)` each."""
    p = proba.T.reshape(-1)
    y = np.repeat([1.0, 0.0], len(proba))
    return y[~np.isnan(p)], p[~np.isnan(p)]
