"""Which types a file of a fitted mixture may hold."""

from __future__ import annotations

from types import ModuleType

__all__ = ["trusted_types"]

PACKAGES = (
    "backends._reference",
    "routing",
    "solvers",
    "likelihoods",
    "gates",
    "experts",
    "em",
    "predictive",
    "estimators",
)
"""Parts of skmoe whose classes a fitted mixture may hold."""


def trusted_types() -> list[str]:
    """Return the names of all types of skmoe that a fitted mixture may hold.

    Pass them to ``skops.io.load(path, trusted=...)``, which refuses a file that asks
    for any other type. They are classes that skmoe defines itself. Do not trust a name
    because it begins with "skmoe.": it may stand for something that one of its modules
    imports, such as ``os``.

    Returns
    -------
    list of str
        Full names, sorted. You must add types of other packages yourself, such as the
        ``sklearn.tree._tree.Tree`` of a tree expert; `skops.io.get_untrusted_types`
        names them.

    See Also
    --------
    skops.io.get_untrusted_types : Names all types that a file asks for.

    Examples
    --------
    >>> from skmoe.persistence import trusted_types
    >>> "skmoe.estimators._regressor.MoERegressor" in trusted_types()
    True
    >>> "skmoe.backends._threads.os" in trusted_types()
    False
    """
    modules = [module for package in PACKAGES for module in _modules(package)]
    return sorted(name for module in modules for name in _classes(module))


def _modules(package: str) -> list[ModuleType]:
    """Return the modules of a package of skmoe."""
    from importlib import import_module
    from pkgutil import iter_modules

    parent = import_module(f"skmoe.{package}")
    names = [module.name for module in iter_modules(parent.__path__)]
    return [import_module(f"skmoe.{package}.{name}") for name in names]


def _classes(module: ModuleType) -> list[str]:
    """Return the full names of the classes that a module defines itself."""
    return [
        f"{module.__name__}.{name}"
        for name, each in vars(module).items()
        if isinstance(each, type) and each.__module__ == module.__name__
    ]
