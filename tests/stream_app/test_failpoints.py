"""Places to die at, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.failpoints import failpoint

SCRIPT = """
from stream_app.failpoints import failpoint
for n in range(4):
    failpoint("a")
    print(n, flush=True)
    failpoint("b")
"""


@pytest.mark.parametrize(
    ("wanted", "printed", "code"),
    [
        ("", "0123", 0),
        ("a:kill", "", -9),
        ("b:kill", "0", -9),
        ("a:kill:3", "01", -9),
        ("b:kill:9", "0123", 0),
        ("c:kill", "0123", 0),
        ("a:shout", "0123", 0),
    ],
)
def test_a_process_dies_where_it_was_asked_to(wanted: str, printed: str, code: int) -> None:
    """By SIGKILL, at the named place, the given time; otherwise nothing happens."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"FAILPOINT": wanted}, cwd=Path(__file__).parents[2],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.stdout.replace("\n", ""), ended.returncode) == (printed, code)


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failpoints cost nothing in production."""
    monkeypatch.delenv("FAILPOINT", raising=False)
    failpoint("a")
