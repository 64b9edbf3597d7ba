"""The order of a stream: late events go to their place; an order that gives answers away becomes chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stream_app.events import Event, Item, User

Record = Event | Item | User

_SORTED_SHARE = 0.95  # of neighbours at the same time that are in id order: then the file was sorted by item
_SORTED_PAIRS = 50  # fewer neighbours prove nothing


def in_time_order(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Records with their events in time order, and the number of events that had to move.

    Events with equal times keep their order. An item or a user stays behind the events that stood before
    it, so nobody learns of it earlier than the file says.
    """
    file_order = list(records)
    times: list[int] = []
    latest = -(2**63)
    n_late = 0
    for record in file_order:
        if isinstance(record, Event):
            n_late += record.event_time_ms < latest
            latest = max(latest, record.event_time_ms)
            times.append(record.event_time_ms)
        elif isinstance(record, Item | User):
            times.append(latest)
        else:
            raise TypeError(f"a record is an Event, an Item or a User, not a {type(record).__name__}")
    if n_late == 0:
        return file_order, 0
    order = np.argsort(np.array(times, dtype=np.int64), kind="stable")
    return [file_order[i] for i in order], n_late


def looks_sorted_by_item(records: Sequence[Record]) -> bool:
    """Whether one user's events with equal times stand in the order of their item ids.

    Ids are compared as numbers where both are, else as text, in both directions.
    """
    ascending = descending = 0
    last: dict[str, Event] = {}
    for record in records:
        if not isinstance(record, Event) or record.item_id is None:
            continue
        before = last.get(record.user_id)
        last[record.user_id] = record
        if before is None or before.event_time_ms != record.event_time_ms or before.item_id == record.item_id:
            continue
        is_ascending = _id_key(str(before.item_id)) < _id_key(record.item_id)
        ascending += is_ascending
        descending += not is_ascending
    n = ascending + descending
    return n >= _SORTED_PAIRS and max(ascending, descending) >= _SORTED_SHARE * n


def _id_key(item_id: str) -> tuple[int, str]:
    return (int(item_id), "") if item_id.isdecimal() and len(item_id) < 20 else (10**20, item_id)


def shuffle_equal_times(records: Sequence[Record], rng: np.random.Generator) -> tuple[list[Record], int]:
    """Draw the order of one user's events with equal time and type by lot, and count them.

    They change places only among themselves, so impressions stay before their clicks.
    """
    groups: dict[tuple[str, int, str], list[int]] = {}
    for index, record in enumerate(records):
        if isinstance(record, Event):
            key = (record.user_id, record.event_time_ms, record.event_type)
            groups.setdefault(key, []).append(index)
    shuffled = list(records)
    n_shuffled = 0
    for places in groups.values():
        if len(places) > 1:
            n_shuffled += len(places)
            for place, source in zip(places, rng.permutation(places), strict=True):
                shuffled[place] = records[source]
    return shuffled, n_shuffled
