"""One model goes through a plan: it answers each question, then learns the event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation import metrics
from stream_app.evaluation.plan import Impression, Plan, Question
from stream_app.evaluation.protocols import ProbabilityModel, Recommender, Scorer
from stream_app.events import Event, Item

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PROGRESS_EVERY = 500  # records


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model answered to a plan.

    Attributes
    ----------
    rank
        Place of the right item in the list, from 0, or `metrics.ABSENT`, `(n,)`.
    score
        Scores of the right item and of the sampled negative, `(n, 2)`; nan without a `Scorer`.
    proba
        Their probabilities, `(n, 2)`; nan without a `ProbabilityModel`.
    novelty
        Mean self-information of each list in bits, `(number of lists,)`; nan for an empty list.
    impression_ndcg
        NDCG of each impression, `(number of impressions,)`; empty without a `Scorer`.
    recommended
        The items that were in any list.
    dropped
        Places of lists that went to an item that was seen, named twice, or beyond `k`.
    seconds
        Time of the whole run.
    """

    rank: Ints
    score: Floats
    proba: Floats
    novelty: Floats
    impression_ndcg: Floats
    recommended: frozenset[str]
    dropped: int
    seconds: float


def run(
    model: Recommender,
    plan: Plan,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Answers:
    """Ask a model the plan's questions in order and teach it each event after its questions.

    An exception of the model passes through, with a note that names the event.
    """
    started = clock()
    examiner = _Examiner(model, plan.n_tests, k, exclude_seen)
    for index, record in enumerate(plan.records):
        if progress is not None and index % _PROGRESS_EVERY == 0:
            progress(index, len(plan.records))
        if isinstance(record, Item):
            model.observe_item(record)
        elif not isinstance(record, Event):
            model.observe_user(record)
        else:
            try:
                examiner.ask(record, plan.questions.get(index, ()))
                examiner.ask_impression(record, plan.impressions.get(index))
                model.observe(record)
            except Exception as error:
                error.add_note(f"while {type(model).__name__} was evaluated at event {record.event_id!r}")
                raise
    if progress is not None:
        progress(len(plan.records), len(plan.records))
    return examiner.answers(clock() - started)


class _Examiner:
    """Asks one model and keeps its answers."""

    def __init__(self, model: Recommender, n_tests: int, k: int, exclude_seen: bool) -> None:
        self.model = model
        self.scorer = model if isinstance(model, Scorer) else None
        self.probability_model = model if isinstance(model, ProbabilityModel) else None
        self.k = k
        self.exclude_seen = exclude_seen
        self.rank = np.full(n_tests, metrics.ABSENT, dtype=np.int64)
        self.score = np.full((n_tests, 2), np.nan)
        self.proba = np.full((n_tests, 2), np.nan)
        self.novelty: list[float] = []
        self.impression_ndcg: list[float] = []
        self.recommended: set[str] = set()
        self.dropped = 0
        self.n_asked = 0
        self.seen: dict[str, set[str]] = {}  # user → items of earlier tests
        self.counts: dict[str, int] = {}  # item → earlier tests

    def ask(self, event: Event, questions: Sequence[Question]) -> None:
        if not questions:
            return
        seen = self.seen.setdefault(event.user_id, set())
        ranked = self._ranked(event, seen)
        places = {item_id: place for place, item_id in enumerate(ranked)}
        for n, q in enumerate(questions, start=self.n_asked):
            if q.is_known:
                self.rank[n] = places.get(q.item_id, metrics.ABSENT)
            if q.negative_id is not None:
                self._compare(n, event, [q.item_id, q.negative_id])
        counts = [self.counts.get(item_id, 0) for item_id in ranked]
        self.novelty.append(metrics.mean(metrics.self_information(counts, self.n_asked)))
        self.n_asked += len(questions)
        for q in questions:
            seen.add(q.item_id)
            self.counts[q.item_id] = self.counts.get(q.item_id, 0) + 1

    def _ranked(self, event: Event, seen: set[str]) -> list[str]:
        """The model's list without what must not be in it: seen items, repeated ones, places beyond k."""
        answer = self.model.recommend(
            event.user_id, event.event_time_ms, self.k, exclude_seen=self.exclude_seen
        )
        excluded = seen if self.exclude_seen else ()
        ranked = [item_id for item_id in dict.fromkeys(answer) if item_id not in excluded][: self.k]
        self.dropped += len(answer) - len(ranked)
        self.recommended.update(ranked)
        return ranked

    def _compare(self, n: int, event: Event, pair: Sequence[str]) -> None:
        if self.scorer is not None:
            self.score[n] = self.scorer.score_items(event.user_id, pair, event.event_time_ms)
        if self.probability_model is not None:
            self.proba[n] = self.probability_model.predict_proba(event.user_id, pair, event.event_time_ms)

    def ask_impression(self, event: Event, impression: Impression | None) -> None:
        if impression is None or self.scorer is None:
            return
        scores = self.scorer.score_items(
            event.user_id, impression.item_ids, event.event_time_ms, impression.positions
        )
        order = metrics.order_by_score(scores, impression.item_ids)
        relevant = [impression.item_ids[i] in impression.clicked for i in order]
        self.impression_ndcg.append(metrics.ndcg_of_list(relevant, self.k))

    def answers(self, seconds: float) -> Answers:
        return Answers(
            rank=self.rank,
            score=self.score,
            proba=self.proba,
            novelty=np.array(self.novelty, dtype=np.float64),
            impression_ndcg=np.array(self.impression_ndcg, dtype=np.float64),
            recommended=frozenset(self.recommended),
            dropped=self.dropped,
            seconds=seconds,
        )
