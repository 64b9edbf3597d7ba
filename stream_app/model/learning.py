"""The learner: one model, learned from examples, each exactly once.

It owns the co-visitation graph, the item counters and the ranker, a binary classifier with River's
interface. The ranker learns preferences: each example becomes a few pairs (chosen item, other candidate)
whose feature difference has the label True, or, with the sign turned, False. The compiled
`FTRLClassifier` takes a batch of pairs in one call; any other River classifier takes them one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numba as nb
import numpy as np
from numpy.typing import NDArray

import pruning
from pruning.envelope import seal, unseal
from pruning.errors import PruningError
from stream_app.errors import CheckpointError
from stream_app.events.records import Item, Tombstone
from stream_app.model.budget import BUDGET, Budget
from stream_app.model.drift import PageHinkley, example_losses
from stream_app.model.eviction import Renumbering, half_life_use, who_stays
from stream_app.model.examples import CHOSEN, DISLIKED, PREFERRED, SHOWN, TAKEN, ExampleBatch
from stream_app.model.features import (
    LIST_NUMBER,
    LIST_TOKEN,
    LIST_TOKENS,
    MOST_PER_PAIR,
    N_NUMBERS,
    NUMBER_TOKENS,
    ONE,
    READINESS,
    USUAL_READINESS,
    encode_measures,
    encode_pair,
    field_names,
    widened,
)
from stream_app.model.item_index import UNKNOWN, ItemIndex, note_fields
from stream_app.model.ranker import FTRLClassifier
from stream_app.model.release import Overlay, Tables
from stream_app.model.retrieval import (
    HALF_LIVES,
    MAX_ROW,
    MET,
    RATE_PRIOR,
    WINDOW,
    CoVisits,
    ItemStats,
    compacted,
    cut_covisits,
    export_rows,
    grow_covisits,
    grow_stats,
    learn_offer,
    learn_visit,
    length_bucket,
    new_covisits,
    new_neighbours,
    new_stats,
    renumber_covisits,
    renumber_stats,
)

_MAGIC, _FORMAT = b"RECSLEAR", 1
CHUNK = 128  # examples per compiled call
TURN = 256  # examples after which room is made, if it must be: steps decide, not how the log was cut
POOL_TRENDING = 50  # items per half-life that every user is offered
POOL_NEW = 10  # latest first-seen items that every user is offered
SHOWN_STEP = 8.0  # workers hear of an item that was only shown every so many times
TAKEN_WEIGHT = np.float32(16.0)  # of what a choice out of a list says about the rest of the list
FEW = 100  # rows seen before the moments of the numbers are trusted


@runtime_checkable
class EncodedClassifier(Protocol):
    """A classifier that learns encoded pairs in one call."""

    def learn_many_encoded(
        self, keys: Any, values: Any, indptr: Any, y: Any, weight: Any = None, lists: Any = None
    ) -> Any:
        """Learn pairs in order; see `FTRLClassifier.learn_many_encoded`."""


@dataclass
class Moments:
    """Running mean and variance of the ranker's numbers (Welford), and how offers fare."""

    n: NDArray[np.float64]  # (1,)
    mean: NDArray[np.float64]  # (N_NUMBERS,)
    m2: NDArray[np.float64]  # (N_NUMBERS,)
    offers: NDArray[np.float64]  # (2,) offers of items so far, and those of them that were taken

    @classmethod
    def new(cls) -> Moments:
        """Moments of nothing."""
        return cls(np.zeros(1), np.zeros(N_NUMBERS), np.zeros(N_NUMBERS), np.array([RATE_PRIOR, 1.0]))

    def scaling(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and 1 / standard deviation, float32 (N_NUMBERS,); 0 and 1 until enough was seen."""
        mean, inv_std = _scaling(self.n, self.mean, self.m2)
        return mean, inv_std


@nb.njit(cache=True, nogil=True)
def _scaling(n, mean, m2):  # type: ignore[no-untyped-def]
    if n[0] < FEW:
        return np.zeros(N_NUMBERS, np.float32), np.ones(N_NUMBERS, np.float32)
    return mean.astype(np.float32), (1.0 / (np.sqrt(m2 / n[0]) + 1e-3)).astype(np.float32)


@nb.njit(cache=True, nogil=True)
def _learn_chunk(  # type: ignore[no-untyped-def]
    graph, stats, item_tokens, vocabulary, measures, measure_tokens, n, mean, m2, offers, step, history,
    length, gap, kind, weight, users, item, count, numbers, keys, values, indptr, labels, pair_weight, lists,
):  # fmt: skip
    """Count and link a chunk of examples and write out their pairs; returns how many pairs."""
    pairs = 0
    for e in range(len(length)):
        if kind[e] == SHOWN:
            for x in range(count[e]):
                i = item[e, x]
                learn_offer(stats, offers, i, False, True)
                if stats.shown[i] % SHOWN_STEP == 0.0:
                    graph.touched[i] = step + e
            continue
        if kind[e] != CHOSEN and kind[e] != PREFERRED:
            learn_offer(stats, offers, item[e, 0], kind[e] != DISLIKED, kind[e] != TAKEN)
        first = 0
        while first < history.shape[1] and history[e, first] < 0:
            first += 1
        amount = np.float32(weight[e])
        m = count[e] - 1  # other candidates
        if m > 0:
            shift, inv_std = _scaling(n, mean, m2)
            bucket, listed = length_bucket(length[e]), kind[e] == TAKEN
            number_tokens, said = (LIST_TOKENS, TAKEN_WEIGHT) if listed else (NUMBER_TOKENS, amount)
            of_number, of_token = (LIST_NUMBER, LIST_TOKEN) if listed else (ONE, ONE)
            if listed:  # who takes nearly everything says little by it
                said *= np.exp(np.float32(0.5) * (USUAL_READINESS - numbers[e, 0, READINESS]))
            for k in range(1, m + 1):
                a, b = (0, k) if (step + e + k) % 2 == 0 else (k, 0)
                end = encode_pair(
                    numbers[e, a], numbers[e, b], item_tokens[item[e, a]], item_tokens[item[e, b]],
                    vocabulary, users[e], bucket, gap[e], shift, inv_std, number_tokens,
                    keys, values, indptr[pairs], of_number, of_token,
                )  # fmt: skip
                indptr[pairs + 1] = encode_measures(
                    measures[item[e, a]], measures[item[e, b]], measure_tokens, of_token, keys, values, end
                )
                labels[pairs] = np.float32(1.0 if a == 0 else 0.0)
                lists[pairs] = m if k == 1 else 0
                pair_weight[pairs] = said / np.float32(m)
                pairs += 1
            for k in range(m + 1):
                n[0] += 1.0
                for f in range(N_NUMBERS):
                    d = numbers[e, k, f] - mean[f]
                    mean[f] += d / n[0]
                    m2[f] += d * (numbers[e, k, f] - mean[f])
        graph.touched[item[e, 0]] = step + e
        if (amount > 0.0 and kind[e] != PREFERRED) or kind[e] == DISLIKED:
            learn_visit(graph, stats, history[e, first:], length[e], item[e, 0], amount, step + e)
    return pairs


class Learner:
    """Learns examples, exports what it learned, and saves itself.

    Parameters
    ----------
    ranker
        A River classifier; `FTRLClassifier()` unless told otherwise.
    items
        The item index; shared when the same process serves.

    Attributes
    ----------
    step
        Examples learned so far, the clock of the trends.
    high_water
        Highest offset learned, by source partition.
    drift
        Watches the loss of ranked examples before they are learned; a stock River ranker does not tell it.
    drifted
        Step and event time (ms) of the last alarm, None before the first.
    """

    def __init__(self, ranker: Any = None, items: ItemIndex | None = None) -> None:
        self.ranker = FTRLClassifier(alpha=0.05, l2=1.0, max_features=1_000_000) if ranker is None else ranker
        self.items = ItemIndex() if items is None else items
        self.graph: CoVisits = new_covisits()
        self.stats: ItemStats = new_stats()
        self.moments = Moments.new()
        self.step = 0
        self.high_water: dict[int, int] = {}
        self.user_fields: set[str] = set()
        self.drift = PageHinkley()
        self.drifted: tuple[int, int] | None = None
        self._room = _PairRoom()
        self.items.follow(self)

    def observe_item(self, item: Item | Tombstone) -> None:
        """Take over what the shop says about an item; where all numbers are taken, others make room."""
        self.items.observe(item)
        if self.items.is_crowded:
            self.make_room(judge_touched=False)

    # Learning

    def learn(self, batch: ExampleBatch) -> int:
        """Learn the examples of a batch that were not learned before; returns how many.

        Calling it twice with the same batch learns it once: (partition, offset) decides.
        """
        batch = batch.rows(batch.offsets > self.high_water.get(batch.partition, -1))
        if not len(batch):
            return 0
        for part in self._turns(batch):
            self._learn_part(part)
            if self.step % TURN == 0:
                self.make_room()
        self.high_water[batch.partition] = int(batch.offsets[-1])
        note_fields(self.user_fields, batch.user_fields)
        return len(batch)

    def _turns(self, batch: ExampleBatch) -> Iterable[ExampleBatch]:
        """The batch, cut where room has to be made if it could become necessary inside."""
        budget, e = self.items.budget, len(batch)
        may_evict = 8 * (len(self.items) + len(batch.keys)) > 7 * budget.items
        if not may_evict and self.graph.end[0] + e * (WINDOW + 1) * MAX_ROW <= budget.links:
            yield batch
            return
        start = 0
        while start < e:
            end = min(e, start + TURN - self.step % TURN)
            yield batch.rows(slice(start, end))
            start = end

    def _learn_part(self, batch: ExampleBatch) -> None:
        local = self._numbers(batch)
        self.grow()
        history = np.where(batch.history >= 0, local[batch.history], -1).astype(np.int32)
        item = np.where(batch.item >= 0, local[batch.item], -1).astype(np.int32)
        for start in range(0, len(batch), CHUNK):
            self._learn_chunk(batch, history, item, slice(start, start + CHUNK))

    def make_room(self, *, judge_touched: bool = True) -> None:
        """Let the least useful items and links go where the budget is nearly used up.

        Items that something was learned of go only by what was learned up to a step, so that the same log
        leaves the same items, whatever the shop described in between and whenever.
        """
        self.grow()
        n, budget = len(self.items), self.items.budget
        if 8 * n > 7 * budget.items or self.items.is_crowded:
            touched, shown = self.graph.touched[:n], self.stats.shown[:n]
            last = np.where(self.stats.last[:n] >= 0, self.stats.last[:n], touched)
            use = half_life_use(self.stats.count[:n] + MET * self.stats.met[:n], last, budget.items)
            keep = who_stays((touched >= 0) | (shown > 0), use, budget, judge_touched=judge_touched)
            if not keep.all() or self.items.is_crowded:
                self.items.compact(keep)
        links = budget.links
        if judge_touched and self.graph.end[0] > links and self.graph.capacity.sum(dtype=np.int64) > links:
            cut_covisits(self.graph, self.stats, links)

    def renumber(self, moved: Renumbering) -> None:
        """Follow the index: rows, counters and links of items that gave up their number are gone."""
        self.graph = renumber_covisits(self.graph, moved)
        self.stats = renumber_stats(self.stats, moved)

    @property
    def nbytes(self) -> int:
        """Bytes of the graph, the counters and, where it tells them, the ranker."""
        tables = sum(a.nbytes for a in (*self.graph, *self.stats))
        return tables + int(getattr(self.ranker, "nbytes", 0))

    def _numbers(self, batch: ExampleBatch) -> NDArray[np.int32]:
        """The numbers of the batch's items, (k,), −1 for those that no example mentions.

        New items are numbered in the order in which the examples mention them, so that the state does not
        depend on how the examples were cut into batches.
        """
        mentioned = batch.mentioned()
        local = np.full(len(batch.keys), -1, np.int32)
        local[mentioned] = self.items.numbers_of_keys(batch.keys[mentioned])
        ids = self.items.ids
        pairs = zip(mentioned.tolist(), local[mentioned].tolist(), strict=True)
        for k in [k for k, i in pairs if not ids[i] and batch.ids[k]]:
            self.items.number(batch.ids[k])  # tells the index the id of a key
        return local

    def _learn_chunk(
        self, batch: ExampleBatch, history: NDArray[np.int32], item: NDArray[np.int32], part: slice
    ) -> None:
        e = len(batch.length[part])
        self.graph = grow_covisits(self.graph, self.items.capacity, e, self.items.budget.links)
        room = self._room.of(int(np.maximum(batch.count[part] - 1, 0).sum()))
        pairs = _learn_chunk(
            self.graph, self.stats, self.items.tokens, self.items.vocabulary, self.items.measures,
            self.items.measured.tokens, *vars(self.moments).values(), self.step, history[part],
            batch.length[part], batch.gap[part], batch.kind[part], batch.weight[part], batch.users[part],
            item[part], batch.count[part],
            batch.numbers[part], room.keys, room.values, room.indptr, room.labels, room.weight, room.lists,
        )  # fmt: skip
        self.step += e
        if pairs:
            end = int(room.indptr[pairs])
            p = learn_pairs(
                self.ranker,
                room.keys[:end], room.values[:end], room.indptr[: pairs + 1], room.labels[:pairs],
                room.weight[:pairs], room.lists[:pairs],
            )  # fmt: skip
            if p is not None:
                self._watch(batch, part, p, room.labels[:pairs])

    def _watch(
        self, batch: ExampleBatch, part: slice, p: NDArray[np.float64], labels: NDArray[np.float32]
    ) -> None:
        """Tell the drift alarm what was predicted, `p`, of the pairs with these `labels`.

        A choice out of a list counts once, among the list: that it is preferred to what was not on the screen
        is easily predicted, whatever people like.
        """
        ranked = np.flatnonzero(batch.is_ranked[part])
        losses = example_losses(p, labels, batch.count[part][ranked].astype(np.int64) - 1)
        telling = batch.kind[part][ranked] != PREFERRED
        ranked = ranked[telling]
        for at in self.drift.update(losses[telling]):
            self.drifted = (self.step - len(batch.length[part]) + int(ranked[at]) + 1,
                            int(batch.times_ms[part][ranked[at]]))  # fmt: skip

    def grow(self) -> None:
        """Give every item of the index a row in the tables."""
        n = self.items.capacity
        self.graph = grow_covisits(self.graph, n, CHUNK, self.items.budget.links)
        self.stats = grow_stats(self.stats, n)

    # Exporting

    def pool(self) -> NDArray[np.int32]:
        """The items that every user is offered, int32 (p,): all of `pool_sources`, each once."""
        items = np.concatenate([*self.pool_sources().values(), np.zeros(0, np.int32)])
        return np.array(list(dict.fromkeys(items.tolist())), np.int32)

    def pool_sources(self) -> dict[str, NDArray[np.int32]]:
        """Where the pool comes from, best first: what trends, fast and slow, and the newest items."""
        n = len(self.items)
        servable = (self.items.servable[:n] > 0) & (self.stats.last[:n] >= 0)
        numbers = np.flatnonzero(servable).astype(np.int32)
        fast, slow = (best_of(numbers, trend, POOL_TRENDING) for trend in self.trends(numbers).T)
        newest = best_of(numbers, self.stats.first[numbers].astype(np.float64), POOL_NEW)
        return {"trend_fast": fast, "trend_slow": slow, "new": newest}

    def trends(self, numbers: NDArray[np.int32]) -> NDArray[np.float64]:
        """The two trends of items as of now, (n, 2)."""
        gap = self.step - self.stats.last[numbers]
        now: NDArray[np.float64] = self.stats.trend[numbers] * 2.0 ** (-gap[:, None] / np.array(HALF_LIVES))
        return now

    def tables(self, rows: NDArray[np.int32], width: int) -> Tables:
        """The served tables of some items, int32 (r,), with `width` neighbours each.

        Items that may not be shown travel as keys only. A reader who was not told why (the deletion is long
        compacted away) does not show them either.
        """
        self.grow()
        near = new_neighbours(len(rows), width)
        export_rows(self.graph, self.stats, rows, near)
        pool = self.pool()
        seen = np.zeros(self.items.capacity + 1, np.bool_)  # the last one stands for "no item"
        seen[rows] = seen[near.item] = seen[pool] = True
        mentioned = np.flatnonzero(seen[:-1]).astype(np.int32)
        place = np.full(self.items.capacity + 1, -1, np.int32)
        place[mentioned] = np.arange(len(mentioned), dtype=np.int32)
        mean, inv_std = self.moments.scaling()
        return Tables(
            step=self.step,
            ids=[self.items.ids[i] if self.items.servable[i] else UNKNOWN for i in mentioned],
            keys=self.items.keys[mentioned],
            rows=place[rows],
            count=self.stats.count[rows],
            first=self.stats.first[rows],
            last=self.stats.last[rows],
            trend=self.stats.trend[rows],
            rate=self.stats.rate[rows],
            by_length=self.stats.by_length[rows],
            neighbours=place[near.item],
            scores=near.score,
            scale=near.scale,
            pool=place[pool],
            mean=mean,
            inv_std=inv_std,
        )

    def all_rows(self) -> NDArray[np.int32]:
        """The items that events were learned of."""
        self.grow()
        return np.flatnonzero(self.graph.touched[: len(self.items)] >= 0).astype(np.int32)

    def rows_since(self, step: int) -> NDArray[np.int32]:
        """The items whose rows changed from a step on, int32 (r,)."""
        self.grow()
        return np.flatnonzero(self.graph.touched[: len(self.items)] >= step).astype(np.int32)

    def overlay(
        self,
        since_step: int,
        since_ranker_step: int,
        width: int,
        rows: NDArray[np.int32] | None = None,
    ) -> Overlay:
        """What was learned after a step: all touched weights, and the rows of touched items.

        Parameters
        ----------
        since_step, since_ranker_step
            Steps of the learner and of the ranker up to which the reader knows everything.
        width
            Neighbours per row.
        rows
            The rows of these items, int32 (r,), instead.
        """
        rows = self.rows_since(since_step) if rows is None else rows
        keys, weights = touched_since(self.ranker, since_ranker_step)
        return Overlay(keys, weights, self.tables(rows, width))

    def field_names(self) -> dict[int, str]:
        """Readable names of the ranker's fields, as far as they are known, by number."""
        return field_names(
            ["item", "category", "price", *sorted(self.items.fields)], ["user", *sorted(self.user_fields)]
        )

    # Saving

    def to_bytes(self, extra: dict[str, Any] | None = None) -> bytes:
        """The whole state as checksummed bytes; equal states give equal bytes.

        Parameters
        ----------
        extra
            What the caller wants back from `from_bytes`, JSON: its input offsets, for example.
        """
        if not isinstance(self.ranker, FTRLClassifier):
            raise CheckpointError(
                f"{type(self.ranker).__name__} cannot be saved: use the default ranker or learn again"
            )
        self.grow()
        n = len(self.items)
        by_item = ("start", "length", "capacity", "touched")
        arrays: dict[str, NDArray[Any]] = {
            f"graph_{k}": v[:n] if k in by_item else v for k, v in compacted(self.graph)._asdict().items()
        }
        arrays |= {f"stats_{k}": v[:n] for k, v in self.stats._asdict().items()}
        arrays |= {f"moments_{k}": v for k, v in vars(self.moments).items()}
        arrays |= {
            "item_keys": self.items.keys[:n], "item_tokens": self.items.token_keys(),
            "measures": self.items.measured.raw[:n],
            "servable": self.items.servable[:n], "withdrawn": self.items.withdrawn_keys(),
            "ranker": np.frombuffer(self.ranker.to_bytes(), np.uint8),
        }  # fmt: skip
        meta = {
            "step": self.step, "ids": self.items.ids, "extra": extra or {},
            "high_water": sorted(self.high_water.items()),
            "item_fields": sorted(self.items.fields), "user_fields": sorted(self.user_fields),
            "measured": self.items.measured.names,
            "drift": self.drift.state(), "drifted": self.drifted,
        }  # fmt: skip
        return seal(_MAGIC, _FORMAT, meta, arrays)

    @classmethod
    def from_bytes(cls, data: bytes, budget: Budget = BUDGET) -> tuple[Learner, dict[str, Any]]:
        """Restore `to_bytes`; returns the learner and what the caller had put into `extra`.

        A model that is larger than `budget` shrinks with the next examples.

        Raises
        ------
        CheckpointError
            If the bytes are damaged, foreign or of a newer version.
        """
        try:
            meta, arrays = unseal(data, _MAGIC, _FORMAT)
            ranker = FTRLClassifier.from_bytes(arrays["ranker"].tobytes())
        except PruningError as error:
            raise CheckpointError(f"the checkpoint cannot be read: {error}") from error
        learner = cls(ranker, ItemIndex(budget))
        withdrawn = (
            arrays["withdrawn"].tolist() if "withdrawn" in arrays else ()
        )  # older checkpoints have none
        learner.items.restore(
            meta["ids"], arrays["item_keys"], arrays["item_tokens"], arrays["servable"], withdrawn
        )
        if "measures" in arrays:  # older checkpoints have none
            learner.items.measured.restore(meta["measured"], arrays["measures"])
        learner.graph = CoVisits(**{k: arrays[f"graph_{k}"].copy() for k in CoVisits._fields})
        learner.stats = ItemStats(**{k: arrays[f"stats_{k}"].copy() for k in ItemStats._fields})
        n = arrays["moments_n"].copy()
        learner.moments = Moments(
            n=n,
            mean=widened(arrays["moments_mean"], 0.0).copy(),
            m2=widened(arrays["moments_m2"], float(n[0])).copy(),  # a number that came since varies by 1
            offers=arrays["moments_offers"].copy(),
        )
        learner.step = meta["step"]
        learner.items.fields.update(meta["item_fields"])
        learner.user_fields.update(meta["user_fields"])
        learner.high_water = {int(p): int(o) for p, o in meta["high_water"]}
        if "drift" in meta:  # older checkpoints have none
            learner.drift = PageHinkley.restored(meta["drift"])
            learner.drifted = None if meta["drifted"] is None else tuple(meta["drifted"])
        learner.grow()
        return learner, meta["extra"]


class _PairRoom:
    """Room for the pairs of one chunk, kept from chunk to chunk."""

    def __init__(self) -> None:
        self._allocate(256)

    def _allocate(self, pairs: int) -> None:
        self.keys = np.empty(pairs * MOST_PER_PAIR, np.uint64)
        self.values = np.empty(pairs * MOST_PER_PAIR, np.float32)
        self.indptr = np.zeros(pairs + 1, np.int64)
        self.labels = np.empty(pairs, np.float32)
        self.weight = np.empty(pairs, np.float32)
        self.lists = np.zeros(pairs, np.int32)

    def of(self, pairs: int) -> _PairRoom:
        """Itself, with room for `pairs` pairs."""
        if len(self.labels) < pairs:
            self._allocate(pairs)
        return self


def best_of(numbers: NDArray[np.int32], scores: NDArray[np.float64], most: int) -> NDArray[np.int32]:
    """The `most` numbers with the highest scores, best first, ties by number."""
    if len(numbers) > most:
        cut = np.partition(scores, len(scores) - most)[len(scores) - most]
        near = scores >= cut
        numbers, scores = numbers[near], scores[near]
    return numbers[np.argsort(-scores, kind="stable")[:most]]


def learn_pairs(
    ranker: Any,
    keys: NDArray[np.uint64],
    values: NDArray[np.float32],
    indptr: NDArray[np.int64],
    labels: NDArray[np.float32],
    weight: NDArray[np.float32],
    lists: NDArray[np.int32] | None = None,
) -> NDArray[np.float64] | None:
    """Teach a classifier encoded pairs: in one call where it can, else with `learn_one` per pair.

    In one call, the pairs of one choice are learned together (`lists`, see `FTRLClassifier`).

    A River classifier sees tokens (integers) as feature names. Pair weights are passed on where its
    `learn_one` takes them as `w`.

    Returns
    -------
    The probability of each pair before it was learned, where the classifier tells it.
    """
    if isinstance(ranker, EncodedClassifier):
        found: NDArray[np.float64] | None = ranker.learn_many_encoded(
            keys, values, indptr, labels, weight, lists
        )
        return found
    weighted = "w" in inspect.signature(ranker.learn_one).parameters
    for (x, y), w in zip(river_pairs(keys, values, indptr, labels), weight.tolist(), strict=True):
        if weighted:
            ranker.learn_one(x, y, w=w)
        else:
            ranker.learn_one(x, y)
    return None


def river_pairs(
    keys: NDArray[np.uint64],
    values: NDArray[np.float32],
    indptr: NDArray[np.int64],
    labels: NDArray[np.float32],
) -> Iterable[tuple[dict[int, float], bool]]:
    """Encoded pairs as River's feature dicts.

    >>> keys, values = np.array([5, 7], np.uint64), np.array([1, 0.5], np.float32)
    >>> list(river_pairs(keys, values, np.array([0, 2]), np.ones(1)))
    [({5: 1.0, 7: 0.5}, True)]
    """
    names, numbers = keys.tolist(), values.tolist()
    for k in range(len(indptr) - 1):
        a, b = int(indptr[k]), int(indptr[k + 1])
        yield dict(zip(names[a:b], numbers[a:b], strict=True)), bool(labels[k] > 0.5)


def touched_since(ranker: Any, step: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """The weights that a ranker changed after its step `step`; of a stock River model, all of them."""
    if hasattr(ranker, "touched_since"):
        keys, weights = ranker.touched_since(step)
        return keys, weights
    try:
        frozen = pruning.snapshot(ranker)
    except pruning.EmptyModelError:
        return np.zeros(0, np.uint64), np.zeros(0, np.float32)
    return frozen.keys, frozen.weights.astype(np.float32)


def ranker_step(ranker: Any) -> int:
    """Learn steps of a ranker, 0 where it does not count them."""
    return int(getattr(ranker, "step", 0))
