# SPDX-License-Identifier: BSD-3-Clause
"""The four steps of the method: dense pre-training, truncation, training of the factors, recomposition.

The function that users call is here. Elsewhere: the checks of its arguments (prepare.py), the loop
(loop.py), the work between steps (switch.py), the computation of a step (the compiled engine) and
truncation (svdfast/model/truncation.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from svdfast._process.runtime import resolve_threads
from svdfast.data.batches import Batch
from svdfast.data.rows import Rows
from svdfast.distributed import Communicator
from svdfast.model.network import Network
from svdfast.training.checkpoint import Checkpoint
from svdfast.training.continuing import Continuing
from svdfast.training.events import Event
from svdfast.training.factoring import Factoring, factoring_of
from svdfast.training.loop import Loop
from svdfast.training.optimizers import Optimizer, optimizer_of
from svdfast.training.prepare import prepare
from svdfast.training.result import TrainingResult
from svdfast.training.stopping import EarlyStopping, early_stopping_of
from svdfast.training.team import Team

__all__ = ["train"]


def train(
    net: Network,
    X: ArrayLike | Rows | Iterable[Batch],
    y: ArrayLike | Rows | None = None,
    *,
    epochs: int = 20,
    batch_size: int | None = None,
    optimizer: Optimizer | str | None = None,
    loss: str | None = None,
    factoring: Factoring | float | str | None = "auto",
    early_stopping: EarlyStopping | bool | None = None,
    clip_norm: float | None = None,
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
    carry_state: bool = False,
    callbacks: Iterable[Callable[[Event], None]] = (),
    progress: bool | str = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    communicator: Communicator | None = None,
) -> TrainingResult:
    """Trains a network in place by the four steps.

    1. A share φ of all steps with dense weights; 2. truncated SVD of each hidden weight, W ≈ W1·W2;
    3. the other steps on the factors; 4. recomposition, W = W1·W2.

    A network that is factored already continues with steps 3 and 4. With `factoring=None` a dense
    network stays dense throughout, with the same engine.

    Parameters
    ----------
    net : Network
        The network to train. It is changed in place.
    X : array_like (n_samples, n_inputs), sparse matrix, row source, or iterable of batches
        Real numbers, finite; sequences and images may also have the shape (n_samples, ...), as
        `Input` says. uint8, float32 and float64 arrays with contiguous rows, a numpy.memmap too,
        are read in place, never copied as a whole.

        A DataFrame (pandas, polars) has columns of numbers or bools without missing values;
        nullable types are accepted, too. The network keeps the names of its columns
        (`net.feature_names`). Later DataFrames must have the same names in the same order.

        A row source is an object that has `shape`, `dtype` and slices of rows, and is not in
        memory: an h5py.Dataset, a zarr.Array. Each epoch reads blocks of rows into a pool of 64
        MiB. A data set that fits in the pool is read only once. A memmap of another type, or with
        rows that are not contiguous, is read in the same way.

        A sparse matrix or array of SciPy trains the network that its dense rows would train, up to
        rounding. If at most an eighth of its numbers is stored, no row is ever dense: the first
        weight meets the stored numbers alone. Its update goes over all columns, because a moment
        moves a weight without a gradient, too. "sgd" without momentum, decay and penalties updates
        only the columns that a batch has. In other cases the rows of a tile are made dense: if the
        first layer is not fully connected, with "bfloat16", or if more numbers are stored.

        An iterable of batches, without y, gives (X, y) or (X, y, sample_weight) for each step.
        Batches may have any sizes, and each epoch iterates again. With an iterator, such as a
        generator, each epoch takes the next `steps_per_epoch` batches. A batch's arrays may be
        reused for the next batch, but not in validation data. If the network takes any number of
        steps, all batches must have the same.
    y : array_like (n_samples,) or (n_samples, n_outputs), or row source
        Class numbers or one-hot rows for cross_entropy; values from 0 to 1 for
        binary_cross_entropy; counts or rates ≥ 0 for poisson; any numbers for the other losses. If
        the output is softmax, or one sigmoid, labels may be text or bools. The sorted labels become
        the classes 0, 1, ..., and the network keeps them (`net.classes`). A pandas or polars Series
        or DataFrame is accepted, too. A network with an output after each step takes numbers:
        classes (n_samples, steps), or values (n_samples, steps, n_outputs).
    epochs : int
        Passes over the data, ≥ 1.
    batch_size : int, optional
        Samples in a mini-batch, by default 256; the last of an epoch may be smaller. An iterable of
        batches takes no batch_size.
    optimizer : Optimizer or str, optional
        A name, "adam" (by default), "adamw" or "sgd", has the settings of its class, and a rate
        that falls to 0 over the last 30 % of the steps: `Adam(schedules.Cooldown(1e-3))`. An
        optimizer's state continues if the network's layout is the one that it was used with last;
        else it starts again.
    loss : str, optional
        By default the loss depends on the output's activation: "cross_entropy" with softmax,
        "binary_cross_entropy" with sigmoid, "poisson" with exp, else "mean_squared_error". Any
        output may have "mean_squared_error", "mean_absolute_error" or "huber", which is quadratic
        up to a distance of 1 and linear beyond.
    factoring : Factoring, float, str or None
        How hidden weights are factored. "auto" decides about each layer by itself: it compares what
        a truncation costs in loss with the time that it saves. `result.explain()` reports its
        decisions. A number is α, the ranks' share of each weight's smaller side. A `Factoring` has
        all settings. None trains dense throughout.
    early_stopping : EarlyStopping or bool, optional
        End the training when the validation loss no longer falls, and keep the network of the best
        epoch. True has the default settings.
    clip_norm : float, optional
        Largest Euclidean norm of the gradient, penalties included: a longer gradient is scaled down to it before the update.
    l1, l2 : float
        Penalties l1·Σ|w|/p + l2·Σw²/(2p) over the weights, or over the factors of a factored layer.
        p is the number of samples in a mini-batch, or of their steps if each has a target, or the
        sum of the weights.
    sample_weight : array_like (n_samples,) or row source, optional
        An iterable of batches has them in its batches. With a target for each step they may also be
        (n_samples, steps).
    validation : (X, y), or iterable of batches, optional
        Evaluated after each epoch. Row sources are read in blocks, again each time. An iterable of
        batches is no tuple or list, and can be iterated again and again.
    precision : {"float32", "float64", "bfloat16"}, optional
        Precision of the matrix products in training. "bfloat16" needs a float32 network and rounds
        the operands to 8 bits of precision. Sums, weights, moments, activations and gradients stay
        float32 (see `svdfast.kernels` for NaN, infinity and the smallest numbers). Validation, the
        guard and the choice of ranks use the network in float32. It is faster if the CPU has
        instructions for it (`show_config`) and layers have some width; else a warning is logged. By
        default the network's dtype.
    n_threads : int, optional
        By default as many as OpenMP would use and the process may run on.
    reproducible : bool
        Make the result independent of `n_threads`, bit-identical. A step of a large batch may then
        take up to a tenth longer. If products are BLAS's (in a float64 network, and on CPUs without
        AVX2), it may take up to a seventh longer. A small batch by BLAS only uses as many threads
        as it has times 64 rows.
    seed : int, numpy.random.Generator or None
        Seed for the order of the samples, and for `layers.Dropout`.
    shuffle : bool, optional
        Take samples in a new order each epoch, by default True. If one mini-batch holds them all,
        their order is kept. A row source is shuffled by blocks and within the pool, see Notes. An
        iterable of batches takes no shuffle.
    steps_per_epoch : int, optional
        The number of batches in an epoch, for an iterable of batches only. By default its length;
        needed if it has none.
    carry_state : bool
        Begin each row of a batch with the state, and an LSTM's memory, with which the same row of
        the batch before ended, in all recurrent layers. Each epoch begins with zeros. No gradient
        goes from batch to batch (truncated backpropagation). Rows are then taken in order, and all
        batches have one size; see `sequences.streams`. The network may have no bidirectional layer.
        Everything else begins with zeros: predictions, evaluation, validation, the guard, and the
        looks of "auto".
    callbacks : iterable of callable
        Called with each `Event`: after epochs, looks, switch, guard and recomposition, and by early
        stopping. A callback that raises `StopTraining` ends the training (the network is then
        recomposed if it would have been).
    progress : bool or str
        Show a bar on stderr (needs tqdm: the extra `progress`). A str is shown before it.
    checkpoint : path, optional
        File for the training's whole state, from which `resume` continues. It is replaced only when
        the next state is completely written. The file must not exist yet.
    checkpoint_every : int, optional
        Steps from one state to the next; by default one is written at the end of each epoch. The
        first is written before the first step, the last after the last.
    communicator : svdfast.distributed.Communicator, optional
        The processes that train together: `svdfast.distributed.mpi()` under `mpiexec`. All must make the same call. See Notes.

    Returns
    -------
    TrainingResult

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or does not fit: labels of other classes than the
        network's, say, or a DataFrame with text, or with other columns than before. Nothing was
        changed then. These errors may also come while rows or batches are read, or if an iterator
        ends too early. Then the network is as the last step left it.
    NotFinite
        NaN or infinity in the loss of a step, in weights, in the optimizer's moments, or in the
        values that the switch checks. It is a FloatingPointError. It names the step, the layer, the
        likely cause, and the network's present state; see Notes.
    numpy.linalg.LinAlgError
        No method to decompose a weight converged (`truncated_svd`); the network is as the last step
        left it.
    FileExistsError
        The checkpoint's file exists already.
    OSError
        The checkpoint can't be written; the file is unchanged.
    RuntimeError
        Another thread uses the network, or another training the optimizer; nothing was changed.
        With a communicator also if a process has other parameters than process 0 at the end of an
        epoch.

    Notes
    -----
    On one kind of machine the same seed and number of threads give bit-identical results. With
    `reproducible` the same seed does, whatever the number of threads. After a truncation "auto"
    checks by the clock that steps are faster; with `reproducible` it does not.

    If states are carried, a row with padding at its end (`layers.Masking`) carries those of its
    last real step. Truncation and recomposition leave them unchanged, and so does a step whose loss
    is not finite.

    Ctrl-C ends the training between two steps; the network stays usable, in whatever phase it was.
    An error in reading a row source or an iterable is passed on, and the network stays usable, too.

    If a step's loss is not finite, the step is skipped: weights and moments keep their values, so
    good weights stay good. This happens if the data have changed since they were checked. If
    weights are not finite, or have blown up and let a layer's outputs overflow, the last good ones
    are restored, and the optimizer starts again. The last good ones are those of the beginning, of
    the last change of form, or of the end of an epoch, at least 100 steps apart. They take one more
    vector of the parameters' size.

    A row source is shuffled by blocks of consecutive rows: 1 MiB, in whole chunks of the file. Each
    epoch takes the blocks in a new random order, about 64 at a time, and shuffles the rows of these
    64. So each sample comes once an epoch, and a batch is drawn from up to 64 places in the data. A
    file with chunks of more than 1 MiB has larger blocks, and fewer at a time, down to eight. If a
    file is sorted by class or by time into more than 64 stretches, shuffle it before. With
    `shuffle=False` rows are taken in order, and results are bit-identical to those of arrays in
    memory.

    With a communicator each process trains on a share of the rows of every batch. `batch_size`
    counts the rows of all processes, and a batch has the same rows for any number of them. Each
    step sums the gradients in one message. Process 0 gives the first weights and the seed. It alone
    chooses ranks, decomposes weights, calls callbacks, shows a bar and writes checkpoints. A
    callback with an attribute `everywhere` that is true is called in all processes, after those of
    process 0. The result is equal to that of one process up to rounding.

    With `reproducible` results are bit-identical for any number of processes. A batch is then
    divided into 4, 8, 16, ... parts of at most 256 rows, which costs memory traffic. P > 2
    processes send P/2 times as many bytes. Only a power of two of processes, at most one for each
    part, have rows. A training without a communicator sums in another order, so its bits are
    others.

    Each process gives all samples, or a row source of which it reads only its own rows. A shuffled
    row source is then divided into four or more stretches, and a batch has rows of each. Its
    batches are the same for 1, 2 and 4 processes, and with `reproducible` for any number. With an
    iterable each process gives its own batches, as many as the others. These cannot be
    `reproducible`, nor carry states.

    An error of all processes is raised in all. An error of one process alone ends all of them, as
    does Ctrl-C. `resume` also continues with another number of processes.

    `activation_aware` and "auto" use a sample of the inputs. They take it from the pool, or from
    the first batches.

    References
    ----------
    The paper, sections 3.3.2 and 3.3.3.

    Examples
    --------
    >>> import numpy as np
    >>> import svdfast as sf
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype="float32")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=1)
    >>> method = sf.Factoring(1 / 4, force=True)
    >>> adam = sf.Adam(0.01)
    >>> result = sf.train(net, X, [0, 1, 1, 0], epochs=800, optimizer=adam, factoring=method)
    >>> result.history[-1]["phase"], result.history[-1]["loss"] < 0.05
    ('factored', True)
    >>> [round(float(p)) for p in net.predict(X)[:, 0]]
    [0, 1, 1, 0]

    Labels may be text:

    >>> net = sf.Network([2, 20, 2], seed=1)
    >>> y = ["same", "other", "other", "same"]
    >>> result = sf.train(net, X, y, epochs=300, optimizer=sf.Adam(0.01))
    >>> net.classes
    ('other', 'same')
    >>> [net.classes[i] for i in net.predict(X).argmax(axis=1)]
    ['same', 'other', 'other', 'same']
    """
    team = Team(communicator)
    continuing = checkpoint if isinstance(checkpoint, Continuing) else None

    def place() -> Checkpoint | None:
        if checkpoint is None or continuing is not None:
            return continuing
        return Checkpoint(checkpoint, checkpoint_every, looks=team.first)

    def prepared() -> Loop:
        if not isinstance(net, Network):
            raise TypeError(f"net: expected a Network, got {type(net).__name__}")
        if checkpoint is None and checkpoint_every is not None:
            raise ValueError(f"checkpoint_every: expected None without a checkpoint, got {checkpoint_every!r}")
        stopping, threads = early_stopping_of(early_stopping), resolve_threads(n_threads, team.n_threads)
        loop = prepare(
            net, X, y, factoring_of(factoring), optimizer_of(optimizer), np.random.default_rng(seed),
            place(),
            epochs=epochs, batch_size=batch_size, loss=loss, clip_norm=clip_norm, l1=l1, l2=l2, precision=precision,
            n_threads=threads, reproducible=reproducible, shuffle=shuffle, steps_per_epoch=steps_per_epoch,
            carry_state=carry_state, sample_weight=sample_weight, validation=validation, callbacks=callbacks,
            progress=progress, early_stopping=stopping, team=team,
        )  # fmt: skip
        if continuing is not None and values is not None:
            continuing.restore(loop, values)
        return loop

    with team:
        values = None if continuing is None else team.of_first(team.together(continuing.read))
        return team.together(prepared).finish()
