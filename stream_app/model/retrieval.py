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

from stream_app.model.budget import BUDGET
from stream_app.model.eviction import Renumbering
from stream_app.model.selection import kth_largest

LEVELS = 255  # of a served neighbour's score
WINDOW = 30  # history items that an event is linked to, and that point at candidates
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


_EMPTY_STATS = {"discount": 1, "first": -1, "last": -1}  # the others begin with 0


def grown(array: NDArray[Any], n: int, empty: float) -> NDArray[Any]:
    """`array` with at least `n` rows; new rows hold `empty`. Whoever asks doubles `n`, up to a budget."""
    if len(array) >= n:
        return array
    out = np.full((n, *array.shape[1:]), empty, array.dtype)
    out[: len(array)] = array
    return out


def grow_stats(stats: ItemStats, n: int) -> ItemStats:
    """The counters with room for `n` items."""
    return ItemStats(**{name: grown(a, n, _EMPTY_STATS.get(name, 0)) for name, a in stats._asdict().items()})


def renumber_stats(stats: ItemStats, moved: Renumbering) -> ItemStats:
    """The counters of the items that stay."""
    return ItemStats(
        **{name: moved.rows(a, _EMPTY_STATS.get(name, 0)) for name, a in stats._asdict().items()}
    )


def grow_neighbours(neighbours: Neighbours, n: int) -> Neighbours:
    """The served rows with room for `n` items."""
    return Neighbours(
        grown(neighbours.item, n, -1), grown(neighbours.score, n, 0), grown(neighbours.scale, n, 0)
    )


def renumber_neighbours(neighbours: Neighbours, moved: Renumbering) -> Neighbours:
    """The served rows of the items that stay, without links to those that do not."""
    out = new_neighbours(moved.capacity, neighbours.item.shape[1])
    kept = moved.kept[: np.searchsorted(moved.kept, len(neighbours.scale))]
    _move_neighbours(neighbours, kept, moved.new, out)
    return out


def grow_covisits(graph: CoVisits, n: int, events: int, most_links: int = BUDGET.links) -> CoVisits:
    """The graph with room for `n` items and for `events` more events, compacted when the arena is short.

    The arena doubles until it is half as large again as `most_links`; then it is compacted oftener.
    """
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
    return compacted(graph, max(min(size, most_links * 3 // 2 + spare), end + spare))


def compacted(graph: CoVisits, size: int | None = None) -> CoVisits:
    """A copy of the graph, its rows one after the other, in an arena of `size` places or of just enough.

    What rows left behind when they grew is gone, so graphs with equal rows have equal arrays.
    """
    everyone = np.arange(len(graph.start), dtype=np.int32)
    return _moved(graph, everyone, everyone, len(everyone), size)


def renumber_covisits(graph: CoVisits, moved: Renumbering) -> CoVisits:
    """The rows of the items that stay, without links to those that do not, in an arena of the same size."""
    kept = moved.kept[: np.searchsorted(moved.kept, len(graph.start))]
    return _moved(graph, kept, moved.new, moved.capacity, len(graph.item))


def _moved(
    graph: CoVisits, kept: NDArray[np.int32], new: NDArray[np.int32], n: int, size: int | None
) -> CoVisits:
    """The rows `kept` (k,) of a graph under the numbers `new`, in tables of `n` rows."""
    capacity = grown(graph.capacity[kept], n, 0)
    end = int(capacity.sum(dtype=np.int64))
    out = CoVisits(
        item=np.zeros(end if size is None else size, np.int32),
        weight=np.zeros(end if size is None else size, np.float32),
        start=np.cumsum(capacity, dtype=np.int64) - capacity,
        length=np.zeros(n, np.int32),
        capacity=capacity,
        end=np.array([end], np.int64),
        touched=grown(graph.touched[kept], n, -1),
    )
    _move_rows(graph, kept, new, out)
    return out


def cut_covisits(graph: CoVisits, stats: ItemStats, most_links: int) -> None:
    """Cut the longest rows to their best links, until all rows take 3/4 of `most_links` places, in place.

    The longest go first: what the 200th link of an item says is worth less than the first of another.
    """
    longest = MAX_ROW
    while (
        longest > FIRST_ROW and np.minimum(graph.capacity, longest).sum(dtype=np.int64) * 4 > most_links * 3
    ):
        longest //= 2
    _cut_rows(graph, stats.count, longest)


@nb.njit(cache=True, nogil=True)
def _move_rows(graph, kept, new, out):  # type: ignore[no-untyped-def]
    items, weights, starts, lengths = graph.item, graph.weight, graph.start, graph.length
    items_out, weights_out, starts_out, lengths_out = out.item, out.weight, out.start, out.length
    for row in range(len(kept)):
        start, to = starts[kept[row]], starts_out[row]
        n = 0
        for k in range(start, start + lengths[kept[row]]):
            i = new[items[k]]
            if i >= 0:
                items_out[to + n], weights_out[to + n] = i, weights[k]
                n += 1
        lengths_out[row] = n


@nb.njit(cache=True, nogil=True)
def _move_neighbours(neighbours, kept, new, out):  # type: ignore[no-untyped-def]
    items, scores, scales = neighbours.item, neighbours.score, neighbours.scale
    items_out, scores_out, scales_out = out.item, out.score, out.scale
    for row in range(len(kept)):
        n = 0
        for k in range(items.shape[1]):
            i = items[kept[row], k]
            if i < 0:
                break
            if new[i] >= 0:
                items_out[row, n], scores_out[row, n] = new[i], scores[kept[row], k]
                n += 1
        scales_out[row] = scales[kept[row]]


@nb.njit(cache=True, nogil=True)
def _cut_rows(graph, count, longest):  # type: ignore[no-untyped-def]
    items, weights, starts, lengths = graph.item, graph.weight, graph.start, graph.length
    capacities = graph.capacity
    for j in range(len(starts)):
        if capacities[j] > longest:
            if lengths[j] > longest:
                _keep_best(items, weights, starts[j], lengths[j], count, longest)
                lengths[j] = longest
            capacities[j] = longest


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
def _keep_best(items, weights, start, length, count, most):  # type: ignore[no-untyped-def]
    """Move the best `most` links of a row, by weight over the root of their item's count, to its front."""
    score = np.empty(length, np.float32)
    for k in range(length):
        score[k] = -weights[start + k] / np.float32(1.0 + count[items[start + k]]) ** np.float32(0.5)
    order = np.sort(np.argsort(score, kind="mergesort")[:most])
    for k in range(most):
        items[start + k], weights[start + k] = items[start + order[k]], weights[start + order[k]]


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
            _keep_best(items, weights, start, length, count, KEEP_ROW)
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
    the error is at most half a scale. Neighbours whose level is 0 are left out. Those of one level stay in
    the order of the learner's row: levels are sorted by counting, which takes a quarter of a sort's time.
    """
    width = out.item.shape[1]
    starts, lengths, arena, weights = graph.start, graph.length, graph.item, graph.weight
    discount, count, met = stats.discount, stats.count, stats.met
    out_item, out_score, out_scale = out.item, out.score, out.scale
    scores, levels = np.empty(MAX_ROW, np.float32), np.empty(MAX_ROW, np.uint8)
    place = np.empty(LEVELS + 1, np.int64)  # of the next neighbour with each level
    for x in range(len(items)):
        j = items[x]
        length, start = lengths[j], starts[j]
        if length == 0:
            continue
        source, best = source_discount(count[j], met[j]), np.float32(0.0)
        for k in range(length):
            scores[k] = weights[start + k] * source * discount[arena[start + k]]
            best = max(best, scores[k])
        out_scale[x] = best / np.float32(LEVELS)
        bar = kth_largest(scores[:length].copy(), width) if length > width else np.float32(0.0)
        place[:] = 0
        for k in range(length):
            served = scores[k] >= bar
            levels[k] = np.uint8(np.rint(scores[k] / best * np.float32(LEVELS))) if served else 0
            place[levels[k]] += 1
        before = np.int64(0)
        for level in range(LEVELS, -1, -1):
            place[level], before = before, before + place[level]
        for k in range(length):
            at = place[levels[k]]
            place[levels[k]] += 1
            if levels[k] > 0 and at < width:
                out_item[x, at], out_score[x, at] = arena[start + k], levels[k]
