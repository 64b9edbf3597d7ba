"""Where the tests find real data sets; without them the tests that need them skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets: `RECS_DATA`, else ``../shared/data`` beside the repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RECS_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set RECS_DATA to their folder")
    return folder
