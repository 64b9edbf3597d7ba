"""Files of the learner: whole or not at all, whatever happens in between."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from stream_app.checkpoints import KEEP_RELEASES, StateDir
from stream_app.errors import CheckpointError, ReleaseError
from stream_app.model.learning import Learner
from stream_app.model.release import version_of
from stream_app.model.releasing import ReleaseCycle
from stream_app.online import default_agent
from tests.stream_app.worlds import Pair, random_events


def checkpoint(n: int) -> bytes:
    """A checkpoint that says which it is."""
    return Learner().to_bytes({"n": n})


def loaded(files: StateDir) -> int:
    """Which checkpoint is loaded."""
    found = files.load()
    assert found is not None
    return int(found[1]["n"])  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def files(tmp_path: Path) -> StateDir:
    """An empty folder."""
    return StateDir(tmp_path / "state")


def test_there_is_nothing_to_load_at_first(files: StateDir) -> None:
    """A new folder has no checkpoint, and only its owner may look into it."""
    assert files.load() is None
    assert files.path.stat().st_mode & 0o777 == 0o700


def test_the_latest_checkpoint_is_loaded(files: StateDir) -> None:
    """Each save replaces the one before, which stays beside it; files are the owner's only."""
    for n in (1, 2, 3):
        files.save(checkpoint(n))
        assert loaded(files) == n
    assert sorted(p.name for p in files.path.iterdir()) == ["checkpoint", "checkpoint.previous", "releases"]
    assert (files.path / "checkpoint").stat().st_mode & 0o777 == 0o600
    (files.path / "checkpoint").unlink()
    assert loaded(files) == 2


def test_a_learner_comes_back_whole(files: StateDir) -> None:
    """What was learned before a restart is there after it."""
    learner = Pair().run(random_events(200)).learner
    files.save(learner.to_bytes())
    found = StateDir(files.path).load()
    assert found is not None and found[0].to_bytes() == learner.to_bytes()


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "foreign"])
def test_a_damaged_checkpoint_is_passed_over_and_said(
    files: StateDir, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The previous one is loaded, and the log names the file that was refused and the one that was not."""
    files.save(checkpoint(1))
    files.save(checkpoint(2))
    path = files.path / "checkpoint"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": bytes(data[:-40]), "bit": bytes(data), "empty": b"", "foreign": b"\x80\x04pickle"}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert loaded(files) == 1
    assert f"{path} is refused" in caplog.text and "going on from" in caplog.text


def test_two_damaged_checkpoints_are_an_error(files: StateDir) -> None:
    """Nothing is guessed: the error names both files and the way out."""
    files.save(checkpoint(1))
    files.save(checkpoint(2))
    for name in ("checkpoint", "checkpoint.previous"):
        (files.path / name).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"checkpoint: .*checkpoint\.previous: .*move the files away"):
        files.load()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The setting, the path and the reason are in the error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"RECS_STATE_DIR=.*file/state: Not a directory; choose"):
        StateDir(tmp_path / "file" / "state")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(files: StateDir) -> None:
    """A disk that refuses is an error that names the file, and what was saved before can be loaded."""
    files.save(checkpoint(1))
    (files.path / f".checkpoint.{os.getpid()}.tmp").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*checkpoint"):
        files.save(checkpoint(2))
    assert loaded(files) == 1


def save_and_die(path: Path, place: str, turn: int) -> int:
    """Save three checkpoints in a child process; returns the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.environ["FAILPOINT"] = f"{place}:kill:{turn}"
        files = StateDir(path)
        for n in (1, 2, 3):
            files.save(checkpoint(n))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status)


@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.parametrize("place", ["checkpoint.after_link", "checkpoint.after_write"])
def test_a_kill_inside_a_save_leaves_a_checkpoint(tmp_path: Path, place: str, turn: int) -> None:
    """SIGKILL at any step of the first, second or third save: the newest whole one is loaded."""
    assert save_and_die(tmp_path / "state", place, turn) == signal.SIGKILL
    files = StateDir(tmp_path / "state")
    whole = turn if place == "checkpoint.after_write" else turn - 1
    if whole == 0:
        assert files.load() is None
    else:
        assert loaded(files) == whole
    files.save(checkpoint(9))
    assert loaded(files) == 9


def test_what_a_dying_process_left_is_removed(tmp_path: Path) -> None:
    """Half-written temporary files do not pile up, and never count as releases."""
    files = StateDir(tmp_path)
    for left in (tmp_path / ".checkpoint.77.tmp", tmp_path / "releases" / ".abc.77.tmp"):
        left.write_bytes(b"half")
    files.save(checkpoint(1))
    StateDir(tmp_path)
    assert not list(tmp_path.rglob("*.tmp")) and loaded(files) == 1


def release_bytes() -> bytes:
    """A release of nothing."""
    return ReleaseCycle(Learner(), default_agent()).active.data


def test_a_release_is_what_its_name_says(files: StateDir) -> None:
    """Read back it is the same; missing, damaged or renamed it is refused with the reason."""
    data = release_bytes()
    version = version_of(data)
    files.save_release(version, data)
    assert files.load_release(version)[0] == data
    with pytest.raises(ReleaseError, match="release 0123: No such file"):
        files.load_release("0123")
    path = files.path / "releases" / version
    path.rename(path.with_name("0123"))
    with pytest.raises(
        ReleaseError, match=f"release 0123: the content is that of {version}; remove the file"
    ):
        files.load_release("0123")
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(ReleaseError, match=f"release {version}: the content is that of"):
        files.load_release(version)


def test_only_the_latest_releases_are_kept(files: StateDir) -> None:
    """Of many releases the last few stay; one that is saved again counts as new."""
    for n in range(KEEP_RELEASES + 3):
        files.save_release(f"v{n}", b"x")
        os.utime(files.path / "releases" / f"v{n}", ns=(n, n))
    files.save_release("v4", b"x")
    files.save_release("v99", b"x")
    kept = {p.name for p in (files.path / "releases").iterdir()}
    assert len(kept) == KEEP_RELEASES and {"v4", "v99", "v7"} <= kept
