"""Learning speed: our model from names and from numbers, beside River, Vowpal Wabbit and the bare kernel.

Everybody learns the same events: movielens-100k in time order, label rating ≥ 4, 24.5 features per event
(`prune_data`), a logistic regression by FTRL-Proximal with a learning rate of .2. Who is slow gets the first
part of them only. Reading and formatting the data happens before the clock starts.
"""

from __future__ import annotations

import math
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numba as nb
import numpy as np
from numpy.typing import NDArray
from river import facto, linear_model, optim

from benchmarks import prune_data
from benchmarks.timing import Rates, Work, at_least, by_turns, clocked
from pruning.texts import encode_names
from stream_app.model.ranker import FTRLClassifier

CHUNK = 500  # events per call where a call takes many, as a consumer's poll brings them
PART = {"river": 4_000, "river_fm": 400, "one": 10_000, "vw": 20_000}  # events of those who are slow
VW = "--quiet --ftrl --ftrl_alpha 0.2 --ftrl_beta 1 --loss_function logistic -b 22"


def events(path: Path) -> tuple[list[list[str]], NDArray[np.float32]]:
    """The names of the features of every event, and the labels."""
    names, labels = [], []
    for row in prune_data.movielens_rows(path):
        pairs, y = prune_data.movielens_features(row)
        names.append([f"{field}={value}" for field, value in pairs])
        labels.append(y)
    return names, np.array(labels, np.float32)


def model() -> FTRLClassifier:
    """What all of our runs begin with."""
    return FTRLClassifier(alpha=0.2, beta=1.0, l1=0.0, l2=1.0)


def from_names(names: list[list[str]], y: NDArray[np.float32]) -> Work:
    """Chunks of names, encoded and learned; the names are new objects each time, as a decoder makes them."""
    starts = range(0, len(names), CHUNK)
    raw = [msgspec.json.encode(names[start : start + CHUNK]) for start in starts]
    decode = msgspec.json.Decoder(list[list[str]]).decode

    def run() -> float:
        ours, seconds = model(), 0.0
        for start, part in zip(starts, raw, strict=True):
            chunk = decode(part)
            began = time.perf_counter()
            ours.learn_many_encoded(*encode_names(chunk), y[start : start + CHUNK])
            seconds += time.perf_counter() - began
        return seconds

    return run


def one_by_one(make: Any, examples: list[dict[str, float]], y: list[bool]) -> Work:
    """River's interface: a dictionary per event."""

    def run() -> None:
        learner = make()
        for x, label in zip(examples, y, strict=True):
            learner.learn_one(x, label)

    return clocked(run)


def dict_encoding(names: list[list[str]]) -> Work:
    """The integers that a Python dictionary gives to names, as a program without hashing would."""

    def run() -> None:
        known: dict[str, int] = {}
        for start in range(0, len(names), CHUNK):
            for chunk in names[start : start + CHUNK]:
                np.array([known.setdefault(name, len(known)) for name in chunk], np.int32)

    return clocked(run)


@nb.njit(cache=True, nogil=True)
def bare_kernel(ids, indptr, labels, state, alpha, beta, l2):  # type: ignore[no-untyped-def]
    """FTRL over features that are numbered already: no table to search, nothing checked, nothing counted."""
    for i in range(len(labels)):
        logit = 0.0
        for j in range(indptr[i], indptr[i + 1]):
            z, n = state[ids[j], 0], state[ids[j], 1]
            logit -= z / ((beta + math.sqrt(n)) / alpha + l2)
        g = 1.0 / (1.0 + math.exp(-logit)) - labels[i]
        for j in range(indptr[i], indptr[i + 1]):
            z, n = state[ids[j], 0], state[ids[j], 1]
            total = n + g * g
            w = -z / ((beta + math.sqrt(n)) / alpha + l2)
            state[ids[j], 0] = z + g - (math.sqrt(total) - math.sqrt(n)) / alpha * w
            state[ids[j], 1] = total


def encoded(names: list[list[str]], y: NDArray[np.float32]) -> dict[str, tuple[float, Work]]:
    """Ours and the bare kernel, on numbers."""
    keys, values, indptr = encode_names(names)
    ids = np.unique(keys, return_inverse=True)[1].astype(np.int32)

    def bare() -> None:
        bare_kernel(ids, indptr, y, np.zeros((ids.max() + 1, 2)), 0.2, 1.0, 1.0)

    return {
        "ours_encoded": (len(y), clocked(lambda: model().learn_many_encoded(keys, values, indptr, y))),
        "bare_kernel": (len(y), clocked(bare)),
    }


def vowpal_wabbit(
    names: list[list[str]], y: NDArray[np.float32], folder: Path
) -> dict[str, tuple[float, Work]]:
    """Its Python API, an event per call, and its own reader over a file; empty when it is not installed."""
    if find_spec("vowpalwabbit") is None:
        return {}
    from vowpalwabbit import pyvw  # noqa: PLC0415  optional

    lines = [
        f"{1 if label else -1} | {' '.join(name.replace('|', '/') for name in row)}"
        for row, label in zip(names, y.tolist(), strict=True)
    ]
    file = folder / "movielens.vw"
    file.write_text("\n".join(lines) + "\n")

    def api() -> float:
        learner = pyvw.Workspace(VW)
        seconds = clocked(lambda: [*map(learner.learn, lines[: PART["vw"]])])()
        learner.finish()
        return seconds

    def driver() -> None:
        pyvw.Workspace(f"{VW} --no_stdin -d {file}").finish()

    return {"vw_python": (PART["vw"], api), "vw_file": (len(lines), clocked(driver))}


def run(rounds: int = 5) -> dict[str, Any]:
    """Measure everybody by turns."""
    path = prune_data.movielens_path()
    if path is None:
        return {"results": {"skipped": "movielens-100k is not here: set RECS_DATA"}, "goals": {}}
    names, y = events(path)
    labels = (y > 0).tolist()

    def part(size: str) -> tuple[list[dict[str, float]], list[bool]]:
        return [dict.fromkeys(row, 1.0) for row in names[: PART[size]]], labels[: PART[size]]

    with tempfile.TemporaryDirectory() as folder:
        works: dict[str, tuple[float, Work]] = {
            "ours_names": (len(y), from_names(names, y)),
            "ours_learn_one": (PART["one"], one_by_one(model, *part("one"))),
            **encoded(names, y),
            **vowpal_wabbit(names, y, Path(folder)),
            "river_ftrl": (PART["river"], one_by_one(_river, *part("river"))),
            "river_fm": (PART["river_fm"], one_by_one(_machine, *part("river_fm"))),
            "dict_encoding": (len(y), dict_encoding(names)),
        }
        found = by_turns(works, rounds)
    return _report(found, sum(map(len, names)) / len(names))


def _river() -> Any:
    return linear_model.LogisticRegression(optim.FTRLProximal(0.2, 1.0, 0.0, 1.0), intercept_lr=0.0)


def _machine() -> Any:
    return facto.FMClassifier(n_factors=8, seed=1)


def _report(found: Rates, features: float) -> dict[str, Any]:
    wanted = {
        "names_over_river_ftrl": ("ours_names", "river_ftrl", 8),
        "names_over_vw_python": ("ours_names", "vw_python", 1),
        "encoded_over_vw_file": ("ours_encoded", "vw_file", 3),
        "encoded_over_bare_kernel": ("ours_encoded", "bare_kernel", 0.5),
    }
    results: dict[str, Any] = {"events_per_s": found.table(), "features_per_event": round(features, 1)}
    if "vw_python" not in found.runs:
        results["missing"] = "vowpalwabbit is not installed: pip install 'stream-recommender[bench]'"
    return {
        "results": results,
        "goals": {
            name: at_least(found.ratio(ours, other), goal)
            for name, (ours, other, goal) in wanted.items()
            if other in found.runs
        },
    }
