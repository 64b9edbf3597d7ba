"""What the demo shows at its end: what happened to the events, the releases, and one user's list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pruning import DecisionRecord
from stream_app.previewing import render_message


@dataclass(frozen=True)
class Place:
    """One place of a list: the item, what it is called, and why it is there."""

    item_id: str
    title: str
    why: str


@dataclass(frozen=True)
class Sizes:
    """Something that a release makes smaller."""

    name: str
    before: int
    after: int

    def __str__(self) -> str:
        share = f" ({self.after / self.before:.0%})" if self.before else ""
        return f"{self.before:,} → {self.after:,} {self.name}{share}"


@dataclass(frozen=True)
class DemoReport:
    """The result of a demo.

    Attributes
    ----------
    produced, applied, dead_letters, lists
        Messages sent; events applied; messages refused; lists written.
    seconds
        From the first message to the last effect.
    hit_rate_first, hit_rate_now, hit_rate_popular
        Share of users' next new choices that stood in the list waiting for them: among the first tenth of
        those looked at, among the last third, and among the last third in the list of popular items.
    sizes
        What the last promoted release holds, against the dense model; empty when none was promoted.
    release, release_bytes
        What is served now.
    decisions
        The ledger.
    user, clicked, before, after
        One user, the titles of the items clicked at the end, and the list around those clicks.
    triggers
        A few messages of triggers, the last one held back.
    titles
        What the items in them are called.
    trigger_counts
        Rule → what became of its messages → how many.
    """

    produced: int
    applied: int
    dead_letters: int
    lists: int
    seconds: float
    hit_rate_first: float
    hit_rate_now: float
    hit_rate_popular: float
    sizes: Sequence[Sizes]
    release: str
    release_bytes: int
    decisions: Sequence[DecisionRecord]
    user: str
    clicked: Sequence[str]
    before: Sequence[Place]
    after: Sequence[Place]
    triggers: Sequence[Mapping[str, Any]] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    trigger_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def events_per_s(self) -> float:
        """Events applied per second."""
        return self.applied / self.seconds

    def to_json_object(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self) | {"events_per_s": round(self.events_per_s, 1)}


def render(report: DemoReport) -> RenderableType:
    """The report as tables for a terminal."""
    return Group(_summary(report), "", _decisions(report), "", *_lists(report), *_triggers(report))


def _summary(r: DemoReport) -> Table:
    table = Table(
        title="What happened", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    lost = r.produced - r.applied - r.dead_letters
    balance = f"{r.applied:,} applied + {r.dead_letters:,} dead letters = {r.produced:,} produced"
    table.add_row("events", balance if lost == 0 else f"{balance} [red]({lost:,} are missing)[/]")
    table.add_row("speed", f"{r.events_per_s:,.0f} events/s with broker, Redis and shop on this machine")
    table.add_row("lists", f"{r.lists:,} written to Redis")
    table.add_row(
        "next choice was in the list",
        f"{r.hit_rate_first:.1%} at first, [bold green]{r.hit_rate_now:.1%}[/] now; "
        f"popular items alone: {r.hit_rate_popular:.1%}",
    )
    for n, size in enumerate(r.sizes):
        table.add_row("pruned and quantized" if n == 0 else "", str(size))
    table.add_row("release", f"{r.release}, {r.release_bytes:,} bytes in all")
    return table


_COLOURS = {"promote": "green", "undecided": "yellow", "reject": "red", "rollback": "red"}


def _decisions(r: DemoReport) -> Table:
    table = Table(title="What the guard said", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("release", "verdict", "weights", "because"):
        table.add_column(name, no_wrap=name != "because")
    for d in r.decisions:
        weights = f"{d.weights_before:,} → {d.weights_after:,}"
        table.add_row(d.version[:8], Text(d.verdict, _COLOURS.get(d.verdict, "")), weights, d.reason)
    if not r.decisions:
        table.add_row("–", "", "", "too few events for a proposal: try --events 40000")
    return table


def _lists(r: DemoReport) -> list[RenderableType]:
    if not r.user:
        return []
    head = Text.assemble("User ", (r.user, "bold"), " clicks ", (", ".join(r.clicked), "italic"), ".")
    return [head, _list("before", r.before, ()), _list("after", r.after, {p.item_id for p in r.before})]


def _triggers(r: DemoReport) -> list[RenderableType]:
    if not r.triggers:
        return []
    table = Table(title="What triggers said", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("rule", "sent", "held back"):
        table.add_column(name, no_wrap=name != "held back", justify="right" if name == "sent" else "left")
    for rule, outcomes in r.trigger_counts.items():
        held = sorted(((n, why) for why, n in outcomes.items() if why != "sent"), reverse=True)
        table.add_row(rule, f"{outcomes.get('sent', 0):,}", ", ".join(f"{n:,} {why}" for n, why in held))
    return ["", table, *(part for m in r.triggers for part in ("", render_message(m, r.titles)))]


def _list(name: str, places: Sequence[Place], old: Any) -> Table:
    table = Table(title=name, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(no_wrap=True, min_width=24)
    table.add_column()
    for n, place in enumerate(places):
        new = bool(old) and place.item_id not in old
        table.add_row(str(n + 1), Text(place.title, "bold green" if new else ""), Text(place.why, "dim"))
    return table
