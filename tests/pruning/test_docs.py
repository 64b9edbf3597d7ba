"""What docs/pruning.md says was measured or runs, and the examples of the public names."""

import doctest
import json
import re
import sys
from pathlib import Path

import pytest

import pruning

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pruning.md"
DRAWING = {"plot", "plot_history"}


def test_the_tables_are_those_of_the_kept_results() -> None:
    """The tables of the page are what the benchmark writes for the results file beside it."""
    prune = pytest.importorskip("benchmarks.prune_tables", reason="the benchmark needs the whole project")
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


@pytest.mark.parametrize("name", pruning.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    """The docstring of every public name shows it at work, compiled code included, and the example holds."""
    if name in DRAWING:
        pytest.importorskip("matplotlib", reason="drawing is an optional extra")
    thing = getattr(pruning, name)
    names = vars(sys.modules[thing.__module__])
    example = doctest.DocTestParser().get_doctest(thing.__doc__ or "", dict(names), name, None, None)
    assert example.examples, f"{name} has no example"
    told: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.DocTestRunner(optionflags=flags).run(example, out=told.append)
    assert not failed, "".join(told)
