"""Learning for ever inside a budget: who gives up a number, and that nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.churn import Churn
from pruning.tokens import token
from stream_app.events import Event, Item, Tombstone
from stream_app.lists.rules import parse_rules
from stream_app.model.budget import LEAST_ITEMS, Budget, bytes_per_item
from stream_app.model.eviction import NOBODY, who_stays
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import ItemIndex, item_key
from stream_app.model.learning import TURN, Learner
from stream_app.model.release import Overlay, Release
from stream_app.online import OnlineRecommender
from stream_app.recommender import Recommender
from tests.stream_app.test_releasing import cycle_of
from tests.stream_app.worlds import Pair, feed, random_events, view_event

SMALL = Budget(items=160, tokens=400, links=4_000)
SHOP = Churn(users=60, items=50, new_users=40, new_items=150, words=20)


def shop_batches(events: int, size: int = 100) -> Iterator[list[Event]]:
    """Events of a small shop that never stands still."""
    return (batch for _, _, batch in SHOP.batches(events, size, seed=3))


@pytest.fixture(scope="module")
def examples() -> list[ExampleBatch]:
    """What a worker logs of 4,000 events: 650 items, of which 50 are on sale at a time."""
    pair = Pair()
    for batch in shop_batches(4_000):
        pair.run(batch, len(batch))
    return pair.batches


def taught(batches: Sequence[ExampleBatch], budget: Budget = SMALL) -> Learner:
    """A learner with a budget that was given batches."""
    learner = Learner(items=ItemIndex(budget))
    for batch in batches:
        learner.learn(batch)
    return learner


def described(index: ItemIndex, i: int) -> set[int]:
    """The tokens of an item."""
    return {int(index.vocabulary[v]) for v in index.tokens[i] if v >= 0}


# The budget and who stays


def test_the_budget_follows_from_megabytes() -> None:
    """What is left beside the weights is divided among items; too little says how much is needed."""
    budget = Budget.of_megabytes(1_000, max_features=1_000_000, width=200)
    assert budget.items * bytes_per_item(200) <= 775e6 < (budget.items + 1) * bytes_per_item(200)
    with pytest.raises(ValueError, match=r"1,000,000 weights and 1,000 items need 235"):
        Budget.of_megabytes(230, max_features=1_000_000, width=200)
    assert Budget.of_megabytes(235, max_features=1_000_000, width=200).items >= LEAST_ITEMS


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32 - 1), st.booleans())
def test_who_stays_is_who_is_used(n: int, seed: int, judge_touched: bool) -> None:
    """The touched stay by use, the others by newness, and the budget is kept with room for newcomers."""
    rng = np.random.default_rng(seed)
    touched, use = rng.random(n) < rng.random(), rng.integers(0, 9, n).astype(float)
    budget = Budget(160)
    keep = who_stays(touched, use, budget, judge_touched=judge_touched)
    gone = touched & ~keep
    assert not gone.any() or (judge_touched and 8 * touched.sum() > 7 * 160 and (keep & touched).sum() == 120)
    if gone.any():
        assert use[gone].max() <= use[keep & touched].min()
    others = np.flatnonzero(~touched)
    assert (np.diff(keep[others].astype(int)) >= 0).all()  # the newest of them
    if judge_touched:
        assert keep.sum() <= 160 * 15 // 16


# The index


def test_compaction_keeps_what_stays_as_it_was() -> None:
    """Ids, keys, tokens and what may be shown move together, in the same order, and are found again."""
    index = ItemIndex(Budget(3_000))
    for i in range(1_200):
        index.describe(
            f"i{i}", price=None, categories=(f"c{i % 5}", f"only-{i}"), attributes={}, servable=i % 3 > 0
        )
    before = {i: described(index, i) for i in range(1_200)}
    index.compact(np.arange(1_200) % 4 != 1)
    kept = [i for i in range(1_200) if i % 4 != 1]
    assert index.ids == [f"i{i}" for i in kept] and index.evicted == 300
    for k, i in enumerate(kept):
        assert index.find(f"i{i}") == k and index.keys[k] == item_key(f"i{i}")
        assert described(index, k) == before[i] and index.servable[k] == (i % 3 > 0)
        assert index.find_keys(index.keys[k : k + 1]) == [k]
    assert index.vocabulary.tolist().count(token("category", "only-1")) == 0
    assert index.find("i1") is None and index.find_keys(np.array([item_key("i1")], np.uint64)) == [NOBODY]
    assert index.number("i1") == 900 and described(index, 900) == {item_key("i1")}


def test_what_was_withdrawn_stays_withdrawn_without_a_number() -> None:
    """An item that the shop deleted or hid is not shown when somebody meets it again till the shop agrees."""
    index = ItemIndex()
    index.withdraw("deleted")
    index.describe("hidden", price=None, categories=(), attributes={}, servable=False)
    index.compact(np.zeros(1, np.bool_))
    assert len(index) == 0 and index.is_withdrawn("deleted") and index.is_withdrawn("hidden")
    again = ItemIndex()
    again.restore([], index.keys[:0], index.token_keys(), index.servable[:0], index.withdrawn_keys().tolist())
    for one in (index, again):
        assert [one.servable[one.number(i)] for i in ("deleted", "hidden", "new")] == [0, 0, 1]
        one.describe("hidden", price=None, categories=(), attributes={}, servable=True)
        one.compact(np.zeros(3, np.bool_))
        assert not one.is_withdrawn("hidden") and one.is_withdrawn("deleted")


def test_words_that_few_items_share_go_first() -> None:
    """When there are too many tokens, each item keeps its own and those that say something about others."""
    index = ItemIndex(Budget(items=1_000, tokens=400))
    for i in range(200):
        index.describe(
            f"i{i}", price=None, categories=(f"only-{i}", f"c{i % 5}"), attributes={}, servable=True
        )
    assert index.is_crowded
    index.compact(np.ones(200, np.bool_))
    assert not index.is_crowded and int((index.vocabulary > 0).sum()) == 300
    for i in range(200):
        assert {item_key(f"i{i}"), token("category", f"c{i % 5}")} <= described(index, i)
        row = index.tokens[i]
        assert index.vocabulary[row[0]] == item_key(f"i{i}") and (row[: (row >= 0).sum()] >= 0).all()


# The learner


def test_a_learner_stays_inside_its_budget(examples: list[ExampleBatch]) -> None:
    """However many items it meets, numbers, tokens and links stay below the bound."""
    learner = Learner(items=ItemIndex(SMALL))
    for batch in examples:
        learner.learn(batch)
        assert len(learner.items) <= SMALL.items + TURN / 2  # what a turn of the learner may add
    assert learner.items.evicted > 300
    assert int(learner.graph.capacity.sum()) <= SMALL.links * 2  # what a turn may add, on rows this short


@pytest.mark.parametrize("most", [7, 300])
def test_who_goes_follows_from_the_log_alone(examples: list[ExampleBatch], most: int) -> None:
    """However examples were cut into messages, and after a restart in between, the state is bit-equal."""
    cut = [part for batch in examples for part in batch.parts(most)]
    half = len(cut) // 2
    restored, _ = Learner.from_bytes(taught(cut[:half]).to_bytes(), SMALL)
    for part in cut[half:]:
        restored.learn(part)
    assert restored.to_bytes() == taught(examples).to_bytes()


def test_what_the_shop_describes_does_not_move_what_was_learned(examples: list[ExampleBatch]) -> None:
    """Thousands of items that nobody touches come and go; the touched ones and their links stay the same."""
    quiet, noisy = taught(examples), Learner(items=ItemIndex(SMALL))
    for x, batch in enumerate(examples):
        noisy.learn(batch)
        for k in range(40):
            noisy.items.describe(f"junk-{x}-{k}", price=None, categories=(), attributes={}, servable=True)
            if noisy.items.is_crowded:
                noisy.make_room(judge_touched=False)
    assert len(noisy.items) <= SMALL.items + TURN / 2
    one, other = ({x.items.ids[j]: row_of(x, j) for j in x.all_rows()} for x in (quiet, noisy))
    assert one == other and len(one) > 50


def test_without_need_nothing_changes(examples: list[ExampleBatch]) -> None:
    """A learner whose budget is not reached ends bit-equal to one with a larger budget."""
    assert taught(examples, Budget(2_000)).to_bytes() == taught(examples, Budget(10**6)).to_bytes()


def test_rows_of_those_who_stay_lose_only_the_others(examples: list[ExampleBatch]) -> None:
    """After a compaction counters are the same, and rows are the same without links to who left."""
    learner = taught(examples[:10], Budget(10_000))
    before = {learner.items.ids[j]: row_of(learner, j) for j in range(len(learner.items))}
    counts = dict(zip(learner.items.ids, learner.stats.count.tolist(), strict=False))
    keep = np.arange(len(learner.items)) % 3 > 0
    gone = {learner.items.ids[i] for i in np.flatnonzero(~keep)}
    learner.items.compact(keep)
    for j, item_id in enumerate(learner.items.ids):
        assert row_of(learner, j) == {i: w for i, w in before[item_id].items() if i not in gone}
        assert learner.stats.count[j] == counts[item_id]
    assert learner.graph.touched[-1] == -1 and learner.graph.length[-1] == 0  # nobody's


def row_of(learner: Learner, j: int) -> dict[str, float]:
    """The links of an item by id."""
    graph, start = learner.graph, int(learner.graph.start[j])
    part = slice(start, start + int(graph.length[j]))
    names = [learner.items.ids[i] for i in graph.item[part]]
    return dict(zip(names, graph.weight[part].tolist(), strict=True))


def test_a_trial_goes_on_with_the_numbers_it_was_frozen_with(examples: list[ExampleBatch]) -> None:
    """Losses and lists of examples whose items stay are the same before and after a compaction."""
    cycle = cycle_of(taught(examples[:10], Budget(10_000)))
    assert cycle.propose() is not None and cycle._trial is not None
    items, wanted = cycle.learner.items, examples[9]
    for k in range(50):
        items.number(f"unused-{k}")
    before = cycle._replay(cycle._trial, wanted)
    size = cycle.nbytes
    unused = np.array([name.startswith("unused") for name in items.ids])
    unused[items.find_keys(examples[0].keys)] = True  # and many that are frozen in the trial
    needed = items.find_keys(wanted.keys)
    unused[needed[needed >= 0]] = False
    items.compact(~unused)
    after = cycle._replay(cycle._trial, wanted)
    assert len(before.losses) > 5 and (before.losses == after.losses).all()
    assert (before.overlap == after.overlap).all() and cycle.nbytes <= size


# The worker


def test_states_are_those_of_an_unbounded_worker() -> None:
    """Users who remember items without number have the state they would have, in memory and loaded again."""
    small, large = Recommender(k=5, budget=SMALL, max_users=50), Recommender(k=5)
    states: dict[str, bytes] = {}
    offset = 0
    for batch in shop_batches(4_000):
        states |= feed(small, batch, offset, states=states).states
        expected = feed(large, batch, offset).states
        offset += len(batch)
        assert [states[u] for u, _ in expected] == [s for _, s in expected]
        assert all(small.users.pack(u) == s for u, s in expected)
        assert len(small.items) <= SMALL.items + 60
    assert small.items.evicted > 300 and len(small.users._lost_items) > 5


def test_an_item_that_comes_back_is_found_in_histories() -> None:
    """Whoever met it before is not offered it again, and remembers it by its id."""
    pair = Pair()
    pair.run([view_event(t, f"u{t % 3}", f"i{t % 4}") for t in range(60)])
    worker = pair.recommender
    other = [view_event(100 + t, "v", f"i{t}") for t in range(2)]
    pair.run(other)
    state = worker.users.pack("u0")
    lost = worker.items.find("i1")
    worker.items.compact(np.arange(len(worker.items)) != lost)
    assert worker.users.history("u0").count("i1") == 0 and worker.users.pack("u0") == state
    assert not worker.users.knows("u0", "i1")
    pair.run([view_event(200, "w", "i1")])
    worker.lists(["u0"])
    assert worker.users.knows("u0", "i1") and worker.users.pack("u0") == state


def test_compaction_changes_no_list_but_for_who_left() -> None:
    """Every list is what it was, without the items that gave up their number."""
    pair = Pair().run(random_events(900, n_users=12, n_items=60))
    worker = pair.recommender
    worker.k = 60
    met = {i for u in worker.users.in_memory() for i in worker.users.history(u)}
    for k in range(6):
        worker.items.number(f"junk-{k}")
    gone = [i for i in worker.items.ids if i not in met]
    users = worker.users.in_memory()
    before = worker.lists(users)
    worker.items.compact(np.array([i in met for i in worker.items.ids]))
    after = worker.lists(users)
    assert len(gone) >= 6
    for a, b in zip(before, after, strict=True):
        assert [x for x in a.items if x[0] not in gone] == b.items


def test_a_release_finds_room() -> None:
    """A worker that is full of what it was told takes a release in, and stays inside its budget."""
    pair = Pair().run(random_events(600))
    cycle = cycle_of(pair.learner)
    published = cycle.propose()
    assert published is not None
    worker = Recommender(k=5, budget=Budget(60))
    for k in range(300):
        worker.observe_item(Item(f"junk-{k}"))
    assert len(worker.items) <= 60
    worker.serve(Release.from_bytes(published.data), published.version)
    worker.refresh_model(Overlay.from_bytes(pair.learner.overlay(0, 0, 20).to_bytes()))
    assert len(worker.items) <= 60
    known = [i for i in pair.learner.items.ids if worker.items.find(i) is not None]
    assert len(known) == len(pair.learner.items)


def test_rules_follow_their_items() -> None:
    """What a rule forbids or moves is the same item after a compaction."""
    deny = '[[rules]]\nname="no"\naction="deny"\nbrand="x"\n'
    boost = '[[rules]]\nname="up"\naction="boost"\nfactor=2\nitem="i5"'
    worker = Recommender(k=5, rules=parse_rules(deny + boost))
    for i in range(8):
        worker.observe_item(Item(f"i{i}", attributes={"brand": "x" if i == 6 else "y"}))
    policy = worker.policy
    assert policy is not None and policy.at(0)
    worker.items.compact(np.arange(8) >= 3)
    assert policy.servable()[:5].tolist() == [1, 1, 1, 0, 1] and not policy.may_show("i6")
    assert policy._shift[:5].argmax() == 2 and policy._boosts == {2: ["up"]}
    worker.observe_item(Item("i9", attributes={"brand": "x"}))
    assert not policy.may_show("i9") and not policy.at(0)
    assert policy.servable()[worker.items.number("i9")] == 0


def test_tombstones_take_no_numbers() -> None:
    """A shop that deletes what nobody knows costs no room."""
    worker = Recommender(k=5)
    for i in range(500):
        assert not worker.observe_item(Tombstone(f"i{i}"))
    assert len(worker.items) == 0
    feed(worker, [view_event(0, "u", "i7"), view_event(1, "u", "i501")])
    assert [worker.items.servable[worker.items.number(i)] for i in ("i7", "i501")] == [0, 1]


# Quality


def test_a_bounded_recommender_is_nearly_as_good() -> None:
    """On a shop that changes for ever, a fraction of the numbers finds what all of them find."""
    bounded, unbounded = (OnlineRecommender(compress=False, budget=Budget(n)) for n in (130, 10_000))
    hits = np.zeros(2)
    for n, event in enumerate(event for batch in shop_batches(2_000) for event in batch):
        for x, online in enumerate((bounded, unbounded)):
            if event.item_id and n > 500 and n % 2:
                hits[x] += event.item_id in online.recommend(event.user_id, event.event_time_ms, 10)
            online.observe(event)
    assert bounded.learner.items.evicted > 150 and unbounded.learner.items.evicted == 0
    assert hits[1] > 100 and hits[0] > 0.95 * hits[1]
