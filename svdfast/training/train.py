# SPDX-License-Identifier: BSD-3-Clause
"""The four steps of the method: dense pre-training, truncation, training of the factors, recomposition.

Here is what users call, and the checks of what they give. Not here: the loop (loop.py), what happens between steps (method.py), what a
step computes (the compiled engine) and what truncation is (network.py, svd.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from svdfast._process.checks import count, fraction, listed, one_of, positive_number
from svdfast._process.files import DAMAGED
from svdfast._process.runtime import resolve_precision, resolve_threads
from svdfast.data.arrays import Source
from svdfast.data.batches import Batch
from svdfast.data.checks import Samples
from svdfast.data.open import open_source, open_validation
from svdfast.data.rows import Rows
from svdfast.interop.files import layout_header, made_network, parse_layout
from svdfast.model.evaluation import Evaluator, spec_of
from svdfast.model.network import Network
from svdfast.model.ranks import Given, RankRule, resolve_rule
from svdfast.training.checkpoint import Checkpoint, fingerprint, parse_optimizer, read
from svdfast.training.loop import Loop, StopTraining
from svdfast.training.method import SAMPLE, Event, Run, Settings
from svdfast.training.optimizers import Adam, Optimizer
from svdfast.training.result import TrainingResult

__all__ = ["Event", "StopTraining", "TrainingResult", "resume", "train"]


# φ where the user does not say: docs/reproduction.md, "The study".
PRETRAIN_FRACTION = 0.05

# With ranks="auto": the share of the steps after which the switch comes at the latest, and that after recomposition.
LATEST_SWITCH = 0.1
DENSE_TAIL = 0.1

# What a checkpoint can bring back.
_GENERATORS: dict[str, Callable[[], Any]] = {
    kind.__name__: kind
    for kind in (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64)
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Those of `train` that are plain values, as they were given: a checkpoint has them."""

    epochs: int
    batch_size: int | None
    loss: str | None
    rank_fraction: float | None
    ranks: Sequence[int | None] | str | None
    pretrain_fraction: float | None
    recompose_fraction: float | None
    recompose: bool
    force: bool
    activation_aware: bool
    svd_method: Literal["exact", "randomized"]
    split: str
    moments: str
    factor_learning_rate: float | Sequence[float] | Literal["auto"]
    guard_tolerance: float | None
    guard_action: str
    product_decay: float
    l1: float
    l2: float
    precision: str | None
    n_threads: int
    shuffle: bool | None
    steps_per_epoch: int | None
    reproducible: bool


def train(
    net: Network,
    X: ArrayLike | Rows | Iterable[Batch],
    y: ArrayLike | Rows | None = None,
    *,
    epochs: int = 20,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    loss: str | None = None,
    rank_fraction: float | None = 0.25,
    ranks: Sequence[int | None] | str | None = None,
    pretrain_fraction: float | None = None,
    recompose_fraction: float | None = None,
    recompose: bool = True,
    force: bool = False,
    activation_aware: bool = True,
    svd_method: Literal["exact", "randomized"] = "exact",
    split: str = "balanced",
    moments: str = "carry",
    factor_learning_rate: float | Sequence[float] | Literal["auto"] = "auto",
    guard_tolerance: float | None = None,
    guard_action: str = "raise",
    product_decay: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    sample_weight: ArrayLike | Rows | None = None,
    validation: tuple[ArrayLike | Rows, ArrayLike | Rows] | Iterable[Batch] | None = None,
    precision: str | None = None,
    n_threads: int | None = None,
    reproducible: bool = False,
    seed: int | np.random.Generator | None = 0,
    shuffle: bool | None = None,
    steps_per_epoch: int | None = None,
    callbacks: Iterable[Callable[[Event], None]] = (),
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
) -> TrainingResult:
    """Trains a network in place by the four steps.

    1. A share φ of all steps with dense weights; 2. truncated SVD of each hidden weight, W ≈ W1·W2; 3. the other steps on the
    factors; 4. recomposition, W = W1·W2.

    A network that is factored already goes on training its factors, without steps 1 and 2. With `rank_fraction=None` (and no
    `ranks`) or `pretrain_fraction=1` the training is dense throughout, by the same engine.

    Parameters
    ----------
    net : Network
        Changed in place.
    X : array_like (n_samples, n_inputs), or row source, or iterable of batches
        Real numbers, finite. uint8, float32 and float64 arrays with contiguous rows, a numpy.memmap too, are read as they lie, never
        copied as a whole.

        A row source is what has `shape`, `dtype` and slices of rows, and is not in memory: an h5py.Dataset, a zarr.Array. Of it blocks
        of rows are read, each epoch anew, into a pool of 64 MiB; what fits there as a whole is read once. A memmap of another type, or
        with rows that are not contiguous, is read so, too.

        An iterable of batches, without y, gives (X, y) or (X, y, sample_weight) for each step: of any sizes, each epoch anew. Of an
        iterator, such as a generator, each epoch takes the next `steps_per_epoch` batches. Their arrays may be used again for the next
        batch, not for those of validation.
    y : array_like (n_samples,) or (n_samples, n_outputs), or row source
        Class numbers or one-hot rows for cross_entropy; values from 0 to 1 for binary_cross_entropy; any for
        mean_squared_error.
    epochs : int
        Passes over the data, ≥ 1.
    batch_size : int, optional
        Samples in a mini-batch, by default 256; the last of an epoch may be smaller. Not for an iterable of batches.
    optimizer : Optimizer, optional
        Default Adam(1e-3). Its state goes on where the network's layout is the one that it was used with last, else it
        starts anew.
    loss : str, optional
        By default the one that goes with the output's activation.
    rank_fraction : float or None
        α: the rank of a layer is l = max(1, ⌊α·min(n_in, n_out)⌋). 1/4 cost no accuracy on MNIST and Fashion-MNIST, with few neurons
        or many; layers of some hundred neurons bear 1/8 (docs/reproduction.md).
    ranks : sequence of int or None, or str, optional
        Instead of α: the rank of each hidden layer, None keeps it dense; "energy:E" or "budget:B" (see `Network.truncate`); or
        "auto": the switch comes when the weights' stable ranks level off, at the latest after φ, and each layer is factored, or not,
        as its spectrum and times measured on this machine say (`svdfast.auto`).
    pretrain_fraction : float, optional
        φ: the switch comes after round(φ·steps) steps, also within an epoch. By default 0.05, with ranks="auto" 0.1.
    recompose_fraction : float, optional
        The share of the steps, the last, that the network is trained dense again, its factors multiplied together. With φ at most 1.
        By default 0.1 with ranks="auto", else 0, as in the report.
    recompose : bool
        Multiply the factors together at the end.
    force : bool
        Factor also layers where that saves no multiplications.
    activation_aware : bool
        Cut so that the layers' outputs over a sample of the data change least, instead of the weights (`Network.truncate`, `inputs`). False
        is the report's truncation.
    svd_method : {"exact", "randomized"}
    split : {"balanced", "left", "right"}
        How the singular values are shared between the factors, see `factorize`.
    moments : {"carry", "restart"}
        What becomes of the optimizer's moments where weights become factors or dense again: turned into those of the new weights
        (`svdfast.moments`), or zero.
    factor_learning_rate : "auto", float or sequence of float
        What the learning rate is multiplied with for factors. "auto": with Adam, whose steps have the same size whatever the gradient's,
        for each layer the size of the factors' elements over that of their product's at the switch, so that both change by as much
        of their size in a step (`svdfast.moments.relative_scale`); with gradient descent 1. A network that is factored from the start
        keeps the optimizer's rate, unless a sequence has a number for each layer: the `learning_rate_scales` that the switch's event told,
        where a training goes on.
    guard_tolerance : float, optional
        Needs validation data. Some steps after the switch (2 % of all) its loss may be at most 1 + this times what it was before;
        else network and optimizer go back to what they were at the switch, and the guard acts.
    guard_action : {"raise", "delay", "undo"}
        What the guard does: cut to twice the ranks at once; train dense for another share φ of the steps, then cut again; or train
        dense to the end, as it also does where twice the ranks would save nothing or no steps would be left for factors.
    product_decay : float
        λ of a penalty (λ/2)·‖W1·W2‖_F² on the product of each factored layer, apart from the gradient as in AdamW: every k steps the
        factors take a step against it with k times the learning rate, k so large that it costs next to nothing (`svdfast.decay`).
    l1, l2 : float
        Penalties l1·Σ|w|/p + l2·Σw²/(2p) over the weights (of the factors, where a layer is factored), p the number of
        samples in a mini-batch, or the sum of their weights.
    sample_weight : array_like (n_samples,) or row source, optional
        For an iterable of batches these are in the batches.
    validation : (X, y), or iterable of batches, optional
        Looked at after each epoch. Row sources are read in blocks, each time anew. An iterable of batches is no tuple or list, and can be
        iterated again and again.
    precision : {"float32", "float64", "bfloat16"}, optional
        Of the products in training. "bfloat16" rounds their operands, of a float32 network, to 8 bits of precision; sums, weights, moments,
        activations and gradients stay float32 (`svdfast.kernels` tells of NaN, infinity and the smallest numbers). Validation, the guard
        and the choice of ranks look at the network in float32. Faster where the CPU has instructions for it (`show_config`) and layers
        have some width; else a warning is logged. By default the network's dtype.
    n_threads : int, optional
        By default as many as OpenMP would use and the process may run on.
    reproducible : bool
        Whether the result must not depend on `n_threads`, to the bit. A step of a large batch may take up to a tenth longer then, where
        products are BLAS's (of a float64 network, and on CPUs without AVX2) up to a seventh; of a small batch by BLAS only as many
        threads as it has times 64 rows are used.
    seed : int, numpy.random.Generator or None
        For the order of the samples.
    shuffle : bool, optional
        Whether samples are taken in a new order each epoch, by default True. Where one mini-batch holds them all, they are taken as they
        lie. A row source is shuffled by blocks and within the pool, see Notes. Not for an iterable of batches.
    steps_per_epoch : int, optional
        Only for an iterable of batches: how many of them make an epoch. By default its length; needed where it has none.
    callbacks : iterable of callable
        Called with an `Event` after each epoch, at the switch and after the recomposition. One that raises `StopTraining`
        ends the training (the network is then recomposed if it would have been).
    progress : bool
        Show a bar on stderr (needs tqdm: the extra `progress`).
    checkpoint : path, optional
        Of a file to which the training's whole state is written, from which `resume` goes on. It is replaced when the next state is
        written whole, never before. There must be no such file yet.
    checkpoint_every : int, optional
        Steps from one state to the next; by default one is written at the end of each epoch. The first is written before the first
        step, the last after the last.

    Returns
    -------
    TrainingResult

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or does not fit; nothing was changed then. Also where this shows only as rows or batches are read,
        or an iterator ends too early: then the network is as the last step left it.
    NotFinite
        NaN or infinity in the loss of a step, in weights, in the optimizer's moments, or in what the switch looks at. It is a
        FloatingPointError, and tells the step, the layer, the likely cause, and what the network is now: see Notes.
    numpy.linalg.LinAlgError
        No way to decompose a weight converged (`truncated_svd`); the network is as the last step left it.
    FileExistsError
        There is a file where the checkpoint is to be.
    OSError
        The checkpoint can't be written; the file is as it was before.
    RuntimeError
        Another thread uses the network, or another training the optimizer; nothing was changed.

    Notes
    -----
    On one kind of machine the same seed and number of threads give bit-identical results; with `reproducible` the same seed, whatever
    the number of threads. Ctrl-C ends the training between two steps; the network stays usable, in whatever phase it was. What reading
    a row source or an iterable raises goes through, and leaves it so, too.

    A step whose loss is not finite changes neither weights nor moments, so that the network stays as the step before left it if its weights
    are good: as where the data have changed since they were checked. If weights are not finite, or have blown up and let a layer's
    outputs overflow, they are put back to the last good ones, and the optimizer starts anew: those of the beginning, of the last
    change of form, or of the end of an epoch, 100 steps apart at least. That takes one more vector of the parameters' size.

    Of a row source each epoch takes all blocks of consecutive rows (8 MiB, in whole chunks of the file where these are smaller) in a new
    random order, eight at a time, and the rows of these in a new random order. A sample comes once an epoch, and a batch is drawn from
    eight places in the data. Data that are sorted, by class or by time, are better shuffled in their file. With `shuffle=False` rows
    are taken in order, and results are those of arrays in memory, to the bit.

    What looks at a sample of the inputs, as `activation_aware` and ranks="auto" do, takes it from the pool, or from the first batches.

    References
    ----------
    The report, sections 3.3.2 and 3.3.3.

    Examples
    --------
    >>> import numpy as np
    >>> import svdfast as sf
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype="float32")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=1)
    >>> result = sf.train(net, X, [0, 1, 1, 0], epochs=800, optimizer=sf.Adam(0.01))
    >>> result.history[-2]["phase"], result.history[-2]["loss"] < 0.05
    ('factored', True)
    >>> [round(float(p)) for p in net.predict(X)[:, 0]]
    [0, 1, 1, 0]
    """
    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    if optimizer is None:
        optimizer = Adam()
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
    arguments = Arguments(
        epochs=epochs,
        batch_size=batch_size,
        loss=loss,
        rank_fraction=rank_fraction,
        ranks=ranks,
        pretrain_fraction=pretrain_fraction,
        recompose_fraction=recompose_fraction,
        recompose=recompose,
        force=force,
        activation_aware=activation_aware,
        svd_method=svd_method,
        split=split,
        moments=moments,
        factor_learning_rate=factor_learning_rate,
        guard_tolerance=guard_tolerance,
        guard_action=guard_action,
        product_decay=product_decay,
        l1=l1,
        l2=l2,
        precision=precision,
        n_threads=resolve_threads(n_threads),
        shuffle=shuffle,
        steps_per_epoch=steps_per_epoch,
        reproducible=reproducible,
    )
    rng = np.random.default_rng(seed)
    if checkpoint is None and checkpoint_every is not None:
        raise ValueError(f"checkpoint_every: expected None without a checkpoint, got {checkpoint_every!r}")
    file = None if checkpoint is None else Checkpoint(checkpoint, checkpoint_every)
    loop = _loop(
        net, X, y, arguments, optimizer, rng, file,
        sample_weight=sample_weight, validation=validation, callbacks=callbacks, progress=progress,
    )  # fmt: skip
    return loop.finish()


def resume(
    path: str | os.PathLike[str],
    X: ArrayLike | Rows | Iterable[Batch],
    y: ArrayLike | Rows | None = None,
    *,
    sample_weight: ArrayLike | Rows | None = None,
    validation: tuple[ArrayLike | Rows, ArrayLike | Rows] | Iterable[Batch] | None = None,
    optimizer: Optimizer | None = None,
    n_threads: int | None = None,
    callbacks: Iterable[Callable[[Event], None]] = (),
    progress: bool = False,
) -> TrainingResult:
    """Goes on with a training from its checkpoint, to its end.

    Everything else is as `train` was told, and the training ends as it would have without a break, bit for bit: weights, ranks,
    moments, the order of samples, the schedule, the history. The file is written on as the training goes on. One of a training that
    had ended gives its result.

    Parameters
    ----------
    path : path
        What `train` was given as `checkpoint`.
    X, y, sample_weight, validation : as in `train`
        The same data. Arrays in memory are told from others by all their numbers, row sources by some rows of them (of validation all), an
        iterable by its first batch. An iterable of batches, or an iterator, is run through from its beginning up to where the training
        was, and so has to give the same batches as then.
    optimizer : Optimizer, optional
        In place of the one that the training had, moments apart, which have to be of the same kinds. Only needed where it, or its learning
        rate, is of a class or a function of the user's own, which the file does not have.
    n_threads : int, optional
        By default as many as before.
    callbacks : iterable of callable
        As in `train`; they are not in the file, nor is what they remember. Of a training that had ended they are told the recomposition.
    progress : bool
        Show a bar on stderr (needs tqdm: the extra `progress`).

    Returns
    -------
    TrainingResult
        Of the whole training; its network is a new one.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no checkpoint, is damaged or of another version of the format, or was made with other data.
    TypeError, ValueError, FloatingPointError
        As in `train`.

    Notes
    -----
    Bit for bit holds on the same kind of machine with the same versions of packages and, unless the training is `reproducible`, the same
    number of threads; with ranks="auto" it holds from the choice of ranks on, which times the steps on the machine.

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
    >>> sf.train(net, *data.train, epochs=400, checkpoint=path, checkpoint_every=100, callbacks=[power_cut])
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
    values = read(path)
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
    with _refusing(path):
        arguments = Arguments(**values["arguments"])
        state, data = values["state"], values["data"]
        net = _first_network(values["network"], state["run"])
        rng = _generator(state["generator"])
        n_moments, known, every = len(state["run"]["moments"]), state["optimizer"], values["every"]
        if optimizer is None and known is not None:
            optimizer = parse_optimizer(known)
        arguments = replace(arguments, n_threads=resolve_threads(arguments.n_threads if n_threads is None else n_threads))
        has_validation = data["validation"] is not None
    if optimizer is None:
        raise ValueError(
            f"optimizer: expected the one that the training had, got None: {os.fspath(path)!r} does not have it, as it, or its learning "
            "rate, is of a class or a function of your own"
        )
    if len(optimizer.kinds) != n_moments:
        raise ValueError(f"optimizer: expected one of {n_moments} moments, as the training had, got {optimizer}")
    if (validation is not None) != has_validation:
        expected, got = ("those that the training had", "none") if has_validation else ("none, as before", "some")
        raise ValueError(f"validation: expected {expected}, got {got}")
    loop = _loop(
        net, X, y, arguments, optimizer, rng, Checkpoint(path, every, resumed=True),
        sample_weight=sample_weight, validation=validation, callbacks=callbacks, progress=progress,
    )  # fmt: skip
    for name, names in (("training", "X, y, sample_weight"), ("validation", "validation")):
        if loop.about["data"][name] != data.get(name):
            raise ValueError(f"{names}: expected the data that {os.fspath(path)!r} was made with, got others")
    with _refusing(path):
        loop.restore(state)
    return loop.finish()


def _loop(
    net: Network,
    X: ArrayLike | Rows | Iterable[Batch],
    y: ArrayLike | Rows | None,
    a: Arguments,
    optimizer: Optimizer,
    rng: np.random.Generator,
    checkpoint: Checkpoint | None,
    *,
    sample_weight: ArrayLike | Rows | None,
    validation: tuple[ArrayLike | Rows, ArrayLike | Rows] | Iterable[Batch] | None,
    callbacks: Iterable[Callable[[Event], None]],
    progress: bool,
) -> Loop:
    """A training that has not begun, of checked arguments. The network is as it was."""
    epochs = count("epochs", a.epochs)
    l1 = positive_number("l1", a.l1, or_zero=True)
    l2 = positive_number("l2", a.l2, or_zero=True)
    one_of("svd_method", a.svd_method, ("exact", "randomized"))
    one_of("split", a.split, ("balanced", "left", "right"))
    callbacks = tuple(listed("callbacks", callbacks, "callables"))
    if not all(callable(callback) for callback in callbacks):
        raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
    automatic = isinstance(a.ranks, str) and a.ranks == "auto"
    pretrain_fraction = a.pretrain_fraction
    if pretrain_fraction is None:
        pretrain_fraction = LATEST_SWITCH if automatic else PRETRAIN_FRACTION
    pretrain_fraction = fraction("pretrain_fraction", pretrain_fraction)
    recompose_fraction = a.recompose_fraction
    if recompose_fraction is None:
        recompose_fraction = min(DENSE_TAIL, 1 - pretrain_fraction) if automatic else 0.0
    recompose_fraction = fraction("recompose_fraction", recompose_fraction)
    one_of("moments", a.moments, ("carry", "restart"))
    factor: float | tuple[float, ...] | Literal["auto"] = "auto"
    if isinstance(a.factor_learning_rate, Sequence) and not isinstance(a.factor_learning_rate, str):
        factor = tuple(
            positive_number(f"factor_learning_rate[{i}]", scale) for i, scale in enumerate(a.factor_learning_rate)
        )
        if len(factor) != len(net.layers):
            raise ValueError(
                f"factor_learning_rate: expected {len(net.layers)} numbers, one for each layer, got {len(factor)}"
            )
    elif a.factor_learning_rate != "auto":
        factor = positive_number("factor_learning_rate", a.factor_learning_rate)
    guard_tolerance = a.guard_tolerance
    if guard_tolerance is not None:
        guard_tolerance = positive_number("guard_tolerance", guard_tolerance, or_zero=True)
        if validation is None:
            raise ValueError("guard_tolerance: expected validation data with it, got none")
    product_decay = positive_number("product_decay", a.product_decay, or_zero=True)
    one_of("guard_action", a.guard_action, ("raise", "delay", "undo"))
    rule: RankRule | Literal["auto"] | None = None
    if automatic:
        rule = "auto"
    elif a.ranks is not None:
        rule = resolve_rule(net.layout, None, a.ranks)
    elif a.rank_fraction is not None:
        rule = resolve_rule(net.layout, a.rank_fraction, None)
    if rule is not None and pretrain_fraction < 1 and pretrain_fraction + recompose_fraction > 1:
        raise ValueError(
            "pretrain_fraction, recompose_fraction: expected at most 1 together, "
            f"got {pretrain_fraction} and {recompose_fraction}"
        )
    bfloat16 = resolve_precision(a.precision, net.dtype)
    spec = spec_of(net, a.loss)
    evaluator = None
    if validation is not None:
        evaluator = Evaluator(open_validation(validation, spec), a.n_threads, reproducible=a.reproducible)
    source = open_source(
        X, y, sample_weight, spec, rng, batch_size=a.batch_size, shuffle=a.shuffle, steps_per_epoch=a.steps_per_epoch,
        n_sampled=0 if rule is None or net.is_factored else SAMPLE,
    )  # fmt: skip

    settings = Settings(
        rule, pretrain_fraction, recompose_fraction, a.force, bool(a.activation_aware), a.svd_method, a.split, a.moments,
        factor, guard_tolerance, a.guard_action, product_decay,
    )  # fmt: skip
    run = Run(net, source.data, optimizer, a.n_threads, source.batch_size, l1, l2, bfloat16, a.reproducible)
    about: dict[str, Any] = {}
    if checkpoint is not None:
        # Numbers of any type, and sequences, as the checks have made plain values of them.
        a = replace(a, ranks=list(rule.ranks) if isinstance(rule, Given) else a.ranks, factor_learning_rate=factor, l1=l1, l2=l2)
        about = _about(net, a, rng, checkpoint, source)
        blocks: Iterable[Samples] = () if evaluator is None else evaluator.blocks()
        if not isinstance(validation, tuple | list):
            blocks = islice(blocks, 1)
        known = fingerprint(array for block in blocks for array in block.arrays)
        about["data"]["validation"] = None if evaluator is None else known
    return Loop(run, settings, source, rng, evaluator, epochs, bool(a.recompose), callbacks, checkpoint, about, progress)


def _about(
    net: Network, arguments: Arguments, rng: np.random.Generator, checkpoint: Checkpoint, source: Source
) -> dict[str, Any]:
    """What a checkpoint has beside the training's state."""
    from svdfast import __version__

    generator = type(rng.bit_generator).__name__
    if _GENERATORS.get(generator) is not type(rng.bit_generator):
        raise TypeError(f"seed: expected one of {', '.join(_GENERATORS)} with a checkpoint, got a {generator}")
    return {
        "svdfast": __version__,
        "every": checkpoint.every,
        "arguments": vars(arguments),
        "network": {**layout_header(net.layout), "uint8_scale": net.uint8_scale, "dtype": net.dtype.name},
        "data": {
            "training": f"{source.steps_per_epoch} steps, {source.n_samples} samples, {fingerprint(source.known_by())}",
        },
    }


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    """A generator in this state. NumPy does not look at the places in these two's buffers."""
    kind = state["bit_generator"]
    if kind == "MT19937":
        count("pos", state["state"]["pos"], minimum=0, maximum=624)
    elif kind == "Philox":
        count("buffer_pos", state["buffer_pos"], minimum=0, maximum=4)
    bits = _GENERATORS[kind]()
    bits.state = state
    return np.random.Generator(bits)


def _first_network(first: Mapping[str, Any], run: Mapping[str, Any]) -> Network:
    """The network that a training began with, of the same layers as it has now, all parameters zero."""
    layout, now = parse_layout(first), parse_layout(run["layout"])
    one_of("dtype", first["dtype"], ("float32", "float64"))
    parameters = run["parameters"]
    if parameters.shape != (now.size,) or parameters.dtype.name != first["dtype"] or now.with_ranks(layout.ranks) != layout:
        raise ValueError("its parameters are not those of the layers that it began with")
    net = made_network(now, parameters, positive_number("uint8_scale", first["uint8_scale"]))
    return net.shaped(layout.ranks[:-1])  # memory that nobody has touched


@contextlib.contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Says of which file it is that something in it is not as it should be."""
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"path: {os.fspath(path)!r} is not a checkpoint of a training: {error}") from None
