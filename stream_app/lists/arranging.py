"""Lists under rules: from all scored candidates of a user to the list that is shown. Pure, compiled.

`ListPolicy` turns `ListRules` into arrays by item number, `arrange` applies them after scoring::

    score of the model ─▶ + ln factor of boosts ─▶ pins take their places ─▶ the rest, place by place

Of the rest, the best that no cap forbids comes next, where what an item is like, of what the list has so far,
costs `diversity` times the likeness (maximal marginal relevance).

References
----------
Carbonell, J., Goldstein, J., 1998. The use of MMR, diversity-based reranking. SIGIR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.tokens import field_id
from stream_app.events import Item, Tombstone
from stream_app.lists.rules import ListRules, Rule
from stream_app.model.eviction import NOBODY, Renumbering
from stream_app.model.item_index import ITEM_TOKENS, ItemIndex

OFFERED = {"allow": 100, "pin": 20, "boost": 20}  # most popular matches that every user is offered
NOT_PINNED = -1


class ListPolicy:
    """What rules say of the items of this process.

    Parameters
    ----------
    items
        The process's item index.
    rules
        What the file says; `take` another one at any time.

    Attributes
    ----------
    allowed
        Whether a rule lets an item be shown, uint8 (capacity,).

    Examples
    --------
    >>> from stream_app.lists.rules import parse_rules
    >>> items = ItemIndex()
    >>> policy = ListPolicy(items, parse_rules('[[rules]]\\nname = "r"\\naction = "deny"\\nbrand = "acme"'))
    >>> policy.observe(Item("i1", attributes={"brand": "acme"}))
    >>> policy.at(0)
    True
    >>> policy.may_show("i1"), policy.may_show("i2")
    (False, True)
    """

    def __init__(self, items: ItemIndex, rules: ListRules) -> None:
        self.items = items
        self.rules = rules
        self._described: dict[str, Item] = {}
        self._active: tuple[Rule, ...] | None = None  # None: everything has to be worked out again
        self._known = 0  # items of the index that rules were matched with
        self._allocate(items.capacity)
        self._set_active(())
        items.follow(self)

    def take(self, rules: ListRules) -> None:
        """Follow other rules from the next `at` on."""
        self.rules, self._active = rules, None

    def observe(self, item: Item | Tombstone) -> None:
        """Take over an item's description."""
        if isinstance(item, Tombstone):
            self._described.pop(item.id, None)
            self._match([item.id])
        else:
            self._described[item.item_id] = item
            self._match([item.item_id])

    def at(self, now_ms: int) -> bool:
        """Be in the state of a time; returns whether other rules are in force than before."""
        active = self.rules.active(now_ms)
        changed = active != self._active
        if changed:
            self._set_active(active)
            self._known = 0
        if self._known < len(self.items):
            self._match([item_id for item_id in self.items.ids[self._known :] if item_id])
            self._known = len(self.items)
        return changed

    def may_show(self, item_id: str) -> bool:
        """Whether the rules in force let an item be shown."""
        return self._allows(item_id)

    def servable(self) -> NDArray[np.uint8]:
        """Which items may be shown as far as shop and rules are concerned, uint8 (capacity,)."""
        self._grow()
        return self.items.servable & self.allowed

    def offered(self, count: NDArray[np.float32]) -> NDArray[np.int32]:
        """Items that every user has to be offered so that pins, boosts and allowances can act, int32 (p,).

        Parameters
        ----------
        count
            How popular each item is, (n,).
        """
        best = []
        for rule in self._active or ():
            if rule.action in OFFERED and not (rule.action == "boost" and rule.factor < 1):
                matches = self._matches[rule.name]
                numbers = np.fromiter(matches, np.int32, len(matches))
                numbers = np.sort(numbers[numbers < len(count)])
                order = np.argsort(-count[numbers], kind="stable")
                best.append(numbers[order[: OFFERED[rule.action]]])
        return np.unique(np.concatenate(best)) if best else np.zeros(0, np.int32)

    def arrange(
        self, items: NDArray[np.int32], scores: NDArray[np.float32], counts: NDArray[np.int32], k: int
    ) -> tuple[
        NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]
    ]:
        """The lists that are shown, out of all candidates.

        Parameters
        ----------
        items, scores, counts
            Candidates of each user, best first: int32 (m, H), float32 (m, H), of which int32 (m,) are filled.
        k
            Items per list at most.

        Returns
        -------
        items, scores, counts of the lists, (m, k) and (m,); where each item would stand by score alone, from
        0, int32 (m, k); and which of the pins in force put it there, or `NOT_PINNED`, int32 (m, k).
        """
        self._grow()
        m = len(items)
        out = np.full((m, k), -1, np.int32)
        out_scores, out_counts = np.zeros((m, k), np.float32), np.zeros(m, np.int32)
        was, pinned = np.zeros((m, k), np.int32), np.full((m, k), NOT_PINNED, np.int32)
        arrange(
            items, scores, counts, self._shift, self._pins, self._places, self._caps(), self.items.tokens,
            np.float32(self.rules.diversity), out, out_scores, out_counts, was, pinned,
        )  # fmt: skip
        return out, out_scores, out_counts, was, pinned

    def crowded(
        self,
        items: NDArray[np.int32],
        counts: NDArray[np.int32],
        candidates: NDArray[np.int32],
        found: NDArray[np.int32],
        more: int,
    ) -> NDArray[np.bool_]:
        """Which candidates (m, H), of which (m,) are found, would break a cap if `more` like them came in.

        Lists are given by their items (m, k) and counts (m,).
        """
        out = np.zeros(candidates.shape, np.bool_)
        if self.rules.at_most:
            caps = self._caps()
            caps = np.where(caps > 0, np.maximum(caps - (more - 1), 1), 0).astype(np.int32)
            find_crowded(items, counts, candidates, found, caps, self.items.tokens, out)
        return out

    def notes(
        self,
        items: NDArray[np.int32],
        counts: NDArray[np.int32],
        was: NDArray[np.int32],
        pinned: NDArray[np.int32],
    ) -> list[list[dict[str, Any] | None]]:
        """What readers are told of each place where a rule had a say, by list; see `said_in_words`."""
        pins = [rule.name for rule in self._active or () if rule.action == "pin"]
        boosted = self._shift[items] != 0
        told = (pinned != NOT_PINNED) | boosted | (was >= items.shape[1])
        notes: list[list[dict[str, Any] | None]] = [[None] * n for n in counts.tolist()]
        for m, place in zip(*map(np.ndarray.tolist, np.nonzero(told)), strict=True):
            if place >= counts[m]:
                continue
            note: dict[str, Any] = {"place_by_score": int(was[m, place]) + 1}
            if pinned[m, place] != NOT_PINNED:
                note |= {"rules": [pins[pinned[m, place]]], "pinned": True}
            elif boosted[m, place]:
                note["rules"] = self._boosts[int(items[m, place])]
            notes[m][place] = note
        return notes

    # What rules match

    def _allocate(self, n: int) -> None:
        self.allowed: NDArray[np.uint8] = np.ones(n, np.uint8)
        self._shift: NDArray[np.float32] = np.zeros(n, np.float32)
        self._pins: NDArray[np.uint64] = np.zeros(n, np.uint64)

    def _set_active(self, active: tuple[Rule, ...]) -> None:
        self._active = active
        self._matches: dict[str, set[int]] = {rule.name: set() for rule in active}
        self._boosts: dict[int, list[str]] = {}
        self._places = np.array([rule.place - 1 for rule in active if rule.action == "pin"], np.int32)
        self._only = [rule for rule in active if rule.action == "allow"]
        self._allocate(self.items.capacity)
        self.allowed[:] = not self._only

    def _grow(self) -> None:
        missing = self.items.capacity - len(self.allowed)
        if missing > 0:
            self.allowed = np.append(self.allowed, np.full(missing, not self._only, np.uint8))
            self._shift = np.append(self._shift, np.zeros(missing, np.float32))
            self._pins = np.append(self._pins, np.zeros(missing, np.uint64))

    def renumber(self, moved: Renumbering) -> None:
        """Follow the index; what the shop said of items that gave up their number is forgotten."""
        self._grow()
        self.allowed = moved.rows(self.allowed, not self._only)
        self._shift, self._pins = moved.rows(self._shift, 0), moved.rows(self._pins, 0)
        new = moved.new.tolist()
        self._matches = {
            name: {new[i] for i in numbers if new[i] != NOBODY} for name, numbers in self._matches.items()
        }
        self._boosts = {new[i]: names for i, names in self._boosts.items() if new[i] != NOBODY}
        self._known = int(np.searchsorted(moved.kept, self._known))
        find = self.items.find
        self._described = {id_: item for id_, item in self._described.items() if find(id_) is not None}

    def _allows(self, item_id: str) -> bool:
        item = self._described.get(item_id)
        active = self._active or ()
        if any(rule.action == "deny" and rule.matches(item_id, item) for rule in active):
            return False
        return not self._only or any(rule.matches(item_id, item) for rule in self._only)

    def _match(self, item_ids: Iterable[str]) -> None:
        self._grow()
        for item_id in item_ids:
            number, item = self.items.find(item_id), self._described.get(item_id)
            if number is None:
                continue
            self.allowed[number] = self._allows(item_id)
            shift, pins, pin = 0.0, 0, -1
            boosts = []
            for rule in self._active or ():
                pin += rule.action == "pin"
                matches = rule.matches(item_id, item)
                (self._matches[rule.name].add if matches else self._matches[rule.name].discard)(number)
                if matches and rule.action == "boost":
                    shift += math.log(rule.factor)
                    boosts.append(rule.name)
                elif matches and rule.action == "pin":
                    pins |= 1 << pin
            self._shift[number], self._pins[number] = shift, pins
            self._boosts[number] = boosts
            if not boosts:
                del self._boosts[number]

    def _caps(self) -> NDArray[np.int32]:
        """How many items of a list may share each token, 0 where it does not matter, int32 (v,) or (0,)."""
        if not self.rules.at_most:
            return np.zeros(0, np.int32)
        fields = self.items.vocabulary >> np.uint64(48)
        caps = np.zeros(len(fields), np.int32)
        for name, most in self.rules.at_most.items():
            caps[(fields == field_id(name)) & (self.items.vocabulary != 0)] = most
        return caps


def said_in_words(note: dict[str, Any], place: int) -> str:
    """What is noted of the item at `place` (from 1), by `ListPolicy.notes` or `Exploration.notes`.

    >>> said_in_words({"place_by_score": 7, "rules": ["sale"], "pinned": True}, 1)
    "pinned here by rule 'sale', place 7 by score"
    >>> said_in_words({"place_by_score": 7, "rules": ["sale"]}, 2)
    "rule 'sale' moved it, place 7 by score"
    """
    if "instead_of" in note:
        return f"tried here instead of {note['instead_of']}, drawn with probability {note['propensity']:.3g}"
    before = note.get("place_by_score", place)
    by_score = f", place {before} by score" if before != place else ""
    names = " and ".join(map(repr, note.get("rules", ())))
    if note.get("pinned"):
        return f"pinned here by rule {names}{by_score}"
    if names:
        several = "s" if len(note["rules"]) > 1 else ""
        return f"rule{several} {names} {'moved' if by_score else 'counted for'} it{by_score}"
    return f"caps or diversity made room for it{by_score}" if by_score else ""


@nb.njit(cache=True, nogil=True)
def _reserve(value, own_pins, places, owner, at_place):  # type: ignore[no-untyped-def]
    """Give each pin the best candidate that matches it and has no place yet."""
    for p in range(len(places)):
        if places[p] >= len(at_place) or at_place[places[p]] >= 0:
            continue
        best = -1
        for c in range(len(value)):
            matches = (own_pins[c] >> np.uint64(p)) & np.uint64(1)
            if matches and owner[c] < 0 and (best < 0 or value[c] > value[best]):
                best = c
        if best >= 0:
            owner[best] = p
            at_place[places[p]] = best


@nb.njit(cache=True, nogil=True)
def _is_full(tokens, caps, used):  # type: ignore[no-untyped-def]
    """Whether a cap forbids one more item with these tokens."""
    if len(caps) > 0:
        for t in range(1, len(tokens)):
            v = tokens[t]
            if v < 0:
                break
            if caps[v] > 0 and used[v] >= caps[v]:
                return True
    return False


@nb.njit(cache=True, nogil=True)
def _liken(items, item_tokens, chosen, mark, stamp, likeness):  # type: ignore[no-untyped-def]
    """Raise each candidate's `likeness` to its Jaccard index with `chosen`, both without their own tokens."""
    tokens = item_tokens[chosen]
    n = 0
    for t in range(1, ITEM_TOKENS):
        if tokens[t] < 0:
            break
        mark[tokens[t]] = stamp
        n += 1
    for c in range(len(items)):
        both, own = 0, 0
        for t in range(1, ITEM_TOKENS):
            v = item_tokens[items[c], t]
            if v < 0:
                break
            own += 1
            both += mark[v] == stamp
        if both > 0:
            likeness[c] = max(likeness[c], np.float32(both) / np.float32(n + own - both))


@nb.njit(cache=True, nogil=True)
def arrange(  # type: ignore[no-untyped-def]
    items, scores, counts, shift, pins, places, caps, item_tokens, diversity,
    items_out, scores_out, counts_out, was_out, pinned_out,
):  # fmt: skip
    """See `ListPolicy.arrange`; `shift` (n,), `pins` (n,) bits, `places` (P,) from 0, `caps` (v,) or (0,)."""
    k = items_out.shape[1]
    used = np.zeros(len(caps), np.int32)
    most_tokens = item_tokens.max() + 1 if diversity > 0 else 0
    mark, stamp = np.zeros(most_tokens, np.int64), np.int64(0)
    for m in range(len(items)):
        n = counts[m]
        own = items[m, :n]
        value, own_pins = scores[m, :n] + shift[own], pins[own]
        owner = np.full(n, -1, np.int32)  # the pin of each candidate
        at_place = np.full(k, -1, np.int64)  # the pinned candidate of each place
        _reserve(value, own_pins, places, owner, at_place)
        free, likeness = owner < 0, np.zeros(n, np.float32)
        for c in np.flatnonzero(~free):  # pinned items count for caps and diversity before all others
            stamp = _note(own, item_tokens, own[c], used, diversity, mark, stamp, likeness)
        filled = 0
        for place in range(k):
            best = at_place[place]
            if best < 0:
                best = _best(value - diversity * likeness, free, own, item_tokens, caps, used)
                if best < 0:
                    continue  # a later place may be pinned
                free[best] = False
                stamp = _note(own, item_tokens, own[best], used, diversity, mark, stamp, likeness)
            items_out[m, filled], scores_out[m, filled] = own[best], scores[m, best]
            was_out[m, filled], pinned_out[m, filled] = best, owner[best]
            filled += 1
        counts_out[m] = filled
        for place in range(filled):
            _count(item_tokens[items_out[m, place]], used, -1)


@nb.njit(cache=True, nogil=True)
def find_crowded(items, counts, candidates, found, caps, item_tokens, out):  # type: ignore[no-untyped-def]
    """See `ListPolicy.crowded`; `caps` (v,), `out` (m, H)."""
    used = np.zeros(len(caps), np.int32)
    for m in range(len(items)):
        for place in range(counts[m]):
            _count(item_tokens[items[m, place]], used, 1)
        for c in range(found[m]):
            out[m, c] = _is_full(item_tokens[candidates[m, c]], caps, used)
        for place in range(counts[m]):
            _count(item_tokens[items[m, place]], used, -1)


@nb.njit(cache=True, nogil=True)
def _best(value, free, items, item_tokens, caps, used):  # type: ignore[no-untyped-def]
    """The free candidate with the highest value that no cap forbids, the first of equals; −1 if none."""
    best = -1
    for c in range(len(value)):
        if (
            free[c]
            and (best < 0 or value[c] > value[best])
            and not _is_full(item_tokens[items[c]], caps, used)
        ):
            best = c
    return best


@nb.njit(cache=True, nogil=True)
def _note(items, item_tokens, chosen, used, diversity, mark, stamp, likeness):  # type: ignore[no-untyped-def]
    """Take note that `chosen` is in the list; returns the last stamp used."""
    _count(item_tokens[chosen], used, 1)
    if diversity > 0:
        _liken(items, item_tokens, chosen, mark, stamp + 1, likeness)
    return stamp + 1


@nb.njit(cache=True, nogil=True)
def _count(tokens, used, by):  # type: ignore[no-untyped-def]
    """Count an item's tokens in `used` (v,), or nowhere where it is empty."""
    if len(used) > 0:
        for t in range(1, len(tokens)):
            if tokens[t] < 0:
                break
            used[tokens[t]] += by
