# SPDX-License-Identifier: BSD-3-Clause
"""The method on any PyTorch model: layers are truncated to two factors in place, and recomposed.

A model that PyTorch trains on a GPU gets steps 2 and 4 of the four here. The training between them
is the user's own. This package needs PyTorch, the extra `torch`. `import svdfast` does not import
it.

Elsewhere: svdfast's networks from and to PyTorch (interop/torch_networks.py).
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
    """Imports callbacks, which need third-party packages, on first use."""
    if name in ("lightning", "trainer"):
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
