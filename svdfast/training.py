# SPDX-License-Identifier: BSD-3-Clause
"""The four steps of the method: dense pre-training, truncation, training of the factors, recomposition.

Here is the schedule (φ, α), the loop over epochs and mini-batches, and the history. Not here: what a step computes (the compiled
engine) and what truncation is (network.py, svd.py).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from svdfast._checks import count, fraction, one_of, positive_number
from svdfast._runtime import resolve_precision, resolve_threads, single_threaded_blas
from svdfast.counting import count_multiplications
from svdfast.diagnosis import Watch
from svdfast.method import SAMPLE, Event, Method, Run, Settings
from svdfast.network import Evaluator, Network, TrainingData, evaluation_blocks, resolve_loss
from svdfast.optimizers import Adam, Optimizer
from svdfast.ranks import RankRule, resolve_rule
from svdfast.schedules import Constant
from svdfast.sources import (
    ArraySource,
    Batch,
    BatchSource,
    Reader,
    Rows,
    RowSource,
    Source,
    is_iterable_of_batches,
    settled,
    validation_batches,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Event", "StopTraining", "TrainingResult", "train"]


# φ where the user does not say: docs/reproduction.md, "The study".
PRETRAIN_FRACTION = 0.05

# With ranks="auto": the share of the steps after which the switch comes at the latest, and that after recomposition.
LATEST_SWITCH = 0.1
DENSE_TAIL = 0.1


class StopTraining(Exception):
    """Raised by a callback to end a training early; the result is returned as far as it got."""


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
        (its steps; not the switch, nor validation), and with validation data `val_loss` and `val_accuracy`. Recomposition adds a row
        of phase "recomposed" with the validation of the recomposed network, no steps and a loss of NaN.
    events : list of Event
        What happened between steps: the choice of ranks, the switch, the guard, recomposition.
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
        >>> print(sf.train(net, *data.train, epochs=1, rank_fraction=None).explain())
        dense throughout: 1 step
        """
        return explain(self)

    def plot(self, against: Literal["seconds", "epochs"] = "seconds", *, figure: Figure | SubFigure | None = None) -> Figure | SubFigure:
        """Draws the losses, and the accuracy where there is validation of classes.

        Phases are shaded, and the switch, the guard and recomposition marked at the very place where they came; what lies between two
        phases is the time that they took themselves. Needs matplotlib: the extra `plot`.

        Parameters
        ----------
        against : {"seconds", "epochs"}
            The horizontal axis. Seconds are those of training, as `seconds` has them.
        figure : matplotlib.figure.Figure or SubFigure, optional
            To draw in, such as `plt.figure(layout="constrained")` for a window; the legend lies above the panels where that is the layout,
            else within one. By default a new figure that pyplot knows nothing of: notebooks show it, `savefig` writes it.

        Returns
        -------
        matplotlib.figure.Figure or SubFigure
            Its `axes` are the loss's and the accuracy's.

        Raises
        ------
        ImportError
            matplotlib is not there.
        TypeError, ValueError
            An argument is of the wrong kind, or no epoch was finished.

        Examples
        --------
        >>> import svdfast as sf
        >>> data = sf.datasets.load("xor")
        >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
        >>> result = sf.train(net, *data.train, epochs=50)
        >>> figure = result.plot("epochs")  # doctest: +SKIP
        >>> figure.savefig("training.png")  # doctest: +SKIP
        """
        from svdfast import plots

        return plots.plot_training(self, against, figure)


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
    seed: int | np.random.Generator | None = 0,
    shuffle: bool | None = None,
    steps_per_epoch: int | None = None,
    callbacks: Iterable[Callable[[Event], None]] = (),
    progress: bool = False,
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

    Notes
    -----
    The same seed and number of threads give bit-identical results. Ctrl-C ends the training between two steps; the network
    stays usable, in whatever phase it was. What reading a row source or an iterable raises goes through, and leaves it so, too.

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
    epochs = count("epochs", epochs)
    in_batches = y is None and is_iterable_of_batches(X)
    if in_batches:
        given = {"batch_size": batch_size, "shuffle": shuffle, "sample_weight": sample_weight}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: expected None with an iterable of batches, got {value!r}")
    elif steps_per_epoch is not None:
        raise ValueError(
            f"steps_per_epoch: expected None with samples that are not an iterable of batches, got {steps_per_epoch!r}"
        )
    batch_size = 256 if batch_size is None else count("batch_size", batch_size)
    shuffle = True if shuffle is None else bool(shuffle)
    l1 = positive_number("l1", l1, or_zero=True)
    l2 = positive_number("l2", l2, or_zero=True)
    one_of("svd_method", svd_method, ("exact", "randomized"))
    one_of("split", split, ("balanced", "left", "right"))
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
    callbacks = tuple(callbacks)
    if not all(callable(callback) for callback in callbacks):
        raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
    automatic = isinstance(ranks, str) and ranks == "auto"
    if pretrain_fraction is None:
        pretrain_fraction = LATEST_SWITCH if automatic else PRETRAIN_FRACTION
    pretrain_fraction = fraction("pretrain_fraction", pretrain_fraction)
    if recompose_fraction is None:
        recompose_fraction = min(DENSE_TAIL, 1 - pretrain_fraction) if automatic else 0.0
    recompose_fraction = fraction("recompose_fraction", recompose_fraction)
    one_of("moments", moments, ("carry", "restart"))
    if isinstance(factor_learning_rate, Sequence) and not isinstance(factor_learning_rate, str):
        scales = [positive_number(f"factor_learning_rate[{i}]", s) for i, s in enumerate(factor_learning_rate)]
        if len(scales) != len(net.layers):
            raise ValueError(
                f"factor_learning_rate: expected {len(net.layers)} numbers, one for each layer, got {len(scales)}"
            )
        factor_learning_rate = tuple(scales)
    elif factor_learning_rate != "auto":
        factor_learning_rate = positive_number("factor_learning_rate", factor_learning_rate)
    if guard_tolerance is not None:
        guard_tolerance = positive_number("guard_tolerance", guard_tolerance, or_zero=True)
        if validation is None:
            raise ValueError("guard_tolerance: expected validation data with it, got none")
    product_decay = positive_number("product_decay", product_decay, or_zero=True)
    one_of("guard_action", guard_action, ("raise", "delay", "undo"))
    rule: RankRule | Literal["auto"] | None = None
    if automatic:
        rule = "auto"
    elif ranks is not None:
        rule = resolve_rule(net.layout, None, ranks)
    elif rank_fraction is not None:
        rule = resolve_rule(net.layout, rank_fraction, None)
    if rule is not None and pretrain_fraction < 1 and pretrain_fraction + recompose_fraction > 1:
        raise ValueError(
            "pretrain_fraction, recompose_fraction: expected at most 1 together, "
            f"got {pretrain_fraction} and {recompose_fraction}"
        )
    bfloat16 = resolve_precision(precision, net.dtype)
    threads = resolve_threads(n_threads)
    rng = np.random.default_rng(seed)
    by_name = resolve_loss(net, loss)
    evaluator = None
    if validation is not None:
        if not isinstance(validation, tuple | list):
            evaluator = Evaluator(validation_batches(net, validation, by_name), threads)
        elif len(validation) == 2:
            names = ("validation X", "validation y")
            evaluator = Evaluator(
                evaluation_blocks(net, validation[0], validation[1], loss, names=names), threads
            )
        else:
            raise TypeError(
                "validation: expected a pair (X, y), or an iterable of batches that is no tuple or list"
            )
    source: Source
    if in_batches:
        n_sampled = 0 if rule is None or net.is_factored else SAMPLE
        source = BatchSource(net, X, by_name, steps_per_epoch, n_sampled)  # type: ignore[arg-type]
    else:
        samples, targets, weights, in_blocks = settled(net, X, y, sample_weight)
        if in_blocks:
            reader = Reader(net, samples, targets, by_name, weights)
            source = RowSource(reader, batch_size, shuffle, rng)
        else:
            data = TrainingData(net, samples, targets, loss, weights)
            source = ArraySource(data, batch_size, shuffle, rng)

    n_steps = epochs * source.steps_per_epoch

    result = TrainingResult(net)
    run = Run(net, source.data, optimizer, threads, source.batch_size, l1, l2, bfloat16)
    watch = Watch(run)

    def tell(event: Event) -> None:
        for callback in callbacks:
            callback(event)

    def spend(seconds: float) -> None:
        result.seconds += seconds

    def dense_seconds() -> float:
        """Seconds of a step so far, without what it takes to read samples."""
        seconds: float = sum(p["seconds"] for p in result.phases)
        return max(seconds - source.seconds, 0.0) / max(result.n_steps, 1)

    method = Method(
        run,
        Settings(
            rule, pretrain_fraction, recompose_fraction, force, bool(activation_aware), svd_method, split,
            moments, factor_learning_rate, guard_tolerance, guard_action, product_decay,
        ),
        n_steps, evaluator, tell, watch.diverged, dense_seconds, spend,
    )  # fmt: skip
    result.events = method.events

    # Steps and their seconds since the network took the form that it has.
    since, spent = 0, 0.0

    def close_phase() -> None:
        nonlocal since, spent
        if result.n_steps > since:
            form = {"phase": run.phase, "multiplications": count_multiplications(net.shaped(run.ranks)).total}
            if not result.phases or not form.items() <= result.phases[-1].items():
                result.phases.append(form | {"steps": 0, "seconds": 0.0})
            result.phases[-1]["steps"] += result.n_steps - since
            result.phases[-1]["seconds"] += spent
            since, spent = result.n_steps, 0.0

    epoch = 1
    bar = _progress_bar(n_steps) if progress else None
    try:
        with single_threaded_blas.held():
            run.rebuild()
            watch.look(0, epoch)
            for epoch in range(1, epochs + 1):
                total, seconds, rate = 0.0, 0.0, math.nan
                if run.outdated:
                    close_phase()
                    run.follow()
                    watch.look(result.n_steps, epoch)
                schedule = optimizer.schedule
                # A constant is not asked at each step: that would be a tenth of the smallest networks' step.
                constant = schedule.learning_rate if type(schedule) is Constant else None
                batches = source.batches(run)
                began = time.perf_counter()
                for start, stop in batches:
                    if result.n_steps == method.next_step:
                        elapsed = time.perf_counter() - began
                        seconds += elapsed
                        spent += elapsed
                        result.seconds += elapsed
                        close_phase()
                        method.act(result.n_steps, epoch)
                        run.follow()
                        watch.look(result.n_steps, epoch)
                        if bar is not None:
                            bar.set_postfix_str(run.phase)
                        began = time.perf_counter()
                    rate = schedule(result.n_steps, n_steps) if constant is None else constant
                    value = run.step(start, stop, rate)
                    result.n_steps += 1
                    total += value * (stop - start)
                    if not math.isfinite(value):
                        raise watch.loss(value, start, stop, result.n_steps, epoch)
                    if bar is not None:
                        bar.update()
                elapsed = time.perf_counter() - began
                seconds += elapsed
                spent += elapsed
                result.seconds += elapsed
                if result.n_steps >= watch.due:
                    watch.look(result.n_steps, epoch)
                row: dict[str, Any] = {
                    "epoch": epoch,
                    "step": result.n_steps,
                    "phase": run.phase,
                    "loss": total / source.n_samples,
                    "learning_rate": rate,
                    "seconds": seconds,
                }
                if evaluator is not None:
                    _add_validation(row, evaluator, net)
                result.history.append(row)
                if bar is not None:
                    bar.set_postfix_str(f"{run.phase}, loss {row['loss']:.4f}")
                if callbacks:
                    tell(Event("epoch", epoch, result.n_steps, net, row))
    except StopTraining:
        pass
    finally:
        if bar is not None:
            bar.close()
    close_phase()

    watch.look(result.n_steps, epoch, always=True)
    if recompose and net.is_factored:
        with single_threaded_blas.held():
            seconds = method.recompose(result.n_steps, epoch, say=False)
            watch.look(result.n_steps, epoch)
            result.seconds += seconds
            row = {"epoch": epoch, "step": result.n_steps, "phase": "recomposed", "loss": math.nan}
            row |= {"learning_rate": math.nan, "seconds": seconds}
            if evaluator is not None:
                _add_validation(row, evaluator, net)
        result.history.append(row)
        result.events.append(Event("recompose", epoch, result.n_steps, net, {"seconds": seconds}))
        with contextlib.suppress(StopTraining):
            tell(result.events[-1])
    return result


def explain(result: TrainingResult) -> str:
    """The text of `TrainingResult.explain`."""
    lines = []
    for event in result.events:
        info = event.info
        if event.kind == "ranks":
            chosen = "dense" if info["ranks"] is None else f"ranks {_listed(info['ranks'])}"
            lines.append(f"step {event.step}: {info['reason']}; {chosen}, as {info['why']}")
        elif event.kind == "switch":
            ranks = [None if t.skipped else t.rank for t in info["truncations"]]
            scales = ", ".join(f"{scale:.2g}" for scale in info["learning_rate_scales"])
            lines.append(
                f"step {event.step}: weights cut to ranks {_listed(ranks)} in {info['seconds']:.2g} s; "
                f"learning rates × {scales}"
            )
        elif event.kind == "guard":
            lines.append(
                f"step {event.step}: validation loss {info['loss_before']:.4g} before the cut, {info['loss_after']:.4g} after it, "
                f"{info['loss_recovered']:.4g} now: {info['action']}"
            )
        elif event.kind == "recompose":
            lines.append(f"step {event.step}: dense again")
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


def _listed(ranks: Iterable[int | None]) -> str:
    return ", ".join("dense" if rank is None else str(rank) for rank in ranks)


def _add_validation(row: dict[str, Any], evaluator: Evaluator, net: Network) -> None:
    evaluation = evaluator(net)
    row["val_loss"] = evaluation.loss
    row["val_accuracy"] = evaluation.accuracy


def _progress_bar(n_steps: int) -> Any:
    try:
        from tqdm.auto import tqdm  # a widget in a notebook, text where there are no widgets
    except ImportError:
        raise ImportError(
            'progress=True needs tqdm: pip install "svdfast[progress]"'
        ) from None
    return tqdm(total=n_steps, unit="step", leave=False)
