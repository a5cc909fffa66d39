# SPDX-License-Identifier: BSD-3-Clause
"""The paper's experiments, repeated: `svdfast reproduce`.

This file runs experiments and writes their results; each experiment has a file of its own. xor.py,
cat.py, mnist.py, small.py and images.py repeat sections 4.1 to 4.3 and 3.2.2. study.py,
recurrent.py and convolution.py are about future work in section 6. All need matplotlib, the extra
`plot`. The speed of other systems is compared in bench/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from svdfast._process.checks import count
from svdfast._process.files import written_whole
from svdfast.plots.figures import require_matplotlib
from svdfast.reproduce import cat, convolution, images, mnist, recurrent, small, study, xor
from svdfast.reproduce._experiment import Experiment, Plan, Record
from svdfast.reproduce._figures import save
from svdfast.reproduce._records import Records, write_csv
from svdfast.reproduce._time import TimeLeft, duration

__all__ = ["EXPERIMENTS", "reproduce"]

MOST_SEEDS = study.TUNING_SEED  # this number itself is the seed of the search for learning rates

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT for module in (xor, cat, mnist, small, images, study, recurrent, convolution)
}


def _nothing(line: str) -> None:
    """Ignores a line."""


def reproduce(
    names: Sequence[str],
    out: Path,
    *,
    seeds: int | None = None,
    quick: bool = False,
    say: Callable[[str], None] = _nothing,
    tell: Callable[[str], None] = _nothing,
) -> list[str]:
    """Runs experiments and writes their results to a folder.

    For an experiment NAME, NAME.json contains every run, NAME.csv every run without its values by
    epoch, and NAME.md the tables. Figures are written as PNG and SVG. Runs that NAME.json already
    contains are not repeated, so an interrupted experiment continues where it stopped.

    Parameters
    ----------
    names : sequence of str
        Names in `EXPERIMENTS`.
    out : Path
        The folder. It is created if it does not exist.
    seeds : int, optional
        Number of seeds, 1 to 1000, instead of each experiment's own number.
    quick : bool
        Use few samples and epochs. This only shows that everything works.
    say, tell : callable
        Called with each line of results, and with each line on progress.

    Returns
    -------
    list of str
        A line with the reason for each experiment, or part of one, that was left out because data
        or a package is missing.

    Raises
    ------
    ImportError
        matplotlib is missing.
    TypeError
        `seeds` is not an integer.
    FloatingPointError
        A training diverged. The runs before it are kept.
    OSError
        A file could not be written.
    ValueError
        A name is unknown, `seeds` is out of range, or a file in the folder does not contain runs.
    """
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"names: expected some of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}")
    if seeds is not None:
        count("seeds", seeds, maximum=MOST_SEEDS)
    require_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    left_out = []
    for name in names:
        experiment = EXPERIMENTS[name]
        plan = Plan(range(seeds or (experiment.quick_seeds if quick else experiment.seeds)), quick)
        say(f"\n# {experiment.title}\n")
        try:
            experiment.require()
        except (ImportError, OSError, ValueError) as error:
            left_out.append(f"{name} was left out: {error}")
            say(left_out[-1])
            continue
        for line in experiment.missing():
            left_out.append(f"of {name} a part was left out: {line}")
            say(left_out[-1])
        runs = _runs(experiment, plan, Records(out / f"{name}.json"), tell)
        write_csv(out / f"{name}.csv", runs)
        lines = [f"# {experiment.title}", ""]
        for title, text in experiment.tables(runs):
            lines += [title, "", text, ""]
        lines += [f"Run on: {machine}" for machine in dict.fromkeys(run["machine"] for run in runs if "machine" in run)] + [""]
        for figure_name, figure in experiment.figures(runs).items():
            save(figure, out, figure_name)
            lines += [f"![{figure_name}]({figure_name}.png)", ""]
        with written_whole(out / f"{name}.md") as file:
            file.write("\n".join(lines).encode())
        say("\n".join(lines[2:]))
    return left_out


def _runs(experiment: Experiment, plan: Plan, records: Records, tell: Callable[[str], None]) -> list[Record]:
    runs: list[Record] = []
    for number, stage in enumerate(experiment.stages, 1):
        jobs = stage(plan, runs)
        missing = [job for job in jobs if records.find(job) is None]
        part = f", part {number} of {len(experiment.stages)}" if len(experiment.stages) > 1 else ""
        if len(missing) < len(jobs):
            tell(f"{experiment.name}{part}: {len(jobs) - len(missing)} of {len(jobs)} runs are there already")
        if missing:
            tell(f"{experiment.name}{part}: {len(missing)} runs to do")
        left, done = TimeLeft(job.form for job in missing), 0
        for job in jobs:
            record = records.find(job)
            if record is None:
                began = time.monotonic()
                try:
                    result = experiment.run(job.settings, job.seed)
                except FloatingPointError as error:
                    raise FloatingPointError(f"{experiment.name}, {job.form}, seed {job.seed}: {error}") from None
                record = records.add(job, result)
                done += 1
                seconds = time.monotonic() - began
                about = f"about {duration(left.after(job.form, seconds))} left{' of this part' if part else ''}"
                tell(f"{experiment.name}{part}: {done} of {len(missing)}, {job.form}, seed {job.seed}, {duration(seconds)}; {about}")
            runs.append(record)
    return runs
