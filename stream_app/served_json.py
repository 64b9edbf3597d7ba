"""Lists as readers get them: JSON as the contract has it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from stream_app.events.records import iso_time
from stream_app.recommender import Lists, Offered

_encode = msgspec.json.Encoder().encode


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
