"""The release cycle: good candidates are promoted, broken ones are not, and a bad one is rolled back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pruning import Guard, Int8, Ledger, PruningAgent, PruningError, Snapshot
from pruning.quantization import Quantized
from stream_app.model.candidates import new_scratch
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import USER_TOKENS
from stream_app.model.learning import Learner
from stream_app.model.release import Release, version_of
from stream_app.model.releasing import LISTED_EVERY, SLICES, ReleaseCycle, _overlap
from stream_app.model.scoring import Users, View, refresh
from stream_app.model.served_model import ServedModel
from stream_app.online import DenseModel
from stream_app.simulator import Shop
from tests.stream_app.worlds import Pair


class KeepAnything:
    """A pruner that keeps a tenth of the weights, whichever."""

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays."""
        mask: NDArray[np.bool_] = np.random.default_rng(0).random(len(snapshot)) < 0.1
        return mask


class FlipSigns(Int8):
    """A quantizer with the commonest of bugs."""

    def quantize(self, weights: NDArray[np.float64], field: NDArray[np.uint16]) -> Quantized:
        """Codes of the wrong sign."""
        return super().quantize(-weights, field)


@pytest.fixture(scope="module")
def batches() -> list[ExampleBatch]:
    """Examples of a simulated shop, about 40 a batch."""
    shop = Shop(seed=2, n_items=80, n_users=60, n_categories=6)
    pair = Pair()
    for item in shop.items():
        pair.recommender.observe_item(item)
        pair.learner.items.describe(
            item.item_id,
            price=item.price,
            categories=item.categories,
            attributes=item.attributes,
            servable=True,
        )
    return pair.run(list(shop.events(3_500)), every=100).batches


def cycle_of(learner: Learner | None = None, **agent: Any) -> ReleaseCycle:
    """A cycle that proposes after 300 examples and decides on 150."""
    guard = agent.pop("guard", Guard(tolerance=0.02, min_samples=150, min_overlap=0.5))
    made = PruningAgent(None, agent.pop("quantizer", Int8()), guard, Ledger())
    learner = Learner() if learner is None else learner
    return ReleaseCycle(learner, made, amount=0.4, interval=100_000, first=300, **agent)


def drive(cycle: ReleaseCycle, batches: list[ExampleBatch]) -> list[str]:
    """Learn batches, let the cycle see them, and collect the verdicts."""
    verdicts = []
    for k, batch in enumerate(batches):
        cycle.learner.learn(batch)
        decision = cycle.observe(batch, time=f"t{k}")
        if decision is not None:
            verdicts.append(decision.verdict)
    return verdicts


def test_a_good_candidate_is_promoted(batches: list[ExampleBatch]) -> None:
    """It becomes what is served, under its own name, with three fifths of the weights and its ledger line."""
    cycle = cycle_of()
    empty = cycle.active
    assert empty.step == 0 and len(empty.release.ranker) == 0
    assert drive(cycle, batches) == ["promote"]
    active = cycle.active
    assert cycle.previous is empty and cycle.agent.active is active.release.ranker
    assert active.version == version_of(active.data) and 200 <= active.step < cycle.learner.step
    assert active.ranker_step > 0 and active.links == (active.release.tables.neighbours >= 0).sum()
    (line,) = cycle.agent.ledger.read()
    assert (line.verdict, line.version, line.time is not None) == ("promote", active.version, True)
    assert 0 < line.weights_after <= 0.61 * line.weights_before
    assert line.evidence["events"] >= 150 and line.evidence["overlap@10"] > 0.5
    assert line.evidence["confidence"] == 0.975  # the first look of several
    assert set(line.evidence["slices"]) <= set(SLICES) and {"head", "tail"} <= set(line.evidence["slices"])
    again = Release.from_bytes(active.data)
    assert again.ranker.version == active.release.ranker.version


@pytest.mark.parametrize("broken", [{"pruner": lambda _: KeepAnything()}, {"quantizer": FlipSigns()}])
def test_a_broken_candidate_is_rejected(batches: list[ExampleBatch], broken: dict[str, Any]) -> None:
    """Random pruning and flipped signs never reach a user, and the ledger says why."""
    cycle = cycle_of(**broken, guard=Guard(tolerance=0.002, min_samples=150, min_overlap=0.9))
    empty = cycle.active
    assert drive(cycle, batches) == ["reject"]
    assert cycle.active is empty and cycle.previous is None
    (line,) = cycle.agent.ledger.read()
    assert line.verdict == "reject" and ("loss rises" in line.reason or "lists agree" in line.reason)
    assert line.version != empty.version


def test_an_undecided_trial_waits_for_twice_as_many(batches: list[ExampleBatch]) -> None:
    """Asked to be all but certain, the guard cannot tell: the trial goes on, and is given up in the end."""
    cycle = cycle_of(
        max_samples=300,
        guard=Guard(tolerance=1e-3, confidence=1 - 1e-15, min_samples=100, min_overlap=0),
    )  # fmt: skip
    empty = cycle.active
    assert drive(cycle, batches) == ["undecided"] * 2
    events = [line.evidence["events"] for line in cycle.agent.ledger.read()]
    assert events[0] >= 100 and events[1] >= 2 * events[0]
    assert cycle.active is empty and cycle._trial is None


def test_a_promoted_release_that_turns_bad_is_rolled_back(batches: list[ExampleBatch]) -> None:
    """The watch replays later events; when the loss rises for good, the previous release is served again."""
    cycle, verdicts = cycle_of(), []
    empty = cycle.active
    for batch in batches:
        cycle.learner.learn(batch)
        decision = cycle.observe(batch)
        if decision is None:
            continue
        verdicts.append(decision.verdict)
        if decision.promoted:
            trial = cycle._trial
            assert trial is not None and trial.promoted
            numbers = -5 * trial.pruned.weights.numbers
            trial.pruned = trial.pruned._replace(weights=trial.pruned.weights._replace(numbers=numbers))
    assert verdicts == ["promote", "reject"]
    assert cycle.active is empty and cycle.previous is None and cycle._trial is None
    lines = cycle.agent.ledger.read()
    assert [line.verdict for line in lines] == ["promote", "rollback"] and "risen for good" in lines[1].reason


def test_a_promoted_release_that_stays_good_is_kept(batches: list[ExampleBatch]) -> None:
    """The watch ends without a word, and the next proposal may come."""
    cycle = cycle_of()
    cycle.interval = 300
    verdicts = drive(cycle, batches)
    assert verdicts[0] == "promote" and "rollback" not in [d.verdict for d in cycle.agent.ledger.read()]
    assert cycle.active.step >= 200 + 300 or cycle._trial is not None


def test_a_rollback_needs_a_previous_release(batches: list[ExampleBatch]) -> None:
    """Without one it is refused; with one it is served, once."""
    cycle = cycle_of()
    with pytest.raises(PruningError, match="no previous artefact"):
        cycle.rollback("asked for")
    empty = cycle.active
    drive(cycle, batches)
    assert cycle.rollback("asked for", "now") is empty is cycle.active
    assert cycle.agent.ledger.read()[-1].reason == "asked for"
    with pytest.raises(PruningError, match="no previous artefact"):
        cycle.rollback("asked for again")


def test_releases_of_an_earlier_process_are_taken_over(batches: list[ExampleBatch]) -> None:
    """After a restart the same release is active, the same one stands behind it, and a rollback works."""
    first = cycle_of()
    drive(first, batches)
    assert first.previous is not None
    second = cycle_of(first.learner)
    second.restore(*((p.data, Release.from_bytes(p.data)) for p in (first.active, first.previous)))
    assert second.active.version == first.active.version and second.previous is not None
    assert (second.active.step, second.active.ranker_step) == (first.active.step, first.active.ranker_step)
    assert second.rollback("asked for").version == first.previous.version


def test_nothing_is_proposed_before_there_is_something_to_prune() -> None:
    """A learner without weights has no candidate, and asking again later is fine."""
    cycle = cycle_of()
    assert cycle.propose() is None and cycle._trial is None


def top(view: View, users: Users, capacity: int, tokens: int) -> tuple[list[list[int]], list[list[float]]]:
    """The lists that a view makes for users."""
    m = len(users.length)
    items, scores, counts = (
        np.full((m, 10), -1, np.int32),
        np.zeros((m, 10), np.float32),
        np.zeros(m, np.int32),
    )
    rows, gaps = np.arange(m, dtype=np.int32), np.ones(m, np.uint8)
    refresh(view, users, rows, gaps, True, new_scratch(capacity, tokens), items, scores, counts)
    return items.tolist(), scores.tolist()


def some_users(n_items: int) -> Users:
    """Twenty users with random histories."""
    rng = np.random.default_rng(1)
    users = Users(
        items=np.zeros((20, 30), np.int32), best=np.zeros((20, 30), np.uint8), length=np.zeros(20, np.int32),
        last_ms=np.zeros(20, np.int64), tokens=np.zeros((20, USER_TOKENS), np.uint64),
        offered=np.zeros((20, 1), np.int32), taken=np.zeros((20, 1), np.uint8), offers=np.zeros(20, np.int32),
        request=np.zeros(20, np.uint64), listed=np.zeros(20, np.int32),
        listed_gap=np.zeros(20, np.uint8),
    )  # fmt: skip
    for u in range(20):
        users.items[u, :u] = rng.choice(n_items, u, replace=False)
        users.length[u] = u
    return users


def test_the_dense_side_of_a_trial_is_the_learner_at_that_moment(batches: list[ExampleBatch]) -> None:
    """Its lists and scores are the learner's own, and stay so whatever is learned or described later."""
    cycle = cycle_of()
    learner = cycle.learner
    for batch in batches[:20]:
        learner.learn(batch)
    cycle.propose()
    trial = cycle._trial
    assert trial is not None
    users, items = some_users(40), learner.items
    sizes = (items.capacity, len(items.vocabulary))
    exact, exact_scores = top(DenseModel(learner, 100).view, users, *sizes)
    frozen, scores = top(trial.dense, users, *sizes)
    assert frozen == exact
    np.testing.assert_allclose(scores, exact_scores, atol=1e-4)
    pruned = top(trial.pruned, users, *sizes)

    for batch in batches[20:]:
        learner.learn(batch)
    for k in range(3_000):  # more tokens than the trial's vocabulary has
        items.describe(
            f"sku-{k % 80:05d}", price=None, categories=(f"new-{k}",), attributes={"a": f"{k}"}, servable=True
        )
    sizes = (items.capacity, len(items.vocabulary))
    assert sizes[1] > len(trial.dense.vocabulary) > trial.dense.item_tokens.max()
    assert top(trial.dense, users, *sizes) == (frozen, scores)
    assert top(trial.pruned, users, *sizes) == pruned


def test_examples_of_items_newer_than_the_trial_are_left_out(batches: list[ExampleBatch]) -> None:
    """An item beyond the frozen tables is no reason to read past their end."""
    cycle = cycle_of()
    for batch in batches[:20]:
        cycle.learner.learn(batch)
    cycle.propose()
    trial = cycle._trial
    assert trial is not None
    for k in range(2_000):
        cycle.learner.items.number(f"later-{k}")
    batch = batches[21]
    newest = cycle.learner.items.keys[len(cycle.learner.items) - 1]
    keys = batch.keys.copy()
    chosen = batch.item[np.flatnonzero(batch.count > 1)[0], 0]
    keys[chosen] = newest
    replayed = cycle._replay(trial, replace(batch, keys=keys))
    several = int((batch.count > 1).sum())
    assert 0 < len(replayed.losses) == len(replayed.slices) < several
    assert len(replayed.overlap) == -(-len(replayed.losses) // LISTED_EVERY)
    assert np.isfinite(replayed.losses).all()


def test_a_batch_without_others_tells_a_trial_nothing(batches: list[ExampleBatch]) -> None:
    """Examples that were compared with nothing are no samples, on trial and on watch."""
    cycle = cycle_of()
    alone = [replace(b, count=np.minimum(b.count, 1)) for b in batches]
    for batch in batches[:20]:
        cycle.learner.learn(batch)
    cycle.propose()
    trial = cycle._trial
    assert trial is not None
    for promoted in (False, True):
        trial.promoted = promoted
        assert cycle.observe(alone[25]) is None and trial.samples == 0


def test_overlap_is_the_share_of_common_items() -> None:
    """Order does not matter, −1 is no item, and two empty lists agree."""
    a = np.array([[1, 2, 3], [1, -1, -1], [-1, -1, -1], [4, 5, -1]], np.int32)
    b = np.array([[3, 2, 9], [2, -1, -1], [-1, -1, -1], [5, -1, -1]], np.int32)
    assert _overlap(a, b).tolist() == pytest.approx([2 / 3, 0, 1, 1 / 2])


def test_the_pruned_side_is_what_workers_load(batches: list[ExampleBatch]) -> None:
    """A model that loads the published bytes makes the lists that were on trial."""
    cycle = cycle_of()
    for batch in batches[:20]:
        cycle.learner.learn(batch)
    published, trial = cycle.propose(), cycle._trial
    assert published is not None and trial is not None
    model = ServedModel(cycle.learner.items)
    model.load(Release.from_bytes(published.data), published.version)
    sizes, users = (model.items.capacity, len(model.items.vocabulary)), some_users(40)
    assert top(model.view, users, *sizes) == top(trial.pruned, users, *sizes)
