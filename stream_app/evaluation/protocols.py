"""What a model has to offer to be evaluated; nothing here does any work.

A recommender must offer the four methods of `Recommender`. The other two protocols are optional: a
measurement that needs one is reported as null for a model that has not got it.

Time and order
--------------
The caller goes through a stream in time order. Before an event it may ask any question, stamped with the
time of that event; then it calls `observe` once with the event. A model must answer from what it has
observed so far, and a question must not change a later answer.

One rule for ties, for every model: equal scores are ordered by item id, ascending, as text (by code
point, so ``"10"`` comes before ``"9"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stream_app.events import Event, Item, User

Floats = NDArray[np.float64]


@runtime_checkable
class Recommender(Protocol):
    """A model that learns from events one by one and ranks the items it knows."""

    def observe_item(self, item: Item) -> None:
        """Take note of an item's description; called before the first event that follows it."""

    def observe_user(self, user: User) -> None:
        """Take note of what is known about a user; called before the first event that follows it."""

    def recommend(
        self, user_id: str, event_time_ms: int, k: int, *, exclude_seen: bool = True
    ) -> Sequence[str]:
        """The ids of the `k` best items for the user, best first, each at most once.

        Parameters
        ----------
        user_id
            Any user, known or not.
        event_time_ms
            The time for which the list is asked.
        k
            Length of the list; shorter where fewer items are known.
        exclude_seen
            Leave out items that the user has given positive feedback on.
        """

    def observe(self, event: Event) -> None:
        """Learn from an event; called after the questions about it, in time order."""


@runtime_checkable
class Scorer(Protocol):
    """A model that can compare given items, such as those of an impression."""

    def score_items(
        self,
        user_id: str,
        item_ids: Sequence[str],
        event_time_ms: int,
        positions: Sequence[int] | None = None,
    ) -> Floats:
        """One score for each item, higher is better; unknown items get one too.

        Parameters
        ----------
        user_id
            Any user, known or not.
        item_ids
            The items to compare, `(n,)`.
        event_time_ms
            The time for which the scores are asked.
        positions
            Where each item stands in the list that the shop showed, counted from 1; None where no list
            was shown.
        """


@runtime_checkable
class ProbabilityModel(Protocol):
    """A model whose scores are probabilities."""

    def predict_proba(self, user_id: str, item_ids: Sequence[str], event_time_ms: int) -> Floats:
        """For each item the probability that it is the one the user chose.

        The question is a fair coin: the item is either the one of the event that is about to come, or one
        drawn uniformly from the known items that the user has given no positive feedback on.
        """
