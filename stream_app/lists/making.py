"""From all scored candidates to the lists that readers get: rules first, then exploration. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_app.lists.arranging import NOT_PINNED, ListPolicy
from stream_app.lists.exploring import Exploration
from stream_app.model.item_index import ItemIndex
from stream_app.model.scoring import View

Ranked = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]
"""Items (m, k), scores (m, k) and filled places (m,) of m lists, best first."""

Notes = list[list[dict[str, Any] | None]]
"""What readers are told of each place beside item and score, by list."""


def widened(
    view: View, items: ItemIndex, policy: ListPolicy | None, explore: Exploration | None, turn: int
) -> View:
    """The view that lists are made with: without what rules forbid, with what rules and exploration need.

    Parameters
    ----------
    turn
        Which of many new items are explored.
    """
    offered = [view.pool]
    if policy is not None:
        offered.append(policy.offered(view.stats.count))
        view = view._replace(servable=policy.servable())
    if explore is not None:
        offered.append(explore.new_items(items, view.stats.count, view.servable, turn))
    return view._replace(pool=np.unique(np.concatenate(offered)).astype(np.int32))


def finished(
    head: Ranked,
    k: int,
    policy: ListPolicy | None,
    explore: Exploration | None,
    *,
    count: NDArray[np.float32],
    seeds: NDArray[np.uint64],
    ids: list[str],
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], Notes]:
    """The lists out of all candidates, and what is noted of their places.

    Parameters
    ----------
    head
        All candidates, best first.
    k
        Items per list.
    count
        How often each item was chosen, (n,).
    seeds
        One per list, (m,); the same draw the same.
    ids
        Item ids by number.
    """
    items, scores = head[0][:, :k].copy(), head[1][:, :k].copy()
    counts, pinned = np.minimum(head[2], k), np.full(items.shape, NOT_PINNED, np.int32)
    notes: Notes = [[None] * n for n in counts.tolist()]
    crowded = np.zeros(head[0].shape, np.bool_)
    if policy is not None:
        items, scores, counts, was, pinned = policy.arrange(*head, k)
        notes = policy.notes(items, counts, was, pinned)
    if explore is not None:
        if policy is not None:
            crowded = policy.crowded(items, counts, head[0], head[2], explore.places)
        drawn = explore.draw((items, scores, counts), head, count, pinned != NOT_PINNED, crowded, seeds)
        _join(notes, explore.notes(*drawn, counts, ids))
    return items, scores, counts, notes


def _join(notes: Notes, more: Notes) -> None:
    """Add notes to notes; what rules did to an item that another one replaces is forgotten."""
    for of_list, of_draws in zip(notes, more, strict=True):
        for place, note in enumerate(of_draws):
            if note is not None:
                before = {} if "instead_of" in note else of_list[place] or {}
                of_list[place] = before | note
