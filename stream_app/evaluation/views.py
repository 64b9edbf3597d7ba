"""An evaluation report as tables for a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stream_app.evaluation.report import EvaluationReport


def render(report: EvaluationReport) -> RenderableType:
    """Tables for a terminal of 80 columns: ranking, parts of the tests, scores and costs, and notes.

    The best value of each column is bold. A column that no model has is left out, and so is an empty table.
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
        _Column("log\nloss", ".4f", _metric(report, "logloss"), min),
        _Column("ece", ".4f", _metric(report, "ece"), min),
        _Column("own\nlog\nloss", ".4f", _metric(report, "own_logloss"), min),
        _Column("own\nece", ".4f", _metric(report, "own_ece"), min),
        _Column("cover\nage", ".3f", _metric(report, f"coverage@{k}")),
        _Column("novelty\nbits", ".2f", _metric(report, f"novelty@{k}"), None),
        _Column("time\ns", ".1f", {n: q.seconds for n, q in models.items()}, min),
    ]
    tables = {
        f"Test, then learn: {report.tests:,} tests in {report.events:,} events": ranking,
        f"ndcg@{k} of {next(iter(models), '')} minus that of the others, on the same tests": _behind(report),
        f"recall@{k} by the user's history and by item, with the share of the tests": of_users_and_items,
        f"recall@{k} by type of event, with the share of the tests": of_events,
        "Scores, variety and cost": scores,
    }
    drawn = [(title, _table(columns)) for title, columns in tables.items()]
    shown_tables = [part for title, table in drawn if table.rows for part in (_title(title), table)]
    return Group(*shown_tables, Text(_footnote(report), style="dim"))


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


def _title(text: str) -> Text:
    return Text(text, style="italic")


def _table(columns: Sequence[_Column]) -> Table:
    columns = [c for c in columns if any(math.isfinite(v) for v in c.values.values())]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", vertical="bottom", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", vertical="bottom", no_wrap=True)
    for name in dict.fromkeys(name for column in columns for name in column.values):
        table.add_row(name, *(column.cell(name) for column in columns))
    return table


def _metric(report: EvaluationReport, name: str) -> dict[str, float]:
    return {model: quality.metrics.get(name, math.nan) for model, quality in report.models.items()}


def _number(value: float, digits: str = ".4f") -> str:
    if not math.isfinite(value):
        return "–"
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{digits}}").replace("-", "−")


def _short(part: str) -> str:
    """The part's name in two lines.

    >>> _short("history 1–3"), _short("item new (< 10 events)"), _short("event add_to_cart")
    ('user\\n1–3', 'item\\nnew', 'add\\nto_cart')
    """
    kind, _, name = part.partition(" ")
    if kind == "event":
        return name.replace("_", "\n", 1)
    return f"user\n{name}" if kind == "history" else f"{kind}\n{name.split(' ')[0]}"


def _behind(report: EvaluationReport) -> list[_Column]:
    """By how much the first model beats the others."""
    differences = report.differences()
    return [
        _Column("ndcg", ".4f", {n: d.value for n, d in differences.items()}, None),
        _Column("± one\nerror", ".4f", {n: d.standard_error for n, d in differences.items()}, None),
        _Column("in\nerrors", ".1f", {n: d.z for n, d in differences.items()}, None),
    ]


_WORDS = """\
2nd half: of the tests. 1st/sec.: only the first event of a user's second.
log loss, ece (calibration error): of scores as probabilities, fitted to the
past; own: of probabilities that the model offers itself.
user: items chosen before. item: new, below 10 events; old; head, the most
chosen, with half of the tests; tail, the rest.
"""


def _footnote(report: EvaluationReport) -> str:
    seen = "seen items excluded" if report.exclude_seen else "seen items included"
    rule = f"{report.users:,} users, {report.items:,} items; ranked among all, {seen}, ties by id"
    return "\n".join([*([_WORDS] if report.tests else []), rule, *(f"· {note}" for note in report.notes)])
