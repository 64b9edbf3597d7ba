"""Counters for Prometheus and the page that says whether a process is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from stream_app.errors import ConfigError


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str) -> Counter:
            return Counter(f"recs_{name}", text, registry=self.registry)

        self.events = counter("events", "events applied to users")
        self.skipped = counter("events_skipped", "events that had been applied before")
        self.dead_letters = counter("dead_letters", "messages that are no valid events")
        self.lists = counter("lists", "lists written")
        self.withdrawn = counter("lists_withdrawn", "lists in Redis that an item was taken out of")
        self.examples = counter("examples", "examples learned")
        self.repeats = counter("examples_repeated", "examples that had been learned before")
        self.releases = counter("releases", "releases loaded or published")
        self.rebuilt = counter("events_rebuilt", "events applied again after Redis was emptied")
        self.fenced = counter("fenced", "batches dropped because another worker had taken the partition")
        self.retries = counter("retries", "attempts repeated because Kafka or Redis did not answer")
        self.drift = counter("drift_alarms", "times that the ranker's loss had risen for a while")
        self.triggers = Counter(
            "recs_triggers",
            "rules that matched, by what became of the message: sent, or why it was held back",
            ["rule", "outcome"],
            registry=self.registry,
        )
        self.webhooks = counter("webhooks", "triggers that the webhook accepted")
        self.webhook_failures = counter("webhook_failures", "requests to the webhook that failed")
        self.webhooks_expired = counter(
            "webhooks_expired", "triggers that expired before they were delivered"
        )
        self.webhook_dead_letters = counter("webhook_dead_letters", "triggers that could not be delivered")
        self.loss = Gauge("recs_loss", "mean log loss since the last drift alarm", registry=self.registry)
        self.lag = Gauge("recs_lag", "messages waiting", registry=self.registry)
        self.batch = Histogram("recs_batch_seconds", "time per batch", registry=self.registry)


class StatusPage:
    """`/ready` (200 or 503) and `/metrics`, on an address of your choice.

    Parameters
    ----------
    ready
        Tells whether the process does its work; called per request.

    Raises
    ------
    ConfigError
        If the address is taken.
    """

    def __init__(self, host: str, port: int, metrics: Metrics, ready: Callable[[], bool]) -> None:
        pages = make_wsgi_app(metrics.registry)

        def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
            path = environ.get("PATH_INFO")
            if path == "/metrics":
                return pages(environ, start_response)  # type: ignore[no-any-return]
            known, fine = path == "/ready", ready()
            status = "404 Not Found" if not known else "200 OK" if fine else "503 Service Unavailable"
            start_response(status, [("Content-Type", "text/plain")])
            return [b"ready\n" if known and fine else b"not ready\n"]

        try:
            self._server: WSGIServer = make_server(host, port, application, handler_class=_Quiet)
        except OSError as error:
            raise ConfigError(
                f"RECS_WEB_HOST={host} RECS_WEB_PORT={port}: {error.strerror or error}"
            ) from error
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, name="status-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: health checks come every few seconds."""
