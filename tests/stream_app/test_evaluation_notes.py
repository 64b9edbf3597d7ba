"""Truths about odd streams: every model survives them, and the report says what is odd."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.errors import InputError
from stream_app.evaluation import evaluate
from stream_app.evaluation.baselines import Popularity
from stream_app.evaluation.judging import MODELS
from stream_app.evaluation.notes import notes_of
from stream_app.evaluation.plan import make_plan
from stream_app.events import Event, EventItem, Item, User, encode_event

START_MS = 1_767_571_200_000


def view(second: int, user: int, item: int | str) -> Event:
    time = START_MS + 1000 * second
    return Event(f"{second}-{user}-{item}", "view_item", time, f"u{user}", item_id=f"i{item}")


def rated(second: int, user: int, item: int, value: float) -> Event:
    time = START_MS + 1000 * second
    return Event(f"r{second}", "rate", time, f"u{user}", item_id=f"i{item}", value=value)


LATE = [view(second ^ 1, second % 7, second % 5) for second in range(60)]  # neighbours change places
STREAMS: dict[str, tuple[list[Event], str]] = {
    "events out of order": (LATE, "late events: 30 of 60, sorted to their place"),
    "items never described": (LATE, "items never described: 5 of 5"),
    "users with one event": (
        [view(t, t, t % 20) for t in range(40)],
        "users with a single event: 40 of 40",
    ),
    "a catalogue of one item": (
        [view(t, t % 9, "only") for t in range(20)],
        "only one item: there is nothing to choose from",
    ),
    "all events of one user": (
        [view(t, 0, t % 30) for t in range(60)],
        "only one user: errors, which compare users, cannot be given",
    ),
    "more places than items": (
        [view(t, t % 9, t % 4) for t in range(40)],
        "lists of 10 hold all 4 items: only their order tells models apart",
    ),
    "no positive feedback": (
        [rated(t, t % 5, t % 12, 1.0) for t in range(30)],
        "no event is positive feedback on a new item: nothing was tested",
    ),
    "one moment": (
        [view(0, n % 7, n % 15) for n in range(50)],
        "all events have the same time: what came first is the order of the file",
    ),
}


def file_of(events: list[Event], folder: Path) -> Path:
    path = folder / "events.jsonl"
    path.write_bytes(b"".join(encode_event(event) + b"\n" for event in events))
    return path


@pytest.mark.parametrize("name", STREAMS)
def test_every_model_survives_and_the_report_says_what_is_odd(name: str, tmp_path: Path) -> None:
    """Of each odd stream the command prints strict JSON with all models, and a note."""
    events, note = STREAMS[name]
    result = CliRunner().invoke(app, ["evaluate", str(file_of(events, tmp_path)), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert note in found["notes"]
    assert set(found["models"]) == set(MODELS)
    for model in found["models"].values():
        assert model["recall@10"] is None or 0.0 <= model["recall@10"] <= 1.0
        assert model["dropped"] == 0


def test_notes_stand_below_the_tables(tmp_path: Path) -> None:
    """What is odd is printed for people, too, and lines that were skipped are part of it."""
    path = file_of(LATE, tmp_path)
    path.write_bytes(path.read_bytes() + b"{}\n")
    arguments = ["evaluate", str(path), "--models", "popularity", "--skip-bad"]
    printed = CliRunner().invoke(app, arguments, env={"COLUMNS": "100"}).stdout
    assert "· late events: 30 of 60, sorted to their place" in printed
    assert "· bad lines: 1, skipped" in printed


def test_an_empty_file_is_refused_by_its_name(tmp_path: Path) -> None:
    """There is nothing to report on a file without a single line, and the command says which file it is."""
    (tmp_path / "nothing.jsonl").touch()
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nothing.jsonl")])
    assert isinstance(result.exception, InputError)
    assert "nothing.jsonl: is empty" in str(result.exception)


def test_errors_need_more_than_one_user() -> None:
    """The error of one user's figures is unknown, not zero."""
    events, _ = STREAMS["all events of one user"]
    quality = evaluate(events, {"popularity": Popularity()}).models["popularity"]
    assert math.isnan(quality.metrics["recall@10_se"])


def test_a_full_list_finds_every_known_item() -> None:
    """With more places than items, every test passes whose item was named before."""
    events, _ = STREAMS["more places than items"]
    report = evaluate(events, {name: make() for name, make in MODELS.items()})
    for name, quality in report.models.items():
        assert quality.metrics["recall@10"] == pytest.approx(1 - report.first_time / report.tests), name


def test_what_was_never_described_is_counted_among_what_events_name() -> None:
    """Descriptions of items that no event names change nothing; users count where any is described."""
    events = [view(t, t % 3, t % 4) for t in range(12)]
    records = [Item("i0"), Item("i1"), Item("elsewhere"), User("u0"), *events]
    notes = notes_of(make_plan(records), 2)
    assert "items never described: 2 of 4" in notes
    assert "users never described: 2 of 3" in notes
    assert not any("users never" in note for note in notes_of(make_plan(events), 2))


def test_a_stream_without_oddities_has_no_notes() -> None:
    """Where everything is described, in order and tested, the only note is that first events miss."""
    events = [view(t, t % 10, t % 23) for t in range(230)]
    records = [*(Item(f"i{n}") for n in range(23)), *(User(f"u{n}") for n in range(10)), *events]
    first, *others = notes_of(make_plan(records), 10)
    assert first == "tests of items that nothing had named before: 23 of 230, misses for every model"
    assert others == []


def test_shown_lists_are_counted() -> None:
    """Lists with a later click are tested as rankings, and their number is told."""
    items = (EventItem("a", position=1), EventItem("b", position=2))
    shown = Event("s", "view_item_list", START_MS, "u", items=items, request_id="r")
    click = Event("c", "select_item", START_MS + 1000, "u", item_id="b", request_id="r")
    assert "shown lists with a later click: 1" in notes_of(make_plan([shown, click]), 10)
    assert notes_of(make_plan([]), 10) == ("no events: nothing was tested",)
