# SPDX-License-Identifier: BSD-3-Clause
"""The look at a model's inputs: it sees what the weights multiply, the truncation by it is the best for them, and it leaves no trace."""

import copy
import threading

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from torch_training import Alone  # noqa: E402

from svdfast.model.svd import RIDGE  # noqa: E402
from svdfast.torch import factorize, recompose  # noqa: E402
from svdfast.torch.kinds import kind_of  # noqa: E402
from svdfast.torch.observe import observe  # noqa: E402
from svdfast.torch.truncate import factors  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def gram_of(layer, *args, **settings):
    """C as it was seen, unscaled, and the rows."""
    model = Alone(layer)
    batch = settings or args
    seen = observe(model, [batch], {layer: "layer"})[layer]
    return seen.gram.double() * seen.scale**2, seen


@pytest.mark.parametrize(
    "settings",
    [dict(), dict(stride=2, padding=1), dict(padding="same", dilation=2), dict(padding=(1, 2), padding_mode="reflect"),
     dict(padding="valid", stride=(1, 2))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kernel", [(3, 3), (3, 5)])
def test_rows_of_images_are_what_the_kernel_meets(kernel, settings):
    layer = nn.Conv2d(3, 4, kernel, bias=False, **settings)
    x = torch.rand(2, 3, 9, 11)
    rows, n = kind_of(layer).rows(layer, (x,), 10**6, torch.Generator())
    W = layer.weight.reshape(4, -1)
    out = layer(x).movedim(1, -1).reshape(-1, 4)
    assert len(rows) == n == len(out)
    torch.testing.assert_close(rows @ W.T, out)
    some, n = kind_of(layer).rows(layer, (x,), 20, torch.Generator().manual_seed(3))
    assert len(some) == 20 and n == len(out)
    assert all((rows == row).all(dim=1).any() for row in some)
    assert len({tuple(row.tolist()) for row in some}) > 10
    alone, n = kind_of(layer).rows(layer, (x[0],), 10**6, torch.Generator())
    assert torch.equal(alone, rows[: len(rows) // 2])


@pytest.mark.parametrize(
    "settings", [dict(), dict(stride=2, padding=1), dict(padding="same", dilation=2), dict(padding=2, padding_mode="circular")], ids=str
)
def test_rows_of_sequences(settings):
    layer = nn.Conv1d(3, 4, 3, bias=False, **settings)
    x = torch.rand(2, 3, 9)
    rows, _ = kind_of(layer).rows(layer, (x,), 10**6, torch.Generator())
    torch.testing.assert_close(rows @ layer.weight.reshape(4, -1).T, layer(x).movedim(1, -1).reshape(-1, 4))
    factored = kind_of(layer).factored(layer, torch.rand(4, 2), torch.rand(2, 9))
    again, _ = kind_of(factored).rows(factored, (x,), 10**6, torch.Generator())
    assert torch.equal(again, rows)


def test_gram_matrices():
    x = torch.rand(6, 5, 8) * 100
    X = x.reshape(-1, 8).double()
    for layer, args, settings in (
        (nn.Linear(8, 4), (x,), {}),
        (nn.Linear(8, 4), (), dict(input=x)),
        (nn.LSTM(8, 4), (x,), {}),
        (nn.GRU(8, 4), (), dict(input=x)),
        (nn.MultiheadAttention(8, 2), (x, x, x), {}),
        (nn.MultiheadAttention(8, 2), (), dict(query=x, key=x, value=x)),
    ):
        gram, seen = gram_of(layer, *args, **settings)
        torch.testing.assert_close(gram, X.T @ X, rtol=1e-5, atol=0)
        assert seen.rows == 30 and seen.gram.dtype == torch.float32
    y = torch.rand(6, 5, 8)
    Y = y.reshape(-1, 8).double()
    gram, seen = gram_of(nn.MultiheadAttention(8, 2), x, y, y)
    torch.testing.assert_close(gram, X.T @ X + 2 * Y.T @ Y, rtol=1e-5, atol=0)
    packed = pack_sequence([torch.rand(n, 8) for n in (4, 4)])
    gram, seen = gram_of(nn.LSTM(8, 4), packed)
    torch.testing.assert_close(gram, packed.data.double().T @ packed.data.double(), rtol=1e-5, atol=0)
    gram, seen = gram_of(nn.Linear(8, 4, dtype=torch.float64), x.double())
    assert seen.gram.dtype == torch.float64


def test_batches_add_up_and_many_rows_are_chosen_of():
    layer = nn.Linear(8, 4)
    model = Alone(layer)
    batches = [torch.rand(n, 8) for n in (5, 7, 1)]
    seen = observe(model, iter(batches), {layer: "layer"})[layer]
    X = torch.cat(batches).double()
    assert seen.rows == 13
    torch.testing.assert_close(seen.gram.double() * seen.scale**2, X.T @ X, rtol=1e-5, atol=0)
    many = torch.ones(100_000, 8)
    seen = observe(model, [many], {layer: "layer"})[layer]
    assert seen.rows == 100_000 and seen.gram[0, 0] * seen.scale**2 < 3000


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (40, 40)], ids=str)
def test_the_truncation_is_the_best_for_the_inputs(shape, method):
    n, m = shape
    W = torch.randn(n, m, dtype=torch.float64)
    X = torch.randn(500, m, dtype=torch.float64) @ torch.diag(torch.logspace(0, -4, m, dtype=torch.float64))
    C = X.T @ X
    rank = 6
    W1, W2 = factors(W, rank, method, C)
    values, vectors = torch.linalg.eigh(C / C.diagonal().mean() + RIDGE * torch.eye(m, dtype=torch.float64))
    root = vectors * values.sqrt() @ vectors.T
    best = torch.linalg.svdvals(W @ root)[rank:].square().sum().sqrt()
    torch.testing.assert_close(torch.linalg.norm((W - W1 @ W2) @ root), best, rtol=1e-6 if method == "exact" else 1e-2, atol=0)
    plain = torch.matmul(*factors(W, rank, method))
    assert torch.linalg.norm((W - W1 @ W2) @ X.T) < 0.9 * torch.linalg.norm((W - plain) @ X.T)
    assert W1.norm().item() == pytest.approx(W2.norm().item())  # balanced


@pytest.mark.parametrize("gram", [torch.zeros(8, 8), torch.ones(8, 8), torch.eye(8) * 1e-30, torch.diag(torch.tensor([1e30] + [0.0] * 7))])
def test_singular_gram_matrices(gram):
    W = torch.randn(6, 8)
    for rank in (2, 6):
        W1, W2 = factors(W, rank, "exact", gram)
        assert torch.isfinite(W1).all() and torch.isfinite(W2).all()
    torch.testing.assert_close(W1 @ W2, W, rtol=0, atol=1e-5)


def test_a_sample_makes_the_outputs_closer():
    net = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 64))
    base = torch.randn(4, 8, 8)
    x = base + 0.1 * torch.randn(64, 4, 8, 8)
    plain, aware = copy.deepcopy(net), copy.deepcopy(net)
    ranks = {"2": 6, "4": 12}
    factorize(plain, ranks=ranks)
    done = factorize(aware, ranks=ranks, sample=[x[:32], x[32:]])
    assert [t.rank for t in done] == [6, 12]
    expected = net(x)
    assert (aware(x) - expected).norm() < 0.5 * (plain(x) - expected).norm()
    again = copy.deepcopy(net)
    factorize(again, ranks=ranks, sample=[x[:32], x[32:]])
    assert torch.equal(again[2].W1, aware[2].W1)  # the same each time
    factorize(aware, ranks={"2": 3}, sample=[x])  # from the factors
    recompose(aware)
    assert torch.isfinite(aware(x)).all()


class Everything(nn.Module):
    """With all that running a model can change."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(8).eval()
        self.head = nn.Linear(8, 6)
        self.register_buffer("calls", torch.zeros(()))
        self.modes = []

    def forward(self, x, fail=False):
        self.calls += 1
        self.modes.append((self.training, torch.is_grad_enabled()))
        x = self.frozen(self.drop(self.norm(self.conv(x)))).mean((2, 3)) + torch.rand(8)
        if fail:
            raise KeyError("within")
        return self.head(x)


def trace(model):
    return (
        {name: part.training for name, part in model.named_modules()},
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [(len(part._forward_pre_hooks), len(part._forward_hooks)) for part in model.modules()],
        torch.get_rng_state(), torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(),
        [p.grad for p in model.parameters()],
    )  # fmt: skip


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("fail", [False, True])
def test_it_leaves_no_trace(fail):
    model = Everything()
    x = torch.rand(2, 4, 9, 9)
    layers = {model.conv: "conv", model.head: "head"}
    loader = torch.utils.data.DataLoader(torch.rand(6, 4, 9, 9), batch_size=2, shuffle=True)
    before = trace(model)
    sample = [x, dict(x=x, fail=True)] if fail else loader
    if fail:
        with pytest.raises(KeyError, match="within"):
            observe(model, sample, layers)
    else:
        assert observe(model, sample, layers).keys() == layers.keys()
    assert equal(trace(model), before)
    assert set(model.modes) == {(False, False)}


def test_an_error_in_factorize_changes_nothing():
    model = Everything()
    x = torch.rand(2, 4, 9, 9)
    before, parts = trace(model), list(model.modules())
    for sample, error, match in (
        ([dict(x=x, fail=True)], KeyError, "within"),
        ([], ValueError, "sample: expected at least one batch, got none"),
        ([x, 3], TypeError, r"sample\[1\]: expected a tensor, a tuple or a mapping, got int"),
        (x, TypeError, "sample: expected an iterable of batches, got Tensor"),
        (3, TypeError, "sample: expected an iterable of batches, got int"),
        ([x, x * float("nan")], ValueError, "sample: the inputs of 'conv' are not finite"),
        ([x, x * 1e30], ValueError, "sample: the inputs of 'conv' are too large next to those of the first batch"),
    ):
        with pytest.raises(error, match=match):
            factorize(model, rank_fraction=0.25, sample=sample, force=True)
        assert equal(trace(model), before) and list(model.modules()) == parts


@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 8), nn.LSTM(12, 8, batch_first=True), nn.MultiheadAttention(12, 2)], ids=lambda part: type(part).__name__
)
def test_inputs_that_are_no_tensors_are_named(layer):
    model = nn.Sequential(layer)
    for batch in ([1, 2], (1,)):
        with pytest.raises((TypeError, KeyError), match=r"expected a tensor as a layer's input, got int|key"):
            factorize(model, rank_fraction=0.25, sample=[batch], force=True)
    assert model[0] is layer


def test_layers_that_are_not_reached_are_truncated_plainly():
    model = Everything()
    model.unused = nn.Linear(20, 30)
    plain = copy.deepcopy(model)
    factorize(plain, ranks={"unused": 5})
    factorize(model, ranks={"unused": 5, "conv": 2}, sample=[torch.rand(2, 4, 9, 9)])
    assert torch.equal(model.unused.W1, plain.unused.W1)


def test_extreme_inputs():
    for size in (0.0, 1e-30, 1e30):
        model = nn.Sequential(nn.Linear(20, 30))
        (t,) = factorize(model, ranks={"0": 5}, sample=[torch.rand(50, 20) * size])
        assert 0 < t.dropped_norm < 10 and torch.isfinite(model[0].W1).all()
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    factorize(model, ranks={"0": 5}, sample=[torch.rand(0, 4, 9, 9)])
    assert model[0].rank == 5


def test_encoders_with_padding_are_seen_in_inference():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    layers = {part: name for name, part in model.named_modules() if kind_of(part) is not None}
    seen = observe(model, [dict(src=torch.rand(3, 6, 16), src_key_padding_mask=padding)], layers)
    assert len(seen) == len(layers) == 6
    assert {look.rows for look in seen.values()} == {18}


def test_low_precision_and_autocast():
    model = nn.Sequential(nn.Linear(20, 30, dtype=torch.bfloat16))
    seen = observe(model, [torch.rand(50, 20, dtype=torch.bfloat16)], {model[0]: "0"})[model[0]]
    assert seen.gram.dtype == torch.float32 and seen.autocast is None
    model = nn.Sequential(nn.Linear(20, 30))
    x = torch.rand(50, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = observe(model, [x], {model[0]: "0"})[model[0]]
    assert cast.autocast == torch.bfloat16
    assert torch.equal(cast.gram, observe(model, [x], {model[0]: "0"})[model[0]].gram)


def test_threads_observe_one_after_the_other():
    """The generator's state and the fast path's switch are the process's: two at once would not find back to them."""
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    models = [copy.deepcopy(net) for _ in range(4)]
    x = torch.rand(4, 8, 12, 12)
    before, errors = torch.get_rng_state(), []

    def work(model):
        try:
            for _ in range(5):
                factorize(model, ranks={"0": 4, "2": 8}, sample=[x])
                recompose(model)
        except BaseException as error:  # told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    for model in models[1:]:
        assert all(map(torch.equal, model.parameters(), models[0].parameters()))


class Merges(nn.Module):
    """Merges in train(False) and takes that back in train(True); a forward pass assigns its buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.merged = False
        self.register_buffer("n", torch.zeros(()))

    def train(self, mode=True):
        super().train(mode)
        self.merged = not mode
        return self

    def forward(self, x):
        self.n = self.n + 1
        return self.layer(x)


def test_what_parts_do_in_a_train_of_their_own_is_undone():
    net = nn.Sequential(Merges())
    observe(net, [torch.rand(3, 4)], {net[0].layer: "0.layer"})
    assert net[0].training and not net[0].merged and float(net[0].n) == 0
