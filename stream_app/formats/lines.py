"""Files of lines, plain or gzip, with line numbers, progress, and errors that name the place."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from stream_app.errors import EventError, InputError
from stream_app.events.records import Event, Item, User

Record = Event | Item | User
T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes of the file), both of the file as it lies on disk."""

_PROGRESS_EVERY = 1024  # lines
_GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


class BadLines:
    """What happens at a bad line: raise, or tell and go on.

    Parameters
    ----------
    skip
        Go on after a bad line.
    on_bad
        Called with the error of every line that is skipped.
    """

    def __init__(self, *, skip: bool = False, on_bad: Callable[[InputError], None] | None = None) -> None:
        self.skip = skip
        self.on_bad = on_bad

    def report(self, cause: Exception, path: Path, line: int, reason: str | None = None) -> None:
        """Tell of a bad line, or raise `InputError` for it; the reason is the cause's unless given."""
        field = cause.field if isinstance(cause, EventError) else "value"
        error = InputError(reason or str(cause), path=path, line=line, field=field)
        if not self.skip:
            raise error from cause
        if self.on_bad is not None:
            self.on_bad(error)


def read_lines(path: Path, progress: Progress | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1, without line ends.

    Gzip is recognised by its first two bytes, not by the name.

    Raises
    ------
    InputError
        The file is missing, unreadable, empty, or its compressed data ends early or is damaged.
    """
    number = seen = 0
    try:
        total = path.stat().st_size
        with path.open("rb") as disk:
            for number, line in enumerate(_decompressed(disk), start=1):
                if progress is not None and number % _PROGRESS_EVERY == 0:
                    progress(disk.tell(), total)
                text = line.rstrip(b"\r\n")
                if number == 1:
                    text = text.removeprefix(b"\xef\xbb\xbf")
                if text and not text.isspace():
                    seen += 1
                    yield number, text
        if progress is not None:
            progress(total, total)
    except _GZIP_ERRORS as error:
        reason = f"the compressed data is damaged or ends early, after line {number}"
        raise InputError(reason, path=path) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not seen:
        raise InputError("is empty", path=path)


def _decompressed(disk: BinaryIO) -> Iterable[bytes]:
    magic = disk.read(2)
    disk.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=disk)) if magic == b"\x1f\x8b" else disk


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that the operating system does not give."""
    return InputError(f"cannot be read ({error.strerror or error})", path=path)


def parse_lines(
    lines: Iterable[tuple[int, bytes]],
    parse: Callable[[bytes], Iterable[T]],
    path: Path,
    bad: BadLines,
) -> Iterator[T]:
    """Parse every line; a line that fails gives none of its records.

    Parameters
    ----------
    lines
        Numbered lines, as `read_lines` gives them.
    parse
        Gives the records of one line, or raises `EventError`.
    path
        For the error messages.
    bad
        What to do about a bad line.
    """
    for number, line in lines:
        try:
            records = parse(line)
        except EventError as error:
            bad.report(error, path, number)
        else:
            yield from records
