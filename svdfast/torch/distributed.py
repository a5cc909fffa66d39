# SPDX-License-Identifier: BSD-3-Clause
"""Unwraps the user's model, and lets several processes that train it agree.

DistributedDataParallel reduces gradients of the parameters that it was built over. When these
change, its own constructor builds it again over the new ones. That happens in place, as the user
holds the object. Rank 0 decides and truncates; the others take its factors.

Elsewhere: what is decided (schedule.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["Team", "unwrapped"]

_BUCKET = 25 * 2**20  # DistributedDataParallel's own, with a smaller first one

_REFUSED = {
    "FullyShardedDataParallel": "FSDP splits its parameters over processes",
    "FSDPModule": "FSDP splits its parameters over processes",
    "DeepSpeedEngine": "DeepSpeed holds parameters and optimizer itself",
    "PipelineEngine": "DeepSpeed holds parameters and optimizer itself",
}


def unwrapped(model: Any) -> tuple[nn.Module, DistributedDataParallel | None]:
    """The user's own module, and the DistributedDataParallel around it.

    Raises
    ------
    TypeError
        `model` is not a module, or its parameters are split over processes.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    ddp = None
    inner: Any = model
    while True:
        if isinstance(inner, DistributedDataParallel):
            ddp = inner
            inner = ddp.module
        elif isinstance(inner, DataParallel):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):  # torch.compile's wrapper
            inner = inner._orig_mod
        else:
            break
    for part in (model, *inner.modules()):
        for kind in type(part).__mro__:
            if kind.__name__ in _REFUSED:
                raise TypeError(
                    f"model: expected whole parameters, got a {kind.__name__}: "
                    f"{_REFUSED[kind.__name__]}, which can't be replaced"
                )
    if any(type(p).__name__ == "DTensor" for p in inner.parameters()):
        raise TypeError("model: expected whole parameters, got DTensor, which can't be replaced")
    if ddp is not None and getattr(ddp, "mixed_precision", None) is not None:
        raise TypeError(
            "model: a DistributedDataParallel with mixed_precision can't be built again"
        )
    return inner, ddp


class Team:
    """The processes that train a model together; without DistributedDataParallel only this one."""

    def __init__(self, ddp: DistributedDataParallel | None):
        self.ddp = ddp
        self.group = None if ddp is None else ddp.process_group

    @property
    def leads(self) -> bool:
        """True if this process decides."""
        return self.ddp is None or distributed.get_rank(self.group) == 0

    def agree(self, decision: Any) -> Any:
        """The decision of rank 0, a plain value or container."""
        if self.ddp is None:
            return decision
        box = [decision]
        distributed.broadcast_object_list(box, self._source, self.group, device=self._device)
        return box[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Copies the numbers of rank 0 to all processes, in place."""
        if self.ddp is not None:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), self._source, self.group)

    def decide(self, make: Callable[[], Any]) -> Any:
        """The result of `make`, which only rank 0 calls. If it fails there, all processes fail."""
        if self.ddp is None:
            return make()
        if not self.leads:
            result, failure = self.agree(None)
            if failure is not None:
                raise RuntimeError(f"rank 0 failed: {failure}")
            return result
        try:
            result = make()
        except BaseException as error:
            self.agree((None, f"{type(error).__name__}: {error}"))
            raise
        return self.agree((result, None))[0]

    @property
    def _source(self) -> int:
        """The global rank of the group's rank 0."""
        return distributed.get_global_rank(self.group, 0) if self.group is not None else 0

    @property
    def _device(self) -> torch.device:
        assert self.ddp is not None
        return next(self.ddp.parameters()).device

    def rebuild(self) -> None:
        """Builds DistributedDataParallel again over the current parameters."""
        ddp = self.ddp
        if ddp is None:
            return
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        arguments: dict[str, Any] = {
            "device_ids": ddp.device_ids,
            "output_device": ddp.output_device,
            "dim": ddp.dim,
            "process_group": ddp.process_group,
            "bucket_cap_mb": None
            if ddp.bucket_bytes_cap == _BUCKET
            else ddp.bucket_bytes_cap / 2**20,
            "find_unused_parameters": ddp.find_unused_parameters,
            "gradient_as_bucket_view": ddp.gradient_as_bucket_view,
            "static_graph": ddp.static_graph,
            # All processes have the same parameters already, and buffers are the user's.
            "init_sync": False,
        }
        if "forward_sync_buffers" in known:
            arguments["forward_sync_buffers"] = ddp.forward_sync_buffers
        else:
            arguments["broadcast_buffers"] = ddp.broadcast_buffers
        # The constructor resets the hooks and the training mode of the module.
        kept = vars(nn.Module()).keys() - {"_modules", "_parameters", "_buffers"}
        own = {name: value for name, value in vars(ddp).items() if name in kept}
        hooks = list(getattr(ddp, "_comm_hooks", ()))
        sync = ddp.require_backward_grad_sync
        # The old reducer takes its hooks on the remaining parameters with it.
        del ddp.reducer, ddp.logger
        arguments = {name: value for name, value in arguments.items() if name in known}
        DistributedDataParallel.__init__(ddp, ddp.module, **arguments)
        vars(ddp).update(own)
        ddp.require_backward_grad_sync = sync
        for hook, state in hooks:
            ddp.register_comm_hook(state, hook)
