"""Truths about the evaluation: it is strict, it is exact, and it survives every stream."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from river import metrics as river_metrics
from river import optim, reco

from stream_app.evaluation import evaluate, plot, render
from stream_app.evaluation.baselines import (
    Baseline,
    ClickRate,
    IncrementalMF,
    ItemKNN,
    Popularity,
    RiverBiasedMF,
)
from stream_app.evaluation.metrics import rank_of
from stream_app.evaluation.plan import Record
from stream_app.evaluation.report import EvaluationReport
from stream_app.events import DEFAULT_WEIGHTS, Event, EventItem, Item, User
from stream_app.formats import read

Floats = np.ndarray


def view(t: int, user_id: str, item_id: str) -> Event:
    return Event(f"{t}-{user_id}-{item_id}", "view_item", t, user_id, item_id=item_id)


def random_views(n: int, n_users: int = 20, n_items: int = 50, seed: int = 0) -> list[Event]:
    rng = np.random.default_rng(seed)
    pairs = zip(rng.integers(n_users, size=n), rng.integers(n_items, size=n), strict=True)
    return [view(1000 * t, f"u{u}", f"i{i}") for t, (u, i) in enumerate(pairs)]


class Fake:
    """A recommender whose list is a function of what it has observed."""

    def __init__(self, answer: Callable[[Fake, str, int], Sequence[str]]) -> None:
        self.answer = answer
        self.records: list[Record] = []
        self.questions: list[tuple[str, int, int, bool]] = []

    def observe_item(self, item: Item) -> None:
        self.records.append(item)

    def observe_user(self, user: User) -> None:
        self.records.append(user)

    def recommend(
        self, user_id: str, event_time_ms: int, k: int, *, exclude_seen: bool = True
    ) -> Sequence[str]:
        self.questions.append((user_id, event_time_ms, len(self.records), exclude_seen))
        return self.answer(self, user_id, k)

    def observe(self, event: Event) -> None:
        self.records.append(event)


# ---------------------------------------------------------------------------------- strictness


def test_a_model_has_observed_exactly_the_past_when_it_is_asked() -> None:
    """Every question comes after all earlier records and before its own event is taught."""
    records: list[Record] = [Item("i1"), User("u1"), *random_views(50), Item("i2"), *random_views(20, seed=9)]
    model = Fake(lambda self, user_id, k: [])
    report = evaluate(records, {"fake": model}, exclude_seen=False)
    ordered = model.records
    assert sorted(map(repr, ordered)) == sorted(map(repr, records))
    assert report.tests == len(model.questions) == 70
    for user_id, event_time_ms, n_observed, exclude_seen in model.questions:
        event = ordered[n_observed]  # the next record to come
        assert isinstance(event, Event)
        assert (event.user_id, event.event_time_ms) == (user_id, event_time_ms)
        assert not exclude_seen


def test_a_model_that_repeats_the_last_event_learns_nothing_by_it() -> None:
    """Answering with the newest item would be perfect if the event were taught before it is tested."""
    events = random_views(3000, n_users=1500, n_items=1000)
    newest = Fake(lambda self, user_id, k: [str(self.records[-1].item_id)] if self.records else [])  # type: ignore[union-attr]
    report = evaluate(events, {"newest": newest})
    assert report.models["newest"].metrics["recall@10"] < 0.01


def test_an_oracle_of_the_future_is_perfect_but_for_first_events() -> None:
    """A model that knows the next item gets everything, except items that nothing has named before."""
    events = random_views(400)
    first: dict[tuple[str, str | None], Event] = {}
    for event in events:
        first.setdefault((event.user_id, event.item_id), event)
    coming = iter(first.values())
    report = evaluate(events, {"oracle": Fake(lambda self, user_id, k: [str(next(coming).item_id)])})
    expected = 1 - report.first_time / report.tests
    assert report.first_time == len({e.item_id for e in events})
    assert report.models["oracle"].metrics["recall@10"] == pytest.approx(expected)
    assert report.models["oracle"].metrics["ndcg@10"] == pytest.approx(expected)


class Undecided(Baseline):
    """Gives every item the same score."""

    def scores(self, user_id: str, event_time_ms: int) -> Floats:
        return np.zeros(len(self.items))

    def learn(self, user_id: str, item: int, event_time_ms: int) -> None:
        pass


def test_equal_scores_do_not_count_as_hits() -> None:
    """A model without opinion hits as often as ten of all items do, not always."""
    rng = np.random.default_rng(3)
    events = [view(1000 * t, f"u{t}", f"i{i}") for t, i in enumerate(rng.integers(200, size=4000))]
    quality = evaluate(events, {"undecided": Undecided()}).models["undecided"]
    assert quality.metrics["recall@10"] == pytest.approx(10 / 200, abs=0.01)
    assert quality.metrics["auc"] == 0.5


def test_seen_and_repeated_items_lose_their_places() -> None:
    """A list may not hold what the user chose, the same item twice, or more than k items; all are counted."""
    events = [view(1000, "u", "a"), view(2000, "v", "b"), view(3000, "u", "b")]
    model = Fake(lambda self, user_id, k: ["a", "a", "b", *(f"x{n}" for n in range(20))])
    quality = evaluate(events, {"m": model}, k=5).models["m"]
    assert quality.ranks.tolist() == [-1, -1, 0]  # unknown, unknown, first place once a is taken out
    assert quality.dropped == 3 * 23 - 3 * 5


def test_repeats_are_scored_when_asked_for() -> None:
    """With exclude_seen=False an event on a chosen item is tested, and the item may be recommended."""
    events = [view(1000 * t, "u", "a") for t in range(5)]
    report = evaluate(events, {"popularity": Popularity()}, exclude_seen=False)
    assert report.tests == 5
    assert report.models["popularity"].ranks.tolist() == [-1, 0, 0, 0, 0]
    assert evaluate(events, {"popularity": Popularity()}).tests == 1


def test_popularity_equals_ranking_by_hand() -> None:
    """List positions are the ranks among all known items that brute force gives."""
    events = random_views(600, n_items=30)
    ranks = evaluate(events, {"popularity": Popularity()}, k=7).models["popularity"].ranks
    counts: dict[str, int] = {}
    chosen: dict[str, set[str]] = {}
    expected = []
    for event in events:
        item_id, mine = str(event.item_id), chosen.setdefault(event.user_id, set())
        if item_id not in mine:
            ids = [i for i in counts if i not in mine]
            place = rank_of(ids.index(item_id), [counts[i] for i in ids], ids) if item_id in counts else -1
            expected.append(place if place < 7 else -1)
        mine.add(item_id)
        counts[item_id] = counts.get(item_id, 0) + 1
    assert ranks.tolist() == expected


def test_the_same_stream_and_seed_give_the_same_report() -> None:
    """Two runs differ in their durations only."""

    def report(seed: int) -> dict[str, object]:
        models = {"knn": ItemKNN(), "mf": RiverBiasedMF(), "isgd": IncrementalMF()}
        return evaluate(random_views(300), models, seed=seed, clock=lambda: 0.0).to_json_object()

    assert report(1) == report(1)
    assert report(1)["models"] != report(2)["models"]  # other negatives, other AUC


def test_models_do_not_disturb_each_other() -> None:
    """A model's figures are the same whoever is evaluated beside it."""
    alone = evaluate(random_views(300), {"knn": ItemKNN()}).models["knn"]
    beside = evaluate(random_views(300), {"mf": RiverBiasedMF(), "knn": ItemKNN()}).models["knn"]
    assert alone.ranks.tolist() == beside.ranks.tolist()
    assert alone.metrics["auc"] == beside.metrics["auc"]


def test_an_error_of_a_model_names_the_event() -> None:
    """The exception passes through with a note, so the culprit can be found."""

    def fail(self: Fake, user_id: str, k: int) -> Sequence[str]:
        raise KeyError("boom")

    with pytest.raises(KeyError) as error:
        evaluate([view(1000, "u", "a")], {"m": Fake(fail)})
    assert any("1000-u-a" in note for note in error.value.__notes__)


# ---------------------------------------------------------------------------------- streams of all kinds


@pytest.mark.parametrize(
    "events",
    [
        [],
        [view(1, "u", "a")],
        [view(1000 * t, f"u{t}", "only") for t in range(5)],
        [view(1000 * t, f"u{t}", f"i{t}") for t in range(30)],
        [view(-1000 * t, "u", f"i{t}") for t in range(5)],
        [Item("a"), User("u")],
    ],
    ids=["nothing", "one event", "one item", "all new", "backwards", "descriptions only"],
)
def test_every_stream_has_a_report(events: list[Record]) -> None:
    """Tiny and odd streams are evaluated too; what cannot be measured is null, and the JSON is strict."""
    models = {"pop": Popularity(), "knn": ItemKNN(), "mf": RiverBiasedMF(), "isgd": IncrementalMF()}
    report = evaluate(events, models, k=100)
    text = json.dumps(report.to_json_object(), allow_nan=False)
    assert set(json.loads(text)["models"]) == set(models)


def test_one_item_is_found_by_every_second_user() -> None:
    """In a catalogue of one item every test but the first is a hit, with any k."""
    events = [view(1000 * t, f"u{t}", "only") for t in range(5)]
    assert evaluate(events, {"m": Popularity()}, k=100).models["m"].metrics["recall@100"] == 0.8


def test_late_events_are_reported() -> None:
    """The result of a shuffled file is that of the sorted one, and the report says how many events moved."""
    events = random_views(200)
    mixed = [events[i] for i in np.random.default_rng(0).permutation(200)]
    straight, sorted_ = (evaluate(e, {"m": ItemKNN()}) for e in (events, mixed))
    assert straight.out_of_order == 0 < sorted_.out_of_order
    assert straight.models["m"].ranks.tolist() == sorted_.models["m"].ranks.tolist()


def test_k_has_to_be_positive() -> None:
    """A k of 0 is refused before anything runs."""
    with pytest.raises(ValueError, match="at least one place"):
        evaluate([], {}, k=0)


def test_hits_on_orders_count_once_per_event() -> None:
    """An order of two items is two tests and one event of the hit rate."""
    order = Event("o", "purchase", 9000, "v", items=(EventItem("a"), EventItem("z")))
    metrics = evaluate([view(1000, "u", "a"), order], {"m": Popularity()}).models["m"].metrics
    assert metrics["recall@10"] == pytest.approx(1 / 3)
    assert metrics["hit_rate@10"] == pytest.approx(1 / 2)


# ---------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    """Two models on random views."""
    return evaluate(random_views(800), {"popularity": Popularity(), "mf": RiverBiasedMF()}, k=10)


def test_the_json_has_what_the_command_promises(report: EvaluationReport) -> None:
    """Every key of the contract is there; the own logloss of a model without probabilities is null."""
    promised = report.to_json_object()
    assert {"events", "users", "items", "seconds", "models"} <= set(promised)
    for model in promised["models"].values():
        assert {"recall@10", "ndcg@10", "coverage@10", "auc", "logloss"} <= set(model)
        assert "impression_ndcg@10" not in model
        assert 0 < model["logloss"] < 1
    assert promised["models"]["popularity"]["own_logloss"] is None
    assert 0 < promised["models"]["mf"]["own_logloss"] < 2


def test_every_model_is_calibrated_by_its_past(report: EvaluationReport) -> None:
    """Scores become probabilities that are right on average; a model's own need not be."""
    of_scores = {name: quality.metrics["ece"] for name, quality in report.models.items()}
    assert all(ece < 0.1 for ece in of_scores.values())
    assert math.isnan(report.models["popularity"].metrics["own_ece"])
    assert report.models["mf"].metrics["own_ece"] > of_scores["mf"]


def test_slices_are_parts_of_the_whole(report: EvaluationReport) -> None:
    """The histories, the ages, head and tail, and the types each add up to all tests and all hits."""
    quality = report.models["popularity"]
    for part in (
        [name for name in quality.slices if name.startswith("history")],
        [name for name in quality.slices if name in ("item first time", "item old") or "new" in name],
        ["item head", "item tail"],
        ["event view_item"],
    ):
        slices = [quality.slices[name] for name in part]
        hits = sum(s["tests"] * s["recall@10"] for s in slices if s["tests"])
        assert sum(s["tests"] for s in slices) == report.tests
        assert hits / report.tests == pytest.approx(quality.metrics["recall@10"])
    assert quality.slices["item first time"]["recall@10"] == 0.0


def test_the_conservative_figure_leaves_out_what_the_same_second_gives_away() -> None:
    """Guessing the neighbour of the last item gets the second event of each second, and no first one."""
    rng = np.random.default_rng(7)
    events = []
    for n, i in enumerate(rng.integers(100, size=600)):
        events += [view(5000 * n, f"u{n}", f"i{i:03}"), view(5000 * n + 1, f"u{n}", f"i{(i + 1) % 100:03}")]
    neighbour = Fake(
        lambda self, user_id, k: (
            [f"i{(int(str(self.records[-1].item_id)[1:]) + 1) % 100:03}"]  # type: ignore[union-attr]
            if self.records
            else []
        )
    )
    quality = evaluate(events, {"neighbour": neighbour}).models["neighbour"]
    assert quality.metrics["recall@10"] > 0.4
    assert quality.conservative["recall@10"] < 0.05
    assert quality.conservative["tests"] == 600


def test_the_second_half_is_that_of_the_tests() -> None:
    """A model that answers from the middle of the stream on is good in the second half only."""
    events = [view(1000 * t, f"u{t}", "only") for t in range(100)]
    late = Fake(lambda self, user_id, k: ["only"] if len(self.records) >= 50 else [])
    quality = evaluate(events, {"late": late}).models["late"]
    assert quality.metrics["recall@10"] == 0.5
    assert quality.second_half == {"tests": 50.0, "recall@10": 1.0, "ndcg@10": 1.0}


def test_curves_average_to_the_whole(report: EvaluationReport) -> None:
    """A hundred equal parts of the stream have the mean of the whole."""
    quality = report.models["mf"]
    assert len(quality.curve["ndcg@10"]) == len(report.curve_events) == 100
    assert np.mean(quality.curve["ndcg@10"]) == pytest.approx(quality.metrics["ndcg@10"], rel=0.05)
    assert list(report.curve_events) == sorted(report.curve_events)


def test_a_difference_is_paired(report: EvaluationReport) -> None:
    """The difference of two models is that of their means; of a model to itself it is nothing."""
    a, b = (report.models[name].metrics["ndcg@10"] for name in ("mf", "popularity"))
    difference = report.difference("mf", "popularity")
    assert difference.value == pytest.approx(a - b)
    assert 0 < difference.standard_error < 0.1
    assert report.difference("mf", "mf").value == 0.0
    assert math.isnan(report.difference("mf", "mf").z)
    assert report.differences() == {"mf": report.difference("popularity", "mf")}
    assert report.to_json_object()["differences"]["mf"]["ndcg@10"] == pytest.approx(b - a, abs=1e-6)


def test_the_tables_fit_a_terminal(report: EvaluationReport) -> None:
    """At 80 columns every model and figure is printed whole."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(report))
    text = console.export_text()
    assert "…" not in text
    assert text.count("popularity") == 4  # three tables and one comparison
    assert f"{report.models['mf'].metrics['recall@10']:.4f}".removeprefix("0") in text


def test_every_type_of_event_has_room() -> None:
    """At 80 columns, parts of all types of positive feedback stand side by side, whole."""
    types = [name for name, weight in DEFAULT_WEIGHTS.items() if weight > 0]
    events = [
        Event(
            f"{t}",
            types[t % len(types)],
            1000 * t,
            f"u{t % 9}",
            item_id=f"i{t}",
            items=(EventItem(f"i{t}"),) if types[t % len(types)] == "purchase" else (),
            value=5.0,
        )
        for t in range(90)
    ]
    models = {name: Popularity() for name in ("popularity_fading", "ours_compressed")}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(evaluate(events, models)))
    text = console.export_text()
    assert "…" not in text
    assert len(types) > 3
    assert all(name.split("_")[0] in text for name in types)


@pytest.mark.parametrize("events", [[], [view(1, "u", "a")]], ids=["nothing", "one event"])
def test_reports_of_tiny_streams_can_be_shown(events: list[Record], tmp_path: Path) -> None:
    """Tables and pictures are made of whatever there is."""
    for models in ({}, {"popularity": Popularity()}):
        tiny = evaluate(events, models)
        Console(file=io.StringIO()).print(render(tiny))
        plot(tiny, tmp_path / "tiny.png")


def test_the_picture_is_an_image(report: EvaluationReport, tmp_path: Path) -> None:
    """A PNG of a size that can be read is written."""
    plot(report, tmp_path / "quality.png")
    pixels = imread(tmp_path / "quality.png")
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.01  # not blank


# ---------------------------------------------------------------------------------- impressions


def impressions_and_clicks(n: int = 400) -> list[Event]:
    """Lists of four in random order; everybody clicks the item with the lowest number, a second later."""
    rng = np.random.default_rng(2)
    events = []
    for t in range(n):
        shown = rng.choice(12, size=4, replace=False)
        items = tuple(EventItem(f"i{i:02}", position=p) for p, i in enumerate(shown, start=1))
        events.append(
            Event(f"s{t}", "view_item_list", 2000 * t, f"u{t % 40}", items=items, request_id=f"r{t}")
        )
        clicked = f"i{shown.min():02}"
        events.append(
            Event(f"c{t}", "select_item", 2000 * t + 1000, f"u{t % 40}", item_id=clicked, request_id=f"r{t}")
        )
    return events


def test_impressions_are_rankings() -> None:
    """A model that learns click rates orders lists better than the shop did, which is as good as chance."""
    report = evaluate(impressions_and_clicks(), {"ctr": ClickRate(), "knn": ItemKNN()})
    reference = report.impression_reference
    assert report.impressions == 400
    assert reference["as_shown"] == pytest.approx(reference["random"], abs=0.05)
    assert report.models["ctr"].metrics["impression_ndcg@10"] > 0.9
    assert report.models["knn"].metrics["impression_ndcg@10"] > reference["random"]


def test_an_impression_is_ranked_before_its_clicks() -> None:
    """The order is asked for when the list is shown: its clicks have not been observed by then."""

    class Peeping(Fake):
        def score_items(
            self,
            user_id: str,
            item_ids: Sequence[str],
            event_time_ms: int,
            positions: Sequence[int] | None = None,
        ) -> Floats:
            if positions is not None:
                self.at_impression.append((event_time_ms, len(self.records)))
            return np.zeros(len(item_ids))

    model = Peeping(lambda self, user_id, k: [])
    model.at_impression = []  # type: ignore[attr-defined]
    events = impressions_and_clicks(50)
    evaluate(events, {"m": model})
    for event_time_ms, n_observed in model.at_impression:  # type: ignore[attr-defined]
        assert events[n_observed].event_time_ms == event_time_ms
        assert events[n_observed].event_type == "view_item_list"
    assert len(model.at_impression) == 50  # type: ignore[attr-defined]


def test_equal_scores_leave_an_impression_in_the_order_of_ids() -> None:
    """A model without opinion gets the order of the ids, not the order in which the shop showed the list."""
    items = tuple(EventItem(i) for i in ("b", "c", "a"))
    events = [
        Event("s", "view_item_list", 1000, "u", items=items, request_id="r"),
        Event("c", "select_item", 2000, "u", item_id="b", request_id="r"),
    ]
    quality = evaluate(events, {"m": Popularity()}).models["m"]
    assert quality.metrics["impression_ndcg@10"] == pytest.approx(1 / math.log2(3))


# ---------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def movielens(data_directory: Path) -> Path:
    """MovieLens 100K; skips where it is absent."""
    path = data_directory / "movielens-100k"
    if not (path / "u.data").is_file():
        pytest.skip(f"no MovieLens 100K at {path}")
    return path


def test_movielens_figures(movielens: Path) -> None:
    """Popularity and co-visitation on 55,375 positive ratings have the figures in docs/quality.md."""
    report = evaluate(read(movielens), {"popularity": Popularity(), "item_knn": ItemKNN()})
    assert (report.tests, report.users, report.items) == (55_375, 943, 1_682)
    popularity, item_knn = (report.models[name].metrics for name in ("popularity", "item_knn"))
    assert popularity["recall@10"] == pytest.approx(0.0880, abs=0.0005)
    assert popularity["ndcg@10"] == pytest.approx(0.0443, abs=0.0005)
    assert item_knn["recall@10"] == pytest.approx(0.1748, abs=0.0005)
    assert item_knn["ndcg@10"] == pytest.approx(0.0898, abs=0.0005)
    assert report.difference("item_knn", "popularity", "recall").z > 20


@pytest.mark.parametrize(
    ("make", "mae", "rmse"),
    [
        (lambda: reco.Baseline(optimizer=optim.SGD(0.025), l2=0.0), 0.754651, 0.954148),
        (
            lambda: reco.BiasedMF(
                n_factors=10,
                bias_optimizer=optim.SGD(0.025),
                latent_optimizer=optim.SGD(0.05),
                latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=73),
            ),
            0.748559,
            0.947854,
        ),
    ],
    ids=["Baseline", "BiasedMF"],
)
def test_rivers_published_digits(
    movielens: Path, make: Callable[[], reco.Baseline | reco.BiasedMF], mae: float, rmse: float
) -> None:
    """Stock River models, fed by our reader, give the errors that River publishes, to the last digit."""
    if not (movielens / "river_ml_100k.zip").is_file():
        pytest.skip("River's own file of MovieLens 100K is absent")
    model = make()
    absolute, squared = river_metrics.MAE(), river_metrics.RMSE()
    for event in read(movielens / "river_ml_100k.zip"):
        if isinstance(event, Event) and event.value is not None:
            predicted = min(max(model.predict_one(event.user_id, event.item_id), 1.0), 5.0)
            absolute.update(event.value, predicted)
            squared.update(event.value, predicted)
            model.learn_one(event.user_id, event.item_id, event.value)
    assert round(absolute.get(), 6) == mae
    assert round(squared.get(), 6) == rmse


def test_ranklens_figures(data_directory: Path) -> None:
    """On RankLens the lists as shown, in random order and by click rate have known figures."""
    path = data_directory / "ranklens" / "events.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no RankLens at {path}")
    report = evaluate(read(path), {"click_rate": ClickRate()})
    assert report.impressions == 8_773
    assert report.impression_reference["random"] == pytest.approx(0.323, abs=0.001)
    assert report.impression_reference["as_shown"] == pytest.approx(0.369, abs=0.001)
    assert report.models["click_rate"].metrics["impression_ndcg@10"] == pytest.approx(0.578, abs=0.002)
