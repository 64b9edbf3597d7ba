"""Truths about the error tree."""

from __future__ import annotations

import pytest

from stream_app import errors
from stream_app.errors import EventError, InputError, RecsError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RecsError)]


@pytest.mark.parametrize("error", CLASSES)
def test_tree_is_drawn(error: type[RecsError]) -> None:
    """Every error is in the drawing and leaves with a number between 1 and 125."""
    assert f"{error.__name__} " in (errors.__doc__ or "")
    assert 1 <= error.exit_code <= 125


def test_input_errors_name_the_place() -> None:
    """The text starts with file and line, as far as they are known."""
    assert str(InputError("is empty")) == "is empty"
    assert str(InputError("is empty", path="a")) == "a: is empty"
    assert str(InputError("is bad", path="a", line=3)) == "a:3: is bad"


def test_event_errors_name_the_field() -> None:
    """The text starts with the field."""
    assert str(EventError("user_id", "is missing")) == "user_id: is missing"
