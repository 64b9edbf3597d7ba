"""The co-visitation graph and the counters, held against dicts."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.model.retrieval import (
    BACKWARD,
    DECAY,
    FIRST_ROW,
    HALF_LIVES,
    KEEP_ROW,
    MAX_ROW,
    MET,
    WINDOW,
    CoVisits,
    ItemStats,
    compacted,
    export_rows,
    grow_covisits,
    grow_neighbours,
    grow_stats,
    grown,
    learn_visit,
    length_bucket,
    new_covisits,
    new_neighbours,
    new_stats,
)

f32 = np.float32


class Oracle:
    """What `learn_visit` says it does, in dicts and single precision."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[int, np.float32]] = defaultdict(dict)
        self.count: dict[int, np.float32] = defaultdict(lambda: f32(0))
        self.met: dict[int, int] = defaultdict(int)
        self.visits: list[tuple[int, int, float, int]] = []  # item, step, amount, history length

    def visit(self, history: list[int], item: int, amount: float, step: int) -> None:
        weight = f32(amount if amount > 0 else MET)
        for j in history[::-1][:WINDOW]:
            if j != item:
                self._link(j, item, weight)
                self._link(item, j, f32(BACKWARD) * weight)
            weight = weight * f32(DECAY)
        if amount <= 0:  # met, and not liked
            self.met[item] += 1
            return
        self.count[item] = self.count[item] + f32(amount)
        self.visits.append((item, step, amount, len(history)))

    def _link(self, j: int, i: int, weight: np.float32) -> None:
        row = self.rows[j]
        if i not in row and len(row) == MAX_ROW:
            cosine = {k: w / np.sqrt(f32(1) + self.count[k]) for k, w in row.items()}
            best = set(sorted(row, key=lambda k: -cosine[k])[:KEEP_ROW])
            row = self.rows[j] = {k: w for k, w in row.items() if k in best}
        row[i] = row.get(i, f32(0)) + weight


def random_visits(n: int, n_items: int, seed: int, longest: int = 70) -> list[tuple[list[int], int, float]]:
    """Histories of distinct items, items and amounts; popular items are met often."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, n_items + 1) ** 0.7
    share /= share.sum()
    out = []
    for _ in range(n):
        size = min(int(rng.integers(0, longest)), n_items)
        history = rng.choice(n_items, size=size, replace=False, p=share).tolist()
        out.append((history, int(rng.choice(n_items, p=share)), float(rng.choice([1.0, 3.0, 0.5, 0.0]))))
    return out


def learn(
    visits: list[tuple[list[int], int, float]], graph: CoVisits, stats: ItemStats, n_items: int
) -> tuple[CoVisits, ItemStats, Oracle]:
    """The same visits, compiled and by the oracle."""
    oracle = Oracle()
    for step, (history, item, amount) in enumerate(visits):
        graph, stats = grow_covisits(graph, n_items, 1), grow_stats(stats, n_items)
        learn_visit(graph, stats, np.array(history, np.int32), len(history), item, f32(amount), step)
        oracle.visit(history, item, amount, step)
    return graph, stats, oracle


def row(graph: CoVisits, j: int) -> dict[int, float]:
    """A row of the graph, in the order of its places."""
    part = slice(int(graph.start[j]), int(graph.start[j]) + int(graph.length[j]))
    return dict(zip(graph.item[part].tolist(), graph.weight[part].tolist(), strict=True))


@pytest.fixture(scope="module")
def learned() -> tuple[CoVisits, ItemStats, Oracle]:
    """A graph whose popular rows were cut, beside its oracle."""
    n_items = 900
    return learn(random_visits(1_500, n_items, 0), new_covisits(8, 16), new_stats(8), n_items)


def test_the_graph_equals_its_oracle(learned: tuple[CoVisits, ItemStats, Oracle]) -> None:
    """Window, decay, backward weight, growth and the cut to the best by cosine are those of the formula."""
    graph, _, oracle = learned
    assert any(len(r) >= KEEP_ROW for r in oracle.rows.values())
    for j in range(900):
        mine, theirs = row(graph, j), oracle.rows[j]
        assert list(mine) == list(theirs)
        np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=1e-5)


def test_rows_stay_inside_their_places(learned: tuple[CoVisits, ItemStats, Oracle]) -> None:
    """Capacities double from the first to the largest, rows never overlap and end inside the arena."""
    graph, _, _ = learned
    sizes = {0} | {FIRST_ROW << k for k in range(5)}
    assert set(graph.capacity.tolist()) <= sizes and max(sizes) == MAX_ROW == graph.capacity.max()
    assert (graph.length <= graph.capacity).all()
    used = np.flatnonzero(graph.capacity)
    order = used[np.argsort(graph.start[used])]
    ends = graph.start[order] + graph.capacity[order]
    assert (ends[:-1] <= graph.start[order][1:]).all()
    assert ends[-1] <= graph.end[0] <= len(graph.item)


def test_compaction_keeps_every_row() -> None:
    """An arena that runs out of room is packed, and the rows are what they were."""
    graph, stats, packed = new_covisits(8, 1), new_stats(8), 0
    oracle, n_items = Oracle(), 300
    for step, (history, item, amount) in enumerate(random_visits(700, n_items, 3, 30)):
        before = int(graph.end[0])
        graph, stats = grow_covisits(graph, n_items, 1), grow_stats(stats, n_items)
        packed += int(graph.end[0]) < before
        learn_visit(graph, stats, np.array(history, np.int32), len(history), item, f32(amount), step)
        oracle.visit(history, item, amount, step)
    assert packed
    for j in range(n_items):
        assert row(graph, j).keys() == oracle.rows[j].keys()
    tight = compacted(graph)
    assert tight.end[0] == graph.capacity.sum() == len(tight.item)
    for j in range(n_items):
        assert row(tight, j) == row(graph, j)


def test_an_event_finds_room_for_all_its_links() -> None:
    """The room that `grow_covisits` makes for an event is enough for the largest one."""
    graph, stats = new_covisits(1, 1), new_stats(1)
    history = np.arange(1, WINDOW + 1, dtype=np.int32)
    for step in range(60):
        graph, stats = grow_covisits(graph, 4_000, 1), grow_stats(stats, 4_000)
        learn_visit(graph, stats, history + np.int32(step * WINDOW), WINDOW, 0, f32(1), step)
        assert graph.end[0] <= len(graph.item)
    assert KEEP_ROW <= graph.length[0] <= MAX_ROW


def test_counters_equal_their_oracle(learned: tuple[CoVisits, ItemStats, Oracle]) -> None:
    """Counts, first and last step, discounts and events by history length follow from the visits."""
    _, stats, oracle = learned
    by_length = np.zeros((900, 5))
    first, last = np.full(900, -1), np.full(900, -1)
    for item, step, amount, length in oracle.visits:
        by_length[item, length_bucket(length)] += amount
        first[item] = step if first[item] < 0 else first[item]
        last[item] = step
    count = [oracle.count[i] for i in range(900)]
    np.testing.assert_allclose(stats.count[:900], count)
    assert stats.met[:900].tolist() == [oracle.met[i] for i in range(900)]
    np.testing.assert_allclose(stats.by_length[:900], by_length)
    np.testing.assert_allclose(stats.discount[:900], (1 + np.array(count, float)) ** -0.4, rtol=1e-5)
    assert stats.first[:900].tolist() == first.tolist()
    assert stats.last[:900].tolist() == last.tolist()


def test_trends_are_decayed_sums(learned: tuple[CoVisits, ItemStats, Oracle]) -> None:
    """A trend, faded to any later step, is Σ amount · 2^(−age / half-life) over the item's events."""
    _, stats, oracle = learned
    now = len(oracle.visits) + 37
    exact = np.zeros((900, 2))
    for item, step, amount, _ in oracle.visits:
        exact[item] += amount * 2.0 ** (-(now - step) / np.array(HALF_LIVES))
    gap = now - stats.last[:900, None]
    np.testing.assert_allclose(stats.trend[:900] * 2.0 ** (-gap / np.array(HALF_LIVES)), exact, rtol=1e-4)


def test_links_mark_both_sides_as_touched() -> None:
    """An event touches its item and the last `WINDOW` items of the history, and nothing else."""
    graph, stats = grow_covisits(new_covisits(100, 1), 100, 1), new_stats(100)
    learn_visit(graph, stats, np.arange(1, 61, dtype=np.int32), 60, 0, f32(1), 7)
    assert np.flatnonzero(graph.touched == 7).tolist() == [0, *range(61 - WINDOW, 61)]


def test_an_item_is_never_its_own_neighbour() -> None:
    """A history that holds the item itself links it with the others only."""
    graph, stats = grow_covisits(new_covisits(8, 1), 8, 1), new_stats(8)
    learn_visit(graph, stats, np.array([3, 1, 2], np.int32), 3, 1, f32(1), 0)
    assert row(graph, 1) == pytest.approx({2: 0.7, 3: 0.7 * 0.9**2})
    assert row(graph, 2) == pytest.approx({1: 1.0})


def test_served_rows_are_the_best_scored_and_within_half_a_level(
    learned: tuple[CoVisits, ItemStats, Oracle],
) -> None:
    """Served scores are within half a scale of the formula's, in falling order; none left is better."""
    graph, stats, oracle = learned
    items = np.array([0, 1, 5, 40, 300, 899], np.int32)
    out = new_neighbours(len(items), 100)
    export_rows(graph, stats, items, out)
    for x, j in enumerate(items.tolist()):
        exact = {
            i: float(w)
            / np.sqrt(1.0 + oracle.count[j] + MET * oracle.met[j])
            / (1.0 + float(oracle.count[i])) ** 0.4
            for i, w in oracle.rows[j].items()
        }
        n = int((out.item[x] >= 0).sum())
        served = dict(zip(out.item[x, :n].tolist(), out.score[x, :n] * float(out.scale[x]), strict=True))
        assert (out.item[x, n:] == -1).all() and (out.score[x, n:] == 0).all() and len(served) == n
        assert (np.diff(out.score[x, :n].astype(int)) <= 0).all() and (n == 0 or out.score[x, 0] == 255)
        for i, s in served.items():
            assert abs(s - exact[i]) <= 0.5001 * out.scale[x] + 1e-6
        left = [exact[i] for i in exact.keys() - served.keys()]
        least = min((exact[i] for i in served), default=0.0)
        assert all(s <= least + 1e-6 if n == 100 else s <= 0.5001 * out.scale[x] for s in left)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 100), st.integers(0, 50))
def test_growing_keeps_what_is_there(n: int, more: int, seed: int) -> None:
    """Grown tables hold the old rows, new rows are empty, and nothing is copied that is large enough."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 9, (n, 3))
    new = grown(old, n + more, -1)
    assert (new[:n] == old).all() and (new[n:] == -1).all() and len(new) >= n + more
    assert more or new is old
    stats = new_stats(n)
    stats.count[:] = rng.random(n)
    grown_stats = grow_stats(stats, n + more)
    assert (grown_stats.count[:n] == stats.count).all() and (grown_stats.discount[n:] == 1).all()
    assert (grown_stats.last[n:] == -1).all() and (grown_stats.first[n:] == -1).all()
    near = grow_neighbours(new_neighbours(n, 4), n + more)
    assert (near.item == -1).all() and near.item.shape[1] == 4 and len(near.scale) >= n + more
    graph = grow_covisits(new_covisits(n, 0), n + more, 1)
    assert (graph.touched == -1).all() and len(graph.item) > WINDOW * MAX_ROW


def test_history_lengths_fall_into_their_buckets() -> None:
    """The bounds are 0, 1–3, 4–11, 12–39, 40 and more."""
    bounds = [0, 1, 3, 4, 11, 12, 39, 40, 10_000]
    assert [length_bucket(n) for n in bounds] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
