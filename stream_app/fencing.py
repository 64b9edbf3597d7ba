"""What belongs to a partition of `events` in Redis is written by its owner, as a whole or not at all.

An owner claims a fence; each write carries it, and one script compares it and writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stream_app.keys import Keys
from stream_app.redis_commands import eval_command

MOST_WATCHERS = 10_000  # of an item in a partition; who has watched longest is not told of changes
MOST_UNPACKED = 4_000  # values that a script hands to one command; Lua's stack has room for twice as many


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
CLAIM = """
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
WRITE = """
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


def write_command(names: Keys, effects: Effects, list_ttl_s: int, state_ttl_s: int) -> bytes:
    """The command that writes the effects of a partition; it answers 1, or 0 when somebody else owns it.

    Parameters
    ----------
    list_ttl_s, state_ttl_s
        Times to live of lists, and of everything else, seconds.
    """
    lists, states, t = effects.lists, effects.states, effects.triggers
    partition, place, watched = effects.fence.partition, effects.place, _by_item(t.watched)
    keys = [names.fence(partition), names.rebuild(partition), names.place(partition)]
    keys += [names.timers(partition), names.triggers(partition)]
    keys += [names.top(user_id) for user_id, _ in lists]
    keys += [names.state(user_id) for user_id, _ in states]
    keys += [names.watchers(partition, item_id) for item_id, _ in watched]
    head = (effects.fence.token, list_ttl_s, state_ttl_s, len(lists), len(states))
    arguments = [b"%d" % n for n in head] + [b"" if place is None else b"%d" % place]
    arguments += [b"%d" % n for n in (t.clock_ms, t.wall_ms, t.items_place, len(t.timers))] + [t.intent]
    arguments += [value for _, value in lists] + [value for _, value in states]
    for user_id, due_ms in t.timers:
        arguments += [b"" if due_ms is None else b"%d" % due_ms, user_id.encode()]
    for _, pairs in watched:
        arguments += [b"%d" % (len(pairs) // 2), *pairs]
    return eval_command(WRITE, keys, arguments)
