"""What docs/pruning.md says was measured or runs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pruning.md"


def test_the_tables_are_those_of_the_kept_results() -> None:
    """The tables of the page are what the benchmark writes for the results file beside it."""
    prune = pytest.importorskip("benchmarks.prune", reason="the benchmark needs the whole project")
    page = PAGE.read_text()
    shown = page.split(prune.BEGIN)[1].split(prune.END)[0].strip()
    assert shown == prune.markdown(json.loads(prune.RESULTS.read_text())).strip()


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every Python block runs as it stands."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    assert "'noise': 0.0" in capsys.readouterr().out
