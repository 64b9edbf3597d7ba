"""What the benches of speed compute from what they see."""

import sys
from types import FrameType

import numpy as np
import pytest

from benchmarks.latency import _event_ms
from benchmarks.learn import bare_kernel, encoded, events
from benchmarks.prune_data import movielens_path
from benchmarks.score import gather
from benchmarks.steps import step_of
from benchmarks.timing import Rates, by_turns
from pruning.texts import encode_names
from stream_app.events import decode_event
from stream_app.model.ranker import FTRLClassifier


def test_a_ratio_is_that_of_rounds() -> None:
    """Rounds are compared with each other: a slow round of both changes no ratio."""
    rates = Rates({"ours": [20.0, 2.0, 60.0], "theirs": [10.0, 1.0, 20.0]})
    assert rates.ratio("ours", "theirs") == 2.0
    assert rates.table()["ours"] == {"median": 20.0, "least": 2.0, "most": 60.0}


def test_everybody_runs_once_per_round_and_once_before() -> None:
    """Turns alternate, and the first of each is not counted."""
    seen: list[str] = []
    works = {name: (1, lambda name=name: seen.append(name) or 0.5) for name in "ab"}
    assert by_turns(works, rounds=2).runs == {"a": [2.0, 2.0], "b": [2.0, 2.0]}
    assert seen == list("ababab")


def test_a_stack_belongs_to_the_innermost_known_step() -> None:
    """Decoding inside of a batch is decoding; what no line of the table knows is `other`."""
    found: list[str | None] = []

    def look(frame: FrameType, kind: str, argument: object) -> None:
        if frame.f_code.co_name in ("decode_event", "_fast"):
            found.append(step_of(frame, "worker"))

    sys.setprofile(look)
    try:
        decode_event(b'{"event_type":"view_item","event_time":1767607200,"user_id":"u1","item_id":"a"}')
    finally:
        sys.setprofile(None)
    assert set(found) == {"decode"}
    assert step_of(sys._getframe(), "worker") == "other"


def test_a_list_tells_the_time_of_its_event() -> None:
    """The time in a list's JSON is milliseconds since 1970; no list, no time."""
    assert _event_ms(b'{"event_time":"2026-01-05T10:00:00.123Z"}') == 1_767_607_200_123
    assert _event_ms(None) == _event_ms(b'{"event_time":null}') == -1


def test_the_gather_floor_adds_up_weights() -> None:
    """The floor of scoring is a sum of 28 weights per candidate."""
    random = np.random.default_rng(0)
    table, places = (
        random.normal(size=50).astype(np.float32),
        random.integers(0, 50, 28 * 4).astype(np.uint32),
    )
    out = np.empty(4, np.float32)
    gather(table, places, out)
    assert out == pytest.approx(table[places].reshape(4, 28).sum(axis=1), abs=1e-5)


@pytest.mark.skipif(movielens_path() is None, reason="movielens-100k is not here: set RECS_DATA")
def test_the_bare_kernel_learns_what_the_model_learns() -> None:
    """The floor of learning is the same arithmetic: z and Σg² of every feature come out equal."""
    path = movielens_path()
    assert path is not None
    names, y = events(path)
    names, y = names[:300], y[:300]
    keys, values, indptr = encode_names(names)
    known, ids = np.unique(keys, return_inverse=True)
    state = np.zeros((len(known), 2))
    bare_kernel(ids.astype(np.int32), indptr, y, state, 0.2, 1.0, 1.0)
    ours = FTRLClassifier(alpha=0.2, beta=1.0, l1=0.0, l2=1.0)
    ours.learn_many_encoded(keys, values, indptr, y)
    frozen = ours.weight_snapshot()
    assert frozen.dual == pytest.approx(state[:, 0], abs=1e-9)
    assert frozen.curvature == pytest.approx(state[:, 1], abs=1e-9)
    assert set(encoded(names, y)) == {"ours_encoded", "bare_kernel"}
