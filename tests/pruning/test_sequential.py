"""Sequential statistics keep their promise however often they are asked."""

import math

import numpy as np
import pytest

from pruning import Guard, NonFiniteError, ParameterError
from pruning.sequential import CircuitBreaker, ConfidenceSequence, Cusum


@pytest.mark.parametrize("law", ["normal", "heavy"])
def test_the_interval_covers_the_mean_at_all_times_together(law: str) -> None:
    """In 1,000 runs looked at after every 100 of 20,000 samples, at most 10 % ever miss the true mean."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(1000):
        x = rng.normal(0, 1, 20_000) if law == "normal" else rng.standard_t(4, 20_000)
        cs = ConfidenceSequence(alpha=0.1, planned=10_000, burn_in=200)
        for i in range(0, 20_000, 400):
            cs.update(x[i : i + 400])
            low, high = cs.interval
            if not low <= 0 <= high:
                missed += 1
                break
    assert missed <= 100


def test_a_candidate_at_the_edge_of_the_tolerance_is_promoted_in_few_of_1000_shadows() -> None:
    """When the true rise equals the tolerance, at most 5 % of shadow tests promote or reject wrongly."""
    rng = np.random.default_rng(1)
    guard = Guard(tolerance=1e-3, min_samples=500)
    verdicts = []
    for _ in range(1000):
        shadow = guard.shadow(max_samples=5000)
        while not shadow.finished:
            shadow.update(np.zeros(500), rng.normal(1e-3, 0.02, 500))
        verdicts.append(shadow.decision.verdict)
    assert verdicts.count("promote") <= 50
    assert verdicts.count("reject") <= 50


def test_a_trial_that_is_judged_again_and_again_counts_its_looks() -> None:
    """Four looks at a candidate at the edge of the tolerance err in 5 % of trials, uncounted in more."""
    rng, guard = np.random.default_rng(2), Guard(tolerance=1e-3, min_samples=250)
    wrong = {"counted": 0, "uncounted": 0}
    for _ in range(1000):
        risen = rng.normal(1e-3, 0.02, 2000)
        for name in wrong:
            for look, n in enumerate((250, 500, 1000, 2000), start=1):
                one = guard.judge(np.zeros(n), risen[:n], look=look if name == "counted" else 0)
                if one.promoted:
                    wrong[name] += 1
                    break
    assert wrong["counted"] <= 50 < wrong["uncounted"]


def test_shadows_decide_clear_cases_and_leave_close_ones() -> None:
    """Surely better: promote; surely worse: reject; equal with few events: undecided, which ends the test."""
    rng = np.random.default_rng(7)
    verdicts = {}
    for shift in (-0.01, 0.01, 0.0005):
        shadow = Guard(tolerance=5e-4, min_samples=500).shadow(max_samples=3000)
        while not shadow.finished:
            shadow.update(np.zeros(500), rng.normal(shift, 0.02, 500))
        verdicts[shift] = shadow.decision.verdict
    assert verdicts == {-0.01: "promote", 0.01: "reject", 0.0005: "undecided"}


def test_batches_do_not_matter() -> None:
    """The same samples in other batches give the same interval."""
    x = np.random.default_rng(3).normal(5, 2, 1000)
    one, many = ConfidenceSequence(), ConfidenceSequence()
    one.update(x)
    for part in np.array_split(x, 17):
        many.update(part)
    assert one.interval == pytest.approx(many.interval, rel=1e-12)
    assert one.standard_deviation == pytest.approx(x.std(ddof=1))


def test_nothing_is_known_before_the_burn_in() -> None:
    """The interval is infinite before `burn_in` samples."""
    cs = ConfidenceSequence(burn_in=10)
    cs.update(np.ones(9))
    assert cs.interval == (-math.inf, math.inf)


def test_cusum_is_quiet_under_noise_and_loud_after_a_lasting_rise() -> None:
    """Silent in nearly all of 50 runs of 3,000 values; a rise of one deviation is found in 40 values."""
    rng = np.random.default_rng(4)
    false_alarms, delays = 0, []
    for _ in range(50):
        watch = Cusum(reference=500)
        false_alarms += watch.update(rng.normal(0, 0.01, 3000))
        watch.height = 0.0
        delay = next(i for i in range(10_000) if watch.update(rng.normal(0.01, 0.01, 1)))
        delays.append(delay)
    assert false_alarms <= 5
    assert np.mean(delays) < 40


def test_a_loss_that_is_not_finite_is_an_alarm_for_the_watch_and_an_error_for_the_interval() -> None:
    """NaN never passes silently."""
    assert Cusum().update([math.nan])
    with pytest.raises(NonFiniteError):
        ConfidenceSequence().update([math.inf])
    shadow = Guard().shadow()
    shadow.update([0.1], [math.nan])
    assert shadow.decision.verdict == "reject"


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    """A success in between closes the count."""
    breaker = CircuitBreaker(failures=2, pause_steps=100)
    breaker.failed(1)
    breaker.succeeded()
    breaker.failed(2)
    assert breaker.allows(3)
    breaker.failed(4)
    assert not breaker.allows(103)
    assert breaker.allows(104)


def test_settings_out_of_range_are_refused() -> None:
    """Named errors for every parameter."""
    for make in (
        lambda: ConfidenceSequence(alpha=0),
        lambda: Cusum(threshold=0),
        lambda: CircuitBreaker(failures=0),
    ):
        with pytest.raises(ParameterError):
            make()
