# SPDX-License-Identifier: BSD-3-Clause
"""What an experiment is: trainings to be done in stages, tables and figures made of what they gave.

Not here: the experiments (a file each), how runs are kept (_records.py), how one is trained (_training.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run: of a form, a row of the tables, and a seed. `settings` is all that decides its outcome, in words of JSON."""

    form: str
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How large an experiment is to be."""

    seeds: range
    quick: bool = False


Runs = Sequence[Record]


@dataclass(frozen=True)
class Experiment:
    """One of the experiments.

    Attributes
    ----------
    name, title : str
    seeds, quick_seeds : int
        Where the user does not say.
    require : callable
        Loads what the runs need; raises ImportError, OSError or ValueError where something is missing or damaged.
    stages : tuple of callable
        Each gives the jobs that come next, from the plan and the runs of the stages before.
    run : callable
        Does a job: settings and seed to a dict of JSON's words.
    tables : callable
        Of all runs, in the order of the jobs: pairs of title and text (Markdown).
    figures : callable
        Of all runs: figures by the names of their files.
    missing : callable
        After `require`: lines on parts whose data or packages are missing, while others can be done.
    """

    name: str
    title: str
    seeds: int
    quick_seeds: int
    require: Callable[[], object]
    stages: tuple[Callable[[Plan, Runs], list[Job]], ...]
    run: Callable[[dict[str, Any], int], dict[str, Any]]
    tables: Callable[[Runs], list[tuple[str, str]]]
    figures: Callable[[Runs], dict[str, Figure]]
    missing: Callable[[], list[str]] = list


def of_form(runs: Runs, form: str) -> list[Record]:
    """The runs of a form, by seed."""
    return sorted((run for run in runs if run["form"] == form), key=lambda run: int(run["seed"]))


def forms(runs: Runs) -> list[str]:
    """Names of forms, in the order in which they came."""
    return list(dict.fromkeys(run["form"] for run in runs))
