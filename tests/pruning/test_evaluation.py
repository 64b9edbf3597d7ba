"""Measures equal their definitions; the curve holds the guard's verdicts and can be drawn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, metrics

from pruning import (
    DecisionRecord,
    Examples,
    FTRLProximal,
    Guard,
    MagnitudePruner,
    ParameterError,
    auc,
    curve,
    field_id,
    plot,
    plot_history,
    progressive,
    quality,
    select_fields,
    snapshot,
    top_k_overlap,
)


def trained(n: int = 6000) -> tuple[linear_model.LogisticRegression, Examples]:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(n):
        user, item = int(min(rng.zipf(1.3), 400)), int(min(rng.zipf(1.3), 300))
        p = 1 / (1 + np.exp(-(((user * 7) % 5) - 2) - 0.5 * (((item * 3) % 5) - 2)))
        rows.append(
            (
                {f"user={user}": 1.0, f"item={item}": 1.0, f"noise={rng.integers(500)}": 1.0},
                bool(rng.random() < p),
            )
        )
    model = linear_model.LogisticRegression(FTRLProximal(alpha=0.3), intercept_lr=0)
    for x, y in rows[: n // 2]:
        model.learn_one(x, y)
    return model, Examples.from_river(rows[n // 2 :])


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
def test_measures_equal_their_definitions(rows: list[tuple[int, bool]]) -> None:
    """AUC equals the share of ordered pairs, ties half; precision, recall and accuracy equal River's."""
    s, y = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    found = quality(s, y)
    pairs = [(a > b) + 0.5 * (a == b) for a in s[y] for b in s[~y]]
    assert found.auc == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found.auc)
    for name, metric in (
        ("accuracy", metrics.Accuracy()),
        ("precision", metrics.Precision()),
        ("recall", metrics.Recall()),
    ):
        for score, label in zip(s, y, strict=True):
            metric.update(bool(label), bool(score > 0))
        value = getattr(found, name)
        assert np.isnan(value) or value == pytest.approx(metric.get())


def test_the_curve_falls_in_size_and_the_guard_stops_it() -> None:
    """Sizes fall with the shares; the smallest promoted point comes before the first rejection."""
    model, examples = trained()
    found = curve(model, examples, guard=Guard(tolerance=2e-3, min_samples=500), shares=(1.0, 0.5, 0.1, 0.02))
    assert [p.weights for p in found.points] == sorted((p.weights for p in found.points), reverse=True)
    verdicts = [p.decision.verdict for p in found.points]
    assert verdicts[0] == "promote"
    assert verdicts[-1] == "reject"
    best = found.smallest_promoted
    assert best is not None
    assert best.decision.promoted
    assert best.quality.logloss < found.dense.logloss + 2e-3
    assert 0 < found.points[-1].quality.coverage < found.points[0].quality.coverage <= 1
    short = curve(
        model,
        examples,
        guard=Guard(tolerance=2e-3, min_samples=500),
        shares=(1.0, 0.02, 0.01),
        until_rejected=True,
    )
    assert len(short.points) == 2


def test_saliency_beats_magnitude_where_frequencies_differ() -> None:
    """At a fiftieth of the weights the default ranking has the smaller loss."""
    model, examples = trained()
    by_saliency = curve(snapshot(model), examples, shares=(0.02,)).points[0]
    by_magnitude = curve(model, examples, shares=(0.02,), pruner=MagnitudePruner).points[0]
    assert by_saliency.quality.logloss < by_magnitude.quality.logloss


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    """The picture is a PNG of some size."""
    pytest.importorskip("matplotlib", reason="drawing is an optional extra")
    model, examples = trained(2000)
    path = plot(curve(model, examples, shares=(1.0, 0.3, 0.01)), tmp_path / "curve.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_a_ledger_is_drawn(tmp_path: Path) -> None:
    """Every verdict, with or without measured evidence, finds its place in the picture."""
    pytest.importorskip("matplotlib", reason="drawing is an optional extra")
    records = [
        DecisionRecord(f"v{i}", None, verdict, "why", step=1000 * i, bytes_after=5000, evidence=evidence)
        for i, (verdict, evidence) in enumerate(
            [
                ("promote", {"difference": -1e-4}),
                ("reject", {"difference": 2e-3}),
                ("undecided", {}),
                ("rollback", {}),
            ]
        )
    ]
    assert plot_history(records, tmp_path / "ledger.png").stat().st_size > 5000
    assert plot_history([], tmp_path / "empty.png").exists()


def test_settings_that_make_no_curve_are_refused() -> None:
    """Shares out of range or order and empty streams raise."""
    model, examples = trained(2000)
    for shares in ((0.0,), (1.5,), (0.1, 0.5)):
        with pytest.raises(ParameterError):
            curve(model, examples, shares=shares)
    with pytest.raises(ParameterError):
        Examples.from_river([])
    assert np.isnan(auc([1.0, 2.0], [1, 1]))


class Learner:
    """The smallest encoded learner: River's logistic regression, one example at a time."""

    def __init__(self) -> None:
        self.model = linear_model.LogisticRegression(FTRLProximal(alpha=0.3), intercept_lr=0)

    def learn_many_encoded(self, keys, values, indptr, y):  # type: ignore[no-untyped-def]
        p = []
        for i in range(len(y)):
            own = slice(indptr[i], indptr[i + 1])
            x = {int(k): float(v) for k, v in zip(keys[own], values[own], strict=True)}
            p.append(self.model.predict_proba_one(x)[True])
            self.model.learn_one(x, bool(y[i]))
        return np.array(p)

    def lookup(self, keys):  # type: ignore[no-untyped-def]
        weights = self.model.weights
        return np.array([weights.get(int(k), 0.0) for k in keys], np.float32)


def test_progressive_selection_drops_the_noise_field() -> None:
    """Measured test-then-learn, the field without signal goes and the others stay."""
    _, examples = trained(5000)
    selection = select_fields(progressive(examples, Learner, batch=500))
    assert field_id("noise") in selection.dropped
    assert field_id("user") not in selection.dropped
    assert selection.losses[-1] < selection.losses[0]


def test_parts_and_selections_keep_rows_together() -> None:
    """Cutting examples by rows and by fields keeps keys with their rows."""
    _, examples = trained(400)
    whole = [examples.part(i, i + 1) for i in range(len(examples))]
    assert (np.concatenate([p.keys for p in whole]) == examples.keys).all()
    without = examples.without([field_id("noise")])
    assert (np.diff(without.indptr) == 2).all()
    assert not (without.keys >> np.uint64(48) == field_id("noise")).any()


def test_overlap_counts_lists_shorter_than_k_whole() -> None:
    """Equal rankings agree fully; empty lists do not count."""
    scores = np.array([3.0, 2.0, 1.0, 5.0])
    assert top_k_overlap(scores, scores * 2, np.array([0, 3, 3, 4]), k=10) == 1.0
    assert top_k_overlap(scores, -scores, np.array([0, 3]), k=1) == 0.0
    assert np.isnan(top_k_overlap(scores, scores, np.array([0])))
