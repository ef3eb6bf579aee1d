"""Floor 0: arrays in, arrays out.

The backend contract
--------------------
A backend is a module of pure functions. `_reference` holds all of them, in the
plain array API; it is the specification. A faster backend overrides what is hot
with functions of the *same name, signature and answer* and takes everything else
from the reference; an unsupported dtype or container falls back to it.

To add a backend you must

1. write a module whose public functions are a subset of the reference's, with
   equal signatures;
2. agree with the reference on random, tied, extreme and empty inputs (float64 to
   1e-10 relative, float32 to 1e-5); for ``top_k`` the *values* must agree;
3. never move an array to another device and never change its container;
4. name it in `select`, which is the only place that knows which backends exist.
"""

from types import ModuleType

from . import _reference
from ._compat import Array, device_of, namespace, to_host

__all__ = ["Array", "device_of", "namespace", "select", "to_host"]


def select(*arrays: Array) -> ModuleType:
    """Return the backend module that serves these arrays."""
    return _reference
