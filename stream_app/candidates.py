"""Candidate generation: the items worth scoring for one user, found in compiled code.

`start_user` → `gather_served` (or `gather_learned`) → `select`: the history's neighbours are summed up,
what may not be shown is left out, the strongest are kept and the pool that everybody is offered is added.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from stream_app.retrieval import SOURCE_POWER, TARGET_POWER, WINDOW

HISTORY_DECAY = 0.8  # what an item of the history counts less than the next more recent one
AFFINITY_SLOTS = 1024  # of the small hash table in which a user's favourite tokens are counted


class Scratch(NamedTuple):
    """Working memory of one thread, reused from user to user without being cleared."""

    total: NDArray[np.float32]  # (n, 4) neighbour scores: decayed sum, sum, best, of the latest item
    support: NDArray[np.int32]  # (n,) history items that point here
    mark: NDArray[np.int32]  # (n,) epoch in which the item was found
    taken: NDArray[np.int32]  # (n,) epoch in which the item was excluded or chosen
    found: NDArray[np.int32]  # (n,)
    epoch: NDArray[np.int32]  # (1,) number of the current user
    slot_token: NDArray[np.uint64]  # (AFFINITY_SLOTS,)
    slot_count: NDArray[np.float32]  # (AFFINITY_SLOTS,)


def new_scratch(n: int) -> Scratch:
    """Working memory for `n` items."""
    return Scratch(
        total=np.zeros((n, 4), np.float32),
        support=np.zeros(n, np.int32),
        mark=np.full(n, -1, np.int32),
        taken=np.full(n, -1, np.int32),
        found=np.zeros(n, np.int32),
        epoch=np.zeros(1, np.int32),
        slot_token=np.zeros(AFFINITY_SLOTS, np.uint64),
        slot_count=np.zeros(AFFINITY_SLOTS, np.float32),
    )


@nb.njit(cache=True, nogil=True)
def start_user(scratch, excluded):  # type: ignore[no-untyped-def]
    """Begin with the next user: the last one's candidates are forgotten, items in `excluded` never chosen."""
    scratch.epoch[0] += 1
    for x in range(len(excluded)):
        scratch.taken[excluded[x]] = scratch.epoch[0]


@nb.njit(cache=True, nogil=True, inline="always")
def clear_item(scratch, i):  # type: ignore[no-untyped-def]
    """Give item `i` empty totals unless this user has found it already."""
    if scratch.mark[i] != scratch.epoch[0]:
        scratch.mark[i] = scratch.epoch[0]
        scratch.total[i, 0] = 0.0
        scratch.total[i, 1] = 0.0
        scratch.total[i, 2] = 0.0
        scratch.total[i, 3] = 0.0
        scratch.support[i] = 0


@nb.njit(cache=True, nogil=True, inline="always")
def _point_at(scratch, i, score, weight, d, n_found):  # type: ignore[no-untyped-def]
    """The d-th latest item of the history points at `i`; returns the number of items found so far."""
    if scratch.mark[i] != scratch.epoch[0]:
        clear_item(scratch, i)
        scratch.found[n_found] = i
        n_found += 1
    scratch.total[i, 0] += weight * score
    scratch.total[i, 1] += score
    scratch.total[i, 2] = max(scratch.total[i, 2], score)
    if d == 0:
        scratch.total[i, 3] = score
    scratch.support[i] += 1
    return n_found


@nb.njit(cache=True, nogil=True)
def gather_served(neighbours, history, scratch):  # type: ignore[no-untyped-def]
    """Find items through the rows of a release; returns how many (`scratch.found`)."""
    n_found, h = 0, len(history)
    weight = np.float32(1.0)
    for d in range(min(h, WINDOW)):
        j = history[h - 1 - d]
        scale = neighbours.scale[j]
        for k in range(neighbours.item.shape[1]):
            i = neighbours.item[j, k]
            if i < 0:
                break
            n_found = _point_at(scratch, i, scale * np.float32(neighbours.score[j, k]), weight, d, n_found)
        weight *= np.float32(HISTORY_DECAY)
    return n_found


@nb.njit(cache=True, nogil=True)
def gather_learned(graph, count, history, scratch):  # type: ignore[no-untyped-def]
    """Find items through the learner's own rows, unpruned and exact; returns how many."""
    n_found, h = 0, len(history)
    weight = np.float32(1.0)
    for d in range(min(h, WINDOW)):
        j = history[h - 1 - d]
        source = np.float32(1.0 + count[j]) ** np.float32(-SOURCE_POWER)
        start = graph.start[j]
        for k in range(start, start + graph.length[j]):
            i = graph.item[k]
            score = graph.weight[k] * source * np.float32(1.0 + count[i]) ** np.float32(-TARGET_POWER)
            n_found = _point_at(scratch, i, score, weight, d, n_found)
        weight *= np.float32(HISTORY_DECAY)
    return n_found


@nb.njit(cache=True, nogil=True)
def kth_largest(values, k):  # type: ignore[no-untyped-def]
    """The k-th largest of `values` (1 ≤ k ≤ n), which it reorders: Hoare's selection, O(n)."""
    lo, hi, want = 0, len(values) - 1, k - 1
    while lo < hi:
        pivot = values[(lo + hi) // 2]
        i, j = lo, hi
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            hi = j
        elif want >= i:
            lo = i
        else:
            break
    return values[want]


@nb.njit(cache=True, nogil=True)
def select(scratch, n_found, servable, pool, most):  # type: ignore[no-untyped-def]
    """Choose the `most` found items with the best decayed sum, then all of `pool`.

    Items that are excluded or not `servable` are left out; ties go to the item found first.

    Parameters
    ----------
    pool
        Items that every user is offered (trending, popular, new), int32 (p,).

    Returns
    -------
    Item numbers, int32 (c,), c ≤ most + p.
    """
    epoch = scratch.epoch[0]
    kept = 0
    values = np.empty(n_found, np.float32)
    for x in range(n_found):
        i = scratch.found[x]
        if scratch.taken[i] != epoch and servable[i]:
            scratch.found[kept] = i
            values[kept] = scratch.total[i, 0]
            kept += 1
    chosen = np.empty(min(kept, most) + len(pool), np.int32)
    n = 0
    if kept <= most:
        n = kept
        chosen[:n] = scratch.found[:n]
    else:
        bar = kth_largest(values[:kept].copy(), most)
        for x in range(kept):
            if values[x] > bar:
                chosen[n] = scratch.found[x]
                n += 1
        for x in range(kept):
            if values[x] == bar and n < most:
                chosen[n] = scratch.found[x]
                n += 1
    for x in range(n):
        scratch.taken[chosen[x]] = epoch
    for x in range(len(pool)):
        i = pool[x]
        if scratch.taken[i] != epoch and servable[i]:
            scratch.taken[i] = epoch
            clear_item(scratch, i)
            chosen[n] = i
            n += 1
    return chosen[:n]
