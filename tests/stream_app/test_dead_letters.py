"""Truths about dead letters: nothing of the message is lost, and a person can read why."""

from __future__ import annotations

import json

import pytest

from stream_app.errors import EventError
from stream_app.events.dead_letters import Rejected


def rejected(value: bytes | None, key: bytes | None = b"u1") -> Rejected:
    return Rejected("events", 3, 42, key, value, "user_id", "is missing")


@pytest.mark.parametrize("value", [b'{"event_type":"view"}', b"\xff\x00", b"", None])
@pytest.mark.parametrize("key", [b"u1", b"\xff", b"", None])
def test_letter_restores_the_message(value: bytes | None, key: bytes | None) -> None:
    """The original bytes of key and value come back, whatever they are."""
    assert Rejected.from_dead_letter(rejected(value, key).to_dead_letter()) == rejected(value, key)


def test_letter_is_readable() -> None:
    """The letter holds the text of the message, the place it came from, and the field at fault."""
    letter = json.loads(rejected(b"[caf\xc3\xa9]").to_dead_letter())
    assert letter["value_text"] == "[café]"
    assert (letter["topic"], letter["partition"], letter["offset"]) == ("events", 3, 42)
    assert (letter["field"], letter["reason"]) == ("user_id", "is missing")
    assert "value_text" not in json.loads(rejected(b"\xff").to_dead_letter())


def test_letter_of_a_huge_message_fits_a_message() -> None:
    """Of a huge message the letter keeps the beginning, the size and the hash, and says so when read back."""
    letter = rejected(b"x" * 1_048_000).to_dead_letter()
    assert len(letter) < 500_000
    assert json.loads(letter)["value_bytes"] == 1_048_000
    with pytest.raises(EventError, match="too large"):
        Rejected.from_dead_letter(letter)


@pytest.mark.parametrize("letter", [b"", b"[]", b"{}", b'{"topic":"t","key_base64":"?","value_base64":null}'])
def test_what_is_no_letter_is_refused(letter: bytes) -> None:
    """Reading something else as a dead letter is an error about the message as a whole."""
    with pytest.raises(EventError) as caught:
        Rejected.from_dead_letter(letter)
    assert caught.value.field == "value"
