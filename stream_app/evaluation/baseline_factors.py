"""Baselines that factorize: ISGD, and River's biased matrix factorization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from river import optim, reco

from stream_app.evaluation.baseline import Baseline, Floats, grown
from stream_app.events import DEFAULT_WEIGHTS


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
            self.values = grown(self.values, row + 1)
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
        self._counts = grown(self._counts, item + 1)
        self._counts[item] += 1


class RiverBiasedMF(Baseline):
    """River's `reco.BiasedMF`, taught 1 for each choice and 0 for items drawn uniformly.

    Its prediction is a regression on that label and so, clipped, a probability. Scores are read from
    River's own tables, for all items at once, and equal `predict_one`.

    Parameters
    ----------
    n_factors, learning_rate_bias, learning_rate_latent, l2
        Of the factorization. The defaults, with `negatives`, were the best of fourteen settings on
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
        self._biases = grown(self._biases, item + 1)
        self._latents = grown(self._latents, item + 1)
        self._biases[item] = self.model.i_biases[item_id]
        self._latents[item] = self.model.i_latents[item_id]
