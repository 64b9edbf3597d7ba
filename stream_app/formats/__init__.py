"""Files of events in the formats people have: our own JSON lines, Metarank, MovieLens, OTTO, CSV.

`read` gives canonical records lazily in file order (MovieLens: by time). Files may be gzip.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stream_app.errors import ConfigError, EventError, InputError
from stream_app.events.fields import parse_object
from stream_app.formats.delimited import Columns, guess_delimiter, parse_columns, read_csv
from stream_app.formats.jsonlines import MAX_LINE_BYTES, parse_canonical, parse_metarank, parse_otto
from stream_app.formats.lines import BadLines, Progress, Record, parse_lines, read_lines
from stream_app.formats.movielens import find_ratings, is_movielens_name, is_zip, read_movielens

__all__ = ["FORMATS", "Columns", "Progress", "Record", "detect", "parse_columns", "read"]

FORMATS = ("jsonl", "metarank", "movielens", "otto", "csv")

_LINE_PARSERS = {"jsonl": parse_canonical, "metarank": parse_metarank, "otto": parse_otto}


def read(
    path: str | Path,
    format: str = "auto",
    *,
    columns: Columns | None = None,
    skip_bad: bool = False,
    on_bad: Callable[[InputError], None] | None = None,
    progress: Progress | None = None,
) -> Iterator[Record]:
    """Read a file of events, items and users.

    Parameters
    ----------
    path
        A file, plain or gzip; for MovieLens also a folder or zip.
    format
        One of `FORMATS`, or ``auto`` to look into the file.
    columns
        For CSV: field → column name or ``=constant``, see `parse_columns`.
    skip_bad
        Go on after a bad line instead of raising.
    on_bad
        Called with the error of every bad line that is skipped.
    progress
        Called now and then with (bytes read, bytes in total).

    Yields
    ------
    Event, Item or User
        In file order; ratings of MovieLens by time, after their items and users.

    Raises
    ------
    InputError
        The file is missing, empty, damaged or of no known format, a column is missing, or a line is bad.
    ConfigError
        `format` or `columns` make no sense.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
    ...     _ = file.write(b"timestamp,visitorid,event,itemid\\n1433221332117,257597,view,355908\\n")
    ...     file.flush()
    ...     [event.item_id for event in read(file.name)]
    ['355908']
    """
    path = Path(path)
    if format == "auto":
        format = "csv" if columns is not None else detect(path)
    if format not in FORMATS:
        raise ConfigError(f"format: {format!r} is unknown; the formats are {', '.join(FORMATS)}")
    if columns is not None and format != "csv":
        raise ConfigError(f"columns: only csv has columns to map, not {format}")
    bad = BadLines(skip=skip_bad, on_bad=on_bad)
    if format == "csv":
        return read_csv(path, columns, bad, progress)
    if format == "movielens":
        return read_movielens(path, bad, progress)
    return parse_lines(read_lines(path, progress), _LINE_PARSERS[format], path, bad)


def detect(path: str | Path) -> str:
    """Tell the format of a file by its content.

    Raises
    ------
    InputError
        The file is missing, empty or damaged, or looks like none of `FORMATS`.
    """
    path = Path(path)
    with_ratings = path.is_dir() or is_zip(path)
    if with_ratings and find_ratings(path) is not None:
        return "movielens"
    found = None if with_ratings else _detect_line(next(read_lines(path))[1], path.name)
    if found is None:
        reason = f"is of no known format; name one of {', '.join(FORMATS)} (csv may need a column map)"
        raise InputError(reason, path=path)
    return found


def _detect_line(line: bytes, name: str) -> str | None:
    if line.lstrip()[:1] == b"{":
        return _detect_json(line)
    text = line.decode("utf-8", "replace")
    if is_movielens_name(name) or re.fullmatch(r"\d+(\t|::)\d+\1[\d.]+\1\d+", text):
        return "movielens"
    if text.isprintable() or "\t" in text:
        header = next(csv.reader([text], delimiter=guess_delimiter(text)), [])
        if len(header) >= 3 and all(name.strip() for name in header):  # user, item and time at least
            return "csv"
    return None


def _detect_json(line: bytes) -> str | None:
    try:
        message: dict[str, Any] = parse_object(line, MAX_LINE_BYTES)
    except EventError:
        return None
    if "session" in message and isinstance(message.get("events"), list):
        return "otto"
    if message.get("event") in ("item", "user", "ranking", "interaction") and "timestamp" in message:
        return "metarank"
    return "jsonl"
