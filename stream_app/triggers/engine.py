"""The pure core of triggers: an event, a changed item or the passing of time → what is due, and why not.

A look at a user takes the user's packed memory and gives back a new one with the decisions: no clock, no
network, nothing kept in between but the rules and what the shop says about items and users.

Time is event time. A timer fires at its due time, however late it is looked at: before the user's next event
is applied, or when the clock of the partition has passed. So the same events lead to the same decisions,
whatever batches they come in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple
from zlib import crc32

from stream_app.errors import StoreError
from stream_app.events import CANONICAL_TYPES, Event, Item, Tombstone, User
from stream_app.triggers.deciding import Decision, Turn, decide
from stream_app.triggers.intent import Intent, Moment, features_of, is_sampled, user_token
from stream_app.triggers.matching import Match, about_intent, about_user, back, cheaper, is_met
from stream_app.triggers.memory import (
    CART_EVENTS,
    LISTENED,
    NEVER_MS,
    Memory,
    Timer,
    due_of,
    forget_rules,
    pack_memory,
    remember,
    unpack_memory,
    wake_of,
)
from stream_app.triggers.profiles import Profiles
from stream_app.triggers.rules import Rule, TriggerRules
from stream_app.triggers.shelf import Change, Shelf

LATE_MS = 5_000
"""How much later than it is due a timer fires while events come: so late may an event be to stop it."""

log = logging.getLogger(__name__)
_NOTHING = Memory()
_ARMING = frozenset(CART_EVENTS)


class Look(NamedTuple):
    """What a look at a user came to.

    Attributes
    ----------
    packed
        The new memory, None for one that holds nothing.
    due_ms
        When the user's next timer is due, `NEVER_MS` without any.
    moved
        Whether that is another time than before.
    watched
        Items that are watched since.
    """

    user_id: str
    packed: bytes | None
    due_ms: int = NEVER_MS
    moved: bool = False
    decisions: Sequence[Decision] = ()
    watched: Sequence[str] = ()


class TriggerEngine:
    """Rules, and what the shop says about items and users.

    Parameters
    ----------
    rules
        All of them; those that are switched off do nothing.

    Attributes
    ----------
    on_score
        The rules that wait for a score.

    Examples
    --------
    >>> from stream_app.triggers.rules_file import builtin_rules
    >>> engine = TriggerEngine(builtin_rules())
    >>> engine.observe_user(User("u1", True))
    >>> noon = 1_767_614_400_000
    >>> added = Event("e1", "add_to_cart", noon, "u1", item_id="sku-1", value=20.0)
    >>> look = engine.on_events("u1", None, -1, [(added, noon, 0)])
    >>> look.due_ms - noon
    1800000
    >>> [d.reason for d in engine.on_time("u1", look.packed, noon, look.due_ms).decisions]
    ['1 item worth 20.00 in the cart, nothing done for 30 min']
    """

    def __init__(self, rules: TriggerRules) -> None:
        self.rules = rules
        enabled = rules.enabled
        names = {name for rule in enabled for name in rule.conditions.names}
        self.shelf = Shelf(
            with_details=any(n.startswith(("item.attributes.", "item.categories")) for n in names)
        )
        asked = (n.partition("user.attributes.") for n in names)
        self.profiles = Profiles(name for before, _, name in asked if not before and name)
        self._by_name = {rule.name: rule for rule in enabled}
        self._idle = [rule for rule in enabled if rule.is_on("idle")]
        self._names = {rule.name for rule in rules.rules}
        self._rules_key = crc32(repr(sorted((r.name, r.version, r.enabled) for r in rules.rules)).encode())
        self._on_price = [rule for rule in enabled if rule.is_on("price")]
        self._on_stock = [rule for rule in enabled if rule.is_on("stock")]
        self.on_score = [rule for rule in enabled if rule.is_on("score")]
        self._edges = [rule.name for rule in self.on_score if rule.semantics == "edge"]
        self._least_band = min(map(_least_band, self.on_score), default=0)
        self._returning = [
            rule.name for rule in self._idle if rule.semantics == "changed" and not rule.speaks_of_cart
        ]
        self._on_event = {t: [rule for rule in enabled if rule.is_on(t)] for t in CANONICAL_TYPES}
        self.follows_items = bool(self._on_price or self._on_stock)
        self.listened = (LISTENED if enabled else frozenset()) | {t for t, on in self._on_event.items() if on}

    # What the shop says

    def observe_item(self, item: Item | Tombstone) -> Change | None:
        """Take over a version of an item; returns what may be news about it."""
        return self.shelf.observe(item)

    def observe_user(self, user: User | Tombstone) -> None:
        """Take over what the shop says about a user."""
        self.profiles.observe(user)

    # Looks

    def concerns(self, event_type: str, upto_ms: int, packed: bytes | None) -> bool:
        """Whether an event has to be looked at: most say nothing that a rule could want to know."""
        return event_type in self.listened or (packed is not None and upto_ms >= wake_of(packed))

    def on_events(
        self,
        user_id: str,
        packed: bytes | None,
        last_ms: int,
        events: Iterable[tuple[Event, int, int]],
        intent: Intent | None = None,
        moments: list[Moment] | None = None,
    ) -> Look:
        """Apply events of one user, in order, each after what was due before it.

        Parameters
        ----------
        packed
            The user's memory, None for none.
        last_ms
            Time of the user's last event before these, −1 without any.
        events
            Each with the time up to which timers fire before it, and its offset, as for `apply`.
        intent
            Of the partition.
        moments
            Where those are put that the model of high intent learns from.
        """
        turn = self.begin(user_id, packed, last_ms, moments)
        for event, upto_ms, offset in events:
            self.apply(turn, event, upto_ms, offset, intent)
        return self.end(turn)

    def apply(self, turn: Turn, event: Event, upto_ms: int, offset: int, intent: Intent | None) -> None:
        """Apply an event to the user of a turn.

        Parameters
        ----------
        upto_ms
            Timers due until then fire first. That is the event's own time, or `LATE_MS` behind the clock of
            the partition as it stood before the event, if that is later: so it matters to nobody whether the
            timers were looked at in between.
        offset
            Of the event in its partition.
        intent
            Of the partition.
        """
        memory, what, at_ms = turn.memory, event.event_type, event.event_time_ms
        arms = what in _ARMING or turn.came_back or memory.rules != self._rules_key
        if turn.due_ms <= upto_ms:
            self._fire(turn, upto_ms)
            arms = True
        if at_ms > turn.last_ms:  # noqa: PLR1730  # max() takes twice as long
            turn.last_ms = at_ms
        if what in LISTENED:
            if new := remember(memory, event, at_ms, self.shelf):
                turn.watched = [*turn.watched, *new]
            if intent is not None and self.on_score:
                self._consider(turn, intent, event, at_ms, offset)
        if rules := self._on_event.get(what):
            self._happen(turn, rules, event, at_ms)
            arms = True
        if arms:
            self._arm(turn, at_ms)
            turn.came_back = False

    def on_time(self, user_id: str, packed: bytes | None, last_ms: int, clock_ms: int) -> Look:
        """Fire the timers of a user that are due when the partition's clock stands at an instant."""
        turn = self.begin(user_id, packed, last_ms)
        self._fire(turn, clock_ms)
        return self.end(turn)

    def on_change(
        self, user_id: str, packed: bytes | None, last_ms: int, change: Change, place: int, clock_ms: int
    ) -> Look | None:
        """Hold a changed item against a user; None for one who does not watch it any more.

        Parameters
        ----------
        place
            The offset of this version in the topic `items`; the same one again changes nothing.
        """
        turn = self.begin(user_id, packed, last_ms)
        watch = turn.memory.watches.get(change.item_id)
        item = self.shelf.items.get(change.item_id)
        if watch is None or item is None:
            return None
        self._fire(turn, clock_ms)
        if watch.place == place:
            return self.end(turn)
        watch.place = place
        facts = turn.facts_at(clock_ms)
        facts.item_id, facts.item, facts.watch = change.item_id, item, watch
        matches = []
        if change.cheaper:
            matches += [m for rule in self._on_price if (m := cheaper(rule, facts, watch)) is not None]
        if change.back or (change.maybe_back and watch.was_out):
            matches += [m for rule in self._on_stock if (m := back(rule, facts, watch)) is not None]
        decide(turn, matches, clock_ms, self.rules, self.shelf)
        if watch.price is None:
            watch.price = item.price  # what the next version is compared with
        if item.available:
            watch.was_out = False
        turn.due_ms = due_of(turn.memory)
        return self.end(turn)

    def begin(
        self, user_id: str, packed: bytes | None, last_ms: int, moments: list[Moment] | None = None
    ) -> Turn:
        """Begin a look at a user; whatever is done to the user until `end` belongs to it.

        Parameters
        ----------
        moments
            Where those are put that the model of high intent learns from.
        """
        try:
            memory = Memory() if packed is None else unpack_memory(packed)
        except StoreError as error:
            log.error("%s; user %r starts afresh", error, user_id)
            memory = Memory()
        if memory.rules != self._rules_key:
            forget_rules(memory, self._names)
        came_back = packed is not None and wake_of(packed) == 0
        profile = self.profiles.get(user_id)
        return Turn(user_id, memory, last_ms, profile, came_back, [] if moments is None else moments)

    def end(self, turn: Turn) -> Look:
        """End a look: what has to be remembered, and what came of it."""
        memory = turn.memory
        due = wake = turn.due_ms
        if memory.fired:
            for name in self._returning:  # whoever comes back after a message is looked at again at once
                if name in memory.fired and name not in memory.timers:
                    wake = 0
        packed = pack_memory(memory, wake) if memory.watches or memory != _NOTHING else None
        return Look(turn.user_id, packed, due, due != turn.was_due_ms, turn.decisions, turn.watched)

    # Timers

    def _arm(self, turn: Turn, at_ms: int) -> None:
        """Set the timers of rules that silence would make due now, and drop those that it would not."""
        memory = turn.memory
        memory.rules = self._rules_key
        facts = turn.facts_at(at_ms)
        for rule in self._idle:
            if not rule.conditions.may_hold(facts):
                memory.timers.pop(rule.name, None)
                if rule.semantics == "edge":
                    memory.fired.pop(rule.name, None)
            elif rule.name not in memory.timers and _is_new(rule, memory, _idle_subject(rule, turn)):
                memory.timers[rule.name] = Timer(turn.last_ms + rule.delay_ms, "")
        turn.due_ms = due_of(memory)

    def _fire(self, turn: Turn, upto_ms: int) -> None:
        """Fire what is due, in the order of due times; what is due at the same instant competes."""
        memory = turn.memory
        while memory.timers and (due := due_of(memory)) <= upto_ms:
            matches = []
            for name in [name for name, timer in memory.timers.items() if timer.due_ms == due]:
                match = self._come_due(turn, name, memory.timers.pop(name))
                if match is not None:
                    matches.append(match)
            decide(turn, sorted(matches, key=lambda m: -m.rule.priority), due, self.rules, self.shelf)
        turn.due_ms = due_of(memory)

    def _come_due(self, turn: Turn, name: str, timer: Timer) -> Match | None:
        """What a timer has to say that is due; nothing when its cause is no more, or has come later."""
        rule_name, _, item_id = name.partition("/")
        rule, due = self._by_name.get(rule_name), timer.due_ms
        if rule is None:  # switched off since
            return None
        if item_id:
            return self._match_item(turn, rule, item_id, timer)
        if not rule.is_on("idle"):
            return self._match(turn, rule, timer.subject, due, timer=timer) if rule.delay_ms else None
        silent_ms = turn.last_ms + rule.delay_ms
        if silent_ms > due:  # the user has done something since
            turn.memory.timers[name] = Timer(silent_ms, "")
            return None
        if 0 < timer.first_ms < silent_ms:  # … while it was put off
            timer = Timer(due, "", silent_ms)
        return self._match(turn, rule, timer.subject or _idle_subject(rule, turn), due, timer=timer)

    def _match_item(self, turn: Turn, rule: Rule, item_id: str, timer: Timer) -> Match | None:
        """What was put off about an item, if it is still so and the user has not looked at the item since."""
        watch, item = turn.memory.watches.get(item_id), self.shelf.items.get(item_id)
        if watch is None or item is None or not timer.subject.startswith(f"{watch.since_ms}/"):
            return None
        facts = turn.facts_at(timer.due_ms)
        facts.item_id, facts.item, facts.watch = item_id, item, watch
        match = None
        if rule.is_on("price"):
            match = cheaper(rule, facts, watch)
        elif rule.is_on("stock") and item.available:
            match = back(rule, facts, watch)
        return None if match is None else replace(match, key=f"{item_id}@{timer.subject}", timer=timer)

    def _happen(self, turn: Turn, rules: Sequence[Rule], event: Event, at_ms: int) -> None:
        """Hold an event against the rules that wait for one of its type."""
        matches = []
        for rule in rules:
            subject = f"{event.event_type}@{event.event_time_ms}"
            facts = turn.facts_at(at_ms, event)
            if not rule.conditions.hold(facts):
                if rule.semantics == "edge":
                    turn.memory.fired.pop(rule.name, None)
            elif not rule.delay_ms:
                match = self._match(turn, rule, subject, at_ms, event)
                matches += [] if match is None else [match]
            elif rule.name not in turn.memory.timers and _is_new(rule, turn.memory, subject):
                by_event = any(c.holds(facts) for c in rule.conditions.of_event.any)
                turn.memory.timers[rule.name] = Timer(at_ms + rule.delay_ms, subject, by_event=by_event)
        decide(turn, matches, at_ms, self.rules, self.shelf)

    def _consider(self, turn: Turn, intent: Intent, event: Event, at_ms: int, offset: int) -> None:
        """Hold the probability of a purchase against the rules that wait for it, and remember a sample."""
        memory = turn.memory
        if event.event_type == "purchase":
            turn.moments.append(Moment(offset, user_token(turn.user_id), at_ms, None))
            return
        x = features_of(memory, at_ms)
        if is_sampled(offset):
            turn.moments.append(Moment(offset, user_token(turn.user_id), at_ms, x))
        if not intent.is_ready:
            return
        if not intent.may_reach(x, self._least_band):
            for name in self._edges if memory.fired else ():
                memory.fired.pop(name, None)
            return
        matches = []
        score = intent.score(x)
        facts = turn.facts_at(at_ms)
        facts.score = score
        for rule in self.on_score:
            if score is None or not is_met(rule, facts):
                if rule.semantics == "edge":
                    memory.fired.pop(rule.name, None)
            elif _is_new(rule, memory, f"look@{at_ms}"):
                matches.append(about_intent(rule, memory, f"look@{at_ms}", score))
        if matches:
            decide(turn, matches, at_ms, self.rules, self.shelf)

    def _match(
        self,
        turn: Turn,
        rule: Rule,
        subject: str,
        at_ms: int,
        event: Event | None = None,
        timer: Timer | None = None,
    ) -> Match | None:
        """A rule about the user or the cart, if it holds and has not said the same before."""
        memory, conditions = turn.memory, rule.conditions
        facts = turn.facts_at(at_ms, event)
        if timer is None or rule.is_on("idle"):
            holds = conditions.hold(facts)
        else:  # after an event, whose own part held when it happened
            later = conditions.after_event
            holds = (replace(later, any=()) if timer.by_event else later).may_hold(facts)
        if not rule.is_active(at_ms) or not holds or not _is_new(rule, memory, subject):
            return None
        match = about_user(rule, memory, turn.last_ms, subject, self.shelf, event)
        return match if timer is None else replace(match, timer=timer)


def _least_band(rule: Rule) -> int:
    """The band below which a rule about scores cannot hold: most looks need not be held against it."""
    wanted = [c.value for c in rule.conditions.all if c.name == "score.band" and c.operator in (">=", "=")]
    return math.ceil(max(wanted, default=0))


def _idle_subject(rule: Rule, turn: Turn) -> str:
    """What a rule about silence speaks of: the cart as it was changed last, or the silence itself."""
    return f"cart@{turn.memory.cart_ms}" if rule.speaks_of_cart else f"idle@{turn.last_ms}"


def _is_new(rule: Rule, memory: Memory, subject: str) -> bool:
    """Whether a rule may speak (again); an event that is not later than the last one it spoke of is old."""
    fired = memory.fired.get(rule.name)
    if fired is None:
        return True
    if rule.semantics != "changed":
        return False
    return int(subject.rpartition("@")[2]) > int(fired.rpartition("@")[2])
