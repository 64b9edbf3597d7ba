"""kill -9 at every step, and at random ones: after the restart everything has had its effect once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from stream_app.events import Item, decode_item
from stream_app.model.examples import ExampleBatch
from stream_app.model.learning import Learner
from tests.integration.harness import SMALL, Deployment, produce, shop_messages
from tests.integration.verifier import check_everything, checkpointed


def test_worker_killed_at_every_step(deploy: Callable[..., Deployment]) -> None:
    """A worker that dies at each step of a batch in turn loses nothing and repeats no effect."""
    system = deploy(instance="w1", **SMALL)
    produce(system, 4_000)
    learner = system.start("learner", wait=False)
    for place in ("worker.after_apply", "worker.after_send", "worker.after_write"):
        doomed = system.start("worker", wait=False, FAILPOINT=f"{place}:kill:6")
        assert doomed.exit_code(90) == -signal.SIGKILL, doomed.log()
        assert not system.consumed()
    worker = system.start("worker", wait=False)
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


def test_learner_killed_at_every_step(deploy: Callable[..., Deployment]) -> None:
    """A learner that dies while learning and while saving ends with the very bytes of one that never did."""
    system = deploy(**(SMALL | {"batch_size": 20, "partitions": 1, "checkpoint_interval_s": 0.001}))
    items = produce(system, 4_000)
    system.start("worker", wait=False)
    for failpoint in (
        "learner.after_learn:kill:60",
        "checkpoint.after_link:kill:1",
        "checkpoint.after_write:kill:1",
    ):
        doomed = system.start("learner", wait=False, FAILPOINT=failpoint)
        assert doomed.exit_code(90) == -signal.SIGKILL, doomed.log()
    system.until_consumed()
    learner = system.start("learner", wait=False)
    check_everything(system, learner)

    never_killed = Learner(system.settings.make_ranker())
    for _, value in items:
        item = decode_item(None, value)
        assert isinstance(item, Item)
        never_killed.items.describe(
            item.item_id, price=item.price, categories=item.categories, attributes=item.attributes,
            servable=item.is_available,
        )  # fmt: skip
    for message in system.read(system.settings.examples_topic):
        never_killed.learn(ExampleBatch.from_bytes(message.value()))
    learned = checkpointed(system)
    assert learned is not None
    assert learned.to_bytes() == never_killed.to_bytes()
