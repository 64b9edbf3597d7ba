"""Truths about the metrics: they equal a foreign library, brute force, and their definitions."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics as river_metrics

from stream_app.evaluation import metrics
from stream_app.evaluation.metrics import ABSENT

K = 10
ranks_lists = st.lists(st.integers(ABSENT, 15), min_size=1, max_size=30)
relevance = st.lists(st.booleans(), min_size=1, max_size=30)
few_values = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # many ties


def run_of(n_items: int) -> dict[str, float]:
    """A ranking of items d0 … in that order, as foreign libraries want it."""
    return {f"d{i}": float(n_items - i) for i in range(n_items)}


@settings(max_examples=25, deadline=None)
@given(ranks_lists)
def test_ranking_metrics_equal_ir_measures(ranks: list[int]) -> None:
    """Recall, NDCG, MRR and hit rate are those of ir-measures."""
    ir = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
    qrels = {str(q): {f"d{rank}" if rank >= 0 else "elsewhere": 1} for q, rank in enumerate(ranks)}
    run = {str(q): run_of(16) for q in range(len(ranks))}
    foreign = ir.calc_aggregate([ir.R @ K, ir.nDCG @ K, ir.RR @ K, ir.Success @ K], qrels, run)

    assert metrics.recall_at_k(ranks, K) == pytest.approx(foreign[ir.R @ K])
    assert metrics.ndcg_at_k(ranks, K) == pytest.approx(foreign[ir.nDCG @ K])
    assert metrics.mrr_at_k(ranks, K) == pytest.approx(foreign[ir.RR @ K])
    assert metrics.hit_rate_at_k(ranks, range(len(ranks)), K) == pytest.approx(foreign[ir.Success @ K])


@settings(max_examples=25, deadline=None)
@given(relevance.filter(any))
def test_ndcg_of_a_list_equals_ir_measures(relevant: list[bool]) -> None:
    """With several relevant items, beyond place k too, NDCG is that of ir-measures."""
    ir = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
    qrels = {"q": {f"d{i}": int(r) for i, r in enumerate(relevant)}}
    foreign = ir.calc_aggregate([ir.nDCG @ K], qrels, {"q": run_of(len(relevant))})
    assert metrics.ndcg_of_list(relevant, K) == pytest.approx(foreign[ir.nDCG @ K])


@given(ranks_lists, st.integers(1, 20))
def test_one_right_item_is_a_list_with_one_relevant_item(ranks: list[int], k: int) -> None:
    """The two families of metrics agree where both apply."""
    for rank in ranks:
        relevant = [i == rank for i in range(16)]
        if rank >= 0:
            assert metrics.ndcg_at_k([rank], k) == pytest.approx(metrics.ndcg_of_list(relevant, k))


def test_a_list_without_relevant_items_has_no_ndcg() -> None:
    """No relevant item, no measurement: nan, and not 0."""
    assert math.isnan(metrics.ndcg_of_list([False, False], K))
    assert math.isnan(metrics.ndcg_of_list([], K))


@given(st.integers(1, 5), st.integers(0, 2), st.integers(1, 7))
def test_the_random_ndcg_is_the_mean_over_all_orders(n_relevant: int, n_others: int, k: int) -> None:
    """The closed form equals averaging over every arrangement of the relevant items."""
    n = n_relevant + n_others
    ndcgs = [
        metrics.ndcg_of_list([i in places for i in range(n)], k)
        for places in combinations(range(n), n_relevant)
    ]
    assert metrics.random_ndcg(n_relevant, n, k) == pytest.approx(np.mean(ndcgs))


@pytest.mark.parametrize("k", [0, -1])
def test_a_list_has_at_least_one_place(k: int) -> None:
    """A k below 1 is refused."""
    with pytest.raises(ValueError, match="at least one place"):
        metrics.recall_at_k([0], k)
    with pytest.raises(ValueError, match="at least one place"):
        metrics.ndcg_of_list([True], k)


def test_hit_rate_counts_an_order_once() -> None:
    """An order is hit when any of its items is; recall counts each of them."""
    ranks, events = [0, ABSENT, 3, 4, ABSENT], [8, 8, 9, 9, 10]
    assert metrics.hit_rate_at_k(ranks, events, K) == pytest.approx(2 / 3)
    assert metrics.recall_at_k(ranks, K) == pytest.approx(3 / 5)


@given(st.lists(few_values, min_size=1, max_size=12), st.data())
def test_the_rank_is_the_place_in_the_order(scores: list[float], data: st.DataObject) -> None:
    """`rank_of` and `order_by_score` follow one rule: score, then id as text."""
    ids = [str(i) for i in data.draw(st.permutations(range(len(scores))))]
    order = metrics.order_by_score(scores, ids)
    assert all((-scores[a], ids[a]) < (-scores[b], ids[b]) for a, b in pairwise(order))
    for place, item in enumerate(order):
        assert metrics.rank_of(int(item), scores, ids) == place


def test_equal_scores_do_not_help() -> None:
    """Where all scores are equal the ranks are 0 … n − 1, so nobody is first by default."""
    ids = ["a", "b", "c", "d"]
    assert [metrics.rank_of(i, [0.0] * 4, ids) for i in range(4)] == [0, 1, 2, 3]


def test_ids_are_text() -> None:
    """Among equal scores item 10 comes before item 9."""
    assert metrics.order_by_score([1.0, 1.0], ["9", "10"]).tolist() == [1, 0]


def test_broken_scores_come_last() -> None:
    """nan and −∞ never win, whatever the order of the ids."""
    ids = ["a", "b", "c", "d"]
    assert metrics.order_by_score([np.nan, -np.inf, 0.0, np.inf], ids).tolist() == [3, 2, 0, 1]


@given(st.lists(st.tuples(st.booleans(), few_values), min_size=1, max_size=30))
def test_auc_is_the_share_of_ordered_pairs(pairs: list[tuple[bool, float]]) -> None:
    """AUC equals counting all pairs of a positive and a negative, ties half."""
    y, s = zip(*pairs, strict=True)
    positive = [v for label, v in pairs if label]
    negative = [v for label, v in pairs if not label]
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    expected = sum(wins) / len(wins) if wins else math.nan
    assert metrics.auc(y, s) == pytest.approx(expected, nan_ok=True)


def test_pairwise_auc_compares_within_pairs_only() -> None:
    """A user whose scores are all high does not disturb the comparison, and nan pairs are left out."""
    assert metrics.pairwise_auc([100.0, 2.0, np.nan], [99.0, 1.0, 0.0]) == 1.0
    assert metrics.pairwise_auc([1.0, 1.0], [1.0, 1.0]) == 0.5
    assert math.isnan(metrics.pairwise_auc([], []))


@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.999)), min_size=1, max_size=30))
def test_log_loss_equals_river(pairs: list[tuple[bool, float]]) -> None:
    """The log loss is River's."""
    foreign = river_metrics.LogLoss()
    for y, p in pairs:
        foreign.update(y, p)
    assert metrics.log_loss(*zip(*pairs, strict=True)) == pytest.approx(foreign.get())


def test_log_loss_of_a_wrong_certainty_is_finite() -> None:
    """A probability of 0 for what happened costs ln(1/eps), not infinity."""
    assert metrics.log_loss([1], [0.0], eps=1e-7) == pytest.approx(-math.log(1e-7))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_calibration_slope_undoes_overconfidence(factor: float) -> None:
    """Probabilities whose logits are `factor` times too large have the slope 1 / factor."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=100_000)
    y = rng.random(z.size) < 1 / (1 + np.exp(-z))
    result = metrics.calibration(y, 1 / (1 + np.exp(-factor * z)))
    assert result.slope == pytest.approx(1 / factor, rel=0.03)
    assert result.intercept == pytest.approx(0.0, abs=0.03)
    assert (result.ece < 0.01) == (factor == 1.0)


def test_the_calibration_error_is_the_gap_between_probability_and_frequency() -> None:
    """Who says 90 % and is right half of the time is off by .4."""
    assert metrics.calibration([0, 1], [0.9, 0.9]).ece == pytest.approx(0.4)
    assert math.isnan(metrics.calibration([], []).ece)
    assert math.isnan(metrics.calibration([1, 1], [0.9, 0.8]).slope)


def test_probabilities_of_scores_come_from_the_past_only() -> None:
    """Changing the later half of the scores changes no probability of the earlier half, which starts at ½."""
    scores = np.random.default_rng(4).normal((1.0, 0.0), size=(400, 2))
    changed = scores.copy()
    changed[200:] = 1000.0
    p, q = metrics.probabilities_of_scores(scores), metrics.probabilities_of_scores(changed)
    assert p[:200].tolist() == q[:200].tolist()
    assert p[:4].tolist() == [[0.5, 0.5]] * 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_probabilities_of_scores_are_calibrated(sign: float) -> None:
    """Scores become calibrated probabilities, whichever way they point."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(20_000, 2))
    swap = rng.random(20_000) > 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    logits[swap] = logits[swap][:, ::-1]  # now the first is the right one with probability σ(difference)
    p = metrics.probabilities_of_scores(np.sign(logits) * np.expm1(np.abs(logits)) * sign)
    y = np.broadcast_to([1.0, 0.0], p.shape)
    result = metrics.calibration(y.ravel(), p.ravel())
    assert result.ece < 0.02
    assert metrics.log_loss(y.ravel(), p.ravel()) < math.log(2) - 0.05


def test_probabilities_of_scores_do_not_mind_the_place_of_the_scale() -> None:
    """Scores of a narrow range far from 0 are as good as others."""
    rng = np.random.default_rng(6)
    scores = rng.normal((1.0, 0.0), size=(2000, 2))
    y = np.tile([1.0, 0.0], len(scores))
    near = metrics.log_loss(y, metrics.probabilities_of_scores(scores).ravel())
    far = metrics.log_loss(y, metrics.probabilities_of_scores(1e6 + scores).ravel())
    assert near < 0.65
    assert far == pytest.approx(near, abs=0.02)


def test_scores_that_say_nothing_have_even_probabilities() -> None:
    """Equal or missing scores give ½ or nan, and empty ones nothing."""
    assert metrics.probabilities_of_scores(np.ones((50, 2))).tolist() == [[0.5, 0.5]] * 50
    assert np.isnan(metrics.probabilities_of_scores(np.full((5, 2), np.nan))).all()
    assert metrics.probabilities_of_scores(np.zeros((0, 2))).shape == (0, 2)


def test_coverage_and_novelty_of_extreme_lists() -> None:
    """Recommending one of four items covers a quarter; an item everybody takes is no news."""
    assert metrics.coverage([7, 0, 0, 0]) == 0.25
    assert math.isnan(metrics.coverage([]))
    assert metrics.self_information([4, 1], total=4).tolist() == [0.0, 2.0]


def test_outcomes_and_predictions_must_be_as_many() -> None:
    """Lengths that differ are refused, not broadcast."""
    with pytest.raises(ValueError, match="as many"):
        metrics.auc([1, 0], [0.5])
    with pytest.raises(ValueError, match="as many"):
        metrics.order_by_score([1.0], ["a", "b"])


def test_users_as_clusters_widen_the_error() -> None:
    """Repeating every value within its cluster adds no knowledge, so the error stays what it was."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=200)
    once = metrics.clustered_standard_error(values, np.arange(200))
    assert once == pytest.approx(values.std(ddof=1) / math.sqrt(200))
    repeated = metrics.clustered_standard_error(np.repeat(values, 5), np.repeat(np.arange(200), 5))
    assert repeated == pytest.approx(once)
    assert math.isnan(metrics.clustered_standard_error([1.0, 2.0], [0, 0]))
