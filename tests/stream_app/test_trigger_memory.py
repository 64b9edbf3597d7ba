"""What triggers remember of a user: always small, and of rules that there are."""

from __future__ import annotations

from stream_app.events import Event, User
from stream_app.triggers.engine import TriggerEngine
from stream_app.triggers.memory import (
    MOST_BYTES,
    MOST_SENT,
    Line,
    Memory,
    Sent,
    Timer,
    Told,
    Watch,
    pack_memory,
    unpack_memory,
)
from stream_app.triggers.rules_file import builtin_rules

NOON = 1_767_614_400_000  # 2026-01-05T12:00Z


def rotated(names: int) -> Memory:
    """A user to whom as many campaigns have spoken, each a rule of its own."""
    memory = Memory()
    for n in range(names):
        name = f"campaign_number_{n:05d}"
        memory.sent[name] = Sent(NOON + n, 739_621, 1)
        memory.fired[name] = f"purchase@{NOON + n}"
        memory.timers[name] = Timer(NOON + n, f"purchase@{NOON + n}")
    memory.watches["a"] = Watch(1, NOON, 9.0, told={name: Told(1, 9.0) for name in memory.sent})
    return memory


def test_a_memory_fits_whatever_it_holds() -> None:
    """Packing ends for any memory; of what rules have sent the latest is kept."""
    for names in (0, 20, 60, 500):
        packed = pack_memory(rotated(names), 0)
        assert len(packed) <= MOST_BYTES + 8
        kept = sorted(unpack_memory(packed).sent)
        assert kept == [f"campaign_number_{n:05d}" for n in range(max(0, names - MOST_SENT), names)]


def test_even_names_that_do_not_fit_come_to_an_end() -> None:
    """Names and ids longer than a memory are forgotten, all of them if need be."""
    long = "x" * (2 * MOST_BYTES)
    memory = Memory(sent={long: Sent(NOON, 1, 1)}, cart={long: Line(1.0, 1.0, NOON)})
    assert unpack_memory(pack_memory(memory, 0)) == Memory()


def test_rules_that_are_no_more_are_forgotten() -> None:
    """What last year's campaigns have said leaves the memory at the next look; a rule that is there stays."""
    engine = TriggerEngine(builtin_rules())
    engine.observe_user(User("u", True))
    memory = rotated(4)
    memory.sent["win_back"] = memory.sent["campaign_number_00000"]
    memory.fired["win_back"] = f"idle@{NOON}"
    memory.watches["a"].told["price_drop"] = Told(1, 9.0)
    added = Event("e", "add_to_cart", NOON + 60_000, "u", item_id="b")
    look = engine.on_events("u", pack_memory(memory, 0), NOON, [(added, NOON + 60_000, 0)])
    after = unpack_memory(look.packed or b"")
    assert after.sent.keys() == after.fired.keys() == {"win_back"}
    assert after.watches["a"].told.keys() == {"price_drop"} and after.timers.keys() == {"cart_abandonment"}
