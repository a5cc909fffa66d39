# SPDX-License-Identifier: BSD-3-Clause
"""Layers of all kinds: at full rank a factored one gives what the dense one gives, and the way back gives the user's own layer."""

import copy
import io
import sys
import threading
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from torch_training import Alone  # noqa: E402

from svdfast.torch import (  # noqa: E402
    Factored,
    FactoredConv1d,
    FactoredConv2d,
    FactoredLSTM,
    FactoredMultiheadAttention,
    factorize,
    recompose,
)
from svdfast.torch.kinds import kind_of  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def settings_of(layer):
    """Everything a user can have set, but for tensors."""
    plain = (int, float, str, bool, tuple, type(None))
    return {
        name: value for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, plain)
    }  # fmt: skip


def flat(out):
    """The tensors of an output."""
    if isinstance(out, torch.Tensor):
        return [out]
    if out is None:
        return []
    if hasattr(out, "data") and hasattr(out, "batch_sizes"):
        return [out.data]
    return [tensor for part in out for tensor in flat(part)]


def same(a, b, tolerance=1e-5):
    a, b = flat(a), flat(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


def gradients(model, out, x):
    total = sum((part.double() * torch.linspace(-1, 1, part.numel()).view(part.shape)).sum() for part in flat(out))
    return torch.autograd.grad(total, x)[0]


def there_and_back(layer, x, *more, tolerance=1e-5, **settings):
    """Through full rank and back; the factored layer."""
    model = Alone(layer)
    before, chosen = model(x, *more, **settings), settings_of(layer)
    x_gradient = gradients(model, before, x) if isinstance(x, torch.Tensor) and x.requires_grad else None
    others = {id(p) for p in model.parameters()} - {id(w) for w in kind_of(layer).weights(layer)}
    names = [(name, p.shape, p.requires_grad) for name, p in layer.named_parameters()]

    (t, *_) = factorize(model, rank_fraction=1, force=True)
    factored = model.layer
    assert isinstance(factored, Factored) and t.rank == factored.rank == min(t.n_in, t.n_out)
    assert (t.n_in, t.n_out) == (factored.in_features, factored.out_features)
    assert others <= {id(p) for p in factored.parameters()}
    same(model(x, *more, **settings), before, tolerance)
    if x_gradient is not None:
        torch.testing.assert_close(gradients(model, model(x, *more, **settings), x), x_gradient, rtol=0, atol=10 * tolerance)
    # Moments of the factors' shapes and back.
    M1, M2 = factored.matrices()
    W1s, W2 = factored.factors
    shaped = factored.shaped(M1, M2)
    assert [s.shape for s in shaped] == [p.shape for p in (*W1s, W2)]
    assert all(torch.equal(a, b) for a, b in zip(factored.matrices(shaped), (M1, M2), strict=True))
    # Copies.
    for again in (copy.deepcopy(model), pickled(model)):
        same(again(x, *more, **settings), model(x, *more, **settings), 0)
    fresh = copy.deepcopy(model)
    for p in fresh.parameters():
        nn.init.constant_(p, 0.5)
    fresh.load_state_dict(model.state_dict())
    same(fresh(x, *more, **settings), model(x, *more, **settings), 0)

    recompose(model)
    back = model.layer
    assert type(back) is type(layer) and settings_of(back) == chosen
    assert others <= {id(p) for p in back.parameters()}
    assert [(name, p.shape, p.requires_grad) for name, p in back.named_parameters()] == names
    same(model(x, *more, **settings), before, tolerance)
    W = kind_of(back).matrix(back, kind_of(back).weights(back))
    for tensor, weight in zip(kind_of(back).tensors(back, W), kind_of(back).weights(back), strict=True):
        assert torch.equal(tensor, weight) and tensor.stride() == weight.stride()
    return factored


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def rand(*shape, dtype=None):
    return torch.rand(*shape, dtype=dtype, requires_grad=True)


# ---- convolutions


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(stride=2, padding=1),
        dict(stride=(2, 1), padding=(0, 2)),
        dict(padding="same", dilation=2),
        dict(padding="valid"),
        dict(padding=1, padding_mode="reflect"),
        dict(padding=(2, 1), padding_mode="circular", stride=3),
        dict(padding="same", padding_mode="replicate"),
        dict(dilation=(1, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [3, (2, 3), (1, 5)], ids=str)
def test_conv2d(kernel, settings, bias):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")  # torch's, of an even kernel
        layer = there_and_back(nn.Conv2d(5, 7, kernel, bias=bias, **settings), rand(2, 5, 12, 13))
    assert type(layer) is FactoredConv2d and layer.W2.ndim == 4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(stride=2, padding=1),
        dict(padding="same", dilation=2),
        dict(padding=2, padding_mode="reflect"),
        dict(padding=2, padding_mode="circular"),
    ],
    ids=str,
)
def test_conv1d(settings, bias):
    layer = there_and_back(nn.Conv1d(5, 7, 3, bias=bias, **settings), rand(2, 5, 12))
    assert type(layer) is FactoredConv1d


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda **o: nn.Conv2d(5, 7, 3, **o), (5, 9, 9)),  # no batch
        (lambda **o: nn.Conv2d(5, 7, 3, **o), (0, 5, 9, 9)),
        (lambda **o: nn.Conv2d(5, 1, 3, **o), (2, 5, 9, 9)),
        (lambda **o: nn.Conv2d(1, 7, 3, **o), (2, 1, 9, 9)),
        (lambda **o: nn.Conv2d(5, 7, 1, **o), (2, 5, 9, 9)),
        (lambda **o: nn.Conv2d(5, 7, 9, **o), (2, 5, 9, 9)),  # one position
        (lambda **o: nn.Conv1d(5, 7, 3, **o), (5, 9)),
        (lambda **o: nn.Conv1d(1, 1, 1, **o), (2, 1, 9)),
        (lambda **o: nn.Linear(1, 1, **o), (2, 1)),
        (lambda **o: nn.Linear(5, 7, **o), (5,)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_odd_shapes_and_types(layer, shape, dtype):
    x = rand(*shape, dtype=dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    factored = there_and_back(layer(dtype=dtype), x, tolerance=tolerance)
    assert all(p.dtype == dtype for p in factored.parameters())


@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last_stays(kernel):
    layer = nn.Conv2d(6, 8, kernel, padding="same").to(memory_format=torch.channels_last)
    strides = layer.weight.stride()
    x = torch.rand(2, 6, 9, 9).to(memory_format=torch.channels_last)
    model = Alone(layer)
    before = model(x)
    factorize(model, rank_fraction=1, force=True)
    assert model.layer.W2.is_contiguous(memory_format=torch.channels_last)
    assert model(x).stride() == before.stride()
    for moment in model.layer.shaped(*model.layer.matrices())[-1:]:
        assert moment.stride() == model.layer.W2.stride()
    same(model(x), before)
    recompose(model)
    assert model.layer.weight.stride() == strides
    assert model(x).stride() == before.stride()


def test_weights_that_are_not_contiguous():
    for layer, x in (
        (nn.Linear(5, 7), rand(2, 5)),
        (nn.Conv2d(5, 7, 3), rand(2, 5, 9, 9)),
        (nn.LSTM(5, 7), rand(4, 2, 5)),
    ):
        for name in kind_of(layer).names(layer):
            weight = getattr(layer, name)
            odd = weight.detach().transpose(0, 1).contiguous().transpose(0, 1)
            assert not odd.is_contiguous()
            setattr(layer, name, nn.Parameter(odd))
        model = Alone(layer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RNN module weights")
            before = model(x)
        factorize(model, rank_fraction=1, force=True)
        same(model(x), before)
        recompose(model)
        same(model(x), before)


def test_the_truncation_of_a_convolution_is_the_best_of_its_matrix():
    model = Alone(nn.Conv2d(8, 10, 3))
    W = model.layer.weight.detach().reshape(10, 72)
    (t,) = factorize(model, ranks={"layer": 4})
    best = torch.linalg.svdvals(W)[4:].square().sum().sqrt().item()
    assert t.dropped_norm == pytest.approx(best, rel=1e-4)
    assert (t.n_in, t.n_out, t.break_even_rank) == (72, 10, 8)


# ---- recurrent layers


@pytest.mark.parametrize("type_", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(bias=False),
        dict(bidirectional=True),
        dict(num_layers=3, batch_first=True),
        dict(num_layers=2, bidirectional=True, bias=False, batch_first=True),
    ],
    ids=str,
)
def test_recurrent_layers(type_, settings):
    there_and_back(type_(5, 6, **settings), rand(3, 4, 5))
    there_and_back(type_(5, 6, **settings), rand(3, 5))  # no batch
    packed = pack_sequence([torch.rand(n, 5) for n in (3, 5, 2)], enforce_sorted=False)
    there_and_back(type_(5, 6, **settings), packed)
    n = settings.get("num_layers", 1) * (1 + settings.get("bidirectional", False))
    batch = 3 if settings.get("batch_first") else 4
    h = torch.rand(n, batch, 6)
    there_and_back(type_(5, 6, **settings), rand(3, 4, 5), (h, h) if type_ is nn.LSTM else h)


def test_more_of_recurrent_layers():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        there_and_back(nn.LSTM(5, 6, proj_size=3, num_layers=2, bidirectional=True), rand(3, 4, 5))
    there_and_back(nn.RNN(5, 6, nonlinearity="relu"), rand(3, 4, 5))
    there_and_back(nn.LSTM(9, 2, dtype=torch.float64), rand(3, 4, 9, dtype=torch.float64), tolerance=1e-12)
    there_and_back(nn.LSTM(1, 1), rand(3, 4, 1))
    with pytest.warns(UserWarning, match="dropout option"):
        layer = nn.LSTM(5, 6, dropout=0.5)
    there_and_back(layer.eval(), rand(3, 4, 5))


def test_both_directions_have_one_input():
    model = Alone(nn.LSTM(12, 10, num_layers=2, bidirectional=True))
    first, *others = factorize(model, ranks="energy:0.9", force=True)
    assert (first.name, first.n_in, first.n_out) == ("layer", 12, 80)
    assert {t.name: t.reason for t in others} == {
        f"layer.weight_{name}": "its fused kernel takes one weight"
        for name in ("hh_l0", "hh_l0_reverse", "ih_l1", "hh_l1", "ih_l1_reverse", "hh_l1_reverse")
    }
    assert isinstance(model.layer, FactoredLSTM) and model.layer.input_size == first.rank
    assert model.layer.W2.shape == (first.rank, 12)
    (again, *_) = factorize(model, ranks={"layer": 3}, force=True)
    assert again.rank == model.layer.rank == 3
    x = torch.rand(5, 2, 12)
    out = model(x)
    recompose(model)
    same(model(x), out)


def test_recurrent_layers_train():
    model = Alone(nn.GRU(20, 8, bidirectional=True))
    factorize(model, ranks={"layer": 4})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.rand(6, 5, 20), torch.rand(6, 5, 16)
    losses = []
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x)[0], y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    expected = model(x)
    recompose(model)
    same(model(x), expected)


@pytest.mark.parametrize("type_", [nn.Conv2d, nn.Conv1d, nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention, nn.Linear])
def test_autocast_gives_the_same_type(type_):
    convolution = type_ in (nn.Conv1d, nn.Conv2d)
    model = Alone(type_(8, 4) if not convolution else type_(8, 4, 3))
    x = torch.rand(2, 8, 9, 9) if type_ is nn.Conv2d else torch.rand(4, 8, 8)
    args = (x, x, x) if type_ is nn.MultiheadAttention else (x,)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            before = model(*args)
        except RuntimeError as error:
            pytest.skip(f"PyTorch has no such layer in bfloat16 here: {error}")
        factorize(model, rank_fraction=1, force=True)
        same(model(*args), before, 0.05)


# ---- attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "settings",
    [dict(), dict(batch_first=True), dict(bias=False), dict(add_bias_kv=True), dict(add_zero_attn=True, add_bias_kv=True)],
    ids=str,
)
@pytest.mark.parametrize("weights", [dict(), dict(need_weights=False), dict(average_attn_weights=False)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_attention(training, weights, settings, dtype):
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13

    def layer():
        attention = nn.MultiheadAttention(8, 2, dtype=dtype, **settings).train(training)
        for p in attention.parameters():
            nn.init.normal_(p, std=0.3)
        return attention

    n, steps, source = 3, 4, 5
    shape = (n, steps) if settings.get("batch_first") else (steps, n)
    other = (n, source) if settings.get("batch_first") else (source, n)
    x, y, z = rand(*shape, 8, dtype=dtype), rand(*other, 8, dtype=dtype), rand(*other, 8, dtype=dtype)
    padding = torch.zeros(n, source, dtype=torch.bool)
    padding[0, 3:] = True
    mask = torch.triu(torch.ones(steps, source, dtype=torch.bool), 2)
    of_heads = torch.randn(2 * n, steps, source, dtype=dtype)
    kept = dict(tolerance=tolerance, **weights)
    assert type(there_and_back(layer(), x, x, x, **kept)) is FactoredMultiheadAttention
    there_and_back(layer(), x, y, y, **kept)
    there_and_back(layer(), x, y, z, **kept)
    there_and_back(layer(), x, y, z, key_padding_mask=padding, **kept)
    there_and_back(layer(), x, y, z, attn_mask=mask, **kept)
    there_and_back(layer(), x, y, z, attn_mask=mask, key_padding_mask=padding, **kept)
    there_and_back(layer(), x, y, z, attn_mask=of_heads, **kept)
    there_and_back(layer(), x, y, z, attn_mask=of_heads, key_padding_mask=padding.to(dtype), **kept)
    causal = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    if not settings.get("add_bias_kv"):
        there_and_back(layer(), x, x, x, attn_mask=causal, is_causal=True, **kept)
    a, b, c = rand(steps, 8, dtype=dtype), rand(source, 8, dtype=dtype), rand(source, 8, dtype=dtype)
    there_and_back(layer(), a, a, a, **kept)
    there_and_back(layer(), a, b, c, key_padding_mask=padding[0], attn_mask=mask, **kept)


def test_dropout_in_attention_draws_the_same():
    layer = nn.MultiheadAttention(8, 2, dropout=0.5)
    model, x = Alone(layer), torch.rand(4, 3, 8)
    for need_weights in (True, False):
        torch.manual_seed(1)
        before = model(x, x, x, need_weights=need_weights)
        factorize(model, rank_fraction=1, force=True)
        torch.manual_seed(1)
        same(model(x, x, x, need_weights=need_weights), before)
        recompose(model)


def test_attention_refuses_what_torch_refuses():
    model = Alone(nn.MultiheadAttention(8, 2))
    x, y = torch.rand(4, 3, 8), torch.rand(5, 3, 8)
    calls = [
        ((x, y, x), {}),
        ((x, x[0], x), {}),
        ((x[:, :2], x, x), {}),
        ((x[..., :4], x, x), {}),
        ((x, x, x), dict(is_causal=True)),
        ((x, x, x), dict(attn_mask=torch.zeros(4, 5))),
        ((x, x, x), dict(attn_mask=torch.zeros(4, 4, dtype=torch.int64))),
        ((x, x, x), dict(key_padding_mask=torch.zeros(3, 5, dtype=torch.bool))),
    ]
    for _ in range(2):
        for args, settings in calls:
            with pytest.raises((RuntimeError, AssertionError)):
                model(*args, **settings)
        factorize(model, rank_fraction=1, force=True)
    assert type(model.layer) is FactoredMultiheadAttention


@pytest.mark.parametrize("nested", [True, False])
def test_encoder_layers_in_inference(nested):
    """PyTorch's fast path reads attention's weights, and may make nested tensors of padded ones."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
    x = torch.rand(3, 6, 16)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    expected = model(x, src_key_padding_mask=padding)[~padding]
    done = factorize(model, rank_fraction=1, force=True)
    assert sum(t.rank == 16 for t in done) == 6
    same(model(x, src_key_padding_mask=padding)[~padding], expected)
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
        same(model(x, src_key_padding_mask=padding)[~padding], expected)
        same(model(x), copy.deepcopy(model).train()(x))
    recompose(model)
    assert [type(part.self_attn) for part in model.layers] == [nn.MultiheadAttention] * 2
    same(model.train()(x, src_key_padding_mask=padding)[~padding], expected)


def test_a_whole_transformer():
    model = nn.Transformer(16, 2, 2, 2, 32, dropout=0.0, batch_first=True)
    x, y = torch.rand(2, 5, 16), torch.rand(2, 4, 16)
    expected = model(x, y)
    factorize(model, rank_fraction=1, force=True)
    same(model(x, y), expected)
    model.eval()
    with torch.no_grad():
        same(model(x, y), expected)
    recompose(model)
    same(model(x, y), expected)


# ---- what stays


def test_generators_and_grad_mode_are_left_alone():
    model = nn.Sequential(nn.Conv2d(5, 7, 3), nn.Conv1d(5, 7, 3), nn.LSTM(5, 7), nn.MultiheadAttention(8, 2))
    before = torch.get_rng_state()
    factorize(model, rank_fraction=0.5, force=True, method="randomized")
    assert all(isinstance(part, Factored) for part in model)
    recompose(model)
    assert torch.equal(torch.get_rng_state(), before) and torch.is_grad_enabled()


def test_frozen_weights_and_modes_stay():
    for layer in (nn.Conv2d(5, 7, 3), nn.GRU(5, 7, bidirectional=True), nn.MultiheadAttention(8, 2)):
        for name in kind_of(layer).names(layer):
            getattr(layer, name).requires_grad_(False)
        trained = {name: p.requires_grad for name, p in layer.named_parameters()}
        model = Alone(layer.eval())
        if isinstance(layer, nn.MultiheadAttention):
            layer.out_proj.train()
        factorize(model, rank_fraction=0.5, force=True)
        W1s, W2 = model.layer.factors
        assert not any(p.requires_grad for p in (*W1s, W2))
        assert not model.layer.training
        recompose(model)
        assert {name: p.requires_grad for name, p in model.layer.named_parameters()} == trained
        assert not model.layer.training
        if isinstance(layer, nn.MultiheadAttention):
            assert model.layer.out_proj.training and model.layer.out_proj is layer.out_proj


# ---- what is left


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(4, 6))
        self.scale = nn.Parameter(torch.rand(1, 4))


class Subclass(nn.Conv2d):
    pass


def half_frozen(layer):
    layer.weight_ih_l0.requires_grad_(False)
    return layer


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


def quantised():
    """As torch.ao makes it, without its warnings and engines."""
    type_ = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.modules.linear", "weight": lambda self: None})
    layer = type_()
    layer.in_features, layer.out_features = 8, 4
    return layer


def with_weight(layer, name, change):
    setattr(layer, name, nn.Parameter(change(getattr(layer, name).detach())))
    return layer


@pytest.mark.parametrize(
    "layer, reasons",
    [
        (lambda: nn.Conv2d(8, 8, 3, groups=8), {"0": "it is depthwise"}),
        (lambda: nn.Conv1d(8, 8, 3, groups=2), {"0": "it is grouped, into 2"}),
        (lambda: Subclass(8, 8, 3), {"0": "it is a Subclass, a subclass"}),
        (lambda: nn.ConvTranspose2d(8, 8, 3), {"0": "it is a transposed convolution"}),
        (lambda: nn.Conv3d(8, 8, 3), {"0": "it is a Conv3d, for which there is no factored layer"}),
        (lambda: nn.Bilinear(8, 8, 8), {"0": "it is a Bilinear"}),
        (lambda: nn.LSTMCell(8, 8), {"0.weight_ih": "it is a LSTMCell", "0.weight_hh": "it is a LSTMCell"}),
        (lambda: Own(), {"0.mix": "it is a Own"}),
        (lambda: nn.MultiheadAttention(8, 2, kdim=4), {
            "0": "its keys or values have a size of their own", "0.out_proj": "it is a NonDynamically",
        }),
        (lambda: with_weight(nn.Conv2d(8, 8, 3), "weight", lambda w: w.to(torch.complex64)), {"0": "its weight is complex64"}),
        (lambda: with_weight(nn.Linear(8, 8), "weight", lambda w: w.to(torch.float8_e4m3fn)), {"0": "its weight is float8_e4m3fn"}),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), {"0": "it is a ParametrizedConv2d, a subclass"}),
        (lambda: half_frozen(nn.LSTM(8, 8, bidirectional=True)), {
            "0": "only one of its weights is trained", "0.weight_hh_l0": "its fused", "0.weight_hh_l0_reverse": "its fused",
        }),
        (lambda: hooked(nn.MultiheadAttention(8, 2)), {"0": "it has hooks", "0.out_proj": "it is a NonDynamically"}),
        (quantised, {"0": "it is quantised"}),
        (lambda: nn.Embedding(8, 8), {}),
        (lambda: nn.LayerNorm((8, 8)), {}),
    ],
)  # fmt: skip
def test_what_can_not_be_factored(layer, reasons):
    model = nn.Sequential(layer())
    before = list(model)
    done = factorize(model, rank_fraction=0.25, force=True)
    assert {t.name for t in done} == reasons.keys()
    for t in done:
        assert t.reason.startswith(reasons[t.name])
        assert (t.rank, t.requested_rank, t.dropped_norm) == (None, None, 0.0)
    assert list(model) == before
    recompose(model)
    assert list(model) == before


@pytest.mark.parametrize(
    "layer, reason",
    [
        (lambda: nn.Conv2d(3, 16, 3), "it has 3 input channels only"),
        (lambda: nn.Conv1d(1, 16, 9), "it has 1 input channels only"),
        (lambda: nn.Conv2d(16, 16, 1), "it is a 1×1 convolution"),
        (lambda: with_weight(nn.Conv2d(16, 16, 3), "weight", torch.zeros_like), "its weight is zero"),
        (lambda: with_weight(nn.Linear(16, 16), "weight", torch.zeros_like), "its weight is zero"),
    ],
)
def test_what_is_rather_left(layer, reason):
    """But not where it is asked for by name, or by force."""
    model = nn.Sequential(layer())
    (t,) = factorize(model, rank_fraction=0.25)
    assert t.reason.startswith(reason) and not isinstance(model[0], Factored)
    (t,) = factorize(copy.deepcopy(model), rank_fraction=0.25, force=True)
    assert t.rank is not None
    (t,) = factorize(model, ranks={"0": 2})
    assert t.rank == 2 and isinstance(model[0], Factored)


def test_lazy_layers_of_all_kinds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyConvTranspose2d(8, 3), nn.LazyConv1d(8, 3), nn.LazyBatchNorm1d())
    done = factorize(model, rank_fraction=0.25)
    assert {t.name: t.rank for t in done} == {"0": None, "2": None}
    assert all("Lazy" in t.reason for t in done)


def test_shared_weights_of_other_kinds():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.LSTM(8, 8), nn.LSTM(8, 8, bidirectional=True))
    model[1].weight = model[0].weight
    model[2].weight_ih_l0 = model[2].weight_hh_l0
    model[3].weight_ih_l0_reverse = model[3].weight_ih_l0
    done = {t.name: t.reason for t in factorize(model, rank_fraction=0.25)}
    assert done["0"] == done["1"] == "its weight is shared: 0.weight, 1.weight"
    assert done["2"] == "its weight is shared: 2.weight_hh_l0, 2.weight_ih_l0"
    assert done["3"] == "its weight is shared: 3.weight_ih_l0, 3.weight_ih_l0_reverse"
    assert not any(isinstance(part, Factored) for part in model)


def test_errors_change_nothing():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.LSTM(8, 8), nn.Conv1d(8, 8, 3))
    parts = list(model)
    with torch.no_grad():
        model[2].weight[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="module: '2': expected a finite weight"):
        factorize(model, rank_fraction=0.25)
    assert list(model) == parts
    for layer in (nn.Conv2d(8, 8, 3), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2)):
        with pytest.raises(ValueError, match=f"got a {type(layer).__name__}, which can't be replaced in place"):
            factorize(layer, rank_fraction=0.25)
    with pytest.raises(ValueError, match=r"ranks\['0'\]: expected an integer from 1 to 8, got 9"):
        factorize(model, ranks={"0": 9})
    with pytest.raises(ValueError, match="ranks: '0' can't be factored: it is depthwise"):
        factorize(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), ranks={"0": 2})
    with pytest.raises(ValueError, match="W1, W2: expected shapes"):
        FactoredConv2d(nn.Parameter(torch.rand(8, 2)), nn.Parameter(torch.rand(2, 3)))
    with pytest.raises(ValueError, match="padding"):
        FactoredConv2d(nn.Parameter(torch.rand(8, 2)), nn.Parameter(torch.rand(2, 3, 3, 3)), padding="full")


def test_rules_count_convolutions_by_position():
    """Without shapes each layer counts by position; a sample says how many there are."""
    def model():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 64, 16))
        net[2].weight.data *= net[0].weight.norm() / net[2].weight.norm()
        return net

    by_layer = {t.name: t.rank for t in factorize(model(), ranks="budget:0.4", force=True)}
    x = torch.rand(32, 8, 8, 8)
    by_position = {t.name: t.rank for t in factorize(model(), ranks="budget:0.4", force=True, sample=[x])}
    # 64 positions make the convolution's rank dearer.
    assert by_position["0"] < by_layer["0"] and by_position["2"] > by_layer["2"]


def test_two_threads_factor_their_own_models():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(8, 8, 3), nn.LSTM(8, 8))
    models = [copy.deepcopy(first) for _ in range(4)]
    errors = []

    def work(model):
        try:
            for _ in range(5):
                factorize(model, rank_fraction=0.5)
                recompose(model)
        except BaseException as error:  # told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for model in models[1:]:
        same([*model.parameters()], [*models[0].parameters()], 1e-6)


# ---- models of others


def vision():
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # of a wheel for another PyTorch
        pytest.skip(f"torchvision is not there or does not fit this PyTorch: {error}")
    return torchvision


def trained(model, run, steps=20):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        run(model).square().mean().backward()
        optimizer.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, weights[name])]
    return still


def through(model, run, accounted, untouched=()):
    """factorize → train → recompose, at full rank; each matrix of the model is in the result."""
    model.eval()
    before = run(model).detach()
    types = {name: type(part) for name, part in model.named_modules()}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    done = factorize(model, rank_fraction=1, force=True)
    told = {t.name for t in done}
    assert accounted(told) == set()
    same(run(model), before, 1e-5 * max(1, before.abs().max().item()))
    assert sum(isinstance(part, Factored) for part in model.modules()) == sum(t.rank is not None for t in done) > 0
    assert set(trained(model, run)) <= set(untouched)
    expected = run(model).detach()
    recompose(model)
    assert {name: type(part) for name, part in model.named_modules()} == types
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    same(run(model), expected, 1e-5 * max(1, expected.abs().max().item()))
    return done


def test_resnet18():
    model = vision().models.resnet18(num_classes=10)
    x = torch.rand(2, 3, 32, 32)
    wanted = {name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    done = through(model, lambda m: m(x), lambda told: told ^ wanted)
    assert len(done) == len(wanted) == 21
    left = {t.name for t in factorize(model, rank_fraction=0.25) if t.skipped}
    assert left == {"conv1", *(f"layer{i}.0.downsample.0" for i in (2, 3, 4))}


def test_gpt2_of_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not there")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    conv1d = sys.modules["transformers.pytorch_utils"].Conv1D
    tokens = torch.randint(50, (2, 12))
    wanted = {name for name, part in model.named_modules() if isinstance(part, nn.Linear | conv1d)}
    done = through(model, lambda m: m(input_ids=tokens).logits, lambda told: told ^ wanted)
    reasons = {t.name: t.reason for t in done if t.skipped}
    assert reasons == {"lm_head": "its weight is shared: lm_head.weight, transformer.wte.weight"}
    (t,) = factorize(model, ranks={"transformer.h.0.attn.c_attn": 4})
    assert (t.n_in, t.n_out, t.rank) == (16, 48, 4)


def test_bert_of_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not there")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    tokens = torch.randint(1, 50, (2, 12))
    wanted = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    through(model, lambda m: m(input_ids=tokens).logits, lambda told: told ^ wanted)
