"""Scoring speed: a release beside River and beside bare reads of memory; kept parts; top K of a million.

`release` scores candidates of 28 features each, every one of which it holds. `floor` reads as many 4-byte
weights at known places of a table as large, and adds them up: no table that has to be searched is faster.
`in_lists` is what a worker does: the item's own part is summed up once per release, the user's crosses with a
category once per list. `smaller` compares the release of a real model with its unpruned float32 weights, on
events that nobody has learned.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim

from benchmarks import prune_data
from benchmarks.prune import LAMBDA, quality, train
from benchmarks.timing import Rates, Work, at_least, at_most, by_turns, clocked
from pruning import (
    Artefact,
    Examples,
    Float32,
    SaliencyPruner,
    Snapshot,
    progressive,
    select_fields,
    snapshot,
)
from stream_app.model.candidates import MOST_OFFERS, new_scratch, start_user
from stream_app.model.features import GAP_BUCKETS, N_NUMBERS
from stream_app.model.item_index import ITEM_TOKENS, USER_TOKENS
from stream_app.model.measures import MEASURES
from stream_app.model.ranker import FTRLClassifier
from stream_app.model.retrieval import LENGTH_BUCKETS, Neighbours, new_covisits, new_stats
from stream_app.model.scoring import Users, View, refresh, score, sum_item_tokens
from stream_app.model.served_model import NO_MOVES, FreshWeights, bare_weights, make_view

FEATURES = 28
WEIGHTS = (10_000, 100_000, 1_000_000)
CANDIDATES = (1_000, 10_000, 100_000, 1_000_000)
RIVER_CANDIDATES = 1_000
ITEMS = 1_000_000  # to retrieve from
NEIGHBOURS, HISTORY, LISTS, K = 200, 50, 200, 20


@nb.njit(cache=True, nogil=True)
def gather(table, places, out):  # type: ignore[no-untyped-def]
    """The sums of `FEATURES` weights each, at known places."""
    for i in range(len(out)):
        total = np.float32(0.0)
        for j in range(i * FEATURES, (i + 1) * FEATURES):
            total += table[places[j]]
        out[i] = total


def made_up(count: int, random: np.random.Generator) -> Snapshot:
    """Weights of `count` tokens in as many fields as a candidate has features."""
    fields = np.sort(random.choice(np.arange(1, 65_536), FEATURES, replace=False)).astype(np.uint64)
    values = random.integers(1, 1 << 48, count).astype(np.uint64)
    keys = np.unique(fields[np.arange(count) % FEATURES] << np.uint64(48) | values)
    return Snapshot(keys, random.normal(size=len(keys)), np.ones(len(keys)))


def sizes(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Nanoseconds per candidate by number of weights and of candidates."""
    random, found = np.random.default_rng(seed), {}
    for weights in WEIGHTS:
        frozen = made_up(weights, random)
        release, table = Artefact.build(frozen), frozen.weights.astype(np.float32)
        river, some = _river(frozen, random)
        for n in CANDIDATES:
            places = random.integers(0, len(table), n * FEATURES).astype(np.uint32)
            keys, ones = frozen.keys[places], np.ones(len(places), np.float32)
            indptr, out = np.arange(0, len(places) + 1, FEATURES), np.empty(n, np.float32)
            often = max(1, 20_000 // n)
            scored = functools.partial(release.score_many, keys, ones, indptr)
            gathered = functools.partial(gather, table, places, out)
            works: dict[str, tuple[float, Work]] = {
                "release": (n * often, _often(often, scored)),
                "floor": (n * often, _often(often, gathered)),
                "river": (len(some), _all(river.predict_proba_one, some)),
            }
            found[f"{weights:,} weights, {n:,} candidates"] = by_turns(works, rounds)
    return found


def _often(times: int, work: Any) -> Work:
    return clocked(lambda: [work() for _ in range(times)])


def _all(predict: Any, candidates: list[dict[int, float]]) -> Work:
    return clocked(lambda: [*map(predict, candidates)])


def _river(frozen: Snapshot, random: np.random.Generator) -> tuple[Any, list[dict[int, float]]]:
    """River's logistic regression with the same tokens, and candidates for it."""
    model = linear_model.LogisticRegression(optim.FTRLProximal(0.2, 1.0, 0.0, 1.0))
    keys = frozen.keys.tolist()
    for start in range(0, len(keys), FEATURES):
        model.learn_one(dict.fromkeys(keys[start : start + FEATURES], 1.0), start % 3 == 0)
    drawn = random.integers(0, len(keys), (RIVER_CANDIDATES, FEATURES)).tolist()
    return model, [{keys[place]: 1.0 for place in row} for row in drawn]


def world(items: int, seed: int = 0) -> tuple[View, Users]:
    """A shop whose items have 3 of 1,000 categories, and users of 5 attributes with `HISTORY` items each.

    A candidate then has 27 features: 4 tokens of the item and 23 crosses with the user. Of the neighbours
    only the rows that some user's history asks for are filled in; the others are never read.
    """
    random = np.random.default_rng(seed)
    vocabulary = np.unique(random.integers(1 << 49, 1 << 62, items + 2_000).astype(np.uint64))[
        : items + 1_000
    ]
    tokens = np.full((items, ITEM_TOKENS), -1, np.int32)
    tokens[:, 0] = np.arange(items)
    tokens[:, 1:4] = items + random.integers(0, 1_000, (items, 3))
    stats = new_stats(items)
    stats.count[:], stats.first[:], stats.last[:] = 1, 0, random.integers(0, items, items)
    history = random.integers(0, items, (LISTS, HISTORY)).astype(np.int32)
    near = Neighbours(
        np.zeros((items, NEIGHBOURS), np.int32),
        np.zeros((items, NEIGHBOURS), np.uint8),
        np.ones(items, np.float32),
    )
    asked = np.unique(history)
    near.item[asked] = random.integers(0, items, (len(asked), NEIGHBOURS))
    near.score[asked] = np.sort(random.integers(1, 256, (len(asked), NEIGHBOURS)))[:, ::-1]
    release = Artefact.build(made_up(100_000, random))
    mean, inv_std = np.zeros(N_NUMBERS, np.float32), np.ones(N_NUMBERS, np.float32)
    view = View(
        learned=False, graph=new_covisits(1, 1), neighbours=near, stats=stats,
        weights=bare_weights(release, FreshWeights(), mean, inv_std), item_tokens=tokens,
        vocabulary=vocabulary, measures=np.zeros((items, MEASURES), np.float32),
        measure_tokens=np.ones(MEASURES, np.uint64), servable=np.ones(items, np.uint8),
        pool=np.arange(110, dtype=np.int32), step=items, moves=NO_MOVES,
    )  # fmt: skip
    of_users = np.zeros((LISTS, USER_TOKENS), np.uint64)
    of_users[:, :6] = random.integers(1 << 49, 1 << 62, (LISTS, 6)).astype(np.uint64)
    users = Users(
        items=history, best=np.zeros(history.shape, np.uint8), length=np.full(LISTS, HISTORY, np.int32),
        last_ms=np.zeros(LISTS, np.int64), tokens=of_users, offered=np.zeros((LISTS, MOST_OFFERS), np.int32),
        taken=np.zeros((LISTS, MOST_OFFERS), np.uint8), offers=np.zeros(LISTS, np.int32),
        request=np.zeros(LISTS, np.uint64), listed=np.zeros(LISTS, np.int32),
        listed_gap=np.zeros(LISTS, np.uint8),
    )  # fmt: skip
    return make_view(view), users


def in_lists(rounds: int, items: int = 100_000, candidates: int = 10_000) -> Rates:
    """Candidates scored a second where parts are kept, items summed up a second, and the floor of both."""
    view, users = world(items)
    scratch = new_scratch(items, len(view.vocabulary))
    some = np.random.default_rng(1).integers(0, items, candidates).astype(np.int32)
    raw, out = np.zeros((candidates, N_NUMBERS), np.float32), np.empty(candidates, np.float32)
    table = np.ones(100_000, np.float32)
    places = np.random.default_rng(2).integers(0, len(table), candidates * FEATURES).astype(np.uint32)
    token_weights, item = np.ones(len(view.vocabulary), np.float32), np.empty(items, np.float32)

    def lists(user: NDArray[np.uint64]) -> None:
        start_user(scratch, some[:0])
        score(view, some, raw, user, LENGTH_BUCKETS - 1, GAP_BUCKETS - 1, scratch, out)

    described = users.tokens[0]
    stranger = np.where(np.arange(USER_TOKENS) == 0, described, np.uint64(0))  # without attributes
    return by_turns(
        {
            "in_lists": (candidates * 4, _often(4, functools.partial(lists, described))),
            "in_lists_of_strangers": (candidates * 4, _often(4, functools.partial(lists, stranger))),
            "items_summed": (items, clocked(lambda: sum_item_tokens(token_weights, view.item_tokens, item))),
            "floor": (candidates * 4, _often(4, lambda: gather(table, places, out))),
        },
        rounds,
    )


def top_of_a_million(rounds: int) -> Rates:
    """Lists made a second, all steps of retrieval and ranking, when there are a million items."""
    view, users = world(ITEMS)
    scratch = new_scratch(ITEMS, len(view.vocabulary))
    rows, gaps = np.arange(LISTS, dtype=np.int32), np.zeros(LISTS, np.uint8)
    items, scores = np.zeros((LISTS, K), np.int32), np.zeros((LISTS, K), np.float32)
    count = np.zeros(LISTS, np.int32)
    everything = functools.partial(refresh, view, users, rows, gaps, True, scratch, items, scores, count)
    return by_turns({"lists": (LISTS, clocked(everything))}, rounds)


def smaller(rounds: int) -> dict[str, Any] | None:
    """A movielens model dense in float32, and as it is released: fields chosen, 12.4 % kept, int8."""
    path = prune_data.movielens_path()
    if path is None:
        return None
    stream = prune_data.movielens(path)
    early, past, test = stream.part(0, 0.6), stream.part(0, 0.8), stream.part(0.8, 1)
    dense = Artefact.build(snapshot(train(past, LAMBDA["movielens"])), quantizer=Float32())
    make = functools.partial(FTRLClassifier, 0.2, 1.0, 0.0, LAMBDA["movielens"])
    dropped = select_fields(
        progressive(Examples(early.keys, early.values, early.indptr, early.y), make)
    ).dropped
    few = snapshot(train(past.without(set(dropped)), LAMBDA["movielens"]))
    release = Artefact.build(few, SaliencyPruner(keep=int(0.124 * len(dense))).compute_mask(few))
    fewer = test.without(set(dropped))  # a worker does not compute the features that no weight is left for
    works = {
        name: (len(test), clocked(functools.partial(one.score_many, part.keys, part.values, part.indptr)))
        for name, one, part in (("dense", dense, test), ("release", release, fewer))
    }
    return {
        "rates": by_turns(works, rounds),
        "bytes": {"dense": _float32_bytes(dense), "release": release.nbytes},
        "quality": {"dense": quality(dense, test), "release": quality(release, fewer)},
    }


def _float32_bytes(dense: Artefact) -> int:
    """What dense weights take at least: a 64-bit token and single precision each, no empty slots."""
    return 12 * len(dense)


def run(rounds: int = 5) -> dict[str, Any]:
    """Measure everything."""
    grid, kept, top, less = sizes(rounds), in_lists(rounds), top_of_a_million(rounds), smaller(rounds)
    slowest = max(one.ratio("floor", "release") for one in grid.values())
    goals = {
        "release_over_river": at_least(min(one.ratio("release", "river") for one in grid.values()), 60),
        "release_time_over_floor": at_most(slowest, 3),
        "in_lists_time_over_floor": at_most(kept.ratio("floor", "in_lists"), 1),
        "items_summed_time_over_floor": at_most(kept.ratio("floor", "items_summed"), 1),
        "top_20_of_a_million_ms": at_most(1e3 / top.median("lists"), 5),
    }
    results: dict[str, Any] = {
        "ns_per_candidate": {name: _ns(one) for name, one in grid.items()},
        "kept_parts_ns": _ns(kept),
        "top_20_of_a_million_ms": {name: 1e3 / value for name, value in top.table()["lists"].items()},
    }
    if less is None:
        results["skipped"] = "movielens-100k is not here: set RECS_DATA"
    else:
        size, found = less["bytes"], less["quality"]
        results["smaller"] = {"ns_per_event": _ns(less["rates"]), "bytes": size, "logloss_auc": found}
        goals |= {
            "pruned_int8_over_dense_float32": at_least(less["rates"].ratio("release", "dense"), 2),
            "dense_bytes_over_pruned": at_least(size["dense"] / size["release"], 10),
            "pruned_logloss_minus_dense": at_most(found["release"][0] - found["dense"][0], 0),
        }
    return {"results": results, "goals": goals}


def _ns(rates: Rates) -> dict[str, str]:
    """Nanoseconds with their spread, as text: median (least to most)."""

    def texts() -> Iterator[tuple[str, str]]:
        for name, rate in rates.table().items():
            middle, least, most = (1e9 / rate[key] for key in ("median", "most", "least"))
            yield name, f"{middle:,.1f} ({least:,.1f} to {most:,.1f})"

    return dict(texts())
