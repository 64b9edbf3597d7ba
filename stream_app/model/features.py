"""What a candidate looks like to the model.

Numbers say how strongly the history points at a candidate, how it moves and how it fits; tokens name the
item, its categories, and their crosses with the user's tokens. `describe` computes the numbers once, in
the worker, at the moment of the event: the rows that are served are the rows that are learned.

The model learns preferences between two candidates: the features of a pair are the difference

    x = features(chosen item) − features(another candidate)

so that any binary classifier with `learn_one(x, True)` is a ranker, and whatever two candidates share
cancels. Every number has one weight for all, one per bucket of the history's length and one per bucket
of the time since the user's last event.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.tokens import cross, field_id, token
from stream_app.errors import EventError
from stream_app.model.candidates import NUMBER_ROOM, READY_PRIOR, SUPPORT
from stream_app.model.item_index import ITEM_TOKENS, USER_TOKENS
from stream_app.model.measures import MEASURES
from stream_app.model.retrieval import HALF_LIVES, LENGTH_BUCKETS, WINDOW, length_bucket

NUMBERS = (
    "together",  # neighbour scores summed over the history, decayed
    "together_flat",  # the same without decay
    "together_best",  # the best single neighbour score
    "together_last",  # the neighbour score of the latest item alone
    "support",  # history items that point at the candidate
    "trend_fast",  # events of late, half-life 100 events
    "trend_slow",  # events of late, half-life 10,000 events
    "popularity",  # events so far
    "by_length",  # events so far by users with a history as long as this one's
    "idle",  # events of all items since this one's last
    "age",  # events of all items since this one's first
    "affinity",  # share of the candidate's categories in the history
    "rate",  # how much oftener than others it is taken when it is offered
    "taste",  # how much oftener than expected the user takes what has its tokens, categories apart
    "offered",  # whether it was offered to the user of late
    "taken",  # whether the user took it then
    "position",  # place in the list that is being shown; 0 when none is
    "taste_category",  # how much oftener than expected the user takes what has its categories
    "slope",  # how far its measures lie in the direction in which the user takes more than expected
    "readiness",  # share of what the user was offered that was taken: the same for all candidates
    "own",  # whether the user has chosen it before
    "own_recent",  # how recently so: 1 for the latest item, 1/2 for that three items before it; 0 if not own
    "affinity_late",  # share of the candidate's tokens in the history, its latest items counting most
)
POSITION = NUMBERS.index("position")
READINESS = NUMBERS.index("readiness")
MOVES = ("trend_fast", "trend_slow", "popularity", "by_length", "idle", "age", "rate")  # same for every user
N_NUMBERS = len(NUMBERS)
assert N_NUMBERS <= NUMBER_ROOM
N_MOVES = 6 + LENGTH_BUCKETS  # of `MOVES` what is kept per item: see `_move`
GAP_BUCKETS = 4  # time since the user's last event: < 1 s, < 60 s, < 1 h, longer or never
SUPPORTS = np.log1p(np.arange(WINDOW + 1)).astype(np.float32)  # (WINDOW + 1,) by how many items point
N_WEIGHTS = 1 + LENGTH_BUCKETS + GAP_BUCKETS  # weights per number
CATEGORY = np.uint64(field_id("category"))
LATE = np.float32(0.7)  # what an item of the history counts less there than the next more recent one
TASTE_PRIOR = 8.0  # offers as expected that each token starts with
CLIP = 6.0  # of a standardised number
USUAL_READINESS = np.float32(math.log(READY_PRIOR[0] / READY_PRIOR[1]))  # of a user who was offered nothing
TOKEN_VALUE = np.float32(0.2)  # of a token that an item has; below 1, tokens learn slower than numbers
ONE = np.float32(1.0)
LIST_NUMBER = np.float32(0.25)  # what numbers count in a list that is shown: they learn slower there
LIST_TOKEN = np.float32(0.4)  # the same for tokens and measures


def _number_tokens(context: str) -> NDArray[np.uint64]:
    return np.array(
        [
            [token(name, f"{context}all")]
            + [token(name, f"{context}length {b}") for b in range(LENGTH_BUCKETS)]
            + [token(name, f"{context}gap {b}") for b in range(GAP_BUCKETS)]
            for name in NUMBERS
        ],
        np.uint64,
    )


# (N_NUMBERS, N_WEIGHTS): what a number says of an item among all others, and in a list that is shown. The
# two differ: what is on the screen again was passed over once, what is not on it is not known by that.
NUMBER_TOKENS = _number_tokens("")
LIST_TOKENS = _number_tokens("list ")


def widened(numbers: NDArray[Any], fill: float) -> NDArray[Any]:
    """What an older version wrote about its numbers, (…, ≤ N_NUMBERS), with those that came since: `fill`.

    Numbers keep their places for ever; new ones are added behind the last.

    >>> widened(np.ones((2, 17)), 0.0).shape == (2, N_NUMBERS)
    True

    Raises
    ------
    EventError
        If there are more numbers than this version knows.
    """
    missing = N_NUMBERS - numbers.shape[-1]
    if missing < 0:
        raise EventError("value", f"has {numbers.shape[-1]} numbers per item, this version knows {N_NUMBERS}")
    rest = np.full((*numbers.shape[:-1], missing), fill, numbers.dtype)
    return np.concatenate((numbers, rest), axis=-1) if missing else numbers


@nb.njit(cache=True, nogil=True)
def gap_bucket(event_ms, last_ms):  # type: ignore[no-untyped-def]
    """The bucket of the time since the user's last event: < 1 s, < 60 s, < 1 h, longer or never."""
    gap_ms = event_ms - last_ms
    if last_ms < 0 or gap_ms >= 3_600_000:
        return 3
    if gap_ms < 1_000:
        return 0
    return 1 if gap_ms < 60_000 else 2


@nb.njit(cache=True, nogil=True, inline="always")
def cross_field(a, b):  # type: ignore[no-untyped-def]
    """The 16-bit field of the cross of two tokens' fields."""
    return ((a >> np.uint64(48)) * np.uint64(0x9E37) + (b >> np.uint64(48))) & np.uint64(0xFFFF)


@nb.njit(cache=True, nogil=True, inline="always")
def cross_tokens(user_token, item_token):  # type: ignore[no-untyped-def]
    """The token of a user's token together with an item's."""
    return cross(cross_field(user_token, item_token), user_token, item_token)


def field_names(item_fields: list[str], user_fields: list[str]) -> dict[int, str]:
    """The readable names of fields and of their crosses, by field number.

    >>> names = field_names(["item", "category"], ["user", "age"])
    >>> sorted(names.values())[:4]
    ['affinity', 'affinity_late', 'age', 'age × category']
    """
    names = {field_id(name): name for name in (*NUMBERS, *item_fields, *user_fields)}
    for a in user_fields:
        for b in item_fields:
            names[(field_id(a) * 0x9E37 + field_id(b)) & 0xFFFF] = f"{a} × {b}"
    return names


@nb.njit(cache=True, nogil=True)
def _count_tokens(history, item_tokens, scratch):  # type: ignore[no-untyped-def]
    """Count in how many items of the history each token stands, their own tokens left out, and how late."""
    token_mark, token_count, epoch = scratch.token_mark, scratch.token_count, scratch.epoch[0]
    token_late, weight = scratch.token_late, np.float32(1.0)
    for x in range(len(history) - 1, -1, -1):
        for t in range(1, ITEM_TOKENS):
            key = item_tokens[history[x], t]
            if key < 0:
                break
            if token_mark[key] != epoch:
                token_mark[key] = epoch
                token_count[key] = token_late[key] = 0.0
            token_count[key] += 1.0
            token_late[key] += weight
        weight *= LATE


@nb.njit(cache=True, nogil=True)
def _move(moves, i, stats, step):  # type: ignore[no-untyped-def]
    """Fill in how item `i` moves, which is the same for every user: `trend_fast` to `age`, in their order."""
    last = stats.last[i]
    moves[i, 0] = 1.0
    if last < 0:
        moves[i, 1:] = 0.0
        return
    gap = np.float32(max(0, step - last))
    for t in range(2):
        faded = np.float32(2.0) ** (-gap / np.float32(HALF_LIVES[t]))
        moves[i, 1 + t] = np.log1p(stats.trend[i, t] * faded)
    moves[i, 3] = np.log1p(stats.count[i])
    moves[i, 4] = np.log1p(gap)
    moves[i, 5] = np.log1p(np.float32(max(0, step - stats.first[i])))
    for b in range(LENGTH_BUCKETS):
        moves[i, 6 + b] = np.log1p(stats.by_length[i, b])


@nb.njit(cache=True, nogil=True, inline="always")
def _along(slope, measured):  # type: ignore[no-untyped-def]
    """How far an item's measures lie along a slope."""
    total = np.float32(0.0)
    for m in range(MEASURES):
        total += slope[m] * measured[m]
    return total


@nb.njit(cache=True, nogil=True, inline="always")
def _own(mark, place, i, epoch):  # type: ignore[no-untyped-def]
    """Whether item `i` is the user's own, and how recently so."""
    if mark[i] != epoch:
        return np.float32(0.0), np.float32(0.0)
    return np.float32(1.0), np.float32(1.0) / (np.float32(1.0) + np.float32(place[i]) / np.float32(3.0))


@nb.njit(cache=True, nogil=True)
def describe(candidates, history, view, scratch, out):  # type: ignore[no-untyped-def] # noqa: PLR0912, PLR0915
    """Write the raw numbers of candidates into `out`.

    Parameters
    ----------
    candidates
        Item numbers, int32 (c,); their totals must be in `scratch`, and so must the user's answers to offers
        (`recall_offers`), where there are any.
    history
        The user's items, the most recent last, int32 (h,); the same for all calls between two `start_user`.
    view
        A `View`, of which counters, step and item tokens are read. What follows from them for an item is
        computed when it is first asked for, and kept in `view.moves`.
    out
        float32 (c, N_NUMBERS).
    """
    h, epoch = min(len(history), WINDOW), scratch.epoch[0]
    total, item_tokens, vocabulary = scratch.total, view.item_tokens, view.vocabulary
    stats, step, moves = view.stats, view.step, view.moves
    token_mark, token_count, token_late = scratch.token_mark, scratch.token_count, scratch.token_late
    own_mark, own_place = scratch.own_mark, scratch.own_place
    rate, offer_mark, offer_taken = stats.rate, scratch.offer_mark, scratch.offer_taken
    taste_mark, taste_shown, taste = scratch.taste_mark, scratch.taste_shown, scratch.taste
    has_taste, measures, slope = scratch.recalled[0] == epoch, view.measures, scratch.slope
    if scratch.counted[0] != epoch:  # once per user, however often candidates are described
        scratch.counted[0] = epoch
        _count_tokens(history[len(history) - h :], item_tokens, scratch)
        for x in range(h):
            i = history[len(history) - 1 - x]
            own_mark[i], own_place[i] = epoch, x
    by_length = 6 + length_bucket(len(history))
    for c in range(len(candidates)):
        i = candidates[c]
        support = np.int64(total[i, SUPPORT])
        if support == 0:
            out[c, 0:5] = 0.0
        else:
            for f in range(4):  # log(1 + x): log1p takes three times as long, and no x here is that small
                out[c, f] = np.log(np.float32(1.0) + np.float32(10.0) * total[i, f])
            out[c, 4] = SUPPORTS[support]
        if moves[i, 0] == 0.0:
            _move(moves, i, stats, step)
        out[c, 5], out[c, 6], out[c, 7] = moves[i, 1], moves[i, 2], moves[i, 3]
        out[c, 8], out[c, 9], out[c, 10] = moves[i, by_length], moves[i, 4], moves[i, 5]
        fit, late, n = np.float32(0.0), np.float32(0.0), 0
        liking, liking_category, n_categories = np.float32(0.0), np.float32(0.0), 0
        for t in range(1, ITEM_TOKENS):
            key = item_tokens[i, t]
            if key < 0:
                break
            if token_mark[key] == epoch:
                fit += token_count[key]
                late += token_late[key]
            n += 1
            if has_taste:
                liked = np.float32(0.0)
                if taste_mark[key] == epoch:
                    liked = taste[key] / (taste_shown[key] + np.float32(TASTE_PRIOR))
                if vocabulary[key] >> np.uint64(48) == CATEGORY:
                    n_categories += 1
                    liking_category += liked
                else:
                    liking += liked
        out[c, 11] = fit / np.float32(n * h) if n * h > 0 else np.float32(0.0)
        out[c, 12] = rate[i]
        out[c, 13] = liking / np.float32(n - n_categories) if n > n_categories else np.float32(0.0)
        out[c, 14] = 1.0 if offer_mark[i] == epoch else 0.0
        out[c, 15] = 1.0 if offer_mark[i] == epoch and offer_taken[i] else 0.0
        out[c, 16] = 0.0
        out[c, 17] = liking_category / np.float32(n_categories) if n_categories > 0 else np.float32(0.0)
        out[c, 18] = _along(slope, measures[i]) if has_taste else np.float32(0.0)
        out[c, 19] = scratch.readiness[0] if has_taste else USUAL_READINESS
        out[c, 20], out[c, 21] = _own(own_mark, own_place, i, epoch)
        out[c, 22] = late * (np.float32(1.0) - LATE) / np.float32(n) if n > 0 else np.float32(0.0)


@nb.njit(cache=True, nogil=True, inline="always")
def standardised(raw, mean, inv_std):  # type: ignore[no-untyped-def]
    """A number in standard deviations from its running mean, clipped to ±CLIP."""
    return min(np.float32(CLIP), max(np.float32(-CLIP), (raw - mean) * inv_std))


@nb.njit(cache=True, nogil=True, inline="always")
def _has(tokens, key):  # type: ignore[no-untyped-def]
    for t in range(ITEM_TOKENS):
        if tokens[t] == key:
            return True
        if tokens[t] < 0:
            break
    return False


MOST_PER_PAIR = N_NUMBERS * 3 + 2 * (ITEM_TOKENS + USER_TOKENS * ITEM_TOKENS) + MEASURES


@nb.njit(cache=True, nogil=True)
def encode_pair(  # type: ignore[no-untyped-def]
    a, b, a_tokens, b_tokens, vocabulary, user, bucket, gap, mean, inv_std, number_tokens, keys, values, n,
    of_number=ONE, of_token=ONE,
):  # fmt: skip
    """Append features(a) − features(b) to `keys` and `values` from place `n`; returns the new end.

    Parameters
    ----------
    a, b
        Raw numbers, float32 (N_NUMBERS,).
    a_tokens, b_tokens
        Token numbers, int32 (ITEM_TOKENS,), and what they stand for, `vocabulary`, uint64 (v,).
    user
        uint64 (USER_TOKENS,).
    bucket, gap
        Buckets of history length and of the time since the last event.
    mean, inv_std
        Running moments of the numbers, float32 (N_NUMBERS,).
    of_number, of_token
        Factors of the values of numbers and tokens.
    """
    token_value = TOKEN_VALUE * of_token
    for f in range(N_NUMBERS):
        x = standardised(a[f], mean[f], inv_std[f]) - standardised(b[f], mean[f], inv_std[f])
        if x != 0.0:
            keys[n], keys[n + 1], keys[n + 2] = (
                number_tokens[f, 0],
                number_tokens[f, 1 + bucket],
                number_tokens[f, 1 + LENGTH_BUCKETS + gap],
            )
            values[n] = values[n + 1] = values[n + 2] = x * of_number
            n += 3
    for side in range(2):
        tokens, others = (a_tokens, b_tokens) if side == 0 else (b_tokens, a_tokens)
        sign = token_value if side == 0 else -token_value
        for t in range(ITEM_TOKENS):
            if tokens[t] < 0:
                break
            if _has(others, tokens[t]):  # what both have cancels, and so do its crosses
                continue
            key = vocabulary[tokens[t]]
            keys[n], values[n] = key, sign
            n += 1
            for g in range(0 if t > 0 else 1, USER_TOKENS):  # not user × item: it would only memorise
                if user[g] == 0:
                    break
                keys[n], values[n] = cross_tokens(user[g], key), sign
                n += 1
    return n


@nb.njit(cache=True, nogil=True)
def encode_measures(a, b, tokens, factor, keys, values, n):  # type: ignore[no-untyped-def]
    """Append to a pair `factor` times the differences of two items' measures, float32 (MEASURES,)."""
    for m in range(MEASURES):
        x = a[m] - b[m]
        if x != 0.0:
            keys[n], values[n] = tokens[m], x * factor
            n += 1
    return n
