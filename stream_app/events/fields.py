"""Single values of foreign messages, checked and brought to their type.

Every function takes a value of any JSON type and either returns the typed value or raises an
`EventError` that names the field and says what was expected.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from stream_app.errors import EventError
from stream_app.events.records import EARLIEST_MS, LATEST_MS, MAX_DEPTH, MAX_ID_BYTES, Scalar


def time_ms(t: datetime | int | float) -> int:
    """Milliseconds since 1970; numbers are seconds, milliseconds, micro- or nanoseconds by their size."""
    if isinstance(t, datetime):
        # .5: the float of a time in whole milliseconds may lie just below it
        return int((t if t.tzinfo is not None else t.replace(tzinfo=UTC)).timestamp() * 1000 + 0.5)
    if t <= 0:
        return 0  # before 1990, however much
    if t < 1e11:  # the four ranges of 1990 … 2200 do not touch each other
        return int(t * 1000 + 0.5)
    if t < 1e14:
        return int(t)
    return int(t // 1000) if t < 1e17 else int(t // 1_000_000)


def parse_time_ms(value: Any, latest_ms: int = LATEST_MS) -> int:
    """Milliseconds since 1970 of a time in any of the accepted notations.

    Parameters
    ----------
    value
        ISO-8601 with ``Z``, an offset or neither (then UTC); or epoch seconds, milliseconds, microseconds or
        nanoseconds as a number or as text, told apart by their size.
    latest_ms
        The last accepted time; the first is 1990.

    Raises
    ------
    EventError
        It is not a time, or outside the bounds.

    Examples
    --------
    >>> parse_time_ms("2026-01-05T10:00:00.123Z") == parse_time_ms("1767607200.123") == 1767607200123
    True
    """
    if value is None:
        raise EventError("event_time", "is missing; send ISO-8601 or epoch seconds or milliseconds")
    time: datetime | int | float | None = None
    if isinstance(value, int | float | datetime) and not isinstance(value, bool):
        time = value
    elif isinstance(value, str):
        time = _read_time(value.strip())
    if time is None or (isinstance(time, float) and not math.isfinite(time)):
        raise EventError(
            "event_time", f"{show(value)} is not a time; send ISO-8601 or epoch seconds or milliseconds"
        )
    ms = time_ms(time)
    if ms < EARLIEST_MS:
        raise EventError("event_time", f"{show(value)} lies before 1990")
    if ms > latest_ms:
        limit = datetime.fromtimestamp(latest_ms / 1000, UTC).isoformat(timespec="seconds")
        raise EventError("event_time", f"{show(value)} lies in the future, after {limit}")
    return ms


def _read_time(text: str) -> datetime | float | int | None:
    if re.fullmatch(r"\d{9,20}", text, re.ASCII):  # 8 digits are a date to ISO-8601, and no second after 1990
        return int(text)
    if re.fullmatch(r"\d{9,20}\.\d{1,20}", text, re.ASCII):
        return float(text)
    try:
        return datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return None


def parse_object(raw: bytes | None, max_bytes: int) -> dict[str, Any]:
    """The JSON object in `raw`; errors are about the field ``value``, the message as a whole.

    >>> parse_object(b'{"user_id": 7}', max_bytes=100)
    {'user_id': 7}
    """
    if not raw:
        raise EventError("value", "is null" if raw is None else "is empty; send a JSON object")
    if len(raw) > max_bytes:
        raise EventError("value", f"has {len(raw)} bytes; the limit is {max_bytes}")
    if raw[:1] == b"\0":
        raise EventError("value", "starts with a schema-registry header; send plain JSON")
    try:
        message = msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError as error:
        raise EventError("value", "is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise EventError("value", f"is not UTF-8 (byte {error.start} of a string)") from error
    except msgspec.MsgspecError as error:
        raise EventError("value", f"is not JSON ({error})") from error
    if not isinstance(message, dict):
        raise EventError("value", f"is JSON but not an object: {show(message)}")
    return message


def identifier(field: str, value: Any, max_bytes: int = MAX_ID_BYTES) -> str | None:
    """An id as text; None stays None. Hostile ids are data: only NUL, broken Unicode and length are refused.

    >>> identifier("user_id", 7)
    '7'
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**100:
        return str(value)
    if not isinstance(value, str) or not value:
        raise EventError(field, f"{show(value)} is not an id; send a non-empty string or integer")
    if "\0" in value:
        raise EventError(field, f"{show(value)} contains NUL")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise EventError(field, f"{show(value)} is not valid Unicode") from error
    if size > max_bytes:
        raise EventError(field, f"{show(value)} has {size} bytes; the limit is {max_bytes}")
    return value


def number(field: str, value: Any, low: float, high: float) -> int | float | None:
    """A number, or text that is one, between `low` and `high`; None stays None.

    >>> number("price", "18.99", 0, 1e12)
    18.99
    """
    if value is None:
        return None
    result = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            result = int(value) if value.isdecimal() else float(value) if "_" not in value else value
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise EventError(field, f"{show(value)} is not a number")
    if not low <= result <= high:  # also refuses NaN
        raise EventError(field, f"{show(value)} lies outside {low:g} … {high:g}")
    return result


def plain_object(field: str, value: Any) -> dict[str, Any]:
    """A JSON object of at most `MAX_DEPTH` levels and 64-bit integers, which can be encoded again."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise EventError(field, f"{show(value)} is not an object")
    _check_plain(field, value, MAX_DEPTH)
    return value


def _check_plain(field: str, value: Any, depth: int) -> None:
    """Refuse what could not be encoded again: deep nesting and integers beyond 64 bits."""
    if isinstance(value, dict | list):
        if depth == 0:
            raise EventError(field, f"is nested deeper than {MAX_DEPTH} levels")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_plain(field, inner, depth - 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise EventError(field, f"{show(value)} is an integer beyond 64 bits")


def show(value: Any) -> str:
    """A value as it appears in error messages: ASCII, one line, at most 60 characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # integers of more than 4300 digits, deep nesting
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


def key_text(key: bytes | None) -> str | None:
    """The message key as text; None when there is none."""
    if not key:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise EventError("key", "is not UTF-8") from error


def attributes(attributes: Any, extra: Mapping[str, Any]) -> dict[str, Scalar | list[Scalar]]:
    """The members that are plain or lists of plain values: of `extra` where they are, of `attributes` all."""
    if not isinstance(attributes, dict | None):
        raise EventError("attributes", f"{show(attributes)} is not an object")
    result: dict[str, Scalar | list[Scalar]] = {
        name: value for name, value in extra.items() if _is_attribute(value)
    }
    for name, value in (attributes or {}).items():
        if value is None:
            continue
        if not _is_attribute(value):
            raise EventError(
                f"attributes.{name}", f"{show(value)} is neither a plain value nor a list of them"
            )
        result[name] = value
    return result


def _is_attribute(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(v, list) and _is_attribute(v) for v in value)
    return isinstance(value, str | float) or (isinstance(value, int) and -(2**63) <= value < 2**63)
