# SPDX-License-Identifier: BSD-3-Clause
"""Network: layers over one flat vector of parameters; truncation and recomposition.

Predictions, losses and gradients are in evaluation.py, files and other libraries' models in
interop/, figures in plots/.
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
    """A network, dense or with factored hidden weights.

    It is fully connected by `sizes`, or made of the layers in `svdfast.layers`.

    Parameters
    ----------
    sizes : sequence of int, or Input
        Inputs, then outputs of each layer; at least two numbers, each ≥ 1. Or the shape of a
        sample, followed by a list of layers.
    hidden : str or Activation or sequence of them, or list of layers
        Activation of all hidden layers, or one for each: identity, relu, clipped_relu, hardtanh,
        leaky_relu, elu, celu, gelu, gelu_tanh, silu, softplus, tanh, sigmoid, exp, softmax, or the
        result of a function of `svdfast.activations`.
    output : str or Activation
        Activation of the last layer; a list of layers has its own. A single output takes "sigmoid"
        or "identity": softmax of one number is always 1.
    init : {"glorot", "glorot_uniform", "he"}
        See `svdfast.model.initializers`; "glorot" is the paper's. Biases are zero.
    dtype : {"float32", "float64"}
        Dtype of the parameters and of all arithmetic.
    seed : int, numpy.random.Generator or None
        Seed for weight initialisation.
    uint8_scale : float
        Samples of dtype uint8 are read as pixels and multiplied with this number, 1/255 by default.
        Samples of other dtypes are not scaled.

    Attributes
    ----------
    parameters : ndarray (n_parameters,)
        All weights, layer by layer, then all biases. Writing to it changes the network.
    layers : tuple of Layer
        Views into `parameters`.
    layout : Layout
        The place of each layer in `parameters`.
    origin : Origin
        Facts about the data that it was trained on.

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
        # Layout and vector belong together, so one assignment changes both.
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
        """`layout` and the `parameters` that belong to it."""
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
        """True if any layer is factored."""
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
        """Names of the classes 0, 1, ... in the training data; None if unknown."""
        return self._origin.classes

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the inputs in the training data; None if unknown."""
        return self._origin.feature_names

    def __repr__(self) -> str:
        forms = [f"{layer.n_out}{layer.structure.note}" for layer in self.layers]
        return f"<Network {_inputs(self.layout)} -> {' -> '.join(forms)}, {self.dtype}>"

    def summary(self) -> str:
        """A table of the layers: sizes, activation, form of weight, parameters, multiplications.

        Multiplications are counted for one sample, in the forward pass and in a whole training
        step. If samples may have any number of steps, one step is counted. A last line counts
        inputs and outputs. If the network knows the features and classes of its data, the line
        calls them so, and further lines name them.

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
        if parameters.ndim or parameters:  # else the memory stays untouched
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
        """A network of these layers, with a copy of the parameters.

        An array of no dimension gives one number for all parameters.
        """
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
            Real numbers; uint8 is multiplied with `uint8_scale`. NaN gives NaN. A network for any
            number of steps takes the number of X. Arrays on disk (h5py.Dataset, zarr.Array) are
            read in blocks, and DataFrames of numbers are accepted, as in `train`. Only the stored
            numbers of a sparse matrix are multiplied.
        out : ndarray (n_samples, n_outputs) or (n_samples, steps, n_outputs), optional
            Array for the outputs: of the network's dtype, C-contiguous and writeable. It may
            overlap X; the outputs are those of the original X.
        precision : {"float32", "float64", "bfloat16"}, optional
            Precision of the matrix products; see `train`.
        n_threads : int, optional
            By default fewer than 10 samples use one thread. More threads take less time if all
            samples together need more than about 500,000 multiplications. But several callers at
            once would wait for each other.
        reproducible : bool
            Give bit-identical outputs with any number of threads; see `train`.

        Returns
        -------
        ndarray (n_samples, n_outputs) or (n_samples, steps, n_outputs)
            The second shape is that of networks with an output after each step. The dtype is that
            of the network. Softmax and sigmoid outputs are probabilities. If `out` is given, it is
            returned.

        Raises
        ------
        TypeError, ValueError
            X is not real or not of the network's shape, a DataFrame's columns are not
            `feature_names` in their order, or `out` does not fit. `out` is then unchanged.

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
        if ready.is_own(precision) and not reproducible and ready.takes(X, out):
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
            As in `train`. Labels that are text must be among the network's `classes`.
        loss : str, optional
            By default the loss that belongs to the output's activation.
        sample_weight : array_like (n_samples,) or row source, optional
            As in `train`.

        Returns
        -------
        Evaluation
            Accuracy is the share (by weight) of correct samples, or of correct steps if each step
            has an output. A softmax output is correct if the largest number is that of the class.
            A sigmoid output is correct if all numbers lie on their target's side of 1/2. Accuracy
            is None for all other outputs.

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
        """Accuracy of a classifier (softmax or sigmoid output), else R².

        Parameters and errors are as for `evaluate`.

        Returns
        -------
        float
            R² is the mean over outputs of 1 − Σ(y − ŷ)²/Σ(y − ȳ)², as in scikit-learn. An output
            whose targets are all equal counts 1 if they are met exactly and 0 otherwise.
        """
        return evaluation.score(self, X, y, sample_weight, precision)

    @in_use.reads
    def loss_and_gradient(
        self, X: ArrayLike, y: ArrayLike, loss: str | None = None, *, sample_weight: ArrayLike | None = None,
        l1: float = 0.0, l2: float = 0.0, precision: str | None = None, n_threads: int | None = None, reproducible: bool = False,
    ) -> tuple[float, NDArray[Any]]:  # fmt: skip
        """The loss over all samples, taken as one batch, and its gradient.

        Parameters and errors are as for `evaluate`, and:

        Parameters
        ----------
        l1, l2 : float
            Penalties l1·Σ|w|/p + l2·Σw²/(2p) over the weights, where p is the number of samples, or
            the sum of their weights. In a factored layer the weights are the factors' elements.

        Returns
        -------
        value : float
        gradient : ndarray (n_parameters,)
            Has the layout of `parameters`.

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
        """Truncates each hidden weight by SVD into two factors: W ≈ W1·W2.

        See the paper, section 3.3.2. The output layer stays dense. Unless `force`, two kinds of
        layers stay unchanged: those in which factoring would not save multiplications in training,
        and those of at most 100 inputs to which `rank_fraction` would give a rank below that
        number, which would be a bottleneck. `Truncation.reason` gives the reason. A factored layer
        is truncated again, from its product W1·W2.

        Parameters
        ----------
        rank_fraction : float
            α: a layer's rank is l = max(1, ⌊α·min(n_in, n_out)⌋).
        ranks : sequence of int or None, str, or RankRule
            Used instead of `rank_fraction`. A sequence gives the rank of each hidden layer; None
            leaves a layer as it is. "energy:E" keeps a share E of each weight's ‖W‖_F². "budget:B"
            keeps the directions that are worth most for their multiplications, up to a share B of
            the dense hidden layers' multiplications. Any other rule is a `svdfast.ranks.RankRule`.
        method : {"exact", "randomized"}
            See `truncated_svd`.
        split : {"balanced", "left", "right"}
            See `factorize`.
        force : bool
            Factor even if it saves nothing or makes a bottleneck.
        inputs, sample_weight : array_like (n_samples, n_inputs), (n_samples,), optional
            A sample of the network's inputs, in memory, and its weights; a DataFrame is accepted as
            in `predict`. Truncation then minimises the change of each layer's outputs over the
            sample, ‖(W − W1·W2)·X‖_F, instead of the change of its weight ("activation-aware", see
            `leading_directions`).
        directions : mapping of int to ndarray (n_out, rank or more), optional
            By hidden layer, from 0: the result of `leading_directions` for its present weight. It
            is not computed again.
        structure : subclass of Structure
            New form of the weights, by default two factors.

        Returns
        -------
        tuple of Truncation
            One for each hidden layer for which a rank was requested.

        Raises
        ------
        TypeError, ValueError
            A rank is out of range; both or neither of `rank_fraction` and `ranks` are given; a
            weight or its norm is not finite; or `inputs` or `directions` do not fit. The network is
            then unchanged.
        numpy.linalg.LinAlgError
            No method to decompose a weight converged, see `truncated_svd`. The network is
            unchanged.
        FloatingPointError
            A layer has inputs that are not finite over `inputs`. The network is unchanged.
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
        """Restores what `state` gave, without a copy of the vector.

        Raises TypeError or ValueError if layout and parameters do not belong together.
        """
        check_state(layout, parameters)
        flags = parameters.flags
        if not (flags.c_contiguous and flags.aligned and flags.writeable):
            raise ValueError("parameters: expected a contiguous, aligned and writeable array, got one that is not")
        self._state = layout, parameters

    @in_use.changes
    @single_threaded_blas.held()
    def recompose(self) -> None:
        """Recomposes every factored layer, W = W1·W2. All layers are then dense.

        Predictions stay the same.
        """
        self._state = truncation.rebuilt(self._state, self.layout.recomposed().structures, {})


def _of_sizes(sizes: Sequence[int], hidden: Any, output: str | Activation) -> Layout:
    """The layout of fully connected layers."""
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
    """The size of a sample, in words."""
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

