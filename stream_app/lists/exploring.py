"""Exploration: a few places of a list are drawn, and it is written down how likely each draw was. Pure.

The last `places` places may be drawn. Each has a deck of its own: the item that the ranking gives it, and
alternatives that are not in the list, new items first, dealt so that no item is in two decks. With the
probability `share` a place shows a card of its deck, each as likely as the other; else the ranking's own::

    propensity(shown at the place) = share / cards + (1 − share where it is the ranking's own)

Decks are disjoint and draws independent, so these probabilities are exact, whatever the other places show;
that is what estimates from logged lists need (`evaluation.off_policy`). The draw follows from (user, offset):
a batch that is repeated draws the same.

References
----------
Horvitz, D.G., Thompson, D.J., 1952. A generalization of sampling without replacement from a finite universe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.tokens import cross
from stream_app.model.item_index import ItemIndex

CARDS = 10  # alternatives per place at most
NEW = 20.0  # an item that was chosen fewer times is new
NEW_PER_BATCH = 20  # new items that nothing points at yet, offered to the users of one batch
KEPT = -1


@dataclass(frozen=True)
class Exploration:
    """How much is explored.

    Attributes
    ----------
    places
        Last places of a list that may be drawn, ≥ 1; half of the alternatives are new items if there are any.
    share
        Probability that such a place is drawn, 0 to 1.

    Examples
    --------
    >>> Exploration(places=2, share=0.1)
    Exploration(places=2, share=0.1)
    """

    places: int
    share: float

    def new_items(
        self, items: ItemIndex, count: NDArray[np.float32], servable: NDArray[np.uint8], seed: int
    ) -> NDArray[np.int32]:
        """Some items that were hardly chosen so far, int32 (≤ NEW_PER_BATCH,); others for another seed.

        Parameters
        ----------
        count
            How often each item was chosen, (n,).
        servable
            Which may be shown, (n,).
        """
        n = len(items)
        new = np.flatnonzero((servable[:n] > 0) & (count[:n] < NEW)).astype(np.int32)
        if len(new) <= NEW_PER_BATCH:
            return new
        first = seed % len(new)
        return np.take(new, np.arange(first, first + NEW_PER_BATCH), mode="wrap")

    def draw(
        self,
        lists: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]],
        head: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]],
        count: NDArray[np.float32],
        fixed: NDArray[np.bool_],
        crowded: NDArray[np.bool_],
        seeds: NDArray[np.uint64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Draw places of lists, in place.

        Parameters
        ----------
        lists
            Items (m, k), scores (m, k) and counts (m,) as ranked.
        head
            All candidates in the same form, best first, (m, H).
        count
            How often each item was chosen, (n,).
        fixed
            Places that are not drawn, (m, k): pinned ones.
        crowded
            Candidates that caps keep out of the decks, (m, H).
        seeds
            One per list, (m,).

        Returns
        -------
        The propensity of each place, (m, k), 1 where it was not drawn for, and the item that the ranking
        would have shown, int32 (m, k), `KEPT` where it is the same.
        """
        propensity = np.ones(lists[0].shape)
        instead = np.full(lists[0].shape, KEPT, np.int32)
        _draw_places(
            *lists, *head, count, fixed, crowded, seeds, self.places, self.share, propensity, instead
        )
        return propensity, instead

    @staticmethod
    def notes(
        propensity: NDArray[np.float64], instead: NDArray[np.int32], counts: NDArray[np.int32], ids: list[str]
    ) -> list[list[dict[str, Any] | None]]:
        """What readers are told of each place that was drawn for, by list."""
        notes: list[list[dict[str, Any] | None]] = [[None] * n for n in counts.tolist()]
        for m, place in zip(*map(np.ndarray.tolist, np.nonzero(propensity < 1)), strict=True):
            note: dict[str, Any] = {"propensity": round(float(propensity[m, place]), 6)}
            if instead[m, place] != KEPT:
                note["instead_of"] = ids[instead[m, place]]
            notes[m][place] = note
        return notes


def seeds_of(user_tokens: NDArray[np.uint64], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One seed per user and last applied offset, (m,).

    >>> seeds_of(np.array([5, 5], np.uint64), np.array([1, 2])).tolist()
    [11400714819323198480, 4354685564936845359]
    """
    return user_tokens ^ (offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


@nb.njit(cache=True, nogil=True)
def _uniform(seed, n):  # type: ignore[no-untyped-def]
    """The n-th number in [0, 1) of a seed."""
    return np.float64(cross(np.uint64(0), seed, np.uint64(n)) & np.uint64(0xFFFFFFFFFFFF)) / 2.0**48


@nb.njit(cache=True, nogil=True)
def _alternatives(listed, candidates, crowded, count, most, out):  # type: ignore[no-untyped-def]
    """Places in `candidates` of up to `most` items that are not listed, half of them new, into `out`."""
    n = 0
    for want_new in (True, False):
        limit = most // 2 if want_new else most
        for c in range(len(candidates)):
            if n >= limit:
                break
            i = candidates[c]
            if crowded[c] or (want_new and count[i] >= NEW):
                continue
            known = False
            for x in range(len(listed)):
                known = known or listed[x] == i
            for x in range(n):
                known = known or out[x] == c
            if not known:
                out[n] = c
                n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _draw_places(  # type: ignore[no-untyped-def]
    items, scores, counts, head, head_scores, head_counts, count, fixed, crowded, seeds, places, share,
    propensity, instead,
):  # fmt: skip
    """See `Exploration.draw`."""
    out = np.empty(places * CARDS, np.int64)
    for m in range(len(items)):
        k = counts[m]
        first = max(0, k - places)
        own = head[m, : head_counts[m]]
        decks = k - first
        n = _alternatives(items[m, :k], own, crowded[m], count, decks * CARDS, out)
        for place in range(first, k):
            d = place - first
            others = (n - d + decks - 1) // decks if n > d else 0  # alternatives d, d + decks, d + 2 decks, …
            if fixed[m, place] or others == 0:
                continue
            cards = others + 1
            card = 0  # the ranking's own
            if _uniform(seeds[m], 2 * d) < share:
                card = min(others, int(_uniform(seeds[m], 2 * d + 1) * cards))
            propensity[m, place] = share / cards + (1.0 - share if card == 0 else 0.0)
            if card > 0:
                c = out[d + (card - 1) * decks]
                instead[m, place] = items[m, place]
                items[m, place], scores[m, place] = own[c], head_scores[m, c]
