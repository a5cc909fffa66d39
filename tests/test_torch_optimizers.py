# SPDX-License-Identifier: BSD-3-Clause
"""An optimizer that goes on with the factors: the same groups, the right tensors in their places, and moments that are worth carrying."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch_training import OPTIMIZERS, Training, held, model, one_thread  # noqa: E402, F401

import svdfast as sf  # noqa: E402
from svdfast.torch import Schedule  # noqa: E402
from svdfast.torch.kinds import kind_of  # noqa: E402
from svdfast.torch.optimizers import Change, lift_mean, lift_square, move_state, swap  # noqa: E402

# Mean of |log of the ratio of losses| over the 50 steps after the switch: carried moments stay below.
FOLLOWS = {"sgd": 0.05, "adam": 0.07, "adamw": 0.07, "nadam": 0.12, "radam": 0.02}
VARIANTS = [
    ("sgd", {"nesterov": True}),
    ("sgd", {"momentum": 0.0}),
    ("sgd", {"foreach": True}),
    ("adam", {"amsgrad": True}),
    ("adam", {"foreach": True}),
    ("adam", {"fused": True}),
    ("adamw", {"amsgrad": True, "weight_decay": 0.1}),
    ("adamw", {"fused": True}),
    ("adamw", {"capturable": False, "foreach": False}),
    ("nadam", {"decoupled_weight_decay": True}),
    ("radam", {"foreach": True}),
]


def whole(moments="carry", **arguments):
    """Full rank: a switch that changes nothing but the form."""
    return sf.Factoring(
        1.0,
        **{"pretrain_fraction": 0.3, "force": True, "moments": moments, "learning_rate": 1.0}
        | arguments,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_carried_moments_follow_the_dense_training_and_restarted_ones_do_not(name):
    dense = torch.tensor(Training(name).steps(80).losses).log()
    distance = {}
    for moments in ("carry", "restart"):
        training = Training(name, whole(moments)).steps(80)
        assert training.schedule.phase == "factored"
        cut = torch.tensor(training.losses).log()
        assert torch.equal(cut[:30], dense[:30])
        torch.testing.assert_close(cut[30].exp(), dense[30].exp(), rtol=0, atol=1e-5)
        distance[moments] = (cut - dense)[30:].abs().mean().item()
    assert distance["carry"] < FOLLOWS[name] < distance["restart"]


@pytest.mark.parametrize("name, settings", VARIANTS, ids=str)
def test_variants_train_over_the_switch_and_back(name, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training = Training(name, whole(recompose_fraction=0.3), settings=settings).steps(100)
    assert [event.kind for event in training.schedule.events] == ["switch", "recompose"]
    assert training.losses[-1] < 0.8 * training.losses[0]
    assert held(training.optimizer) == {id(p) for p in training.net.parameters()}
    assert set(map(id, training.optimizer.state)) <= held(training.optimizer)


def test_groups_stay_the_same_objects_and_factors_lie_where_weights_lay():
    net = model()
    groups = [
        {"params": [net.first.bias, net.first.weight, net.output.weight], "lr": 0.1},
        {"params": [net.second.weight, net.second.bias, net.output.bias], "weight_decay": 0.5},
    ]
    optimizer = torch.optim.AdamW(groups)
    before = list(optimizer.param_groups)
    lists = [group["params"] for group in before]
    schedule = Schedule(
        net, optimizer, n_steps=10, factoring=whole(pretrain_fraction=0.1), skip=["output", "first"]
    )
    net(torch.randn(3, 40)).sum().backward()
    optimizer.step()
    b1, W1, Wo, W2, b2, bo = (p for group in lists for p in group)
    event = schedule.step()
    assert event.kind == "switch" and event.info["ranks"] == {"second": 50}
    assert [id(g) for g in optimizer.param_groups] == [id(g) for g in before]
    assert [id(g["params"]) for g in optimizer.param_groups] == [id(ps) for ps in lists]
    second = net.second
    expected = [[b1, W1, Wo], [second.W1, second.W2, b2, bo]]
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [
        [id(p) for p in ps] for ps in expected
    ]
    assert W2 not in optimizer.state and W2.grad is None
    steps = [optimizer.state[p]["step"] for p in (second.W1, second.W2, b2)]
    assert all(step == 1 for step in steps) and len({id(step) for step in steps}) == 3


def test_moments_of_factors_are_those_of_their_gradients():
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), amsgrad=True)
    net(torch.randn(9, 40)).sum().backward()
    optimizer.step()
    from svdfast.torch.truncate import truncate

    factored, _ = truncate(net.second, "second", 7, "exact")
    change = Change(net.second, factored, True)
    W1, W2 = factored.W1.detach(), factored.W2.detach()
    old = optimizer.state[net.second.weight]
    moved = move_state(optimizer, [change], carry=True)
    M, V = old["exp_avg"], old["exp_avg_sq"]
    torch.testing.assert_close(moved[factored.W1]["exp_avg_sq"], V @ W2.square().T)
    torch.testing.assert_close(moved[factored.W2]["exp_avg_sq"], W1.square().T @ V)
    torch.testing.assert_close(
        moved[factored.W1]["max_exp_avg_sq"], old["max_exp_avg_sq"] @ W2.square().T
    )
    root = (V @ W2.square().T).sqrt()
    torch.testing.assert_close(moved[factored.W1]["exp_avg"], (M @ W2.T).clamp(-root, root))
    assert factored.W1 not in optimizer.state  # nothing has been changed


def test_the_way_back_is_that_of_the_library():
    import numpy as np

    from svdfast.model.structures import LowRank

    generator = torch.Generator().manual_seed(0)
    W1, W2, M1, M2 = (
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in ((9, 3), (3, 7), (9, 3), (3, 7))
    )
    structure = LowRank(9, 7, 3)
    tensors = [W1.numpy(), W2.numpy()]
    for kind, lift, moments in (
        ("mean", lift_mean, (M1, M2)),
        ("square", lift_square, (M1.square(), M2.square())),
    ):
        theirs = structure.lift(kind, [m.numpy() for m in moments], tensors)
        np.testing.assert_allclose(lift(*moments, W1, W2).numpy(), theirs, rtol=1e-10)


def test_another_optimizer_starts_again_with_one_warning():
    net = model()
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.01)
    schedule = Schedule(net, optimizer, n_steps=10, factoring=whole(), skip=["output"])
    with pytest.warns(UserWarning, match="Adagrad") as told:
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(3, 40)).square().sum().backward()
            optimizer.step()
            schedule.step()
    assert len(told) == 1
    assert net.first.W1 not in optimizer.state and net.first.bias in optimizer.state


def test_sgd_without_momentum_has_nothing_to_carry_and_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Training("sgd", whole(), settings={"momentum": 0}).steps(40)


def test_a_subclass_with_state_of_its_own_is_another_optimizer():
    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["mine"] = torch.zeros_like(p)

    net = model()
    optimizer = Mine(net.parameters(), lr=0.01, momentum=0.9)
    schedule = Schedule(
        net, optimizer, n_steps=10, factoring=whole(pretrain_fraction=0.1), skip=["output"]
    )
    net(torch.randn(3, 40)).square().sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="Mine"):
        schedule.step()


@pytest.mark.parametrize("moments", ["carry", "restart"])
def test_gradients_of_an_accumulation_are_carried(moments):
    training = Training("sgd", whole(moments), settings={"momentum": 0})
    training.steps(29)
    twin = copy.deepcopy(training.net)
    # The 30th step's gradients stay, and others come on top of them after the switch.
    training.loss().backward()
    G = {name: getattr(training.net, name).weight.grad.clone() for name in ("first", "second")}
    training.schedule.step()
    for name in G:
        made = getattr(training.net, name)
        torch.testing.assert_close(made.W1.grad, G[name] @ made.W2.detach().T)
        torch.testing.assert_close(made.W2.grad, made.W1.detach().T @ G[name])
        assert kind_of(getattr(twin, name)) is not None
    assert training.net.output.weight.grad is not None


@pytest.mark.parametrize("missing", [["first.weight"], ["first.weight", "second.weight"]])
def test_weights_outside_the_optimizer_are_named(missing):
    net = model()
    left = [p for name, p in net.named_parameters() if name not in missing]
    optimizer = torch.optim.SGD(left, lr=0.1)
    with pytest.raises(ValueError, match="optimizer.*" + ", ".join(missing)):
        Schedule(net, optimizer, n_steps=10, factoring=0.25, skip=["output"])
    names = [name.split(".")[0] for name in missing]
    Schedule(net, optimizer, n_steps=10, factoring=0.25, skip=["output", *names])


def test_weights_that_cannot_be_factored_may_be_outside():
    net = model()
    net.first.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([*net.second.parameters()], lr=0.1)
    Schedule(net, optimizer, n_steps=10, factoring=0.25, skip=["output"])


@pytest.mark.parametrize("layer", ["lstm", "conv"])
def test_layers_of_several_tensors_or_more_axes(layer):
    torch.manual_seed(0)
    net = nn.Sequential()
    net.part = (
        nn.LSTM(24, 16, bidirectional=True) if layer == "lstm" else nn.Conv2d(8, 12, 3, padding=1)
    )
    x = torch.randn(5, 3, 24) if layer == "lstm" else torch.randn(2, 8, 6, 6)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = Schedule(net, optimizer, n_steps=10, factoring=whole(recompose_fraction=0.3))
    outputs = []
    for _ in range(10):
        optimizer.zero_grad()
        out = net(x)
        out = out[0] if layer == "lstm" else out
        out.square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            before = net(x)
            schedule.step()
            after = net(x)
        pair = (before[0], after[0]) if layer == "lstm" else (before, after)
        torch.testing.assert_close(*pair, rtol=0, atol=1e-5)
        outputs.append(out.square().mean().item())
        assert held(optimizer) == {id(p) for p in net.parameters()}
    assert [event.kind for event in schedule.events] == ["switch", "recompose"]
    assert outputs[-1] < outputs[0]


def test_names_of_parameters_follow():
    net = model()
    optimizer = torch.optim.Adam(net.named_parameters())
    group = optimizer.param_groups[0]
    if "param_names" not in group:
        pytest.skip("this PyTorch's optimizers know no names")
    schedule = Schedule(
        net, optimizer, n_steps=10, factoring=whole(pretrain_fraction=0.1), skip=["output"]
    )
    before = list(group["param_names"])
    for _ in range(10):
        schedule.step()
        names = {p: name for name, p in net.named_parameters()}
        assert group["param_names"] == [names[p] for p in group["params"]]
    assert group["param_names"] == before and len(schedule.events) == 2


LAYERS = {
    "linear": lambda: nn.Linear(20, 30),
    "conv": lambda: nn.Conv2d(4, 8, 3, bias=False),
    "lstm": lambda: nn.LSTM(20, 10, 2, bidirectional=True),
    "gru": lambda: nn.GRU(20, 10),
    "attention": lambda: nn.MultiheadAttention(16, 2, add_bias_kv=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_optimizer_made_after_a_truncation_holds_parameters_in_the_order_of_one_made_before(name):
    """As trainers make it, when they resume."""
    layer = LAYERS[name]()
    kind = kind_of(layer)
    n_in, n_out = kind.sides(layer)
    made = kind.factored(layer, torch.zeros(n_out, 3), torch.zeros(3, n_in))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    swap(optimizer, [Change(layer, made, True)], {})
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, made.parameters()))
    swap(optimizer, [Change(layer, made, False)], {})
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, layer.parameters()))


# ---- learning rates of the factors' own


def test_relative_scale_is_the_librarys():
    from svdfast.model.structures import LowRank
    from svdfast.torch.rates import relative_scale

    torch.manual_seed(0)
    for size, inside in ((0.2, True), (0.01, False)):
        layer = nn.Linear(30, 20)
        made = kind_of(layer).factored(layer, size * torch.randn(20, 5), torch.randn(5, 30))
        theirs = LowRank(20, 30, 5).relative_scale([p.detach().numpy() for p in (made.W1, made.W2)])
        assert (1 / 1.5 < theirs < 1.5) == inside
        assert relative_scale(made) == pytest.approx(min(theirs, 1.5), rel=1e-5)


@pytest.mark.parametrize(
    "name, learning_rate, scale", [("sgd", 3.0, 3.0), ("adam", 2.0, 2.0), ("sgd", "auto", 1.0)]
)
def test_steps_of_factors_are_that_much_longer(name, learning_rate, scale):
    trainings = []
    for rate in (1.0, learning_rate):
        factoring = sf.Factoring(0.25, pretrain_fraction=0.1, force=True, learning_rate=rate)
        training = Training(name, factoring, n_steps=50).steps(5)
        before = copy.deepcopy(training.net)
        training.steps(1)
        after = dict(training.net.named_parameters())
        trainings.append({n: after[n].detach() - p.detach() for n, p in before.named_parameters()})
    plain, scaled = trainings
    for n in plain:
        expected = plain[n] * (scale if n.endswith(("W1", "W2")) else 1)
        torch.testing.assert_close(scaled[n], expected, rtol=1e-4, atol=1e-7)


def test_scales_by_themselves_fade_and_leave_no_hooks():
    training = Training(
        "adamw", sf.Factoring(0.25, pretrain_fraction=0.1, force=True), n_steps=50
    ).steps(5)
    scales = training.schedule.events[0].info["learning_rate_scales"]
    assert all(1 < scale <= 1.5 for scale in scales.values())
    rates, fades = training.schedule._switch.rates, []
    for _ in range(44):
        fades.append(rates.fade)
        training.steps(1)
    assert fades[:30] == [1.0] * 30 and fades == sorted(fades, reverse=True) and fades[-1] < 0.2
    assert (
        training.optimizer._optimizer_step_pre_hooks
        and training.optimizer._optimizer_step_post_hooks
    )
    training.steps(1)
    assert training.schedule.phase == "dense"
    assert (
        not training.optimizer._optimizer_step_pre_hooks
        and not training.optimizer._optimizer_step_post_hooks
    )
