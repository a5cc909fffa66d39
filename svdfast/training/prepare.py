# SPDX-License-Identifier: BSD-3-Clause
"""Turns arguments into a training that has not begun: the checks that `train` and `resume` share.

They come before any change. Elsewhere: the checks of one object by itself (factoring.py,
optimizers.py), the checks of samples (svdfast/data), and the loop (loop.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from svdfast._process.checks import count, listed, positive_number
from svdfast._process.runtime import resolve_precision
from svdfast.data.arrays import ArraySource, Source
from svdfast.data.batches import Batch
from svdfast.data.checks import Samples
from svdfast.data.open import Pieces, learned, open_source, open_validation
from svdfast.data.pixels import warn_of_pixels
from svdfast.data.rows import Rows
from svdfast.data.shared import Share, Sharing
from svdfast.model.evaluation import Evaluator, spec_of
from svdfast.model.heads import head_of
from svdfast.model.layers import Scan
from svdfast.model.network import Network
from svdfast.model.origin import Origin
from svdfast.model.ranks import check_fit
from svdfast.training.checkpoint import GENERATORS, Checkpoint, factoring_header, fingerprint
from svdfast.training.events import Event
from svdfast.training.factoring import Factoring
from svdfast.training.loop import Loop
from svdfast.training.optimizers import Optimizer
from svdfast.training.run import SAMPLE, Run
from svdfast.training.shared import SharedRun
from svdfast.training.stopping import EarlyStopping
from svdfast.training.team import Team

__all__ = ["prepare"]

# Some rows, by which processes find that their samples differ.
_KNOWN_ROWS = 16


def prepare(
    net: Network,
    X: ArrayLike | Rows | Iterable[Batch],
    y: ArrayLike | Rows | None,
    factoring: Factoring,
    optimizer: Optimizer,
    rng: np.random.Generator,
    checkpoint: Checkpoint | None,
    *,
    epochs: int,
    batch_size: int | None,
    loss: str | None,
    clip_norm: float | None,
    l1: float,
    l2: float,
    precision: str | None,
    n_threads: int,
    reproducible: bool,
    shuffle: bool | None,
    steps_per_epoch: int | None,
    carry_state: bool,
    sample_weight: ArrayLike | Rows | None,
    validation: tuple[ArrayLike | Rows, ArrayLike | Rows] | Iterable[Batch] | None,
    callbacks: Iterable[Callable[[Event], None]],
    progress: bool | str,
    early_stopping: EarlyStopping | None,
    team: Team,
) -> Loop:
    """A training with checked arguments that has not begun. The network is unchanged.

    Each process checks its own arguments; `Loop.finish` compares them between processes.
    """
    plain: dict[str, Any] = {
        "epochs": count("epochs", epochs),
        "batch_size": None if batch_size is None else count("batch_size", batch_size),
        "loss": loss,
        "clip_norm": None if clip_norm is None else positive_number("clip_norm", clip_norm),
        "l1": positive_number("l1", l1, or_zero=True),
        "l2": positive_number("l2", l2, or_zero=True),
        "precision": precision,
        "n_threads": n_threads,
        "reproducible": reproducible,
        "shuffle": shuffle,
        "steps_per_epoch": steps_per_epoch,
        "carry_state": bool(carry_state),
        "early_stopping": early_stopping,
    }
    callbacks = tuple(listed("callbacks", callbacks, "callables"))
    if not all(callable(callback) for callback in callbacks):
        raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
    _check_fit(factoring, net)
    if carry_state:
        _check_states(net)
    bfloat16 = resolve_precision(precision, net.dtype)
    spec = learned(spec_of(net, loss), X, y)
    if early_stopping is not None:
        early_stopping.check(validated=validation is not None, decides=head_of(net.layout.layers[-1].activation).decides)
    evaluator = pieces = None
    sharing = Sharing(team.rank, team.size, bool(reproducible)) if team else None
    if validation is not None:
        blocks, pieces = open_validation(validation, spec, sharing)
        evaluator = Evaluator(blocks, n_threads, reproducible=reproducible)
    source, share = open_source(
        X, y, sample_weight, spec, rng, batch_size=batch_size, shuffle=shuffle, steps_per_epoch=steps_per_epoch,
        n_sampled=0 if factoring.phi == 1 or net.is_factored else SAMPLE, equal=plain["carry_state"], sharing=sharing,
    )  # fmt: skip

    warn_of_pixels(X, validation, spec)
    origin = replace(net.origin, classes=spec.classes or net.origin.classes, feature_names=spec.feature_names)

    make = partial(SharedRun, team=team, share=share) if team else Run
    run = make(
        net, source.data, optimizer, n_threads, source.batch_size, plain["l1"], plain["l2"], bfloat16, reproducible,
        plain["clip_norm"], plain["carry_state"],
    )  # fmt: skip
    about: dict[str, Any] = {}
    if checkpoint is not None and team.first:
        about = _about(net, origin, plain, factoring, rng, checkpoint, source)
        some: Iterable[Samples] = () if evaluator is None else evaluator.blocks()
        if not isinstance(validation, tuple | list):
            some = islice(some, 1)
        known = fingerprint(array for block in some for array in block.arrays)
        about["data"]["validation"] = None if evaluator is None else known
    loop = Loop(
        run, factoring, source, rng, evaluator, plain["epochs"], callbacks, checkpoint, about, progress, origin, early_stopping,
        team, pieces,
    )  # fmt: skip
    if team:
        loop.settings = _settings(plain, factoring, optimizer, source, share, pieces, sample_weight, checkpoint, origin)
    return loop


def _settings(
    plain: dict[str, Any], factoring: Factoring, optimizer: Optimizer, source: Source, share: Share | None, pieces: Pieces | None,
    sample_weight: Any, checkpoint: Checkpoint | None, origin: Origin,
) -> dict[str, str]:  # fmt: skip
    """The settings that all processes must share, as text; unknown ones are left out."""
    given = {name: value for name, value in plain.items() if name != "n_threads"}
    given |= {
        "steps_per_epoch": source.steps_per_epoch,
        "X": _kind(source.n_samples if share is not None else None),
        "optimizer": optimizer,
        "factoring": factoring,
        "sample_weight": "some" if sample_weight is not None else "none",
        "validation": "none" if pieces is None else _kind(pieces.n_samples),
        "checkpoint": "none" if checkpoint is None else f"one every {checkpoint.every or 'epoch'}",
    }
    if isinstance(source, ArraySource):
        given["X, y, sample_weight"] = _known_rows(source)
    names = {"classes": origin.classes, "feature_names": origin.feature_names}
    given |= {name: tuple(values) for name, values in names.items() if values is not None}
    # Functions print their address, which differs between processes.
    return {name: re.sub(r" at 0x[0-9a-fA-F]+", "", str(value)) for name, value in given.items()}


def _kind(n_samples: int | None) -> str:
    return "batches of its own" if n_samples is None else f"{n_samples} samples"


def _known_rows(source: ArraySource) -> str:
    """A checksum of some samples as text, by which processes with other samples are found."""
    # The arrays of sparse samples have not a row for each.
    some = [array[np.linspace(0, len(array) - 1, min(len(array), _KNOWN_ROWS)).astype(int)] for array in source.data.arrays]
    return f"samples with the checksum {fingerprint(some)[:8]}"


def _check_fit(factoring: Factoring, net: Network) -> None:
    """Refuses a method that does not fit the network and the data."""
    if not factoring.automatic:
        check_fit(factoring.rule, net.layout)
    rates, n_layers = factoring.learning_rate, len(net.layers)
    if isinstance(rates, tuple) and len(rates) != n_layers:
        raise ValueError(f"learning_rate: expected {n_layers} numbers, one for each layer, got {len(rates)}")


def _check_states(net: Network) -> None:
    """Refuses a network with no recurrent layers, or with bidirectional ones.

    Only states that go from the first step on can be carried to the next batch.
    """
    halves = [layer.half for layer in net.layout.layers if isinstance(layer, Scan)]
    if not halves or any(halves):
        got = "one that is bidirectional" if halves else "none"
        raise ValueError(f"carry_state: expected a network with recurrent layers that go from the first step on, got {got}")


def _about(
    net: Network,
    origin: Origin,
    plain: dict[str, Any],
    factoring: Factoring,
    rng: np.random.Generator,
    checkpoint: Checkpoint,
    source: Source,
) -> dict[str, Any]:
    """The part of a checkpoint beside the training's state."""
    from svdfast._process.version import __version__

    generator = type(rng.bit_generator).__name__
    if GENERATORS.get(generator) is not type(rng.bit_generator):
        raise TypeError(f"seed: expected one of {', '.join(GENERATORS)} with a checkpoint, got a {generator}")
    if type(rng) is not np.random.Generator:  # its order would not be that of a resumed training
        raise TypeError(f"seed: expected a numpy.random.Generator and no subclass with a checkpoint, got a {type(rng).__name__}")
    return {
        "svdfast": __version__,
        "every": checkpoint.every,
        "arguments": plain,
        "factoring": factoring_header(factoring),
        "network": {
            **net.layout.header(), "uint8_scale": net.uint8_scale, "dtype": net.dtype.name, "origin": origin.header(),
        },
        "data": {
            "training": f"{source.steps_per_epoch} steps, {source.n_samples} samples, {fingerprint(source.known_by())}",
        },
    }
