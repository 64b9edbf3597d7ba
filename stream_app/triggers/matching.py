"""What a rule that matched has to say: what the message is about, why, and the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stream_app.events import Event
from stream_app.events.records import iso_time
from stream_app.triggers.conditions import Facts
from stream_app.triggers.gates import OUT_OF_STOCK, PURCHASED
from stream_app.triggers.intent import BANDS
from stream_app.triggers.memory import BOUGHT, Memory, Timer, Told, Watch
from stream_app.triggers.rules import Rule
from stream_app.triggers.shelf import Shelf


@dataclass(frozen=True)
class Match:
    """A rule whose conditions hold, before it is decided whether its message is sent.

    Attributes
    ----------
    key
        What makes this message another one than the rule's last to this user.
    held
        Why there is nothing to say any more, such as an item that was bought since; else empty.
    item_id
        The watched item that it is about, None for the user, the cart or an event.
    timer
        The timer that led to it.
    """

    rule: Rule
    key: str
    reason: str
    evidence: dict[str, Any]
    items: tuple[dict[str, Any], ...] = ()
    held: str = ""
    item_id: str | None = None
    timer: Timer | None = None


def about_user(
    rule: Rule, memory: Memory, last_ms: int, subject: str, shelf: Shelf, event: Event | None
) -> Match:
    """A match of a rule about an event, about silence, or about a cart that was left."""
    after = in_words(rule.delay_ms)
    evidence: dict[str, Any] = {"last_event": iso_time(last_ms)}
    if not rule.is_on("idle"):
        what, _, at_ms = subject.partition("@")
        about = ({"item_id": event.item_id},) if event is not None and event.item_id else ()
        evidence |= {"event_type": what, "event_time": iso_time(int(at_ms))}
        return Match(rule, subject, f"{after + ' ' if rule.delay_ms else ''}after {what}", evidence, about)
    if memory.purchases:
        evidence |= {"purchases": memory.purchases, "last_purchase": iso_time(memory.bought_ms)}
    if rule.speaks_of_cart:
        return _about_cart(rule, memory, subject, shelf, evidence)
    bought = "bought before, " if memory.purchases else ""
    return Match(rule, subject, f"{bought}nothing done for {after}", evidence)


def _about_cart(rule: Rule, memory: Memory, subject: str, shelf: Shelf, evidence: dict[str, Any]) -> Match:
    lines = {
        i: {"item_id": i, "price": line.price, "quantity": round(line.quantity, 3)}
        for i, line in memory.cart.items()
    }
    left = tuple(line for i, line in lines.items() if not shelf.is_out(i))
    prices = [line.price * line.quantity for line in memory.cart.values() if line.price is not None]
    value = round(sum(prices), 2) if prices else None
    count = f"{len(lines)} item{'s' * (len(lines) != 1)}"
    worth = "" if value is None else f" worth {value:.2f}"
    text = f"{count}{worth} in the cart, nothing done for {in_words(rule.delay_ms)}"
    held = OUT_OF_STOCK if lines and not left else ""
    evidence |= {"cart_items": len(lines), "cart_value": value}
    return Match(rule, subject, text, evidence, left or tuple(lines.values()), held)


def about_intent(rule: Rule, memory: Memory, key: str, score: tuple[float, int]) -> Match:
    """A match of a rule about the probability of a purchase."""
    p, band = score
    s = memory.session
    evidence = {
        "probability": round(p, 4), "band": band, "views": s.views, "cart_items": len(memory.cart),
        "visit_began": iso_time(s.start_ms),
    }  # fmt: skip
    text = f"buys within half an hour with a probability of {p:.0%}, band {band} of {BANDS}"
    items = tuple({"item_id": i, "price": line.price} for i, line in memory.cart.items())
    return Match(rule, key, text, evidence, items)


def cheaper(rule: Rule, facts: Facts, watch: Watch) -> Match | None:
    """A rule about prices, if it holds for a watched item: measured from the price the user knows."""
    item, told = facts.item, _told(watch, rule)
    facts.level = watch.price if told is None else told.price
    if item is None or item.price is None or facts.level is None or not item.price < facts.level:
        return None
    if (rule.semantics != "changed" and told is not None) or not is_met(rule, facts):
        return None
    drop = 100 * (facts.level - item.price) / facts.level
    text = f"{facts.item_id} costs {item.price:.2f}, was {facts.level:.2f}"
    evidence = {"price": item.price, "price_before": facts.level, "drop_percent": round(drop, 1)}
    key = f"{facts.item_id}@{watch.since_ms}/{0 if told is None else told.times}/{item.price!r}"
    about: dict[str, Any] = {"item_id": facts.item_id, "price": item.price}
    held = PURCHASED if watch.how & BOUGHT else "" if item.available else OUT_OF_STOCK
    return Match(rule, key, text, evidence | _since(watch), (about,), held, facts.item_id)


def back(rule: Rule, facts: Facts, watch: Watch) -> Match | None:
    """A rule about stock, if it holds for a watched item that came back."""
    item, told = facts.item, _told(watch, rule)
    if item is None or (rule.semantics == "once" and told is not None) or not is_met(rule, facts):
        return None
    key = f"{facts.item_id}@{watch.since_ms}/{0 if told is None else told.times}"
    about = {"item_id": facts.item_id, "price": item.price}
    held = PURCHASED if watch.how & BOUGHT else ""
    text = f"{facts.item_id} is back in stock"
    evidence = {"stock": item.stock, "price": item.price} | _since(watch)
    return Match(rule, key, text, evidence, (about,), held, facts.item_id)


def _told(watch: Watch, rule: Rule) -> Told | None:
    return None if watch.told is None else watch.told.get(rule.name)


def is_met(rule: Rule, facts: Facts) -> bool:
    """Whether a rule is in force and its conditions hold."""
    return rule.is_active(facts.at_ms) and rule.conditions.hold(facts)


def _since(watch: Watch) -> dict[str, Any]:
    return {"watched_since": iso_time(watch.since_ms)}


def in_words(ms: int) -> str:
    """A time in the largest unit that it is whole in.

    >>> in_words(1_800_000), in_words(86_400_000), in_words(30 * 86_400_000), in_words(5_400_000)
    ('30 min', '1 day', '30 days', '90 min')
    """
    for unit, name in ((86_400_000, "day"), (3_600_000, "h"), (60_000, "min")):
        if ms and ms % unit == 0:
            n = ms // unit
            return f"{n} {name}{'s' * (name == 'day' and n != 1)}"
    return f"{ms / 1000:g} s"
