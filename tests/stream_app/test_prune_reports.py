"""Dry runs and size/quality curves of the ranker."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_app.errors import CheckpointError, InputError
from stream_app.online import OnlineRecommender
from stream_app.prune_reports import dry_run, size_quality_curve
from stream_app.simulator import Shop


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner that has seen a small shop."""
    shop, online = Shop(3, n_items=80, n_users=40, n_categories=6), OnlineRecommender(compress=False)
    for item in shop.items():
        online.observe_item(item)
    for user in shop.users():
        online.observe_user(user)
    for event in shop.events(2_000):
        online.observe(event)
    path = tmp_path_factory.mktemp("state") / "checkpoint"
    path.write_bytes(online.learner.to_bytes())
    return path


def test_a_dry_run_names_fields_and_changes_nothing(checkpoint: Path) -> None:
    """It says by field what would go; crosses have the names of both fields."""
    before = checkpoint.read_bytes()
    report, names = dry_run(checkpoint, 0.8)
    assert report.weights_after <= 0.21 * report.weights_before
    fields = {field.field for field in report.by_field(names)}
    assert {"together", "item", "category", "user × category", "age × brand"} <= fields
    assert not [field for field in fields if field.startswith("0x")]
    assert sum(field.kept for field in report.by_field(names)) >= report.weights_after
    assert checkpoint.read_bytes() == before


def test_a_dry_run_needs_a_checkpoint(tmp_path: Path) -> None:
    """A missing or foreign file is one clear error."""
    with pytest.raises(CheckpointError, match="give the checkpoint"):
        dry_run(tmp_path / "none", 0.5)
    (tmp_path / "foreign").write_bytes(b"hello")
    with pytest.raises(CheckpointError):
        dry_run(tmp_path / "foreign", 0.5)


def test_a_curve_judges_events_that_were_not_learned() -> None:
    """Smaller models follow in order, each with the guard's verdict; the last events are not learned."""
    shop = Shop(4, n_items=80, n_users=60, n_categories=6)
    found = size_quality_curve([*shop.items(), *shop.users(), *shop.events(6_000)], tolerance=0.05)
    weights = [point.weights for point in found.points]
    assert weights == sorted(weights, reverse=True) and found.dense_weights >= weights[0]
    assert {point.decision.verdict for point in found.points} <= {"promote", "reject", "undecided"}
    assert found.dense.auc > 0.55


def test_a_curve_needs_a_stream() -> None:
    """A handful of events cannot be judged."""
    with pytest.raises(InputError, match="too short"):
        size_quality_curve(list(Shop(4, n_items=60, n_users=20, n_categories=4).events(20)))
