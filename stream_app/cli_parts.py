"""What commands of the command line share: options, progress bars, files being read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.errors import InputError

Format = Annotated[str, typer.Option("--format", "-f", help="auto, jsonl, metarank, movielens, otto or csv")]
Columns = Annotated[
    str | None, typer.Option(help="for csv: user_id=CustomerID,item_id=StockCode,event_type:=purchase, …")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="count bad lines and go on")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


class Progress:
    """A progress bar on standard error, or none."""

    def __init__(self, text: str, *, quiet: bool) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"), progress.BarColumn(),
            progress.TextColumn("{task.percentage:>3.0f}%"), progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(), console=Console(stderr=True), disable=quiet, transient=True,
        )  # fmt: skip
        self._text = text
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def bytes(self, done: int, total: int) -> None:
        """Show how much of a file was read."""
        self.model(self._text, done, total)

    def model(self, name: str, done: int, total: int) -> None:
        """Show how far one of several jobs is."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=done, total=total)


class Reading:
    """A file being read: its records, a progress bar, and how many lines were bad."""

    def __init__(
        self,
        file: Path,
        format: str,
        columns: str | None,
        skip_bad: bool,
        *,
        quiet: bool,
        limit: int | None = None,
    ) -> None:
        from stream_app.formats import parse_columns

        self.bad = 0
        self._arguments = (file, format, None if columns is None else parse_columns(columns), skip_bad)
        self._limit = limit
        self._progress = Progress(f"reading {file.name}", quiet=quiet)

    def __enter__(self) -> Reading:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    @property
    def model_progress(self) -> Callable[[str, int, int], None]:
        """Show how far one of several jobs is."""
        return self._progress.model

    def records(self) -> Any:
        """The records of the file."""
        from stream_app.events import Event
        from stream_app.formats import read

        file, format, columns, skip_bad = self._arguments

        def on_bad(_: InputError) -> None:
            self.bad += 1

        left = self._limit
        for record in read(
            file, format, columns=columns, skip_bad=skip_bad, on_bad=on_bad, progress=self._progress.bytes
        ):
            if left is not None and isinstance(record, Event):
                if left == 0:
                    return
                left -= 1
            yield record


def say(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result, for machines or for people."""
    print(json.dumps(result) if as_json else text)
