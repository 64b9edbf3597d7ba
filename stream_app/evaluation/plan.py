"""The plan of a prequential evaluation: which questions are asked, and when.

Test, then learn: each event is first used to test a model and then to teach it. The plan is made once,
before any model runs, so every model answers the same questions and none can influence them.

What is tested
--------------
* A test is one item of one event of positive feedback (`stream_app.events.feedback`).
* An item is *known* once an earlier event has named it. The first event of an item is tested and counts as
  a miss, whatever the model answers.
* An item is *seen* once its user has given positive feedback on it. With `exclude_seen` (the default) such
  an item must not be recommended, and an event that repeats it is not tested.
* A list that was shown (``view_item_list`` with a `request_id`) is tested as a ranking when at least one of
  its items gets positive feedback by the same user and with the same `request_id` later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation.stream_order import (
    Record,
    in_time_order,
    looks_sorted_by_item,
    shuffle_equal_times,
)
from stream_app.events import DEFAULT_WEIGHTS, Event, feedback

__all__ = ["Impression", "Plan", "Question", "Record", "make_plan"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Question:
    """One test: is `item_id` in the list for the user of this event?

    Attributes
    ----------
    item_id
        The right item.
    negative_id
        A known item that the user has given no positive feedback on, drawn uniformly; None where there is
        none. Only AUC, logloss and calibration use it.
    is_known
        Whether an earlier event named the item; if not, the test is a miss.
    """

    item_id: str
    negative_id: str | None
    is_known: bool


@dataclass(frozen=True, slots=True)
class Impression:
    """A list that was shown, with the items that were clicked later."""

    item_ids: tuple[str, ...]
    positions: tuple[int, ...]
    clicked: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that is asked of each model, in order.

    Attributes
    ----------
    records
        Events in time order, items and users before the events that followed them.
    questions
        Index of a record → its tests.
    impressions
        Index of a record → the list that it shows, if one of its items was clicked later.
    event, user, history, item_count, event_type
        Of each test, `(n,)`: index of the record; number of the user; items the user chose before; events of
        positive feedback on the item before; the type of the event.
    is_known, is_first_of_second
        Of each test, `(n,)`: whether the item was known; whether its event is the first that its user
        has in that second.
    n_events, n_users, n_items
        Events, their users, the items they name.
    n_repeated
        Positive feedback that was not tested because the user had seen the item.
    n_out_of_order
        Events that stood behind a later one in the file; they were sorted to their place.
    n_shuffled
        Events whose order within one moment of one user was drawn by lot.
    """

    records: Sequence[Record]
    questions: Mapping[int, Sequence[Question]]
    impressions: Mapping[int, Impression]
    event: Ints
    user: Ints
    history: Ints
    item_count: Ints
    event_type: NDArray[np.str_]
    is_known: Bools
    is_first_of_second: Bools
    n_events: int
    n_users: int
    n_items: int
    n_repeated: int
    n_out_of_order: int
    n_shuffled: int

    @property
    def n_tests(self) -> int:
        """The number of tests."""
        return len(self.event)


def make_plan(
    records: Iterable[Record],
    *,
    exclude_seen: bool = True,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    rating_threshold: float = 4.0,
    shuffle: bool | None = None,
    seed: int = 0,
) -> Plan:
    """Put the records in order and decide what is tested.

    Parameters
    ----------
    records
        Events, items and users as a reader yields them.
    exclude_seen
        Whether positive feedback on an item that the user has seen is left out.
    weights, rating_threshold
        What positive feedback is; see `stream_app.events.feedback`.
    shuffle
        Whether the order of one user's events with equal times is drawn by lot. A file that is sorted by item
        inside a second gives the next item away. None: shuffle when the file looks sorted.
    seed
        Of the lots and of the sampled negatives.

    Examples
    --------
    >>> views = [Event(str(t), "view_item", t, "u", item_id=i) for t, i in enumerate("aba")]
    >>> plan = make_plan(views)
    >>> [q.item_id for questions in plan.questions.values() for q in questions], plan.n_repeated
    (['a', 'b'], 1)
    """
    ordered, n_out_of_order = in_time_order(records)
    n_shuffled = 0
    if shuffle or (shuffle is None and looks_sorted_by_item(ordered)):
        ordered, n_shuffled = shuffle_equal_times(ordered, np.random.default_rng([seed, 1]))
    draft = _Draft(np.random.default_rng([seed, 2]))
    for index, record in enumerate(ordered):
        if isinstance(record, Event):
            chosen = dict.fromkeys(item_id for item_id, _ in feedback(record, weights, rating_threshold))
            draft.add(index, record, chosen, exclude_seen=exclude_seen)
    return draft.plan(ordered, n_out_of_order, n_shuffled)


class _Draft:
    """A plan in the making: the state of the stream so far, and the tests so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.users: dict[str, int] = {}
        self.known: dict[str, None] = {}
        self.known_ids: list[str] = []
        self.seen: dict[str, set[str]] = {}
        self.counts: dict[str, int] = {}
        self.last_second: dict[str, int] = {}
        self.shown: dict[tuple[str, str], tuple[int, Event]] = {}  # (user, request) → its last impression
        self.clicked: dict[int, set[str]] = {}
        self.shown_at: dict[int, Event] = {}
        self.questions: dict[int, list[Question]] = {}
        self.rows: list[tuple[int, int, int, int, str, bool, bool]] = []
        self.n_events = 0
        self.n_repeated = 0

    def add(self, index: int, event: Event, chosen: Iterable[str], *, exclude_seen: bool) -> None:
        user_id = event.user_id
        user = self.users.setdefault(user_id, len(self.users))
        seen = self.seen.setdefault(user_id, set())
        chosen = list(chosen)
        second = event.event_time_ms // 1000
        is_first = self.last_second.get(user_id) != second
        for item_id in chosen:
            if exclude_seen and item_id in seen:
                self.n_repeated += 1
                continue
            is_known = item_id in self.known
            question = Question(item_id, self._negative(seen, item_id), is_known)
            self.questions.setdefault(index, []).append(question)
            row = (index, user, len(seen), self.counts.get(item_id, 0), event.event_type, is_known, is_first)
            self.rows.append(row)
        if chosen:
            self.last_second[user_id] = second
        self._tie_to_impression(index, event, chosen)
        self.n_events += 1
        seen.update(chosen)
        for item_id in chosen:
            self.counts[item_id] = self.counts.get(item_id, 0) + 1
        for item_id in event.item_ids():
            if item_id not in self.known:
                self.known[item_id] = None
                self.known_ids.append(item_id)

    def _negative(self, seen: set[str], target: str) -> str | None:
        for _ in range(20):
            if not self.known_ids:
                return None
            item_id = self.known_ids[int(self.rng.integers(len(self.known_ids)))]
            if item_id != target and item_id not in seen:
                return item_id
        rest = [i for i in self.known_ids if i != target and i not in seen]
        return rest[int(self.rng.integers(len(rest)))] if rest else None

    def _tie_to_impression(self, index: int, event: Event, chosen: Sequence[str]) -> None:
        if event.request_id is None:
            return
        key = (event.user_id, event.request_id)
        if event.event_type == "view_item_list":
            self.shown[key] = (index, event)
        elif chosen and key in self.shown:
            shown_index, impression = self.shown[key]
            clicked = {item.item_id for item in impression.items}.intersection(chosen)
            if clicked:
                self.clicked.setdefault(shown_index, set()).update(clicked)
                self.shown_at[shown_index] = impression

    def plan(self, records: Sequence[Record], n_out_of_order: int, n_shuffled: int) -> Plan:
        columns = list(zip(*self.rows, strict=True)) or [()] * 7
        ints = [np.array(column, dtype=np.int64) for column in columns[:4]]
        return Plan(
            records=records,
            questions=self.questions,
            impressions={
                index: _impression(event, frozenset(self.clicked[index]))
                for index, event in self.shown_at.items()
            },
            event=ints[0],
            user=ints[1],
            history=ints[2],
            item_count=ints[3],
            event_type=np.array(columns[4], dtype=np.str_),
            is_known=np.array(columns[5], dtype=np.bool_),
            is_first_of_second=np.array(columns[6], dtype=np.bool_),
            n_events=self.n_events,
            n_users=len(self.users),
            n_items=len(self.known),
            n_repeated=self.n_repeated,
            n_out_of_order=n_out_of_order,
            n_shuffled=n_shuffled,
        )


def _impression(event: Event, clicked: frozenset[str]) -> Impression:
    places: dict[str, int] = {}  # an item that is shown twice counts where it stood first
    for place, item in enumerate(event.items, start=1):
        places.setdefault(item.item_id, place if item.position is None else item.position)
    return Impression(tuple(places), tuple(places.values()), clicked)
