"""Messages of triggers: CloudEvents 1.0 in structured JSON, one for each decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from stream_app.events.records import iso_time
from stream_app.triggers.deciding import Decision

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Recommendation:
    """One item for the user, and why, in words."""

    item_id: str
    score: float
    why: str


def type_of(rule: str) -> str:
    """The type of the CloudEvents of a rule.

    >>> type_of("win_back")
    'recs.trigger.win_back.v1'
    """
    return f"recs.trigger.{rule}.v1"


def message_id(rule: str, user_id: str, key: str) -> str:
    """What tells a message from all others, and a repeated message from a new one.

    >>> message_id("win_back", "u1", "idle@5") == message_id("win_back", "u1", "idle@5")
    True
    """
    parts = b"".join(b"%d:%b" % (len(p), p) for p in (type_of(rule).encode(), user_id.encode(), key.encode()))
    return blake2b(parts, digest_size=16).hexdigest()


def cloud_event(
    decision: Decision, namespace: str, model_version: str, recommendations: Sequence[Recommendation] = ()
) -> bytes:
    """The message of a decision, sent or held back, as bytes."""
    return _encode(cloud_event_fields(decision, namespace, model_version, recommendations))


def cloud_event_fields(
    decision: Decision, namespace: str, model_version: str, recommendations: Sequence[Recommendation] = ()
) -> dict[str, Any]:
    """The members of a message.

    Parameters
    ----------
    namespace
        Of the system, for the source.
    model_version
        The release that the recommendations come from.
    """
    rule = decision.rule
    data: dict[str, Any] = {
        "rule": rule.name,
        "user_id": decision.user_id,
        "reason": decision.reason,
        "evidence": decision.evidence,
        "items": decision.items,
        "recommendations": [
            {"item_id": r.item_id, "score": round(r.score, 4), "why": r.why} for r in recommendations
        ],
        "model_version": model_version,
        "rule_version": rule.version,
        "owner": rule.owner,
        "expires_at": iso_time(decision.expires_ms),
    }
    if decision.held:
        data["suppressed"] = decision.held
    return {
        "specversion": "1.0",
        "id": message_id(rule.name, decision.user_id, decision.key),
        "source": f"/recs/{namespace}",
        "type": type_of(rule.name),
        "subject": decision.user_id,
        "time": iso_time(decision.at_ms),
        "datacontenttype": "application/json",
        "data": data,
    }
