"""What each source of candidates and each group of features adds: the whole system, run without it.

Every row is a run of its own through `OnlineRecommender`: it learns from the first event on without the part
that is left out, and answers the same questions as the whole. Needs the data sets (`RECS_DATA`, as
`quality`) and half an hour, so that ``all`` leaves it out. Afterwards ``python -m benchmarks.ablation``
writes the table of ``docs/quality.md`` from ``benchmarks/results/ablation.json``; with names of streams it
runs those again first, and keeps the results of the others.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import machine
from pruning.tokens import field_id
from stream_app.evaluation import metrics
from stream_app.evaluation import run as answers_of
from stream_app.evaluation.plan import Plan, Record, make_plan
from stream_app.events import Item, User
from stream_app.formats import read
from stream_app.model.examples import ExampleBatch
from stream_app.model.features import LIST_TOKENS, NUMBER_TOKENS, NUMBERS, field_names
from stream_app.model.learning import Learner, touched_since
from stream_app.online import OnlineRecommender
from stream_app.simulator import Shop

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
DOCS = ROOT / "docs" / "quality.md"
Keys = NDArray[np.uint64]
K = 10
WHOLE = "nothing"
TITLES = {"movielens_100k": "MovieLens", "shop": "shop", "ranklens": "RankLens shown lists"}
SHOP_EVENTS = 20_000
RANKLENS_RECORDS = 20_000  # with 2,810 lists; all of them would take as long as MovieLens

SOURCES: Mapping[
    str, tuple[str, ...]
] = {  # of candidates; the pool's by their names in `Learner.pool_sources`
    "neighbours of the history": ("neighbours",),
    "links beyond the item just before": ("long links",),
    "what trends now": ("trend_fast",),
    "what trends slowly": ("trend_slow",),
    "newest items": ("new",),
    "everything that everybody is offered": ("trend_fast", "trend_slow", "new"),
}
NUMBER_GROUPS: Mapping[str, tuple[str, ...]] = {
    "how the history points at it": (
        "together",
        "together_flat",
        "together_best",
        "together_last",
        "support",
    ),
    "trends": ("trend_fast", "trend_slow"),
    "popularity": ("popularity", "by_length"),
    "age and idle time": ("idle", "age"),
    "categories shared with the history": ("affinity", "affinity_late"),
    "rate at which it is taken": ("rate",),
    "what the user took and left of offers": (
        "taste",
        "taste_category",
        "offered",
        "taken",
        "slope",
        "readiness",
    ),
    "whether the user chose it before": ("own", "own_recent"),
    "place in a shown list": ("position",),
}
NUMBER_TABLES = (NUMBER_TOKENS, LIST_TOKENS)  # features of each number: one for all, then those by context
CONTEXT = "weights by length of history and time gap"


# ---------------------------------------------------------------------------------- a model without a part


@dataclass(frozen=True, eq=False)
class Part:
    """Something the system can do without.

    Attributes
    ----------
    kind
        "candidates", "numbers" or "tokens"; "" for the whole.
    sources
        Which sources of candidates are left out.
    numbers
        Features of numbers that the ranker never gets to see, uint64 (m,).
    fields
        Fields of tokens that it never gets to see, uint64 (f,).
    """

    kind: str = ""
    sources: frozenset[str] = frozenset()
    numbers: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))
    fields: Keys = field(default_factory=lambda: np.zeros(0, np.uint64))

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Which features (k,) belong to it. Fields of 16 bits may collide, so numbers are told by name."""
        of_tokens = np.isin(keys >> np.uint64(48), self.fields) & ~np.isin(keys, np.stack(NUMBER_TABLES))
        return np.isin(keys, self.numbers) | of_tokens


class Without:
    """A ranker that never sees some features: what it never learned weighs nothing in any score.

    Parameters
    ----------
    ranker
        The classifier that learns the rest, and that answers for everything else.
    part
        What is taken out of the pairs before they are learned.
    """

    def __init__(self, ranker: Any, part: Part) -> None:
        self._ranker = ranker
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranker, name)

    def learn_many_encoded(
        self, keys: Keys, values: NDArray[np.float32], indptr: NDArray[np.int64], *rest: Any
    ) -> Any:
        """Learn pairs without those features."""
        kept = ~self._part.has(keys)
        ends = np.concatenate(([0], np.cumsum(kept)))  # entries kept before each place
        return self._ranker.learn_many_encoded(keys[kept], values[kept], ends[indptr], *rest)


class PartialLearner(Learner):
    """A learner that does without a part."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        if len(part.numbers) or len(part.fields):
            self.ranker = Without(self.ranker, part)
        self._sources = part.sources

    def learn(self, batch: ExampleBatch) -> int:
        """Learn examples; without neighbours nothing is linked, so no history points at anything."""
        if "neighbours" in self._sources:
            batch = replace(batch, history=np.full_like(batch.history, -1))
        elif "long links" in self._sources:
            history = np.full_like(batch.history, -1)
            history[:, -1] = batch.history[:, -1]
            batch = replace(batch, history=history)
        return super().learn(batch)

    def pool_sources(self) -> dict[str, NDArray[np.int32]]:
        """The sources of the pool that are not left out."""
        return {name: items for name, items in super().pool_sources().items() if name not in self._sources}


class Partial(OnlineRecommender):
    """The dense recommender without a part; it answers only what the table needs.

    Parameters
    ----------
    part
        What it does without.
    lists
        Whether lists are asked for; where only shown lists are judged, they are not.
    """

    def __init__(self, part: Part, *, lists: bool = True) -> None:
        super().__init__(compress=False, learner=PartialLearner(part))
        self._lists = lists

    def recommend(self, user_id: str, event_time_ms: int, k: int, *, exclude_seen: bool = True) -> list[str]:
        """A list, or none where lists are not asked for."""
        if not self._lists:
            return []
        return super().recommend(user_id, event_time_ms, k, exclude_seen=exclude_seen)

    def score_items(
        self,
        user_id: str,
        item_ids: Sequence[str],
        event_time_ms: int,
        positions: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """Scores of shown lists; AUC, which takes as long as all lists, is not asked for."""
        if positions is None:
            return np.full(len(item_ids), np.nan)
        return super().score_items(user_id, item_ids, event_time_ms, positions)


def parts(records: Iterable[Record]) -> dict[str, Part]:
    """What can be left out on some data: name → part, the whole first.

    A number that no group names is a group of its own.

    >>> found = parts([Item("i", attributes={"brand": "acme"}), User("u", attributes={"age": 34})])
    >>> price = np.array([field_id("price") << 48], np.uint64)
    >>> [name for name, part in found.items() if part.has(price).any()]
    ["the item's categories and attributes"]
    """
    item_fields, user_fields = {"category", "price"}, {"user"}
    for record in records:
        if isinstance(record, Item):
            item_fields.update(record.attributes)
        elif isinstance(record, User):
            user_fields.update(record.attributes)
    found = {WHOLE: Part()}
    found |= {name: Part("candidates", sources=frozenset(sources)) for name, sources in SOURCES.items()}
    named = {number for numbers in NUMBER_GROUPS.values() for number in numbers}
    groups = {**NUMBER_GROUPS, **{number: (number,) for number in NUMBERS if number not in named}}
    for name, numbers in groups.items():
        rows = np.isin(NUMBERS, numbers)
        found[name] = Part("numbers", numbers=np.ravel([table[rows] for table in NUMBER_TABLES]))
    found[CONTEXT] = Part("numbers", numbers=np.ravel([table[:, 1:] for table in NUMBER_TABLES]))

    crosses = {n: f for f, n in field_names(["item", *item_fields], [*user_fields]).items() if "×" in n}
    of_user = {name for name in crosses if name.startswith("user ×")}
    tokens = {
        "the item itself": [field_id("item")],
        "the item's categories and attributes": [field_id(name) for name in item_fields],
        "the user × attributes of the item": [crosses[name] for name in of_user],
        "attributes of the user × the item and its own": [crosses[n] for n in crosses.keys() - of_user],
    }
    return found | {name: Part("tokens", fields=np.array(f, np.uint64)) for name, f in tokens.items()}


# ---------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Stream:
    """A data set, and what is asked on it."""

    records: Callable[[], Iterable[Record]]
    is_there: bool
    shown_lists: bool = False


def streams() -> dict[str, Stream]:
    """The streams of the table."""
    root = Path(os.environ.get("RECS_DATA") or ROOT.parent / "shared" / "data")
    movielens, ranklens = root / "movielens-100k", root / "ranklens" / "events.jsonl.gz"
    return {
        "movielens_100k": Stream(lambda: read(movielens), movielens.exists()),
        "shop": Stream(shop_records, is_there=True),
        "ranklens": Stream(
            lambda: islice(read(ranklens), RANKLENS_RECORDS), ranklens.exists(), shown_lists=True
        ),
    }


def shop_records(n: int = SHOP_EVENTS) -> Iterable[Record]:
    """A simulated shop with categories, brands, prices, described users, and new items."""
    shop = Shop(seed=1, n_items=1_000, n_users=500)
    yield from shop.items()
    yield from shop.users()
    yield from shop.records(n)


def run(*names: str) -> dict[str, Any]:
    """Run the whole and everything that can be left out, on each of these streams; on all that are there."""
    chosen = {n: s for n, s in streams().items() if (n in names if names else s.is_there)}
    return {"results": {name: ablate(stream, name) for name, stream in chosen.items()}, "goals": {}}


def ablate(stream: Stream, name: str = "") -> dict[str, Any]:
    """Rows of one stream: quality without each part, and the difference from the whole.

    A group of features that the data does not have is not run: there is nothing to leave out.
    """
    plan = make_plan(stream.records())
    users = _users(plan, stream.shown_lists)
    rows: dict[str, Any] = {}
    learned = np.zeros(0, np.uint64)
    whole: NDArray[np.float64] | None = None
    for row, part in parts(plan.records).items():
        if part.kind in ("numbers", "tokens") and not part.has(learned).any():
            continue
        if stream.shown_lists and part.sources & {"trend_fast", "trend_slow", "new"}:
            continue  # a list that is given needs no candidates
        model = Partial(part, lists=not stream.shown_lists)
        answers = answers_of(model, plan, k=K)
        gains = answers.impression_ndcg if stream.shown_lists else metrics.gains(answers.rank, K)
        rows[row] = {"kind": part.kind, f"ndcg@{K}": round(metrics.mean(gains), 6)}
        if not stream.shown_lists:
            rows[row][f"recall@{K}"] = round(metrics.recall_at_k(answers.rank, K), 6)
        if whole is None:
            whole, learned = gains, touched_since(model.learner.ranker, 0)[0]
        else:
            delta = gains - whole
            error = metrics.clustered_standard_error(delta, users)
            rows[row] |= {"difference": round(metrics.mean(delta), 6), "difference_se": round(error, 6)}
        print(f"{name} without {row}: {rows[row]}", file=sys.stderr, flush=True)
    return {"events": plan.n_events, "tests": len(users), "without": rows}


def _users(plan: Plan, shown_lists: bool) -> NDArray[np.int64]:
    """The user of each test, or of each shown list: differences of one user depend on each other."""
    if not shown_lists:
        return plan.user
    names = [plan.records[index].user_id for index in sorted(plan.impressions)]  # type: ignore[union-attr]
    return np.unique(np.array(names), return_inverse=True)[1]


# ---------------------------------------------------------------------------------- the table of the docs


def markdown(results: Mapping[str, Any]) -> str:
    """One table of all streams; differences of at least two standard errors are bold.

    >>> rows = {"nothing": {"kind": "", "ndcg@10": 0.5}}
    >>> rows["trends"] = {"kind": "numbers", "ndcg@10": 0.4, "difference": -0.1, "difference_se": 0.01}
    >>> print(markdown({"shop": {"without": rows}}))
    |  | left out | shop ndcg@10 | difference |
    |---|---|---:|---:|
    |  | nothing | .5000 |  |
    | numbers | trends | .4000 | **−.1000** ± .0100 |
    """
    titles: list[str] = []
    for name, result in results.items():
        whole = result["without"][WHOLE]
        titles += [f"{TITLES[name]} {key}" for key in (f"recall@{K}", f"ndcg@{K}") if key in whole] + [
            "difference"
        ]
    lines = [f"|  | left out | {' | '.join(titles)} |", "|---|---|" + "---:|" * len(titles)]
    kinds = {row: found["kind"] for result in results.values() for row, found in result["without"].items()}
    for row, kind in sorted(
        kinds.items(), key=lambda item: ("", "candidates", "numbers", "tokens").index(item[1])
    ):
        cells: list[str] = []
        for result in results.values():
            found, whole = result["without"].get(row), result["without"][WHOLE]
            keys = [key for key in (f"recall@{K}", f"ndcg@{K}") if key in whole]
            cells += ["–" if found is None else _number(found[key]) for key in keys]
            cells.append("" if row == WHOLE else "–" if found is None else _difference(found))
        lines.append(f"| {kind} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _difference(row: Mapping[str, float]) -> str:
    value, error = row["difference"], row["difference_se"]
    sign = "" if round(abs(value), 4) == 0 else "−" if value < 0 else "+"
    text = f"{sign}{_number(abs(value))}"
    return f"{f'**{text}**' if abs(value) >= 2 * error > 0 else text} ± {_number(error)}"


def with_table(text: str, results: Mapping[str, Any]) -> str:
    """The text with the table between its two markers."""
    place = re.compile(r"(<!-- ablation:begin -->\n).*?(<!-- ablation:end -->)", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"{DOCS.name} has no place for the table: write <!-- ablation:begin --> and …:end")
    return place.sub(lambda found: f"{found[1]}{markdown(results)}\n{found[2]}", text)


def main(names: Sequence[str]) -> None:
    """Run the streams with these names, put what was found beside the other results, and write the table."""
    report: dict[str, Any] = (
        json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"name": RESULTS.stem, "results": {}}
    )
    if names:
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        found = {**report["results"], **run(*names)["results"]}
        results = {name: found[name] for name in streams() if name in found}
        report |= {"machine": machine(), "date": date, "results": results, "goals": {}}
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    DOCS.write_text(with_table(DOCS.read_text(), report["results"]))


if __name__ == "__main__":
    main(sys.argv[1:])
