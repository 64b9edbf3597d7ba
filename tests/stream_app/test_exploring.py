"""Exploration: exact propensities, decks that keep to the rules, and the same draw for the same seed."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from stream_app.events import Item
from stream_app.lists.exploring import CARDS, KEPT, Exploration
from stream_app.lists.making import Ranked
from stream_app.lists.rules import parse_rules
from stream_app.model.item_index import ItemIndex
from stream_app.model.learning import Learner
from stream_app.recommender import Recommender
from stream_app.served_json import lists_json
from tests.stream_app.worlds import Pair, feed, random_events, view_event

K, H = 6, 40


def head(m: int) -> Ranked:
    """The same forty candidates for m users, best first."""
    items = np.tile(np.arange(H, dtype=np.int32), (m, 1))
    return items, np.tile(np.linspace(4, 0, H, dtype=np.float32), (m, 1)), np.full(m, H, np.int32)


def draw(
    explore: Exploration, m: int, *, seed: int = 0, new: int = 30
) -> tuple[Ranked, np.ndarray, np.ndarray]:
    """Lists of m users, whose candidates are new from number `new` on; propensities and what gave way."""
    candidates = head(m)
    lists = (candidates[0][:, :K].copy(), candidates[1][:, :K].copy(), np.full(m, K, np.int32))
    count = np.where(np.arange(H) < new, 100, 0).astype(np.float32)
    none = np.zeros((m, K), np.bool_), np.zeros((m, H), np.bool_)
    seeds = np.random.default_rng(seed).integers(0, 2**63, m).astype(np.uint64)
    return lists, *explore.draw(lists, candidates, count, *none, seeds)


def test_propensities_are_the_frequencies() -> None:
    """Each card comes up as often as its propensity says, χ² over 20,000 draws; half are new items."""
    (items, scores, _), propensity, instead = draw(Exploration(2, 0.5), 20_000)
    assert (items[:, : K - 2] == np.arange(K - 2)).all() and (propensity[:, : K - 2] == 1).all()
    assert np.array_equal(scores, np.linspace(4, 0, H, dtype=np.float32)[items])
    for place in (4, 5):
        seen = Counter(items[:, place].tolist())
        assert len(seen) == 1 + CARDS and sum(i >= 30 for i in seen) == CARDS // 2
        chance = {i: float(propensity[items[:, place] == i, place][0]) for i in seen}
        assert sum(chance.values()) == pytest.approx(1) and chance[place] > 0.5
        chi2 = sum((seen[i] - 20_000 * p) ** 2 / (20_000 * p) for i, p in chance.items())
        assert chi2 < 30  # 10 degrees of freedom: one in a thousand
    assert ((instead == KEPT) == (items == np.arange(K))).all()
    assert not set(items[:, 4]) & set(items[:, 5]), "decks are disjoint"


def test_the_same_seed_draws_the_same() -> None:
    """Draws follow from the seed of each list alone."""
    a, b = (draw(Exploration(3, 0.9), 50, seed=1) for _ in range(2))
    assert np.array_equal(a[0][0], b[0][0]) and np.array_equal(a[1], b[1])
    assert not np.array_equal(a[0][0], draw(Exploration(3, 0.9), 50, seed=2)[0][0])


def test_new_items_take_turns() -> None:
    """Twenty at a time, others at another turn, and none that may not be shown."""
    items = ItemIndex()
    for n in range(50):
        items.number(f"i{n}")
    count, servable = np.zeros(50, np.float32), np.ones(50, np.uint8)
    count[:10], servable[10] = 100, 0
    explore = Exploration(1, 0.1)
    turns = [set(explore.new_items(items, count, servable, seed).tolist()) for seed in range(39)]
    assert set().union(*turns) == set(range(11, 50)) and {len(turn) for turn in turns} == {20}


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A learner of a small shop."""
    return Pair().run(random_events(400, n_items=12)).learner


def served(learner: Learner, rules: str | None = None) -> Recommender:
    """A worker's recommender that always explores its last two places."""
    recommender = Recommender(
        k=5, rules=None if rules is None else parse_rules(rules), explore=Exploration(2, 1.0)
    )
    recommender.model.apply(learner.overlay(0, 0, 100))
    for n in range(12):
        recommender.observe_item(Item(f"i{n}", categories=(f"c{n % 3}",)))
    for n in range(5):
        recommender.observe_item(Item(f"new-{n}"))
    if recommender.policy is not None:
        recommender.policy.at(0)
    return recommender


def test_readers_are_told(learner: Learner) -> None:
    """A list carries propensity and what gave way; a repeated batch makes the same; new items show up."""
    recommender, again = served(learner), served(learner)
    seen = set()
    for n in range(60):
        event = [view_event(n, f"u{n}", "i1")]
        feed(recommender, event, n), feed(again, event, n)
        lists = recommender.lists([f"u{n}"])
        assert lists.items == again.lists([f"u{n}"]).items
        [(_, data)] = lists_json(lists, "v", 0)
        told = json.loads(data)["items"]
        assert ["propensity" in item for item in told] == [False] * 3 + [True] * 2
        assert all(0 < item["propensity"] < 0.5 for item in told[3:])
        assert len({item["item_id"] for item in told}) == 5
        seen |= {item["item_id"] for item in told if "instead_of" in item}
    assert seen & {f"new-{n}" for n in range(5)} and seen & {f"i{n}" for n in range(12)}


def test_rules_hold_for_what_is_drawn(learner: Learner) -> None:
    """Nothing denied is drawn, a pinned place is not drawn for, and caps are kept."""
    rules = """at_most = { category = 2 }
    [[rules]]
    name = "d"
    action = "deny"
    item = ["new-0", "new-1", "i3"]
    [[rules]]
    name = "p"
    action = "pin"
    item = "i7"
    place = 5"""
    recommender = served(learner, rules)
    drawn = 0
    for n in range(60):
        feed(recommender, [view_event(n, f"u{n}", "i1")], n)
        lists = recommender.lists([f"u{n}"])
        items = lists.items[0]
        assert items[4] == "i7" and not {"new-0", "new-1", "i3"} & set(items)
        assert max(Counter(int(i[1:]) % 3 for i in items if i[0] == "i").values()) <= 2
        drawn += "instead_of" in (lists.notes[0][3] or {})
    assert drawn > 20


def test_off_is_off(learner: Learner) -> None:
    """By default nothing is noted and nothing drawn."""
    recommender = Recommender(k=5)
    recommender.model.apply(learner.overlay(0, 0, 100))
    feed(recommender, [view_event(0, "u", "i1")])
    assert recommender.lists(["u"]).notes == ()
