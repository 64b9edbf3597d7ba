"""Triggers and events for a report of their effect, from files or from the topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from stream_app.config import Settings
from stream_app.errors import EventError, InputError
from stream_app.events import DecodePolicy, Event, decode_event
from stream_app.formats import Progress, Record, detect, read
from stream_app.formats.jsonlines import parse_canonical
from stream_app.formats.lines import BadLines, parse_lines, read_lines
from stream_app.transport import Connection, LogReader
from stream_app.triggers.effect import TYPE_PREFIX, EffectTally, Exposure, decode_exposure

_MARK = f'"{TYPE_PREFIX}'.encode()


def read_files(
    paths: list[Path],
    tally: EffectTally,
    *,
    skip_bad: bool = False,
    on_bad: Callable[[InputError], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Take in files: triggers and events as JSON lines, mixed or not; events in any other format, too.

    Raises
    ------
    InputError
        As `formats.read` does.
    """
    for path in paths:
        if detect(path) == "jsonl":
            bad = BadLines(skip=skip_bad, on_bad=on_bad)
            for found in parse_lines(read_lines(path, progress), _parse, path, bad):
                _add(tally, found)
        else:
            for found in read(path, skip_bad=skip_bad, on_bad=on_bad, progress=progress):
                _add(tally, found)


def _parse(line: bytes) -> tuple[Record | Exposure, ...]:
    return (decode_exposure(line),) if _MARK in line else parse_canonical(line)


def _add(tally: EffectTally, found: Record | Exposure) -> None:
    if isinstance(found, Exposure):
        tally.add_exposure(found)
    elif isinstance(found, Event):
        tally.add_event(found)


async def read_topics(
    settings: Settings, tally: EffectTally, *, clock: Callable[[], float] = time.time
) -> int:
    """Take in what the topics of triggers and events hold now; returns how many messages were unreadable.

    Raises
    ------
    TransportError
        If Kafka does not answer, or a topic does not exist.
    """
    policy, now_ms = DecodePolicy(max_bytes=settings.max_event_bytes), int(clock() * 1000)
    unreadable = 0
    for topic in (settings.triggers_topic, settings.suppressed_topic, settings.events_topic):
        reader = LogReader(Connection.of(settings), topic)
        try:
            await reader.start()
            while not await reader.caught_up():
                for m in await reader.poll(5_000, 0.2):
                    try:
                        if topic == settings.events_topic:
                            event = decode_event(
                                m.value, key=m.key, headers=m.headers, policy=policy, now_ms=now_ms
                            )
                            tally.add_event(event)
                        else:
                            tally.add_exposure(decode_exposure(m.value or b""))
                    except EventError:
                        unreadable += 1
                await asyncio.sleep(0)
        finally:
            await reader.stop()
    return unreadable
