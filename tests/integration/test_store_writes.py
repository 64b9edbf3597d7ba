"""The store's hand-packed writes on a real Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import PythonRespSerializer

from stream_app.embedded import EmbeddedRedis
from stream_app.errors import StoreError
from stream_app.fencing import MOST_UNPACKED, Effects, TriggerWrites
from stream_app.redis_commands import set_command
from stream_app.store import Store


@given(key=st.text(max_size=10), value=st.binary(max_size=20), ttl=st.integers(1, 10**9))
def test_a_packed_set_is_what_the_client_would_write(key: str, value: bytes, ttl: int) -> None:
    """Byte for byte what redis-py writes for SET with EX."""
    pack = PythonRespSerializer(6_000, lambda v: v if isinstance(v, bytes) else str(v).encode()).pack
    assert set_command(key, value, ttl) == b"".join(pack("SET", key, value, "EX", ttl))


async def test_lists_and_states_are_written_with_their_time_to_live(redis_server: EmbeddedRedis) -> None:
    """What is written is read again, and none of it stays for ever."""
    store = Store(redis_server.url, list_ttl_days=1, state_ttl_days=2)
    users = [f"ü{n}\r\n" for n in range(2_000)]
    await store.write([(u, b'{"items":[]}') for u in users], [(u, u.encode()) for u in users])
    assert await store.load_states(users) == [u.encode() for u in users]
    assert await store.read_list(users[-1]) == {"items": []}
    for key, days in ((store.keys.top(users[0]), 1), (store.keys.state(users[0]), 2)):
        assert 0 <= days * 86_400 - await store._redis.ttl(key) < 60
    await store.close()


async def test_many_watchers_of_an_item_are_written_at_once(redis_server: EmbeddedRedis) -> None:
    """However many more than a script can unpack; each item has its own, and nobody's time is another's."""
    store = Store(redis_server.url)
    fence = (await store.claim(0)).fence
    users = [f"ü{n}" for n in range(MOST_UNPACKED + 1)]
    watched = [("a", user, n) for n, user in enumerate(users)] + [("b", users[7], 5), ("b", users[8], 5)]
    timers = TriggerWrites([(users[0], 9), (users[1], None)], watched, clock_ms=3, wall_ms=4, intent=b"x")
    assert not await store.write_fenced([Effects(fence, triggers=timers)])
    assert await store.watchers(0, ["a", "b", "c"]) == [users, sorted(users[7:9]), []]
    assert await store.due_users(0, 9, 5) == ([users[0]], 9)
    assert await store._redis.zscore(store.keys.watchers(0, "a"), users[3_000]) == 3_000
    assert (await store.trigger_places([0]))[0] == {"clock": b"3", "wall": b"4", "intent": b"x"}
    await store.close()


async def test_a_refused_write_is_an_error_and_the_connection_stays_in_step(
    redis_server: EmbeddedRedis,
) -> None:
    """A full Redis refuses; when it has room again the same store writes and reads as before."""
    store = Store(redis_server.url)
    used = (await store._redis.info("memory"))["used_memory"]
    await store._redis.config_set("maxmemory", used)
    with pytest.raises(StoreError, match="maxmemory"):
        await store.write([("full", b"x" * 100_000)] * 3, [("full", b"state")])
    await store._redis.config_set("maxmemory", 0)
    await store.write([("later", b'{"items":[1]}')], [("later", b"state")])
    assert await store.read_list("later") == {"items": [1]}
    assert await store.load_states(["full", "later"]) == [None, b"state"]
    await store.close()


async def test_a_redis_that_is_gone_is_an_error_and_one_that_is_back_is_used(
    redis_server: EmbeddedRedis,
) -> None:
    """A write to a dead server raises; after its restart the same store goes on."""
    store = Store(redis_server.url, timeout_s=5)
    await store.write([("a", b"{}")], [])
    redis_server.kill()
    with pytest.raises(StoreError):
        await store.write([("a", b"{}")], [])
    redis_server.start()
    await store.write([("a", b'{"items":[2]}')], [])
    assert await store.read_list("a") == {"items": [2]}
    await store.close()
