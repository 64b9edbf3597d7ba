"""Messages of triggers: what they carry, and that a repeated one is the same."""

from __future__ import annotations

import json

from stream_app.events import Event, User
from stream_app.firing import Firing
from stream_app.lookout import Lookout
from stream_app.online import OnlineRecommender
from stream_app.simulator import Shop
from stream_app.triggers.engine import TriggerEngine
from stream_app.triggers.messages import message_id
from stream_app.triggers.rules_file import parse_trigger_rules

NOON = 1_767_614_400_000
RULES = parse_trigger_rules('[[rules]]\nname = "cart_abandonment"\nversion = 7\nhold_out = 0.0')


def test_a_message_recommends_what_the_list_has_with_reasons() -> None:
    """The user's list of now, best first, without the cart itself; reasons are those of `recs get --why`."""
    shop = Shop(2, n_items=60, n_users=40, n_categories=4)
    online = OnlineRecommender(compress=False)
    for record in [*shop.items(), *shop.records(1_200)]:
        if isinstance(record, Event):
            online.observe(record)
        else:
            online.observe_item(record)
    recommender = online.recommender
    lookout = Lookout(TriggerEngine(RULES), recommender.users)
    firing = Firing(recommender, lookout, None, lambda: NOON)  # type: ignore[arg-type]
    user = recommender.users.in_memory()[-1]
    lists = recommender.lists([user])
    first = lists.items[0][0]
    for consent in (True, None):
        lookout.engine.observe_user(User(user, consent))
        added = Event("e", "add_to_cart", NOON, user, item_id=first, value=9.0)
        look = lookout.engine.on_events(user, None, -1, [(added, NOON, 0)])
        looks = [lookout.engine.on_time(user, look.packed, NOON, look.due_ms)]
        [message] = firing.messages(looks, lists, "triggers", "held", "shop")
        assert message == firing.messages(looks, lists, "triggers", "held", "shop")[0]
        topic, key, value, _ = message
        assert value is not None
        event = json.loads(value)
        data = event["data"]
        assert key == user.encode() and event["source"] == "/recs/shop" and data["rule_version"] == 7
        assert event["id"] == message_id("cart_abandonment", user, f"cart@{NOON}")
        assert data["expires_at"] == "2026-01-07T12:30:00.000Z" and data["items"][0]["item_id"] == first
        if consent is None:
            assert topic == "held" and data["suppressed"] == "no_consent" and data["recommendations"] == []
            continue
        assert topic == "triggers" and "suppressed" not in data
        picks = [pick["item_id"] for pick in data["recommendations"]]
        assert picks == lists.items[0][1:6]
        reasons = [recommender.explain(user, item) for item in picks]
        assert [p["why"] for p in data["recommendations"]] == [r.text for r in reasons if r is not None]


def test_ids_differ_by_rule_user_and_cause_and_cannot_be_forged() -> None:
    """Parts that are cut elsewhere make another id."""
    ids = {
        message_id("a", "b", "c"),
        message_id("a", "bc", ""),
        message_id("a", "", "bc"),
        message_id("ab", "", "c"),
        message_id("a", "b", "d"),
    }
    assert len(ids) == 5
