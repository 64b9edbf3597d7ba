"""Redis: the only file that talks to it, and the one place that knows the names of keys.

Everything here can be rebuilt from Kafka and has a time to live. A list is one value, so a reader sees a
whole list or the one before. Ids are escaped: no id can forge a key or leave its hash tag.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from stream_app.errors import ConfigError, EmptiedError, StoreError
from stream_app.events.records import iso_time
from stream_app.recommender import Lists, Offered

_DAY_S = 86_400
MOST_UNPACKED = 4_000  # values that a script hands to one command; Lua's stack has room for twice as many
_REPLACED_TTL_S = 3_600
MOST_WATCHERS = 10_000  # of an item in a partition; who has watched longest is not told of changes
_MODEL_PARTS = ("overlay", "release", "meta")
_encode = msgspec.json.Encoder().encode
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


def list_json(offered: Offered, model: str, generated_at_ms: int) -> bytes:
    """The JSON of a list as the contract has it."""
    return _encode(
        {
            "user_id": offered.user_id,
            "model": model,
            "generated_at": iso_time(generated_at_ms),
            "event_time": iso_time(offered.event_time_ms) if offered.event_time_ms >= 0 else None,
            "strategy": "personal" if offered.personal else "fallback",
            "items": [{"item_id": i, "score": round(s, 4)} for i, s in offered.items],
        }
    )


@functools.lru_cache(maxsize=65_536)
def _place(item_id: str) -> str:
    """A template for one place of a list, to be filled in with a score."""
    return f'{{"item_id":{_encode(item_id).decode()},"score":'.replace("%", "%%") + "%.4f}"


def _places(items: list[str], notes: Sequence[dict[str, Any] | None]) -> Iterable[str]:
    """The templates of a list's places, with what is noted of them as further members."""
    if not any(notes):
        return map(_place, items)
    return [
        f"{_place(item)[:-1]},{_encode(note).decode()[1:].replace('%', '%%')}" if note else _place(item)
        for item, note in zip(items, notes, strict=True)
    ]


def lists_json(lists: Lists, model: str, generated_at_ms: int) -> list[tuple[str, bytes]]:
    """The JSON of many lists by user, as `list_json` makes it one by one, but for zeros at the end of scores.

    Texts are put together by hand: a list takes a third of the time that an encoder needs.
    """
    about = f'"model":{_encode(model).decode()},"generated_at":"{iso_time(generated_at_ms)}"'
    known = lists.times_ms >= 0
    times = np.datetime_as_string(lists.times_ms.astype("datetime64[ms]"), unit="ms")
    made = np.where(known, np.char.add(np.char.add('"', times), 'Z"'), "null").tolist()
    noted = lists.notes or [()] * len(lists)
    columns = zip(lists.user_ids, lists.items, lists.scores, lists.personal, made, noted, strict=True)
    return [
        (
            user_id,
            (
                f'{{"user_id":{_encode(user_id).decode()},{about},"event_time":{event_time},'
                f'"strategy":"{"personal" if personal else "fallback"}",'
                f'"items":[{",".join(_places(items, notes)) % tuple(scores)}]}}'
            ).encode(),
        )
        for user_id, items, scores, personal, event_time, notes in columns
    ]


def shared_list_json(
    items: Sequence[tuple[str, float]], model: str, generated_at_ms: int, strategy: str
) -> bytes:
    """The JSON of a list that belongs to no user: similar items, or what unknown users get."""
    head = {"user_id": None, "model": model, "generated_at": iso_time(generated_at_ms), "event_time": None}
    return _encode(
        head | {"strategy": strategy, "items": [{"item_id": i, "score": round(s, 4)} for i, s in items]}
    )


def set_command(key: str, value: bytes, ttl_s: int) -> bytes:
    """`SET key value EX ttl` in Redis' protocol; redis-py takes five times as long to write the same bytes.

    >>> set_command("k", b"v", 60)
    b'*5\\r\\n$3\\r\\nSET\\r\\n$1\\r\\nk\\r\\n$1\\r\\nv\\r\\n$2\\r\\nEX\\r\\n$2\\r\\n60\\r\\n'
    """
    name, ttl = key.encode(), b"%d" % ttl_s
    return b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (
        len(name), name, len(value), value, len(ttl), ttl,
    )  # fmt: skip


@dataclass(frozen=True)
class Fence:
    """The right to write what belongs to a partition of `events`, until somebody else claims it.

    Attributes
    ----------
    token
        Grows with every claim; a write with a smaller one than the last is refused.
    """

    partition: int
    token: int


@dataclass(frozen=True)
class Claim:
    """What a claim brought.

    Attributes
    ----------
    lost
        Whether the states of the partition's users have to be rebuilt.
    place
        The last offset whose effect is in Redis, None where that is not known.
    """

    fence: Fence
    lost: bool
    place: int | None


# Claims a fence: the time in microseconds, more than any token before. Where there was no fence, Redis is new
# or was emptied, and what it should hold of the partition has to be rebuilt; a mark says so until it is done.
# KEYS fence, mark, place; ARGV time to live. Returns token, whether the mark is there, and the place.
_CLAIM = """
local held, now = redis.call('GET', KEYS[1]), redis.call('TIME')
local token = now[1] * 1000000 + now[2]
if held and tonumber(held) >= token then token = tonumber(held) + 1 end
redis.call('SET', KEYS[1], string.format('%.0f', token), 'EX', ARGV[1])
if not held then redis.call('SET', KEYS[2], '1', 'EX', ARGV[1]) end
return {string.format('%.0f', token), redis.call('EXISTS', KEYS[2]), redis.call('GET', KEYS[3])}
"""


@dataclass(frozen=True)
class TriggerWrites:
    """What triggers write together with states.

    Attributes
    ----------
    timers
        User → when the next one is due, None for no more.
    watched
        Items that users watch from now on: item, user, since when.
    clock_ms, wall_ms
        The clock of the partition, and what the clock on the wall said then; none when negative.
    items_place
        Offset in the topic `items` up to which changes are done with; none when negative.
    intent
        The partition's model of high intent, empty for none.
    """

    timers: Sequence[tuple[str, int | None]] = ()
    watched: Sequence[tuple[str, str, int]] = ()
    clock_ms: int = -1
    wall_ms: int = -1
    items_place: int = -1
    intent: bytes = b""


@dataclass(frozen=True)
class Effects:
    """What Redis has to hold of one partition's users from now on.

    Attributes
    ----------
    fence
        The right to write it.
    lists, states
        By user.
    place
        The last offset of the partition whose effect this is; None where it is not that of events.
    triggers
        What triggers wait for from now on.
    """

    fence: Fence
    lists: Sequence[tuple[str, bytes]] = ()
    states: Sequence[tuple[str, bytes]] = ()
    place: int | None = None
    triggers: TriggerWrites = TriggerWrites()


# Writes lists and states of a partition's users, and what their triggers wait for: all, or none when another
# worker has claimed the partition. KEYS fence, mark, place, timers, triggers, then those of lists, of states,
# of watchers; ARGV token, times to live of lists and of states, number of lists and of states, the place or
# nothing, clock, time on the wall and place in `items` or -1, number of timers, the model or nothing, then
# the values of lists and states, due time (or nothing) and user of timers, and for each item how many watch
# it now, with time and user of each. One command with one answer costs the client less than a SET for each.
_WRITE = """
local held = redis.call('GET', KEYS[1])
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
local states_ttl = ARGV[3]
if not held then redis.call('SET', KEYS[2], '1', 'EX', states_ttl) end
redis.call('SET', KEYS[1], ARGV[1], 'EX', states_ttl)
if ARGV[6] ~= '' then redis.call('SET', KEYS[3], ARGV[6], 'EX', states_ttl) end
local ttl, lists, states = ARGV[2], tonumber(ARGV[4]) + 5, tonumber(ARGV[5])
local values = lists + states
for i = 6, values do
  if i > lists then ttl = states_ttl end
  redis.call('SET', KEYS[i], ARGV[i + 6], 'EX', ttl)
end
local at, timers = values + 7, tonumber(ARGV[10])
for _ = 1, timers do
  if ARGV[at] == '' then redis.call('ZREM', KEYS[4], ARGV[at + 1])
  else redis.call('ZADD', KEYS[4], ARGV[at], ARGV[at + 1]) end
  at = at + 2
end
if timers > 0 then redis.call('EXPIRE', KEYS[4], states_ttl) end
for i = values + 1, #KEYS do
  local last = at + 2 * tonumber(ARGV[at])
  redis.call('ZADD', KEYS[i], unpack(ARGV, at + 1, last))
  redis.call('ZREMRANGEBYRANK', KEYS[i], 0, -MOST)
  redis.call('EXPIRE', KEYS[i], states_ttl)
  at = last + 1
end
if tonumber(ARGV[7]) >= 0 then redis.call('HSET', KEYS[5], 'clock', ARGV[7], 'wall', ARGV[8]) end
if tonumber(ARGV[9]) >= 0 then redis.call('HSET', KEYS[5], 'items', ARGV[9]) end
if ARGV[11] ~= '' then redis.call('HSET', KEYS[5], 'intent', ARGV[11]) end
redis.call('EXPIRE', KEYS[5], states_ttl)
return 1
""".replace("MOST", str(MOST_WATCHERS + 1))


def _by_item(watched: Sequence[tuple[str, str, int]]) -> list[tuple[str, list[bytes]]]:
    """Items with time and user of those who watch them since, as many at once as a script can unpack."""
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    last_ms, since = -1, b"-1"  # nearly always one time for all
    for item_id, user_id, since_ms in watched:
        if since_ms != last_ms:
            last_ms, since = since_ms, b"%d" % since_ms
        found[item_id] += (since, user_id.encode())
    if all(len(pairs) <= MOST_UNPACKED for pairs in found.values()):
        return [*found.items()]
    return [
        (item_id, pairs[start : start + MOST_UNPACKED])
        for item_id, pairs in found.items()
        for start in range(0, len(pairs), MOST_UNPACKED)
    ]


# Replaces a value that is still as it was read; its time to live goes on. KEYS the key; ARGV before, after.
_REPLACE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
"""


def eval_command(script: str, keys: Sequence[str], arguments: Sequence[bytes]) -> bytes:
    """`EVAL` of a script in Redis' protocol.

    >>> eval_command("return 1", ["k"], [b"a"])
    b'*5\\r\\n$4\\r\\nEVAL\\r\\n$8\\r\\nreturn 1\\r\\n$1\\r\\n1\\r\\n$1\\r\\nk\\r\\n$1\\r\\na\\r\\n'
    """
    parts = [b"EVAL", script.encode(), b"%d" % len(keys), *(key.encode() for key in keys), *arguments]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(p), p) for p in parts])


class Store:
    """Reads and writes the keys of one namespace.

    Parameters
    ----------
    url
        `redis://` or `rediss://`, with user and password where the server asks for them.
    namespace
        Prefix of all keys.
    timeout_s
        Longest wait for an answer.

    Raises
    ------
    ConfigError
        If the URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "rec",
        list_ttl_days: float = 30,
        state_ttl_days: float = 90,
        timeout_s: float = 30,
    ) -> None:
        self.keys = Keys(namespace)
        self._list_ttl = max(1, int(list_ttl_days * _DAY_S))
        self._timeout_s = timeout_s
        self._state_ttl = max(1, int(state_ttl_days * _DAY_S))
        try:
            self._redis: redis.Redis = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=min(5.0, timeout_s),
                retry=Retry(NoBackoff(), 0),  # the caller decides about trying again
            )
        except ValueError:  # whose text may quote a piece of the password: it is not passed on
            raise ConfigError(
                "RECS_REDIS_URL is no address of a Redis; expected redis://user:password@host:port/0, "
                "rediss:// or unix://, with special characters of the password percent-encoded"
            ) from None
        arguments = self._redis.connection_pool.connection_kwargs
        self._where = f"{arguments.get('host', arguments.get('path', 'Redis'))}:{arguments.get('port', '')}"

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Raise `StoreError` unless Redis answers."""
        await self._ask(self._redis.ping())

    # Users

    async def claim(self, partition: int) -> Claim:
        """Become the only one who writes what belongs to a partition: fences from before lose their worth."""
        keys = self._partition_keys(partition)
        token, marked, place = await self._ask(self._redis.eval(_CLAIM, 3, *keys, str(self._state_ttl)))
        return Claim(Fence(partition, int(token)), bool(marked), None if place is None else int(place))

    def _partition_keys(self, partition: int) -> list[str]:
        return [self.keys.fence(partition), self.keys.rebuild(partition), self.keys.place(partition)]

    async def emptied(self, fences: Sequence[Fence]) -> dict[int, bool]:
        """The partitions of some fences that have to be rebuilt, and whether Redis lost the very fence."""
        if not fences:
            return {}
        keys = [k for f in fences for k in (self.keys.fence(f.partition), self.keys.rebuild(f.partition))]
        found = await self._ask(self._redis.mget(keys))
        rows = zip(fences, found[::2], found[1::2], strict=True)
        return {f.partition: held is None for f, held, mark in rows if held is None or mark is not None}

    async def rebuilt(self, fence: Fence) -> None:
        """Remove the mark of a partition whose states are complete again."""
        await self._ask(self._redis.unlink(self.keys.rebuild(fence.partition)))

    async def load_states(self, user_ids: Sequence[str], fences: Sequence[Fence] = ()) -> list[bytes | None]:
        """The packed states of users, None for new ones.

        Parameters
        ----------
        fences
            Those of the partitions that the users belong to.

        Raises
        ------
        EmptiedError
            If Redis lost some of `fences`: who has no state then may have had one.
        """
        if not user_ids:
            return []
        keys = [self.keys.fence(fence.partition) for fence in fences]
        found: list[bytes | None] = await self._ask(
            self._redis.mget([*keys, *map(self.keys.state, user_ids)])
        )
        held = zip(fences, found[: len(fences)], strict=True)
        gone = [fence.partition for fence, value in held if value is None]
        if gone:
            raise EmptiedError(f"Redis at {self._where} was emptied", gone)
        return found[len(fences) :]

    async def write(self, lists: Iterable[tuple[str, bytes]], states: Iterable[tuple[str, bytes]]) -> None:
        """Write users' lists, then their states, in one round trip, whoever else may write them.

        A state says which event was applied last. It is written after the list, so that a cut in between
        makes the event be applied again, not be lost.
        """
        top, state = self.keys.top, self.keys.state
        commands = [set_command(top(user_id), value, self._list_ttl) for user_id, value in lists]
        commands += [set_command(state(user_id), value, self._state_ttl) for user_id, value in states]
        if commands:
            await self._ask(self._execute(commands))

    async def write_fenced(self, effects: Sequence[Effects]) -> set[int]:
        """Write what belongs to partitions, all in one round trip, each partition's as a whole or not at all.

        Returns
        -------
        The partitions of which nothing was written, because somebody else has claimed them since.
        """
        if not effects:
            return set()
        answers = await self._ask(self._execute([self._fenced_command(one) for one in effects]))
        return {one.fence.partition for one, written in zip(effects, answers, strict=True) if not written}

    def _fenced_command(self, effects: Effects) -> bytes:
        lists, states, t = effects.lists, effects.states, effects.triggers
        partition, place = effects.fence.partition, effects.place
        keys = [*self._partition_keys(partition), self.keys.timers(partition), self.keys.triggers(partition)]
        keys += [self.keys.top(user_id) for user_id, _ in lists]
        keys += [self.keys.state(user_id) for user_id, _ in states]
        watched = _by_item(t.watched)
        keys += [self.keys.watchers(partition, item_id) for item_id, _ in watched]
        head = (effects.fence.token, self._list_ttl, self._state_ttl, len(lists), len(states))
        arguments = [b"%d" % n for n in head] + [b"" if place is None else b"%d" % place]
        arguments += [b"%d" % n for n in (t.clock_ms, t.wall_ms, t.items_place, len(t.timers))] + [t.intent]
        arguments += [value for _, value in lists] + [value for _, value in states]
        for user_id, due_ms in t.timers:
            arguments += [b"" if due_ms is None else b"%d" % due_ms, user_id.encode()]
        for _, pairs in watched:
            arguments += [b"%d" % (len(pairs) // 2), *pairs]
        return eval_command(_WRITE, keys, arguments)

    # Triggers

    async def trigger_places(self, partitions: Iterable[int]) -> dict[int, dict[str, bytes]]:
        """`clock`, `wall`, `items` and `intent` of partitions as they were written last, if they were."""
        pipe, partitions = self._redis.pipeline(transaction=False), [*partitions]
        for partition in partitions:
            pipe.hgetall(self.keys.triggers(partition))
        found = await self._ask(pipe.execute()) if partitions else []
        return {
            p: {name.decode(): value for name, value in row.items()}
            for p, row in zip(partitions, found, strict=True)
        }

    async def due_users(self, partition: int, clock_ms: int, most: int) -> tuple[list[str], int | None]:
        """Users whose timers are due, the longest overdue first, and when the first of all timers is due."""
        key = self.keys.timers(partition)
        pipe = self._redis.pipeline(transaction=False)
        pipe.zrangebyscore(key, "-inf", clock_ms, 0, most)
        pipe.zrange(key, 0, 0, withscores=True)
        due, first = await self._ask(pipe.execute())
        return [user_id.decode() for user_id in due], int(first[0][1]) if first else None

    async def watchers(self, partition: int, item_ids: Sequence[str]) -> list[list[str]]:
        """The users of a partition who watch items, item by item."""
        pipe = self._redis.pipeline(transaction=False)
        for item_id in item_ids:
            pipe.zrange(self.keys.watchers(partition, item_id), 0, -1)
        found = await self._ask(pipe.execute()) if item_ids else []
        return [[user_id.decode() for user_id in users] for users in found]

    async def unwatch(self, partition: int, item_id: str, user_ids: Sequence[str]) -> None:
        """Take users out of those who watch an item."""
        if user_ids:
            await self._ask(self._redis.zrem(self.keys.watchers(partition, item_id), *user_ids))

    async def read_list(self, user_id: str) -> dict[str, Any] | None:
        """A user's list, None when there is none."""
        [found] = await self.read_lists([user_id])
        return found

    async def read_lists(self, user_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """The lists of several users in one round trip."""
        if not user_ids:
            return []
        values = await self._ask(self._redis.mget([self.keys.top(user_id) for user_id in user_ids]))
        return [None if value is None else msgspec.json.decode(value) for value in values]

    async def erase_user(
        self, user_id: str, partition: int, offset: int, watched: tuple[int, Sequence[str]] | None = None
    ) -> None:
        """Delete all keys of a user, once per tombstone, which `partition` and `offset` of `users` identify.

        Every worker reads every tombstone, and reads them all again when it starts; a user may have come back
        since.

        Parameters
        ----------
        watched
            The user's partition of `events`, and the items that triggers watch for the user.
        """
        place = self.keys.erased(partition)
        done = await self._ask(self._redis.getex(place, ex=self._state_ttl))
        if done is not None and int(done) >= offset:
            return
        pipe = self._redis.pipeline(transaction=True)
        pipe.unlink(self.keys.top(user_id), self.keys.state(user_id))
        if watched is not None:
            of, items = watched
            pipe.zrem(self.keys.timers(of), user_id)
            for item_id in items:
                pipe.zrem(self.keys.watchers(of, item_id), user_id)
        pipe.set(place, offset, ex=self._state_ttl)
        await self._ask(pipe.execute())

    async def scan_lists(self, cursor: int, most: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Some lists of users and of similar items with their keys, and where to go on; 0 at the end.

        Parameters
        ----------
        cursor
            0 at the beginning.
        most
            Keys to look at, about.
        """
        found = await self._ask(self._redis.scan(cursor, match=f"{self.keys.namespace}:v1:*", count=most))
        keys = [key for key in found[1] if key.endswith((b"}:top", b"}:similar"))]
        values = await self._ask(self._redis.mget(keys)) if keys else []
        return int(found[0]), [(k, v) for k, v in zip(keys, values, strict=True) if v is not None]

    async def replace(self, changes: Sequence[tuple[bytes, bytes, bytes]]) -> int:
        """Replace values that are still as they were, (key, before, after); returns how many were."""
        if not changes:
            return 0
        commands = [eval_command(_REPLACE, [key.decode()], [old, new]) for key, old, new in changes]
        return sum(await self._ask(self._execute(commands)))

    # What everybody gets

    async def write_shared(
        self, everybody: Iterable[tuple[str, bytes]], similar: Iterable[tuple[str, bytes]]
    ) -> None:
        """Write the lists for unknown users by name, and of items that go with an item by its id."""
        pipe = self._redis.pipeline(transaction=False)
        for name, value in everybody:
            pipe.set(self.keys.everybody(name), value, ex=self._list_ttl)
        for item_id, value in similar:
            pipe.set(self.keys.similar(item_id), value, ex=self._list_ttl)
        if len(pipe):
            await self._ask(pipe.execute())

    async def read_shared(self, name: str) -> dict[str, Any] | None:
        """A list for unknown users, None when there is none yet."""
        value = await self._ask(self._redis.get(self.keys.everybody(name)))
        return None if value is None else msgspec.json.decode(value)

    async def remove_similar(self, item_id: str) -> None:
        """Delete the list of an item that is no longer shown."""
        await self._ask(self._redis.unlink(self.keys.similar(item_id)))

    # The model

    async def current_version(self) -> str | None:
        """The version that workers should serve, None before the first release."""
        value = await self._ask(self._redis.get(self.keys.model("current")))
        return None if value is None else value.decode()

    async def publish_release(
        self, version: str, release: bytes, meta: dict[str, Any], overlay: bytes
    ) -> None:
        """Put a release and its first overlay in place, then point to it: one transaction.

        The release that it replaces stays for an hour, for workers that are just reading it.
        """
        replaced = await self.current_version()
        pipe = self._redis.pipeline(transaction=True)
        overlays = self.keys.model(version, "overlay")
        if replaced not in (None, version):
            for part in _MODEL_PARTS:
                pipe.expire(self.keys.model(str(replaced), part), _REPLACED_TTL_S)
        pipe.set(self.keys.model(version, "release"), release, ex=self._list_ttl)
        pipe.set(self.keys.model(version, "meta"), _encode(meta), ex=self._list_ttl)
        pipe.unlink(overlays)
        pipe.rpush(overlays, overlay)
        pipe.expire(overlays, self._list_ttl)
        pipe.set(self.keys.model("current"), version, ex=self._list_ttl)
        await self._ask(pipe.execute())

    async def push_overlay(self, version: str, overlay: bytes) -> int:
        """Append an overlay and renew the model's time to live; returns how many there are.

        0 says that the release itself is gone, after a flush for example, and has to be published again.
        """
        pipe = self._redis.pipeline(transaction=True)
        overlays = self.keys.model(version, "overlay")
        pipe.rpushx(overlays, overlay)  # type: ignore[arg-type]  # bytes are as good as text
        for part in _MODEL_PARTS:
            pipe.expire(self.keys.model(version, part), self._list_ttl)
        pipe.expire(self.keys.model("current"), self._list_ttl)
        answers = await self._ask(pipe.execute())
        return int(answers[0]) if all(answers[1:]) else 0

    async def read_release(self, version: str) -> bytes | None:
        """The bytes of a release, None when it is gone."""
        data: bytes | None = await self._ask(self._redis.get(self.keys.model(version, "release")))
        return data

    async def read_overlays(
        self, version: str, start: int = 0, publication: bytes | None = None
    ) -> tuple[bytes | None, list[bytes]]:
        """The overlays over a release from number `start` on, in order, and the publication they belong to.

        A release is published again, with a new list of overlays, when Redis was emptied, the learner started
        again, or the list grew long. `publication` names the list that `start` counts in; when another one is
        there, all of its overlays are returned.
        """
        while True:
            pipe = self._redis.pipeline(transaction=True)
            pipe.get(self.keys.model(version, "meta"))  # tells the time of publication
            pipe.lrange(self.keys.model(version, "overlay"), start, -1)
            found, overlays = await self._ask(pipe.execute())
            if start == 0 or found == publication:
                return found, overlays
            start = 0

    async def read_meta(self, version: str) -> dict[str, Any] | None:
        """What is known of a release, None when it is gone."""
        value = await self._ask(self._redis.get(self.keys.model(version, "meta")))
        return None if value is None else msgspec.json.decode(value)

    async def write_alarm(self, alarm: dict[str, Any]) -> None:
        """Keep the last alarm of drift."""
        await self._ask(self._redis.set(self.keys.model("drift"), _encode(alarm), ex=self._list_ttl))

    async def read_alarm(self) -> dict[str, Any] | None:
        """The last alarm of drift, None when there was none."""
        value = await self._ask(self._redis.get(self.keys.model("drift")))
        return None if value is None else msgspec.json.decode(value)

    async def _execute(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands in one go and return all their answers, for a quarter of a pipeline's time.

        The first error is raised when all answers are in, so that the connection can be used again.
        """
        pool: Any = self._redis.connection_pool
        connection = await pool.get_connection()
        answers, errors = [], []
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command([b"".join(commands)])
                for _ in commands:
                    try:
                        answers.append(await connection.read_response(timeout=math.inf))  # bounded above
                    except ResponseError as error:
                        errors.append(error)
        except BaseException:
            await connection.disconnect()  # answers may be left in it
            raise
        finally:
            await pool.release(connection)
        if errors:
            raise errors[0]
        return answers

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except (RedisError, OSError, ssl.SSLError) as error:
            text = str(error)
            hint = "is it running, and is RECS_REDIS_URL right?"
            if "maxmemory" in text:
                hint = "free memory or raise maxmemory"
            elif isinstance(error, AuthenticationError) or "HELLO" in text:
                hint = "check user and password in RECS_REDIS_URL"
            raise StoreError(f"Redis at {self._where}: {text or type(error).__name__}; {hint}") from error
