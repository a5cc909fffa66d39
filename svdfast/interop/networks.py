# SPDX-License-Identifier: BSD-3-Clause
"""Networks from and to PyTorch's and scikit-learn's own: the numbers are copied, the function stays the same.

Not here: the method on a PyTorch model itself (torch.py), files (io.py, onnx.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast._process import in_use
from svdfast._process.checks import MAX_SIZE, count, positive_number
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.heads import head_of
from svdfast.model.layout import Layout
from svdfast.model.network import Network

if TYPE_CHECKING:
    import torch

__all__ = ["from_sklearn", "from_torch", "to_torch"]


@dataclass
class _Linear:
    """X·Wᵀ + b, W = W1·W2 where there is a W2; `place` says where it was found."""

    place: str
    W1: NDArray[Any]
    W2: NDArray[Any] | None
    b: NDArray[Any] | None
    activation: Activation | None = None

    @property
    def n_in(self) -> int:
        return int((self.W1 if self.W2 is None else self.W2).shape[1])

    @property
    def n_out(self) -> int:
        return len(self.W1)

    @property
    def rank(self) -> int | None:
        return None if self.W2 is None else len(self.W2)


def from_torch(
    module: torch.nn.Module, *, output: str | Activation = "identity", uint8_scale: float = 1 / 255
) -> Network:
    """A network that computes what a `torch.nn.Sequential` of Linear layers and activations does.

    Two successive Linear layers, the first without bias and not wider than their outer sides, are a factored layer, W1·W2: so a network
    that `to_torch` gave comes back as it was. The last Linear is the output layer and stays dense. Other Linear layers without an
    activation after them are layers with the activation "identity".

    Parameters
    ----------
    module : torch.nn.Sequential
        Of Linear, `svdfast.torch.FactoredLinear`, ReLU, LeakyReLU, ELU, CELU, GELU (its exact form), Tanh, Sigmoid, Softmax over
        the last dimension, and Sequentials of these; or a Linear alone. It is taken as it computes after ``eval()``, of inputs
        (n_samples, n_inputs): Dropout, AlphaDropout and Identity do nothing there, nor does Flatten, which are passed over. (Training goes
        on without the dropout.) On any device.
    output : str or Activation
        The activation of a last layer that has none in the module: for a model of logits, as torch's CrossEntropyLoss and
        BCEWithLogitsLoss take them, "softmax" or "sigmoid".
    uint8_scale : float
        As for `Network`.

    Returns
    -------
    Network
        Of the module's dtype. It has memory of its own.

    Raises
    ------
    ImportError
        PyTorch is not there.
    TypeError
        `module` is no module.
    ValueError
        Something in it has no counterpart: it is named, with its place. Or its weights are not all float32 or all float64.

    Examples
    --------
    >>> import torch
    >>> import svdfast as sf
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(300, 10)
    ... )
    >>> net = sf.from_torch(model, output="softmax")
    >>> net.layers
    (<Layer 784 -> 300, relu, dense>, <Layer 300 -> 10, softmax, dense>)
    >>> x = torch.rand(5, 784)
    >>> with torch.no_grad():
    ...     expected = model.eval()(x).softmax(dim=1)
    >>> bool((abs(net.predict(x) - expected.numpy()) < 1e-5).all())
    True
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            'from_torch needs PyTorch: pip install "svdfast[torch]"', name="torch"
        ) from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Sequential, got {type(module).__name__}")
    last = activations.resolve(output, "output")
    uint8_scale = positive_number("uint8_scale", uint8_scale)
    layers: list[_Linear] = []
    for place, part in _flattened(module, "module"):
        linear = _torch_linear(place, part)
        if linear is not None:
            layers.append(linear)
            continue
        function = _torch_activation(place, part)
        if function is None:
            continue
        if not layers:
            raise ValueError(f"{place}: expected a Linear before the first activation, got {part}")
        if layers[-1].activation is not None:
            raise ValueError(
                f"{place}: expected one activation after a Linear, got {part} as another"
            )
        layers[-1].activation = function
    if not layers:
        raise ValueError("module: expected at least one Linear in it, got none")
    if layers[-1].activation is None:
        layers[-1].activation = last
    elif last.name != "identity":
        raise ValueError(
            f"output: expected identity for a module that ends in an activation, got {last.name}"
        )
    return _network(_paired(layers), uint8_scale)


def _flattened(module: torch.nn.Module, place: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules of nested Sequentials in the order in which they compute, each with its place."""
    from torch import nn

    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{place}: expected a module without forward hooks, got {module}")
    if "forward" in vars(module):
        raise ValueError(f"{place}: expected a module with the forward of its class, got {module}")
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for i, part in enumerate(module):
            yield from _flattened(part, f"{place}[{i}]")
    else:
        yield place, module


def _torch_linear(place: str, part: torch.nn.Module) -> _Linear | None:
    """The numbers of a Linear or a FactoredLinear; of exactly these types, for others may compute something else."""
    from torch import nn

    from svdfast.torch import FactoredLinear

    def array(name: str, tensor: torch.Tensor) -> NDArray[Any]:
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in ("float32", "float64"):
            raise ValueError(f"{place}.{name}: expected float32 or float64, got {kind}")
        if tensor.device.type == "meta":
            raise ValueError(f"{place}.{name}: expected numbers, got a tensor on the device meta")
        numbers: NDArray[Any] = tensor.detach().cpu().numpy()
        return numbers

    if type(part) is nn.Linear:
        W2 = None
        W1 = array("weight", part.weight)
    elif type(part) is FactoredLinear:
        W1, W2 = array("W1", part.W1), array("W2", part.W2)
    else:
        return None
    b = None if part.bias is None else array("bias", part.bias)
    return _Linear(place, W1, W2, b)


def _torch_activation(place: str, part: torch.nn.Module) -> Activation | None:
    """The activation that a module computes, None for what does nothing in inference."""
    from torch import nn

    known = (
        nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softmax,
        nn.Dropout, nn.AlphaDropout, nn.Flatten, nn.Identity,
    )  # fmt: skip
    if type(part) not in known:  # a subclass may compute something else
        raise ValueError(
            f"{place}: expected Linear, an activation of svdfast.activations, Dropout, Flatten, Identity or "
            f"Sequential, got {type(part).__name__}"
        )
    try:
        if isinstance(part, nn.LeakyReLU):
            return activations.leaky_relu(part.negative_slope)
        if isinstance(part, nn.ELU):
            return activations.elu(part.alpha)
        if isinstance(part, nn.CELU):
            return activations.celu(part.alpha)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {part}: {error}") from None
    if isinstance(part, nn.GELU):
        if part.approximate != "none":
            raise ValueError(f"{place}: expected GELU(approximate='none'), got {part}")
        return activations.gelu()
    if isinstance(part, nn.Softmax):
        if part.dim not in (1, -1):
            raise ValueError(f"{place}: expected Softmax(dim=1) or Softmax(dim=-1), got {part}")
        return activations.softmax()
    if isinstance(part, nn.Flatten):
        if part.start_dim != 1 or part.end_dim not in (1, -1):
            raise ValueError(f"{place}: expected Flatten(start_dim=1, end_dim=-1), got {part}")
        return None
    if isinstance(part, nn.Dropout | nn.AlphaDropout | nn.Identity):
        return None
    return activations.resolve(type(part).__name__.lower())


def _paired(layers: list[_Linear]) -> list[_Linear]:
    """Layers as a network may have them: each pair that is a factored layer as one, a factored layer that can't be one as two."""
    parts: list[_Linear] = []
    for layer in layers:
        W2 = layer.W2
        if W2 is not None and (layer is layers[-1] or len(W2) > min(layer.n_in, layer.n_out)):
            parts.append(_Linear(layer.place, W2, None, None))
            layer = replace(layer, W2=None)
        parts.append(layer)
    paired: list[_Linear] = []
    for layer in parts:
        before = paired[-1] if paired else None
        if (
            before is not None
            and layer is not parts[-1]  # the output layer is dense
            and before.W2 is None
            and before.b is None
            and before.activation is None
            and layer.W2 is None
            and before.n_out == layer.n_in <= min(before.n_in, layer.n_out)
        ):
            paired[-1] = replace(layer, W2=before.W1)
        else:
            paired.append(layer)
    return paired


def _network(layers: list[_Linear], uint8_scale: float) -> Network:
    """A network of these layers; an activation that is None is the identity, a bias that is None is zero."""
    dtype = layers[0].W1.dtype
    sizes = [count(f"{layers[0].place}: inputs", layers[0].n_in, maximum=MAX_SIZE)]
    for layer in layers:
        if layer.n_in != sizes[-1]:
            raise ValueError(
                f"{layer.place}: expected {sizes[-1]} inputs, as many as come from before it, got {layer.n_in}"
            )
        sizes.append(count(f"{layer.place}: outputs", layer.n_out, maximum=MAX_SIZE))
        for array in (layer.W1, layer.W2, layer.b):
            if array is not None and array.dtype != dtype:
                raise ValueError(
                    f"{layer.place}: expected {dtype}, as in the first layer, got {array.dtype}"
                )
    functions = [layer.activation or activations.identity() for layer in layers]
    layout = Layout.build(sizes, [layer.rank for layer in layers], functions)
    if layout.size > MAX_SIZE:
        raise ValueError(f"expected at most {MAX_SIZE} parameters, got {layout.size}")
    net = Network.__new__(Network)
    net.set_state(layout, aligned_zeros(layout.size, dtype))
    net.uint8_scale = uint8_scale
    for layer, to in zip(layers, net.layers, strict=True):
        if layer.W2 is None:
            to.W[...] = layer.W1
        else:
            to.W1[...], to.W2[...] = layer.W1, layer.W2
        if layer.b is not None:
            to.b[...] = layer.b
    return net


def to_torch(net: Network, *, logits: bool = False) -> torch.nn.Sequential:
    """A `torch.nn.Sequential` that computes what a network does, in memory of its own.

    A factored layer becomes two Linear layers, W2 without a bias and then W1 with it. `from_torch` is the way back.
    The module takes floats: pixels, which the network scales by `uint8_scale`, are to be scaled before. Needs PyTorch: the extra
    `torch`.

    Parameters
    ----------
    net : Network
    logits : bool
        Leave out a last softmax or sigmoid, as torch's CrossEntropyLoss and BCEWithLogitsLoss want it.

    Returns
    -------
    torch.nn.Sequential
        Of the network's dtype.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `net` is not a network, or `logits` is not True or False.

    Examples
    --------
    >>> import torch
    >>> import svdfast as sf
    >>> net = sf.Network([784, 512, 10], seed=0)
    >>> _ = net.truncate(rank_fraction=0.25)
    >>> sf.to_torch(net)
    Sequential(
      (0): Linear(in_features=784, out_features=128, bias=False)
      (1): Linear(in_features=128, out_features=512, bias=True)
      (2): ReLU()
      (3): Linear(in_features=512, out_features=10, bias=True)
      (4): Softmax(dim=-1)
    )
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            'to_torch needs PyTorch: pip install "svdfast[torch]"', name="torch"
        ) from None
    from torch import nn

    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    if not isinstance(logits, bool):
        raise TypeError(f"logits: expected True or False, got {type(logits).__name__}")

    def linear(W: NDArray[Any], b: NDArray[Any] | None) -> nn.Linear:
        # Without first weights, which would draw from torch's own generator.
        made = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, device="meta")
        made.weight = nn.Parameter(torch.tensor(W))
        if b is not None:
            made.bias = nn.Parameter(torch.tensor(b))
        return made

    def activation(function: Activation) -> nn.Module:
        match function.name:
            case "relu":
                return nn.ReLU()
            case "leaky_relu":
                return nn.LeakyReLU(function.parameter)
            case "elu":
                return nn.ELU(function.parameter)
            case "celu":
                return nn.CELU(function.parameter)
            case "gelu":
                return nn.GELU()
            case "tanh":
                return nn.Tanh()
            case "sigmoid":
                return nn.Sigmoid()
            case "softmax":
                return nn.Softmax(dim=-1)
            case name:
                raise AssertionError(name)

    parts: list[nn.Module] = []
    with in_use.reading(net):
        for layer in net.layers:
            if layer.rank is None:
                parts.append(linear(layer.W, layer.b))
            else:
                parts += [linear(layer.W2, None), linear(layer.W1, layer.b)]
            if layer.activation.name != "identity":
                parts.append(activation(layer.activation))
    if logits and head_of(net.layers[-1].activation).decides:
        parts.pop()
    return nn.Sequential(*parts)


def from_sklearn(estimator: Any, *, uint8_scale: float = 1 / 255) -> Network:
    """A network that computes what a fitted multi-layer perceptron of scikit-learn does.

    Its hidden weights can then be cut (`Network.truncate`) and the factors trained on: `train` goes on with the factors of a network
    that is factored already.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted. Of a pipeline, its last step; what the steps before do is to be done before the network.
    uint8_scale : float
        As for `Network`.

    Returns
    -------
    Network
        Of the dtype of ``coefs_``. Its outputs are those of ``predict_proba`` or, of a regressor, of ``predict``, with one column for each
        class or target; a classifier of two classes has one sigmoid output, the probability of ``classes_[1]``, and one of
        several labels at once a sigmoid for each. Targets are class numbers, the places in ``classes_``:
        ``numpy.searchsorted(estimator.classes_, y)``.

    Raises
    ------
    ImportError
        scikit-learn is not there.
    TypeError
        `estimator` is of another type.
    ValueError
        It is not fitted, or its output's activation has no counterpart (the exponential of the Poisson loss).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> import svdfast as sf
    >>> X, y = load_digits(return_X_y=True)
    >>> X = (X / 16).astype("float32")
    >>> mlp = MLPClassifier((128, 64), tol=0.01, random_state=0).fit(X[:1500], y[:1500])
    >>> net = sf.from_sklearn(mlp)
    >>> classes = np.searchsorted(mlp.classes_, y)
    >>> dense = net.score(X[1500:], classes[1500:])
    >>> abs(dense - mlp.score(X[1500:], y[1500:])) < 0.01
    True

    Cut to a quarter of the ranks and trained on for some epochs, it classifies about as well with less than half of the multiplications:

    >>> [t.rank for t in net.truncate(rank_fraction=0.25, inputs=X[:1500])]
    [16, 16]
    >>> result = sf.train(net, X[:1500], classes[:1500], epochs=5, recompose=False)
    >>> abs(net.score(X[1500:], classes[1500:]) - dense) < 0.02
    True
    >>> print(sf.count_multiplications(net, mode="forward"))
    layer    rank   dense  forward  ratio
    64-128     16   8,192    3,072   2.67
    128-64     16   8,192    3,072   2.67
    64-10   dense     640      640   1.00
    total          17,024    6,784   2.51
    """
    try:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.utils.validation import check_is_fitted
    except ImportError:
        raise ImportError(
            'from_sklearn needs scikit-learn: pip install "svdfast[sklearn]"', name="sklearn"
        ) from None
    if not isinstance(estimator, MLPClassifier | MLPRegressor):
        raise TypeError(
            f"estimator: expected an MLPClassifier or MLPRegressor, got {type(estimator).__name__}"
        )
    check_is_fitted(estimator, "coefs_")
    uint8_scale = positive_number("uint8_scale", uint8_scale)
    n_hidden = len(estimator.coefs_) - 1
    names = [estimator.activation] * n_hidden + [estimator.out_activation_]
    layers = []
    for i, (W, b, name) in enumerate(
        zip(estimator.coefs_, estimator.intercepts_, names, strict=True)
    ):
        ours = {"logistic": "sigmoid"}.get(name, name)
        if ours not in ("identity", "sigmoid", "tanh", "relu", "softmax"):
            raise ValueError(f"estimator: layer {i} has the activation {name!r}, which svdfast has not")
        if W.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ValueError(f"estimator: coefs_[{i}]: expected float32 or float64, got {W.dtype}")
        layers.append(
            _Linear(f"estimator: layer {i}", W.T, None, b, activations.resolve(ours))
        )
    return _network(layers, uint8_scale)
