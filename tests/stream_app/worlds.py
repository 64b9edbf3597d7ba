"""Small worlds for the tests of the core: a ranker with known weights, and a learner fed by a shop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruning import Float32, Snapshot
from pruning.artefact import Artefact
from stream_app.events import Event
from stream_app.model.candidates import Scratch, new_scratch
from stream_app.model.examples import ExampleBatch
from stream_app.model.features import (
    CLIP,
    LIST_NUMBER,
    LIST_TOKEN,
    LIST_TOKENS,
    N_NUMBERS,
    NUMBER_TOKENS,
    TOKEN_VALUE,
)
from stream_app.model.item_index import USER_TOKENS, ItemIndex, user_tokens
from stream_app.model.learning import Learner, ranker_step
from stream_app.model.release import Overlay
from stream_app.model.retrieval import LENGTH_BUCKETS, new_covisits, new_neighbours, new_stats
from stream_app.model.scoring import View
from stream_app.model.served_model import NO_MOVES, FreshWeights, bare_weights, make_view
from stream_app.recommender import Outcome, Recommender

MASK = (1 << 64) - 1


def cross_oracle(user: int, item: int) -> int:
    """The token of a pair of tokens, in Python's integers."""
    field = ((user >> 48) * 0x9E37 + (item >> 48)) & 0xFFFF
    h = (user * 0x9E3779B97F4A7C15 & MASK) ^ item
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ h >> 27) * 0x94D049BB133111EB & MASK
    h ^= h >> 31
    return field << 48 | ((h & 0xFFFFFFFFFFFF) or 1)


def features_oracle(
    raw: Sequence[float], tokens: Sequence[int], user: Sequence[int], bucket: int, gap: int,
    mean: Sequence[float], inv_std: Sequence[float], measures: Mapping[int, float] | None = None, *,
    listed: bool = False,
) -> dict[int, float]:  # fmt: skip
    """features(candidate): token → value, as the module's docstring says; `listed` as in a list shown."""
    number_tokens, of_number, of_token = NUMBER_TOKENS, 1.0, 1.0
    if listed:
        number_tokens, of_number, of_token = LIST_TOKENS, float(LIST_NUMBER), float(LIST_TOKEN)
    x = {key: of_token * value for key, value in (measures or {}).items()}
    for f in range(N_NUMBERS):
        value = min(CLIP, max(-CLIP, (raw[f] - mean[f]) * inv_std[f]))
        for column in (0, 1 + bucket, 1 + LENGTH_BUCKETS + gap):
            x[int(number_tokens[f, column])] = of_number * value
    for t in tokens:
        x[t] = x.get(t, 0.0) + of_token * float(TOKEN_VALUE)
        for g in user:
            if g and (t != tokens[0] or g != user[0]):  # never user × item
                key = cross_oracle(g, t)
                x[key] = x.get(key, 0.0) + of_token * float(TOKEN_VALUE)
    return x


@dataclass
class Ranked:
    """Items, a user, and a view whose every weight is known."""

    items: ItemIndex
    view: View
    weights: dict[int, float]
    user: NDArray[np.uint64]
    scratch: Scratch

    def tokens(self, i: int) -> list[int]:
        """The tokens of an item."""
        return [int(self.items.vocabulary[v]) for v in self.items.tokens[i] if v >= 0]

    def measures(self, i: int) -> dict[int, float]:
        """What is measured of an item, by token."""
        measured = zip(self.view.measure_tokens.tolist(), self.view.measures[i].tolist(), strict=True)
        return {key: value for key, value in measured if key}

    def score(self, i: int, raw: Sequence[float], bucket: int, gap: int, *, listed: bool = False) -> float:
        """Σ weight · value over the features of a candidate."""
        w = self.view.weights
        x = features_oracle(
            raw, self.tokens(i), self.user.tolist(), bucket, gap, w.mean.tolist(), w.inv_std.tolist(),
            self.measures(i), listed=listed,
        )  # fmt: skip
        return sum(self.weights.get(key, 0.0) * value for key, value in x.items())


def ranked(seed: int, n: int = 30, *, fresh_share: float = 0.3) -> Ranked:
    """A view over `n` items with random rows, counters and weights, some fresher than the release."""
    rng = np.random.default_rng(seed)
    items = ItemIndex()
    for i in range(n):
        categories = [f"c{k}" for k in rng.choice(6, int(rng.integers(0, 4)), replace=False)]
        items.describe(
            f"i{i}", price=float(rng.choice([9.0, 30.0])) if rng.random() < 0.7 else None,
            categories=categories, attributes={"brand": f"b{rng.integers(3)}"} if rng.random() < 0.5 else {},
            servable=bool(rng.random() < 0.9),
        )  # fmt: skip
    user = np.zeros(USER_TOKENS, np.uint64)
    known = user_tokens("u", {"age": 33, "country": "SE", "tags": ["x", "y"]})
    user[: len(known)] = known
    item_keys = {int(k) for k in items.vocabulary if k}
    keys = item_keys | {int(k) for k in (*NUMBER_TOKENS.ravel(), *LIST_TOKENS.ravel())}
    keys |= {int(k) for k in items.measured.tokens if k}
    keys |= {cross_oracle(int(g), k) for g in known for k in item_keys}
    chosen = np.array(sorted(k for k in keys if rng.random() < 0.8), np.uint64)
    values = rng.normal(0, 1, len(chosen)).astype(np.float32)
    in_release = rng.random(len(chosen)) < 0.8
    fresh, newer = FreshWeights(), rng.random(len(chosen)) < fresh_share
    fresh.put(chosen[newer], values[newer] + np.float32(0.5))
    weights = dict(zip(chosen[in_release].tolist(), values[in_release].tolist(), strict=True))
    weights |= dict(zip(chosen[newer].tolist(), (values[newer] + np.float32(0.5)).tolist(), strict=True))
    snapshot = Snapshot(chosen[in_release], values[in_release].astype(float), np.ones(int(in_release.sum())))
    near, stats = new_neighbours(items.capacity, 6), new_stats(items.capacity)
    for j in range(n):
        m = int(rng.integers(0, 7))
        near.item[j, :m] = rng.choice(n, m, replace=False)
        near.score[j, :m] = np.sort(rng.integers(1, 256, m))[::-1]
        near.scale[j] = rng.uniform(0.001, 0.01)
    stats.first[:n] = rng.integers(-1, 100, n)
    stats.last[:n] = np.where(stats.first[:n] < 0, -1, stats.first[:n] + rng.integers(0, 100, n))
    seen = stats.last[:n] >= 0
    stats.count[:n] = np.where(seen, rng.integers(1, 50, n), 0)
    stats.trend[:n] = np.where(seen[:, None], rng.uniform(0, 9, (n, 2)), 0)
    stats.by_length[:n] = np.where(seen[:, None], rng.uniform(0, 9, (n, LENGTH_BUCKETS)), 0)
    mean = rng.normal(0, 1, N_NUMBERS).astype(np.float32)
    inv_std = rng.uniform(0.2, 5, N_NUMBERS).astype(np.float32)
    stats.rate[:n] = rng.normal(0, 0.5, n)
    view = View(
        learned=False, graph=new_covisits(1, 1), neighbours=near, stats=stats,
        weights=bare_weights(Artefact.build(snapshot, None, Float32()), fresh, mean, inv_std),
        item_tokens=items.tokens, vocabulary=items.vocabulary, measures=items.measures,
        measure_tokens=items.measured.tokens, servable=items.servable,
        pool=rng.choice(n, 5, replace=False).astype(np.int32), step=150, moves=NO_MOVES,
    )  # fmt: skip
    return Ranked(items, make_view(view), weights, user, new_scratch(items.capacity, len(items.vocabulary)))


def view_event(t: int, user: str, item: str, kind: str = "view_item") -> Event:
    """A small event at second `t`."""
    return Event(f"e{t}", kind, 1_767_600_000_000 + t * 1000, user, item_id=item)


def random_events(n: int, seed: int = 0, n_users: int = 12, n_items: int = 25) -> list[Event]:
    """Users who go round in their own corner of a small shop."""
    rng = np.random.default_rng(seed)
    kinds = ("view_item", "add_to_cart", "purchase", "view_item_list")
    out = []
    for t in range(n):
        u = int(rng.integers(n_users))
        i = (u * 7 + int(rng.integers(12))) % n_items
        out.append(view_event(t, f"u{u}", f"i{i}", kinds[int(rng.choice(4, p=[0.6, 0.2, 0.1, 0.1]))]))
    return out


def feed(
    recommender: Recommender,
    events: Sequence[Event],
    first_offset: int = 0,
    *,
    states: Mapping[str, bytes] | None = None,
    lists: bool = True,
) -> Outcome:
    """Load who is missing and apply events of partition 0."""
    for user_id in recommender.missing(events):
        recommender.users.load(user_id, (states or {}).get(user_id))
    offsets = range(first_offset, first_offset + len(events))
    return recommender.apply(0, offsets, events, lists=lists)


class Pair:
    """A worker's recommender and a learner, joined by bytes as in the real system."""

    def __init__(self, learner: Learner | None = None) -> None:
        self.learner = Learner() if learner is None else learner
        self.recommender = Recommender(k=10)
        self.batches: list[ExampleBatch] = []
        self.offset = 0
        self._known = (0, 0)

    def run(self, events: Sequence[Event], every: int = 50) -> Pair:
        """Feed events in batches; after each one the worker gets an overlay."""
        for start in range(0, len(events), every):
            part = events[start : start + every]
            outcome = feed(self.recommender, part, self.offset)
            self.offset += len(part)
            if outcome.examples is None:
                continue
            batch = ExampleBatch.from_bytes(outcome.examples.to_bytes())
            self.batches.append(batch)
            self.learner.learn(batch)
            self.sync()
        return self

    def sync(self) -> None:
        """Bring the worker up to date."""
        model, learner = self.recommender.model, self.learner
        overlay = learner.overlay(*self._known, model.width)
        model.apply(Overlay.from_bytes(overlay.to_bytes()))
        self._known = (learner.step, ranker_step(learner.ranker))
