"""The README: its example runs, its generated parts are current, its commands exist."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from stream_app.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_prints_what_the_readme_says() -> None:
    """The library example of the README is executed as it stands."""
    block = "\n".join(re.findall(r"```python\n(>>> .*?)```", README, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 8
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test)
    assert result.failed == 0


def test_generated_parts_are_current() -> None:
    """Settings, figures and the demo's output are those of today; `python docs/generate.py` renews them."""
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", sorted(set(re.findall(r"recs [a-z-]+(?: [a-z-]+)?", README))))
def test_commands_exist(line: str) -> None:
    """Every `recs` command that the README shows is one."""
    _, name, *rest = line.split()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands
    if name == "prune":
        assert rest and rest[0] in commands["prune"].commands


def test_links_lead_somewhere() -> None:
    """Files that the README links to are there."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
