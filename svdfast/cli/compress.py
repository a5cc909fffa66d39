# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast compress`: the hidden weights of a saved network truncated, and what that costs on data.

Elsewhere: the truncation itself (model/truncation.py), and the rank that a rule gives
(model/ranks.py).
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.text import aligned
from svdfast.cli import arguments as parse
from svdfast.cli import saved
from svdfast.cli.comparison import FractionExcept, say
from svdfast.cli.data import DEFAULTS
from svdfast.cli.errors import Failure, UsageError, named_errors, tell
from svdfast.cli.scales import Scale, scale_of, take_in, take_out
from svdfast.interop import files as io
from svdfast.model import losses
from svdfast.model.counting import break_even_rank, count_multiplications
from svdfast.model.heads import share_explained
from svdfast.model.network import Network, Truncation
from svdfast.model.ranks import NARROW, RankRule, ranks_by, rule_of
from svdfast.model.truncation import matrices

__all__ = ["add"]

Array = NDArray[Any]

_MOST_ROWS = 10_000  # rows of the data that a truncation uses
# A truncation that loses more than this share of what the network has learned needs --force.
_RUINED = 0.5

_DESCRIPTION = """\
Truncate the hidden weights of a saved network by SVD into two thin factors each, and save the
factored network. A table shows what each layer became: its rank, the share of its energy (sum of
squares) that was kept, and the multiplications for a sample before and after, in prediction and in a
training step. A layer stays dense if its factors would take more multiplications in training.
"""

_EPILOG = f"""\
With --data, truncation changes the layers' outputs over these samples as little as possible, instead
of the weights. This keeps more accuracy. The table is followed by the loss and the accuracy or R^2,
before and after. If the data has no targets, the network's outputs before serve as targets. Learning
counts by how far the loss is below that of the best constant answer. If more than half of what was
learned is lost, no file is written without --force.

The first layer is truncated, and its energy counted, as if features were standardised: by the data,
else as they were when svdfast train saved MODEL. Without either, give --data if features have
different scales.

MODEL and FILE are .npz or .safetensors. Without --output, MODEL.npz becomes MODEL-compressed.npz. A
file of that name is replaced, MODEL only if --output names it. Training can continue from the
factored network, and Network.recompose turns it into a dense one.

data:
{saved.DATA.rstrip()}:
                 truncated with their training samples, compared on their test samples

examples:
  svdfast train data.csv --save network.npz
  svdfast compress network.npz --rank-fraction 1/8 --data data.csv
  svdfast compress network.npz --ranks energy:0.9 --output small.safetensors

exit status:
  0 done; 1 it failed: a file not found, damaged or not written, no layer was truncated, too much was
  lost; 2 the arguments are wrong; 130 ended by Ctrl-C
"""


def add(command: saved.AddCommand) -> None:
    """Adds the command and its arguments."""
    parser = command("compress", _run, help="truncate a saved network by SVD", description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("model", **saved.MODEL)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rank-fraction", **parse.RANK_FRACTION | {
        "help": f"{parse.RANK_FRACTION['help']}; "
        f"a layer of at most {NARROW} inputs stays dense if its rank would be less than them"})  # fmt: skip
    how.add_argument("--ranks", type=parse.rank_rule, metavar="RULE", help=parse.RULES)
    add("--data", metavar="DATA", help="samples to truncate by, see below")
    add("--output", type=Path, metavar="FILE", help="the factored network (default: MODEL-compressed)")
    add("--keep-dense", type=parse.whole_numbers, default=(), metavar="I,I",
        help="hidden layers that stay dense, counted from 1 (not with budget)")
    add("--force", action="store_true",
        help="also truncate layers whose factors save no multiplications, and those of few inputs; "
        "write the network even if too much is lost")  # fmt: skip
    parse.add_reading(parser.add_argument_group("tables"))


def _run(arguments: argparse.Namespace) -> None:
    stem, suffix = os.path.splitext(arguments.model)
    output = arguments.output or Path(f"{stem}-compressed{suffix if suffix in io.SUFFIXES else '.npz'}")
    parse.check_writable("--output", output, io.SUFFIXES)
    if arguments.keep_dense and (arguments.ranks or "").startswith("budget"):
        raise UsageError("--keep-dense: budget:B shares among all hidden layers, so it leaves none out")
    net = saved.load_model(arguments.model)
    n_hidden = len(net.layers) - 1
    if n_hidden == 0:
        raise Failure(f"{arguments.model}: the network has no hidden layer, and others are not truncated")
    if arguments.keep_dense and max(arguments.keep_dense) > n_hidden:
        raise UsageError(f"--keep-dense: expected numbers from 1 to {n_hidden}, got {max(arguments.keep_dense)}")
    asked = None
    if arguments.data is not None:
        asked = saved.samples(net, "compress", arguments, answers=True, training=True)
        for note in asked.notes:
            tell(note)
    before = net.copy()
    try:
        truncations = _truncate(net, arguments, None if asked is None else asked.X)
    except (ValueError, FloatingPointError) as error:
        raise Failure(f"{arguments.model}: {error}") from None
    if all(t.skipped for t in truncations):
        why = "; ".join(_left(before, truncations)) or "--keep-dense leaves all out"
        raise Failure(f"{arguments.model}: no layer was truncated: {why}")
    lines = [*_table(before, net, truncations), *_left(before, truncations)]
    if asked is not None:
        if arguments.data in DEFAULTS:
            asked = saved.samples(net, "compress", arguments, answers=True)
        lines += _compare(before, net, asked, arguments)
    with named_errors(f"--output: {output}"):
        io.save(net, output)
    for line in lines:
        say(line)
    say(f"The factored network is in {output}: {len(net.parameters):,} parameters, {len(before.parameters):,} before.")


def _truncate(net: Network, arguments: argparse.Namespace, X: Array | None) -> tuple[Truncation, ...]:
    """Truncates the hidden layers, by samples, as training does, if there are any.

    The first layer is truncated as a layer of standardised features. Otherwise the largest features
    would count for nothing, as their weights are small. The average of a feature would count,
    though the bias can make up for it. Steps of sequences and positions of images share a weight,
    so their inputs stay as they are.
    """
    first = net.copy()
    scale: Scale | None = None
    if X is not None:
        X = X[np.arange(min(_MOST_ROWS, len(X))) * len(X) // min(_MOST_ROWS, len(X))]
        if X.dtype != np.uint8 and net.layout.by_rows:
            scale = scale_of(X, "X")
            X = (X - scale[0]) / scale[1]
    elif net.origin.mean is not None:
        scale = np.array(net.origin.mean), np.array(net.origin.deviation)
    if scale is not None:
        take_out(net, scale)
    left = tuple(number - 1 for number in arguments.keep_dense)
    ranks: RankRule | list[int | None]
    if arguments.ranks is None:
        ranks = FractionExcept(arguments.rank_fraction, left)
    else:
        ranks = ranks_by(rule_of(arguments.ranks), net.layout.factorable, matrices(net.state))
        ranks = [None if i in left else rank for i, rank in enumerate(ranks)]
    truncations = net.truncate(ranks=ranks, force=arguments.force, inputs=X)
    if scale is not None:
        if any(t.layer == 0 and not t.skipped for t in truncations):
            take_in(net, scale)
        else:  # unchanged, to the last digit
            for name, tensor in first.layers[0].tensors.items():
                net.layers[0].tensors[name][...] = tensor
    return truncations


def _table(before: Network, net: Network, truncations: tuple[Truncation, ...]) -> list[str]:
    """A row for each layer, and their sums."""
    counts = [count_multiplications(n, mode) for mode in ("forward", "step") for n in (before, net)]
    kept = {t.layer: _energy_kept(t) for t in truncations if not t.skipped}
    rows: list[tuple[str, ...]] = [
        ("", "", "break-", "energy", "prediction", "", "training step", ""),
        ("layer", "rank", "even", "kept", "before", "after", "before", "after"),
    ]
    for i, layer in enumerate(net.layers):
        hidden = i < len(net.layout.factorable)
        rows.append((
            f"{layer.n_in}-{layer.n_out}",
            counts[1].layers[i].form,
            str(break_even_rank(layer.n_in, layer.n_out, first_layer=before.layout.placed[i].first)) if hidden else "",
            f"{100 * kept[i]:.2f} %" if i in kept else "",
            *(f"{count.layers[i].multiplications:,}" for count in counts),
        ))  # fmt: skip
    rows.append(("total", "", "", "", *(f"{count.total:,}" for count in counts)))
    ratios = [counts[i].total / counts[i + 1].total for i in (0, 2)]
    rows.append(("before : after", "", "", "", "", f"{ratios[0]:.2f}", "", f"{ratios[1]:.2f}"))
    return [*aligned(rows), ""]


def _energy_kept(truncation: Truncation) -> float:
    """The share of a weight's energy that its factors keep.

    The energy is the sum of the squared singular values.
    """
    norm = float(np.linalg.norm(truncation.singular_values.astype(np.float64)))
    whole = float(np.hypot(norm, truncation.dropped_norm))
    return (norm / whole) ** 2 if whole > 0 else 1.0


def _left(net: Network, truncations: tuple[Truncation, ...]) -> list[str]:
    return [
        f"layer {t.layer + 1} ({net.layers[t.layer].n_in} to {net.layers[t.layer].n_out}) is left as it is: "
        f"{str(t.reason).replace('force=True', '--force')}"
        for t in truncations
        if t.skipped
    ]


def _compare(before: Network, net: Network, asked: saved.Asked, arguments: argparse.Namespace) -> list[str]:
    """The loss and the score before and after. Raises Failure if too much is lost."""
    asked = _known(asked, arguments.data)
    name, n = arguments.data, len(asked.X)
    old, new = (saved.outputs(net, asked, name) for net in (before, net))
    own = asked.y is None
    y = old if asked.y is None else asked.y
    loss = [each.evaluate(asked.X, y).loss for each in (before, net)]
    rows = [("", "before", "after"), ("loss", *(f"{value:.4g}" for value in loss))]
    if not own:
        rows.append(_scores(before, y, old, new))
    against = "; its own outputs before stand for targets, which there are none of" if own else ""
    lines = [f"on {n:,} sample{'s' * (n > 1)} of {name}{against}", *aligned(rows)]
    constant = losses.of_constant(losses.resolve(None, before.layers[-1].activation).name, y, before.sizes[-1])
    learned = constant - loss[0]
    if not learned > 0:
        return [*lines, "the loss was no better than that of the best constant answer before, so nothing was lost"]
    lost = (loss[1] - loss[0]) / learned
    if not lost <= _RUINED and not arguments.force:  # or NaN
        detail = ", ".join(f"{row[0]} {row[1]} before and {row[2]} after" for row in rows[1:])
        raise Failure(
            f"{arguments.model}: the truncation loses {lost:.0%} of what the network has learned: {detail}, on {name} "
            "(a larger rank loses less; --force writes it all the same)"
        )
    return [*lines, f"lost {max(lost, 0):.1%} of what had been learned"]


def _known(asked: saved.Asked, name: str) -> saved.Asked:
    """Removes the rows of classes that training did not see. Raises Failure if none is left."""
    if asked.y is None or asked.y.dtype.kind == "f":
        return asked
    unknown = np.flatnonzero((asked.y.reshape(len(asked.y), -1) < 0).any(axis=1))
    if len(unknown) == 0:
        return asked
    if len(unknown) == len(asked.y):
        raise Failure(f"{name}: expected targets that the network tells apart, got others in all rows")
    tell(f"left out, as training did not see their classes: {len(unknown):,} of {len(asked.y):,} rows")
    lines = None if asked.lines is None else np.delete(asked.lines, unknown)
    return replace(asked, X=np.delete(asked.X, unknown, axis=0), y=np.delete(asked.y, unknown, axis=0), lines=lines)


def _scores(net: Network, y: Array, *outputs: Array) -> tuple[str, ...]:
    head = saved.head(net)
    if head.decides:
        return ("accuracy", *(f"{100 * head.right(out, y).mean():.2f} %" for out in outputs))
    if (y.min(axis=0) == y.max(axis=0)).any():
        return ("R^2", *("undefined" for _ in outputs))
    return ("R^2", *(f"{share_explained([(out, y, None)]):.4f}" for out in outputs))
