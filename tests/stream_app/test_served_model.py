"""A release under its overlays, in the numbers of another process."""

from __future__ import annotations

import numpy as np
import pytest

from pruning import Artefact, Float32, Int8, snapshot
from stream_app.errors import ReleaseError
from stream_app.model.item_index import ItemIndex, item_key
from stream_app.model.learning import Learner, ranker_step
from stream_app.model.release import Overlay, Release
from stream_app.model.served_model import FreshWeights, ServedModel, empty_artefact
from stream_app.online import DenseModel
from stream_app.recommender import Recommender
from tests.stream_app.worlds import Pair, feed, random_events, view_event

USERS = [f"u{u}" for u in range(12)]
EVENTS = random_events(700)


def release_of(learner: Learner, *, exact: bool = False) -> Release:
    """An unpruned release of a learner as it is now."""
    ranker = Artefact.build(snapshot(learner.ranker), None, Float32() if exact else Int8())
    return Release(ranker, ranker_step(learner.ranker), learner.tables(learner.all_rows(), 100))


def worker(pair: Pair, *, shuffled: bool = False, index: ItemIndex | None = None) -> Recommender:
    """A new worker with the users of `pair`."""
    new = Recommender(k=10, items=index)
    if shuffled:
        for i in np.random.default_rng(5).permutation(25):
            new.items.number(f"i{i}")
            new.items.number(f"unrelated-{i}")
    for user_id in USERS:
        new.users.load(user_id, pair.recommender.users.pack(user_id))
    return new


def lists(recommender: Recommender) -> dict[str, dict[str, float]]:
    """Every user's list."""
    return {offered.user_id: dict(offered.items) for offered in recommender.lists(USERS)}


def overlap(a: dict[str, dict[str, float]], b: dict[str, dict[str, float]]) -> float:
    """Mean share of common items."""
    return float(np.mean([len(a[u].keys() & b[u].keys()) / max(len(a[u]), len(b[u]), 1) for u in a]))


def distance(a: dict[str, dict[str, float]], b: dict[str, dict[str, float]]) -> float:
    """Mean distance between the scores of common items."""
    return float(np.mean([abs(a[u][i] - b[u][i]) for u in a for i in a[u].keys() & b[u].keys()]))


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A learner of all events, and a worker who followed it by overlays alone."""
    return Pair().run(EVENTS)


def test_item_numbers_make_no_difference(pair: Pair) -> None:
    """A process that numbers items in its own way serves what one with the learner's numbers serves."""
    data = release_of(pair.learner).to_bytes()
    own, other = worker(pair, index=pair.learner.items), worker(pair, shuffled=True)
    for recommender in (own, other):
        recommender.model.load(Release.from_bytes(data), "v1")
    assert other.items.ids[:5] != own.items.ids[:5]
    mine, theirs = lists(own), lists(other)
    for user_id in USERS:
        assert sorted(mine[user_id].values()) == pytest.approx(sorted(theirs[user_id].values()), abs=1e-4)
    assert overlap(mine, theirs) > 0.99


def test_an_exact_release_serves_what_the_learner_would(pair: Pair) -> None:
    """With single-precision weights and rows in 8 bits, scores are those of the learner's own tables."""
    exact, dense = worker(pair), worker(pair, index=pair.learner.items)
    exact.model.load(Release.from_bytes(release_of(pair.learner, exact=True).to_bytes()), "v1")
    dense.model = DenseModel(pair.learner, 100)
    mine, theirs = lists(exact), lists(dense)
    assert overlap(mine, theirs) > 0.95
    for user_id in USERS:
        for item_id in mine[user_id].keys() & theirs[user_id].keys():
            assert mine[user_id][item_id] == pytest.approx(theirs[user_id][item_id], abs=0.05)


def test_overlays_bring_an_old_release_up_to_date(pair: Pair) -> None:
    """A release at an early step under its overlays serves what a release of now serves."""
    learner, known = Learner(), (0, 0)
    old = worker(pair)
    for k, batch in enumerate(pair.batches):
        learner.learn(batch)
        if k == len(pair.batches) // 2:
            old.model.load(Release.from_bytes(release_of(learner).to_bytes()), "old")
            known = (learner.step, ranker_step(learner.ranker))
            stale = lists(old)
        elif known != (0, 0):
            old.model.apply(Overlay.from_bytes(learner.overlay(*known, 100).to_bytes()))
            known = (learner.step, ranker_step(learner.ranker))
    now = worker(pair)
    now.model.load(Release.from_bytes(release_of(learner).to_bytes()), "now")
    fresh = lists(now)
    assert overlap(lists(old), fresh) > 0.95
    assert distance(lists(old), fresh) < 0.1 < distance(stale, fresh)
    assert old.model.view.step == now.model.view.step == learner.step


def test_a_new_release_drops_the_overlays_of_the_old_one(pair: Pair) -> None:
    """What an overlay brought is gone after the next load."""
    learner = pair.learner
    release, changed = release_of(learner), worker(pair)
    changed.model.load(release, "v1")
    before = lists(changed)
    keys = snapshot(learner.ranker).keys
    tables = learner.overlay(learner.step, 10**9, 100).tables
    changed.model.apply(Overlay(keys, np.linspace(-1, 1, len(keys)).astype(np.float32), tables))
    assert lists(changed) != before
    changed.model.load(release, "v1")
    assert lists(changed) == before and changed.model.version == "v1"


def test_a_narrow_worker_keeps_the_best_neighbours(pair: Pair) -> None:
    """Rows wider than the worker's are cut, narrower ones filled up, and the step is the release's."""
    tables = pair.learner.tables(pair.learner.all_rows(), 8)
    release = Release(empty_artefact(), 0, tables)
    for width in (3, 8, 20):
        model = ServedModel(ItemIndex(), width)
        model.load(release, "v")
        near = model.view.neighbours
        for r, refs in zip(tables.rows.tolist(), tables.neighbours.tolist(), strict=True):
            j = model.items.numbers_of_keys(tables.keys[r : r + 1])[0]
            wanted = [int(tables.keys[x]) for x in refs if x >= 0][:width]
            assert [int(model.items.keys[i]) for i in near.item[j] if i >= 0] == wanted
        assert model.view.step == tables.step


def test_the_view_grows_with_the_index(pair: Pair) -> None:
    """Items that are met after a release have room in every table that kernels read."""
    new = worker(pair)
    new.model.load(release_of(pair.learner), "v")
    before = new.model.view
    feed(new, [view_event(t, "u1", f"new-{t}") for t in range(1_200)], 10**6)
    view, scratch, n = new.model.view, new.model.scratch, new.items.capacity
    assert n > len(before.servable)
    for table in (*view.stats, *view.neighbours, view.item_tokens, view.servable, view.weights.item):
        assert len(table) == n
    assert len(scratch.taken) >= n and len(scratch.cross) >= len(view.vocabulary) > view.item_tokens.max()
    assert new.lists(["u1"])[0].items


def test_a_key_without_an_id_is_never_served(pair: Pair) -> None:
    """Items that a release names by key only are in no list, until somebody tells their id."""
    learner = Learner()
    for batch in pair.batches:
        learner.learn(batch)
    number = learner.items.number("i3")
    learner.items.servable[number] = 0
    new = worker(pair)
    new.model.load(Release.from_bytes(release_of(learner).to_bytes()), "v")
    assert not any("i3" in offered for offered in lists(new).values())
    assert new.items.keys[new.items.numbers_of_keys(np.array([item_key("i3")], np.uint64))[0]] == item_key(
        "i3"
    )


def test_before_the_first_release_nothing_is_known() -> None:
    """Without a release there are no candidates, and lists are empty."""
    recommender = Recommender()
    outcome = feed(recommender, [view_event(0, "u", "i")])
    assert recommender.model.version == "none" and outcome.lists[0].items == []
    assert len(FreshWeights()) == 0 and len(empty_artefact()) == 0


def test_damaged_bytes_leave_the_model_as_it_is(pair: Pair) -> None:
    """A release or overlay that cannot be read is refused before anything changes."""
    new = worker(pair)
    new.model.load(release_of(pair.learner), "good")
    before = lists(new)
    with pytest.raises(ReleaseError):
        new.model.load(Release.from_bytes(b"nonsense"), "bad")
    with pytest.raises(ReleaseError):
        new.model.apply(Overlay.from_bytes(b"nonsense"))
    assert lists(new) == before and new.model.version == "good"
