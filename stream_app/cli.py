"""The command line, `recs`. Every command has --help; what machines read is behind --json."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from stream_app.cli_parts import AsJson, Columns, Format, Progress, Reading, SkipBad, say
from stream_app.cli_triggers import triggers
from stream_app.errors import RecsError

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich takes longer than all else that --help does
    pretty_exceptions_enable=False,
    help="Streaming recommendations: Kafka events in, pruned and proven recommendations out.",
)
prune = typer.Typer(
    no_args_is_help=True, help="Releases: what was pruned, what the guard said, and commands."
)
app.add_typer(prune, name="prune")
lists = typer.Typer(no_args_is_help=True, help="Lists: the business rules that they keep to.")
app.add_typer(lists, name="lists")
app.add_typer(triggers, name="triggers")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks and debug logs")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show what happens")] = False,
) -> None:
    """Options of all commands."""
    _State.debug = debug
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("numba", "asyncio", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not debug:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its failures reach us as exceptions
        for name in ("faust", "mode"):
            logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _State:
    debug = False


# ------------------------------------------------------------------------------------------ roles


@app.command()
def demo(
    events: Annotated[int, typer.Option(min=2_000, help="events of the simulated shop")] = 40_000,
    seed: Annotated[int, typer.Option(help="of the shop")] = 7,
    serve: Annotated[bool, typer.Option("--serve", help="go on afterwards, until Ctrl-C")] = False,
    as_json: AsJson = False,
) -> None:
    """See the whole system at work here, with a simulated shop.

    Shows what became of its events: lists before and after clicks, releases, messages.
    """
    from rich.console import Console

    from stream_app.demo import Demo

    console = Console(stderr=as_json, highlight=False)
    report = run(Demo(console, events=events, seed=seed).run(serve=serve))
    if as_json:
        print(json.dumps(report.to_json_object()))


@app.command()
def worker(
    learner_too: Annotated[
        bool, typer.Option("--learner", help="run the learner in this process too")
    ] = False,
) -> None:
    """Read events, keep users and their lists up to date in Redis. Start as many as you like."""
    _serve(["worker", "learner"] if learner_too else ["worker"])


@app.command()
def learner() -> None:
    """Learn from what workers saw; prune, judge and publish the model. One per system."""
    _serve(["learner"])


def _serve(roles: list[str]) -> None:
    from stream_app.app import System
    from stream_app.config import load_settings
    from stream_app.demo import warm_up

    settings = load_settings()
    logging.getLogger("stream_app").setLevel(logging.DEBUG if _State.debug else logging.INFO)

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await asyncio.to_thread(warm_up)
        async with System(settings, roles) as system:
            logging.getLogger("stream_app").info("%s ready", " and ".join(roles))
            while not stop.is_set():
                reason = system.crash_reason()
                if reason is not None:
                    raise reason if isinstance(reason, RecsError) else RecsError(str(reason)) from reason
                try:
                    await asyncio.wait_for(stop.wait(), 0.2)
                except TimeoutError:
                    continue

    run(serve())


@app.command()
def simulate(
    rate: Annotated[float, typer.Option(min=0.1, help="events per second")] = 200.0,
    events: Annotated[int, typer.Option(min=1, help="how many in all")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="of the shop")] = 7,
) -> None:
    """Send the events of a simulated shop to Kafka, at a steady rate."""
    from stream_app.config import load_settings
    from stream_app.replay import send_records
    from stream_app.simulator import Shop

    shop = Shop(seed)

    def records() -> Any:
        yield from shop.items()
        yield from shop.users()
        yield from shop.records(events)

    run(send_records(load_settings(), records(), rate=rate))


# ------------------------------------------------------------------------------------------ files


@app.command()
def replay(
    file: Path,
    format: Format = "auto",
    columns: Columns = None,
    skip_bad: SkipBad = False,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="events per second; as fast as possible without")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a file of events, items and users to Kafka."""
    from stream_app.config import load_settings
    from stream_app.replay import send_records

    settings = load_settings()
    with Reading(file, format, columns, skip_bad, quiet=as_json) as reading:
        sent = run(send_records(settings, reading.records(), rate=rate))
    say({**sent, "skipped_lines": reading.bad}, as_json,
         f"sent {sent['events']:,} events, {sent['items']:,} items, {sent['users']:,} users"
         + (f"; skipped {reading.bad:,} bad lines" if reading.bad else ""))  # fmt: skip


@app.command()
def evaluate(
    file: Path,
    format: Format = "auto",
    columns: Columns = None,
    skip_bad: SkipBad = False,
    k: Annotated[int, typer.Option(min=1, max=100, help="length of the lists")] = 10,
    models: Annotated[str | None, typer.Option(help="only these, comma-separated")] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat/--exclude-seen", help="score items a user chose before too")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many events")] = None,
    seed: Annotated[int, typer.Option(help="of ties in time and of sampled negatives")] = 0,
    plot: Annotated[Path | None, typer.Option(help="draw the curves into this PNG")] = None,
    as_json: AsJson = False,
) -> None:
    """How good are recommendations on a file of events?

    Test, then learn; baselines beside ours.
    """
    from stream_app.evaluation.judging import evaluate_file
    from stream_app.evaluation.pictures import check_picture

    if plot is not None:
        check_picture(plot)
    with Reading(file, format, columns, skip_bad, quiet=as_json, limit=limit) as reading:
        names = None if models is None else [name.strip() for name in models.split(",")]
        report = evaluate_file(
            reading.records(), names, k=k, repeat=repeat, seed=seed, progress=reading.model_progress
        )
        if reading.bad:
            report = report.with_note(f"bad lines: {reading.bad:,}, skipped")
    if plot is not None:
        from stream_app.evaluation import plot as draw

        draw(report, plot)
    if as_json:
        print(json.dumps(report.to_json_object()))
        return
    from rich.console import Console

    from stream_app.evaluation import render

    Console(highlight=False).print(render(report))


@app.command()
def validate(file: Path, format: Format = "auto", columns: Columns = None, as_json: AsJson = False) -> None:
    """Check a file of events: what is in it, and which lines are bad."""
    import dataclasses

    from stream_app.formats import parse_columns
    from stream_app.validation import validate as check

    with Progress("reading", quiet=as_json) as progress:
        report = check(
            file, format, columns=None if columns is None else parse_columns(columns), progress=progress.bytes
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(report) | {"ok": report.ok}))
    else:
        from rich.console import Console

        Console(highlight=False).print(_validation_table(report))
    if not report.ok:
        raise typer.Exit(65)


def _validation_table(report: Any) -> Any:
    from rich.table import Table

    from stream_app.events.records import iso_time

    table = Table(title=f"{report.path} ({report.format})", show_header=False, title_justify="left")
    table.add_row(
        "events", f"{report.events:,}  " + ", ".join(f"{n:,} {t}" for t, n in report.events_by_type.items())
    )
    table.add_row("items, users described", f"{report.items:,}, {report.users:,}")
    table.add_row(
        "items, users in events",
        f"{report.active_items:,} ({report.undescribed_items:,} not described), "
        f"{report.active_users:,} ({report.undescribed_users:,} not described)",
    )
    if report.first_ms is not None:
        table.add_row("time", f"{iso_time(report.first_ms)} to {iso_time(report.last_ms)}")
    table.add_row("out of order", f"{report.out_of_order:,} ({report.out_of_order_share:.1%})")
    table.add_row("ids seen before", f"{report.duplicate_events:,}")
    table.add_row("bad lines", f"[{'red' if report.bad_lines else 'green'}]{report.bad_lines:,}[/]")
    for reason in report.bad_reasons:
        table.add_row("", reason)
    return table


# ------------------------------------------------------------------------------------------ reading


@app.command()
def get(
    user: str,
    why: Annotated[bool, typer.Option("--why", help="say why each item is there")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a user's list from Redis, the way a consumer would."""
    from stream_app.config import load_settings
    from stream_app.worker import make_store

    settings = load_settings()

    async def read() -> tuple[dict[str, Any] | None, list[Any], str | None]:
        store = make_store(settings)
        try:
            found = await store.read_list(user)
            if found is None or not why:
                return found or await store.read_shared("popular"), [], None
            from stream_app.explain import explain_list

            return found, *(await explain_list(settings, store, user))
        finally:
            await store.close()

    found, places, remark = run(read())
    if found is None:
        raise RecsError(
            f"there is no list for {user!r} and no list of popular items: did a worker and a learner run?"
        )
    if as_json:
        if places:
            found["why"] = [{"item_id": p.item_id, "why": p.why or None} for p in places]
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{user}: {found['strategy']}, model {found['model']}, {found['generated_at']}",
                  title_justify="left")  # fmt: skip
    for name in ("", "item", "score", *(["why"] if places else [])):
        table.add_column(name, justify="right" if name in ("", "score") else "left")
    for n, item in enumerate(found["items"]):
        reason = [places[n].why] if places else []
        table.add_row(str(n + 1), item["item_id"], f"{item['score']:.3f}", *reason)
    console = Console(highlight=False)
    console.print(table)
    if remark:
        console.print(f"[yellow]{remark}[/]")


@app.command()
def erase(user: Annotated[str, typer.Argument(help="whose data is to go")]) -> None:
    """Erase a user everywhere: state, list, description. What the user does later is somebody new's."""
    _command({"command": "erase", "user_id": user}, f"`recs get {user}` finds nothing once workers did it")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this deployment.

    Settings, Kafka and its topics, Redis, the model.
    """
    from stream_app.diagnosis import diagnose

    findings = run(diagnose())
    if as_json:
        print(json.dumps([vars(f) for f in findings]))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for f in findings:
            console.print(
                f"[{'green' if f.ok else 'red'}]{'ok  ' if f.ok else 'FAIL'}[/] {f.subject}: {f.text}"
            )
    if not all(f.ok for f in findings):
        raise typer.Exit(69)


@lists.command("validate")
def validate_rules(
    file: Annotated[Path | None, typer.Argument(help="of rules; RECS_LIST_RULES without")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a file of list rules, and say which of them are in force now."""
    import time

    from stream_app.config import load_settings
    from stream_app.errors import ConfigError
    from stream_app.lists.rules import load_rules

    path = file or load_settings().list_rules
    if path is None:
        raise ConfigError("no file of rules: name one, or set RECS_LIST_RULES")
    rules = load_rules(path)
    active = [rule.name for rule in rules.active(int(time.time() * 1000))]
    say({"file": str(path), "rules": len(rules.rules), "active": active, "diversity": rules.diversity,
          "at_most": dict(rules.at_most)}, as_json,
         f"{path}: {len(rules.rules)} rules, in force now: {', '.join(active) or 'none'}")  # fmt: skip


# ------------------------------------------------------------------------------------------ prune


@prune.command()
def history(
    state_dir: Annotated[
        Path | None, typer.Option(help="folder of the learner; RECS_STATE_DIR without")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every release that was proposed, and what the guard said."""
    import dataclasses

    from pruning import Ledger
    from stream_app.config import load_settings

    folder = state_dir or load_settings().state_dir
    ledger = Ledger(folder / "ledger.jsonl")
    if ledger.path is None or not ledger.path.exists():
        raise RecsError(f"there is no ledger in {folder}: give --state-dir, or let a learner run first")
    records = ledger.read()
    if as_json:
        print(json.dumps([dataclasses.asdict(r) for r in records]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{ledger.path}", title_justify="left")
    for name in ("time", "release", "verdict", "weights", "bytes", "reason"):
        table.add_column(name)
    for r in records:
        colour = {"promote": "green", "undecided": "yellow"}.get(r.verdict, "red")
        table.add_row(
            r.time or "", r.version, f"[{colour}]{r.verdict}[/]",
            f"{r.weights_before:,} → {r.weights_after:,}", f"{r.bytes_before:,} → {r.bytes_after:,}",
            r.reason,
        )  # fmt: skip
    Console(highlight=False).print(table)


@prune.command("dry-run")
def dry_run(
    checkpoint: Annotated[Path | None, typer.Argument(help="of a learner; RECS_STATE_DIR's without")] = None,
    amount: Annotated[float, typer.Option(min=0, max=0.999, help="share of the weights to leave out")] = 0.8,
    as_json: AsJson = False,
) -> None:
    """What pruning a saved model would leave out, by field.

    And what that is predicted to cost.
    """
    import dataclasses

    from stream_app.config import load_settings
    from stream_app.prune_reports import dry_run as report_on

    report, names = report_on(checkpoint or load_settings().state_dir / "checkpoint", amount)
    fields = report.by_field(names)
    if as_json:
        found = dataclasses.asdict(report) | {"fields": [dataclasses.asdict(field) for field in fields]}
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{report.weights_before:,} → {report.weights_after:,} weights, {report.bytes_before:,} → "
        f"{report.bytes_after:,} bytes, predicted cost {report.predicted_cost:.2g} per pair",
        title_justify="left",
    )
    for name in ("field", "weights", "kept", "predicted cost"):
        table.add_column(name, justify="left" if name == "field" else "right")
    for field in fields:
        kept = f"{field.kept:,} ({field.kept / max(field.live, 1):.0%})"
        table.add_row(field.field, f"{field.live:,}", kept, f"{field.predicted_cost:.2g}")
    Console(highlight=False).print(table)


@prune.command("curve")
def size_curve(
    file: Path,
    format: Format = "auto",
    columns: Columns = None,
    skip_bad: SkipBad = False,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many events")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="what the guard accepts")] = 5e-3,
    plot: Annotated[Path | None, typer.Option(help="draw the curve into this PNG")] = None,
    as_json: AsJson = False,
) -> None:
    """Size against quality on a file of events.

    Learns the first 80 %, and judges prunings on the rest.
    """
    import dataclasses

    from stream_app.prune_reports import size_quality_curve

    with Reading(file, format, columns, skip_bad, quiet=as_json, limit=limit) as reading:
        found = size_quality_curve(reading.records(), tolerance=tolerance)
    if plot is not None:
        from pruning import plot as draw

        draw(found, plot, f"Size and quality of the ranker on {file.name}")
    if as_json:
        print(json.dumps(dataclasses.asdict(found), default=float))
        return
    from rich.console import Console

    from stream_app.prune_reports import curve_table

    Console(highlight=False).print(curve_table(found))


@prune.command()
def now() -> None:
    """Ask the learner to put a pruned release on trial at once."""
    _command({"command": "prune"}, "`recs prune history` shows what became of it")


@prune.command()
def rollback(reason: Annotated[str, typer.Option(help="for the ledger")] = "asked for") -> None:
    """Ask the learner to serve the previous release again."""
    _command({"command": "rollback", "reason": reason}, "`recs prune history` shows what became of it")


def _command(command: dict[str, str], next_step: str) -> None:
    from stream_app.config import load_settings
    from stream_app.replay import send_command

    settings = load_settings()
    run(send_command(settings, command))
    print(f"sent to topic {settings.control_topic}; {next_step}")


# ------------------------------------------------------------------------------------------ helpers


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; Ctrl-C ends it in good order."""
    return asyncio.run(work)


def main() -> None:
    """Entry point: errors become one line on standard error and an exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Importing `pruning` takes seconds, and whoever raised its error has done so.
        of_pruning = getattr(sys.modules.get("pruning.errors"), "PruningError", RecsError)
        if _State.debug or not isinstance(error, RecsError | of_pruning | OSError):
            raise
        text = " ".join(str(error).split())
        print(f"recs: {text}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
