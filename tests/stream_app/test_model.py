"""The compiled FTRL: River's interface, the paper's algorithm, bounded memory, exact restarts."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import checks, linear_model

from pruning import CapacityError, DamagedFileError, FTRLProximal, NonFiniteError, ParameterError, snapshot
from pruning.tokens import feature_token
from stream_app.model.ranker import FTRLClassifier


def stream(n: int, vocabulary: int, seed: int = 0, width: int = 6) -> tuple[np.ndarray, ...]:
    """Encoded random examples: keys (nnz,), values (nnz,), indptr (n+1,), labels (n,)."""
    rng = np.random.default_rng(seed)
    keys = (np.minimum(rng.zipf(1.3, n * width), vocabulary).astype(np.uint64)) | np.uint64(3 << 48)
    values = rng.choice(np.array([1.0, 0.5, -2.0], np.float32), n * width)
    return keys, values, np.arange(0, n * width + 1, width), (rng.random(n) < 0.3).astype(np.float32)


def test_river_accepts_it() -> None:
    """Every behaviour law River has for a classifier holds."""
    pytest.importorskip("sklearn", reason="River's checks read scikit-learn's data sets")
    checks.check_estimator(FTRLClassifier())


@pytest.mark.parametrize("l1", [0.0, 0.7])
def test_it_equals_its_readable_twin(l1: float) -> None:
    """River's logistic regression with the corrected FTRL has the same weights and probabilities."""
    rng = np.random.default_rng(1)
    ours = FTRLClassifier(alpha=0.2, beta=0.5, l1=l1, l2=2.0)
    twin = linear_model.LogisticRegression(FTRLProximal(0.2, 0.5, l1, 2.0), intercept_lr=0)
    for _ in range(1500):
        x = {f"f{i}": float(rng.choice([1.0, 0.5, -2.0])) for i in rng.choice(60, 5, replace=False)}
        y, w = bool(rng.random() < 0.4), float(rng.choice([1.0, 0.5]))
        assert ours.predict_proba_one(x)[True] == pytest.approx(twin.predict_proba_one(x)[True], abs=1e-12)
        ours.learn_one(x, y, w)
        twin.learn_one(x, y, w)
    mine, theirs = snapshot(ours), snapshot(twin)
    assert (mine.keys == theirs.keys).all()
    np.testing.assert_allclose(mine.weights, theirs.weights, atol=1e-12)
    np.testing.assert_allclose(mine.curvature, theirs.curvature, rtol=1e-12)


def test_batches_equal_single_examples_bit_for_bit() -> None:
    """One call with many examples leaves the state of many calls with one, however they are cut."""
    keys, values, indptr, y = stream(3000, 5000)
    one, many, cut = (FTRLClassifier(intercept=True) for _ in range(3))
    p = many.learn_many_encoded(keys, values, indptr, y)
    for i in range(3000):
        part = slice(indptr[i], indptr[i + 1])
        single = one.learn_many_encoded(keys[part], values[part], np.array([0, 6]), y[i : i + 1])
        assert single[0] == p[i]
    for a, b in ((0, 1), (1, 1700), (1700, 3000)):
        part = slice(indptr[a], indptr[b])
        cut.learn_many_encoded(keys[part], values[part], indptr[a : b + 1] - indptr[a], y[a:b])
    assert one.to_bytes() == many.to_bytes() == cut.to_bytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(6, 900), st.integers(0, 5))
def test_the_bound_is_never_exceeded_and_restarts_are_exact(bound: int, seed: int) -> None:
    """At the bound features are evicted; a model restored midway ends bit-equal to one that ran through."""
    keys, values, indptr, y = stream(600, 4000, seed)
    model = FTRLClassifier(max_features=bound)
    for i in range(0, 600, 100):
        part = slice(indptr[i], indptr[i + 100])
        model.learn_many_encoded(keys[part], values[part], indptr[i : i + 101] - indptr[i], y[i : i + 100])
        assert len(model) <= bound
        assert len(model) == np.count_nonzero(model._table[:, 0])
        if i == 200:
            restored = FTRLClassifier.from_bytes(model.to_bytes())
            assert restored.to_bytes() == model.to_bytes()
    rest = slice(indptr[300], None)
    restored.learn_many_encoded(keys[rest], values[rest], indptr[300:] - indptr[300], y[300:])
    assert restored.to_bytes() == model.to_bytes()


def test_eviction_keeps_the_useful_features() -> None:
    """A feature that decides survives a flood of features seen once."""
    model = FTRLClassifier(alpha=0.5, max_features=200)
    rng = np.random.default_rng(0)
    for i in range(3000):
        y = bool(rng.random() < 0.5)
        model.learn_one({"signal": 1.0 if y else -1.0, f"noise={i}": 1}, y)
    assert model.lookup(np.array([feature_token("signal")], np.uint64))[0] > 1.0
    assert len(model) <= 200


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.booleans())
def test_any_finite_input_leaves_finite_weights(values: list[float], y: bool) -> None:
    """Values up to the largest double never make a weight or a probability that is not finite."""
    model = FTRLClassifier(alpha=10.0, beta=0.0, l2=0.0, intercept=True)
    for value in values * 3:
        model.learn_one({"a": value, "b": 1e308}, y)
        p = model.predict_proba_one({"a": value, "b": -1e308})[True]
        assert 0.0 <= p <= 1.0
    assert np.isfinite(model.weight_snapshot().weights).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_change_nothing(bad: float) -> None:
    """A bad value, label or weight is refused by name, and the state is what it was."""
    model = FTRLClassifier()
    model.learn_one({"a": 1}, True)
    before = model.to_bytes()
    keys, ones = np.array([1 << 50, 1 << 51], np.uint64), np.ones(2, np.float32)
    with pytest.raises(NonFiniteError):
        model.learn_one({"a": bad}, True)
    with pytest.raises(NonFiniteError):
        model.learn_many_encoded(keys, np.array([1, bad], np.float32), np.array([0, 1, 2]), ones)
    with pytest.raises(NonFiniteError):
        model.learn_many_encoded(keys, ones, np.array([0, 1, 2]), np.array([1, bad]))
    with pytest.raises(NonFiniteError):
        model.learn_many_encoded(keys, ones, np.array([0, 1, 2]), ones, np.array([1, bad]))
    assert model.to_bytes() == before


def test_impossible_settings_and_batches_are_named() -> None:
    """Parameters out of range, torn batches, token 0 and oversized examples raise."""
    for settings_ in ({"alpha": 0.0}, {"l1": -1}, {"max_features": 0}, {"beta": float("nan")}):
        with pytest.raises(ParameterError):
            FTRLClassifier(**settings_)
    keys, ones = np.array([1 << 50, 1 << 51], np.uint64), np.ones(2, np.float32)
    for indptr in ([0, 1], [1, 2], [0, 2, 1, 2], []):
        with pytest.raises(ParameterError):
            FTRLClassifier().score_many_encoded(keys, ones, np.array(indptr, np.int64))
    with pytest.raises(ParameterError):
        FTRLClassifier().score_many_encoded(np.zeros(2, np.uint64), ones, np.array([0, 2]))
    with pytest.raises(CapacityError):
        FTRLClassifier(max_features=1).learn_one({"a": 1, "b": 1}, True)


def test_damaged_state_is_refused() -> None:
    """A flipped bit anywhere in the bytes is found before anything is parsed."""
    model = FTRLClassifier()
    model.learn_one({"a": 1}, True)
    data = bytearray(model.to_bytes())
    data[-5] ^= 1
    with pytest.raises(DamagedFileError):
        FTRLClassifier.from_bytes(bytes(data))


def test_forgetting_clears_the_weight_and_may_keep_the_learning_rate() -> None:
    """A forgotten weight is 0; with `keep_curvature` its Σg² stays, without it the slot is free."""
    model = FTRLClassifier()
    for _ in range(5):
        model.learn_one({"a": 1, "b": 1}, True)
    key = np.array([feature_token("a")], np.uint64)
    soft, hard = copy.deepcopy(model), copy.deepcopy(model)
    assert soft.forget(key) == hard.forget(key, keep_curvature=False) == 1
    assert soft.lookup(key) == hard.lookup(key) == 0.0
    assert (len(soft), len(hard)) == (2, 1)
    assert snapshot(soft).curvature.min() > 0


def test_the_overlay_holds_what_was_touched() -> None:
    """`touched_since` returns exactly the features of the examples after the step, with today's weights."""
    keys, values, indptr, y = stream(500, 3000)
    model = FTRLClassifier()
    model.learn_many_encoded(keys, values, indptr, y)
    touched, weights = model.touched_since(450)
    assert set(touched.tolist()) == set(keys[indptr[450] :].tolist())
    assert (weights == model.lookup(touched)).all()
    assert model.touched_since(500)[0].size == 0


def test_a_small_overlay_is_the_same_without_reading_the_table() -> None:
    """The tokens of the latest batches and the whole table give the same overlay, evictions included."""
    keys, values, indptr, y = stream(400, 9000)
    model = FTRLClassifier(max_features=1_500)
    for first in range(0, 400, 8):
        a, b = indptr[first], indptr[first + 8]
        part = indptr[first : first + 9] - a
        model.learn_many_encoded(keys[a:b], values[a:b], part, y[first : first + 8])
        again = FTRLClassifier.from_bytes(model.to_bytes())  # has no memory of the latest batches
        for since in (0, first - 20, first, first + 3, first + 8):
            ours, theirs = model.touched_since(since), again.touched_since(since)
            assert ours[0].tolist() == theirs[0].tolist() and (ours[1] == theirs[1]).all()
    assert len(model) <= 1_500
