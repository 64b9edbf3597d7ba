"""The benchmarks run, and their reports have the agreed shape; what they measure is not a test's business."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from rich.console import Console

from benchmarks import pipeline_peers
from benchmarks.report import machine, show
from benchmarks.workload import preload, shop_events
from tests.servers import KafkaServer

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks`."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_benchmarks_are_listed() -> None:
    """Without a name the benchmarks are listed, without running or importing them."""
    listed = run()
    assert listed.returncode == 0
    assert "latency" in listed.stdout
    assert "workload" not in listed.stdout and "pipeline_peers" not in listed.stdout


def test_unknown_benchmark_is_refused() -> None:
    """A name that does not exist ends with a code and the names that do."""
    refused = run("nonsense")
    assert refused.returncode == 2
    assert "latency" in refused.stderr


def test_report_is_shown_with_its_goals() -> None:
    """A table names each result by its path, and says of each goal whether it was met."""
    report = {
        "name": "example",
        "machine": machine(),
        "date": "2026-01-05T10:00:00+00:00",
        "results": {"worker": {"events_per_s": 21634.2}},
        "goals": {"events/s": {"value": 21634.2, "goal": 20000, "ok": True}},
    }
    console = Console(width=120, record=True, file=io.StringIO())
    show(report, console)
    text = console.export_text()
    assert "worker.events_per_s" in text
    assert "21,634" in text
    assert "met" in text


def test_same_seed_same_events() -> None:
    """The workload is the same bytes on every machine, and another seed gives other bytes."""
    assert list(shop_events(50, seed=3)) == list(shop_events(50, seed=3))
    assert list(shop_events(50, seed=3)) != list(shop_events(50, seed=4))


@pytest.mark.parametrize("peer", ["floor", "naive"])
def test_peers_write_what_they_should(
    peer: str, kafka: KafkaServer, redis_url: str, new_name: Callable[[str], str]
) -> None:
    """Each peer reads every event and leaves one list per user in Redis; the floor one state besides."""
    topic, events = new_name(peer), list(shop_events(60))
    assert preload(kafka.bootstrap, topic, iter(events)) == 60
    report = pipeline_peers.measure(peer, kafka.bootstrap, redis_url, topic, 60)
    assert report["events"] == 60
    users = {key.decode() for key, _ in events}
    with redis.Redis.from_url(redis_url) as client:
        lists = {key.decode() for key in client.keys("rec:v1:user:*:top")}
        assert lists == {f"rec:v1:user:{{{user}}}:top" for user in users}
        top = json.loads(client.get(lists.pop()) or "[]")
        states = client.keys("rec:v1:user:*:state")
        assert all(client.ttl(key) > 0 for key in client.keys("*"))
    assert len(top) == pipeline_peers.LIST_LENGTH
    assert len(states) == (len(users) if peer == "floor" else 0)
