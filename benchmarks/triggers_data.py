"""Triggers on real data: win-back on a shop's invoices, and what coupons did in the windows of campaigns.

Needs the data sets `uci-online-retail` and `completejourney` (`RECS_DATA`, default ``../shared/data``).
Nobody in them got a message of ours, so no uplift is claimed: what is measured is who comes back unasked, and
that a report of effects finds nothing where nothing was sent. ``python -m benchmarks.triggers_tables`` writes
the tables of ``docs/triggers.md``.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.coupon_data import coupons
from stream_app.events import Event, EventItem, User
from stream_app.formats import parse_columns, read
from stream_app.triggers.deciding import Decision
from stream_app.triggers.effect import EffectTally, Exposure
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules import TriggerRules
from stream_app.triggers.rules_file import builtin_rules
from stream_app.triggers.uplift import Counts, difference

ROOT = Path(__file__).parents[1]
DAY_MS = 86_400_000
SILENCES = (14, 30, 60, 90)  # days before a win-back
WITHIN = (7, 30)  # days in which a customer came back
SPLITS = 400  # random hold-outs of the same customers
COLUMNS = parse_columns(
    "user_id=CustomerID,item_id=StockCode,event_time=InvoiceDate,event_type:=purchase,quantity=Quantity,"
    "price=UnitPrice,session_id=InvoiceNo"
)


def run() -> dict[str, Any]:
    """Measure on the data sets that are there."""
    root = Path(os.environ.get("RECS_DATA") or ROOT.parent / "shared" / "data")
    results: dict[str, Any] = {}
    invoices = root / "uci-online-retail" / "online_retail_by_day.csv.gz"
    if invoices.exists():
        results["win_back"] = win_back(read_invoices(invoices))
    if (root / "completejourney").exists():
        results["coupons"] = coupons(root / "completejourney")
    if not results:
        return {"results": {"skipped": f"no data sets in {root}: set RECS_DATA"}, "goals": {}}
    return {"results": results, "goals": {}}


# Win-back


def read_invoices(path: Path) -> list[Event]:
    """One purchase per invoice of a known customer; cancelled ones and bad lines are left out."""
    lines: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
    for record in read(path, columns=COLUMNS, skip_bad=True):
        if isinstance(record, Event) and record.event_type == "purchase":
            lines[record.user_id, record.session_id or ""].append(record)
    invoices = []
    for (_, number), some in lines.items():
        items: tuple[EventItem, ...] = tuple(item for line in some for item in line.items)
        invoices.append(msgspec.structs.replace(some[0], event_id=number, item_id=None, items=items))
    return sorted(invoices, key=lambda e: e.event_time_ms)


def win_back(invoices: Sequence[Event]) -> dict[str, Any]:
    """Whom the built-in rule would have written to, after how much silence, and who came back anyway."""
    end_ms = invoices[-1].event_time_ms
    bought: defaultdict[str, list[int]] = defaultdict(list)
    for event in invoices:
        bought[event.user_id].append(event.event_time_ms)
    by_silence = {}
    for days in SILENCES:
        decisions = decided(_win_back_after(days), invoices)
        by_silence[str(days)] = {
            "due": len(decisions),
            "customers": len({d.user_id for d in decisions}),
            "held_back": dict(Counter(d.held for d in decisions if d.held)),
            "came_back": {str(n): _came_back(decisions, bought, n * DAY_MS, end_ms) for n in WITHIN},
        }
    decisions = decided(_win_back_after(30), invoices)
    return {
        "invoices": len(invoices),
        "customers": len(bought),
        "by_days_of_silence": by_silence,
        "nothing_was_sent": _without_effect(decisions, invoices),
    }


def _win_back_after(days: int) -> TriggerRules:
    rules = builtin_rules()
    [rule] = [rule for rule in rules.rules if rule.name == "win_back"]
    changed = replace(rule, delay_ms=days * DAY_MS, cooldown_ms=days * DAY_MS)
    return replace(rules, rules=(changed,))


def decided(rules: TriggerRules, events: Sequence[Event]) -> list[Decision]:
    """What rules decide on a history of users who all agreed to get messages."""
    run = Preview(rules)
    for user_id in dict.fromkeys(event.user_id for event in events):
        run.feed(User(user_id, True))
    for event in events:
        run.feed(event)
    return run.decisions


def _came_back(
    decisions: Sequence[Decision], bought: Mapping[str, Sequence[int]], within_ms: int, end_ms: int
) -> float | None:
    """The share that bought within a time after the decision, of those of whom that is known."""
    known = [d for d in decisions if d.at_ms + within_ms <= end_ms]
    back = 0
    for d in known:
        times = bought[d.user_id]
        n = bisect_right(times, d.at_ms)
        back += n < len(times) and times[n] <= d.at_ms + within_ms
    return round(back / len(known), 4) if known else None


def _without_effect(decisions: Sequence[Decision], invoices: Sequence[Event]) -> dict[str, Any]:
    """What the report says of customers who got nothing: for the rule's hold-out, and for random ones."""
    tally = EffectTally()
    for n, d in enumerate(decisions):
        tally.add_exposure(Exposure(str(n), d.rule.name, d.user_id, d.at_ms, d.held))
    for event in invoices:
        tally.add_event(event)
    effect = tally.report(30 * DAY_MS).overall
    assert effect.uplift is not None
    return {
        "sent": effect.sent.users,
        "held_out": effect.held_out.users,
        "rate_sent": effect.sent.rate,
        "rate_held_out": effect.held_out.rate,
        "uplift": effect.uplift.value,
        "low": effect.uplift.low,
        "high": effect.uplift.high,
        "verdict": effect.verdict,
        **_random_splits(
            effect.sent.users + effect.held_out.users, effect.sent.converted + effect.held_out.converted
        ),
    }


def _random_splits(users: int, converted: int) -> dict[str, Any]:
    """How often a random tenth of the same customers seems to differ from the others."""
    rng = np.random.default_rng(0)
    seen = widths = 0.0
    for _ in range(SPLITS):
        held = int(rng.binomial(users, 0.1))
        hits = int(rng.hypergeometric(converted, users - converted, held))
        found = difference([Counts(converted - hits, users - held, hits, held)])
        assert found is not None
        seen += found.excludes(0.0)
        widths += (found.high - found.low) / 2
    return {"splits": SPLITS, "splits_with_an_effect": seen / SPLITS, "half_width": round(widths / SPLITS, 4)}
