"""The whole recommender in one object, without Kafka or Redis: observe, recommend, prune, go on.

It is what `recs evaluate` judges, and what a notebook would use. Every event is learned at once. With
compression, lists come from what workers serve: the promoted release under its overlay; without, from the
learner's own tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning import CircuitBreaker, Guard, Int8, Ledger, PruningAgent, SaliencyPruner
from stream_app.events import DEFAULT_WEIGHTS, Event, Item, User
from stream_app.model.budget import BUDGET, Budget
from stream_app.model.features import N_NUMBERS, POSITION, describe, gap_bucket
from stream_app.model.item_index import ItemIndex
from stream_app.model.learning import Learner, ranker_step, touched_since
from stream_app.model.releasing import Published, ReleaseCycle
from stream_app.model.retrieval import length_bucket
from stream_app.model.scoring import MOST_CANDIDATES, View, candidates_of, recall, score
from stream_app.model.served_model import (
    NO_MOVES,
    FreshWeights,
    ServedModel,
    bare_weights,
    empty_artefact,
    make_view,
)
from stream_app.recommender import Recommender

MOST_FRESH = 4_000_000  # weights over a release before they are collected anew


def default_agent(
    ledger: Ledger | None = None, *, tolerance: float = 5e-3, samples: int = 1_000, overlap: float = 0.9
) -> PruningAgent:
    """The pruning agent with this project's defaults: saliency, 8 bits, a guard on pairwise log loss.

    Parameters
    ----------
    tolerance, samples, overlap
        What the guard accepts: rise of the loss, examples at least, agreement of the top 10.
    """
    guard = Guard(tolerance=tolerance, min_samples=samples, min_overlap=overlap)
    return PruningAgent(SaliencyPruner(0.8), Int8(), guard, ledger, breaker=CircuitBreaker(failures=8))


class OnlineRecommender:
    """Learns from each event before the next one is asked about.

    Parameters
    ----------
    compress
        Serve pruned and quantized releases under an overlay instead of the learner's own tables.
    ranker
        A River classifier; the compiled `FTRLClassifier` unless told otherwise.
    learner
        The learner itself, which then has its ranker and its budget already.
    interval, first, samples
        Examples between proposals, before the first, and before the guard decides.
    lag
        Examples learned before what is served takes them over. Workers get an overlay every second, so a busy
        shop has hundreds in between. It is the same with compression and without, so that compression is
        all the difference.
    agent
        Prunes and judges, when compressing; `default_agent()` unless told otherwise.
    weights, rating_threshold
        What positive feedback is; see `stream_app.events.feedback`.
    budget
        How many items it remembers at most.

    Examples
    --------
    >>> online = OnlineRecommender()
    >>> for t in range(40):
    ...     online.observe(Event(str(t), "view_item", t * 1000, f"u{t % 7}", item_id=f"i{t % 5}"))
    >>> online.recommend("u9", 40_000, 3)
    ['i0', 'i1', 'i2']
    """

    def __init__(
        self,
        *,
        compress: bool = True,
        ranker: Any = None,
        learner: Learner | None = None,
        agent: PruningAgent | None = None,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
        interval: int = 10_000,
        first: int = 2_000,
        samples: int = 1_000,
        lag: int = 8,
        budget: Budget = BUDGET,
    ) -> None:
        self.learner = Learner(ranker, ItemIndex(budget)) if learner is None else learner
        self.recommender = Recommender(
            items=self.learner.items, weights=weights, rating_threshold=rating_threshold, max_users=1_000_000
        )
        self.cycle: ReleaseCycle | None = None
        width = self.recommender.model.width
        if compress:
            agent = default_agent(samples=samples) if agent is None else agent
            self.cycle = ReleaseCycle(self.learner, agent, width=width, interval=interval, first=first)
            self._lag = lag
            self._overlay_from = (0, 0)
        else:
            self.recommender.model = DenseModel(self.learner, width, lag)
        self._offset = 0

    def observe_item(self, item: Item) -> None:
        """Take over an item's description."""
        self.recommender.observe_item(item)
        if self.learner.items.is_crowded:
            self.learner.make_room(judge_touched=False)

    def observe_user(self, user: User) -> None:
        """Take over a user's description."""
        self.recommender.observe_user(user)

    def observe(self, event: Event) -> None:
        """Apply an event to its user, learn from it, and bring what is served up to date."""
        self._user(event.user_id)
        outcome = self.recommender.apply(0, [self._offset], [event], lists=False)
        self._offset += 1
        if outcome.examples is None:
            return
        self.learner.learn(outcome.examples)
        if self.cycle is not None:
            self.cycle.observe(outcome.examples)
            self._bring_up_to_date(self.cycle.active)

    def _bring_up_to_date(self, active: Published) -> None:
        """Serve the latest release, and what was learned since, unless that is less than `lag` examples."""
        model = self.recommender.model
        if active.version != model.version:
            model.load(active.release, active.version)
            self._overlay_from = (active.step, active.ranker_step)
        if model.fresh_weights > MOST_FRESH:  # some of them are of weights that the ranker has forgotten
            model.drop_fresh()
            self._overlay_from = (active.step, active.ranker_step)
        if self.learner.step - self._overlay_from[0] >= patience(self.learner.step, self._lag):
            model.apply(self.learner.overlay(*self._overlay_from, model.width))
            self._overlay_from = (self.learner.step, ranker_step(self.learner.ranker))

    def recommend(self, user_id: str, event_time_ms: int, k: int, *, exclude_seen: bool = True) -> list[str]:
        """The ids of the `k` best items for a user, best first.

        Choices are learned against what the last list could hold, so ask for lists of one kind.
        """
        self.recommender.again = not exclude_seen
        row = self._user(user_id)
        gaps = np.array([self._gap(row, event_time_ms)], np.uint8)
        rows = np.array([row], np.int32)
        items, _, counts = self.recommender.top(rows, gaps, k, exclude_seen=exclude_seen)
        return [self.learner.items.ids[i] for i in items[0, : counts[0]]]

    def score_items(
        self,
        user_id: str,
        item_ids: Sequence[str],
        event_time_ms: int,
        positions: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """One score for each of `item_ids`, (n,); `positions` are their places in a shown list, from 1.

        An item that nothing has named yet comes last; asking does not make it known.
        """
        row = self._user(user_id)
        numbers = [self.learner.items.find(item_id) for item_id in item_ids]
        known = np.array([n is not None for n in numbers], np.bool_)
        items = np.array([n for n in numbers if n is not None], np.int32)
        model, users = self.recommender.model, self.recommender.users.users
        view, scratch = model.view, model.scratch
        history = users.items[row, : users.length[row]]
        candidates_of(view, history, history, MOST_CANDIDATES, scratch)
        recall(view, users, row, users.offers[row], scratch)
        raw = np.empty((len(items), N_NUMBERS), np.float32)
        describe(items, history, view, scratch, raw)
        if positions is not None:
            raw[:, POSITION] = np.log1p(np.maximum(np.array(positions)[known] - 1, 0))
        out = np.empty(len(items), np.float32)
        bucket = length_bucket(len(history))
        gap, listed = self._gap(row, event_time_ms), positions is not None and has_learned_lists(view)
        score(view, items, raw, users.tokens[row], bucket, gap, scratch, out, listed)
        scores = np.full(len(item_ids), out.min(initial=0.0) - 1.0, np.float64)
        scores[known] = out
        return scores

    def _user(self, user_id: str) -> int:
        users = self.recommender.users
        return users.row(user_id) if user_id in users else users.load(user_id, None)

    def _gap(self, row: int, event_time_ms: int) -> int:
        return int(gap_bucket(event_time_ms, int(self.recommender.users.users.last_ms[row])))


def has_learned_lists(view: View) -> bool:
    """Whether lists that were shown were learned; before, their items are ranked as all others are."""
    return bool(view.weights.list_numbers.any())


def patience(step: int, lag: int) -> int:
    """How many examples may be learned before what is served takes them over: `lag`, fewer at the beginning.

    >>> [patience(step, 8) for step in (0, 99, 100, 350, 10_000)]
    [1, 1, 2, 4, 8]
    """
    return min(lag, 1 + step // 100)


class DenseModel(ServedModel):
    """The learner's own tables as a served model: nothing pruned, nothing quantized, nothing copied.

    Parameters
    ----------
    learner, width
        Whose tables, and neighbours per item where rows are exported.
    lag
        Examples learned before weights and pool, which cost a walk through all items, are taken over.
    """

    def __init__(self, learner: Learner, width: int, lag: int = 1) -> None:
        super().__init__(learner.items, width)
        self._learner = learner
        self._lag = lag
        self._weights = FreshWeights()
        self._weights_step = 0
        self._moves_step = -1
        self._none = empty_artefact()

    @property
    def view(self) -> View:
        """What kernels read: links and counters as of the last example, weights and pool a few older."""
        learner = self._learner
        is_due = learner.step - self.step >= patience(learner.step, self._lag)
        if self._view is None or is_due or not self._fits(self._view):
            learner.grow()
            if len(self._weights) > MOST_FRESH:
                self._weights, self._weights_step = FreshWeights(), 0
            self._weights.put(*touched_since(learner.ranker, self._weights_step))
            self._weights_step, self.step = ranker_step(learner.ranker), learner.step
            mean, inv_std = learner.moments.scaling()
            self._view = make_view(
                View(
                    learned=True,
                    graph=learner.graph,
                    neighbours=self._neighbours,
                    stats=learner.stats,
                    weights=bare_weights(self._none, self._weights, mean, inv_std),
                    item_tokens=self.items.tokens,
                    vocabulary=self.items.vocabulary,
                    measures=self.items.measures,
                    measure_tokens=self.items.measured.tokens,
                    servable=self.items.servable,
                    pool=learner.pool(),
                    step=learner.step,
                    moves=NO_MOVES,
                )
            )
        if self._moves_step != learner.step:  # what was kept of how items move is of another step
            self._view.moves[:, 0] = 0.0
            self._moves_step = learner.step
        return self._view._replace(graph=learner.graph, stats=learner.stats, step=learner.step)
