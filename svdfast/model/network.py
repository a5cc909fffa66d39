# SPDX-License-Identifier: BSD-3-Clause
"""Network: layers over one flat vector of parameters; truncation and recomposition.

Not here: what it gives for data (evaluation.py), training, files and other libraries' models (interop/), figures (plots.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from svdfast._engine import aligned_zeros
from svdfast._process import in_use
from svdfast._process.checks import (
    MAX_SIZE,
    count,
    float_dtype,
    listed,
    one_of,
    positive_number,
    room,
)
from svdfast._process.runtime import single_threaded_blas
from svdfast._process.text import aligned
from svdfast.data.rows import Rows
from svdfast.model import activations, evaluation, truncation
from svdfast.model.activations import Activation
from svdfast.model.counting import count_multiplications
from svdfast.model.describe import Input, build
from svdfast.model.describe import Layer as LayerOf
from svdfast.model.evaluation import Evaluation
from svdfast.model.initializers import INITIALIZERS, initial_state_weight, initial_weight
from svdfast.model.layer import Layer
from svdfast.model.layers import Scan
from svdfast.model.layout import Layout, check_state
from svdfast.model.origin import Label, Origin
from svdfast.model.products import threads
from svdfast.model.ranks import RankRule, resolve_rule
from svdfast.model.ready import Ready
from svdfast.model.structures import LowRank, Structure, check_kind
from svdfast.model.truncation import Truncation

__all__ = ["Layer", "Network", "Truncation"]


class Network:
    """A network, dense or with factored hidden weights: fully connected by `sizes`, or of the layers in `svdfast.layers`.

    Parameters
    ----------
    sizes : sequence of int, or Input
        Inputs, then outputs of each layer; at least two, each ≥ 1. Or the shape of a sample, and then a list of layers.
    hidden : str or Activation or sequence of them, or list of layers
        Activation of the hidden layers, or of each: one of identity, relu, clipped_relu, hardtanh, leaky_relu, elu, celu,
        gelu, gelu_tanh, silu, softplus, tanh, sigmoid, exp, softmax, or what a function of `svdfast.activations` returns.
    output : str or Activation
        Activation of the last layer; a list of layers has its own. One output takes "sigmoid" or "identity": softmax of one number is
        always 1.
    init : {"glorot", "glorot_uniform", "he"}
        See `svdfast.model.initializers`; "glorot" is the report's. Biases are zero.
    dtype : {"float32", "float64"}
        Of the parameters and of all arithmetic.
    seed : int, numpy.random.Generator or None
        For the first weights.
    uint8_scale : float
        Samples of dtype uint8 are taken for pixels and multiplied with this, 1/255 by default, as they are read. Other
        types are taken as they are.

    Attributes
    ----------
    parameters : ndarray (n_parameters,)
        All weights, layer by layer, then all biases. Writing to it changes the network.
    layers : tuple of Layer
        Views into `parameters`.
    layout : Layout
        Where each layer lies in `parameters`.
    origin : Origin
        What is known of the data that it was trained on.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of its range.

    Notes
    -----
    A network can have one writer or many readers among threads. A call that would break this raises RuntimeError.

    Examples
    --------
    >>> import numpy as np
    >>> import svdfast as sf
    >>> net = sf.Network([784, 512, 256, 10], seed=0)
    >>> net.layers[0]
    <Layer 784 -> 512, relu, dense>
    >>> net.predict(np.zeros((3, 784))).shape
    (3, 10)
    >>> [t.rank for t in net.truncate(rank_fraction=0.25)]
    [128, 64]
    >>> net.layers[0].W1.shape, net.layers[0].W2.shape
    ((512, 128), (128, 784))
    >>> net.recompose()
    >>> net.layers[0].W.shape
    (512, 784)
    """

    def __init__(
        self,
        sizes: Sequence[int] | Input,
        hidden: str | Activation | Sequence[str | Activation] | Sequence[LayerOf] = "relu",
        output: str | Activation = "softmax",
        init: str = "glorot",
        dtype: DTypeLike = "float32",
        seed: int | np.random.Generator | None = None,
        *,
        uint8_scale: float = 1 / 255,
    ):
        if isinstance(sizes, Input):
            if output != "softmax":
                raise ValueError(f"output: expected none with layers, the last of which has its own activation, got {output!r}")
            layout = Layout(build(sizes, listed("layers", hidden, "layers")), sizes.shape)
        else:
            layout = _of_sizes(sizes, hidden, output)
        name = "layers" if isinstance(sizes, Input) else "sizes"
        if layout.size > MAX_SIZE:
            raise ValueError(f"{name}: expected at most {MAX_SIZE} parameters, got {layout.size}")
        _check_output(layout)
        if init not in INITIALIZERS:
            raise ValueError(f"init: expected one of {', '.join(INITIALIZERS)}, got {init!r}")
        kind = float_dtype("dtype", dtype)
        self.uint8_scale = positive_number("uint8_scale", uint8_scale)
        room(name, layout.size * kind.itemsize)
        # Layout and vector belong together, so they change together, in one assignment.
        self._state = layout, aligned_zeros(layout.size, kind)
        self._ready: Ready | None = None
        self._origin = Origin()
        rng = np.random.default_rng(seed)
        for layer, of in zip(self.layers, layout.layers, strict=True):
            if isinstance(of, Scan):
                layer.W[...] = initial_state_weight(layer.n_out, layer.n_in, rng)
            else:
                layer.W[...] = initial_weight(init, layer.n_out, layer.n_in, rng)

    @property
    def state(self) -> tuple[Layout, NDArray[Any]]:
        """`layout` and `parameters` as they belong together."""
        in_use.check(self)
        return self._state

    @property
    def layout(self) -> Layout:
        return self._state[0]

    @property
    def parameters(self) -> NDArray[Any]:
        in_use.check(self)
        return self._state[1]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(self, i) for i in range(len(self.layout.layers)))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._state[1].dtype

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, then outputs of each layer."""
        return self.layout.sizes

    @property
    def is_factored(self) -> bool:
        """Whether any layer is factored."""
        return len(self.layout.factored) > 0

    @property
    def origin(self) -> Origin:
        return self._origin

    @origin.setter
    def origin(self, origin: Origin) -> None:
        _check_origin(origin, self.layout)
        self._origin = origin

    @property
    def classes(self) -> tuple[Label, ...] | None:
        """What the classes 0, 1, ... are called in the data that it was trained on, where that is known."""
        return self._origin.classes

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """What the inputs are called there, where that is known."""
        return self._origin.feature_names

    def __repr__(self) -> str:
        forms = [f"{layer.n_out}{layer.structure.note}" for layer in self.layers]
        return f"<Network {_inputs(self.layout)} -> {' -> '.join(forms)}, {self.dtype}>"

    def summary(self) -> str:
        """A table of the layers: sides, activation, form of the weight, parameters, and multiplications for a sample.

        Multiplications are those of the forward pass and of a whole training step; where samples may have any number of steps, of one
        step. A line counts inputs and outputs; it calls them features and classes where the network knows those of its data, and then
        names them.

        Returns
        -------
        str

        Examples
        --------
        >>> import svdfast as sf
        >>> net = sf.Network([784, 512, 10], seed=0)
        >>> _ = net.truncate(rank_fraction=0.25)
        >>> print(net.summary())
        layer    activation  form      parameters  forward     step
        784-512  relu        rank 128     166,400  165,888  397,312
        512-10   softmax     dense          5,130    5,120   15,360
        total                             171,530  171,008  412,672
        784 inputs, 10 outputs, float32
        """
        layout = self.layout.of_steps(1)
        forward, step = count_multiplications(layout, "forward"), count_multiplications(layout, "step")
        rows = [["layer", "activation", "form", "parameters", "forward", "step"]]
        for i, layer in enumerate(layout.layers):
            numbers = sum(prod(t.shape) for t in layout.of(i)), forward.layers[i].multiplications, step.layers[i].multiplications
            form = [f"{layer.n_in}-{layer.n_out}", layer.name, str(layer.structure)]
            rows.append(form + [f"{number:,}" for number in numbers])
        rows.append(["total", "", "", *(f"{number:,}" for number in (layout.size, forward.total, step.total))])
        inputs = _inputs(layout) if layout.any_steps else f"{self.sizes[0]} {'inputs' if self.feature_names is None else 'features'}"
        outputs = f"{self.sizes[-1]} outputs" if self.classes is None else f"{len(self.classes)} classes"
        return "\n".join([*aligned(rows, n_left=3), f"{inputs}, {outputs}, {self.dtype}", *self.origin.told()])

    @in_use.reads
    def __getstate__(self) -> dict[str, Any]:
        layout, parameters = self._state
        return {"state": (layout, parameters.copy()), "uint8_scale": self.uint8_scale, "origin": self._origin}

    def __setstate__(self, state: dict[str, Any]) -> None:
        layout, parameters = state["state"]
        vector = aligned_zeros(layout.size, parameters.dtype)
        if parameters.ndim or parameters:  # else memory that nobody has touched
            vector[:] = parameters
        self._state = layout, vector
        self._ready = None
        self.uint8_scale = state["uint8_scale"]
        self._origin = state["origin"]

    @in_use.reads
    def copy(self) -> Network:
        """An independent network with the same parameters."""
        return Network.of(*self.state, self.uint8_scale, self._origin)

    @classmethod
    def of(
        cls, layout: Layout, parameters: NDArray[Any], uint8_scale: float, origin: Origin = Origin()  # noqa: B008 (frozen)
    ) -> Network:
        """A network of these layers, with a copy of the parameters; an array of no dimension has one number for all of them."""
        check_state(layout, parameters, or_one=True)
        _check_output(layout)
        uint8_scale = positive_number("uint8_scale", uint8_scale)
        _check_origin(origin, layout)
        room("layout", layout.size * parameters.itemsize)
        net = cls.__new__(cls)
        net.__setstate__({"state": (layout, parameters), "uint8_scale": uint8_scale, "origin": origin})
        return net

    @in_use.reads
    def predict(
        self, X: ArrayLike | Rows, *,
        out: NDArray[Any] | None = None, precision: str | None = None, n_threads: int | None = None, reproducible: bool = False,
    ) -> NDArray[Any]:  # fmt: skip
        """The network's outputs.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs) or (n_samples, ...), sparse matrix, or row source
            Real numbers; uint8 is multiplied with `uint8_scale`. NaN gives NaN. Where the network takes any number of steps, the
            number is that of X. Arrays on disk (h5py.Dataset, zarr.Array) are read in blocks, and DataFrames of numbers are taken, as in
            `train`. Of a sparse matrix the stored numbers are multiplied.
        out : ndarray (n_samples, n_outputs) or (n_samples, steps, n_outputs), optional
            Array for the outputs: of the network's dtype, C-contiguous and writeable. It may overlap X: the outputs are those of X
            as it was.
        precision : {"float32", "float64", "bfloat16"}, optional
            Precision of the matrix products; see `train`.
        n_threads : int, optional
        reproducible : bool
            Give the same bits with any number of threads; see `train`.

        Returns
        -------
        ndarray (n_samples, n_outputs), or (n_samples, steps, n_outputs) where there is an output after each step
            Of the network's dtype; probabilities where the output is softmax or sigmoid. `out`, where it is given.

        Raises
        ------
        TypeError, ValueError
            X is not real or not of the network's shape, a DataFrame's columns are not `feature_names` in their order, or
            `out` is not as it should be, which is then untouched.

        Examples
        --------
        >>> import numpy as np
        >>> import svdfast as sf
        >>> net = sf.Network([784, 512, 10], seed=0)
        >>> out = np.empty((60, 10), dtype="float32")
        >>> net.predict(np.zeros((60, 784), dtype="uint8"), out=out) is out
        True
        """
        ready = self._ready
        if ready is None or ready.state is not self._state:
            ready = self._ready = Ready(self._state)
        if precision in ready.precisions and not reproducible and ready.takes(X, out):
            return ready.predict(X, out, n_threads)
        return evaluation.predict(self, X, out, precision, n_threads, reproducible)

    @in_use.reads
    def evaluate(
        self, X: ArrayLike | Rows, y: ArrayLike | Rows, loss: str | None = None, *,
        sample_weight: ArrayLike | Rows | None = None, precision: str | None = None, n_threads: int | None = None,
        reproducible: bool = False,
    ) -> Evaluation:  # fmt: skip
        """Mean loss, without penalties, and accuracy. Parameters are as for `predict`, and:

        Parameters
        ----------
        y : array_like, or row source
            As in `train`; text must be of the network's `classes`.
        loss : str, optional
            By default the one that goes with the output's activation.
        sample_weight : array_like (n_samples,) or row source, optional
            As in `train`.

        Returns
        -------
        Evaluation
            Accuracy: the share (by weight) of samples, or of steps with an output, whose largest output is the class, or whose outputs
            all lie on their target's side of 1/2; None for other outputs than softmax and sigmoid.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit the network, or there is no sample.
        """
        return evaluation.evaluate(self, X, y, loss, sample_weight, precision, n_threads, reproducible)

    @in_use.reads
    def score(
        self, X: ArrayLike | Rows, y: ArrayLike | Rows, sample_weight: ArrayLike | Rows | None = None, *,
        precision: str | None = None,
    ) -> float:  # fmt: skip
        """Accuracy of a classifier (softmax or sigmoid output), else R². Parameters and errors are as for `evaluate`.

        Returns
        -------
        float
            R² is the mean over outputs of 1 − Σ(y − ŷ)²/Σ(y − ȳ)², as in scikit-learn; an output whose targets are
            all equal counts 1 where it is met exactly and 0 otherwise.
        """
        return evaluation.score(self, X, y, sample_weight, precision)

    @in_use.reads
    def loss_and_gradient(
        self, X: ArrayLike, y: ArrayLike, loss: str | None = None, *, sample_weight: ArrayLike | None = None,
        l1: float = 0.0, l2: float = 0.0, precision: str | None = None, n_threads: int | None = None, reproducible: bool = False,
    ) -> tuple[float, NDArray[Any]]:  # fmt: skip
        """The loss over all samples, taken as one batch, and its gradient. Parameters and errors are as for `evaluate`, and:

        Parameters
        ----------
        l1, l2 : float
            Penalties l1·Σ|w|/p + l2·Σw²/(2p) over the weights, p the number of samples, or the sum of their weights. In a
            factored layer the weights are the factors' elements.

        Returns
        -------
        value : float
        gradient : ndarray (n_parameters,)
            Laid out as `parameters` is.

        Examples
        --------
        >>> import numpy as np
        >>> import svdfast as sf
        >>> net = sf.Network([2, 1], output="identity", dtype="float64", seed=0)
        >>> net.parameters[:] = [1, 2, 0.5]
        >>> net.loss_and_gradient([[1.0, 1.0]], [2.5])
        (1.0, array([2., 2., 2.]))
        """
        return evaluation.loss_and_gradient(self, X, y, loss, sample_weight, l1, l2, precision, n_threads, reproducible)

    @in_use.changes
    @single_threaded_blas.held()
    def truncate(
        self,
        rank_fraction: float | None = None,
        *,
        ranks: Sequence[int | None] | str | RankRule | None = None,
        method: Literal["exact", "randomized"] = "exact",
        split: str = "balanced",
        force: bool = False,
        inputs: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        directions: Mapping[int, NDArray[Any]] | None = None,
        structure: type[Structure] = LowRank,
    ) -> tuple[Truncation, ...]:
        """Cuts each hidden weight by truncated SVD into two factors: W ≈ W1·W2 (the report, section 3.3.2).

        The output layer stays dense. A layer in which factoring would not save multiplications in training stays as it is,
        unless `force`. So does a layer of at most 100 inputs if `rank_fraction` would give it a rank below their number:
        it would be a bottleneck. `Truncation.reason` says so. A factored layer is truncated again, from its product W1·W2.

        Parameters
        ----------
        rank_fraction : float
            α: a layer's rank is l = max(1, ⌊α·min(n_in, n_out)⌋).
        ranks : sequence of int or None, str, or RankRule
            Instead: the rank of each hidden layer, None leaves the layer as it is; or "energy:E", the rank that keeps a share E of
            each weight's ‖W‖_F²; or "budget:B", the directions that are worth most for their multiplications, up to a share B of
            the dense hidden layers'; or any other rule (`svdfast.ranks.RankRule`).
        method : {"exact", "randomized"}
            See `truncated_svd`.
        split : {"balanced", "left", "right"}
            See `factorize`.
        force : bool
            Factor even where it saves nothing or makes a bottleneck.
        inputs, sample_weight : array_like (n_samples, n_inputs), (n_samples,), optional
            A sample of the network's inputs, in memory, and its weights; a DataFrame is taken as in `predict`. Each layer is then cut so
            that its outputs over the sample change least, ‖(W − W1·W2)·X‖_F, instead of its weight ("activation-aware", see
            `leading_directions`).
        directions : mapping of int to ndarray (n_out, rank or more), optional
            By hidden layer, from 0: what `leading_directions` gave for its weight as it is now. It is not computed again then.
        structure : subclass of Structure
            What the weights become, by default two factors.

        Returns
        -------
        tuple of Truncation
            One for each hidden layer whose rank was asked for.

        Raises
        ------
        TypeError, ValueError
            A rank is out of range, both or neither of `rank_fraction` and `ranks` are given, a weight is not
            finite, or its norm is not, or `inputs` or `directions` do not fit. The network is then unchanged.
        numpy.linalg.LinAlgError
            No way to decompose a weight converged, see `truncated_svd`. Unchanged, too.
        FloatingPointError
            Over `inputs` a layer has inputs that are not finite. Unchanged, too.
        """
        rule = resolve_rule(self.layout, rank_fraction, ranks)
        one_of("method", method, ("exact", "randomized"))
        one_of("split", split, ("balanced", "left", "right"))
        check_kind(structure)
        if directions is not None and not isinstance(directions, Mapping):
            raise TypeError(f"directions: expected a mapping of int to ndarray, got {type(directions).__name__}")
        if inputs is None and sample_weight is not None:
            raise ValueError("sample_weight: expected inputs with it, got none")

        def look(usable: Sequence[int | None]) -> dict[int, NDArray[Any]]:
            return evaluation.output_directions(self, inputs, sample_weight, usable, method)

        with threads():
            self._state, done = truncation.truncate(
                self._state, rule, structure, svd=method, split=split, force=force, directions=directions,
                look=None if inputs is None else look,
            )  # fmt: skip
        return done

    @in_use.changes
    def set_state(self, layout: Layout, parameters: NDArray[Any]) -> None:
        """Puts back what `state` gave; the vector is not copied. TypeError or ValueError: they do not belong together."""
        check_state(layout, parameters)
        flags = parameters.flags
        if not (flags.c_contiguous and flags.aligned and flags.writeable):
            raise ValueError("parameters: expected a contiguous, aligned and writeable array, got one that is not")
        self._state = layout, parameters

    @in_use.changes
    @single_threaded_blas.held()
    def recompose(self) -> None:
        """Multiplies the factors together: every layer dense again, W = W1·W2, the predictions unchanged."""
        self._state = truncation.rebuilt(self._state, self.layout.recomposed().structures, {})


def _of_sizes(sizes: Sequence[int], hidden: Any, output: str | Activation) -> Layout:
    """Fully connected layers."""
    given = listed("sizes", sizes, "integers")
    if len(given) < 2:
        raise ValueError(f"sizes: expected inputs and at least one layer, got {given}")
    widths = [count(f"sizes[{i}]", n, maximum=MAX_SIZE) for i, n in enumerate(given)]
    n_hidden = len(widths) - 2
    if isinstance(hidden, str | Activation):
        chosen = [activations.resolve(hidden, "hidden")] * n_hidden
    else:
        chosen = [activations.resolve(h, "hidden") for h in listed("hidden", hidden, "activations")]
        if len(chosen) != n_hidden:
            raise ValueError(f"hidden: expected {n_hidden} activations, one for each hidden layer, got {len(chosen)}")
    chosen.append(activations.resolve(output, "output"))
    return Layout.dense(widths, chosen)


def _inputs(layout: Layout) -> str:
    """What a sample is."""
    return " × ".join(["any steps", *map(str, layout.input[1:])]) if layout.any_steps else str(layout.sizes[0])


def _check_output(layout: Layout) -> None:
    if layout.output_shape[-1] == 1 and layout.layers[-1].activation.name == "softmax":
        raise ValueError(
            'output: expected "sigmoid" (two classes) or "identity" (a number) for one output, got "softmax", which is always 1'
        )


def _check_origin(origin: Any, layout: Layout) -> None:
    if not isinstance(origin, Origin):
        raise TypeError(f"origin: expected an Origin, got {type(origin).__name__}")
    origin.check(layout)

