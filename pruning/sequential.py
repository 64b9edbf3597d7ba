"""Statistics that may be looked at after every event: confidence sequences, CUSUM, a circuit breaker.

A fixed-sample interval that is looked at again and again errs ever more often; these keep their promise at
all times together, so a shadow test may stop as soon as it knows.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import NonFiniteError, ParameterError


class ConfidenceSequence:
    """An anytime-valid interval for a mean, fed in batches.

    At every time t at once, with probability 1 − alpha (asymptotically in the first `burn_in` samples),

    |mean_t − μ| ≤ sd_t · √( 2(tρ² + 1)/(t²ρ²) · ln(√(tρ² + 1)/α) ),

    where ρ is set so that the interval is tightest at `planned` samples.

    Parameters
    ----------
    alpha
        Probability that the interval ever misses, both sides together.
    planned
        The sample size it is tuned for.
    burn_in
        Before so many samples the interval is infinite.

    Examples
    --------
    >>> cs = ConfidenceSequence(planned=1000)
    >>> cs.update(np.random.default_rng(0).normal(1, 1, 1000))
    >>> low, high = cs.interval
    >>> low < 1 < high, round(high - low, 2)
    (True, 0.17)

    References
    ----------
    Waudby-Smith, I., Arbour, D., Sinha, R., Kennedy, E., Ramdas, A., 2024. Time-uniform central limit theory
    and asymptotic confidence sequences. Annals of Statistics 52, theorem 2.2.
    """

    def __init__(self, alpha: float = 0.1, planned: int = 50_000, burn_in: int = 200):
        if not 0 < alpha < 1 or planned < 1 or burn_in < 2:
            raise ParameterError("alpha lies between 0 and 1, planned is at least 1, burn_in at least 2")
        self.alpha = alpha
        self.burn_in = burn_in
        self._rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / planned
        self.n = 0
        self.mean = 0.0
        self._m2 = 0.0  # Σ(x − mean)²

    def update(self, values: ArrayLike) -> None:
        """Add samples, (n,), in the order they came.

        Raises
        ------
        NonFiniteError
            If one is NaN or infinite; nothing was added.
        """
        x = np.asarray(values, np.float64).ravel()
        if not np.isfinite(x).all():
            raise NonFiniteError("a sample is NaN or infinite")
        if not len(x):
            return
        mean, m2 = float(x.mean()), float(((x - x.mean()) ** 2).sum())
        total, delta = self.n + len(x), mean - self.mean  # Chan's parallel update
        self._m2 += m2 + delta**2 * self.n * len(x) / total
        self.mean += delta * len(x) / total
        self.n = total

    @property
    def standard_deviation(self) -> float:
        """Of the samples."""
        return math.sqrt(self._m2 / (self.n - 1)) if self.n > 1 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """The interval now; it may be read at any time and as often as wanted."""
        if self.n < self.burn_in:
            return -math.inf, math.inf
        a = self.n * self._rho2 + 1
        margin = self.standard_deviation * math.sqrt(
            2 * a / (self.n**2 * self._rho2) * math.log(math.sqrt(a) / self.alpha)
        )
        return self.mean - margin, self.mean + margin


class Cusum:
    """Watches a stream of paired loss differences for a lasting rise.

    S ← max(0, S + (x − mean)/sd − drift); alarm when S > threshold. Mean and deviation come from the first
    `reference` values, taken while all was well.

    Parameters
    ----------
    drift
        Rises below this many standard deviations are ignored.
    threshold
        Height of the alarm in standard deviations; 20 with a drift of .25 means a false alarm about every
        e^(2 · .25 · 20) ≈ 22,000 values.
    reference
        How many values set the level.

    Examples
    --------
    >>> watch, rng = Cusum(reference=500), np.random.default_rng(0)
    >>> watch.update(rng.normal(0, .01, 2000)), watch.update(rng.normal(.01, .01, 200))
    (False, True)

    References
    ----------
    Page, E.S., 1954. Continuous inspection schemes. Biometrika 41.
    """

    def __init__(self, drift: float = 0.25, threshold: float = 20.0, reference: int = 1000):
        if drift < 0 or threshold <= 0 or reference < 2:
            raise ParameterError("drift is at least 0, threshold above 0, reference at least 2")
        self.drift = drift
        self.threshold = threshold
        self.reference = reference
        self.height = 0.0
        self._first: list[float] = []
        self._level: tuple[float, float] | None = None

    def update(self, values: ArrayLike) -> bool:
        """Add values in order and tell whether the alarm went off; it stays on until `reset`."""
        x = np.asarray(values, np.float64).ravel()
        if not np.isfinite(x).all():
            self.height = math.inf  # a loss that is not finite is an alarm by itself
            return True
        for value in x.tolist():
            if self._level is None:
                self._first.append(value)
                if len(self._first) == self.reference:
                    self._level = (float(np.mean(self._first)), max(float(np.std(self._first)), 1e-12))
                    self._first.clear()
                continue
            mean, deviation = self._level
            self.height = max(0.0, self.height + (value - mean) / deviation - self.drift)
            if self.height > self.threshold:
                return True
        return self.height > self.threshold

    def reset(self) -> None:
        """Forget everything: a new artefact is watched from the start."""
        self.height, self._level = 0.0, None
        self._first.clear()


@dataclasses.dataclass
class CircuitBreaker:
    """Stops proposing after several failures in a row, for a while counted in learned examples.

    Parameters
    ----------
    failures
        How many rejections or rollbacks in a row open it.
    pause_steps
        For how many steps it stays open.

    Examples
    --------
    >>> breaker = CircuitBreaker(failures=2, pause_steps=1000)
    >>> breaker.failed(10); breaker.failed(20)
    >>> breaker.allows(500), breaker.allows(1020)
    (False, True)
    """

    failures: int = 3
    pause_steps: int = 100_000
    _count: int = dataclasses.field(default=0, init=False)
    _open_until: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.failures < 1 or self.pause_steps < 0:
            raise ParameterError("failures is at least 1 and pause_steps at least 0")

    def allows(self, step: int) -> bool:
        """Whether a proposal may be made at this step."""
        return step >= self._open_until

    def failed(self, step: int) -> None:
        """Count a rejection or a rollback."""
        self._count += 1
        if self._count >= self.failures:
            self._count, self._open_until = 0, step + self.pause_steps

    def succeeded(self) -> None:
        """Forget the failures."""
        self._count = 0
