"""The users that a worker has in memory, and the packed state that survives it in Redis.

::

    0   magic        2 bytes   "U1"
    2   partition    uint16    of `events`, where the user's events come from
    4   length       uint16    items n
    6   tail         uint16    bytes at the end that are kept for others
    8   offset       int64     last applied offset of that partition
    16  last_ms      int64     latest event time
    24  keys         uint64 × n, the most recent last
    ..  best         uint8 × n, strongest feedback so far in tenths, 0 where the user did not like the item

and, for users who were offered something::

    0   request      uint64    token of the request of the latest list
    8   listed       uint8     items of that list
    9   listed_gap   uint8     bucket of the time between the user's event before it and the list
    10  offers       uint16    m
    12  keys         uint64 × m, the most recent last
    ..  taken        uint8 × m, 1 where the user chose the item

and at the end the tail: what somebody else remembers of the user, such as the triggers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.tokens import token
from stream_app.errors import StoreError
from stream_app.model.candidates import MOST_OFFERS
from stream_app.model.eviction import Renumbering
from stream_app.model.item_index import USER_TOKENS, ItemIndex, note_fields, user_tokens
from stream_app.model.key_ring import KeyRing
from stream_app.model.lost_keys import LostKeys
from stream_app.model.scoring import Users

MOST_DESCRIBED = 1_000_000  # users whose description is kept, those described last; 75 bytes each
_HEAD = struct.Struct("<2sHHHqq")
_OFFERS = struct.Struct("<QBBH")
_MAGIC = b"U1"
_HEADS = np.dtype(
    [
        ("magic", "S2"),
        ("partition", "<u2"),
        ("length", "<u2"),
        ("tail", "<u2"),
        ("offset", "<i8"),
        ("last_ms", "<i8"),
    ]
)  # the same for many users
_OFFERS_HEADS = np.dtype([("request", "<u8"), ("listed", "u1"), ("listed_gap", "u1"), ("offers", "<u2")])


class UserTable:
    """State of users by row; the least recently used make room when the table is full.

    Parameters
    ----------
    items
        The process's item index.
    max_users
        Users held at most; what is evicted can be loaded again from its packed state.
    max_items
        Items remembered per user; older ones are forgotten and may be recommended again.

    Attributes
    ----------
    tails
        User → bytes that travel with the user's state; none for users who have none.

    Examples
    --------
    >>> table = UserTable(ItemIndex(), max_users=2)
    >>> table.load("u1", None)
    0
    >>> "u1" in table, table.offset_of("u1")
    (True, -1)
    """

    def __init__(self, items: ItemIndex, max_users: int = 50_000, max_items: int = 512) -> None:
        self.items = items
        self.max_users = max_users
        self.max_items = max_items
        self._rows: dict[str, int] = {}  # in order of use, the least recent first
        self._free: list[int] = []
        self.fields: set[str] = set()  # names of users' attributes
        self.tails: dict[str, bytes] = {}
        self._tokens = KeyRing(MOST_DESCRIBED, USER_TOKENS)  # of users that the shop described
        self._lost_items, self._lost_offers = LostKeys(items), LostKeys(items)
        self.partition: NDArray[np.int32] = np.zeros(0, np.int32)
        self.offset: NDArray[np.int64] = np.zeros(0, np.int64)
        self.lists: NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self.users = Users(
            items=np.zeros((0, max_items), np.int32),
            best=np.zeros((0, max_items), np.uint8),
            length=np.zeros(0, np.int32),
            last_ms=np.zeros(0, np.int64),
            tokens=np.zeros((0, USER_TOKENS), np.uint64),
            offered=np.zeros((0, MOST_OFFERS), np.int32),
            taken=np.zeros((0, MOST_OFFERS), np.uint8),
            offers=np.zeros(0, np.int32),
            request=np.zeros(0, np.uint64),
            listed=np.zeros(0, np.int32),
            listed_gap=np.zeros(0, np.uint8),
        )
        items.follow(self)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._rows

    def row(self, user_id: str) -> int:
        """The row of a user in memory, who becomes the most recently used."""
        row = self._rows.pop(user_id)
        self._rows[user_id] = row
        return row

    def rows_of(self, user_ids: Iterable[str]) -> NDArray[np.int32]:
        """The rows of users in memory, int32 (n,)."""
        return np.array([*map(self._rows.__getitem__, user_ids)], np.int32)

    def keep(self, user_ids: Iterable[str]) -> list[str]:
        """Make users the most recently used; returns those who are not in memory.

        Parameters
        ----------
        user_ids
            Once each.
        """
        rows, missing = self._rows, []
        for user_id in user_ids:
            row = rows.pop(user_id, None)
            if row is None:
                missing.append(user_id)
            else:
                rows[user_id] = row
        return missing

    def advance(
        self, rows: NDArray[np.int32], partition: int, offsets: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Take note of events of one partition; returns which of them are new to their users, (e,).

        Parameters
        ----------
        rows
            Whose events, int32 (e,).
        offsets
            Their offsets, int64 (e,). They rise; one that does not was there before.
        """
        new: NDArray[np.bool_] = (offsets > self.offset[rows]) | (self.partition[rows] != partition)
        new[1:] &= offsets[1:] > np.maximum.accumulate(offsets)[:-1]
        self.offset[rows[new]], self.partition[rows[new]] = offsets[new], partition
        return new

    def offset_of(self, user_id: str) -> int:
        """Last applied offset of a user in memory, −1 before the first."""
        return int(self.offset[self._rows[user_id]])

    def history(self, user_id: str) -> list[str]:
        """Items of a user in memory, the most recent last; those whose id is not known are left out."""
        row = self._rows[user_id]
        ids = self.items.ids
        return [ids[i] for i in self.users.items[row, : self.users.length[row]].tolist() if i >= 0 and ids[i]]

    def knows(self, user_id: str, item_id: str) -> bool:
        """Whether a user in memory has chosen an item before."""
        number, row = self.items.find(item_id), self._rows[user_id]
        return number is not None and bool((self.users.items[row, : self.users.length[row]] == number).any())

    def load(self, user_id: str, state: bytes | None) -> int:
        """Bring a user into memory from its packed state, or as a new user; returns the row.

        Raises
        ------
        StoreError
            If the state cannot be read; the user is then not in memory.
        """
        partition, offset, last_ms, keys, best, offers, tail = _unpack(user_id, state)
        row = self._rows.pop(user_id, -1)  # who is in memory already is loaded again in place
        if row < 0:
            row = self._take_row()
        self._rows[user_id] = row
        n = min(len(keys), self.max_items)
        users = self.users
        users.items[row, :n] = self.items.remember_keys(keys[len(keys) - n :])
        self._lost_items.put(row, users.items[row, :n], keys[len(keys) - n :])
        users.best[row, :n] = best[len(best) - n :]
        users.length[row], users.last_ms[row] = n, last_ms
        self._put_offers(row, offers)
        self.lists[row : row + 1] = -1
        self.partition[row], self.offset[row] = partition, offset
        self._put_tokens(row, user_id)
        self.keep_tail(user_id, tail or None)
        return row

    def find_again(self, rows: NDArray[np.int32]) -> None:
        """Give items that have a number again their places in these rows, (m,), before they are read."""
        own = rows.tolist() if len(self._lost_items) or len(self._lost_offers) else ()
        self._lost_items.find_again(own, self.users.items, self.users.length)
        self._lost_offers.find_again(own, self.users.offered, self.users.offers)

    def renumber(self, moved: Renumbering) -> None:
        """Follow the index; the keys of items that gave up their number are kept."""
        rows = np.sort(np.fromiter(self._rows.values(), np.int32, len(self._rows)))
        self._lost_items.renumber(moved, rows, self.users.items, self.users.length)
        self._lost_offers.renumber(moved, rows, self.users.offered, self.users.offers)
        self.lists = moved.new[self.lists]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows and descriptions."""
        rows = sum(a.nbytes for a in (*self.users, self.partition, self.offset, self.lists))
        return rows + self._tokens.nbytes

    def keep_tail(self, user_id: str, tail: bytes | None) -> None:
        """Let bytes travel with the state of a user in memory; None for none."""
        if tail is None:
            self.tails.pop(user_id, None)
        else:
            self.tails[user_id] = tail

    def remember_lists(self, rows: NDArray[np.int32], items: NDArray[np.int32]) -> None:
        """Keep what users were offered, item numbers (m, k), −1 where a list ends."""
        if self.lists.shape != (len(self.offset), items.shape[1]):
            old, self.lists = self.lists, np.full((len(self.offset), items.shape[1]), -1, np.int32)
            if old.shape[1] == items.shape[1]:
                self.lists[: len(old)] = old
        self.lists[rows] = items

    def offered(self, numbers: NDArray[np.int32]) -> list[str]:
        """Users in memory who were offered one of these items."""
        holding = set(np.flatnonzero(np.isin(self.lists, numbers).any(axis=1)).tolist())
        return [u for u, row in self._rows.items() if row in holding]

    def pack(self, user_id: str) -> bytes:
        """The state of a user in memory as bytes."""
        row = self._rows[user_id]
        n, tail = int(self.users.length[row]), self.tails.get(user_id, b"")
        head = _HEAD.pack(
            _MAGIC,
            int(self.partition[row]),
            n,
            len(tail),
            int(self.offset[row]),
            int(self.users.last_ms[row]),
        )
        keys = self._lost_items.keys_of(row, self.users.items[row, :n])
        return head + keys.tobytes() + self.users.best[row, :n].tobytes() + self._pack_offers(row) + tail

    def _pack_offers(self, row: int) -> bytes:
        users = self.users
        m = int(users.offers[row])
        if m == 0:
            return b""
        keys = self._lost_offers.keys_of(row, users.offered[row, :m])
        head = _OFFERS.pack(int(users.request[row]), int(users.listed[row]), int(users.listed_gap[row]), m)
        return head + keys.tobytes() + users.taken[row, :m].tobytes()

    def _put_offers(self, row: int, packed: bytes) -> None:
        users = self.users
        request, listed, gap, m = _OFFERS.unpack_from(packed) if packed else (0, 0, 0, 0)
        keys = np.frombuffer(packed, np.uint64, m, _OFFERS.size if packed else 0)
        taken = np.frombuffer(packed, np.uint8, m, _OFFERS.size + 8 * m if packed else 0)
        m = min(m, users.offered.shape[1])
        users.offered[row, :m] = self.items.remember_keys(keys[len(keys) - m :])
        self._lost_offers.put(row, users.offered[row, :m], keys[len(keys) - m :])
        users.taken[row, :m] = taken[len(taken) - m :]
        users.offers[row], users.request[row], users.listed[row] = m, request, min(listed, m)
        users.listed_gap[row] = gap

    def pack_all(self, user_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Users in memory with their states, as `pack` makes them one by one."""
        rows, users = self.rows_of(user_ids), self.users  # (m,)
        heads = np.zeros(len(rows), _HEADS)
        heads["magic"], heads["partition"], heads["length"] = _MAGIC, self.partition[rows], users.length[rows]
        heads["offset"], heads["last_ms"] = self.offset[rows], users.last_ms[rows]
        tails = [*map(self.tails.get, user_ids)]
        heads["tail"] = [0 if tail is None else len(tail) for tail in tails]
        offers = np.zeros(len(rows), _OFFERS_HEADS)
        offers["request"], offers["listed"] = users.request[rows], users.listed[rows]
        offers["listed_gap"], offers["offers"] = users.listed_gap[rows], users.offers[rows]
        head = heads.tobytes()
        keys, best, n = _flat(self._lost_items, rows, users.items, users.best, users.length)
        more = offers.tobytes()
        offered, taken, m = _flat(self._lost_offers, rows, users.offered, users.taken, users.offers)
        h, o = _HEAD.size, _OFFERS.size
        states = []
        for x, user_id in enumerate(user_ids):
            a, b, c, d = n[x], n[x + 1], m[x], m[x + 1]
            state = head[h * x : h * x + h] + keys[8 * a : 8 * b] + best[a:b]
            if d > c:
                state += more[o * x : o * x + o] + offered[8 * c : 8 * d] + taken[c:d]
            tail = tails[x]
            states.append((user_id, state if tail is None else state + tail))
        return states

    def describe(self, user_id: str, attributes: dict[str, object]) -> None:
        """Take over what the shop says about a user."""
        note_fields(self.fields, attributes)
        self._tokens.put(user_tokens(user_id, attributes))
        if user_id in self._rows:
            self._put_tokens(self._rows[user_id], user_id)

    def forget(self, user_id: str) -> None:
        """Drop all that is held about a user."""
        self._tokens.remove(token("user", user_id))
        self.tails.pop(user_id, None)
        row = self._rows.pop(user_id, None)
        if row is not None:
            self._free.append(row)

    def forget_partitions(self, partitions: Iterable[int]) -> None:
        """Drop the users of partitions that now belong to another worker."""
        gone = set(partitions)
        for user_id in [u for u, row in self._rows.items() if int(self.partition[row]) in gone]:
            self._free.append(self._rows.pop(user_id))
            self.tails.pop(user_id, None)

    def of_partition(self, partition: int) -> list[str]:
        """Users in memory whose events come from a partition."""
        return [u for u, row in self._rows.items() if int(self.partition[row]) == partition]

    def by_partition(self, user_ids: Iterable[str]) -> dict[int, list[str]]:
        """Users in memory by the partition that their events come from."""
        found: dict[int, list[str]] = {}
        for user_id in user_ids:
            found.setdefault(int(self.partition[self._rows[user_id]]), []).append(user_id)
        return found

    def in_memory(self) -> list[str]:
        """Ids of the users in memory, the least recently used first."""
        return list(self._rows)

    def _put_tokens(self, row: int, user_id: str) -> None:
        own = token("user", user_id)
        self.users.tokens[row] = self._tokens.get(own) or [own] + [0] * (USER_TOKENS - 1)

    def _take_row(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self._rows) >= self.max_users:
            evicted = next(iter(self._rows))
            self.tails.pop(evicted, None)
            return self._rows.pop(evicted)
        row = len(self._rows)
        if row >= len(self.offset):
            self._grow(min(self.max_users, max(256, 2 * row)))
        return row

    def _grow(self, n: int) -> None:
        def bigger(old: NDArray) -> NDArray:
            new = np.zeros((n, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            return new

        self.users = Users(*(bigger(a) for a in self.users))
        self.partition, self.offset = bigger(self.partition), bigger(self.offset)


def _unpack(
    user_id: str, state: bytes | None
) -> tuple[int, int, int, NDArray[np.uint64], NDArray[np.uint8], bytes, bytes]:
    if state is None:
        return 0, -1, -1, np.zeros(0, np.uint64), np.zeros(0, np.uint8), b"", b""
    if len(state) < _HEAD.size or state[:2] != _MAGIC:
        raise StoreError(
            f"the state of user {user_id!r} is of an unknown format: delete its key to start afresh"
        )
    _, partition, n, tail_length, offset, last_ms = _HEAD.unpack_from(state)
    end = len(state) - tail_length
    offers, tail = state[_HEAD.size + 9 * n : end], state[end:]
    m = _OFFERS.unpack_from(offers)[3] if len(offers) >= _OFFERS.size else 0
    if end < _HEAD.size + 9 * n or len(offers) != (_OFFERS.size + 9 * m if m else 0):
        raise StoreError(f"the state of user {user_id!r} is cut: delete its key to start afresh")
    keys = np.frombuffer(state, np.uint64, n, _HEAD.size)
    best = np.frombuffer(state, np.uint8, n, _HEAD.size + 8 * n)
    return partition, offset, last_ms, keys, best, offers, tail


def tail_of(state: bytes) -> tuple[int, bytes]:
    """The partition and the tail of a packed state.

    >>> table = UserTable(ItemIndex())
    >>> _ = table.load("u1", None)
    >>> table.keep_tail("u1", b"more")
    >>> tail_of(table.pack("u1"))
    (0, b'more')
    """
    partition, *_, tail = _unpack("", state)
    return partition, tail


def _flat(
    lost: LostKeys,
    rows: NDArray[np.int32],
    numbers: NDArray[np.int32],
    flags: NDArray[np.uint8],
    filled: NDArray[np.int32],
) -> tuple[bytes, bytes, list[int]]:
    """Keys and flags of the filled places of rows, one row behind the other, and where each begins."""
    n = filled[rows]
    longest = int(n.max(initial=0))
    places = np.arange(longest) < n[:, None]  # (m, longest)
    keys = lost.keys_of_many(rows, numbers[rows, :longest][places], n)
    return keys.tobytes(), flags[rows, :longest][places].tobytes(), [0, *np.cumsum(n).tolist()]
