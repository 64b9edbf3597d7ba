"""Errors of the streaming recommender."""


class RecsError(Exception):
    """Base of every error that this package raises on purpose; the message says what to do."""

    exit_code = 1
