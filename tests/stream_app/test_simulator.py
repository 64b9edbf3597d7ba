"""Truths about the simulated shop: repeatable, in order, and with something to learn."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from stream_app.errors import EventError
from stream_app.events import CANONICAL_TYPES, decode_event, encode_event
from stream_app.events.records import Event, Item
from stream_app.simulator import Shop


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(seed=3)


@pytest.fixture(scope="module")
def events(shop: Shop) -> list[Event]:
    return list(shop.events(20_000))


def next_item_ndcg(shop: Shop, events: list[Event], *, shifted: bool = False) -> tuple[float, float]:
    """ndcg@10 of the next new item viewed, ranked by true affinity and by popularity so far."""
    index = {item_id: i for i, item_id in enumerate(shop.item_ids)}
    popularity = np.zeros(len(index))
    seen: dict[str, list[int]] = defaultdict(list)
    gains: tuple[list[float], list[float]] = ([], [])
    for n, event in enumerate(e for e in events if e.event_type == "view_item"):
        item = index[event.item_id or ""]
        history = seen[event.user_id]
        if n > 2_000 and n % 3 == 0 and item not in history:
            affinity = shop.affinities(event.user_id, at_ms=event.event_time_ms, shifted=shifted)
            for scores, gain in zip((affinity, popularity.copy()), gains, strict=True):
                scores[history] = -np.inf
                rank = int((scores > scores[item]).sum() + (scores[:item] == scores[item]).sum())
                gain.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
        popularity[item] += 1
        history.append(item)
    return float(np.mean(gains[0])), float(np.mean(gains[1]))


def test_same_seed_same_events(shop: Shop, events: list[Event]) -> None:
    """The same seed gives equal bytes, and fewer events are the beginning of more."""
    again = [encode_event(e) for e in Shop(seed=3).events(5_000)]
    assert again == [encode_event(e) for e in events[:5_000]]
    assert again[:100] != [encode_event(e) for e in Shop(seed=4).events(100)]


def test_events_are_in_order_and_valid(events: list[Event]) -> None:
    """Events come in order of time, with unique ids, and read back as they were written."""
    times = [e.event_time_ms for e in events]
    assert times == sorted(times)
    assert len({e.event_id for e in events}) == len(events)
    assert all(decode_event(encode_event(e), key=e.user_id.encode()) == e for e in events[:2_000])


def test_sessions_lead_from_impressions_to_purchases(events: list[Event]) -> None:
    """All steps of a visit occur, the later the rarer, and a click is on something that was shown."""
    counts = Counter(e.event_type for e in events)
    assert set(counts) <= set(CANONICAL_TYPES)
    assert counts["view_item"] > counts["add_to_cart"] > counts["purchase"] > 100
    shown = {e.request_id: e.item_ids() for e in events if e.event_type == "view_item_list"}
    assert all(e.item_id in shown[e.request_id] for e in events if e.event_type == "select_item")
    assert all(len(set(items)) == len(items) for items in shown.values())


def test_there_is_something_to_learn(shop: Shop, events: list[Event]) -> None:
    """Who knows the true affinities ranks the next item at least three times as well as popularity."""
    knowing, popular = next_item_ndcg(shop, events)
    assert knowing > 3 * popular > 0


def test_affinity_of_one_item(shop: Shop) -> None:
    """The affinity of one item is its entry among all; unknown ids are an error."""
    assert shop.affinity("u00001", "sku-00002") == shop.affinities("u00001")[2]
    with pytest.raises(KeyError):
        shop.affinity("nobody", "sku-00002")


def test_drift_moves_tastes() -> None:
    """With drift an affinity changes over weeks, without it only the season of the week does."""
    week = 7 * 86_400_000
    for drift in (True, False):
        shop = Shop(seed=1, drift=drift)
        start = shop.choice.start_ms
        now, later = (shop.affinities("u00001", at_ms=t) for t in (start, start + week))
        assert np.allclose(now, later) is not drift


def test_taste_shift() -> None:
    """After a taste shift the old tastes explain little and the new ones much."""
    shop = Shop(seed=5, n_users=500, taste_shift_at=5_000, drift=False)
    after = list(shop.events(25_000))[6_000:]
    old, _ = next_item_ndcg(shop, after)
    new, _ = next_item_ndcg(shop, after, shifted=True)
    assert new > 2 * old


def test_the_shop_changes() -> None:
    """Prices change, stock runs out and comes back, new items appear before anybody sees them."""
    shop = Shop(seed=2, n_items=200, n_users=300)
    state = {item.item_id: item for item in shop.items()}
    assert 150 < len(state) < 200
    prices = out = back = new = 0
    for record in shop.records(30_000):
        if isinstance(record, Item):
            before = state.get(record.item_id)
            new += before is None
            prices += before is not None and before.price != record.price
            out += record.stock == 0
            back += before is not None and before.stock == 0 and (record.stock or 0) > 0
            state[record.item_id] = record
        else:
            assert set(record.item_ids()) <= state.keys()
    assert min(prices, out, back, new) > 0


def test_users_are_described(shop: Shop) -> None:
    """Users have age, gender and country; most agreed to marketing, some did not, some were not asked."""
    users = list(shop.users())
    assert {u.marketing_consent for u in users} == {True, False, None}
    assert all({"age", "gender", "country"} == u.attributes.keys() for u in users)


def test_bad_messages_are_bad(shop: Shop) -> None:
    """None of the malformed messages is an event, whatever the seed says, and they differ in their faults."""
    messages = shop.bad_messages(200)
    assert messages == Shop(seed=3).bad_messages(200)
    faults = set()
    for message in messages:
        with pytest.raises(EventError) as caught:
            decode_event(message, key=b"u00001")
        faults.add(caught.value.field)
    assert faults >= {"value", "user_id", "event_type", "event_time"}


def test_small_shops_work() -> None:
    """A shop with few items shows short lists, never an item twice; impossible sizes are refused."""
    shop = Shop(seed=1, n_items=24, n_users=3, n_categories=20)
    assert len(list(shop.events(2_000))) == 2_000
    assert all(len(set(e.item_ids())) == len(e.items) for e in shop.events(2_000) if e.items)
    assert list(shop.events(0)) == []
    with pytest.raises(ValueError, match="needs"):
        Shop(n_items=5)
