"""What all baselines share: numbered items, what users have chosen, ranking and the rule for ties.

A baseline is a `scores` and a `learn`. All of them keep the contract of `protocols.Recommender`, so they see
exactly what our own model sees. They are yardsticks: their memory is not bounded.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation.ranking import ItemNumbers, top_k
from stream_app.events import DEFAULT_WEIGHTS, Event, Item, User, feedback

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Baseline(abc.ABC):
    """What all baselines share; a subclass scores the known items and learns from one choice.

    Parameters
    ----------
    weights
        How much an event of each type says; see `stream_app.events.feedback`.
    rating_threshold
        From which value on a rating is positive feedback.
    """

    def __init__(self, weights: Mapping[str, float] = DEFAULT_WEIGHTS, rating_threshold: float = 4.0) -> None:
        self.weights = weights
        self.rating_threshold = rating_threshold
        self.items = ItemNumbers()
        self.chosen: dict[str, dict[int, None]] = {}  # user → numbers of chosen items, oldest first
        self._n_observed = 0
        self._cached: tuple[str, int, int, Floats] | None = None

    def observe_item(self, item: Item) -> None:  # noqa: B027
        """Nothing: baselines know items by events alone."""

    def observe_user(self, user: User) -> None:  # noqa: B027
        """Nothing: baselines know users by events alone."""

    def observe(self, event: Event) -> None:
        """Learn from the positive feedback of an event."""
        self._n_observed += 1
        for item_id, _ in feedback(event, self.weights, self.rating_threshold):
            item = self.items.add(item_id)
            self.learn(event.user_id, item, event.event_time_ms)
            chosen = self.chosen.setdefault(event.user_id, {})
            chosen.pop(item, None)  # chosen again: it becomes the latest
            chosen[item] = None

    def recommend(
        self, user_id: str, event_time_ms: int, k: int, *, exclude_seen: bool = True
    ) -> Sequence[str]:
        """The ids of the `k` items with the highest scores, best first."""
        seen = self.chosen.get(user_id, {}) if exclude_seen else {}
        excluded = np.fromiter(seen, dtype=np.int64, count=len(seen))
        scores = self._all_scores(user_id, event_time_ms)
        best = top_k(scores, self.items.text_order, excluded, k)
        return [self.items.ids[i] for i in best]

    def score_items(
        self,
        user_id: str,
        item_ids: Sequence[str],
        event_time_ms: int,
        positions: Sequence[int] | None = None,
    ) -> Floats:
        """The scores of given items."""
        scores = self._all_scores(user_id, event_time_ms)
        unknown = self.score_of_unknown(user_id)
        numbers = [self.items.numbers.get(item_id, -1) for item_id in item_ids]
        return np.array([scores[i] if i >= 0 else unknown for i in numbers], dtype=np.float64)

    def latest(self, user_id: str, n: int) -> Ints:
        """The numbers of the user's latest items, latest first, `(≤ n,)`."""
        return np.fromiter(islice(reversed(self.chosen.get(user_id, {})), n), dtype=np.int64)

    def _all_scores(self, user_id: str, event_time_ms: int) -> Floats:
        key = (user_id, event_time_ms, self._n_observed)
        if self._cached is None or self._cached[:3] != key:
            self._cached = (*key, self.scores(user_id, event_time_ms))
        return self._cached[3]

    def score_of_unknown(self, user_id: str) -> float:
        """The score of an item that nobody has chosen."""
        return 0.0

    @abc.abstractmethod
    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """One score for every known item, `(len(self.items),)`; higher is better."""

    @abc.abstractmethod
    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Learn that the user chose the item with this number; `self.chosen` does not hold it yet."""


def grown(array: Floats, n: int) -> Floats:
    """The array with at least `n` rows: the same, or one of twice the size filled up with zeros.

    >>> grown(np.ones(2), 3)
    array([1., 1., 0., 0.])
    """
    while len(array) < n:
        array = np.concatenate([array, np.zeros_like(array)])
    return array
