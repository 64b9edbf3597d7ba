"""Lists that belong to no user: what unknown users get, and what goes with an item. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_app.lists.arranging import ListPolicy
from stream_app.model.learning import Learner, best_of

Pairs = list[tuple[str, float]]
"""Item ids with scores, best first."""


class SharedLists:
    """Makes the shared lists of a learner.

    Parameters
    ----------
    learner
        Whose counters and links they are made from.
    k
        Items per list.
    policy
        Rules, of which those that allow and deny hold here, too.
    """

    def __init__(self, learner: Learner, k: int, policy: ListPolicy | None = None) -> None:
        self.learner = learner
        self.k = k
        self.policy = policy
        self._done = 0  # up to this step, lists of similar items have been made

    def everybody(self) -> dict[str, Pairs]:
        """The lists for unknown users: `popular`, `trending` and `latest`."""
        learner, numbers = self.learner, self._shown()
        return {
            "popular": self._best(numbers, learner.stats.count[numbers]),
            "trending": self._best(numbers, learner.trends(numbers)[:, 0]),
            "latest": self._best(numbers, learner.stats.first[numbers]),
        }

    def similar(self, most: int) -> dict[str, Pairs]:
        """What goes with items whose links changed, for up to `most` of them; the others come next time.

        Those that have waited longest come first.
        """
        learner, numbers = self.learner, self._shown()
        touched = learner.graph.touched[numbers]
        due = np.flatnonzero(touched >= self._done)
        due = due[np.argsort(touched[due], kind="stable")]
        waiting = due[most:]
        self._done = int(touched[waiting[0]]) if len(waiting) else learner.step
        tables = learner.tables(numbers[due[:most]], self.k)
        servable = self._servable()[learner.items.numbers_of_keys(tables.keys)]
        lists = {}
        for row, near, levels, scale in zip(
            tables.rows.tolist(), tables.neighbours.tolist(), tables.scores.tolist(), tables.scale.tolist(),
            strict=True,
        ):  # fmt: skip
            lists[tables.ids[row]] = [
                (tables.ids[x], level * scale)
                for x, level in zip(near, levels, strict=True)
                if x >= 0 and servable[x] and tables.ids[x]
            ]
        lists.pop("", None)  # of an item whose id is not known
        return lists

    def begin_again(self) -> None:
        """Make the lists of all items again, some at a time: Redis was emptied."""
        self._done = 0

    def may_show(self, item_id: str) -> bool:
        """Whether shop and rules let an item be shown; what nobody has described may be."""
        if self.learner.items.is_withdrawn(item_id):
            return False
        return self.policy is None or self.policy.may_show(item_id)

    def _shown(self) -> NDArray[np.int32]:
        """Items of which something was learned and which may be shown."""
        numbers = self.learner.all_rows()
        return numbers[self._servable()[numbers] > 0]

    def _servable(self) -> NDArray[np.uint8]:
        return self.learner.items.servable if self.policy is None else self.policy.servable()

    def _best(self, numbers: NDArray[np.int32], scores: ArrayLike) -> Pairs:
        scores = np.asarray(scores, np.float64)
        ids = self.learner.items.ids
        best = best_of(numbers, scores, self.k)
        of_best = scores[np.searchsorted(numbers, best)]  # numbers rise
        return [(ids[i], s) for i, s in zip(best.tolist(), of_best.tolist(), strict=True) if ids[i]]
