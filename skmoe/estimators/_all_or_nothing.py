"""Methods that change an estimator wholly, or not at all."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def all_or_nothing(method):
    """Leave the estimator as it was if a method of it fails or is interrupted.

    The attributes are put back in one assignment, which nothing can interrupt halfway.
    So a method may set attributes, but it must not change in place what they hold; the
    one thing that is, a random generator of the user's, is set back.
    """

    @functools.wraps(method)
    def whole(self, *args, **kwargs):
        before = dict(vars(self))
        random = _generator(self)
        drawn = random.get_state() if random else None
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.__dict__ = before
            if random:
                random.set_state(drawn)
            raise

    return whole


def _generator(estimator: Any) -> np.random.RandomState | None:
    """Return the generator that the user gave as ``random_state``, if it is one."""
    random = getattr(estimator, "random_state", None)
    return random if isinstance(random, np.random.RandomState) else None
