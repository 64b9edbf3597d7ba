"""Lists for unknown users and of similar items."""

from __future__ import annotations

import pytest

from stream_app.events import Event, Item
from stream_app.lists.shared import SharedLists
from stream_app.online import OnlineRecommender


@pytest.fixture
def shop() -> OnlineRecommender:
    """Thirty users who view i0 to i4 by turns; i0 twice as often as the others."""
    online = OnlineRecommender(compress=False)
    time = 0
    for user in range(30):
        for item in (0, 1 + user % 4):
            online.observe(Event(f"e{time}", "view_item", 1000 * time, f"u{user}", item_id=f"i{item}"))
            time += 1
    return online


def test_popular_items_come_first(shop: OnlineRecommender) -> None:
    """The list for unknown users is ordered by events, the latest by first appearance."""
    lists = SharedLists(shop.learner, 3).everybody()
    assert [item for item, _ in lists["popular"]] == ["i0", "i1", "i2"]
    assert [item for item, _ in lists["latest"]] == ["i4", "i3", "i2"]
    assert len(lists["trending"]) == 3 and lists["trending"][0][1] >= lists["trending"][1][1]


def test_every_item_gets_its_similar_ones_in_time(shop: OnlineRecommender) -> None:
    """However few are made at once, all are made, and then none until something changes."""
    shared = SharedLists(shop.learner, 3)
    made: dict[str, list[str]] = {}
    for _ in range(10):
        made |= {item: [i for i, _ in pairs] for item, pairs in shared.similar(2).items()}
    assert set(made) == {f"i{n}" for n in range(5)}
    assert made["i1"][0] == "i0" and "i1" not in made["i1"]
    assert shared.similar(2) == {}
    shop.observe(Event("new", "view_item", 10**6, "u99", item_id="i3"))
    assert set(shared.similar(9)) == {"i3"}


def test_what_may_not_be_shown_is_in_no_list(shop: OnlineRecommender) -> None:
    """Hidden items leave popular, trending, latest and similar lists, and get none themselves."""
    shop.observe_item(Item("i0", is_hidden=True))
    shared = SharedLists(shop.learner, 5)
    lists = [*shared.everybody().values(), *(similar := shared.similar(9)).values()]
    assert "i0" not in similar and all(item != "i0" for pairs in lists for item, _ in pairs)
