"""Truths about the baselines: each equals a plain reading of its formula."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from stream_app.evaluation.baselines import (
    BASELINES,
    Baseline,
    ClickRate,
    IncrementalMF,
    ItemKNN,
    Popularity,
    RiverBiasedMF,
    SessionKNN,
)
from stream_app.evaluation.protocols import ProbabilityModel, Recommender, Scorer
from stream_app.events import Event, EventItem


def views(n: int, n_users: int = 6, n_items: int = 15, seed: int = 0) -> list[Event]:
    """Random views, one per second, popular items more often."""
    rng = np.random.default_rng(seed)
    users = rng.integers(n_users, size=n)
    items = np.minimum(rng.geometric(0.15, size=n), n_items) - 1
    return [
        Event(str(t), "view_item", 1000 * t, f"u{u}", item_id=f"i{i}")
        for t, (u, i) in enumerate(zip(users, items, strict=True))
    ]


def trained(make: Callable[[], Baseline], n: int = 120) -> Baseline:
    model = make()
    for event in views(n):
        model.observe(event)
    return model


@pytest.mark.parametrize("make", BASELINES.values(), ids=BASELINES)
class TestEveryBaseline:
    """Laws that hold for all of them."""

    def test_it_keeps_the_protocols(self, make: Callable[[], Baseline]) -> None:
        """Each is a recommender and a scorer."""
        assert isinstance(make(), Recommender)
        assert isinstance(make(), Scorer)

    def test_it_leaves_out_what_the_user_chose(self, make: Callable[[], Baseline]) -> None:
        """No list repeats an item or holds a chosen one, unless repeats are asked for."""
        model = trained(make)
        chosen = {event.item_id for event in views(120) if event.user_id == "u1"}
        ranked = model.recommend("u1", 10**9, k=100)
        assert len(set(ranked)) == len(ranked) == len(model.items) - len(chosen)
        assert not chosen.intersection(ranked)
        assert set(model.recommend("u1", 10**9, k=100, exclude_seen=False)) == set(model.items.ids)

    def test_its_list_follows_its_scores(self, make: Callable[[], Baseline]) -> None:
        """The order of a list is the order of `score_items`, ties by id."""
        model = trained(make)
        for user_id in ("u1", "nobody"):
            ranked = list(model.recommend(user_id, 10**9, k=8))
            scores = model.score_items(user_id, ranked, 10**9)
            keys = list(zip(-scores, ranked, strict=True))
            assert keys == sorted(keys)

    def test_questions_do_not_change_answers(self, make: Callable[[], Baseline]) -> None:
        """A model that was asked on the way ends up as one that was not."""
        quiet, asked = make(), make()
        for event in views(120):
            quiet.observe(event)
            asked.recommend(event.user_id, event.event_time_ms, k=3)
            asked.score_items("stranger", ["i1", "never seen"], event.event_time_ms)
            asked.observe(event)
        for user_id in ("u0", "u3", "stranger"):
            expected = quiet.score_items(user_id, quiet.items.ids, 10**9)
            assert asked.score_items(user_id, quiet.items.ids, 10**9).tolist() == expected.tolist()

    def test_it_knows_nothing_at_first(self, make: Callable[[], Baseline]) -> None:
        """Before any event the list is empty, and any item has a finite score."""
        model = make()
        assert list(model.recommend("u1", 0, k=10)) == []
        assert np.isfinite(model.score_items("u1", ["a", "b"], 0)).all()

    def test_it_learns_from_positive_feedback_only(self, make: Callable[[], Baseline]) -> None:
        """A low rating and a list that was shown teach nothing."""
        model = make()
        model.observe(Event("1", "rate", 0, "u1", item_id="a", value=3.0))
        model.observe(Event("2", "view_item_list", 1, "u1", items=(EventItem("b"),)))
        assert not model.chosen
        known = model.items.ids
        assert known == (["b"] if isinstance(model, ClickRate) else [])  # it counts showings


def test_popularity_counts_choices() -> None:
    """Scores are numbers of choices, and equal ones are ordered by id."""
    model = trained(Popularity)
    counts = Counter(str(event.item_id) for event in views(120))
    expected = sorted(counts, key=lambda i: (-counts[i], i))
    assert list(model.recommend("nobody", 0, k=100)) == expected


def test_fading_popularity_halves() -> None:
    """After one half-life a choice counts half, however long the stream is."""
    model = Popularity(half_life=4)
    for n in range(8_000):  # far enough for the running unit to be rescaled
        model.observe(Event(str(n), "view_item", n, f"u{n}", item_id="b"))
    model.observe(Event("x", "view_item", 0, "u", item_id="a"))
    for n in range(4):
        model.observe(Event(str(n), "view_item", n, f"v{n}", item_id="c"))
    (score,) = model.score_items("nobody", ["a"], 0)
    newest = 2 ** (-1 / 4)  # the unit is the next choice
    assert score == pytest.approx(newest / 2)


def reference_item_knn(events: list[Event], user_id: str, history: int, decay: float) -> dict[str, float]:
    """The formula of `ItemKNN`, with dictionaries."""
    together: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    chosen: dict[str, list[str]] = {}
    for event in events:
        item, mine = str(event.item_id), chosen.setdefault(event.user_id, [])
        for n, other in enumerate(mine[::-1][:history]):
            if other != item:
                together[item, other] += decay**n
                together[other, item] += decay**n
        if item in mine:
            mine.remove(item)
        mine.append(item)
        counts[item] += 1
    latest = chosen[user_id][::-1][:history]
    return {
        i: sum(decay**n * together[j, i] for n, j in enumerate(latest)) / math.sqrt(1 + counts[i])
        for i in counts
    }


@pytest.mark.parametrize(("history", "decay"), [(50, 0.9), (3, 0.5), (1, 1.0)])
def test_item_knn_equals_its_formula(history: int, decay: float) -> None:
    """The compiled sparse graph gives the scores of the plain formula."""
    events = views(300, n_items=40)
    model = ItemKNN(history, decay)
    for event in events:
        model.observe(event)
    for user_id in ("u0", "u5"):
        expected = reference_item_knn(events, user_id, history, decay)
        scores = model.score_items(user_id, list(expected), 10**9)
        assert scores == pytest.approx(list(expected.values()))


def test_item_knn_falls_back_to_popularity() -> None:
    """A user without choices gets the most popular items."""
    assert trained(ItemKNN).recommend("nobody", 0, k=5) == trained(Popularity).recommend("nobody", 0, k=5)


def reference_session_knn(model: SessionKNN, events: list[Event], user_id: str) -> dict[str, float]:
    """The formula of `SessionKNN`, with dictionaries."""
    sessions: list[list[str]] = []
    current: dict[str, tuple[int, int]] = {}
    chosen: dict[str, list[str]] = {}
    for event in events:
        item, mine = str(event.item_id), chosen.setdefault(event.user_id, [])
        session, last_ms = current.get(event.user_id, (-1, 0))
        if session < 0 or event.event_time_ms - last_ms > model.gap_ms:
            session = len(sessions)
            sessions.append([])
        current[event.user_id] = session, event.event_time_ms
        if item not in sessions[session]:
            sessions[session].append(item)
        if item in mine:
            mine.remove(item)
        mine.append(item)
    weight = {item: 1 - n / model.history for n, item in enumerate(chosen[user_id][::-1][: model.history])}
    holders = {
        item: [s for s, held in enumerate(sessions) if item in held] for held in sessions for item in held
    }
    near: Counter[int] = Counter()
    for item, w in weight.items():
        for s in holders[item][-model.recent :]:
            near[s] += w  # type: ignore[assignment]
    best = sorted(near, key=lambda s: (-round(near[s], 9), -s))[: model.neighbours]
    votes: Counter[str] = Counter()
    for s in best:
        shared = max(w for item, w in weight.items() if s in holders[item][-model.recent :])
        for item in sessions[s]:
            votes[item] += near[s] * shared  # type: ignore[assignment]
    return {item: votes[item] * math.log(len(sessions) / len(held)) for item, held in holders.items()}


@pytest.mark.parametrize("settings", [{}, {"history": 4, "recent": 5, "neighbours": 3}])
def test_session_knn_equals_its_formula(settings: dict[str, int]) -> None:
    """The compiled votes are those of the plain formula, whatever is cut off."""
    model = SessionKNN(gap_ms=20_000, **settings)
    events = views(300, n_items=40)
    for event in events:
        model.observe(event)
    for user_id in ("u0", "u5"):
        expected = reference_session_knn(model, events, user_id)
        assert model.score_items(user_id, list(expected), 10**9) == pytest.approx(list(expected.values()))


def test_click_rates_are_smoothed_shares() -> None:
    """Three clicks on ten showings are (3 + m·r) / (10 + m); what nobody saw has the share of all."""
    model = ClickRate(prior_showings=4)
    for n in range(10):
        model.observe(Event(f"s{n}", "view_item_list", n, "u", items=(EventItem("a"), EventItem("b"))))
    for n in range(3):
        model.observe(Event(f"c{n}", "select_item", n, f"u{n}", item_id="a"))
    r = (3 + 1) / (20 + 2)
    expected = [(3 + 4 * r) / 14, (0 + 4 * r) / 14, r]
    assert model.score_items("u", ["a", "b", "new"], 0) == pytest.approx(expected)


def test_isgd_moves_towards_one() -> None:
    """Repeating a choice brings its score close to 1."""
    model = IncrementalMF(n_factors=8, learning_rate=0.2, l2=0.0)
    for n in range(200):
        model.observe(Event(str(n), "view_item", n, "u", item_id="a"))
    assert model.score_items("u", ["a"], 0) == pytest.approx([1.0], abs=0.01)


def test_river_scores_are_rivers() -> None:
    """Scores that are read from River's tables equal `predict_one`, to the last digits."""
    model = trained(RiverBiasedMF, n=200)
    assert isinstance(model, RiverBiasedMF)
    assert isinstance(model, ProbabilityModel)
    item_ids = [i for i in model.items.ids if i in model.model.i_latents]
    n_latents = len(model.model.i_latents), len(model.model.u_latents)
    for user_id in ("u0", "u4"):
        expected = [model.model.predict_one(user_id, item_id) for item_id in item_ids]
        assert model.score_items(user_id, item_ids, 10**9) == pytest.approx(expected, rel=1e-12)
    model.recommend("nobody", 0, k=3)
    assert (len(model.model.i_latents), len(model.model.u_latents)) == n_latents


def test_river_probabilities_are_those_of_a_fair_coin() -> None:
    """With r drawn items per choice the odds are r times those of the regression."""
    model = trained(lambda: RiverBiasedMF(negatives=3), n=200)
    assert isinstance(model, RiverBiasedMF)
    item_ids = model.items.ids[:5]
    raw = np.clip(model.score_items("u1", item_ids, 0), 0.01, 0.99)
    p = model.predict_proba("u1", item_ids, 0)
    assert p / (1 - p) == pytest.approx(3 * raw / (1 - raw))
