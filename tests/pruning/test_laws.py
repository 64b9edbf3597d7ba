"""Laws that hold for every River model that can be pruned."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from river import anomaly, compose, facto, linear_model, multiclass, optim, preprocessing, reco

from pruning import EmptyModelError, FTRLProximal, NonFiniteError, ParameterError, UnsupportedModelError
from pruning.inplace import compressed, prune_model, quantize_model
from pruning.pruners import SaliencyPruner
from pruning.quantization import FixedPoint, Int8, RowwiseInt
from pruning.tables import FIRST_MOMENTS, SECOND_MOMENTS, reading_only, weight_tables
from pruning.weights import snapshot

OPTIMIZERS = [
    optim.SGD(0.1), optim.AdaGrad(0.1), optim.FTRLProximal(0.1), FTRLProximal(0.1),
    optim.Adam(0.01), optim.RMSProp(0.01), optim.Momentum(0.05), optim.NesterovMomentum(0.05),
    optim.AMSGrad(0.01), optim.AdaMax(0.01), optim.Nadam(0.01), optim.AdaDelta(),
    optim.AdaBound(0.01), optim.Averager(optim.SGD(0.1)),
]  # fmt: skip

CLASSIFIERS = {
    **{
        f"logistic-{i}-{type(o).__name__}": linear_model.LogisticRegression(o)
        for i, o in enumerate(OPTIMIZERS)
    },
    "logistic-l1": linear_model.LogisticRegression(optim.SGD(0.1), l1=0.001),
    "logistic-normal": linear_model.LogisticRegression(initializer=optim.initializers.Normal(seed=1)),
    "perceptron": linear_model.Perceptron(),
    "pa": linear_model.PAClassifier(),
    "alma": linear_model.ALMAClassifier(),
    "softmax": linear_model.SoftmaxRegression(optim.AdaGrad(0.1)),
    "scaled": preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.AdaGrad(0.1)),
    "one-vs-rest": multiclass.OneVsRestClassifier(
        preprocessing.StandardScaler() | linear_model.LogisticRegression()
    ),
    "fm": facto.FMClassifier(seed=1, weight_optimizer=optim.AdaGrad(0.1)),
    "ffm": facto.FFMClassifier(seed=1),
    "fwfm": facto.FwFMClassifier(seed=1),
    "hofm": facto.HOFMClassifier(seed=1),
}
REGRESSORS = {
    "linear": linear_model.LinearRegression(optim.SGD(0.01)),
    "pa-regressor": linear_model.PARegressor(),
    "fm-regressor": facto.FMRegressor(seed=1),
    "ffm-regressor": facto.FFMRegressor(seed=1),
    "fwfm-regressor": facto.FwFMRegressor(seed=1),
    "hofm-regressor": facto.HOFMRegressor(seed=1),
}
RANKERS = {
    "biased-mf": reco.BiasedMF(
        seed=1, bias_optimizer=optim.AdaGrad(0.1), latent_optimizer=optim.AdaGrad(0.1)
    ),
    "funk-mf": reco.FunkMF(seed=1, optimizer=optim.Momentum(0.05)),
}
EVERY = [*CLASSIFIERS, *REGRESSORS, *RANKERS]


def examples(kind: str, n: int, seed: int) -> list[tuple[tuple[Any, ...], Any]]:
    """Arguments of predict and the label."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[tuple[Any, ...], Any]] = []
    for _ in range(n):
        user, item = int(rng.integers(0, 8)), int(rng.integers(0, 8))
        y = float(user > item) + 0.1 * rng.normal()
        if kind in RANKERS:
            rows.append(((f"u{user}", f"i{item}"), y))
            continue
        x = {f"u_{user}": 1.0, f"i_{item}": 1.0, "n_0": float(rng.normal()), "n_1": float(rng.normal())}
        rows.append(((x,), y if kind in REGRESSORS else user > item))
    return rows


def trained(kind: str, n: int = 120) -> Any:
    model = copy.deepcopy({**CLASSIFIERS, **REGRESSORS, **RANKERS}[kind])
    for args, y in examples(kind, n, 0):
        model.learn_one(*args, y)
    return model


def predict(model: Any, args: tuple[Any, ...]) -> list[float]:
    with reading_only(model):
        if hasattr(model, "predict_proba_one") and not hasattr(model, "u_latents"):
            return list(model.predict_proba_one(*args).values())
        return [model.predict_one(*args)]


def scalers(model: Any) -> bytes:
    steps = getattr(model, "steps", {})
    return pickle.dumps([s for s in steps.values() if isinstance(s, preprocessing.StandardScaler)])


@pytest.mark.parametrize("kind", EVERY)
def test_keeping_everything_changes_no_prediction(kind: str) -> None:
    """A mask that is all True leaves every prediction as it was, and the scaler's statistics too."""
    model = trained(kind)
    before, statistics = [predict(model, a) for a, _ in examples(kind, 20, 1)], scalers(model)
    report = prune_model(model, SaliencyPruner(0))
    assert report.share_kept == 1.0
    after = [predict(model, a) for a, _ in examples(kind, 20, 1)]
    assert after == before
    assert scalers(model) == statistics


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("scope", ["entry", "row"])
def test_pruning_keeps_the_share_and_touches_nothing_else(kind: str, scope: Any) -> None:
    """Half of every table goes; what stays has the value it had; pruning to what is left changes nothing."""
    model = trained(kind)
    before = {t.name: dict(zip(t.names(), t.values(), strict=True)) for t in weight_tables(model)}
    prune_model(model, SaliencyPruner(0.5), scope=scope)
    state = [[t.values().tolist(), t.names()] for t in weight_tables(model)]
    for table in weight_tables(model):
        for name, row in zip(table.names(), table.values(), strict=True):
            stays = np.abs(row) > 1e-20
            assert (row[stays] == before[table.name][name][stays]).all()
        live = sum(int((np.abs(row) > 1e-20).sum()) for row in table.values())
        were = sum(int((np.abs(row) > 1e-20).sum()) for row in before[table.name].values())
        slack = table.values().shape[1] if scope == "row" else 1
        assert abs(live - were / 2) <= slack
    prune_model(model, SaliencyPruner(0), scope=scope)
    assert state == [[t.values().tolist(), t.names()] for t in weight_tables(model)]


@pytest.mark.parametrize("kind", EVERY)
def test_no_optimizer_remembers_a_removed_weight(kind: str) -> None:
    """First moments of removed weights are gone; second moments too, when asked."""
    model = trained(kind)
    prune_model(model, SaliencyPruner(0.5), keep_curvature=False)
    for table in weight_tables(model):
        alive = {
            n for n, row in zip(table.names(), table.values(), strict=True) if (np.abs(row) > 1e-20).any()
        }
        for held in table.memory(FIRST_MOMENTS + SECOND_MOMENTS):
            assert set(held.keys()) <= alive


@pytest.mark.parametrize("kind", EVERY)
def test_removed_weights_do_not_come_back_by_themselves(kind: str) -> None:
    """Learning examples without the removed features leaves them removed."""
    model = trained(kind)
    prune_model(model, SaliencyPruner(0.9), scope="row")
    tables = {t.name: t for t in weight_tables(model)}
    dead = {
        name: {k for k, row in zip(t.names(), t.values(), strict=True) if not (np.abs(row) > 1e-20).any()}
        for name, t in tables.items()
        if t.layout.absent != "one"
    }
    strangers = [(("u98", "i98") if kind in RANKERS else ({"u_98": 1.0, "i_98": 1.0},)) for _ in range(5)]
    for args, (_, y) in zip(strangers, examples(kind, 5, 2), strict=True):
        model.learn_one(*args, y)
    for name, gone in dead.items():
        for key, row in zip(tables[name].names(), tables[name].values(), strict=True):
            assert key not in gone or (np.abs(row) <= 1e-20).all()


@pytest.mark.parametrize("kind", EVERY)
def test_a_pruned_model_learns_on_is_cloned_and_pickled(kind: str) -> None:
    """After pruning, predictions stay finite while learning goes on; pickle and deepcopy keep them."""
    model = trained(kind)
    prune_model(model, SaliencyPruner(0.7))
    again = pickle.loads(pickle.dumps(model))
    assert type(model.clone()) is type(model)
    for args, y in examples(kind, 60, 3):
        assert all(math.isfinite(p) for p in predict(model, args))
        assert predict(model, args) == predict(again, args)
        model.learn_one(*args, y)
        again.learn_one(*args, y)


@pytest.mark.parametrize("kind", EVERY)
def test_reading_creates_no_row(kind: str) -> None:
    """Predicting for strangers inside `reading_only` leaves every table as it was."""
    model = trained(kind)
    names = [t.names() for t in weight_tables(model)]
    predict(model, ("u98", "i98") if kind in RANKERS else ({"u_98": 1.0, "i_98": 1.0, "n_0": 2.0},))
    assert names == [t.names() for t in weight_tables(model)]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("quantizer", [Int8(), FixedPoint(4, 11), RowwiseInt(8)], ids=repr)
def test_quantizing_moves_no_weight_further_than_its_bound(kind: str, quantizer: Any) -> None:
    """Every weight stays within half a step of its table, and a copy leaves the model alone."""
    model = trained(kind)
    before = [t.values() for t in weight_tables(model)]
    copied = copy.deepcopy(model)
    worst = quantize_model(copied, quantizer)
    largest = max((np.abs(v).max() for v in before if v.size), default=0.0)
    spread = max((np.ptp(v, axis=1).max() for v in before if v.size and v.shape[1] > 1), default=0.0)
    bound = {"Int8": largest / 254, "FixedPoint": 2**-12, "RowwiseInt": max(largest / 254, spread / 510)}
    assert worst <= bound[type(quantizer).__name__] * (1 + 1e-6) + 2**-10 * (largest + spread)
    assert all((a == t.values()).all() for a, t in zip(before, weight_tables(model), strict=True))


@pytest.mark.parametrize("kind", EVERY)
def test_a_model_that_cannot_be_pruned_is_unchanged(kind: str) -> None:
    """NaN, an empty model and an unknown table raise named errors before anything is written."""
    with pytest.raises((EmptyModelError, UnsupportedModelError)):
        prune_model(copy.deepcopy({**CLASSIFIERS, **REGRESSORS, **RANKERS}[kind]))
    model = trained(kind)
    tables = weight_tables(model)
    with pytest.raises(ParameterError, match="no table"):
        prune_model(model, tables=("nonsense",))
    bad = tables[-1]
    values = bad.values()
    values[0, 0] = np.nan
    bad.write(values, forget=False)
    before = [t.values().tolist() for t in tables]
    with pytest.raises(NonFiniteError):
        prune_model(model, SaliencyPruner(0.5))
    assert repr(before) == repr([t.values().tolist() for t in tables])


@pytest.mark.parametrize(
    "kind", [k for k in CLASSIFIERS if "fm" not in k and k not in ("softmax", "one-vs-rest")]
)
def test_linear_models_have_a_snapshot_with_the_same_logits(kind: str) -> None:
    """The frozen weights give the logit the model has."""
    model = trained(kind)
    frozen = snapshot(model)
    inner = list(model.steps.values())[-1] if isinstance(model, compose.Pipeline) else model
    held = {frozen.names[int(k)]: w for k, w in zip(frozen.keys, frozen.weights, strict=True)}  # type: ignore[index]
    for (x,), _ in examples(kind, 20, 4):
        scaled = model[0].transform_one(x) if isinstance(model, compose.Pipeline) else x
        raw = getattr(inner, "_raw_dot_one", getattr(inner, "_raw_dot", None))
        expected = (
            raw(scaled) if raw else sum(inner.weights[i] * v for i, v in scaled.items()) + inner.intercept
        )
        got = sum(held.get(i, 0.0) * v for i, v in scaled.items()) + frozen.intercept
        assert got == pytest.approx(expected, abs=1e-9)


def test_models_with_several_tables_have_no_snapshot() -> None:
    """The error says to prune in place."""
    with pytest.raises(UnsupportedModelError, match="prune_model"):
        snapshot(trained("fm"))


def test_unknown_models_are_named_with_what_is_supported() -> None:
    """A model without known tables is refused."""
    with pytest.raises(UnsupportedModelError, match=r"HalfSpaceTrees.*BiasedMF"):
        prune_model(anomaly.HalfSpaceTrees())


def test_a_compressed_copy_leaves_the_model_dense() -> None:
    """`compressed` prunes and rounds a copy."""
    model = trained("fm")
    before = [t.values().tolist() for t in weight_tables(model)]
    small = compressed(model, SaliencyPruner(0.8), RowwiseInt(8))
    assert before == [t.values().tolist() for t in weight_tables(model)]
    assert sum(np.count_nonzero(t.values()) for t in weight_tables(small)) < 0.3 * sum(map(np.size, before))


def test_magnitude_and_saliency_differ_where_curvature_is_given() -> None:
    """Given curvature decides which latent entries stay."""
    model: Any = trained("fm")
    table = next(t for t in weight_tables(model) if t.name == "latents")
    h = np.zeros_like(table.values())
    h[:, 0] = 1.0
    prune_model(model, SaliencyPruner(0.8), tables=("latents",), curvature={"latents": h})
    assert (table.values()[:, 1:] == 0).mean() > 0.8
    with pytest.raises(ParameterError, match="shape"):
        prune_model(model, tables=("latents",), curvature={"latents": h[:1]})
