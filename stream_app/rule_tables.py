"""Tables of a file of rules (TOML), read member by member, with errors that name table and key."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

NEVER = 2**62  # milliseconds; later than any time that a rule can name


class WrongError(Exception):
    """What is wrong, and where in the file."""


class Members:
    """The members of one table, taken out one by one; what is left over was not meant to be there.

    Parameters
    ----------
    where
        What stands before the key in errors, such as ``rule 'x', ``.

    Examples
    --------
    >>> table = Members("rule 'x', ", {"place": 1, "plaec": 2})
    >>> table.take("place")
    1
    >>> table.end("place")
    Traceback (most recent call last):
    ...
    stream_app.rule_tables.WrongError: rule 'x', plaec: is not known here; known: place
    """

    def __init__(self, where: str, members: Mapping[str, Any]) -> None:
        self.where = where
        self._left = dict(members)

    def take(self, key: str) -> Any:
        """The value of a member, None when it is not there."""
        return self._left.pop(key, None)

    def wrong(self, key: str, what: str) -> WrongError:
        """The error that says what is wrong with a member."""
        return WrongError(f"{self.where}{key}: {what}")

    def end(self, known: str) -> None:
        """Refuse members that nobody took."""
        if self._left:
            raise self.wrong(next(iter(self._left)), f"is not known here; known: {known}")

    def take_time(self, key: str, default: int) -> int:
        """A date or time in milliseconds since 1970; without a zone it is UTC."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
            value = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
        if not isinstance(value, dt.datetime):
            raise self.wrong(
                key, f"{value!r} is no date or time; write 2026-12-24 or 2026-12-24T18:00:00Z, no quotes"
            )
        return int((value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
