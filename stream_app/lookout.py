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
from stream_app.triggers.engine import Look, TriggerEngine
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
    """

    def __init__(self, engine: TriggerEngine, users: UserTable) -> None:
        self.engine = engine
        self.users = users
        self.clocks: dict[int, int] = {}

    def moved_to(self, partition: int, clock_ms: int) -> None:
        """Move the clock of a partition on; it never goes back."""
        self.clocks[partition] = max(clock_ms, self.clocks.get(partition, -1))

    def on_events(
        self, partition: int, events: Sequence[Event], rows: NDArray[np.int32], now_ms: int | None
    ) -> list[Look]:
        """Look at the users of a batch, before the batch is applied to anything else.

        Parameters
        ----------
        events
            New to their users, in offset order.
        rows
            Of their users, int32 (e,).
        now_ms
            The wall clock: an event from the future happens now.
        """
        tails, listened, concerns = self.users.tails, self.engine.listened, self.engine.concerns
        of_user: dict[str, list[tuple[Event, int]]] = {}
        first: dict[str, int] = {}  # user → place of the first event looked at
        before: dict[str, int] = {}  # user → time of the events before that, which said nothing
        clock = self.clocks.get(partition, -1)
        for place, event in enumerate(events):
            at_ms, user_id = event.event_time_ms, event.user_id
            if now_ms is not None and at_ms > now_ms:
                at_ms = now_ms
            clock = max(clock, at_ms)
            of = of_user.get(user_id)
            if of is not None:
                of.append((event, at_ms))
            elif event.event_type in listened or concerns("", at_ms, tails.get(user_id)):
                of_user[user_id] = [(event, at_ms)]
                first[user_id] = place
            else:
                before[user_id] = max(event.event_time_ms, before.get(user_id, -1))
        self.clocks[partition] = clock
        last_ms = self.users.users.last_ms[rows[[*first.values()]]].tolist()
        looked = zip(of_user.items(), last_ms, strict=True)
        return [
            self._keep(self.engine.on_events(u, tails.get(u), max(last, before.get(u, -1)), some))
            for (u, some), last in looked
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
