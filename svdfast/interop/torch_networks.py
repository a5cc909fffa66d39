# SPDX-License-Identifier: BSD-3-Clause
"""Networks from and to PyTorch's own: the numbers are copied, the function stays the same.

Not here: the method on a PyTorch model itself (torch.py); which module an activation is (model/activations.py).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.checks import positive_number
from svdfast.interop.linears import Affine, Linear, network_of
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.heads import head_of
from svdfast.model.network import Network

if TYPE_CHECKING:
    import torch

__all__ = ["from_torch", "to_torch"]

logger = logging.getLogger("svdfast")

# SELU(z) = scale·ELU(z) with this α (Klambauer et al. 2017).
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717

# What to do about modules and layers that are not taken.
_INSTEAD = {
    "LogSoftmax": 'leave it out and pass output="softmax"; the network gives probabilities then, not their logarithms',
    "LazyLinear": "run the module on a batch once, which makes it a Linear",
    "LazyBatchNorm1d": "run the module on a batch once, which makes it a BatchNorm1d",
    "ParametrizedLinear": "torch.nn.utils.parametrize.remove_parametrizations(part, \"weight\") makes it a Linear",
    "DataParallel": "pass its .module",
    "DistributedDataParallel": "pass its .module",
    "RecursiveScriptModule": "pass the module that it was made from",
    "TopLevelTracedModule": "pass the module that it was made from",
    "OptimizedModule": "pass the module that was compiled, its ._orig_mod",
}


def from_torch(
    module: torch.nn.Module, *, output: str | Activation = "identity", uint8_scale: float = 1 / 255
) -> Network:
    """A network that computes what a `torch.nn.Sequential` of Linear layers and activations does.

    Two successive Linear layers become a factored layer, W1·W2, if the first has no bias and is not wider than their outer sides. So a
    network that `to_torch` made comes back unchanged. The last Linear is the output layer and stays dense. Any other Linear
    without an activation after it becomes a layer with the activation "identity".

    Parameters
    ----------
    module : torch.nn.Module
        A Sequential of the modules listed below, or a Linear alone. On any device. The network computes what the module does
        after ``eval()`` for inputs (n_samples, n_inputs).
    output : str or Activation
        The activation of the last layer where the module has none there. For a model that computes logits, as for torch's
        CrossEntropyLoss and BCEWithLogitsLoss, use "softmax" or "sigmoid".
    uint8_scale : float
        As for `Network`.

    Returns
    -------
    Network
        A copy, with the module's dtype. Weights in float16 or bfloat16 become float32, and a message is logged.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `module` is not a torch module.
    ValueError
        A part has no counterpart (the message says which, and where), or the weights are neither all float32 nor all float64.

    Notes
    -----
    These modules are taken:

    - Linear and `svdfast.torch.FactoredLinear`. Weights that layers share are copied, and are independent afterwards.
    - ReLU, ReLU6, LeakyReLU, ELU, CELU, GELU, SiLU, Softplus, Tanh, Sigmoid, Softmax over the last dimension, and Hardtanh from 0 or
      from −max_val.
    - SELU, and Softplus with a β. Their scale is folded into the next Linear, so they can't be the last module.
    - BatchNorm1d after ``eval()``. It is folded into the Linear before it, or into the next one if an activation stands between.
    - Dropout, AlphaDropout, Identity and Flatten. They do nothing after ``eval()``, so further training is without dropout.
    - Sequentials of all these.
    - A module of your own whose forward calls such modules one after the other and does nothing else. This is checked by calling its
      forward, first with a placeholder and then, in inference, with numbers.

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
    wrapped: list[str] = []  # the classes of modules around the parts
    parts = list(_flattened(module, "module", wrapped))
    layers = _linears(parts)
    if layers[-1].activation is None:
        layers[-1].activation = last
    elif last.name != "identity":
        raise ValueError(
            f"output: expected identity for a module that ends in an activation, got {last.name}"
        )
    net = network_of(_paired(layers), uint8_scale)
    weights = [getattr(part, name) for _, part in parts for name in _weight_names(part)]
    if wrapped:
        _check_same(module, [part for _, part in parts], weights[0], net.sizes[0], wrapped)
    for kind in {weight.dtype for weight in weights} & {torch.float16, torch.bfloat16}:
        logger.warning("from_torch: weights in %s become float32, in which the network computes", kind)
    return net


def _linears(parts: Sequence[tuple[str, torch.nn.Module]]) -> list[Linear]:
    """The Linear layers among modules that compute one after the other, each with its activation."""
    layers: list[Linear] = []
    pending: Affine | None = None  # of the next Linear's inputs

    def scale(affine: Affine) -> None:
        nonlocal pending
        if pending is None and layers and layers[-1].activation is None:
            layers[-1] = layers[-1].then(affine)
        else:
            pending = affine if pending is None else pending.then(affine)

    for place, part in parts:
        linear = _torch_linear(place, part)
        if linear is not None:
            layers.append(linear if pending is None else linear.after(pending))
            pending = None
            continue
        affine = _torch_batch_norm(place, part)
        if affine is not None:
            scale(affine)
            continue
        function, before, after = _torch_activation(place, part)
        if function is None:
            continue
        if not layers:
            raise ValueError(f"{place}: expected a Linear before the first activation, got {part}")
        if layers[-1].activation is not None:
            raise ValueError(
                f"{place}: expected one activation after a Linear, got {part} as another"
            )
        if before != 1:
            scale(Affine(place, before))
        layers[-1].activation = function
        if after != 1:
            scale(Affine(place, after))
    if not layers:
        raise ValueError("module: expected at least one Linear in it, got none")
    if pending is not None:
        part = dict(parts)[pending.place]
        raise ValueError(
            f"{pending.place}: expected a Linear after {part}, to fold its scale into, got none"
        )
    return layers


def _flattened(
    module: torch.nn.Module, place: str, wrapped: list[str]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules in the order in which they compute, each with its place; `wrapped` gets the classes of modules around
    them that are no Sequential."""
    from torch import nn

    kind = type(module)
    own = not kind.__module__.startswith(("torch.", "svdfast."))
    if kind.__name__ in _INSTEAD and not own:
        _refuse(place, module)
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            f"{place}: expected a module without forward hooks, got {module}; those of weight_norm, spectral_norm and prune "
            "are taken away by remove_weight_norm, remove_spectral_norm and prune.remove"
        )
    if "forward" in vars(module) or (own and kind.__call__ is not nn.Module.__call__):
        raise ValueError(f"{place}: expected a module with the forward of its class, got {module}")
    if isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward:
        for i, part in enumerate(module):
            yield from _flattened(part, f"{place}[{i}]", wrapped)
    elif own and module._modules:
        wrapped.append(kind.__name__)
        for name in _called(module, place):
            part = getattr(module, name)
            yield from _flattened(part, f"{place}.{name}", wrapped)
    else:
        yield place, module


def _called(module: torch.nn.Module, place: str) -> list[str]:
    """The names of the modules that a module's forward calls one after the other; ValueError: it does more.

    The forward is called with an object without properties, and of a copy whose modules take and return nothing but such objects. So
    an operation other than a call of a module fails.
    """
    names: list[str] = []
    passed = object()

    def stand_in(name: str) -> Any:
        def call(x: Any) -> Any:
            nonlocal passed
            if x is not passed:
                raise ValueError("expected what the call before returned")
            names.append(name)
            passed = object()
            return passed

        return call

    copy = object.__new__(type(module))
    vars(copy).update(vars(module))
    stand_ins = {name: None if part is None else stand_in(name) for name, part in module._modules.items()}
    vars(copy).update(_modules=stand_ins, training=False)
    try:
        returned = copy.forward(passed)
    except Exception as error:
        _refuse_forward(place, type(module).__name__, error)
    if returned is not passed:
        _refuse_forward(place, type(module).__name__)
    return names


def _refuse_forward(place: str, kind: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(
        f"{place}: expected a forward that calls the module's own modules one after the other and nothing else, got that of "
        f"{kind}; pass a Sequential that computes the same"
    ) from error


def _check_same(
    module: torch.nn.Module,
    parts: Sequence[torch.nn.Module],
    like: torch.Tensor,
    n_in: int,
    wrapped: Sequence[str],
) -> None:
    """ValueError: the module computes something else than its parts in their order, for numbers of the dtype and device of `like`."""
    import torch

    modules = list(module.modules())
    training = [part.training for part in modules]
    numbers = np.random.default_rng(0).standard_normal((3, n_in))
    x = torch.tensor(numbers, dtype=like.dtype, device=like.device)
    try:
        for part in modules:
            part.training = False
        with torch.no_grad():
            expected = x
            for part in parts:
                expected = part(expected)
            got = module(x.clone())
    except Exception as error:
        raise ValueError(
            f"module: expected one that computes {x.dtype} inputs of shape {tuple(x.shape)}, got an error: {error}"
        ) from error
    finally:
        for part, was in zip(modules, training, strict=True):
            part.training = was
    if not (torch.is_tensor(got) and got.shape == expected.shape and torch.allclose(got, expected, equal_nan=True)):
        _refuse_forward("module", " or ".join(dict.fromkeys(wrapped)))


def _numbers(place: str, tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor as an array in float32 or float64; halves become float32."""
    import torch

    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"{place}: expected float32 or float64, got {kind}")
    if tensor.device.type == "meta":
        raise ValueError(f"{place}: expected numbers, got a tensor on the device meta")
    if tensor.layout != torch.strided:
        raise ValueError(f"{place}: expected a dense tensor, got {tensor.layout}")
    tensor = tensor.detach().cpu()
    numbers: NDArray[Any] = (tensor if kind == "float64" else tensor.float()).numpy()
    return numbers


def _weight_names(part: torch.nn.Module) -> tuple[str, ...]:
    """Of a Linear or a FactoredLinear; none for subclasses, which may compute something else."""
    from torch import nn

    from svdfast.torch import FactoredLinear

    return {nn.Linear: ("weight",), FactoredLinear: ("W1", "W2")}.get(type(part), ())


def _torch_linear(place: str, part: torch.nn.Module) -> Linear | None:
    """The numbers of a Linear or a FactoredLinear."""
    names = _weight_names(part)
    if not names:
        return None
    factors = tuple(_numbers(f"{place}.{name}", getattr(part, name)) for name in names)
    b: Any = part.bias
    return Linear(place, factors, None if b is None else _numbers(f"{place}.bias", b))


def _torch_batch_norm(place: str, part: torch.nn.Module) -> Affine | None:
    """What a BatchNorm1d computes after eval(): (x − mean)/√(var + ε)·weight + bias."""
    from torch import nn

    if type(part) is not nn.BatchNorm1d:
        return None
    if part.running_mean is None or part.running_var is None:
        raise ValueError(
            f"{place}: expected a BatchNorm1d with running statistics, got {part}, which takes each batch's own; set "
            "track_running_stats=True, running_mean and running_var"
        )
    if part.training:
        raise ValueError(
            f"{place}: expected {part} after eval(), got one in training mode; call module.eval() first"
        )

    def array(name: str) -> NDArray[Any]:
        return _numbers(f"{place}.{name}", getattr(part, name))

    mean, var = array("running_mean").astype(np.float64), array("running_var").astype(np.float64)
    with np.errstate(all="ignore"):  # what is not finite is found where it is folded in
        scale = 1 / np.sqrt(var + part.eps)
        if part.weight is not None:
            scale *= array("weight")
        shift = -mean * scale
        if part.bias is not None:
            shift += array("bias")
    return Affine(place, scale, shift, str(array("running_mean").dtype))


def _torch_activation(
    place: str, part: torch.nn.Module
) -> tuple[Activation | None, float, float]:
    """The activation f, b and a of a module that computes a·f(b·z); None for a module that does nothing in inference."""
    from torch import nn

    kind = type(part)  # a subclass may compute something else
    if kind in (nn.Dropout, nn.AlphaDropout, nn.Identity):
        return None, 1, 1
    if kind is nn.Flatten:
        if part.start_dim != 1 or part.end_dim not in (1, -1):
            raise ValueError(f"{place}: expected Flatten(start_dim=1, end_dim=-1), got {part}")
        return None, 1, 1
    if kind is nn.SELU:
        return activations.elu(_SELU_ALPHA), 1, _SELU_SCALE
    if kind is nn.ReLU6:
        return activations.clipped_relu(6), 1, 1
    if kind is nn.Softplus and part.threshold == 20 and part.beta != 1:
        beta = positive_number(f"{place}: {part}: beta", part.beta)
        return activations.softplus(), beta, 1 / beta
    expected = []
    for ours, facts in activations.FACTS.items():
        known = facts.torch
        if known is None or kind is not getattr(nn, known.name):
            continue
        try:
            function = activations.resolve(ours)
            if known.parameter is not None:
                function = Activation(ours, getattr(part, known.parameter))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {part}: {error}") from None
        others = known.others(function.parameter)
        if all(getattr(part, name) in values for name, values in others.items()):
            return function, 1, 1
        for values in itertools.product(*others.values()):
            arguments = ", ".join(f"{name}={v!r}" for name, v in zip(others, values, strict=True))
            expected.append(f"{known.name}({arguments})")
    if expected:
        raise ValueError(f"{place}: expected {' or '.join(expected)}, got {part}")
    _refuse(place, part)


def _refuse(place: str, part: torch.nn.Module) -> NoReturn:
    """ValueError: a module of this class is not taken."""
    from torch import nn

    kind = type(part)
    name = kind.__name__
    if getattr(nn, name, kind) is not kind:  # another of the same name, as a quantised Linear
        name = f"{kind.__module__}.{name}"
    names = (facts.torch.name for facts in activations.FACTS.values() if facts.torch is not None)
    taken = dict.fromkeys(["Linear", "BatchNorm1d", *names, "ReLU6", "SELU", "Dropout", "AlphaDropout"])
    instead = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
    raise ValueError(
        f"{place}: expected {', '.join(taken)}, Flatten, Identity or Sequential, got {name}{instead}"
    )


def _paired(layers: list[Linear]) -> list[Linear]:
    """The layers of a network: joins a pair that is a factored layer, splits a factored layer that a network can't have."""
    parts: list[Linear] = []
    for layer in layers:
        *W1, right = layer.factors
        if W1 and (layer is layers[-1] or len(right) > min(layer.n_in, layer.n_out)):
            parts.append(Linear(layer.place, (right,), None))
            layer = replace(layer, factors=tuple(W1))
        parts.append(layer)
    paired: list[Linear] = []
    for layer in parts:
        before = paired[-1] if paired else None
        if (
            before is not None
            and layer is not parts[-1]  # the output layer is dense
            and len(before.factors) == len(layer.factors) == 1
            and before.b is None
            and before.activation is None
            and before.n_out == layer.n_in <= min(before.n_in, layer.n_out)
        ):
            paired[-1] = replace(layer, factors=layer.factors + before.factors)
        else:
            paired.append(layer)
    return paired


def to_torch(net: Network, *, logits: bool = False) -> torch.nn.Sequential:
    """A `torch.nn.Sequential` that computes what a network does, as a copy.

    A factored layer becomes two Linear layers, W2 without a bias and then W1 with it. `from_torch` is the way back.
    The module takes floats: scale uint8 inputs by `uint8_scale` first, as the network does. Needs PyTorch: the extra `torch`.

    Parameters
    ----------
    net : Network
    logits : bool
        Leave out a last softmax or sigmoid, as torch's CrossEntropyLoss and BCEWithLogitsLoss want it.

    Returns
    -------
    torch.nn.Sequential
        With the network's dtype.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `net` is not a network, or `logits` is not True or False.
    ValueError
        PyTorch lacks an activation of the network.

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

    def activation(i: int, function: Activation) -> nn.Module:
        known = function.facts.torch
        if known is None:
            raise ValueError(f"net: layer {i}: expected an activation of torch.nn, got {function.name}")
        others = known.others(function.parameter)
        arguments = {name: values[0] for name, values in others.items()}
        if known.parameter is not None:
            arguments[known.parameter] = function.parameter
        made: nn.Module = getattr(nn, known.name)(**arguments)
        return made

    parts: list[nn.Module] = []
    with in_use.reading(net):
        for i, layer in enumerate(net.layers):
            *first, last = layer.products.values()
            parts += [*(linear(W, None) for W in first), linear(last, layer.b)]
            if layer.activation.name != "identity":
                parts.append(activation(i, layer.activation))
    if logits and head_of(net.layers[-1].activation).decides:
        parts.pop()
    return nn.Sequential(*parts)
