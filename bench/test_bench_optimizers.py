# SPDX-License-Identifier: BSD-3-Clause
"""Timings of the compiled update, rule by rule, for vectors in the L2 cache and beyond all caches.

Updates run in one thread, in float32. An update has a few operations for each number that it reads,
so it is compared with the bandwidth of a triad (machine.py) over the same number of bytes. The
triad's count omits the cache line that a write fetches first, while an update has already read what
it writes. So an update may reach more than 100 % beyond the caches. The rules' results in every
setting are tested in tests/test_optimizers.py.
"""

from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import pytest

import svdfast as sf
from svdfast import _elementwise

RATE = 1e-3
RULES: dict[str, tuple[Any, dict[str, float]]] = {
    "gradient descent": (sf.GradientDescent(RATE), {}),
    "momentum": (sf.GradientDescent(RATE, momentum=0.9), {}),
    "Nesterov": (sf.GradientDescent(RATE, momentum=0.9, nesterov=True), {}),
    "Adam": (sf.Adam(RATE), {}),
    "AdamW": (sf.AdamW(RATE, weight_decay=0.1), {}),
    "Adam, L2": (sf.Adam(RATE), {"l2": 1e-2}),
    "Adam, L1": (sf.Adam(RATE), {"l1": 1e-3}),
    "Adam, L1 and L2": (sf.Adam(RATE), {"l1": 1e-3, "l2": 1e-2}),
}
# Elements of each of up to four vectors: 256 KiB or 512 MiB together.
SIZES = {"L2": 2**14, "memory": 2**25}


def expected(
    rule: Any, t: int, g: Any, w: Any, m: Any, v: Any, l1: float = 0.0, l2: float = 0.0
) -> list[Any]:
    """w and the moments after the t-th update, by NumPy in float64."""
    g, w = g.astype(np.float64), w.astype(np.float64)
    g = g + l1 * np.sign(w) + l2 * w
    w = w * (1 - RATE * rule.weight_decay)
    if v is not None:
        m = rule.beta1 * m.astype(np.float64) + (1 - rule.beta1) * g
        v = rule.beta2 * v.astype(np.float64) + (1 - rule.beta2) * g * g
        root = np.sqrt(v / (1 - rule.beta2**t))
        return [w - RATE * m / (1 - rule.beta1**t) / (root + rule.epsilon), m, v]
    if m is None:
        return [w - RATE * g]
    m = rule.beta1 * m.astype(np.float64) + g
    return [w - RATE * (g + rule.beta1 * m if rule.nesterov else m), m]


@pytest.mark.parametrize("place", SIZES)
@pytest.mark.parametrize("name", RULES)
def test_update(benchmark: Any, record_bytes: Callable[..., None], name: str, place: str) -> None:
    benchmark.group = f"optimizers, vectors in {place}"
    optimizer, penalties = RULES[name]
    rule = optimizer.rule
    # Without timing the check needs no large vectors.
    n = SIZES[place if benchmark.enabled else "L2"]
    n_moments = len(rule.kinds)
    rng = np.random.default_rng(0)
    g, w, *moments = (rng.standard_normal(n, dtype=np.float32) for _ in range(2 + n_moments))
    if n_moments == 2:
        np.square(moments[1], out=moments[1])

    def update() -> None:
        _elementwise.update(rule, RATE, 3, g, w, *moments, **penalties)

    rounds = 2000 if n == SIZES["L2"] else 7
    benchmark.pedantic(update, rounds=rounds, warmup_rounds=3)
    moved = 4 * n * (1 + 2 * (1 + n_moments))  # g is read, w and the moments are read and written
    bandwidth = None
    if benchmark.enabled:
        bandwidth = machine.memory_bandwidth(n_bytes=16 * n)
    record_bytes(moved, bandwidth, elements=n)

    # Another update; both ends of its vectors are checked.
    some = np.r_[0:1000, n - 1000 : n]
    before = [x[some] for x in (w, *moments)] + [None] * (2 - n_moments)
    wanted = expected(rule, 3, g[some], *before, **penalties)
    update()
    for x, result in zip((w, *moments), wanted, strict=True):
        np.testing.assert_allclose(x[some], result, rtol=1e-5, atol=1e-6)
