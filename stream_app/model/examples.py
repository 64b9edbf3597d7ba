"""Examples: what workers log at the moment of an event and the learner learns from.

One batch holds the examples of one poll from one partition of `events`, column by column. Items are
numbered inside the batch, their keys and ids travel once. (source partition, offset) identify an example
for ever, so the learner can drop what it has learned already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.envelope import seal, unseal
from pruning.errors import PruningError
from stream_app.errors import EventError
from stream_app.model.features import widened

_MAGIC = b"RECSEXMP"
_FORMAT = 2

CHOSEN, LIKED, DISLIKED, SHOWN, TAKEN, PREFERRED = range(6)
"""What happened: an item was chosen, rated well, rated badly, shown in a list, or chosen out of one; the last
compares what was chosen out of a list with what was not in it, and is otherwise counted by `TAKEN`."""


@dataclass(frozen=True)
class ExampleBatch:
    """Examples of one source partition, e in number, in offset order.

    Attributes
    ----------
    partition
        Partition of `events` that they come from.
    offsets
        int64 (e,); the items of one event share its offset.
    times_ms
        Event times, int64 (e,).
    ids, keys
        The items that the batch mentions: texts ("" where only the key is known) and uint64 (k,).
    history
        Numbers into `keys`, the most recent last, −1 in front, int32 (e, WINDOW).
    length
        Whole length of the history, int32 (e,).
    gap
        Bucket of the time since the user's last event, uint8 (e,).
    kind
        What happened, `CHOSEN` to `PREFERRED`, uint8 (e,).
    weight
        New feedback, float32 (e,); 0 when it says nothing new.
    users
        Tokens of the user, uint64 (e, USER_TOKENS).
    item, count
        The chosen item and the other candidates, or all items that were shown, int32 (e, 1 + NEGATIVES), of
        which `count` (e,) are filled.
    numbers
        Their raw numbers, float32 (e, 1 + NEGATIVES, N_NUMBERS); half precision on the wire.
    user_fields
        Names of the attributes that users are described with: tokens do not tell them.
    """

    partition: int
    offsets: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    ids: list[str]
    keys: NDArray[np.uint64]
    history: NDArray[np.int32]
    length: NDArray[np.int32]
    gap: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    weight: NDArray[np.float32]
    users: NDArray[np.uint64]
    item: NDArray[np.int32]
    count: NDArray[np.int32]
    numbers: NDArray[np.float32]
    user_fields: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def rows(self, keep: NDArray[np.bool_] | slice) -> ExampleBatch:
        """The examples where `keep` (e,) is true, or those of a slice."""
        by_example = (
            "offsets", "times_ms", "history", "length", "gap", "kind", "weight", "users", "item", "count",
            "numbers",
        )  # fmt: skip
        return replace(self, **{name: getattr(self, name)[keep] for name in by_example})

    @property
    def is_ranked(self) -> NDArray[np.bool_]:
        """Whether an example says that one item was preferred to others, (e,); only those have numbers."""
        return _is_ranked(self.kind, self.count)

    def parts(self, most: int = 400) -> Iterator[ExampleBatch]:
        """The batch cut into messages of at most `most` examples; those of one event stay together."""
        if 0 < len(self) <= most:
            yield self
            return
        start = 0
        while start < len(self):
            end = min(start + most, len(self))
            while end < len(self) and self.offsets[end] == self.offsets[end - 1]:
                end += 1
            keep = np.zeros(len(self), np.bool_)
            keep[start:end] = True
            yield self.rows(keep)._only_mentioned()
            start = end

    def mentioned(self) -> NDArray[np.int32]:
        """The items that the examples mention, numbers into `keys`, in the order of their first mention."""
        if not len(self):
            return np.zeros(0, np.int32)
        numbers = np.concatenate((self.history, self.item), axis=1).ravel()
        numbers = numbers[numbers >= 0]
        first = np.full(len(self.keys), len(numbers))  # where each item is mentioned first
        first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of equal numbers, numpy keeps the last one's
        mentioned = np.flatnonzero(first < len(numbers)).astype(np.int32)
        return mentioned[np.argsort(first[mentioned])]

    def _only_mentioned(self) -> ExampleBatch:
        """The same examples without the items that none of them mentions."""
        mentioned = self.mentioned()
        place = np.full(len(self.keys) + 1, -1, np.int32)  # the last one stands for "no item"
        place[mentioned] = np.arange(len(mentioned), dtype=np.int32)
        return replace(
            self,
            ids=[self.ids[k] for k in mentioned.tolist()],
            keys=self.keys[mentioned],
            history=place[self.history],
            item=place[self.item],
        )

    def to_bytes(self) -> bytes:
        """The batch as one checksummed message."""
        filled = np.arange(self.item.shape[1]) < self.count[:, None]  # (e, 1 + NEGATIVES)
        past = self.history >= 0
        arrays = {
            "offsets": self.offsets,
            "times_ms": self.times_ms,
            "keys": self.keys,
            "history": self.history[past],
            "history_count": past.sum(axis=1, dtype=np.uint8),
            "length": self.length,
            "gap": self.gap,
            "kind": self.kind,
            "weight": self.weight,
            "users": self.users,
            "item": self.item[filled],
            "count": self.count.astype(np.uint8),
            "numbers": self.numbers[filled & self.is_ranked[:, None]].astype(np.float16),
        }
        meta = {"partition": self.partition, "ids": self.ids, "width": list(self.numbers.shape[1:])}
        meta |= {"window": self.history.shape[1], "user_fields": self.user_fields}
        return seal(_MAGIC, _FORMAT, meta, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> ExampleBatch:
        """Read `to_bytes`.

        Raises
        ------
        EventError
            If the message is damaged or foreign.
        """
        try:
            meta, arrays = unseal(data, _MAGIC, _FORMAT)
        except PruningError as error:
            raise EventError("value", f"is no batch of examples: {error}") from error
        if not all(np.isfinite(arrays[name]).all() for name in ("numbers", "weight")):
            raise EventError("value", "is a batch of examples with a number that is not finite")
        e = len(arrays["offsets"])
        width, n_numbers = meta["width"]
        filled = np.arange(width) < arrays["count"][:, None]
        past = np.arange(meta["window"]) >= meta["window"] - arrays["history_count"].astype(np.int64)[:, None]
        history = np.full((e, meta["window"]), -1, np.int32)
        history[past] = arrays["history"]
        item = np.full((e, width), -1, np.int32)
        item[filled] = arrays["item"]
        numbers = np.zeros((e, width, n_numbers), np.float32)
        is_ranked = _is_ranked(arrays["kind"], arrays["count"])
        numbers[filled & is_ranked[:, None]] = arrays["numbers"]
        return cls(
            partition=meta["partition"],
            offsets=arrays["offsets"],
            times_ms=arrays["times_ms"],
            ids=meta["ids"],
            keys=arrays["keys"],
            history=history,
            length=arrays["length"],
            gap=arrays["gap"],
            kind=arrays["kind"],
            weight=arrays["weight"],
            users=arrays["users"],
            item=item,
            count=arrays["count"].astype(np.int32),
            numbers=widened(numbers, 0.0),
            user_fields=tuple(meta["user_fields"]),
        )


def _is_ranked(kind: NDArray[np.uint8], count: NDArray[Any]) -> NDArray[np.bool_]:
    ranked: NDArray[np.bool_] = (count > 1) & (kind != SHOWN)
    return ranked
