"""The closed loop: propose, judge, promote, roll back, and a ledger that remembers."""

from pathlib import Path

import numpy as np
import pytest
from river import linear_model

from pruning import (
    Artefact,
    DecisionRecord,
    EmptyModelError,
    Examples,
    FTRLProximal,
    Guard,
    Ledger,
    LedgerError,
    NonFiniteError,
    ParameterError,
    PruningAgent,
    PruningError,
    SaliencyPruner,
    UnsupportedModelError,
    evaluate,
    field_id,
)


def trained(seed: int = 0) -> linear_model.LogisticRegression:
    rng = np.random.default_rng(seed)
    model = linear_model.LogisticRegression(FTRLProximal(alpha=0.3))
    for _ in range(500):
        f = int(rng.integers(0, 50))
        model.learn_one({f"f={f}": 1, "c": 1}, bool(rng.random() < f / 50))
    return model


def test_a_promoted_candidate_becomes_active_and_a_rollback_restores_the_one_before() -> None:
    """`active` moves on promotion and rollback only, and each is in the ledger."""
    agent = PruningAgent(SaliencyPruner(0.5), guard=Guard(min_samples=10))
    losses = np.full(100, 0.4)
    first, second = agent.propose(trained(0)), agent.propose(trained(1))
    agent.judge(first, losses, losses, time="2026-01-05T10:00:00Z")
    agent.judge(second, losses, losses)
    third = agent.propose(trained(2))
    assert agent.judge(third, losses, losses + 1.0).verdict == "reject"
    assert agent.active is second.candidate
    assert agent.rollback("lists went wrong") is first.candidate
    assert [r.verdict for r in agent.ledger.read()] == ["promote", "promote", "reject", "rollback"]
    assert agent.ledger.read()[1].parent == first.candidate.version
    with pytest.raises(PruningError):
        agent.rollback()


def test_a_proposal_holds_both_exports_of_one_step() -> None:
    """The dense export is exact, the candidate has the share asked for, and the report adds up."""
    model = trained()
    proposal = PruningAgent(SaliencyPruner(0.8)).propose(model)
    assert proposal.dense.step == proposal.candidate.step == 500
    assert proposal.report.weights_after <= round(0.2 * proposal.report.weights_before) + 1
    assert sum(total for total, _, _ in proposal.report.fields.values()) == proposal.report.weights_before
    x = {"f=7": 1, "c": 1}
    p = 1 / (1 + np.exp(-proposal.dense.intercept - sum(proposal.dense.contributions(x).values())))
    assert p == pytest.approx(model.predict_proba_one(x)[True], abs=1e-6)


def test_models_without_known_weights_are_refused() -> None:
    """The error names the model and lists what is supported."""
    with pytest.raises(UnsupportedModelError, match="supported are"):
        PruningAgent().propose(object())
    with pytest.raises(EmptyModelError):
        PruningAgent().propose(linear_model.LogisticRegression())


def test_an_artefact_over_the_byte_budget_is_rejected() -> None:
    """The static gate holds the size."""
    agent = PruningAgent(SaliencyPruner(0.1), max_bytes=100)
    decision = agent.judge(agent.propose(trained()), np.zeros(5000), np.zeros(5000))
    assert (decision.verdict, "budget" in decision.reason) == ("reject", True)
    assert agent.active is None


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [(0.0, 0.0, "promote"), (-0.01, 0.01, "promote"), (0.01, 0.01, "reject"), (0.0005, 0.05, "undecided")],
)
def test_the_guard_promotes_rejects_or_waits(shift: float, noise: float, verdict: str) -> None:
    """Surely better or equal: promote; surely worse: reject; else: more events."""
    rng = np.random.default_rng(5)
    dense = rng.random(4000)
    decision = Guard().judge(dense, dense + shift + noise * rng.normal(size=4000))
    assert decision.verdict == verdict


def test_each_further_gate_rejects_alone() -> None:
    """Overlap, calibration and any slice can stop a candidate whose mean loss is fine."""
    losses = np.full(4000, 0.5)
    half = np.arange(4000) < 2000
    skewed = losses + np.where(half, 0.02, -0.02)
    assert Guard().judge(losses, losses, overlap=0.8).verdict == "reject"
    assert Guard().judge(losses, losses, dense_mean=0.2, candidate_mean=0.21).verdict == "reject"
    assert "new users" in Guard(tolerance=1e-3).judge(losses, skewed, slices={"new users": half}).reason
    assert Guard().judge(losses, np.full(4000, np.nan)).verdict == "reject"
    assert Guard().judge(losses[:10], losses[:10]).verdict == "undecided"


def test_losses_that_cannot_be_compared_raise() -> None:
    """Unpaired losses and a broken trainer are errors, not verdicts."""
    with pytest.raises(ParameterError):
        Guard().judge(np.zeros(5), np.zeros(6))
    with pytest.raises(NonFiniteError):
        Guard().judge(np.full(5000, np.inf), np.zeros(5000))


def test_the_ledger_survives_a_torn_line(tmp_path: Path) -> None:
    """A line that a crash cut short is told and left out; later lines are kept."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(DecisionRecord("a", None, "promote", "good", evidence={"loss": np.float64(0.5)}))
    with open(tmp_path / "ledger.jsonl", "a") as file:
        file.write('{"version": "b", "par')
    assert [r.version for r in ledger.read()] == ["a"]
    assert ledger.torn == '{"version": "b", "par'
    ledger.append(DecisionRecord("c", "a", "reject", "worse"))
    assert [r.version for r in ledger.read()] == ["a", "c"]


def test_the_static_gates_pass_a_sound_artefact() -> None:
    """A sound artefact within its budget passes."""
    artefact: Artefact = PruningAgent(SaliencyPruner(0.5)).propose(trained()).candidate
    assert Guard().inspect(artefact, max_bytes=10_000).promoted


def test_a_lasting_rise_of_the_loss_rolls_back_by_itself() -> None:
    """`observe` restores the previous artefact at once and says so in the ledger."""
    rng = np.random.default_rng(0)
    agent = PruningAgent(SaliencyPruner(0.5), guard=Guard(min_samples=10))
    losses = np.full(100, 0.4)
    first, second = agent.propose(trained(0)), agent.propose(trained(1))
    agent.judge(first, losses, losses)
    agent.judge(second, losses, losses)
    quiet = rng.random(3000)
    assert not agent.observe(quiet, quiet + rng.normal(0, 0.001, 3000), step=600)
    assert agent.observe(quiet, quiet + rng.normal(0.002, 0.001, 3000), step=700)
    assert agent.active is first.candidate
    assert agent.ledger.read()[-1].verdict == "rollback"


def test_rejections_in_a_row_open_the_breaker() -> None:
    """After three rejections the agent asks for a pause."""
    agent = PruningAgent(SaliencyPruner(0.5), guard=Guard(min_samples=10))
    proposal = agent.propose(trained())
    for _ in range(3):
        agent.judge(proposal, np.zeros(100), np.ones(100))
    assert not agent.breaker.allows(proposal.step)


def test_a_refitted_candidate_has_the_kept_features_and_better_weights() -> None:
    """With `refit` the candidate's weights come from a model trained on the kept features only."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(4000):
        f, g = int(min(rng.zipf(1.2), 300)), int(rng.integers(0, 1000))
        rows.append(({f"f={f}": 1.0, f"noise={g}": 1.0}, bool(rng.random() < (0.8 if f % 2 else 0.2))))
    model = linear_model.LogisticRegression(FTRLProximal(alpha=0.5), intercept_lr=0)
    for x, y in rows[:2000]:
        model.learn_one(x, y)
    logged, test = Examples.from_river(rows[:2000]), Examples.from_river(rows[2000:])

    def refit(candidate: Artefact) -> linear_model.LogisticRegression:
        fresh = linear_model.LogisticRegression(FTRLProximal(alpha=0.5), intercept_lr=0)
        kept = logged.only(candidate)
        for i, y in enumerate(kept.y):  # a token is a feature name, too
            fresh.learn_one({int(k): 1.0 for k in kept.keys[kept.indptr[i] : kept.indptr[i + 1]]}, bool(y))
        return fresh

    agent = PruningAgent(SaliencyPruner(0.95))
    plain, refitted = agent.propose(model), agent.propose(model, refit=refit)
    assert len(refitted.candidate) <= len(plain.candidate)
    assert refitted.candidate.metadata["refitted"]
    assert evaluate(refitted.candidate, test).logloss < evaluate(plain.candidate, test).logloss


def test_the_dry_run_names_the_fields() -> None:
    """Rows add up to the report and the dearest field comes first."""
    report = PruningAgent(SaliencyPruner(0.8)).propose(trained()).report
    rows = report.by_field({field_id("f"): "f"})
    assert rows[0].field == "f"
    assert sum(row.live for row in rows) == report.weights_before
    assert sum(row.predicted_cost for row in rows) == pytest.approx(report.predicted_cost)


def test_a_ledger_that_cannot_be_written_leaves_the_active_artefact() -> None:
    """A crash between decision and promotion serves exactly the old artefact, never a mixture."""

    class Full(Ledger):
        def append(self, record: DecisionRecord) -> None:
            raise LedgerError("no space left")

    agent = PruningAgent(SaliencyPruner(0.5), guard=Guard(min_samples=10))
    agent.judge(agent.propose(trained(0)), np.zeros(100), np.zeros(100))
    served, agent.ledger = agent.active, Full()
    with pytest.raises(LedgerError):
        agent.judge(agent.propose(trained(1)), np.zeros(100), np.zeros(100))
    assert agent.active is served
