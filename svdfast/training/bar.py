# SPDX-License-Identifier: BSD-3-Clause
"""The progress bar of a training: steps, time left, phase and loss. It needs tqdm.

Elsewhere: epochs without progress (progress.py).
"""

from __future__ import annotations

import time

__all__ = ["Bar"]

_EVERY = 0.2  # seconds between two states that are shown
_SHARE = 0.1  # of the newest step in the loss that is shown


class Bar:
    """A bar on stderr, in a notebook a widget.

    Parameters
    ----------
    n_steps, done : int
        Steps of the whole training, and those of it that a checkpoint has done.
    name : str
        Shown before the bar; empty for none.

    Raises
    ------
    ImportError
        tqdm is not installed.
    """

    def __init__(self, n_steps: int, done: int, name: str):
        try:
            from tqdm.auto import tqdm  # a widget in a notebook, text where there are no widgets
        except ImportError:
            raise ImportError('progress=True needs tqdm: pip install "svdfast[progress]"') from None
        self._bar = tqdm(total=n_steps, initial=done, unit="step", desc=name or None, mininterval=_EVERY, leave=False)
        self._phase, self._loss, self._due = "", 0.0, 0.0

    def step(self, loss: float) -> None:
        """Counts a step; its loss enters a moving mean."""
        self._loss = loss if self._due == 0 else self._loss + _SHARE * (loss - self._loss)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _EVERY
            self._bar.set_postfix_str(f"{self._phase}, loss {self._loss:.4g}", refresh=False)
        self._bar.update()

    def epoch(self, phase: str, loss: float) -> None:
        """Shows the phase and the loss of an epoch that has ended."""
        self._phase = phase
        self._bar.set_postfix_str(f"{phase}, loss {loss:.4g}")

    def begin(self, phase: str) -> None:
        """Shows a new phase. The mean of the losses begins again."""
        self._phase, self._due = phase, 0.0
        self._bar.set_postfix_str(phase)

    def shorten(self, n_steps: int) -> None:
        """Takes a new number of steps."""
        self._bar.total = n_steps
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()
