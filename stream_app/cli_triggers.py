"""`recs triggers …`: what the command line says about triggers."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Annotated

import typer

triggers = typer.Typer(no_args_is_help=True, help="Triggers: deliver them, and say what they brought.")


@triggers.command()
def deliver(
    url: Annotated[str | None, typer.Option(help="of the receiver; RECS_WEBHOOK_URL without")] = None,
) -> None:
    """Post triggers to a webhook, signed, in order per user. At most one process per partition has work."""
    from stream_app.config import load_settings
    from stream_app.telemetry import Metrics, StatusPage
    from stream_app.triggers.delivery import Deliverer
    from stream_app.triggers.webhook import Endpoint, parse_secrets

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
