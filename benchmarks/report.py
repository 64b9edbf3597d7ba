"""How a benchmark's report looks: the machine it ran on, and its tables on a terminal."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def machine() -> dict[str, Any]:
    """Describe the computer: processor, cores that may be used, memory, Python, system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print a report as tables."""
    about = report["machine"]
    console.print(
        f"[bold]{report['name']}[/bold]  {report['date']}  {about['cpu']}, {about['cores']} cores, "
        f"{about['ram_gb']} GB, Python {about['python']}"
    )
    results = Table("result", "value", box=None)
    for key, value in flatten(report["results"]):
        results.add_row(key, number(value))
    console.print(results)
    if report["goals"]:
        goals = Table("goal", "value", "wanted", "", box=None)
        for goal, entry in report["goals"].items():
            met = "[green]met[/green]" if entry["ok"] else "[red]missed[/red]"
            goals.add_row(goal, number(entry["value"]), number(entry["goal"]), met)
        console.print(goals)


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk nested mappings and yield ``path, leaf``.

    >>> list(flatten({"a": {"b": 1, "c": 2}, "d": [3]}))
    [('a.b', 1), ('a.c', 2), ('d', [3])]
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def number(value: Any) -> str:
    """Write a number with a fitting count of digits.

    >>> number(21634.2), number(0.12345), number(570), number("x")
    ('21,634', '0.1235', '570', 'x')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
