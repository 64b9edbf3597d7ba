"""The embedded servers work with the real clients and die with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream_app.embedded import EmbeddedBroker, EmbeddedRedis, EmbeddedServerError, ServerProcess

ROOT = str(Path(__file__).parents[2])
ONCE = Retry(NoBackoff(), 0)
PARENT = """
import os, sys
from stream_app.embedded import EmbeddedBroker, EmbeddedRedis
servers = [EmbeddedRedis().start(), EmbeddedBroker().start()]
print(*(server.pid for server in servers), *(server.directory for server in servers), flush=True)
{ending}
"""


async def test_broker_serves_a_group_as_the_worker_uses_it(broker: EmbeddedBroker) -> None:
    """Idempotent writes, headers, getmany, commit, committed and end offsets work with aiokafka."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True) as producer:
        for n in range(100):
            await producer.send("events", b"%d" % n, key=b"u%d" % (n % 7), headers=[("ce_id", b"1")])
        await producer.flush()

    options = {
        "bootstrap_servers": broker.bootstrap,
        "group_id": "g",
        "enable_auto_commit": False,
        "session_timeout_ms": 1500,  # after a member left, this broker lets the next one wait for it
        "heartbeat_interval_ms": 400,
    }
    got: list[ConsumerRecord[bytes, bytes]] = []
    async with AIOKafkaConsumer("events", auto_offset_reset="earliest", **options) as consumer:
        while len(got) < 100:
            for records in (await consumer.getmany(timeout_ms=5000)).values():
                got += records
        await consumer.commit()
        parts = consumer.assignment()
        ends = await consumer.end_offsets(list(parts))
        committed = {part: await consumer.committed(part) for part in parts}

    assert sorted(int(record.value) for record in got) == list(range(100))
    assert {record.headers for record in got} == {(("ce_id", b"1"),)}
    assert len(parts) == 4
    assert committed == ends
    assert sum(ends.values()) == 100
    async with AIOKafkaConsumer("events", auto_offset_reset="earliest", **options) as consumer:
        assert not await consumer.getmany(timeout_ms=200)


async def test_broker_creates_topics_with_the_partitions_asked_for() -> None:
    """Partition counts are given at the start; other topics get four."""
    async with (
        EmbeddedBroker(topics={"events": 2, "examples": 1}) as broker,
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer,
    ):
        counts = [len(await producer.partitions_for(topic)) for topic in ("events", "examples", "triggers")]
    assert counts == [2, 1, 4]


async def test_first_member_of_a_group_does_not_wait(broker: EmbeddedBroker) -> None:
    """The broker's usual three seconds before the first assignment are switched off."""
    began = time.perf_counter()
    async with AIOKafkaConsumer("events", bootstrap_servers=broker.bootstrap, group_id="g") as consumer:
        assert consumer.assignment() == {TopicPartition("events", n) for n in range(4)}
    assert time.perf_counter() - began < 2.5


async def test_broker_forgets_after_five_megabytes() -> None:
    """A partition keeps its newest 5 MB: a consumer that falls further behind misses messages."""
    here = TopicPartition("events", 0)
    async with EmbeddedBroker(topics={"events": 1}) as broker:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, max_batch_size=100_000) as producer:
            for _ in range(800):
                await producer.send("events", bytes(10_000))
        async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
            first = (await consumer.beginning_offsets([here]))[here]
            last = (await consumer.end_offsets([here]))[here]
    assert last == 800
    assert 400 <= last - first <= 600


def test_redis_asks_for_its_password() -> None:
    """With a password, a client without it is refused, and the password is in no command line."""
    with EmbeddedRedis(password="s3cret") as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        with redis.Redis(port=server.port, retry=ONCE) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        assert "s3cret" not in Path(f"/proc/{server.pid}/cmdline").read_text()
        assert (server.directory / "redis.conf").stat().st_mode & 0o077 == 0


def test_redis_restarts_on_its_port() -> None:
    """A killed Redis comes back under the same address, empty."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.dbsize() == 0


def test_paused_server_does_not_answer() -> None:
    """A paused server keeps its connections and says nothing until it is resumed."""
    with EmbeddedRedis() as server, redis.Redis(port=server.port, socket_timeout=0.2, retry=ONCE) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


@pytest.mark.parametrize("server", [EmbeddedRedis, EmbeddedBroker])
def test_only_loopback_listens(server: Callable[[], ServerProcess]) -> None:
    """No embedded server accepts a connection on another address of this machine."""
    with server() as running:
        table = Path(f"/proc/{running.pid}/net/tcp").read_text().splitlines()[1:]
        listening = [line.split()[1].split(":") for line in table if line.split()[3] == "0A"]
        assert {address for address, port in listening if int(port, 16) == running.port} == {"0100007F"}


def test_broken_configuration_shows_the_log() -> None:
    """A server that ends while starting is reported with what it wrote, and leaves no folder."""
    server = EmbeddedRedis(config={"no-such-setting": "1"})
    with pytest.raises(EmbeddedServerError, match="no-such-setting"):
        server.start()
    assert server.pid is None


@pytest.mark.parametrize(
    ("server", "advice"),
    [("EmbeddedBroker", "stream-recommender[demo]"), ("EmbeddedRedis", "install redis-server")],
)
def test_missing_package_is_named(server: str, advice: str) -> None:
    """In a Python without packages and with an empty PATH the error says what to install."""
    program = f"from stream_app.embedded import {server}; {server}().start()"
    bare = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ROOT, "PATH": ""},
    )
    assert "EmbeddedServerError" in bare.stderr
    assert advice in bare.stderr


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("sys.exit(3)", 3),
    ],
)
def test_servers_die_with_their_parent(ending: str, code: int) -> None:
    """However the parent ends, no server and no folder is left behind."""
    parent = subprocess.run(
        [sys.executable, "-c", PARENT.format(ending=ending)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert parent.returncode == code, parent.stderr
    *pids, redis_folder, broker_folder = parent.stdout.split()
    left = [Path(f"/proc/{pid}/exe") for pid in pids] + [Path(redis_folder), Path(broker_folder)]
    assert asyncio.run(all_gone(left)), left


async def all_gone(paths: list[Path], timeout_s: float = 10.0) -> bool:
    """Wait until none of the paths exists."""
    deadline = time.monotonic() + timeout_s
    while any(path.exists() for path in paths):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
