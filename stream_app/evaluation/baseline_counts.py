"""Baselines that count: popularity, and click rate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stream_app.evaluation.baseline import Baseline, Floats, grown
from stream_app.events import DEFAULT_WEIGHTS, Event


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
        self._counts = grown(self._counts, item + 1)
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
                self._showings = grown(self._showings, item + 1)
                self._showings[item] += 1
        super().observe(event)

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """(clicks + m·r) / (showings + m), m being `prior_showings` and r the share of all items."""
        n = len(self.items)
        self._clicks, self._showings = grown(self._clicks, n), grown(self._showings, n)
        prior = self.prior_showings * self._rate()
        return (self._clicks[:n] + prior) / (self._showings[:n] + self.prior_showings)

    def score_of_unknown(self, user_id: str) -> float:
        """The share of all items."""
        return self._rate()

    def _rate(self) -> float:
        clicks = self._clicks.sum()
        return float((clicks + 1.0) / (max(clicks, self._showings.sum()) + 2.0))

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Count a click."""
        self._clicks = grown(self._clicks, item + 1)
        self._clicks[item] += 1
