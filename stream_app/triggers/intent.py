"""How likely a user is to buy within half an hour, learned online from visits, one small model per partition.

A sample of the moments at which users were looked at waits for its answer: a purchase within half an hour, or
its absence. Answers are learned, and scores get the new weights, only when the offset of the partition
passes a multiple of `TURN`. So what a user is scored with follows from the log alone, not from batches, and a
preview comes to the same scores. The state is written with that of the users; both are as old as each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

import msgspec
import numpy as np
from river import linear_model, optim

from pruning.tokens import token
from stream_app.errors import StoreError
from stream_app.triggers.memory import Memory

TURN = 500  # offsets between two updates of what scores are made with
WITHIN_MS = 30 * 60_000
BANDS = 10
MOST_PENDING = 256  # moments that wait for their answer
MOST_SCORES = 256  # latest scores that bands are made of
LEAST_LEARNED = 100  # answers, and scores, before there is a band
FEATURES = ("visit", "views", "wishes", "adds", "removes", "cart", "minutes", "bought")
RATE = 0.05


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
    s, log = memory.session, math.log1p
    return (
        1.0,
        log(s.views),
        log(s.wishes),
        log(s.adds),
        log(s.removes),
        log(len(memory.cart)),
        log(max(0, at_ms - s.start_ms) / 60_000) if s.start_ms else 0.0,
        log(memory.purchases),
    )


class Intent:
    """The model of one partition: River's logistic regression, frozen between two turns.

    Parameters
    ----------
    packed
        What `pack` gave; None to begin afresh.

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
        if self._state.weights:
            self.model._weights.update(dict(zip(FEATURES, self._state.weights, strict=True)))

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
            inner = np.linspace(0, 1, BANDS + 1)[1:-1]
            s.edges = np.unique(np.quantile(s.scores, inner)).tolist()

    def score(self, x: Sequence[float]) -> tuple[float, int] | None:
        """The probability of a purchase and its band, 1 to `BANDS`; None before enough was learned.

        It is the `predict_proba_one` of the model as it was at the last turn.
        """
        s = self._state
        if s.learned < LEAST_LEARNED or not s.edges:
            return None
        p = self._probability(x)
        return p, BANDS - len(s.edges) + bisect_left(s.edges, p)

    def _probability(self, x: Sequence[float]) -> float:
        return 1.0 / (1.0 + math.exp(-sum(map(mul, self._state.weights, x))))

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
            del s.scores[:-MOST_SCORES]
            if waiting is None and len(s.pending) < MOST_PENDING:
                s.pending[moment.user] = _Pending(moment.at_ms, moment.x)


def is_sampled(offset: int) -> bool:
    """Whether a moment is one of those that are remembered, a quarter of all."""
    return (offset * 0x9E3779B1) >> 7 & 3 == 0


def user_token(user_id: str) -> int:
    """What stands for a user in the state."""
    return token("user", user_id)
