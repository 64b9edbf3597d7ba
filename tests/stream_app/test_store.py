"""Redis, the real one: names of keys, times to live, order of writes, and what an error may say."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.embedded import EmbeddedRedis
from stream_app.errors import ConfigError, StoreError
from stream_app.keys import Keys, escape
from stream_app.recommender import Offered
from stream_app.served_json import list_json, shared_list_json
from stream_app.store import Store

DAY = 86_400
HOSTILE = [
    "\r\nFLUSHALL",
    "*",
    "?",
    "[a]",
    "{u1}",
    "u1}:top",
    "a:b",
    "\0",
    "a" * 512,
    "\u202eabc",
    "../..",
    "%",
    " ",
]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store over an empty Redis."""
    store = Store(redis_url, list_ttl_days=2, state_ttl_days=3)
    yield store
    await store.close()


@pytest.fixture
def raw(redis_url: str) -> redis.Redis:
    """A plain client, as a consumer in any language would have it."""
    return redis.Redis.from_url(redis_url)


def everything(raw: redis.Redis) -> dict[str, int]:
    """Key → seconds to live, of the whole database."""
    return {key.decode(): int(raw.ttl(key)) for key in raw.scan_iter()}  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_escaping_keeps_ids_apart(a: str, b: str) -> None:
    """Two ids have one escape only if they are one id, and no escape holds what means something in a key."""
    assert (escape(a) == escape(b)) == (a == b)
    for text in (escape(a), escape(b)):
        assert not re.search(r"[:{}*?\[\]\s\\\"\x00-\x1f\x7f-\uffff]", text)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_no_id_forges_a_key(a: str, b: str) -> None:
    """Keys of different ids, or of different kinds, never meet; the hash tag is the id's own."""
    keys = Keys()
    made = [f(x) for x in dict.fromkeys((a, b)) for f in (keys.top, keys.state, keys.similar)]
    assert len(set(made)) == len(made)
    assert all(key.count("{") == key.count("}") == 1 for key in made)


async def test_keys_are_those_of_the_contract(store: Store, raw: redis.Redis) -> None:
    """A user's list, state, similar items, the lists for everybody and the model lie where readers look."""
    await store.write([("u1", b"{}")], [("u1", b"state")])
    await store.write_shared([("popular", b"{}"), ("trending", b"{}"), ("latest", b"{}")], [("i1", b"{}")])
    await store.publish_release("abc", b"release", {"step": 1}, b"overlay")
    assert everything(raw).keys() == {
        "rec:v1:user:{u1}:top", "rec:v1:user:{u1}:state", "rec:v1:item:{i1}:similar",
        "rec:v1:global:popular", "rec:v1:global:trending", "rec:v1:global:latest",
        "rec:v1:model:current", "rec:v1:model:abc:meta", "rec:v1:model:abc:release",
        "rec:v1:model:abc:overlay",
    }  # fmt: skip
    assert raw.get("rec:v1:model:current") == b"abc"
    assert json.loads(raw.get("rec:v1:model:abc:meta")) == {"step": 1}  # type: ignore[arg-type]


async def test_every_key_has_a_time_to_live(store: Store, raw: redis.Redis) -> None:
    """Lists, models and states live as long as they were given, and renewing an overlay renews the model."""
    await store.write([("u1", b"{}")], [("u1", b"state")])
    await store.write_shared([("popular", b"{}")], [("i1", b"{}")])
    await store.publish_release("v1", b"r", {}, b"o")
    await store.push_overlay("v1", b"o")
    await store.publish_release("v2", b"r", {}, b"o")
    await store.push_overlay("v2", b"o")
    lives = everything(raw)
    assert len(lives) == 11 and min(lives.values()) > 0
    assert lives.pop("rec:v1:user:{u1}:state") > 2 * DAY
    replaced = {key: lives.pop(key) for key in list(lives) if ":v1:model:v1:" in key}
    assert len(replaced) == 3 and max(replaced.values()) <= 3_600
    assert all(DAY < ttl <= 2 * DAY for ttl in lives.values())
    for key in lives:
        raw.expire(key, 9)
    await store.push_overlay("v2", b"o")
    assert sum(ttl > DAY for key, ttl in everything(raw).items() if ":model:" in key) == 4


async def test_a_namespace_keeps_systems_apart(redis_url: str, store: Store, raw: redis.Redis) -> None:
    """Two systems in one Redis do not see each other's users."""
    other = Store(redis_url, namespace="shop-2")
    await other.write([("u1", b'{"items":[]}')], [])
    assert await store.read_list("u1") is None and await other.read_list("u1") == {"items": []}
    assert list(everything(raw)) == ["shop-2:v1:user:{u1}:top"]
    await other.close()


@pytest.mark.parametrize("user_id", HOSTILE)
async def test_hostile_ids_are_data(store: Store, raw: redis.Redis, user_id: str) -> None:
    """Whatever an id is made of, its user is written, read and erased alone."""
    await store.write([("u1", b'{"of":"u1"}'), (user_id, b'{"of":"it"}')], [(user_id, b"s")])
    assert await store.read_list(user_id) == {"of": "it"} and await store.read_list("u1") == {"of": "u1"}
    assert await store.load_states([user_id, "u1"]) == [b"s", None]
    await store.erase_user(user_id, 0, 7)
    assert [key for key in everything(raw) if ":user:" in key] == ["rec:v1:user:{u1}:top"]


async def test_states_come_back_in_order(store: Store) -> None:
    """One answer per user, None for who is new, and no question for nobody."""
    await store.write([], [("b", b"2"), ("a", b"1")])
    assert await store.load_states(["a", "x", "b"]) == [b"1", None, b"2"]
    assert await store.load_states([]) == []
    await store.write([], [])


async def test_lists_are_written_before_states(store: Store, raw: redis.Redis) -> None:
    """A cut between the two loses no event: the state, which says what was applied, comes last."""
    await store.ping()
    with raw.monitor() as monitor:
        await store.write([("u1", b"{}"), ("u2", b"{}")], [("u1", b"s"), ("u2", b"s")])
        commands = [monitor.next_command()["command"] for _ in range(4)]
    assert [c.split()[1].rpartition(":")[2] for c in commands] == ["top", "top", "state", "state"]


def test_a_list_is_the_json_of_the_contract() -> None:
    """User, model, both times, strategy, and items with scores of four digits."""
    offered = Offered("u1", [("a", 1.23456789), ("b", -0.5)], True, 1_767_607_200_123)
    assert json.loads(list_json(offered, "m1", 1_767_607_201_000)) == {
        "user_id": "u1", "model": "m1", "generated_at": "2026-01-05T10:00:01.000Z",
        "event_time": "2026-01-05T10:00:00.123Z", "strategy": "personal",
        "items": [{"item_id": "a", "score": 1.2346}, {"item_id": "b", "score": -0.5}],
    }  # fmt: skip
    nobody = json.loads(list_json(Offered("u", [], False, -1), "m1", 0))
    assert nobody["event_time"] is None and nobody["strategy"] != "personal" and nobody["items"] == []
    shared = json.loads(shared_list_json([("a", 2.0)], "m1", 0, "popular"))
    assert shared.keys() == nobody.keys() and shared["user_id"] is None and shared["strategy"] == "popular"


async def test_a_release_is_pointed_to_when_it_is_whole(store: Store, raw: redis.Redis) -> None:
    """Release, meta, first overlay and pointer change in one transaction."""
    assert await store.current_version() is None and await store.read_release("v1") is None
    assert await store.read_meta("v1") is None and await store.read_overlays("v1") == (None, [])
    with raw.monitor() as monitor:
        await store.publish_release("v1", b"data", {"a": 1}, b"o1")
        commands = [monitor.next_command()["command"] for _ in range(9)]
    names = [c.split()[0].upper() for c in commands]
    assert names[1] == "MULTI" and names[-1] == "EXEC" and "current" in commands[-2]
    assert await store.current_version() == "v1" and await store.read_release("v1") == b"data"
    assert await store.read_meta("v1") == {"a": 1}


async def test_overlays_are_read_from_where_a_worker_is(store: Store) -> None:
    """They come in order; publishing a release again begins a new row of them."""
    await store.publish_release("v1", b"data", {}, b"o0")
    assert [await store.push_overlay("v1", f"o{k}".encode()) for k in (1, 2)] == [2, 3]
    first, overlays = await store.read_overlays("v1")
    assert overlays == [b"o0", b"o1", b"o2"]
    assert await store.read_overlays("v1", 2, first) == (first, [b"o2"])
    assert await store.read_overlays("v1", 3, first) == (first, [])
    await store.publish_release("v1", b"data", {"again": True}, b"all")
    second, overlays = await store.read_overlays("v1", 3, first)
    assert second != first and overlays == [b"all"]


@pytest.mark.parametrize("gone", ["all", "v1:release", "v1:meta", "v1:overlay", "current"])
async def test_a_model_that_is_gone_is_noticed(store: Store, raw: redis.Redis, gone: str) -> None:
    """Pushing an overlay answers 0 when a part of the model was flushed or evicted."""
    await store.publish_release("v1", b"data", {}, b"o0")
    raw.flushall() if gone == "all" else raw.delete(f"rec:v1:model:{gone}")
    assert await store.push_overlay("v1", b"o1") == 0
    if gone == "all":
        assert everything(raw) == {}


async def test_similar_items_and_shared_lists(store: Store) -> None:
    """They are written, read and removed."""
    await store.write_shared([("popular", b'{"items":[1]}')], [("i", b"{}")])
    assert await store.read_shared("popular") == {"items": [1]} and await store.read_shared("latest") is None
    await store.remove_similar("i")
    await store.write_shared([], [])


async def test_a_redis_that_is_down_says_where(redis_server: EmbeddedRedis) -> None:
    """The error names host and port and what to check, never the password."""
    url = redis_server.url.replace("redis://", "redis://recs:hunter2@")
    redis_server.stop()
    store = Store(url, timeout_s=2)
    for question in (
        store.ping(),
        store.read_list("u"),
        store.write([("u", b"")], []),
        store.current_version(),
    ):
        with pytest.raises(
            StoreError, match=r"Redis at .*; is it running, and is RECS_REDIS_URL right\?"
        ) as error:
            await question
        assert "hunter2" not in str(error.value) and "127.0.0.1" in str(error.value)
    await store.close()


async def test_a_wrong_password_is_not_repeated(redis_url: str) -> None:
    """A refusal by Redis is a StoreError without the secret."""
    store = Store(redis_url.replace("redis://", "redis://recs:hunter2@"))
    with pytest.raises(StoreError, match="Redis at") as error:
        await store.ping()
    assert "hunter2" not in str(error.value)
    await store.close()


async def test_a_redis_that_hangs_is_given_up(redis_server: EmbeddedRedis) -> None:
    """No question waits longer than the timeout."""
    store = Store(redis_server.url, timeout_s=0.3)
    await store.ping()
    redis_server.pause()
    try:
        with pytest.raises(StoreError, match="Timeout"):
            await store.read_list("u1")
    finally:
        redis_server.resume()
    await store.close()


async def test_a_full_redis_asks_for_memory(store: Store, raw: redis.Redis) -> None:
    """Out of memory is told apart from being down, and reading goes on."""
    await store.write([("u1", b"{}")], [])
    raw.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(StoreError, match="free memory or raise maxmemory"):
            await store.write([("u2", bytes(2_000_000))], [("u2", b"s")])
        with pytest.raises(StoreError, match="free memory or raise maxmemory"):
            await store.publish_release("v1", bytes(2_000_000), {}, b"")
        assert await store.read_list("u1") == {} and await store.current_version() is None
    finally:
        raw.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    "url", ["http://x:hunter2@h/0", "redis://:hun/ter2@host:6379", "redis://h:hunter2", "", "x"]
)
def test_a_wrong_address_is_refused_without_showing_it(url: str) -> None:
    """The error names the variable and the form, and not one piece of the password."""
    with pytest.raises(ConfigError, match="RECS_REDIS_URL") as error:
        Store(url)
    assert "hun" not in str(error.value) and "ter2" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__
