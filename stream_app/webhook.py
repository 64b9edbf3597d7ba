"""A trigger as an HTTP request: signed, judged by the answer, and when to try again.

Signatures are those of Standard Webhooks 1.0 (https://www.standardwebhooks.com): HMAC-SHA256 over
``id.timestamp.body``, so that a receiver verifies them with a library of its own language. `Endpoint` is the
only place that talks HTTP; everything else is a function.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import aiohttp

from stream_app.errors import ConfigError

AGAIN = frozenset({408, 425, 429})  # of the 4xx; every 5xx besides
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
LONGEST_WAIT_S = 3600.0  # that a receiver may ask for
TOLD_BYTES = 200  # of an answer, for the reason in the dead letter
_ID = re.compile(r"[!#-\[\]-~]{1,256}")  # visible ASCII without `"` and `\`: what a quoted header can hold

Verdict = Literal["delivered", "again", "refused"]


@dataclass(frozen=True)
class Answer:
    """What became of one try, why, and for how long the receiver wants to be left alone."""

    verdict: Verdict
    reason: str = ""
    wait_s: float = 0.0


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """The keys behind ``whsec_…``; two, separated by a space, while a receiver changes from one to another.

    Raises
    ------
    ConfigError
        If one is not ``whsec_`` and the base64 of 24 to 64 bytes; the text does not quote it.

    Examples
    --------
    >>> [len(key) for key in parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    [24]
    """
    keys = []
    for part in text.split():
        try:
            key = base64.b64decode(part.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = b""
        if not part.startswith("whsec_") or not 24 <= len(key) <= 64:
            raise ConfigError(
                "RECS_WEBHOOK_SECRET: expected whsec_ and the base64 of 24 to 64 random bytes, such as "
                "`echo whsec_$(openssl rand -base64 32)` prints"
            )
        keys.append(key)
    if not keys:
        raise ConfigError(
            "RECS_WEBHOOK_SECRET is missing: receivers tell by it that a message is yours; "
            "`echo whsec_$(openssl rand -base64 32)` makes one"
        )
    return tuple(keys)


def check_url(url: str) -> str:
    """The URL, if it is one that can be posted to.

    Raises
    ------
    ConfigError
        If it is not; the text does not quote it, because it may carry a token.

    Examples
    --------
    >>> check_url("crm.example/hook")
    Traceback (most recent call last):
    ...
    stream_app.errors.ConfigError: RECS_WEBHOOK_URL or --url: expected https://host/path or http://host/path
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not url:
        raise ConfigError("no receiver: give --url or set RECS_WEBHOOK_URL")
    if not fine:
        raise ConfigError("RECS_WEBHOOK_URL or --url: expected https://host/path or http://host/path")
    return url


def is_id(text: str) -> bool:
    """Whether an id can stand in a header.

    >>> is_id("a9f3"), is_id("a\\r\\nCookie: x"), is_id("")
    (True, False, False)
    """
    return _ID.fullmatch(text) is not None


def sign(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The signatures of a message, one per key, as ``webhook-signature`` carries them.

    Examples
    --------
    The example of the specification:

    >>> keys = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> sign(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)


def headers(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """All headers of one try; the id, and with it the idempotency key, is the same at every try."""
    return {
        "content-type": "application/cloudevents+json; charset=utf-8",
        "user-agent": "stream-recommender",
        "idempotency-key": f'"{message_id}"',  # a quoted string: draft-ietf-httpapi-idempotency-key-header
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": sign(keys, message_id, timestamp_s, body),
    }


def judge(status: int, answered: Mapping[str, str], now_s: float, text: str = "") -> Answer:
    """What an answer means.

    2xx is delivered. 408, 425, 429 and 5xx may be better later. Everything else is refused: the same request
    would be refused again, and a redirect is not followed, because the signature was made for this receiver.

    Examples
    --------
    >>> judge(204, {}, 0.0).verdict, judge(404, {}, 0.0).verdict
    ('delivered', 'refused')
    >>> judge(503, {"retry-after": "7"}, 0.0)
    Answer(verdict='again', reason='HTTP 503', wait_s=7.0)
    """
    if 200 <= status < 300:
        return Answer("delivered")
    told = " ".join(text.split())
    reason = f"HTTP {status}" + (f": {told}" if told else "")
    if status in AGAIN or status >= 500:
        return Answer("again", reason, retry_after_s(answered.get("retry-after"), now_s))
    return Answer("refused", reason)


def retry_after_s(text: str | None, now_s: float) -> float:
    """Seconds that a ``Retry-After`` asks for, written as a number or as a date; at most an hour.

    Examples
    --------
    >>> retry_after_s("120", 0.0), retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 30.0)
    (120.0, 30.0)
    >>> retry_after_s("soon", 0.0), retry_after_s("-5", 0.0), retry_after_s(None, 0.0)
    (0.0, 0.0, 0.0)
    """
    if text is None:
        return 0.0
    try:
        wait_s = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - now_s
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)


def pause_s(tries: int, rng: random.Random) -> float:
    """How long to wait after so many tries: 1 s, 2 s, 4 s … up to 5 min, of which the second half is drawn.

    "Equal jitter" (AWS, *Exponential Backoff And Jitter*, 2015): those who failed together do not come back
    together, and nobody comes back at once.

    Examples
    --------
    >>> [0.5 <= pause_s(1, random.Random(n)) <= 1 for n in range(3)], pause_s(60, random.Random(0)) <= 300
    ([True, True, True], True)
    """
    whole = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 30))
    return whole / 2 + rng.random() * whole / 2


class Endpoint:
    """A receiver's URL.

    Parameters
    ----------
    url
        Where messages are posted.
    keys
        For the signature; see `parse_secrets`.
    timeout_s
        For a whole try, the connection included.
    connections
        Open at the same time, at most.
    clock
        Seconds since 1970, for the timestamp that is signed.

    Raises
    ------
    ConfigError
        If the URL is none.
    """

    def __init__(
        self,
        url: str,
        keys: Sequence[bytes],
        *,
        timeout_s: float = 10.0,
        connections: int = 16,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = check_url(url)
        self.host = urlsplit(url).hostname or ""
        self._keys = tuple(keys)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._clock = clock
        self._session: Any = None  # made by `__aenter__`, in the loop that will use it

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._connections)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, message_id: str, body: bytes) -> Answer:
        """Try once. A receiver that is away or slow is an answer, not an exception."""
        signed = headers(self._keys, message_id, int(self._clock()), body)
        try:
            async with self._session.post(
                self._url, data=body, headers=signed, allow_redirects=False
            ) as answer:
                text = b"" if answer.ok else await answer.content.read(TOLD_BYTES)
                told = (
                    {"retry-after": answer.headers["Retry-After"]} if "Retry-After" in answer.headers else {}
                )
                return judge(answer.status, told, self._clock(), text.decode("utf-8", "replace"))
        except TimeoutError:
            return Answer("again", f"{self.host} did not answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer("again", f"{self.host}: {str(error) or type(error).__name__}")
