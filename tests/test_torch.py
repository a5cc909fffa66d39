# SPDX-License-Identifier: BSD-3-Clause
"""The method on PyTorch models: what is truncated is truncated best, what is left is left and says why, and an error changes nothing."""

import copy
import io
import logging
import sys
import types

import numpy as np
import pytest

import svdfast as sf

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from svdfast.torch import FactoredLinear, Truncation, factorize, recompose  # noqa: E402

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def perceptron(**arguments):
    model = nn.Sequential()
    model.first = nn.Linear(30, 40, **arguments)
    model.relu = nn.ReLU()
    model.second = nn.Linear(40, 20, **arguments)
    model.output = nn.Linear(20, 3, **arguments)
    return model


def state(module):
    """Everything of a model that an error must leave: modules, and numbers by name."""
    modules = [(name, id(part), part.training) for name, part in module.named_modules()]
    return modules, {name: p.detach().clone() for name, p in module.named_parameters()}


def unchanged(module, before):
    modules, numbers = state(module)
    assert modules == before[0]
    assert numbers.keys() == before[1].keys()
    assert all(torch.equal(numbers[name], before[1][name]) for name in numbers)


# ---- the truncation


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_the_truncation_is_that_of_truncated_svd(method, dtype):
    model = perceptron(dtype=dtype)
    weights = {name: getattr(model, name).weight.detach().double() for name in ("first", "second")}
    done = factorize(model, rank_fraction=0.25, method=method, skip=["output"])
    assert [(t.name, t.rank) for t in done] == [("first", 7), ("second", 5)]
    for t in done:
        layer, W = getattr(model, t.name), weights[t.name]
        assert type(layer) is FactoredLinear
        assert layer.W1.dtype == layer.W2.dtype == layer.bias.dtype == dtype
        assert layer.W1.is_contiguous() and layer.W2.is_contiguous()
        assert (t.n_in, t.n_out, t.requested_rank) == (W.shape[1], W.shape[0], t.rank)
        assert layer.W1.shape == (t.n_out, t.rank) and layer.W2.shape == (t.rank, t.n_in)
        best = torch.linalg.svdvals(W)[t.rank :].square().sum().sqrt().item()
        # Not smaller than the best; larger by what rounding of the factors, or a randomized search, adds.
        near = 1.05 if method == "randomized" else 1 + TOLERANCE[dtype]
        assert best * (1 - TOLERANCE[dtype]) <= t.dropped_norm <= best * near
        difference = (W - layer.W1.double() @ layer.W2.double()).norm().item()
        assert t.dropped_norm == pytest.approx(difference, rel=1e-5)
        left, right = layer.W1.double().norm().item(), layer.W2.double().norm().item()
        assert left == pytest.approx(right, rel=TOLERANCE[dtype])  # balanced


def test_the_truncation_is_that_of_a_network():
    net = sf.Network([30, 40, 20, 3], dtype="float64", seed=0)
    module = sf.to_torch(net)
    done = factorize(module, rank_fraction=0.25, skip=["4"], force=True)
    ours = net.truncate(rank_fraction=0.25, force=True)
    X = np.random.default_rng(0).standard_normal((7, 30))
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.tensor(X)).numpy(), net.predict(X), atol=1e-13)
    assert [t.rank for t in done] == [t.rank for t in ours]
    np.testing.assert_allclose([t.dropped_norm for t in done], [t.dropped_norm for t in ours])
    again = sf.from_torch(module)
    assert again.layout == net.layout
    np.testing.assert_allclose(again.predict(X), net.predict(X), atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(20,), (4, 20), (2, 3, 20), (0, 20)], ids=str)
def test_a_factored_layer_computes_what_its_product_does(shape, bias, dtype):
    model = nn.Sequential(nn.Linear(20, 30, bias=bias, dtype=dtype))
    x = torch.randn(shape, dtype=dtype)
    factorize(model, ranks={"0": 20}, force=True)
    factored = model(x)
    recompose(model)
    assert type(model[0]) is nn.Linear and (model[0].bias is not None) == bias
    assert model[0].weight.dtype == dtype and model[0].weight.shape == (30, 20)
    assert (model[0].in_features, model[0].out_features) == (20, 30)
    assert factored.shape == model(x).shape == (*shape[:-1], 30)
    torch.testing.assert_close(factored, model(x), rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_at_full_rank_there_and_back_is_nothing(dtype):
    model = perceptron(dtype=dtype)
    before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    done = factorize(model, rank_fraction=1, force=True)
    assert all(t.dropped_norm < 30 * TOLERANCE[dtype] for t in done)
    recompose(model)
    for name, p in model.named_parameters():
        assert p.dtype == dtype
        torch.testing.assert_close(p.detach().double(), before[name], rtol=0, atol=TOLERANCE[dtype])


def test_a_layer_that_is_factored_already_is_truncated_anew():
    model = perceptron(dtype=torch.float64)
    factorize(model, ranks={"first": 12})
    product = model.first.weight.detach()
    (t,) = factorize(model, ranks={"first": 5})
    assert model.first.rank == t.rank == 5
    best = torch.linalg.svdvals(product)[5:].square().sum().sqrt().item()
    assert t.dropped_norm == pytest.approx(best)
    (t,) = factorize(model, ranks={"first": 18})
    assert (t.rank, t.skipped) == (5, True)  # above break-even: left as it is


def test_norms_of_extreme_weights():
    """No square overflows or vanishes on the way."""
    for factor in (1e-30, 1e30):
        model = nn.Sequential(nn.Linear(20, 30))
        W = model[0].weight.detach().double().clone()
        with torch.no_grad():
            model[0].weight *= factor
        for method in ("exact", "randomized"):
            (t,) = factorize(copy.deepcopy(model), ranks={"0": 5}, method=method)
            best = torch.linalg.svdvals(W)[5:].square().sum().sqrt().item()
            assert t.dropped_norm == pytest.approx(best * factor, rel=0.05)


def test_a_weight_of_zeros():
    model = nn.Sequential(nn.Linear(20, 30))
    nn.init.zeros_(model[0].weight)
    for method in ("exact", "randomized"):
        again = copy.deepcopy(model)
        (t,) = factorize(again, ranks={"0": 5}, method=method)
        assert t.dropped_norm == 0 and (again[0].weight == 0).all()
        again[0](torch.ones(1, 20)).sum().backward()
        assert (again[0].W1 == 0).all() and (again[0].W1.grad != 0).any()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("method", [None, "exact", "randomized"])
def test_a_weight_of_zeros_is_trained_when_factored(method, rank):
    torch.manual_seed(0)
    X = torch.randn(64, 12)
    Y = torch.tanh(X @ torch.randn(12, 3))
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    with torch.no_grad():
        W = model[0].weight
        W[...] = torch.outer(W[:, 0], W[0]) if rank else 0
    if method is not None:
        factorize(model, ranks={"0": 8}, method=method, force=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(X) - Y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-2


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_autocast_does_not_round(method):
    model = nn.Sequential(nn.Linear(20, 30))
    again = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (t,) = factorize(model, ranks={"0": 5}, method=method)
        assert model(torch.rand(3, 20)).dtype == torch.bfloat16
        recompose(model)
    assert factorize(again, ranks={"0": 5}, method=method) == (t,)
    recompose(again)
    assert torch.equal(model[0].weight, again[0].weight)


def test_torchs_generator_is_left_alone():
    model = perceptron()
    before = torch.get_rng_state()
    factorize(model, rank_fraction=0.25, method="randomized")
    recompose(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_each_time():
    model = perceptron()
    again = copy.deepcopy(model)
    assert factorize(model, rank_fraction=0.25, method="randomized") == factorize(
        again, rank_fraction=0.25, method="randomized"
    )
    assert torch.equal(model.first.W1, again.first.W1)


def test_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    model = perceptron().cuda()
    for method in ("exact", "randomized"):
        factorize(model, rank_fraction=0.25, method=method)
        assert all(p.is_cuda for p in model.parameters())
    recompose(model)
    assert all(p.is_cuda for p in model.parameters())


# ---- ranks


def test_break_even():
    """30 -> 40: l < 1200/70."""
    for rank, cut in ((17, True), (18, False)):
        model = perceptron()
        before = state(model)
        (t,) = factorize(model, ranks={"first": rank})
        assert t.break_even_rank == 17 == sf.break_even_rank(30, 40)
        assert t.skipped != cut
        if not cut:
            assert (t.requested_rank, t.rank, t.dropped_norm) == (18, None, 0.0)
            assert t.reason == "rank 18 is above its break-even rank 17"
            unchanged(model, before)
    (t,) = factorize(model, ranks={"first": 18}, force=True)
    assert (t.rank, t.skipped) == (18, False)


@pytest.mark.parametrize("rule", ["energy:0.8", "energy:1", "budget:0.4", "budget:0.01"])
def test_rules_are_those_of_a_network(rule):
    """Each at a place where it has an input gradient, as a rule counts here."""
    net = sf.Network([1, 30, 40, 20, 3], dtype="float64", seed=0)
    module = sf.to_torch(net)
    done = factorize(module, ranks=rule, force=True, skip=["0", "6"])
    if rule.startswith("energy"):
        ours = [t.rank for t in net.truncate(ranks=rule, force=True)][1:]
        assert [t.rank for t in done] == ours
        return
    share = float(rule.partition(":")[2])
    costs = [70, 60]
    spent = sum(t.rank * cost for t, cost in zip(done, costs, strict=True))
    allowed = share * (30 * 40 + 40 * 20)
    if allowed < sum(costs):
        assert [t.rank for t in done] == [1, 1]
    else:
        assert allowed - max(costs) < spent <= allowed


def test_layers_by_name_leave_the_others():
    model = perceptron()
    others = model.first, model.output
    (t,) = factorize(model, ranks={"second": 3})
    assert isinstance(t, Truncation) and (t.name, t.rank) == ("second", 3)
    assert (model.first, model.output) == others
    assert factorize(model, ranks={}) == ()


def test_a_model_without_linear_layers():
    for arguments in (dict(rank_fraction=0.5), dict(ranks="energy:0.5"), dict(ranks="budget:0.5")):
        assert factorize(nn.Sequential(nn.ReLU()), **arguments) == ()


# ---- what stays


def test_training_mode_gradients_and_bias_stay():
    model = perceptron()
    model.first.weight.requires_grad_(False)
    model.second.bias.requires_grad_(False)
    model.second.eval()
    biases = model.first.bias, model.second.bias
    model.first(torch.rand(3, 30)).sum().backward()
    for _ in range(2):
        factorize(model, rank_fraction=0.25, skip=["output"])
        assert not model.first.W1.requires_grad and not model.first.W2.requires_grad
        assert model.second.W1.requires_grad and model.second.W2.requires_grad
    assert model.first.training and not model.second.training
    assert model.first.bias is biases[0] and model.second.bias is biases[1]
    assert model.first.bias.grad is not None
    recompose(model)
    assert not model.first.weight.requires_grad and model.second.weight.requires_grad
    assert model.first.training and not model.second.training
    assert model.first.bias is biases[0] and model.second.bias is biases[1]
    assert [name for name, _ in model.named_children()] == ["first", "relu", "second", "output"]


def test_factors_are_trained():
    """A target of rank 2 is learnt by factors of rank 2."""
    X = torch.randn(100, 30)
    y = X @ torch.randn(30, 2) @ torch.randn(2, 40)
    model = nn.Sequential(nn.Linear(30, 40))
    factorize(model, ranks={"0": 2})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]
    recompose(model)
    assert nn.functional.mse_loss(model(X), y).item() == pytest.approx(losses[-1], rel=0.5)


def test_state_dict_copy_and_pickle():
    model = perceptron()
    fresh = perceptron()
    done = factorize(model, rank_fraction=0.25, skip=["output"])
    assert set(model.state_dict()) == {
        "first.bias", "first.W1", "first.W2", "second.bias", "second.W1", "second.W2",
        "output.weight", "output.bias",
    }  # fmt: skip
    factorize(fresh, ranks={t.name: t.rank for t in done})
    fresh.load_state_dict(model.state_dict())
    x = torch.rand(4, 30)
    assert torch.equal(fresh(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_reads_a_factored_layer():
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(20, 20, bias=bias))
        factorize(model, rank_fraction=0.25)
        x = torch.rand(3, 20)
        torch.testing.assert_close(torch.jit.script(model)(x), model(x))


def test_a_layer_in_several_places_stays_one():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(20, 20)
            self.more = nn.ModuleList([self.a, nn.Linear(20, 20)])
            self.by_name = nn.ModuleDict({"b": self.a})

    model = Twins()
    done = factorize(model, ranks={"by_name.b": 3, "more.1": 4})
    assert {t.name: t.rank for t in done} == {"a": 3, "more.1": 4}
    assert type(model.a) is FactoredLinear
    assert model.a is model.more[0] is model.by_name["b"]
    recompose(model)
    assert type(model.a) is nn.Linear
    assert model.a is model.more[0] is model.by_name["b"]
    with pytest.raises(ValueError, match=r"ranks\['a'\]: expected the rank of its other name, got 4"):
        factorize(model, ranks={"more.0": 3, "a": 4})
    assert factorize(model, rank_fraction=0.1, skip=["by_name", "more.1"]) == ()


def test_transformers_compute_the_same():
    """Attention's output projection is read by its weight; an encoder layer in inference reads those of its two Linear layers."""
    model = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True)
    projection = model.self_attn.out_proj
    x = torch.rand(2, 5, 16)
    done = factorize(model, rank_fraction=1, force=True)
    assert {t.name: t.rank for t in done} == {
        "self_attn": 16, "self_attn.out_proj": None, "linear1": 16, "linear2": 16
    }  # fmt: skip
    (left,) = (t for t in done if t.skipped)
    assert left.requested_rank is None
    assert left.reason.startswith("it is a NonDynamicallyQuantizableLinear")
    assert model.self_attn.out_proj is projection
    expected = model(x)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


# ---- what is left


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def with_own_forward(linear):
    linear.forward = types.MethodType(lambda self, x: x, linear)
    return linear


def hooked(kind):
    def hook(linear):
        getattr(linear, kind)(lambda *_: None)
        return linear

    return hook


def with_hook_on_weight(linear):
    linear.weight.register_hook(lambda g: g)
    return linear


def with_hook_after_accumulation(linear):
    linear.weight.register_post_accumulate_grad_hook(lambda p: None)
    return linear


def computed(linear):
    weight = linear.weight
    del linear.weight
    linear.source = weight
    linear.weight = 2 * weight
    return linear


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda linear: Scaled(20, 20), "it is a Scaled, a subclass"),
        (parametrizations.weight_norm, "it is a ParametrizedLinear"),
        (parametrizations.orthogonal, "it is a ParametrizedLinear"),
        (lambda linear: prune.l1_unstructured(linear, "weight", 0.5), "it has hooks"),
        (with_own_forward, "it has a forward of its own"),
        (hooked("register_forward_hook"), "it has hooks"),
        (hooked("register_forward_pre_hook"), "it has hooks"),
        (hooked("register_full_backward_hook"), "it has hooks"),
        (hooked("register_full_backward_pre_hook"), "it has hooks"),
        (with_hook_on_weight, "it has hooks"),
        (with_hook_after_accumulation, "it has hooks"),
        (computed, "its weight is computed from other parameters"),
        (lambda linear: nn.Linear(20, 20, dtype=torch.complex64), "its weight is complex64"),
    ],
)
def test_layers_that_mean_more_than_their_weight(change, reason):
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[0] = layer = change(model[0])
    left, cut = factorize(model, rank_fraction=0.25)
    assert left.reason.startswith(reason)
    assert (left.skipped, left.rank, left.requested_rank, left.dropped_norm) == (True, None, None, 0.0)
    assert cut.rank == 5
    assert model[0] is layer and type(model[1]) is FactoredLinear
    with pytest.raises(ValueError, match=f"ranks: '0' can't be factored: {reason}"):
        factorize(model, ranks={"0": 3})


def test_layers_without_inputs_yet_or_ever():
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 20), nn.LazyLinear(20))
    empty, lazy = factorize(model, rank_fraction=0.25)
    assert (empty.reason, empty.break_even_rank) == ("its weight is empty", 0)
    assert lazy.reason.startswith("it is a LazyLinear") and lazy.rank is None


def test_shared_weights():
    """Tied to an embedding, or to another Linear; factors would part them."""

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 20)
            self.hidden = nn.Linear(20, 20)
            self.twin = nn.Linear(20, 20)
            self.head = nn.Linear(20, 50)
            self.head.weight = self.embedding.weight
            self.twin.weight = self.hidden.weight
            self.twin.bias = self.free = self.hidden.bias

    model = Language()
    before = state(model)
    reasons = {t.name: t.reason for t in factorize(model, rank_fraction=0.25)}
    assert reasons["head"] == "its weight is shared: embedding.weight, head.weight"
    assert reasons["hidden"] == reasons["twin"] == "its weight is shared: hidden.weight, twin.weight"
    unchanged(model, before)
    model.twin.weight = nn.Parameter(torch.rand(20, 20))
    assert {t.name: t.rank for t in factorize(model, rank_fraction=0.25)} == {
        "hidden": 5, "twin": 5, "head": None
    }  # fmt: skip
    assert model.twin.bias is model.hidden.bias is model.free


# ---- errors


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        (dict(), ValueError, "rank_fraction, ranks: expected one of the two"),
        (dict(rank_fraction=0.5, ranks={}), ValueError, "expected one of the two"),
        (dict(rank_fraction=0), ValueError, "rank_fraction: expected a number above 0"),
        (dict(rank_fraction="a"), TypeError, "rank_fraction: expected a number, got str"),
        (dict(ranks="energy:2"), ValueError, "ranks: expected a number above 0"),
        (dict(ranks="auto"), ValueError, "ranks: expected"),
        (dict(ranks=[1, 2]), TypeError, "ranks: expected a mapping of names to ranks or a rule"),
        (dict(ranks={"first": 0}), ValueError, r"ranks\['first'\]: expected an integer from 1 to 30"),
        (dict(ranks={"second": 2, "first": 31}), ValueError, r"ranks\['first'\]: .* got 31"),
        (dict(ranks={"first": 2.5}), TypeError, r"ranks\['first'\]: expected an integer"),
        (dict(ranks={"relu": 2}), ValueError, "ranks: expected names of Linear layers .* got 'relu'"),
        (dict(ranks={"third": 2}), ValueError, "ranks: expected names of Linear layers .* got 'third'"),
        (dict(ranks={"first": 2}, skip=["first"]), ValueError, "expected 'first' in one of the two"),
        (dict(rank_fraction=0.5, skip=["third"]), ValueError, "skip: expected names .* got 'third'"),
        (dict(rank_fraction=0.5, skip=[""]), ValueError, "skip: expected names .* got ''"),
        (dict(rank_fraction=0.5, skip="first"), TypeError, "skip: expected a collection of names"),
        (dict(rank_fraction=0.5, method="qr"), ValueError, "method: expected exact or randomized"),
    ],
)  # fmt: skip
def test_wrong_arguments_change_nothing(arguments, error, match):
    model = perceptron()
    before = state(model)
    with pytest.raises(error, match=match):
        factorize(model, **arguments)
    unchanged(model, before)


@pytest.mark.parametrize("value, match", [
    (float("nan"), "'output': expected a finite weight"),
    (float("inf"), "'output': expected a finite weight"),
    (3e38, "'output': its norm is too large"),
])  # fmt: skip
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_a_last_weight_that_is_not_finite_changes_nothing(method, value, match):
    model = perceptron()
    nn.init.constant_(model.output.weight, value)
    before = state(model)
    with pytest.raises(ValueError, match=f"module: {match}"):
        factorize(model, rank_fraction=0.1, force=True, method=method)
    modules, _ = state(model)
    assert modules == before[0]


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("ranks", [None, "energy:0.9"])
def test_a_decomposition_that_does_not_converge_is_done_otherwise(ranks, method, monkeypatch, caplog):
    def fails(W, **settings):
        raise torch.linalg.LinAlgError("did not converge")

    how = dict(rank_fraction=0.5) if ranks is None else dict(ranks=ranks)
    expected, model = perceptron(), perceptron()
    model.load_state_dict(expected.state_dict())
    factorize(expected, force=True, method=method, **how)
    monkeypatch.setattr(torch.linalg, "svd", fails)
    monkeypatch.setattr(torch.linalg, "svdvals", fails)
    with caplog.at_level(logging.WARNING, logger="svdfast"):
        factorize(model, force=True, method=method, **how)
    assert caplog.records and all("did not converge on a matrix of shape" in r.getMessage() for r in caplog.records)
    X = torch.randn(5, next(iter(model.children())).in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(X), expected(X), rtol=1e-4, atol=1e-4)


def test_weights_without_numbers():
    with pytest.raises(ValueError, match="'first': expected a weight with numbers"):
        factorize(perceptron(device="meta"), rank_fraction=0.25)


def test_a_layer_can_not_replace_itself():
    with pytest.raises(ValueError, match="got a Linear, which can't be replaced in place"):
        factorize(nn.Linear(20, 20), rank_fraction=0.25)
    model = nn.Sequential(nn.Linear(20, 20))
    factorize(model, rank_fraction=0.25)
    with pytest.raises(ValueError, match="got a FactoredLinear, which can't be replaced in place"):
        factorize(model[0], rank_fraction=0.1)
    with pytest.raises(ValueError, match="got a FactoredLinear, which can't be replaced in place"):
        recompose(model[0])


def test_what_is_no_module():
    for function in (lambda m: factorize(m, rank_fraction=0.5), recompose):
        with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got list"):
            function([nn.Linear(3, 3)])


def test_recomposing_with_hooks_changes_nothing():
    model = perceptron()
    factorize(model, rank_fraction=0.25, skip=["output"])
    model.second.register_forward_hook(lambda *_: None)
    before = state(model)
    with pytest.raises(ValueError, match="module: 'second' can't be replaced: it has hooks"):
        recompose(model)
    unchanged(model, before)


def test_recomposing_what_is_dense_is_nothing():
    model = perceptron()
    before = state(model)
    recompose(model)
    unchanged(model, before)


def test_factored_linear_checks_its_parts():
    W1, W2, b = (nn.Parameter(torch.rand(*shape)) for shape in ((4, 2), (2, 5), (4,)))
    FactoredLinear(W1, W2, b)
    with pytest.raises(ValueError, match="W1, W2: expected shapes"):
        FactoredLinear(W2, W1, b)
    with pytest.raises(ValueError, match="W1, W2: expected shapes"):
        FactoredLinear(b, W2)
    with pytest.raises(ValueError, match=r"bias: expected shape \(4,\), got \(2, 5\)"):
        FactoredLinear(W1, W2, W2)
    with pytest.raises(TypeError, match=r"W2: expected a torch\.nn\.Parameter, got Tensor"):
        FactoredLinear(W1, W2.detach(), b)
    with pytest.raises(TypeError, match=r"bias: expected a torch\.nn\.Parameter, got Tensor"):
        FactoredLinear(W1, W2, b.detach())


def test_an_absent_torch_is_named_with_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "svdfast.torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "svdfast\[torch\]"'):
        import svdfast.torch  # noqa: F401
