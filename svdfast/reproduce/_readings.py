# SPDX-License-Identifier: BSD-3-Clause
"""The report's two forms, DNN and SVD-DNN, in every reading of what it leaves open: the optimizer, the batch.

Shared by xor.py and cat.py. Not here: which readings those have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svdfast.reproduce._experiment import Job, Plan
from svdfast.reproduce._training import described
from svdfast.training.factoring import Factoring

METHODS = {"DNN": None, "SVD-DNN": Factoring.as_reported()}
Readings = Mapping[str, Mapping[str, Any]]


def jobs_of(plan: Plan, readings: Readings, settings: Mapping[str, Any]) -> list[Job]:
    """Each reading in both forms, seed by seed; a reading is settings beside those of all."""
    return [
        Job(f"{reading}, {form}", seed, {**settings, "factoring": described(method), **how})
        for seed in plan.seeds
        for reading, how in readings.items()
        for form, method in METHODS.items()
    ]


def report_of(readings: Readings, figures: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """The report's figures of each form beside every reading."""
    return {f"{reading}, {form}": figures[form] for reading in readings for form in METHODS}


def dense(form: str) -> str:
    """The form that one is compared with."""
    return form.replace("SVD-DNN", "DNN")
