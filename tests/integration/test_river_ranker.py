"""A stock River classifier goes the same way as our own: separate roles, releases, lists."""

from __future__ import annotations

import json
from collections.abc import Callable

from pruning import Ledger
from tests.integration.harness import SMALL, Deployment, feed, produce
from tests.integration.verifier import check_examples, check_users, recompute


def test_stock_river_classifier_is_pruned_and_served(deploy: Callable[..., Deployment]) -> None:
    """River's logistic regression learns, is pruned, promoted and serves the lists of users who come back."""
    system = deploy(
        **(SMALL | {"prune_first": 300, "ranker": "linear_model.LogisticRegression"}),
        prune_amount=0.3, guard_samples=100, guard_tolerance=1, guard_overlap=0,
    )  # fmt: skip
    worker, learner = system.start("worker", wait=False), system.start("learner", wait=False)

    def promoted() -> dict[str, object] | None:
        version = system.redis.get(system.key("model", "current"))
        meta = system.redis.get(system.key("model", version.decode(), "meta")) if version else None  # type: ignore[union-attr]
        found = json.loads(meta) if meta else {}  # type: ignore[arg-type]
        return found if found.get("step", 0) > 0 else None

    meta = feed(system, promoted, "a pruned release is served")
    [record, *_] = Ledger(system.settings.state_dir / "ledger.jsonl").read()
    assert record.verdict == "promote"
    assert record.weights_after < record.weights_before
    assert record.version == meta["version"]

    def served() -> bool:
        produce(system, 200)
        system.until_consumed()
        keys = list(system.redis.scan_iter(system.key("user", "*", "top"), count=1000))
        lists = [json.loads(value) for value in system.redis.mget(keys)]  # type: ignore[union-attr]
        return any(v["model"] == meta["version"] and len(v["items"]) == 20 for v in lists)

    system.until(served, "lists come from the release")
    expected = recompute(system.ledger, system.settings)
    check_users(system, expected)
    check_examples(system, expected)
    assert worker.terminate() == learner.terminate() == 0
