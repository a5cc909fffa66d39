# SPDX-License-Identifier: BSD-3-Clause
"""Damaged and hostile files, read as svdfast reads them; what comes of it is counted.

    python tests/mutants.py --mutants 100000 --seed 0 --record tests/recorded/mutants.json
    python tests/mutants.py --seed 0 --only 4711          one again, in this process

Allowed is a file that is read, to the same content where a checksum guards it, or the error that the reader promises. A fault is any
other error or warning, a crash, a read that takes longer than LIMIT seconds of CPU time or asks for more than MEMORY bytes (files here
are small), and a pickle that is executed: each hostile pickle would make a file. A kind of file more is an entry in `CASES`.

Elsewhere: hostile arguments (hostile.py).
"""

import contextlib
import copy
import dataclasses
import gzip
import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import workers
from scipy.sparse import csr_array

import svdfast as sf
from svdfast import datasets
from svdfast import layers as L
from svdfast.cli import data as cli_data
from svdfast.cli import errors, saved
from svdfast.cli import main as command_line
from svdfast.training import checkpoint

LIMIT = 20.0
MEMORY = 400 << 20
LARGE = 1 << 20  # numbers of a sample, of all values together, up to which a network is used
CHUNK = 10_000  # mutants of one process

try:
    import safetensors  # noqa: F401
except ImportError:
    HAS_SAFETENSORS = False
else:
    HAS_SAFETENSORS = True


HAS_SKLEARN = find_spec("sklearn") is not None


@dataclass
class Case:
    """A kind of file.

    write(path) writes a good one, read(path) gives its content as something to compare, `error` is what the reader promises. `guarded`: a
    checksum guards the content, so that bytes changed at random never give another. `form` tells of what mutators know: "zip",
    "safetensors", "text" or "".
    """

    suffix: str
    write: Any
    read: Any
    error: tuple
    guarded: bool
    form: str
    weight: int = 1


def a_network():
    net = sf.Network([4, 6, 5, 3], ["relu", sf.activations.elu(0.5)], seed=0)
    net.truncate(ranks=[2, None], force=True)
    return net


def images():
    layers = [L.Conv2d(3, 3, "relu", padding="same"), L.MaxPool2d(2, padding=1), L.Conv2d(4, 2, "tanh", 2), L.Flatten()]
    net = sf.Network(sf.Input(6, 5, 2), [*layers, L.Linear(3, "softmax")], seed=0)
    net.truncate(ranks=[2, None], force=True)
    return net


def sequences():
    layers = [L.Masking(), L.Dropout(0.2), L.LSTM(3, True, True), L.LayerNorm(), L.LSTM(2, bidirectional=True), L.Linear(3, "softmax")]
    net = sf.Network(sf.Input(4, 2), layers, seed=0)
    net.truncate(ranks=[None, 2, None, None, None, 1], force=True)
    return net


def tokens():
    return sf.Network(sf.Input(5), [L.Embedding(6, 3), L.GRU(4, True), L.Linear(6, "softmax")], seed=0)


def any_steps():
    layers = [L.Linear(3, "tanh"), L.LSTM(3, True), L.LayerNorm(), L.GRU(3, True), L.Linear(3, "softmax")]
    net = sf.Network(sf.Input(None, 2), layers, seed=0)
    net.truncate(ranks=[2, 2, None, 1, None], force=True)
    return net


def any_tokens():
    layers = [L.Embedding(6, 3), L.RNN(4, bidirectional=True), L.Linear(3, "softmax")]
    return sf.Network(sf.Input(None, dtype="int32"), layers, seed=0)


def network_content(path):
    net = sf.load(path)
    use(net)
    return net.layout, net.dtype.str, net.uint8_scale, net.parameters.tobytes()


def use(net):
    """What was taken must be usable; where samples are large, a small file may well ask for much."""
    layout = net.layout
    if sum(value.size for value in layout.program.values) > LARGE:
        return
    for steps in (1, 3) if layout.any_steps else (1,):
        X = np.full((2, steps * layout.sizes[0]), int(layout.n_tokens != 1))
        net.predict(X)
        *before, n_out = layout.output_shape
        with np.errstate(all="ignore"):
            net.loss_and_gradient(X, np.full((2, *(steps * n for n in before), n_out), 1 / n_out))


def stop(event):
    raise sf.StopTraining


def write_checkpoint(path):
    """In the midst of a training, with a guard that is still to look."""
    path.unlink(missing_ok=True)
    X, y = np.arange(40.0, dtype=np.float32).reshape(10, 4) / 40, np.arange(10) % 3
    method = sf.Factoring([2, None], force=True, pretrain_fraction=0.3, guard=sf.Guard(1.0))
    train = dict(factoring=method, validation=(X, y), batch_size=4)
    with contextlib.suppress(KeyError):
        sf.train(sf.Network([4, 6, 5, 3], seed=0), X, y, **train, checkpoint=path, checkpoint_every=7, callbacks=[raises(3)])


def write_auto(path):
    """With ranks="auto", a truncation still to be checked, by a guard without validation data, and a rate that falls at the end."""
    path.unlink(missing_ok=True)
    X, y = np.arange(40.0, dtype=np.float32).reshape(10, 4) / 40, np.arange(10) % 3
    method = sf.Factoring(pretrain_fraction=0.1, guard=sf.Guard(1.0), product_decay=0.1)
    optimizer = sf.Adam(sf.schedules.Cooldown(1e-3))
    with contextlib.suppress(KeyError):
        sf.train(
            sf.Network([4, 6, 5, 3], seed=0), X, y, factoring=method, optimizer=optimizer, epochs=60, batch_size=4, reproducible=True,
            checkpoint=path, checkpoint_every=20, callbacks=[raises(8)],
        )  # fmt: skip
    state = checkpoint.read(path)["state"].switch
    assert state.auto.check_step == 22 and any(state.auto.ranks)


def data_of(net):
    steps = 3 if net.layout.any_steps else 1
    X = np.arange(10.0 * steps * net.sizes[0], dtype=np.float32).reshape(10, -1) % 6
    out = [n * steps for n in net.layout.output_shape[:-1]]
    return X, np.arange(10 * prod(out)).reshape(10, *out) % 3


def writes_layers(make):
    """Writes a checkpoint in the midst of the training of such a network, some of whose layers have been truncated."""

    def write(path):
        path.unlink(missing_ok=True)
        net = make()
        net.recompose()
        X, y = data_of(net)
        train = dict(factoring=sf.Factoring(0.5, force=True, pretrain_fraction=0.3), batch_size=4, epochs=5)
        with contextlib.suppress(KeyError):
            sf.train(net, X, y, **train, checkpoint=path, checkpoint_every=7, callbacks=[raises(3)])

    return write


def layers_content(make):
    """Reads it."""

    def content(path):
        X, y = data_of(make())
        net = sf.resume(path, X, y, callbacks=[stop]).network
        use(net)
        return net.layout, net.parameters.tobytes()

    return content


def sparse_data():
    X, y = np.arange(40.0, dtype=np.float32).reshape(10, 4) % 3 / 40, np.arange(10) % 3
    return csr_array(X), y


def write_sparse(path):
    """From sparse samples, and with an optimizer that updates only columns that a batch has."""
    path.unlink(missing_ok=True)
    method = sf.Factoring([2, None], force=True, pretrain_fraction=0.3)
    with contextlib.suppress(KeyError):
        sf.train(
            sf.Network([4, 6, 5, 3], seed=0), *sparse_data(), factoring=method, optimizer="sgd", batch_size=4, epochs=5, checkpoint=path,
            checkpoint_every=7, callbacks=[raises(3)],
        )  # fmt: skip


def sparse_content(path):
    net = sf.resume(path, *sparse_data(), callbacks=[stop]).network
    use(net)
    return net.layout, net.parameters.tobytes()


def estimator():
    from svdfast.sklearn import SVDMLPClassifier

    settings = dict(rank_fraction=0.5, pretrain_fraction=0.3, max_iter=6, batch_size=4, random_state=0)
    return SVDMLPClassifier((6, 5), checkpoint="fit.ckpt", **settings)


def write_fit(path):
    """Of an estimator, which keeps its own values beside the training's."""
    Path("fit.ckpt").unlink(missing_ok=True)
    with contextlib.suppress(KeyError):
        estimator().fit(*data_of_fit(), callbacks=[raises(3)])
    os.replace("fit.ckpt", path)


def data_of_fit():
    return np.arange(40.0).reshape(10, 4) / 40, np.arange(10) % 3


def fit_content(path):
    X, y = data_of_fit()
    shutil.copy(path, "fit.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum iterations")
        model = estimator().fit(X, y, callbacks=[stop])
    model.predict(X)
    return model.network_.layout, model.network_.parameters.tobytes()


def raises(epoch):
    def callback(event):
        if event.epoch == epoch:
            raise KeyError

    return callback


def checkpoint_content(path, **settings):
    X, y = np.arange(40.0, dtype=np.float32).reshape(10, 4) / 40, np.arange(10) % 3
    result = sf.resume(path, X, y, callbacks=[stop], **({"validation": (X, y)} | settings))
    result.network.predict(X)
    return result.network.layout, result.network.parameters.tobytes()


def auto_content(path):
    return checkpoint_content(path, validation=None)


def write_csv(path):
    rows = np.random.default_rng(0).standard_normal((6, 5)).round(3)
    path.write_text("a,b,c,d,y\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")


def write_data(path):
    numbers = np.random.default_rng(0)
    save = np.savez_compressed if path.name.startswith("c") else np.savez
    save(path, X=numbers.standard_normal((6, 4)), y=numbers.integers(0, 2, 6))


def samples_content(path):
    arguments = command_line._parser().parse_args(["predict", "net.npz", str(path)])
    asked = saved.samples(sf.Network([4, 1], output="identity"), "predict", arguments, answers=True)
    X, y = asked.X, asked.y
    assert (
        X.ndim == 2 and X.shape[1] == 4 and np.isfinite(X).all() and (y is None or len(y) == len(X))
    )
    return X.tobytes(), None if y is None else y.tobytes()


def training_content(path):
    arguments = command_line._parser().parse_args(["train", str(path)])
    data = cli_data.load(arguments)
    assert len(data.X) == len(data.y)
    return data.X.tobytes(), data.y.tobytes()


def write_idx(path):
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8)
    data = struct.pack(">BBBBIII", 0, 0, 8, 3, 5, 4, 3) + pixels.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def idx_content(path):
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = datasets._gunzip(content, datasets._LARGEST_IDX, path.name)
    return datasets._parse_idx(content, path.name).tobytes()


_HDF5 = "catvnoncat", "train_catvnoncat.h5"


def write_hdf5(path):
    """No data set, but as long as one where it is in the checksummed list; only a prefix of its form."""
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))


def hdf5_content(path):
    return datasets._read_checked(path, datasets._FOLDERS[_HDF5[0]].files[_HDF5[1]])


MODEL = (ValueError,)
CHECKPOINT = (ValueError, TypeError, MemoryError, sf.NotFinite)
COMMAND = (errors.Failure, errors.UsageError)
CASES = {
    "network .npz": Case(
        ".npz", lambda path: sf.save(a_network(), path), network_content, MODEL, True, "zip", 6
    ),
    "checkpoint": Case(".ckpt", write_checkpoint, checkpoint_content, CHECKPOINT, True, "checkpoint", 4),
    "checkpoint of auto": Case(".ckpt", write_auto, auto_content, CHECKPOINT, True, "checkpoint", 4),
    "checkpoint of sparse samples": Case(".ckpt", write_sparse, sparse_content, CHECKPOINT, True, "checkpoint", 2),
    **({"checkpoint of an estimator": Case(".ckpt", write_fit, fit_content, CHECKPOINT, True, "checkpoint", 2)} if HAS_SKLEARN else {}),
    "samples .csv": Case(".csv", write_csv, samples_content, COMMAND, False, "text", 2),
    "training .csv": Case(".csv", write_csv, training_content, COMMAND, False, "text", 2),
    "samples .npz": Case(".npz", write_data, samples_content, COMMAND, False, "zip", 2),
    "training .npz": Case(".npz", write_data, training_content, COMMAND, False, "zip", 2),
    "idx": Case(".idx", write_idx, idx_content, (ValueError,), False, "", 1),
    "idx .gz": Case(".gz", write_idx, idx_content, (ValueError,), True, "", 1),
    "hdf5": Case(".h5", write_hdf5, hdf5_content, (ValueError,), True, "", 1),
}
for _make in (images, sequences, tokens, any_steps, any_tokens):
    _name = _make.__name__
    CASES[f"{_name} .npz"] = Case(".npz", lambda path, make=_make: sf.save(make(), path), network_content, MODEL, True, "zip", 4)
    CASES[f"checkpoint of {_name}"] = Case(".ckpt", writes_layers(_make), layers_content(_make), CHECKPOINT, True, "checkpoint", 2)
    if HAS_SAFETENSORS:
        CASES[f"{_name} .safetensors"] = Case(
            ".safetensors", lambda path, make=_make: sf.save(make(), path), network_content, MODEL, True, "safetensors", 4
        )
if HAS_SAFETENSORS:
    CASES["network .safetensors"] = Case(
        ".safetensors",
        lambda path: sf.save(a_network(), path),
        network_content,
        MODEL,
        True,
        "safetensors",
        6,
    )


# --- Mutators: bytes and a random.Random to (bytes, whether they were changed at random) ------------------------------------------------

NUMBERS = [b"0", b"-1", b"1", b"3", b"65536", b"2147483647", b"2147483648", b"4294967296", b"9223372036854775807", b"18446744073709551616",
           b"1e999", b"nan", b"1" * 400, b"0.5", b"-0", b"99999999999999", b"1" * 5000]  # fmt: skip
JSON_VALUES = [None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", "relu", "\ud800", [], {}, [[]], [1, 2],  # noqa: E501
               [None] * 4, ["a"] * 4, [[1]], {"a": 1}, [1e400], ["elu", -1.0], ["gelu"],
               {"structure": "Dense"}, {"structure": "Dense", "rank": 2}, *({"structure": "LowRank", "rank": rank} for rank in (1, 3, 5, -1, None, 2**40)),  # noqa: E501
               {"structure": "LowRank"}, {"structure": "Other"}, [{"n_in": 4, "n_out": n, "weight": {"structure": "Dense"}, "activation": ["relu", 1.0]}  # noqa: E501
                                                                  for n in (4, 3)]]  # fmt: skip
SIZES = ("height", "width", "window_height", "window_width", "down", "across", "top", "left", "bottom", "right")
STEPS = [{"step": name} for name in ("Flatten", "BySteps", "BySamples", "LastStep", "Mask", "Normalise", "Window", "Other", "", None)]
STEPS += [{"step": "Rows", "rows": rows} for rows in (1, 2, 4, 2**24)] + [{"step": "OneHot", "n": n} for n in (1, 6, 2**24, 2**31 - 1)]
STEPS += [{"step": "LastStep", "reverse": n} for n in (1, 3)]
STEPS += [{"step": "Dropout", "rate": rate, "by_steps": n} for rate in (0.5, 1.0) for n in (0, 1)]
for _name in ("Patches", "LargestOf", "MeanOf"):
    for _sizes in ((1, 1, 1, 1), (6, 5, 6, 5), (6, 5, 3, 3), (6, 5, 1, 1, 2, 1), (1, 4, 1, 2), (1, 1, 2**15, 2**15, 1, 1, *[2**15 - 1] * 4),
                   (6, 5, 2**31 - 1, 2**31 - 1, 1, 1, *[2**31 - 2] * 4),
                   (6, 5, 2**16, 1, 2**16, 1, 2**16 - 1, 0, 2**16 - 1, 0)):  # fmt: skip
        STEPS.append({"step": _name} | dict(zip(SIZES, _sizes, strict=False)))


def flip(data, rng):
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
    return data


def overwrite(data, rng):
    part = rng.choice(
        [
            b"\0",
            b"\xff",
            b"\xff\xff\xff\xff",
            b"\0\0\0\0",
            b"\x7f\xff\xff\xff",
            b"\xff\xff\xff\x7f",
            b"\0" * 8,
            b"\xff" * 8,
            rng.randbytes(4),
        ]
    )
    place = rng.randrange(len(data))
    data[place : place + len(part)] = part
    return data


def cut(data, rng):
    return (
        data[: rng.randrange(len(data))] if rng.random() < 0.7 else data[rng.randrange(len(data)) :]
    )


def grow(data, rng):
    part = rng.choice(
        [
            b"\0",
            b"\0" * 100,
            rng.randbytes(10),
            bytes(data[:50]),
            bytes(data[-22:]),
            bytes(data),
            b"PK\5\6" + bytes(18),
        ]
    )
    place = rng.choice([0, len(data), rng.randrange(len(data))])
    data[place:place] = part
    return data


def remove(data, rng):
    place = rng.randrange(len(data))
    del data[place : place + rng.choice([1, 2, 4, 50])]
    return data


def number(data, rng):
    """Another number where there is one in text: in headers of .npy and of safetensors, in CSV."""
    places = [m.span() for m in re.finditer(rb"\d+", bytes(data))]
    start, stop = rng.choice(places)
    new = rng.choice(NUMBERS)
    if rng.random() < 0.5:  # as long as it was, so that lengths still fit
        new = new[: stop - start].rjust(stop - start, b"0")
    data[start:stop] = new
    return data


BYTES = [flip, flip, overwrite, cut, grow, remove, number]


class Trap:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return open, (str(Path.cwd() / "executed"), "w")


def npy(header, body=b"", version=(1, 0)):
    """An .npy file of any header."""
    text = header.encode("latin-1", "replace")
    length = struct.pack("<H" if version == (1, 0) else "<I", min(len(text), 65535))
    return b"\x93NUMPY" + bytes(version) + length + text + body


def hostile_member(name, old, rng):
    """What a member of an archive is replaced with."""
    trap = pickle.dumps(Trap())
    header = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }\n"
    objects = io.BytesIO()
    np.save(objects, np.array([Trap()], dtype=object), allow_pickle=True)
    shape = rng.choice(["()", "(0,)", "(-1,)", "(2147483648,)", "(4611686018427387904,)", "(65536, 65536, 65536)", "(1.5,)", "('a',)", "(True,)",  # noqa: E501
                        "(10,)", "6", "None", "(" + "1, " * 70 + ")", "(1000000000,)", "(3000000, 4)"])  # fmt: skip
    descr = rng.choice(["'<f4'", "'<f8'", "'|O'", "'O'", "'<U400'", "'<U1000000000'", "'|V0'", "[('a', '<f4'), ('b', '|O')]", "'<c8'", "'|S0'",  # noqa: E501
                        "'>f8'", "'nonsense'", "None", "'<M8[s]'", "'|u1'", "('<f4', (1000000,))", "'<f2'", "'|b1'"])  # fmt: skip
    made = [
        lambda: trap,
        objects.getvalue,
        lambda: npy(
            header % (descr, rng.choice(["False", "True", "0"]), shape),
            rng.choice([trap, bytes(100), b""]),
            rng.choice([(1, 0), (2, 0), (3, 0), (9, 9)]),
        ),
        lambda: npy("__import__('os').system('touch executed')\n", bytes(10)),
        lambda: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "[" * 300 + ", )}\n"),
        lambda: npy("{" + "(" * 5000),
        lambda: old[: rng.randrange(len(old) + 1)],
        lambda: old + bytes(rng.randrange(1, 100)),
        lambda: bytes(flip(bytearray(old or b"\0"), rng)),
        lambda: bytes(number(bytearray(old), rng)) if re.search(rb"\d", old) else b"",
        lambda: b"",
        lambda: b"\x80\x05" + rng.randbytes(5),
        lambda: b"cos\nsystem\n(S'touch executed'\ntR.",
    ]
    return rng.choice(made)()


def mutate_json(text, rng):
    """Other values in a JSON object, or something that is none."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(
            [
                "",
                "null",
                "[]",
                "[" * 100_000,
                "{" * 50_000,
                '{"a":' * 20_000,
                text[:-1],
                text + text,
                text.replace('"', "'"),
                "\ufeff" + text,
            ]
        )
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        inside = value
        while True:
            key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            if not (isinstance(inside[key], dict | list) and inside[key]) or rng.random() < 0.2:
                break
            inside = inside[key]
        what = rng.randrange(10)
        if what < 2:
            del inside[key]
            if not value:
                break
        elif what < 3:  # of a layer's values, say, one in another's place
            other = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            if isinstance(inside, list) and rng.random() < 0.5:
                inside.insert(key, copy.deepcopy(inside[other]))
            else:
                inside[key] = copy.deepcopy(inside[other])
        elif type(inside[key]) is int and what < 6:  # near to what fits
            inside[key] = rng.choice([inside[key] + 1, inside[key] - 1, 2 * inside[key], inside[key] // 2, 2**31 - 1, 65536])
        elif isinstance(inside, list) and what < 5:
            inside.insert(rng.randrange(len(inside) + 1), copy.deepcopy(rng.choice(STEPS)))
        elif isinstance(inside, dict) and "n_in" in inside and what < 6:
            of_layer = inside.get("steps", [])
            inside["steps"] = [*(of_layer if isinstance(of_layer, list) else []), *copy.deepcopy(rng.sample(STEPS, rng.choice([1, 2])))]
        elif what < 4 and isinstance(inside, dict):
            inside[rng.choice(["rank", "more", "n_in", "structure", ""])] = copy.deepcopy(rng.choice(JSON_VALUES))
        else:
            inside[key] = copy.deepcopy(rng.choice(JSON_VALUES))
    return json.dumps(value)


def archive(data, rng):
    """A zip archive with another content, which its own checksums fit."""
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    index = rng.randrange(len(members))
    name, content = members[index]
    what = rng.randrange(9)
    pressed = rng.choice(
        [
            zipfile.ZIP_STORED,
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
            zipfile.ZIP_BZIP2,
            zipfile.ZIP_LZMA,
        ]
    )
    if what == 0:
        members.append((name, rng.choice([content, hostile_member(name, content, rng)])))
    elif what == 1:
        members[index] = (
            rng.choice(
                [
                    "../../evil.npy",
                    "/etc/evil.npy",
                    "header",
                    "X.npy.npy",
                    ".npy",
                    "y.npy",
                    "x" * 60_000,
                    "é.npy",
                ]
            ),
            content,
        )
    elif what == 2:
        del members[index]
    elif what == 3:  # a bomb: zeros, pressed to a thousandth
        size = rng.choice([1 << 20] * 20 + [1 << 25] * 4 + [1 << 29])
        shape = rng.choice([f"({size // 8},)", f"({size // 32}, 4)", "(6, 4)", "(6,)"])
        head = npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n")
        members[index] = (name, (head, size))
        pressed = zipfile.ZIP_DEFLATED
    elif what == 4 and name == "header.npy":
        text = mutate_json(str(np.load(io.BytesIO(content))), rng)
        out = io.BytesIO()
        with contextlib.suppress(UnicodeEncodeError):
            np.save(out, np.array(text))
        members[index] = (name, out.getvalue())
    elif what == 5:
        members += [(f"{i}.npy", b"") for i in range(rng.choice([1, 2000]))]
    else:
        members[index] = (name, hostile_member(name, content, rng))
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(out, "w", pressed, compresslevel=1) as file:
            for name, content in members:
                if isinstance(content, tuple):
                    head, size = content
                    with file.open(name, "w") as member:
                        member.write(head)
                        for _ in range(size >> 20):
                            member.write(bytes(1 << 20))
                else:
                    file.writestr(name, content)
    return bytearray(out.getvalue())


def directory(data, rng):
    """Numbers in a zip archive's directory: sizes, offsets, methods, flags, checksums."""
    places = [m.start() for m in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", bytes(data))]
    place = rng.choice(places) + rng.randrange(4, 46)
    part = rng.choice(
        [
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\x01\0",
            b"\x08\0",
            b"\x0c\0",
            b"\xff\xff\xff\x7f",
            rng.randbytes(2),
        ]
    )
    data[place : place + len(part)] = part[: max(0, len(data) - place)]
    return data


def tensors(data, rng):
    """A safetensors file with another header, whose length fits."""
    (length,) = struct.unpack("<Q", data[:8])
    text, body = bytes(data[8 : 8 + length]).decode(), bytes(data[8 + length :])
    what = rng.randrange(5)
    if what == 0:
        text = mutate_json(text, rng)
    elif what == 1:
        value = json.loads(text)
        meta = value["__metadata__"]
        meta["svdfast"] = mutate_json(meta["svdfast"], rng)
        text = json.dumps(value)
    elif what == 2:
        value = json.loads(text)
        name = rng.choice([n for n in value if n != "__metadata__"])
        value[name][rng.choice(["dtype", "shape", "data_offsets"])] = copy.deepcopy(
            rng.choice([*JSON_VALUES, "F64", "F16", "BF16", "I8", [0, 2**63], [8, 0]])
        )
        text = json.dumps(value)
    elif what == 3:
        body = rng.choice([body[:-4], body + bytes(8), b"", body[::-1]])
    header = text.encode("utf-8", "replace")
    claimed = (
        len(header)
        if what != 4
        else rng.choice([0, 1, 2**31, 2**62, 2**64 - 1, 100_000_001, len(header) + 1])
    )
    return bytearray(struct.pack("<Q", claimed) + header + body)


def is_record(value):
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def states(data, rng):
    """A checkpoint with another value somewhere, whose checksum is right."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ckpt"
        path.write_bytes(data)
        try:
            values = checkpoint.read(path)
        except ValueError:  # other mutators were here before
            return data
        for _ in range(rng.choice([1, 1, 2])):
            inside, whole = values, False
            while True:
                key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
                old, record = inside[key], is_record(inside[key])
                if not (record or isinstance(old, dict | list)) or not (record or old) or rng.random() < 0.1:
                    break
                inside, whole = vars(old) if record else old, record  # past a record's checks
            arrays = [np.zeros(3), np.zeros(0, np.float32), np.full(9, np.nan, np.float32)]
            if isinstance(old, np.ndarray):
                arrays += [old[:-1], old.astype(np.float64), old * np.float32("nan"), np.zeros_like(old)]
            inside[key] = copy.deepcopy(rng.choice(JSON_VALUES + arrays * (5 if isinstance(old, np.ndarray) else 1)))
            if rng.random() < 0.1 and not whole:
                del inside[key]
                if not inside:
                    break
        path.unlink()
        checkpoint.write(path, values)
        return bytearray(path.read_bytes())


def lines(data, rng):
    """Text with other fields or lines."""
    rows = bytes(data).split(b"\n")
    place = rng.randrange(len(rows))
    field = rng.choice([b"", b"a", b"\xff\xfe", b"\0", b'"', b'"' * 3, b"nan", b"inf", b"1e400", b"-1e400", b"1_0", b"0x1", b"1j", b"\r", b"1,2", b";",  # noqa: E501
                        b"=1+1", b"9" * 200_000, b'"' + b"x" * 140_000, "\u0663".encode(), b" 1 ", b"# 1"])  # fmt: skip
    what = rng.randrange(5)
    if what == 0:
        rows.insert(place, field)
    elif what == 1:
        fields = rows[place].split(b",")
        fields[rng.randrange(len(fields))] = field
        rows[place] = b",".join(fields)
    elif what == 2:
        rows[place] = b",".join([field[:20]] * rng.choice([1, 5, 6, 10_000]))
    elif what == 3:
        rows = rows[:1] + rows[place:]
    else:
        rows[place] += b"," + field
    return bytearray(b"\n".join(rows))


FORMS = {
    "zip": [archive, archive, directory],
    "safetensors": [tensors, tensors],
    "text": [lines, lines],
    "checkpoint": [states, states, states],
    "": [],
}


# --- One mutant ---------------------------------------------------------------------------------------------------------------------


def turn():
    return [name for name, case in CASES.items() for _ in range(case.weight)]


def prepare(folder):
    """Good files, and their content."""
    good = {}
    for number_, (name, case) in enumerate(CASES.items()):
        for start in ("c", "s"):
            path = folder / f"{start}{number_}{case.suffix}"
            case.write(path)
            content = None if name == "hdf5" else case.read(path)
            good.setdefault(name, []).append((path.read_bytes(), content))
    return good


def attempt(index, seed, good, folder, show=False):
    workers.stops_when_told()
    names = turn()
    name = names[index % len(names)]
    case = CASES[name]
    rng = random.Random(f"{seed} {index}")
    original, content = rng.choice(good[name])
    choices = BYTES + FORMS[case.form] * 2
    if case.form == "":
        choices = [m for m in choices if m is not number]
    mutators = [rng.choice(choices)]
    if rng.random() < 0.1:
        mutators.append(rng.choice([flip, cut, grow, overwrite]))
    data = bytearray(original)
    for mutator in mutators:
        data = mutator(data, rng) if data else data
    path = folder / f"mutant{case.suffix}"
    path.write_bytes(data)
    random_bytes = all(mutator in BYTES or mutator is directory for mutator in mutators)
    if show:
        print(name, [m.__name__ for m in mutators], len(data), path)
    kind, what = read(case, path, content if random_bytes and case.guarded else None)
    if (folder / "executed").exists():
        (folder / "executed").unlink()
        kind, what = "FAULT", "a pickle or a header was executed"
    return name, kind, what and f"{what} [{', '.join(m.__name__ for m in mutators)}]"


def truly_large(path):
    """Whether an archive has what it claims: then it may be refused for want of memory."""
    try:
        with zipfile.ZipFile(path) as file:
            return max(entry.file_size for entry in file.infolist()) > MEMORY // 4
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read(case, path, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            got = case.read(path)
        except case.error as error:
            memory = error
            while memory is not None:
                if isinstance(memory, MemoryError) and not truly_large(path):
                    return "FAULT", f"asks for too much memory: {str(error)[:200]}"
                memory = memory.__context__
            return "refused", ""
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = error.__traceback__
            while place.tb_next is not None:
                place = place.tb_next
            where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
            return "FAULT", f"{type(error).__name__}: {str(error)[:200]} ({where})"
    if expected is not None and got != expected:
        return "FAULT", "read as something else"
    return "read", ""


def work(start, stop, seed, show=False):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        os.chdir(folder)
        workers.eager()
        good = prepare(folder)
        workers.limit_memory(MEMORY)
        for index in range(start, stop):
            workers.limit_time(LIMIT)
            print(json.dumps([index, *attempt(index, seed, good, folder, show)]), flush=True)
        if show:
            os.replace(next(folder.glob("mutant*")), Path(tempfile.gettempdir()) / "svdfast-mutant")


def main():
    return workers.main(__file__, __doc__, "mutants", "kinds", work, turn, chunk=CHUNK, limit=LIMIT)


if __name__ == "__main__":
    sys.exit(main())
