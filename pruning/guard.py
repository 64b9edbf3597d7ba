"""The guard: a candidate is served only when it is proven to be about as good as the dense export.

Both score the same events (a paired comparison cuts the sample 20–750 times), the candidate against the dense
trainer's export at the same offset, never against the previous artefact, or losses would ratchet.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pruning.artefact import Artefact
from pruning.errors import ArtefactError, NonFiniteError, ParameterError
from pruning.sequential import ConfidenceSequence

Verdict = Literal["promote", "reject", "undecided"]


@dataclasses.dataclass(frozen=True)
class GuardDecision:
    """What the guard decided, and why.

    Parameters
    ----------
    verdict
        `"promote"`, `"reject"`, or `"undecided"`: keep the old artefact and come back with more events.
    reason
        One sentence.
    evidence
        The figures behind it, JSON.

    Examples
    --------
    >>> losses = np.full(2000, .5)
    >>> decision = Guard().judge(losses, losses + .01)
    >>> decision.verdict, decision.promoted, decision.evidence["events"]
    ('reject', False, 2000)
    >>> decision.reason
    'the loss rises by 0.01000 per event, surely by 0.01000; 0.00050 is accepted'
    """

    verdict: Verdict
    reason: str
    evidence: Mapping[str, Any]

    @property
    def promoted(self) -> bool:
        """Whether the candidate may be served."""
        return self.verdict == "promote"


@dataclasses.dataclass(frozen=True)
class Guard:
    """Judges a candidate by paired losses, overlap, calibration and slices.

    Parameters
    ----------
    tolerance
        Largest increase of the mean loss that is accepted, in units of the loss.
    min_samples
        Fewer events never decide.
    confidence
        Of each one-sided bound on the mean difference.
    min_overlap
        Smallest accepted mean share of the top-`overlap_at` that both agree on.
    overlap_at
        The K of that overlap; recorded with the evidence.
    calibration
        Largest accepted relative gap between the mean predictions of both.
    slice_tolerance
        Largest increase of the mean loss in any slice; 10 × `tolerance` unless told otherwise.

    Examples
    --------
    >>> dense = np.linspace(.1, .9, 2000)
    >>> Guard(tolerance=1e-3).judge(dense, dense + 1e-4, overlap=.97).verdict
    'promote'
    >>> Guard(tolerance=1e-3).judge(dense, dense + 1e-2, overlap=.97).reason
    'the loss rises by 0.01000 per event, surely by 0.01000; 0.00100 is accepted'
    """

    tolerance: float = 5e-4
    min_samples: int = 1000
    confidence: float = 0.95
    min_overlap: float = 0.9
    overlap_at: int = 10
    calibration: float = 0.01
    slice_tolerance: float | None = None

    def __post_init__(self) -> None:
        if not self.tolerance >= 0 or not self.calibration >= 0:
            raise ParameterError("tolerance and calibration must be at least 0")
        if not 0.5 <= self.confidence < 1 or not 0 <= self.min_overlap <= 1:
            raise ParameterError("confidence lies in [.5, 1) and min_overlap in [0, 1]")
        if self.min_samples < 2:
            raise ParameterError("min_samples must be at least 2")

    def inspect(self, candidate: Artefact, *, max_bytes: int | None = None) -> GuardDecision:
        """The static gates: sound bytes, a stable version, finite scores, the size.

        Returns
        -------
        `"promote"` when all gates are passed, which only means that the replay may begin.
        """
        evidence = {"version": candidate.version, "features": len(candidate), "bytes": candidate.nbytes}
        args = candidate.kernel_args
        reason = "all static gates are passed"
        verdict: Verdict = "reject"
        if not _survives(candidate):
            reason = "the bytes do not survive a round trip"
        elif not math.isfinite(candidate.intercept):
            reason = "the intercept is not finite"
        elif not (np.isfinite(args.scales).all() and np.isfinite(args.wide_weights).all()):
            reason = "a weight is not finite"
        elif max_bytes is not None and candidate.nbytes > max_bytes:
            reason = f"{candidate.nbytes:,} bytes exceed the budget of {max_bytes:,}"
        else:
            verdict = "promote"
        return GuardDecision(verdict, reason, evidence)

    def judge(
        self,
        dense_losses: ArrayLike,
        candidate_losses: ArrayLike,
        *,
        overlap: float | None = None,
        dense_mean: float | None = None,
        candidate_mean: float | None = None,
        slices: Mapping[str, NDArray[np.bool_]] | None = None,
        look: int = 0,
    ) -> GuardDecision:
        """Decide from the losses of both on the same events.

        Parameters
        ----------
        dense_losses, candidate_losses
            Loss per event, (n,), in the same order.
        overlap
            Mean share of the top-K both agree on, if lists were compared.
        dense_mean, candidate_mean
            Mean predicted probabilities, if calibration is to be judged.
        slices
            Name → events of the slice, bool (n,).
        look
            0 when these events are judged once. A trial that is judged again whenever more events have come
            counts its looks from 1: look j may err with probability (1 − `confidence`) / 2ʲ, so that all
            looks together stay within 1 − `confidence` (union bound).

        Raises
        ------
        ParameterError
            If the lengths differ, or `look` is negative.
        NonFiniteError
            If a dense loss is not finite. A candidate that is not finite is rejected.
        """
        dense = np.asarray(dense_losses, np.float64)
        candidate = np.asarray(candidate_losses, np.float64)
        if dense.shape != candidate.shape or dense.ndim != 1:
            raise ParameterError(f"losses of shapes {dense.shape} and {candidate.shape}: pair the events")
        if look < 0:
            raise ParameterError(f"look is {look!r}: expected 0, or the number of this look from 1")
        if not np.isfinite(dense).all():
            raise NonFiniteError("a loss of the dense export is NaN or infinite: the trainer is broken")
        n = len(dense)
        confidence = 1 - (1 - self.confidence) / 2**look
        evidence: dict[str, Any] = {"events": n, "tolerance": self.tolerance, "confidence": confidence}
        if not np.isfinite(candidate).all():
            return GuardDecision("reject", "a loss of the candidate is NaN or infinite", evidence)
        if n < self.min_samples:
            reason = f"{n} events are too few, {self.min_samples} are needed"
            return GuardDecision("undecided", reason, evidence)

        difference = candidate - dense
        mean, low, high = _interval(difference, confidence)
        evidence |= {
            "dense_loss": float(dense.mean()), "candidate_loss": float(candidate.mean()),
            "difference": mean, "low": low, "high": high,
        }  # fmt: skip
        fault = (
            self._worse(mean, low)
            or self._other_lists(overlap, evidence)
            or self._miscalibrated(dense_mean, candidate_mean, evidence)
            or self._broken_slice(difference, slices or {}, confidence, evidence)
        )
        if fault:
            return GuardDecision("reject", fault, evidence)
        if high > self.tolerance:
            reason = f"the loss changes by {mean:+.5f} ({low:+.5f} to {high:+.5f}): more events must tell"
            return GuardDecision("undecided", reason, evidence)
        reason = f"the loss changes by {mean:+.5f} and surely by less than {self.tolerance:.5f}"
        return GuardDecision("promote", reason, evidence)

    def shadow(self, max_samples: int = 250_000) -> Shadow:
        """A test on live events that may be asked after every batch; it ends undecided at `max_samples`."""
        return Shadow(self, max_samples)

    def _worse(self, mean: float, low: float) -> str | None:
        if low <= self.tolerance:
            return None
        return (
            f"the loss rises by {mean:.5f} per event, surely by {low:.5f}; {self.tolerance:.5f} is accepted"
        )

    def _other_lists(self, overlap: float | None, evidence: dict[str, Any]) -> str | None:
        if overlap is None:
            return None
        evidence[f"overlap@{self.overlap_at}"] = overlap
        if overlap >= self.min_overlap:
            return None
        return f"the top-{self.overlap_at} lists agree on {overlap:.3f}, {self.min_overlap} is asked for"

    def _miscalibrated(
        self, dense_mean: float | None, candidate_mean: float | None, evidence: dict[str, Any]
    ) -> str | None:
        if dense_mean is None or candidate_mean is None:
            return None
        gap = evidence["calibration_gap"] = abs(candidate_mean - dense_mean) / max(abs(dense_mean), 1e-12)
        if gap <= self.calibration:
            return None
        return f"the mean prediction moves by {gap:.2%}, {self.calibration:.2%} is accepted"

    def _broken_slice(
        self,
        difference: NDArray[np.float64],
        slices: Mapping[str, NDArray[np.bool_]],
        confidence: float,
        evidence: dict[str, Any],
    ) -> str | None:
        accepted = 10 * self.tolerance if self.slice_tolerance is None else self.slice_tolerance
        for name, chosen in slices.items():
            part = difference[chosen]
            if len(part) < 2:
                continue
            mean, low, _ = _interval(part, confidence)
            evidence.setdefault("slices", {})[name] = {"events": len(part), "difference": mean}
            if low > accepted:
                return f"the loss of the slice {name!r} rises by {mean:.5f}, {accepted:.5f} is accepted"
        return None


class Shadow:
    """Scores live events with both exports and decides as soon as it knows.

    The interval is a confidence sequence: asking after every batch does not raise the risk.

    Parameters
    ----------
    guard
        Tolerance, confidence and smallest sample.
    max_samples
        Events after which an undecided test ends; the old artefact stays.

    Examples
    --------
    >>> shadow, rng = Guard(tolerance=1e-3, min_samples=500).shadow(), np.random.default_rng(0)
    >>> while (decision := shadow.decision).verdict == "undecided":
    ...     dense = rng.random(500)
    ...     shadow.update(dense, dense + rng.normal(-1e-3, .02, 500))
    >>> decision.verdict, decision.evidence["events"] < 10_000
    ('promote', True)
    """

    def __init__(self, guard: Guard, max_samples: int = 250_000):
        self.guard = guard
        self.max_samples = max_samples
        self._sequence = ConfidenceSequence(
            2 * (1 - guard.confidence), max_samples // 5 or 1, guard.min_samples
        )
        self._broken = False

    def update(self, dense_losses: ArrayLike, candidate_losses: ArrayLike) -> None:
        """Add a batch of events, (n,) each, in the same order."""
        dense = np.asarray(dense_losses, np.float64)
        candidate = np.asarray(candidate_losses, np.float64)
        if dense.shape != candidate.shape:
            raise ParameterError(f"losses of shapes {dense.shape} and {candidate.shape}: pair the events")
        if not np.isfinite(dense).all():
            raise NonFiniteError("a loss of the dense export is NaN or infinite: the trainer is broken")
        if not np.isfinite(candidate).all():
            self._broken = True
            return
        self._sequence.update(candidate - dense)

    @property
    def finished(self) -> bool:
        """Whether more events can change nothing."""
        return self._sequence.n >= self.max_samples or self.decision.verdict != "undecided"

    @property
    def decision(self) -> GuardDecision:
        """The verdict now."""
        low, high = self._sequence.interval
        n, mean, tolerance = self._sequence.n, self._sequence.mean, self.guard.tolerance
        evidence = {"events": n, "tolerance": tolerance, "difference": mean, "low": low, "high": high}
        if self._broken:
            return GuardDecision("reject", "a loss of the candidate is NaN or infinite", evidence)
        if low > tolerance:
            reason = f"live, the loss rises by {mean:.5f}, surely by {low:.5f}; {tolerance:.5f} is accepted"
            return GuardDecision("reject", reason, evidence)
        if n >= self.guard.min_samples and high <= tolerance:
            reason = f"live, the loss changes by {mean:+.5f} and surely by less than {tolerance:.5f}"
            return GuardDecision("promote", reason, evidence)
        if n >= self.max_samples:
            return GuardDecision("undecided", f"{n} events did not decide: the old artefact stays", evidence)
        return GuardDecision("undecided", f"{n} live events have not decided yet", evidence)


def _interval(difference: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """The mean with its one-sided lower and upper bound."""
    mean = float(difference.mean())
    if np.ptp(difference) == 0.0:
        return mean, mean, mean
    margin = float(special.ndtri(confidence) * difference.std(ddof=1) / math.sqrt(len(difference)))
    return mean, mean - margin, mean + margin


def _survives(candidate: Artefact) -> bool:
    try:
        return Artefact.from_bytes(candidate.to_bytes()).version == candidate.version
    except ArtefactError:
        return False
