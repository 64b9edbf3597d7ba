"""Off-policy estimates against simulated logs whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stream_app.errors import InputError
from stream_app.evaluation.off_policy import LoggedPlace, ips, logged_places, snips
from stream_app.events import Event, Item
from stream_app.lists.exploring import Exploration
from stream_app.recommender import Recommender
from stream_app.served_json import lists_json
from tests.stream_app.worlds import feed, view_event

ACTIONS = 6
RATE = np.array([0.05, 0.3, 0.1, 0.02, 0.15, 0.2])  # probability of a choice, by item


def log(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places drawn with share .5 around a ranking of two kinds of users: reward, propensity, item, kind."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=n)
    best = np.where(kind == 0, 0, 3)
    item = np.where(rng.random(n) < 0.5, rng.integers(ACTIONS, size=n), best)
    propensity = 0.5 / ACTIONS + 0.5 * (item == best)
    chance = np.where(kind == 0, RATE[item], RATE[::-1][item])
    return (rng.random(n) < chance).astype(float), propensity, item, kind


TRUTH = (RATE[1] + RATE[::-1][1]) / 2  # of the policy that always shows item 1


def test_estimates_find_the_truth() -> None:
    """Over 300 logs both estimates are right on average; the log's own mean reward is far off."""
    estimates = []
    naive = []
    for seed in range(300):
        r, p, item, _ = log(seed, 2_000)
        target = (item == 1).astype(float)
        estimates.append((ips(r, p, target).value, snips(r, p, target).value))
        naive.append(r.mean())
    means, errors = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(300)
    assert (np.abs(means - TRUTH) < 3.5 * errors + 1e-4).all()
    assert abs(np.mean(naive) - TRUTH) > 0.05
    assert np.std([s for _, s in estimates]) < np.std([i for i, _ in estimates]), "snips varies less"


@pytest.mark.parametrize("estimate", [ips, snips])
def test_intervals_cover_the_truth(estimate: object) -> None:
    """About 95 of 100 intervals hold it: between 92 and 98 of 100, over 500 logs."""
    covered = 0
    for seed in range(500):
        r, p, item, _ = log(seed, 1_500)
        found = estimate(r, p, item == 1)  # type: ignore[operator]
        covered += found.low <= TRUTH <= found.high
    assert 460 <= covered <= 490


def test_the_logging_policy_itself() -> None:
    """With the log's own propensities as target, every weight is 1 and the estimate the mean."""
    r, p, _, _ = log(0, 100)
    for found in (ips(r, p, p), snips(r, p, p)):
        assert found.value == pytest.approx(r.mean()) and found.effective == pytest.approx(100)
    assert found.low < found.value < found.high


def test_bad_input_is_refused() -> None:
    """What cannot be a log says so; a policy that the log knows nothing of has no value."""
    for r, p, t in (
        ([1], [0], [1]),
        ([1], [1.1], [1]),
        ([1, 0], [1], [1]),
        ([], [], []),
        ([np.nan], [1], [1]),
    ):
        with pytest.raises(InputError):
            ips(r, p, t)
    assert np.isnan(snips([1.0], [0.5], [0.0]).value) and ips([1.0], [0.5], [0.0]).value == 0


def test_lists_are_joined_with_choices() -> None:
    """What a recommender wrote is read back: each drawn place, its propensity, and whether it was chosen."""
    recommender = Recommender(k=3, explore=Exploration(1, 1.0))
    for n in range(8):
        recommender.observe_item(Item(f"i{n}"))
    first = view_event(10, "u", "i0")
    feed(recommender, [first], 0)
    exposures = [json.loads(data) for _, data in lists_json(recommender.lists(["u"]), "v", 0)]
    shown = exposures[0]["items"][2]
    second = view_event(20, "u", shown["item_id"])
    places = logged_places([*exposures, *exposures], [first, second, view_event(30, "v", "i1")])
    best = shown.get("instead_of", shown["item_id"])
    assert places == [LoggedPlace("u", shown["item_id"], best, 3, shown["propensity"], 1.0)]
    other = Event("x", "view_item_list", second.event_time_ms, "u", item_id=shown["item_id"])
    assert logged_places(exposures, [first, other])[0].reward == 0
