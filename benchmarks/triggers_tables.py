"""The tables of real data in ``docs/triggers.md``: ``python -m benchmarks.triggers_tables`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "triggers_data.json"
DOCS = ROOT / "docs" / "triggers.md"
BEGIN, END = "<!-- tables: python -m benchmarks.triggers_tables -->", "<!-- end -->"


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of the docs, from the kept results."""
    parts = []
    if "win_back" in results:
        parts.append(_win_back_table(results["win_back"]))
    if "campaigns" in results.get("coupons", {}):
        parts.append(_coupons_table(results["coupons"]))
    return "\n\n".join(parts) + "\n"


def _win_back_table(found: Mapping[str, Any]) -> str:
    rows = [
        "| days of silence | due | customers | came back within 7 days, unasked | within 30 days |",
        "|---|---|---|---|---|",
    ]
    for days, one in found["by_days_of_silence"].items():
        back = one["came_back"]
        rows.append(
            f"| {days} | {one['due']:,} | {one['customers']:,} | {back['7']:.1%} | {back['30']:.1%} |"
        )
    same = found["nothing_was_sent"]
    rows += [
        "",
        f"| {found['customers']:,} customers, {found['invoices']:,} invoices, 30 days of silence | |",
        "|---|---|",
        f"| “sent” {same['sent']:,}, held out {same['held_out']:,}: bought within 30 days | "
        f"{same['rate_sent']:.1%}, {same['rate_held_out']:.1%} |",
        f"| what the report says, though nobody got a message | {same['verdict']}: "
        f"{100 * same['uplift']:+.1f} points ({100 * same['low']:+.1f} to {100 * same['high']:+.1f}) |",
        f"| of {same['splits']} other random hold-outs of a tenth, those that seem to show an effect | "
        f"{same['splits_with_an_effect']:.1%} |",
        "| the least uplift that a tenth held out can prove here, about | "
        f"{100 * same['half_width']:.1f} points |",
    ]
    return "\n".join(rows)


def _coupons_table(found: Mapping[str, Any]) -> str:
    both, rules = found["before_and_inside"], found["with_rules"]
    mine, others = both["targeted"], both["others"]
    kinds = ", ".join(f"{k} {v['redeemed']:.1%}" for k, v in found["by_type"].items())
    rows = [
        ("campaigns, offers to a household, redemptions",
         f"{found['campaigns']}, {found['offers']:,}, {found['redemptions']:,}"),
        ("redemptions inside the window, by households that were offered it",
         f"{found['redemptions_inside']:.0%}, {found['redeemed_by_targeted']:.0%}"),
        ("offers that were redeemed at all", f"{found['offers_redeemed']:.1%} ({kinds})"),
        ("days from the start to a household's first redemption, median",
         f"{found['days_to_first_redemption']:.0f}"),
        ("one rule per campaign on the first purchase in its window: sent, held out",
         f"{rules['sent']:,}, {rules['held_back'].get('hold_out', 0):,}"),
        ("… of those sent, redeemed in that window", f"{rules['redeemed_of_sent']:.1%}"),
        ("bought a product of the campaign in its window: offered it, others",
         f"{mine['inside']:.1%}, {others['inside']:.1%}"),
        (f"… in as many days before ({both['campaigns']} campaigns)",
         f"{mine['before']:.1%}, {others['before']:.1%}"),
        ("difference inside, difference before",
         f"{100 * both['difference_inside']:+.1f}, {100 * both['difference_before']:+.1f} points"),
    ]  # fmt: skip
    return "\n".join(["| coupons | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def write_tables() -> None:
    """Put the tables of the kept results into the docs."""
    page = DOCS.read_text()
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    results = json.loads(RESULTS.read_text())["results"]
    DOCS.write_text(head + BEGIN + "\n" + markdown(results) + END + tail)


if __name__ == "__main__":
    write_tables()
