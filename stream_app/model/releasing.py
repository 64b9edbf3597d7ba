"""The release cycle: propose a pruned release, replay it on later events, promote it or not, watch it.

    every `interval` examples     propose: freeze the learner, export it dense and pruned
    the examples that follow      replay both on each of them (nobody had learned them at the export)
    after `min_samples`           judge: promote, reject, or wait for twice as many
    after a promotion             watch for as long again, roll back if the guard rejects now
    after a rejection             prune less next time; after a promotion more again, up to `amount`

The comparison covers everything that is served: neighbour rows cut to the best and quantized, ranker pruned
and quantized, against the learner's own rows and weights as of the same step. No threads, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning import EmptyModelError, GuardDecision, Proposal, PruningAgent, SaliencyPruner
from pruning.agent import Pruner
from stream_app.model.candidates import new_scratch, select
from stream_app.model.eviction import NOBODY, Renumbering
from stream_app.model.examples import TAKEN, ExampleBatch
from stream_app.model.features import N_NUMBERS, describe
from stream_app.model.learning import Learner, ranker_step
from stream_app.model.release import Release, version_of
from stream_app.model.retrieval import ItemStats, compacted, length_bucket
from stream_app.model.scoring import MOST_CANDIDATES, View, gather, score, top_k
from stream_app.model.served_model import FreshWeights, ServedModel, bare_weights, empty_artefact, make_view

OVERLAP_AT = 10
LISTED_EVERY = 4  # examples of which one is told by lists, too; that is most of the work
SLICES = ("new users", "new items", "head", "tail")  # of the examples, none of which a release may sacrifice
NEW_USER = 4  # users with fewer items in their history are new
NEW_ITEM = 5.0  # so are items with less feedback
BACK_OFF = 0.75  # of the share to prune, after the guard said no


@dataclass(frozen=True)
class Published:
    """A release as it is served.

    Attributes
    ----------
    step, ranker_step
        Up to where the release knows everything; its overlays begin here.
    links
        Neighbour links that it holds, beside the ranker's weights.
    """

    version: str
    data: bytes
    release: Release
    step: int
    ranker_step: int
    links: int


class _Replayed(NamedTuple):
    """How both views of a trial did on some examples."""

    losses: NDArray[np.float64]  # (e, 2) dense, pruned
    overlap: NDArray[np.float64]  # (l,) how far the lists agree that were made
    slices: NDArray[np.bool_]  # (e, len(SLICES))


@dataclass
class _Trial:
    """A release on trial: both exports frozen, and how they did so far."""

    proposal: Proposal
    published: Published
    dense: View
    pruned: View
    needed: int
    head: float  # `head_of` the frozen counts
    places: NDArray[np.int32]  # number in both views by present number
    promoted: bool = False
    samples: int = 0
    replayed: list[_Replayed] = field(default_factory=list)  # until the promotion
    looks: int = 0  # how often the guard was asked
    watched: int = 0  # examples since the promotion, and the sum of their rise of the loss
    risen: float = 0.0

    def numbers(self, present: NDArray[np.int32]) -> NDArray[np.int32]:
        """The numbers that items had at the export; beyond the last where they had none."""
        beyond = np.append(self.places, np.int32(len(self.dense.servable)))
        return beyond[np.where(present == NOBODY, len(self.places), np.minimum(present, len(self.places)))]

    def renumber(self, moved: Renumbering) -> None:
        """Items that stay are found under their new numbers."""
        self.places = self.numbers(moved.kept)


class ReleaseCycle:
    """Drives a `pruning.PruningAgent` over a learner.

    Parameters
    ----------
    learner, agent
        What is exported, and who prunes, judges and keeps the ledger.
    pruner
        Makes a pruner for a share of weights to leave out; the agent gets one for each proposal.
    amount
        The largest such share.
    width
        Neighbours served per item.
    interval
        Examples between two proposals; the first comes after `first` examples.
    max_samples
        A trial that is still undecided then is given up.

    Attributes
    ----------
    active, previous
        The release that is served and the one before. The first is empty: until something is promoted,
        workers serve what its overlays bring, unpruned.
    """

    def __init__(
        self,
        learner: Learner,
        agent: PruningAgent,
        *,
        pruner: Callable[[float], Pruner] = SaliencyPruner,
        amount: float = 0.8,
        width: int = 200,
        interval: int = 10_000,
        first: int = 2_000,
        max_samples: int = 16_000,
    ) -> None:
        self.learner = learner
        self.agent = agent
        self.pruner = pruner
        self.amount = self._most = amount
        self.width = width
        self.interval = interval
        self.max_samples = max_samples
        self.active: Published
        self.previous: Published | None = None
        self._next = first
        self._bootstrap()
        self._trial: _Trial | None = None
        self._scratch = new_scratch(0, 0)
        learner.items.follow(self)

    def renumber(self, moved: Renumbering) -> None:
        """Follow the index; what is on trial stays as it was frozen, only the way to its numbers changes."""
        if self._trial is not None:
            self._trial.renumber(moved)

    @property
    def nbytes(self) -> int:
        """Bytes of the releases that are kept, and of what is on trial."""
        published = [p for p in (self.active, self.previous) if p is not None]
        tables = sum(len(p.data) + p.release.nbytes for p in published)
        trial = self._trial
        if trial is None:
            return tables
        views = [a for view in (trial.dense, trial.pruned) for part in view if isinstance(part, tuple)
                 for a in part if isinstance(a, np.ndarray)]  # fmt: skip
        unique = {
            id(a): a.nbytes
            for a in (*views, trial.dense.item_tokens, trial.dense.moves, trial.pruned.moves, trial.places)
        }
        return tables + len(trial.published.data) + trial.published.release.nbytes + sum(unique.values())

    def observe(self, batch: ExampleBatch, *, time: str | None = None) -> GuardDecision | None:
        """Replay a batch of new examples, and decide when enough were seen.

        Call it with the examples that the learner learned, once each, in order. Returns the decision
        that this batch brought about, if any; afterwards `active` is what should be served.
        """
        trial = self._trial
        if trial is None:
            if self.learner.step >= self._next and self.agent.breaker.allows(self.learner.step):
                self.propose()
            return None
        replayed = self._replay(trial, batch)
        trial.samples += len(replayed.losses)
        if trial.promoted:
            return self._watch(trial, replayed.losses, time)
        trial.replayed.append(replayed)
        return self._decide(trial, time) if trial.samples >= trial.needed else None

    def propose(self) -> Published | None:
        """Put a release of the learner as it is now on trial; None while there is nothing to prune."""
        learner = self.learner
        self.agent.pruner = self.pruner(self.amount)
        try:
            proposal = self.agent.propose(learner.ranker, {"examples": learner.step, "amount": self.amount})
        except EmptyModelError:
            return None
        rows = learner.all_rows()
        # A release takes time as there are items: the more of them, the rarer it is.
        self._next = learner.step + max(self.interval, len(rows))
        tables = learner.tables(rows, self.width)
        release = Release(proposal.candidate, ranker_step(learner.ranker), tables)
        published = _published(release.to_bytes(), release)
        pruned = ServedModel(learner.items, self.width)
        pruned.load(release, published.version)
        # Items may be described anew while the trial runs, with tokens that its vocabulary does not have.
        served = pruned.view._replace(
            item_tokens=learner.items.tokens.copy(), measures=learner.items.measures.copy()
        )
        dense = _frozen(learner, proposal, served)
        places = np.arange(len(dense.servable), dtype=np.int32)
        self._trial = _Trial(
            proposal,
            published,
            dense,
            served,
            self.agent.guard.min_samples,
            head_of(dense.stats.count),
            places,
        )
        return published

    def _bootstrap(self) -> None:
        tables = self.learner.tables(np.zeros(0, np.int32), self.width)
        release = Release(empty_artefact(), 0, tables)
        self.active = _published(release.to_bytes(), release)
        self.agent.adopt(release.ranker, names=[self.active.version])

    def restore(self, active: tuple[bytes, Release], previous: tuple[bytes, Release] | None = None) -> None:
        """Go on from releases of an earlier process."""
        self.active = _published(*active)
        self.previous = None if previous is None else _published(*previous)
        self._next = max(self._next, self.active.step + self.interval)
        releases = [r for r in (self.active, self.previous) if r is not None]
        self.agent.adopt(
            self.active.release.ranker,
            None if self.previous is None else self.previous.release.ranker,
            names=[r.version for r in releases],
        )

    def rollback(self, reason: str, time: str | None = None) -> Published:
        """Serve the previous release again.

        Raises
        ------
        PruningError
            If there is none.
        """
        self.agent.rollback(reason, time)
        assert self.previous is not None  # the agent has the same two slots
        self.active, self.previous = self.previous, None
        self._trial = None
        return self.active

    def _replay(self, trial: _Trial, batch: ExampleBatch) -> _Replayed:
        n, v = len(trial.dense.servable), len(trial.dense.vocabulary)
        if len(self._scratch.taken) < n or len(self._scratch.cross) < v:
            self._scratch = new_scratch(n, v)
        local = trial.numbers(self.learner.items.find_keys(batch.keys))
        history = np.where(batch.history >= 0, local[batch.history], -1).astype(np.int32)
        item = np.where(batch.item >= 0, local[batch.item], -1).astype(np.int32)
        known = n  # items that came after the export exist in neither view
        keep = batch.is_ranked & (item.max(axis=1) < known) & (history.max(axis=1) < known)
        losses = np.empty((int(keep.sum()), 2), np.float64)
        listed = (trial.samples + np.arange(len(losses))) % LISTED_EVERY == 0
        lists = np.full((2, int(listed.sum()), OVERLAP_AT), -1, np.int32)
        for x, view in enumerate((trial.dense, trial.pruned)):
            one = np.empty(len(losses), np.float64)
            replay(
                view, history[keep], batch.length[keep], batch.gap[keep], batch.users[keep], item[keep],
                batch.count[keep], batch.kind[keep] == TAKEN, listed, self._scratch, one, lists[x],
            )  # fmt: skip
            losses[:, x] = one
        slices = slices_of(batch.length[keep], trial.dense.stats.count, item[keep, 0], trial.head)
        return _Replayed(losses, _overlap(lists[0], lists[1]), slices)

    def _decide(self, trial: _Trial, time: str | None) -> GuardDecision:
        losses, overlap, slices = map(np.concatenate, zip(*trial.replayed, strict=True))
        trial.looks += 1
        decision = self.agent.judge(
            trial.proposal, losses[:, 0], losses[:, 1], overlap=float(overlap.mean()), time=time,
            version=trial.published.version, look=trial.looks,
            slices={name: slices[:, x] for x, name in enumerate(SLICES)},
        )  # fmt: skip
        if decision.promoted:
            self.previous, self.active = self.active, trial.published
            self.amount = min(self._most, self.amount / BACK_OFF)
            trial.promoted, trial.needed = True, 2 * trial.samples
            self.agent.watch.reference = len(losses)  # the level to watch from is that of the trial
            self.agent.watch.update(losses[:, 1] - losses[:, 0])
        elif decision.verdict == "undecided" and 2 * trial.samples <= self.max_samples:
            trial.needed = 2 * trial.samples
        else:
            self.amount *= BACK_OFF
            self._trial = None
        return decision

    def _watch(self, trial: _Trial, losses: NDArray[np.float64], time: str | None) -> GuardDecision | None:
        """After the promotion: roll back when the loss over the dense export's has risen for good.

        The chart says that it has risen, the guard's tolerance whether by as much as matters.
        """
        rise = losses[:, 1] - losses[:, 0]
        alarm = self.agent.watch.update(rise)
        trial.watched += len(rise)
        trial.risen += float(rise.sum())
        risen = trial.risen / max(trial.watched, 1)
        if trial.samples >= trial.needed:
            self._trial = None
        if not alarm or risen <= self.agent.guard.tolerance:
            return None
        reason = (
            f"since the promotion the loss is {risen:.5f} above the dense export's, and has risen for good"
        )
        self.agent.breaker.failed(self.learner.step)
        self.amount *= BACK_OFF
        self.rollback(reason, time)
        return GuardDecision("reject", reason, {"events": trial.watched, "difference": risen})


def _published(data: bytes, release: Release) -> Published:
    links = int((release.tables.neighbours >= 0).sum())
    return Published(version_of(data), data, release, release.tables.step, release.ranker_step, links)


def _frozen(learner: Learner, proposal: Proposal, like: View) -> View:
    """The learner's rows and weights as of now, copied, in a view that differs from `like` only there."""
    stats = ItemStats(**{name: array.copy() for name, array in learner.stats._asdict().items()})
    mean, inv_std = learner.moments.scaling()
    weights = bare_weights(proposal.dense, FreshWeights(), mean, inv_std)
    return make_view(
        like._replace(learned=True, graph=compacted(learner.graph), stats=stats, weights=weights)
    )


def head_of(count: NDArray[np.float32]) -> float:
    """The least feedback on an item of the head, the items that make up half of all feedback.

    >>> head_of(np.array([90.0, 50.0, 1.0], np.float32))
    90.0
    """
    falling = np.sort(count)[::-1]
    half = int(np.searchsorted(np.cumsum(falling, dtype=np.float64), falling.sum(dtype=np.float64) / 2))
    return float(falling[half]) if len(falling) else np.inf


def slices_of(
    length: NDArray[np.int32], count: NDArray[np.float32], chosen: NDArray[np.int32], head: float
) -> NDArray[np.bool_]:
    """Which of `SLICES` examples belong to, bool (e, len(SLICES)).

    Parameters
    ----------
    length
        Items in the user's history, (e,).
    count
        Feedback on each item so far, (n,).
    chosen
        The item that was chosen, (e,).
    head
        `head_of` these counts.

    Examples
    --------
    >>> slices_of(np.array([0, 9]), np.array([90.0, 50.0, 1.0], np.float32), np.array([0, 2]), 90.0)
    array([[ True, False,  True, False],
           [False,  True, False,  True]])
    """
    head_items = count[chosen] >= head
    return np.stack((length < NEW_USER, count[chosen] < NEW_ITEM, head_items, ~head_items), axis=1)


def _overlap(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.float64]:
    """Share of common items of two sets of lists, (n,); 1 where both are empty."""
    common = ((a[:, :, None] == b[:, None, :]) & (a[:, :, None] >= 0)).sum(axis=(1, 2))
    longest = np.maximum((a >= 0).sum(axis=1), (b >= 0).sum(axis=1))
    return np.where(longest > 0, common / np.maximum(longest, 1), 1.0)


@nb.njit(cache=True, nogil=True)
def replay(view, history, length, gap, users, item, count, answers, listed, scratch, losses, lists):  # type: ignore[no-untyped-def]
    """What a frozen view makes of examples: the loss of each, and its top list.

    Parameters
    ----------
    history, length, gap, users, item, count
        As in `ExampleBatch`, in the view's item numbers.
    answers
        Whether the others are those of the list that the item was chosen from, bool (e,).
    listed
        For which examples a list is made, bool (e,).
    losses
        float64 (e,), written: mean over the other candidates of log(1 + exp(s_other − s_chosen)).
    lists
        int32 (l, K), written for those: the best candidates, −1 where there are fewer.
    """
    made = 0
    raw = np.empty((MOST_CANDIDATES + len(view.pool) + item.shape[1], N_NUMBERS), np.float32)
    scores = np.empty(len(raw), np.float32)
    top_scores = np.empty(lists.shape[1], np.float32)
    for e in range(len(length)):
        first = 0
        while first < history.shape[1] and history[e, first] < 0:
            first += 1
        past = history[e, first:]
        bucket = length_bucket(length[e])
        n_found = gather(view, past, past, scratch)
        if listed[e]:
            candidates = select(scratch, n_found, view.servable, view.pool, MOST_CANDIDATES)
            describe(candidates, past, view, scratch, raw)
            score(view, candidates, raw, users[e], bucket, gap[e], scratch, scores)
            top_k(candidates, scores, lists[made], top_scores)
            made += 1
        shown = item[e, : count[e]]
        describe(shown, past, view, scratch, raw)
        score(view, shown, raw, users[e], bucket, gap[e], scratch, scores, answers[e])
        loss = 0.0
        for x in range(1, len(shown)):
            margin = np.float64(scores[0]) - np.float64(scores[x])
            loss += np.log1p(np.exp(-margin)) if margin > -30.0 else -margin
        losses[e] = loss / (len(shown) - 1)
