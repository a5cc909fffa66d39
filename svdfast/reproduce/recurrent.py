# SPDX-License-Identifier: BSD-3-Clause
"""The method on recurrent networks, future work in the paper.

The tasks are MNIST by rows, the adding problem, and the characters of a text.
"""

from __future__ import annotations

from svdfast import layers as L
from svdfast.model.describe import Input
from svdfast.model.network import Network
from svdfast.reproduce._experiment import Experiment
from svdfast.reproduce._layered import ACCURACY, BITS, SQUARED_ERROR, Task, Tasks
from svdfast.reproduce._samples import STEPS

N_CHARACTERS = 65


def by_rows(seed: int) -> Network:
    return Network(Input(28, 28), [L.GRU(256), L.Linear(10, "softmax")], seed=seed)


def adding(seed: int) -> Network:
    return Network(Input(STEPS, 2), [L.GRU(128), L.Linear(1)], seed=seed)


def characters(seed: int) -> Network:
    layers = [L.Embedding(N_CHARACTERS, 64), L.LSTM(256, return_sequences=True), L.Linear(N_CHARACTERS, "softmax")]
    return Network(Input(STEPS), layers, seed=seed)


TASKS = Tasks(
    Task(
        "MNIST by rows, GRU 256", "mnist", by_rows, ACCURACY,
        {"learning_rate": 1e-3, "clip_norm": 1.0, "epochs": 3, "batch_size": 256},
    ),
    Task(
        "adding problem, GRU 128", "adding", adding, SQUARED_ERROR,
        {"learning_rate": 1e-3, "clip_norm": 1.0, "epochs": 3, "batch_size": 64},
    ),
    Task(
        "characters, LSTM 256", "characters", characters, BITS,
        {"learning_rate": 3e-3, "clip_norm": 1.0, "epochs": 3, "batch_size": 64},
    ),
)  # fmt: skip

EXPERIMENT = Experiment(
    "recurrent", "Recurrent layers (section 6)", 3, 1, TASKS.require, (TASKS.trainings, TASKS.turns), TASKS.run, TASKS.tables,
    lambda runs: {"recurrent": TASKS.figure(runs)}, TASKS.missing,
)  # fmt: skip
