# SPDX-License-Identifier: BSD-3-Clause
"""Random first weights. Biases start at zero.

For a weight W (n, m), m inputs and n outputs:

- glorot: N(0, 1/m), the paper's form (section 3.1.6: randn(n, m)·√(1/m));
- glorot_uniform: uniform on ±√(6/(m + n)) (Glorot & Bengio 2010);
- he: N(0, 2/m) (He et al. 2015).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["INITIALIZERS", "initial_state_weight", "initial_weight"]

INITIALIZERS = ("glorot", "glorot_uniform", "he")


def initial_weight(init: str, n: int, m: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A weight (n, m), drawn in float64, so that networks of either dtype start alike."""
    if init == "glorot_uniform":
        bound = math.sqrt(6 / (m + n))
        return rng.uniform(-bound, bound, (n, m))
    variance = 1 / m if init == "glorot" else 2 / m
    return rng.standard_normal((n, m)) * math.sqrt(variance)


def initial_state_weight(n_rows: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The weight (gates·n, n) of a recurrent state: an orthogonal matrix for each gate.

    See Saxe et al. (2014).
    """
    return np.concatenate([np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(n_rows // n)])
