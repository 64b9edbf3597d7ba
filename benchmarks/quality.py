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
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.coupon_data import baskets, read_transactions
from benchmarks.triggers_data import read_invoices
from stream_app.evaluation import evaluate
from stream_app.evaluation.baselines import BASELINES
from stream_app.evaluation.judging import MODELS
from stream_app.evaluation.plan import Record
from stream_app.formats import read

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
DOCS = ROOT / "docs" / "quality.md"
REPEAT_EVENTS = 20_000  # lines that are read of the sets in which people buy the same again
SHOWN = "impression_ndcg@10"
COLUMNS = {
    "recall@10": "recall@10",
    "± one error": "recall@10_se",
    "ndcg@10": "ndcg@10",
    "second half ndcg": "second_half",
    "first of second ndcg": "conservative",
    "shown lists ndcg": SHOWN,
    "last fifth": "last_fifth_impressions",
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
    """Evaluate every model on every data set that is there, with one configuration for all."""
    root = Path(os.environ.get("RECS_DATA") or ROOT.parent / "shared" / "data")
    streams: dict[str, tuple[Path, Callable[[Path], Iterable[Record]], bool]] = {
        "movielens_100k": (root / "movielens-100k", read, False),
        "ranklens": (root / "ranklens" / "events.jsonl.gz", read, False),
        "uci_online_retail": (
            root / "uci-online-retail" / "online_retail_by_day.csv.gz",
            lambda path: islice(read_invoices(path), REPEAT_EVENTS // 20),  # of about 20 lines each
            True,
        ),
        "completejourney": (
            root / "completejourney",
            lambda path: islice(baskets(read_transactions(path)), REPEAT_EVENTS),
            True,
        ),
    }
    results = {
        name: _evaluate(records(path), repeat)
        for name, (path, records, repeat) in streams.items()
        if path.exists()
    }
    if not results:
        return {"results": {"skipped": f"no data sets in {root}: set RECS_DATA"}, "goals": {}}
    return {"results": results, "goals": _goals(results)}


def _evaluate(records: Iterable[Record], repeat: bool) -> dict[str, Any]:
    models = {name: make() for name, make in {**MODELS, **BASELINES}.items()}
    found = evaluate(records, models, exclude_seen=not repeat, progress=_tell).to_json_object()
    kept = ("events", "users", "items", "protocol", "differences", "impression_reference")
    return {
        **{name: found[name] for name in kept if name in found},
        "models": {name: _kept(model) for name, model in found["models"].items()},
    }


def _tell(name: str, done: int, n: int) -> None:
    if done == 0:
        print(f"{name}: {n:,} records", file=sys.stderr, flush=True)


def _kept(model: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: model[name] for name in KEPT}
    kept |= {part: model[part]["ndcg@10"] for part in ("second_half", "conservative")}
    if SHOWN in model:
        kept |= {SHOWN: model[SHOWN], "last_fifth_impressions": model["last_fifth"][SHOWN]}
    return kept


def _goals(results: Mapping[str, Any]) -> dict[str, Any]:
    """The bar, held against what workers serve."""
    goals: dict[str, Any] = {}
    for name, result in results.items():
        models = result["models"]
        served, dense = models["ours_compressed"], models["ours"]
        if name == "movielens_100k":
            goals[f"{name} recall@10"] = _at_least(served["recall@10"], 0.215)
            goals[f"{name} ndcg@10"] = _at_least(served["ndcg@10"], 0.114)
            goals[f"{name} ndcg@10 over the best baseline"] = _at_least(_lead(models), 1.15)
        elif name == "ranklens":
            goals[f"{name} {SHOWN}"] = _at_least(served[SHOWN], 0.62)
            goals[f"{name} {SHOWN}, last fifth"] = _at_least(served["last_fifth_impressions"], 0.63)
        else:
            goals[f"{name} ndcg@10 over the best baseline"] = _at_least(_lead(models), 1.0)
        goals[f"{name} ndcg@10, compressed over dense"] = _at_least(served["ndcg@10"] / dense["ndcg@10"], 1.0)
    return goals


def _lead(models: Mapping[str, Mapping[str, float]]) -> float:
    """NDCG of what workers serve over that of the best baseline."""
    return models["ours_compressed"]["ndcg@10"] / max(models[name]["ndcg@10"] for name in BASELINES)


def _at_least(value: float, goal: float) -> dict[str, Any]:
    return {"value": round(value, 6), "goal": goal, "ok": value >= goal}


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
