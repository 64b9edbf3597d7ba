"""The result of an evaluation: a frozen value that can be printed, drawn and written as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stream_app import metrics
from stream_app.errors import ConfigError

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """How good one model was.

    Attributes
    ----------
    metrics
        Name → value over all tests; nan where the model could not be asked. Names ending in ``_se`` are
        standard errors, with users as clusters.
    second_half, conservative
        The ranking metrics over the second half of the tests, and over the first event of each user's second.
    slices
        Name of a part of the tests → its ranking metrics.
    curve
        Name of a metric → its value in each of up to 100 equal parts of the tests, in order.
    dropped
        Places of lists that went to items that were seen, named twice, or beyond k.
    seconds
        Time the model took to answer and learn everything.
    ranks
        The place of the right item in each list, `(n,)`; `metrics.ABSENT` where it was not in it.
    """

    metrics: Mapping[str, float]
    second_half: Mapping[str, float]
    conservative: Mapping[str, float]
    slices: Mapping[str, Mapping[str, float]]
    curve: Mapping[str, tuple[float, ...]]
    dropped: int
    seconds: float
    ranks: Ints = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model beats another on the same tests, and how sure that is."""

    value: float
    standard_error: float

    @property
    def z(self) -> float:
        """The difference in standard errors; beyond ±2 it is unlikely to be noise."""
        return self.value / self.standard_error if self.standard_error > 0 else math.nan


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What `stream_app.evaluation.evaluate` found out.

    Attributes
    ----------
    events, users, items
        Events of the stream, their users and the items they name.
    seconds
        Time of everything.
    k, exclude_seen, seed
        As asked for.
    tests, first_time
        Tests, and those of them that no model could pass because nothing had named the item before.
    repeated
        Positive feedback on seen items, which was learned but not tested.
    impressions
        Shown lists with at least one later click.
    impression_reference
        NDCG of those lists as the shop showed them and in random order; empty without impressions.
    out_of_order, shuffled
        Events that were sorted to their place, and events with equal times whose order was drawn by lot.
    curve_events
        The number of events up to the end of each part of the curves.
    models
        Name → quality.
    test_users
        Number of the user of each test, `(n,)`.
    """

    events: int
    users: int
    items: int
    seconds: float
    k: int
    exclude_seen: bool
    seed: int
    tests: int
    first_time: int
    repeated: int
    impressions: int
    impression_reference: Mapping[str, float]
    out_of_order: int
    shuffled: int
    curve_events: tuple[int, ...]
    models: Mapping[str, ModelQuality]
    test_users: Ints = field(repr=False, compare=False)

    def difference(self, a: str, b: str, metric: str = "ndcg") -> Difference:
        """By how much model `a` beats model `b`, paired test by test.

        Parameters
        ----------
        a, b
            Names of models.
        metric
            ``ndcg`` or ``recall``.
        """
        value_of = {"ndcg": metrics.gains, "recall": metrics.hits}[metric]
        delta = value_of(self.models[a].ranks, self.k) - value_of(self.models[b].ranks, self.k)
        return Difference(metrics.mean(delta), metrics.clustered_standard_error(delta, self.test_users))

    def to_json_object(self) -> dict[str, Any]:
        """The report as plain values; nan becomes None.

        The keys that ``recs evaluate --json`` promises are at the top level of the object and of each
        model; the rest explains them.
        """
        counts = ("tests", "first_time", "repeated", "impressions", "out_of_order", "shuffled")
        return {
            "events": self.events,
            "users": self.users,
            "items": self.items,
            "seconds": round(self.seconds, 3),
            "models": {name: _plain(_model_object(quality)) for name, quality in self.models.items()},
            "protocol": {
                "k": self.k,
                "exclude_seen": self.exclude_seen,
                "seed": self.seed,
                **{name: getattr(self, name) for name in counts},
            },
            "impression_reference": _plain(dict(self.impression_reference)),
            "curve_events": list(self.curve_events),
        }


def _model_object(quality: ModelQuality) -> dict[str, Any]:
    return {
        **quality.metrics,
        "second_half": dict(quality.second_half),
        "conservative": dict(quality.conservative),
        "slices": {name: dict(values) for name, values in quality.slices.items()},
        "curve": {name: list(values) for name, values in quality.curve.items()},
        "dropped": quality.dropped,
        "seconds": round(quality.seconds, 3),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


# ---------------------------------------------------------------------------------- as a table


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
        is_best = self.best is not None and len(finite) > 1 and value == self.best(finite) != 0
        text = f"{value:{self.digits}}".removeprefix("0") if math.isfinite(value) else "–"
        return Text(text, style="bold" if is_best else "")


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


def _short(part: str) -> str:
    kind, _, name = part.partition(" ")
    return f"user\n{name}" if kind == "history" else f"{kind}\n{name.split(' ')[0]}"


def _footnote(report: EvaluationReport) -> str:
    seen = "seen items excluded" if report.exclude_seen else "seen items included"
    lines = [
        f"{report.users:,} users, {report.items:,} items. Ranked among all, {seen}, equal scores by id.",
        f"{report.first_time:,} tests of items that nothing had named before count as misses.",
    ]
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
        axes.plot(x, smooth, color=_COLOURS[number % len(_COLOURS)], linewidth=1.8, label=name)
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
