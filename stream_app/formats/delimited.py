"""CSV and its relatives, with a map from our fields to their columns.

Without a map the header is read like any foreign message: ``timestamp,visitorid,event,itemid`` needs none.
A row of a purchase with a negative quantity is a refund, as in invoice data. Equal rows stay separate
events, so ``validate`` and replays see as many events as the file has rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from stream_app.errors import ConfigError, EventError, InputError
from stream_app.events import event_from_fields
from stream_app.events.dialects import to_canonical
from stream_app.events.records import Event, Item
from stream_app.formats.lines import BadLines, Progress, Record, read_lines

DELIMITERS = ",;\t|"
EVENT_FIELDS = (
    "event_id", "event_type", "event_time", "user_id", "anonymous_id", "session_id", "item_id", "value",
    "currency", "quantity", "request_id", "price", "position",
)  # fmt: skip
ITEM_FIELDS = ("title", "category")
MAP_FIELDS = (*EVENT_FIELDS, *ITEM_FIELDS, "event_time_format")
# Month first where both readings are possible; event_time_format decides otherwise.
TIME_FORMATS = ("%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d", "%d-%b-%Y")
CLOCK_FORMATS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")

Columns = Mapping[str, str]
"""Field → column name, or ``=`` and a constant."""


def parse_columns(text: str) -> dict[str, str]:
    """Read a column map as it is written on the command line.

    ``field=column`` takes a column, ``field:=constant`` the same value for every row;
    ``event_time_format:=%d/%m/%Y`` tells how times are written.

    Raises
    ------
    ConfigError
        A part is not of that form, or the field is unknown.

    Examples
    --------
    >>> parse_columns("user_id=CustomerID,event_type:=purchase")
    {'user_id': 'CustomerID', 'event_type': '=purchase'}
    """
    columns = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"(\w+)(:?=)(.+)", part)
        if found is None:
            raise ConfigError(f"column map: {part!r} is neither field=column nor field:=constant")
        field, sign, value = found.groups()
        columns[field] = value if sign == "=" else "=" + value
    check_columns(columns)
    return columns


def check_columns(columns: Columns) -> None:
    """Raise `ConfigError` for a field that a column map cannot have."""
    for field in columns:
        if field not in MAP_FIELDS:
            raise ConfigError(f"column map: {field!r} is unknown; the fields are {', '.join(MAP_FIELDS)}")


def guess_delimiter(header: str) -> str:
    """The delimiter that occurs most often in the header line.

    >>> guess_delimiter("user;item;time")
    ';'
    """
    return max(DELIMITERS, key=header.count)


def read_csv(
    path: Path, columns: Columns | None, bad: BadLines, progress: Progress | None = None
) -> Iterator[Record]:
    """The events of the rows; an item comes before its first event when title or category are mapped.

    Parameters
    ----------
    path
        The file; its first line names the columns.
    columns
        Field → column, or ``=constant``; None takes the header's names as fields or their aliases.
    bad
        What to do about bad rows.
    progress
        Called while rows are read.

    Raises
    ------
    InputError
        A mapped column is missing (the message lists those that exist), or a row is bad.
    ConfigError
        `columns` maps an unknown field.
    """
    check_columns(columns or {})
    lines = read_lines(path, progress)
    line_number = 0

    def texts() -> Iterator[str]:
        nonlocal line_number
        for number, line in lines:
            line_number = number
            yield line.decode("utf-8", "replace") + "\n"

    source = texts()
    first = next(source)
    delimiter = guess_delimiter(first)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    constants, positions = _resolve(columns, header, path)
    times = _Times(constants.pop("event_time_format", None))
    described: set[str] = set()
    rows = csv.reader(source, delimiter=delimiter)
    while True:
        try:
            row = next(rows)
            if len(row) != len(header):
                raise EventError("value", f"has {len(row)} columns, the header has {len(header)}")
            fields = constants | {field: row[i] for field, i in positions.items() if row[i] != ""}
            event = _event(to_canonical(fields) if columns is None else fields, times, salt=str(line_number))
        except StopIteration:
            return
        except (EventError, csv.Error) as error:
            bad.report(error, path, line_number)
            continue
        item = _item(event, fields, described)
        if item is not None:
            yield item
        yield event


def _resolve(columns: Columns | None, header: list[str], path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Split a column map into constants and the positions of columns."""
    if columns is None:
        return {}, {name: i for i, name in enumerate(header)}
    constants = {field: c[1:] for field, c in columns.items() if c.startswith("=")}
    mapped = {field: c for field, c in columns.items() if not c.startswith("=")}
    for field, column in mapped.items():
        if column not in header:
            reason = f"has no column {column!r} for {field}; its columns are {', '.join(header)}"
            raise InputError(reason, path=path, line=1)
    return constants, {field: header.index(column) for field, column in mapped.items()}


class _Times:
    """Reads times, and remembers the last notation that worked: a file keeps to one."""

    def __init__(self, notation: str | None) -> None:
        self._fixed = notation is not None
        self._notation = notation

    def read(self, text: Any) -> Any:
        """A datetime where a notation fits; else the text, which the event's checks will judge."""
        if not isinstance(text, str):
            return text
        if self._notation is not None:
            time = _strptime(text, self._notation)
            if time is None and self._fixed:
                raise EventError("event_time", f"{text!r} is not written as {self._notation}")
            if time is not None:
                return time
        elif not re.search(r"^\d{1,2}[/.-]|^\d{4}/", text):
            return text
        for day in TIME_FORMATS:
            for clock in CLOCK_FORMATS:
                if (time := _strptime(text, day + clock)) is not None:
                    self._notation = day + clock
                    return time
        return text


def _strptime(text: str, notation: str) -> datetime | None:
    try:
        return datetime.strptime(text, notation)
    except ValueError:
        return None


def _event(fields: dict[str, Any], times: _Times, salt: str) -> Event:
    fields = fields | {"event_time": times.read(fields.get("event_time"))}
    quantity = str(fields.get("quantity", ""))
    if quantity.startswith("-"):
        event = event_from_fields(fields | {"quantity": quantity[1:]}, salt=salt)
        if event.event_type not in ("purchase", "refund"):
            raise EventError("quantity", f"{quantity} is negative")
        return event_from_fields(fields | {"quantity": quantity[1:], "event_type": "refund"}, salt=salt)
    return event_from_fields(fields, salt=salt)


def _item(event: Event, fields: Mapping[str, Any], described: set[str]) -> Item | None:
    title, category = fields.get("title"), fields.get("category")
    if event.item_id is None or event.item_id in described or not (title or category):
        return None
    described.add(event.item_id)
    price = event.items[0].price if event.items else None
    return Item(event.item_id, title, price, categories=(category,) if category else ())
