"""Messages that are no valid events, on their way to the dead-letter topic and back."""

from __future__ import annotations

import base64
import contextlib
from hashlib import sha256
from typing import Any

import msgspec

from stream_app.errors import EventError
from stream_app.events.fields import parse_object

DEAD_LETTER_BYTES = 256 * 1024  # of the original message; base64 of more would not fit a Kafka message

_encode = msgspec.json.Encoder().encode


class Rejected(msgspec.Struct, frozen=True):
    """A message that is not a valid event, with the reason, ready for the dead-letter topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    field: str
    reason: str

    def to_dead_letter(self) -> bytes:
        """The JSON of the dead letter.

        The original bytes are in ``value_base64``, and readable in ``value_text`` where they are UTF-8. Of a
        message above `DEAD_LETTER_BYTES` only the beginning is kept, with ``value_bytes`` and
        ``value_sha256`` of the whole, because the letter has to fit into a message itself.
        """
        value = None if self.value is None else self.value[:DEAD_LETTER_BYTES]
        letter: dict[str, Any] = {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "field": self.field,
            "reason": self.reason,
            "key_base64": None if self.key is None else base64.b64encode(self.key).decode(),
            "value_base64": None if value is None else base64.b64encode(value).decode(),
        }
        if value is not None and self.value is not None and len(value) < len(self.value):
            letter["value_bytes"] = len(self.value)
            letter["value_sha256"] = sha256(self.value).hexdigest()
        elif value is not None:
            with contextlib.suppress(UnicodeDecodeError):
                letter["value_text"] = value.decode()
        return _encode(letter)

    @classmethod
    def from_dead_letter(cls, letter: bytes) -> Rejected:
        """Read a dead letter back, to send its message again.

        Raises
        ------
        EventError
            It is not a dead letter, or only the beginning of the message was kept.
        """
        fields = parse_object(letter, 4 * DEAD_LETTER_BYTES)
        if "value_sha256" in fields:
            raise EventError("value", "was too large to be kept; read it from its topic and offset")
        try:
            key, value = (
                None if fields[name] is None else base64.b64decode(fields[name], validate=True)
                for name in ("key_base64", "value_base64")
            )
            return cls(
                fields["topic"], fields["partition"], fields["offset"], key, value, fields["field"],
                fields["reason"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise EventError("value", f"is not a dead letter ({error!r})") from error
