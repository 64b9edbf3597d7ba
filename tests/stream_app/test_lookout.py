"""Triggers of a partition's log: where batches end, and how wrong clocks are, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.applying import Part
from stream_app.config import Settings
from stream_app.events import Event, User, encode_event
from stream_app.fencing import Fence
from stream_app.lookout import Lookout
from stream_app.model.item_index import ItemIndex
from stream_app.model.user_table import UserTable
from stream_app.ownership import Held
from stream_app.triggers.deciding import Decision
from stream_app.triggers.engine import LATE_MS, TriggerEngine
from stream_app.triggers.memory import unpack_memory
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules_file import parse_trigger_rules
from stream_app.worker import Worker

NOON = 1_767_614_400_000  # 2026-01-05T12:00Z
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
RULES = parse_trigger_rules(
    'pause = "0 s"\n'
    + "".join(
        f'[[rules]]\nname = "{name}"\nhold_out = 0.0\n'
        for name in ("cart_abandonment", "high_intent", "win_back")
    )
    + '[[rules]]\nname = "wished"\non = "add_to_wishlist"\ndelay = "20 min"\n'
)
USERS = "abc"


def event(n: int, user: str, what: str, minute: float, item: str = "i") -> Event:
    return Event(f"e{n}", what, NOON + int(minute * MINUTE), user, item_id=item)


def decided(log: Sequence[Event], sizes: Sequence[int], *, fires: bool = True) -> list[Decision]:
    """What a worker decides that reads a log in batches, and fires timers between them or not."""
    engine = TriggerEngine(RULES)
    table = UserTable(ItemIndex())
    lookout = Lookout(engine, table)
    for user in USERS:
        engine.observe_user(User(user, True))
        table.load(user, None)
    found, start = [], 0
    for size in [*sizes, len(log)]:
        batch = log[start : start + size]
        if not batch:
            break
        rows = table.rows_of([e.user_id for e in batch])
        offsets = range(start, start + len(batch))
        found += lookout.on_events(0, offsets, batch, rows)
        times = np.array([e.event_time_ms for e in batch], np.int64)
        np.maximum.at(table.users.last_ms, rows, times)
        start += len(batch)
        if fires or start == len(log):
            found += lookout.on_time(USERS, lookout.clocks[0] - LATE_MS)
    return sorted(
        (d for look in found for d in look.decisions), key=lambda d: (d.user_id, d.at_ms, d.rule.name)
    )


def foretold(log: Sequence[Event]) -> list[Decision]:
    """What a preview decides."""
    preview = Preview(RULES)
    for user in USERS:
        preview.feed(User(user, True))
    for e in log:
        preview.feed(e)
    return sorted(preview.decisions, key=lambda d: (d.user_id, d.at_ms, d.rule.name))


def test_a_late_purchase_cancels_nothing_in_any_batch() -> None:
    """Eleven minutes behind the clock it comes too late, whether or not the timer was looked at before."""
    log = [event(0, "a", "add_to_cart", 0), event(1, "b", "view_item", 31), event(2, "a", "purchase", 20)]
    for sizes in ([3], [2, 1], [1, 2], [1, 1, 1]):
        [decision] = decided(log, sizes)
        assert (decision.user_id, decision.rule.name, decision.held) == ("a", "cart_abandonment", "")
        assert decision.at_ms == NOON + 30 * MINUTE
    assert decided(log, [2, 1]) == foretold(log)


def test_a_purchase_that_is_hardly_late_cancels() -> None:
    """Within `LATE_MS` of the clock, in one batch or several."""
    log = [event(0, "a", "add_to_cart", 0), event(1, "b", "view_item", 30.05), event(2, "a", "purchase", 29)]
    for sizes in ([3], [2, 1], [1, 1, 1]):
        assert decided(log, sizes) == foretold(log) == []


def test_late_events_that_nobody_listens_to_put_nothing_off() -> None:
    """A click that comes after the clock has passed the timer finds it fired, as the clock would have."""
    log = [event(0, "a", "add_to_cart", 0), event(1, "b", "view_item", 31), event(2, "a", "select_item", 20)]
    for sizes in ([3], [2, 1], [1, 2]):
        assert len(decided(log, sizes, fires=False)) == 1


LOGS = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.sampled_from(
            ["add_to_cart", "view_item", "add_to_wishlist", "select_item", "purchase", "remove_from_cart"]
        ),
        st.integers(0, 8),  # minutes since the event before
        st.sampled_from([0, 0, 0, 1, 12, 45]),  # minutes that it is late
        st.sampled_from("ij"),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LOGS, st.lists(st.integers(1, 9), max_size=60), st.booleans())
def test_where_batches_end_matters_to_nobody(
    rows: list[tuple[str, str, int, int, str]], sizes: list[int], fires: bool
) -> None:
    """Late events or not: batches of any size, with timers fired in between or not, decide as a preview."""
    log, minute = [], 0
    for n, (user, what, gap, late, item) in enumerate(rows):
        minute += gap
        log.append(event(n, user, what, minute - late, item))
    assert decided(log, sizes, fires=fires) == foretold(log)


@dataclass
class Record:
    """A record as Kafka gives it."""

    value: bytes
    key: bytes
    offset: int
    timestamp: int
    topic: str = "events"
    partition: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


def read(written: Sequence[tuple[Event, int]]) -> list[Event]:
    """Events as a worker reads them two hours late, each with the time when it was written."""
    worker = Worker(Settings(), clock=lambda: (NOON + 2 * HOUR) / 1000)
    records = [Record(encode_event(e), e.user_id.encode(), n, ms) for n, (e, ms) in enumerate(written)]
    decoded = worker._applier.decode(Part(0, Held(Fence(0, 1)), records), lambda _: -1)  # type: ignore[arg-type]
    assert decoded.offsets == [*range(len(written))] and not decoded.rejected
    return decoded.events


def test_one_fast_clock_fires_nobodys_timers() -> None:
    """In a backlog, too: an event happened at the latest when it was written, not when it is read."""
    log = read(
        [
            (event(0, "a", "add_to_cart", 0), NOON),
            (event(1, "b", "view_item", 65), NOON + 5 * MINUTE),
            (event(2, "a", "purchase", 20), NOON + 20 * MINUTE),
        ]
    )
    assert [e.event_time_ms - NOON for e in log] == [0, 5 * MINUTE, 20 * MINUTE]
    assert decided(log, [2, 1]) == decided(log, [3]) == []


def test_an_event_from_the_future_does_not_silence_its_user() -> None:
    """Half an hour after it was written the cart is abandoned, whatever its clock says."""
    log = read(
        [
            (event(0, "a", "add_to_cart", 20 * 60), NOON),
            (event(1, "a", "select_item", 2), NOON + 2 * MINUTE),
            (event(2, "b", "view_item", 40), NOON + 40 * MINUTE),
        ]
    )
    [decision] = decided(log, [1, 1, 1])
    assert decision.at_ms == NOON + 32 * MINUTE and decision.key == f"cart@{NOON}"


def test_a_preview_of_a_topic_knows_when_records_were_written() -> None:
    """What is cut in a worker is cut alike in a preview."""
    preview = Preview(RULES, now_ms=NOON + 9 * HOUR)
    preview.feed(User("a", True))
    preview.feed(event(0, "a", "add_to_cart", 60), written_ms=NOON)
    packed = preview._people["a"].packed
    assert packed is not None and unpack_memory(packed).cart_ms == NOON
