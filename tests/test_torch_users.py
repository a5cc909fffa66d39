# SPDX-License-Identifier: BSD-3-Clause
"""What users' models and loops do around a schedule: groups, modes, copies, precision, compiled parts.

Elsewhere: when the four steps come (test_torch_schedule.py), and hooks (test_torch_hooks.py).
"""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch_training import Training, held, one_thread  # noqa: E402, F401

import svdfast as sf  # noqa: E402
from svdfast.torch import Factored, FactoredLinear, Schedule, factorize, recompose  # noqa: E402

QUARTER = sf.Factoring(0.25, pretrain_fraction=0.3, recompose_fraction=0.3, force=True)


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 3)
    )  # fmt: skip


def convolutions():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()
    )  # fmt: skip
    return net.to(memory_format=torch.channels_last)


def recurrent():
    torch.manual_seed(0)
    return nn.Sequential(nn.LSTM(20, 16, batch_first=True))


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))


SHAPES = {
    perceptron: (8, 20),
    convolutions: (4, 4, 6, 6),
    recurrent: (4, 5, 20),
    encoder: (4, 5, 16),
}


def output(net, x):
    y = net(x)
    return y[0] if isinstance(y, tuple) else y


class Loop:
    """Ten steps: the switch after the third, the recomposition after the seventh."""

    def __init__(self, net, optimizer=None, factoring=QUARTER, shape=(8, 20), **arguments):
        self.net = net
        self.optimizer = optimizer or torch.optim.Adam(net.parameters())
        self.schedule = Schedule(net, self.optimizer, n_steps=10, factoring=factoring, **arguments)
        self.x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.losses = []

    def steps(self, n, set_to_none=True):
        for _ in range(n):
            self.optimizer.zero_grad(set_to_none=set_to_none)
            loss = output(self.net, self.x).square().mean()
            loss.backward()
            self.optimizer.step()
            self.schedule.step(loss)
            self.losses.append(loss.item())
        assert held(self.optimizer) == {id(p) for p in self.net.parameters()}
        return self


def test_factors_stay_in_the_group_of_their_weight():
    net = perceptron()
    others = [p for name, p in net.named_parameters() if name != "0.weight"]
    groups = [{"params": [net[0].weight], "lr": 1e-2}, {"params": others, "weight_decay": 0.1}]
    loop = Loop(net, torch.optim.AdamW(groups)).steps(5)
    first, second = loop.optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(net[0].W1), id(net[0].W2)]
    assert first["lr"] == 1e-2 and second["weight_decay"] == 0.1
    loop.steps(5)
    assert [id(p) for p in first["params"]] == [id(net[0].weight)]


def test_gradients_that_are_set_to_zero_change_nothing():
    loops = [Loop(perceptron()).steps(10, set_to_none=keep) for keep in (True, False)]
    assert loops[0].losses == loops[1].losses


def test_a_module_in_two_places_stays_one():
    layer = nn.Linear(20, 20)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    loop = Loop(net).steps(5)
    assert net[0] is net[2] and isinstance(net[0], FactoredLinear)
    loop.steps(5)
    assert net[0] is net[2] and type(net[0]) is nn.Linear


def test_a_factored_layer_that_is_frozen_stays_so():
    loop = Loop(perceptron()).steps(5)
    loop.net[0].requires_grad_(False)
    before = (loop.net[0].W1 @ loop.net[0].W2).detach()
    loop.steps(5)
    assert not loop.net[0].weight.requires_grad
    torch.testing.assert_close(loop.net[0].weight, before)


@pytest.mark.parametrize("build", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_a_switch_leaves_modes_buffers_and_memory_formats(build, training):
    x = torch.randn(SHAPES[build])
    full = sf.Factoring(1.0, pretrain_fraction=0.3, recompose_fraction=0.3, force=True)
    loop = Loop(build(), factoring=full, shape=SHAPES[build], sample=[x])
    formats = {n: p.stride() for n, p in loop.net.named_parameters()}
    for _ in range(10):
        loop.net.train()
        loop.optimizer.zero_grad()
        output(loop.net, loop.x).square().mean().backward()
        loop.optimizer.step()
        loop.net.eval()
        buffers = {name: b.clone() for name, b in loop.net.named_buffers()}
        with torch.no_grad():  # encoder layers have a fast path here
            before = output(loop.net, x)
            loop.net.train(training)
            loop.schedule.step()
            assert all(part.training == training for part in loop.net.modules())
            loop.net.eval()
            torch.testing.assert_close(output(loop.net, x), before, atol=1e-5, rtol=1e-4)
        assert all(torch.equal(b, buffers[name]) for name, b in loop.net.named_buffers())
    assert [e.kind for e in loop.schedule.events] == ["switch", "recompose"]
    assert {n: p.stride() for n, p in loop.net.named_parameters()} == formats


def through_a_file(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("build", SHAPES)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), through_a_file]
)
def test_a_factored_model_is_copied(build, copied):
    net, x = build().eval(), torch.randn(SHAPES[build])
    factorize(net, rank_fraction=0.25, force=True)
    other = copied(net)
    assert torch.equal(output(other, x), output(net, x))
    recompose(other)
    assert not any(isinstance(part, Factored) for part in other.modules())
    torch.testing.assert_close(output(other, x), output(net, x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_factored_model_changes_its_type(build, dtype):
    net, x = build().eval(), torch.randn(SHAPES[build])
    factorize(net, rank_fraction=0.25, force=True)
    before = output(net, x)
    net.to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(output(net, x.to(dtype)).float(), before, atol=0.05, rtol=0.05)
    recompose(net)
    assert {p.dtype for p in net.parameters()} == {dtype}


def test_a_whole_training_is_copied():
    training = Training(factoring=QUARTER, n_steps=20).steps(8)
    assert training.schedule.phase == "factored"
    other = copy.deepcopy(training)
    assert other.steps(12).losses == training.steps(12).losses
    assert held(other.optimizer) == {id(p) for p in other.net.parameters()}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_step_without_gradients(mode):
    loop = Loop(perceptron())
    for _ in range(10):
        loop.optimizer.zero_grad()
        loop.net(loop.x).square().mean().backward()
        loop.optimizer.step()
        with mode():
            loop.schedule.step()
    assert [e.kind for e in loop.schedule.events] == ["switch", "recompose"]


def test_a_scaler_and_clipping_between_backward_and_step():
    loop = Loop(perceptron())
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(10):
        loop.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loop.net(loop.x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(loop.optimizer)
        norm = nn.utils.clip_grad_norm_(loop.net.parameters(), 1.0)
        assert torch.isfinite(norm)
        scaler.step(loop.optimizer)
        scaler.update()
        loop.schedule.step(loss)
    assert [e.kind for e in loop.schedule.events] == ["switch", "recompose"]


def test_an_average_begins_after_the_last_switch():
    loop = Loop(perceptron()).steps(7)
    average = torch.optim.swa_utils.AveragedModel(loop.net)
    loop.steps(3)
    average.update_parameters(loop.net)
    assert average.module[0].weight.shape == loop.net[0].weight.shape


def test_an_optimizer_of_another_kind_is_warned_of_where_step_was_called():
    net = perceptron()
    loop = Loop(net, torch.optim.RMSprop(net.parameters())).steps(2)
    with pytest.warns(UserWarning, match="RMSprop") as told:
        loop.steps(1)
    assert told[0].filename == __file__
