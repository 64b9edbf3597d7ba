"""The recommender: apply events to users, log examples, make lists. Pure: no clock, no network.

One batch goes through three calls, so that the caller can do the reading and writing in between::

    missing(events)            whose state has to be loaded first
    apply(partition, events)   → Outcome: examples for the learner, lists and states for Redis
    explain(user, item)        → why an item is in a list
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pruning.tokens import token
from stream_app.events import DEFAULT_WEIGHTS, Event, Item, Tombstone, User, feedback
from stream_app.lists.arranging import ListPolicy
from stream_app.lists.exploring import Exploration, seeds_of
from stream_app.lists.making import finished, widened
from stream_app.lists.rules import ListRules
from stream_app.lookout import Lookout
from stream_app.model.budget import BUDGET, Budget
from stream_app.model.eviction import crowded, half_life_use, who_stays
from stream_app.model.examples import CHOSEN, DISLIKED, LIKED, SHOWN, ExampleBatch
from stream_app.model.features import N_NUMBERS, describe
from stream_app.model.item_index import ItemIndex
from stream_app.model.reasoning import MOVES, NEW, TASTE, reasons_of
from stream_app.model.release import Overlay, Release, Tables
from stream_app.model.retrieval import WINDOW, length_bucket
from stream_app.model.scoring import (
    MOST_CANDIDATES,
    NEGATIVES,
    Feedback,
    Logged,
    View,
    candidates_of,
    new_log,
    observe,
    recall,
    refresh,
    score_parts,
)
from stream_app.model.served_model import NEIGHBOURS, ServedModel
from stream_app.model.user_table import UserTable
from stream_app.triggers.engine import Look, TriggerEngine

_REASONS = {NEW: "new in the shop", MOVES: "trending now", TASTE: "fits your taste"}
_NOTHING: list[tuple[str, int, float]] = [("", CHOSEN, 0.0)]  # only moves the user's clock
NEW_ITEMS_TURN = 1_000  # events of a partition after which other new items are explored
LIST_GAP = 1  # lists are made for a user who comes back within a minute


@dataclass(frozen=True)
class Offered:
    """A user's list.

    Attributes
    ----------
    items
        Item ids with their scores, best first.
    personal
        Whether the user's own history had a part in it.
    event_time_ms
        Time of the event after which it was made, −1 when there was none.
    """

    user_id: str
    items: list[tuple[str, float]]
    personal: bool
    event_time_ms: int


@dataclass(frozen=True, eq=False)
class Lists(Sequence[Offered]):
    """The lists of many users by column; as a sequence, one `Offered` for each.

    Attributes
    ----------
    user_ids
        Whose lists, m in number.
    items
        Item ids of each list, best first.
    scores
        Their scores.
    personal
        Whether the user's own history had a part in it.
    times_ms
        Time of the event after which it was made, −1 when there was none, int64 (m,).
    notes
        What readers are told of each place beside item and score, by list; empty when there is nothing.

    Examples
    --------
    >>> lists = Lists(["u1"], [["a", "b"]], [[2.0, 1.0]], [True], np.array([-1]))
    >>> lists[0].items
    [('a', 2.0), ('b', 1.0)]
    """

    user_ids: Sequence[str] = ()
    items: Sequence[list[str]] = ()
    scores: Sequence[list[float]] = ()
    personal: Sequence[bool] = ()
    times_ms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    notes: Sequence[Sequence[dict[str, Any] | None]] = ()

    def __len__(self) -> int:
        return len(self.user_ids)

    def part(self, start: int, end: int) -> Lists:
        """The lists from number `start` to before `end`."""
        if (start, end) == (0, len(self)):
            return self
        part = slice(start, end)
        return Lists(
            user_ids=self.user_ids[part],
            items=self.items[part],
            scores=self.scores[part],
            personal=self.personal[part],
            times_ms=self.times_ms[part],
            notes=self.notes[part],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    @overload
    def __getitem__(self, m: int) -> Offered: ...
    @overload
    def __getitem__(self, m: slice) -> list[Offered]: ...
    def __getitem__(self, m: int | slice) -> Offered | list[Offered]:
        if isinstance(m, slice):
            return [self[x] for x in range(*m.indices(len(self)))]
        pairs = list(zip(self.items[m], self.scores[m], strict=True))
        return Offered(self.user_ids[m], pairs, self.personal[m], int(self.times_ms[m]))


@dataclass(frozen=True)
class Outcome:
    """What a batch of events leads to, in the order in which it has to become durable.

    Attributes
    ----------
    looks
        What triggers made of it, by user.
    """

    examples: ExampleBatch | None
    lists: Lists
    states: list[tuple[str, bytes]]
    applied: int
    skipped: int
    looks: Sequence[Look] = ()


@dataclass(frozen=True)
class Reason:
    """Why an item is in a list: what moved its score most, in words."""

    text: str
    because: str | None  # the history item that points at it, if one does
    parts: Mapping[str, float]  # group of features → part of the score


@dataclass(frozen=True)
class Share:
    """What a turn has of one partition: events with their offsets, in offset order."""

    partition: int
    offsets: Sequence[int]
    events: Sequence[Event]


@dataclass(frozen=True)
class _Taken:
    """What became of a share before anything was computed.

    Attributes
    ----------
    rows
        Of `_Said` and of the log.
    active
        User → latest event time.
    """

    rows: slice
    active: dict[str, int]
    applied: int
    looks: Sequence[Look]


class _Said:
    """The columns of `Feedback` in the making."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.times: list[int] = []
        self.places: list[int] = []
        self.requests: list[int] = []
        self.kinds: list[int] = []
        self.items: list[int] = []
        self.strengths: list[float] = []
        self.shown: list[int] = []
        self.shown_end: list[int] = []
        self.seeds: list[NDArray[np.uint64]] = []  # of whole shares
        self.events: list[NDArray[np.int64]] = []  # of whole shares: the first row of each row's event

    def add(
        self, row: int, time: int, place: int, request: int, kind: int, item: int, strength: float
    ) -> None:
        """Add a row that ends where `shown` ends now."""
        self.rows.append(row)
        self.times.append(time)
        self.places.append(place)
        self.requests.append(request)
        self.kinds.append(kind)
        self.items.append(item)
        self.strengths.append(strength)
        self.shown_end.append(len(self.shown))


class Recommender:
    """Users, items and the served model of one process.

    Parameters
    ----------
    k
        Items per list.
    weights
        Event type → strength of feedback; `events.DEFAULT_WEIGHTS` unless told otherwise.
    rating_threshold
        Ratings from here on are positive feedback.
    again
        Whether what a user has chosen may be recommended to the same user again. Then every choice counts,
        however often it comes, and is compared with the user's own items, too.
    items
        The item index; shared when the same process learns.
    rules
        Business rules of the lists, if there are any.
    explore
        Draw some places of the lists, and note how likely each draw was.
    triggers
        The rules of triggers at work, if there are any.
    budget
        How many items the index has room for, unless it is shared.

    Attributes
    ----------
    lookout
        Looks at users for the triggers; without any, `None`.
    policy
        The rules at work; without any, `None`.
    """

    def __init__(
        self,
        *,
        k: int = 20,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        rating_threshold: float = 4.0,
        again: bool = False,
        neighbours: int = NEIGHBOURS,
        max_users: int = 50_000,
        max_items_per_user: int = 512,
        items: ItemIndex | None = None,
        rules: ListRules | None = None,
        explore: Exploration | None = None,
        triggers: TriggerEngine | None = None,
        budget: Budget = BUDGET,
    ) -> None:
        self.k = k
        self.weights = weights
        self.again = again
        self.rating_threshold = rating_threshold
        self.items = ItemIndex(budget) if items is None else items
        self._makes_room = items is None  # else whoever shares the index does
        self.users = UserTable(self.items, max_users, max_items_per_user)
        self.model = ServedModel(self.items, neighbours)
        self.explore = explore
        self.policy = None if rules is None else ListPolicy(self.items, rules)
        self.lookout = None if triggers is None else Lookout(triggers, self.users)

    # Room

    def make_room(self, coming: Tables | None = None) -> None:
        """Let the least useful items go where the budget is nearly used up, or would be with `coming`."""
        keys = np.zeros(0, np.uint64) if coming is None else coming.keys
        items = self.items
        n, budget = len(items), items.budget
        if not self._makes_room or not (items.is_crowded or crowded(n + len(keys), budget)):
            return
        known = items.find_keys(keys)
        new = int((known < 0).sum())
        if not (items.is_crowded or crowded(n + new, budget)):
            return
        stats = self.model.stats
        touched, use = stats.last[:n] >= 0, half_life_use(stats.count[:n], stats.last[:n], budget.items)
        touched[known[known >= 0]], use[known[known >= 0]] = True, np.inf
        items.compact(who_stays(touched, use, replace(budget, items=max(1, budget.items - new))))

    def serve(self, release: Release, version: str) -> None:
        """Serve another release from now on."""
        self.make_room(release.tables)
        self.model.load(release, version)

    def refresh_model(self, overlay: Overlay) -> None:
        """Take over what was learned since the release or the last overlay."""
        self.make_room(overlay.tables)
        self.model.apply(overlay)

    # What the shop says

    def observe_item(self, item: Item | Tombstone) -> bool:
        """Take over an item's description; returns whether the item may be shown no longer."""
        self.make_room()
        gone = self._take_item(item)
        if self.policy is not None:
            self.policy.observe(item)
        return gone

    def _take_item(self, item: Item | Tombstone) -> bool:
        item_id = item.id if isinstance(item, Tombstone) else item.item_id
        was = self._is_servable(item_id)
        self.items.observe(item)
        if isinstance(item, Tombstone):
            return was
        self.model.touch()
        return was and not item.is_available

    def _is_servable(self, item_id: str) -> bool:
        number = self.items.find(item_id)
        return number is not None and bool(self.items.servable[number])

    def observe_user(self, user: User | Tombstone) -> None:
        """Take over a user's description; a tombstone forgets the user."""
        if isinstance(user, Tombstone):
            self.users.forget(user.id)
        else:
            self.users.describe(user.user_id, dict(user.attributes))
        if self.lookout is not None:
            self.lookout.engine.observe_user(user)

    # Events

    def missing(self, events: Iterable[Event]) -> list[str]:
        """Users of these events whose state is not in memory, once each; the others are not evicted first."""
        return self.users.keep(dict.fromkeys([e.user_id for e in events]))

    def apply(
        self,
        partition: int,
        offsets: Sequence[int],
        events: Sequence[Event],
        *,
        lists: bool = True,
    ) -> Outcome:
        """Apply events of one partition, in offset order; the state of every user must be in memory.

        An event whose offset is not above the last one applied to its user is skipped, so a batch that
        was half applied before a crash can be given again. Without `lists`, lists and states are left out.
        """
        return self.apply_all([Share(partition, offsets, events)], lists=lists)[0]

    def apply_all(self, shares: Sequence[Share], *, lists: bool = True) -> list[Outcome]:
        """Apply what a turn has of several partitions, each as `apply` does, at the fixed costs of one."""
        users = [{event.user_id for event in share.events} for share in shares]
        if len(set().union(*users)) < sum(map(len, users)):  # somebody is in two of them: who comes first?
            return [self.apply_all([share], lists=lists)[0] for share in shares]
        self.make_room()
        said = _Said()
        taken = [self._take(said, share) for share in shares]
        log = self._observe(said)
        active = {user_id: ms for some in taken for user_id, ms in some.active.items()} if lists else {}
        states = self.users.pack_all([*active]) if active else []
        made = self.lists([*active], active) if active else Lists()
        outcomes, start = [], 0
        for share, some in zip(shares, taken, strict=True):
            end = start + (len(some.active) if lists else 0)
            outcomes.append(
                Outcome(
                    examples=self._examples(share.partition, said, log, some.rows),
                    lists=made.part(start, end),
                    states=states[start:end],
                    applied=some.applied,
                    skipped=len(share.events) - some.applied,
                    looks=some.looks,
                )
            )
            start = end
        return outcomes

    def _take(self, said: _Said, share: Share) -> _Taken:
        """Take note of what a share's events say, those that are known left out."""
        partition, offsets, events = share.partition, share.offsets, share.events
        user_rows = self.users.rows_of([event.user_id for event in events])  # (e,)
        new = self.users.advance(user_rows, partition, np.array(offsets, np.int64))
        begin, active = len(said.rows), {}  # type: int, dict[str, int]
        applied = int(new.sum())
        looks: Sequence[Look] = ()
        if self.lookout is not None and applied:
            at, kept = [*compress(offsets, new)], [*compress(events, new)]
            looks = self.lookout.on_events(partition, at, kept, user_rows[new])
        for event, row, place in compress(zip(events, user_rows.tolist(), offsets, strict=True), new):
            time = event.event_time_ms
            if active.get(event.user_id, -1) < time:
                active[event.user_id] = time
            request = 0 if event.request_id is None else token("request", event.request_id)
            if event.event_type == "view_item_list" and event.items:
                self._show(said, row, time, place, request, event)
                continue
            for item_id, kind, strength in self._judged(event):
                number = self.items.number(item_id) if item_id else 0
                said.add(row, time, place, request, kind, number, strength)
        rows = slice(begin, len(said.rows))
        places = np.array(said.places[rows], np.int64)
        said.seeds.append(_seeds(partition, places))
        said.events.append(begin + np.searchsorted(places, places))
        return _Taken(rows, active, applied, looks)

    def _show(self, said: _Said, row: int, time: int, place: int, request: int, event: Event) -> None:
        """Add a list that was shown, in parts that an example has room for."""
        shown = [*map(self.items.number, dict.fromkeys(event.item_ids()))]
        for start in range(0, len(shown), 1 + NEGATIVES):
            said.shown += shown[start : start + 1 + NEGATIVES]
            said.add(row, time, place, request, SHOWN, 0, 0.0)

    def _judged(self, event: Event) -> list[tuple[str, int, float]]:
        """The items that an event speaks of, what it says, and how strongly; one without item if of none."""
        liked = feedback(event, self.weights, self.rating_threshold)
        if event.event_type != "rate":
            return [(item_id, CHOSEN, strength) for item_id, strength in liked] or _NOTHING
        if liked:
            return [(item_id, LIKED, strength) for item_id, strength in liked]
        if event.item_id is not None and event.value is not None and self.weights.get("rate", 0.0) > 0:
            return [(event.item_id, DISLIKED, 0.0)]  # below the threshold
        return _NOTHING

    def _observe(self, said: _Said) -> Logged:
        self.users.find_again(np.array(said.rows, np.int32))
        may_answer = sum(r != 0 and k != SHOWN for r, k in zip(said.requests, said.kinds, strict=True))
        log = new_log(len(said.rows), may_answer)
        events = Feedback(
            rows=np.array(said.rows, np.int32),
            items=np.array(said.items, np.int32),
            times_ms=np.array(said.times, np.int64),
            kinds=np.array(said.kinds, np.uint8),
            weights=np.array(said.strengths, np.float32),
            requests=np.array(said.requests, np.uint64),
            shown=np.array(said.shown, np.int32),
            shown_end=np.array(said.shown_end, np.int64),
            seeds=np.concatenate([*said.seeds, np.zeros(0, np.uint64)]),
            events=np.concatenate([*said.events, np.zeros(0, np.int64)]),
        )
        observe(self.model.view, self.users.users, events, self.model.scratch, log, self.again)
        return log

    def _examples(self, partition: int, said: _Said, log: Logged, rows: slice) -> ExampleBatch | None:
        """The examples of a share, whose feedback is in `rows`."""
        keep = np.flatnonzero((log.count > 0) & (log.event >= rows.start) & (log.event < rows.stop))
        if not len(keep):
            return None
        keep = keep[np.argsort(log.event[keep], kind="stable")]
        event, history, item = log.event[keep], log.history[keep], log.item[keep]
        seen = np.zeros(self.items.capacity + 1, np.bool_)  # the last one stands for "no item"
        seen[history] = seen[item] = True
        mentioned = np.flatnonzero(seen[:-1])
        place = np.full(len(seen), -1, np.int32)
        place[mentioned] = np.arange(len(mentioned), dtype=np.int32)
        return ExampleBatch(
            partition=partition,
            offsets=np.array(said.places, np.int64)[event],
            times_ms=np.array(said.times, np.int64)[event],
            ids=[self.items.ids[i] for i in mentioned.tolist()],
            keys=self.items.keys[mentioned],
            history=place[history],
            length=log.length[keep],
            gap=log.gap[keep],
            kind=log.kind[keep],
            weight=log.weight[keep],
            users=self.users.users.tokens[np.array(said.rows)[event]],
            item=place[item],
            count=log.count[keep],
            numbers=log.numbers[keep].astype(np.float16).astype(np.float32),  # as it will be on the wire
            user_fields=tuple(sorted(self.users.fields)),
        )

    # Lists

    def lists(self, user_ids: Sequence[str], times_ms: Mapping[str, int] | None = None) -> Lists:
        """The lists of users in memory as of now; their times are those of the last events, unless given."""
        rows = self.users.rows_of(user_ids)
        self.users.find_again(rows)
        last_ms = dict(zip(user_ids, self.users.users.last_ms[rows].tolist(), strict=True))
        items, scores, counts, notes = self._arranged(rows)
        self.users.remember_lists(rows, items)
        name = self.items.ids.__getitem__
        ends = counts.tolist()
        return Lists(
            user_ids=user_ids,
            items=[[*map(name, row[:n])] for row, n in zip(items.tolist(), ends, strict=True)],
            scores=[row[:n] for row, n in zip(scores.tolist(), ends, strict=True)],
            personal=(self.users.users.length[rows] > 0).tolist(),
            times_ms=np.array([*(last_ms | dict(times_ms or {})).values()], np.int64),
            notes=notes,
        )

    def _arranged(
        self, rows: NDArray[np.int32]
    ) -> tuple[
        NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], Sequence[Sequence[dict[str, Any] | None]]
    ]:
        """`top` of users by row, under the rules, and what is to be noted of each place."""
        gaps, policy, explore = np.full(len(rows), LIST_GAP, np.uint8), self.policy, self.explore
        if policy is None and explore is None:
            return *self.top(rows, gaps, self.k, exclude_seen=not self.again), ()
        users, model = self.users, self.model
        turn = int(users.offset[rows].max(initial=0)) // NEW_ITEMS_TURN
        view = widened(model.view, self.items, policy, explore, turn)
        most = MOST_CANDIDATES + len(view.pool) + WINDOW * self.again
        head = self._top(view, rows, gaps, most, exclude_seen=not self.again)
        seeds = seeds_of(users.users.tokens[rows, 0], users.offset[rows])
        return finished(
            head, self.k, policy, explore, count=view.stats.count, seeds=seeds, ids=self.items.ids
        )

    def holding(self, item_ids: Iterable[str]) -> list[str]:
        """Users in memory in whose list one of these items stands."""
        numbers = [n for n in map(self.items.find, item_ids) if n is not None]
        return self.users.offered(np.array(numbers, np.int32))

    def top(
        self, rows: NDArray[np.int32], gaps: NDArray[np.uint8], k: int, *, exclude_seen: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
        """Item numbers (m, k), scores (m, k) and counts (m,) of the best items of users by row."""
        return self._top(self.model.view, rows, gaps, k, exclude_seen=exclude_seen)

    def _top(
        self, view: View, rows: NDArray[np.int32], gaps: NDArray[np.uint8], k: int, *, exclude_seen: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
        items = np.full((len(rows), k), -1, np.int32)
        scores = np.zeros((len(rows), k), np.float32)
        counts = np.zeros(len(rows), np.int32)
        refresh(view, self.users.users, rows, gaps, exclude_seen, self.model.scratch, items, scores, counts)
        return items, scores, counts

    def reasons(
        self, user_ids: Sequence[str], picks: Sequence[Sequence[tuple[str, float]]]
    ) -> list[list[str]]:
        """Why items stand in the lists of users in memory, in words, as `explain` says it.

        Parameters
        ----------
        picks
            Items with the scores that they have in the list, for each user.
        """
        rows, users, ids = self.users.rows_of(user_ids), self.users.users, self.items.ids
        chosen = np.array([*map(self.items.number, (i for some in picks for i, _ in some))], np.int32)  # (p,)
        if not len(chosen):
            return [[] for _ in picks]
        is_named = np.zeros(self.items.capacity, np.uint8)
        for u in rows.tolist():
            for j in users.items[u, : users.length[u]][-WINDOW:].tolist():
                is_named[j] = bool(ids[j])
        scores = np.array([score for some in picks for _, score in some], np.float32)
        ends = np.cumsum([*map(len, picks)])
        found = np.empty(len(chosen), np.int32)
        view, scratch = self.model.view, self.model.scratch
        reasons_of(view, users, rows, chosen, scores, ends, LIST_GAP, is_named, scratch, found)
        texts = [_REASONS.get(why) or f"goes with {ids[why]}" for why in found.tolist()]
        return [texts[end - len(some) : end] for some, end in zip(picks, ends.tolist(), strict=True)]

    def explain(self, user_id: str, item_id: str) -> Reason | None:
        """Why an item would be in the list of a user in memory; None for an item that is not known."""
        number = self.items.find(item_id)
        if number is None or user_id not in self.users:
            return None
        view, scratch, users = self.model.view, self.model.scratch, self.users.users
        row = self.users.row(user_id)
        history = users.items[row, : users.length[row]]
        candidates_of(view, history, history, MOST_CANDIDATES, scratch)
        recall(view, users, row, users.offers[row], scratch)
        best, because = 0.0, None
        for j in history[::-1][:WINDOW]:
            near = view.neighbours
            at = np.flatnonzero(near.item[j] == number)
            if len(at) and near.scale[j] * near.score[j, at[0]] > best and self.items.ids[j]:
                best, because = float(near.scale[j] * near.score[j, at[0]]), self.items.ids[j]
        one = np.array([number], np.int32)
        raw = np.zeros((1, N_NUMBERS), np.float32)
        describe(one, history, view, scratch, raw)
        bucket = length_bucket(len(history))
        parts = score_parts(view, number, raw[0], users.tokens[row], bucket, LIST_GAP)
        if because is not None:
            text = f"goes with {because}"
        elif view.stats.count[number] == 0:
            text = "new in the shop"
        else:
            text = "trending now" if parts["moves"] >= parts["taste"] else "fits your taste"
        return Reason(text, because, parts)


def _seeds(partition: int, offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A seed per item of an event, uint64 (n,): the same however the events are cut into batches.

    >>> _seeds(3, np.array([7, 7, 9])).tolist() == [*_seeds(3, np.array([7, 7])), *_seeds(3, np.array([9]))]
    True
    """
    first = np.searchsorted(offsets, offsets)  # offsets do not fall
    which = np.arange(len(offsets)) - first  # of the items of one event
    return (
        (offsets.astype(np.uint64) << np.uint64(16))
        ^ np.uint64(partition)
        ^ (which.astype(np.uint64) << np.uint64(48))
    )
