"""Of the rules that match a user at one instant: which one speaks, which wait, why others are held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stream_app.events import Event
from stream_app.events.records import iso_time
from stream_app.triggers.conditions import Facts
from stream_app.triggers.gates import (
    HOLD_OUT,
    LOWER_PRIORITY,
    QUIET_HOURS,
    Profile,
    held_back,
    note_sent,
    postponed_to,
)
from stream_app.triggers.intent import Moment
from stream_app.triggers.matching import Match
from stream_app.triggers.memory import MOST_PUT_OFF, Memory, Timer, Told, due_of
from stream_app.triggers.rules import Rule, TriggerRules
from stream_app.triggers.shelf import Shelf


@dataclass(frozen=True)
class Decision:
    """A rule that matched, and what became of it.

    Attributes
    ----------
    at_ms
        Event time of the cause.
    key
        What makes this message another one than the rule's last to this user; the same on every replay.
    held
        Why it is not sent, one of `gates.REASONS`; empty when it is.
    reason, evidence
        Why it is due, in words and in figures.
    items
        The items that it is about.
    due_ms
        When it was due first: before `at_ms` if quiet hours put it off.
    """

    rule: Rule
    user_id: str
    at_ms: int
    key: str
    held: str
    reason: str
    evidence: dict[str, Any]
    items: tuple[dict[str, Any], ...] = ()
    due_ms: int = -1

    @property
    def expires_ms(self) -> int:
        """When it is good for nothing any more."""
        return (self.at_ms if self.due_ms < 0 else self.due_ms) + self.rule.expires_ms


class Turn:
    """A look under way: a user with all that is known, between `TriggerEngine.begin` and `end`."""

    __slots__ = (
        "came_back", "decisions", "due_ms", "facts", "last_ms", "memory", "moments", "profile", "user_id",
        "was_due_ms", "watched",
    )  # fmt: skip

    def __init__(
        self,
        user_id: str,
        memory: Memory,
        last_ms: int,
        profile: Profile,
        came_back: bool,
        moments: list[Moment],
    ) -> None:
        self.user_id = user_id
        self.memory = memory
        self.last_ms = last_ms  # time of the user's last event
        self.profile = profile
        self.came_back = came_back  # after a message: to be armed again whatever the user does
        self.was_due_ms = self.due_ms = due_of(memory)
        self.facts: Facts | None = None
        self.decisions: Sequence[Decision] = ()  # what few turns need is made by those
        self.watched: Sequence[str] = ()
        self.moments = moments

    def facts_at(self, at_ms: int, event: Event | None = None) -> Facts:
        """What rules are held against at an instant; a turn has one of these, if it needs any."""
        facts = self.facts
        if facts is None:
            facts = self.facts = Facts(self.memory, self.last_ms, at_ms, self.profile.attributes)
        facts.last_ms, facts.at_ms, facts.event = self.last_ms, at_ms, event
        return facts


def decide(turn: Turn, matches: Sequence[Match], at_ms: int, rules: TriggerRules, shelf: Shelf) -> None:
    """Of what matched at one instant, send the first by priority that nothing holds back."""
    won = False
    for match in sorted(matches, key=lambda m: -m.rule.priority) if len(matches) > 1 else matches:
        rule, timer = match.rule, match.timer
        due_ms = timer.first_ms if timer is not None and timer.first_ms else at_ms
        held = match.held or (
            LOWER_PRIORITY if won
            else held_back(rule, rules, turn.user_id, turn.profile, turn.memory, at_ms)
        )  # fmt: skip
        if held == QUIET_HOURS and _put_off(turn, match, due_ms, at_ms, rules):
            continue
        if held in ("", HOLD_OUT):
            note_sent(rule, rules, turn.profile, turn.memory, at_ms)
            won = True
        _note_said(turn.memory, match, shelf)
        evidence = match.evidence
        if due_ms < at_ms:
            evidence = evidence | {"postponed_from": iso_time(due_ms)}
        decision = Decision(
            rule, turn.user_id, at_ms, match.key, held, match.reason, evidence, match.items, due_ms
        )
        turn.decisions = [*turn.decisions, decision]


def _put_off(turn: Turn, match: Match, due_ms: int, at_ms: int, rules: TriggerRules) -> bool:
    """Let a message wait for the end of quiet hours; says whether it is worth that.

    Until then it counts as not said: what it is about is looked at anew.
    """
    rule, timers = match.rule, turn.memory.timers
    until_ms = postponed_to(rule, rules, turn.profile, due_ms, at_ms)
    if until_ms is None:
        return False
    by_event = match.timer is not None and match.timer.by_event
    if match.item_id is None:
        subject = "" if rule.is_on("idle") else match.key
        timers[rule.name] = Timer(until_ms, subject, due_ms, by_event)
        return True
    name = f"{rule.name}/{match.item_id}"
    if name not in timers:  # else it waits already, and the first cause gives the message its id
        if sum("/" in other for other in timers) >= MOST_PUT_OFF:
            return False
        timers[name] = Timer(until_ms, match.key.removeprefix(f"{match.item_id}@"), due_ms)
    return True


def _note_said(memory: Memory, match: Match, shelf: Shelf) -> None:
    """Remember what was said, sent or not, so that it is not said again."""
    name, item_id = match.rule.name, match.item_id
    if item_id is None:
        memory.fired[name] = match.key
        return
    watch = memory.watches[item_id]
    told = watch.told = {} if watch.told is None else watch.told
    times = 1 if name not in told else told[name].times + 1
    told[name] = Told(times, shelf.price(item_id))
    memory.timers.pop(f"{name}/{item_id}", None)
