"""How likely a user is to buy within half an hour, learned online from visits, one small model per partition.

A sample of the moments at which users were looked at waits for its answer: a purchase within half an hour, or
its absence. Answers are learned, and scores get the new weights, only when the offset of the partition
passes a multiple of `TURN`. So what a user is scored with follows from the log alone, not from batches, and a
preview comes to the same scores. The state is written with that of the users; both are as old as each other.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from river import linear_model, optim

from pruning.tokens import token
from stream_app.errors import StoreError
from stream_app.triggers.memory import MOST_COUNTED, Memory

TURN = 500  # offsets between two updates of what scores are made with
WITHIN_MS = 30 * 60_000
BANDS = 10
MOST_PENDING = 256  # moments that wait for their answer
MOST_SCORES = 256  # latest scores that bands are made of
LEAST_LEARNED = 100  # answers, and scores, before there is a band
FEATURES = ("visit", "views", "wishes", "adds", "removes", "cart", "minutes", "bought")
RATE = 0.05
_INNER = np.linspace(0, 1, BANDS + 1)[1:-1].tolist()
_LOGS = tuple(math.log1p(n) for n in range(MOST_COUNTED + 1))  # a look takes six of them


class Moment(NamedTuple):
    """A look at a user that is worth remembering: `x` are features, None for a purchase."""

    offset: int
    user: int  # token of the id
    at_ms: int
    x: tuple[float, ...] | None


class _Pending(msgspec.Struct, array_like=True, gc=False):
    at_ms: int
    x: tuple[float, ...]


class _State(msgspec.Struct, array_like=True):
    """All that is to survive."""

    version: int = 1
    turn: int = 0
    place: int = -1
    learned: int = 0
    weights: list[float] = []
    scores: list[float] = []
    edges: list[float] = []
    pending: dict[int, _Pending] = {}
    answers: list[tuple[tuple[float, ...], bool]] = []


def features_of(memory: Memory, at_ms: int) -> tuple[float, ...]:
    """The visit of a user in numbers between 0 and about 5, in the order of `FEATURES`.

    >>> features_of(Memory(), 0)
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    """
    s, log, bought = memory.session, _LOGS, memory.purchases
    return (
        1.0,
        log[s.views],
        log[s.wishes],
        log[s.adds],
        log[s.removes],
        log[len(memory.cart)],
        math.log1p((at_ms - s.start_ms) / 60_000) if 0 < s.start_ms < at_ms else 0.0,
        log[bought] if bought <= MOST_COUNTED else math.log1p(bought),
    )


def deciles(scores: Sequence[float]) -> list[float]:
    """The inner deciles without repeats, as `np.quantile` has them, in a tenth of its time.

    >>> [round(edge, 9) for edge in deciles([5.0, 0.0, 10.0])]
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """
    ordered = sorted(scores)
    edges: list[float] = []
    for q in _INNER:
        place = q * (len(ordered) - 1)
        n = int(place)
        low, high, t = ordered[n], ordered[min(n + 1, len(ordered) - 1)], place - n
        edge = low + (high - low) * t if t < 0.5 else high - (high - low) * (1 - t)
        if not edges or edge > edges[-1]:
            edges.append(edge)
    return edges


class Intent:
    """The model of one partition: River's logistic regression, frozen between two turns.

    Parameters
    ----------
    packed
        What `pack` gave; None to begin afresh.

    Attributes
    ----------
    is_ready
        Whether enough was learned for scores.

    Examples
    --------
    >>> intent = Intent()
    >>> intent.score((1.0,) * len(FEATURES)) is None  # nothing was learned yet
    True
    >>> Intent(intent.pack()).pack() == intent.pack()
    True
    """

    def __init__(self, packed: bytes | None = None) -> None:
        try:
            self._state = _State() if packed is None else msgspec.msgpack.decode(packed, type=_State)
        except msgspec.MsgspecError as error:
            raise StoreError(f"the model of high intent cannot be read: {error}") from error
        if self._state.version != 1:
            raise StoreError(f"the model of high intent is of version {self._state.version}, not 1")
        self.model = linear_model.LogisticRegression(optimizer=optim.SGD(RATE), intercept_lr=0.0)
        self._freeze()
        if self._state.weights:
            self.model._weights.update(dict(zip(FEATURES, self._state.weights, strict=True)))

    def _freeze(self) -> None:
        """Let scores be made with weights and bands of the state."""
        s = self._state
        self._frozen = tuple(s.weights) or (0.0,) * len(FEATURES)
        self.is_ready = s.learned >= LEAST_LEARNED and bool(s.edges)
        self._sums = [_sum_of(p) - 1e-6 for p in s.edges]  # what is closer to an edge than that is computed

    def pack(self) -> bytes:
        """The state as bytes."""
        return msgspec.msgpack.encode(self._state)

    def advance(self, offset: int, clock_ms: int) -> None:
        """Before the event at an offset: if a turn has come, learn the answers, and freeze weights and bands.

        Parameters
        ----------
        clock_ms
            Of the partition, after the event before.
        """
        s, turn = self._state, offset // TURN
        if turn <= s.turn:
            return
        s.turn = turn
        for user, one in [(u, p) for u, p in s.pending.items() if clock_ms - p.at_ms > WITHIN_MS]:
            s.answers.append((one.x, False))
            del s.pending[user]
        for x, bought in s.answers:
            self.model.learn_one(dict(zip(FEATURES, x, strict=True)), bought)
        if s.answers:
            learned = self.model.weights
            s.weights = [float(learned.get(name, 0.0)) for name in FEATURES]
        s.learned += len(s.answers)
        s.answers = []
        if len(s.scores) >= LEAST_LEARNED:
            s.edges = deciles(s.scores)
        self._freeze()

    def score(self, x: Sequence[float]) -> tuple[float, int] | None:
        """The probability of a purchase and its band, 1 to `BANDS`; None before enough was learned.

        It is the `predict_proba_one` of the model as it was at the last turn.
        """
        if not self.is_ready:
            return None
        p, edges = self._probability(x), self._state.edges
        return p, BANDS - len(edges) + bisect_left(edges, p)

    def may_reach(self, x: Sequence[float], band: int) -> bool:
        """Whether `score` may come to a band: no more than a sum, for the many looks that are far from it."""
        place = band - 1 - BANDS + len(self._sums)  # of the edge that has to be passed
        return self.is_ready and (place < 0 or self._sum(x) >= self._sums[place])

    def _sum(self, x: Sequence[float]) -> float:
        a, b, c, d, e, f, g, h = self._frozen
        k, l, m, n, o, p, q, r = x
        return a * k + b * l + c * m + d * n + e * o + f * p + g * q + h * r

    def _probability(self, x: Sequence[float]) -> float:
        return 1.0 / (1.0 + math.exp(-self._sum(x)))

    def absorb(self, moments: Sequence[Moment]) -> None:
        """Remember moments, in the order of their offsets: what was not there before."""
        s = self._state
        for moment in sorted(moments):
            if moment.offset <= s.place:
                continue
            s.place = moment.offset
            waiting = s.pending.get(moment.user)
            if waiting is not None and moment.at_ms - waiting.at_ms > WITHIN_MS:
                s.answers.append((waiting.x, False))
                waiting = None
                del s.pending[moment.user]
            if moment.x is None:
                if waiting is not None:
                    s.answers.append((waiting.x, True))
                    del s.pending[moment.user]
                continue
            s.scores.append(round(self._probability(moment.x), 6))
            if len(s.scores) > MOST_SCORES:
                del s.scores[0]
            if waiting is None and len(s.pending) < MOST_PENDING:
                s.pending[moment.user] = _Pending(moment.at_ms, moment.x)


def _sum_of(p: float) -> float:
    """The weighted sum that a probability comes from, a little less than that near 1."""
    return math.log(p / (1 - p)) if 0 < p < 1 - 1e-9 else 20.0 if p > 0 else -math.inf


def is_sampled(offset: int) -> bool:
    """Whether a moment is one of those that are remembered, a quarter of all."""
    return (offset * 0x9E3779B1) >> 7 & 3 == 0


@functools.lru_cache(maxsize=16_384)
def user_token(user_id: str) -> int:
    """What stands for a user in the state."""
    return token("user", user_id)
