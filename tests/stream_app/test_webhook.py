"""One POST: what is signed, what an answer means, how long to wait; the server is not ours."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from stream_app.embedded import free_port
from stream_app.errors import ConfigError
from stream_app.webhook import (
    Answer,
    Endpoint,
    check_url,
    is_id,
    judge,
    parse_secrets,
    pause_s,
    retry_after_s,
)
from tests.stream_app.receivers import KEY, SECRET, Receiver, Reply

NOW = 1_767_607_200.0


async def post(url: str, body: bytes = b'{"a": 1}', *, secrets: str = SECRET, timeout_s: float = 5) -> Answer:
    """One try at a receiver."""
    async with Endpoint(url, parse_secrets(secrets), timeout_s=timeout_s, clock=lambda: NOW) as endpoint:
        return await endpoint.post("m-1", body)


async def test_a_receiver_can_verify_what_it_gets() -> None:
    """Body, id, time and idempotency key arrive, and the signature is the one that is specified."""
    with Receiver() as receiver:
        assert await post(receiver.url, '{"name": "Zoë"}'.encode()) == Answer("delivered")
    [received] = receiver.requests
    assert received.body.decode() == '{"name": "Zoë"}'
    assert received.headers["webhook-id"] == "m-1" and received.headers["idempotency-key"] == '"m-1"'
    assert received.headers["webhook-timestamp"] == str(int(NOW))
    assert received.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert received.is_signed() and not received.is_signed(b"x" * 32)


async def test_while_a_secret_changes_both_verify() -> None:
    """With two secrets a receiver may know either."""
    other = bytes(32)
    with Receiver() as receiver:
        await post(receiver.url, secrets=f"{SECRET} whsec_{base64.b64encode(other).decode()}")
    assert receiver.requests[0].is_signed(KEY) and receiver.requests[0].is_signed(other)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, "delivered"), (202, "delivered"), (204, "delivered"),
        (301, "refused"), (307, "refused"), (400, "refused"), (401, "refused"), (404, "refused"),
        (410, "refused"), (422, "refused"),
        (408, "again"), (425, "again"), (429, "again"), (500, "again"), (503, "again"), (599, "again"),
    ],
)  # fmt: skip
def test_what_statuses_mean(status: int, verdict: str) -> None:
    """Only 408, 425, 429 and 5xx are worth another try; a redirect is not followed."""
    assert judge(status, {}, NOW).verdict == verdict


async def test_the_reason_quotes_the_answer() -> None:
    """What a receiver says about a refusal ends up in the reason, cut short."""
    with Receiver(lambda _: Reply(422, {}, b"no such\ncampaign " + b"x" * 5_000)) as receiver:
        answer = await post(receiver.url)
    assert answer.verdict == "refused"
    assert answer.reason.startswith("HTTP 422: no such campaign xxx") and len(answer.reason) < 300


async def test_a_redirect_is_not_followed() -> None:
    """A signed message goes where it was signed for, and nowhere else."""
    with Receiver() as other, Receiver(lambda _: Reply(308, {"location": other.url})) as receiver:
        assert (await post(receiver.url)).verdict == "refused"
    assert not other.requests


async def test_a_receiver_that_is_away_or_mute_is_an_answer() -> None:
    """Nobody listening, and nobody answering in time, mean: again."""
    away = await post(f"http://127.0.0.1:{free_port()}/")
    assert away.verdict == "again" and "127.0.0.1" in away.reason
    with Receiver() as receiver:
        mute = await post(receiver.url, timeout_s=1e-4)
    assert mute == Answer("again", "127.0.0.1 did not answer within 0.0001 s")


def test_retry_after_is_a_number_or_a_date() -> None:
    """Both notations are understood, nonsense and the past are no wait, and nobody may ask for a year."""
    date = format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)
    assert retry_after_s("90", NOW) == retry_after_s(date, NOW) == 90
    past = format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True)
    assert [retry_after_s(text, NOW) for text in ("", "later", "-1", "nan", past)] == [0] * 5
    assert retry_after_s("99999999999", NOW) == 3600


def test_pauses_double_and_are_drawn() -> None:
    """The pause after n tries lies in the upper half of 2^(n-1) seconds, and the same seed draws the same."""

    def pauses(seed: int) -> list[float]:
        rng = random.Random(seed)
        return [pause_s(n, rng) for n in range(1, 12)]

    assert all(min(300, 2**n) / 2 <= p <= min(300, 2**n) for n, p in enumerate(pauses(1)))
    assert pauses(1) == pauses(1) != pauses(2)


@pytest.mark.parametrize(
    "text", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", SECRET + " other", SECRET[6:]]
)
def test_a_bad_secret_is_refused_and_not_quoted(text: str) -> None:
    """The error says what a secret looks like, and never what was given."""
    with pytest.raises(ConfigError, match="RECS_WEBHOOK_SECRET") as error:
        parse_secrets(text)
    assert len(text) < 10 or text not in str(error.value)


@pytest.mark.parametrize(
    "url", ["", "crm.example", "ftp://crm.example/", "http://", "http://host:port/", "https://h:0/"]
)
def test_a_bad_url_is_refused_and_not_quoted(url: str) -> None:
    """The error says what is expected; a URL may carry a token, so it is not repeated."""
    with pytest.raises(ConfigError, match="RECS_WEBHOOK_URL") as error:
        check_url(url)
    assert len(url) < 10 or url not in str(error.value)


@pytest.mark.parametrize(
    ("text", "fine"), [("9f.c-1", True), ('a"b', False), ("a\nb", False), ("é", False), ("x" * 257, False)]
)
def test_ids_that_headers_can_hold(text: str, fine: bool) -> None:
    """No id can forge a header."""
    assert is_id(text) is fine
