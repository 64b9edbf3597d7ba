"""The report of effects finds what is known to be there, and nothing where there is nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from scipy.stats.contingency import relative_risk
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.config import load_settings
from stream_app.effect_reading import read_topics
from stream_app.embedded import EmbeddedBroker
from stream_app.errors import ConfigError, EventError, InputError
from stream_app.events import Event, EventItem, encode_event
from stream_app.events.records import iso_time
from stream_app.transport import Connection, Sender
from stream_app.triggers.effect import Arm, EffectReport, EffectTally, Exposure, amount, decode_exposure
from stream_app.triggers.randomised import DAY_MS, START_MS, Truth, simulate
from stream_app.triggers.uplift import Counts, difference, ratio, wilson

WEEK = 7 * DAY_MS


def tallied(records: Iterable[Exposure | Event], window_ms: int = WEEK) -> EffectReport:
    """The report of some records."""
    tally = EffectTally()
    for record in records:
        if isinstance(record, Exposure):
            tally.add_exposure(record)
        else:
            tally.add_event(record)
    return tally.report(window_ms)


def bought(user_id: str, at_ms: int, value: float = 10.0, event_id: str = "") -> Event:
    """A purchase."""
    return Event(event_id or f"{user_id}@{at_ms}", "purchase", at_ms, user_id, item_id="i", value=value)


def end(at_ms: int) -> Event:
    """The last event of the data."""
    return Event("end", "view_item", at_ms, "nobody", item_id="i")


def as_message(exposure: Exposure) -> bytes:
    """The message that the exposure is read from."""
    data = {"rule": exposure.rule, "reason": "…", "evidence": {}, "items": [], "recommendations": []}
    if exposure.suppressed:
        data["suppressed"] = exposure.suppressed
    message = {
        "specversion": "1.0", "id": exposure.id, "type": f"recs.trigger.{exposure.rule}.v1",
        "source": "/recs/rec", "subject": exposure.user_id, "time": iso_time(exposure.at_ms), "data": data,
    }  # fmt: skip
    return json.dumps(message).encode()


# Formulas


def test_newcombe_published_intervals() -> None:
    """Newcombe's own examples (a) to (h), table II, method 10."""
    published = [
        (56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090), (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926), (0, 10, 0, 20, -0.1611, 0.2775), (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0000), (10, 10, 0, 10, 0.6075, 1.0000),
    ]  # fmt: skip
    for hits, n, base_hits, base_n, low, high in published:
        found = difference([Counts(hits, n, base_hits, base_n)])
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_ratio_is_what_scipy_says() -> None:
    """In one group the ratio and its interval are those of `scipy.stats.contingency.relative_risk`."""
    for counts in (Counts(56, 70, 48, 80), Counts(3, 400, 9, 150)):
        found, theirs = ratio([counts]), relative_risk(*counts)
        expected = theirs.confidence_interval(0.95)
        assert found is not None
        assert (found.value, found.low, found.high) == pytest.approx(
            (theirs.relative_risk, expected.low, expected.high)
        )


def test_groups_are_compared_inside() -> None:
    """Where neither rule has an effect there is none over both, however they differ otherwise.

    Added up first, the two would show a rise from 1.5 to 6.9 buyers in 100.
    """
    groups = [Counts(10, 1_000, 20, 2_000), Counts(90, 450, 10, 50)]
    overall, risk = difference(groups), ratio(groups)
    assert overall is not None and risk is not None
    assert overall.value == pytest.approx(0) and overall.low < 0 < overall.high
    assert risk.value == pytest.approx(1)


def test_splitting_a_group_at_random_changes_little() -> None:
    """Over two halves of one group the interval is about that of the whole."""
    whole, halves = difference([Counts(120, 1_000, 80, 1_000)]), difference([Counts(60, 500, 40, 500)] * 2)
    assert whole is not None and halves is not None
    assert (halves.value, halves.low, halves.high) == pytest.approx(
        (whole.value, whole.low, whole.high), abs=5e-4
    )


def test_nothing_to_compare() -> None:
    """Without hold-out there is no uplift, and without buyers on a side no ratio."""
    assert difference([]) is None and difference([Counts(3, 10, 0, 0)]) is None
    assert ratio([Counts(3, 10, 0, 10)]) is None and ratio([Counts(0, 10, 3, 10)]) is None
    assert difference([Counts(3, 10, 0, 0), Counts(5, 10, 3, 10)]) == difference([Counts(5, 10, 3, 10)])
    assert wilson(10, 10).high == 1.0


# Who counts


def test_the_first_exposure_of_a_user_counts() -> None:
    """A user under a rule is one trial, from the first exposure on, however the messages come."""
    records = [
        Exposure("c", "a", "u1", 3 * WEEK), Exposure("a", "a", "u1", 1_000), Exposure("b", "a", "u1", 2_000),
        bought("u1", 1_500), bought("u1", 3 * WEEK + 1), end(9 * WEEK),
    ]  # fmt: skip
    random.Random(3).shuffle(records)
    report = tallied(records)
    assert report.rules[0].sent == Arm(1, 1, 10.0)
    assert report.messages == {"a": 3}


def test_only_purchases_inside_the_window_count() -> None:
    """At the time of the exposure or before, and after the window, a purchase is no conversion."""
    inside = [1, WEEK]
    outside = [-1, 0, WEEK + 1]
    for shift in (*inside, *outside):
        report = tallied([Exposure("a", "r", "u", 10 * WEEK), bought("u", 10 * WEEK + shift), end(20 * WEEK)])
        assert report.overall.sent.converted == (shift in inside), shift


def test_what_is_not_over_is_not_counted() -> None:
    """An exposure counts once its window is over, whether its user bought already or not."""
    records = [Exposure("a", "r", "u", 1_000), Exposure("b", "r", "v", 1_000, "hold_out"), bought("u", 2_000)]
    early, late = tallied([*records, end(WEEK + 999)]), tallied([*records, end(WEEK + 1_000)])
    assert (early.overall.sent.users, early.overall.open) == (0, 2)
    assert (late.overall.sent.users, late.overall.held_out.users, late.overall.open) == (1, 1, 0)


def test_repeats_count_once() -> None:
    """Triggers and purchases that come again, as after a crash, change nothing but the count of repeats."""
    records = list(simulate(5, Truth(users=200)))
    once, twice = tallied(records), tallied([*records, *records])
    assert twice.repeats == len([r for r in records if isinstance(r, Exposure)])
    assert (twice.rules, twice.overall, twice.messages) == (once.rules, once.overall, once.messages)


def test_other_suppressions_are_counted_by_reason_only() -> None:
    """Who was held back for another reason than the hold-out belongs to neither side."""
    reasons = ["cooldown", "cooldown", "no_consent", "hold_out", ""]
    report = tallied([*(Exposure(f"x{n}", "r", f"u{n}", 0, why) for n, why in enumerate(reasons)), end(WEEK)])
    assert report.suppressed == {"r": {"cooldown": 2, "no_consent": 1, "hold_out": 1}}
    assert (report.messages["r"], report.overall.sent.users, report.overall.held_out.users) == (1, 1, 1)


def test_over_all_rules_a_user_counts_once() -> None:
    """The first exposure of any rule says on which side a user is."""
    records = [
        Exposure("a", "r", "u", 2_000, "hold_out"), Exposure("b", "s", "u", 1_000),
        Exposure("c", "r", "v", 1_000), end(WEEK * 2),
    ]  # fmt: skip
    overall = tallied(records).overall
    assert (overall.sent.users, overall.held_out.users) == (2, 0)


def test_money_of_a_purchase() -> None:
    """The value of the event, else what its items cost; a price or quantity that is missing is 0 or 1."""
    items = (EventItem("a", 2.0, 3), EventItem("b", 1.5), EventItem("c"))
    assert amount(Event("e", "purchase", 0, "u", items=items)) == 7.5
    assert amount(Event("e", "purchase", 0, "u", items=items, value=5.0)) == 5.0


# Known answers


def test_the_interval_covers_the_truth() -> None:
    """In 1,000 randomised sets, the 95 % interval covers the true uplift about 95 times in 100.

    That holds with an effect and without one. The standard error of such a share is 0.7 points.
    """
    for uplift, rates in ((0.06, (0.93, 0.975)), (0.0, (0.93, 0.975))):
        truth = Truth(users=250, hold_out=0.3, base_rate=0.1, uplift=uplift)
        covered = 0
        for seed in range(1_000):
            found = tallied(simulate(seed, truth)).overall.uplift
            assert found is not None
            covered += not found.excludes(uplift)
        assert rates[0] <= covered / 1_000 <= rates[1], (uplift, covered)


def test_a_true_effect_is_found() -> None:
    """With enough users the verdict is right: of a rule that helps, that harms, and that does nothing."""
    helps = Truth("helps", 8_000, 0.2, 0.10, 0.05)
    harms = Truth("harms", 8_000, 0.5, 0.20, -0.05)
    idle = Truth("idle", 8_000, 0.2, 0.03, 0.0)
    report = tallied(simulate(1, helps, harms, idle))
    assert {e.rule: e.verdict for e in report.rules} == {
        "harms": "fewer bought", "helps": "more bought", "idle": "not proven",
    }  # fmt: skip
    for effect, truth in zip(report.rules, (harms, helps, idle), strict=True):
        assert effect.uplift is not None and not effect.uplift.excludes(truth.uplift)
        assert effect.sent.users + effect.held_out.users == 8_000
        rate = effect.held_out.rate
        assert rate is not None and abs(rate - truth.base_rate) < 0.02


def test_over_rules_the_interval_covers_too() -> None:
    """Where two rules differ in all but the uplift, the overall interval covers that as often."""
    covered = 0
    for seed in range(400):
        truths = Truth("a", 150, 0.1, 0.05, 0.04), Truth("b", 100, 0.6, 0.4, 0.04)
        found = tallied(simulate(seed, *truths)).overall.uplift
        assert found is not None
        covered += not found.excludes(0.04)
    assert 0.92 <= covered / 400 <= 0.985, covered


# Reading


def test_a_message_is_read_and_anything_else_refused() -> None:
    """What was written is read back; what is no trigger is refused with a reason."""
    for exposure in (
        Exposure("a", "win_back", "u", START_MS),
        Exposure("b", "r", "ü", START_MS + 1, "cooldown"),
    ):
        assert decode_exposure(as_message(exposure)) == exposure
    good = json.loads(as_message(Exposure("a", "r", "u", 0)))
    for change in (
        {"type": "order.created"},
        {"time": "yesterday"},
        {"time": "2026-01-05T10:00:00"},
        {"data": {}},
        {"id": 7},
    ):
        with pytest.raises(EventError):
            decode_exposure(json.dumps(good | change).encode())
    with pytest.raises(EventError):
        decode_exposure(b"\xff{}")


def written(folder: Path, *truths: Truth) -> tuple[Path, Path]:
    """Triggers and events of a randomised set in two files."""
    records = list(simulate(1, *truths))
    files = folder / "triggers.jsonl", folder / "events.jsonl"
    files[0].write_bytes(b"\n".join(as_message(r) for r in records if isinstance(r, Exposure)))
    files[1].write_bytes(b"\n".join(encode_event(r) for r in records if isinstance(r, Event)))
    return files


def test_the_command_reports_from_files(tmp_path: Path) -> None:
    """`recs triggers report --from` says the same in JSON as the values it was made of, and in words."""
    files = written(tmp_path, Truth("helps", 4_000, 0.25, 0.1, 0.06), Truth("idle", 200, 0.25, 0.1, 0.0))
    arguments = ["triggers", "report", "--from", str(files[0]), "--from", str(files[1])]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    expected = tallied(
        simulate(1, Truth("helps", 4_000, 0.25, 0.1, 0.06), Truth("idle", 200, 0.25, 0.1, 0.0))
    )
    assert found == json.loads(json.dumps(expected.to_json_object()))
    assert found["rules"][0]["uplift"]["low"] > 0 and found["rules"][0]["verdict"] == "more bought"
    printed = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}).stdout
    assert "more bought" in printed and "not proven" in printed and "hold out" in printed
    shorter = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--window", "12h"]).stdout)
    assert shorter["overall"]["sent"]["converted"] < found["overall"]["sent"]["converted"]


def test_bad_input_of_the_report(tmp_path: Path) -> None:
    """A bad window, a missing file and a bad line are named in an error; bad lines can be skipped."""
    files = written(tmp_path, Truth(users=20))

    def error(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(app, ["triggers", "report", *arguments]).exception

    assert isinstance(failure := error("--window", "soon", "--from", str(files[0])), ConfigError)
    assert "--window: 'soon' is no time" in str(failure)
    assert isinstance(error("--window", "0d", "--from", str(files[0])), ConfigError)
    assert isinstance(error("--from", str(tmp_path / "none")), InputError)
    files[0].write_bytes(files[0].read_bytes() + b'\n{"type": "recs.trigger.r.v1"}\n')
    assert isinstance(failure := error("--from", str(files[0])), InputError)
    assert f"{files[0]}:" in str(failure)
    skipped = CliRunner().invoke(app, ["triggers", "report", "--from", str(files[0]), "--skip-bad", "--json"])
    assert json.loads(skipped.stdout)["unreadable"] == 1


async def test_the_report_reads_the_topics() -> None:
    """From the topics come the same figures as from the values, and messages that are none are counted."""
    records = list(simulate(2, Truth(users=300)))
    with EmbeddedBroker(topics={"triggers": 4, "triggers.suppressed": 4, "events": 4}) as broker:
        settings = load_settings(kafka_bootstrap=broker.bootstrap)
        sender = Sender(Connection.of(settings))
        await sender.start()
        for record in records:
            if isinstance(record, Event):
                topic, value = settings.events_topic, encode_event(record)
            else:
                topic = settings.suppressed_topic if record.suppressed else settings.triggers_topic
                value = as_message(record)
            await sender.send([(topic, record.user_id.encode(), value, None)])
        await sender.send(
            [(settings.triggers_topic, b"u", b"broken", None), (settings.events_topic, b"u", b"{}", None)]
        )
        await sender.stop()
        tally = EffectTally()
        unreadable = await read_topics(settings, tally, clock=lambda: (START_MS + 60 * DAY_MS) / 1000)
    assert unreadable == 2
    expected = tallied(records)
    found = tally.report(WEEK)
    assert (found.rules, found.overall, found.suppressed) == (
        expected.rules,
        expected.overall,
        expected.suppressed,
    )
