"""The order in which a worker's effects become durable, on a source, a sender and a store in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from stream_app.config import Settings
from stream_app.events import Event, encode_event
from stream_app.fencing import Effects, Fence
from stream_app.ownership import Held
from stream_app.worker import Worker


@dataclass
class Log:
    """What happened, in order, and the gate that writes wait at."""

    steps: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Source:
    """Hands out one batch per poll; remembers commits."""

    batches: list[dict[int, list[Any]]]
    log: Log

    async def poll(self, most: int, wait_s: float) -> dict[int, list[Any]]:
        await asyncio.sleep(0)
        return self.batches.pop(0) if self.batches else {}

    async def commit(self, offsets: Mapping[int, int]) -> None:
        self.log.steps.append(f"commit {dict(offsets)}")


@dataclass
class Sender:
    log: Log

    async def send(self, messages: Sequence[Any]) -> None:
        self.log.steps.append("send")


@dataclass
class Store:
    """Keys in a dictionary; a write waits at the gate and is there as a whole afterwards."""

    log: Log
    states: dict[str, bytes] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)  # partitions that others have claimed

    async def load_states(self, user_ids: Sequence[str], fences: Sequence[Fence]) -> list[bytes | None]:
        self.log.steps.append(f"load {','.join(user_ids)}")
        return [self.states.get(user_id) for user_id in user_ids]

    async def write_fenced(self, effects: Sequence[Effects]) -> set[int]:
        states = {user_id: state for one in effects for user_id, state in one.states}
        self.log.lists += [user_id for one in effects for user_id, _ in one.lists]
        self.log.steps.append(f"write {','.join(states)}")
        await self.log.gate.wait()
        self.states |= states
        self.log.steps.append(f"written {','.join(states)}")
        return {one.fence.partition for one in effects} & self.taken


def batch(first_offset: int, *views: tuple[str, str], partition: int = 0) -> dict[int, list[Any]]:
    """Views (user, item) of a partition as consumer records."""
    return {
        partition: [
            ConsumerRecord(
                "events", partition, offset, 0, 0, user.encode(),
                encode_event(Event(f"e{offset}", "view_item", 1_767_607_200_000, user, item_id=item)),
                None, 0, 0, (),
            )
            for offset, (user, item) in enumerate(views, first_offset)
        ]
    }  # fmt: skip


def make_worker(monkeypatch: pytest.MonkeyPatch, batches: list[Any], **settings: Any) -> tuple[Worker, Log]:
    """A worker on edges in memory that never looks for items or models."""
    log = Log()
    worker = Worker(Settings(**{"overlay_interval_s": 1e9} | settings), clock=lambda: 1_767_607_300.0)
    worker._last_sync = time.monotonic()
    monkeypatch.setattr("stream_app.worker.COMMIT_S", 0.0)
    for name, edge in {"_source": Source(batches, log), "_sender": Sender(log), "store": Store(log)}.items():
        monkeypatch.setattr(worker, name, edge)
    for partition in range(2):
        worker._ownership._held[partition] = Held(Fence(partition, 1))
    return worker, log


async def test_a_batch_takes_effect_while_the_next_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is applied before the first is written, and sent and written only after it."""
    worker, log = make_worker(monkeypatch, [batch(0, ("a", "i")), batch(1, ("b", "i"))])
    assert await worker.step() == 1
    second = asyncio.create_task(worker.step())
    while "load b" not in log.steps or worker.recommender.users.offset_of("b") < 1:
        await asyncio.sleep(0)
    assert log.steps == ["load a", "send", "write a", "load b"]
    log.gate.set()
    await second
    await worker.step()
    assert log.steps[4:] == ["written a", "commit {0: 1}", "send", "write b", "written b", "commit {0: 2}"]


async def test_partitions_take_effect_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a turn has read costs one read, one sending and one write, of however many partitions it is."""
    worker, log = make_worker(monkeypatch, [batch(7, ("a", "i")) | batch(3, ("b", "i"), partition=1)])
    log.gate.set()
    assert await worker.step() == 2
    await worker.step()
    assert log.steps == ["load a,b", "send", "write a,b", "written a,b", "commit {0: 8, 1: 4}"]


async def test_a_partition_that_others_took_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused is what belongs to another worker; the rest of the turn is written and remembered."""
    worker, log = make_worker(monkeypatch, [batch(7, ("a", "i")) | batch(3, ("b", "i"), partition=1)])
    log.gate.set()
    worker.store.taken.add(1)  # type: ignore[attr-defined]  # the one in memory
    await worker.step()
    await worker.step()
    assert log.steps[-1] == "commit {0: 8}"
    assert (worker._ownership.held(0) is not None, worker._ownership.held(1)) == (True, None)
    assert ("a" in worker.recommender.users, "b" in worker.recommender.users) == (True, False)


async def test_offsets_are_committed_only_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is still being written is not committed, however long it takes."""
    worker, log = make_worker(monkeypatch, [batch(0, ("a", "i"))])
    await worker.step()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(step.startswith("commit") for step in log.steps)
    log.gate.set()
    assert await worker.step() == 0
    assert log.steps[-2:] == ["written a", "commit {0: 1}"]


async def test_an_effect_that_fails_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody expected surfaces in the next turn; nothing of the batch is committed."""
    worker, log = make_worker(monkeypatch, [batch(0, ("a", "i"))])

    async def write(*arguments: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(worker.store, "write_fenced", write)
    await worker.step()
    with pytest.raises(ZeroDivisionError):
        await worker.step()
    assert not any(step.startswith("commit") for step in log.steps)


async def test_a_new_release_renews_the_lists_of_users_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lists are made again turn by turn, with the present model; states stay as they are."""
    worker, log = make_worker(monkeypatch, [])
    monkeypatch.setattr("stream_app.worker.RENEWED", 2)
    for user in ("u1", "u2", "u3"):
        worker.recommender.users.load(user, None)
    worker._outdate(is_urgent=False)
    worker.recommender.users.forget("u2")
    log.gate.set()
    await worker.step()
    await worker.step()
    assert not worker._outdated
    assert log.lists == ["u1", "u3"] and not [s for s in log.steps if s.startswith("write u")]


async def test_a_few_lists_are_made_again_together_with_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take effect with it, not before and not in a write of their own; its own users come once."""
    monkeypatch.setattr("stream_app.worker.RENEWED_BESIDE", 2)
    worker, log = make_worker(monkeypatch, [batch(0, ("a", "i"))])
    for user in ("a", "u1", "u2", "u3"):
        worker.recommender.users.load(user, None)
    worker._outdate(is_urgent=False)
    log.gate.set()
    await worker.step()
    await worker._settle()
    assert log.lists == ["a", "u1", "u2"] and [*worker._outdated] == ["u3"]
    assert log.steps == ["load ", "send", "write a", "written a"]


async def test_lists_of_a_partition_that_is_lost_meanwhile_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write that is refused while lists are made beside the next batch takes its users out of it."""
    worker, log = make_worker(monkeypatch, [batch(3, ("b", "i"), partition=1), batch(0, ("a", "i"))])
    await worker.step()
    worker.store.taken.add(1)  # type: ignore[attr-defined]  # the one in memory
    worker._outdate(is_urgent=False)
    second = asyncio.create_task(worker.step())
    while "load a" not in log.steps or worker.recommender.users.offset_of("a") < 0:
        await asyncio.sleep(0)
    log.gate.set()
    await second
    await worker._settle()
    assert log.lists == ["b", "a"] and "b" not in worker.recommender.users
    assert worker._ownership.held(0) is not None and worker._ownership.held(1) is None


async def test_lists_wait_while_batches_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind on events, lists of a release that may still be served wait; after a rollback they do not."""
    for is_urgent in (False, True):
        full = [batch(n, ("a", "i")) for n in range(2)]
        worker, log = make_worker(monkeypatch, full, batch_size=1, max_users_in_memory=9)
        log.gate.set()
        for user in ("a", "u1"):
            worker.recommender.users.load(user, None)
        worker._outdate(is_urgent=is_urgent)
        await worker.step()
        assert ("u1" in log.lists) == is_urgent
        assert "a" not in worker._outdated
        await worker.step()
        await worker.step()
        assert "u1" in log.lists


async def test_changed_rules_renew_the_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new version of the file is followed at the next look; a wrong one changes nothing and is said."""
    path = tmp_path / "rules.toml"
    path.write_text("")
    worker, log = make_worker(monkeypatch, [batch(0, ("a", "i"), ("a", "j"))], list_rules=path)
    log.gate.set()
    await worker.step()
    await worker.step()
    path.write_text('[[rules]]\nname = "d"\naction = "deny"\nitem = "x"')
    worker._follow_rules()
    await worker.step()
    assert log.lists == ["a", "a"]
    path.write_text("diversity = -1.0")
    worker._follow_rules()
    policy = worker.recommender.policy
    assert policy is not None and not policy.may_show("x") and not worker._outdated
