"""Previews of trigger rules at the edge: a history from a file or from Kafka, and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stream_app.config import Settings
from stream_app.errors import EventError
from stream_app.events import Event, Item, Message, Tombstone, User, decode_event, decode_item, decode_user
from stream_app.transport import Connection, LogReader
from stream_app.triggers.preview import PreviewReport

Written = tuple[Event | Item | User, int, int, int | None]
MOST_SAMPLES = 3  # recommendations and items of a message in a table


async def read_topics(settings: Settings) -> list[Written]:
    """What Kafka holds of users, items and events, in order, each with partition, offset and time of writing.

    Of items and users only the versions that compaction has left are there, so a preview knows fewer changes
    of price and stock than there were.
    """
    connection = Connection.of(settings)
    found: list[tuple[int, int, Message]] = []
    for order, topic in enumerate((settings.users_topic, settings.items_topic, settings.events_topic)):
        reader = LogReader(connection, topic)
        try:
            await reader.start()
            while not await reader.caught_up():
                found += [(0 if order == 0 else r.timestamp, order, r) for r in await reader.poll(5_000, 0.2)]
        finally:
            await reader.stop()
    found.sort(key=lambda row: (row[0], row[1], row[2].partition, row[2].offset))
    return [*_decoded(found)]


def _decoded(found: Sequence[tuple[int, int, Message]]) -> Iterator[Written]:
    for _, order, r in found:
        written_ms = r.timestamp if r.timestamp >= 0 else None
        try:
            if order == 2:
                yield decode_event(r.value, key=r.key, headers=r.headers), r.partition, r.offset, written_ms
                continue
            record = decode_user(r.key, r.value) if order == 0 else decode_item(r.key, r.value)
            if not isinstance(record, Tombstone):
                yield record, r.partition, r.offset, written_ms
        except EventError:
            continue  # the worker has said so


def render(reports: Mapping[str, PreviewReport]) -> RenderableType:
    """Previews of one or several files of rules, by name, side by side."""
    first = next(iter(reports.values()))
    parts: list[RenderableType] = [_counts(reports)]
    if len(reports) == 1:
        parts += ["", _days(first)]
        if first.overlap:
            parts += ["", _overlap(first)]
        for sample in first.samples:
            parts += ["", render_message(sample)]
    return Group(*parts)


def _counts(reports: Mapping[str, PreviewReport]) -> Table:
    first = next(iter(reports.values())).to_json_object()
    table = Table(
        title=f"{first['events']:,} events, {first['from']} to {first['until']}", title_justify="left"
    )
    table.add_column("rule", no_wrap=True)
    if len(reports) > 1:
        table.add_column("with")
    for name in ("sent", "users"):
        table.add_column(name, justify="right")
    table.add_column("held back")
    rules = {rule: None for r in reports.values() for rule in (*r.sent, *r.suppressed)}
    for rule in rules:
        for n, (name, r) in enumerate(reports.items()):
            held = ", ".join(f"{n:,} {reason}" for reason, n in r.suppressed.get(rule, {}).items())
            row = [rule if n == 0 else "", *([name] if len(reports) > 1 else [])]
            table.add_row(*row, f"{r.sent.get(rule, 0):,}", f"{r.users.get(rule, 0):,}", held)
    return table


def _days(report: PreviewReport) -> Table:
    table = Table(title="messages per day (UTC)", title_justify="left")
    table.add_column("day")
    rules = list(report.sent)
    for rule in rules:
        table.add_column(rule, justify="right")
    for day, count in report.days.items():
        table.add_row(day, *[f"{count.get(rule, 0):,}" for rule in rules])
    return table


def _overlap(report: PreviewReport) -> Table:
    table = Table(title="users with messages of both", title_justify="left", show_header=False)
    for pair, users in report.overlap.items():
        table.add_row(" + ".join(pair), f"{users:,}")
    return table


def render_message(message: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> RenderableType:
    """A message as a reader would like to see it.

    Parameters
    ----------
    titles
        What items are called, by id.
    """
    data, names = message["data"], titles or {}
    held = data.get("suppressed")
    head = Text.assemble(
        (data["rule"], "bold"), f" for {data['user_id']}, {message['time']}: {data['reason']}",
        (f" – held back: {held}" if held else "", "yellow"),
    )  # fmt: skip
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    for item in data["items"][:MOST_SAMPLES]:
        table.add_row("about", names.get(item["item_id"], item["item_id"]), "")
    for pick in data["recommendations"][:MOST_SAMPLES]:
        why = pick["why"].replace(
            because := pick["why"].removeprefix("goes with "), names.get(because, because)
        )
        table.add_row("recommended", names.get(pick["item_id"], pick["item_id"]), Text(why, "dim"))
    return Group(head, table) if table.row_count else head
