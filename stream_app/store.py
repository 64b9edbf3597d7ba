"""Redis: the only file that talks to it.

Everything here can be rebuilt from Kafka and has a time to live. A list is one value, so a reader sees a
whole list or the one before.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from stream_app.errors import ConfigError, EmptiedError, StoreError
from stream_app.fencing import CLAIM, Claim, Effects, Fence, write_command
from stream_app.keys import Keys
from stream_app.redis_commands import REPLACE, eval_command, set_command

_DAY_S = 86_400
_REPLACED_TTL_S = 3_600
_MODEL_PARTS = ("overlay", "release", "meta")
_encode = msgspec.json.Encoder().encode


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
        keys = [self.keys.fence(partition), self.keys.rebuild(partition), self.keys.place(partition)]
        token, marked, place = await self._ask(self._redis.eval(CLAIM, 3, *keys, str(self._state_ttl)))
        return Claim(Fence(partition, int(token)), bool(marked), None if place is None else int(place))

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
        answers = await self._ask(
            self._execute([write_command(self.keys, one, self._list_ttl, self._state_ttl) for one in effects])
        )
        return {one.fence.partition for one, written in zip(effects, answers, strict=True) if not written}

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
        commands = [eval_command(REPLACE, [key.decode()], [old, new]) for key, old, new in changes]
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
