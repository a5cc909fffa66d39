# SPDX-License-Identifier: BSD-3-Clause
"""The paper's two forms, DNN and SVD-DNN, in every reading of the details that it leaves open.

These are the optimizer and the batch. xor.py and cat.py define their readings and share this code.
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
    """Jobs for each reading in both forms, seed by seed. A reading adds settings to common ones."""
    return [
        Job(f"{reading}, {form}", seed, {**settings, "factoring": described(method), **how})
        for seed in plan.seeds
        for reading, how in readings.items()
        for form, method in METHODS.items()
    ]


def report_of(readings: Readings, figures: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """The paper's figures of each form, for every reading."""
    return {f"{reading}, {form}": figures[form] for reading in readings for form in METHODS}


def dense(form: str) -> str:
    """The dense form that a form is compared with."""
    return form.replace("SVD-DNN", "DNN")
