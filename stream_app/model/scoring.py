"""Ranking in compiled code: score the candidates of many users, pick their top K, log examples.

`observe` walks through a batch of feedback events in order: before an event is applied to its user it
writes down, for the learner, how the chosen item and a few others looked at that moment. `refresh` makes
the new lists of the users that the batch touched, once each.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.artefact import KernelArgs, lookup_one
from stream_app.model.candidates import (
    SUPPORT,
    add_own,
    gather_learned,
    gather_served,
    recall_offers,
    recall_slopes,
    select,
    start_user,
)
from stream_app.model.examples import CHOSEN, DISLIKED, LIKED, PREFERRED, SHOWN, TAKEN
from stream_app.model.features import (
    CLIP,
    LIST_NUMBER,
    LIST_TOKEN,
    MOVES,
    N_NUMBERS,
    NUMBERS,
    ONE,
    POSITION,
    TOKEN_VALUE,
    cross_tokens,
    describe,
    gap_bucket,
    standardised,
)
from stream_app.model.item_index import ITEM_TOKENS
from stream_app.model.measures import MEASURES
from stream_app.model.retrieval import LENGTH_BUCKETS, WINDOW, CoVisits, ItemStats, Neighbours, length_bucket
from stream_app.model.selection import kth_largest

MOST_CANDIDATES = 100  # found through the history; the pool comes on top
NEGATIVES = 10  # other candidates that an example carries beside the chosen item


class Users(NamedTuple):
    """State of the users in memory, one row each."""

    items: NDArray[np.int32]  # (u, L) distinct items, the most recent last
    best: NDArray[np.uint8]  # (u, L) strongest feedback on the item so far, in tenths; 0: met, not liked
    length: NDArray[np.int32]  # (u,)
    last_ms: NDArray[np.int64]  # (u,) latest event time, −1 before the first event
    tokens: NDArray[np.uint64]  # (u, USER_TOKENS)
    offered: NDArray[np.int32]  # (u, O) items in the latest lists and ratings, the most recent last
    taken: NDArray[np.uint8]  # (u, O) 1 where the user chose the item
    offers: NDArray[np.int32]  # (u,) filled places of `offered`
    request: NDArray[np.uint64]  # (u,) the request of the latest list, 0 when there is none
    listed: NDArray[np.int32]  # (u,) length of that list, the last places of `offered`
    listed_gap: NDArray[np.uint8]  # (u,) bucket of the time between the event before it and the list


class Feedback(NamedTuple):
    """What a batch of events says, one row per item of feedback and per part of a list, in order."""

    rows: NDArray[np.int32]  # (e,) of `Users`
    items: NDArray[np.int32]  # (e,)
    times_ms: NDArray[np.int64]  # (e,)
    kinds: NDArray[np.uint8]  # (e,) `CHOSEN` … `SHOWN` as far as the event itself says
    weights: NDArray[np.float32]  # (e,) strength of the feedback; CHOSEN with 0 only moves the user's clock
    requests: NDArray[np.uint64]  # (e,) the list that the event belongs to, 0 for none
    shown: NDArray[np.int32]  # (s,) items of all lists, one list behind the other
    shown_end: NDArray[np.int64]  # (e,) where the row's part ends; it begins where the last row's ended
    seeds: NDArray[np.uint64]  # (e,) of the drawing of negatives: a replay draws the same
    events: NDArray[np.int64]  # (e,) the event that the row belongs to; those of one stand together


class Weights(NamedTuple):
    """The ranker as the kernels read it: a release's artefact under an overlay of fresher weights."""

    numbers: NDArray[np.float32]  # (N_NUMBERS, N_WEIGHTS)
    list_numbers: NDArray[np.float32]  # the same for the items of a list that is shown
    mean: NDArray[np.float32]  # (N_NUMBERS,)
    inv_std: NDArray[np.float32]  # (N_NUMBERS,)
    item: NDArray[np.float32]  # (n,) what each item's tokens and measures add to its score
    fresh_keys: NDArray[np.uint64]  # (2^b,) open addressing, 0 marks a free slot
    fresh: NDArray[np.float32]  # (2^b,)
    base: KernelArgs


class View(NamedTuple):
    """All that scoring reads: retrieval, counters, ranker, items."""

    learned: bool  # gather from the learner's rows instead of a release's
    graph: CoVisits
    neighbours: Neighbours
    stats: ItemStats
    weights: Weights
    item_tokens: NDArray[np.int32]  # (n, ITEM_TOKENS) numbers into the vocabulary
    vocabulary: NDArray[np.uint64]  # (v,)
    measures: NDArray[np.float32]  # (n, MEASURES)
    measure_tokens: NDArray[np.uint64]  # (MEASURES,)
    servable: NDArray[np.uint8]  # (n,)
    pool: NDArray[np.int32]  # (p,) what every user is offered
    step: int  # the learner's event step
    moves: NDArray[np.float32]  # (n, N_MOVES) how items move, filled in where `describe` needs it


class Logged(NamedTuple):
    """What `observe` writes for the learner: a row per feedback event, then the comparisons `PREFERRED`."""

    event: NDArray[np.int32]  # (e,) the feedback that the row is about
    history: NDArray[np.int32]  # (e, WINDOW) items before the event, the most recent last, −1 in front
    length: NDArray[np.int32]  # (e,) of the whole history
    gap: NDArray[np.uint8]  # (e,) bucket of the time since the user's last event
    kind: NDArray[np.uint8]  # (e,) what happened
    weight: NDArray[np.float32]  # (e,) new feedback, 0: nothing new
    item: NDArray[np.int32]  # (e, 1 + NEGATIVES) the chosen item, then others; or what was shown
    count: NDArray[np.int32]  # type: ignore[assignment]  # (e,) filled places; 0: nothing to learn
    numbers: NDArray[np.float32]  # (e, 1 + NEGATIVES, N_NUMBERS)


def new_log(events: int, answers: int = 0) -> Logged:
    """Room for the examples of `events` feedback events, at most `answers` of which answer a list."""
    event = np.zeros(events + answers, np.int32)
    event[:events] = np.arange(events)
    events += answers
    return Logged(
        event=event,
        history=np.full((events, WINDOW), -1, np.int32),
        length=np.zeros(events, np.int32),
        gap=np.zeros(events, np.uint8),
        kind=np.zeros(events, np.uint8),
        weight=np.zeros(events, np.float32),
        item=np.full((events, 1 + NEGATIVES), -1, np.int32),
        count=np.zeros(events, np.int32),
        numbers=np.zeros((events, 1 + NEGATIVES, N_NUMBERS), np.float32),
    )


@nb.njit(cache=True, nogil=True, inline="always")
def _slot(keys, key):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(keys) - 1)
    slot = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while keys[slot] != key and keys[slot] != 0:
        slot = (slot + np.uint64(1)) & mask
    return slot


@nb.njit(cache=True, nogil=True)
def put_fresh(fresh_keys, fresh, keys, values):  # type: ignore[no-untyped-def]
    """Write weights into the overlay table, which must have free slots left; returns how many were new."""
    new = 0
    for k in range(len(keys)):
        slot = _slot(fresh_keys, keys[k])
        if fresh_keys[slot] == 0:
            fresh_keys[slot] = keys[k]
            new += 1
        fresh[slot] = values[k]
    return new


@nb.njit(cache=True, nogil=True, inline="always")
def _lookup(fresh_keys, fresh, base, key):  # type: ignore[no-untyped-def]
    """The weight of a token: the overlay's if it has one, else the release's, else 0.

    Not a call, and not with `Weights`: a call with a tuple counts the references of everything in it, which
    costs ten times what the lookup does.
    """
    slot = _slot(fresh_keys, key)
    return fresh[slot] if fresh_keys[slot] == key else lookup_one(base, key)


@nb.njit(cache=True, nogil=True)
def lookup_all(weights, keys, out):  # type: ignore[no-untyped-def]
    """The weight of each of `keys` (n,) into `out` (n,); token 0 weighs nothing."""
    fresh_keys, fresh, base = weights.fresh_keys, weights.fresh, weights.base
    for k in range(len(keys)):
        out[k] = _lookup(fresh_keys, fresh, base, keys[k]) if keys[k] != 0 else np.float32(0.0)


@nb.njit(cache=True, nogil=True)
def sum_item_tokens(token_weights, item_tokens, out):  # type: ignore[no-untyped-def]
    """The part of each item's score that is the same for every user, into `out` (n,)."""
    for i in range(len(out)):
        total = np.float32(0.0)
        for t in range(ITEM_TOKENS):
            if item_tokens[i, t] < 0:
                break
            total += token_weights[item_tokens[i, t]]
        out[i] = TOKEN_VALUE * total


@nb.njit(cache=True, nogil=True)
def add_measures(measure_weights, measures, out):  # type: ignore[no-untyped-def]
    """Add what items are measured, float32 (n, MEASURES), times its weights, (MEASURES,), to `out` (n,)."""
    for i in range(min(len(out), len(measures))):
        for m in range(MEASURES):
            out[i] += measure_weights[m] * measures[i, m]


@nb.njit(cache=True, nogil=True)
def candidates_of(view, history, excluded, most, scratch):  # type: ignore[no-untyped-def]
    """The candidates of one user, int32 (c,), with their totals in `scratch`."""
    n_found = gather(view, history, excluded, scratch)
    return select(scratch, n_found, view.servable, view.pool, most)


@nb.njit(cache=True, nogil=True)
def _offerable(view, history, again, n_found, scratch):  # type: ignore[no-untyped-def]
    """The candidates of a user whose `history` was gathered; `again`: and the latest items of the history."""
    others = select(scratch, n_found, view.servable, view.pool, MOST_CANDIDATES)
    return add_own(scratch, view.servable, history, others) if again else others


@nb.njit(cache=True, nogil=True)
def gather(view, history, excluded, scratch):  # type: ignore[no-untyped-def]
    """Find the items that the history points at, in `scratch`; returns how many."""
    start_user(scratch, excluded)
    if view.learned:
        return gather_learned(view.graph, view.stats, history, scratch)
    return gather_served(view.neighbours, history, scratch)


@nb.njit(cache=True, nogil=True)
def _crosses(fresh_keys, fresh, base, user, key):  # type: ignore[no-untyped-def]
    """Sum of the weights of an item's token together with each of the user's tokens."""
    total = np.float32(0.0)
    for g in range(len(user)):
        if user[g] == 0:
            break
        total += _lookup(fresh_keys, fresh, base, cross_tokens(user[g], key))
    return total


@nb.njit(cache=True, nogil=True, inline="always")
def _weighted(number, raw, mean, inv_std):  # type: ignore[no-untyped-def]
    """Σ number · standardised(raw) over all numbers, as four sums that need not wait for each other."""
    a, b, c, d = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for f in range(0, N_NUMBERS - 3, 4):
        a += number[f] * standardised(raw[f], mean[f], inv_std[f])
        b += number[f + 1] * standardised(raw[f + 1], mean[f + 1], inv_std[f + 1])
        c += number[f + 2] * standardised(raw[f + 2], mean[f + 2], inv_std[f + 2])
        d += number[f + 3] * standardised(raw[f + 3], mean[f + 3], inv_std[f + 3])
    for f in range(N_NUMBERS - N_NUMBERS % 4, N_NUMBERS):
        a += number[f] * standardised(raw[f], mean[f], inv_std[f])
    return (a + b) + (c + d)


@nb.njit(cache=True, nogil=True)
def score(view, candidates, raw, user, bucket, gap, scratch, out, listed=False):  # type: ignore[no-untyped-def]
    """The ranker's score of each candidate into `out` (c,).

    Parameters
    ----------
    raw
        The candidates' numbers as `describe` wrote them, float32 (c, N_NUMBERS).
    user
        The user's tokens, uint64 (USER_TOKENS,).
    listed
        Whether the candidates are a list that is shown, which is to be ordered.
    """
    w, epoch = view.weights, scratch.epoch[0]
    numbers = w.list_numbers if listed else w.numbers
    of_number, of_token = (LIST_NUMBER, LIST_TOKEN) if listed else (ONE, ONE)
    mean, inv_std, of_item = w.mean, w.inv_std, w.item
    item_tokens, vocabulary = view.item_tokens, view.vocabulary
    cross_mark, cross = scratch.cross_mark, scratch.cross
    fresh_keys, fresh, base = w.fresh_keys, w.fresh, w.base
    number = np.empty(N_NUMBERS, np.float32)
    for f in range(N_NUMBERS):
        number[f] = numbers[f, 0] + numbers[f, 1 + bucket] + numbers[f, 1 + LENGTH_BUCKETS + gap]
        number[f] *= of_number
    for c in range(len(candidates)):
        i = candidates[c]
        total = of_item[i]
        if user[1] != 0:  # not the item with the user: that would only memorise
            own = vocabulary[item_tokens[i, 0]]
            total += TOKEN_VALUE * _crosses(fresh_keys, fresh, base, user[1:], own)
        for t in range(1, ITEM_TOKENS):
            v = item_tokens[i, t]
            if v < 0:
                break
            if cross_mark[v] != epoch:  # candidates share categories: once per user is enough
                cross_mark[v] = epoch
                cross[v] = TOKEN_VALUE * _crosses(fresh_keys, fresh, base, user, vocabulary[v])
            total += cross[v]
        out[c] = of_token * total + _weighted(number, raw[c], mean, inv_std)


IS_MOVE = np.isin(NUMBERS, MOVES)  # (N_NUMBERS,)


def number_parts(view: View, raw: NDArray[np.float32], bucket: int, gap: int) -> NDArray[np.float32]:
    """What each number of some candidates adds to their scores, as `raw`, float32 (…, N_NUMBERS)."""
    w = view.weights
    number = w.numbers[:, 0] + w.numbers[:, 1 + bucket] + w.numbers[:, 1 + LENGTH_BUCKETS + gap]
    parts: NDArray[np.float32] = number * np.clip((raw - w.mean) * w.inv_std, -CLIP, CLIP)
    return parts


def score_parts(
    view: View, item: int, raw: NDArray[np.float32], user: NDArray[np.uint64], bucket: int, gap: int
) -> dict[str, float]:
    """The readable twin of `score` for one candidate: its score in three parts that add up to it.

    Returns
    -------
    dict
        ``history`` (what the user's items point at), ``moves`` (trends, popularity, age) and ``taste``
        (the item itself, its categories and measures, and what its tokens say of such a user).
    """
    parts = number_parts(view, raw, bucket, gap)
    tokens = [view.vocabulary[v] for v in view.item_tokens[item] if v >= 0]
    crosses = [cross_tokens(g, t) for t in tokens for g in user if g and (t != tokens[0] or g != user[0])]
    of_tokens = np.zeros(len(tokens) + len(crosses), np.float32)
    lookup_all(view.weights, np.array([*tokens, *crosses], np.uint64), of_tokens)
    of_measures = np.zeros(MEASURES, np.float32)
    lookup_all(view.weights, view.measure_tokens, of_measures)
    return {
        "history": float(parts[~IS_MOVE].sum()),
        "moves": float(parts[IS_MOVE].sum()),
        "taste": float(TOKEN_VALUE * of_tokens.sum() + of_measures @ view.measures[item]),
    }


@nb.njit(cache=True, nogil=True)
def top_k(candidates, scores, items_out, scores_out):  # type: ignore[no-untyped-def]
    """Write the best candidates, best first, equal scores by item number; returns how many."""
    n, most, m = 0, len(items_out), len(candidates)
    bar = kth_largest(scores[:m].copy(), most) if m > most else np.float32(-np.inf)
    for c in range(m):
        s, i = scores[c], candidates[c]
        if s < bar:
            continue
        if n == most and (s < scores_out[n - 1] or (s == scores_out[n - 1] and i > items_out[n - 1])):
            continue
        place = n if n < most else n - 1
        while place > 0 and (
            scores_out[place - 1] < s or (scores_out[place - 1] == s and items_out[place - 1] > i)
        ):
            scores_out[place], items_out[place] = scores_out[place - 1], items_out[place - 1]
            place -= 1
        scores_out[place], items_out[place] = s, i
        n = min(n + 1, most)
    return n


@nb.njit(cache=True, nogil=True)
def refresh(view, users, rows, gaps, exclude_seen, scratch, items_out, scores_out, count_out):  # type: ignore[no-untyped-def]
    """The top K of many users.

    Parameters
    ----------
    rows
        Rows of `users`, int32 (m,).
    gaps
        Bucket of the time since each user's last event, uint8 (m,).
    items_out, scores_out, count_out
        int32 (m, K), float32 (m, K), int32 (m,).
    """
    raw = np.empty((MOST_CANDIDATES + len(view.pool) + WINDOW, N_NUMBERS), np.float32)
    scores = np.empty(len(raw), np.float32)
    for m in range(len(rows)):
        u = rows[m]
        history = users.items[u, : users.length[u]]
        n_found = gather(view, history, history if exclude_seen else history[:0], scratch)
        candidates = _offerable(view, history, not exclude_seen, n_found, scratch)
        recall(view, users, u, users.offers[u], scratch)
        describe(candidates, history, view, scratch, raw)
        score(view, candidates, raw, users.tokens[u], length_bucket(len(history)), gaps[m], scratch, scores)
        count_out[m] = top_k(candidates, scores, items_out[m], scores_out[m])


@nb.njit(cache=True, nogil=True, inline="always")
def _random(state):  # type: ignore[no-untyped-def]
    """splitmix64: the next state and a well mixed number from it."""
    state += np.uint64(0x9E3779B97F4A7C15)
    x = state
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, x ^ (x >> np.uint64(31))


@nb.njit(cache=True, nogil=True)
def recall(view, users, u, n, scratch):  # type: ignore[no-untyped-def]
    """`recall_offers` of the first `n` offers to user `u`; after `start_user`."""
    if n > 0:
        recall_offers(scratch, users.offered[u, :n], users.taken[u, :n], view.item_tokens, view.stats)
        recall_slopes(scratch, users.offered[u, :n], view.measures)


@nb.njit(cache=True, nogil=True)
def observe(view, users, feedback, scratch, log, again=False):  # type: ignore[no-untyped-def]
    """Log and apply `Feedback` in order; what is logged is as it was before its event was applied.

    Parameters
    ----------
    again
        Whether items may be recommended again: then every choice is new, and compared with the user's own.
    """
    rows, items, times_ms, kinds, weights, requests, all_shown, shown_end, seeds, events = feedback
    user_items, user_best, user_length, user_last = users.items, users.best, users.length, users.last_ms
    log_history, log_weight, log_item, log_count = log.history, log.weight, log.item, log.count
    start, more = np.int64(0), len(rows)
    for e in range(len(rows)):
        u, i, n = rows[e], items[e], user_length[rows[e]]
        shown = all_shown[start : shown_end[e]]
        start = shown_end[e]
        history = user_items[u, :n]
        if e == 0 or events[e] != events[e - 1]:  # the list that the whole event answers was made before it
            asked, asked_gap = history, gap_bucket(times_ms[e], user_last[u])
            if e + 1 < len(rows) and events[e + 1] == events[e]:
                asked = history.copy()
        log.gap[e], log.length[e], log.kind[e] = asked_gap, len(asked), kinds[e]
        user_last[u] = max(user_last[u], times_ms[e])
        if kinds[e] == SHOWN:
            log_item[e, : len(shown)] = shown
            log_count[e] = len(shown)
            if requests[e] == 0 or requests[e] != users.request[u]:  # not the next part of the same list
                users.listed_gap[u] = log.gap[e]
            _offer(users, u, shown, requests[e])
            continue
        _log_history(history, log_history[e])
        if kinds[e] != DISLIKED and weights[e] <= 0.0:
            continue
        place = _last_place(history, i)
        before = user_best[u, place] if place >= 0 else np.uint8(0)
        strength = np.uint8(0)
        log_item[e, 0] = i
        if kinds[e] == DISLIKED:
            log_count[e] = 1 if place < 0 else 0
        else:
            strength = np.uint8(min(255.0, max(1.0, np.rint(weights[e] * 10.0))))
            old = np.float32(0.0) if again else np.float32(before)
            log_weight[e] = max(0.0, (np.float32(strength) - old) / np.float32(10.0))
            log_count[e] = 1 if log_weight[e] > 0.0 else 0
            answered = _listed_place(users, u, i, requests[e])
            is_new = place < 0 or again
            if answered >= 0:
                if is_new and _log_choice(view, users, u, asked, i, seeds[e], scratch, log, more, again):
                    _prefer(log, e, more)
                    more += 1
                _log_answer(view, users, u, answered, seeds[e], scratch, log, e)
                users.taken[u, answered] = 1
            elif is_new:
                _log_choice(view, users, u, asked, i, seeds[e], scratch, log, e, again)
        if place < 0 and kinds[e] != CHOSEN:  # a rating is an offer and its answer at once
            _offer(users, u, log_item[e, :1], np.uint64(0))
            users.taken[u, users.offers[u] - 1] = kinds[e] == LIKED
        user_length[u] = _put_last(user_items[u], user_best[u], n, place, i, max(before, strength))


@nb.njit(cache=True, nogil=True)
def _log_history(history, out):  # type: ignore[no-untyped-def]
    """Write the latest items of `history` (h,) into the last places of `out` (WINDOW,)."""
    to = WINDOW
    for x in range(len(history) - 1, max(len(history) - WINDOW, 0) - 1, -1):
        if history[x] >= 0:  # else an item that gave up its number
            to -= 1
            out[to] = history[x]


@nb.njit(cache=True, nogil=True)
def _last_place(items, i):  # type: ignore[no-untyped-def]
    """The last place of item `i`, −1 where it is none of `items`."""
    place = len(items) - 1
    while place >= 0 and items[place] != i:
        place -= 1
    return place


@nb.njit(cache=True, nogil=True)
def _log_choice(view, users, u, history, i, seed, scratch, log, e, again):  # type: ignore[no-untyped-def]
    """How item `i` and a few others that could have been offered looked to user `u` before the choice.

    Returns whether it could have been offered itself.
    """
    n_found = gather(view, history, history[:0] if again else history, scratch)
    if scratch.total[i, SUPPORT] == 0.0 and not np.any(view.pool == i) and not again:
        return False  # as below, without choosing the candidates: half of all choices are of this kind
    candidates = _offerable(view, history, again, n_found, scratch)
    c = len(candidates)
    chosen = -1
    for x in range(c):
        if candidates[x] == i:
            chosen = x
    if chosen < 0 or c == 1:  # what could not have been offered teaches nothing about ranking
        return False
    candidates[chosen], candidates[c - 1] = candidates[c - 1], candidates[chosen]
    n = _draw(candidates[: c - 1], seed, log.item[e, 1:])
    log.item[e, 0], log.count[e] = i, 1 + n
    recall(view, users, u, users.offers[u], scratch)
    described = log.item[e, : log.count[e]]
    describe(described, history, view, scratch, log.numbers[e])
    return True


@nb.njit(cache=True, nogil=True)
def _prefer(log, e, more):  # type: ignore[no-untyped-def]
    """Complete the comparison in row `more`: what row `e` chose from a list, with what was not in it.

    Without it, nothing would be learned of what to put there.
    """
    log.history[more], log.length[more], log.gap[more] = log.history[e], log.length[e], log.gap[e]
    log.kind[more], log.weight[more], log.event[more] = PREFERRED, log.weight[e], e


@nb.njit(cache=True, nogil=True)
def _before_list(users, u):  # type: ignore[no-untyped-def]
    """How many of user `u`'s items were there before the latest list: what was chosen from it came last."""
    items, offers = users.items[u, : users.length[u]], users.offers[u]
    listed = users.offered[u, offers - users.listed[u] : offers]
    taken = users.taken[u, offers - users.listed[u] : offers]
    n = len(items)
    while n > 0 and np.any((listed == items[n - 1]) & (taken == 1)):
        n -= 1
    return n


@nb.njit(cache=True, nogil=True)
def _describe_list(view, users, u, history, scratch):  # type: ignore[no-untyped-def]
    """The latest list of user `u` as it looked when the first item was chosen from it, (listed, N_NUMBERS).

    Every choice moves counters; a later one must not see by them which others were chosen. After a restart
    the list is described as it looks now.
    """
    n, last = users.listed[u], users.offers[u]
    key = users.request[u] ^ users.tokens[u, 0]
    slot = np.int64(key % np.uint64(len(scratch.answered)))
    if scratch.answered[slot] == key and scratch.answered_items[slot] == n:
        return scratch.answered_numbers[slot, :n, :N_NUMBERS].copy()
    described = users.offered[u, last - n : last]
    gather(view, history, history, scratch)
    recall(view, users, u, last - n, scratch)
    numbers = np.empty((n, N_NUMBERS), np.float32)
    describe(described, history, view, scratch, numbers)
    for x in range(n):
        numbers[x, POSITION] = np.log1p(np.float32(x))
    if n <= scratch.answered_numbers.shape[1]:
        scratch.answered[slot], scratch.answered_items[slot] = key, n
        scratch.answered_numbers[slot, :n, :N_NUMBERS] = numbers
    return numbers


@nb.njit(cache=True, nogil=True)
def _log_answer(view, users, u, answered, seed, scratch, log, e):  # type: ignore[no-untyped-def]
    """How an item of the latest list and others of that list looked to user `u` when the list was made.

    What was chosen from the list since is out of sight, as it was when the order had to be decided. Others
    that the user chose before are among the others: the pair is then learned both ways, and what the first
    of the two choices seemed to say against the second is taken back.
    """
    history = users.items[u, : _before_list(users, u)]
    numbers = _describe_list(view, users, u, history, scratch)
    n, first = users.listed[u], users.offers[u] - users.listed[u]
    others, m = np.empty(n - 1, np.int32), 0
    for x in range(n):
        if first + x != answered and users.offered[u, first + x] >= 0:
            others[m] = x
            m += 1
    places = np.empty(1 + min(m, NEGATIVES), np.int32)
    places[0] = answered - first
    _draw(others[:m], seed, places[1:])
    log.kind[e], log.count[e] = TAKEN, len(places)
    log.length[e], log.gap[e] = len(history), users.listed_gap[u]
    for x in range(len(places)):
        log.item[e, x] = users.offered[u, first + places[x]]
        log.numbers[e, x] = numbers[places[x]]


@nb.njit(cache=True, nogil=True)
def _draw(values, seed, out):  # type: ignore[no-untyped-def]
    """Draw as many distinct `values` (n,), which it reorders, as `out` holds; returns how many."""
    state, n = seed, len(values)
    for x in range(min(len(out), n)):  # Fisher–Yates
        state, r = _random(state)
        y = x + np.int64(r % np.uint64(n - x))
        values[x], values[y] = values[y], values[x]
        out[x] = values[x]
    return min(len(out), n)


@nb.njit(cache=True, nogil=True)
def _listed_place(users, u, i, request):  # type: ignore[no-untyped-def]
    """Where item `i` stands in the list that `request` brought and is not chosen yet; −1 if nowhere."""
    if request == 0 or users.request[u] != request or users.listed[u] < 2:
        return -1
    for place in range(users.offers[u] - users.listed[u], users.offers[u]):
        if users.offered[u, place] == i and users.taken[u, place] == 0:
            return place
    return -1


@nb.njit(cache=True, nogil=True)
def _offer(users, u, shown, request):  # type: ignore[no-untyped-def]
    """Remember what was shown to user `u`; what the same request brings later continues its list."""
    room = users.offered.shape[1]
    shown = shown[-room:]
    n, m = users.offers[u], len(shown)
    kept = min(n, room - m)
    if kept < n:
        users.offered[u, :kept] = users.offered[u, n - kept : n].copy()
        users.taken[u, :kept] = users.taken[u, n - kept : n].copy()
    users.offered[u, kept : kept + m] = shown
    users.taken[u, kept : kept + m] = 0
    users.offers[u] = kept + m
    users.listed[u] = min(room, users.listed[u] + m) if request != 0 and request == users.request[u] else m
    users.request[u] = request


@nb.njit(cache=True, nogil=True)
def _put_last(items, best, n, place, i, strength):  # type: ignore[no-untyped-def]
    """Make item `i`, which is at `place` or (−1) new, the most recent of `n`; returns the new n."""
    if place < 0:
        place = n
        if n == len(items):  # the oldest item is forgotten
            place = 0
        else:
            n += 1
    for x in range(place, n - 1):
        items[x], best[x] = items[x + 1], best[x + 1]
    items[n - 1], best[n - 1] = i, strength
    return n
