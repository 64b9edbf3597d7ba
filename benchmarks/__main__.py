"""Run a benchmark by name and print what it found: `python -m benchmarks NAME [--json] [--out DIR]`.

A benchmark is a module of this folder with a function ``run() -> {"results": {…}, "goals": {…}}`` where
a goal is ``{"value": number, "goal": number or text, "ok": bool}``. This module adds name, machine and date.
The exit code is 0 when the benchmark ran, whatever it found.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, show

HERE = Path(__file__).parent
SPEED = ("learn", "score", "pipeline", "latency", "memory", "growth")
ON_REQUEST = ("ablation",)  # too long for `all`


def available() -> dict[str, str]:
    """Return the names of the benchmarks with the first sentence of their documentation; import none."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def measure(name: str) -> dict[str, Any]:
    """Run one benchmark and return the whole report."""
    date, began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    outcome = importlib.import_module(f"benchmarks.{name}").run()
    return {
        "name": name,
        "machine": machine(),
        "date": date,
        "seconds": round(time.monotonic() - began),
        "results": outcome["results"],
        "goals": outcome["goals"],
    }


def main(
    name: Annotated[str, typer.Argument(help="a benchmark, `speed` or `all`; without, a list")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    out: Annotated[Path | None, typer.Option(help="write NAME.json into this folder as well")] = None,
) -> None:
    """Run a benchmark and print its results beside its goals."""
    known = available()
    console = Console()
    if not name:
        table = Table("name", "what it measures", box=None)
        for known_name, summary in known.items():
            table.add_row(known_name, summary)
        console.print(table)
        return
    groups = {"speed": SPEED, "all": tuple(n for n in known if n not in ON_REQUEST)}
    if name not in known and name not in groups:
        typer.echo(f"no benchmark {name!r}: choose one of {', '.join([*known, *groups])}", err=True)
        raise typer.Exit(2)
    for one in groups.get(name, (name,)):
        report = measure(one)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{one}.json").write_text(json.dumps(report, indent=2) + "\n")
        if as_json:
            print(json.dumps(report))
        else:
            show(report, console)


if __name__ == "__main__":
    typer.run(main)
