"""Truths about curves: they are means of the past, and their names do not overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.errors import ConfigError
from stream_app.evaluation.pictures import Panel, draw, rolling, spread

PLACES = st.lists(st.floats(0, 1), min_size=1, max_size=15)


@given(st.lists(st.floats(-1, 1), max_size=30), st.integers(0, 40))
def test_a_rolling_mean_is_the_mean_of_the_window(values: list[float], window: int) -> None:
    """Each value becomes the mean of itself and of up to window − 1 before it."""
    expected = [np.mean(values[max(0, i + 1 - max(window, 1)) : i + 1]) for i in range(len(values))]
    assert rolling(values, window) == pytest.approx(expected, abs=1e-9)


@given(PLACES)
def test_names_keep_their_order_and_their_distance(places: list[float]) -> None:
    """Names are at least a line apart, in the order of what they name, inside of the panel."""
    found = spread(places, 0.05)
    order = np.argsort(places, kind="stable")
    assert np.diff(found[order]).min(initial=0.05) >= 0.05 - 1e-9
    assert found.min() >= 0 and found.max() <= 1 + 1e-9


def test_names_that_have_room_stay() -> None:
    """A name moves only where another one is too near."""
    assert spread([0.1, 0.9, 0.5], 0.05).tolist() == pytest.approx([0.1, 0.9, 0.5])


@pytest.mark.parametrize("n", [1, 3])
def test_panels_stand_in_rows_of_two(n: int, tmp_path: Path) -> None:
    """Any number of panels makes one picture, whatever is missing in them."""
    curves = {"ours": [0.1, 0.2], "broken": [float("nan"), 0.1]}
    draw([Panel("quality", "events", [1, 2], curves, {"random": 0.05})] * n, tmp_path / "curves.png")
    pixels = imread(tmp_path / "curves.png")
    alone = 6.2 * 150  # pixels that a panel is wide
    assert pixels.shape[1] == pytest.approx(alone * min(n, 2), abs=2)
    assert pixels[:, :, :3].std() > 0.01


@pytest.mark.parametrize(
    ("name", "reason"), [("a.nonsense", "kind '.nonsense'"), ("nowhere/a.png", "no folder")]
)
def test_a_picture_that_cannot_be_written_is_refused_first(name: str, reason: str, tmp_path: Path) -> None:
    """The command says so before it reads the file of events."""
    arguments = ["evaluate", str(tmp_path / "not there.jsonl"), "--plot", str(tmp_path / name)]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError)
    assert reason in str(error)
