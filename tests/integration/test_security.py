"""Passwords and TLS of the real servers: the right client is let in, every wrong one is refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream_app.embedded import EmbeddedRedis, free_port
from tests.servers import Certificate, KafkaServer, issue_certificate

ONCE = Retry(NoBackoff(), 0)


@pytest.fixture(scope="module")
def secure_kafka(start_or_skip: Callable[[KafkaServer], None]) -> Iterator[KafkaServer]:
    """A Kafka with a listener that wants SCRAM over TLS."""
    server = KafkaServer(users={"recs": "s3cret"})
    start_or_skip(server)
    yield server
    server.stop()


async def send(server: KafkaServer, **changes: Any) -> int:
    """Send one message to the secure listener and return its offset; `changes` replace client settings."""
    settings = {
        "bootstrap_servers": server.secure_bootstrap,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "recs",
        "sasl_plain_password": "s3cret",
        "ssl_context": ssl.create_default_context(cafile=str(server.ca_file)),
        "request_timeout_ms": 3000,
        **changes,
    }
    producer = AIOKafkaProducer(**settings)
    try:
        await producer.start()
        sent = await producer.send_and_wait("secure", b"hello")
    finally:
        await producer.stop()
    return int(sent.offset)


async def test_kafka_lets_the_right_client_in(secure_kafka: KafkaServer) -> None:
    """User, password and authority are right: the message is written."""
    assert await send(secure_kafka) >= 0


@pytest.mark.parametrize(
    "changes",
    [
        {"sasl_plain_password": "wrong"},
        {"sasl_plain_username": "nobody"},
        {"ssl_context": ssl.create_default_context()},
        {"security_protocol": "PLAINTEXT"},
        {"security_protocol": "SSL"},
    ],
    ids=["wrong password", "unknown user", "unknown authority", "plaintext", "no password"],
)
async def test_kafka_refuses_the_wrong_client(secure_kafka: KafkaServer, changes: dict[str, Any]) -> None:
    """A client with anything wrong gets an error, not a connection."""
    with pytest.raises(KafkaError):
        await send(secure_kafka, **changes)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for 127.0.0.1."""
    return issue_certificate(tmp_path_factory.mktemp("tls") / "redis")


@pytest.fixture(scope="module")
def secure_redis(
    certificate: Certificate, start_or_skip: Callable[[EmbeddedRedis], None]
) -> Iterator[EmbeddedRedis]:
    """A Redis with TLS and one user per role: a writer of `rec:*`, and a reader."""
    server = EmbeddedRedis(
        password="operator",
        config={
            "tls-port": str(free_port()),
            "tls-cert-file": str(certificate.certificate),
            "tls-key-file": str(certificate.key),
            "tls-ca-cert-file": str(certificate.ca),
            "tls-auth-clients": "no",
            "user writer": "on >write ~rec:* +set +get +del +unlink +expire +multi +exec",
            "user reader": "on >read %R~rec:* +get +ping",
        },
    )
    start_or_skip(server)
    yield server
    server.stop()


def connect(server: EmbeddedRedis, ca: Path | None, user: str | None, password: str | None) -> redis.Redis:
    """Return a client of the TLS port."""
    return redis.Redis(
        port=int(server.config["tls-port"]),
        host="127.0.0.1",
        ssl=True,
        ssl_ca_certs=str(ca) if ca else None,
        username=user,
        password=password,
        retry=ONCE,
    )


def test_redis_roles_can_do_their_part_only(secure_redis: EmbeddedRedis, certificate: Certificate) -> None:
    """The writer writes `rec:*` and nothing else; the reader reads it and cannot write."""
    writer = connect(secure_redis, certificate.ca, "writer", "write")
    reader = connect(secure_redis, certificate.ca, "reader", "read")
    writer.set("rec:v1:user:{u1}:top", "[]", ex=60)
    assert reader.get("rec:v1:user:{u1}:top") == b"[]"
    refused: list[Callable[[], Any]] = [
        lambda: writer.set("other", "1"),
        writer.flushall,
        lambda: reader.set("rec:v1:user:{u1}:top", "1"),
        lambda: reader.get("other"),
    ]
    for attempt in refused:
        with pytest.raises(redis.exceptions.NoPermissionError):
            attempt()
    writer.close()
    reader.close()


def test_redis_refuses_the_wrong_client(secure_redis: EmbeddedRedis, certificate: Certificate) -> None:
    """A wrong password, no password, an unknown authority: refused."""
    for ca, user, password, error in (
        (certificate.ca, "writer", "wrong", redis.AuthenticationError),
        (certificate.ca, None, None, redis.AuthenticationError),
        (None, "writer", "write", redis.ConnectionError),
    ):
        with connect(secure_redis, ca, user, password) as client, pytest.raises(error):
            client.get("rec:v1:model:current")
