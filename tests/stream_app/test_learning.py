"""The learner: each example once, the same however it came, saved and restored without a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, optim

from stream_app.errors import CheckpointError
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import UNKNOWN
from stream_app.model.learning import (
    FEW,
    POOL_NEW,
    POOL_TRENDING,
    Learner,
    best_of,
    learn_pairs,
    ranker_step,
    touched_since,
)
from stream_app.model.ranker import FTRLClassifier
from tests.stream_app.worlds import Pair, feed, random_events, view_event


@pytest.fixture(scope="module")
def batches() -> list[ExampleBatch]:
    """Examples of 600 events in a dozen batches."""
    return Pair().run(random_events(600)).batches


def taught(batches: list[ExampleBatch], learner: Learner | None = None) -> Learner:
    """A learner that was given batches."""
    learner = Learner() if learner is None else learner
    for batch in batches:
        learner.learn(batch)
    return learner


def cut(batches: list[ExampleBatch], most: int) -> list[ExampleBatch]:
    """The same examples in messages of another size."""
    return [ExampleBatch.from_bytes(part.to_bytes()) for batch in batches for part in batch.parts(most)]


def test_a_batch_given_twice_is_learned_once(batches: list[ExampleBatch]) -> None:
    """Partition and offset decide: repeats, alone or among new examples, change nothing."""
    once, twice = taught(batches), Learner()
    for k, batch in enumerate(batches):
        assert twice.learn(batch) == len(batch)
        assert twice.learn(batch) == 0 == twice.learn(batches[k // 2])
    assert once.to_bytes() == twice.to_bytes()


def test_a_repeat_may_overlap_with_what_is_new(batches: list[ExampleBatch]) -> None:
    """Of a message that begins with examples learned before, the rest is learned."""
    batch = batches[3]
    half = batch.rows(np.arange(len(batch)) < len(batch) // 2)
    while half.offsets[-1] == batch.offsets[len(half)]:
        half = half.rows(np.arange(len(half)) < len(half) - 1)
    learner = Learner()
    assert learner.learn(half) + learner.learn(batch) == len(batch)
    assert learner.to_bytes() == taught([batch]).to_bytes()


@pytest.mark.parametrize("most", [1, 7, 300])
def test_how_examples_are_cut_into_messages_makes_no_difference(
    batches: list[ExampleBatch], most: int
) -> None:
    """Weights, graph, counters, moments and the numbers of items are bit-equal."""
    assert taught(cut(batches, most)).to_bytes() == taught(batches).to_bytes()


def test_partitions_have_high_waters_of_their_own(batches: list[ExampleBatch]) -> None:
    """An offset learned from one partition is new in another."""
    learner = taught(batches[:1])
    other = ExampleBatch(**{**vars(batches[0]), "partition": 5})
    assert learner.learn(other) == len(other) and learner.learn(other) == 0
    assert learner.high_water == {0: batches[0].offsets[-1], 5: batches[0].offsets[-1]}


@pytest.mark.parametrize("after", [0, 1, 6])
def test_a_restored_learner_continues_bit_for_bit(batches: list[ExampleBatch], after: int) -> None:
    """Saved after any batch, even before the first, it ends where one that ran through ends."""
    before = taught(batches[:after])
    data = before.to_bytes({"places": [[0, 7]]})
    restored, extra = Learner.from_bytes(data)
    assert extra == {"places": [[0, 7]]} and restored.to_bytes(extra) == data
    assert taught(batches, restored).to_bytes() == taught(batches[after:], before).to_bytes()
    tables, again = (x.tables(x.all_rows(), 20) for x in (before, restored))
    assert tables.ids == again.ids and (tables.neighbours == again.neighbours).all()
    assert (tables.scores == again.scores).all() and (tables.pool == again.pool).all()


def test_what_the_shop_said_about_items_is_saved(batches: list[ExampleBatch]) -> None:
    """Tokens and what may be shown survive, so pairs are encoded the same after a restart."""
    learner = taught(batches[:2])
    for k in range(0, 25, 2):
        learner.items.describe(
            f"i{k}", price=9.0, categories=(f"c{k % 3}",), attributes={"a": "b"}, servable=k % 4 == 0
        )
    restored, _ = Learner.from_bytes(learner.to_bytes())
    assert taught(batches, restored).to_bytes() == taught(batches, learner).to_bytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_damaged_checkpoint_is_refused(place: int, flip: int) -> None:
    """Whichever byte changes, the checkpoint is not loaded."""
    data = bytearray(Learner().to_bytes())
    data[place % len(data)] ^= flip
    with pytest.raises(CheckpointError, match="the checkpoint cannot be read"):
        Learner.from_bytes(bytes(data))


def test_pairs_are_learned_as_preferences(batches: list[ExampleBatch]) -> None:
    """Each example with m other candidates makes m pairs, and both labels occur."""
    learner = taught(batches)
    pairs = sum(int((b.count - 1).sum()) for b in batches)
    assert pairs > 500 and ranker_step(learner.ranker) == pairs
    assert learner.step == sum(map(len, batches)) and learner.moments.n[0] == pairs + sum(
        int((b.count > 1).sum()) for b in batches
    )


def test_moments_are_those_of_the_numbers_learned(batches: list[ExampleBatch]) -> None:
    """Running mean and deviation equal those of all rows at once, and are trusted after `FEW` rows."""
    learner = taught(batches)
    rows = np.concatenate(
        [b.numbers[e, : b.count[e]] for b in batches for e in range(len(b)) if b.count[e] > 1]
    )
    mean, inv_std = learner.moments.scaling()
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=float), atol=1e-4)
    np.testing.assert_allclose(inv_std, 1 / (rows.std(axis=0, dtype=float) + 1e-3), rtol=1e-3)
    few = replace(learner.moments, n=np.array([FEW - 1.0]))
    assert not few.scaling()[0].any() and (few.scaling()[1] == 1).all()


def test_the_pool_is_trending_and_new() -> None:
    """Everyone is offered the items with the highest trends and the latest ones, if they may be shown."""
    pair = Pair().run([view_event(t, f"u{t}", f"i{min(t % 97, t % 89)}") for t in range(300)])
    learner = pair.learner
    n = len(learner.items)
    learner.items.servable[5] = 0
    pool = learner.pool().tolist()
    assert len(pool) == len(set(pool)) <= 2 * POOL_TRENDING + POOL_NEW and 5 not in pool
    newest = sorted(range(n), key=lambda i: (-learner.stats.first[i], i))
    assert set([i for i in newest if i != 5][:POOL_NEW]) <= set(pool)
    trends = learner.trends(np.arange(n, dtype=np.int32))
    for trend in trends.T:
        best = sorted((i for i in range(n) if i != 5), key=lambda i: (-trend[i], i))[:POOL_TRENDING]
        assert set(best) <= set(pool)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5]), max_size=30), st.integers(1, 12))
def test_the_best_are_those_of_sorting(values: list[float], most: int) -> None:
    """Best first, ties by number."""
    numbers = np.arange(len(values), dtype=np.int32)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:most]
    assert best_of(numbers, np.array(values), most).tolist() == expected


def test_items_that_may_not_be_shown_travel_without_their_ids(batches: list[ExampleBatch]) -> None:
    """A reader who missed the deletion cannot show the item, but knows it by its key."""
    learner = taught(batches)
    number = learner.items.find("i7")
    assert number is not None
    learner.items.servable[number] = 0
    tables = learner.tables(learner.all_rows(), 20)
    at = tables.keys.tolist().index(int(learner.items.keys[number]))
    assert tables.ids[at] == UNKNOWN and tables.ids.count(UNKNOWN) == 1
    assert at not in tables.pool and at in tables.neighbours


def test_an_overlay_holds_what_changed_since(batches: list[ExampleBatch]) -> None:
    """Rows of touched items and weights of touched tokens, and nothing that is older."""
    learner = taught(batches[:-1])
    step, pairs = learner.step, ranker_step(learner.ranker)
    everything = learner.overlay(0, 0, 10)
    assert len(everything.weights) == len(learner.ranker) and len(everything.tables.rows) == len(
        learner.all_rows()
    )
    nothing = learner.overlay(step, pairs, 10)
    assert len(nothing.weights) == 0 == len(nothing.tables.rows) and nothing.tables.step == step
    learner.learn(batches[-1])
    change = learner.overlay(step, pairs, 10)
    touched = {int(k) for k in change.tables.keys[change.tables.rows]}
    mentioned = batches[-1].keys[batches[-1].item[:, 0]]
    assert {int(k) for k in mentioned} <= touched and 0 < len(change.weights) < len(learner.ranker)
    few = learner.overlay(0, 0, 10, learner.all_rows()[:3])
    assert few.tables.count.tolist() == learner.stats.count[learner.all_rows()[:3]].tolist()


def test_tables_of_nothing_are_empty() -> None:
    """A learner without examples exports and saves."""
    learner = Learner()
    tables = learner.tables(learner.all_rows(), 10)
    assert len(tables.rows) == len(tables.keys) == len(tables.pool) == 0 and tables.neighbours.shape == (
        0,
        10,
    )
    assert Learner.from_bytes(learner.to_bytes())[0].step == 0


def test_a_stock_river_ranker_learns_the_same_pairs(batches: list[ExampleBatch]) -> None:
    """One by one with their weights: River's FTRL ends with the weights of the compiled one."""
    from pruning import FTRLProximal, snapshot  # noqa: PLC0415

    river = linear_model.LogisticRegression(FTRLProximal(0.05, 1.0, 0.0, 1.0), intercept_lr=0)

    class OneByOne(FTRLClassifier):  # River learns pairs, not whole choices
        def learn_many_encoded(self, *pairs: Any, lists: Any = None) -> Any:
            return super().learn_many_encoded(*pairs[:5])

    compiled = OneByOne(alpha=0.05, l2=1.0)
    one, other = taught(batches, Learner(river)), taught(batches, Learner(compiled))
    a, b = snapshot(one.ranker), snapshot(other.ranker)
    assert a.keys.tolist() == b.keys.tolist() and len(a) > 60
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-9)
    assert (one.graph.length == other.graph.length).all()
    with pytest.raises(CheckpointError, match="LogisticRegression cannot be saved"):
        one.to_bytes()


def test_pair_weights_go_where_a_classifier_takes_them() -> None:
    """A classifier whose `learn_one` has no `w` gets the pairs without."""

    class Plain:
        seen: list[Any]

        def __init__(self) -> None:
            self.seen = []

        def learn_one(self, x: dict[int, float], y: bool) -> None:
            self.seen.append((x, y))

    class Weighted(Plain):
        def learn_one(self, x: dict[int, float], y: bool, w: float = 1.0) -> None:
            self.seen.append((x, y, w))

    keys, values = np.array([5, 6, 7], np.uint64), np.array([1, 2, -1], np.float32)
    arguments = (
        keys,
        values,
        np.array([0, 2, 3]),
        np.array([1, 0], np.float32),
        np.array([0.5, 2], np.float32),
    )
    plain, weighted = Plain(), Weighted()
    learn_pairs(plain, *arguments)
    learn_pairs(weighted, *arguments)
    assert plain.seen == [({5: 1.0, 6: 2.0}, True), ({7: -1.0}, False)]
    assert weighted.seen == [({5: 1.0, 6: 2.0}, True, 0.5), ({7: -1.0}, False, 2.0)]


def test_a_ranker_that_learned_nothing_has_no_fresh_weights() -> None:
    """Compiled or stock, an overlay before the first pair brings none."""
    for ranker in (FTRLClassifier(), linear_model.LogisticRegression(optim.SGD(0.1))):
        keys, weights = touched_since(ranker, 0)
        assert len(keys) == len(weights) == 0


def test_an_example_without_others_is_counted_all_the_same() -> None:
    """Before anything can be offered, events teach the graph and the counters."""
    pair = Pair()
    outcome = feed(pair.recommender, [view_event(t, "u1", f"i{t}") for t in range(3)])
    assert outcome.examples is not None and outcome.examples.count.tolist() == [1, 1, 1]
    assert pair.learner.learn(outcome.examples) == 3 and len(pair.learner.ranker) == 0
    assert pair.learner.graph.length[:3].tolist() == [2, 2, 2] and pair.learner.stats.count[0] == 1
