"""The ground of the other tests: the servers are real, and clients we did not write agree."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Sequence

import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_app.embedded import EmbeddedRedis
from tests.servers import KafkaServer, kafka_version

Names = Callable[[str], str]


def kcat(*arguments: str, text: str = "") -> str:
    """Run kcat and return what it printed."""
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed")
    done = subprocess.run(
        ["kcat", *arguments], input=text, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


async def read(bootstrap: str, topic: str, count: int) -> Sequence[bytes]:
    """Read `count` values of a topic with aiokafka, outside of any group."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


def test_kcat_reads_what_kcat_wrote(kafka: KafkaServer, new_name: Names) -> None:
    """A client that nobody here wrote can write to the broker and read it back."""
    topic = new_name("kcat")
    kcat("-b", kafka.bootstrap, "-P", "-t", topic, "-K", ":", text="u1:one\nu2:two\n")
    lines = kcat("-b", kafka.bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k=%s\n")
    assert sorted(lines.split()) == ["u1=one", "u2=two"]


async def test_aiokafka_reads_what_kcat_wrote(kafka: KafkaServer, new_name: Names) -> None:
    """The client of the application and a foreign one see the same topic."""
    topic = new_name("mixed")
    kcat("-b", kafka.bootstrap, "-P", "-t", topic, text="one\ntwo\n")
    assert sorted(await read(kafka.bootstrap, topic, 2)) == [b"one", b"two"]


async def test_admin_creates_a_compacted_topic(kafka: KafkaServer, new_name: Names) -> None:
    """Partition counts and compaction can be asked for, as the deployment does."""
    topic = new_name("items")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 3, 1, topic_configs={"cleanup.policy": "compact"})])
        async with asyncio.timeout(10):  # the broker answers before its metadata knows the topic
            while not (description := (await admin.describe_topics([topic]))[0])["partitions"]:
                pass
    finally:
        await admin.close()
    assert len(description["partitions"]) == 3


@pytest.mark.parametrize("end", [KafkaServer.restart, KafkaServer.kill], ids=["restart", "kill -9"])
async def test_data_and_offsets_survive(
    own_kafka: KafkaServer, new_name: Names, end: Callable[[KafkaServer], None]
) -> None:
    """What the broker acknowledged is there after a restart and after kill -9, on the same port."""
    topic, group, before = new_name("durable"), new_name("group"), own_kafka.bootstrap
    async with AIOKafkaProducer(bootstrap_servers=before, enable_idempotence=True) as producer:
        for value in (b"a", b"b", b"c"):
            await producer.send_and_wait(topic, value, partition=0)
    mine = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=before, group_id=group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([mine])
        await consumer.commit({mine: 2})

    end(own_kafka)
    own_kafka.start()

    assert own_kafka.bootstrap == before
    assert await read(before, topic, 3) == [b"a", b"b", b"c"]
    async with AIOKafkaConsumer(
        bootstrap_servers=before, group_id=group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([mine])
        assert await consumer.committed(mine) == 2


def test_kafka_is_version_4(kafka: KafkaServer) -> None:
    """The tests run against Kafka 4 or newer."""
    assert kafka.running
    assert int(kafka_version().split(".")[0]) >= 4


def test_redis_is_empty_for_every_test(redis_server: EmbeddedRedis) -> None:
    """A test finds an empty Redis, and one that was killed by the test before runs again."""
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
    redis_server.kill()


def test_redis_is_empty_again(redis_url: str) -> None:
    """The test before this one left a key and a dead server; neither is visible."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
