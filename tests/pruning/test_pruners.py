"""Pruners keep what they say, as much as they were told."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning import Amount, MagnitudePruner, ParameterError, SaliencyPruner, Snapshot
from pruning.pruners import CountPruner, DualThresholdPruner, FieldPruner, StalenessPruner, refit_intercept


def make(n: int, seed: int) -> Snapshot:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(n) < 0.2, 0.0, rng.integers(-3, 4, n) / 2)
    weights[0] = 1.0
    return Snapshot(np.arange(1, n + 1, dtype=np.uint64), weights, rng.integers(1, 4, n).astype(float))


@given(st.integers(1, 200), st.floats(0, 0.999), st.integers(0, 1000))
def test_a_share_removes_that_share_of_the_live_weights(n: int, share: float, seed: int) -> None:
    """The mask keeps live − round(share · live) weights, none of them dead, and all others rank below."""
    s = make(n, seed)
    mask = SaliencyPruner(share).compute_mask(s)
    live = int(s.live.sum())
    assert mask.sum() == live - round(share * live)
    assert not (mask & ~s.live).any()
    scores = SaliencyPruner(share).importance_scores(s)
    if mask.any() and (s.live & ~mask).any():
        assert scores[mask].min() >= scores[s.live & ~mask].max()


@pytest.mark.parametrize("pruner", [SaliencyPruner, MagnitudePruner])
def test_forms_of_the_amount_agree(pruner: type[SaliencyPruner]) -> None:
    """A count to remove, a count to keep and the share give the same mask."""
    s = make(100, 1)
    live = int(s.live.sum())
    by_count = pruner(live // 2).compute_mask(s)
    assert (by_count == pruner(keep=live - live // 2).compute_mask(s)).all()
    assert (by_count == pruner(live // 2 / live).compute_mask(s)).all()


def test_significance_keeps_what_the_wald_test_keeps() -> None:
    """At 5 %, a weight stays when w²H > 3.84."""
    s = Snapshot(np.array([1, 2], np.uint64), np.array([1.0, 1.0]), np.array([3.83, 3.85]))
    assert SaliencyPruner(significance=0.05).compute_mask(s).tolist() == [False, True]


@pytest.mark.parametrize(
    "given_amount",
    [{}, {"remove": 0.5, "keep": 3}, {"remove": 1.0}, {"remove": -1}, {"remove": float("nan")},
     {"keep": -2}, {"significance": 1.5}, {"remove": True}],
)  # fmt: skip
def test_amounts_out_of_range_are_refused(given_amount: dict[str, float]) -> None:
    """Exactly one form, in its range."""
    with pytest.raises(ParameterError):
        Amount(**given_amount)  # type: ignore[arg-type]


def test_other_rankings_need_what_they_rank_by() -> None:
    """Dual, count and staleness say so when the model does not keep them."""
    s = make(10, 0)
    for pruner in (DualThresholdPruner(1.0), StalenessPruner(5), CountPruner(0.5)):
        with pytest.raises(ParameterError, match="use another pruner"):
            pruner.compute_mask(s)
    full = dataclasses.replace(
        s, dual=-s.weights * 2, count=np.arange(10), last_step=np.arange(10), step=9, weights=np.ones(10)
    )
    assert CountPruner(4).compute_mask(full).tolist() == [False] * 4 + [True] * 6
    assert StalenessPruner(2).compute_mask(full).tolist() == [False] * 7 + [True] * 3
    assert (DualThresholdPruner(0.9).compute_mask(full) == (np.abs(full.dual) > 0.9)).all()


def test_field_pruning_drops_fields_and_then_prunes_the_rest() -> None:
    """No token of a dropped field stays; the rest is pruned by what follows."""
    keys = np.sort(
        (np.arange(90, dtype=np.uint64) % np.uint64(3) << np.uint64(48)) + np.arange(1, 91, dtype=np.uint64)
    )
    s = Snapshot(keys, np.linspace(0.1, 1, 90), np.ones(90))
    mask = FieldPruner([1], then=MagnitudePruner(0.5)).compute_mask(s)
    assert not mask[s.field == 1].any()
    assert mask.sum() == 30


@given(st.floats(-3, 3), st.integers(1, 99))
def test_the_intercept_is_refitted_to_the_mean_label(shift: float, positives: int) -> None:
    """After the shift the mean prediction equals the mean label."""
    logits = np.random.default_rng(positives).normal(shift, 1.5, 100)
    y = np.arange(100) < positives
    new = logits + refit_intercept(logits, y)
    assert (1 / (1 + np.exp(-new))).mean() == pytest.approx(positives / 100, abs=1e-9)
