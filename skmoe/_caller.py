"""The line of the user that a warning points to."""

from __future__ import annotations

from sys import _getframe

BETWEEN = ("skmoe.", "sklearn.", "joblib.", "skops.", "numba.")
"""Modules whose lines stand between the user's line and a warning."""


def level_of_caller() -> int:
    """Return the stack level of the user's line, for `warnings.warn`."""
    level = 1
    frame = _getframe(1)
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(BETWEEN):
        level = level + 1
        frame = frame.f_back
    return level
