"""Names of keys in Redis. Ids are escaped: no id can forge a key or leave its hash tag."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from urllib.parse import quote

# What stays of an id in a key: no braces, colons, globs, spaces or control characters.
_SAFE = "@+=,/!$&'();|~-._"


@functools.lru_cache(maxsize=65_536)
def escape(id_: str) -> str:
    """An id as part of a key.

    >>> escape("sku-1"), escape("a}:top"), escape("ü")
    ('sku-1', 'a%7D%3Atop', '%C3%BC')
    """
    return quote(id_, safe=_SAFE)


@dataclass(frozen=True)
class Keys:
    """Names of keys in one namespace, version 1 of the contract."""

    namespace: str = "rec"

    def top(self, user_id: str) -> str:
        """The list of a user.

        >>> Keys().top("u1")
        'rec:v1:user:{u1}:top'
        """
        return f"{self.namespace}:v1:user:{{{escape(user_id)}}}:top"

    def state(self, user_id: str) -> str:
        """What the recommender remembers of a user."""
        return f"{self.namespace}:v1:user:{{{escape(user_id)}}}:state"

    def fence(self, partition: int) -> str:
        """Who may write what belongs to a partition of `events`."""
        return f"{self.namespace}:v1:partition:{partition}:fence"

    def rebuild(self, partition: int) -> str:
        """The mark that the states of a partition's users have to be rebuilt."""
        return f"{self.namespace}:v1:partition:{partition}:rebuild"

    def place(self, partition: int) -> str:
        """The last offset of a partition whose effect is in Redis."""
        return f"{self.namespace}:v1:partition:{partition}:place"

    def timers(self, partition: int) -> str:
        """Users of a partition with a pending trigger, by when the next one is due."""
        return f"{self.namespace}:v1:partition:{partition}:timers"

    def triggers(self, partition: int) -> str:
        """How far triggers of a partition have come: its clock, and the items topic."""
        return f"{self.namespace}:v1:partition:{partition}:triggers"

    def watchers(self, partition: int, item_id: str) -> str:
        """Users of a partition who watch an item, by since when."""
        return f"{self.namespace}:v1:partition:{partition}:watchers:{{{escape(item_id)}}}"

    def erased(self, partition: int) -> str:
        """The last tombstone of a partition of `users` that was carried out."""
        return f"{self.namespace}:v1:users:erased:{partition}"

    def similar(self, item_id: str) -> str:
        """Items that go with an item."""
        return f"{self.namespace}:v1:item:{{{escape(item_id)}}}:similar"

    def everybody(self, name: str) -> str:
        """A list for unknown users: `popular`, `trending` or `latest`."""
        return f"{self.namespace}:v1:global:{name}"

    def model(self, *parts: str) -> str:
        """Keys of the model: `current`, or a version's `meta`, `release` and `overlay`."""
        return ":".join((self.namespace, "v1", "model", *parts))
