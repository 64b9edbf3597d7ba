"""The whole recommender in one object, without Kafka or Redis: observe, recommend, prune, go on.

It is what `recs evaluate` judges and what a notebook would use. Events are learned at once; with
compression on, lists come from what workers serve: the promoted release under an overlay.
"""

from __future__ import annotations

import numpy as np

from stream_app.events import DEFAULT_WEIGHTS, Event, Item, Tombstone, User
from stream_app.features import gap_bucket
from stream_app.learning import Learner, ranker_step, touched_since
from stream_app.scoring import View
from stream_app.recommender import Recommender
from stream_app.served_model import FreshWeights, ServedModel, bare_weights, empty_artefact, make_view


class DenseModel(ServedModel):
    """The learner's own tables as a served model: nothing pruned, nothing quantized, nothing copied."""

    def __init__(self, learner: Learner, width: int) -> None:
        super().__init__(learner.items, width)
        self._learner = learner
        self._weights = FreshWeights()
        self._seen_step = 0
        self._empty = empty_artefact()

    @property
    def view(self) -> View:
        """What kernels read, as of the last example learned."""
        learner = self._learner
        if self._view is None or learner.step != self.step or not self._fits(self._view):
            learner._grow()
            self._weights.put(*touched_since(learner.ranker, self._seen_step))
            self._seen_step, self.step = ranker_step(learner.ranker), learner.step
            mean, inv_std = learner.moments.scaling()
            self._view = make_view(
                View(
                    learned=True,
                    graph=learner.graph,
                    neighbours=self._neighbours,
                    stats=learner.stats,
                    weights=bare_weights(self._empty, self._weights, mean, inv_std),
                    item_tokens=self.items.tokens,
                    vocabulary=self.items.vocabulary,
                    servable=self.items.servable,
                    pool=learner.pool(),
                    step=learner.step,
                )
            )
        return self._view
