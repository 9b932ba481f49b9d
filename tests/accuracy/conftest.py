"""Fixtures of `tests.accuracy.miniature`, by name."""

from tests.accuracy.miniature import short_ladders  # noqa: F401
