"""Candidate generation, held against dicts and sorting."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.model.candidates import (
    HISTORY_DECAY,
    LAST_EPOCH,
    LEAST_REACH,
    REACH_DECAY,
    SUPPORT,
    Scratch,
    _bar,
    gather_learned,
    gather_served,
    new_scratch,
    select,
    start_user,
)
from stream_app.model.retrieval import (
    WINDOW,
    Neighbours,
    grow_covisits,
    learn_visit,
    new_covisits,
    new_neighbours,
    new_stats,
)
from stream_app.model.selection import kth_largest

N = 60  # items


def random_neighbours(rng: np.random.Generator, width: int = 8) -> Neighbours:
    """Served rows of random lengths; levels of few values, so that sums tie."""
    near = new_neighbours(N, width)
    for j in range(N):
        n = int(rng.integers(0, width + 1))
        near.item[j, :n] = rng.choice(N, n, replace=False)
        near.score[j, :n] = np.sort(rng.choice([1, 2, 128, 255], n))[::-1]
        near.scale[j] = rng.choice([0.5, 0.25])
    return near


def oracle(
    rows: list[dict[int, float]], history: list[int], width: int | None = None
) -> dict[int, list[float]]:
    """Item → decayed sum, sum, best, score of the latest item, support; in the order of finding.

    With the `width` of served rows, the further back an item lies the fewer of its neighbours count.
    """
    found: dict[int, list[float]] = {}
    reach = np.float32(N if width is None else width)
    for d, j in enumerate(history[::-1][:WINDOW]):
        most = N if width is None else max(LEAST_REACH, int(reach))
        reach *= np.float32(REACH_DECAY)
        for i, score in islice(rows[j].items(), most):
            t = found.setdefault(i, [0.0, 0.0, 0.0, 0.0, 0])
            t[0] += HISTORY_DECAY**d * score
            t[1] += score
            t[2] = max(t[2], score)
            t[3] = score if d == 0 else t[3]
            t[4] += 1
    return found


def served_rows(near: Neighbours) -> list[dict[int, float]]:
    """The rows of `Neighbours` as dicts."""
    return [
        {
            int(i): float(s) * float(near.scale[j])
            for i, s in zip(near.item[j], near.score[j], strict=True)
            if i >= 0
        }
        for j in range(N)
    ]


def gathered(scratch: Scratch, n_found: int) -> dict[int, list[float]]:
    """What a gathering left in the scratch."""
    return {i: scratch.total[i, : SUPPORT + 1].tolist() for i in scratch.found[:n_found].tolist()}


def assert_same(mine: dict[int, list[float]], theirs: dict[int, list[float]]) -> None:
    """Equal items in equal order, with equal totals up to rounding."""
    assert list(mine) == list(theirs)
    for i, totals in theirs.items():
        assert mine[i] == pytest.approx(totals, rel=1e-5)


NONE = np.zeros(0, np.int32)


@pytest.mark.parametrize("length", [0, 1, 7, 50, 58])
@pytest.mark.parametrize("width", [8, 50])
def test_served_rows_are_summed_up(length: int, width: int) -> None:
    """Each candidate's totals are the oracle's: decayed, plain, best, latest, support."""
    rng = np.random.default_rng(length)
    near, scratch = random_neighbours(rng, width), new_scratch(N, 1)
    for _ in range(5):
        history = rng.choice(N, length, replace=False).astype(np.int32)
        start_user(scratch, NONE)
        n_found = gather_served(near, history, scratch)
        assert_same(gathered(scratch, n_found), oracle(served_rows(near), history.tolist(), width))


def test_learned_rows_are_summed_up() -> None:
    """The learner's own rows give c[j,i] / ((1 + n_j)^½ (1 + n_i)^0.4), unpruned and exact."""
    rng = np.random.default_rng(0)
    graph, stats = grow_covisits(new_covisits(N, 1), N, 200), new_stats(N)
    for step in range(200):
        history = rng.choice(N, int(rng.integers(0, 9)), replace=False).astype(np.int32)
        learn_visit(graph, stats, history, len(history), int(rng.integers(N)), np.float32(1), step)
    rows: list[dict[int, float]] = []
    for j in range(N):
        part = slice(int(graph.start[j]), int(graph.start[j] + graph.length[j]))
        scale = (1 + float(stats.count[j])) ** -0.5
        rows.append(
            {
                i: w * scale * (1 + float(stats.count[i])) ** -0.4
                for i, w in zip(graph.item[part].tolist(), graph.weight[part].tolist(), strict=True)
            }
        )
    scratch = new_scratch(N, 1)
    history = rng.choice(N, 12, replace=False).astype(np.int32)
    start_user(scratch, NONE)
    n_found = gather_learned(graph, stats, history, scratch)
    assert_same(gathered(scratch, n_found), oracle(rows, history.tolist()))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0, -1.0]), min_size=1, max_size=40), st.data())
def test_the_kth_largest_is_that_of_sorting(values: list[float], data: st.DataObject) -> None:
    """Selection equals sorting, ties included."""
    k = data.draw(st.integers(1, len(values)))
    assert kth_largest(np.array(values, np.float32), k) == sorted(values, reverse=True)[k - 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 900), st.sampled_from(["spread", "few", "rising", "peak"]))
def test_the_bar_of_many_values_is_that_of_sorting(seed: int, n: int, kind: str) -> None:
    """A sample says where to look, and never what is found, whatever it happens to see."""
    rng = np.random.default_rng(seed)
    values = {
        "spread": rng.lognormal(size=n), "few": rng.integers(0, 3, n), "rising": np.arange(n),
        "peak": np.where(np.arange(n) % 7 == 0, rng.random(n) + 1, 0),
    }[kind].astype(np.float32)  # fmt: skip
    k = int(rng.integers(1, n + 1)) if seed % 2 else min(n, 100)
    before = values.copy()
    assert _bar(values, k) == np.sort(values)[n - k]
    assert (values == before).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 12))
def test_selection_equals_sorting(seed: int, length: int, most: int) -> None:
    """The best by decayed sum, ties to the first found, then the pool; nothing twice, excluded or hidden."""
    rng = np.random.default_rng(seed)
    near, scratch = random_neighbours(rng), new_scratch(N, 1)
    history = rng.choice(N, length, replace=False).astype(np.int32)
    servable = (rng.random(N) < 0.7).astype(np.uint8)
    pool = rng.choice(N, int(rng.integers(0, 9)), replace=False).astype(np.int32)
    start_user(scratch, history)
    n_found = gather_served(near, history, scratch)
    found = gathered(scratch, n_found)
    chosen = select(scratch, n_found, servable, pool, most).tolist()

    may = [i for i in found if i not in history and servable[i]]
    total = {i: float(scratch.total[i, 0]) for i in may}
    best = set(sorted(may, key=lambda i: -total[i])[:most])
    expected = [i for i in pool.tolist() if i not in history and servable[i] and i not in best]
    assert sorted(chosen[: len(best)]) == sorted(best)
    assert chosen[len(best) :] == expected
    for i in expected:
        if i not in found:
            assert not scratch.total[i].any()


@pytest.mark.parametrize("epoch", [0, LAST_EPOCH - 2])
def test_a_scratch_carries_nothing_from_user_to_user(epoch: int) -> None:
    """A used scratch gives what a new one gives, also when its epochs begin again."""
    rng = np.random.default_rng(4)
    near, used = random_neighbours(rng), new_scratch(N, 1)
    servable, pool = np.ones(N, np.uint8), np.arange(3, dtype=np.int32)
    used.taken[:] = 1  # what a user long ago left behind
    used.epoch[0] = max(epoch, 1)
    for _ in range(6):
        history = rng.choice(N, 5, replace=False).astype(np.int32)
        chosen = []
        for scratch in (used, new_scratch(N, 1)):
            start_user(scratch, history)
            n_found = gather_served(near, history, scratch)
            picked = select(scratch, n_found, servable, pool, 10)
            chosen.append((picked.tolist(), scratch.total[picked].tolist()))
        assert chosen[0] == chosen[1]
    assert used.epoch[0] > 0


def test_an_item_nobody_points_at_has_empty_totals() -> None:
    """What this user's history points at has totals; the next user finds them empty."""
    scratch = new_scratch(4, 1)
    start_user(scratch, NONE)
    near = new_neighbours(4, 1)
    near.item[0, 0], near.score[0, 0], near.scale[0] = 1, 10, 0.5
    gather_served(near, np.zeros(1, np.int32), scratch)
    assert scratch.total[1, : SUPPORT + 1].tolist() == [5.0, 5.0, 5.0, 5.0, 1.0]
    start_user(scratch, NONE)
    assert not scratch.total.any()
