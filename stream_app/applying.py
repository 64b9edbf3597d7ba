"""What a worker computes between reading and writing: batches in; messages, lists and states out.

No network, and no clock but the one that it is given: it runs in a thread while the loop reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream_app.config import Settings
from stream_app.errors import EventError
from stream_app.events import DecodePolicy, Event, Message, decode_event
from stream_app.events.dead_letters import Rejected
from stream_app.firing import Firing, Task, users_of_messages
from stream_app.ownership import Held
from stream_app.recommender import Lists, Outcome, Recommender, Share
from stream_app.served_json import lists_json
from stream_app.transport import OutMessage
from stream_app.triggers.engine import Look


@dataclass(frozen=True)
class Part:
    """What a turn has read of a partition.

    Attributes
    ----------
    held
        The right to write what comes of it.
    records
        In offset order, at least one.
    muted
        The events have been applied before: they only rebuild states.
    """

    partition: int
    held: Held
    records: Sequence[Message]
    muted: bool = False


@dataclass(frozen=True)
class Decoded:
    """The events of a part with their offsets, and what could not be read."""

    part: Part
    offsets: list[int]
    events: list[Event]
    rejected: list[Rejected]


@dataclass(frozen=True)
class Applied:
    """What a part leads to: messages to Kafka, lists as bytes by user, and the outcome they were made of."""

    part: Part
    messages: list[OutMessage]
    lists: list[tuple[str, bytes]]
    outcome: Outcome
    rejected: int


@dataclass(frozen=True)
class Fired:
    """What a slice of trigger work leads to; `gone` are users who watch its item no more."""

    looks: list[Look]
    gone: list[str]
    messages: list[OutMessage]
    lists: list[tuple[str, bytes]]
    states: list[tuple[str, bytes]]


class Applier:
    """Applies what a worker reads to its recommender.

    Parameters
    ----------
    firing
        Makes the messages of triggers; None without triggers.
    examples_partitions
        How many partitions the topic of examples has.
    clock
        Seconds since 1970, for `generated_at` and for event times from the future.
    """

    def __init__(
        self,
        settings: Settings,
        recommender: Recommender,
        firing: Firing | None,
        clock: Callable[[], float],
        examples_partitions: int = 1,
    ) -> None:
        self.settings, self.recommender = settings, recommender
        self.firing, self.clock = firing, clock
        self.examples_partitions = examples_partitions
        self._policy = DecodePolicy(max_bytes=settings.max_event_bytes)

    def decode(self, part: Part, erased_ms: Callable[[str], int]) -> Decoded:
        """Read the events of a part.

        Parameters
        ----------
        erased_ms
            When a user was erased last, −1 when not: of a muted part, who was erased since stays erased.
        """
        now_ms = int(self.clock() * 1000)
        offsets, events, rejected = [], [], []
        for r in part.records:
            try:
                event = decode_event(
                    r.value, key=r.key, headers=r.headers, policy=self._policy, now_ms=now_ms
                )
            except EventError as error:
                if not part.muted:  # else its dead letter was sent
                    rejected.append(
                        Rejected(r.topic, r.partition, r.offset, r.key, r.value, error.field, error.reason)
                    )
                continue
            if part.muted and r.timestamp <= erased_ms(event.user_id):
                continue
            # the record's time is the same whenever it is read, that of the wall is not
            events.append(event.not_after(r.timestamp) if r.timestamp >= 0 else event)
            offsets.append(r.offset)
        return Decoded(part, offsets, events, rejected)

    def apply(
        self, batch: Sequence[Decoded], beside: Sequence[str] = ()
    ) -> tuple[list[Applied], list[tuple[str, bytes]]]:
        """Apply a turn's parts; the state of every user must be in memory.

        Parameters
        ----------
        beside
            Other users in memory, whose lists are made again.
        """
        shares = [Share(decoded.part.partition, decoded.offsets, decoded.events) for decoded in batch]
        outcomes = self.recommender.apply_all(shares)
        applied = [self._applied(decoded, outcome) for decoded, outcome in zip(batch, outcomes, strict=True)]
        return applied, self.lists(beside) if beside else []

    def _applied(self, decoded: Decoded, outcome: Outcome) -> Applied:
        part, rejected = decoded.part, decoded.rejected
        lists = self.as_json(outcome.lists)
        if part.muted:  # what it leads to elsewhere happened before
            return Applied(part, [], lists, outcome, 0)
        dead = self.settings.dead_letter_topic
        messages: list[OutMessage] = [(dead, r.key, r.to_dead_letter(), None) for r in rejected]
        if outcome.examples is not None:
            topic = self.settings.examples_topic
            to = part.partition % self.examples_partitions  # one source partition stays in order
            messages += [(topic, None, some.to_bytes(), to) for some in outcome.examples.parts()]
        messages += self.exposures(lists) + self._triggered(outcome.looks, outcome.lists)
        return Applied(part, messages, lists, outcome, len(rejected))

    def fire(self, task: Task) -> Fired:
        """Look at the users of a slice of trigger work who are in memory."""
        users = self.recommender.users
        before = {u: users.tails.get(u) for u in task.users if u in users}
        looks, gone = task.look([*before])
        made = self.recommender.lists(users_of_messages(looks))
        lists = self.as_json(made)
        states = users.pack_all([k.user_id for k in looks if k.packed != before[k.user_id]])
        gone += [u for u in task.users if u not in before]
        return Fired(looks, gone, self.exposures(lists) + self._triggered(looks, made), lists, states)

    def lists(self, user_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Make the lists of users in memory again."""
        return self.as_json(self.recommender.lists(user_ids))

    def as_json(self, lists: Lists) -> list[tuple[str, bytes]]:
        """Lists as readers get them, by user."""
        return lists_json(lists, self.recommender.model.version, int(self.clock() * 1000))

    def exposures(self, lists: Sequence[tuple[str, bytes]]) -> list[OutMessage]:
        """What is kept of lists while places are drawn, so that estimates are possible."""
        if not self.settings.explore_places:
            return []
        return [(self.settings.exposures_topic, user_id.encode(), data, None) for user_id, data in lists]

    def _triggered(self, looks: Sequence[Look], lists: Lists) -> list[OutMessage]:
        """What triggers have to say, sent or held back."""
        s = self.settings
        if self.firing is None or not looks:
            return []
        return self.firing.messages(looks, lists, s.triggers_topic, s.suppressed_topic, s.namespace)
