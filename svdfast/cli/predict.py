# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast predict`: the predictions of a saved network, a line for each row of the data.

Elsewhere: the check of the predictions (evaluate.py).
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.files import written_whole
from svdfast.cli import arguments as parse
from svdfast.cli import saved, texts
from svdfast.cli.comparison import say
from svdfast.cli.errors import UsageError, named_errors, tell
from svdfast.model.network import Network

__all__ = ["add"]

Array = NDArray[Any]

_SUFFIXES = (".csv", ".npz", ".npy")
_ROWS_TOGETHER = 1000  # rows that are printed with one call

_DESCRIPTION = """\
Print the predictions of a saved network, a line for each row of DATA, in its order: the class if
the output is softmax or sigmoid, else the numbers. Several are separated by commas, and text is
quoted, as in CSV files. Nothing else goes to standard output. A network of characters continues
DATA, a file of text.
"""

_EPILOG = f"""\
MODEL is a file that svdfast train --save or sf.save wrote, .npz or .safetensors. A network that
svdfast train saved takes the columns of the table that it was trained on, in their original form.
Gaps are filled and text becomes inputs as in training. The network gives the file's own labels.

data:
{saved.DATA.rstrip()}: their test samples

--output writes a .csv file of the same lines, a .npy file, or a .npz file with an array
'predictions'. It replaces a file of that name.

examples:
  svdfast train iris.csv --target species --save iris.npz
  svdfast predict iris.npz new.csv
  svdfast predict iris.npz new.csv --proba --output probabilities.csv
  zcat new.csv.gz | svdfast predict iris.npz -
  echo "First Citizen:" | svdfast predict shakespeare.npz -

exit status:
  0 done; 1 it failed: a file not found, damaged or not written, data that does not fit the network;
  2 the arguments are wrong; 130 ended by Ctrl-C
"""


def add(command: saved.AddCommand) -> None:
    """Adds the command and its arguments."""
    parser = command("predict", _run, help="predict with a saved network", description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("model", **saved.MODEL)
    add("data", metavar="DATA", help="a table, arrays, or a data set's name, see below")
    add("--output", type=Path, metavar="FILE", help="write to FILE.csv, FILE.npz or FILE.npy instead")
    add("--proba", action="store_true",
        help="probabilities instead of classes: a number for each class in their order, or that of the "
        "second of two classes")  # fmt: skip
    add("--precision", choices=("float32", "bfloat16"),
        help="precision of the products of a float32 network, see svdfast info")  # fmt: skip
    add("--threads", **parse.THREADS)
    add = parser.add_argument_group("text").add_argument
    add("--sample", type=parse.integer(1), metavar="N", help=f"characters to write (default {texts.SAMPLE})")
    add("--seed", type=parse.integer(0), metavar="N", help="seed for the drawn characters (default 0)")
    parse.add_reading(parser.add_argument_group("tables"))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        parse.check_writable("--output", arguments.output, _SUFFIXES)
    net = saved.load_model(arguments.model)
    if arguments.precision is not None and net.dtype != np.float32:
        raise UsageError(f"--precision: goes with a float32 network, this one is {net.dtype}")
    characters = texts.characters_of(net)
    if characters is not None:
        _continue(net, characters, arguments)
        return
    for option in ("sample", "seed"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option}: goes with a network of characters, which this one is not")
    if arguments.proba and not saved.head(net).decides:
        output = net.layers[-1].activation.name
        raise UsageError(f"--proba: this network's output is {output}, which gives no probabilities")
    asked = saved.samples(net, "predict", arguments, answers=False)
    for note in asked.notes:
        tell(note)
    outputs = saved.outputs(net, asked, arguments.data, precision=arguments.precision, n_threads=arguments.threads)
    shown = outputs if arguments.proba else saved.labels(net, outputs)
    if shown.ndim == 2 and shown.shape[1] == 1:
        shown = shown[:, 0]
    if arguments.output is None:
        encoding = sys.stdout.encoding or "utf-8"
        for text in _lines(shown):
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    else:
        _write(shown, arguments.output)


def _continue(net: Network, characters: tuple[str, ...], arguments: argparse.Namespace) -> None:
    """Prints the continuation that a network of characters gives to a text."""
    for option in ("output", "proba", "precision"):
        if getattr(arguments, option):
            raise UsageError(f"--{option}: does not go with a network of characters, which prints text")
    text, unknown = texts.continued(net, characters, arguments)
    if unknown:
        tell(f"left out, as training did not see them: {unknown} of the last characters of {arguments.data}")
    say(texts.shown(text))


def _lines(values: Array) -> Iterator[str]:
    """CSV text, some rows at a time, with enough digits to tell each number from its neighbours."""
    for start in range(0, len(values), _ROWS_TOGETHER):
        rows = values[start : start + _ROWS_TOGETHER].reshape(-1, 1 if values.ndim == 1 else values.shape[1])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([str(value) for value in row] for row in rows)
        yield text.getvalue()


def _write(values: Array, path: Path) -> None:
    with named_errors(f"--output: {path}"), written_whole(path) as file:
        if path.suffix == ".npy":
            np.save(file, values)
        elif path.suffix == ".npz":
            np.savez(file, predictions=values)
        else:
            for text in _lines(values):
                file.write(text.encode())
