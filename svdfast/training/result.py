# SPDX-License-Identifier: BSD-3-Clause
"""The result of a training, and its explanation in words. Figures are elsewhere (plots/)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from svdfast.model.network import Network
from svdfast.training.events import Event
from svdfast.training.history import History

if TYPE_CHECKING:
    import pandas

__all__ = ["Savings", "TrainingResult", "explain", "saved_in_words", "savings"]

# Rows of a table in a notebook, from either end.
_SHOWN = 5
# Ratios that are nearer to 1 are none.
_NOTABLE = 1.005


@dataclass(repr=False)
class TrainingResult:
    """The result of `train`.

    It prints itself in one line, and as a table of its epochs in a notebook.

    Attributes
    ----------
    network : Network
        The trained network: the same object that was given.
    history : History
        A sequence with a dict for each epoch: `epoch` (from 1), `step` (mini-batches done by its
        end), `phase` at its end ("dense" or "factored"), `loss` (mean over the epoch's mini-batches
        by their samples, penalties included), `learning_rate` (of its last step), `seconds` (its
        steps; not the switch, nor validation), and with validation data `val_loss` and
        `val_accuracy`.
    events : list of Event
        The events between steps: the choice of ranks, the switch, the guard, recomposition, early
        stopping.
    seconds : float
        Training time: steps, switch, guard and recomposition; not validation after epochs, nor callbacks.
    n_steps : int
        Mini-batches done.
    phases : list of dict
        The stretches of steps in one form: `phase`, `steps`, `seconds`, and `multiplications` of a
        step for one sample.
    """

    network: Network
    history: History = field(default_factory=History)
    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0
    n_steps: int = 0
    phases: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        last: dict[str, Any] = self.history[-1] if self.history else {}
        shown = [f"{len(self.history)} epoch{'s' * (len(self.history) != 1)}", f"{self.n_steps} steps in {self.seconds:.2g} s"]
        shown += [f"{name} {last[name]:.4g}" for name in ("loss", "val_loss", "val_accuracy") if last.get(name) is not None]
        return f"<TrainingResult {', '.join(shown)}>"

    def _repr_html_(self) -> str:
        """A table of the history's rows; a long one leaves out those in the middle."""
        columns = list(self.history[0]) if self.history else []
        rows = [[_cell(row.get(name)) for name in columns] for row in self.history]
        if len(rows) > 2 * _SHOWN:
            rows[_SHOWN:-_SHOWN] = [["…"] * len(columns)]
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if columns else ""
        return f"<p>{escape(repr(self))}</p>{table}"

    def to_frame(self) -> pandas.DataFrame:
        """The history as a table, a row for each epoch.

        Returns
        -------
        pandas.DataFrame
            Its index is `epoch`.

        Raises
        ------
        ImportError
            pandas is not installed.

        Examples
        --------
        >>> import svdfast as sf
        >>> data = sf.datasets.load("xor")
        >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
        >>> sf.train(net, *data.train, epochs=3, factoring=None).to_frame()["step"]
        epoch
        1    1
        2    2
        3    3
        Name: step, dtype: int64
        """
        try:
            import pandas
        except ImportError:
            raise ImportError('to_frame needs pandas: pip install "svdfast[demo]"', name="pandas") from None
        columns = list(self.history[0]) if self.history else ["epoch"]
        return pandas.DataFrame(self.history, columns=columns).set_index("epoch")

    def explain(self) -> str:
        """Explains in a few lines what was decided, and what it saved by count and by the clock.

        Examples
        --------
        >>> import svdfast as sf
        >>> data = sf.datasets.load("xor")
        >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
        >>> print(sf.train(net, *data.train, epochs=1, factoring=None).explain())
        dense throughout: 1 step
        """
        return explain(self)


def _cell(value: Any) -> str:
    """A value of the history in a table."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def explain(result: TrainingResult) -> str:
    """The text of `TrainingResult.explain`."""
    lines: list[str] = []
    net = result.network
    for event in result.events:
        info = event.info
        if event.kind == "ranks":
            lines += [f"step {event.step}: {_form(layer, net)}, as {layer['why']}" for layer in info["layers"]]
        elif event.kind == "switch":
            made = {t.layer: t.rank for t in info["truncations"] if not t.skipped}
            ranks = [made.get(i) for i in range(len(net.layout.factorable))]
            scales = ", ".join(f"{scale:.2g}" for scale in info["learning_rate_scales"])
            lines.append(
                f"step {event.step}: weights truncated to ranks {_listed(ranks)} in {info['seconds']:.2g} s; "
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
                f"step {event.step}: loss {info['loss_before']:.4g} before the truncation{after}, {info['loss_recovered']:.4g} now"
                f"{clock}: {info['action']}{layers}"
            )
        elif event.kind == "recompose":
            lines.append(f"step {event.step}: recomposed")
        elif event.kind == "stop":
            best = f"; the best is {info['best']:.4g}, of epoch {info['best_epoch']}" if "best" in info else ""
            lines.append(
                f"step {event.step}: {info['monitor']} without progress for {info['patience']} epochs{best}: "
                f"the training ends with epoch {info['last_epoch']}"
            )
        elif event.kind == "restore":
            lines.append(f"step {event.step}: the network is that of epoch {info['best_epoch']}, {info['monitor']} {info['best']:.4g}")
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
    saved = savings(result)
    if saved is not None:
        lines.append(
            f"the whole training, against dense steps throughout: {saved.counted:.2f} times fewer multiplications, "
            f"{saved.measured:.2f} times faster"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Savings:
    """The work of dense steps throughout, as a multiple of the work that was done.

    Attributes
    ----------
    counted : float
        Multiplications.
    measured : float
        Seconds.
    """

    counted: float
    measured: float


def savings(result: TrainingResult) -> Savings | None:
    """The savings of a training that has dense and factored steps; None for any other."""
    dense = [p for p in result.phases if p["phase"] == "dense" and p["steps"]]
    done = sum(p["steps"] * p["multiplications"] for p in result.phases)
    steps = sum(p["steps"] for p in dense)
    whole = sum(p["steps"] for p in result.phases)
    if not (0 < steps < whole and result.seconds > 0):
        return None
    counted = whole * max(p["multiplications"] for p in dense) / done
    return Savings(counted, whole * sum(p["seconds"] for p in dense) / steps / result.seconds)


def saved_in_words(result: TrainingResult) -> str:
    """What factoring saved in a training, by count and by the clock."""
    if not any(phase["phase"] == "factored" for phase in result.phases):
        return "dense throughout, nothing was saved"
    saved = savings(result)
    if saved is None:
        return "factored throughout, no dense steps to compare with"
    work, time = _times(saved.counted, "fewer", "more") or "as many", _times(saved.measured, "faster", "slower") or "as fast"
    nothing = "nothing was saved, " if max(saved.counted, saved.measured) < _NOTABLE else ""
    return f"{nothing}{work} multiplications, {time}, against dense steps throughout"


def _times(ratio: float, above: str, below: str) -> str:
    """A ratio in words; empty if it is about 1."""
    if 1 / _NOTABLE < ratio < _NOTABLE:
        return ""
    return f"{ratio:.2f} times {above}" if ratio > 1 else f"{1 / ratio:.2f} times {below}"


def _form(layer: dict[str, Any], net: Network) -> str:
    """Describes the result of a look for one layer."""
    index = layer["layer"]
    sizes = f"{net.layers[index].n_in}-{net.layers[index].n_out}"
    if not layer["rank"]:
        return f"layer {index} ({sizes}) stays dense"
    return f"layer {index} ({sizes}) gets rank {layer['rank']}, which saves {layer['saved']:.0%} of a step"


def _listed(given: Iterable[int | None]) -> str:
    return ", ".join("dense" if one is None else str(one) for one in given)
