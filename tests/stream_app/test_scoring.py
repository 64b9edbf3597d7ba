"""Scoring, logging and top K, held against dicts and sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.model.candidates import gather_served, start_user
from stream_app.model.examples import CHOSEN
from stream_app.model.features import N_NUMBERS, NUMBERS, describe
from stream_app.model.item_index import USER_TOKENS
from stream_app.model.retrieval import WINDOW, length_bucket
from stream_app.model.scoring import (
    MOST_CANDIDATES,
    NEGATIVES,
    Feedback,
    Logged,
    Users,
    candidates_of,
    lookup_all,
    new_log,
    observe,
    put_fresh,
    refresh,
    score,
    score_parts,
    top_k,
)
from stream_app.model.served_model import FreshWeights
from tests.stream_app.worlds import Ranked, ranked

f32 = np.float32
NONE = np.zeros(0, np.int32)
NOW = 1_767_600_000_000


def users(n: int = 2, room: int = 6) -> Users:
    """New users."""
    return Users(
        items=np.zeros((n, room), np.int32),
        best=np.zeros((n, room), np.uint8),
        length=np.zeros(n, np.int32),
        last_ms=np.full(n, -1, np.int64),
        tokens=np.zeros((n, USER_TOKENS), np.uint64),
        offered=np.zeros((n, 8), np.int32),
        taken=np.zeros((n, 8), np.uint8),
        offers=np.zeros(n, np.int32),
        request=np.zeros(n, np.uint64),
        listed=np.zeros(n, np.int32),
        listed_gap=np.zeros(n, np.uint8),
    )


def happens(
    world: Ranked,
    who: Users,
    events: list[tuple[int, int, int, float]],
    first_seed: int = 0,
    *,
    baskets: list[int] | None = None,
    again: bool = False,
) -> Logged:
    """Observe events (row, item, second, weight), each of its own unless `baskets` says of which."""
    rows, items, seconds, weights = (list(column) for column in zip(*events, strict=True))
    log = new_log(len(events))
    n = len(events)
    said = Feedback(
        rows=np.array(rows, np.int32),
        items=np.array(items, np.int32),
        times_ms=np.array(seconds, np.int64) * 1000 + NOW,
        kinds=np.full(n, CHOSEN, np.uint8),
        weights=np.array(weights, f32),
        requests=np.zeros(n, np.uint64),
        shown=np.zeros(0, np.int32),
        shown_end=np.zeros(n, np.int64),
        seeds=np.arange(first_seed, first_seed + n, dtype=np.uint64),
        events=np.arange(n) if baskets is None else np.array(baskets),
    )
    observe(world.view, who, said, world.scratch, log, again)
    return log


def remembered(who: Users, u: int = 0) -> dict[int, int]:
    """A user's items, the most recent last, with the strongest feedback in tenths."""
    n = who.length[u]
    return dict(zip(who.items[u, :n].tolist(), who.best[u, :n].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_a_score_is_the_sum_over_its_features(seed: int) -> None:
    """`score` equals Σ weight · value of the oracle's features, in a list too, and so does its twin."""
    world, rng = ranked(seed), np.random.default_rng(seed)
    history = rng.choice(30, int(rng.integers(0, 20)), replace=False).astype(np.int32)
    everything = np.arange(30, dtype=np.int32)
    start_user(world.scratch, NONE)
    gather_served(world.view.neighbours, history, world.scratch)
    view, raw, out = world.view, np.zeros((30, N_NUMBERS), f32), np.zeros(30, f32)
    describe(everything, history, view, world.scratch, raw)
    bucket, gap = length_bucket(len(history)), int(rng.integers(4))
    score(view, everything, raw, world.user, bucket, gap, world.scratch, out)
    for i in range(30):
        assert out[i] == pytest.approx(world.score(i, raw[i].tolist(), bucket, gap), abs=2e-3)
        parts = score_parts(view, i, raw[i], world.user, bucket, gap)
        assert sum(parts.values()) == pytest.approx(out[i], abs=2e-3)
        assert parts.keys() == {"history", "moves", "taste"}
    score(view, everything, raw, world.user, bucket, gap, world.scratch, out, True)
    for i in range(30):
        expected = world.score(i, raw[i].tolist(), bucket, gap, listed=True)
        assert out[i] == pytest.approx(expected, abs=2e-3)


def test_one_users_crosses_never_reach_the_next() -> None:
    """Scoring users in a row, with one scratch, equals scoring each alone."""
    world = ranked(3)
    tokens = np.stack([world.user, np.roll(world.user, 0) * np.uint64(0)]).astype(np.uint64)
    tokens[1, 0] = world.user[1]
    candidates = np.arange(30, dtype=np.int32)
    for u in (0, 1, 0):
        outs = []
        for w in (world, ranked(3)):
            start_user(w.scratch, NONE)
            raw, out = np.zeros((30, N_NUMBERS), f32), np.zeros(30, f32)
            score(w.view, candidates, raw, tokens[u], 0, 0, w.scratch, out)
            outs.append(out.tolist())
        assert outs[0] == outs[1]


def test_fresh_weights_win_over_the_release() -> None:
    """A token in the overlay weighs what the overlay says, one in neither nothing, and so does token 0."""
    world = ranked(0, fresh_share=0.5)
    keys = np.array([*world.weights, 1, 0, 12345 << 48 | 7], np.uint64)
    out = np.full(len(keys), np.nan, f32)
    lookup_all(world.view.weights, keys, out)
    assert out[:-3].tolist() == pytest.approx(list(world.weights.values()))
    assert out[-3:].tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 400), max_size=300), max_size=12), st.integers(0, 63))
def test_fresh_weights_equal_a_dict(batches: list[list[int]], shift: int) -> None:
    """However often weights are put, and however the table grows, the latest value is found."""
    fresh, expected, value = FreshWeights(), dict[int, float](), 0.0
    for batch in batches:
        keys = np.array([k << shift & 2**64 - 1 for k in batch if k << shift & 2**64 - 1], np.uint64)
        values = np.arange(value, value + len(keys), dtype=f32)
        value += len(keys)
        fresh.put(keys, values)
        expected |= dict(zip(keys.tolist(), values.tolist(), strict=True))
    assert len(fresh) == len(expected)
    held = fresh.keys != 0
    assert dict(zip(fresh.keys[held].tolist(), fresh.values[held].tolist(), strict=True)) == expected
    assert 2 * len(fresh) <= len(fresh.keys)


def test_putting_nothing_is_fine() -> None:
    """An empty overlay leaves the table as it is."""
    fresh = FreshWeights()
    fresh.put(np.zeros(0, np.uint64), np.zeros(0, f32))
    assert len(fresh) == 0 == put_fresh(fresh.keys, fresh.values, np.zeros(0, np.uint64), np.zeros(0, f32))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([0.0, -1.5, 2.0, 3.25, -0.0]), max_size=40), st.integers(1, 12), st.randoms())
def test_the_top_k_is_that_of_sorting(values: list[float], k: int, random: Any) -> None:
    """The best first, equal scores by item number, whatever the order of the candidates."""
    numbers = list(range(len(values)))
    random.shuffle(numbers)
    items, scores = np.full(k, -1, np.int32), np.zeros(k, f32)
    n = top_k(np.array(numbers, np.int32), np.array(values, f32), items, scores)
    best = sorted(zip(numbers, values, strict=True), key=lambda pair: (-pair[1], pair[0]))[:k]
    assert list(zip(items[:n].tolist(), scores[:n].tolist(), strict=True)) == best
    assert (items[n:] == -1).all()


def test_lists_are_the_best_scored_candidates() -> None:
    """`refresh` gives each user the candidates that scoring them one by one puts first."""
    world, who = ranked(5), users(3, 20)
    rng = np.random.default_rng(0)
    for u in range(3):
        who.items[u, : 4 * u] = rng.choice(30, 4 * u, replace=False)
        who.length[u] = 4 * u
        who.tokens[u] = world.user
    items, scores, counts = np.full((3, 5), -1, np.int32), np.zeros((3, 5), f32), np.zeros(3, np.int32)
    rows, gaps = np.arange(3, dtype=np.int32), np.ones(3, np.uint8)
    refresh(world.view, who, rows, gaps, True, world.scratch, items, scores, counts)
    for u in range(3):
        history = who.items[u, : 4 * u]
        candidates = candidates_of(world.view, history, history, MOST_CANDIDATES, world.scratch)
        raw, out = np.zeros((len(candidates), N_NUMBERS), f32), np.zeros(len(candidates), f32)
        view = world.view
        describe(candidates, history, view, world.scratch, raw)
        score(view, candidates, raw, world.user, length_bucket(4 * u), 1, world.scratch, out)
        best = sorted(zip(candidates.tolist(), out.tolist(), strict=True), key=lambda p: (-p[1], p[0]))[:5]
        assert items[u, : counts[u]].tolist() == [i for i, _ in best]
        assert not set(items[u, : counts[u]].tolist()) & set(history.tolist())
        assert world.items.servable[items[u, : counts[u]]].all()


def test_history_keeps_each_item_once_at_its_latest_place() -> None:
    """An item that is met again moves to the end and keeps its strongest feedback."""
    who = users()
    happens(ranked(0), who, [(0, 1, 1, 1.0), (0, 2, 2, 5.0), (0, 3, 3, 1.0), (0, 2, 4, 1.0), (1, 9, 4, 1.0)])
    assert list(remembered(who).items()) == [(1, 10), (3, 10), (2, 50)]
    assert remembered(who, 1) == {9: 10}


def test_the_oldest_item_is_forgotten_when_there_is_no_room() -> None:
    """A history of at most six items keeps the latest six."""
    who = users(room=6)
    happens(ranked(0), who, [(0, i, i, 1.0) for i in range(10)])
    assert list(remembered(who)) == [4, 5, 6, 7, 8, 9]


def test_only_new_feedback_is_logged() -> None:
    """Weights are increments over the strongest feedback so far: a view, then a purchase, then a view."""
    log = happens(ranked(0), users(), [(0, 4, 1, 1.0), (0, 4, 2, 5.0), (0, 4, 3, 1.0), (0, 4, 4, 99.0)])
    assert log.weight.tolist() == pytest.approx([1.0, 4.0, 0.0, 20.5])  # 255 tenths are the most
    assert log.item[:, 0].tolist() == [4, 4, 4, 4] and log.count[1:].tolist() == [1, 0, 1]


def test_where_items_come_again_every_choice_is_new() -> None:
    """A second purchase counts as much as the first, and its item is among the candidates."""
    world, who = ranked(0), users(room=20)
    bought = [(0, i, i, 5.0) for i in range(8)]
    log = happens(world, who, [*bought, (0, 3, 99, 5.0)], again=True)
    assert log.weight.tolist() == pytest.approx([5.0] * 9)
    assert log.count[8] > 1 and log.item[8, 0] == 3
    own, recent = NUMBERS.index("own"), NUMBERS.index("own_recent")
    assert log.numbers[8, 0, own] == 1 and log.numbers[8, 0, recent] == pytest.approx(1 / (1 + 4 / 3))
    others = log.item[8, 1 : log.count[8]].tolist()
    assert log.numbers[8, 1 : log.count[8], own].tolist() == [float(i < 8) for i in others]
    assert any(i < 8 for i in others)  # and with the user's other items it is compared
    assert list(remembered(who)) == [0, 1, 2, 4, 5, 6, 7, 3]


def test_own_items_are_offered_where_they_may_come_again() -> None:
    """Then `refresh` ranks the latest items of the user, too, where they may be shown."""
    world, who = ranked(1), users(1, 20)
    who.items[0, :8], who.length[0] = np.arange(8), 8
    sizes = [30, len(world.view.pool) + MOST_CANDIDATES + WINDOW]
    lists = []
    for excluded in (True, False):
        items, scores, count = (np.full((1, max(sizes)), -1, np.int32), np.zeros((1, max(sizes)), f32),
                                np.zeros(1, np.int32))  # fmt: skip
        refresh(world.view, who, np.zeros(1, np.int32), np.ones(1, np.uint8), excluded, world.scratch,
                items, scores, count)  # fmt: skip
        lists.append(items[0, : count[0]].tolist())
    without, everything = lists
    assert len(set(everything)) == len(everything)
    assert not set(without) & set(range(8))
    assert set(everything) == set(without) | {i for i in range(8) if world.items.servable[i]}


def test_a_basket_is_described_as_of_before_it() -> None:
    """No item of an event sees the others: the list that the event answers was made before it."""
    world = ranked(0)
    before = [(0, 1, 1, 1.0), (0, 2, 2, 1.0)]
    basket = [(0, i, 4_000, 1.0) for i in (5, 6, 7)]
    log = happens(world, users(room=20), [*before, *basket], baskets=[0, 1, 2, 2, 2])
    assert log.length.tolist() == [0, 1, 2, 2, 2] and log.gap[2:].tolist() == [3, 3, 3]
    assert log.history[4, -4:].tolist() == [1, 2, 5, 6]  # links are learned from all of it
    for e in (2, 3, 4):
        alone = happens(world, users(room=20), [*before, basket[e - 2]], baskets=[0, 1, 2])
        if e == 2:
            assert (log.numbers[e] == alone.numbers[2]).all()
        if log.count[e] > 1:
            assert log.numbers[e, 0] == pytest.approx(alone.numbers[2, 0])


def test_feedback_of_weight_zero_only_moves_the_clock() -> None:
    """Such an event is no part of the history and teaches nothing."""
    who = users()
    log = happens(ranked(0), who, [(0, 4, 1, 1.0), (0, 7, 50, 0.0), (0, 5, 51, 1.0)])
    assert list(remembered(who)) == [4, 5] and who.last_ms[0] == NOW + 51_000
    assert log.weight.tolist() == [1.0, 0.0, 1.0] and log.count[1] == 0
    assert log.gap.tolist() == [3, 1, 1]


def test_time_never_goes_backwards() -> None:
    """A late event does not set the user's clock back, and counts as following at once."""
    who = users()
    log = happens(ranked(0), who, [(0, 4, 100, 1.0), (0, 5, 1, 1.0), (0, 6, 103, 1.0)])
    assert who.last_ms[0] == NOW + 103_000 and log.gap.tolist() == [3, 0, 1]


def test_the_log_shows_the_moment_before_the_event() -> None:
    """History and length are those before the event, the most recent last, −1 in front."""
    who = users(room=60)
    log = happens(ranked(0, n=70), who, [(0, i, i, 1.0) for i in range(58)])
    assert log.length.tolist() == list(range(58))
    assert log.history[3].tolist() == [-1] * (WINDOW - 3) + [0, 1, 2]
    assert log.history[57].tolist() == list(range(57 - WINDOW, 57))


def test_negatives_are_other_candidates() -> None:
    """Others are distinct, never the chosen item, never seen, always servable, and described as they were."""
    world = ranked(7)
    for i in range(30):
        who = users(1, 30)
        history = [j for j in range(0, 30, 4) if j != i]
        log = happens(world, who, [(0, j, 1, 1.0) for j in history] + [(0, i, 9, 1.0)], first_seed=i)
        last = len(history)
        n = int(log.count[last])
        shown = log.item[last, :n].tolist()
        assert shown[0] == i and len(set(shown)) == n <= 1 + NEGATIVES
        assert not set(shown) & set(history)
        assert n == 1 or world.items.servable[shown].all()
        assert (log.item[last, n:] == -1).all() and (log.numbers[last, n:] == 0).all()
        if n > 1:
            gather = np.array(history, np.int32)
            candidates_of(world.view, gather, gather, MOST_CANDIDATES, world.scratch)
            raw, view = np.zeros((n, N_NUMBERS), f32), world.view
            describe(np.array(shown, np.int32), gather, view, world.scratch, raw)
            assert (raw == log.numbers[last, :n]).all()


def test_which_others_are_drawn_follows_from_the_seed() -> None:
    """The same event draws the same others again; seeds make a difference."""

    def drawn(seed: int) -> list[list[int]]:
        return happens(ranked(7), users(1, 30), [(0, i, i, 1.0) for i in range(9)], seed).item.tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_an_item_that_could_not_be_offered_teaches_no_ranking() -> None:
    """A choice that was hidden, or that nothing pointed at, is counted but compared with nothing."""
    world = ranked(7)
    world.items.servable[:30] = 0
    log = happens(world, users(), [(0, 3, 1, 1.0)])
    assert log.count.tolist() == [1] and log.weight.tolist() == [1.0]
