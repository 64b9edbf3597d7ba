"""What docs/triggers.md says of real data is what was measured."""

from __future__ import annotations

import json

from benchmarks.triggers_tables import BEGIN, DOCS, END, RESULTS, markdown


def test_the_tables_are_those_of_the_kept_results() -> None:
    """The tables of the page are what the benchmark writes for the results file beside it."""
    shown = DOCS.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert shown == markdown(json.loads(RESULTS.read_text())["results"]).strip()
