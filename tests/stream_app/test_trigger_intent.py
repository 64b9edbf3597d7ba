"""The model of high intent: what it learns, when, and that it survives whole."""

from __future__ import annotations

import numpy as np
import pytest

from stream_app.errors import StoreError
from stream_app.events import Event, Item, User
from stream_app.simulator import Shop
from stream_app.triggers.intent import (
    BANDS,
    FEATURES,
    LEAST_LEARNED,
    TURN,
    WITHIN_MS,
    Intent,
    Moment,
    deciles,
    features_of,
    is_sampled,
)
from stream_app.triggers.memory import Memory, Session, remember
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules_file import parse_trigger_rules
from stream_app.triggers.shelf import Shelf

MINUTE, HOUR = 60_000, 3_600_000


def visits(n: int, seed: int = 1) -> list[Moment]:
    """Moments of `n` users, of whom those with something in the cart buy more often, five minutes later."""
    rng = np.random.default_rng(seed)
    moments, offset = [], 0
    for user in range(n):
        in_cart = bool(rng.random() < 0.3)
        x = (1.0, float(rng.random()), 0.0, float(in_cart), 0.0, float(in_cart), float(rng.random()), 0.0)
        moments.append(Moment(offset, user, user * MINUTE, x))
        if rng.random() < (0.5 if in_cart else 0.05):
            moments.append(Moment(offset + 3, user, (user + 5) * MINUTE, None))
        offset += 5
    return sorted(moments)


def learn(intent: Intent, moments: list[Moment]) -> None:
    clock = 0
    for moment in moments:
        intent.advance(moment.offset, clock)
        intent.absorb([moment])
        clock = max(clock, moment.at_ms)


def test_carts_are_found_out() -> None:
    """Who has something in the cart scores higher than who has not, and the probability is about right."""
    intent = Intent()
    learn(intent, visits(3_000))
    empty = intent.score((1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0))
    full = intent.score((1.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.5, 0.0))
    assert empty is not None and full is not None
    assert empty[0] == pytest.approx(0.05, abs=0.04) and full[0] == pytest.approx(0.5, abs=0.15)
    assert 1 <= empty[1] < full[1] <= BANDS


def test_a_score_is_the_probability_of_the_river_model() -> None:
    """As the model was at the last turn; answers that came since change nothing yet."""
    intent = Intent()
    moments = visits(1_000)
    learn(intent, moments)
    x = (1.0, 0.7, 0.0, 1.0, 0.0, 1.0, 0.2, 0.0)
    score = intent.score(x)
    assert score is not None
    named = dict(zip(FEATURES, x, strict=True))
    assert score[0] == pytest.approx(intent.model.predict_proba_one(named)[True], abs=1e-6)
    intent.absorb([Moment(moments[-1].offset + 9, 1, 2_000 * MINUTE, x)])
    intent.absorb([Moment(moments[-1].offset + 12, 1, 2_001 * MINUTE, None)])
    assert intent.score(x) == score


def test_a_look_that_may_not_reach_a_band_does_not() -> None:
    """The sum alone refuses nearly all that the score would not have reached, and nothing else."""
    intent = Intent()
    learn(intent, visits(2_000))
    rng = np.random.default_rng(4)
    refused = below = 0
    for _ in range(2_000):
        x = (1.0, *rng.choice([0.0, 0.7, 1.1], len(FEATURES) - 1).tolist())
        score = intent.score(x)
        assert score is not None
        for band in range(1, BANDS + 1):
            refused += not intent.may_reach(x, band)
            below += score[1] < band
            assert intent.may_reach(x, band) or score[1] < band
    assert 0.95 * below <= refused <= below > 0
    assert not Intent().may_reach((1.0,) * len(FEATURES), 1)


def test_deciles_are_those_of_numpy() -> None:
    """Bit for bit, with repeats or without, so bands are what they were."""
    rng = np.random.default_rng(3)
    for n in range(500):
        scores = np.round(rng.random(100 + n % 157) ** (1 + n % 4), 1 + n % 6)
        assert (
            deciles(scores.tolist()) == np.unique(np.quantile(scores, np.linspace(0, 1, 11)[1:-1])).tolist()
        )


def test_it_says_nothing_before_it_has_learned() -> None:
    """No score before enough answers, so no message of a rule that asks for one."""
    intent = Intent()
    learn(intent, visits(LEAST_LEARNED // 2))
    assert intent.score((1.0,) * len(FEATURES)) is None


def test_a_restart_in_between_changes_nothing() -> None:
    """Packed and read again at any place, it ends with the same bytes; repeated moments are known."""
    moments = visits(1_200)
    whole, parts = Intent(), Intent()
    learn(whole, moments)
    for start in range(0, len(moments), 101):
        learn(parts, moments[max(0, start - 20) : start + 101])  # the last twenty once more
        parts = Intent(parts.pack())
    assert parts.pack() == whole.pack()


def test_half_an_hour_without_a_purchase_is_an_answer() -> None:
    """A purchase after that is no success of the moment."""
    intent = Intent()
    x = (1.0,) * len(FEATURES)
    intent.absorb([Moment(0, 7, 0, x), Moment(1, 7, WITHIN_MS + 1, None)])
    intent.advance(TURN, WITHIN_MS + 2)
    assert intent.model.predict_proba_one(dict(zip(FEATURES, x, strict=True)))[True] < 0.5


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x91\x63"])
def test_what_is_no_model_is_refused(packed: bytes) -> None:
    """Damage is found when it is read."""
    with pytest.raises(StoreError, match="high intent"):
        Intent(packed)


def test_features_come_from_the_visit() -> None:
    """Counts of the visit, the cart, the minutes since it began; a pause of half an hour begins another."""
    memory, shelf = Memory(), Shelf()
    for n, what in enumerate(["view_item", "view_item", "add_to_cart"]):
        at_ms = HOUR + n * MINUTE
        remember(memory, Event(f"e{n}", what, at_ms, "u", item_id="a"), at_ms, shelf)
    assert features_of(memory, HOUR + 2 * MINUTE) == pytest.approx(
        (1.0, np.log(3), 0.0, np.log(2), 0.0, np.log(2), np.log(3), 0.0)
    )
    later = 2 * HOUR
    remember(memory, Event("e9", "view_item", later, "u", item_id="a"), later, shelf)
    assert memory.session == Session(later, later, 1, 0, 0, 0)


def test_a_quarter_of_all_moments_is_sampled() -> None:
    """Spread evenly over the offsets."""
    share = np.array([is_sampled(offset) for offset in range(40_000)]).reshape(40, -1).mean(1)
    assert abs(share.mean() - 0.25) < 0.01 and abs(share - 0.25).max() < 0.1


def test_who_is_spoken_to_buys_more_often() -> None:
    """In the simulated shop, visits that the rule picks end with a purchase more often than others."""
    shop = Shop(5, n_items=200, n_users=300)
    rules = parse_trigger_rules(
        'pause = "0 s"\n[[rules]]\nname = "high_intent"\nhold_out = 0.0\ncooldown = "1 h"'
    )
    preview = Preview(rules)
    for user in shop.users():
        preview.feed(User(user.user_id, True))
    events = []
    for record in shop.records(20_000):
        preview.feed(record)
        events += [] if isinstance(record, Item) else [record]
    bought = [(e.user_id, e.event_time_ms) for e in events if e.event_type == "purchase"]
    picked = [d for d in preview.decisions if d.rule.name == "high_intent"]
    picked = picked[len(picked) // 2 :]  # when it has learned what there is to learn
    looks = [e for e in events if e.event_type == "view_item"]

    def share(moments: list[tuple[str, int]]) -> float:
        by_user: dict[str, list[int]] = {}
        for user_id, at_ms in bought:
            by_user.setdefault(user_id, []).append(at_ms)
        return float(np.mean([any(0 <= b - t <= WITHIN_MS for b in by_user.get(u, [])) for u, t in moments]))

    assert len(picked) > 30
    of_picked = share([(d.user_id, d.at_ms) for d in picked])
    assert of_picked > 1.4 * share([(e.user_id, e.event_time_ms) for e in looks])
