"""The two encoded streams the pruning benchmark runs on: movielens-100k and a heavy-tailed synthetic one."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pruning import Artefact, field_id

GOLDEN, M1, M2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Encoded examples in time order.

    Parameters
    ----------
    keys
        uint64 (nnz,).
    indptr
        int64 (n+1,).
    y
        float32 (n,).
    names
        Field number → name.
    floor
        The Bayes logloss, where it is known.
    """

    keys: NDArray[np.uint64]
    indptr: NDArray[np.int64]
    y: NDArray[np.float32]
    names: dict[int, str]
    floor: float | None = None

    @property
    def values(self) -> NDArray[np.float32]:
        """One per token, float32 (nnz,)."""
        return np.ones(len(self.keys), np.float32)

    def __len__(self) -> int:
        return len(self.y)

    def part(self, first: float, last: float) -> Stream:
        """The events between two shares of the stream."""
        a, b = round(first * len(self)), round(last * len(self))
        cut = slice(self.indptr[a], self.indptr[b])
        return Stream(
            self.keys[cut], self.indptr[a : b + 1] - self.indptr[a], self.y[a:b], self.names, self.floor
        )

    def only(self, artefact: Artefact) -> Stream:
        """The same events with the features that an artefact has kept."""
        return self.select(artefact.lookup(self.keys) != 0)

    def without(self, fields: set[int]) -> Stream:
        """The same events without the tokens of some fields."""
        return self.select(~np.isin(self.keys >> np.uint64(48), np.array(sorted(fields), np.uint64)))

    def select(self, keep: NDArray[np.bool_]) -> Stream:
        ends = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return Stream(self.keys[keep], ends, self.y, self.names, self.floor)


def tokens(field: str, codes: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Tokens of integer codes: splitmix64 of the code under the number of the field, (n,)."""
    h = codes.astype(np.uint64) + GOLDEN
    h = (h ^ (h >> np.uint64(30))) * M1
    h = (h ^ (h >> np.uint64(27))) * M2
    h ^= h >> np.uint64(31)
    return (np.uint64(field_id(field)) << np.uint64(48)) | np.maximum(
        h & np.uint64((1 << 48) - 1), np.uint64(1)
    )


def movielens_path() -> Path | None:
    """Where movielens-100k is, or None: `RECS_DATA`, else `../shared/data`."""
    root = Path(os.environ.get("RECS_DATA", "../shared/data"))
    path = root / "movielens-100k" / "river_ml_100k.zip"
    return path if path.exists() else None


def movielens_rows(path: Path) -> Iterator[dict[str, str]]:
    """The ratings in time order."""
    with zipfile.ZipFile(path) as archive, archive.open("ml_100k.csv") as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8"), delimiter="\t")


def movielens_features(row: dict[str, str]) -> tuple[list[tuple[str, str]], float]:
    """24.5 (field, value) pairs per rating, and whether it is 4 or 5."""
    second = int(row["timestamp"]) // 10**9
    hour, weekday = str(second // 3600 % 24), str(second // 86400 % 7)
    user, item, gender, occupation = row["user"], row["item"], row["gender"], row["occupation"]
    age, first_zip = str(int(float(row["age"])) // 10), row["zip_code"][:1]
    released = row["release_date"]
    decade = str(np.datetime64(int(float(released)), "ns").astype("datetime64[Y]"))[:3] if released else "?"
    pairs = [
        ("user", user), ("item", item), ("age", age), ("gender", gender), ("occupation", occupation),
        ("decade", decade), ("hour", hour), ("weekday", weekday), ("zip", first_zip),
        ("gender×item", gender + item), ("age×item", f"{age}|{item}"),
        ("occupation×item", f"{occupation}|{item}"),
        ("user×decade", f"{user}|{decade}"), ("hour×item", f"{hour}|{item}"), ("user×hour", f"{user}|{hour}"),
        ("weekday×item", f"{weekday}|{item}"),
    ]  # fmt: skip
    for genre in row["genres"].split(", "):
        pairs += [
            ("genre", genre), ("user×genre", f"{user}|{genre}"),
            ("occupation×genre", f"{occupation}|{genre}"), ("age×genre", f"{age}|{genre}"),
        ]  # fmt: skip
    return pairs, float(float(row["rating"]) >= 4)


def movielens(path: Path) -> Stream:
    """movielens-100k, encoded."""
    known: dict[tuple[str, str], int] = {}
    codes, ends, labels = [], [0], []
    for row in movielens_rows(path):
        pairs, y = movielens_features(row)
        codes += [known.setdefault(pair, len(known)) for pair in pairs]
        ends.append(len(codes))
        labels.append(y)
    names = list(dict.fromkeys(field for field, _ in known))
    table = np.empty(len(known), np.uint64)
    fields = np.array([field for field, _ in known])
    for name in names:
        own = np.flatnonzero(fields == name)
        table[own] = tokens(name, own)
    return Stream(
        table[codes], np.array(ends), np.array(labels, np.float32), {field_id(name): name for name in names}
    )


def synthetic(n: int = 1_500_000, seed: int = 7) -> Stream:
    """A heavy-tailed click stream: 20 Zipf fields, 8 crosses, about half of them noise."""
    rng = np.random.default_rng(seed)
    cardinalities = np.exp(np.linspace(np.log(8), np.log(300_000), 20)).astype(int)
    rng.shuffle(cardinalities)
    columns, names, codes = [], [], []
    logit = np.full(n, -1.8)
    for i, cardinality in enumerate(cardinalities):
        mass = np.cumsum(np.arange(1, cardinality + 1) ** -1.05)
        code = np.searchsorted(mass, rng.random(n) * mass[-1])
        if rng.random() < 0.6:
            logit += rng.normal(0, 0.45, cardinality)[code]
        codes.append(code)
        names.append(f"f{i}")
        columns.append(tokens(names[-1], code))
    possible = [
        (a, b)
        for a in range(20)
        for b in range(a + 1, 20)
        if 50 <= int(cardinalities[a]) * int(cardinalities[b]) <= 5e7
    ]
    for k, pick in enumerate(rng.choice(len(possible), 8, replace=False)):
        a, b = possible[pick]
        pair = codes[a] * int(cardinalities[b]) + codes[b]
        if k % 2 == 0:
            seen, inverse = np.unique(pair, return_inverse=True)
            logit += rng.normal(0, 0.35, len(seen))[inverse]
        names.append(f"f{a}×f{b}")
        columns.append(tokens(names[-1], pair))
    p = 1 / (1 + np.exp(-logit))
    y = (rng.random(n) < p).astype(np.float32)
    floor = float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())
    keys = np.stack(columns, axis=1).ravel()
    return Stream(keys, np.arange(0, n * 28 + 1, 28), y, {field_id(name): name for name in names}, floor)
