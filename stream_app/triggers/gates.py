"""Why a message that is due is held back after all: consent, shares, pauses, caps, quiet hours, the hold-out.

The hold-out comes last and counts as sent, so that who is held out differs from who got the message in
nothing but the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stream_app.triggers.memory import Memory, Sent
from stream_app.triggers.rules import Rule, TriggerRules, local, share_of, zone_of

PURCHASED = "purchased"
OUT_OF_STOCK = "out_of_stock"
NO_CONSENT = "no_consent"
AUDIENCE = "audience"
COOLDOWN = "cooldown"
DAILY_CAP = "daily_cap"
QUIET_HOURS = "quiet_hours"
HOLD_OUT = "hold_out"
LOWER_PRIORITY = "lower_priority"
REASONS = (
    PURCHASED, OUT_OF_STOCK, NO_CONSENT, AUDIENCE, COOLDOWN, DAILY_CAP, QUIET_HOURS, HOLD_OUT, LOWER_PRIORITY,
)  # fmt: skip
"""Why a message is held back, in the order in which it is asked."""


class Profile(NamedTuple):
    """What the shop says about a user; `consent` is None when nobody asked, `zone` empty when unknown."""

    consent: bool | None = None
    zone: str = ""
    attributes: Mapping[str, Any] = {}


UNKNOWN = Profile()


def held_back(
    rule: Rule, rules: TriggerRules, user_id: str, profile: Profile, memory: Memory, at_ms: int
) -> str:
    """Why a message of a rule may not go to a user at an instant, one of `REASONS`; empty when it may."""
    return next(_reasons(rule, rules, user_id, profile, memory, at_ms), "")


def _reasons(
    rule: Rule, rules: TriggerRules, user_id: str, profile: Profile, memory: Memory, at_ms: int
) -> Iterator[str]:
    if profile.consent is not True:
        yield NO_CONSENT
    if rule.audience < 1 and share_of(rule.name, "audience", user_id) >= rule.audience:
        yield AUDIENCE
    sent = memory.sent.get(rule.name)
    if sent is not None and at_ms - sent.at_ms < rule.cooldown_ms:
        yield COOLDOWN
    if any(at_ms - one.at_ms < rules.pause_ms for one in memory.sent.values()):
        yield COOLDOWN
    day, minute = local(at_ms, zone_of(profile.zone or rules.time_zone, rules.time_zone))
    if rule.cap_per_day and sent is not None and sent.day == day and sent.count >= rule.cap_per_day:
        yield DAILY_CAP
    if rules.cap_per_day and sum(s.count for s in memory.sent.values() if s.day == day) >= rules.cap_per_day:
        yield DAILY_CAP
    if rule.quiet_hours is not None and rule.quiet_hours.contains(minute):
        yield QUIET_HOURS
    if share_of(rule.name, "hold_out", user_id) < rule.hold_out:
        yield HOLD_OUT


def postponed_to(rule: Rule, rules: TriggerRules, profile: Profile, due_ms: int, at_ms: int) -> int | None:
    """When to look again at a message that quiet hours hold back; None where it is dropped.

    Parameters
    ----------
    due_ms
        When it was due first: what would have expired by the end of the quiet hours is not worth waiting for.
    """
    if rule.in_quiet_hours != "postpone" or rule.quiet_hours is None:
        return None
    end_ms = rule.quiet_hours.end_after(at_ms, zone_of(profile.zone or rules.time_zone, rules.time_zone))
    return end_ms if end_ms < due_ms + rule.expires_ms and rule.is_active(end_ms) else None


def note_sent(rule: Rule, rules: TriggerRules, profile: Profile, memory: Memory, at_ms: int) -> None:
    """Remember that a message of a rule went out, or would have but for the hold-out."""
    day, _ = local(at_ms, zone_of(profile.zone or rules.time_zone, rules.time_zone))
    sent = memory.sent.get(rule.name)
    count = sent.count if sent is not None and sent.day == day else 0
    memory.sent[rule.name] = Sent(at_ms, day, count + 1)
