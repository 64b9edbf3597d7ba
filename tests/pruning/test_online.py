"""Wrappers, training-time sparsity, admission and schedules behave as River and their formulas ask."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import checks, facto, linear_model, multiclass, optim, preprocessing

from pruning import FTRLProximal, ParameterError
from pruning.admission import AdmissionFilter
from pruning.online import PrunedClassifier, PrunedRegressor
from pruning.proximal import (
    FeatureDropout,
    TruncatedGradient,
    group_soft_threshold,
    soft_threshold,
    truncate,
)
from pruning.schedules import Cubic, Exponential, OneShot


@pytest.mark.parametrize(
    "model",
    [
        PrunedClassifier(linear_model.LogisticRegression(), every=20, keep=5),
        PrunedClassifier(
            preprocessing.StandardScaler() | linear_model.LogisticRegression(), every=20, keep=5
        ),
        PrunedClassifier(linear_model.SoftmaxRegression(), every=20, schedule=Cubic(0.5, 20, 100)),
        PrunedClassifier(multiclass.OneVsRestClassifier(linear_model.PAClassifier()), every=20, keep=5),
        PrunedRegressor(linear_model.LinearRegression(optim.SGD(1e-6)), every=20, keep=5),
        FeatureDropout(linear_model.LogisticRegression(FTRLProximal()), rate=0.3, targeted=0.5),
        linear_model.LogisticRegression(TruncatedGradient(0.01, 0.01)),
        AdmissionFilter(min_count=3, counters=1 << 10),
    ],
    ids=lambda m: type(m).__name__,
)
def test_river_accepts_them(model: object) -> None:
    """River's own behaviour laws hold for the wrappers, the optimizer and the filter."""
    pytest.importorskip("sklearn", reason="River's checks read scikit-learn's data sets")
    checks.check_estimator(model)


def test_a_kept_number_bounds_the_model_for_good() -> None:
    """Under a flood of new features the weights never exceed the bound by more than one stretch."""
    model = PrunedClassifier(linear_model.LogisticRegression(optim.AdaGrad(0.1)), every=50, keep=30)
    for i in range(1000):
        model.learn_one({"signal": 1.0 if i % 2 else -1.0, f"noise={i}": 1.0}, bool(i % 2))
        assert len(model.model.weights) <= 30 + 51
    assert model.predict_proba_one({"signal": 1.0})[True] > 0.7
    assert len(model.reports) == 20


def test_predicting_with_a_wrapped_factorization_machine_creates_no_row() -> None:
    """Where River itself creates a random row per unknown feature, the wrapper creates none."""
    stock = facto.FMClassifier(seed=1)
    model = PrunedClassifier(facto.FMClassifier(seed=1), every=10, keep=50)
    for i in range(30):
        x = {f"u_{i % 5}": 1.0, f"i_{i % 7}": 1.0}
        stock.learn_one(x, bool(i % 2))
        model.learn_one(x, bool(i % 2))
    rows = len(model.model.latents)
    for i in range(100):
        stock.predict_proba_one({f"u_{i}": 1.0, f"i_{i}": 1.0})
        model.predict_proba_one({f"u_{i}": 1.0, f"i_{i}": 1.0})
    assert len(stock.latents) > 100
    assert len(model.model.latents) == rows == 12


@given(st.integers(0, 1000), st.floats(0, 0.99), st.integers(0, 500), st.integers(0, 500))
def test_schedules_rise_from_nothing_to_their_share(step: int, final: float, begin: int, length: int) -> None:
    """Every schedule is monotone, 0 before it begins and final after its end."""
    for schedule in (
        OneShot(final, begin),
        Cubic(final, begin, begin + length),
        Exponential(final, begin, begin + length),
    ):
        assert 0 <= schedule.share(step) <= schedule.share(step + 1) <= final + 1e-12
        assert schedule.share(begin - 1) == 0
        assert schedule.share(begin + length + 1) == pytest.approx(final)


def test_the_schedule_of_a_wrapper_ends_at_its_share() -> None:
    """A cubic schedule removes its share of what was live when it began."""
    model = PrunedClassifier(
        linear_model.LogisticRegression(optim.AdaGrad(0.1)), every=10, schedule=Cubic(0.8, 100, 200)
    )
    rng = np.random.default_rng(0)
    for _ in range(300):
        model.learn_one({f"f{i}": 1.0 for i in rng.choice(100, 5, replace=False)}, bool(rng.random() < 0.5))
        if model._step == 100:
            begun = len(model.model.weights)
    model._prune()
    assert len(model.model.weights) == round(0.2 * begun)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.floats(0.01, 3), st.integers(0, 2**32 - 1))
def test_the_soft_threshold_is_the_proximal_step_of_l1(w: list[float], strength: float, seed: int) -> None:
    """No other vector has a smaller ½|v − w|² + strength·|v|₁."""
    best = soft_threshold(w, strength)

    def objective(v: np.ndarray) -> float:
        return float(0.5 * ((v - np.array(w)) ** 2).sum() + strength * np.abs(v).sum())

    rng = np.random.default_rng(seed)
    for scale in (1e-3, 0.1, 1.0):
        assert objective(best) <= objective(best + scale * rng.normal(size=len(w))) + 1e-9


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=12), st.floats(0.01, 2), st.integers(0, 2**32 - 1))
def test_the_group_threshold_is_the_proximal_step_of_the_group_lasso(
    w: list[float], strength: float, seed: int
) -> None:
    """No other vector has a smaller ½|v − w|² + strength·Σ√size·|v_g|₂."""
    groups = np.arange(len(w)) % 3
    best = group_soft_threshold(w, groups, strength)

    def objective(v: np.ndarray) -> float:
        penalty = sum(
            math.sqrt((groups == g).sum()) * float(np.linalg.norm(v[groups == g])) for g in range(3)
        )
        return float(0.5 * ((v - np.array(w)) ** 2).sum() + strength * penalty)

    rng = np.random.default_rng(seed)
    for scale in (1e-3, 0.1, 1.0):
        assert objective(best) <= objective(best + scale * rng.normal(size=len(w))) + 1e-9


def test_truncation_spares_large_weights() -> None:
    """Weights above the threshold feel no gravity."""
    assert truncate([0.2, -5.0], 0.5, 1.0).tolist() == [0.0, -5.0]


def test_truncated_gradient_shrinks_noise_more_than_signal() -> None:
    """On sparse truth noise weights are less than half of SGD's, and no memory of deleted ones is left."""
    rng = np.random.default_rng(0)
    optimizer = TruncatedGradient(0.02, gravity=0.12)
    model, dense = (
        linear_model.LogisticRegression(optimizer),
        linear_model.LogisticRegression(optim.SGD(0.02)),
    )
    for _ in range(3000):
        x = {f"f{i}": float(v) for i, v in enumerate(rng.normal(size=20))}
        y = bool(rng.random() < 1 / (1 + math.exp(-2 * x["f0"])))
        model.learn_one(x, y)
        dense.learn_one(x, y)
    noise, dense_noise = (sum(abs(w) for k, w in m.weights.items() if k != "f0") for m in (model, dense))
    assert noise < 0.5 * dense_noise
    assert set(optimizer.touched) == set(model.weights)
    assert model.weights["f0"] > 0.5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=800), st.integers(1, 5), st.integers(6, 12))
def test_admission_never_comes_late(stream: list[int], least: int, bits: int) -> None:
    """A feature seen `min_count` times is admitted, however small the filter is; with room, no other is."""
    keys = np.array(stream, np.uint64) + np.uint64(1 << 50)
    admitted = AdmissionFilter(least, counters=1 << bits).admit_encoded(keys, np.arange(len(keys) + 1))
    roomy = AdmissionFilter(least, counters=1 << 20).admit_encoded(keys, np.arange(len(keys) + 1))
    seen: dict[int, int] = {}
    for i, key in enumerate(stream):
        seen[key] = seen.get(key, 0) + 1
        assert admitted[i] or seen[key] < least
        assert roomy[i] == (seen[key] >= least)


def test_admission_forgets_when_told_to() -> None:
    """With a half-life, counts are halved and a rare feature must be seen again."""
    admission = AdmissionFilter(min_count=4, counters=1 << 10, half_life=10)
    for _ in range(6):
        admission.learn_one({"a": 1})
    assert admission.transform_one({"a": 1}) == {"a": 1}
    for _ in range(10):
        admission.learn_one({"b": 1})
    assert admission.transform_one({"a": 1}) == {}
    assert admission.nbytes == 1024


def test_targeted_dropout_spares_the_large_weights() -> None:
    """Only the smallest weights of an example are at risk."""
    model = FeatureDropout(linear_model.LogisticRegression(optim.SGD(0.5)), rate=0.9, targeted=0.5)
    for _ in range(30):
        model.model.learn_one({"big": 1.0}, True)
    before = model.model.weights["big"]
    for _ in range(5):
        model.learn_one({"big": 1.0, "small": 1.0}, True)
    assert model.model.weights["big"] > before


@pytest.mark.parametrize(
    "make",
    [
        lambda: PrunedClassifier(linear_model.LogisticRegression()),
        lambda: PrunedClassifier(linear_model.LogisticRegression(), every=0, keep=1),
        lambda: OneShot(1.0),
        lambda: Cubic(0.5, 10, 5),
        lambda: AdmissionFilter(0),
        lambda: AdmissionFilter(counters=1000),
        lambda: FeatureDropout(linear_model.LogisticRegression(), rate=1.0),
        lambda: TruncatedGradient(gravity=-1),
    ],
)
def test_settings_out_of_range_are_refused(make: object) -> None:
    """Named errors, before anything learns."""
    with pytest.raises(ParameterError):
        make()  # type: ignore[operator]
