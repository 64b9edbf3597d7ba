"""Baselines that look at what was chosen together: item-kNN and session-kNN."""

from __future__ import annotations

from collections.abc import Mapping

import numba as nb
import numpy as np

from stream_app.evaluation.baseline import Baseline, Floats, grown
from stream_app.evaluation.sparse_rows import SparseRows
from stream_app.events import DEFAULT_WEIGHTS


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
    >>> from stream_app.events import Event
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
        self._together = SparseRows()
        self._counts = np.zeros(64)

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """Weighted sums of co-occurrence; the number of choices for a user without any."""
        n = len(self.items)
        counts = self._counts[:n]
        latest = self.latest(user_id, self.history)
        if latest.size == 0:
            return counts.copy()
        return self._together.weighted_sum(latest, self._fade[: latest.size], n) / np.sqrt(1.0 + counts)

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Add to the weights between the item and what the user chose before."""
        latest = self.latest(user_id, self.history)
        others = latest != item
        self._together.add_symmetric(item, latest[others], self._fade[: latest.size][others])
        self._counts = grown(self._counts, item + 1)
        self._counts[item] += 1


class SessionKNN(Baseline):
    """V-SKNN: ranks items by the past sessions that resemble the user's latest items.

    A session is a run of one user's choices without a pause of half an hour. A past session's similarity
    is the sum of the weights of the user's latest items that it holds, the latest weighing 1 and each
    earlier one a step less, to 0. The score of an item is the sum, over the most similar sessions that hold
    it, of similarity times the weight of the latest shared item, times ln(sessions / sessions with the
    item). A user without choices gets the most popular items.

    Parameters
    ----------
    history
        How many of the user's latest items count.
    recent
        How many of the latest sessions of each of those items are looked at.
    neighbours
        How many of the most similar sessions vote.
    gap_ms
        The pause that ends a session.
    weights, rating_threshold
        As for `Baseline`.

    References
    ----------
    Ludewig, M., Jannach, D., 2018. Evaluation of session-based recommendation algorithms. UMUAI 28(4–5).
    """

    def __init__(
        self,
        history: int = 20,
        recent: int = 200,
        neighbours: int = 100,
        gap_ms: int = 1_800_000,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
    ) -> None:
        super().__init__(weights, rating_threshold)
        self.history = history
        self.recent = recent
        self.neighbours = neighbours
        self.gap_ms = gap_ms
        self._fade = 1.0 - np.arange(history) / history
        self._current: dict[str, tuple[int, int]] = {}  # user → (session, time of its latest choice)
        self._items_of = SparseRows()  # session × item
        self._sessions_of = SparseRows()  # item × session
        self._counts = np.zeros(64)
        self._n_sessions = 0

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        """Votes of similar sessions; the number of choices for a user without any."""
        n = len(self.items)
        latest = self.latest(user_id, self.history)
        if latest.size == 0:
            return self._counts[:n].copy()
        looked_at = (latest, self._fade, self.recent, self.neighbours)
        votes = _votes(self._items_of.arrays, self._sessions_of.arrays, looked_at, self._n_sessions, n)
        return np.asarray(votes) * np.log(self._n_sessions / np.maximum(self._sessions_of.lengths(n), 1))

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        """Put the choice into the user's session, a new one after a pause."""
        session, latest_ms = self._current.get(user_id, (-1, 0))
        if session < 0 or event_time_ms - latest_ms > self.gap_ms:
            session, self._n_sessions = self._n_sessions, self._n_sessions + 1
        self._current[user_id] = session, event_time_ms
        self._items_of.add(session, item, 1.0)
        self._sessions_of.add(item, session, 1.0)
        self._counts = grown(self._counts, item + 1)
        self._counts[item] += 1


@nb.njit(cache=True, nogil=True)
def _votes(items_of, sessions_of, looked_at, n_sessions, n_items):  # type: ignore[no-untyped-def]
    item_columns, _, item_rows = items_of
    session_columns, _, session_rows = sessions_of
    latest, fade, recent, neighbours = looked_at
    similarity = np.zeros(n_sessions)
    shared = np.zeros(n_sessions)  # weight of the latest shared item
    for h in range(latest.size):
        start, length, _ = session_rows[latest[h]]
        for p in range(start + max(0, length - recent), start + length):
            session = session_columns[p]
            similarity[session] += fade[h]
            shared[session] = max(shared[session], fade[h])
    found = np.flatnonzero(similarity)
    if found.size > neighbours:  # of equally similar ones the later sessions
        found = found[np.argsort(similarity[found], kind="mergesort")[-neighbours:]]
    votes = np.zeros(n_items)
    for session in found:
        start, length, _ = item_rows[session]
        for p in range(start, start + length):
            votes[item_columns[p]] += similarity[session] * shared[session]
    return votes
