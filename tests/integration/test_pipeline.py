"""A real stream through the whole system, read at the other end by programs that are not ours."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stream_app.embedded import EmbeddedRedis
from stream_app.events import Event, encode_event, encode_item
from stream_app.events.records import Item
from stream_app.formats import read
from stream_app.model.item_index import item_key
from tests.integration.harness import Deployment, Message, Role
from tests.integration.verifier import Expected, check_users, read_examples, recompute

K = 20
EVENTS = 14_000  # of the stream's 55,925; all of it takes a minute
WARM = 2_000  # events before the model is waited for
BAD: list[tuple[bytes | None, bytes | None, str]] = [  # key, value, the field that the reason names
    (b"u1", b"not json", "value"),
    (b"u1", b"\xff\xfe{}", "value"),
    (b"u1", None, "value"),
    (b"u1", b"[]", "value"),
    (b"u1", b'{"event_type":"view","event_time":"soon","user_id":"u1","item_id":"a"}', "event_time"),
    (b"u1", b'{"event_type":"dance","event_time":1767607200,"user_id":"u1","item_id":"a"}', "event_type"),
    (b"u1", b'{"event_type":"view","event_time":1767607200,"user_id":"u1"}', "item_id"),
    (None, b'{"event_type":"view","event_time":1767607200,"item_id":"a"}', "user_id"),
    (b"u2", b'{"event_type":"view","event_time":1767607200,"user_id":"u1","item_id":"a"}', "key"),
    (b"u1", b'{"event_type":"rate","event_time":1767607200,"user_id":"u1","item_id":"a"}', "value"),
]  # fmt: skip


def redis_cli(url: str, *commands: str) -> list[str]:
    """What `redis-cli` answers to commands, one line each."""
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed")
    done = subprocess.run(
        ["redis-cli", "-u", url, "--no-auth-warning", "--raw"],
        input="\n".join(commands) + "\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@dataclass
class Run:
    """A system that has consumed a stream, and what should have come of it."""

    system: Deployment
    worker: Role
    learner: Role
    expected: Expected
    known: set[str]  # item ids that the stream mentions
    redis_url: str

    def get(self, *keys: str) -> list[dict[str, Any]]:
        """JSON values, as a stranger reads them."""
        answers = redis_cli(self.redis_url, *(f'GET "{key}"' for key in keys))
        assert len(answers) == len(keys)
        return [json.loads(answer) for answer in answers]


def mixed(events: Iterable[Event]) -> Iterator[Message]:
    """The messages of events, with the bad ones spread among the first."""
    bad = iter(BAD)
    for n, event in enumerate(events):
        if n % 50 == 7:
            yield from ((key, value) for key, value, _ in islice(bad, 1))
        yield event.user_id.encode(), encode_event(event)


@pytest.fixture
def ranklens(deploy: Callable[..., Deployment], redis_server: EmbeddedRedis, data_directory: Path) -> Run:
    """The RankLens stream, sent and consumed; every user came back once after the last release."""
    file = data_directory / "ranklens" / "events.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    records = list(read(file))
    items = [r for r in records if isinstance(r, Item)]
    events = [r for r in records if isinstance(r, Event)][:EVENTS]
    system = deploy(list_size=K, prune_first=3_000, guard_samples=500, prune_interval=5_000)
    system.send(system.settings.items_topic, ((i.item_id.encode(), encode_item(i)) for i in items))
    worker, learner = system.start("worker", wait=False), system.start("learner", wait=False)
    system.send_events(mixed(events[:WARM]))
    system.until(
        lambda: learner.ready and worker.ready and learner.metric("examples") > 0, "the model begins"
    )
    system.send_events((e.user_id.encode(), encode_event(e)) for e in events[WARM:])
    system.until_consumed(within_s=120)
    learned = len(read_examples(system))
    system.until(lambda: learner.metric("examples") == learned, f"{learned} examples are learned")

    users = sorted({e.user_id for e in events})
    come_back(system, users[:1], until_current=True)
    come_back(system, users)
    known = {i.item_id for i in items} | {i for e in events for i in e.item_ids()}
    return Run(system, worker, learner, recompute(system.ledger, system.settings), known, redis_server.url)


def come_back(system: Deployment, users: list[str], *, until_current: bool = False) -> None:
    """Let users do something without an item, so that their lists are made again."""
    value = '{{"event_type":"begin_checkout","event_time":1767607200,"user_id":"{}","event_id":"{}"}}'

    def made_with_current() -> bool:
        system.send_events((u.encode(), value.format(u, len(system.ledger)).encode()) for u in users)
        system.until_consumed()
        if not until_current:
            return True
        current = system.redis.get(system.key("model", "current"))
        made = system.redis.get(system.key("user", f"{{{users[0]}}}", "top"))
        assert isinstance(current, bytes) and isinstance(made, bytes)
        return bool(json.loads(made)["model"] == current.decode())

    system.until(made_with_current, "lists come from the current release")


def check_list(value: dict[str, Any], known: set[str], k: int) -> None:
    """Hold a list against the contract: fields, K distinct known items, falling scores."""
    assert set(value) == {"user_id", "model", "generated_at", "event_time", "strategy", "items"}
    assert value["generated_at"].endswith("Z")
    ids = [item["item_id"] for item in value["items"]]
    scores = [item["score"] for item in value["items"]]
    assert all(set(item) == {"item_id", "score"} for item in value["items"])
    assert len(ids) == len(set(ids)) == k, f"{len(ids)} items, {len(set(ids))} distinct, {k} expected"
    assert scores == sorted(scores, reverse=True)
    assert set(ids) <= known


def test_what_a_stranger_reads(ranklens: Run) -> None:
    """After RankLens every user's list, the shared lists and the dead letters are what the contract says."""
    run, system, ns = ranklens, ranklens.system, ranklens.system.settings.namespace
    [current] = redis_cli(run.redis_url, f"GET {ns}:v1:model:current")
    users = sorted(run.expected.users)
    for user_id, top in zip(users, run.get(*(f"{ns}:v1:user:{{{u}}}:top" for u in users)), strict=True):
        check_list(top, run.known, K)
        seen = run.expected.users[user_id].items
        strategy = "personal" if seen else "fallback"
        assert (top["user_id"], top["strategy"], top["model"]) == (user_id, strategy, current), top
        assert not [i for i in top["items"] if item_key(i["item_id"]) in seen], f"{user_id} has seen this"
    check_users(system, run.expected)

    for name in ("popular", "trending", "latest"):
        [shared] = run.get(f"{ns}:v1:global:{name}")
        check_list(shared, run.known, K)
        assert (shared["user_id"], shared["strategy"]) == (None, name)

    clicked = sorted(run.expected.counts)
    lists = [f"{ns}:v1:item:{{{i}}}:similar" for i in clicked]
    system.until(lambda: system.redis.exists(*lists) == len(lists), "every clicked item has its similar ones")
    for item_id, similar in zip(clicked, run.get(*lists), strict=True):
        assert similar["strategy"] == "similar"
        assert item_id not in {i["item_id"] for i in similar["items"]}
        check_list(similar, run.known, min(K, len(similar["items"])))

    [meta] = run.get(f"{ns}:v1:model:{current}:meta")
    assert meta["version"] == current
    assert meta["step"] > 0, "no pruned release was promoted"

    keys = redis_cli(run.redis_url, "KEYS *")
    lives = redis_cli(run.redis_url, *(f'TTL "{key}"' for key in keys))
    assert not [key for key, ttl in zip(keys, lives, strict=True) if int(ttl) < 0], (
        "keys without a time to live"
    )
    assert all(key.startswith(f"{ns}:v1:") for key in keys)

    check_dead_letters(run)
    assert run.worker.metric("dead_letters") + run.worker.metric("events") == len(system.ledger)
    assert run.worker.terminate() == run.learner.terminate() == 0


def check_dead_letters(run: Run) -> None:
    """kcat finds every bad message in the dead-letter topic, byte for byte, with its place and a reason."""
    settings = run.system.settings
    done = subprocess.run(
        ["kcat", "-b", settings.kafka_bootstrap, "-C", "-t", settings.dead_letter_topic,
         "-o", "beginning", "-e", "-q"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    letters = {(m["partition"], m["offset"]): m for m in map(json.loads, done.stdout.splitlines())}
    assert len(done.stdout.splitlines()) == len(letters) == len(BAD) == len(run.expected.rejected)
    reasons = {(key, value): field for key, value, field in BAD}
    for sent in run.expected.rejected:
        letter = letters[sent.partition, sent.offset]
        decoded = {
            n: None if letter[n] is None else base64.b64decode(letter[n])
            for n in ("key_base64", "value_base64")
        }
        assert (decoded["key_base64"], decoded["value_base64"]) == (sent.key, sent.value)
        assert letter["topic"] == settings.events_topic
        assert letter["field"] == reasons[sent.key, sent.value], letter
        assert letter["reason"]
    assert len(run.expected.accepted) + len(letters) == len(run.system.ledger)
