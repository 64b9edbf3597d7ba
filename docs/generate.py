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


SHOWN = {  # benchmark → goal → what it says, in the README's words
    "pipeline": {
        "ours_eps": "events/s from Kafka to a learned model and lists in Redis, one worker, one learner",
        "ours_over_naive": "… over what one would write first with the same packages",
        "ours_over_floor": "… over reading, decoding and the same Redis writes alone",
    },
    "latency": {
        "p99_ms at 60 %": "ms from an event to the list in Redis that knows of it, p99 at 60 % of peak",
    },
    "learn": {
        "names_over_vw_python": "learning speed from feature names over Vowpal Wabbit's Python API",
        "names_over_river_ftrl": "… over River's FTRL logistic regression",
        "encoded_over_vw_file": "… from numbers, over Vowpal Wabbit's own file reader",
        "encoded_over_bare_kernel": "… over the same arithmetic without a table to search",
    },
    "score": {
        "release_over_river": "scoring speed of a release over River, 28 features, the worst of all sizes",
        "release_time_over_floor": "… its time over that of as many bare reads of memory",
        "in_lists_time_over_floor": "… the same where parts are kept, as a worker does",
        "top_20_of_a_million_ms": "ms for a user's top 20 of a million items",
        "pruned_int8_over_dense_float32": "speed of a pruned 8-bit MovieLens model over dense float32",
        "dense_bytes_over_pruned": "… bytes of dense float32 over its bytes",
        "pruned_logloss_minus_dense": "… its log loss minus that of dense",
    },
    "prune": {
        "B2 90 %": "90 % of the weights left out, 8 bits: change of log loss and AUC, in 1e-4",
        "B4": "12 % of the weights of a MovieLens model, 8 bits: the same, against dense",
        "B7": "bytes per weight in River over bytes in a release",
        "B8": "ns to score 28 features against a million weights",
    },
    "triggers": {
        "us_per_event": "µs of CPU per event for the five trigger rules",
        "with_over_without": "events per CPU second of a worker with triggers over without",
        "timers_mb": "MB of Redis for a million pending timers",
        "drain_s": "seconds until 10,000 carts that are due at once have their messages",
    },
}


def measured() -> str:
    """The table of measured figures, from the results of the benchmarks."""
    rows = ["| what | measured | goal | command |", "|---|---|---|---|"]
    for name, goals in SHOWN.items():
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        found = json.loads(path.read_text())["goals"] if path.exists() else {}
        for goal, text in goals.items():
            if goal in found:
                state = found[goal]
                mark = "" if state["ok"] else " ✗"
                figures = f"{_figure(state['value'])}{mark} | {_figure(state['goal'])}"
                rows.append(f"| {text} | {figures} | `python -m benchmarks {name}` |")
    return "\n".join(rows) if len(rows) > 2 else "`make bench` has not been run yet."


def _figure(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_figure, value))
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
