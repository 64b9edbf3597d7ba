"""Lists that users were shown, what they chose from them, and what is learned from both."""

from __future__ import annotations

import numpy as np
import pytest

from stream_app.events import Event, EventItem, Item
from stream_app.model.candidates import (
    MOST_OFFERS,
    READY_PRIOR,
    SLOPE_PRIOR,
    new_scratch,
    recall_offers,
    recall_slopes,
    start_user,
)
from stream_app.model.examples import CHOSEN, PREFERRED, SHOWN, TAKEN, ExampleBatch
from stream_app.model.features import LIST_TOKENS, NUMBER_TOKENS, NUMBERS, POSITION
from stream_app.model.item_index import ItemIndex, item_key
from stream_app.model.learning import Learner
from stream_app.model.retrieval import RATE_PRIOR, learn_offer, new_stats
from stream_app.model.scoring import NEGATIVES
from stream_app.model.user_table import UserTable
from stream_app.recommender import Recommender
from tests.stream_app.worlds import feed, view_event


def shown(t: int, user: str, items: str, request: str | None = "r1") -> Event:
    """A list that was shown at second `t`; one letter per item."""
    listed = tuple(EventItem(i, position=p) for p, i in enumerate(items, start=1))
    return Event(f"s{t}", "view_item_list", t * 1000, user, request_id=request, items=listed)


def clicked(t: int, user: str, item: str, request: str | None = "r1") -> Event:
    """A click at second `t`."""
    return Event(f"c{t}", "select_item", t * 1000, user, item_id=item, request_id=request)


def examples_of(recommender: Recommender, events: list[Event], first_offset: int = 0) -> ExampleBatch:
    """What the events teach, as the learner reads it."""
    outcome = feed(recommender, events, first_offset)
    assert outcome.examples is not None
    return ExampleBatch.from_bytes(outcome.examples.to_bytes())


def names(batch: ExampleBatch, e: int) -> list[str]:
    """The items of an example."""
    return [batch.ids[k] for k in batch.item[e, : batch.count[e]]]


def test_a_click_is_compared_with_the_rest_of_its_list() -> None:
    """The others of an answered list are the negatives, with the places where they stood."""
    batch = examples_of(Recommender(), [shown(0, "u", "abcd"), clicked(1, "u", "c")])
    assert batch.kind.tolist() == [SHOWN, TAKEN] and names(batch, 0) == list("abcd")
    assert names(batch, 1)[0] == "c" and sorted(names(batch, 1)) == list("abcd")
    places = dict(zip(names(batch, 1), batch.numbers[1, :4, POSITION].tolist(), strict=True))
    assert places == pytest.approx({i: np.log1p(p) for p, i in enumerate("abcd")}, abs=2e-3)


def test_a_click_without_its_list_is_an_ordinary_choice() -> None:
    """Another request, no request, or an item that was not in the list: no answer to it."""
    events = [shown(0, "u", "abcd"), clicked(1, "u", "a", "r2"), clicked(2, "u", "b", None)]
    batch = examples_of(Recommender(), [*events, clicked(3, "u", "z")])
    assert batch.kind.tolist() == [SHOWN, CHOSEN, CHOSEN, CHOSEN]


def test_an_answer_is_described_as_of_its_list() -> None:
    """What was chosen from a list since it was shown is not seen by the examples of its later answers."""
    events = [clicked(0, "u", "z", None), shown(9_000, "u", "abcd")]
    first = examples_of(Recommender(), [*events, clicked(9_009, "u", "b")])
    batch = examples_of(Recommender(), [*events, clicked(9_005, "u", "a"), clicked(9_009, "u", "b")])
    assert batch.kind.tolist() == [CHOSEN, SHOWN, TAKEN, TAKEN]
    assert batch.length[2:].tolist() == [1, 1] and batch.gap[2:].tolist() == [3, 3]
    described = [dict(zip(names(b, e), b.numbers[e], strict=False)) for b, e in ((first, 2), (batch, 3))]
    assert all(np.array_equal(described[0][i], described[1][i]) for i in "abcd")
    assert not batch.numbers[2:, :4, NUMBERS.index("offered")].any()
    assert [batch.ids[k] for k in batch.history[3, -2:]] == ["z", "a"]  # links are learned from all of it


def test_counters_that_a_choice_moved_are_out_of_sight_of_the_next() -> None:
    """All answers to a list see its items as the first one found them, though the model learned between."""
    recommender, learner = Recommender(), Learner()
    before = examples_of(recommender, [shown(0, "u", "abcd"), clicked(1, "u", "a")])
    learner.learn(before)
    recommender.model.apply(learner.overlay(0, 0, 10))
    after = examples_of(recommender, [clicked(1, "u", "b")], 2)
    views = [dict(zip(names(b, e), b.numbers[e], strict=False)) for b, e in ((before, 1), (after, 0))]
    assert all(np.array_equal(views[0][i], views[1][i]) for i in "abcd")
    assert after.length.tolist() == [0]


def test_taste_in_categories_is_apart_from_other_tokens() -> None:
    """A user who takes one category and nothing else likes it, and no attribute that both kinds share."""
    recommender = Recommender()
    for item in "abcdef":
        recommender.observe_item(Item(item, None, None, categories=("x" if item in "ace" else "y",)))
    events = [shown(0, "u", "abcd"), clicked(1, "u", "a"), clicked(2, "u", "c")]
    batch = examples_of(recommender, [*events, shown(3, "u", "ef", "r2"), clicked(4, "u", "e", "r2")])
    mine, other = batch.numbers[-1, :2]
    by_category, taste = NUMBERS.index("taste_category"), NUMBERS.index("taste")
    assert mine[by_category] > 0 > other[by_category]
    assert mine[taste] == 0 == other[taste]


def test_an_item_answers_a_list_once() -> None:
    """The second click on the same item of a list teaches nothing more."""
    batch = examples_of(Recommender(), [shown(0, "u", "ab"), clicked(1, "u", "a"), clicked(2, "u", "a")])
    assert batch.kind.tolist() == [SHOWN, TAKEN]


def test_an_item_that_was_chosen_before_still_answers_a_list() -> None:
    """A second list with a chosen item is compared too, without new feedback."""
    events = [
        shown(0, "u", "ab"),
        clicked(1, "u", "a"),
        shown(2, "u", "abc", "r2"),
        clicked(3, "u", "a", "r2"),
    ]
    batch = examples_of(Recommender(), events)
    assert batch.kind.tolist() == [SHOWN, TAKEN, SHOWN, TAKEN]
    assert batch.weight[1] > 0 == batch.weight[3] and batch.count[3] == 3
    mine = batch.numbers[3, 0]
    assert mine[NUMBERS.index("offered")] == 1 == mine[NUMBERS.index("taken")]


def test_a_long_list_is_counted_whole() -> None:
    """A list longer than an example has room for becomes several, and one list for the user."""
    letters = [chr(0x100 + n) for n in range(2 * NEGATIVES + 5)]
    recommender = Recommender()
    events = [shown(0, "u", "".join(letters)), clicked(1, "u", letters[0])]
    batch = examples_of(recommender, events)
    parts = np.flatnonzero(batch.kind == SHOWN)
    assert [i for e in parts for i in names(batch, int(e))] == letters and len(parts) > 1
    assert batch.kind[-1] == TAKEN and batch.count[-1] == 1 + NEGATIVES
    row = recommender.users.row("u")
    assert recommender.users.users.listed[row] == len(letters)


def test_learning_counts_offers_and_answers() -> None:
    """An item's rate is the smoothed share of its offers that were taken, over the share of all items."""
    learner = Learner()
    events = [shown(0, "u", "abcd"), clicked(1, "u", "a"), shown(2, "v", "ab"), clicked(3, "v", "a")]
    learner.learn(examples_of(Recommender(), events))
    of = {i: learner.items.number(i) for i in "abcd"}
    assert {i: (learner.stats.shown[n], learner.stats.taken[n]) for i, n in of.items()} == {
        "a": (2, 2), "b": (2, 0), "c": (1, 0), "d": (1, 0),
    }  # fmt: skip
    assert learner.stats.rate[of["a"]] > 0 > learner.stats.rate[of["b"]]
    assert learner.moments.offers.tolist() == [RATE_PRIOR + 6, 3]


def test_the_rate_of_an_item_follows_its_formula() -> None:
    """log of (taken + prior · common) / (shown + prior) / common; an item nobody was offered has 0."""
    stats, offers = new_stats(4), np.array([RATE_PRIOR, 1.0])
    for taken in (True, False, True):
        learn_offer(stats, offers, 2, taken, True)
    common = 3.0 / (RATE_PRIOR + 3)
    expected = np.log((2 + RATE_PRIOR * common) / (3 + RATE_PRIOR) / common)
    assert stats.rate[2] == pytest.approx(expected, rel=1e-5) and stats.rate[0] == 0


def test_taste_is_what_was_taken_beyond_expectation() -> None:
    """Per token: Σ(taken − expected) over the offers with it; what is expected adds up to what was taken."""
    items = ItemIndex()
    for n, category in enumerate("xxyyz"):
        items.describe(f"i{n}", price=None, categories=(category,), attributes={}, servable=True)
    stats = new_stats(items.capacity)
    stats.rate[:5] = [0.3, -0.2, 0.1, 0.0, 0.5]
    scratch = new_scratch(items.capacity, len(items.vocabulary))
    start_user(scratch, np.zeros(0, np.int32))
    offered, taken = np.array([0, 1, 2, 3], np.int32), np.array([1, 0, 1, 0], np.uint8)
    recall_offers(scratch, offered, taken, items.tokens, stats)
    lift = np.exp(stats.rate[offered])
    excess = taken - lift * taken.sum() / lift.sum()
    token_x, token_y, token_z = (int(items.tokens[n, 1]) for n in (0, 2, 4))
    assert scratch.taste[[token_x, token_y]] == pytest.approx([excess[:2].sum(), excess[2:].sum()], abs=1e-5)
    assert scratch.taste_shown[[token_x, token_y]].tolist() == [2, 2]
    assert scratch.taste_mark[token_z] != scratch.epoch[0] and scratch.offer_taken[offered].tolist() == [
        1,
        0,
        1,
        0,
    ]


def test_a_slope_is_what_was_taken_beyond_expectation_along_a_measure() -> None:
    """slope = Σ excess · measure / (offers + prior); readiness is the log of the smoothed share taken."""
    items = ItemIndex()
    for n, price in enumerate((1.0, 4.0, 20.0, 90.0)):
        items.describe(f"i{n}", price=price, categories=(), attributes={"size": n % 2}, servable=True)
    stats = new_stats(items.capacity)
    stats.rate[:4] = [0.3, -0.2, 0.1, 0.0]
    scratch = new_scratch(items.capacity, len(items.vocabulary))
    start_user(scratch, np.zeros(0, np.int32))
    offered, taken = np.array([0, 1, 2, 3], np.int32), np.array([0, 0, 1, 1], np.uint8)
    recall_offers(scratch, offered, taken, items.tokens, stats)
    recall_slopes(scratch, offered, items.measures)
    lift = np.exp(stats.rate[offered])
    excess = taken - lift * taken.sum() / lift.sum()
    expected = excess @ items.measures[offered] / (4 + SLOPE_PRIOR)
    assert scratch.slope == pytest.approx(expected, abs=1e-6) and scratch.slope[0] > 0.1
    assert scratch.readiness[0] == pytest.approx(np.log((2 + READY_PRIOR[0]) / (4 + READY_PRIOR[1])))


def popular(n: int, recommender: Recommender, learner: Learner) -> int:
    """Let `n` users click two items without a list, and serve what that teaches; returns the next offset."""
    events = [clicked(t, f"v{t // 2}", "ab"[t % 2], None) for t in range(2 * n)]
    learner.learn(examples_of(recommender, events))
    recommender.model.apply(learner.overlay(0, 0, 10))
    return len(events)


def test_a_choice_from_a_list_is_compared_with_what_was_not_in_it() -> None:
    """Beside its list, what was chosen is compared with other candidates, as any choice; it counts once."""
    recommender, learner = Recommender(), Learner()
    offset = popular(10, recommender, learner)
    batch = examples_of(recommender, [shown(100, "u", "acd"), clicked(101, "u", "a")], offset)
    assert batch.kind.tolist() == [SHOWN, TAKEN, PREFERRED]
    assert batch.offsets.tolist() == [offset, offset + 1, offset + 1]
    assert sorted(names(batch, 1)) == list("acd") and names(batch, 2) == ["a", "b"]
    offered = batch.numbers[2, :2, NUMBERS.index("offered")].tolist()
    assert offered == [1, 0] and batch.weight[1] == batch.weight[2] > 0
    a = learner.items.number("a")
    before = learner.stats.count[a], learner.stats.taken[a]
    learner.learn(batch)
    assert (learner.stats.count[a], learner.stats.taken[a]) == (before[0] + batch.weight[1], before[1] + 1)


def test_what_is_learned_of_lists_orders_lists_only() -> None:
    """The numbers of an item weigh apart in a list that is shown and among all items."""
    learner = Learner()
    batch = examples_of(Recommender(), [shown(0, "u", "abcd"), clicked(1, "u", "d")])
    learner.learn(batch)
    in_lists, among_all = (t[POSITION, :1] for t in (LIST_TOKENS, NUMBER_TOKENS))
    assert learner.ranker.lookup(in_lists)[0] > 0 == learner.ranker.lookup(among_all)[0]


def test_who_takes_nearly_everything_says_less_by_it() -> None:
    """The same choice moves the ranker more when its user takes little of what is offered."""
    moved = []
    for eager in ("ab", ""):
        learner = Learner()
        events = [shown(0, "u", "abcdefgh"), *(clicked(1, "u", i) for i in eager)]
        last = [shown(9, "u", "xyz", "r2"), clicked(10, "u", "z", "r2")]
        batch = examples_of(Recommender(), [*events, *last])
        learner.learn(batch.rows(batch.offsets >= len(events)))
        moved.append(abs(learner.ranker.lookup(LIST_TOKENS[POSITION, :1])[0]))
    assert 0 < moved[0] < moved[1]


def test_offers_survive_in_the_packed_state() -> None:
    """A worker that takes over from a user's state learns the next click as the first one would."""
    first = Recommender()
    outcome = feed(first, [shown(0, "u", "abcd"), clicked(1, "u", "b")])
    states = dict(outcome.states)
    second = Recommender()
    after = [clicked(2, "u", "c")]
    ours = feed(first, after, 2).examples
    theirs = feed(second, after, 2, states=states).examples
    assert ours is not None and theirs is not None
    assert theirs.kind.tolist() == [TAKEN] == ours.kind.tolist()
    assert sorted(names(ours, 0)) == list("abcd")
    assert [sorted(b.keys[b.item[0, : b.count[0]]].tolist()) for b in (theirs, ours)] == [
        sorted(map(item_key, "abcd"))
    ] * 2  # the second worker knows the keys, not yet the ids


def test_no_user_remembers_more_offers_than_there_is_room() -> None:
    """The latest offers push out the oldest ones."""
    recommender = Recommender()
    events = [shown(t, "u", "".join(chr(0x100 + 20 * t + n) for n in range(20)), f"r{t}") for t in range(10)]
    feed(recommender, events)
    users, row = recommender.users.users, recommender.users.row("u")
    assert users.offers[row] == MOST_OFFERS and users.listed[row] == 20
    last = [recommender.items.ids[i] for i in users.offered[row, MOST_OFFERS - 20 :]]
    assert last == [chr(0x100 + 20 * 9 + n) for n in range(20)]


def test_a_state_from_before_there_were_offers_is_read() -> None:
    """A user's state without offers is a whole state."""
    table = UserTable(ItemIndex())
    recommender = Recommender()
    feed(recommender, [view_event(0, "u", "a")])
    state = recommender.users.pack("u")
    table.load("u", state)
    assert table.history("u") == [] and table.users.length[table.row("u")] == 1
    assert table.pack("u") == state
