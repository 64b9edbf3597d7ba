"""Truths about docs/quality.md: its tables are those of the results, and its example runs."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import ablation
from benchmarks.quality import DOCS, RESULTS, panels, with_picture, with_tables


def test_the_tables_are_those_of_the_latest_results() -> None:
    """Writing the tables again changes nothing."""
    if not RESULTS.is_file():
        pytest.skip("no results: run python -m benchmarks quality --out benchmarks/results")
    results = json.loads(RESULTS.read_text())["results"]
    drawn = bool(panels(results))
    written = with_picture(with_tables(DOCS.read_text(), results), is_there=drawn)
    assert written == DOCS.read_text(), "run python -m benchmarks.quality"
    assert not drawn or DOCS.with_suffix(".png").is_file()


def test_the_ablation_is_that_of_the_latest_results() -> None:
    """Writing its table again changes nothing either."""
    results = json.loads(ablation.RESULTS.read_text())["results"]
    assert ablation.with_table(DOCS.read_text(), results) == DOCS.read_text(), (
        "run python -m benchmarks.ablation"
    )


def test_the_example_runs() -> None:
    """What the docs show works as it stands."""
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert len(examples) == 1
    for example in examples:
        exec(compile(example, str(DOCS), "exec"), {})


def test_a_result_needs_its_place() -> None:
    """A data set that the docs have no markers for is an error, not a lost table."""
    with pytest.raises(ValueError, match="no place for moon"):
        with_tables("text", {"moon": {"models": {}}})
