# SPDX-License-Identifier: BSD-3-Clause
"""An estimate of the time that the remaining runs of an experiment take."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean

__all__ = ["TimeLeft", "duration"]


class TimeLeft:
    """A run is expected to take as long as those of its form, or as all, if its form has none yet.

    Forms of an experiment differ a lot: dense networks, factored ones, several sizes.

    Parameters
    ----------
    forms : iterable of str
        The form of each run that is still to do.

    Examples
    --------
    >>> from svdfast.reproduce._time import TimeLeft
    >>> left = TimeLeft(["dense", "dense", "factored"])
    >>> left.after("dense", 8.0)
    16.0
    >>> left.after("factored", 2.0)
    8.0
    """

    def __init__(self, forms: Iterable[str]):
        self._to_do = Counter(forms)
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def after(self, form: str, seconds: float) -> float:
        """Counts a run that took so long. Returns the seconds that the others are expected to take."""
        self._to_do[form] -= 1
        self._seconds[form].append(seconds)
        overall = fmean(s for each in self._seconds.values() for s in each)
        return sum(n * (fmean(self._seconds[form]) if self._seconds.get(form) else overall) for form, n in self._to_do.items())


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in two digits or three."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
