"""The ledger: every proposal and what became of it, one JSON object a line, append-only."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.errors import LedgerError


@dataclasses.dataclass(frozen=True)
class DecisionRecord:
    """One line of the ledger.

    Parameters
    ----------
    version
        Of the candidate.
    parent
        Version that was served when it was proposed, or None.
    verdict
        `promote`, `reject`, `undecided` or `rollback`.
    reason
        One sentence.
    time
        When it was decided, as the caller tells it (ISO-8601).
    step
        How many examples the trainer had learned.
    weights_before, weights_after
        Live weights of the dense export and of the candidate.
    bytes_before, bytes_after
        Sizes of both.
    evidence
        The guard's figures.

    Examples
    --------
    >>> import numpy as np
    >>> import pruning
    >>> weights = pruning.Snapshot(np.array([1, 2], np.uint64), np.array([2., .1]), np.ones(2), step=500)
    >>> agent = pruning.PruningAgent(pruning.SaliencyPruner(keep=1))
    >>> _ = agent.judge(agent.propose(weights), np.full(1000, .5), np.full(1000, .5))
    >>> record = agent.ledger.read()[0]
    >>> record.verdict, record.step, record.weights_before, record.weights_after
    ('promote', 500, 2, 1)
    >>> record.reason
    'the loss changes by +0.00000 and surely by less than 0.00050'
    """

    version: str
    parent: str | None
    verdict: str
    reason: str
    time: str | None = None
    step: int = 0
    weights_before: int = 0
    weights_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Ledger:
    """An append-only file of decisions; without a path it lives in memory.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.append(DecisionRecord("a1", None, "promote", "as good as dense"))
    >>> [record.verdict for record in ledger.read()]
    ['promote']
    """

    def __init__(self, path: str | os.PathLike[str] | None = None):
        self.path = None if path is None else Path(path)
        self._memory: list[DecisionRecord] = []
        self.torn: str | None = None  # the unfinished last line that `read` found and left out

    def append(self, record: DecisionRecord) -> None:
        """Add a decision and flush it to the disk before returning."""
        if self.path is None:
            self._memory.append(record)
            return
        line = json.dumps(dataclasses.asdict(record), sort_keys=True, default=float) + "\n"
        try:
            with open(self.path, "ab+") as file:
                if file.tell() and self._ends_inside_a_line(file):
                    line = "\n" + line  # a crash tore the last line: leave it alone, begin a new one
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LedgerError(f"cannot write {self.path}: {error.strerror}") from error

    @staticmethod
    def _ends_inside_a_line(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return bool(file.read(1) != b"\n")

    def read(self) -> list[DecisionRecord]:
        """All decisions, oldest first; a torn line is left out and told in `torn`.

        Raises
        ------
        LedgerError
            If the file cannot be read.
        """
        if self.path is None:
            return list(self._memory)
        if not self.path.exists():
            return []
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError as error:
            raise LedgerError(f"cannot read {self.path}: {error.strerror}") from error
        records = []
        known = {field.name for field in dataclasses.fields(DecisionRecord)}
        for line in lines:
            try:
                values = json.loads(line)
                records.append(DecisionRecord(**{k: v for k, v in values.items() if k in known}))
            except (ValueError, TypeError, AttributeError):
                self.torn = line.decode(errors="replace")
        return records
