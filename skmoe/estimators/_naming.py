"""Parameters of parts that are given by name."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Self


class NamedPartsMixin:
    """Let ``gate__alpha`` reach the gate that the name "softmax" stands for.

    The class that mixes this in says in `_named` what its names stand for.
    """

    def _named(self) -> dict[str, Any]:
        """Return what parameters stand for that are a name or None."""
        raise NotImplementedError

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to add the parameters of the parts, as ``gate__alpha``, also where a
            part is given by name.

        Returns
        -------
        dict
            Values by name.
        """
        params = super().get_params(deep=deep)  # type: ignore[misc]
        if not deep:
            return params
        for name, part in self._named().items():
            inner = part.get_params()
            params |= {f"{name}__{key}": value for key, value in inner.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator and of its parts.

        Parameters
        ----------
        **params : dict
            Values by name. If a part is given by name, setting a parameter of it, as
            ``gate__alpha`` with ``gate="softmax"``, replaces the name by an object.

        Returns
        -------
        self : object
            The estimator.
        """
        plain = {key: value for key, value in params.items() if "__" not in key}
        super().set_params(**plain)  # type: ignore[misc]
        inner: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, value in params.items():
            name, nested, rest = key.partition("__")
            if nested:
                inner[name][rest] = value
        for name, values in inner.items():
            part = self._part(name)
            part.set_params(**values)
            setattr(self, name, part)
        return self

    def _part(self, name: str) -> Any:
        """Return the part that a parameter is or stands for."""
        params = super().get_params(deep=False)  # type: ignore[misc]
        if name not in params:
            raise ValueError(
                f"{type(self).__name__} has no parameter {name!r}; its parameters are "
                f"{sorted(params)}."
            )
        part = self._named().get(name, params[name])
        if isinstance(part, type) or not hasattr(part, "set_params"):
            raise ValueError(
                f"{name}={part!r} has no parameters to set. Let {name} be an estimator "
                "first."
            )
        return part

    def _get_params_html(self, deep: bool = True, doc_link: str = "") -> Any:
        """Return the table of the HTML representation: what the user passed."""
        return super()._get_params_html(False, doc_link)  # type: ignore[misc]
