"""Coupons of the Complete Journey: redemptions in the windows of campaigns, and rules for such windows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from stream_app.events import Event, EventItem, User
from stream_app.triggers.deciding import Decision
from stream_app.triggers.preview import Preview
from stream_app.triggers.rules_file import parse_trigger_rules


def coupons(folder: Path) -> dict[str, Any]:
    """Redemptions inside the windows of campaigns, and purchases of their products before and inside."""
    try:
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        return {"skipped": "pyarrow is not installed: pip install pyarrow"}

    def table(name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = parquet.read_table(folder / f"{name}.parquet").to_pylist()
        return rows

    windows = {c["campaign_id"]: c for c in table("campaign_descriptions")}
    targeted: defaultdict[str, set[str]] = defaultdict(set)
    for row in table("campaigns"):
        targeted[row["campaign_id"]].add(row["household_id"])
    redemptions = table("coupon_redemptions")
    products: defaultdict[str, set[str]] = defaultdict(set)
    for row in table("coupons"):
        products[row["campaign_id"]].add(row["product_id"])
    transactions = table("transactions_sample")
    return {
        **_redeemed(windows, targeted, redemptions),
        "with_rules": _with_rules(windows, targeted, redemptions, transactions),
        "before_and_inside": _before_and_inside(windows, targeted, products, transactions),
    }


def _redeemed(
    windows: Mapping[str, Mapping[str, Any]],
    targeted: Mapping[str, set[str]],
    redemptions: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    inside = 0
    first: dict[tuple[str, str], date] = {}
    for r in redemptions:
        window = windows[r["campaign_id"]]
        inside += window["start_date"] <= r["redemption_date"] <= window["end_date"]
        pair = (r["campaign_id"], r["household_id"])
        first[pair] = min(first.get(pair, r["redemption_date"]), r["redemption_date"])
    pairs = sum(map(len, targeted.values()))
    by_target = [p for p in first if p[1] in targeted[p[0]]]
    waits = [(day - windows[c]["start_date"]).days for (c, _), day in first.items()]
    by_type = {}
    for kind in sorted({w["campaign_type"] for w in windows.values()}):
        mine = [c for c, w in windows.items() if w["campaign_type"] == kind]
        n = sum(len(targeted[c]) for c in mine)
        by_type[kind] = {
            "campaigns": len(mine),
            "days": median((windows[c]["end_date"] - windows[c]["start_date"]).days + 1 for c in mine),
            "offers": n,
            "redeemed": round(sum(c in set(mine) for c, _ in by_target) / n, 4),
        }
    return {
        "campaigns": len(windows),
        "offers": pairs,
        "redemptions": len(redemptions),
        "redemptions_inside": round(inside / len(redemptions), 4),
        "redeemed_by_targeted": round(len(by_target) / len(first), 4),
        "offers_redeemed": round(len(by_target) / pairs, 4),
        "days_to_first_redemption": median(waits),
        "by_type": by_type,
    }


def _with_rules(
    windows: Mapping[str, Mapping[str, Any]],
    targeted: Mapping[str, set[str]],
    redemptions: Sequence[Mapping[str, Any]],
    transactions: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """One rule per campaign: at the first purchase in its window, remind who was offered its coupons."""
    offers: defaultdict[str, list[str]] = defaultdict(list)
    for c, households in targeted.items():
        for who in households:
            offers[who].append(c)
    purchases = sorted(baskets(transactions), key=lambda e: (e.event_time_ms, e.event_id))
    decisions: list[Decision] = []
    for c, window in windows.items():
        rules = parse_trigger_rules(coupon_rule(c, window))
        run = Preview(replace(rules, rules=tuple(r for r in rules.rules if r.name.startswith("coupon_"))))
        for who, mine in offers.items():
            run.feed(User(who, True, {"campaigns": list(mine)}))
        for event in purchases:
            run.feed(event)
        decisions += run.decisions
    sent = {(d.rule.name.removeprefix("coupon_"), d.user_id) for d in decisions if not d.held}
    redeemed = {(r["campaign_id"], r["household_id"]) for r in redemptions}
    return {
        "matches": len(decisions),
        "sent": len(sent),
        "held_back": dict(Counter(d.held for d in decisions if d.held)),
        "redeemed_of_sent": len(redeemed & sent) / len(sent),
    }


def coupon_rule(campaign: str, window: Mapping[str, Any]) -> str:
    """The rule of a campaign, as a file has it."""
    return f"""[[rules]]
name = "coupon_{campaign}"
on = "purchase"
all = [["user.attributes.campaigns", "=", "{campaign}"]]
semantics = "once"
from = {window["start_date"]}
until = {window["end_date"] + timedelta(days=1)}
hold_out = 0.1
"""


def read_transactions(folder: Path) -> list[dict[str, Any]]:
    """The lines of the tills, in the order of time."""
    from pyarrow import parquet  # noqa: PLC0415

    rows: list[dict[str, Any]] = parquet.read_table(folder / "transactions_sample.parquet").to_pylist()
    return sorted(rows, key=lambda t: (t["transaction_timestamp"], t["basket_id"]))


def baskets(transactions: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    """One purchase per basket, in the order of their first lines."""
    lines_of: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for t in transactions:
        lines_of[t["basket_id"]].append(t)
    for name, lines in lines_of.items():
        at_ms = int(lines[0]["transaction_timestamp"].replace(tzinfo=UTC).timestamp() * 1000)
        items = tuple(EventItem(t["product_id"], max(0.0, t["sales_value"])) for t in lines)
        yield Event(name, "purchase", at_ms, lines[0]["household_id"], items=items)


def _before_and_inside(
    windows: Mapping[str, Mapping[str, Any]],
    targeted: Mapping[str, set[str]],
    products: Mapping[str, set[str]],
    transactions: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Who bought a product of the campaign in its window, and in as many days before."""
    bought: defaultdict[str, list[tuple[date, str]]] = defaultdict(list)  # product → when, who
    first_day, households = date.max, set()
    for t in transactions:
        day = t["transaction_timestamp"].date()
        bought[t["product_id"]].append((day, t["household_id"]))
        first_day = min(first_day, day)
        households.add(t["household_id"])
    counts = Counter[str]()
    for c, window in windows.items():
        start, end = window["start_date"], window["end_date"]
        before = start - (end - start) - timedelta(days=1)
        if before < first_day:
            continue
        counts["campaigns"] += 1
        inside, earlier = set(), set()
        for product in products[c]:
            for day, who in bought.get(product, ()):
                if start <= day <= end:
                    inside.add(who)
                elif before <= day < start:
                    earlier.add(who)
        mine, others = targeted[c] & households, households - targeted[c]
        for name, group in (("targeted", mine), ("others", others)):
            counts[name] += len(group)
            counts[f"{name}_inside"] += len(inside & group)
            counts[f"{name}_before"] += len(earlier & group)
    found = {
        name: {
            "before": counts[f"{name}_before"] / counts[name],
            "inside": counts[f"{name}_inside"] / counts[name],
        }
        for name in ("targeted", "others")
    }
    naive = found["targeted"]["inside"] - found["others"]["inside"]
    already = found["targeted"]["before"] - found["others"]["before"]
    return {
        "campaigns": counts["campaigns"],
        **found,
        "difference_inside": naive,
        "difference_before": already,
    }
