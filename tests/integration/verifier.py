"""What the system should have made of a log, computed again from the log alone, in plain Python.

Nothing of the compiled path is used: messages are decoded by the input layer and applied to dictionaries.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from stream_app.config import Settings
from stream_app.errors import EventError
from stream_app.events import Event, decode_event, feedback
from stream_app.model.examples import PREFERRED, TAKEN, ExampleBatch
from stream_app.model.item_index import item_key
from stream_app.model.learning import Learner
from stream_app.model.scoring import NEGATIVES
from tests.integration.harness import Deployment, Role, Sent

_HEAD = struct.Struct("<2sHHHqq")


@dataclass
class UserState:
    """What is known of a user: where the log was read, and the items, the most recent last."""

    partition: int
    offset: int = -1
    last_ms: int = -1
    items: dict[int, int] = field(default_factory=dict)  # item key → strongest feedback in tenths
    request: str | None = field(default=None, compare=False)  # of the latest list that was shown
    listed: tuple[str, ...] = field(default=(), compare=False)  # and its items


@dataclass
class Expected:
    """What a log leads to.

    Attributes
    ----------
    users
        State by user id.
    rejected
        Messages that are no events.
    learnable
        (partition, offset) of each example: feedback that says something new, the choice of an item out of
        the latest list, and each part of a list that was shown.
    counts
        Feedback per item id, in views.
    """

    users: dict[str, UserState] = field(default_factory=dict)
    accepted: list[Sent] = field(default_factory=list)
    rejected: list[Sent] = field(default_factory=list)
    learnable: list[tuple[int, int]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def high_water(self) -> dict[int, int]:
        """The last learnable offset by partition."""
        return {p: max(o for q, o in self.learnable if q == p) for p in {p for p, _ in self.learnable}}


def recompute(log: Iterable[Sent], settings: Settings) -> Expected:
    """Apply a log, in offset order of each partition."""
    expected = Expected()
    for sent in sorted(log, key=lambda s: (s.partition, s.offset)):
        try:
            event = decode_event(sent.value, key=sent.key)
        except EventError:
            expected.rejected.append(sent)
            continue
        expected.accepted.append(sent)
        _apply(expected, sent, event, settings)
    return expected


def _apply(expected: Expected, sent: Sent, event: Event, settings: Settings) -> None:
    user = expected.users.setdefault(event.user_id, UserState(sent.partition))
    assert user.partition == sent.partition, f"{event.user_id} is in two partitions"
    user.offset = sent.offset
    user.last_ms = max(user.last_ms, event.event_time_ms)
    if event.event_type == "view_item_list" and event.items:
        user.request, user.listed = event.request_id, event.item_ids()
        parts = math.ceil(len(user.listed) / (1 + NEGATIVES))
        expected.learnable += [(sent.partition, sent.offset)] * parts
        return
    for item_id, weight in feedback(event, settings.event_weights, settings.rating_threshold):
        key, strength = item_key(item_id), min(255, max(1, round(weight * 10)))
        before = user.items.pop(key, 0)
        user.items[key] = max(before, strength)
        if len(user.items) > settings.max_items_per_user:
            del user.items[next(iter(user.items))]
        answers = event.request_id is not None and event.request_id == user.request and item_id in user.listed
        if strength > before or answers:
            expected.learnable.append((sent.partition, sent.offset))
        if strength > before:
            expected.counts[item_id] = expected.counts.get(item_id, 0.0) + (strength - before) / 10


def unpack(state: bytes) -> UserState:
    """Read the packed state of a user."""
    magic, partition, n, _, offset, last_ms = _HEAD.unpack_from(state)
    assert magic == b"U1", magic
    assert len(state) >= _HEAD.size + 9 * n  # behind it stands what was offered to the user
    keys = struct.unpack_from(f"<{n}Q", state, _HEAD.size)
    best = state[_HEAD.size + 8 * n : _HEAD.size + 9 * n]
    assert len(set(keys)) == n, "an item stands twice"
    return UserState(partition, offset, last_ms, dict(zip(keys, best, strict=True)))


def check_users(system: Deployment, expected: Expected) -> None:
    """Hold every user's state in Redis against the recomputation: items, their order, strengths, offsets."""
    wrong = []
    for user_id, wanted in expected.users.items():
        packed = system.state(user_id)
        found = None if packed is None else unpack(packed)
        same = found == wanted and found is not None and list(found.items) == list(wanted.items)
        if not same:
            wrong.append(f"{user_id}: expected {wanted}, found {found}")
    assert not wrong, f"{len(wrong)} of {len(expected.users)} users are wrong, first {wrong[0]}"
    keys = {k.decode() for k in system.redis.scan_iter(system.key("user", "*", "state"), count=1000)}
    assert len(keys) == len(expected.users)


def read_examples(system: Deployment) -> list[tuple[int, int, int]]:
    """Partition, offset and kind of the examples in their topic, without repeats."""
    found: list[tuple[int, int, int]] = []
    high_water: dict[int, int] = {}
    for message in system.read(system.settings.examples_topic):
        batch = ExampleBatch.from_bytes(message.value())
        before = high_water.get(batch.partition, -1)
        rows = zip(batch.offsets.tolist(), batch.kind.tolist(), strict=True)
        found += [(batch.partition, offset, kind) for offset, kind in rows if offset > before]
        high_water[batch.partition] = max(before, int(batch.offsets[-1]))
    return found


def check_examples(system: Deployment, expected: Expected) -> None:
    """Hold the examples topic against the recomputation: without repeats, each example is there once.

    A choice out of a list may come with a second example, what was chosen beside what was not in the list.
    """
    found = read_examples(system)
    assert sorted((p, o) for p, o, kind in found if kind != PREFERRED) == sorted(expected.learnable)
    taken = Counter((p, o) for p, o, kind in found if kind == TAKEN)
    assert Counter((p, o) for p, o, kind in found if kind == PREFERRED) <= taken


def checkpointed(system: Deployment) -> Learner | None:
    """The learner as its newest checkpoint has it."""
    path = system.settings.state_dir / "checkpoint"
    return Learner.from_bytes(path.read_bytes())[0] if path.exists() else None


def check_everything(system: Deployment, learner: Role) -> None:
    """Hold users, dead letters and the learner against a recomputation; ends the process of the learner."""
    expected = recompute(system.ledger, system.settings)
    check_users(system, expected)
    letters = {(m["partition"], m["offset"]) for m in system.dead_letters()}
    assert letters == {(s.partition, s.offset) for s in expected.rejected}
    check_learner(system, learner, expected)


def check_learner(system: Deployment, learner: Role, expected: Expected) -> None:
    """Wait until everything is learned, end the process, and hold its counters against the recomputation."""
    check_examples(system, expected)
    system.until(
        lambda: (found := checkpointed(system)) is not None and found.high_water == expected.high_water,
        "the learner has everything",
    )
    assert learner.terminate() == 0
    learned = checkpointed(system)
    assert learned is not None
    assert learned.step == len(read_examples(system))
    counts = {i: float(learned.stats.count[learned.items.number(i)]) for i in expected.counts}
    assert counts == pytest.approx(expected.counts, rel=1e-5)
    assert float(learned.stats.count.sum()) == pytest.approx(sum(expected.counts.values()), rel=1e-5)
