"""Well-known recommenders to compare with, each learning event by event.

All of them keep `Recommender`'s contract, so they see exactly what our own model sees. They share one
base, `Baseline`, which knows the items, what users have chosen, and how to rank; a baseline itself is a
`scores` and a `learn`. They are yardsticks: memory is not bounded.
"""

from __future__ import annotations

import abc
import bisect
from collections.abc import Mapping, Sequence

import numba as nb
import numpy as np
from numpy.typing import NDArray

from stream_app.events import DEFAULT_WEIGHTS, Event, Item, User, feedback

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Catalogue:
    """The items that events have named, numbered in the order of their first event.

    Examples
    --------
    >>> catalogue = Catalogue()
    >>> [catalogue.add(item_id) for item_id in ("b", "a", "b")]
    [0, 1, 0]
    >>> catalogue.ids, catalogue.text_order[:2].tolist()
    (['b', 'a'], [1, 0])
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.numbers: dict[str, int] = {}
        self.text_order = np.zeros(64, dtype=np.int64)  # (capacity,): each item's place when sorted by id
        self._sorted_ids: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, item_id: str) -> int:
        """The number of an item, which is new or not."""
        number = self.numbers.get(item_id)
        if number is not None:
            return number
        number = self.numbers[item_id] = len(self.ids)
        if number == self.text_order.size:
            self.text_order = np.concatenate([self.text_order, np.zeros_like(self.text_order)])
        place = bisect.bisect(self._sorted_ids, item_id)
        self._sorted_ids.insert(place, item_id)
        order = self.text_order[:number]
        order[order >= place] += 1
        self.text_order[number] = place
        self.ids.append(item_id)
        return number


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
        self.catalogue = Catalogue()
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
            item = self.catalogue.add(item_id)
            self.learn(event.user_id, item, event.event_time_ms)
            items = self.chosen.setdefault(event.user_id, {})
            items.pop(item, None)  # chosen again: it becomes the latest
            items[item] = None

    def recommend(
        self, user_id: str, event_time_ms: int, k: int, *, exclude_seen: bool = True
    ) -> Sequence[str]:
        """The ids of the `k` items with the highest scores, best first."""
        seen = self.chosen.get(user_id, {}) if exclude_seen else {}
        excluded = np.fromiter(seen, dtype=np.int64, count=len(seen))
        scores = self._all_scores(user_id, event_time_ms)
        best = top_k(scores, self.catalogue.text_order, excluded, k)
        return [self.catalogue.ids[i] for i in best]

    def score_items(
        self,
        user_id: str,
        item_ids: Sequence[str],
        event_time_ms: int,
        positions: Sequence[int] | None = None,
    ) -> Floats:
        """The scores of given items; an item without events has the score 0."""
        scores = self._all_scores(user_id, event_time_ms)
        numbers = [self.catalogue.numbers.get(item_id, -1) for item_id in item_ids]
        return np.array([scores[i] if i >= 0 else 0.0 for i in numbers])

    def _all_scores(self, user_id: str, event_time_ms: int) -> Floats:
        key = (user_id, event_time_ms, self._n_observed)
        if self._cached is None or self._cached[:3] != key:
            self._cached = (*key, self.scores(user_id, event_time_ms))
        return self._cached[3]

    @abc.abstractmethod
    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """One score for every known item, `(len(self.catalogue),)`; higher is better."""

    @abc.abstractmethod
    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Learn that the user chose the item with this number; `self.chosen` does not hold it yet."""


@nb.njit(cache=True, nogil=True)
def top_k(scores: Floats, text_order: Ints, excluded: Ints, k: int) -> Ints:
    """The numbers of the `k` best items, best first; equal scores in text order of their ids.

    Parameters
    ----------
    scores
        One score per item, `(n,)`; an item with nan or −∞ is never returned.
    text_order
        Each item's place when all ids are sorted, `(≥ n,)`.
    excluded
        Items that are left out, `(m,)`.
    k
        Length of the list.
    """
    allowed = np.ones(scores.size, dtype=np.bool_)
    for item in excluded:
        allowed[item] = False
    best = np.empty(min(k, scores.size), dtype=np.int64)
    n = 0
    for i in range(scores.size):
        if not allowed[i] or not scores[i] > -np.inf:
            continue
        place = n
        while place > 0:
            j = best[place - 1]
            if scores[j] > scores[i] or (scores[j] == scores[i] and text_order[j] < text_order[i]):
                break
            place -= 1
        if place == best.size:
            continue
        n = min(n + 1, best.size)
        for p in range(n - 1, place, -1):
            best[p] = best[p - 1]
        best[place] = i
    return best[:n]


def _grown(array: Floats, n: int) -> Floats:
    """The array with at least `n` rows: the same, or one of twice the size filled up with zeros."""
    while len(array) < n:
        array = np.concatenate([array, np.zeros_like(array)])
    return array


class Popularity(Baseline):
    """Ranks items by their number of choices, which may fade.

    Parameters
    ----------
    half_life
        After this many later choices, of any item, a choice counts half; None: it counts for ever.
    weights, rating_threshold
        As for `Baseline`.

    Examples
    --------
    >>> model = Popularity()
    >>> for n, item_id in enumerate(["a", "b", "b", "c"]):
    ...     model.observe(Event(str(n), "view_item", n, f"u{n}", item_id=item_id))
    >>> model.recommend("u9", 4, k=2)
    ['b', 'a']
    """

    def __init__(
        self,
        half_life: float | None = None,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
    ) -> None:
        super().__init__(weights, rating_threshold)
        self.half_life = half_life
        self._growth = 1.0 if half_life is None else 2.0 ** (1.0 / half_life)
        self._amount = 1.0  # of the next choice: newer ones count more instead of older ones less
        self._counts = np.zeros(64)

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """The number of choices of every item, in units of the latest one."""
        return self._counts[: len(self.catalogue)] / self._amount

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Count a choice."""
        self._counts = _grown(self._counts, item + 1)
        self._counts[item] += self._amount
        self._amount *= self._growth
        if self._amount > 1e100:
            self._counts *= 1e-100
            self._amount *= 1e-100
