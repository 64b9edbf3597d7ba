"""An evaluation report as tables for a terminal and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stream_app.errors import ConfigError
from stream_app.evaluation import metrics
from stream_app.evaluation.report import EvaluationReport


def render(report: EvaluationReport) -> RenderableType:
    """Tables for a terminal of 80 columns: ranking, parts of the tests, scores and costs.

    The best value of each column is bold; a column that no model has is left out.
    """
    k, models = report.k, report.models
    parts = next(iter(models.values())).slices if models else {}
    shown = {**_metric(report, f"impression_ndcg@{k}"), **report.impression_reference}
    ranking = [
        _Column(f"recall\n@{k}", ".4f", {n: q.metrics[f"recall@{k}"] for n, q in models.items()}),
        _Column("± one\nerror", ".4f", {n: q.metrics[f"recall@{k}_se"] for n, q in models.items()}, None),
        _Column(f"ndcg\n@{k}", ".4f", {n: q.metrics[f"ndcg@{k}"] for n, q in models.items()}),
        _Column("2nd half\nndcg", ".4f", {n: q.second_half[f"ndcg@{k}"] for n, q in models.items()}),
        _Column("1st/sec.\nndcg", ".4f", {n: q.conservative[f"ndcg@{k}"] for n, q in models.items()}),
        _Column("shown\nndcg", ".4f", shown),
    ]
    by_part = {
        part: _Column(
            f"{_short(part)}\n{tests['tests'] / max(report.tests, 1):.0%}",
            ".3f",
            {name: quality.slices[part][f"recall@{k}"] for name, quality in models.items()},
        )
        for part, tests in parts.items()
        if 0 < tests["tests"] < report.tests and part != "item first time"
    }
    of_events = [column for part, column in by_part.items() if part.startswith("event")]
    of_users_and_items = [column for part, column in by_part.items() if not part.startswith("event")]
    scores = [
        _Column("AUC", ".4f", _metric(report, "auc")),
        _Column("logloss", ".4f", _metric(report, "logloss"), min),
        _Column("own\nlogloss", ".4f", _metric(report, "own_logloss"), min),
        _Column("own\nece", ".4f", _metric(report, "ece"), min),
        _Column("coverage", ".3f", _metric(report, f"coverage@{k}")),
        _Column("novelty\nbits", ".2f", _metric(report, f"novelty@{k}"), None),
        _Column("seconds", ".1f", {n: q.seconds for n, q in models.items()}, min),
    ]
    return Group(
        _table(f"Test, then learn: {report.tests:,} tests in {report.events:,} events", ranking),
        _table(
            f"recall@{k} by the user's history and by item, with the share of the tests", of_users_and_items
        ),
        *([_table(f"recall@{k} by type of event", of_events)] if of_events else []),
        _table("Scores, variety and cost", scores),
        Text(_footnote(report), style="dim"),
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of a table with a row for each model; `best` chooses the value that is printed bold."""

    title: str
    digits: str
    values: Mapping[str, float]
    best: Callable[[Iterable[float]], float] | None = max

    def cell(self, name: str) -> Text:
        value = self.values.get(name, math.nan)
        finite = [v for v in self.values.values() if math.isfinite(v)]
        differ = len(set(finite)) > 1
        is_best = differ and self.best is not None and value == self.best(finite)
        return Text(_number(value, self.digits), style="bold" if is_best else "")


def _table(title: str, columns: Sequence[_Column]) -> Table:
    columns = [c for c in columns if any(math.isfinite(v) for v in c.values.values())]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", vertical="bottom", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", vertical="bottom", no_wrap=True)
    for name in dict.fromkeys(name for column in columns for name in column.values):
        table.add_row(name, *(column.cell(name) for column in columns))
    return table


def _metric(report: EvaluationReport, name: str) -> dict[str, float]:
    return {model: quality.metrics.get(name, math.nan) for model, quality in report.models.items()}


def _number(value: float, digits: str = ".4f") -> str:
    return f"{value:{digits}}".removeprefix("0") if math.isfinite(value) else "–"


def _short(part: str) -> str:
    kind, _, name = part.partition(" ")
    return f"user\n{name}" if kind == "history" else f"{kind}\n{name.split(' ')[0]}"


def _footnote(report: EvaluationReport) -> str:
    seen = "seen items excluded" if report.exclude_seen else "seen items included"
    lines = [
        f"{report.users:,} users, {report.items:,} items. Ranked among all, {seen}, ties by id.",
        f"{report.first_time:,} tests of items that nothing had named before count as misses.",
    ]
    differences = [
        f"{name} {'−' if d.value < 0 else '+'}{_number(abs(d.value))} ± {_number(d.standard_error)}"
        for name, d in report.differences().items()
    ]
    if differences:
        first = next(iter(report.models))
        lines.append(f"ndcg@{report.k} of {first} minus that of: {', '.join(differences)}.")
    if report.repeated:
        lines.append(f"{report.repeated:,} repetitions of seen items were learned and not tested.")
    if report.impressions:
        lines.append(f"{report.impressions:,} shown lists had a later click.")
    if report.out_of_order:
        lines.append(
            f"{report.out_of_order:,} events stood behind a later one and were sorted to their place."
        )
    if report.shuffled:
        lines.append(
            f"{report.shuffled:,} events of equal time were put in random order: the file is sorted by item."
        )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------- as a picture

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_WINDOW = 10  # parts of the curve in a moving average


def plot(report: EvaluationReport, path: str | Path) -> None:
    """Draw NDCG along the stream, and recall by the length of the user's history, into an image file.

    Needs matplotlib: ``pip install "stream-recommender[plots]"``. The kind of image follows from the name
    of the file.

    Raises
    ------
    ConfigError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # slow to import, and optional
    except ImportError as error:
        raise ConfigError('plots need matplotlib: pip install "stream-recommender[plots]"') from error
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curves(left, report)
    _draw_histories(right, report)
    handles, labels = left.get_legend_handles_labels()
    n_columns = len(labels) if len(labels) < 7 else 4
    figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)


def _draw_curves(axes: Any, report: EvaluationReport) -> None:
    metric = f"ndcg@{report.k}"
    x = np.array(report.curve_events) / 1000
    for number, (name, quality) in enumerate(report.models.items()):
        curve = quality.curve[metric]
        smooth = [metrics.mean(curve[max(0, i - _WINDOW) : i]) for i in range(1, len(curve) + 1)]
        style = "-" if number < len(_COLOURS) else "--"
        axes.plot(x, smooth, style, color=_COLOURS[number % len(_COLOURS)], linewidth=1.8, label=name)
    axes.set_title(
        f"{metric} along the stream, mean of the last {_WINDOW} % of the tests", loc="left", fontsize=10
    )
    axes.set_xlabel("events (thousands)")


def _draw_histories(axes: Any, report: EvaluationReport) -> None:
    metric = f"recall@{report.k}"
    parts = (
        [p for p in next(iter(report.models.values())).slices if p.startswith("history")]
        if report.models
        else []
    )
    width = 0.8 / max(len(report.models), 1)
    for number, quality in enumerate(report.models.values()):
        heights = [np.nan_to_num(quality.slices[part][metric]) for part in parts]
        places = np.arange(len(parts)) + (number - (len(report.models) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, color=_COLOURS[number % len(_COLOURS)])
    axes.set_xticks(range(len(parts)), [part.removeprefix("history ") for part in parts])
    axes.set_xlabel("items the user chose before")
    axes.set_title(f"{metric} by length of the user's history", loc="left", fontsize=10)
