# SPDX-License-Identifier: BSD-3-Clause
"""Times gradients of networks in alternating rounds, so that other work slows all of them alike.

Elsewhere: the seconds of a training's own steps (loop.py), and the decisions from either (auto.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np

from svdfast._engine import Engine
from svdfast.model.network import Network
from svdfast.training.run import Run

__all__ = ["by_turns"]

# Rounds that count, after one that warms everything up.
ROUNDS = 5


def by_turns(run: Run, networks: Sequence[Network]) -> list[float]:
    """The median seconds of the gradient of a batch of a training, for each network."""
    rows = run.sample_rows()[: run.batch_size]
    engines = []
    for net in networks:
        layout, parameters = net.state
        engine = Engine(layout, parameters, batch_size=len(rows), n_threads=run.n_threads, bfloat16=run.bfloat16)
        run.at_hand.bind_rows(engine, rows)
        engines.append((engine, np.empty(layout.size, parameters.dtype)))
    found: list[list[float]] = [[] for _ in engines]
    for i in range(ROUNDS + 1):
        for (engine, gradient), seconds in zip(engines, found, strict=True):
            began = time.perf_counter()
            engine.gradient(0, len(rows), gradient)
            if i > 0:
                seconds.append(time.perf_counter() - began)
    return [median(seconds) for seconds in found]
