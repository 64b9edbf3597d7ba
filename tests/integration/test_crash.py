"""kill -9 at every step, and at random ones: after the restart everything has had its effect once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stream_app.events import Item, decode_item, encode_event, encode_item
from stream_app.examples import ExampleBatch
from stream_app.learning import Learner
from stream_app.simulator import Shop
from tests.integration.harness import Deployment, Message, Role
from tests.integration.verifier import check_users, recompute

SMALL = {"batch_size": 100, "partitions": 2, "checkpoint_interval_s": 0.2, "prune_first": 1_000_000}


def shop_messages(events: int, seed: int = 3) -> tuple[list[Message], list[Message]]:
    """Items and events of a small simulated shop, with a few messages that are no events."""
    shop = Shop(seed, n_items=200, n_users=150)
    items = [(i.item_id.encode(), encode_item(i)) for i in shop.items()]
    messages: list[Message] = [(e.user_id.encode(), encode_event(e)) for e in shop.events(events)]
    for n in range(100, events, 500):
        messages.insert(n, (b"nobody", b'{"event_type": "view", "broken": %d}' % n))
    return items, messages


def produce(system: Deployment, events: int) -> None:
    """Send a small shop's items and events."""
    items, messages = shop_messages(events)
    system.send(system.settings.items_topic, items)
    system.send_events(messages)


def checkpointed(system: Deployment) -> Learner | None:
    """The learner as its newest checkpoint has it."""
    path = system.settings.state_dir / "checkpoint"
    return Learner.from_bytes(path.read_bytes())[0] if path.exists() else None


def check_everything(system: Deployment, learner: Role) -> None:
    """Hold users, dead letters and the learner's counters against a recomputation from the log."""
    expected = recompute(system.ledger, system.settings)
    check_users(system, expected)

    letters = {(m["partition"], m["offset"]) for m in system.dead_letters()}
    assert letters == {(s.partition, s.offset) for s in expected.rejected}

    system.until(
        lambda: (found := checkpointed(system)) is not None and found.high_water == expected.high_water,
        "the learner has everything",
    )
    assert learner.terminate() == 0
    learned = checkpointed(system)
    assert learned is not None
    assert learned.step == len(expected.learnable)
    counts = {i: float(learned.stats.count[learned.items.find(i)]) for i in expected.counts}
    assert counts == pytest.approx(expected.counts, rel=1e-5)
    assert float(learned.stats.count.sum()) == pytest.approx(sum(expected.counts.values()), rel=1e-5)


@pytest.mark.parametrize("place", ["worker.after_apply", "worker.after_send", "worker.after_write"])
def test_killed_worker_loses_and_repeats_nothing(deploy: Callable[..., Deployment], place: str) -> None:
    """A worker that dies at any step of a batch goes on where it was, with every effect exactly once."""
    system = deploy(instance="w1", **SMALL)
    produce(system, 3_000)
    learner = system.start("learner", wait=False)
    doomed = system.start("worker", wait=False, FAILPOINT=f"{place}:kill:7")
    assert doomed.exit_code(60) == -signal.SIGKILL
    assert not system.consumed()

    worker = system.start("worker")
    system.until_consumed()
    assert worker.terminate() == 0
    check_everything(system, learner)


def test_random_kills(deploy: Callable[..., Deployment]) -> None:
    """A worker and a learner that are killed again and again, at random moments, still count right."""
    rng = random.Random(11)
    system = deploy(**(SMALL | {"batch_size": 20}))
    items, messages = shop_messages(6_000)
    system.send(system.settings.items_topic, items)
    worker, learner = (
        system.start("worker", wait=False, RECS_INSTANCE="w1"),
        system.start("learner", wait=False),
    )
    system.until(lambda: worker.ready and learner.ready, "both are ready")
    for turn in range(3):
        system.send_events(messages[turn::3])
        system.until(
            lambda: bool(system.redis.exists(system.key("global", "trending"))), "something was learned"
        )
        time.sleep(rng.uniform(0.0, 0.6))  # not a wait for something: the random moment
        if rng.random() < 0.7:
            worker.kill()
            worker = system.start("worker", wait=False, RECS_INSTANCE="w1")
        if rng.random() < 0.7:
            learner.kill()
            learner = system.start("learner", wait=False)
        system.until(lambda w=worker, n=learner: w.ready and n.ready, "both are ready again")  # type: ignore[misc]
    system.until_consumed()
    check_everything(system, learner)


# The learner


@pytest.fixture(scope="module")
def examples_log(module_deploy: Callable[..., Deployment]) -> Deployment:
    """A system whose worker has written a log of examples into one partition, and ended."""
    system = module_deploy(**(SMALL | {"batch_size": 20, "partitions": 1}))
    produce(system, 4_000)
    worker, learner = system.start("worker", wait=False), system.start("learner", wait=False)
    system.until_consumed()
    assert worker.terminate() == learner.terminate() == 0
    return system


@pytest.fixture(scope="module")
def never_killed(examples_log: Deployment) -> Learner:
    """A learner that read the log from beginning to end in this process."""
    learner = Learner(examples_log.settings.make_ranker())
    items, _ = shop_messages(0)
    system = examples_log
    for _, value in items:
        item = decode_item(None, value)
        assert isinstance(item, Item)
        learner.items.describe(
            item.item_id, price=item.price, categories=item.categories, attributes=item.attributes,
            servable=item.is_available,
        )  # fmt: skip
    for message in system.read(system.settings.examples_topic):
        learner.learn(ExampleBatch.from_bytes(message.value()))
    return learner


@pytest.mark.parametrize(
    "failpoint",
    [None, "learner.after_learn:kill:70", "checkpoint.after_link:kill:2", "checkpoint.after_write:kill:2"],
)
def test_killed_learner_learns_the_same(
    examples_log: Deployment, never_killed: Learner, failpoint: str | None, tmp_path: Path
) -> None:
    """A learner that dies while learning or saving ends with the very weights of one that never did."""
    system, state = examples_log, {"RECS_STATE_DIR": str(tmp_path), "RECS_NAMESPACE": tmp_path.name[:32]}
    if failpoint is not None:
        assert (
            system.start("learner", wait=False, FAILPOINT=failpoint, **state).exit_code(60) == -signal.SIGKILL
        )
    learner = system.start("learner", **state)

    def done() -> bool:
        path = tmp_path / "checkpoint"
        return (
            path.exists() and Learner.from_bytes(path.read_bytes())[0].high_water == never_killed.high_water
        )

    system.until(done, "the log is learned")
    assert learner.terminate() == 0
    learned, _ = Learner.from_bytes((tmp_path / "checkpoint").read_bytes())
    assert learned.step == never_killed.step == len(recompute(system.ledger, system.settings).learnable)
    assert np.array_equal(learned.moments.mean, never_killed.moments.mean)
    assert learned.to_bytes() == never_killed.to_bytes()
