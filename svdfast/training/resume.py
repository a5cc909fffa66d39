# SPDX-License-Identifier: BSD-3-Clause
"""Continues a training from its checkpoint.

Elsewhere: the form of the file (checkpoint.py), and the contents of its state (state.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from svdfast._process.checks import count, one_of, positive_number
from svdfast._process.files import DAMAGED
from svdfast._process.runtime import resolve_threads
from svdfast.data.batches import Batch
from svdfast.data.rows import Rows
from svdfast.distributed import Communicator
from svdfast.model.layout import Layout
from svdfast.model.network import Network
from svdfast.model.origin import Origin
from svdfast.training.checkpoint import (
    GENERATORS,
    Checkpoint,
    parse_factoring,
    parse_optimizer,
    read,
)
from svdfast.training.events import Event
from svdfast.training.factoring import Factoring
from svdfast.training.loop import Loop
from svdfast.training.optimizers import Optimizer
from svdfast.training.prepare import prepare
from svdfast.training.result import TrainingResult
from svdfast.training.state import NetworkState
from svdfast.training.stopping import EarlyStopping
from svdfast.training.team import Team

__all__ = ["refusing", "resume"]

# Arguments of `prepare` that are no values of a file.
_GIVEN = ("sample_weight", "validation", "callbacks", "progress", "team")


def resume(
    path: str | os.PathLike[str],
    X: ArrayLike | Rows | Iterable[Batch],
    y: ArrayLike | Rows | None = None,
    *,
    sample_weight: ArrayLike | Rows | None = None,
    validation: tuple[ArrayLike | Rows, ArrayLike | Rows] | Iterable[Batch] | None = None,
    optimizer: Optimizer | None = None,
    factoring: Factoring | None = None,
    n_threads: int | None = None,
    callbacks: Iterable[Callable[[Event], None]] = (),
    progress: bool | str = False,
    communicator: Communicator | None = None,
) -> TrainingResult:
    """Continues a training from its checkpoint, to its end.

    All other arguments are those that `train` was given. The training ends as it would have without
    a break, bit-identical: weights, ranks, moments, the order of samples, the schedule, the
    history. The file is updated as the training continues. The file of a training that had ended
    gives its result.

    Parameters
    ----------
    path : path
        The `checkpoint` of `train`.
    X, y, sample_weight, validation : as in `train`
        The same data. They are compared with those of the checkpoint: arrays in memory by all their
        numbers, row sources by some of their rows (validation by all), an iterable by its first
        batch. An iterable of batches, or an iterator, is run through from its beginning up to the
        training's place. So it has to give the same batches again.
    optimizer : Optimizer, optional
        Replaces the optimizer that the training had, except for its moments, which must be of the
        same kinds. It is only needed if the optimizer, or its learning rate, is of a user's own
        class or function, which the file does not have.
    factoring : Factoring, optional
        Replaces the method that the training had. It is only needed if its rank rule is the user's
        own, which the file does not have.
    n_threads : int, optional
        By default as many as before.
    callbacks : iterable of callable
        As in `train`. The file has neither the callbacks nor their state. If the training had
        ended, they only get the recomposition.
    progress : bool or str
        Show a bar on stderr (needs tqdm: the extra `progress`). A str is shown before it.
    communicator : svdfast.distributed.Communicator, optional
        The processes that train together, as in `train`; their number may differ. Only process 0
        reads the file.

    Returns
    -------
    TrainingResult
        The result of the whole training; its network is a new one.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no checkpoint, is damaged or of another version of the format, or was made with
        other data.
    TypeError, ValueError, FloatingPointError
        As in `train`.

    Notes
    -----
    Results are bit-identical on the same kind of machine with the same versions of packages. Unless
    the training is `reproducible`, the number of threads must be the same, too. With "auto" a check
    by the clock may undo a truncation in one run and not in the other, unless it is `reproducible`.

    Within an epoch over a shuffled row source, another number of processes may continue with the
    rows in another order, unless the training is `reproducible`.

    Reading a file runs nothing that is in it.

    Examples
    --------
    >>> import os, tempfile
    >>> import svdfast as sf
    >>> data = sf.datasets.load("xor")
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "run.ckpt")
    >>> def power_cut(event):
    ...     if event.step == 300:
    ...         raise RuntimeError("power cut")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=1)
    >>> settings = {"checkpoint": path, "checkpoint_every": 100, "callbacks": [power_cut]}
    >>> sf.train(net, *data.train, epochs=400, **settings)
    Traceback (most recent call last):
    RuntimeError: power cut
    >>> result = sf.resume(path, *data.train)
    >>> whole = sf.Network([2, 20, 20, 1], output="sigmoid", seed=1)
    >>> sf.train(whole, *data.train, epochs=400).n_steps == result.n_steps
    True
    >>> bool((result.network.parameters == whole.parameters).all())
    True
    >>> folder.cleanup()
    """
    team = Team(communicator)
    with team:
        values = team.of_first(team.together(lambda: read(path) if team.first else {}))

        def prepared() -> Loop:
            return _prepared(
                path, values, X, y, sample_weight, validation, optimizer, factoring, n_threads, callbacks, progress, team
            )

        return team.together(prepared).finish()


def _prepared(
    path: str | os.PathLike[str], values: Mapping[str, Any], X: ArrayLike | Rows | Iterable[Batch], y: ArrayLike | Rows | None,
    sample_weight: ArrayLike | Rows | None, validation: tuple[ArrayLike | Rows, ArrayLike | Rows] | Iterable[Batch] | None,
    optimizer: Optimizer | None, factoring: Factoring | None, n_threads: int | None, callbacks: Iterable[Callable[[Event], None]],
    progress: bool | str, team: Team,
) -> Loop:  # fmt: skip
    """The training in the state that the file's values describe."""
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
    if factoring is not None and not isinstance(factoring, Factoring):
        raise TypeError(f"factoring: expected a Factoring, got {type(factoring).__name__}")
    with refusing(path):
        arguments, state, data = values["arguments"], values["state"], values["data"]
        net = _first_network(values["network"], state.run.network)
        rng = _generator(state.generator)
        n_moments, every = len(state.run.network.moments), values["every"]
        if optimizer is None and state.optimizer is not None:
            optimizer = parse_optimizer(state.optimizer)
        known = parse_factoring(values["factoring"])
        factoring = known if factoring is None else factoring
        threads = resolve_threads(*_threads(arguments["n_threads"], n_threads, team))
        # If an argument is unknown or missing, the file is to blame.
        signature(prepare).bind(*[None] * 7, **arguments, **dict.fromkeys(_GIVEN))
        if not isinstance(arguments["early_stopping"], EarlyStopping | None):
            raise TypeError(f"it has a {type(arguments['early_stopping']).__name__} in place of an EarlyStopping")
        has_validation = data["validation"] is not None
    if optimizer is None:
        raise ValueError(_own(path, "optimizer", "it, or its learning rate, is of a class or a function of your own"))
    if factoring is None:
        raise ValueError(_own(path, "factoring", "its rule of ranks is your own"))
    if len(optimizer.kinds) != n_moments:
        raise ValueError(f"optimizer: expected one of {n_moments} moments, as the training had, got {optimizer}")
    if (validation is not None) != has_validation:
        expected, got = ("those that the training had", "none") if has_validation else ("none, as before", "some")
        raise ValueError(f"validation: expected {expected}, got {got}")
    loop = prepare(
        net, X, y, factoring, optimizer, rng, Checkpoint(path, every, resumed=True, looks=team.first),
        **(arguments | {"n_threads": threads}), sample_weight=sample_weight, validation=validation, callbacks=callbacks,
        progress=progress, team=team,
    )  # fmt: skip
    for name, names in (("training", "X, y, sample_weight"), ("validation", "validation")) if team.first else ():
        if loop.about["data"][name] != data.get(name):
            raise ValueError(f"{names}: expected the data that {os.fspath(path)!r} was made with, got others")
    with refusing(path):
        loop.restore(state)
    return loop


def _threads(before: int, n_threads: int | None, team: Team) -> tuple[int | None, int | None]:
    """The arguments of `resolve_threads`.

    By default there are as many threads as before; with a communicator, as many as it says.
    """
    if n_threads is None and team.n_threads is not None:
        return None, team.n_threads
    return (before if n_threads is None else n_threads), None


def _own(path: str | os.PathLike[str], name: str, why: str) -> str:
    return f"{name}: expected the one that the training had, got None: {os.fspath(path)!r} does not have it, as {why}"


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    """A generator in this state. NumPy does not check the buffer positions of these two kinds."""
    kind = state["bit_generator"]
    if kind == "MT19937":
        count("pos", state["state"]["pos"], minimum=0, maximum=624)
    elif kind == "Philox":
        count("buffer_pos", state["buffer_pos"], minimum=0, maximum=4)
    bits = GENERATORS[kind]()
    bits.state = state
    return np.random.Generator(bits)


def _first_network(first: Mapping[str, Any], now: NetworkState) -> Network:
    """The network that a training began with: the layers it has now, all parameters zero."""
    layout, of_now, parameters = Layout.parse(first), Layout.parse(now.layout), now.parameters
    one_of("dtype", first["dtype"], ("float32", "float64"))
    if parameters.shape != (of_now.size,) or parameters.dtype.name != first["dtype"] or of_now.recomposed() != layout.recomposed():
        raise ValueError("its parameters are not those of the layers that it began with")
    uint8_scale = positive_number("uint8_scale", first["uint8_scale"])
    return Network.of(layout, np.zeros((), parameters.dtype), uint8_scale, Origin.parse(first["origin"]))


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str], name: str = "path") -> Iterator[None]:
    """Turns errors in a file's contents into a ValueError that names the file.

    `name` is the argument that the file was given as.
    """
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"{name}: {os.fspath(path)!r} is not a checkpoint of a training: {error}") from None
