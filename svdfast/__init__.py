# SPDX-License-Identifier: BSD-3-Clause
"""svdfast: train neural networks faster by factoring their weights with truncated SVD.

This file only gathers names. Two modules come first because they may raise an error: `_gil`, and
`_compiled`, which looks for the compiled modules. `_runtime` loads SciPy's BLAS before anything
else does.
"""

from svdfast._process import gil as _gil  # isort: skip  # noqa: F401
from svdfast._process import compiled as _compiled  # isort: skip  # noqa: F401
from svdfast._process import runtime as _runtime  # isort: skip  # noqa: F401
from svdfast import (
    activations,
    callbacks,
    datasets,
    distributed,
    kernels,
    layers,
    onnx,
    plots,
    ranks,
    schedules,
    sequences,
)
from svdfast._process.config import show_config
from svdfast._process.version import __version__ as __version__
from svdfast.interop.files import load, save
from svdfast.interop.sklearn_networks import from_sklearn
from svdfast.interop.torch_networks import from_torch, to_torch
from svdfast.model.counting import break_even_rank, count_multiplications
from svdfast.model.describe import Input
from svdfast.model.network import Network
from svdfast.model.svd import factorize, truncated_svd
from svdfast.training import optimizers as _optimizers
from svdfast.training.diagnosis import NotFinite
from svdfast.training.events import Event, StopTraining
from svdfast.training.factoring import Factoring, Guard
from svdfast.training.optimizers import *  # noqa: F403
from svdfast.training.result import TrainingResult
from svdfast.training.resume import resume
from svdfast.training.stopping import EarlyStopping
from svdfast.training.train import train

__all__ = [
    "EarlyStopping",
    "Event",
    "Factoring",
    "Guard",
    "Input",
    "Network",
    "NotFinite",
    "StopTraining",
    "TrainingResult",
    "activations",
    "break_even_rank",
    "callbacks",
    "count_multiplications",
    "datasets",
    "distributed",
    "factorize",
    "from_sklearn",
    "from_torch",
    "kernels",
    "layers",
    "load",
    "onnx",
    "plots",
    "ranks",
    "resume",
    "save",
    "schedules",
    "sequences",
    "show_config",
    "to_torch",
    "train",
    "truncated_svd",
]
__all__ += _optimizers.__all__


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
