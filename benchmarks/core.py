"""A worker's recommender and a learner with its releases, joined by bytes as in the real system."""

from __future__ import annotations

import time
from collections.abc import Sequence

from stream_app.config import Settings
from stream_app.events import Event, Item, Tombstone, User
from stream_app.model.examples import ExampleBatch
from stream_app.model.item_index import ItemIndex
from stream_app.model.learning import Learner, ranker_step
from stream_app.model.release import Overlay, Release
from stream_app.model.releasing import ReleaseCycle
from stream_app.online import default_agent
from stream_app.recommender import Recommender
from stream_app.served_json import lists_json
from stream_app.store import Store

OVERLAY_EVERY = 10_000  # events between two overlays: a second of a busy shop


class Core:
    """Applies batches, learns what they teach, and serves what was learned.

    Parameters
    ----------
    settings
        As both roles get them.
    store
        Where lists and states go; without one they are made and dropped.

    Attributes
    ----------
    cpu_s
        Processor time of each step so far, seconds.
    """

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self.settings = settings
        self.store = store
        self.recommender = Recommender(
            k=settings.list_size,
            neighbours=settings.neighbours,
            max_users=settings.max_users_in_memory,
            max_items_per_user=settings.max_items_per_user,
            budget=settings.budget,
        )
        self.learner = Learner(settings.make_ranker(), ItemIndex(settings.budget))
        self.cycle = ReleaseCycle(
            self.learner,
            default_agent(samples=settings.guard_samples),
            width=settings.neighbours,
            interval=settings.prune_interval,
        )
        self.events = 0
        self.cpu_s = dict.fromkeys(("serve", "write", "learn", "publish"), 0.0)
        self._known = (0, 0)
        self._overlay_at = 0

    def describe(self, items: Sequence[Item | Tombstone], users: Sequence[User]) -> None:
        """Both roles hear what the shop says."""
        for item in items:
            self.recommender.observe_item(item)
            self.learner.observe_item(item)
        for user in users:
            self.recommender.observe_user(user)

    async def apply(self, events: Sequence[Event]) -> None:
        """One batch: load, apply, write, learn; now and then an overlay or a release."""
        recommender, began = self.recommender, time.process_time()
        missing = recommender.missing(events)
        states = [None] * len(missing) if self.store is None else await self.store.load_states(missing)
        for user_id, state in zip(missing, states, strict=True):
            recommender.users.load(user_id, state)
        outcome = recommender.apply(0, range(self.events, self.events + len(events)), events)
        began = self._took("serve", began)
        lists = lists_json(outcome.lists, recommender.model.version, events[-1].event_time_ms)
        if self.store is not None:
            await self.store.write(lists, outcome.states)
        began = self._took("write", began)
        self.events += len(events)
        if outcome.examples is not None:
            for part in outcome.examples.parts():
                batch = ExampleBatch.from_bytes(part.to_bytes())
                self.learner.learn(batch)
                self.cycle.observe(batch)
        began = self._took("learn", began)
        self._publish()
        self._took("publish", began)

    def _publish(self) -> None:
        active, model = self.cycle.active, self.recommender.model
        if active.version != model.version:
            self.recommender.serve(Release.from_bytes(active.data), active.version)
            self._known = (active.step, active.ranker_step)
        elif self.events - self._overlay_at < OVERLAY_EVERY:
            return
        if model.fresh_weights > 2 * self.settings.max_features:
            model.drop_fresh()
            self._known = (active.step, active.ranker_step)
        overlay = self.learner.overlay(*self._known, model.width)
        self.recommender.refresh_model(Overlay.from_bytes(overlay.to_bytes()))
        self._known, self._overlay_at = (self.learner.step, ranker_step(self.learner.ranker)), self.events

    def _took(self, step: str, began: float) -> float:
        now = time.process_time()
        self.cpu_s[step] += now - began
        return now

    @property
    def learner_bytes(self) -> int:
        """Bytes of the learner's model: index, graph, counters, weights, and releases."""
        return self.learner.items.nbytes + self.learner.nbytes + self.cycle.nbytes

    @property
    def worker_bytes(self) -> int:
        """Bytes of the worker's model: index and what is served."""
        return self.recommender.items.nbytes + self.recommender.model.nbytes
