"""The whole recommender in one object: it learns, it is as good compressed, and it repeats itself exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from river import linear_model, optim

from pruning import Guard, Int8, PruningAgent, SaliencyPruner
from stream_app.evaluation.protocols import Recommender, Scorer
from stream_app.events import feedback
from stream_app.events.records import Item
from stream_app.model.features import NUMBER_TOKENS, NUMBERS
from stream_app.model.learning import EncodedClassifier
from stream_app.online import OnlineRecommender, default_agent
from stream_app.simulator import Shop
from tests.stream_app.worlds import random_events, view_event


@dataclass
class Run:
    """What a recommender did on a stream."""

    model: OnlineRecommender
    lists: list[list[str]] = field(default_factory=list)
    ndcg: list[float] = field(default_factory=list)


class Unteachable(linear_model.LogisticRegression):  # type: ignore[misc]
    """A ranker that knows one thing: what goes together with the history is good."""

    def learn_many_encoded(self, *_: object) -> None:
        """Learn nothing."""


def run(model: OnlineRecommender, n: int, every: int, *, start: int, seed: int = 3) -> Run:
    """Test, then learn: every `every`-th click on an item new to its user is predicted first."""
    shop = Shop(seed=seed, n_items=200, n_users=150, n_categories=8)
    out, seen, k = Run(model), dict[str, set[str]](), 0
    for item in shop.items():
        model.observe_item(item)
    for user in shop.users():
        model.observe_user(user)
    for record in shop.records(n):
        if isinstance(record, Item):
            model.observe_item(record)
            continue
        k += 1
        known = seen.setdefault(record.user_id, set())
        if (
            k > start
            and record.event_type == "select_item"
            and record.item_id not in known
            and k % every == 0
        ):
            top = model.recommend(record.user_id, record.event_time_ms, 10)
            assert not known & set(top)
            out.lists.append(top)
            hit = record.item_id in top
            out.ndcg.append(1 / np.log2(2 + top.index(str(record.item_id))) if hit else 0.0)
        model.observe(record)
        known.update(item_id for item_id, _ in feedback(record))
    return out


def compressed() -> OnlineRecommender:
    """With releases every 1,000 examples."""
    return OnlineRecommender(compress=True, interval=1_000, first=500)


@pytest.fixture(scope="module")
def both() -> tuple[Run, Run]:
    """Compressed and not, on the same 8,000 events."""
    dense = OnlineRecommender(compress=False)
    return run(compressed(), 8_000, 2, start=2_000), run(dense, 8_000, 2, start=2_000)


def test_compression_costs_no_quality(both: tuple[Run, Run]) -> None:
    """What is served pruned and in 8 bits finds as much as the learner's own tables, within .005 ndcg@10."""
    small, dense = both
    assert len(small.ndcg) == len(dense.ndcg) > 300
    assert np.mean(dense.ndcg) > 0.15
    assert np.mean(small.ndcg) >= np.mean(dense.ndcg) - 0.005
    assert small.model.cycle is not None and dense.model.cycle is None
    promoted = [line for line in small.model.cycle.agent.ledger.read() if line.verdict == "promote"]
    assert promoted and promoted[0].weights_after < 0.25 * promoted[0].weights_before
    assert small.model.recommender.model.version == small.model.cycle.active.version


def test_the_ranker_earns_its_place() -> None:
    """Over two shops, a learned ranker finds more than candidates in the order of `together` alone."""
    learned, alone = [], []
    for seed in (3, 4):
        plain = OnlineRecommender(compress=False, ranker=Unteachable())
        assert isinstance(plain.learner.ranker, EncodedClassifier)
        plain.learner.ranker._weights[int(NUMBER_TOKENS[NUMBERS.index("together"), 0])] = 1.0
        alone += run(plain, 8_000, 1, start=2_000, seed=seed).ndcg
        learned += run(OnlineRecommender(compress=False), 8_000, 1, start=2_000, seed=seed).ndcg
    assert len(alone) == len(learned) > 2_000
    assert np.mean(learned) > np.mean(alone) + 0.01


def test_the_same_stream_gives_the_same_lists() -> None:
    """Two runs are equal in every list and end in bit-equal learners."""
    a, b = (run(compressed(), 2_000, 5, start=300) for _ in range(2))
    assert a.lists == b.lists and a.ndcg == b.ndcg and len(a.lists) > 20
    assert a.model.learner.to_bytes() == b.model.learner.to_bytes()


def test_asking_changes_nothing() -> None:
    """A run with many questions ends in the state of one with few."""
    few, many = (run(OnlineRecommender(compress=False), 1_200, every, start=100) for every in (50, 1))
    assert few.model.learner.to_bytes() == many.model.learner.to_bytes()


@pytest.mark.parametrize("compress", [True, False])
def test_a_stock_river_ranker_takes_the_same_path(compress: bool) -> None:
    """River's logistic regression learns, is pruned, judged, promoted and served."""
    agent = PruningAgent(SaliencyPruner(0.5), Int8(), Guard(tolerance=0.05, min_samples=100, min_overlap=0.3))
    ranker = linear_model.LogisticRegression(optim.AdaGrad(0.05), intercept_lr=0)
    model = OnlineRecommender(compress=compress, ranker=ranker, agent=agent, interval=200, first=100)
    result = run(model, 800, 2, start=300)
    assert len(ranker.weights) > 300 and np.mean(result.ndcg) > 0.05
    assert all(len(top) == 10 for top in result.lists[-10:])
    if compress:
        assert [line.verdict for line in agent.ledger.read()][:1] == ["promote"]
        assert model.recommender.model.version == model.cycle.active.version != "none"  # type: ignore[union-attr]


@pytest.mark.parametrize("compress", [True, False])
def test_it_is_what_evaluation_asks_for(compress: bool) -> None:
    """It offers the protocols' methods; scores agree with the list, and unknown items have one too."""
    model = OnlineRecommender(compress=compress)
    assert isinstance(model, Recommender) and isinstance(model, Scorer)
    for event in random_events(200):
        model.observe(event)
    at = 1_767_600_300_000
    top = model.recommend("u1", at, 8)
    scores = model.score_items("u1", top, at)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True) and len(top) == len(set(top)) == 8
    assert model.score_items("u1", top, at, positions=list(range(8))).tolist() == scores.tolist()
    reverse = model.score_items("u1", top[::-1], at)
    np.testing.assert_allclose(reverse[::-1], scores, atol=1e-5)
    assert np.isfinite(model.score_items("stranger", ["i1", "never-seen"], at)).all()
    assert model.recommend("stranger", at, 3) and model.recommend("stranger", at, 100)


def test_seen_items_come_back_when_asked_for() -> None:
    """`exclude_seen=False` ranks everything."""
    model = OnlineRecommender(compress=False)
    for t in range(60):
        model.observe(view_event(t, f"u{t % 3}", f"i{t % 6}"))
    unseen, everything = (model.recommend("u0", 10**12, 10, exclude_seen=x) for x in (True, False))
    assert (len(unseen), len(everything)) == (4, 6)


def test_the_defaults_are_named_in_one_place() -> None:
    """The agent prunes four fifths by saliency, in 8 bits, within a tolerance of 0.005."""
    agent = default_agent()
    assert repr(agent.pruner) == "SaliencyPruner(remove=0.8)" and isinstance(agent.quantizer, Int8)
    assert agent.guard.tolerance == 5e-3
