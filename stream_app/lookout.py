"""Looks at users for the triggers: events as they are applied, timers that are due, items that changed.

What triggers remember of a user is the tail of the user's state. Each partition has a clock in event time,
which events move, and which `moved_to` moves on while there are none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_app.events import Event
from stream_app.model.user_table import UserTable
from stream_app.triggers.engine import LATE_MS, Look, TriggerEngine
from stream_app.triggers.intent import TURN, Intent
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
        intent = None
        if self.engine.on_score:
            intent = self.intents.setdefault(partition, Intent())
        last_ms = dict(zip([e.user_id for e in events], self.users.users.last_ms[rows].tolist(), strict=True))
        looks: list[Look] = []
        start = 0
        while start < len(events):  # where the model's turn comes, a new part begins
            end = bisect_left(offsets, (offsets[start] // TURN + 1) * TURN, start)
            if intent is not None:
                intent.advance(offsets[start], self.clocks.get(partition, -1))
            part = zip(events[start:end], offsets[start:end], strict=True)
            made = self._look(partition, [*part], last_ms, intent)
            if intent is not None:
                intent.absorb([moment for look in made for moment in look.moments])
            looks += made
            start = end
        return looks

    def _look(
        self,
        partition: int,
        events: Sequence[tuple[Event, int]],
        last_ms: dict[str, int],
        intent: Intent | None,
    ) -> list[Look]:
        """Look at the users of some events; `last_ms` becomes that of the last of them.

        What is due to a user before an event depends on the clock before this event, wherever batches end.
        """
        tails, listened, concerns = self.users.tails, self.engine.listened, self.engine.concerns
        of_user: dict[str, list[tuple[Event, int, int]]] = {}
        before: dict[str, int] = {}  # user → time of the last event before the first one looked at
        clock = self.clocks.get(partition, -1)
        for event, offset in events:
            at_ms, user_id = event.event_time_ms, event.user_id
            upto_ms = at_ms if at_ms > clock - LATE_MS else clock - LATE_MS  # max() takes twice as long
            clock = max(clock, at_ms)
            of = of_user.get(user_id)
            if of is not None:
                of.append((event, upto_ms, offset))
            elif event.event_type in listened or concerns("", upto_ms, tails.get(user_id)):
                of_user[user_id] = [(event, upto_ms, offset)]
                before[user_id] = last_ms[user_id]
            last_ms[user_id] = max(last_ms[user_id], at_ms)
        self.clocks[partition] = clock
        on_events = self.engine.on_events
        return [
            self._keep(on_events(u, tails.get(u), before[u], some, intent)) for u, some in of_user.items()
        ]

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
