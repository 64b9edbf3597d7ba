"""Redis dies and comes back empty, Kafka restarts: the log loses nothing and the system goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stream_app.embedded import EmbeddedRedis
from tests.integration.conftest import deployments
from tests.integration.harness import SMALL, Deployment, shop_messages
from tests.integration.verifier import check_everything, check_learner, check_users, recompute
from tests.servers import KafkaServer


def test_redis_dies_and_comes_back_empty(
    deploy: Callable[..., Deployment], redis_server: EmbeddedRedis
) -> None:
    """While Redis is away events wait; afterwards both roles go on and the model is published again."""
    system = deploy(**SMALL)
    items, messages = shop_messages(4_000)
    system.send(system.settings.items_topic, items)
    process = system.start("worker", "learner")
    system.send_events(messages[:2_000])
    system.until_consumed()
    system.until(lambda: system.redis.exists(system.key("global", "trending")), "shared lists are there")
    version = system.redis.get(system.key("model", "current"))

    redis_server.kill()
    system.send_events(messages[2_000:3_000])
    system.until(lambda: process.metric("retries") > 0, "the worker notices")
    redis_server.start()
    system.until_consumed()

    def published() -> bool:
        return system.redis.get(system.key("model", "current")) == version

    system.until(published, "the release is published again")
    name = version.decode() if isinstance(version, bytes) else ""
    system.until(
        lambda: system.redis.exists(
            system.key("model", name, "release"), system.key("model", name, "overlay"),
            system.key("global", "trending"),
        ) == 3,
        "model and shared lists are back",
    )  # fmt: skip
    system.send_events(messages[3_000:])
    system.until_consumed()
    assert process.running

    system.until(lambda: not system.redis.keys(system.key("partition", "*", "rebuild")), "all is rebuilt")
    expected = recompute(system.ledger, system.settings)
    check_users(system, expected)
    check_learner(system, process, expected)


def test_kafka_restarts(
    own_kafka: KafkaServer, redis_server: EmbeddedRedis, tmp_path: Path, compiled: None
) -> None:
    """A broker that restarts under the running system costs a pause and nothing else."""
    items, messages = shop_messages(4_000)
    with deployments(own_kafka.bootstrap, redis_server.url, tmp_path) as deploy:
        system = deploy(**SMALL)
        system.send(system.settings.items_topic, items)
        process = system.start("worker", "learner")
        system.send_events(messages[:2_000])
        system.until(lambda: process.metric("events") > 500, "events are applied")
        own_kafka.restart()
        system.send_events(messages[2_000:])
        system.until_consumed()
        check_everything(system, process)
