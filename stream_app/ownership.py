"""Which partitions of `events` a worker owns, and the right to write what belongs to them.

Kafka's group decides who owns a partition; Redis is told, so that both agree: a worker that takes a partition
claims its fence, and a worker that was suspended for too long and goes on writing is refused.

A claim also tells whether Redis still holds what earlier owners wrote. When it does not (it was flushed, or
came back empty), the events that are retained are applied again up to where the group has committed, with all
that they once led to elsewhere left out: the states come out as they were, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stream_app.errors import OffsetError
from stream_app.fencing import Fence
from stream_app.store import Store
from stream_app.transport import Bounds, EventSource


@dataclass
class Held:
    """A partition that is ours.

    Attributes
    ----------
    fence
        Goes with every write.
    muted_until
        Events below this offset only rebuild states; 0 when nothing is to be rebuilt.
    """

    fence: Fence
    muted_until: int = 0


class Ownership:
    """The partitions of one worker.

    Parameters
    ----------
    store
        Where fences are claimed.
    source
        Where partitions come from.
    topic
        Its name, for errors.
    """

    def __init__(self, store: Store, source: EventSource, topic: str) -> None:
        self._store, self._source, self._topic = store, source, topic
        self._assigned: set[int] = set()  # by Kafka, not claimed yet
        self._held: dict[int, Held] = {}

    def assigned(self, partitions: Iterable[int]) -> None:
        """Kafka gives us partitions; `take` makes them ours."""
        self._assigned |= set(partitions)

    def left(self, partitions: Iterable[int]) -> None:
        """Partitions go to other workers, or went already."""
        for partition in partitions:
            self._assigned.discard(partition)
            self._held.pop(partition, None)

    def waiting(self) -> list[int]:
        """Partitions that Kafka gave us and that are not ours yet."""
        return sorted(self._assigned)

    def held(self, partition: int) -> Held | None:
        """A partition that is ours, None for another."""
        return self._held.get(partition)

    def all_held(self) -> dict[int, Held]:
        """All that are ours, by partition."""
        return dict(self._held)

    async def bounds(self, partition: int) -> Bounds:
        """What a partition holds, and how far it has been read."""
        return await self._source.bounds(partition)

    async def take(self, partition: int, bounds: Bounds) -> Held:
        """Claim a partition that Kafka gave us, and begin to rebuild its states where they are lost.

        Raises
        ------
        OffsetError
            If what was committed lies outside of what the partition holds: messages were deleted before they
            were read, or the topic was made anew and its offsets mean other events than those in the states.
        """
        check_bounds(self._topic, partition, bounds)
        claim = await self._store.claim(partition)
        check_bounds(self._topic, partition, bounds, claim.place)
        held, lost = Held(claim.fence), claim.lost
        if lost and bounds.committed is not None and bounds.begin < bounds.committed:
            held.muted_until = bounds.committed
            self._source.rewind(partition, bounds.begin)
        elif lost:
            await self._store.rebuilt(held.fence)
        self._held[partition] = held
        self._assigned.discard(partition)
        return held

    async def emptied(self) -> list[int]:
        """Partitions of which Redis lost what it held, and that are not being rebuilt yet."""
        held = self._held
        lost = await self._store.emptied([one.fence for one in held.values()])
        return [p for p, flushed in lost.items() if p in held and (flushed or not held[p].muted_until)]


def check_bounds(topic: str, partition: int, bounds: Bounds, place: int | None = None) -> None:
    """Refuse a partition that does not go on where the group stopped.

    Parameters
    ----------
    place
        The last offset whose effect is in Redis: brokers forget what was committed when a topic is deleted.

    >>> check_bounds("events", 0, Bounds(begin=5, end=9, committed=7))
    >>> check_bounds("events", 0, Bounds(begin=0, end=9, committed=12))
    Traceback (most recent call last):
    ...
    stream_app.errors.OffsetError: events[0] holds offsets 0 to 9, but 12 was read already: the topic was
        made anew; begin afresh with other names in RECS_GROUP and RECS_NAMESPACE
    """
    what = f"{topic}[{partition}] holds offsets {bounds.begin} to {bounds.end}, but "
    read = max(bounds.committed or 0, 0 if place is None else place + 1)
    if read > bounds.end:
        raise OffsetError(
            f"{what}{read} was read already: the topic was made anew; "
            "begin afresh with other names in RECS_GROUP and RECS_NAMESPACE"
        )
    if bounds.committed is None or bounds.committed >= bounds.begin:
        return
    raise OffsetError(
        f"{what}{bounds.committed} comes next: messages were deleted unread; to go on without them, "
        "set the group's offsets with `kafka-consumer-groups.sh --reset-offsets --to-earliest`"
    )
