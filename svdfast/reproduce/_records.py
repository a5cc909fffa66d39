# SPDX-License-Identifier: BSD-3-Clause
"""The runs of an experiment in a JSON file, so that what was interrupted goes on where it was, and a CSV file for other programs.

Not here: what a run is (_training.py).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svdfast._process.files import remove_parts, written_whole
from svdfast.reproduce._experiment import Job, Record
from svdfast.reproduce._training import machine


class Records:
    """The runs in a file, by what decides their outcome. The file is written anew, whole, after each."""

    def __init__(self, path: Path):
        self.path = path
        self._runs: dict[str, Record] = {}
        remove_parts(path)
        try:
            runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
            self._runs = {_key(Job(run["form"], run["seed"], run["settings"])): run for run in runs}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: not a file of runs; rename or delete it") from None

    def find(self, job: Job) -> Record | None:
        """The run, if it was done on this machine with these versions: seconds of others can't be compared."""
        run = self._runs.get(_key(job))
        return run if run is not None and run.get("machine", machine()) == machine() else None

    def add(self, job: Job, result: dict[str, Any]) -> Record:
        given = {"form": job.form, "seed": job.seed, "settings": job.settings} | result
        # As it will be when it is read again.
        record: Record = json.loads(json.dumps(given, allow_nan=False))
        self._runs[_key(job)] = record
        # A run a line.
        lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in self._runs.values())
        with written_whole(self.path) as file:
            file.write(f'{{"runs": [\n{lines}\n]}}\n'.encode())
        return record


def _key(job: Job) -> str:
    return json.dumps([job.form, job.seed, job.settings], sort_keys=True)


# What a run has for each epoch.
_CURVES = ("costs", "test_accuracies")


def write_csv(path: Path, runs: Sequence[Record]) -> None:
    """A line a run: its form, seed, settings and figures; what it has for each epoch stays in the JSON file."""
    rows = []
    for run in runs:
        figures = {key: value for key, value in run.items() if key != "settings" and key not in _CURVES}
        for key, value in run["settings"].items():
            parts = {f".{name}": part for name, part in value.items()} if isinstance(value, dict) else {"": value}
            figures |= {f"settings.{key}{name}": part for name, part in parts.items()}
        rows.append(figures)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(path) as file:
        file.write(text.getvalue().encode())
