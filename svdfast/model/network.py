# SPDX-License-Identifier: BSD-3-Clause
"""Network: layers over one flat vector of parameters; prediction, truncation, recomposition.

Not here: training (svdfast/training) and the arithmetic (the compiled engine).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from svdfast._engine import Engine, aligned_zeros
from svdfast._process import in_use
from svdfast._process.checks import (
    count,
    listed,
    of_layer,
    one_of,
    positive_number,
    real_array,
    room,
)
from svdfast._process.runtime import resolve_precision, resolve_threads, single_threaded_blas
from svdfast.data.checks import Samples, check_inputs, check_sample_weight, check_targets
from svdfast.data.sources import Reader, Rows, input_blocks, is_row_source, settled
from svdfast.kernels import dense_forward
from svdfast.model import activations, losses
from svdfast.model.activations import Activation
from svdfast.model.counting import break_even_rank
from svdfast.model.initializers import INITIALIZERS, initial_weight
from svdfast.model.layout import LayerSpec, Layout
from svdfast.model.ranks import RankRule, ranks_by, resolve_rule
from svdfast.model.svd import leading_directions, restricted_svd

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Evaluation", "Layer", "Network", "Truncation"]

logger = logging.getLogger("svdfast")

_INT_MAX = 2**31 - 1
_SAMPLES_TOGETHER = 256  # whose activations are kept at a time for a Gram matrix


class Layer:
    """A layer of a network, as views into its parameters: writing to them changes the network.

    A dense layer has `W` and `b`, a factored one `W1`, `W2` and `b`, with W ≈ W1·W2. A view taken before `truncate` or
    `recompose` shows the former parameters; take it anew from the layer.

    Attributes
    ----------
    n_in, n_out : int
    rank : int or None
        l, or None where the layer is dense.
    activation : Activation
    W : ndarray (n_out, n_in)
    W1 : ndarray (n_out, rank)
    W2 : ndarray (rank, n_in)
    b : ndarray (n_out,)
    """

    def __init__(self, network: Network, index: int):
        self._network = network
        self._index = index

    @property
    def _spec(self) -> LayerSpec:
        return self._network.layout.layers[self._index]

    @property
    def n_in(self) -> int:
        return self._spec.n_in

    @property
    def n_out(self) -> int:
        return self._spec.n_out

    @property
    def rank(self) -> int | None:
        return self._spec.rank

    @property
    def activation(self) -> Activation:
        return self._spec.activation

    def _view(self, start: int, *shape: int) -> NDArray[Any]:
        stop = start + int(np.prod(shape))
        return self._network.parameters[start:stop].reshape(shape)

    @property
    def W(self) -> NDArray[Any]:
        if self.rank is not None:
            raise AttributeError(
                f"layer {self._index} is factored: it has W1 and W2; weight() is their product"
            )
        return self._view(self._spec.W1, self.n_out, self.n_in)

    @property
    def W1(self) -> NDArray[Any]:
        if self.rank is None:
            raise AttributeError(f"layer {self._index} is dense: it has W, not W1")
        return self._view(self._spec.W1, self.n_out, self.rank)

    @property
    def W2(self) -> NDArray[Any]:
        if self.rank is None:
            raise AttributeError(f"layer {self._index} is dense: it has W, not W2")
        return self._view(self._spec.W2, self.rank, self.n_in)

    @property
    def b(self) -> NDArray[Any]:
        return self._view(self._spec.b, self.n_out)

    def weight(self) -> NDArray[Any]:
        """A copy of W (n_out, n_in); for a factored layer the product W1·W2."""
        with in_use.reading(self._network), single_threaded_blas.held():
            return self.W.copy() if self.rank is None else self.W1 @ self.W2

    def __repr__(self) -> str:
        form = "dense" if self.rank is None else f"rank {self.rank}"
        return f"<Layer {self.n_in} -> {self.n_out}, {self.activation.name}, {form}>"


@dataclass(frozen=True)
class Truncation:
    """What `Network.truncate` did with a hidden layer.

    Attributes
    ----------
    layer : int
    rank : int or None
        l as it is now; None where the layer is dense.
    requested_rank : int
    break_even_rank : int
        The largest rank at which a training step of the factored layer needs fewer multiplications than a dense one.
    singular_values : ndarray
        Those kept; empty where the layer was left as it was.
    dropped_norm : float
        ‖W − W1·W2‖_F: the root of the sum of squares of the singular values that were dropped.
    """

    layer: int
    rank: int | None
    requested_rank: int
    break_even_rank: int
    singular_values: NDArray[Any]
    dropped_norm: float

    @property
    def skipped(self) -> bool:
        """Whether factoring was asked for and not done, as it would not save multiplications."""
        return len(self.singular_values) == 0


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy of a network on data; accuracy is None where the loss is not one of classes."""

    loss: float
    accuracy: float | None


class Network:
    """A fully connected network, dense or with factored hidden weights.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, then outputs of each layer; at least two, each ≥ 1.
    hidden : str or Activation or sequence of them
        Activation of the hidden layers, or of each: one of identity, relu, leaky_relu, elu, celu, gelu, tanh, sigmoid, softmax,
        or what a function of `svdfast.activations` returns.
    output : str or Activation
        Activation of the last layer.
    init : {"glorot", "glorot_uniform", "he"}
        See `svdfast.initializers`; "glorot" is the report's. Biases are zero.
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

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of its range.

    Notes
    -----
    Any number of threads may read a network at once. Where one trains or changes it, the calls of all others raise RuntimeError, and so
    does that one's while others read.

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
        sizes: Sequence[int],
        hidden: str | Activation | Sequence[str | Activation] = "relu",
        output: str | Activation = "softmax",
        init: str = "glorot",
        dtype: DTypeLike = "float32",
        seed: int | np.random.Generator | None = None,
        *,
        uint8_scale: float = 1 / 255,
    ):
        given = listed("sizes", sizes, "integers")
        if len(given) < 2:
            raise ValueError(f"sizes: expected inputs and at least one layer, got {given}")
        widths = [count(f"sizes[{i}]", n, maximum=_INT_MAX) for i, n in enumerate(given)]
        n_hidden = len(widths) - 2
        if isinstance(hidden, str | Activation):
            chosen = [activations.resolve(hidden, "hidden")] * n_hidden
        else:
            chosen = [activations.resolve(h, "hidden") for h in listed("hidden", hidden, "activations")]
            if len(chosen) != n_hidden:
                raise ValueError(
                    f"hidden: expected {n_hidden} activations, one for each hidden layer, "
                    f"got {len(chosen)}"
                )
        chosen.append(activations.resolve(output, "output"))
        if init not in INITIALIZERS:
            raise ValueError(f"init: expected one of {', '.join(INITIALIZERS)}, got {init!r}")
        try:
            kind = np.dtype("O" if dtype is None else dtype)  # None would be float64
        except TypeError:
            raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}") from None
        if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ValueError(f"dtype: expected float32 or float64, got {kind}")
        self.uint8_scale = positive_number("uint8_scale", uint8_scale)
        layout = Layout.build(widths, [None] * len(chosen), chosen)
        if layout.size > _INT_MAX:
            raise ValueError(f"sizes: expected at most {_INT_MAX} parameters, got {layout.size}")
        room("sizes", layout.size * kind.itemsize)
        # Layout and vector belong together, so they change together, in one assignment.
        self._state = layout, aligned_zeros(layout.size, kind)
        rng = np.random.default_rng(seed)
        for layer in self.layers:
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
        return any(rank is not None for rank in self.layout.ranks)

    def __repr__(self) -> str:
        forms = [
            str(layer.n_out) if layer.rank is None else f"{layer.n_out} (rank {layer.rank})"
            for layer in self.layers
        ]
        return f"<Network {self.sizes[0]} -> {' -> '.join(forms)}, {self.dtype}>"

    @in_use.reads
    def __getstate__(self) -> dict[str, Any]:
        layout, parameters = self._state
        return {"state": (layout, parameters.copy()), "uint8_scale": self.uint8_scale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        layout, parameters = state["state"]
        vector = aligned_zeros(layout.size, parameters.dtype)
        vector[:] = parameters
        self._state = layout, vector
        self.uint8_scale = state["uint8_scale"]

    def copy(self) -> Network:
        """An independent network with the same parameters."""
        other = Network.__new__(Network)
        other.__setstate__(self.__getstate__())
        return other

    @in_use.reads
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the network to a file, which `svdfast.load` reads; factored layers stay factored.

        Parameters
        ----------
        path : path that ends in .npz or .safetensors
            A file of that name is replaced, but only once the new one is whole. A safetensors file has a tensor for each of layers.0.W (or
            layers.0.W1 and layers.0.W2), layers.0.b and so on, for readers other than svdfast.

        Raises
        ------
        ValueError
            The name ends in something else.
        ImportError
            .safetensors, and the package is missing: pip install "svdfast[safetensors]".
        OSError
            The file can't be written; nothing is left behind.
        """
        from svdfast.interop import files as io

        io.save(self, path)

    @in_use.reads
    def export(self, path: str | os.PathLike[str]) -> None:
        """Writes the network to an ONNX file, which other runtimes run; factored layers stay factored.

        It takes "X", floats (n_samples, n_inputs) of the network's dtype, and gives "y", what `predict` gives; see `svdfast.onnx.to_onnx`.
        Needs onnx: the extra `onnx`.

        Parameters
        ----------
        path : path that ends in .onnx
            A file of that name is replaced, but only once the new one is whole.

        Raises
        ------
        ImportError
            onnx is not there.
        ValueError
            The name does not end in .onnx, or the network is larger than the 2 GB that an ONNX file may have.
        OSError
            The file can't be written; nothing is left behind.

        Examples
        --------
        >>> import numpy as np, onnx, onnxruntime, os, tempfile
        >>> import svdfast as sf
        >>> net = sf.Network([4, 20, 3], seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "net.onnx")
        ...     net.export(path)
        ...     onnx.checker.check_model(path)
        ...     session = onnxruntime.InferenceSession(path)
        >>> X = np.ones((5, 4), dtype="float32")
        >>> (y,) = session.run(None, {"X": X})
        >>> bool((abs(y - net.predict(X)) < 1e-6).all())
        True
        """
        from svdfast import onnx

        onnx.save(self, path)

    @in_use.reads
    def to_torch(self, *, logits: bool = False) -> torch.nn.Sequential:
        """A `torch.nn.Sequential` that computes what the network does, in memory of its own.

        A factored layer becomes two Linear layers, W2 without a bias and then W1 with it. `svdfast.from_torch` is the way back.
        The module takes floats: pixels, which the network scales by `uint8_scale`, are to be scaled before. Needs PyTorch: the extra
        `torch`.

        Parameters
        ----------
        logits : bool
            Leave out a last softmax or sigmoid, as torch's CrossEntropyLoss and BCEWithLogitsLoss want it.

        Returns
        -------
        torch.nn.Sequential
            Of the network's dtype.

        Raises
        ------
        ImportError
            PyTorch is not there.
        TypeError
            `logits` is not True or False.

        Examples
        --------
        >>> import torch
        >>> import svdfast as sf
        >>> net = sf.Network([784, 512, 10], seed=0)
        >>> _ = net.truncate(rank_fraction=0.25)
        >>> net.to_torch()
        Sequential(
          (0): Linear(in_features=784, out_features=128, bias=False)
          (1): Linear(in_features=128, out_features=512, bias=True)
          (2): ReLU()
          (3): Linear(in_features=512, out_features=10, bias=True)
          (4): Softmax(dim=-1)
        )
        """
        from svdfast.interop import networks as convert

        return convert.to_torch(self, logits=logits)

    @in_use.reads
    def predict(
        self,
        X: ArrayLike | Rows,
        *,
        out: NDArray[Any] | None = None,
        precision: str | None = None,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """The network's outputs.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs)
            Real numbers; uint8 is multiplied with `uint8_scale`. NaN gives NaN. What is not in memory (an h5py.Dataset, a zarr.Array)
            is read in blocks, as in `train`.
        out : ndarray (n_samples, n_outputs), optional
            Where to write the outputs: of the network's dtype, C-contiguous and writeable. It may overlap X: the outputs are those of X
            as it was.
        precision : {"float32", "float64", "bfloat16"}, optional
            Of the products, see `train`.
        n_threads : int, optional

        Returns
        -------
        ndarray (n_samples, n_outputs)
            Of the network's dtype; probabilities where the output is softmax or sigmoid. `out`, where it is given.

        Raises
        ------
        TypeError, ValueError
            X is not 2-D, real and of the network's width, or `out` is not as it should be, which is then untouched.

        Examples
        --------
        >>> import numpy as np
        >>> import svdfast as sf
        >>> net = sf.Network([784, 512, 10], seed=0)
        >>> out = np.empty((60, 10), dtype="float32")
        >>> net.predict(np.zeros((60, 784), dtype="uint8"), out=out) is out
        True
        """
        layout, parameters = self._state
        n_in, n_out = layout.sizes[0], layout.sizes[-1]
        bfloat16 = resolve_precision(precision, self.dtype)
        threads = resolve_threads(n_threads)
        given: Any = X
        if is_row_source(given):
            blocks = input_blocks(self, given)
            n_samples = given.shape[0]
        else:
            inputs = check_inputs(given, n_in, parameters.dtype, self.uint8_scale, finite=False)
            blocks = iter([(0, inputs)])
            given = inputs.array
            n_samples = len(given)
        if out is None:
            room("X", n_samples * n_out * parameters.itemsize)
            result = out = np.empty((n_samples, n_out), dtype=parameters.dtype)
        else:
            _check_out(out, (n_samples, n_out), parameters.dtype)
            # Nothing that is still to be read may be written to.
            overlaps = (isinstance(given, np.ndarray) and np.may_share_memory(given, out)) or np.may_share_memory(
                parameters, out
            )
            result = np.empty_like(out, subok=False) if overlaps else out
        engine: Engine | None = None
        with single_threaded_blas.held():
            for start, inputs in blocks:
                if engine is None:
                    engine = Engine(
                        layout,
                        parameters,
                        batch_size=max(len(inputs.array), 1),
                        n_threads=threads,
                        bfloat16=bfloat16,
                        gradients=False,
                    )
                engine.bind(inputs)
                engine.predict(result[start : start + len(inputs.array)])
        if result is not out:
            out[...] = result
        return out

    @in_use.reads
    def evaluate(
        self,
        X: ArrayLike | Rows,
        y: ArrayLike | Rows,
        loss: str | None = None,
        *,
        sample_weight: ArrayLike | Rows | None = None,
        precision: str | None = None,
        n_threads: int | None = None,
    ) -> Evaluation:
        """Mean loss, without penalties, and accuracy.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs)
            What is not in memory (an h5py.Dataset, a zarr.Array) is read in blocks; y and sample_weight too.
        y : array_like (n_samples,) or (n_samples, n_outputs)
        loss : str, optional
            By default the one that goes with the output's activation.
        sample_weight : array_like (n_samples,), optional
        precision : {"float32", "float64", "bfloat16"}, optional
            Of the products, as in `predict`.
        n_threads : int, optional

        Returns
        -------
        Evaluation
            Accuracy: the share (by weight) of samples whose largest output is the class, or whose outputs all lie on
            their target's side of 1/2; None for other outputs than softmax and sigmoid.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit the network, or there is no sample.
        """
        bfloat16 = resolve_precision(precision, self.dtype)
        blocks = evaluation_blocks(self, X, y, loss, sample_weight)
        evaluator = Evaluator(blocks, resolve_threads(n_threads), bfloat16)
        with single_threaded_blas.held():
            return evaluator(self)

    @in_use.reads
    @single_threaded_blas.held()
    def score(
        self,
        X: ArrayLike | Rows,
        y: ArrayLike | Rows,
        sample_weight: ArrayLike | Rows | None = None,
        *,
        precision: str | None = None,
    ) -> float:
        """Accuracy of a classifier (softmax or sigmoid output), else R², the share of variance explained.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs)
            What is not in memory is read in blocks, as in `evaluate`.
        y : array_like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array_like (n_samples,), optional
        precision : {"float32", "float64", "bfloat16"}, optional
            Of the products, as in `predict`.

        Returns
        -------
        float
            R² is the mean over outputs of 1 − Σ(y − ŷ)²/Σ(y − ȳ)², as in scikit-learn; an output whose targets are
            all equal counts 1 where it is met exactly and 0 otherwise.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit the network, or there is no sample.
        """
        output = self.layout.layers[-1].activation
        if output.name in ("softmax", "sigmoid"):
            accuracy = self.evaluate(X, y, sample_weight=sample_weight, precision=precision).accuracy
            assert accuracy is not None
            return accuracy
        loss = losses.resolve("mean_squared_error", output)
        double = np.dtype(np.float64)
        samples, targets, weights, in_blocks = settled(self, X, y, sample_weight)
        if in_blocks:
            blocks = Reader(self, samples, targets, loss, weights, dtype=double).blocks()
            return _variance_explained(
                (self.predict(part.inputs.array, precision=precision), part.targets, part.weights) for part in blocks
            )
        predicted = self.predict(samples, precision=precision)
        n_samples, n_out = predicted.shape
        _at_least_one(n_samples)
        target = check_targets(targets, loss, n_samples, n_out, double)
        weight = check_sample_weight(weights, n_samples, double)
        return _variance_explained([(predicted, target, weight)])

    @in_use.reads
    def loss_and_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        precision: str | None = None,
        n_threads: int | None = None,
    ) -> tuple[float, NDArray[Any]]:
        """The loss over all samples, taken as one batch, and its gradient; nothing is updated.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs)
        y : array_like (n_samples,) or (n_samples, n_outputs)
        loss : str, optional
            By default the one that goes with the output's activation.
        sample_weight : array_like (n_samples,), optional
        l1, l2 : float
            Penalties l1·Σ|w|/p + l2·Σw²/(2p) over the weights, p the number of samples, or the sum of their weights. In a
            factored layer the weights are the factors' elements.
        precision : {"float32", "float64", "bfloat16"}, optional
            Of the products, as in `predict`.
        n_threads : int, optional

        Returns
        -------
        value : float
        gradient : ndarray (n_parameters,)
            Laid out as `parameters` is.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit the network, or there is no sample.

        Examples
        --------
        >>> import numpy as np
        >>> import svdfast as sf
        >>> net = sf.Network([2, 1], output="identity", dtype="float64", seed=0)
        >>> net.parameters[:] = [1, 2, 0.5]
        >>> net.loss_and_gradient([[1.0, 1.0]], [2.5])
        (1.0, array([2., 2., 2.]))
        """
        l1 = positive_number("l1", l1, or_zero=True)
        l2 = positive_number("l2", l2, or_zero=True)
        layout, parameters = self._state
        data = TrainingData(self, X, y, loss, sample_weight)
        engine = Engine(
            layout,
            parameters,
            batch_size=data.n_samples,
            n_threads=resolve_threads(n_threads),
            bfloat16=resolve_precision(precision, self.dtype),
        )
        data.bind(engine)
        gradient = np.empty(layout.size, dtype=parameters.dtype)
        with single_threaded_blas.held():
            value = engine.gradient(0, data.n_samples, gradient, l1, l2)
        return value, gradient

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
    ) -> tuple[Truncation, ...]:
        """Cuts each hidden weight by truncated SVD into two factors: W ≈ W1·W2.

        The output layer stays dense. A layer in which factoring would not save multiplications in training stays as it is,
        unless `force`. A layer that is factored already is cut anew from its product W1·W2.

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
            Factor even where it saves nothing.
        inputs : array_like (n_samples, n_inputs), optional
            A sample of the network's inputs: each layer is then cut so that its outputs over them change least, ‖(W − W1·W2)·X‖_F,
            instead of its weight ("activation-aware", see `leading_directions`).
        sample_weight : array_like (n_samples,), optional
            Of these samples.
        directions : mapping of int to ndarray (n_out, rank or more), optional
            By hidden layer, from 0, what `leading_directions` gave for its weight as it is now, so that this is not computed again; as
            where one network is cut to several ranks.

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

        References
        ----------
        The report, section 3.3.2.
        """
        rule = resolve_rule(self.layout, rank_fraction, ranks)
        one_of("method", method, ("exact", "randomized"))
        one_of("split", split, ("balanced", "left", "right"))
        if directions is not None and not isinstance(directions, Mapping):
            raise TypeError(f"directions: expected a mapping of int to ndarray, got {type(directions).__name__}")
        with np.errstate(over="ignore", invalid="ignore"):
            weights = [layer.W if layer.rank is None else layer.weight() for layer in self.layers[:-1]]
        for index, W in enumerate(weights):
            if not np.isfinite(W).all():
                raise np.linalg.LinAlgError(f"layer {index}: expected a finite weight, got NaN or infinity in it")
        wanted = ranks_by(rule, self.layout.layers[:-1], weights)
        usable = self.usable_ranks(wanted, force=force)
        if inputs is None and sample_weight is not None:
            raise ValueError("sample_weight: expected inputs with it, got none")
        grams = {} if inputs is None else dict(enumerate(self.input_grams(inputs, sample_weight)))
        new_ranks = list(self.layout.ranks)
        factors: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        done = []
        for index, rank in enumerate(wanted):
            if rank is None:
                continue
            layer = self.layers[index]
            limit = break_even_rank(layer.n_in, layer.n_out, first_layer=index == 0)
            if usable[index] is None:
                logger.info(
                    "layer %d stays as it is: rank %d is above its break-even rank %d",
                    index, rank, limit,
                )  # fmt: skip
                done.append(
                    Truncation(index, layer.rank, rank, limit, np.empty(0, self.dtype), 0.0)
                )
                continue
            W = weights[index]
            with of_layer(index):
                if directions is not None and index in directions:
                    U = _leading(directions[index], index, W, rank)
                else:
                    U = leading_directions(W, rank, grams.pop(index, None), method)
                U, s, Vt = restricted_svd(W, U)
            if not np.isfinite(s[0]):
                raise ValueError(f"layer {index}: the weight's norm is too large for {self.dtype}")
            left, right = {
                "balanced": (np.sqrt(s), np.sqrt(s)),
                "left": (s, np.ones_like(s)),
                "right": (np.ones_like(s), s),
            }[split]
            # Scaled, so that no square overflows.
            scale = s[0] if s[0] > 0 else s.dtype.type(1)
            dropped = float(scale) * float(np.linalg.norm(W / scale - (U * (s / scale)) @ Vt))
            factors[index] = U * left, right[:, np.newaxis] * Vt
            new_ranks[index] = rank
            done.append(Truncation(index, rank, rank, limit, s, dropped))
        self._rebuild(new_ranks, factors)
        return tuple(done)

    @in_use.reads
    @single_threaded_blas.held()
    def input_grams(
        self, X: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> list[NDArray[Any]]:
        """For each hidden layer, of its inputs A over some samples (in rows here), the Gram matrix AᵀA to a positive factor.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs)
        sample_weight : array_like (n_samples,), optional
            w of each sample: Aᵀ·diag(w)·A.

        Returns
        -------
        list of ndarray (n_in, n_in)
            Of the network's dtype.

        Raises
        ------
        TypeError, ValueError
            X or the weights are not as for `evaluate`.
        FloatingPointError
            The inputs of a later layer are not finite.
        """
        data = check_inputs(X, self.layout.sizes[0], self.dtype, self.uint8_scale)
        n_samples = len(data.array)
        _at_least_one(n_samples)
        weight = check_sample_weight(sample_weight, n_samples, self.dtype)
        # Between 0 and 1, so that it keeps no sum from being finite.
        roots = None if weight is None else np.sqrt(weight / weight.max())[:, np.newaxis]
        hidden = self.layers[:-1]
        weights = [layer.W if layer.rank is None else layer.weight() for layer in hidden]
        grams = [np.zeros((layer.n_in, layer.n_in), self.dtype) for layer in hidden]
        # Brings each layer's inputs to a size at which squares do not overflow.
        scales = [self.dtype.type(0)] * len(hidden)
        for start in range(0, n_samples, _SAMPLES_TOGETHER):
            A = data.array[start : start + _SAMPLES_TOGETHER].astype(self.dtype)
            A *= self.dtype.type(data.scale)
            for index, gram in enumerate(grams):
                if index > 0:
                    layer = hidden[index - 1]
                    A = dense_forward(A, weights[index - 1], layer.b, activation=layer.activation)
                scales[index] = scales[index] or np.abs(A).max()
                with np.errstate(all="ignore"):  # what is not finite is seen below
                    scaled = A / scales[index] if scales[index] > 0 else A
                    if roots is not None:
                        scaled = scaled * roots[start : start + _SAMPLES_TOGETHER]
                    gram += scaled.T @ scaled
                del scaled  # before the next layer's are there
        for index, gram in enumerate(grams):
            if not np.isfinite(gram).all():
                raise FloatingPointError(f"the inputs of layer {index} are too large for {self.dtype}")
        return grams

    def usable_ranks(
        self, ranks: Sequence[int | None], *, force: bool = False
    ) -> list[int | None]:
        """Ranks of hidden layers as `truncate` would take them.

        Parameters
        ----------
        ranks : sequence of int or None
            One for each hidden layer.
        force : bool
            As for `truncate`.

        Returns
        -------
        list of int or None
            None where nothing was asked for, or where factors of that rank would save no multiplications in training.

        Examples
        --------
        >>> import svdfast as sf
        >>> sf.Network([784, 512, 256, 10]).usable_ranks([64, 200])
        [64, None]
        """
        return [
            None
            if rank is None
            or not (force or rank <= break_even_rank(layer.n_in, layer.n_out, first_layer=i == 0))
            else rank
            for i, (rank, layer) in enumerate(zip(self._checked_ranks(ranks), self.layers[:-1], strict=True))
        ]

    def _checked_ranks(self, ranks: Sequence[int | None]) -> list[int | None]:
        """A rank, or None, for each hidden layer."""
        given = listed("ranks", ranks, "integers")
        if len(given) != len(self.layers) - 1:
            raise ValueError(f"ranks: expected {len(self.layers) - 1} ranks, one for each hidden layer, got {len(given)}")
        return [None if rank is None else count(f"ranks[{i}]", rank) for i, rank in enumerate(given)]

    @in_use.changes
    def set_factors(self, factors: dict[int, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        """Replaces the weights of some hidden layers by factors, which are copied.

        Parameters
        ----------
        factors : dict of int to (W1, W2)
            By hidden layer, from 0: arrays (n_out, rank) and (rank, n_in).

        Raises
        ------
        TypeError, ValueError
            There is no such layer, or its factors do not fit. The network is then unchanged.
        """
        if not isinstance(factors, Mapping):
            raise TypeError(f"factors: expected a dict of pairs of arrays, got {type(factors).__name__}")
        ranks = list(self.layout.ranks)
        checked = {}
        for key, pair in factors.items():
            index = count("factors", key, minimum=0, maximum=len(ranks) - 2)
            layer = self.layers[index]
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"factors[{index}]: expected a pair of arrays, got {type(pair).__name__}")
            W1, W2 = (real_array(f"factors[{index}]", part) for part in pair)
            rank = W1.shape[-1] if W1.ndim else 0
            if rank < 1 or (W1.shape, W2.shape) != ((layer.n_out, rank), (rank, layer.n_in)):
                raise ValueError(
                    f"factors[{index}]: expected shapes ({layer.n_out}, rank) and (rank, {layer.n_in}), "
                    f"got {W1.shape} and {W2.shape}"
                )
            ranks[index], checked[index] = rank, (W1, W2)
        self._rebuild(ranks, checked)

    def shaped(self, ranks: Sequence[int | None]) -> Network:
        """A network of the same sizes with other ranks and all parameters zero, for what depends on shapes alone, as counts do.

        Parameters
        ----------
        ranks : sequence of int or None
            One for each hidden layer.

        Returns
        -------
        Network
        """
        layout = self.layout.with_ranks([*self._checked_ranks(ranks), None])
        if layout.size > _INT_MAX:
            raise ValueError(f"ranks: expected at most {_INT_MAX} parameters, got {layout.size}")
        other = Network.__new__(Network)
        other._state = layout, aligned_zeros(layout.size, self.dtype)
        other.uint8_scale = self.uint8_scale
        return other

    @in_use.changes
    def set_state(self, layout: Layout, parameters: NDArray[Any]) -> None:
        """Puts back what `state` gave.

        Parameters
        ----------
        layout : Layout
        parameters : ndarray (layout.size,)
            Used as it lies, not copied.

        Raises
        ------
        TypeError, ValueError
            They do not belong together. The network is then unchanged.
        """
        if not isinstance(layout, Layout):
            raise TypeError(f"layout: expected a Layout, got {type(layout).__name__}")
        if not isinstance(parameters, np.ndarray) or isinstance(parameters, np.ma.MaskedArray):
            raise TypeError(f"parameters: expected an ndarray, got {type(parameters).__name__}")
        if parameters.shape != (layout.size,) or parameters.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"parameters: expected shape ({layout.size},) and dtype float32 or float64, "
                f"got shape {parameters.shape} and dtype {parameters.dtype}"
            )
        flags = parameters.flags
        if not (flags.c_contiguous and flags.aligned and flags.writeable):
            raise ValueError("parameters: expected a contiguous, aligned and writeable array, got one that is not")
        self._state = layout, parameters

    @in_use.reads
    @single_threaded_blas.held()
    def plot_spectrum(
        self,
        rank_fraction: float | None = None,
        *,
        ranks: Sequence[int | None] | str | RankRule | None = None,
        figure: Figure | SubFigure | None = None,
    ) -> Figure | SubFigure:
        """Draws the singular values of each hidden weight, what share of its energy the first i hold, and the break-even rank.

        A panel for each hidden layer; of a factored one the spectrum of its product W1·W2. It takes an SVD, without vectors, of each
        hidden weight, O(n_in·n_out·min(n_in, n_out)): seconds where both sides are some thousand. Needs matplotlib: the extra `plot`.

        Parameters
        ----------
        rank_fraction : float, optional
        ranks : sequence of int or None, or str, optional
            As for `truncate`: ranks to mark. By default those that factored layers have. A rank above the break-even rank is marked all
            the same.
        figure : matplotlib.figure.Figure or SubFigure, optional
            To draw in, see `TrainingResult.plot`.

        Returns
        -------
        matplotlib.figure.Figure or SubFigure
            Its first `axes` are the layers', with singular values; then come those of the energy.

        Raises
        ------
        ImportError
            matplotlib is not there.
        TypeError, ValueError
            An argument does not fit, there is no hidden layer, or a weight is not finite.

        Notes
        -----
        With `inputs`, as in `train` by default, `truncate` looks for what changes the layers' outputs least, not for the largest
        singular values; the share of energy that it keeps is then smaller than the one drawn.

        Examples
        --------
        >>> import svdfast as sf
        >>> net = sf.Network([784, 512, 256, 10], seed=0)
        >>> figure = net.plot_spectrum(rank_fraction=0.25)  # doctest: +SKIP
        >>> figure.savefig("spectrum.png")  # doctest: +SKIP
        """
        from svdfast import plots

        return plots.plot_spectrum(self, rank_fraction, ranks, figure)

    @in_use.changes
    def recompose(self) -> None:
        """Multiplies the factors together: every layer dense again, W = W1·W2, the predictions unchanged."""
        self._rebuild([None] * len(self.layout.layers), {})

    def _rebuild(
        self,
        ranks: Sequence[int | None],
        factors: dict[int, tuple[NDArray[Any], NDArray[Any]]],
    ) -> None:
        """Moves to the layout of `ranks`: given factors, kept layers, and products where a layer becomes dense."""
        if tuple(ranks) == self.layout.ranks and not factors:
            return
        new = Network.__new__(Network)
        layout = self.layout.with_ranks(ranks)
        new._state = layout, aligned_zeros(layout.size, self.dtype)
        for index, (old, layer) in enumerate(zip(self.layers, new.layers, strict=True)):
            if index in factors:
                layer.W1[...], layer.W2[...] = factors[index]
            elif layer.rank is None:
                layer.W[...] = old.weight()
            else:
                layer.W1[...], layer.W2[...] = old.W1, old.W2
            layer.b[...] = old.b
        self._state = new._state


def _leading(given: NDArray[Any], index: int, W: NDArray[Any], rank: int) -> NDArray[Any]:
    """The first `rank` of given directions, their shape and type checked."""
    if not isinstance(given, np.ndarray):
        raise TypeError(f"directions[{index}]: expected an ndarray, got {type(given).__name__}")
    if given.ndim != 2 or len(given) != len(W) or given.shape[1] < rank or given.dtype != W.dtype:
        raise ValueError(
            f"directions[{index}]: expected an array of shape ({len(W)}, {rank} or more) and dtype {W.dtype}, "
            f"got shape {given.shape} and dtype {given.dtype}"
        )
    return given[:, :rank]


def _check_out(out: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Refuses what predictions can't be written to."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an ndarray, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out: expected shape {shape} and dtype {dtype}, got shape {out.shape} and dtype {out.dtype}"
        )
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out: expected a C-contiguous, aligned and writeable array, got one that is not")


@np.errstate(over="ignore", invalid="ignore")  # squares of targets that large are infinite, and R² is then NaN or -inf
def _variance_explained(
    blocks: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]],
) -> float:
    """R² over blocks of predictions, float64 targets, and weights: see `Network.score`."""
    total = 0.0
    mean: Any = 0.0
    residual: Any = 0.0
    spread: Any = 0.0
    first, constant = None, np.True_
    for predicted, target, weight in blocks:
        w = np.ones(len(target)) if weight is None else weight
        here = float(w.sum())
        if here == 0:
            continue
        center = np.average(target, axis=0, weights=w)
        # Sums of squares around the means of two sets, brought together.
        away = center - mean if total > 0 else np.zeros_like(center)
        residual = residual + w @ (target - predicted.astype(np.float64)) ** 2
        spread = spread + w @ (target - center) ** 2 + away**2 * (total * here / (total + here))
        mean = center if total == 0 else mean + away * (here / (total + here))
        total += here
        counted = target[w > 0]
        first = counted[:1] if first is None else first
        constant = constant & (counted == first).all(axis=0)
    if total == 0:
        raise ValueError("sample_weight: expected weights ≥ 0, not all 0")
    r2 = 1 - residual / np.where(constant, 1, spread)
    r2[constant] = (residual[constant] == 0).astype(np.float64)
    return float(r2.mean())


def _at_least_one(n_samples: int, name: str = "X") -> None:
    if n_samples == 0:
        raise ValueError(f"{name}: expected at least one sample, got none")


class TrainingData(Samples):
    """Samples, targets and weights in memory, checked as a whole."""

    def __init__(
        self,
        net: Network,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | None,
        sample_weight: ArrayLike | None,
        *,
        names: tuple[str, str] = ("X", "y"),
    ):
        layout, dtype = net.layout, net.dtype
        checked = resolve_loss(net, loss)
        inputs = check_inputs(X, layout.sizes[0], dtype, net.uint8_scale, name=names[0])
        n_samples = len(inputs.array)
        _at_least_one(n_samples, names[0])
        targets = check_targets(y, checked, n_samples, layout.sizes[-1], dtype, name=names[1])
        super().__init__(
            inputs, checked, targets, check_sample_weight(sample_weight, n_samples, dtype)
        )


def resolve_loss(net: Network, loss: str | None) -> losses.Loss:
    """A loss by its name, or the one that goes with the network's output."""
    output = net.layout.layers[-1].activation
    return losses.resolve(losses.default_for(output) if loss is None else loss, output)


def evaluation_blocks(
    net: Network,
    X: Any,
    y: Any,
    loss: str | None,
    sample_weight: Any = None,
    *,
    names: tuple[str, str] = ("X", "y"),
) -> Callable[[], Iterable[Samples]]:
    """What gives data as an Evaluator takes them: at once where they are in memory, else read and checked in blocks each time."""
    X, y, sample_weight, in_blocks = settled(net, X, y, sample_weight, names)
    if in_blocks:
        return Reader(net, X, y, resolve_loss(net, loss), sample_weight, names=names).blocks
    data = TrainingData(net, X, y, loss, sample_weight, names=names)
    return lambda: (data,)


class Evaluator:
    """Loss and accuracy on the same data again and again, whatever the network's layout by then.

    Parameters
    ----------
    blocks : callable
        Returns the data, one Samples after the other: see `evaluation_blocks`.
    n_threads : int
    bfloat16, reproducible : bool
        See the engine.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterable[Samples]],
        n_threads: int,
        bfloat16: bool = False,
        reproducible: bool = False,
    ):
        self.blocks, self.n_threads = blocks, n_threads
        self.bfloat16, self.reproducible = bfloat16, reproducible

    def __call__(self, net: Network) -> Evaluation:
        layout, parameters = net.state
        engine, rows = None, 0
        loss = accuracy = total = 0.0
        for data in self.blocks():
            n = data.n_samples
            weight = n if data.weights is None else float(data.weights.sum(dtype=np.float64))
            if weight == 0:
                continue
            if engine is None or n > rows:
                rows = n
                engine = Engine(
                    layout,
                    parameters,
                    batch_size=rows,
                    n_threads=self.n_threads,
                    gradients=False,
                    bfloat16=self.bfloat16,
                    reproducible=self.reproducible,
                )
            data.bind(engine)
            out = np.empty((n, layout.sizes[-1]), dtype=parameters.dtype)
            here = engine.evaluate(n, out)
            right = _share_right(layout.layers[-1].activation.name, out, data)
            # Running means; of one block, its own to the bit. What is infinite stays so.
            total += weight
            share = weight / total
            loss = loss * (1 - share) + here * share
            accuracy = accuracy * (1 - share) + right * share
        if total == 0:
            raise ValueError("sample_weight: expected weights ≥ 0, not all 0")
        return Evaluation(loss, None if math.isnan(accuracy) else accuracy)


def _share_right(output: str, out: NDArray[Any], data: Samples) -> float:
    """Accuracy as `Network.evaluate` says; NaN where there is none."""
    if output == "softmax":
        y = data.targets if data.targets.ndim == 1 else data.targets.argmax(axis=1)
        correct = out.argmax(axis=1) == y
    elif output == "sigmoid":
        correct = ((out > 0.5) == (data.targets > 0.5)).all(axis=1)
    else:
        return math.nan
    return float(np.average(correct, weights=data.weights))
