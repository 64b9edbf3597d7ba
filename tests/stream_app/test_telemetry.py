"""The status page, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from stream_app.errors import ConfigError
from stream_app.telemetry import Metrics, StatusPage


@pytest.fixture
def page() -> Iterator[StatusPage]:
    """A page of a process that is ready when its list says so."""
    answers = [True]
    status = StatusPage("127.0.0.1", 0, Metrics(), lambda: answers[0])
    status.answers = answers  # type: ignore[attr-defined]
    yield status
    status.close()


def ask(page: StatusPage, path: str) -> tuple[int, str]:
    """Status and body."""
    connection = HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_ready_says_whether_the_process_works(page: StatusPage) -> None:
    """200 while it does, 503 while it does not, 404 for what there is not."""
    assert ask(page, "/ready") == (200, "ready\n")
    page.answers[0] = False  # type: ignore[attr-defined]
    assert ask(page, "/ready") == (503, "not ready\n")
    assert ask(page, "/anything")[0] == 404


def test_metrics_are_those_of_the_process() -> None:
    """Two processes' counters do not mix, and Prometheus finds them by name."""
    one, other = Metrics(), Metrics()
    one.events.inc(7)
    one.batch.observe(0.5)
    page = StatusPage("127.0.0.1", 0, one, lambda: True)
    try:
        status, text = ask(page, "/metrics")
    finally:
        page.close()
    assert status == 200 and "recs_events_total 7.0" in text and "recs_batch_seconds_count 1.0" in text
    assert other.registry.get_sample_value("recs_events_total") == 0


def test_a_taken_port_is_named(page: StatusPage) -> None:
    """The error names both settings and the reason."""
    with pytest.raises(
        ConfigError, match=f"RECS_WEB_HOST=127.0.0.1 RECS_WEB_PORT={page.port}: Address already"
    ):
        StatusPage("127.0.0.1", page.port, Metrics(), lambda: True)


def test_a_closed_page_answers_no_more(page: StatusPage) -> None:
    """After close the port is free for the next process."""
    other = StatusPage("127.0.0.1", 0, Metrics(), lambda: True)
    port = other.port
    other.close()
    again = StatusPage("127.0.0.1", port, Metrics(), lambda: True)
    assert ask(again, "/ready")[0] == 200
    again.close()
