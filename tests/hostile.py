# SPDX-License-Identifier: BSD-3-Clause
"""Every public function and method, called with hostile arguments; what comes of it is counted.

    python tests/hostile.py --calls 200000 --seed 0 --record tests/recorded/hostile.json
    python tests/hostile.py --seed 0 --only 4711          one call again, in this process

Allowed is a result, or an error of those in ALLOWED, and whatever a hostile argument itself raises (Hostile). A fault is any other error
(from inside, as an IndexError is), a warning, a crash, a call that takes longer than LIMIT
seconds of CPU time, and a refusal that changed an array or a network among the arguments.
Calls are made in processes of their own with MEMORY bytes of address space beyond what they begin with.
After a call that is accepted the network and the optimizer are used once more.

What takes a network or samples is called with each kind of them (NETWORKS). Elsewhere: estimators, the command line and PyTorch
(hostile_areas.py), damaged files (mutants.py).
"""

import contextlib
import dataclasses
import decimal
import fractions
import inspect
import json
import os
import random
import sys
import tempfile
import types
import warnings
from pathlib import Path

import hostile_areas
import numpy as np
import scipy.sparse as sp
import workers

import svdfast as sf
from svdfast import layers as L
from svdfast.model.structures import Dense, Fit, LowRank, Structure
from svdfast.training.optimizers import Optimizer

LIMIT = 20.0
MEMORY = 3 << 30
CHUNK = 20_000  # calls of one process
ALLOWED = (TypeError, ValueError, MemoryError, FloatingPointError, OSError, ImportError)
SKIPPED = {
    "datasets.load": "tested with a server (test_datasets.py)",
    "show_config": "has no argument",
    "StopTraining": "an exception",
    "distributed.mpi": "takes a communicator of mpi4py (test_mpi.py)",
    "distributed.Communicator": "says what users write",
    **{f"ranks.{rule}.{name}": "called with what `train` and `truncate` have checked"
       for rule in ("Budget", "Energy", "Fraction", "Given", "RankRule") for name in ("__call__", "of_squares")},
}  # fmt: skip


# What imports another library, seconds of it: left out with --light.
HEAVY = {
    "from_sklearn", "from_torch", "onnx.save", "onnx.to_onnx", "plots.compare", "plots.confusion", "plots.residuals", "plots.spectrum",
    "plots.training", "to_torch", "callbacks.TensorBoard",
}  # fmt: skip


# Kinds of networks and samples, for what takes them.
NETWORKS = ("linear", "sparse", "images", "recurrent", "any steps", "tokens")
OF_A_KIND = {"train", "resume", "load", "save", "Network", "to_torch", "onnx.save", "onnx.to_onnx", "count_multiplications"}


class Hostile(Exception):
    """Raised by a hostile argument when it is looked at."""


# --- What is called -----------------------------------------------------------------------------------------------------------------


def targets(light=False):
    """(name, callable made from a fresh world) of all that is public, found by introspection."""
    found = {}

    def add(name, value):
        if name in SKIPPED or (light and name in HEAVY):
            return
        if isinstance(value, types.ModuleType):
            for inner in value.__all__:
                add(f"{value.__name__.removeprefix('svdfast.')}.{inner}", getattr(value, inner))
        elif isinstance(value, type):
            found[name] = lambda world, value=value: value
            for method in sorted(vars_of(value)):
                static = inspect.getattr_static(value, method)
                public = not method.startswith("_") or method == "__call__"
                skipped = f"{name}.{method}" in SKIPPED or (light and f"{name}.{method}" in HEAVY)
                if (inspect.isfunction(static) or isinstance(static, classmethod)) and public and not skipped:
                    found[f"{name}.{method}"] = lambda world, value=value, method=method: getattr(
                        world.instance(value), method
                    )
        elif callable(value):
            found[name] = lambda world, value=value: value

    for name in sf.__all__:
        add(name, getattr(sf, name))
    for name in [name for name in found if name in OF_A_KIND or name.startswith("Network.")]:
        make = found.pop(name)
        found |= {f"{name} ({kind})": make for kind in NETWORKS}
    return found | hostile_areas.found(light)


def split(name):
    """The name without its kind, and the kind."""
    base, _, kind = name.partition(" (")
    return base, kind.removesuffix(")") or "linear"


def vars_of(kind):
    names = set()
    for base in kind.__mro__[:-1]:
        if base.__module__.startswith("svdfast"):
            names |= set(vars(base))
    return names


class Writer:
    """What TensorBoard's callback writes to."""

    def add_scalar(self, *args, **kwargs): ...
    def add_text(self, *args, **kwargs): ...
    def flush(self): ...
    def close(self): ...


class Alone:
    """A communicator of one process."""

    rank, size = 0, 1

    def sum(self, buffer): ...
    def broadcast(self, buffer): ...


class World:
    """What calls are made with: good values, fresh for each call, so that nothing is left of the one before."""

    def __init__(self, rng, folder, kind="linear"):
        self.rng, self.folder, self.kind = rng, folder, kind
        numbers = np.random.default_rng(rng.randrange(1000))
        dtype = rng.choice(["float32", "float64"])
        output = rng.choice(["softmax", "sigmoid", "identity"])
        self.described = self.description(kind, output)
        self.net = sf.Network(*self.described, dtype=dtype, seed=0)
        if rng.random() < 0.4:
            self.net.truncate(0.5, force=True)
        self.sizes = self.net.sizes
        shape = {"images": (8, 5, 4, 2), "recurrent": (8, 4, 3), "any steps": (8, rng.choice([1, 4]), 3), "tokens": (8, rng.choice([1, 4]))}
        self.X = numbers.standard_normal(shape.get(kind, (8, 5))).astype(dtype)
        if kind == "sparse":
            self.X = self.sparse(self.X * (numbers.random((8, 5)) < 0.3))
        elif kind == "tokens":
            self.X = numbers.integers(0, 6, self.X.shape)
        out = (8, self.X.shape[1]) if kind in ("any steps", "tokens") else (8,)
        self.y = numbers.integers(0, 3, out) if output == "softmax" else numbers.random((*out, 3)).astype(dtype)
        rate = rng.choice([0.01, sf.schedules.Cooldown(0.01)])
        self.optimizer = rng.choice([sf.Adam, sf.AdamW, sf.GradientDescent])(rate)
        self.W = numbers.standard_normal((7, 5))

    def description(self, kind, output):
        """What `Network` takes first."""
        rng, hidden = self.rng, self.rng.choice(["relu", "tanh", "gelu"])
        if kind in ("linear", "sparse"):
            return [5, 9, 7, 3], hidden, output
        end, cell = L.Linear(3, output), rng.choice([L.RNN, L.GRU, L.LSTM])
        if kind == "images":
            pool = rng.choice([L.MaxPool2d(2, padding=1), L.AvgPool2d(2), L.Dropout(0.2)])
            return sf.Input(5, 4, 2), [L.Conv2d(4, 3, hidden, padding="same"), pool, L.Flatten(), L.Linear(6, hidden), end]
        if kind == "recurrent":
            return sf.Input(4, 3), [L.Masking(), cell(6, True, True), L.LayerNorm(), L.Dropout(0.2), cell(5), end]
        if kind == "any steps":
            return sf.Input(None, 3), [L.Linear(5, hidden), cell(6, True), L.LayerNorm(), cell(5, True), end]
        return sf.Input(None, dtype="int32"), [L.Embedding(6, 5), cell(6, True), end]

    def sparse(self, X):
        """As a sparse matrix of one of SciPy's forms."""
        others = [sp.csr_matrix, sp.csc_array, sp.coo_array, sp.bsr_array, sp.lil_array, sp.dia_array, sp.dok_array]
        return self.rng.choice([sp.csr_array] * 4 + others)(X)

    def any_array(self):
        """Of few numbers, as it is written to a file."""
        made = array(self.rng)
        return made if made.size < 10_000 else made.dtype.str

    def saved(self, path):
        """A file of the network, or of its training."""
        if str(path).endswith(".ckpt"):
            Path(path).unlink(missing_ok=True)
            sf.train(
                self.net.copy(), self.X, self.y, epochs=2, batch_size=4, optimizer=self.optimizer, factoring=0.5, checkpoint=path,
                n_threads=1,
            )  # fmt: skip
        else:
            sf.save(self.net, path)
        return path

    def instance(self, kind):
        if issubclass(kind, sf.Network):
            return self.net
        arguments = {
            sf.Input: lambda: (5,),
            sf.Event: lambda: ("epoch", 1, 1, self.net, {"loss": 1.0, "seconds": 1.0}),
            sf.TrainingResult: lambda: (self.net,),
            sf.activations.Activation: lambda: ("relu", 0.0),
            sf.datasets.Dataset: lambda: ("xor", (self.X, self.y), (self.X, self.y), 2),
            sf.schedules.Constant: lambda: (0.1,),
            sf.schedules.Cooldown: lambda: (0.1, 0.5),
            sf.schedules.StepDecay: lambda: (0.1, 10),
            sf.schedules.Cosine: lambda: (0.1,),
            sf.schedules.ReduceOnPlateau: lambda: (0.1,),
            sf.schedules.Warmup: lambda: (0.1, 0.1),
            sf.callbacks.TensorBoard: lambda: (Writer(),),
            sf.Guard: lambda: (0.1,),
        }.get(kind, tuple)()
        return kind(*arguments)

    def good(self, where, name):
        """A value that fits a parameter of that name, or None."""
        p, m, n, l = 6, 5, 4, 2  # noqa: E741
        kernels = {
            "X": (p, m), "W": (n, m), "W1": (n, l), "W2": (l, m), "b": (n,), "H": (p, l), "Z": (p, n), "A": (p, n), "dA": (p, n),
            "out": (p, n), "out_Z": (p, n), "out_H": (p, l), "out_dX": (p, m), "out_dW": (n, m), "out_dW1": (n, l), "out_dW2": (l, m),
            "out_db": (n,),
        }  # fmt: skip
        if where.startswith("kernels.") and name in kernels:
            return np.random.default_rng(1).standard_normal(kernels[name])
        wide = np.zeros(self.net.layout.size, self.net.dtype)
        if where in ("load", "resume") and name == "path":
            return self.saved(self.folder / ("a.npz" if where == "load" else "a.ckpt"))
        values = {
            "X": self.X, "y": self.y, "net": self.net, "network": self.net, "sizes": self.described[0], "W": self.W, "rank": 2, "epochs": 1,
            "optimizer": self.optimizer, "path": str(self.folder / self.rng.choice(["a.npz", "a.safetensors", "a.onnx"])),
            "batch_size": 4, "n_in": 5, "n_out": 4, "rank_fraction": 0.5, "ranks": [2, None], "learning_rate": 0.01, "seed": 0,
            "activation": "relu", "loss": None, "sample_weight": np.ones(8), "inputs": self.X, "n_threads": 1, "layers": None,
            "validation": (self.X, self.y), "callbacks": [], "structure": LowRank, "uint8_scale": 0.1, "out": None,
            "layout": self.net.layout, "parameters": wide, "key": (self.net.layout, self.net.dtype), "size": 10, "dtype": "float32",
            "moments": "carry" if where == "train" else (wide, wide), "step": 1, "schedule": sf.schedules.Constant(0.1),
            "factoring": self.method(), "guard": sf.Guard(self.rng.choice([0.0, 1.0]), self.rng.choice(["raise", "delay", "undo"])),
            "clip_norm": 1.0, "share": 0.5, "tolerance": 0.1, "svd": "exact", "split": "left", "product_decay": 0.1,
            "pretrain_fraction": 0.5,
            "event": self.instance(sf.Event), "log_dir": str(self.folder), "rule": self.optimizer.rule, "kinds": ("mean",),
            "steps": 5, "warmup": 5, "every": 5, "factor": 0.5, "final": 0.0, "peak": 0.1, "steps_per_epoch": None, "shuffle": False,
            "n_processes": 4, "flops": 1e9, "bandwidth": 1e9, "latency": 1e-6, "communicator": self.rng.choice([None, Alone()]),
            "carry_state": False, "sequence": np.arange(30), "sequences": [[1, 2], [3]],
            "figure": None, "train": (self.X, self.y), "test": (self.X, self.y), "name": "relu", "n_classes": 3, "parameter": 0.0,
            "y_true": [0, 1, 1], "y_predicted": [0, 1, 0], "classes": ["a", "b"], "shares": False, "against": "epochs",
            "hidden": self.described[1], "n_steps": 4, "activation_aware": True, "estimator": None, "module": None, "progress": False,
            "exc_type": None, "kind": None, "error": None, "trace": None,
        }  # fmt: skip
        return values.get(name)

    def method(self):
        """A Factoring, or a short form of one; now and then with a rule that gives anything for ranks."""
        method = sf.Factoring(
            self.rng.choice([0.5, [2, None], "energy:0.5", "auto", lambda layers, weights: [2, 2]]), force=True,
            pretrain_fraction=self.rng.choice([0.0, 0.25, 0.5]), product_decay=self.rng.choice([0.0, 0.1]),
            guard=self.rng.choice([None, sf.Guard(0.0, "raise"), sf.Guard(0.0, "delay"), sf.Guard(0.0, "undo"), sf.Guard(1e9)]),
        )  # fmt: skip
        if self.rng.random() < 0.3:
            answer = hostile(self.rng, [2, None])
            method = sf.Factoring(lambda layers, weights: answer, force=True, pretrain_fraction=0.0)
        elif self.rng.random() < 0.2:
            with contextlib.suppress(TypeError):  # of what is no structure
                method = dataclasses.replace(method, structure=structure(self.rng))
        elif self.rng.random() < 0.5:
            field = self.rng.choice(dataclasses.fields(method)).name
            with contextlib.suppress(TypeError, ValueError, Hostile):  # of what it refuses itself
                method = dataclasses.replace(method, **{field: hostile(self.rng, getattr(method, field))})
        return self.rng.choice([method, method, None, 0.25, "auto"])

    def probe(self):
        """Uses what a call may have changed."""
        with contextlib.suppress(FloatingPointError):  # of numbers that are not finite, which may be set
            if self.net.sizes == self.sizes and isinstance(self.optimizer, Optimizer):
                self.net.predict(self.X)
                sf.train(
                    self.net, self.X, self.y, epochs=1, optimizer=self.optimizer, n_threads=1,
                    factoring=sf.Factoring(pretrain_fraction=1, recompose=False),
                )  # fmt: skip


# --- Hostile values -----------------------------------------------------------------------------------------------------------------


def _raise(*args, **kwargs):
    raise Hostile


class ArrayRaises:
    __array__ = _raise


class ArrayLies:
    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return self.value


class LengthRaises:
    __len__ = _raise
    __getitem__ = _raise


class LengthLies(list):
    def __init__(self, length, items=(1, 2)):
        super().__init__(items)
        self.length = length

    def __len__(self):
        return self.length


class IndexLies:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value() if callable(self.value) else self.value


class FloatLies(float):
    def __float__(self):
        return "no number"


class FloatRaises(float):
    __float__ = _raise
    __lt__ = __gt__ = __le__ = __ge__ = _raise


class Rows:
    """A row source that is not what it says."""

    def __init__(self, shape, dtype, rows):
        self.shape, self.dtype, self.rows = shape, dtype, rows

    def __getitem__(self, index):
        return self.rows(index)


class EqualRaises(str):
    __eq__ = _raise
    __hash__ = str.__hash__


class ReprRaises:
    __repr__ = _raise


class Subclass(np.ndarray):
    def __array_ufunc__(self, *args, **kwargs):
        raise Hostile


class PathRaises:
    __fspath__ = _raise


class PathLies:
    def __fspath__(self):
        return 5


def broken_off():
    yield 1
    raise Hostile


SHAPES = [
    (),
    (0,),
    (1,),
    (3,),
    (8,),
    (0, 5),
    (5, 0),
    (0, 0),
    (1, 1),
    (8, 5),
    (8, 3),
    (7, 5),
    (4, 5),
    (6, 4),
    (8, 5, 1),
    (2, 2, 2, 2),
    (8, 4),
]
KINDS = [
    "f4",
    "f8",
    ">f4",
    ">f8",
    "f2",
    "g",
    "i1",
    "u1",
    "i8",
    ">i4",
    "u8",
    "?",
    "c8",
    "O",
    "S3",
    "U2",
    "M8[s]",
    "m8[s]",
    "i4,f8",
    "V4",
]
VALUES = [0, 1, -1, np.nan, np.inf, -np.inf, 1e300, 1e-310, 3.4e38, 2, 255, 1e-45]


def array(rng, like=None):
    """An array of any shape, type and way to lie; or one like a good one in all but something."""
    if like is not None and rng.random() < 0.6:
        shape, kind = like.shape, like.dtype.str
        change = rng.choice(["value", "kind", "layout", "shape"])
        if change == "kind":
            kind = rng.choice(KINDS)
        elif change == "shape":
            shape = rng.choice(
                [
                    shape[::-1],
                    shape[:-1],
                    (*shape, 1),
                    (1, *shape),
                    tuple(n + 1 for n in shape),
                    tuple(0 for _ in shape),
                ]
            )
    else:
        shape, kind, change = rng.choice(SHAPES), rng.choice(KINDS), None
    if rng.random() < 0.03:  # more than there is memory for, though it takes none itself
        # Of numbers that may be NaN not so many, for to look at each takes its time.
        kind = rng.choice(["u1", "f4", "f8"])
        shapes = [(2**31 + 5, 5), (5, 2**31)] if kind == "u1" else [(200_000, 5), (2**15, 2**10), (2**40, 0)]
        return np.broadcast_to(np.zeros(1, kind), rng.choice(shapes))
    values = np.random.default_rng(rng.randrange(100)).standard_normal(shape)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = (
            np.zeros(shape, kind)
            if np.dtype(kind).kind in "VMm"
            else np.asarray(values).astype(kind)
        )
        if change in (None, "value") and made.size and made.dtype.kind in "fiu":
            for _ in range(rng.randrange(3)):
                made.reshape(-1)[rng.randrange(made.size)] = np.float64(rng.choice(VALUES)).astype(
                    made.dtype
                )
    how = rng.choice(
        [
            "plain",
            "fortran",
            "read-only",
            "strided",
            "misaligned",
            "reversed",
            "subclass",
            "masked",
            "zero strides",
        ]
    )
    if how == "fortran":
        made = np.asfortranarray(made)
    elif how == "read-only":
        made.flags.writeable = False
    elif how == "strided" and made.ndim:
        made = np.repeat(made, 2, axis=-1)[..., ::2]
    elif how == "misaligned" and made.size and made.dtype.kind not in "OV":
        buffer = np.zeros(made.nbytes + 1, np.uint8)
        other = buffer[1:].view(made.dtype).reshape(made.shape)
        other[...] = made
        made = other
    elif how == "reversed" and made.ndim:
        made = made[::-1]
    elif how == "subclass":
        made = made.view(Subclass)
    elif how == "masked":
        made = np.ma.masked_array(made)
    elif how == "zero strides" and made.ndim and made.shape[0]:
        made = np.broadcast_to(made[:1], made.shape)
    return made


INDICES = [-1, 0, 1, 4, 5, 8, 2**31 - 1, -(2**31)]


def sparse_array(rng, like=None):
    """A sparse matrix with something wrong in it, or of a form that has to be brought to order."""
    if like is None or rng.random() < 0.2:
        dense = array(rng)
        like = np.zeros((8, 5))
        if type(dense) is np.ndarray and dense.ndim == 2 and dense.dtype.kind in "fiub" and max(dense.shape) < 1000:
            like = dense.astype("f8") if dense.dtype.kind == "f" else dense.astype(dense.dtype.newbyteorder("="))
        like = sp.csr_array(like)
    made = like.tocsr() if rng.random() < 0.7 else like
    made = rng.choice([sp.csr_array, sp.csr_matrix, sp.csc_array])(made) if made.format == "csr" else made.copy()
    made = made.copy()
    if made.format not in ("csr", "csc"):
        if made.format == "coo" and made.nnz:
            coords = [c.copy() for c in made.coords]
            coords[rng.randrange(2)][rng.randrange(made.nnz)] = rng.choice(INDICES)
            made.coords = tuple(coords)
        return made
    what = rng.randrange(12)
    if what == 0 and made.nnz:
        made.indices[rng.randrange(made.nnz)] = rng.choice(INDICES)
    elif what == 1:
        made.indptr[rng.randrange(len(made.indptr))] = rng.choice(INDICES)
    elif what == 2:  # unsorted
        made.indices, made.data = made.indices[::-1].copy(), made.data[::-1].copy()
        made.has_sorted_indices = rng.choice([True, False])
    elif what == 3 and made.nnz:  # duplicates
        made.indices[:] = made.indices[rng.randrange(made.nnz)]
        made.has_canonical_format = rng.choice([True, False])
    elif what == 4:
        made.indices, made.indptr = made.indices.astype("i8"), made.indptr.astype("i8")
        if made.nnz and rng.random() < 0.5:
            made.indices[rng.randrange(made.nnz)] = rng.choice([*INDICES, 2**32, 2**62, -(2**63)])
    elif what == 5 and made.nnz:
        made.data = made.data.astype(rng.choice(["f4", "f8"]))
        with np.errstate(over="ignore"):
            made.data[rng.randrange(made.nnz)] = rng.choice(VALUES)
    elif what == 6:
        with np.errstate(all="ignore"):
            made.data = made.data.astype(rng.choice(["i8", "u1", "?", "c8", "O", "f2", "g", ">f8", "i2"]))
    elif what == 7:  # empty rows
        made.data, made.indices = made.data[:0], made.indices[:0]
        made.indptr = np.zeros_like(made.indptr)
    elif what == 8:
        part = rng.choice(["data", "indices", "indptr"])
        old = getattr(made, part)
        longer = np.append(old, old[:1])
        setattr(made, part, rng.choice([old[:-1], longer, old[:0], old[:, np.newaxis], old.astype("f8"), None, [1, 2], old[::-1]]))
    elif what == 9:
        with contextlib.suppress(ValueError):
            made.resize(rng.choice([(8, 4), (8, 6), (7, 5), (9, 5), (0, 5), (1, 1)]))
    elif what == 10:
        for part in (made.data, made.indices, made.indptr):
            part.flags.writeable = False
    else:
        made._shape = rng.choice([(8, 4), (8, 6), (7, 5), (9, 5), (8,), (8, 5, 1), (2**40, 5), (-8, 5), ("a", 5)])
    return made


METHODS = [
    "tensors", "emit", "matrix", "fit", "pullback", "lift", "decay", "decay_multiplications", "relative_scale", "singular_values",
    "note", "header", "__post_init__",
]  # fmt: skip


def structure(rng):
    """A class of structures of which one method is missing, raises, or gives something else."""
    if rng.random() < 0.1:
        return rng.choice([Structure, Dense, sf.Network, int, type])
    name = rng.choice(METHODS)
    zeros = np.zeros((3, 2))
    answers = [
        None, -1, 0, 1, 2, 99, 2**40, 10**30, 0.5, np.nan, "", "W", b"x", (), [], {}, object(), zeros, np.zeros(()), (zeros, zeros),
        [None, None],
        (("W", (2,)),), (("W1", (9, 2)),), (("W1", (9, 2)), ("W2", (2, 6))), (("W1", (9, 2)), ("W1", (2, 5))), (("W1", (2**40, 2**40)),),
        (("W1", (-9, 2)), ("W2", (2, -5))), (("W1", (0, 2)), ("W2", (2, 0))), ((None, (9, 2)), (3, (2, 5))), (("W1", "ab"), ("W2", None)),
        (("W1", (9.0, 2.0)), ("W2", (2.0, 5.0))), (("W", (9, 5), 3),), ("W1", "W2"),
        *(Fit(tensors, s, norm) for tensors, s, norm in (
            ((), zeros, 0.0), ((zeros, zeros), zeros, 0.0), ((zeros,), zeros, 0.0), ((None, None), None, None), (None, zeros, "x"),
            ((1.0, 2.0), 3.0, 4.0), ((zeros * 1j, zeros), zeros, 0.0), (("a", "b"), zeros, np.nan),
            (np.full((2, 3, 2), np.nan), zeros, 0.0),
        )),
    ]  # fmt: skip
    answer = rng.choice([*answers, _raise])
    method = _raise if answer is _raise else lambda self, *args, **kwargs: answer
    if name in ("decay_multiplications", "note"):
        method = property(method)
    return type("Hostile_", (LowRank,), {name: method})


def hostile(rng, like=None):
    """Any value; often one near to a good one."""
    if isinstance(like, np.ndarray) and rng.random() < 0.7:
        return array(rng, like)
    if sp.issparse(like) and rng.random() < 0.8:
        return sparse_array(rng, like)
    if isinstance(like, list | tuple) and like and rng.random() < 0.6:
        other = list(like)
        what = rng.randrange(3)
        if what == 0:
            other[rng.randrange(len(other))] = hostile(rng, like[rng.randrange(len(like))])
        elif what == 1:
            other.append(hostile(rng))
        else:
            del other[0]
        return type(like)(other)
    if isinstance(like, type) and rng.random() < 0.8:
        return structure(rng)
    if isinstance(like, dict) and not sp.issparse(like) and like and rng.random() < 0.8:
        key = rng.choice(list(like))
        return rng.choice(
            [
                {key: hostile(rng, like[key])},
                {rng.choice([-1, 2, 99, "a", None, 1.5]): like[key]},
                {},
            ]
        )
    if isinstance(like, int | float) and rng.random() < 0.5:
        return rng.choice([0, -1, 1, 2, 3, 0.5, 1e-300, 1e300, -0.0, np.nan, np.inf, -np.inf, 2**31, 2**63, -(2**63), 10**400, 1e9, 65536,
                           np.float32(0.3), np.int8(3), np.uint64(2**64 - 1), np.float16(0.1), np.longdouble(2)])  # fmt: skip
    zeros = np.zeros((8, 5))
    makers = [
        lambda: array(rng),
        lambda: array(rng),
        lambda: rng.choice([sp.csr_array(zeros), sp.coo_array(np.eye(3)), sp.csc_matrix(np.eye(8, 5)), sp.dok_array((2, 2))]),
        lambda: None,
        lambda: rng.choice([True, False, np.True_]),
        lambda: rng.choice([0, -1, 1, 7, 2**31 - 1, 2**31, 2**62, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**400)]),
        lambda: rng.choice([0.0, -0.0, -0.5, 1.0, 1.5, np.nan, np.inf, -np.inf, 1e-320, 1e308, 1e-45]),
        lambda: rng.choice([1j, fractions.Fraction(1, 3), fractions.Fraction(10**400), decimal.Decimal("0.5"), decimal.Decimal("sNaN")]),
        lambda: rng.choice(["", "relu", "softmax", "auto", "energy:0.9", "energy:", "energy:nan", "budget:1e999", "budget:-1", "énergie",
                            "a\0b", "\ud800", "x" * 10_000, "float32", "bfloat16", "%s{}", "cross_entropy", "O", "f8,f4"]),
        lambda: rng.choice([b"", b"relu", bytearray(b"x"), memoryview(b"abc")]),
        lambda: rng.choice([[], (), {}, set(), [[]], [None], [1, [2]], [[1, 2], [3]], ["a"], [1e400], [10**400], {"a": 1}, {1, 2}, range(5)]),  # noqa: E501
        lambda: rng.choice([object(), object, len, lambda *a, **k: None, lambda *a: "rate", lambda *a: np.nan, lambda *a: 10**400, _raise, sys, ..., NotImplemented]),  # noqa: E501
        lambda: rng.choice([ArrayRaises(), ArrayLies([1]), ArrayLies(None), ArrayLies(np.zeros(3, object)), ArrayLies(zeros)]),
        lambda: rng.choice([LengthRaises(), LengthLies(5), LengthLies(0), LengthLies(-1), LengthLies(2**62), LengthLies("a")]),
        lambda: rng.choice([IndexLies(2), IndexLies(-1), IndexLies(10**30), IndexLies("a"), IndexLies(_raise), IndexLies(True)]),
        lambda: rng.choice([FloatLies(0.1), FloatRaises(0.1), ReprRaises(), EqualRaises("relu"), np.str_("relu"), PathRaises(), PathLies()]),  # noqa: E501
        lambda: rng.choice([
            Rows((8, 5), "f4", lambda i: zeros[:3]), Rows((8, 5), "f4", _raise), Rows((8, 5), "f8", lambda i: zeros[i]),
            Rows((2**40, 5), "f4", lambda i: zeros), Rows((8, 5), "O", lambda i: zeros[i]), Rows("ab", "f4", lambda i: None),
            Rows((8, 5), "nothing", lambda i: zeros), Rows((-8, 5), "f4", lambda i: zeros[i]), Rows((8.5, 5), "f4", lambda i: zeros[i]),
            Rows((8, 5), np.dtype("f4"), lambda i: None), Rows((), np.dtype("f4"), lambda i: zeros), Rows(None, None, None),
            Rows((8, 5), np.dtype("f4"), lambda i: zeros[i].astype("c8")), Rows((2**62, 5), np.dtype("u1"), lambda i: zeros[i]),
        ]),
        lambda: rng.choice([broken_off(), iter([]), iter([1, 2]), iter([(zeros, [0] * 8)]), [(zeros, zeros)], zip([1], [2], strict=True)]),
        lambda: rng.choice([sf.activations.relu(), sf.activations.Activation("elu", 1e-300), sf.Adam(), sf.schedules.Constant(0.5), sf.Network([1, 1], output="identity")]),  # noqa: E501
        lambda: rng.choice([np.random.default_rng(0), np.random.RandomState(0), np.dtype("f4"), np.float32, np.int64(2), np.datetime64("2020")]),  # noqa: E501
    ]  # fmt: skip
    return rng.choice(makers)()


# --- One call ------------------------------------------------------------------------------------------------------------------------


def state_of(value):
    """What a refused call must leave as it is."""
    if isinstance(value, sf.Network):
        return ("network", value.layout, value.parameters.tobytes(), repr(value.uint8_scale))
    if sp.issparse(value) and value.format in ("csr", "csc"):
        return ("sparse", *(np.asarray(a).tobytes() for a in (value.data, value.indices, value.indptr)))
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind != "O"
        and 0 < value.size < 10_000
        and not np.ma.isMaskedArray(value)
    ):
        return ("array", value.shape, np.asarray(value).tobytes())
    return None


def turn(found, cache={}):  # noqa: B006
    """In what order they are called: one of many parameters more often."""
    if "names" not in cache:
        with tempfile.TemporaryDirectory() as folder:
            names = [
                name
                for name in sorted(found)
                for _ in range(1 + min(12, len(parameters_of(found[name](World(random.Random(0), Path(folder), split(name)[1]))))))
            ]
            # What is by commands has no parameters; and each state is another.
            names += [name for name in found if name.startswith(("cli.", "torch.Schedule.load"))] * 12
        random.Random(0).shuffle(names)
        cache["names"] = names
    return cache["names"]


def parameters_of(function):
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def make_call(index, seed, folder, found):
    rng = random.Random(f"{seed} {index}")
    name = turn(found)[index % len(turn(found))]
    base, kind = split(name)
    world = World(rng, folder, kind)
    function = found[name](world)
    parameters = parameters_of(function)
    needed = [p for p in parameters if p.default is p.empty]
    others = [p for p in parameters if p.default is not p.empty]
    # Data is optional where batches may come instead: without it hardly a training would begin.
    likely = {"y": 0.95, "factoring": 0.5, "batch_size": 0.5} if base in ("train", "resume") else {}
    chosen = needed + [p for p in others if rng.random() < likely.get(p.name, min(1.0, 2.5 / max(1, len(others))))]
    if isinstance(function, hostile_areas.Call):
        arguments = {p.name: function.good.get(p.name) for p in chosen}
    else:
        arguments = {p.name: world.good(base, p.name) for p in chosen}
    for p in chosen:
        if arguments[p.name] is None and p.default is not p.empty:
            arguments[p.name] = p.default
    for p in rng.sample(chosen, min(len(chosen), rng.choice([1, 1, 1, 2, 3]))):
        if not (getattr(function, "rarely", False) and rng.random() < 0.9):
            # Where no samples are expected, SciPy itself may crash as such a matrix is iterated over.
            samples = p.name in ("X", "inputs", "X_val") or (p.name == "y" and not name.startswith("sklearn"))
            broken = samples and rng.random() < 0.15
            arguments[p.name] = sparse_array(rng) if broken else hostile(rng, arguments[p.name])
    if base == "train":
        # A long training is no hang.
        with contextlib.suppress(Hostile):
            epochs = arguments.get("epochs")
            epochs = getattr(epochs, "value", epochs)  # of an IndexLies
            if isinstance(epochs, int | np.integer | float) and epochs > 50:
                arguments["epochs"] = rng.choice([2, -1, 10**400 * -1, 3.0])
        arguments.setdefault("epochs", 2)
    if len(needed) and rng.random() < 0.01:
        arguments.pop(needed[0].name, None)
    return name, function, arguments, world


def outcome(name, function, arguments, world):
    """(kind, what) of a call; kind is "result", the name of an allowed error, or "FAULT"."""
    before = {key: state_of(value) for key, value in arguments.items()}
    area = function if isinstance(function, hostile_areas.Call) else None
    untouched = state_of(world.net), area and area.state()
    name = split(name)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # NumPy's, of how hostile classes are written.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        for message in hostile_areas.WARNED:
            warnings.filterwarnings("ignore", message)
        try:
            result = function(**arguments)
            if name == "Network.predict" and result.dtype != world.net.dtype:
                return "FAULT", f"gave {result.dtype} of a network of {world.net.dtype}"
            if area is not None:
                try:
                    area.after(result)
                except Exception as error:
                    return accepted(area, error, arguments)
            world.probe()
            return result if isinstance(result, hostile_areas.Ended) else "result", ""
        except Hostile:
            return "Hostile", ""
        except OverflowError as error:
            if area is not None and is_theirs(area, error, arguments):
                return "theirs", ""
            # A schedule computes with the step as it comes.
            if name.startswith("schedules.") and name.endswith(("__call__", "falls_after", "reduced")):
                return "OverflowError", ""
            return "FAULT", f"OverflowError: {error}"
        except ALLOWED as error:
            if area is not None and is_theirs(area, error, arguments):
                return "theirs", ""
            kind = next(allowed.__name__ for allowed in ALLOWED if isinstance(error, allowed))
            try:
                str(error)
            except Hostile:
                pass
            # Rows and batches are read as the training goes on, and a loss that is not finite is seen after a step.
            reads = any(
                not isinstance(arguments.get(k), np.ndarray) for k in ("X", "y") if k in arguments
            )
            if name == "train" and (
                kind == "FloatingPointError"
                or reads
                or "callbacks" in arguments
                or "validation" in arguments
            ):
                return kind, ""
            # A structure and a rule of ranks are asked at the switch, and after it.
            method = arguments.get("factoring")
            own = getattr(method, "structure", LowRank) is not LowRank or callable(getattr(method, "ranks", None))
            if name == "train" and (callable(arguments.get("optimizer")) or own):
                return kind, ""
            changed = [
                key
                for key, value in arguments.items()
                if before[key] is not None and state_of(value) != before[key]
            ]
            if (state_of(world.net), area and area.state()) != untouched:
                changed.append("the network, or the model")
            if changed:
                return (
                    "FAULT",
                    f"{type(error).__name__}: {error}; and changed: {', '.join(changed)}",
                )
            return kind, ""
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if area is not None and isinstance(error, Exception) and is_theirs(area, error, arguments):
                return "theirs", ""
            return "FAULT", f"{type(error).__name__}: {str(error)[:200]} ({Path(place_of(error)[0]).name}:{place_of(error)[1]})"


def place_of(error):
    """The file and the line where it was raised."""
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    return place.tb_frame.f_code.co_filename, place.tb_lineno


def is_theirs(area, error, arguments):
    """Whether an error is raised by code or data that were given, outside of svdfast."""
    given = [arguments[name] for name in area.theirs if name in arguments and arguments[name] is not area.good.get(name)]
    # A function that is not written in Python has no place of its own.
    elsewhere = str(Path(sf.__file__).parent) not in place_of(error)[0] or any(map(inspect.isbuiltin, given))
    return bool(given) and isinstance(error, area.raised) and elsewhere


def accepted(area, error, arguments):
    """What was taken, and fails as it is used."""
    if is_theirs(area, error, arguments) or isinstance(error, Hostile | FloatingPointError):
        return "theirs", ""
    file, line = place_of(error)
    return "FAULT", f"accepted, then {type(error).__name__}: {str(error)[:200]} ({Path(file).name}:{line})"


def work(start, stop, seed, show=False, light=False):
    """The worker's loop: a line for each call."""
    workers.limit_memory(MEMORY)
    workers.eager()
    found = targets(light)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for index in range(start, stop):
            workers.limit_time(LIMIT)
            name, function, arguments, world = make_call(index, seed, Path(folder), found)
            if show:
                print(name, {k: safe(v) for k, v in arguments.items()})
            print(json.dumps([index, name, *outcome(name, function, arguments, world)]), flush=True)


def safe(value):
    try:
        return repr(value)[:300]
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"


def main():
    return workers.main(
        __file__, __doc__, "calls", "functions", work, lambda light: turn(targets(light)), chunk=CHUNK, limit=LIMIT,
        light="without what imports other libraries",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
