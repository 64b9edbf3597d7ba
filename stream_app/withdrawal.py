"""Items that may no longer be shown leave the lists of users that no worker has in memory.

Workers make lists again for the users they hold. Everybody else's lists lie in Redis; the learner walks
through them slice by slice, and takes out what is hidden, deleted, sold out or denied by a rule. A list that
changed since it was read is left alone: who wrote it knew better.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stream_app.store import Store

SLICE = 1_000  # keys per step


class _Place(msgspec.Struct, gc=False):
    item_id: str


class _List(msgspec.Struct, gc=False):
    items: list[_Place]


_decode = msgspec.json.Decoder(_List).decode


class Withdrawal:
    """Walks through all lists in slices, when asked to.

    Parameters
    ----------
    store
        Where the lists are.
    may_show
        Tells whether an item may be shown now.
    """

    def __init__(self, store: Store, may_show: Callable[[str], bool]) -> None:
        self._store = store
        self._may_show = may_show
        self._cursor = 0
        self._walking = self._wanted = False

    @property
    def is_done(self) -> bool:
        """Whether every list was looked at since the last `begin`."""
        return not (self._walking or self._wanted)

    def begin(self) -> None:
        """Something is withdrawn: look at every list. A walk under way goes on, another one follows."""
        self._wanted = True

    async def step(self) -> int:
        """Look at one slice of the lists, if there is anything to look for; returns how many were changed.

        Raises
        ------
        StoreError
            If Redis does not answer; the same slice comes next.
        """
        if not self._walking:
            if not self._wanted:
                return 0
            self._walking, self._wanted, self._cursor = True, False, 0
        cursor, lists = await self._store.scan_lists(self._cursor, SLICE)
        changes = []
        for key, value in lists:
            hidden = [p.item_id for p in _decode(value).items if not self._may_show(p.item_id)]
            if hidden:
                changes.append((key, value, without(value, set(hidden))))
        changed = await self._store.replace(changes)
        self._cursor = cursor
        self._walking = cursor != 0
        return changed


def without(value: bytes, hidden: set[str]) -> bytes:
    """A list's JSON without some items.

    >>> without(b'{"user_id":"u","items":[{"item_id":"a","score":2.0},{"item_id":"b","score":1.0}]}', {"a"})
    b'{"user_id":"u","items":[{"item_id":"b","score":1.0}]}'
    """
    found = msgspec.json.decode(value)
    found["items"] = [item for item in found["items"] if item["item_id"] not in hidden]
    return msgspec.json.encode(found)
