"""The example in `examples/` runs and keeps its promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_prunes_to_a_tenth_and_keeps_the_quality() -> None:
    """A stock pipeline at a tenth of its weights loses less than one point of AUC."""
    done = subprocess.run(
        [sys.executable, "examples/prune_river_pipeline.py"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    rows = re.findall(r"(\w+): +(\d+) weights, ROCAUC: ([\d.]+)%, Accuracy: ([\d.]+)%", done.stdout)
    (_, dense, auc, _), (_, pruned, kept, _) = rows
    assert int(pruned) <= 0.1 * int(dense)
    assert float(kept) > float(auc) - 1.0
