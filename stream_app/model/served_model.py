"""The model as a process serves it: a release, the overlays over it, and the view that kernels read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pruning.artefact import Artefact
from pruning.quantization import Float32
from pruning.weights import Snapshot
from stream_app.model.candidates import Scratch, new_scratch
from stream_app.model.eviction import Renumbering
from stream_app.model.features import LIST_TOKENS, N_MOVES, N_NUMBERS, NUMBER_TOKENS
from stream_app.model.item_index import ItemIndex
from stream_app.model.release import Overlay, Release, Tables
from stream_app.model.retrieval import (
    ItemStats,
    grow_neighbours,
    grow_stats,
    new_covisits,
    new_neighbours,
    new_stats,
    renumber_neighbours,
    renumber_stats,
)
from stream_app.model.scoring import View, Weights, add_measures, lookup_all, put_fresh, sum_item_tokens

NEIGHBOURS = 200  # served neighbours per item
NO_ITEMS: NDArray[np.int32] = np.zeros(0, np.int32)
NO_MOVES: NDArray[np.float32] = np.zeros((0, N_MOVES), np.float32)  # for views that `make_view` completes


def empty_artefact() -> Artefact:
    """A ranker without weights, for the time before the first release."""
    one = Snapshot(keys=np.ones(1, np.uint64), weights=np.ones(1), curvature=np.ones(1))
    return Artefact.build(one, np.zeros(1, np.bool_), Float32())  # and none of it is kept


class FreshWeights:
    """Weights that are newer than the release: a hash table that kernels read.

    >>> fresh = FreshWeights()
    >>> fresh.put(np.array([7], np.uint64), np.array([0.5], np.float32))
    >>> len(fresh)
    1
    """

    def __init__(self) -> None:
        self.keys: NDArray[np.uint64] = np.zeros(1024, np.uint64)
        self.values: NDArray[np.float32] = np.zeros(1024, np.float32)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def put(self, keys: NDArray[np.uint64], values: NDArray[np.float32]) -> None:
        """Set the weights of `keys` (k,)."""
        if 2 * (self._used + len(keys)) > len(self.keys):
            held = self.keys != 0
            old_keys, old_values = self.keys[held], self.values[held]
            size = len(self.keys)
            while size < 4 * (self._used + len(keys)):
                size *= 2
            self.keys, self.values = np.zeros(size, np.uint64), np.zeros(size, np.float32)
            put_fresh(self.keys, self.values, old_keys, old_values)
        self._used += put_fresh(self.keys, self.values, keys, values)


class ServedModel:
    """A release and its overlays in the item numbers of this process.

    Parameters
    ----------
    items
        The process's item index, shared with everything else that numbers items.
    width
        Neighbours kept per item.

    Attributes
    ----------
    version
        Name of the release, "none" before the first.
    """

    def __init__(self, items: ItemIndex, width: int = NEIGHBOURS) -> None:
        self.items = items
        self.width = width
        self.version = "none"
        self.step = 0
        self._graph = new_covisits(1, 1)
        self._ranker = empty_artefact()
        self._fresh = FreshWeights()
        self._mean = np.zeros(N_NUMBERS, np.float32)
        self._inv_std = np.ones(N_NUMBERS, np.float32)
        self._pool = NO_ITEMS
        self._neighbours = new_neighbours(items.capacity, width)
        self._stats = new_stats(items.capacity)
        self._view: View | None = None
        self._scratch = new_scratch(0, 0)
        items.follow(self)

    @property
    def stats(self) -> ItemStats:
        """Counters of the items, as they were served last."""
        self._grow()
        return self._stats

    @property
    def nbytes(self) -> int:
        """Bytes of all tables and of working memory."""
        arrays = (*self._neighbours, *self._stats, *self._scratch, self._fresh.keys, self._fresh.values)
        return sum(a.nbytes for a in arrays) + self._ranker.nbytes + 4 * (1 + N_MOVES) * self.items.capacity

    def renumber(self, moved: Renumbering) -> None:
        """Follow the index: rows of items that gave up their number are gone, and links to them."""
        self._stats = renumber_stats(self._stats, moved)
        self._neighbours = renumber_neighbours(self._neighbours, moved)
        self._pool = moved.numbers(self._pool)
        self._view = None

    def drop_fresh(self) -> None:
        """Forget the weights that overlays brought: all overlays over the release come again."""
        self._fresh, self._view = FreshWeights(), None

    @property
    def fresh_weights(self) -> int:
        """How many weights overlays brought since they began."""
        return len(self._fresh)

    def load(self, release: Release, version: str) -> None:
        """Serve another release; what overlays brought is dropped with the old one."""
        self.version = version
        self._ranker, self._fresh = release.ranker, FreshWeights()
        self._neighbours = new_neighbours(self.items.capacity, self.width)
        self._stats = new_stats(self.items.capacity)
        self._take(release.tables)

    def apply(self, overlay: Overlay) -> None:
        """Take over what was learned since; overlays are applied in the order of their making."""
        self._fresh.put(overlay.weights_keys, overlay.weights)
        self._take(overlay.tables)

    def _take(self, tables: Tables) -> None:
        items = self.items
        for item_id in tables.ids:
            if item_id:
                items.number(item_id)
        local = items.numbers_of_keys(tables.keys)  # (k,)
        self._grow()
        rows = local[tables.rows]
        stats = self._stats
        stats.count[rows], stats.first[rows], stats.last[rows] = tables.count, tables.first, tables.last
        stats.rate[rows] = tables.rate
        stats.trend[rows], stats.by_length[rows] = tables.trend, tables.by_length
        m = min(self.width, tables.neighbours.shape[1])
        refs = tables.neighbours[:, :m]
        near = self._neighbours
        near.item[rows] = -1
        near.item[rows, :m] = np.where(refs >= 0, local[refs], -1) if len(local) else -1
        near.score[rows, :m] = tables.scores[:, :m]
        near.scale[rows] = tables.scale
        self._pool = local[tables.pool]
        self._mean, self._inv_std = tables.mean.copy(), tables.inv_std.copy()
        self.step = tables.step
        self._view = None

    def _grow(self) -> None:
        n = self.items.capacity
        if len(self._stats.count) < n:
            self._stats = grow_stats(self._stats, n)
            self._neighbours = grow_neighbours(self._neighbours, n)
            self._view = None

    def _fits(self, view: View) -> bool:
        """Whether the view's tables are the index's present ones; growing replaces them."""
        return view.item_tokens is self.items.tokens and view.vocabulary is self.items.vocabulary

    def touch(self) -> None:
        """Say that item tokens changed, so that what is computed from them is computed again."""
        self._view = None

    @property
    def view(self) -> View:
        """What kernels read now; made again after each change."""
        self._grow()
        if self._view is None or not self._fits(self._view):
            self._view = make_view(
                View(
                    learned=False,
                    graph=self._graph,
                    neighbours=self._neighbours,
                    stats=self._stats,
                    weights=bare_weights(self._ranker, self._fresh, self._mean, self._inv_std),
                    item_tokens=self.items.tokens,
                    vocabulary=self.items.vocabulary,
                    measures=self.items.measures,
                    measure_tokens=self.items.measured.tokens,
                    servable=self.items.servable,
                    pool=self._pool,
                    step=self.step,
                    moves=NO_MOVES,
                )
            )
        return self._view

    @property
    def scratch(self) -> Scratch:
        """Working memory that fits the view."""
        n, v = self.items.capacity, len(self.items.vocabulary)
        if len(self._scratch.taken) < n or len(self._scratch.cross) < v:
            self._scratch = new_scratch(n, v)
        return self._scratch


def bare_weights(
    ranker: Artefact, fresh: FreshWeights, mean: NDArray[np.float32], inv_std: NDArray[np.float32]
) -> Weights:
    """Weights whose derived parts are still to be filled in by `make_view`."""
    return Weights(
        numbers=np.zeros(NUMBER_TOKENS.shape, np.float32),
        list_numbers=np.zeros(LIST_TOKENS.shape, np.float32),
        mean=mean,
        inv_std=inv_std,
        item=np.zeros(0, np.float32),
        fresh_keys=fresh.keys,
        fresh=fresh.values,
        base=ranker.kernel_args,
    )


def make_view(view: View) -> View:
    """Fill in what follows from the weights: those of the numbers, and each item's own part of the score.

    What follows from counters and step is yet to be filled in, by `describe`.
    """
    numbers, list_numbers = (_weights_of(tokens, view.weights) for tokens in (NUMBER_TOKENS, LIST_TOKENS))
    item = np.empty(len(view.item_tokens), np.float32)
    sum_item_tokens(_weights_of(view.vocabulary, view.weights), view.item_tokens, item)
    add_measures(_weights_of(view.measure_tokens, view.weights), view.measures, item)
    weights = view.weights._replace(numbers=numbers, list_numbers=list_numbers, item=item)
    moves = np.zeros((len(view.stats.count), N_MOVES), np.float32)
    return view._replace(weights=weights, moves=moves)


def _weights_of(tokens: NDArray[np.uint64], weights: Weights) -> NDArray[np.float32]:
    out = np.empty(tokens.size, np.float32)
    lookup_all(weights, tokens.ravel(), out)
    return out.reshape(tokens.shape)
