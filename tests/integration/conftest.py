"""Fixtures that give a test a system of its own on the session's servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream_app.embedded import EmbeddedRedis
from tests.integration.harness import ROOT, Deployment
from tests.servers import KafkaServer


@contextmanager
def deployments(bootstrap: str, redis_url: str, folder: Path) -> Iterator[Callable[..., Deployment]]:
    """A function that makes a system with the given settings; whatever it started ends with the context."""
    systems: list[Deployment] = []

    def make(**settings: Any) -> Deployment:
        own = folder / f"system-{len(systems)}"
        own.mkdir()
        systems.append(Deployment(bootstrap, redis_url, own, **settings))
        systems[-1].create_topics()
        return systems[-1]

    try:
        yield make
    finally:
        for system in systems:
            system.close()


@pytest.fixture(scope="session")
def compiled() -> None:
    """Compile the kernels once, before processes with deadlines need them."""
    work = "from stream_app.demo import warm_up; warm_up()"
    subprocess.run([sys.executable, "-c", work], cwd=ROOT, check=True)


@pytest.fixture
def deploy(
    compiled: None, kafka: KafkaServer, redis_server: EmbeddedRedis, tmp_path: Path
) -> Iterator[Callable[..., Deployment]]:
    """Make systems that end with the test; Redis is empty."""
    with deployments(kafka.bootstrap, redis_server.url, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def module_deploy(
    compiled: None, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Deployment]]:
    """Make systems that end with the module, on a Redis that nobody flushes."""
    with (
        EmbeddedRedis() as server,
        deployments(kafka.bootstrap, server.url, tmp_path_factory.mktemp("module")) as make,
    ):
        yield make
