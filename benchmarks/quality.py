"""Quality of our model beside the baselines on real streams: test, then learn, rank among all items.

Needs the data sets: `RECS_DATA` names their folder (default ``../shared/data``). Afterwards
``python -m benchmarks.quality`` writes the tables of ``docs/quality.md`` and the curves beside it from
``benchmarks/results/quality.json``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coupon_data import baskets, read_transactions
from benchmarks.triggers_data import read_invoices
from stream_app.evaluation import evaluate
from stream_app.evaluation.baselines import BASELINES
from stream_app.evaluation.judging import MODELS
from stream_app.evaluation.pictures import Panel, draw, rolling
from stream_app.evaluation.plan import Record
from stream_app.formats import read

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
DOCS = ROOT / "docs" / "quality.md"
TITLES = {
    "movielens_100k": "MovieLens 100K",
    "ranklens": "RankLens",
    "uci_online_retail": "UCI Online Retail",
    "completejourney": "Complete Journey",
}
POINTS = 50  # that are kept of a curve
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
    "ece": "ece",
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
    "ece",
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
        name: judged(records(path), repeat=repeat)
        for name, (path, records, repeat) in streams.items()
        if path.exists()
    }
    if not results:
        return {"results": {"skipped": f"no data sets in {root}: set RECS_DATA"}, "goals": {}}
    return {"results": results, "goals": _goals(results)}


def judged(records: Iterable[Record], *, repeat: bool) -> dict[str, Any]:
    """Every model on one stream: what the tables and curves of the docs need, as plain values."""
    models = {name: make() for name, make in {**MODELS, **BASELINES}.items()}
    found = evaluate(records, models, exclude_seen=not repeat, progress=_tell).to_json_object()
    kept = ("events", "users", "items", "protocol", "notes", "differences", "impression_reference")
    metric = SHOWN if SHOWN in found["models"]["ours"] else "ndcg@10"
    events = found["shown_curve_events" if metric == SHOWN else "curve_events"]
    curves = {name: thinned(model["curve"].get(metric, [])) for name, model in found["models"].items()}
    return {
        **{name: found[name] for name in kept if name in found},
        "models": {name: _kept(model) for name, model in found["models"].items()},
        "curves": {"metric": metric, "events": events[_pace(events) - 1 :: _pace(events)], "models": curves},
    }


def thinned(values: Sequence[float]) -> list[float]:
    """Means of neighbours, so that about `POINTS` are left; a rest at the end that is too short is dropped.

    >>> thinned([0.5] * 99)[:2], len(thinned([0.5] * 99))
    ([0.5, 0.5], 99)
    >>> len(thinned([0.5] * 100))
    50
    """
    pace = _pace(values)
    whole = values[: len(values) // pace * pace]
    return [round(float(mean), 4) for mean in np.reshape(whole, (-1, pace)).mean(axis=1)]


def _pace(values: Sequence[Any]) -> int:
    return max(1, len(values) // POINTS)


def _tell(name: str, done: int, n: int) -> None:
    if done == 0:
        print(f"{name}: {n:,} records", file=sys.stderr, flush=True)


def _kept(model: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: model[name] for name in KEPT}
    kept |= {part: model[part]["ndcg@10"] for part in ("second_half", "conservative")}
    kept["slices"] = {name: part["recall@10"] for name, part in model["slices"].items() if part["tests"]}
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
        text = place.sub(rf"\1{table}\n\2", text)
    return text


# ---------------------------------------------------------------------------------- curves of the docs


def panels(results: Mapping[str, Any]) -> list[Panel]:
    """The curves of every data set that has some, as means of the latest tenth."""
    found = []
    for name, result in results.items():
        curves = result.get("curves", {"models": {}})
        smooth = {model: rolling(c, len(c) // 10) for model, c in curves["models"].items() if c}
        if smooth:
            what = "ndcg@10 of shown lists" if curves["metric"] == SHOWN else "ndcg@10"
            levels = {n.replace("_", " "): v for n, v in result.get("impression_reference", {}).items()}
            found.append(Panel(f"{TITLES[name]}: {what}", "events", curves["events"], smooth, levels))
    return found


def with_picture(text: str, *, is_there: bool) -> str:
    """The text with the picture between its two markers, or nothing as long as there is none."""
    place = re.compile(r"(<!-- curves:begin -->\n).*?(<!-- curves:end -->)", re.DOTALL)
    line = f"![ndcg@10 along each stream, mean of the latest tenth]({DOCS.stem}.png)\n" if is_there else ""
    return place.sub(lambda found: f"{found[1]}{line}{found[2]}", text)


def write(results_file: Path, docs: Path) -> None:
    """Write the tables of the docs, and the curves beside them, anew from the results."""
    results = json.loads(results_file.read_text())["results"]
    drawn = panels(results)
    if drawn:
        draw(drawn, docs.with_suffix(".png"))
    docs.write_text(with_picture(with_tables(docs.read_text(), results), is_there=bool(drawn)))


if __name__ == "__main__":
    write(RESULTS, DOCS)
