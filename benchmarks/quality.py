"""Quality of our model beside the baselines on real streams: test, then learn, rank among all items.

Needs the data sets: `RECS_DATA` names their folder (default ``../shared/data``). Afterwards
``python -m benchmarks.quality`` writes the tables of ``docs/quality.md`` from
``benchmarks/results/quality.json``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_app.evaluation import evaluate
from stream_app.evaluation.baselines import BASELINES
from stream_app.evaluation.judging import MODELS
from stream_app.formats import read

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
DOCS = ROOT / "docs" / "quality.md"
DATASETS = {"movielens_100k": "movielens-100k", "ranklens": "ranklens/events.jsonl.gz"}
COLUMNS = {
    "recall@10": "recall@10",
    "± one error": "recall@10_se",
    "ndcg@10": "ndcg@10",
    "second half ndcg": "second_half",
    "first of second ndcg": "conservative",
    "shown lists ndcg": "impression_ndcg@10",
    "AUC": "auc",
    "logloss": "logloss",
    "coverage": "coverage@10",
    "seconds": "seconds",
}
KEPT = (
    "recall@10",
    "recall@10_se",
    "ndcg@10",
    "mrr@10",
    "auc",
    "logloss",
    "coverage@10",
    "novelty@10",
    "seconds",
)


def run() -> dict[str, Any]:
    """Evaluate every model on every data set that is there."""
    root = Path(os.environ.get("RECS_DATA") or ROOT.parent / "shared" / "data")
    results: dict[str, Any] = {
        name: _evaluate(root / path) for name, path in DATASETS.items() if (root / path).exists()
    }
    if not results:
        return {"results": {"skipped": f"no data sets in {root}: set RECS_DATA"}, "goals": {}}
    return {"results": results, "goals": _goals(results)}


def _evaluate(path: Path) -> dict[str, Any]:
    models = {name: make() for name, make in {**MODELS, **BASELINES}.items()}
    found = evaluate(read(path), models, progress=_tell).to_json_object()
    return {
        **{
            name: found[name]
            for name in ("events", "users", "items", "protocol", "differences", "impression_reference")
        },
        "models": {name: _kept(model) for name, model in found["models"].items()},
    }


def _tell(name: str, done: int, n: int) -> None:
    if done == 0:
        print(f"{name}: {n:,} records", file=sys.stderr, flush=True)


def _kept(model: Mapping[str, Any]) -> dict[str, Any]:
    halves = {part: model[part]["ndcg@10"] for part in ("second_half", "conservative")}
    shown = {name: model[name] for name in ("impression_ndcg@10",) if name in model}
    return {name: model[name] for name in KEPT} | halves | shown


def _goals(results: Mapping[str, Any]) -> dict[str, Any]:
    goals: dict[str, Any] = {}
    if "movielens_100k" in results:
        models = results["movielens_100k"]["models"]
        goals["movielens_100k recall@10"] = _at_least(models["ours"]["recall@10"], 0.212)
        goals["movielens_100k ndcg@10"] = _at_least(models["ours"]["ndcg@10"], 0.112)
        lost = models["ours"]["ndcg@10"] - models["ours_compressed"]["ndcg@10"]
        goals["movielens_100k ndcg@10 lost by compression"] = {
            "value": round(lost, 6),
            "goal": 0.002,
            "ok": lost <= 0.002,
        }
    if "ranklens" in results:
        shown = results["ranklens"]["models"]["ours"]["impression_ndcg@10"]
        goals["ranklens impression_ndcg@10"] = _at_least(shown, 0.6188)
    return goals


def _at_least(value: float, goal: float) -> dict[str, Any]:
    return {"value": value, "goal": goal, "ok": value >= goal}


# ---------------------------------------------------------------------------------- tables of the docs


def markdown(result: Mapping[str, Any]) -> str:
    """The table of one data set, the models in the order of their NDCG.

    >>> print(markdown({"models": {"a": {"ndcg@10": 0.1}, "b": {"ndcg@10": 0.25}}}))
    | model | ndcg@10 |
    |---|---:|
    | b | .2500 |
    | a | .1000 |
    """
    models: Mapping[str, Mapping[str, float]] = result["models"]
    columns = {title: key for title, key in COLUMNS.items() if any(key in model for model in models.values())}
    lines = [f"| model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name in sorted(models, key=lambda name: -models[name]["ndcg@10"]):
        cells = [_cell(key, models[name].get(key)) for key in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if key == "seconds" else f"{value:.4f}".removeprefix("0")


def with_tables(text: str, results: Mapping[str, Any]) -> str:
    """The text with the table of every data set between its two markers."""
    for name, result in results.items():
        place = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"{DOCS.name} has no place for {name}: write <!-- {name}:begin --> and …:end")
        table = markdown(result)
        text = place.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    DOCS.write_text(with_tables(DOCS.read_text(), json.loads(RESULTS.read_text())["results"]))
