# SPDX-License-Identifier: BSD-3-Clause
"""Network: layers over one flat vector of parameters; truncation and recomposition.

Not here: what it gives for data (evaluation.py), training, files and other libraries' models (interop/), figures (plots.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from svdfast._engine import aligned_zeros
from svdfast._process import in_use
from svdfast._process.checks import (
    MAX_SIZE,
    count,
    listed,
    of_layer,
    one_of,
    positive_number,
    real_array,
    room,
)
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.open import checked_samples
from svdfast.data.rows import Rows
from svdfast.kernels import dense_forward
from svdfast.model import activations, evaluation
from svdfast.model.activations import Activation
from svdfast.model.counting import break_even_rank
from svdfast.model.evaluation import Evaluation
from svdfast.model.initializers import INITIALIZERS, initial_weight
from svdfast.model.layout import LayerSpec, Layout
from svdfast.model.ranks import resolve_rule
from svdfast.model.svd import leading_directions, restricted_svd

__all__ = ["Layer", "Network", "Truncation"]

logger = logging.getLogger("svdfast")

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
        widths = [count(f"sizes[{i}]", n, maximum=MAX_SIZE) for i, n in enumerate(given)]
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
        if layout.size > MAX_SIZE:
            raise ValueError(f"sizes: expected at most {MAX_SIZE} parameters, got {layout.size}")
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
    def predict(
        self, X: ArrayLike | Rows, *,
        out: NDArray[Any] | None = None, precision: str | None = None, n_threads: int | None = None,
    ) -> NDArray[Any]:  # fmt: skip
        """The network's outputs.

        Parameters
        ----------
        X : array_like (n_samples, n_inputs), or row source
            Real numbers; uint8 is multiplied with `uint8_scale`. NaN gives NaN. Arrays on disk (h5py.Dataset, zarr.Array) are read in
            blocks, as in `train`.
        out : ndarray (n_samples, n_outputs), optional
            Array for the outputs: of the network's dtype, C-contiguous and writeable. It may overlap X: the outputs are those of X
            as it was.
        precision : {"float32", "float64", "bfloat16"}, optional
            Precision of the matrix products; see `train`.
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
        return evaluation.predict(self, X, out, precision, n_threads)

    @in_use.reads
    def evaluate(
        self, X: ArrayLike | Rows, y: ArrayLike | Rows, loss: str | None = None, *,
        sample_weight: ArrayLike | Rows | None = None, precision: str | None = None, n_threads: int | None = None,
    ) -> Evaluation:  # fmt: skip
        """Mean loss, without penalties, and accuracy. Parameters are as for `predict`, and:

        Parameters
        ----------
        y : array_like (n_samples,) or (n_samples, n_outputs), or row source
        loss : str, optional
            By default the one that goes with the output's activation.
        sample_weight : array_like (n_samples,) or row source, optional

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
        return evaluation.evaluate(self, X, y, loss, sample_weight, precision, n_threads)

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
        l1: float = 0.0, l2: float = 0.0, precision: str | None = None, n_threads: int | None = None,
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
        return evaluation.loss_and_gradient(self, X, y, loss, sample_weight, l1, l2, precision, n_threads)

    @in_use.changes
    @single_threaded_blas.held()
    def truncate(
        self,
        rank_fraction: float | None = None,
        *,
        ranks: Sequence[int | None] | str | None = None,
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
        ranks : sequence of int or None, or str
            Instead: the rank of each hidden layer, None leaves the layer as it is; or "energy:E", the rank that keeps a share E of
            each weight's ‖W‖_F²; or "budget:B", the directions that are worth most for their multiplications, up to a share B of
            the dense hidden layers' (`svdfast.ranks`).
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
        wanted = rule(self.layout.layers[:-1], weights)
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
        spec = evaluation.spec_of(self)._replace(targets=None)
        samples = checked_samples(X, None, sample_weight, spec)
        data, weight, n_samples = samples.inputs, samples.weights, samples.n_samples
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
        if layout.size > MAX_SIZE:
            raise ValueError(f"ranks: expected at most {MAX_SIZE} parameters, got {layout.size}")
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
