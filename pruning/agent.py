"""The agent: propose a smaller model, let the guard judge it, promote it or keep the old one.

It has no thread and no clock: the caller decides when to propose, scores both exports on the events it
chose, and tells the time. `active` changes only on a promotion or a rollback, in one assignment, so a reader
sees the old artefact or the new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruning.artefact import Artefact
from pruning.errors import PruningError
from pruning.guard import Guard, GuardDecision
from pruning.ledger import DecisionRecord, Ledger
from pruning.pruners import SaliencyPruner
from pruning.quantization import Float32, Int8, Quantizer
from pruning.sequential import CircuitBreaker, Cusum
from pruning.weights import Snapshot, snapshot


class Pruner(Protocol):
    """What the agent asks of a pruner."""

    def compute_mask(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """True where a weight stays."""
        ...


@dataclasses.dataclass(frozen=True)
class FieldReport:
    """One field of a dry run.

    Parameters
    ----------
    field
        Its name or number.
    live, kept
        Weights before and after.
    predicted_cost
        Σ½w²H of what goes, per example learned.
    """

    field: str
    live: int
    kept: int
    predicted_cost: float


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What a proposal would change.

    Parameters
    ----------
    weights_before, weights_after
        Live weights of the dense export, stored weights of the candidate.
    bytes_before, bytes_after
        Sizes of both exports.
    predicted_cost
        Σ½w²H of what goes, per example learned: a proposal's own guess, the guard measures.
    fields
        Field → (live weights, kept weights, predicted cost of what goes).

    Examples
    --------
    >>> from pruning import field_id
    >>> from river import linear_model, optim
    >>> model = linear_model.LogisticRegression(optim.FTRLProximal(alpha=.5))
    >>> for i in range(200):
    ...     model.learn_one({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2))
    >>> report = PruningAgent(SaliencyPruner(keep=1)).propose(model).report
    >>> report.weights_before, report.weights_after, report.share_kept
    (2, 1, 0.5)
    >>> names = {field_id(name): name for name in ("good", "noise")}
    >>> [(row.field, row.live, row.kept) for row in report.by_field(names)]
    [('noise', 1, 0), ('good', 1, 1)]
    """

    weights_before: int
    weights_after: int
    bytes_before: int
    bytes_after: int
    predicted_cost: float
    fields: Mapping[int, tuple[int, int, float]]

    @property
    def share_kept(self) -> float:
        """Stored weights over live weights."""
        return self.weights_after / self.weights_before

    def by_field(self, names: Mapping[int, str] | None = None) -> list[FieldReport]:
        """A dry run by field, the dearest first: what would go, and what that is predicted to cost.

        Parameters
        ----------
        names
            Field number → name; the number is shown where there is none.
        """
        rows = [
            FieldReport((names or {}).get(number, f"{number:#06x}"), total, kept, cost)
            for number, (total, kept, cost) in self.fields.items()
        ]
        return sorted(rows, key=lambda row: (-row.predicted_cost, row.field))


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """A candidate beside the dense export of the same step.

    >>> keys = np.array([1, 2], np.uint64)
    >>> weights = Snapshot(keys, np.array([2., .1]), np.ones(2), step=10)
    >>> proposal = PruningAgent(SaliencyPruner(keep=1)).propose(weights)
    >>> len(proposal.dense), len(proposal.candidate), proposal.report.share_kept, proposal.step
    (2, 1, 0.5, 10)
    """

    dense: Artefact
    candidate: Artefact
    report: PruneReport
    step: int


class PruningAgent:
    """Proposes, judges, promotes and rolls back artefacts.

    Parameters
    ----------
    pruner
        `SaliencyPruner(0.9)` unless told otherwise.
    quantizer
        `Int8()` unless told otherwise.
    guard
        `Guard()` unless told otherwise.
    ledger
        In memory unless told otherwise.
    max_bytes
        Largest artefact that may be served, or None.
    watch
        Guards the active artefact after its promotion; `Cusum()` unless told otherwise.
    breaker
        Pauses proposals after failures in a row; `CircuitBreaker()` unless told otherwise.

    Examples
    --------
    >>> from river import linear_model, optim
    >>> model = linear_model.LogisticRegression(optim.FTRLProximal(alpha=.5))
    >>> for i in range(200):
    ...     model.learn_one({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2))
    >>> agent = PruningAgent(SaliencyPruner(1), guard=Guard(min_samples=100))
    >>> proposal = agent.propose(model)
    >>> proposal.report.weights_before, proposal.report.weights_after
    (2, 1)
    >>> losses = np.full(100, .5)
    >>> agent.judge(proposal, losses, losses).verdict, agent.active is proposal.candidate
    ('promote', True)
    """

    def __init__(
        self,
        pruner: Pruner | None = None,
        quantizer: Quantizer | None = None,
        guard: Guard | None = None,
        ledger: Ledger | None = None,
        *,
        max_bytes: int | None = None,
        watch: Cusum | None = None,
        breaker: CircuitBreaker | None = None,
    ):
        self.pruner = SaliencyPruner(0.9) if pruner is None else pruner
        self.quantizer = Int8() if quantizer is None else quantizer
        self.guard = Guard() if guard is None else guard
        self.ledger = Ledger() if ledger is None else ledger
        self.max_bytes = max_bytes
        self.watch = Cusum() if watch is None else watch
        self.breaker = CircuitBreaker() if breaker is None else breaker
        self.active: Artefact | None = None
        self.previous: Artefact | None = None
        self._names: dict[str, str] = {}  # version of an artefact → name of the bundle it is part of

    def adopt(self, active: Artefact, previous: Artefact | None = None, names: Sequence[str] = ()) -> None:
        """Go on from artefacts that an earlier process promoted; `names` are their bundles', if any."""
        self.active, self.previous = active, previous
        for artefact, name in zip((active, previous), names, strict=False):
            if artefact is not None:
                self._names[artefact.version] = name

    def _name(self, artefact: Artefact | None) -> str | None:
        return None if artefact is None else self._names.get(artefact.version, artefact.version)

    def propose(
        self,
        model: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        refit: Callable[[Artefact], Any] | None = None,
    ) -> Proposal:
        """Freeze the model and build the dense export and the candidate from the same copy.

        Parameters
        ----------
        model
            A model `pruning.snapshot` knows, or a `Snapshot`.
        metadata
            What the candidate should carry; JSON.
        refit
            Called with the pruned candidate; returns a fresh model trained on logged examples with the
            features the candidate has kept (`Examples.only`). Its weights take the place of the dense
            trainer's: they are better where much is pruned. The guard compares with the dense export all the
            same.

        Raises
        ------
        UnsupportedModelError, EmptyModelError, NonFiniteError
            If the model cannot be pruned; nothing changed.
        """
        frozen = (model if isinstance(model, Snapshot) else snapshot(model)).check()
        mask = self.pruner.compute_mask(frozen)
        dense = Artefact.build(frozen, None, Float32(), {"role": "dense"})
        parent = self._name(self.active)
        about = {"parent": parent, **(metadata or {})}
        candidate = Artefact.build(frozen, mask, self.quantizer, about)
        if refit is not None:
            refitted = dataclasses.replace(snapshot(refit(candidate)).check(), step=frozen.step)
            known = np.isin(refitted.keys, frozen.keys[mask])
            candidate = Artefact.build(refitted, known, self.quantizer, {**about, "refitted": True})
        return Proposal(dense, candidate, _report(frozen, mask, dense, candidate), frozen.step)

    def judge(
        self,
        proposal: Proposal,
        dense_losses: ArrayLike,
        candidate_losses: ArrayLike,
        *,
        time: str | None = None,
        version: str | None = None,
        **evidence: Any,
    ) -> GuardDecision:
        """Decide, write the ledger, and on a promotion make the candidate active.

        Parameters
        ----------
        proposal
            What `propose` returned.
        dense_losses, candidate_losses
            Losses of both exports on the same events, (n,).
        time
            When, for the ledger.
        version
            The name of the bundle that the candidate is part of, if it is not the candidate's own.
        evidence
            `overlap`, `dense_mean`, `candidate_mean`, `slices`, `look` of `Guard.judge`.
        """
        decision = self.guard.inspect(proposal.candidate, max_bytes=self.max_bytes)
        if decision.promoted:
            decision = self.guard.judge(dense_losses, candidate_losses, **evidence)
        self.conclude(proposal, decision, time=time, version=version)
        return decision

    def conclude(
        self,
        proposal: Proposal,
        decision: GuardDecision,
        *,
        time: str | None = None,
        version: str | None = None,
    ) -> None:
        """Record a decision that was made elsewhere, such as `Shadow.decision`, and act on it.

        The ledger is written before `active` changes: after a crash in between, the old artefact is served
        and the ledger names the one that was to come.
        """
        self.ledger.append(
            DecisionRecord(
                version=version or proposal.candidate.version,
                parent=self._name(self.active),
                verdict=decision.verdict,
                reason=decision.reason,
                time=time,
                step=proposal.step,
                weights_before=proposal.report.weights_before,
                weights_after=proposal.report.weights_after,
                bytes_before=proposal.report.bytes_before,
                bytes_after=proposal.report.bytes_after,
                evidence=decision.evidence,
            )
        )
        if decision.promoted:
            self.breaker.succeeded()
            self.watch.reset()
            held = {a.version: name for a in (self.active,) if a is not None and (name := self._name(a))}
            if version is not None:
                held[proposal.candidate.version] = version
            self._names = held  # of the two artefacts that are kept, not of all that ever were
            self.previous, self.active = self.active, proposal.candidate
        elif decision.verdict == "reject":
            self.breaker.failed(proposal.step)

    def observe(
        self, dense_losses: ArrayLike, active_losses: ArrayLike, *, step: int, time: str | None = None
    ) -> bool:
        """Watch the active artefact on live events; roll back when its loss has risen, and tell so.

        Parameters
        ----------
        dense_losses, active_losses
            Losses of the trainer and of the active artefact on the same events, (n,), in order.
        step
            How many examples the trainer has learned.
        time
            When, for the ledger.

        Returns
        -------
        Whether a rollback happened. Without a previous artefact there is none, and the breaker opens.
        """
        alarm = self.watch.update(
            np.asarray(active_losses, np.float64) - np.asarray(dense_losses, np.float64)
        )
        if not alarm:
            return False
        self.watch.reset()
        self.breaker.failed(step)
        if self.previous is None:
            return False
        self.rollback("the loss over the trainer's has risen for good", time)
        return True

    def rollback(self, reason: str = "asked for", time: str | None = None) -> Artefact:
        """Make the previous artefact active again and say so in the ledger.

        Raises
        ------
        PruningError
            If there is no previous artefact.
        """
        if self.active is None or self.previous is None:
            raise PruningError("there is no previous artefact to roll back to")
        left, self.active, self.previous = self.active, self.previous, None
        self.ledger.append(
            DecisionRecord(
                version=self._name(self.active) or "",
                parent=self._name(left),
                verdict="rollback",
                reason=reason,
                time=time,
                step=self.active.step,
                weights_before=len(left),
                weights_after=len(self.active),
                bytes_before=left.nbytes,
                bytes_after=self.active.nbytes,
            )
        )
        return self.active


def _report(frozen: Snapshot, mask: NDArray[np.bool_], dense: Artefact, candidate: Artefact) -> PruneReport:
    live = frozen.live
    gone = live & ~mask
    cost = np.where(gone, 0.5 * frozen.weights**2 * frozen.curvature, 0.0) / max(frozen.step, 1)
    numbers, group = np.unique(frozen.field, return_inverse=True)
    total, kept, costs = (
        np.bincount(group, column, len(numbers))
        for column in (live.astype(float), (live & mask).astype(float), cost)
    )
    return PruneReport(
        weights_before=int(live.sum()),
        weights_after=len(candidate),
        bytes_before=dense.nbytes,
        bytes_after=candidate.nbytes,
        predicted_cost=float(cost.sum()),
        fields={
            int(number): (int(t), int(k), float(c))
            for number, t, k, c in zip(numbers, total, kept, costs, strict=True)
        },
    )
