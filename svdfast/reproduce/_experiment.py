# SPDX-License-Identifier: BSD-3-Clause
"""Experiment: trainings in stages, and tables and figures of their results.

Each experiment has a file of its own. Runs are kept in _records.py and trained in _training.py.
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
    """One run: a form, which is a row of the tables, and a seed.

    `settings` contains everything else that decides its result, in JSON values.
    """

    form: str
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The size of an experiment."""

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
        Default numbers of seeds.
    require : callable
        Loads the data and packages of the runs. Raises ImportError, OSError or ValueError if
        something is missing or damaged.
    stages : tuple of callable
        Each gives the next jobs, from the plan and the runs of the stages before.
    run : callable
        Runs a job: takes settings and a seed, gives a dict of JSON values.
    tables : callable
        Takes all runs, in the order of the jobs, and gives pairs of title and text (Markdown).
    figures : callable
        Takes all runs and gives figures by the names of their files.
    missing : callable
        After `require`, gives lines on parts that can't run because data or packages are missing.
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
    """Names of forms, in the order of their first runs."""
    return list(dict.fromkeys(run["form"] for run in runs))
