# SPDX-License-Identifier: BSD-3-Clause
"""The time of a layer's dense and factored form, and the rank up to which factors save time.

Elsewhere: the shapes of a layer's inputs (observe.py); which layers are factored (factorize.py).
"""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from svdfast.model.counting import break_even_rank
from svdfast.torch.kinds import Kind, kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.observe import Inputs, Seen
from svdfast.torch.places import is_trained, sides, tensors

__all__ = ["WORTH", "both_forms", "forget", "ladder", "least_work", "measured_break_even"]

WORTH = 0.8  # of the dense layer's time, at most: a smaller gain does not pay for a truncation
_STEP = {"cuda": 64}  # ranks that a GPU's tiles fit; elsewhere:
_STEP_ELSEWHERE = 16
# Multiplications of a timed pass, forward and backward; of a larger batch, only a part is timed.
_MOST = {"cuda": 1e12}
_MOST_ELSEWHERE = 1e8
_FEWEST_ROWS = 64  # in that part: with fewer, reading the weight would dominate the time
_RUNGS = 16  # most rungs of the ladder that a search tries
_PAIRS = 3, 15  # fewest and most passes of each layer, for the median

_times: dict[tuple[Any, ...], int] = {}
_alone = threading.Lock()  # two measurements at once would disturb each other


def forget() -> None:
    """Empties the cache."""
    _times.clear()


def ladder(n_in: int, n_out: int, device: str) -> list[int]:
    """The ranks that are tried, up to the counted break-even rank.

    They are multiples of 64 on a GPU and of 16 elsewhere.
    """
    step = _STEP.get(device, _STEP_ELSEWHERE)
    limit = break_even_rank(n_in, n_out) if min(n_in, n_out) > 0 else 0
    return list(range(step, min(limit, n_in, n_out) + 1, step))


def measured_break_even(layer: nn.Module, seen: Seen, *, seconds: float = 0.05) -> int:
    """The largest rank at which the factored layer takes at most 0.8 of the dense one's time.

    It is 0 if no rank of the ladder does. Forward and backward passes of both layers alternate,
    with inputs of the observed shapes, and their medians are compared. The ladder is searched by
    bisection. The result is kept for layers of the same kind, shape, dtype and device.

    Parameters
    ----------
    layer : torch.nn.Module
        Layer of a kind that can be factored, dense or factored. It is not changed.
    seen : Seen
        Result of `observe` for this layer.
    seconds : float
        Approximate time limit. At least three passes of each layer are timed.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        The layer can't be factored.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch.observe import observe
    >>> from svdfast.torch.timing import measured_break_even
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 10))
    >>> seen = observe(model, [torch.rand(8, 20)], {model[0]: "0"}, gram=False)
    >>> measured_break_even(model[0], seen[model[0]])  # the ladder has no rank below 200/30
    0
    """
    kind = kind_of(layer)
    if kind is None:
        raise TypeError(f"layer: expected a layer that can be factored, got a {type(layer).__name__}")
    device = tensors(layer)[0].device
    rungs = ladder(*sides(layer), device.type)
    if not rungs or not seen.inputs or any(0 in x.shape for x in seen.inputs) or device.type == "meta":
        return 0
    key = _key(layer, kind, seen, device)
    with _alone:
        if key not in _times:
            _times[key] = _search(layer, kind, seen, rungs, device, seconds)
        return _times[key]


def least_work(layer: nn.Module, seen: Seen) -> float:
    """Approximate multiplications of the shortest search; 0 if none is needed or possible."""
    kind = kind_of(layer)
    device = tensors(layer)[0].device
    rungs = ladder(*sides(layer), device.type)
    if kind is None or not rungs or not seen.inputs or any(0 in x.shape for x in seen.inputs) or device.type == "meta":
        return 0
    if _key(layer, kind, seen, device) in _times:
        return 0
    n_in, n_out = sides(layer)
    work = 3.0 * n_in * n_out * max(1, _rows(kind, layer, seen))
    most = max(_MOST.get(device.type, _MOST_ELSEWHERE), 3 * n_in * n_out * _FEWEST_ROWS)
    # The factored layer makes one pass and one for each pair, at each rung that is tried.
    passes = 2 + (1 + 2 * _PAIRS[0]) * math.ceil(math.log2(1 + min(len(rungs), _RUNGS)))
    return passes * min(work, most)


def both_forms(layer: Factored, seen: Seen, *, seconds: float = 0.05) -> tuple[float, float]:
    """Seconds of a pass, forward and backward, of a layer's dense and of its factored form.

    Passes alternate. If the batch is large, a part of it is timed, and the seconds are scaled.

    Parameters
    ----------
    layer : Factored
        It is not changed.
    seen : Seen
        Result of `observe` for this layer, with inputs.
    seconds : float
        Approximate time limit. At least three passes of each form are timed.
    """
    kind, dense = kind_of(layer), layer.dense()
    assert kind is not None
    device = tensors(layer)[0].device
    with _alone, _as_seen(seen, device):
        inputs = _inputs(kind, dense, seen.inputs, device)
        whole, part = (kind.count(dense, [x.shape for x in of]) for of in (seen.inputs, inputs))
        fast, slow = _pass(kind, layer, inputs), _pass(kind, dense, inputs)
        slow()  # the first pass of all takes longer
        of_fast, of_slow = _medians(fast, slow, _time(slow, 1, device), device, seconds)
    scale = whole / max(1, part)
    return of_slow * scale, of_fast * scale


def _rows(kind: Kind, layer: nn.Module, seen: Seen) -> int:
    dense = layer.dense() if isinstance(layer, Factored) else layer
    return kind.count(dense, [x.shape for x in seen.inputs])


def _key(layer: nn.Module, kind: Kind, seen: Seen, device: torch.device) -> tuple[Any, ...]:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    settings = tuple(
        str(getattr(layer, name, None))
        for name in (
            "mode", "hidden_size", "num_layers", "bidirectional", "batch_first", "num_heads", "kernel_size", "stride", "padding",
            "dilation", "padding_mode",
        )
    )  # fmt: skip
    weight = tensors(layer)[-1]
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return (where, threads, weight.dtype, kind.name, *sides(layer), settings, seen.inputs, seen.autocast, is_trained(layer))


def _search(layer: nn.Module, kind: Kind, seen: Seen, rungs: list[int], device: torch.device, seconds: float) -> int:
    """The last rung that is worth it, by bisection. It assumes that all rungs below are, too."""
    every = -(-len(rungs) // _RUNGS)
    rungs = rungs[every - 1 :: every]
    dense = layer.dense() if isinstance(layer, Factored) else layer
    with _as_seen(seen, device):
        inputs = _inputs(kind, dense, seen.inputs, device)
        slow = _pass(kind, dense, inputs)
        slow()  # the first pass of all takes longer
        once = _time(slow, 1, device)
        share = seconds / (1 + math.log2(len(rungs)))
        low, high = 0, len(rungs)  # the rungs below `low` are worth it, those from `high` on are not
        while low < high:
            middle = (low + high) // 2
            fast = _pass(kind, _random(kind, dense, rungs[middle], device), inputs)
            of_fast, of_slow = _medians(fast, slow, once, device, share)
            if of_fast <= WORTH * of_slow:
                low = middle + 1
            else:
                high = middle
    return rungs[low - 1] if low else 0


@contextlib.contextmanager
def _as_seen(seen: Seen, device: torch.device) -> Iterator[None]:
    """Gradients and autocast as in the training; random numbers, which dropout draws, are restored."""
    gpus = [device.index or 0] if device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if seen.autocast is not None:
            stack.enter_context(torch.autocast(device.type, seen.autocast))
        yield


def _random(kind: Kind, layer: nn.Module, rank: int, device: torch.device) -> Factored:
    n_in, n_out = kind.sides(layer)
    generator = torch.Generator().manual_seed(0)
    W1, W2 = (torch.randn(shape, generator=generator) * 0.01 for shape in ((n_out, rank), (rank, n_in)))
    return kind.factored(layer, W1.to(device), W2.to(device))


def _inputs(kind: Kind, layer: nn.Module, described: tuple[Inputs, ...], device: torch.device) -> list[Tensor]:
    """Random inputs of these shapes. The batch is no larger than a timed pass allows."""
    n_in, n_out = kind.sides(layer)
    most = _MOST.get(device.type, _MOST_ELSEWHERE)
    rows = max(1, kind.count(layer, [x.shape for x in described]))
    most = max(most, 3 * n_in * n_out * min(rows, _FEWEST_ROWS))
    work = 3 * n_in * n_out * rows
    generator = torch.Generator().manual_seed(0)
    made = []
    for x in described:
        shape = list(x.shape)
        axis = kind.batch_axis(layer, len(shape))
        if work > most and axis is not None:
            shape[axis] = max(1, math.floor(shape[axis] * most / work))
        tensor = torch.randn(shape, generator=generator).to(device, x.dtype)
        if x.channels_last:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        made.append(tensor.requires_grad_())
    return made


def _pass(kind: Kind, layer: nn.Module, inputs: list[Tensor]) -> Callable[[], None]:
    """A function that makes a forward and a backward pass and leaves no gradient behind."""
    wanted = [*inputs, *(p for p in layer.parameters() if p.requires_grad)]

    def run() -> None:
        out = kind.call(layer, inputs)
        torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)

    return run


def _medians(
    fast: Callable[[], None], slow: Callable[[], None], once: float, device: torch.device, seconds: float
) -> tuple[float, float]:
    """The median times of both.

    Their passes alternate, so both meet the same disturbances. `once` is the approximate time of
    one pass of the slow one.
    """
    fast()
    # A pass too short for the clock or the wait for a GPU is repeated.
    times = max(1, min(50, round(2e-4 / once))) if once > 0 else 50
    least, most = _PAIRS
    pairs = max(least, min(most, int(seconds / (2 * times * max(once, 1e-9)))))
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(pairs):
        for run, into in zip((fast, slow), taken, strict=True):
            into.append(_time(run, times, device))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _time(run: Callable[[], None], times: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    _wait(device)
    return (time.perf_counter() - start) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
