# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a PyTorch module in the order of computation, and errors for unsupported ones.

Elsewhere: how a part is read (torch_reading.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from svdfast.model import activations

if TYPE_CHECKING:
    import torch

__all__ = ["check_same", "parts_of", "refuse"]

# Advice for modules and layers that are not supported.
_INSTEAD = {
    "LogSoftmax": 'leave it out and pass output="softmax"; the network gives probabilities then, not their logarithms',
    "LazyLinear": "run the module on a batch once, which makes it a Linear",
    "LazyBatchNorm1d": "run the module on a batch once, which makes it a BatchNorm1d",
    "LazyBatchNorm2d": "run the module on a batch once, which makes it a BatchNorm2d",
    "LazyConv1d": "run the module on a batch once, which makes it a Conv1d",
    "LazyConv2d": "run the module on a batch once, which makes it a Conv2d",
    "ParametrizedLinear": "torch.nn.utils.parametrize.remove_parametrizations(part, \"weight\") makes it a Linear",
    "ParametrizedConv1d": "torch.nn.utils.parametrize.remove_parametrizations(part, \"weight\") makes it a Conv1d",
    "ParametrizedConv2d": "torch.nn.utils.parametrize.remove_parametrizations(part, \"weight\") makes it a Conv2d",
    "DataParallel": "pass its .module",
    "DistributedDataParallel": "pass its .module",
    "RecursiveScriptModule": "pass the module that it was made from",
    "TopLevelTracedModule": "pass the module that it was made from",
    "RNN": "put it into svdfast.torch.Recurrent, which has one output",
    "GRU": "put it into svdfast.torch.Recurrent, which has one output",
    "LSTM": "put it into svdfast.torch.Recurrent, which has one output",
    "OptimizedModule": "pass the module that was compiled, its ._orig_mod",
}


def parts_of(
    module: torch.nn.Module, place: str, wrapped: list[str]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules in the order of computation, each with its place.

    `wrapped` gets the classes of modules around them other than Sequential.
    """
    from torch import nn

    kind = type(module)
    own = not kind.__module__.startswith(("torch.", "svdfast."))
    if kind.__name__ in _INSTEAD and not own:
        refuse(place, module)
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            f"{place}: expected a module without forward hooks, got {module}; those of weight_norm, spectral_norm and prune "
            "are taken away by remove_weight_norm, remove_spectral_norm and prune.remove"
        )
    if "forward" in vars(module) or (own and kind.__call__ is not nn.Module.__call__):
        raise ValueError(f"{place}: expected a module with the forward of its class, got {module}")
    if isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward:
        for i, part in enumerate(module):
            yield from parts_of(part, f"{place}[{i}]", wrapped)
    elif own and module._modules:
        wrapped.append(kind.__name__)
        for name in _called(module, place):
            part = getattr(module, name)
            yield from parts_of(part, f"{place}.{name}", wrapped)
    else:
        yield place, module


def _called(module: torch.nn.Module, place: str) -> list[str]:
    """The names of the modules that a module's forward calls in sequence.

    ValueError is raised if it does more. The forward of a copy is called with a placeholder, an
    object without properties. The copy's modules take and return only such objects. So an operation
    other than a call of a module fails.
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
        inner = {type(part).__name__ for part in module._modules.values()} & {"RNN", "GRU", "LSTM"}
        kind = type(module).__name__
        _refuse_forward(place, f"{kind}, where {min(inner)} has two outputs and svdfast.torch.Recurrent one" if inner else kind, error)
    if returned is not passed:
        _refuse_forward(place, type(module).__name__)
    return names


def _refuse_forward(place: str, kind: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(
        f"{place}: expected a forward that calls the module's own modules one after the other and nothing else, got that of "
        f"{kind}; pass a Sequential that computes the same"
    ) from error


def check_same(
    module: torch.nn.Module,
    parts: Sequence[torch.nn.Module],
    samples: torch.Tensor,
    wrapped: Sequence[str],
) -> None:
    """Raises ValueError if, for these samples, the module and its parts in order differ."""
    import torch

    modules = list(module.modules())
    training = [part.training for part in modules]
    try:
        for part in modules:
            part.training = False
        with torch.no_grad():
            expected = samples
            for part in parts:
                expected = part(expected)
            got = module(samples.clone())
    except Exception as error:
        raise ValueError(
            f"module: expected one that computes {samples.dtype} inputs of shape {tuple(samples.shape)}, got an error: {error}"
        ) from error
    finally:
        for part, was in zip(modules, training, strict=True):
            part.training = was
    if not (torch.is_tensor(got) and got.shape == expected.shape and torch.allclose(got, expected, equal_nan=True)):
        _refuse_forward("module", " or ".join(dict.fromkeys(wrapped)))


def refuse(place: str, part: torch.nn.Module, instead: str = "") -> NoReturn:
    """Raises ValueError: a module of this class is not supported. `instead` is the advice."""
    from torch import nn

    kind = type(part)
    name = kind.__name__
    if getattr(nn, name, kind) is not kind:  # such as a quantised Linear
        name = f"{kind.__module__}.{name}"
    names = (facts.torch.name for facts in activations.FACTS.values() if facts.torch is not None)
    taken = dict.fromkeys(["Linear", "BatchNorm1d", *names, "ReLU6", "SELU", "Dropout", "AlphaDropout"])
    known = instead or _INSTEAD.get(name, "svdfast.torch.factorize truncates weights of any module")
    raise ValueError(f"{place}: expected {', '.join(taken)}, Flatten, Identity or Sequential, got {name}; {known}")


