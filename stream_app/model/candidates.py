"""Candidate generation: the items worth scoring for one user, found in compiled code.

`start_user` → `gather_served` (or `gather_learned`) → `select`: the history's neighbours are summed up,
what may not be shown is left out, the strongest are kept and the pool that everybody is offered is added.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from stream_app.model.measures import MEASURES
from stream_app.model.retrieval import MAX_ROW, WINDOW, source_discount
from stream_app.model.selection import kth_largest

HISTORY_DECAY = 0.8  # what an item of the history counts less than the next more recent one
REACH_DECAY = 0.85  # how much fewer of its neighbours it points at …
LEAST_REACH = 20  # … but at so many at least
ANSWERED = 512  # lists with a choice whose description is kept for the next choice
NUMBER_ROOM = 32  # for what `features` describes an item with
LIST_ROOM = 48  # items of a list that is kept
MOST_OFFERS = 128  # latest offers remembered per user
SLOPE_PRIOR = 8.0  # offers without slope that each user starts with
READY_PRIOR = (4.8, 24.0)  # offers taken, and offers, that each user's share starts with
LAST_EPOCH = 2**31 - 1  # a busy worker gets there in a day
TOTALS = 8  # places of an item in `Scratch.total`, of which 5 are used
SUPPORT = 4  # the place of its support
SAMPLE = 64  # values that tell where to look for the k-th largest


class Scratch(NamedTuple):
    """Working memory of one thread, reused from user to user without being cleared."""

    # Neighbour scores of an item: decayed sum, sum, best, of the latest item, how many history items point
    # here; half a cache line, so that a link costs one read. All 0 but for the items in `found`.
    total: NDArray[np.float32]  # (n, 8)
    taken: NDArray[np.int32]  # (n,) epoch in which the item was excluded or chosen
    found: NDArray[np.int32]  # (n + 1,) the items that the current user's history points at
    n_found: NDArray[np.int64]  # (1,) how many
    epoch: NDArray[np.int32]  # (1,) number of the current user
    counted: NDArray[np.int32]  # (1,) epoch whose history's tokens were counted
    own_mark: NDArray[np.int32]  # (n,) epoch in which the item was met in the history
    own_place: NDArray[np.int32]  # (n,) its place there, from the latest on
    token_mark: NDArray[np.int32]  # (v,) epoch in which the token was met in the history
    token_count: NDArray[np.float32]  # (v,) how often
    token_late: NDArray[np.float32]  # (v,) the same, the latest items counting most
    taste_mark: NDArray[np.int32]  # (v,) epoch in which the token was met in what the user was offered
    taste_shown: NDArray[np.float32]  # (v,) how often
    taste: NDArray[np.float32]  # (v,) how many of those the user took beyond what was to be expected
    recalled: NDArray[np.int32]  # (1,) epoch whose user was offered something
    excess: NDArray[np.float32]  # (o,) by offer, how far the user's answer exceeded expectation
    slope: NDArray[np.float32]  # (MEASURES,) its regression on what is measured of the items
    readiness: NDArray[np.float32]  # (1,) log of the share of offers that the user took
    offer_mark: NDArray[np.int32]  # (n,) epoch in which the item was met there
    offer_taken: NDArray[np.uint8]  # (n,) whether the user took it
    cross_mark: NDArray[np.int32]  # (v,) epoch in which the token's crosses with the user were summed up
    cross: NDArray[np.float32]  # (v,) that sum
    answered: NDArray[np.uint64]  # (ANSWERED,) lists with a choice, by request and user
    answered_items: NDArray[np.int32]  # (ANSWERED,) how many items they have
    answered_numbers: NDArray[
        np.float32
    ]  # (ANSWERED, LIST_ROOM, NUMBER_ROOM) the items as of the first choice


def new_scratch(n: int, v: int) -> Scratch:
    """Working memory for `n` items and `v` tokens."""
    return Scratch(
        total=np.zeros((n, TOTALS), np.float32),
        taken=np.full(n, -1, np.int32),
        found=np.zeros(n + 1, np.int32),
        n_found=np.zeros(1, np.int64),
        epoch=np.zeros(1, np.int32),
        counted=np.full(1, -1, np.int32),
        own_mark=np.full(n, -1, np.int32),
        own_place=np.zeros(n, np.int32),
        token_mark=np.full(v, -1, np.int32),
        token_count=np.zeros(v, np.float32),
        token_late=np.zeros(v, np.float32),
        taste_mark=np.full(v, -1, np.int32),
        taste_shown=np.zeros(v, np.float32),
        taste=np.zeros(v, np.float32),
        recalled=np.full(1, -1, np.int32),
        excess=np.zeros(MOST_OFFERS, np.float32),
        slope=np.zeros(MEASURES, np.float32),
        readiness=np.zeros(1, np.float32),
        offer_mark=np.full(n, -1, np.int32),
        offer_taken=np.zeros(n, np.uint8),
        cross_mark=np.full(v, -1, np.int32),
        cross=np.zeros(v, np.float32),
        answered=np.zeros(ANSWERED, np.uint64),
        answered_items=np.zeros(ANSWERED, np.int32),
        answered_numbers=np.zeros((ANSWERED, LIST_ROOM, NUMBER_ROOM), np.float32),
    )


@nb.njit(cache=True, nogil=True)
def start_user(scratch, excluded):  # type: ignore[no-untyped-def]
    """Begin with the next user: the last one's candidates are forgotten, items in `excluded` never chosen."""
    if scratch.epoch[0] == LAST_EPOCH:  # start again, and let no old mark look like a new one
        scratch.taken[:] = -1
        scratch.counted[:] = -1
        scratch.own_mark[:] = -1
        scratch.token_mark[:] = -1
        scratch.cross_mark[:] = -1
        scratch.taste_mark[:] = -1
        scratch.recalled[:] = -1
        scratch.offer_mark[:] = -1
        scratch.epoch[0] = 0
    scratch.epoch[0] += 1
    epoch, taken, total, found = scratch.epoch[0], scratch.taken, scratch.total, scratch.found
    for x in range(scratch.n_found[0]):
        for f in range(SUPPORT + 1):
            total[found[x], f] = 0.0
    scratch.n_found[0] = 0
    for x in range(len(excluded)):
        taken[excluded[x]] = epoch


@nb.njit(cache=True, nogil=True)
def recall_offers(scratch, offered, taken, item_tokens, stats):  # type: ignore[no-untyped-def]
    """Sum up, per token, how the user answered offers: what was taken beyond what was to be expected.

    The share of an item that is to be expected follows its rate, scaled so that the user's sum is right.

    Parameters
    ----------
    offered, taken
        Items that the user was offered, int32 (o,), and whether each was taken, uint8 (o,).
    item_tokens
        Token numbers, int32 (n, ITEM_TOKENS).
    """
    epoch, rate = scratch.epoch[0], stats.rate
    scratch.recalled[0] = epoch
    mark, shown, taste = scratch.taste_mark, scratch.taste_shown, scratch.taste
    offer_mark, offer_taken = scratch.offer_mark, scratch.offer_taken
    excesses = scratch.excess
    usual, total = np.float32(0.0), np.float32(0.0)
    for x in range(len(offered)):
        usual += np.exp(rate[offered[x]])
        total += taken[x]
    share = (total + np.float32(READY_PRIOR[0])) / (np.float32(len(offered)) + np.float32(READY_PRIOR[1]))
    scratch.readiness[0] = np.log(share)
    for x in range(len(offered)):
        i = offered[x]
        if offer_mark[i] != epoch:
            offer_mark[i], offer_taken[i] = epoch, 0
        offer_taken[i] = max(offer_taken[i], taken[x])
        excess = np.float32(taken[x]) - np.exp(rate[i]) * total / usual
        excesses[x] = excess
        for t in range(1, item_tokens.shape[1]):
            key = item_tokens[i, t]
            if key < 0:
                break
            if mark[key] != epoch:
                mark[key], shown[key], taste[key] = epoch, 0.0, 0.0
            shown[key] += 1.0
            taste[key] += excess


@nb.njit(cache=True, nogil=True)
def recall_slopes(scratch, offered, measures):  # type: ignore[no-untyped-def]
    """Sum up in which direction of each measure the user takes more than expected; after `recall_offers`.

    slope = Σ excess · measure / (offers + prior), over the `offered` items, int32 (o,), whose `measures` are
    float32 (n, MEASURES).
    """
    slope, excess = scratch.slope, scratch.excess
    slope[:] = 0.0
    for x in range(len(offered)):
        for m in range(MEASURES):
            slope[m] += excess[x] * measures[offered[x], m]
    for m in range(MEASURES):
        slope[m] /= np.float32(len(offered)) + np.float32(SLOPE_PRIOR)


@nb.njit(cache=True, nogil=True)
def _point_at(  # type: ignore[no-untyped-def]
    total, found, row_items, row_scores, scale, weight, latest, n_found
):  # fmt: skip
    """One item of the history points at its neighbours, `scale · row_scores` strong.

    It gets arrays, not `Scratch`: each call with a tuple counts the references of everything in it, which
    would cost more than the sums. Returns the number of items found so far.
    """
    for k in range(len(row_items)):
        i = row_items[k]
        if i < 0:
            break
        score = scale * np.float32(row_scores[k])
        found[n_found] = i  # without a branch: which items are new cannot be foreseen
        n_found += total[i, SUPPORT] == 0.0
        total[i, 0] += weight * score
        total[i, 1] += score
        total[i, 2] = max(total[i, 2], score)
        if latest:
            total[i, 3] = score
        total[i, SUPPORT] += np.float32(1.0)
    return n_found


@nb.njit(cache=True, nogil=True)
def gather_served(neighbours, history, scratch):  # type: ignore[no-untyped-def]
    """Find items through the rows of a release; returns how many (`scratch.found`).

    The further back an item of the history lies, the fewer of its neighbours it points at, the nearest first:
    it counts for less, and its far neighbours for next to nothing.
    """
    n_found, h = np.int64(0), len(history)  # a bare 0 compiles `_point_at` twice
    total, found = scratch.total, scratch.found
    items, scores, scale = neighbours.item, neighbours.score, neighbours.scale
    weight, reach = np.float32(1.0), np.float32(items.shape[1])
    for d in range(min(h, WINDOW)):
        j, most = history[h - 1 - d], max(LEAST_REACH, np.int64(reach))
        near, strong = items[j, :most], scores[j, :most]
        n_found = _point_at(total, found, near, strong, scale[j], weight, d == 0, n_found)
        weight *= np.float32(HISTORY_DECAY)
        reach *= np.float32(REACH_DECAY)
    scratch.n_found[0] = n_found
    return n_found


@nb.njit(cache=True, nogil=True)
def gather_learned(graph, stats, history, scratch):  # type: ignore[no-untyped-def]
    """Find items through the learner's own rows, unpruned and exact; returns how many."""
    n_found, h = np.int64(0), len(history)
    total, found = scratch.total, scratch.found
    starts, lengths, arena, weights = graph.start, graph.length, graph.item, graph.weight
    discount, count, met = stats.discount, stats.count, stats.met
    weight = np.float32(1.0)
    scores = np.empty(MAX_ROW, np.float32)
    for d in range(min(h, WINDOW)):
        j = history[h - 1 - d]
        start, length = starts[j], lengths[j]
        items = arena[start : start + length]
        for k in range(length):
            scores[k] = weights[start + k] * discount[items[k]]
        source = source_discount(count[j], met[j])
        n_found = _point_at(total, found, items, scores, source, weight, d == 0, n_found)
        weight *= np.float32(HISTORY_DECAY)
    scratch.n_found[0] = n_found
    return n_found


@nb.njit(cache=True, nogil=True)
def _bar(values, k):  # type: ignore[no-untyped-def]
    """The k-th largest of `values`, which stay as they are (1 ≤ k ≤ n).

    Of many, a sample tells a value that a few more than k are likely to reach; only those are searched. The
    cut is without a branch: selection alone would guess wrongly at every second value.
    """
    n = len(values)
    if n < 4 * k:
        return kth_largest(values.copy(), k)
    sample, rest = np.empty(SAMPLE, np.float32), np.empty(n + 1, np.float32)
    for x in range(SAMPLE):
        sample[x] = values[x * n // SAMPLE]
    cut = kth_largest(sample, 3 + 3 * k * SAMPLE // (2 * n))
    kept = 0
    for x in range(n):
        rest[kept] = values[x]
        kept += values[x] >= cut
    return kth_largest(rest[:kept], k) if kept >= k else kth_largest(values.copy(), k)


@nb.njit(cache=True, nogil=True)
def _add_pool(scratch, servable, pool, chosen, n):  # type: ignore[no-untyped-def]
    """Put what may be shown of `pool` behind the `n` chosen items; returns how many there are now."""
    epoch, taken = scratch.epoch[0], scratch.taken
    for x in range(len(pool)):
        i = pool[x]
        if taken[i] != epoch and servable[i]:
            taken[i] = epoch
            chosen[n] = i
            n += 1
    return n


@nb.njit(cache=True, nogil=True)
def add_own(scratch, servable, history, others):  # type: ignore[no-untyped-def]
    """The candidates `others`, int32 (c,), and behind them what else is among the user's latest items."""
    candidates = np.empty(len(others) + WINDOW, np.int32)
    candidates[: len(others)] = others
    n = _add_pool(scratch, servable, history[max(0, len(history) - WINDOW) :], candidates, len(others))
    return candidates[:n]


@nb.njit(cache=True, nogil=True)
def select(scratch, n_found, servable, pool, most):  # type: ignore[no-untyped-def]
    """Choose the `most` found items with the best decayed sum, then all of `pool`.

    Items that are excluded or not `servable` are left out; ties go to the item found first.

    Parameters
    ----------
    pool
        Items that every user is offered (trending, popular, new), int32 (p,).
    most
        ≥ 1.

    Returns
    -------
    Item numbers, int32 (c,), c ≤ most + p.
    """
    epoch, found, taken, total = scratch.epoch[0], scratch.found, scratch.taken, scratch.total
    kept = 0
    able, values = np.empty(n_found, np.int32), np.empty(n_found, np.float32)
    for x in range(n_found):
        i = found[x]
        able[kept], values[kept] = i, total[i, 0]
        kept += (taken[i] != epoch) & (servable[i] != 0)
    chosen = np.empty(min(kept, most) + len(pool) + 1, np.int32)
    n = 0
    bar = _bar(values[:kept], most) if kept > most else np.float32(-np.inf)
    for x in range(kept):
        chosen[n] = able[x]
        n += values[x] > bar
    for x in range(kept):
        if values[x] == bar and n < most:
            chosen[n] = able[x]
            n += 1
    for x in range(n):
        taken[chosen[x]] = epoch
    return chosen[: _add_pool(scratch, servable, pool, chosen, n)]
