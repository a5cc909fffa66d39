# SPDX-License-Identifier: BSD-3-Clause
"""Networks from PyTorch modules: batch normalisation and scales are folded in, modules of one's own are taken where nothing else is
computed, and every other module is refused by its name.

Elsewhere: round trips, and what has no counterpart among the parts (test_convert.py).
"""

import copy
import inspect
import itertools
import logging
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import svdfast as sf
from svdfast.model import activations

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from svdfast.torch import FactoredLinear  # noqa: E402

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def norm(n, **arguments):
    """A BatchNorm1d after eval() that has seen data."""
    made = nn.BatchNorm1d(n, **arguments)
    with torch.no_grad():
        made.running_mean.normal_()
        made.running_var.uniform_(0.1, 4)
        if made.affine:
            made.weight.normal_()
            made.bias.normal_()
    return made.eval()


def close(module, net, n_samples=7, scale=1.0):
    """The network computes what the module does after eval()."""
    dtype = next(module.parameters()).dtype
    x = scale * torch.randn(n_samples, net.sizes[0], dtype=dtype)
    training = [part.training for part in module.modules()]
    with torch.no_grad():
        expected = module.eval()(x.clone())
    for part, was in zip(module.modules(), training, strict=True):
        part.training = was
    got = net.predict(x.numpy())
    assert got.shape == expected.shape and got.dtype == expected.numpy().dtype
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def refused(module, match, **arguments):
    before = [part.training for part in module.modules()]
    with pytest.raises(ValueError, match=match):
        sf.from_torch(module, **arguments)
    assert [part.training for part in module.modules()] == before


# ---- batch normalisation


@both_types
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("parts", [
    lambda linear: [linear(5, 4), norm, nn.ReLU(), linear(4, 3)],
    lambda linear: [linear(5, 4), nn.ReLU(), norm, linear(4, 3)],
    lambda linear: [norm, linear(5, 4), nn.Tanh(), linear(4, 3)],
    lambda linear: [nn.Flatten(), norm, nn.Dropout(), norm, linear(5, 4)],
    lambda linear: [linear(5, 4), norm],
    lambda linear: [linear(5, 4), nn.Dropout(), norm, norm, nn.Identity(), linear(4, 3), norm, nn.Sigmoid()],
    lambda linear: [linear(5, 4), nn.SELU(), norm, linear(4, 3), norm, nn.Softplus(beta=2), norm, linear(3, 2)],
], ids=["before", "after", "first", "first twice", "last", "twice", "scales"])  # fmt: skip
def test_batch_norm_is_folded_into_a_linear(parts, bias, affine, dtype):
    n, made = 5, []
    for part in parts(lambda m, n: nn.Linear(m, n, bias=bias)):
        made.append(norm(n, affine=affine) if part is norm else part)
        n = getattr(part, "out_features", n)
    module = nn.Sequential(*made).to(dtype)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    net = sf.from_torch(module)
    assert net.sizes == (5, *(part.out_features for part in module if type(part) is nn.Linear))
    close(module, net)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


@both_types
@pytest.mark.parametrize("place", ["before", "after", "last"])
def test_batch_norm_beside_a_factored_linear(place, dtype):
    W1, W2, b = (nn.Parameter(torch.rand(*n)) for n in ((4, 2), (2, 6), (4,)))
    factored = FactoredLinear(W1, W2, b)
    parts = {
        "before": [norm(6), factored, nn.ReLU(), nn.Linear(4, 3)],
        "after": [factored, norm(4), nn.ReLU(), nn.Linear(4, 3)],
        "last": [norm(6), factored, norm(4)],
    }[place]
    module = nn.Sequential(*parts).to(dtype)
    net = sf.from_torch(module)
    assert net.is_factored == (place != "last")  # the output layer is dense
    close(module, net)


def test_batch_norm_that_was_trained():
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    X = 3 + 5 * torch.randn(64, 6)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(X), X[:, :2]).backward()
        optimizer.step()
    close(module, sf.from_torch(module.eval()))


def test_batch_norm_that_has_no_fixed_function():
    training = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    refused(training, r"module\[1\]: expected BatchNorm1d.* after eval\(\), .* call module.eval\(\) first")
    without = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    refused(without, r"module\[1\]: expected a BatchNorm1d with running statistics")


@pytest.mark.parametrize("parts, match", [
    ([nn.Linear(4, 3), nn.ReLU(), norm(3)], r"module\[2\]: expected a Linear after BatchNorm1d"),
    ([nn.Linear(4, 3), nn.ReLU(), norm(3), nn.Tanh()], r"module\[3\]: expected one activation after a Linear"),
    ([norm(4), nn.ReLU(), nn.Linear(4, 3)], r"module\[1\]: expected a Linear before the first activation"),
    ([norm(4)], "module: expected at least one Linear"),
    ([nn.Linear(4, 3), norm(4)], r"module\[1\]: expected 3 features, as in module\[0\], got 4"),
    ([norm(3), nn.Linear(4, 3)], r"module\[0\]: expected 4 features, as in module\[1\], got 3"),
    ([norm(3), norm(4), nn.Linear(4, 3)], r"module\[1\]: expected 3 features, as in module\[0\], got 4"),
    ([nn.Linear(4, 3), norm(3).double()], r"module\[1\]: expected float32, as in module\[0\], got float64"),
    ([nn.Linear(4, 3), nn.BatchNorm2d(3).eval()], r"module\[1\]: .* got BatchNorm2d; pass input="),
    ([nn.Linear(4, 3), nn.SyncBatchNorm(3).eval()], r"module\[1\]: .* got SyncBatchNorm; svdfast.torch.factorize"),
    ([nn.Linear(4, 3), nn.LazyBatchNorm1d().eval()], r"module\[1\]: .* got LazyBatchNorm1d; run the module on a batch"),
])  # fmt: skip
def test_batch_norm_that_does_not_fit(parts, match):
    refused(nn.Sequential(*parts), match)


@pytest.mark.parametrize("name, value", [
    ("running_var", -1.0), ("running_mean", float("nan")), ("weight", float("inf")), ("bias", 3e38),
])  # fmt: skip
def test_batch_norm_whose_numbers_do_not_stay_finite(name, value):
    module = nn.Sequential(nn.Linear(4, 3), norm(3))
    nn.init.constant_(module[0].bias, 3e38)
    nn.init.ones_(module[1].weight)
    nn.init.ones_(module[1].running_var)
    nn.init.constant_(getattr(module[1], name), value)
    refused(module, r"module\[1\]: expected numbers that are finite in float32 when folded into module\[0\]")


# ---- activations


@both_types
@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("function, ours", [
    (nn.SiLU(inplace=True), "silu"),
    (nn.Softplus(), "softplus"),
    (nn.GELU(approximate="tanh"), "gelu_tanh"),
    (nn.ReLU6(), "clipped_relu"),
    (nn.Hardtanh(0, 2), "clipped_relu"),
    (nn.Hardtanh(), "hardtanh"),
    (nn.Hardtanh(-3, 3), "hardtanh"),
], ids=str)  # fmt: skip
def test_activations(function, ours, scale, dtype):
    module = nn.Sequential(nn.Linear(5, 8), function, nn.Linear(8, 4), function).to(dtype)
    net = sf.from_torch(module)
    assert [layer.activation.name for layer in net.layers] == [ours, ours]
    close(module, net, 50, scale)


@both_types
@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("function", [nn.SELU(), nn.Softplus(beta=3), nn.Softplus(0.25)], ids=str)
def test_scales_are_folded_into_the_next_linear(function, scale, dtype):
    module = nn.Sequential(nn.Linear(5, 8), function, nn.Dropout(), nn.Linear(8, 4)).to(dtype)
    close(module, sf.from_torch(module), 50, scale)
    refused(nn.Sequential(nn.Linear(5, 8), function), r"module\[1\]: expected a Linear after ")


def test_a_scale_leaves_factors():
    """A Linear without bias keeps none, so that it is still the right factor of a pair."""
    module = nn.Sequential(nn.Linear(6, 8), nn.SELU(), nn.Linear(8, 2, bias=False), nn.Linear(2, 7), nn.SELU(), nn.Linear(7, 3))
    net = sf.from_torch(module)
    assert [layer.rank for layer in net.layers] == [None, 2, None]
    close(module, net)


@pytest.mark.parametrize("name", ["clipped_relu", "hardtanh", "gelu_tanh", "silu", "softplus"])
def test_what_torch_computes_is_trained_on(name):
    """The gradient is that of autograd."""
    net = sf.Network([5, 8, 3], hidden=name, output="identity", dtype="float64", seed=0)
    module = sf.to_torch(net)
    X, Y = np.random.default_rng(0).standard_normal((2, 9, 5))
    loss = nn.functional.mse_loss(module(torch.tensor(X)), torch.tensor(Y[:, :3]))
    loss.backward()
    value, gradient = net.loss_and_gradient(X, Y[:, :3])
    assert value == pytest.approx(loss.item(), rel=1e-12)
    expected = np.concatenate([module[i].weight.grad.numpy().ravel() for i in (0, 2)] + [module[i].bias.grad.numpy() for i in (0, 2)])
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


# ---- dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_become_float32_and_it_is_said(dtype, caplog):
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval().to(dtype)
    with caplog.at_level(logging.WARNING, logger="svdfast"):
        net = sf.from_torch(module)
    (record,) = caplog.records
    assert record.getMessage() == f"from_torch: weights in {dtype} become float32, in which the network computes"
    assert net.dtype == np.float32
    assert module[0].weight.dtype == dtype
    close(module.float(), net)


@both_types
def test_other_weights_are_taken_in_silence(dtype, caplog):
    with caplog.at_level(logging.DEBUG, logger="svdfast"):
        sf.from_torch(nn.Sequential(nn.Linear(5, 4)).to(dtype))
    assert not caplog.records


def test_mixed_dtypes():
    half_and_single = nn.Sequential(nn.Linear(5, 4).half(), nn.ReLU(), nn.Linear(4, 3))
    close(half_and_single.float(), sf.from_torch(half_and_single))
    refused(
        nn.Sequential(nn.Linear(5, 4).half(), nn.ReLU(), nn.Linear(4, 3).double()),
        r"module\[2\]: expected float32, as in the first layer, got float64",
    )


def test_sparse_weights():
    module = nn.Sequential(nn.Linear(3, 3))
    module[0].weight = nn.Parameter(torch.eye(3).to_sparse())
    refused(module, r"module\[0\]\.weight: expected a dense tensor, got torch\.sparse_coo")


# ---- modules of one's own


class Net(nn.Module):
    """Calls its modules in their order."""

    def __init__(self, *parts):
        super().__init__()
        for i, part in enumerate(parts):
            setattr(self, f"part{i}", part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


def body():
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def test_a_module_that_wraps_a_sequential():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(7, 7)
            self.net = body()

        def forward(self, x, mask=None):
            return self.net(x)

    module = Wrapper()
    state = torch.get_rng_state()
    net = sf.from_torch(module, output="softmax")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in module.modules())
    assert net.sizes == (5, 4, 3) and net.layers[-1].activation.name == "softmax"
    close(module, sf.from_torch(module))


@both_types
@pytest.mark.parametrize("make", [
    lambda: Net(body()),
    lambda: Net(nn.Flatten(), body(), nn.Tanh()),
    lambda: Net(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(dim=1)),
    lambda: Net(Net(Net(body())), nn.Sequential(), nn.ReLU(), Net(nn.Dropout(), nn.Linear(3, 2))),
    lambda: nn.Sequential(Net(norm(5), nn.Linear(5, 4), norm(4)), nn.SELU(), nn.Linear(4, 3)),
])  # fmt: skip
def test_modules_that_call_their_modules_one_after_the_other(make, dtype):
    module = make().to(dtype)
    close(module, sf.from_torch(module))


def test_a_module_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.linear(self.act(self.linear(self.act(self.linear(x)))))

    module = Twice()
    net = sf.from_torch(module)
    assert len(net.layers) == 3
    close(module, net)


@pytest.mark.parametrize("forward", [
    lambda self, x: self.net(x.flatten(1)),
    lambda self, x: self.net(x.view(len(x), -1)),
    lambda self, x: self.net(x * 2),
    lambda self, x: self.net(x).softmax(dim=1),
    lambda self, x: torch.relu(self.net(x)),
    lambda self, x: nn.functional.log_softmax(self.net(x), dim=1),
    lambda self, x: x + self.net(x),
    lambda self, x: self.net(x) + 0 * x.sum(),
    lambda self, x: (self.net(x), x),
    lambda self, x: {"logits": self.net(x)},
    lambda self, x: None,
    lambda self, x: self.net(x) and x,
    lambda self, x, y: self.net(x),
    lambda self, x: self.net[2](self.net[0](x)),
    lambda self, x: self.net.forward(x),
    lambda self, x: [self.net(x), self.net(x)][0],
    lambda self, x: self.net(torch.zeros(1, 5)),
    # What a placeholder does not see: the numbers show it.
    lambda self, x: self.net(x if not torch.is_tensor(x) else x + 1),
    lambda self, x: self.net(x) if self.net is not self._modules["net"] else self.net(x)[:1],
    lambda self, x: self.net(x) if not torch.is_tensor(x) else self.net(x).numpy(),
    lambda self, x: self.net(x) if not torch.is_tensor(x) else self.net(x) * float("nan"),
    lambda self, x: self.net(x) if not torch.is_tensor(x) else 1 / 0,
])  # fmt: skip
@pytest.mark.parametrize("inner", [False, True])
def test_a_forward_that_does_more_is_refused(forward, inner):
    Own = type("Own", (nn.Module,), {"forward": forward})
    module = Own()
    module.net = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    module.net[0].eval()
    place = "module"
    if inner:
        module, place = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), module), r"module(\[2\])?"
    refused(module, rf"^{place}: expected (a forward that calls .* got that of Own; pass a Sequential|one that computes)")


def test_a_module_without_modules_is_named():
    class Swish(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    refused(nn.Sequential(nn.Linear(3, 3), Swish()), r"module\[1\]: expected Linear, .* got Swish; svdfast.torch.factorize")


def test_a_call_of_its_own():
    class Called(Net):
        def __call__(self, x):
            return 2 * super().__call__(x)

    refused(Called(body()), "module: expected a module with the forward of its class, got Called")


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_on_a_module_of_ones_own(kind):
    module = Net(body())
    getattr(module, kind)(lambda *_: None)
    refused(module, "module: expected a module without forward hooks")
    module = Net(body())
    getattr(module.part0[1], kind)(lambda *_: None)
    refused(module, r"module\.part0\[1\]: expected a module without forward hooks")


# ---- what else there is in PyTorch


def test_every_module_of_torch_is_taken_or_named():
    taken = {
        "Linear", "BatchNorm1d", "ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Softplus", "Hardtanh", "Tanh",
        "Sigmoid", "Softmax", "Dropout", "AlphaDropout", "Identity", "Flatten", "Sequential",
    }  # fmt: skip
    arguments = {"Softmax": {"dim": 1}, "BatchNorm1d": {"num_features": 3}, "Linear": {"in_features": 3, "out_features": 3}}
    seen = set()
    for name, kind in vars(nn).items():
        if not inspect.isclass(kind) or not issubclass(kind, nn.Module):
            continue
        if name in taken:
            part = kind(**arguments.get(name, {})).eval()
            sf.from_torch(nn.Sequential(nn.Linear(3, 3), part, nn.Linear(3, 3)))
            seen.add(name)
            continue
        part = object.__new__(kind)  # whatever arguments it may want
        nn.Module.__init__(part)
        part.extra_repr = lambda: ""
        with pytest.raises(ValueError, match=rf"module\[1\]: expected Linear, .* got {name}(;|$)"):
            sf.from_torch(nn.Sequential(nn.Linear(3, 3), part))
    assert seen == taken


def compiled(make):
    """A compiled or changed module, without the warnings that PyTorch has for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


@pytest.mark.parametrize("make, match", [
    (lambda m: torch.jit.script(m), "^module: expected Linear, .* got RecursiveScriptModule; pass the module that it was made from"),
    (lambda m: torch.jit.trace(m, torch.rand(1, 5)), "^module: expected Linear, .* got TopLevelTracedModule; pass the module"),
    (lambda m: torch.compile(m), r"^module: .* got OptimizedModule; pass the module that was compiled"),
    (lambda m: nn.DataParallel(m), r"^module: .* got DataParallel; pass its \.module"),
    (lambda m: torch.fx.symbolic_trace(m), r"^module: expected Linear, .* got torch\.fx\.graph_module\.Sequential"),
    (lambda m: torch.ao.quantization.quantize_dynamic(m, {nn.Linear}), r"^module\[0\]: .* got torch\.ao\.nn\.quantized\..*\.Linear"),
    (lambda m: parametrizations.weight_norm(m[0]), r"^module: .* got ParametrizedLinear; .*remove_parametrizations"),
    (lambda m: parametrizations.spectral_norm(m[0]), r"^module: .* got ParametrizedLinear; .*remove_parametrizations"),
    (lambda m: torch.nn.utils.weight_norm(m[0]), r"^module: expected a module without forward hooks, .*remove_weight_norm"),
    (lambda m: prune.l1_unstructured(m[0], "weight", 0.5), r"^module: .* without forward hooks, .*prune\.remove"),
])  # fmt: skip
def test_changed_modules_are_named_with_what_to_do(make, match):
    refused(compiled(lambda: make(body())), f"(?s){match}")


def test_what_to_do_is_enough():
    weight_norm = parametrizations.weight_norm(nn.Linear(5, 4))
    torch.nn.utils.parametrize.remove_parametrizations(weight_norm, "weight")
    pruned = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    prune.remove(pruned, "weight")
    lazy = nn.LazyLinear(3)
    module = nn.Sequential(weight_norm, nn.ReLU(), pruned, nn.ReLU(), lazy)
    module(torch.rand(1, 5))
    close(module, sf.from_torch(module))


def test_tied_weights_are_copied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    module = nn.Sequential(norm(4), first, nn.SELU(), second)
    net = sf.from_torch(module)
    close(module, net)
    net.layers[0].W[:] = 0
    assert net.layers[1].W.any()


# ---- any modules


def activation(data):
    """Any activation that is taken as the last one, too."""
    positive = st.floats(0.05, 5)
    return data.draw(st.one_of(
        st.sampled_from([nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Softplus(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.GELU("tanh"),
                         nn.Softmax(1), nn.Softmax(-1)]),
        positive.map(nn.LeakyReLU), positive.map(nn.ELU), positive.map(nn.CELU),
        positive.map(lambda x: nn.Hardtanh(-x, x)), positive.map(lambda x: nn.Hardtanh(0.0, x)),
    ))  # fmt: skip


def without_effect(data):
    return data.draw(st.lists(st.sampled_from([nn.Dropout(), nn.AlphaDropout(), nn.Identity(), nn.Flatten(), nn.Sequential()]), max_size=1))


def nested(data, parts):
    """Some of the parts in a Sequential or in a module of one's own."""
    while data.draw(st.booleans()):
        start, end = sorted((data.draw(st.integers(0, len(parts))), data.draw(st.integers(0, len(parts)))))
        kind = data.draw(st.sampled_from([nn.Sequential, Net]))
        parts = [*parts[:start], kind(*parts[start:end]), *parts[end:]] if end > start else parts
    return parts


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_modules_compute_the_same(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    parts = []
    for i, (m, n) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        parts += [norm(m)] * data.draw(st.integers(0, 1)) + without_effect(data)
        bias = data.draw(st.booleans())
        if data.draw(st.booleans()):
            parts.append(nn.Linear(m, n, bias=bias))
        else:
            rank = data.draw(st.integers(1, 9))
            factors = (nn.Parameter(torch.rand(*shape)) for shape in ((n, rank), (rank, m)))
            parts.append(FactoredLinear(*factors, nn.Parameter(torch.rand(n)) if bias else None))
        parts += without_effect(data) + [norm(n)] * data.draw(st.integers(0, 1))
        if data.draw(st.booleans()):
            scaled = [] if last else [nn.SELU(), nn.Softplus(beta=2)]
            chosen = data.draw(st.sampled_from(scaled)) if scaled and data.draw(st.booleans()) else activation(data)
            # A softmax of one output is refused.
            parts.append(nn.Tanh() if last and n == 1 and isinstance(chosen, nn.Softmax) else chosen)
    parts += without_effect(data)
    module = nn.Sequential(*nested(data, parts)).to(dtype)
    net = sf.from_torch(module)
    x = torch.randn(6, sizes[0], dtype=dtype)
    with torch.no_grad():
        expected = module.double().eval()(x.double()).numpy()
    size = max(1, abs(expected).max())
    np.testing.assert_allclose(net.predict(x.numpy()), expected, rtol=0, atol=TOLERANCE[dtype] * size)


@pytest.mark.parametrize("name", ["clipped_relu", "hardtanh", "gelu_tanh", "silu", "softplus"])
def test_new_names_are_known_to_files_and_copies(name, tmp_path):
    function = getattr(activations, name)()
    net = sf.Network([4, 5, 3], hidden=name, output=function, seed=0)
    sf.save(net, tmp_path / "net.npz")
    for again in (sf.load(tmp_path / "net.npz"), pickle.loads(pickle.dumps(net)), copy.deepcopy(net), sf.from_torch(sf.to_torch(net))):
        assert [layer.activation for layer in again.layers] == [function, function]
        np.testing.assert_array_equal(again.parameters, net.parameters)
