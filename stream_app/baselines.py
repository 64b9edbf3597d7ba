"""Well-known recommenders to compare with, each learning event by event.

All of them keep `Recommender`'s contract, so they see exactly what our own model sees. They share one
base, `Baseline`, which knows the items, what users have chosen, and how to rank; a baseline itself is a
`scores` and a `learn`. They are yardsticks: memory is not bounded.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from river import optim, reco

from stream_app import sparse_rows
from stream_app.events import DEFAULT_WEIGHTS, Event, Item, User, feedback
from stream_app.ranking import ItemNumbers, top_k

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
        return self._counts[: len(self.items)] / self._amount

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Count a choice."""
        self._counts = _grown(self._counts, item + 1)
        self._counts[item] += self._amount
        self._amount *= self._growth
        if self._amount > 1e100:
            self._counts *= 1e-100
            self._amount *= 1e-100


class ClickRate(Baseline):
    """Ranks items by the share of their showings that were clicked, smoothed towards the share of all items.

    It is the baseline for streams with impressions (``view_item_list``): positive feedback counts as a click.
    Without impressions it ranks like popularity.

    Parameters
    ----------
    prior_showings
        How many showings at the share of all items each item starts with.
    weights, rating_threshold
        As for `Baseline`.
    """

    def __init__(
        self,
        prior_showings: float = 10.0,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
    ) -> None:
        super().__init__(weights, rating_threshold)
        self.prior_showings = prior_showings
        self._clicks = np.zeros(64)
        self._showings = np.zeros(64)

    def observe(self, event: Event) -> None:
        """Count showings, and clicks."""
        if event.event_type == "view_item_list":
            for item_id in event.item_ids():
                item = self.items.add(item_id)
                self._showings = _grown(self._showings, item + 1)
                self._showings[item] += 1
        super().observe(event)

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """(clicks + m·r) / (showings + m), m being `prior_showings` and r the share of all items."""
        n = len(self.items)
        self._clicks, self._showings = _grown(self._clicks, n), _grown(self._showings, n)
        prior = self.prior_showings * self._rate()
        return (self._clicks[:n] + prior) / (self._showings[:n] + self.prior_showings)

    def score_of_unknown(self, user_id: str) -> float:
        """The share of all items."""
        return self._rate()

    def _rate(self) -> float:
        return float((self._clicks.sum() + 1.0) / (self._showings.sum() + 2.0))

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Count a click."""
        self._clicks = _grown(self._clicks, item + 1)
        self._clicks[item] += 1


class ItemKNN(Baseline):
    """Ranks items by how often they were chosen soon before or after what the user chose.

    Each choice of item i adds d^n to the weights c[j, i] and c[i, j] of the n-th latest item j of the user,
    counted from 0. The score of i is the sum of d^n · c[j, i] over the same items, divided by
    √(1 + choices of i). A user without choices gets the most popular items.

    Parameters
    ----------
    history
        How many of the latest items count.
    decay
        d, between 0 and 1.
    weights, rating_threshold
        As for `Baseline`.

    Examples
    --------
    >>> model = ItemKNN()
    >>> for n, (user_id, item_id) in enumerate(["ua", "ub", "va", "vb", "wa", "xc"]):
    ...     model.observe(Event(str(n), "view_item", n, user_id, item_id=item_id))
    >>> model.recommend("w", 6, k=2)
    ['b', 'c']
    """

    def __init__(
        self,
        history: int = 50,
        decay: float = 0.9,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
    ) -> None:
        super().__init__(weights, rating_threshold)
        self.history = history
        self.decay = decay
        self._fade = np.asarray(decay ** np.arange(history), dtype=np.float64)
        self._together = sparse_rows.SparseRows()
        self._counts = np.zeros(64)

    def _latest(self, user_id: str) -> Ints:
        """The numbers of the user's latest items, latest first, `(≤ history,)`."""
        return np.fromiter(islice(reversed(self.chosen.get(user_id, {})), self.history), dtype=np.int64)

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """Weighted sums of co-occurrence; the number of choices for a user without any."""
        n = len(self.items)
        counts = self._counts[:n]
        latest = self._latest(user_id)
        if latest.size == 0:
            return counts.copy()
        return self._together.weighted_sum(latest, self._fade[: latest.size], n) / np.sqrt(1.0 + counts)

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Add to the weights between the item and what the user chose before."""
        latest = self._latest(user_id)
        others = latest != item
        self._together.add_symmetric(item, latest[others], self._fade[: latest.size][others])
        self._counts = _grown(self._counts, item + 1)
        self._counts[item] += 1


class _FactorTable:
    """A growing table of latent vectors: a row for each key, drawn when the key is new."""

    def __init__(self, n_factors: int, sigma: float, rng: np.random.Generator) -> None:
        self.rows: dict[str, int] = {}
        self.values = np.zeros((64, n_factors))
        self._sigma = sigma
        self._rng = rng

    def row(self, key: str) -> int:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = len(self.rows)
            self.values = _grown(self.values, row + 1)
            self.values[row] = self._rng.normal(0.0, self._sigma, self.values.shape[1])
        return row


class IncrementalMF(Baseline):
    """ISGD: matrix factorization of positive feedback alone, one gradient step per choice.

    The score of item i for user u is pᵤ·qᵢ; a choice moves both vectors towards a score of 1. A user without
    choices gets the most popular items.

    Parameters
    ----------
    n_factors
        Length of the vectors.
    learning_rate, l2
        Step size and weight decay of the gradient steps.
    sigma
        Standard deviation of new vectors.
    seed
        Of new vectors.
    weights, rating_threshold
        As for `Baseline`.

    References
    ----------
    Vinagre, J., Jorge, A. M., Gama, J., 2014. Fast incremental matrix factorization for recommendation with
    positive-only feedback. UMAP, algorithm 1.
    """

    def __init__(
        self,
        *,
        n_factors: int = 50,
        learning_rate: float = 0.05,
        l2: float = 0.01,
        sigma: float = 0.1,
        seed: int = 0,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
    ) -> None:
        super().__init__(weights, rating_threshold)
        self.learning_rate = learning_rate
        self.l2 = l2
        rng = np.random.default_rng(seed)
        self._users = _FactorTable(n_factors, sigma, rng)
        self._item_factors = _FactorTable(n_factors, sigma, rng)
        self._counts = np.zeros(64)

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """pᵤ·qᵢ for every item; the number of choices for a user without any."""
        n = len(self.items)
        row = self._users.rows.get(user_id)
        if row is None:
            return self._counts[:n].copy()
        return np.asarray(self._item_factors.values[:n] @ self._users.values[row])

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """One step towards a score of 1."""
        i = self._item_factors.row(self.items.ids[item])  # = item: both count in order of arrival
        u = self._users.row(user_id)
        p, q = self._users.values[u], self._item_factors.values[i]
        error = 1.0 - p @ q
        p += self.learning_rate * (error * q - self.l2 * p)
        q += self.learning_rate * (error * p - self.l2 * q)
        self._counts = _grown(self._counts, item + 1)
        self._counts[item] += 1


class RiverBiasedMF(Baseline):
    """River's `reco.BiasedMF`, taught 1 for each choice and 0 for items drawn uniformly.

    Its prediction is a regression on that label and so, clipped, a probability. Scores are read from
    River's own tables, for all items at once, and equal `predict_one`.

    Parameters
    ----------
    n_factors, learning_rate_bias, learning_rate_latent, l2
        Of the factorization. The defaults, with `negatives`, were the best of fifteen settings on
        MovieLens 100K.
    negatives
        Items that are drawn per choice, from those the user has not chosen.
    seed
        Of the drawn items and of new latent vectors.
    weights, rating_threshold
        As for `Baseline`.
    """

    def __init__(
        self,
        *,
        n_factors: int = 10,
        learning_rate_bias: float = 0.01,
        learning_rate_latent: float = 0.15,
        l2: float = 0.0,
        negatives: int = 4,
        seed: int = 0,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
    ) -> None:
        super().__init__(weights, rating_threshold)
        self.negatives = negatives
        self.model = reco.BiasedMF(
            n_factors=n_factors,
            bias_optimizer=optim.SGD(learning_rate_bias),
            latent_optimizer=optim.SGD(learning_rate_latent),
            latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=seed),
            l2_bias=l2,
            l2_latent=l2,
        )
        self._rng = np.random.default_rng(seed)
        self._biases = np.zeros(64)
        self._latents = np.zeros((64, n_factors))

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """What `predict_one` says for every item; an unknown user has no bias and no latent vector."""
        n = len(self.items)
        scores = self.score_of_unknown(user_id) + self._biases[:n]
        latent = self.model.u_latents.get(user_id)  # get: reading by key would create a random vector
        return scores if latent is None else scores + self._latents[:n] @ latent

    def score_of_unknown(self, user_id: str) -> float:
        """The mean label plus the user's bias."""
        return float(self.model.global_mean.get() + self.model.u_biases.get(user_id, 0.0))

    def predict_proba(self, user_id: str, item_ids: Sequence[str], event_time_ms: int) -> Floats:
        """The scores as probabilities, for one drawn item per choice instead of `negatives`."""
        p = np.clip(self.score_items(user_id, item_ids, event_time_ms), 0.01, 0.99)
        return np.asarray(self.negatives * p / (self.negatives * p + 1.0 - p))

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """One step towards 1 for the item, and towards 0 for each drawn one."""
        self._learn_one(user_id, item, 1.0)
        taken = {item, *self.chosen.get(user_id, ())}
        n_drawn = self.negatives if len(taken) < len(self.items) else 0
        while n_drawn > 0:
            drawn = int(self._rng.integers(len(self.items)))
            if drawn not in taken:
                self._learn_one(user_id, drawn, 0.0)
                n_drawn -= 1

    def _learn_one(self, user_id: str, item: int, y: float) -> None:
        item_id = self.items.ids[item]
        self.model.learn_one(user_id, item_id, y)
        self._biases = _grown(self._biases, item + 1)
        self._latents = _grown(self._latents, item + 1)
        self._biases[item] = self.model.i_biases[item_id]
        self._latents[item] = self.model.i_latents[item_id]
