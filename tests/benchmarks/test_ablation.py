"""Truths about the ablation: what is left out is out, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ablation import (
    CONTEXT,
    WHOLE,
    Part,
    Partial,
    Stream,
    ablate,
    markdown,
    parts,
    shop_records,
    with_table,
)
from stream_app.events import Event, Item, User
from stream_app.model.features import NUMBERS
from stream_app.model.learning import touched_since
from stream_app.online import OnlineRecommender

N = 400


def taught(model: OnlineRecommender) -> OnlineRecommender:
    """The model after the beginning of the simulated shop."""
    for record in shop_records(N):
        if isinstance(record, Event):
            model.observe(record)
        elif isinstance(record, Item):
            model.observe_item(record)
        else:
            model.observe_user(record)
    return model


def answers(model: OnlineRecommender) -> list[list[str]]:
    """Lists for a few users."""
    time = max(r.event_time_ms for r in shop_records(N) if isinstance(r, Event))
    users = [r.user_id for r in shop_records(0) if isinstance(r, User)]
    return [model.recommend(user_id, time, 10) for user_id in users[:40]]


@pytest.fixture(scope="module")
def all_parts() -> dict[str, Part]:
    """What can be left out of the shop."""
    return parts(shop_records(0))


def test_without_nothing_it_is_the_dense_recommender(all_parts: dict[str, Part]) -> None:
    """The first row is what `recs evaluate` calls ours, list by list."""
    dense = taught(OnlineRecommender(compress=False))
    whole = taught(Partial(all_parts[WHOLE]))
    assert answers(whole) == answers(dense)


@pytest.mark.parametrize(
    "name", ["trends", "the item itself", "attributes of the user × the item and its own"]
)
def test_features_that_are_left_out_are_never_learned(all_parts: dict[str, Part], name: str) -> None:
    """The ranker has weights of all fields but those."""
    part = all_parts[name]

    def learned(part: Part) -> set[int]:
        return set(touched_since(taught(Partial(part)).learner.ranker, 0)[0].tolist())

    everything = learned(all_parts[WHOLE])
    left_out = {key for key in everything if part.has(np.array([key], np.uint64))[0]}
    assert left_out
    assert learned(part) == everything - left_out


def test_every_feature_is_in_one_group(all_parts: dict[str, Part]) -> None:
    """The groups of features share nothing, and together they are all that the ranker learns."""
    learned, _ = touched_since(taught(Partial(all_parts[WHOLE])).learner.ranker, 0)
    groups = [p for name, p in all_parts.items() if p.kind in ("numbers", "tokens") and name != CONTEXT]
    times = np.sum([part.has(learned) for part in groups], axis=0)
    assert len(learned) > len(NUMBERS)
    assert (times == 1).all()


def test_a_source_that_is_left_out_offers_nothing(all_parts: dict[str, Part]) -> None:
    """Without neighbours nothing is linked; without the pool a stranger gets an empty list."""
    alone = taught(Partial(all_parts["neighbours of the history"]))
    assert alone.learner.graph.length.sum() == 0
    assert len(alone.learner.pool()) > 0
    assert taught(Partial(all_parts[WHOLE])).learner.graph.length.sum() > 0
    lonely = taught(Partial(all_parts["everything that everybody is offered"]))
    assert lonely.recommend("a stranger", 0, 10) == []


def test_what_the_data_does_not_have_is_not_run() -> None:
    """Where no item is described there are no rows of categories, and the table says so."""
    views = [
        Event(f"{t}", "view_item", 60_000 * t, f"u{t % 9}", item_id=f"i{t * t % 31}") for t in range(300)
    ]
    result = ablate(Stream(lambda: views, is_there=True))
    rows = result["without"]
    assert "trends" in rows
    assert "the item's categories and attributes" not in rows
    assert rows["trends"]["difference"] == pytest.approx(
        rows["trends"]["ndcg@10"] - rows[WHOLE]["ndcg@10"], abs=2e-6
    )
    text = markdown(
        {
            "movielens_100k": result,
            "shop": {"without": {**rows, "more": {**rows["trends"], "kind": "tokens"}}},
        }
    )
    assert "| tokens | more | – | – | – |" in text


def test_the_table_needs_its_place() -> None:
    """Docs without markers are an error, not a lost table."""
    with pytest.raises(ValueError, match="no place"):
        with_table("text", {})
