# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of a training that are no longer finite: the last good state, and a message.

The message names the step, the layer and the likely cause. A step whose loss is not finite updates
nothing (the engine sees to that), so finite weights are not lost. But an update may make weights
infinite, or nearly so, though its loss was finite. That shows in the next loss, or when
`Watch.look` looks. Then a copy that `look` has taken is restored.

Elsewhere: the checks of data before a training (svdfast/data), and the loop that asks (loop.py).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast.model.activations import identity
from svdfast.model.layout import Layout
from svdfast.model.network import Network
from svdfast.training.run import Run
from svdfast.training.team import Team

__all__ = ["NotFinite", "Watch"]

# The fewest steps between two copies, so that they cost next to nothing.
EVERY = 100
# Inputs or targets are called large from this size on.
LARGE = 1e4
# Weights that overflow have blown up if the largest is more than GROWN times what it was when they
# were good; else the inputs are to blame.
GROWN = 10.0
# Rows of a batch that are looked at together.
ROWS = 256


class NotFinite(FloatingPointError):
    """A training met NaN or infinity and stopped.

    Attributes
    ----------
    step : int
        The step, counted from 1, whose loss showed it; else the number of steps done.
    epoch : int
        Counted from 1.
    layer : int or None
        The first layer, counted from 0, whose parameters or outputs are not finite. None if the
        data or the optimizer's moments are to blame.
    restored : int
        The network is as it was after this many steps.
    """

    def __init__(self, message: str, step: int = 0, epoch: int = 0, layer: int | None = None, restored: int = 0):
        super().__init__(message)
        self.step, self.epoch, self.layer, self.restored = step, epoch, layer, restored


class Watch:
    """The last good parameters of a training, and the error to raise when they go bad.

    Parameters
    ----------
    run : Run
    team : Team, optional
        The processes that train together. One of those whose rows gave NaN or infinity says why.

    Attributes
    ----------
    due : int
        The number of steps after which a copy is old, if the parameters are still the same array.
    """

    def __init__(self, run: Run, team: Team | None = None):
        self.run, self.team = run, Team() if team is None else team
        self._good: tuple[Layout, NDArray[Any]] | None = None
        self._source: NDArray[Any] | None = None  # the array that was copied
        self._step = self.due = 0

    def look(self, step: int, epoch: int, *, always: bool = False) -> None:
        """Copies the network's parameters if they have changed or the last copy is old.

        `step` is the number of steps done.

        Raises
        ------
        NotFinite
            The parameters, or the optimizer's moments, are not finite.
        """
        run = self.run
        layout, parameters = run.net.state
        if not always and parameters is self._source and step < self.due:
            return
        if not (_finite(parameters) and all(_finite(moment) for moment in run.optimizer.moments)):
            raise self._error(f"after step {step}", step, epoch)
        if parameters is not self._source:
            self._good = self._source = None  # before there are others
            self._good = layout, aligned_zeros(layout.size, parameters.dtype)
            self._source = parameters
        assert self._good is not None
        self._good[1][...] = parameters
        self._step, self.due = step, step + EVERY

    def loss(self, value: float, start: int, stop: int, step: int, epoch: int) -> NotFinite:
        """Returns the error to raise if the loss or the gradient's norm of this step is not finite.

        Its rows are start .. stop of the run's data.
        """
        # The step counts as no update: the engine has left it out.
        self.run.optimizer.n_updates -= 1
        what = "the loss" if math.isfinite(self.run.norm) else "the gradient's norm"
        return self._error(f"{what} became {value} at step {step}", step, epoch, (start, stop))

    def diverged(self, what: str, step: int, epoch: int) -> NotFinite:
        """Returns the error to raise if `what` makes it impossible to continue after this step."""
        return self._error(f"{what} after step {step}", step, epoch)

    def _error(self, what: str, step: int, epoch: int, batch: tuple[int, int] | None = None) -> NotFinite:
        run, done = self.run, step if batch is None else step - 1
        with np.errstate(all="ignore"):
            layer, found, cause, lost = self._found(batch)
        if lost and self._good is not None:
            layout, good = self._good
            if run.net.layout == layout:
                run.net.parameters[...] = good  # users' views of them show the change
            else:
                run.net.set_state(layout, good)
            done = self._step
        if lost or not all(_finite(moment) for moment in run.optimizer.moments):
            run.optimizer.reset()
        state = f"as step {done} left it" if done else "as it was before the first step"
        state = f"the network {'was put back and ' if lost and self._good else ''}is {state}"
        return NotFinite(f"{what} (epoch {epoch}): {found}; {cause}; {state}", step, epoch, layer, done)

    def _found(self, batch: tuple[int, int] | None) -> tuple[int | None, str, str, bool]:
        """The result of `_find` for a batch, in a process whose rows are to blame."""
        if batch is None or self.team.size == 1:
            return self._find(batch)
        failed = self.team.flags(getattr(self.run, "failed", False))
        rank = failed[0] if failed else 0
        return self.team.of(rank, self._find(batch) if self.team.rank == rank else (None, "", "", False))

    def _find(self, batch: tuple[int, int] | None) -> tuple[int | None, str, str, bool]:
        """The layer, what is wrong, why, and whether the parameters are unusable."""
        run = self.run
        net, data = run.net, run.data
        rows: Any = slice(0, ROWS)  # to see what the data are like
        if batch is not None:
            order = run.engine.order
            own = slice(*run.rows_of(*batch))
            rows = own if order is None else order[own]
        X, targets = data.inputs.rows(rows), data.targets[rows]
        weights = None if data.weights is None else data.weights[rows]
        if targets.dtype == np.int32 and not ((targets >= 0) & (targets < net.sizes[-1])).all():
            return None, "y holds what is no class number", "it has changed since it was checked", not _finite(net.parameters)
        numbers = X.data if data.inputs.is_sparse else X
        for name, array in (("X", numbers), ("y", targets), ("sample_weight", weights)):
            if array is not None and not _finite(array):
                lost = not _finite(net.parameters)
                return None, f"{name} holds NaN or infinity", "it has changed since it was checked", lost
        X, numbers = (array.astype(net.dtype) * net.dtype.type(data.inputs.scale) for array in (X, numbers))

        now = _largest(net.parameters)
        then = now if self._good is None else _largest(self._good[1])
        grown = not now <= GROWN * then
        why = f"the largest weight is {now:.3g}, after step {self._step} it was {then:.3g}: a smaller learning rate may help"
        for name, array in (("targets", targets), ("inputs", numbers)):
            if array.dtype.kind == "f" and array.size and _largest(array) >= LARGE:
                why = f"{name} are as large as {_largest(array):.3g}: to scale them, or a smaller learning rate may help"

        if self._good is None:
            why = "so it was before the first step"

        for i, layer in enumerate(net.layers):
            for name, tensor in layer.tensors.items():
                if not _finite(tensor):
                    return i, f"{name} of layer {i} holds NaN or infinity", why, True
        if not all(_finite(moment) for moment in run.optimizer.moments):
            return None, f"gradients, or their squares, are beyond {net.dtype}", why, grown
        of_largest = int(np.argmax([_largest(layer.weight()) for layer in net.layers]))
        if batch is None:
            return of_largest, f"the largest weight, in layer {of_largest}, is {now:.3g}", why, grown
        index = _overflowing(net, X)
        if index is not None:
            return index, f"the outputs of layer {index} are beyond {net.dtype}", why, grown
        if not math.isfinite(run.norm):
            return None, "the outputs and the loss are finite, the gradient is not", why, grown
        w = net.parameters[: net.layout.n_weights]
        if (run.l1 or run.l2) and not np.isfinite(w @ w):
            # Penalties are known only when the update is done.
            return of_largest, f"the penalties are beyond {net.dtype}", why, True
        if run.bfloat16:
            why = 'rounded to bfloat16, something is too large: precision="float32" may help'
        return len(net.layers) - 1, "the outputs are finite, the loss of them is not", why, grown


def _finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _largest(array: NDArray[Any]) -> float:
    return float(np.abs(array).max())


def _overflowing(net: Network, X: Any) -> int | None:
    """The first layer whose outputs are not finite.

    For the last layer, its outputs before the activation count, unless the activation itself
    overflows.
    """
    layout, parameters = net.state
    for i in range(len(layout.layers)):
        layers = layout.layers[: i + 1]
        if i == len(layout.layers) - 1 and layers[-1].activation.name != "exp":
            layers = (*layers[:-1], replace(layers[-1], activation=identity()))  # type: ignore[arg-type]
        part = replace(layout, layers=layers)
        biases = parameters[layout.n_weights :][: part.size - part.n_weights]
        first = Network.of(part, np.concatenate([parameters[: part.n_weights], biases]), net.uint8_scale)
        if not _finite(first.predict(X)):
            return i
    return None
