"""Fixtures of all tests: real servers, started when a test first asks for one, stopped with the session.

A test that uses a server is marked ``integration``. Where a server cannot be had the test is skipped and says
why, unless ``REQUIRE_KAFKA=1``: then it fails, so that CI cannot pass without having run it.

The clients of the servers are imported by the fixtures that use them: the tests of `pruning` run without.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stream_app.embedded import EmbeddedBroker, EmbeddedRedis
    from tests.servers import KafkaServer

SERVERS = {"kafka", "start_or_skip", "own_kafka", "redis_server", "redis_url", "broker"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a server."""
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


def _start_or_skip(server: KafkaServer | EmbeddedRedis) -> None:
    from stream_app.embedded import EmbeddedServerError
    from tests.servers import KafkaUnavailableError

    try:
        server.start()
    except KafkaUnavailableError as error:
        _missing(error)
    except EmbeddedServerError as error:
        if "no Redis server found" not in str(error):
            raise
        _missing(error)


def _missing(error: Exception) -> None:
    if os.environ.get("REQUIRE_KAFKA") == "1":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def start_or_skip() -> Callable[[KafkaServer | EmbeddedRedis], None]:
    """Return the function that starts a server, and skips the test (or fails it) where it cannot be had."""
    return _start_or_skip


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """One Apache Kafka for the whole session: use topics and groups of your own, never stop it."""
    from tests.servers import KafkaServer

    server = KafkaServer()
    _start_or_skip(server)
    yield server
    server.stop()


@pytest.fixture
def own_kafka() -> Iterator[KafkaServer]:
    """An Apache Kafka of the test's own, to kill, pause and restart."""
    from tests.servers import KafkaServer

    server = KafkaServer()
    _start_or_skip(server)
    yield server
    server.stop()


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """An embedded broker of the test's own."""
    from stream_app.embedded import EmbeddedBroker

    with EmbeddedBroker() as server:
        yield server


@pytest.fixture(scope="session")
def _redis_session() -> Iterator[EmbeddedRedis]:
    from stream_app.embedded import EmbeddedRedis

    server = EmbeddedRedis()
    _start_or_skip(server)
    yield server
    server.stop()


@pytest.fixture
def redis_server(_redis_session: EmbeddedRedis) -> EmbeddedRedis:
    """A running, empty Redis; a test may kill or pause it, the next one gets it back running."""
    import redis

    _redis_session.resume()
    _redis_session.start()
    with redis.Redis.from_url(_redis_session.url) as client:
        client.flushall()
    return _redis_session


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The address of a running, empty Redis."""
    return redis_server.url


@pytest.fixture
def new_name() -> Callable[[str], str]:
    """Return a function that makes a name nobody else uses, for a topic or a consumer group."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The folder of real data sets (``RECS_DATA``, default ``../shared/data``); skips where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RECS_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set RECS_DATA")
    return folder
