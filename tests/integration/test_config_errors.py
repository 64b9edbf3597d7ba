"""Servers that are not there, and passwords that are wrong: one line says so, soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_app.app import System
from stream_app.config import load_settings
from stream_app.embedded import EmbeddedRedis, free_port
from stream_app.errors import RecsError, StoreError, TransportError
from tests.integration.harness import Deployment
from tests.servers import KafkaServer


async def refusal(tmp_path: Path, roles: list[str], **settings: Any) -> RecsError:
    """The error with which a system refuses to start; it has 20 s for that."""
    system = System(load_settings(state_dir=tmp_path / "state", io_timeout_s=5, **settings), roles)
    with pytest.raises(RecsError) as caught:
        await asyncio.wait_for(system.start(), 20)
    text = str(caught.value)
    assert "\n" not in text
    return caught.value


@pytest.mark.parametrize("role", ["worker", "learner"])
async def test_kafka_is_not_there(role: str, tmp_path: Path) -> None:
    """Without Kafka a role refuses to start, and says where it looked."""
    place = f"127.0.0.1:{free_port()}"
    error = await refusal(tmp_path, [role], kafka_bootstrap=place)
    assert isinstance(error, TransportError)
    assert place in str(error) and "RECS_KAFKA_BOOTSTRAP" in str(error)


@pytest.mark.parametrize("role", ["worker", "learner"])
async def test_redis_is_not_there(
    role: str, tmp_path: Path, kafka: KafkaServer, new_name: Callable[[str], str]
) -> None:
    """Without Redis a role refuses to start, and says where it looked."""
    port = free_port()
    error = await refusal(
        tmp_path, [role], kafka_bootstrap=kafka.bootstrap, redis_url=f"redis://127.0.0.1:{port}/0",
        **topic_names(new_name("away")),
    )  # fmt: skip
    assert isinstance(error, StoreError)
    assert f"127.0.0.1:{port}" in str(error) and "RECS_REDIS_URL" in str(error)


async def test_wrong_password_of_redis(
    tmp_path: Path, kafka: KafkaServer, new_name: Callable[[str], str]
) -> None:
    """A wrong password is named as the reason, and never printed."""
    with EmbeddedRedis(password="right-secret") as server:
        for url in (
            server.url.replace("right-secret", "wrong-secret"),
            server.url.replace(":right-secret@", ""),
        ):
            error = await refusal(
                tmp_path, ["worker"], kafka_bootstrap=kafka.bootstrap, redis_url=url,
                **topic_names(new_name("password")),
            )  # fmt: skip
            assert isinstance(error, StoreError)
            assert "secret" not in str(error)
            assert "check user and password in RECS_REDIS_URL" in str(error)


async def test_checkpoint_survives_a_failed_start(
    tmp_path: Path, kafka: KafkaServer, new_name: Callable[[str], str]
) -> None:
    """A learner that could not start leaves the checkpoint of the one before as it is."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "checkpoint").write_bytes(b"precious")
    await refusal(tmp_path, ["learner"], kafka_bootstrap=f"127.0.0.1:{free_port()}")
    assert (tmp_path / "state" / "checkpoint").read_bytes() == b"precious"
    error = await refusal(
        tmp_path, ["learner"], kafka_bootstrap=kafka.bootstrap, redis_url="redis://127.0.0.1:1/0",
        **topic_names(new_name("failed")),
    )  # fmt: skip
    assert isinstance(error, StoreError)
    assert (tmp_path / "state" / "checkpoint").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("command", "wrong", "code", "mention"),
    [
        (["worker"], {"kafka_bootstrap": "127.0.0.1:1"}, 69, "RECS_KAFKA_BOOTSTRAP"),
        (["learner"], {"redis_url": "redis://127.0.0.1:1/0"}, 69, "RECS_REDIS_URL"),
        (["get", "u1"], {"redis_url": "redis://127.0.0.1:1/0"}, 69, "RECS_REDIS_URL"),
        (["prune", "now"], {"kafka_bootstrap": "127.0.0.1:1"}, 69, "RECS_KAFKA_BOOTSTRAP"),
        (["worker"], {"list_size": 0}, 78, "RECS_LIST_SIZE=0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list | dict) else str(value),
)
def test_command_line_says_it_in_one_line(
    deploy: Callable[..., Deployment], command: list[str], wrong: dict[str, Any], code: int, mention: str
) -> None:
    """A command that cannot do its work says so in one line and ends with the exit code of its kind."""
    done = deploy().recs(*command, within_s=60, **wrong)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # before it a role logs what it does
    assert line.startswith("recs: ") and mention in line


def topic_names(name: str) -> dict[str, str]:
    """Topics and group that nobody else uses."""
    topics = ("events", "items", "users", "examples", "control")
    names = {f"{topic}_topic": f"{name}.{topic}" for topic in topics}
    return names | {"dead_letter_topic": f"{name}.dlq", "group": name}
