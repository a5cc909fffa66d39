# SPDX-License-Identifier: BSD-3-Clause
"""What a training returns, and what is said of it in words. Not here: figures (plots.py)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from svdfast.model.network import Network
from svdfast.training.events import Event

__all__ = ["TrainingResult", "explain"]


@dataclass
class TrainingResult:
    """What `train` returns.

    Attributes
    ----------
    network : Network
        The network that was trained: the same object that was given.
    history : list of dict
        A row for each epoch: `epoch` (from 1), `step` (mini-batches done by its end), `phase` at its end ("dense" or "factored"),
        `loss` (mean over the epoch's mini-batches by their samples, penalties included), `learning_rate` (of its last step), `seconds`
        (its steps; not the switch, nor validation), and with validation data `val_loss` and `val_accuracy`.
    events : list of Event
        What happened between steps: the choice of ranks, the switch, the guard, recomposition, early stopping.
    seconds : float
        Training time: steps, switch, guard and recomposition; not validation after epochs, nor callbacks.
    n_steps : int
        Mini-batches done.
    phases : list of dict
        The stretches of steps in one form: `phase`, `steps`, `seconds`, and `multiplications`, those of a step for one sample.
    """

    network: Network
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0
    n_steps: int = 0
    phases: list[dict[str, Any]] = field(default_factory=list)

    def explain(self) -> str:
        """What was decided, and what it saved by count and by the clock, in a few lines.

        Examples
        --------
        >>> import svdfast as sf
        >>> data = sf.datasets.load("xor")
        >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
        >>> print(sf.train(net, *data.train, epochs=1, factoring=None).explain())
        dense throughout: 1 step
        """
        return explain(self)


def explain(result: TrainingResult) -> str:
    """The text of `TrainingResult.explain`."""
    lines: list[str] = []
    net = result.network
    for event in result.events:
        info = event.info
        if event.kind == "ranks":
            lines += [f"step {event.step}: {_form(layer, net)}, as {layer['why']}" for layer in info["layers"]]
        elif event.kind == "switch":
            cut = {t.layer: t.rank for t in info["truncations"] if not t.skipped}
            ranks = [cut.get(i) for i in range(len(net.layout.factorable))]
            scales = ", ".join(f"{scale:.2g}" for scale in info["learning_rate_scales"])
            lines.append(
                f"step {event.step}: weights cut to ranks {_listed(ranks)} in {info['seconds']:.2g} s; "
                f"learning rates × {scales}"
            )
            lines += [f"step {event.step}: {_form(layer, net)}, as {layer['why']}" for layer in info["kept_dense"]]
        elif event.kind == "guard":
            after = f", {info['loss_after']:.4g} after it" if "loss_after" in info else ""
            clock = ""
            if "seconds_factored" in info:
                clock = f"; a step takes {info['seconds_factored']:.2g} s, and took {info['seconds_dense']:.2g} s"
            layers = f" for layer {_listed(info['layers'])}" if info.get("layers") else ""
            lines.append(
                f"step {event.step}: loss {info['loss_before']:.4g} before the cut{after}, {info['loss_recovered']:.4g} now"
                f"{clock}: {info['action']}{layers}"
            )
        elif event.kind == "recompose":
            lines.append(f"step {event.step}: dense again")
        elif event.kind == "stop":
            best = f"; the best is {info['best']:.4g}, of epoch {info['best_epoch']}" if "best" in info else ""
            lines.append(
                f"step {event.step}: {info['monitor']} without progress for {info['patience']} epochs{best}: "
                f"the training ends with epoch {info['last_epoch']}"
            )
        elif event.kind == "restore":
            lines.append(f"step {event.step}: the network is that of epoch {info['best_epoch']}, {info['monitor']} {info['best']:.4g}")
    dense = [p for p in result.phases if p["phase"] == "dense" and p["steps"]]
    factored = [p for p in result.phases if p["phase"] == "factored" and p["steps"]]
    if not factored:
        steps = sum(p["steps"] for p in result.phases)
        lines.append(f"dense throughout: {steps} step{'s' * (steps != 1)}")
        return "\n".join(lines)
    for p in result.phases:
        lines.append(
            f"{p['steps']} steps {p['phase']}: {p['multiplications']:,} multiplications for a sample, "
            f"{1e3 * p['seconds'] / max(p['steps'], 1):.3g} ms a step"
        )
    if dense:
        steps = sum(p["steps"] for p in dense)
        whole = sum(p["steps"] for p in result.phases)
        done = sum(p["steps"] * p["multiplications"] for p in result.phases)
        counted = whole * max(p["multiplications"] for p in dense) / done
        measured = whole * sum(p["seconds"] for p in dense) / steps / result.seconds
        lines.append(
            f"the whole training, against dense steps throughout: {counted:.2f} times fewer multiplications, "
            f"{measured:.2f} times faster"
        )
    return "\n".join(lines)


def _form(layer: dict[str, Any], net: Network) -> str:
    """What became of a layer at a look."""
    index = layer["layer"]
    sizes = "-".join(map(str, net.sizes[index : index + 2]))
    if not layer["rank"]:
        return f"layer {index} ({sizes}) stays dense"
    return f"layer {index} ({sizes}) gets rank {layer['rank']}, which saves {layer['saved']:.0%} of a step"


def _listed(given: Iterable[int | None]) -> str:
    return ", ".join("dense" if one is None else str(one) for one in given)
