"""Lists under rules: the kernel against a plain twin, and what users get."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.events import Event, Item, Tombstone
from stream_app.lists.arranging import ListPolicy, said_in_words
from stream_app.lists.rules import ListRules, Rule, parse_rules
from stream_app.lists.shared import SharedLists
from stream_app.model.item_index import ItemIndex
from stream_app.model.learning import Learner
from stream_app.online import OnlineRecommender
from stream_app.recommender import Recommender
from stream_app.served_json import lists_json
from tests.stream_app.worlds import Pair, feed, random_events, view_event

N = 12
SHELF = [
    Item(f"i{n}", categories=(f"c{n % 3}",), attributes={"brand": f"b{n % 4}", "size": n % 2})
    for n in range(N)
]
Kinds = st.fixed_dictionaries(
    {},
    optional={
        "items": st.frozensets(st.sampled_from([i.item_id for i in SHELF]), min_size=1, max_size=3),
        "categories": st.frozensets(st.sampled_from(["c0", "c1", "c2"]), min_size=1, max_size=2),
    },
).filter(bool)


def index_of(shelf: list[Item]) -> ItemIndex:
    """An index of some items."""
    items = ItemIndex()
    for item in shelf:
        items.describe(
            item.item_id, price=None, categories=item.categories, attributes=item.attributes, servable=True
        )
    return items


def policy_of(rules: ListRules) -> ListPolicy:
    """A policy that knows the shelf, at time 0."""
    policy = ListPolicy(index_of(SHELF), rules)
    for item in SHELF:
        policy.observe(item)
    policy.at(0)
    return policy


def likeness(a: Item, b: Item) -> float:
    """Jaccard index of what is known of two items."""
    x, y = ({*i.categories, *i.attributes.items()} for i in (a, b))
    return len(x & y) / len(x | y)


def twin(candidates: list[tuple[Item, float]], rules: ListRules, k: int) -> list[str]:
    """The list that is shown, as the module's docstring says."""
    left = [
        (item, score + sum(math.log(r.factor) for r in rules.rules if r.matches(item.item_id, item)))
        for item, score in candidates
    ]
    pinned: dict[int, Item] = {}
    for rule in rules.rules:
        matching = [x for x in left if rule.matches(x[0].item_id, x[0])]
        if rule.action == "pin" and rule.place <= k and rule.place not in pinned and matching:
            best = max(matching, key=lambda x: x[1])
            pinned[rule.place] = best[0]
            left.remove(best)
    chosen, shown = list(pinned.values()), []
    for place in range(1, k + 1):
        if place in pinned:
            shown.append(pinned[place].item_id)
            continue
        open_ = [
            (item, value - rules.diversity * max([likeness(item, other) for other in chosen], default=0.0))
            for item, value in left
            if all(
                sum(other.categories == item.categories for other in chosen) < most
                for name, most in rules.at_most.items()
                if name == "category"
            )
        ]
        if open_:
            best = max(open_, key=lambda x: x[1])[0]
            left = [x for x in left if x[0] is not best]
            chosen.append(best)
            shown.append(best.item_id)
    return shown


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-30, 30).map(lambda x: x / 16), min_size=N, max_size=N, unique=True),
    st.lists(st.tuples(Kinds, st.integers(0, 6)), max_size=3),
    st.sampled_from([{}, {"category": 1}, {"category": 2}]),
    st.sampled_from([0.0, 0.731]),
    st.integers(0, N),
)
def test_the_kernel_is_the_twin(
    scores: list[float], pins_and_boosts: list[tuple[dict[str, frozenset[str]], int]],
    at_most: dict[str, int], diversity: float, n: int,
) -> None:  # fmt: skip
    """Pins, boosts, caps and diversity, in any mixture, make the list that the plain rules make."""
    rules = ListRules(
        tuple(
            Rule(f"r{x}", "pin", **kinds, place=place)
            if place
            else Rule(f"r{x}", "boost", **kinds, factor=3.7)
            for x, (kinds, place) in enumerate(pins_and_boosts)
        ),
        at_most,
        diversity,
    )
    order = np.argsort(-np.array(scores, np.float32), kind="stable")[:n].astype(np.int32)
    found = np.array(scores, np.float32)[order]
    policy = policy_of(rules)
    items, _, counts, was, _ = policy.arrange(order[None], found[None], np.array([n], np.int32), 5)
    shown = [f"i{i}" for i in items[0, : counts[0]]]
    assert shown == twin([(SHELF[i], float(s)) for i, s in zip(order, found, strict=True)], rules, 5)
    assert [f"i{order[x]}" for x in was[0, : counts[0]]] == shown


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A learner of a small shop, whose items are the shelf's."""
    return Pair().run(random_events(400, n_items=N)).learner


def served(learner: Learner, rules: str, *, k: int = 5) -> Recommender:
    """A worker's recommender with that model under rules."""
    recommender = Recommender(k=k, rules=parse_rules(rules))
    for item in SHELF:
        recommender.observe_item(item)
    recommender.model.apply(learner.overlay(0, 0, 100))
    assert recommender.policy is not None
    recommender.policy.at(0)
    return recommender


def listed(recommender: Recommender) -> list[str]:
    """The list of a user who saw i1."""
    feed(recommender, [view_event(1, "u", "i1")])
    return list(recommender.lists(["u"]).items[0])


def test_without_rules_lists_are_as_before(learner: Learner) -> None:
    """A file that says nothing changes nothing, not even a byte of the list."""
    under, plain = served(learner, ""), Recommender(k=5)
    for item in SHELF:
        plain.observe_item(item)
    plain.model.apply(learner.overlay(0, 0, 100))
    listed(under), listed(plain)
    assert lists_json(under.lists(["u"]), "v", 0) == lists_json(plain.lists(["u"]), "v", 0)


def test_deny_and_allow(learner: Learner) -> None:
    """What is denied never shows; with an allowance nothing else does; deny wins."""
    deny = '[[rules]]\nname = "d"\naction = "deny"\ncategory = "c0"\n'
    allow = '[[rules]]\nname = "a"\naction = "allow"\ncategory = ["c0", "c2"]\n'
    assert not {"i0", "i3", "i6", "i9"} & set(listed(served(learner, deny, k=12)))
    assert set(listed(served(learner, allow, k=12))) == {"i0", "i2", "i3", "i5", "i6", "i8", "i9", "i11"}
    assert set(listed(served(learner, deny + allow, k=12))) == {"i2", "i5", "i8", "i11"}


def test_a_pin_shows_an_item_that_nobody_met(learner: Learner) -> None:
    """The pinned item stands at its place, and readers are told by which rule and from where."""
    recommender = Recommender(
        k=4, rules=parse_rules('[[rules]]\nname = "p%"\naction = "pin"\nitem = "new"\nplace = 2')
    )
    recommender.model.apply(learner.overlay(0, 0, 100))
    recommender.observe_item(Item("new"))
    assert recommender.policy is not None
    recommender.policy.at(0)
    assert listed(recommender)[1] == "new"
    [(_, data)] = lists_json(recommender.lists(["u"]), "v", 0)
    told = json.loads(data)["items"][1]
    assert told["item_id"] == "new" and told["rules"] == ["p%"] and told["pinned"] is True
    assert said_in_words(told, 2).startswith("pinned here by rule 'p%', place ")
    recommender.observe_item(Item("new", stock=0))
    assert "new" not in listed(recommender), "what is sold out is not shown, pinned or not"


def test_a_boost_multiplies_odds(learner: Learner) -> None:
    """Between two items, the boosted one rises exactly where ln factor makes up for the difference."""
    plain = served(learner, "", k=12)
    listed(plain)
    [offered] = plain.lists(["u"])
    (first, high), (_, _), (third, low) = offered.items[:3]
    for factor, rises in ((math.exp(high - low) * 1.01, True), (math.exp(high - low) * 0.99, False)):
        rule = f'[[rules]]\nname = "b"\naction = "boost"\nitem = "{third}"\nfactor = {factor}'
        boosted = listed(served(learner, rule, k=12))
        assert (boosted[0] == third) == rises and first in boosted[:2]


def test_rules_begin_and_end(learner: Learner) -> None:
    """`at` follows the clock and says when something changed."""
    recommender = served(
        learner, '[[rules]]\nname = "d"\naction = "deny"\ncategory = "c0"\nfrom = 1970-01-02'
    )
    policy = recommender.policy
    assert policy is not None and policy.may_show("i0") and not policy.at(1)
    assert policy.at(86_400_000) and not policy.may_show("i0") and not policy.at(86_400_001)
    policy.take(parse_rules(""))
    assert policy.at(86_400_002) and policy.may_show("i0")


def test_descriptions_that_come_later_count(learner: Learner) -> None:
    """An item that changes its category leaves a rule, or comes under it; a deleted one has only its id."""
    recommender = served(learner, '[[rules]]\nname = "d"\naction = "deny"\ncategory = "c0"', k=12)
    recommender.observe_item(Item("i0", categories=("c1",)))
    recommender.observe_item(Item("i4", categories=("c0",)))
    shown = listed(recommender)
    assert "i0" in shown and "i4" not in shown
    assert recommender.policy is not None
    recommender.policy.observe(Tombstone("i4"))
    assert recommender.policy.may_show("i4")


def test_caps_shorten_a_list_and_diversity_does_not(learner: Learner) -> None:
    """At most one per category leaves three items; diversity spreads and keeps the length."""
    capped = listed(served(learner, "at_most = { category = 1 }", k=12))
    assert len({SHELF[int(i[1:])].categories for i in capped}) == len(capped) == 3
    assert len(listed(served(learner, "diversity = 5", k=12))) == len(listed(served(learner, "", k=12)))


def test_lists_for_everybody_keep_to_the_rules() -> None:
    """Unknown users and lists of similar items see nothing that is denied."""
    online = OnlineRecommender(compress=False)
    for t in range(60):
        online.observe(Event(str(t), "view_item", t * 1000, f"u{t % 9}", item_id=f"i{t % 5}"))
    policy = ListPolicy(
        online.learner.items, parse_rules('[[rules]]\nname = "d"\naction = "deny"\nitem = "i1"')
    )
    policy.at(0)
    shared = SharedLists(online.learner, 10, policy)
    everybody, similar = shared.everybody(), shared.similar(100)
    shown = {i for pairs in [*everybody.values(), *similar.values()] for i, _ in pairs}
    assert shown == {"i0", "i2", "i3", "i4"} and "i1" not in similar
