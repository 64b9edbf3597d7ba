"""What docs/pruning.md shows of the results of `prune`: its tables and the sentences behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = Path(__file__).parent / "results" / "prune.json"
BEGIN, END = "<!-- tables: python -m benchmarks.prune -->", "<!-- end -->"


WHAT = {
    "B0": "logloss of River with the corrected FTRL, first 30,000 ratings (stock: .5846)",
    "B1 int8": "largest change of logloss and AUC by int8 per field",
    "B1 q2.13": "largest change of logloss by 16-bit fixed point",
    "B1 rows": "change of logloss by int8 latent rows of an FM",
    "B2 90 %": "synthetic, 90 % of the weights pruned, int8: logloss and AUC",
    "B2 80 %": "synthetic, 80 % pruned, int8: logloss",
    "B3 pruned": "AUC lost over what training with L1 loses at the same size: worst point, synthetic 90 %",
    "B3 refitted": "the same, after the kept features were trained afresh",
    "B4": "movielens, fields and 87.6 % of the weights dropped, int8: logloss and AUC against dense",
    "B5": "half of the latent entries of an FM pruned by v²·Fisher, and by |v|",
    "B6": "bad artefacts rejected, no-ops rejected in 100, seconds of a rollback",
    "B7": "bytes per feature of River's logistic regression with FTRL over the artefact's",
    "B8": "nanoseconds to score 28 tokens at a million weights, slowest of three mixes",
}


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/pruning.md."""
    results = report["results"]
    lines = ["| goal | what | measured | to beat | met |", "|---|---|---|---|---|"]
    for name, goal in report["goals"].items():
        value = goal["value"] if isinstance(goal["value"], list) else [goal["value"]]
        shown = ", ".join(f"{v:.3g}" if abs(v) < 1e-2 else f"{v:.5g}" for v in value)
        lines.append(
            f"| {name} | {WHAT[name]} | {shown} | {goal['goal']} | {'yes' if goal['ok'] else 'no'} |"
        )
    for name in ("movielens", "synthetic"):
        if name not in results:
            continue
        r = results[name]
        floor = f", Bayes {r['floor']:.4f}" if r["floor"] else ""
        lines += [
            "",
            f"**{name}**: {r['events']:,} events, {r['live_weights']:,} live weights, dense logloss "
            f"{r['logloss']:.4f}{floor}, AUC {r['auc']:.4f}. Change in 1e-4, int8, logloss / AUC:",
            "",
        ]
        pruners = list(dict.fromkeys(p["pruner"] for p in r["curve"]))
        lines += [f"| kept | bytes | {' | '.join(pruners)} |", "|---" * (2 + len(pruners)) + "|"]
        for share in dict.fromkeys(p["kept"] for p in r["curve"]):
            row = {p["pruner"]: p for p in r["curve"] if p["kept"] == share}
            cells = " | ".join(f"{row[p]['logloss']:+.1f} / {row[p]['auc']:+.1f}" for p in pruners)
            lines.append(f"| {share:.1%} | {row[pruners[0]]['bytes']:,} | {cells} |")
        lines += [
            "",
            "| λ₁ | kept | trained with L1 | dense, pruned to the same number | pruned and refitted |",
            "|---|---|---|---|---|",
        ]
        for p in r["l1"]:
            cells = " | ".join(
                f"{p[k]['logloss']:+.1f} / {p[k]['auc']:+.1f}" for k in ("trained", "pruned", "refitted")
            )
            lines.append(f"| {p['l1']} | {p['kept']:.1%} | {cells} |")
        bounds = [b for b in r.get("bounded", {}) if b != "features"]
        lines += [
            "",
            f"| trainer of {r['bounded']['features']:,} features, bounded | features left | logloss / AUC |",
            "|---|---|---|",
        ]
        for b in bounds:
            cell = r["bounded"][b]
            lines.append(f"| {b} | {cell['features']:,} | {cell['logloss']:+.1f} / {cell['auc']:+.1f} |")
    return "\n".join([*lines, *_details(results)]) + "\n"


def _details(results: dict[str, Any]) -> list[str]:
    """The sentences behind B4, B5, B7 and B8."""
    speed, lines = results["size_and_speed"], []
    if "B4" in results:
        b4 = results["B4"]
        ways = {"saliency": b4, "power ½": b4["power_half"], "refitted": b4["refitted"]}
        changes = "; ".join(f"{name} {c['logloss']:+.1f} / {c['auc']:+.1f}" for name, c in ways.items())
        lines += [
            "",
            f"**Whole pipeline (B4)**: the first 60 % drop {', '.join(b4['dropped'])}; tokens per event "
            f"{b4['tokens_per_event'][0]} → {b4['tokens_per_event'][1]}, {b4['kept']:.1%} of the weights, "
            f"{b4['bytes']:,} bytes. Against dense, logloss / AUC: {changes}.",
        ]
    if "B5" in results:
        b5 = results["B5"]
        lines += [
            "",
            f"**Latent rows of an FM (B5)**, {b5['entries']:,} entries, change of logloss: "
            f"int8 rows {b5['rows_int8']:+.2f}, int4 rows {b5['rows_int4']:+.2f}, "
            f"rank 4 of 8 {b5['rank_4_of_8']:+.2f}.",
            "",
            "| pruned | by v²·Fisher | by magnitude |",
            "|---|---|---|",
        ]
        lines += [
            f"| {float(share):.0%} | {b5['saliency'][share]:+.1f} | {b5['magnitude'][share]:+.1f} |"
            for share in b5["saliency"]
        ]
    if "seeds" in results:
        spread = "; ".join(
            f"{share} pruned: " + ", ".join(f"{d['logloss']:+.2f} / {d['auc']:+.2f}" for d in found)
            for share, found in results["seeds"].items()
        )
        lines += [
            "",
            f"**Spread (B2)**: the synthetic stream with seeds 7, 8 and 9, logloss / AUC. {spread}.",
        ]
    times = ", ".join(f"{name} {ns:.0f} ns" for name, ns in speed["nanoseconds_per_candidate"].items())
    return [
        *lines,
        "",
        f"**Size and speed (B7, B8)**: {speed['features']:,} features at {speed['bytes_per_feature']} bytes "
        f"each (River: {speed['river_bytes_per_feature']}). 28 tokens that are present, absent, or either: "
        f"{times} (River, same run, 500,000 features: {speed['river_nanoseconds']:,.0f} ns).",
    ]


def write_docs() -> None:
    """Put the tables of benchmarks/results/prune.json between the markers of docs/pruning.md."""
    report = json.loads(RESULTS.read_text())
    page = (DOCS / "pruning.md").read_text()
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    (DOCS / "pruning.md").write_text(head + BEGIN + "\n" + markdown(report) + END + tail)
