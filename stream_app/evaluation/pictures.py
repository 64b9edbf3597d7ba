"""Quality as a picture: curves along the stream, each named where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from stream_app.errors import ConfigError
from stream_app.evaluation.report import EvaluationReport

_COLOURS = (
    "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#B58900", "#666666", "#8C564B", "#111111",
)  # fmt: skip
_WIDTH, _HEIGHT = 6.2, 3.7  # of a panel, inches
_LINE = 0.058  # height of a label, as a share of the panel's


@dataclass(frozen=True)
class Panel:
    """A set of curves over the same places.

    Attributes
    ----------
    title
        What is drawn, over which data.
    x_label
        What the places are.
    x
        The places, (n,).
    curves
        Name → values, (n,); the first is drawn bold.
    levels
        Name → a value that does not move, drawn as a dotted line.
    ticks
        Names of the places; their numbers without.
    """

    title: str
    x_label: str
    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]
    levels: Mapping[str, float] = field(default_factory=dict)
    ticks: Sequence[str] = ()


def plot(report: EvaluationReport, path: str | Path) -> None:
    """Draw an evaluation: NDCG along the stream, that of shown lists, and recall by length of history.

    The kind of image follows from the name of the file.

    Raises
    ------
    ConfigError
        matplotlib, which is optional, is not installed.
    """
    k, models = report.k, report.models

    def curves(metric: str) -> dict[str, list[float]]:
        found = {name: rolling(quality.curve.get(metric, ()), len(quality.curve.get(metric, ())) // 10)
                 for name, quality in models.items()}  # fmt: skip
        return {name: curve for name, curve in found.items() if curve}

    panels = [
        Panel(f"ndcg@{k}, mean of the latest tenth", "events", report.curve_events, curves(f"ndcg@{k}"))
    ]
    if report.impressions:
        shown = curves(f"impression_ndcg@{k}")
        title = f"ndcg@{k} of shown lists, mean of the latest tenth"
        panels.append(Panel(title, "events", report.shown_curve_events, shown, report.impression_reference))
    parts = {p for quality in models.values() for p, v in quality.slices.items() if v["tests"]}
    histories = [p for p in next(iter(models.values())).slices if p in parts] if models else []
    histories = [part for part in histories if part.startswith("history")]
    panels.append(
        Panel(
            f"recall@{k} by what is known of the user",
            "items that the user chose before",
            range(len(histories)),
            {n: [q.slices[part][f"recall@{k}"] for part in histories] for n, q in models.items()},
            ticks=[part.removeprefix("history ") for part in histories],
        )
    )
    draw(panels, path)


def check_picture(path: str | Path) -> None:
    """Make sure, before hours of work, that a picture can be written there.

    Raises
    ------
    ConfigError
        The kind of image is unknown, the folder is not there, or matplotlib is not installed.
    """
    path, kinds = Path(path), _new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise ConfigError(
            f"{path.name}: no image is of the kind {path.suffix!r}; end its name with .png or .svg"
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")


def rolling(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and those before it, `window` in all; fewer at the beginning.

    >>> rolling([1.0, 2.0, 3.0, 5.0], 2)
    [1.0, 1.5, 2.5, 4.0]
    """
    sums = np.concatenate(([0.0], np.cumsum(values)))
    start = np.maximum(np.arange(len(values)) + 1 - max(window, 1), 0)
    means = (sums[1:] - sums[start]) / (np.arange(len(values)) + 1 - start)
    return [float(mean) for mean in means]


def spread(places: ArrayLike, gap: float) -> NDArray[np.float64]:
    """Places between 0 and 1 that are at least `gap` apart, in the same order, as near to the old as can be.

    >>> spread([0.5, 0.5, 0.0], 0.1).round(2)
    array([0.45, 0.55, 0.  ])
    >>> spread([1.0, 1.0], 0.1).round(2)
    array([0.9, 1. ])
    """
    wanted = np.asarray(places, np.float64)
    if not len(wanted):
        return wanted
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    out = np.empty(len(wanted))
    rising = isotonic_regression(wanted[order] - steps).x
    out[order] = np.clip(rising, 0.0, max(0.0, 1.0 - steps[-1])) + steps
    return out


def draw(panels: Sequence[Panel], path: str | Path, columns: int = 2) -> None:
    """Draw panels into an image file, `columns` side by side.

    The ground is white, so that the picture can be read on a dark page, too.

    Raises
    ------
    ConfigError
        matplotlib, which is optional, is not installed.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = _new_figure(_WIDTH * columns, _HEIGHT * rows)
    colour_of: dict[str, str] = {}
    for panel in panels:
        for name in panel.curves:
            colour_of.setdefault(name, _COLOURS[len(colour_of) % len(_COLOURS)])
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, colour_of)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=150)


def _new_figure(width: float, height: float) -> Any:
    """An empty picture, inches wide and high."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # slow to import, and optional
        from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError('plots need matplotlib: pip install "stream-recommender[plots]"') from error
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)  # inches
    return Figure((width, height), layout=layout, facecolor="white")


def _draw_panel(axes: Any, panel: Panel, colour_of: Mapping[str, str]) -> None:
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color="#222222")
    axes.set_xlabel(panel.x_label, fontsize=9, color="#555555")
    axes.tick_params(length=0, labelsize=9, labelcolor="#555555")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.ticks:
        axes.set_xticks(list(panel.x), list(panel.ticks))
    else:
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    for value in panel.levels.values():
        axes.axhline(value, color="#999999", linewidth=1.0, linestyle=(0, (1, 2)))
    for first, (name, curve) in reversed([*enumerate(panel.curves.items())]):  # the first is on top
        axes.plot(panel.x, curve, color=colour_of[name], linewidth=1.4 if first else 2.8,
                  marker="o" if panel.ticks or len(panel.x) == 1 else None, markersize=3.5)  # fmt: skip
    highest = np.nanmax([*panel.levels.values(), *np.ravel([*panel.curves.values()]), 1e-3])
    axes.set_ylim(0, 1.06 * highest)
    axes.margins(x=0.03 if panel.ticks else 0)
    _name_ends(axes, panel, colour_of)


def _name_ends(axes: Any, panel: Panel, colour_of: Mapping[str, str]) -> None:
    """Write the name of each curve and level beside its end, with a thread where it had to move."""
    ends = {name: curve[-1] for name, curve in panel.curves.items() if len(curve)} | dict(panel.levels)
    ends = {name: value for name, value in ends.items() if np.isfinite(value)}
    top = axes.get_ylim()[1]
    places = spread([value / top for value in ends.values()], _LINE)
    for (name, value), place in zip(ends.items(), places, strict=True):
        colour = colour_of.get(name, "#777777")
        is_first = name == next(iter(panel.curves), None)
        axes.annotate(
            name.replace("_", " "),
            xy=(1.0, value / top),
            xytext=(1.06, place),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            fontweight="bold" if is_first else "normal",
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 1,
                        "relpos": (0.0, 0.5)},
        )  # fmt: skip
