"""Methods that change an estimator wholly, or not at all."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def all_or_nothing(method):
    """Leave the estimator as it was if a method of it fails or is interrupted.

    One assignment puts the attributes back, so nothing can interrupt it halfway. A
    method may set attributes, but must not change in place what they hold. The one
    exception is a random generator of the user, whose state is set back.
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
    """Return ``random_state`` if it is a generator, else None."""
    random = getattr(estimator, "random_state", None)
    return random if isinstance(random, np.random.RandomState) else None
