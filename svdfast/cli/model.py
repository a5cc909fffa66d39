# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast predict`, `compress` and `export`: what is done with a saved network. Their arguments, and what they do and print.

Not here: the files of networks (interop/files.py), the data (data.py), and training (comparison.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import svdfast.onnx as onnx
from svdfast._process.files import written_whole
from svdfast.cli import arguments as parse
from svdfast.cli.comparison import aligned, say
from svdfast.cli.data import DEFAULTS, load_samples
from svdfast.cli.errors import Failure, UsageError, named_errors
from svdfast.cli.scales import Scale, scale_of, take_in, take_out
from svdfast.interop import files as io
from svdfast.model.counting import break_even_rank, count_multiplications
from svdfast.model.heads import Head, agree, head_of, share_explained
from svdfast.model.network import Network, Truncation
from svdfast.model.ranks import ranks_by, resolve_rule
from svdfast.model.truncation import matrices

__all__ = ["add_commands"]

Array = NDArray[Any]

_MOST_ROWS = 10_000  # of the data, that a cut looks at
_ROWS_TOGETHER = 1000  # that are printed with one call
_PREDICTION_SUFFIXES = (".csv", ".npz", ".npy")

_PREDICT = """\
Print what a saved network predicts, a line for each sample: the class, where its output is softmax
or a single sigmoid, else its outputs with commas between them (0 or 1 for each of several sigmoids).
Nothing else goes to standard output. If the data has targets, the accuracy, or R^2, goes to standard
error.
"""

_DATA = f"""\
  FILE.csv       numbers and commas; the first line may name columns. As many columns as the network
                 has inputs are features; with one more, the last is the target (several outputs that
                 are not softmax have as many targets)
  FILE.npz       array X (a sample in a row), and y if there are targets; uint8 is taken for pixels and
                 divided by 255, as in training (in a CSV file nothing is)
  {', '.join(DEFAULTS)}
"""

_PREDICT_EPILOG = f"""\
MODEL is a file that svdfast train --save or sf.save wrote, .npz or .safetensors. A network that
svdfast train saved takes the data file's own numbers, as they are before they are standardised, and
gives the file's own classes.

data:
{_DATA.rstrip()}: their test samples

--out writes a .csv file of the same lines, a .npy file, or a .npz file with an array 'predictions';
one that is there is replaced.

examples:
  svdfast predict network.npz new.csv
  svdfast predict network.npz new.csv | paste -d, new.csv - | head
  svdfast predict network.safetensors mnist --probabilities --out mnist.npy

exit status:
  0 done; 1 it failed: a file not found, damaged or not written, data that does not fit the network;
  2 the arguments are wrong; 130 ended by Ctrl-C
"""

_COMPRESS = """\
Cut the hidden weights of a saved network by truncated SVD into two thin factors each, and save the
factored network. A table tells what each layer became: its rank, the share of its energy (sum of
squares) that was kept, and the multiplications for a sample before and after, in prediction and in a
training step. A layer whose factors would take more multiplications in training is left as it is.
"""

_COMPRESS_EPILOG = f"""\
With --data, weights are cut so that the layers' outputs over these samples change least, not the
weights, which keeps more accuracy; the table is then followed by how much the network's outputs
change, and by the accuracy (or R^2) before and after if the data has targets. The first layer is cut,
and its energy told, as if features were standardised: by the data, else as they were when svdfast
train saved MODEL. Without either, give --data if features have different scales.

MODEL and FILE are .npz or .safetensors. Without --out, MODEL.npz becomes MODEL-compressed.npz. A file
that is there is replaced, MODEL only if --out names it. Training can go on from the factored network,
and Network.recompose makes it dense again.

data:
{_DATA.rstrip()}:
                 cut with their training samples, compared on their test samples

examples:
  svdfast compress network.npz --rank-fraction 1/8
  svdfast compress network.npz --ranks energy:0.9 --data train.csv --out small.safetensors

exit status:
  0 done; 1 it failed: a file not found, damaged or not written, no layer was cut;
  2 the arguments are wrong; 130 ended by Ctrl-C
"""

_EXPORT = """\
Write a saved network as an ONNX file, for other programs to predict with. Factored layers stay
factored. Needs onnx: pip install "svdfast[onnx]".
"""

_EXPORT_EPILOG = """\
The outputs are those of the network, such as a probability for each class, in the order of the
classes. FILE.onnx is replaced if it is there.

example:
  svdfast export network.npz network.onnx

exit status:
  0 done; 1 it failed: a file not found, damaged or not written, onnx not installed;
  2 the arguments are wrong; 130 ended by Ctrl-C
"""


class _AddCommand(Protocol):
    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], **texts: Any
    ) -> argparse.ArgumentParser: ...


def add_commands(command: _AddCommand) -> None:
    """Adds the three commands and their arguments."""
    model: dict[str, Any] = {"metavar": "MODEL", "help": "file of a network"}
    parser = command(
        "predict", _predict, help="predict with a saved network", description=_PREDICT, epilog=_PREDICT_EPILOG
    )
    add = parser.add_argument
    add("model", **model)
    add("data", metavar="DATA", help="FILE.csv, FILE.npz or a data set's name, see below")
    add("--out", type=Path, metavar="FILE", help="write to FILE.csv, FILE.npz or FILE.npy instead")
    add("--probabilities", action="store_true",
        help="the outputs of softmax or sigmoid instead of classes: a number for each class, "
        "or that of the second class")  # fmt: skip
    add("--precision", choices=("float32", "bfloat16"),
        help="of the products of a float32 network, see svdfast info")  # fmt: skip
    add("--threads", **parse.THREADS)

    parser = command(
        "compress", _compress, help="cut a saved network by SVD", description=_COMPRESS, epilog=_COMPRESS_EPILOG
    )
    add = parser.add_argument
    add("model", **model)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rank-fraction", **parse.RANK_FRACTION)
    how.add_argument("--ranks", type=parse.rank_rule, metavar="RULE", help=parse.RULES)
    add("--data", metavar="DATA", help="samples to cut by, see below")
    add("--out", type=Path, metavar="FILE", help="the factored network (default: MODEL-compressed)")
    add("--keep-dense", type=parse.whole_numbers, default=(), metavar="I,I",
        help="hidden layers that are left as they are, counted from 1 (not with budget)")
    add("--force", action="store_true",
        help="cut also layers in which that saves no multiplications")  # fmt: skip

    parser = command(
        "export", _export, help="write a saved network as ONNX",
        description=_EXPORT, epilog=_EXPORT_EPILOG,
    )  # fmt: skip
    parser.add_argument("model", **model)
    parser.add_argument("file", type=Path, metavar="FILE.onnx", help="file to write")


def _tell(line: str) -> None:
    """A line beside the results."""
    print(f"svdfast: {line}", file=sys.stderr)


def _load_model(name: str) -> Network:
    try:
        with named_errors(name):
            return io.load(name)
    except ImportError as error:
        raise Failure(f"{name}: {error}") from None
    except ValueError as error:
        raise Failure(" ".join(str(error).removeprefix("path: ").split())) from None


# predict


def _predict(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        parse.check_writable("--out", arguments.out, _PREDICTION_SUFFIXES)
    net = _load_model(arguments.model)
    if arguments.precision is not None and net.dtype != np.float32:
        raise UsageError(f"--precision: goes with a float32 network, this one is {net.dtype}")
    if arguments.probabilities and not _head(net).decides:
        output = net.layers[-1].activation.name
        raise UsageError(f"--probabilities: this network's output is {output}, which gives none")
    X, y = load_samples(arguments.data, "predict", net.sizes[0], _n_targets(net))
    outputs = _outputs(net, X, arguments.data, precision=arguments.precision, n_threads=arguments.threads)
    predicted = _predictions(net, outputs)
    shown = outputs if arguments.probabilities else predicted
    if shown.ndim == 2 and shown.shape[1] == 1:
        shown = shown[:, 0]
    if arguments.out is None:
        for text in _lines(shown):
            sys.stdout.write(text)
        sys.stdout.flush()
    else:
        _write(shown, arguments.out)
    if y is not None:
        _tell(f"{_score(net, predicted, y)}, {len(X):,} sample{'s' * (len(X) > 1)} of {arguments.data}")


def _head(net: Network) -> Head:
    return head_of(net.layers[-1].activation)


def _n_targets(net: Network) -> int:
    return _head(net).n_targets(net.sizes[-1])


def _outputs(net: Network, X: Array, name: str, **settings: Any) -> Array:
    """Outputs (p, n_outputs), all of them numbers."""
    if X.dtype.kind == "f":
        with np.errstate(over="ignore"):
            held = np.isfinite(X.astype(net.dtype, copy=False)).all(axis=1)
        if not held.all():
            raise Failure(
                f"{name}: X: expected numbers that {net.dtype} can hold, got others in row {held.argmin() + 1} of {len(X)}"
            )
    outputs = net.predict(X, **settings)
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        raise Failure(f"{name}: the network's outputs for row {finite.argmin() + 1} of {len(X)} are not finite")
    return outputs


def _predictions(net: Network, outputs: Array) -> Array:
    """Classes (p,) by softmax or (p, n_outputs) by sigmoid, as their labels where there are some; else the outputs as they are."""
    head = _head(net)
    if not head.decides:
        return outputs
    numbers = head.decide(outputs).astype(np.int64)
    return numbers if net.classes is None else np.array(net.classes, dtype=np.int64)[numbers]


def _score(net: Network, predicted: Array, y: Array) -> str:
    """Accuracy, or R^2 as in `Network.score`, in words; the targets are those of the data, not numbers of classes."""
    y = y.reshape(predicted.shape)
    head = _head(net)
    if head.decides:
        known = net.classes or range(head.n_values(net.sizes[-1]))
        fits = np.isin(y, known)
        # Labels that training did not see are mistakes; without labels, they may be numbered otherwise.
        if not (fits.all() if net.classes is None else fits.any()):
            return "no accuracy, as the targets are not the network's classes"
        return f"accuracy {100 * agree(predicted, y).mean():.2f} %"
    if (y == y[0]).all(axis=0).any():
        return "R^2 undefined, as the targets do not vary"
    return f"R^2 {share_explained([(predicted, y.astype(np.float64), None)]):.4f}"


def _lines(values: Array) -> Iterator[str]:
    """Text of a line for each row: integers, or as many digits as tell a number from its neighbours."""
    for start in range(0, len(values), _ROWS_TOGETHER):
        rows = values[start : start + _ROWS_TOGETHER].reshape(-1, 1 if values.ndim == 1 else values.shape[1])
        yield "".join(",".join([str(value) for value in row]) + "\n" for row in rows)


def _write(values: Array, path: Path) -> None:
    with named_errors(f"--out: {path}"), written_whole(path) as file:
        if path.suffix == ".npy":
            np.save(file, values)
        elif path.suffix == ".npz":
            np.savez(file, predictions=values)
        else:
            for text in _lines(values):
                file.write(text.encode())


# compress


def _compress(arguments: argparse.Namespace) -> None:
    stem, suffix = os.path.splitext(arguments.model)
    out = arguments.out or Path(f"{stem}-compressed{suffix if suffix in io.SUFFIXES else '.npz'}")
    parse.check_writable("--out", out, io.SUFFIXES)
    if arguments.keep_dense and (arguments.ranks or "").startswith("budget"):
        raise UsageError("--keep-dense: budget:B shares among all hidden layers, so it leaves none out")
    net = _load_model(arguments.model)
    n_hidden = len(net.layers) - 1
    if n_hidden == 0:
        raise Failure(f"{arguments.model}: the network has no hidden layer, and others are not cut")
    if arguments.keep_dense and max(arguments.keep_dense) > n_hidden:
        raise UsageError(f"--keep-dense: expected numbers from 1 to {n_hidden}, got {max(arguments.keep_dense)}")
    X = None
    if arguments.data is not None:
        X, y = load_samples(arguments.data, "compress", net.sizes[0], _n_targets(net), training=True)
    before = net.copy()
    try:
        truncations = _cut(net, arguments, X)
    except (ValueError, FloatingPointError) as error:
        raise Failure(f"{arguments.model}: {error}") from None
    if all(t.skipped for t in truncations):
        why = "that would save no multiplications (--force cuts all the same)" if truncations else "--keep-dense leaves all out"
        raise Failure(f"{arguments.model}: no layer was cut: {why}")
    lines = [*_table(before, net, truncations), *_left(before, truncations)]
    if X is not None:
        if arguments.data in DEFAULTS:
            X, y = load_samples(arguments.data, "compress", net.sizes[0], _n_targets(net))
        lines += _changes(before, net, X, y, arguments.data)
    with named_errors(f"--out: {out}"):
        io.save(net, out)
    for line in lines:
        say(line)
    say(f"The factored network is in {out}: {len(net.parameters):,} parameters, {len(before.parameters):,} before.")


def _cut(net: Network, arguments: argparse.Namespace, X: Array | None) -> tuple[Truncation, ...]:
    """Cuts the hidden layers; by samples, as training does, if there are some.

    The first layer is cut as one of standardised features. Else the largest ones would count for nothing, as their weights are small, and
    what a feature is on average would count, though the bias can make up for it.
    """
    first = net.copy()
    scale: Scale | None = None
    if X is not None:
        X = X[np.arange(min(_MOST_ROWS, len(X))) * len(X) // min(_MOST_ROWS, len(X))]
        if X.dtype != np.uint8:
            scale = scale_of(X, "X")
            X = (X - scale[0]) / scale[1]
    elif net.origin.mean is not None:
        scale = np.array(net.origin.mean), np.array(net.origin.deviation)
    if scale is not None:
        take_out(net, scale)
    rule = resolve_rule(net.layout, None if arguments.ranks else arguments.rank_fraction, arguments.ranks)
    ranks = ranks_by(rule, net.layout.factorable, matrices(net.state))
    for number in arguments.keep_dense:
        ranks[number - 1] = None
    truncations = net.truncate(ranks=ranks, force=arguments.force, inputs=X)
    if scale is not None:
        if any(t.layer == 0 and not t.skipped for t in truncations):
            take_in(net, scale)
        else:  # as it was, to the last digit
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
            str(break_even_rank(layer.n_in, layer.n_out, first_layer=i == 0)) if hidden else "",
            f"{100 * kept[i]:.2f} %" if i in kept else "",
            *(f"{count.layers[i].multiplications:,}" for count in counts),
        ))  # fmt: skip
    rows.append(("total", "", "", "", *(f"{count.total:,}" for count in counts)))
    ratios = [counts[i].total / counts[i + 1].total for i in (0, 2)]
    rows.append(("before : after", "", "", "", "", f"{ratios[0]:.2f}", "", f"{ratios[1]:.2f}"))
    return [*aligned(rows), ""]


def _energy_kept(truncation: Truncation) -> float:
    """Of a weight's energy, the sum of its squared singular values, the share that its factors have."""
    norm = float(np.linalg.norm(truncation.singular_values.astype(np.float64)))
    whole = float(np.hypot(norm, truncation.dropped_norm))
    return (norm / whole) ** 2 if whole > 0 else 1.0


def _left(net: Network, truncations: tuple[Truncation, ...]) -> list[str]:
    return [
        f"layer {t.layer + 1} ({net.layers[t.layer].n_in} to {net.layers[t.layer].n_out}) is left as it is: "
        f"rank {t.requested_rank} is above its break-even rank {t.break_even_rank} (--force cuts it)"
        for t in truncations
        if t.skipped
    ]


def _changes(before: Network, net: Network, X: Array, y: Array | None, name: str) -> list[str]:
    """How far the outputs move, and what that does to the score."""
    old, new = (_outputs(n, X, name) for n in (before, net))
    norm = float(np.linalg.norm(old.astype(np.float64)))
    change = float(np.linalg.norm(new.astype(np.float64) - old)) / (norm or 1.0)
    lines = [f"outputs over {len(X):,} samples of {name}: changed by {100 * change:.2f} %"]
    if y is not None:
        scores = [_score(net, _predictions(net, outputs), y) for outputs in (old, new)]
        lines += [f"  {when}: {score}" for when, score in zip(("before", "after"), scores, strict=True)]
    return lines


# export


def _export(arguments: argparse.Namespace) -> None:
    parse.check_writable("FILE.onnx", arguments.file, (".onnx",))
    net = _load_model(arguments.model)
    try:
        with named_errors(str(arguments.file)):
            onnx.save(net, arguments.file)
    except (ImportError, ValueError) as error:
        raise Failure(f"{arguments.file}: {error}") from None
    say(f"The network is in {arguments.file}.")
    if net.classes is not None:
        say(f"Its outputs are of the classes {', '.join(map(str, net.classes))}, in this order.")
