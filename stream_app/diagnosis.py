"""What `recs doctor` looks at: settings, Kafka and its topics, Redis, the model."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version

from stream_app.config import Settings, load_settings
from stream_app.errors import RecsError
from stream_app.lists.rules import load_rules
from stream_app.transport import Connection, list_topics
from stream_app.worker import make_store, topics


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    ok: bool
    text: str


async def diagnose() -> list[Finding]:
    """Look at everything a deployment needs; problems are findings, not exceptions."""
    packages = ", ".join(
        f"{p} {version(p)}" for p in ("river", "faust-streaming", "aiokafka", "redis", "numba")
    )
    findings = [Finding("versions", True, f"Python {platform.python_version()}, {packages}")]
    try:
        settings = load_settings(io_timeout_s=5)
    except RecsError as error:
        return [*findings, Finding("settings", False, str(error))]
    findings.append(Finding("settings", True, "every RECS_ variable has a value that makes sense"))
    findings += _rules(settings)
    try:
        existing = await list_topics(Connection.of(settings))
        findings.append(Finding("kafka", True, f"{settings.kafka_bootstrap} answers"))
        for name, (partitions, _) in topics(settings).items():
            found = existing.get(name)
            if found is None:
                findings.append(Finding(f"topic {name}", True, f"will be made with {partitions} partitions"))
            else:
                findings.append(Finding(f"topic {name}", True, f"{found} partitions"))
    except RecsError as error:
        findings.append(Finding("kafka", False, str(error)))
    store = make_store(settings)
    try:
        await store.ping()
        findings.append(Finding("redis", True, "answers"))
        current = await store.current_version()
        meta = None if current is None else await store.read_meta(current)
        text = (
            "none is published yet" if current is None else f"release {current}, {meta or 'without metadata'}"
        )
        findings.append(Finding("model", True, text))
        alarm = await store.read_alarm()
        text = "no alarm" if alarm is None else f"alarm {alarm['alarms']} at event time {alarm['event_time']}"
        findings.append(Finding("drift", True, text))
    except RecsError as error:
        findings.append(Finding("redis", False, str(error)))
    finally:
        await store.close()
    return findings


def _rules(settings: Settings) -> list[Finding]:
    if settings.list_rules is None:
        return []
    try:
        rules = load_rules(settings.list_rules)
    except RecsError as error:
        return [Finding("list rules", False, str(error))]
    return [Finding("list rules", True, f"{settings.list_rules}: {len(rules.rules)} rules make sense")]
