"""Why items stand in the lists of many users, in one call; `Recommender.explain` is the readable twin.

An item is there because another one points at it (which one?), because nobody chose it yet, because of how it
moves, or because of what the user likes.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from stream_app.model.features import N_NUMBERS, describe, standardised
from stream_app.model.retrieval import LENGTH_BUCKETS, WINDOW, length_bucket
from stream_app.model.scoring import IS_MOVE, MOST_CANDIDATES, candidates_of, recall

NEW, MOVES, TASTE = -1, -2, -3
"""Reasons that are no item."""


@nb.njit(cache=True, nogil=True)
def reasons_of(view, users, rows, picks, scores, ends, gap, is_named, scratch, out):  # type: ignore[no-untyped-def]
    """Write why each pick stands in its user's list: the item that points at it, or one of the constants.

    Parameters
    ----------
    rows
        Rows of `users`, int32 (m,).
    picks, scores
        Items and the scores that they have in the lists, one list behind the other, int32 and float32 (p,).
    ends
        Where each user's picks end, int64 (m,).
    is_named
        Items whose id is known: only those can be named as a reason, uint8 (n,).
    out
        int32 (p,).
    """
    raw = np.empty((len(picks), N_NUMBERS), np.float32)
    w, near, start = view.weights, view.neighbours, 0
    mean, inv_std, of_length, count = w.mean, w.inv_std, w.numbers, view.stats.count
    for m in range(len(rows)):
        u, end = rows[m], ends[m]
        history = users.items[u, : users.length[u]]
        bucket = length_bucket(len(history))
        candidates_of(view, history, history, MOST_CANDIDATES, scratch)
        recall(view, users, u, users.offers[u], scratch)
        describe(picks[start:end], history, view, scratch, raw[start:end])
        for p in range(start, end):
            because = _pointing(near.item, near.score, near.scale, history, picks[p], is_named)
            if because >= 0:
                out[p] = because
                continue
            if count[picks[p]] == 0:
                out[p] = NEW
                continue
            moves, numbers = 0.0, 0.0
            for f in range(N_NUMBERS):
                number = of_length[f, 0] + of_length[f, 1 + bucket] + of_length[f, 1 + LENGTH_BUCKETS + gap]
                part = number * standardised(raw[p, f], mean[f], inv_std[f])
                numbers += part
                moves += part if IS_MOVE[f] else 0.0
            out[p] = MOVES if moves >= scores[p] - numbers else TASTE
        start = end


@nb.njit(cache=True, nogil=True)
def _pointing(items, scores, scales, history, item, is_named):  # type: ignore[no-untyped-def]
    """The item of the latest in a history that points at `item` most, the more recent of two; −1 for none."""
    best, because = np.float32(0.0), np.int32(-1)
    for h in range(len(history) - 1, max(len(history) - WINDOW, 0) - 1, -1):
        j = history[h]
        if j < 0 or not is_named[j]:
            continue
        for n in range(items.shape[1]):
            if items[j, n] == item:
                points = scales[j] * scores[j, n]
                if points > best:
                    best, because = points, j
    return because
