# SPDX-License-Identifier: BSD-3-Clause
"""A checkpoint that a training continues from if its file exists, and writes if it does not.

It is for callers that give all arguments of `train` each time. The command line and the estimators
use it, as `train`'s `checkpoint`. Elsewhere: `svdfast.resume`, which takes the arguments from the
file (resume.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from svdfast.training.checkpoint import Checkpoint, plain, read
from svdfast.training.resume import refusing

if TYPE_CHECKING:
    from svdfast.training.loop import Loop

__all__ = ["Continuing"]


class Continuing(Checkpoint):
    """The file that a training is written to and continues from.

    Parameters
    ----------
    path : path
    settings : mapping
        Plain values by the caller's names. A file with other values is refused.
    known : mapping
        Fingerprints of the caller's own data, by argument name. A file with others is refused.
    state : callable, optional
        Returns plain values that the caller keeps beside the training. They are written with each
        state.
    restore : callable, optional
        Called with these values and the restored training.
    looks : bool
        True if this process reads and writes the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: Mapping[str, Any], known: Mapping[str, str | None] | None = None, *,
        state: Callable[[], Any] = dict, restore: Callable[[Any, Loop], None] = lambda values, loop: None, looks: bool = True,
    ):  # fmt: skip
        super().__init__(path, resumed=True, looks=looks)
        self._named = os.fspath(path)
        self._looks, self._settings, self._known = looks, settings, {} if known is None else known
        self._state, self._restore = state, restore

    def __fspath__(self) -> str:
        return self._named

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        caller = {"settings": self._settings, "known": self._known, "state": self._state()}
        super().write(step, {**values, "caller": caller})

    def read(self) -> dict[str, Any] | None:
        """Reads the file; None if there is none, and in processes that do not read it.

        Raises
        ------
        ValueError
            The file is no checkpoint, is of another version, or is damaged.
        """
        if not self._looks or not self.path.exists():
            return None
        try:
            return read(self._named)
        except ValueError as error:
            raise ValueError(str(error).replace("path: ", "checkpoint: ", 1)) from None

    def restore(self, loop: Loop, values: Mapping[str, Any]) -> None:
        """Restores a training to the state that the file's values describe.

        Raises
        ------
        ValueError
            The values are not those of such a training.
        """
        with refusing(self, "checkpoint"):
            caller, state = values.get("caller"), values["state"]
            if caller is not None and self._looks:
                before = {**caller["settings"], **_settings(values)}
                data = {**caller["known"], **_data(values)}
        if caller is None:
            raise self._refusal("was not made by this command or class")
        if self._looks:
            for name, value in {**self._settings, **_settings(loop.about)}.items():
                if plain(before.get(name)) != plain(value):
                    shown = f"{name} {before.get(name)!r:.80}, not {value!r:.80}"
                    raise self._refusal(f"is of a training with {'another network' if name == 'network' else shown}")
            for name, value in {**self._known, **_data(loop.about)}.items():
                if data.get(name) != value:
                    raise self._refusal(f"is of a training on other data ({name})")
        with refusing(self, "checkpoint"):
            loop.rng.bit_generator.state = loop.generator = state.generator
            loop.restore(state)
            self._restore(caller["state"], loop)

    def _refusal(self, why: str) -> ValueError:
        return ValueError(f"checkpoint: {self._named!r} {why}")


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training, by argument of `train`. The number of threads may change."""
    arguments = {name: value for name, value in about["arguments"].items() if name != "n_threads"}
    return {"network": about["network"], "factoring": about["factoring"], **arguments}


def _data(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"X, y, sample_weight": about["data"]["training"], "validation": about["data"]["validation"]}
