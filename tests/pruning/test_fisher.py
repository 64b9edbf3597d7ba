"""Curvature by formula equals curvature by difference, and rotations change no prediction."""

from typing import Any

import numpy as np
import pytest
from river import facto, linear_model, optim, preprocessing, reco

from pruning import ParameterError, UnsupportedModelError, prune_model
from pruning.fisher import FisherTracker, RankPruner, reduce_rank
from pruning.pruners import MagnitudePruner, SaliencyPruner
from pruning.tables import reading_only, weight_tables


def examples(n: int, seed: int = 0) -> list[tuple[dict[str, float], bool]]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        user, item = int(rng.integers(0, 12)), int(rng.integers(0, 12))
        rows.append(
            ({f"u_{user}": 1.0, f"i_{item}": 0.5, "n_x": float(rng.normal())}, (user + item) % 3 == 0)
        )
    return rows


def logit(model: Any, x: dict[str, float]) -> float:
    with reading_only(model):
        return float(model._raw_dot(x) if hasattr(model, "_raw_dot") else model._raw_dot_one(x))


@pytest.mark.parametrize(
    "model",
    [facto.FMClassifier(n_factors=3, seed=1), facto.FFMClassifier(n_factors=3, seed=1),
     linear_model.LogisticRegression(optim.SGD(0.1))],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_the_tracker_equals_finite_differences(model: Any) -> None:
    """Σp(1−p)(∂logit/∂w)² by formula and by moving every single weight are the same."""
    for x, y in examples(60):
        model.learn_one(x, y)
    tracker = FisherTracker(model)
    expected = {t.name: np.zeros_like(t.values()) for t in weight_tables(model)}
    for x, _ in examples(10, seed=1):
        tracker.update(x)
        p = 1 / (1 + np.exp(-logit(model, x)))
        for table in weight_tables(model):
            values = table.values()
            for place in np.ndindex(values.shape):
                moved = values.copy()
                moved[place] += 1e-6
                table.write(np.where(moved == 0, 1e-300, moved), forget=False)
                up = logit(model, x)
                table.write(np.where(values == 0, 1e-300, values), forget=False)
                expected[table.name][place] += p * (1 - p) * ((up - logit(model, x)) / 1e-6) ** 2
    for name, h in tracker.curvature().items():
        np.testing.assert_allclose(h, expected[name], atol=1e-5)


def test_matrix_factorization_counts_the_partners() -> None:
    """A user's factor is curved by the items the user met."""
    model = reco.BiasedMF(n_factors=2, seed=1)
    tracker = FisherTracker(model)
    for user, item in ((1, 1), (1, 2), (2, 1)):
        model.learn_one(user, item, 1.0)
        tracker.update(user, item)
    h = tracker.curvature()
    assert h["u_biases"].ravel().tolist() == [2.0, 1.0]
    assert h["u_latents"].shape == (2, 2)


def test_pipelines_and_decay() -> None:
    """The tracker sees what the last step sees; with a decay, old examples count less."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.1))
    lasting, fading = FisherTracker(model), FisherTracker(model, decay=0.9)
    for x, y in examples(200):
        model.learn_one(x, y)
        lasting.update(x)
        fading.update(x)
    assert (fading.curvature()["weights"] < lasting.curvature()["weights"] + 1e-12).all()


def test_fisher_protects_what_magnitude_would_prune() -> None:
    """On a trained FM, half of the latent entries pruned by v²·Fisher cost less loss than by |v|."""
    model = facto.FMClassifier(n_factors=4, seed=3, latent_optimizer=optim.SGD(0.1))
    tracker = FisherTracker(model)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2500):
        user, item = int(min(rng.zipf(1.4), 40)), int(min(rng.zipf(1.4), 40))
        y = bool(rng.random() < (0.9 if (user + item) % 2 else 0.1))
        rows.append(({f"u_{user}": 1.0, f"i_{item}": 1.0}, y))
    for x, y in rows:
        tracker.update(x)
        model.learn_one(x, y)

    def loss(pruner: Any) -> float:
        copied = facto.FMClassifier(n_factors=4, seed=3)
        copied.weights, copied.latents = model.weights.copy(), {k: v.copy() for k, v in model.latents.items()}
        copied.intercept = model.intercept
        prune_model(copied, pruner, tables=("latents",), curvature=tracker.curvature())
        return float(np.mean([np.logaddexp(0, s) - y * s for x, y in rows for s in [logit(copied, x)]]))

    assert loss(SaliencyPruner(0.5)) < loss(MagnitudePruner(0.5))


@pytest.mark.parametrize("model", [facto.FMClassifier(seed=1), reco.BiasedMF(seed=1), reco.FunkMF(seed=1)])
def test_a_rotation_to_full_rank_changes_no_prediction(model: Any) -> None:
    """Rank k keeps predictions; a lower rank leaves zeros in the last factors."""
    ranker = hasattr(model, "u_latents")
    args = [
        ((f"u{i % 6}", f"i{i % 7}") if ranker else ({f"u_{i % 6}": 1.0, f"i_{i % 7}": 1.0},))
        for i in range(60)
    ]
    for i, a in enumerate(args):
        model.learn_one(*a, float(i % 2))
    predict = model.predict_one if ranker else (lambda x: model.predict_proba_one(x)[True])
    before = [predict(*a) for a in args]
    RankPruner(10).apply(model)
    np.testing.assert_allclose([predict(*a) for a in args], before, atol=1e-9)
    RankPruner(3).apply(model)
    assert all((t.values()[:, 3:] == 0).all() for t in weight_tables(model) if t.has_rows)


def test_the_reduction_is_the_best_of_its_rank() -> None:
    """No other projection keeps more of the rows (Eckart–Young)."""
    v = np.random.default_rng(0).normal(size=(30, 6)) @ np.diag([5, 3, 1, 0.5, 0.2, 0.1])
    kept = (reduce_rank(v, 2) ** 2).sum()
    assert kept == pytest.approx((np.linalg.svd(v, compute_uv=False)[:2] ** 2).sum())
    with pytest.raises(ParameterError):
        reduce_rank(v, 0)


def test_models_without_derivatives_or_rotations_are_named() -> None:
    """HOFM, FwFM and one-vs-rest without classes are refused."""
    with pytest.raises(UnsupportedModelError):
        FisherTracker(facto.HOFMClassifier())
    with pytest.raises(UnsupportedModelError):
        RankPruner(2).apply(linear_model.LogisticRegression())
