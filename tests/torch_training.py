# SPDX-License-Identifier: BSD-3-Clause
"""A small regression that the tests of svdfast.torch's schedule train on: two hidden layers, the output's name is "output"."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svdfast.torch import Schedule

OPTIMIZERS = {
    "sgd": lambda p, **kw: torch.optim.SGD(p, **{"lr": 0.02, "momentum": 0.95} | kw),
    "adam": lambda p, **kw: torch.optim.Adam(p, **{"lr": 1e-3} | kw),
    "adamw": lambda p, **kw: torch.optim.AdamW(p, **{"lr": 1e-3} | kw),
    "nadam": lambda p, **kw: torch.optim.NAdam(p, **{"lr": 1e-3} | kw),
    "radam": lambda p, **kw: torch.optim.RAdam(p, **{"lr": 1e-3} | kw),
}


def model(seed=0, **arguments):
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.first = nn.Linear(40, 60, **arguments)
    net.tanh = nn.Tanh()
    net.second = nn.Linear(60, 50, **arguments)
    net.tanh2 = nn.Tanh()
    net.output = nn.Linear(50, 5, **arguments)
    return net


class Alone(nn.Module):
    """A model of one layer, called as that layer is."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **settings):
        return self.layer(*args, **settings)


def data(n=512):
    x = torch.randn(n, 40, generator=torch.Generator().manual_seed(1))
    t = torch.randn(40, 5, generator=torch.Generator().manual_seed(2))
    return x, torch.tanh(x @ t / 6)


class Training:
    """Model, optimizer, schedule, and steps on all data."""

    def __init__(
        self,
        optimizer="adam",
        factoring=None,
        n_steps=100,
        skip=("output",),
        scheduler=None,
        **arguments,
    ):
        self.net = model()
        self.optimizer = OPTIMIZERS[optimizer](
            self.net.parameters(), **arguments.pop("settings", {})
        )
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.schedule = Schedule(
            self.net, self.optimizer, n_steps=n_steps, factoring=factoring, skip=skip, **arguments
        )
        self.x, self.y = data()
        self.losses = []

    def loss(self):
        return (self.net(self.x) - self.y).square().mean()

    def steps(self, n, tell=True):
        for _ in range(n):
            self.optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())
            self.schedule.step(loss if tell else None)
        return self

    def state(self):
        parts = self.schedule, self.net, self.optimizer
        return [
            part.state_dict() for part in (*parts, *([self.scheduler] if self.scheduler else []))
        ]

    def load(self, states):
        parts = self.schedule, self.net, self.optimizer, self.scheduler
        for part, state in zip(parts, states, strict=False):
            part.load_state_dict(state)
        return self


def held(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


@pytest.fixture(autouse=True)
def one_thread():
    """Layers this small take longer with threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
