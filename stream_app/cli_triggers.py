"""`recs triggers …`: what the command line says about triggers."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_app.cli_parts import AsJson, Columns, Format, Progress, Reading, SkipBad, say
from stream_app.errors import ConfigError, InputError

if TYPE_CHECKING:
    from stream_app.triggers.effect import Arm, Effect, EffectReport

triggers = typer.Typer(no_args_is_help=True, help="Triggers: rules, previews, delivery, effect.")


@triggers.command("validate")
def validate_trigger_rules(
    file: Annotated[Path | None, typer.Argument(help="of rules; RECS_TRIGGER_RULES without")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a file of trigger rules, and say what is in force with it."""
    from stream_app.config import load_settings
    from stream_app.triggers.rules_file import load_trigger_rules

    path = file or load_settings().trigger_rules
    rules = load_trigger_rules(path)
    on = [rule.name for rule in rules.enabled]
    off = [rule.name for rule in rules.rules if not rule.enabled]
    name = "built-in rules" if path is None else str(path)
    say({"file": None if path is None else str(path), "enabled": on, "disabled": off}, as_json,
         f"{name}: {len(on)} rules by priority: {', '.join(on) or 'none'}"
         + (f"; switched off: {', '.join(off)}" if off else ""))  # fmt: skip


@triggers.command("preview")
def preview_rules(
    rules: Annotated[
        list[Path] | None, typer.Argument(help="files of rules to compare; the rules in force without")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="files of records, or `topic` for what Kafka holds")
    ] = None,
    last: Annotated[str | None, typer.Option(help="only what was due in the last 7d, 24h, …")] = None,
    samples: Annotated[int, typer.Option(min=0, help="messages to show of each rule")] = 1,
    format: Format = "auto",
    columns: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """What would these rules have sent?

    Replays a history and sends nothing.
    """
    import time

    from stream_app.config import load_settings
    from stream_app.previewing import read_topics, render
    from stream_app.triggers.preview import Preview
    from stream_app.triggers.rules_file import load_trigger_rules, parse_duration

    settings = load_settings()
    last_ms = None if last is None else parse_duration("--last", last)
    now_ms = int(time.time() * 1000)
    paths: list[Path | None] = [*rules] if rules else [settings.trigger_rules]
    runs = {"built-in" if p is None else str(p): Preview(load_trigger_rules(p), now_ms) for p in paths}
    for source in sources or ["topic"]:
        if source == "topic":
            for record, partition, offset, written_ms in asyncio.run(read_topics(settings)):
                for one in runs.values():
                    one.feed(record, partition, offset, written_ms)
            continue
        with Reading(Path(source), format, columns, skip_bad, quiet=as_json) as reading:
            for record in reading.records():
                for one in runs.values():
                    one.feed(record)
    reports = {name: one.report(last_ms, samples, settings.namespace) for name, one in runs.items()}
    if as_json:
        print(json.dumps({name: report.to_json_object() for name, report in reports.items()}))
        return
    from rich.console import Console

    Console(highlight=False).print(render(reports))


@triggers.command()
def deliver(
    url: Annotated[str | None, typer.Option(help="of the receiver; RECS_WEBHOOK_URL without")] = None,
) -> None:
    """Post triggers to a webhook, signed, in order per user. At most one process per partition has work."""
    from stream_app.config import load_settings
    from stream_app.delivery import Deliverer
    from stream_app.telemetry import Metrics, StatusPage
    from stream_app.webhook import Endpoint, parse_secrets

    settings = load_settings()
    endpoint = Endpoint(
        url or settings.webhook_url.get_secret_value(),
        parse_secrets(settings.webhook_secret.get_secret_value()),
        timeout_s=settings.webhook_timeout_s,
        connections=settings.webhook_concurrency,
    )

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        deliverer = Deliverer(settings, endpoint, metrics=Metrics())
        page = None
        if settings.web_port:
            page = StatusPage(
                settings.web_host, settings.web_port, deliverer.metrics, lambda: deliverer.ready
            )
        logging.getLogger("stream_app").info("delivering to %s", endpoint.host)
        try:
            async with endpoint:
                await deliverer.run(stop)
        finally:
            if page is not None:
                page.close()

    asyncio.run(serve())


@triggers.command()
def report(
    files: Annotated[
        list[Path] | None,
        typer.Option("--from", help="file of triggers and events, may be repeated; the topics without"),
    ] = None,
    window: Annotated[str, typer.Option(help="after a trigger, in which a purchase counts: 7d, 12h")] = "7d",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """What triggers brought.

    Who bought after them, beside who was held out.
    """
    from stream_app.effect_reading import read_files, read_topics
    from stream_app.triggers.effect import EffectTally
    from stream_app.triggers.rules_file import parse_duration

    window_ms = parse_duration("--window", window)
    if window_ms <= 0:
        raise ConfigError("--window: is no time at all")
    tally, bad = EffectTally(), 0
    if files:

        def on_bad(_: InputError) -> None:
            nonlocal bad
            bad += 1

        with Progress("reading", quiet=as_json) as progress:
            read_files(files, tally, skip_bad=skip_bad, on_bad=on_bad, progress=progress.bytes)
    else:
        from stream_app.config import load_settings

        bad = asyncio.run(read_topics(load_settings(), tally))
    found = tally.report(window_ms, unreadable=bad)
    if as_json:
        print(json.dumps(found.to_json_object()))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for part in effect_tables(found):
        console.print(part)


def effect_tables(found: EffectReport) -> Iterator[Any]:
    """What `recs triggers report` prints: tables and sentences for rich."""
    from rich.table import Table

    days = found.window_ms / 86_400_000
    span = f"{days:g} days" if days >= 1 else f"{days * 24:g} hours"
    if found.first_ms is not None and found.end_ms is not None:
        yield f"Triggers from {_day(found.first_ms)} on, purchases until {_day(found.end_ms)}."
    became = Table(
        "rule", "sent", "held back because of", title="What was sent and what was not", title_justify="left"
    )
    for rule, sent in found.messages.items():
        held = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in found.suppressed[rule].items())
        became.add_row(rule, f"{sent:,}", held or "none")
    yield became
    bought = Table(title=f"Who bought within {span}, each user once", title_justify="left", show_lines=True)
    for name in ("rule", "with message", "held out", "what messages did (95 %)"):
        bought.add_column(name)
    for effect in (*found.rules, found.overall):
        bought.add_row(effect.rule, _arm(effect.sent), _arm(effect.held_out), _words(effect))
    yield bought
    if found.overall.open:
        yield f"{found.overall.open:,} users are not counted yet: their {span} were not over."
    if found.repeats or found.unreadable:
        yield f"{found.repeats:,} repeated and {found.unreadable:,} unreadable messages were left out."


def _arm(arm: Arm) -> str:
    if arm.rate is None:
        return "nobody"
    return f"{arm.converted:,} of {arm.users:,}\n{arm.rate:.1%}, {arm.revenue / arm.users:,.2f} each"


def _words(effect: Effect) -> str:
    if effect.uplift is None:
        return "[yellow]nobody to compare with[/]"
    colour = {"more bought": "green", "fewer bought": "red"}.get(effect.verdict, "yellow")
    up, ratio = effect.uplift, effect.ratio
    text = f"[{colour}]{effect.verdict}[/]\n"
    text += f"{100 * up.value:+.1f} points ({100 * up.low:+.1f} to {100 * up.high:+.1f})"
    if ratio is not None:
        value, low, high = (100 * (x - 1) for x in (ratio.value, ratio.low, ratio.high))
        text += f"\n{value:+.0f} % buyers ({low:+.0f} to {high:+.0f})"
    return text


def _day(ms: int) -> str:
    from stream_app.events.records import iso_time

    return iso_time(ms)[:10]
