"""The errors of stream_app, one small tree.

    RecsError                  anything this package raises on purpose
    ├── ConfigError            a setting is missing or wrong
    ├── InputError             a file cannot be read: which file, which line, why
    ├── EventError             a message is not a valid event, item or user: which field, why
    ├── StoreError             Redis refused or did not answer
    │   └── EmptiedError       Redis lost what it held: it was flushed, or started again empty
    ├── TransportError         Kafka refused or did not answer
    │   └── OffsetError        a topic does not go on where it was read last
    ├── ReleaseError           a model release is missing, damaged or not compatible
    └── CheckpointError        a checkpoint is damaged or belongs to another stream

Every class has an `exit_code`, the number with which a command that failed leaves. The
numbers are those of BSD's ``sysexits.h``, so that scripts and supervisors can tell a wrong
setting (do not restart) from a broker that is down (restart later).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar


class RecsError(Exception):
    """Base of all errors that stream_app raises on purpose; its text is one line that says what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(RecsError):
    """A setting is missing or wrong; the text names key, value and what was expected."""

    exit_code: ClassVar[int] = 78


class InputError(RecsError):
    """A file of events cannot be read.

    Parameters
    ----------
    reason
        What is wrong and what to do about it.
    path
        The file, when one is known.
    line
        The line inside it, counted from 1, when one is known.
    field
        The field at fault, for a line that is not a valid record; ``value`` is the line as a whole.

    Examples
    --------
    >>> print(InputError("event_time: is missing", path="shop.jsonl", line=7))
    shop.jsonl:7: event_time: is missing
    """

    exit_code: ClassVar[int] = 65

    def __init__(
        self,
        reason: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.reason = reason
        self.path = None if path is None else str(path)
        self.line = line
        self.field = field
        place = "" if self.path is None else self.path if line is None else f"{self.path}:{line}"
        super().__init__(f"{place}: {reason}" if place else reason)


class EventError(RecsError):
    """A message is not a valid event, item or user.

    Parameters
    ----------
    field
        The canonical name of the field at fault; ``value`` stands for the message as a whole.
    reason
        What is wrong with it and what is expected.

    Examples
    --------
    >>> print(EventError("user_id", "is missing; send a non-empty string or integer"))
    user_id: is missing; send a non-empty string or integer
    """

    exit_code: ClassVar[int] = 65

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class StoreError(RecsError):
    """Redis refused a command or did not answer in time."""

    exit_code: ClassVar[int] = 69


class EmptiedError(StoreError):
    """What Redis held of partitions is gone; what was to be read from it has to be rebuilt first."""

    def __init__(self, text: str, partitions: Iterable[int]) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(text)


class TransportError(RecsError):
    """Kafka refused a request or did not answer in time."""

    exit_code: ClassVar[int] = 69


class OffsetError(TransportError):
    """A topic does not go on where it was read last: messages were deleted, or it was made anew."""


class ReleaseError(RecsError):
    """A model release is missing, damaged or not compatible with this version."""

    exit_code: ClassVar[int] = 65


class CheckpointError(RecsError):
    """A checkpoint is damaged, truncated, or belongs to another stream."""

    exit_code: ClassVar[int] = 65
