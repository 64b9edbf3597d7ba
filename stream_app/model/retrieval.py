"""Candidate retrieval: who is seen together with whom, and what is moving now.

Learning side: `CoVisits`, a growing co-visitation graph in bounded rows, and `ItemStats`,
counters per item in event steps. Serving side: `Neighbours`, the pruned and quantized rows
of a release. Both are plain arrays in named tuples, so that compiled code, checkpoints and
releases share them without copies.

The graph. When a user touches item *i* after items j₀ (most recent), j₁, … the weights

    c[j_d, i] += decay^d        c[i, j_d] += backward · decay^d        d < window

grow; the score of *i* as a neighbour of *j* is  c[j,i] / ((1 + n_j)^½ (1 + n_i)^0.4).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

WINDOW = 50  # history items that an event is linked to
DECAY = 0.9  # weight of a link per step back in the history
MET = 0.5  # strength of the links of an item that the user met and did not like
BACKWARD = 0.7  # weight of the link from the later item to the earlier one
MAX_ROW = 400  # a learning row grows to this many neighbours …
KEEP_ROW = 200  # … and is then cut to its best
FIRST_ROW = 25  # capacity of a new row; doubles up to MAX_ROW
SOURCE_POWER = 0.5
TARGET_POWER = 0.4
HALF_LIVES = (100.0, 10_000.0)  # of the two trends, in events
RATE_PRIOR = 5.0  # offers at the common rate that each item starts with
LENGTH_BUCKETS = 5  # history lengths 0, 1–3, 4–11, 12–39, 40+


class CoVisits(NamedTuple):
    """Rows of the co-visitation graph inside one arena.

    Row *j* lives at `start[j] : start[j] + length[j]` of `item` and `weight`.
    """

    item: NDArray[np.int32]  # (arena,)
    weight: NDArray[np.float32]  # (arena,)
    start: NDArray[np.int64]  # (n,)
    length: NDArray[np.int32]  # (n,)
    capacity: NDArray[np.int32]  # (n,) 0 until the first link
    end: NDArray[np.int64]  # (1,) first free place of the arena
    touched: NDArray[np.int64]  # (n,) step of the last change


class ItemStats(NamedTuple):
    """Counters per item; trends are stored as of the item's last step."""

    count: NDArray[np.float32]  # type: ignore[assignment]  # (n,) feedback, in views
    met: NDArray[np.float32]  # (n,) users who met the item and did not like it
    discount: NDArray[np.float32]  # (n,) (1 + count)^−TARGET_POWER, what popular neighbours are divided by
    first: NDArray[np.int64]  # (n,) step of the first event, −1 before it
    last: NDArray[np.int64]  # (n,) step of the latest event, −1 before it
    trend: NDArray[np.float32]  # (n, 2) exponentially decayed counts, one per half-life
    shown: NDArray[np.float32]  # (n,) times it was put before a user, in a list or by a rating
    taken: NDArray[np.float32]  # (n,) times it was chosen then
    rate: NDArray[np.float32]  # (n,) log of the smoothed share of that, over all items' share; 0: unknown
    by_length: NDArray[np.float32]  # (n, LENGTH_BUCKETS) events by length of the user's history


class Neighbours(NamedTuple):
    """Served rows: the best neighbours of each item, 8-bit scores with one scale per row."""

    item: NDArray[np.int32]  # (n, M) sorted by falling score, −1 where the row ends
    score: NDArray[np.uint8]  # (n, M) score = level · scale
    scale: NDArray[np.float32]  # (n,)


def new_covisits(n: int = 1024, arena: int = 1 << 16) -> CoVisits:
    """An empty graph with room for `n` items."""
    return CoVisits(
        item=np.zeros(arena, np.int32),
        weight=np.zeros(arena, np.float32),
        start=np.zeros(n, np.int64),
        length=np.zeros(n, np.int32),
        capacity=np.zeros(n, np.int32),
        end=np.zeros(1, np.int64),
        touched=np.full(n, -1, np.int64),
    )


def new_stats(n: int = 1024) -> ItemStats:
    """Empty counters with room for `n` items."""
    return ItemStats(
        count=np.zeros(n, np.float32),
        met=np.zeros(n, np.float32),
        discount=np.ones(n, np.float32),
        first=np.full(n, -1, np.int64),
        last=np.full(n, -1, np.int64),
        trend=np.zeros((n, 2), np.float32),
        shown=np.zeros(n, np.float32),
        taken=np.zeros(n, np.float32),
        rate=np.zeros(n, np.float32),
        by_length=np.zeros((n, LENGTH_BUCKETS), np.float32),
    )


def new_neighbours(n: int, width: int) -> Neighbours:
    """Empty served rows."""
    return Neighbours(
        item=np.full((n, width), -1, np.int32),
        score=np.zeros((n, width), np.uint8),
        scale=np.zeros(n, np.float32),
    )


def grown(array: NDArray[Any], n: int, empty: float) -> NDArray[Any]:
    """`array` with at least `n` rows, by doubling; new rows hold `empty`."""
    if len(array) >= n:
        return array
    out = np.full((max(n, 2 * len(array)), *array.shape[1:]), empty, array.dtype)
    out[: len(array)] = array
    return out


def grow_stats(stats: ItemStats, n: int) -> ItemStats:
    """The counters with room for `n` items."""
    empty = {"discount": 1, "first": -1, "last": -1}
    return ItemStats(**{name: grown(a, n, empty.get(name, 0)) for name, a in stats._asdict().items()})


def grow_neighbours(neighbours: Neighbours, n: int) -> Neighbours:
    """The served rows with room for `n` items."""
    return Neighbours(
        grown(neighbours.item, n, -1), grown(neighbours.score, n, 0), grown(neighbours.scale, n, 0)
    )


def grow_covisits(graph: CoVisits, n: int, events: int) -> CoVisits:
    """The graph with room for `n` items and for `events` more events, compacted when the arena is short."""
    spare = events * (WINDOW + 1) * MAX_ROW
    graph = graph._replace(
        start=grown(graph.start, n, 0),
        length=grown(graph.length, n, 0),
        capacity=grown(graph.capacity, n, 0),
        touched=grown(graph.touched, n, -1),
    )
    if graph.end[0] + spare <= len(graph.item):
        return graph
    end = int(graph.capacity.sum(dtype=np.int64))
    size = max(len(graph.item), 1)
    while size < 2 * end + spare:
        size *= 2
    return compacted(graph, size)


def compacted(graph: CoVisits, size: int | None = None) -> CoVisits:
    """A copy of the graph, its rows one after the other, in an arena of `size` places or of just enough.

    What rows left behind when they grew is gone, so graphs with equal rows have equal arrays.
    """
    end = int(graph.capacity.sum(dtype=np.int64))
    item, weight = np.zeros(size or end, np.int32), np.zeros(size or end, np.float32)
    start = np.cumsum(graph.capacity, dtype=np.int64) - graph.capacity
    _copy_rows(graph, item, weight, start)
    return CoVisits(
        item=item,
        weight=weight,
        start=start,
        length=graph.length.copy(),
        capacity=graph.capacity.copy(),
        end=np.array([end], np.int64),
        touched=graph.touched.copy(),
    )


@nb.njit(cache=True, nogil=True)
def _copy_rows(graph, item, weight, start):  # type: ignore[no-untyped-def]
    for j in range(len(start)):
        a, b = graph.start[j], start[j]
        for k in range(graph.length[j]):
            item[b + k] = graph.item[a + k]
            weight[b + k] = graph.weight[a + k]


@nb.njit(cache=True, nogil=True)
def length_bucket(n):  # type: ignore[no-untyped-def]
    """The bucket of a history length: 0, 1–3, 4–11, 12–39, 40 and more."""
    if n == 0:
        return 0
    if n < 4:
        return 1
    if n < 12:
        return 2
    return 3 if n < 40 else 4


@nb.njit(cache=True, nogil=True)
def _find(items, start, end, i):  # type: ignore[no-untyped-def]
    """The first place from `start` on where `items` holds `i`, or `end`.

    Sixteen are compared without a branch in between, so that the processor compares them at once.
    """
    k = start
    while k + 16 <= end:
        hit = False
        for x in range(16):
            hit |= items[k + x] == i
        if hit:
            break
        k += 16
    while k < end and items[k] != i:
        k += 1
    return k


@nb.njit(cache=True, nogil=True)
def _add_link(items, weights, starts, lengths, capacities, end, count, j, i, weight):  # type: ignore[no-untyped-def]
    """c[j, i] += weight, growing or cutting row j when it is full. The arrays are those of `CoVisits`.

    They are not passed as a tuple, because each call would count the references of all of them.
    """
    start, length = starts[j], lengths[j]
    place = _find(items, start, start + length, i)
    if place < start + length:
        weights[place] += weight
        return
    if length == capacities[j]:
        if length < MAX_ROW:
            capacity = max(FIRST_ROW, 2 * length)
            to = end[0]
            end[0] += capacity
            for k in range(length):  # a slice would be as fast, and compile numba's text formatting too
                items[to + k], weights[to + k] = items[start + k], weights[start + k]
            starts[j], capacities[j] = to, capacity
            start = to
        else:
            score = np.empty(length, np.float32)
            for k in range(length):
                n_i = count[items[start + k]]
                score[k] = -weights[start + k] / np.float32(1.0 + n_i) ** np.float32(0.5)
            order = np.sort(np.argsort(score, kind="mergesort")[:KEEP_ROW])
            for to_k in range(KEEP_ROW):
                items[start + to_k] = items[start + order[to_k]]
                weights[start + to_k] = weights[start + order[to_k]]
            length = KEEP_ROW
    items[start + length] = i
    weights[start + length] = weight
    lengths[j] = length + 1


@nb.njit(cache=True, nogil=True)
def learn_visit(graph, stats, history, length, item, amount, step):  # type: ignore[no-untyped-def]
    """Link `item` with the user's `history` and count it.

    Parameters
    ----------
    history
        Items before this event, the most recent last, int32 (h,); the last `WINDOW` are used.
    length
        Whole length of the user's history, which may be more than h.
    amount
        Strength of the feedback; 1 is a view, 0 means that the user met the item and did not like it: it is
        linked, because what people meet together says what they meet next, but it counts for nothing.
    step
        Running number of the event, the clock of the trends.
    """
    h = len(history)
    weight = np.float32(amount if amount > 0.0 else MET)
    items, weights, starts, lengths = graph.item, graph.weight, graph.start, graph.length
    capacities, end, touched, count = graph.capacity, graph.end, graph.touched, stats.count
    for d in range(min(h, WINDOW)):
        j = history[h - 1 - d]
        if j != item:
            back = np.float32(BACKWARD) * weight
            _add_link(items, weights, starts, lengths, capacities, end, count, j, item, weight)
            _add_link(items, weights, starts, lengths, capacities, end, count, item, j, back)
            touched[j] = step
        weight *= np.float32(DECAY)

    touched[item] = step
    if amount <= 0.0:
        stats.met[item] += 1.0
        return
    stats.count[item] += amount
    stats.discount[item] = np.float32(1.0 + stats.count[item]) ** np.float32(-TARGET_POWER)
    stats.by_length[item, length_bucket(length)] += amount
    gap = step - stats.last[item]
    for t in range(2):
        old = stats.trend[item, t] if stats.last[item] >= 0 else np.float32(0.0)
        stats.trend[item, t] = old * np.float32(2.0 ** (-gap / HALF_LIVES[t])) + amount
    if stats.first[item] < 0:
        stats.first[item] = step
    stats.last[item] = step


@nb.njit(cache=True, nogil=True)
def learn_offer(stats, offers, item, is_taken, is_new):  # type: ignore[no-untyped-def]
    """Count an offer of `item` (`is_new`) or the answer to one (`is_taken`), or both at once.

    Parameters
    ----------
    offers
        How many there were of all items, and how many of those were taken, both > 0, float64 (2,).
    """
    if is_new:
        stats.shown[item] += 1.0
        offers[0] += 1.0
    if is_taken:
        stats.taken[item] += 1.0
        offers[1] += 1.0
    common = np.float32(offers[1] / offers[0])
    prior = np.float32(RATE_PRIOR)
    rate = (stats.taken[item] + prior * common) / (stats.shown[item] + prior)
    stats.rate[item] = np.log(rate / common)


@nb.njit(cache=True, nogil=True)
def source_discount(count, met):  # type: ignore[no-untyped-def]
    """What the links of an item are multiplied by: the more often it was met, the less each says."""
    return (np.float32(1.0) + count + np.float32(MET) * met) ** np.float32(-SOURCE_POWER)


@nb.njit(cache=True, nogil=True)
def export_rows(graph, stats, items, out):  # type: ignore[no-untyped-def]
    """Write the best neighbours of each of `items` (r,) into the rows of `out`: scored, sorted, quantized.

    A score keeps 8 bits: the row's scale is its best score / 255, levels are rounded to nearest, so that
    the error is at most half a scale. Neighbours whose level is 0 are left out.
    """
    width = out.item.shape[1]
    for x in range(len(items)):
        j = items[x]
        length, start = graph.length[j], graph.start[j]
        if length == 0:
            continue
        source = source_discount(stats.count[j], stats.met[j])
        score = np.empty(length, np.float32)
        for k in range(length):
            score[k] = -graph.weight[start + k] * source * stats.discount[graph.item[start + k]]
        order = np.argsort(score, kind="mergesort")
        best = -score[order[0]]
        out.scale[x] = best / np.float32(255.0)
        for k in range(min(length, width)):
            level = np.uint8(np.rint(-score[order[k]] / best * np.float32(255.0)))
            if level == 0:
                break
            out.item[x, k] = graph.item[start + order[k]]
            out.score[x, k] = level
