"""What a candidate looks like to the model, held against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.tokens import field_id, token
from stream_app.model.candidates import gather_served, start_user
from stream_app.model.features import (
    LIST_NUMBER,
    LIST_TOKEN,
    LIST_TOKENS,
    MOST_PER_PAIR,
    MOVES,
    N_NUMBERS,
    N_WEIGHTS,
    NUMBER_TOKENS,
    NUMBERS,
    ONE,
    USUAL_READINESS,
    cross_tokens,
    describe,
    encode_measures,
    encode_pair,
    field_names,
    gap_bucket,
)
from stream_app.model.item_index import ITEM_TOKENS, USER_TOKENS
from stream_app.model.measures import MEASURES
from stream_app.model.retrieval import HALF_LIVES, LENGTH_BUCKETS, WINDOW, length_bucket
from tests.stream_app.worlds import Ranked, cross_oracle, features_oracle, ranked

NONE = np.zeros(0, np.int32)


def described(world: Ranked, history: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The raw numbers of candidates, (c, N_NUMBERS)."""
    start_user(world.scratch, NONE)
    gather_served(world.view.neighbours, history, world.scratch)
    raw = np.full((len(candidates), N_NUMBERS), np.nan, np.float32)
    view = world.view
    describe(candidates, history, view, world.scratch, raw)
    return raw


def numbers_oracle(world: Ranked, history: list[int], i: int) -> list[float]:
    """The numbers of one candidate as their names say."""
    stats, now, near = world.view.stats, world.view.step, world.view.neighbours
    totals, support = [0.0] * 4, 0
    for d, j in enumerate(history[::-1][:WINDOW]):
        for k, level in zip(near.item[j].tolist(), near.score[j].tolist(), strict=True):
            if k == i:
                s = level * float(near.scale[j])
                totals = [
                    totals[0] + 0.8**d * s,
                    totals[1] + s,
                    max(totals[2], s),
                    s if d == 0 else totals[3],
                ]
                support += 1
    out = [math.log1p(10 * t) for t in totals] + [math.log1p(support)]
    last, first = int(stats.last[i]), int(stats.first[i])
    if last < 0:
        out += [0.0] * 6
    else:
        gap = max(0, now - last)
        out += [math.log1p(float(stats.trend[i, t]) * 2 ** (-gap / HALF_LIVES[t])) for t in range(2)]
        out.append(math.log1p(float(stats.count[i])))
        out.append(math.log1p(float(stats.by_length[i, length_bucket(len(history))])))
        out += [math.log1p(gap), math.log1p(max(0, now - first))]
    mine = world.tokens(i)[1:]
    recent = history[-WINDOW:]
    shared = sum(t in world.tokens(j)[1:] for t in mine for j in recent)
    out.append(shared / (len(mine) * len(recent)) if mine and recent else 0.0)
    weights = [0.7**d for d in range(len(recent))]
    late = sum(
        w * (t in world.tokens(j)[1:]) for t in mine for w, j in zip(weights, recent[::-1], strict=True)
    )
    own = [1.0, 1 / (1 + recent[::-1].index(i) / 3)] if i in recent else [0.0, 0.0]
    # nobody was offered anything
    return [
        *out,
        float(stats.rate[i]),
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        float(USUAL_READINESS),
        *own,
        0.3 * late / max(len(mine), 1),
    ]


@pytest.mark.parametrize("length", [0, 1, 5, 25])
def test_the_numbers_equal_their_oracle(length: int) -> None:
    """Each number is what its name says, for candidates that were found and for others."""
    world = ranked(length)
    history = np.random.default_rng(length).choice(30, length, replace=False).astype(np.int32)
    raw = described(world, history, np.arange(30, dtype=np.int32))
    for i in range(30):
        assert raw[i].tolist() == pytest.approx(numbers_oracle(world, history.tolist(), i), abs=2e-5)


def test_describing_twice_changes_nothing() -> None:
    """The history counts once per user, however often candidates are described."""
    world = ranked(1)
    history, candidates = np.arange(8, dtype=np.int32), np.arange(8, 30, dtype=np.int32)
    raw = described(world, history, candidates)
    again = np.zeros_like(raw)
    view = world.view
    describe(candidates, history, view, world.scratch, again)
    assert (again == raw).all() and raw[:, NUMBERS.index("affinity")].any()


def test_an_event_from_before_the_release_makes_no_negative_gap() -> None:
    """Items whose last event is later than the view's step count as just seen."""
    world = ranked(2)
    world.view.stats.last[:30] = world.view.stats.first[:30] = world.view.step + 5
    raw = described(world, NONE, np.arange(30, dtype=np.int32))
    assert np.isfinite(raw).all() and (raw[:, [NUMBERS.index("idle"), NUMBERS.index("age")]] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 20), st.integers(0, 29), st.integers(0, 29), st.integers(0, 4), st.integers(0, 3),
    st.booleans(),
)  # fmt: skip
def test_a_pair_is_the_difference_of_two_feature_vectors(
    seed: int, a: int, b: int, bucket: int, gap: int, listed: bool
) -> None:
    """`encode_pair` is features(a) − features(b): what both share cancels, and user × item is left out."""
    world, rng = ranked(seed), np.random.default_rng(seed)
    raw = rng.normal(0, 3, (2, N_NUMBERS)).astype(np.float32)
    raw[1, :3] = raw[0, :3]  # numbers that both share
    mean, inv_std = world.view.weights.mean, world.view.weights.inv_std
    keys, values = np.zeros(MOST_PER_PAIR, np.uint64), np.zeros(MOST_PER_PAIR, np.float32)
    end = encode_pair(
        raw[0], raw[1], world.view.item_tokens[a], world.view.item_tokens[b], world.view.vocabulary,
        world.user, bucket, gap, mean, inv_std, LIST_TOKENS if listed else NUMBER_TOKENS, keys, values, 0,
        LIST_NUMBER if listed else ONE, LIST_TOKEN if listed else ONE,
    )  # fmt: skip
    end = encode_measures(
        world.view.measures[a], world.view.measures[b], world.view.measure_tokens,
        LIST_TOKEN if listed else ONE, keys, values, end,
    )  # fmt: skip
    mine: dict[int, float] = {}
    for key, value in zip(keys[:end].tolist(), values[:end].tolist(), strict=True):
        mine[key] = mine.get(key, 0.0) + value
    sides = [
        features_oracle(
            r.tolist(),
            world.tokens(i),
            world.user.tolist(),
            bucket,
            gap,
            mean.tolist(),
            inv_std.tolist(),
            world.measures(i),
            listed=listed,
        )
        for r, i in ((raw[0], a), (raw[1], b))
    ]
    difference = {k: sides[0].get(k, 0.0) - sides[1].get(k, 0.0) for k in sides[0] | sides[1]}
    assert {k for k, v in mine.items() if abs(v) > 1e-5} == {
        k for k, v in difference.items() if abs(v) > 1e-5
    }
    for key, value in mine.items():
        assert value == pytest.approx(difference[key], abs=1e-4)
    shared = set(world.tokens(a)) & set(world.tokens(b))
    assert not shared & set(mine)
    assert cross_oracle(int(world.user[0]), world.tokens(a)[0]) not in mine
    assert 0 not in mine


def test_the_largest_pair_has_room() -> None:
    """Two items and a user with all the tokens there can be fill `MOST_PER_PAIR` places and not one more."""
    vocabulary = np.arange(1, 2 * ITEM_TOKENS + 1, dtype=np.uint64) << np.uint64(48) | np.uint64(1)
    user = np.arange(100, 100 + USER_TOKENS, dtype=np.uint64) << np.uint64(48) | np.uint64(1)
    a = np.arange(ITEM_TOKENS, dtype=np.int32)
    keys, values = np.zeros(MOST_PER_PAIR, np.uint64), np.zeros(MOST_PER_PAIR, np.float32)
    one, zero = np.ones(N_NUMBERS, np.float32), np.zeros(N_NUMBERS, np.float32)
    end = encode_pair(
        one, zero, a, a + np.int32(ITEM_TOKENS), vocabulary, user, 0, 0, zero, one, NUMBER_TOKENS,
        keys, values, 0,
    )  # fmt: skip
    high, low, measured = np.ones(MEASURES, np.float32), np.zeros(MEASURES, np.float32), user
    end = encode_measures(high, low, measured, ONE, keys, values, end)
    assert end == MOST_PER_PAIR - 2  # user × item, on both sides, is left out


@settings(deadline=None)
@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_crosses_equal_their_oracle(user: int, item: int) -> None:
    """A compiled cross is the oracle's 64-bit arithmetic, and never the empty token."""
    mine = int(cross_tokens(np.uint64(user), np.uint64(item)))
    assert mine == cross_oracle(user, item) != 0


def test_time_since_the_last_event_falls_into_its_bucket() -> None:
    """Bounds are 1 s, 60 s and 1 h; never counts as long ago, and time that goes backwards as just now."""
    gaps = [-5_000, 0, 999, 1_000, 59_999, 60_000, 3_599_999, 3_600_000]
    assert [gap_bucket(10**12 + g, 10**12) for g in gaps] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert gap_bucket(10**12, -1) == 3


def test_weights_of_numbers_have_tokens_of_their_own() -> None:
    """Every number has one weight for all, one per history length and one per gap; none is shared."""
    assert NUMBER_TOKENS.shape == (N_NUMBERS, N_WEIGHTS)
    both = [*NUMBER_TOKENS.ravel().tolist(), *LIST_TOKENS.ravel().tolist()]
    assert len(set(both)) == 2 * NUMBER_TOKENS.size
    assert N_WEIGHTS == 1 + LENGTH_BUCKETS + 4 and set(MOVES) < set(NUMBERS)
    assert NUMBER_TOKENS[0, 0] == token("together", "all")


def test_fields_and_their_crosses_have_names() -> None:
    """The field of a cross of two tokens is found under its name."""
    names = field_names(["item", "category"], ["user", "age"])
    pair = int(cross_tokens(np.uint64(token("age", "3")), np.uint64(token("category", "shoes"))))
    assert names[pair >> 48] == "age × category" and names[field_id("trend_fast")] == "trend_fast"


def test_without_a_history_nothing_points_anywhere() -> None:
    """The numbers of history and affinity are zero for a user without one."""
    world = ranked(3)
    raw = described(world, NONE, np.arange(30, dtype=np.int32))
    assert (raw[:, NUMBERS.index("affinity")] == 0).all() and (raw[:, :5] == 0).all()
