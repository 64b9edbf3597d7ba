"""The shell: a Faust application that starts, supervises and stops the roles of one process.

Faust gives lifecycle, signals and the agent on the low-rate `control` topic. The event path is a service of
its own (`worker.Worker`), because Faust's streams acknowledge what they failed to process.

Commands on the control topic, JSON: `{"command": "prune"}`, `{"command": "rollback", "reason": "…"}`,
`{"command": "erase", "user_id": "…"}`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Iterable
from typing import Any

import faust
import msgspec

from stream_app.config import Settings
from stream_app.learner import LearnerService
from stream_app.telemetry import Metrics, StatusPage
from stream_app.transport import Connection
from stream_app.worker import Worker

log = logging.getLogger(__name__)


class Command(msgspec.Struct):
    """A message of the control topic."""

    command: str
    reason: str = "asked for"
    user_id: str | None = None


def make_app(
    settings: Settings, roles: Iterable[str], *, metrics: Metrics | None = None
) -> tuple[faust.App, dict[str, Any]]:
    """A Faust application with the services of the given roles, `worker` and `learner`.

    Returns
    -------
    The application, and its services by role.
    """
    metrics = Metrics() if metrics is None else metrics
    os.environ.pop("FAUST_LOOP", None)
    connection = Connection.of(settings)
    roles = list(roles)
    app = faust.App(
        f"{settings.group}-{'-'.join(roles)}",
        env_prefix="RECS_FAUST_",  # a stray BROKER_URL must not send us elsewhere
        broker=[f"kafka://{host.strip()}" for host in settings.kafka_bootstrap.split(",")],
        broker_credentials=_credentials(connection),
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        autodiscover=False,
        value_serializer="raw",
        key_serializer="raw",
        broker_commit_every=1,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 10,
        # There is one learner; after a crash it has its place in the group back at once.
        consumer_group_instance_id="learner" if "learner" in roles else settings.instance or None,
    )
    app.conf.web_enabled = False
    services: dict[str, Any] = {}
    if "worker" in roles:
        services["worker"] = Worker(settings, metrics=metrics)
    if "learner" in roles:
        services["learner"] = LearnerService(settings, metrics=metrics)
    _add_control(app, settings, services)
    return app, services


def _credentials(connection: Connection) -> Any:
    arguments = connection.arguments()
    if connection.security == "PLAINTEXT":
        return None
    if connection.security == "SSL":
        return faust.SSLCredentials(context=arguments["ssl_context"])
    return faust.SASLCredentials(
        username=connection.username,
        password=connection.password,
        mechanism="SCRAM-SHA-512",
        ssl_context=arguments.get("ssl_context"),
    )


def _add_control(app: faust.App, settings: Settings, services: dict[str, Any]) -> None:
    topic = app.topic(settings.control_topic, value_serializer="raw", key_serializer="raw")

    @app.agent(topic)
    async def control(commands: Any) -> None:
        """Carry out operators' commands; a bad one is logged and never stops the stream."""
        async for raw in commands:
            try:
                command = msgspec.json.decode(raw, type=Command)
                log.info("command %s: %s", command.command, await carry_out(command, services))
            except Exception:
                log.exception("command %.200r failed", raw)


async def carry_out(command: Command, services: dict[str, Any]) -> str:
    """Carry out one command; returns what was done, in words."""
    learner, worker = services.get("learner"), services.get("worker")
    if command.command == "prune" and learner is not None:
        return str(await learner.prune_now())
    if command.command == "rollback" and learner is not None:
        return str(await learner.rollback(command.reason))
    if command.command == "erase" and worker is not None and command.user_id:
        await worker.erase(command.user_id)
        return f"user {command.user_id} is erased"
    return "not for this process"


class System:
    """The roles of one process, started and stopped together.

    Examples
    --------
    ``async with System(settings, ["worker", "learner"]) as system: …``
    """

    def __init__(self, settings: Settings, roles: Iterable[str]) -> None:
        self.metrics = Metrics()
        self.settings = settings
        self.app, self.services = make_app(settings, roles, metrics=self.metrics)
        self._page: StatusPage | None = None
        self._shell: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every role does its work."""
        return all(service.ready and not service.crashed for service in self.services.values())

    async def __aenter__(self) -> System:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the application and the roles, the learner first; if one fails, stop the others.

        Faust's own start ends with the first assignment of the `control` topic, which takes a minute after a
        crash. Nothing else depends on it, so nobody waits for it.
        """
        try:
            if self.settings.web_port:
                self._page = StatusPage(
                    self.settings.web_host, self.settings.web_port, self.metrics, lambda: self.ready
                )
            for role in ("learner", "worker"):
                if role in self.services:
                    await self.services[role].start()
        except BaseException:
            await self.stop()
            raise
        self._shell = asyncio.create_task(self.app.start())
        gc.freeze()  # libraries and kernels stay: the collector need not walk through them again and again
        gc.set_threshold(50_000)  # and a batch is many small records that die young

    async def stop(self) -> None:
        """Stop everything, the worker first, so that the learner hears of its last examples."""
        for role in ("worker", "learner"):
            if role in self.services:
                await self.services[role].stop()
        if self._shell is not None:
            self._shell.cancel()
            await asyncio.wait([self._shell])
            await self.app.stop()
        if self._page is not None:
            self._page.close()

    def crash_reason(self) -> BaseException | None:
        """What a role died of, None while all live."""
        for service in self.services.values():
            if service.crashed:
                return service.crash_reason  # type: ignore[no-any-return]
        if self._shell is not None and self._shell.done() and not self._shell.cancelled():
            return self._shell.exception()
        return None
