"""Field importance equals brute force; selection stops where the loss would rise; bins are stable."""

import numpy as np
import pytest
from river import checks

from pruning import NonFiniteError, ParameterError
from pruning.binning import QuantileBins
from pruning.importance import FieldImportance, field_contributions, log_loss, select_fields


def stream(n: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Tokens of 1 to 3 fields per example, contributions, indptr, labels."""
    rng = np.random.default_rng(seed)
    width = rng.integers(1, 6, n)
    indptr = np.concatenate([[0], np.cumsum(width)])
    keys = (rng.integers(1, 4, indptr[-1]).astype(np.uint64) << np.uint64(48)) | np.uint64(9)
    return keys, rng.normal(size=indptr[-1]), indptr, rng.integers(0, 2, n)


def test_contributions_by_field_add_up_to_the_logit() -> None:
    """The columns of the fields sum to the sum of all tokens, and each to the tokens of its field."""
    keys, parts, indptr, _ = stream(200)
    table = field_contributions(keys, parts, indptr, np.array([1, 2, 3], np.uint16))
    for i in range(200):
        own = slice(indptr[i], indptr[i + 1])
        for f in (1, 2, 3):
            assert table[i, f - 1] == pytest.approx(parts[own][keys[own] >> np.uint64(48) == f].sum())


def test_leave_one_out_equals_brute_force() -> None:
    """The closed form equals scoring every example again without the tokens of the field."""
    keys, parts, indptr, y = stream(300)
    importance = FieldImportance([1, 2, 3])
    importance.update(field_contributions(keys, parts, indptr, importance.fields), y, intercept=0.3)
    for f, value in importance.leave_one_out().items():
        differences = []
        for i in range(300):
            own = slice(indptr[i], indptr[i + 1])
            full = 0.3 + parts[own].sum()
            without = 0.3 + parts[own][keys[own] >> np.uint64(48) != f].sum()
            differences.append(log_loss([without], [y[i]])[0] - log_loss([full], [y[i]])[0])
        assert value == pytest.approx(np.mean(differences))


def test_incremental_permutation_approaches_the_full_permutation() -> None:
    """With many examples the streamed figure equals the mean over all pairs of examples."""
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(4000, 2)) * [1.5, 0.1]
    y = rng.random(4000) < 1 / (1 + np.exp(-parts.sum(axis=1)))
    importance = FieldImportance([1, 2], reservoir=2000)
    for i in range(0, 4000, 200):
        importance.update(parts[i : i + 200], y[i : i + 200])
    s, few = parts.sum(axis=1), parts[::4]
    for f, value in enumerate(importance.permutation().values()):
        exact = np.mean([log_loss(s - parts[:, f] + c, y) - log_loss(s, y) for c in few[:, f]])
        assert value == pytest.approx(exact, rel=0.15, abs=2e-3)


def test_selection_drops_noise_and_keeps_signal() -> None:
    """Fields are dropped while the measured loss falls, and one field always stays."""
    harm = {1: 0.5, 2: -0.2, 3: -0.1, 4: 0.01}

    def measure(dropped: frozenset[int]) -> tuple[float, dict[int, float]]:
        return 2 + sum(harm[f] for f in dropped), {f: h for f, h in harm.items() if f not in dropped}

    selection = select_fields(measure)
    assert selection.dropped == (2, 3)
    assert selection.losses == pytest.approx((2.0, 1.8, 1.7))
    assert select_fields(measure, tolerance=1.0).dropped == (2, 3, 4)


def test_bad_contributions_are_refused() -> None:
    """Wrong shapes and NaN raise; nothing is counted."""
    importance = FieldImportance([1, 2])
    with pytest.raises(ParameterError):
        importance.update(np.zeros((5, 3)), np.zeros(5))
    with pytest.raises(NonFiniteError):
        importance.update(np.full((5, 2), np.nan), np.zeros(5))
    with pytest.raises(ParameterError):
        FieldImportance([])
    assert importance.leave_one_out() == {1: 0.0, 2: 0.0}


def test_bins_hold_equal_shares_and_change_only_on_refresh() -> None:
    """Each of 8 bins gets about an eighth of the stream; between refreshes a number keeps its bin."""
    rng = np.random.default_rng(0)
    bins = QuantileBins(bins=8, every=None)
    values = rng.lognormal(0, 2, 5000)
    for v in values:
        bins.learn_one({"price": float(v)})
    before = bins.transform_one({"price": 1.0})
    assert before == {"price=e0": 1}
    bins.refresh()
    names = [next(iter(bins.transform_one({"price": float(v)}))) for v in values]
    counts = np.unique(names, return_counts=True)[1]
    assert len(counts) == 8
    assert counts.min() > 0.7 * 5000 / 8
    fixed = bins.transform_one({"price": 1.0})
    for _ in range(1000):
        bins.learn_one({"price": 1e6})
    assert bins.transform_one({"price": 1.0}) == fixed


def test_river_accepts_the_bins() -> None:
    """River's behaviour laws for transformers hold."""
    pytest.importorskip("sklearn", reason="River's checks read scikit-learn's data sets")
    checks.check_estimator(QuantileBins(bins=4, every=50))
