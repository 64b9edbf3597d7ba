"""Looks at users for the triggers: events as they are applied, timers that are due, items that changed.

What triggers remember of a user is the tail of the user's state. Each partition has a clock in event time,
which events move, and which `moved_to` moves on while there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_app.events import Event
from stream_app.model.user_table import UserTable
from stream_app.triggers.deciding import Turn
from stream_app.triggers.engine import LATE_MS, Look, TriggerEngine
from stream_app.triggers.intent import TURN, Intent, Moment
from stream_app.triggers.shelf import Change


class Lookout:
    """The triggers of the users in memory.

    Parameters
    ----------
    engine
        Decides.
    users
        Where memories are kept.

    Attributes
    ----------
    clocks
        Partition → its clock, milliseconds of event time.
    intents
        Partition → its model of high intent.
    """

    def __init__(self, engine: TriggerEngine, users: UserTable) -> None:
        self.engine = engine
        self.users = users
        self.clocks: dict[int, int] = {}
        self.intents: dict[int, Intent] = {}

    def moved_to(self, partition: int, clock_ms: int) -> None:
        """Move the clock of a partition on; it never goes back."""
        self.clocks[partition] = max(clock_ms, self.clocks.get(partition, -1))

    def on_events(
        self,
        partition: int,
        offsets: Sequence[int],
        events: Sequence[Event],
        rows: NDArray[np.int32],
    ) -> list[Look]:
        """Look at the users of a batch, before the batch is applied to anything else.

        Parameters
        ----------
        offsets, events
            New to their users, in offset order; none happened after it was written.
        rows
            Of their users, int32 (e,).
        """
        engine, tails = self.engine, self.users.tails
        listened, concerns, apply = engine.listened, engine.concerns, engine.apply
        intent = self.intents.setdefault(partition, Intent()) if engine.on_score else None
        last_ms = dict(zip([e.user_id for e in events], self.users.users.last_ms[rows].tolist(), strict=True))
        clock, turn_offset = self.clocks.get(partition, -1), -1  # of the model
        turns: dict[str, Turn] = {}
        moments: list[Moment] = []
        for event, offset in zip(events, offsets, strict=True):
            if offset >= turn_offset and intent is not None:
                intent.absorb(moments)
                moments.clear()
                intent.advance(offset, clock)
                turn_offset = (offset // TURN + 1) * TURN
            at_ms, user_id = event.event_time_ms, event.user_id
            # What is due to a user before an event depends on the clock before it, wherever batches end.
            upto_ms = at_ms if at_ms > clock - LATE_MS else clock - LATE_MS  # max() takes twice as long
            if at_ms > clock:  # noqa: PLR1730
                clock = at_ms
            turn = turns.get(user_id)
            if turn is None and (event.event_type in listened or concerns("", upto_ms, tails.get(user_id))):
                turn = engine.begin(user_id, tails.get(user_id), last_ms[user_id], moments)
                turns[user_id] = turn
            if turn is not None:
                apply(turn, event, upto_ms, offset, intent)
            elif at_ms > last_ms[user_id]:
                last_ms[user_id] = at_ms
        self.clocks[partition] = clock
        if intent is not None:
            intent.absorb(moments)
        return [self._keep(engine.end(turn)) for turn in turns.values()]

    def on_time(self, user_ids: Iterable[str], clock_ms: int) -> list[Look]:
        """Fire what is due for users in memory."""
        return [
            self._keep(self.engine.on_time(u, self._tail(u), self._last_ms(u), clock_ms)) for u in user_ids
        ]

    def on_change(
        self, user_ids: Iterable[str], change: Change, place: int, clock_ms: int
    ) -> tuple[list[Look], list[str]]:
        """Hold a changed item against users in memory; returns the looks, and who watches no more."""
        looks, gone = [], []
        for u in user_ids:
            look = self.engine.on_change(u, self._tail(u), self._last_ms(u), change, place, clock_ms)
            if look is None:
                gone.append(u)
            else:
                looks.append(self._keep(look))
        return looks, gone

    def _last_ms(self, user_id: str) -> int:
        return int(self.users.users.last_ms[self.users.row(user_id)])

    def _tail(self, user_id: str) -> bytes | None:
        return self.users.tails.get(user_id)

    def _keep(self, look: Look) -> Look:
        self.users.keep_tail(look.user_id, look.packed)
        return look
