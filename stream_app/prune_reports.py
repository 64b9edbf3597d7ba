"""What pruning would do to the ranker: by field for a saved learner, by size on a stream of events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from pruning import Curve, Examples, Guard, PruneReport, Quality, SaliencyPruner, curve
from stream_app.errors import CheckpointError, InputError
from stream_app.events import Event, Item, User
from stream_app.model.learning import Learner
from stream_app.model.ranker import FTRLClassifier
from stream_app.online import OnlineRecommender, default_agent

FEWEST = 500  # pairs that can judge anything
HELD_OUT = 0.2  # share of the events, the last ones, that judge what was learned from the others


def dry_run(checkpoint: Path, amount: float) -> tuple[PruneReport, dict[int, str]]:
    """What a proposal would leave out of a saved learner; nothing is changed.

    Parameters
    ----------
    checkpoint
        A learner's checkpoint file.
    amount
        Share of the weights to leave out.

    Returns
    -------
    The report, and names of its fields.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    EmptyModelError
        If nothing was learned yet.
    """
    try:
        learner, _ = Learner.from_bytes(checkpoint.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{checkpoint}: {error.strerror}; give the checkpoint of a learner, or let one run first"
        ) from error
    agent = default_agent()
    agent.pruner = SaliencyPruner(amount)
    return agent.propose(learner.ranker).report, learner.field_names()


def size_quality_curve(records: Iterable[Event | Item | User], *, tolerance: float = 5e-3) -> Curve:
    """Learn the first events of a stream, then judge prunings of many sizes on the last ones.

    Raises
    ------
    InputError
        If the stream is too short to learn and judge.
    """
    everything = list(records)
    n = sum(isinstance(record, Event) for record in everything)
    online = OnlineRecommender(compress=False)
    recorder: _Recorder | None = None
    seen = 0
    for record in everything:
        if isinstance(record, Item):
            online.observe_item(record)
        elif isinstance(record, User):
            online.observe_user(record)
        else:
            seen += 1
            if recorder is None and seen > n * (1 - HELD_OUT):
                recorder = _Recorder(online.learner.ranker)
                online.learner.ranker = recorder
            online.observe(record)
    if recorder is None or recorder.pairs < FEWEST or not len(recorder.ranker):
        raise InputError("the stream is too short: it needs some hundred events that can be learned")
    return curve(recorder.ranker, recorder.examples(), guard=Guard(tolerance=tolerance))


def curve_table(found: Curve) -> Table:
    """A curve as a table for a terminal: the dense export, then every candidate, with the usual measures."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in (
        "kept",
        "weights",
        "KiB",
        "logloss",
        "AUC",
        "acc.",
        "prec.",
        "recall",
        "cov.",
        "ns",
        "guard",
    ):
        table.add_column(name, justify="left" if name == "guard" else "right", no_wrap=True)
    table.add_row("dense", *_cells(found.dense_weights, found.dense_bytes, found.dense), "float32")
    for point in found.points:
        verdict = point.decision.verdict
        colour = {"promote": "green", "undecided": "yellow"}.get(verdict, "red")
        cells = _cells(point.weights, point.bytes, point.quality)
        table.add_row(f"{point.kept:.0%}", *cells, f"[{colour}]{verdict}[/]")
    table.caption = (
        "acc., prec., recall: at probability ½; cov.: features that have a weight; ns: to score an example"
    )
    table.caption_justify = "left"
    return table


def _cells(weights: int, size: int, quality: Quality) -> list[str]:
    shares = (quality.accuracy, quality.precision, quality.recall, quality.coverage)
    return [
        f"{weights:,}", f"{size / 1024:,.0f}", f"{quality.logloss:.5f}", f"{quality.auc:.4f}",
        *(f"{share:.1%}" for share in shares), f"{quality.nanoseconds:,.0f}",
    ]  # fmt: skip


class _Recorder:
    """Stands in for a ranker: keeps the pairs that it would have learned, and learns none."""

    def __init__(self, ranker: FTRLClassifier) -> None:
        self.ranker = ranker
        self.step = ranker.step
        self.parts: list[tuple[NDArray[Any], ...]] = []

    def learn_many_encoded(
        self,
        keys: NDArray[np.uint64],
        values: NDArray[np.float32],
        indptr: NDArray[np.int64],
        y: NDArray[np.float32],
        weight: NDArray[np.float32] | None = None,
        lists: NDArray[np.int32] | None = None,
    ) -> None:
        """Keep a copy of the pairs."""
        self.parts.append((keys.copy(), values.copy(), np.diff(indptr), y.copy()))

    @property
    def pairs(self) -> int:
        """How many pairs were kept."""
        return sum(len(part[-1]) for part in self.parts)

    def touched_since(self, step: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Nothing more is learned."""
        return np.zeros(0, np.uint64), np.zeros(0, np.float32)

    def examples(self) -> Examples:
        """All pairs in order."""
        keys, values, lengths, y = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        return Examples(keys, values, np.concatenate(([0], np.cumsum(lengths))), y)
