# SPDX-License-Identifier: BSD-3-Clause
"""The method on any PyTorch model: its layers cut to two factors in place, and multiplied together again.

So a model that trains on a GPU, by PyTorch, gets steps 2 and 4 of the four; the training between is the user's own. Needs PyTorch: the
extra `torch`; `import svdfast` does not import this package.

Not here: svdfast's networks from and to PyTorch (interop/torch_networks.py).
"""

from importlib import import_module as _import_module
from typing import Any as _Any

try:
    import torch as _torch  # noqa: F401
except ImportError:
    why = 'svdfast.torch needs PyTorch: pip install "svdfast[torch]"'
    raise ImportError(why, name="torch") from None

from svdfast.torch.attention import FactoredMultiheadAttention
from svdfast.torch.factorize import Truncation, factorize, recompose
from svdfast.torch.layers import (
    Factored,
    FactoredConv1d,
    FactoredConv2d,
    FactoredGRU,
    FactoredLinear,
    FactoredLSTM,
    FactoredRNN,
    FactoredTransposedLinear,
)
from svdfast.torch.modules import (
    ChannelsFirst,
    ChannelsLast,
    FactoredRecurrent,
    MeanPool2d,
    Recurrent,
)
from svdfast.torch.schedule import Event, Schedule

__all__ = [
    "ChannelsFirst", "ChannelsLast", "Event", "Factored", "FactoredConv1d", "FactoredConv2d",
    "FactoredGRU", "FactoredLSTM", "FactoredLinear", "FactoredMultiheadAttention", "FactoredRNN",
    "FactoredRecurrent", "FactoredTransposedLinear", "MeanPool2d", "Recurrent", "Schedule",
    "Truncation", "factorize", "recompose",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Callbacks, which need packages of others, are imported when they are asked for."""
    if name in ("lightning", "trainer"):
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
