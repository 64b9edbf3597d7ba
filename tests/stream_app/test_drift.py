"""The drift alarm: River's test in one call, and what it does on a shop whose tastes turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from stream_app.model.drift import PageHinkley, example_losses
from stream_app.model.learning import Learner
from stream_app.simulator import Shop
from tests.stream_app.worlds import Pair, random_events


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 4)), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.integers(1, 40),
)
def test_it_is_rivers_test(runs: list[tuple[int, int]], seed: int, cut: int) -> None:
    """The same alarms as River's, however the values are cut into batches, and after saving at any cut."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(level, 1, n) for n, level in runs])
    theirs = drift.PageHinkley(min_instances=5, delta=0.1, threshold=4, alpha=1.0, mode="up")
    expected = []
    for t, value in enumerate(values.tolist()):
        theirs.update(value)
        if theirs.drift_detected:
            expected.append(t)
    ours, found = PageHinkley(0.1, 4, 5), []
    for start in range(0, len(values), cut):
        found += [start + at for at in ours.update(values[start : start + cut])]
        again = PageHinkley.restored(ours.state())
        again.delta, again.threshold, again.least = 0.1, 4, 5
        ours = again
    assert found == expected and ours.alarms == len(expected)


def test_losses_are_means_of_pairs() -> None:
    """Each example's loss is the mean of its pairs' log losses."""
    p, labels = np.array([0.9, 0.2, 0.5]), np.array([1, 0, 1], np.float32)
    expected = [-(np.log(0.9) + np.log(0.8)) / 2, -np.log(0.5)]
    assert example_losses(p, labels, np.array([2, 1])) == pytest.approx(expected)


def test_the_alarm_is_saved_with_the_learner() -> None:
    """A learner that was restored watches on from where it was; one without a ranked example has no mean."""
    learner = Pair().run(random_events(300)).learner
    assert learner.drift.mean > 0 and learner.drift.alarms == 0
    restored, _ = Learner.from_bytes(learner.to_bytes())
    assert restored.drift.state() == learner.drift.state() and restored.drifted == learner.drifted
    assert np.isnan(Learner().drift.mean)


def test_a_taste_shift_is_noticed() -> None:
    """Everybody's tastes turn at event 12,000: no alarm before, one within 4,000 events after."""
    pair = Pair()
    shop = Shop(2, n_users=200, taste_shift_at=12_000, drift=False)
    for item in shop.items():
        pair.recommender.observe_item(item)
    for user in shop.users():
        pair.recommender.observe_user(user)
    events = list(shop.events(16_000))
    pair.run(events[:12_000], every=500)
    assert pair.learner.drift.alarms == 0 and pair.learner.drifted is None
    pair.run(events[12_000:], every=500)
    assert pair.learner.drift.alarms == 1 and pair.learner.drifted is not None
    assert pair.learner.drifted[1] >= events[12_000].event_time_ms
