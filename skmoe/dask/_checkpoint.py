"""A file that a fit goes on from if it was cut short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..em import Progress
from ..estimators import set_fitted

OWN = ("checkpoint", "verbose", "n_jobs", "max_time")
"""Parameters that do not change the answer."""


def check_path(model: Any) -> None:
    """Raise if a checkpoint cannot be written, or no later fit could go on from it."""
    if model.checkpoint is None:
        return
    import os

    path = Path(model.checkpoint)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"checkpoint={str(path)!r} lies in a folder that does not exist."
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"checkpoint={str(path)!r} cannot be written: it is a folder, or in one "
            "that is read-only."
        )
    if model.random_state is None:
        raise ValueError(
            "checkpoint needs a random_state, such as 0: with None, the next fit draws "
            "other rows and cannot go on from the file."
        )


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit stands after each pass.

    Attributes
    ----------
    path : Path or None
        None keeps nothing.
    key : str
        Hash of parameters and rows: a file of other ones is not gone on from.
    """

    path: Path | None
    key: str

    @classmethod
    def of(cls, model: Any, fingerprint: int) -> Self:
        """Return the checkpoint of an estimator and the fingerprint of its rows."""
        if model.checkpoint is None:
            return cls(None, "")
        from joblib import hash as content_hash

        params = model.get_params(deep=False)
        asked = [(name, params[name]) for name in sorted(params) if name not in OWN]
        return cls(Path(model.checkpoint), content_hash((asked, fingerprint)))

    def write(self, model: Any, progress: Progress) -> None:
        """Write the file; it is whole at any moment."""
        if self.path is None:
            return
        import os
        import pickle
        import tempfile

        fitted = {
            name: value
            for name, value in vars(model).items()
            if name not in model.get_params(deep=False)
        }
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                pickle.dump((self.key, fitted, progress), file)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def restore(self, model: Any) -> Progress | None:
        """Give the model what the file holds of it, and return where passes stand.

        Without a file there is nothing to go on from.
        """
        if self.path is None or not self.path.exists():
            return None
        import pickle

        try:
            with open(self.path, "rb") as file:
                key, fitted, progress = pickle.load(file)
        except (pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
            raise ValueError(
                f"checkpoint={str(self.path)!r} is no file of a fit. Name another."
            ) from error
        if key != self.key:
            raise ValueError(
                f"checkpoint={str(self.path)!r} belongs to a fit with other parameters "
                "or other rows. Delete the file, or name another."
            )
        set_fitted(model, fitted)
        return progress
