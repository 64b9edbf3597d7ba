"""Truths about the quality benchmark: what it keeps is enough for the tables and the curves of the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from benchmarks.quality import POINTS, judged, markdown, panels, thinned, with_picture, write
from stream_app.evaluation.judging import MODELS
from stream_app.evaluation.pictures import draw
from stream_app.simulator import Shop


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """All models on the beginning of a small shop, as it comes back from the file."""
    shop = Shop(seed=2, n_items=60, n_users=30)
    return json.loads(json.dumps(judged([*shop.items(), *shop.records(600)], repeat=False)))


def test_a_result_has_tables_notes_and_slices(result: dict[str, Any]) -> None:
    """Every model has a row; what is odd about the data and the parts of the tests are kept."""
    table = markdown(result)
    assert all(f"| {name} |" in table for name in MODELS)
    assert "shown lists with a later click" in " ".join(result["notes"])
    assert {"item head", "item tail"} <= set(result["models"]["ours"]["slices"])


def test_curves_are_kept_thinned(result: dict[str, Any]) -> None:
    """Where lists were shown, their curves are kept: as many points as places, about fifty."""
    curves = result["curves"]
    assert curves["metric"] == "impression_ndcg@10"
    assert set(curves["models"]) == set(MODELS)
    assert {len(curve) for curve in curves["models"].values()} == {len(curves["events"])}
    assert POINTS <= len(curves["events"]) < 2 * POINTS


@pytest.mark.parametrize("n", [0, 1, 30, 99, 100, 101, 149])
def test_thinning_keeps_the_mean(n: int) -> None:
    """A curve that does not move does not move by thinning."""
    assert set(thinned([0.25] * n)) <= {0.25}
    assert min(n, POINTS) <= len(thinned([0.25] * n)) < 2 * POINTS


def test_curves_become_the_picture_of_the_docs(result: dict[str, Any], tmp_path: Path) -> None:
    """The picture has a panel for each data set with curves, and the docs embed it once there are some."""
    drawn = panels({"ranklens": result, "movielens_100k": {"models": {}}})
    assert [panel.title for panel in drawn] == ["RankLens: ndcg@10 of shown lists"]
    assert set(drawn[0].levels) == {"as shown", "random"}
    draw(drawn, tmp_path / "quality.png")
    assert imread(tmp_path / "quality.png").shape[1] > 800
    place = "<!-- curves:begin -->\n<!-- curves:end -->"
    embedded = with_picture(place, is_there=True)
    assert "(quality.png)" in embedded
    assert with_picture(embedded, is_there=True) == embedded
    assert with_picture(embedded, is_there=False) == place


def test_all_is_written_from_the_results(result: dict[str, Any], tmp_path: Path) -> None:
    """One call writes table and picture."""
    docs = tmp_path / "quality.md"
    docs.write_text(
        "<!-- ranklens:begin -->\n<!-- ranklens:end -->\n<!-- curves:begin -->\n<!-- curves:end -->\n"
    )
    (tmp_path / "quality.json").write_text(json.dumps({"results": {"ranklens": result}}))
    write(tmp_path / "quality.json", docs)
    assert "| ours |" in docs.read_text() and "(quality.png)" in docs.read_text()
    assert docs.with_suffix(".png").is_file()
