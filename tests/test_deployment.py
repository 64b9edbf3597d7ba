"""The files of the deployment say what they should; no container engine is needed, and none is started."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream_app.config import Settings
from stream_app.worker import topics
from tests.servers import KafkaServer, java, kafka_jars

ROOT = Path(__file__).parents[1]
SINGLE = {"items", "control", "events.dlq", "triggers.dlq"}  # with one partition
TOPICS = SINGLE | {"events", "examples", "users", "triggers", "triggers.suppressed"}
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"
OURS = {"worker", "learner", "deliver", "simulator"}


def compose_command() -> Sequence[str]:
    """Return the command of Compose, a plugin of docker or a program of its own, or skip the test."""
    candidates = (["docker", "compose"], ["docker-compose"])
    for command in candidates:
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, "version", "--short"], capture_output=True, text=True, check=False
            )
            if done.returncode == 0 and not done.stdout.startswith("1."):
                return command
    pytest.skip("Compose 2 is not installed")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as Compose itself reads them, every profile included."""
    done = subprocess.run(
        [*compose_command(), "--profile", "*", "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_compose_accepts_the_file(services: dict[str, Any]) -> None:
    """Compose reads docker-compose.yml and finds every service."""
    assert set(services) == {"kafka", "topics", "redis"} | OURS


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    """Nothing outside of this machine can reach a container."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_containers_have_no_rights_to_spare(services: dict[str, Any]) -> None:
    """No capabilities, no new privileges; our own containers and Redis cannot write to their root."""
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
    assert all(services[name]["read_only"] for name in OURS | {"redis"})


def test_roles_start_after_what_they_need(services: dict[str, Any]) -> None:
    """A role waits for a healthy Redis and for the topics, which wait for a healthy Kafka."""
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    for name in OURS:
        needs = services[name]["depends_on"]
        assert needs["redis"]["condition"] == "service_healthy"
        assert needs["topics"]["condition"] == "service_completed_successfully"


def test_workers_can_be_scaled(services: dict[str, Any]) -> None:
    """A worker has neither a name nor a port of its own, so there may be several."""
    assert "container_name" not in services["worker"]
    assert "ports" not in services["worker"]


def test_settings_of_the_services_exist(services: dict[str, Any]) -> None:
    """Every variable that a role gets is a setting, and the settings accept its value."""
    for name in OURS:
        given = {
            key: value for key, value in services[name]["environment"].items() if key.startswith("RECS_")
        }
        fields = {key.removeprefix("RECS_").lower(): value for key, value in given.items()}
        assert fields.keys() <= Settings.model_fields.keys()
        Settings(_env_file=None, **fields)


def test_commands_of_the_services_exist(services: dict[str, Any]) -> None:
    """Every role that the file starts is a command of `recs`."""
    pytest.importorskip("stream_app.cli", reason="the command line is not there yet")
    for name in OURS:
        command = [
            sys.executable,
            "-c",
            "from stream_app.cli import main; main()",
            *services[name]["command"],
        ]
        done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"recs {services[name]['command']}: {done.stderr}"


async def test_topics_are_created_as_documented(kafka: KafkaServer, tmp_path: Path) -> None:
    """The script that Compose runs creates every topic on a real broker, twice without harm."""
    tool = tmp_path / "kafka-topics.sh"
    tool.write_text(
        f'#!/bin/sh\nexec {java()} {QUICK} -cp "{kafka_jars()}/*" org.apache.kafka.tools.TopicCommand "$@"\n'
    )
    tool.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "KAFKA_BOOTSTRAP": kafka.bootstrap,
        "PARTITIONS": "3",
    }
    await delete_topics(kafka, TOPICS)  # other tests have used the session's broker
    for _ in range(2):
        subprocess.run(
            ["sh", str(ROOT / "deploy/create-topics.sh")], env=environment, capture_output=True, check=True
        )

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        found = {
            topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(sorted(TOPICS))
        }
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in sorted(TOPICS)]
        answers = await admin.describe_configs(wanted)
    finally:
        await admin.close()
        await delete_topics(kafka, TOPICS)
    policies = {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}["cleanup.policy"]
        for answer in answers
        for resource in answer.resources
    }
    assert found == dict.fromkeys(TOPICS, 3) | dict.fromkeys(SINGLE, 1)
    assert {topic for topic, policy in policies.items() if policy == "compact"} == {"items", "users"}
    # A worker creates the topics that are missing; it would have made the same ones.
    for topic, (partitions, compacted) in topics(Settings(partitions=3)).items():
        assert (found[topic], policies[topic] == "compact") == (partitions, compacted), topic


async def delete_topics(kafka: KafkaServer, topics: set[str]) -> None:
    """Give the session's broker back as it was."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics(sorted(topics & set(await admin.list_topics())))
    finally:
        await admin.close()


def test_locks_agree_and_name_no_host() -> None:
    """The image gets the versions that were tested, each with its hash, from whatever index is configured."""
    tested, shipped = (lock(ROOT / name) for name in ("requirements.lock", "deploy/requirements.lock"))
    assert shipped.items() <= tested.items()
    assert {"faust-streaming", "river", "redis"} <= shipped.keys()
    assert not {"pytest", "confluent-kafka"} & shipped.keys()


def lock(path: Path) -> dict[str, str]:
    """Read a lock file: name to version."""
    text = path.read_text()
    assert "://" not in text, "a lock file must not name a package index"
    entries = re.findall(r"^([a-z0-9][\w.-]*)==([^ ;]+)(?:.*\\\n)(    --hash)?", text, flags=re.MULTILINE)
    assert all(hashed for _, _, hashed in entries)
    return {name: version for name, version, _ in entries}


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_health_check_says_what_the_process_says(status: int | None, code: int) -> None:
    """The container is healthy when the process answers that it is ready, and only then."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" and status == 200 else 503)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        port = server.server_port
        if status is None:
            server.server_close()
        else:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        done = subprocess.run(
            [sys.executable, str(ROOT / "deploy/healthcheck.py")],
            env={**os.environ, "RECS_WEB_PORT": str(port)},
            capture_output=True,
            check=False,
        )
        if status is not None:
            server.shutdown()
    assert done.returncode == code
