"""Is a file of events fit for replay? What `recs validate FILE` finds out, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from stream_app import formats
from stream_app.errors import InputError
from stream_app.events.records import Event, Item


@dataclass(frozen=True)
class ValidationReport:
    """What is in a file of events.

    Parameters
    ----------
    path, format
        The file and its format, detected or given.
    events, items, users
        Number of good records of each kind.
    events_by_type
        Number of events of each canonical type, most frequent first.
    bad_lines
        Lines that are no valid record.
    bad_reasons
        The first of them, each with its place and reason.
    bad_fields
        Number of bad lines by the field at fault, most frequent first; ``value`` is the line as a whole.
    first_ms, last_ms
        The earliest and latest event time; None without events.
    out_of_order
        Events that are earlier than an event before them.
    max_lateness_ms
        By how much, at most.
    duplicate_events
        Events whose id was there before.
    active_users, active_items
        Users and items that occur in events.
    undescribed_items, undescribed_users
        Of these, the ones without an item or user record in the file.
    """

    path: str
    format: str
    events: int
    items: int
    users: int
    events_by_type: dict[str, int]
    bad_lines: int
    bad_reasons: tuple[str, ...]
    bad_fields: dict[str, int]
    first_ms: int | None
    last_ms: int | None
    out_of_order: int
    max_lateness_ms: int
    duplicate_events: int
    active_users: int
    active_items: int
    undescribed_items: int
    undescribed_users: int

    @property
    def out_of_order_share(self) -> float:
        """The share of events that are earlier than an event before them, between 0 and 1."""
        return self.out_of_order / self.events if self.events else 0.0

    @property
    def ok(self) -> bool:
        """Whether there are events and no bad lines."""
        return self.events > 0 and self.bad_lines == 0


def validate(
    path: str | Path,
    format: str = "auto",
    *,
    columns: formats.Columns | None = None,
    max_reasons: int = 10,
    progress: formats.Progress | None = None,
) -> ValidationReport:
    """Read a whole file and report what is in it; bad lines are counted, not raised.

    Parameters
    ----------
    path, format, columns, progress
        As for `formats.read`.
    max_reasons
        How many bad lines are quoted.

    Raises
    ------
    InputError
        The file as a whole cannot be read.
    ConfigError
        `format` or `columns` make no sense.

    Examples
    --------
    >>> import tempfile
    >>> event = b'{"event_type":"view","event_time":1767607200,"user_id":"u","item_id":"a"}'
    >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
    ...     _ = file.write(event + b"\\n{}\\n")
    ...     file.flush()
    ...     report = validate(file.name)
    >>> report.events, report.bad_lines, report.bad_fields
    (1, 1, {'event_type': 1})
    """
    if format == "auto":
        format = "csv" if columns is not None else formats.detect(path)
    tally = _Tally(max_reasons)
    records = formats.read(
        path, format, columns=columns, skip_bad=True, on_bad=tally.add_bad, progress=progress
    )
    return tally.report(str(path), format, records)


class _Tally:
    """Counts records one by one; the ids of events are kept as 8-byte hashes."""

    def __init__(self, max_reasons: int) -> None:
        self.max_reasons = max_reasons
        self.bad_lines = 0
        self.bad_reasons: list[str] = []
        self.bad_fields: Counter[str] = Counter()

    def add_bad(self, error: InputError) -> None:
        self.bad_lines += 1
        self.bad_fields[error.field or "value"] += 1
        if len(self.bad_reasons) < self.max_reasons:
            self.bad_reasons.append(str(error))

    def report(self, path: str, format: str, records: Iterable[formats.Record]) -> ValidationReport:
        types: Counter[str] = Counter()
        items: set[str] = set()
        users: set[str] = set()
        active_items: set[str] = set()
        active_users: set[str] = set()
        ids: set[bytes] = set()
        first_ms: int | None = None
        last_ms: int | None = None
        n_items = n_users = out_of_order = lateness = duplicates = 0
        for record in records:
            if isinstance(record, Event):
                types[record.event_type] += 1
                active_users.add(record.user_id)
                active_items.update(record.item_ids())
                digest = blake2b(record.event_id.encode(), digest_size=8).digest()
                duplicates += digest in ids
                ids.add(digest)
                ms = record.event_time_ms
                if last_ms is not None and ms < last_ms:
                    out_of_order += 1
                    lateness = max(lateness, last_ms - ms)
                first_ms = ms if first_ms is None else min(first_ms, ms)
                last_ms = ms if last_ms is None else max(last_ms, ms)
            elif isinstance(record, Item):
                n_items += 1
                items.add(record.item_id)
            else:
                n_users += 1
                users.add(record.user_id)
        return ValidationReport(
            path=path,
            format=format,
            events=types.total(),
            items=n_items,
            users=n_users,
            events_by_type=dict(types.most_common()),
            bad_lines=self.bad_lines,
            bad_reasons=tuple(self.bad_reasons),
            bad_fields=dict(self.bad_fields.most_common()),
            first_ms=first_ms,
            last_ms=last_ms,
            out_of_order=out_of_order,
            max_lateness_ms=lateness,
            duplicate_events=duplicates,
            active_users=len(active_users),
            active_items=len(active_items),
            undescribed_items=len(active_items - items),
            undescribed_users=len(active_users - users),
        )
