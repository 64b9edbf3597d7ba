"""Files of the learner: checkpoints and releases, written whole or not at all.

state/checkpoint        the latest, and checkpoint.previous, the one before
state/releases/VERSION  the releases that may be served
state/ledger.jsonl      what was proposed, and what became of it
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pruning.envelope import write_atomically
from stream_app.errors import CheckpointError, ReleaseError
from stream_app.failpoints import failpoint
from stream_app.model.budget import BUDGET, Budget
from stream_app.model.learning import Learner
from stream_app.model.release import Release, version_of

log = logging.getLogger(__name__)
KEEP_RELEASES = 5


class StateDir:
    """The folder of a learner.

    Raises
    ------
    CheckpointError
        If it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.jsonl"
        self._checkpoint = path / "checkpoint"
        self._previous = path / "checkpoint.previous"
        self._releases = path / "releases"
        try:
            self._releases.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
            for unfinished in path.rglob(".*.tmp"):  # of a process that died while it wrote
                unfinished.unlink()
        except OSError as error:
            raise CheckpointError(
                f"RECS_STATE_DIR={path}: {error.strerror}; choose a folder to write to"
            ) from error

    def save(self, data: bytes) -> None:
        """Replace the checkpoint; the present one becomes the previous one.

        A crash at any step leaves a checkpoint that can be read: the new one, or one of the two before.
        """
        try:
            if self._checkpoint.exists():
                self._previous.unlink(missing_ok=True)
                os.link(self._checkpoint, self._previous)
            failpoint("checkpoint.after_link")
            write_atomically(self._checkpoint, data)
            failpoint("checkpoint.after_write")
        except OSError as error:
            raise CheckpointError(f"cannot write {self._checkpoint}: {error.strerror}") from error

    def load(self, budget: Budget = BUDGET) -> tuple[Learner, dict[str, object]] | None:
        """The newest checkpoint that is whole, None when there is none yet, under a budget from now on.

        Raises
        ------
        CheckpointError
            If there are checkpoints and none can be read.
        """
        problems = []
        for path in (self._checkpoint, self._previous):
            try:
                loaded = Learner.from_bytes(path.read_bytes(), budget)
            except FileNotFoundError:
                continue
            except (OSError, CheckpointError) as error:
                problems.append(f"{path}: {error}")
                log.error("%s is refused: %s", path, error)
                continue
            if problems:
                log.warning("going on from %s", path)
            return loaded
        if problems:
            raise CheckpointError("; ".join(problems) + "; move the files away to learn from the beginning")
        return None

    def save_release(self, version: str, data: bytes) -> None:
        """Keep a release; the oldest beyond a few are removed."""
        try:
            write_atomically(self._releases / version, data)
            kept = sorted(self._releases.iterdir(), key=lambda p: (p.stat().st_mtime_ns, p.name))
            for path in kept[:-KEEP_RELEASES]:
                path.unlink()
        except OSError as error:
            raise CheckpointError(f"cannot write to {self._releases}: {error.strerror}") from error

    def load_release(self, version: str) -> tuple[bytes, Release]:
        """Read a release that was kept.

        Raises
        ------
        ReleaseError
            If it is missing, damaged or not what its name says.
        """
        try:
            data = (self._releases / version).read_bytes()
        except OSError as error:
            raise ReleaseError(f"release {version}: {error.strerror}") from error
        if version_of(data) != version:
            raise ReleaseError(
                f"release {version}: the content is that of {version_of(data)}; remove the file"
            )
        return data, Release.from_bytes(data)
