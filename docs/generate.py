"""Fill in the generated parts of the README: `python docs/generate.py`; --check only compares.

The settings come from `stream_app.config`, the measured table from `benchmarks/results/*.json`, the demo's
output from a recorded run in `docs/demo.txt`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from stream_app.config import settings_table

ROOT = Path(__file__).parents[1]


def section(text: str, name: str, content: str) -> str:
    """The text with the part between two markers replaced."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text)


def measured() -> str:
    """The table of measured figures, from the results of each benchmark."""
    rows = ["| what | measured | goal | command |", "|---|---|---|---|"]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        found = json.loads(path.read_text())
        for goal, state in found["goals"].items():
            mark = "" if state["ok"] else " ✗"
            command = f"`python -m benchmarks {found['name']}`"
            rows.append(
                f"| {goal} | {_figure(state['value'])}{mark} | {_figure(state['goal'])} | {command} |"
            )
    return "\n".join(rows) if len(rows) > 2 else "`make bench` has not been run yet."


def _figure(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def render(readme: str) -> str:
    """The README with every generated part brought up to date."""
    demo = ROOT / "docs" / "demo.txt"
    readme = section(readme, "settings", settings_table())
    readme = section(readme, "measured", measured())
    return section(readme, "demo", f"```text\n{demo.read_text().rstrip()}\n```") if demo.exists() else readme


def main() -> None:
    """Write the README, or with --check exit with 1 when it is stale."""
    path = ROOT / "README.md"
    new = render(path.read_text())
    if "--check" in sys.argv:
        sys.exit("README.md is stale: run python docs/generate.py" if new != path.read_text() else 0)
    path.write_text(new)


if __name__ == "__main__":
    main()
