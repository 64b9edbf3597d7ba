"""Items that a user met and did not like: never offered, linked, and counted apart."""

from __future__ import annotations

from stream_app.events import Event
from stream_app.model.examples import ExampleBatch
from stream_app.online import OnlineRecommender
from stream_app.recommender import Recommender


def rate(t: int, user_id: str, item_id: str, value: float) -> Event:
    """A rating at second `t`."""
    return Event(f"{user_id}-{item_id}-{t}", "rate", t * 1000, user_id, item_id=item_id, value=value)


def test_an_item_that_was_rated_low_is_not_recommended_to_its_rater() -> None:
    """A low rating takes an item out of its rater's list, and out of no other."""
    shop = OnlineRecommender(compress=False)
    for t in range(20):
        shop.observe(rate(t, f"u{t}", f"i{t % 4}", 5.0))
    shop.observe(rate(30, "critic", "i1", 1.0))
    assert "i1" not in shop.recommend("critic", 31_000, 10)
    assert "i1" in shop.recommend("somebody", 31_000, 10)


def test_a_low_rating_links_but_does_not_count() -> None:
    """What is met together is linked; popularity and trends know nothing of it."""
    shop = OnlineRecommender(compress=False)
    shop.observe(rate(0, "u1", "a", 5.0))
    shop.observe(rate(1, "u1", "b", 2.0))
    learner = shop.learner
    a, b = learner.items.number("a"), learner.items.number("b")
    linked = learner.graph.item[learner.graph.start[a] : learner.graph.start[a] + learner.graph.length[a]]
    assert b in linked
    assert (learner.stats.count[b], learner.stats.met[b], learner.stats.last[b]) == (0.0, 1.0, -1)
    assert (learner.stats.count[a] > 0, learner.stats.met[a]) == (True, 0.0)


def test_a_low_rating_is_an_example_that_survives_the_wire() -> None:
    """The example of a low rating has weight 0 and one item, before and after serialization."""
    recommender = Recommender()
    recommender.users.load("u", None)
    outcome = recommender.apply(0, [5], [rate(0, "u", "a", 1.0)])
    assert outcome.examples is not None
    batch = ExampleBatch.from_bytes(outcome.examples.to_bytes())
    assert (batch.weight.tolist(), batch.count.tolist(), batch.ids) == ([0.0], [1], ["a"])


def test_a_second_opinion_wins() -> None:
    """An item first rated low and then high is learned as chosen, once; high and then low stays chosen."""
    recommender = Recommender()
    recommender.users.load("u", None)
    ratings = [rate(0, "u", "a", 1.0), rate(1, "u", "a", 5.0), rate(2, "u", "a", 1.0)]
    outcome = recommender.apply(0, [0, 1, 2], ratings)
    assert outcome.examples is not None
    assert [w > 0 for w in outcome.examples.weight.tolist()] == [False, True]
    users = recommender.users.users
    row = recommender.users.row("u")
    assert (users.length[row], users.best[row, 0] > 0) == (1, True)
