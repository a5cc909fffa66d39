# SPDX-License-Identifier: BSD-3-Clause
"""Networks from and to PyTorch and scikit-learn: the same outputs as there, the same layers after a round trip, and a clear error
for what has no counterpart."""

import dataclasses
import itertools
import sys

import numpy as np
import pytest

import svdfast as sf
from svdfast.model import activations

ACTIVATIONS = [
    activations.identity(),
    activations.relu(),
    activations.clipped_relu(0.5),
    activations.clipped_relu(),
    activations.hardtanh(),
    activations.hardtanh(0.5),
    activations.leaky_relu(0.3),
    activations.leaky_relu(0.0),
    activations.elu(0.7),
    activations.celu(1.7),
    activations.gelu(),
    activations.gelu_tanh(),
    activations.silu(),
    activations.softplus(),
    activations.tanh(),
    activations.sigmoid(),
    activations.exp(),
    activations.softmax(),
]
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def samples(net, n_samples=7):
    return np.random.default_rng(0).standard_normal((n_samples, net.sizes[0])).astype(net.dtype)


def with_biases(net):
    """The network, with biases that are not zero."""
    rng = np.random.default_rng(1)
    for layer in net.layers:
        layer.b[:] = rng.standard_normal(layer.n_out)
    return net


def same(a, b):
    assert a.layout == b.layout
    assert a.dtype == b.dtype and a.uint8_scale == b.uint8_scale
    np.testing.assert_array_equal(a.parameters, b.parameters)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not there")


def computed(torch, module, X):
    """What a module in inference gives for an array."""
    training = module.training
    with torch.no_grad():
        y = module.eval()(torch.tensor(X)).numpy()
    module.train(training)
    return y


def close(torch, module, net):
    for n_samples in (0, 1, 7):
        X = samples(net, n_samples)
        y, expected = net.predict(X), computed(torch, module, X)
        assert y.shape == expected.shape and y.dtype == expected.dtype
        np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE[net.dtype])


# ---- to PyTorch and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("function", [a for a in ACTIVATIONS if a.name != "exp"], ids=str)
def test_torch_computes_the_same_and_comes_back(torch, function, form, dtype):
    net = with_biases(
        sf.Network([5, 8, 6, 4], hidden=[function, "tanh"], output=function, dtype=dtype, seed=0)
    )
    if form == "factored":
        net.truncate(ranks=[3, None], force=True)
    module = sf.to_torch(net)
    close(torch, module, net)
    assert {str(p.dtype) for p in module.parameters()} == {f"torch.{dtype}"}
    assert all(p.requires_grad for p in module.parameters())
    same(sf.from_torch(module), net)


def test_torch_has_no_module_for_exp(torch):
    with pytest.raises(ValueError, match=r"net: layer 0: expected an activation of torch\.nn, got exp"):
        sf.to_torch(sf.Network([2, 1], output="exp", seed=0))


@pytest.mark.parametrize("ranks", list(itertools.product([None, 1, 3], repeat=3)), ids=str)
def test_round_trips_keep_factors_where_no_activation_parts_the_layers(torch, ranks):
    for hidden in itertools.product(["identity", "relu"], repeat=3):
        net = with_biases(sf.Network([4, 6, 3, 5, 2], hidden=hidden, output="identity", seed=0))
        net.truncate(ranks=ranks, force=True)
        same(sf.from_torch(sf.to_torch(net)), net)


def test_single_layers_and_extreme_numbers_come_back(torch):
    net = sf.Network([2, 1], output="identity", dtype="float64")
    net.parameters[:] = [np.nextafter(0, 1), -1.7976931348623157e308, -0.0]
    again = sf.from_torch(sf.to_torch(net))
    assert again.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_logits(torch, output):
    net = with_biases(sf.Network([5, 8, 3], output=output, seed=0, uint8_scale=0.25))
    module = sf.to_torch(net, logits=True)
    assert type(module[-1]) is torch.nn.Linear
    last = torch.nn.Softmax(dim=1) if output == "softmax" else torch.nn.Sigmoid()
    close(torch, torch.nn.Sequential(module, last), net)
    same(sf.from_torch(module, output=output, uint8_scale=0.25), net)


@pytest.mark.parametrize("output", ["identity", "tanh"])
def test_logits_leave_other_outputs(torch, output):
    net = sf.Network([5, 8, 3], output=output, seed=0)
    close(torch, sf.to_torch(net, logits=True), net)


def test_logits_are_a_choice(torch):
    with pytest.raises(TypeError, match="logits: expected True or False, got str"):
        sf.to_torch(sf.Network([5, 3]), logits="softmax")


def test_nothing_is_shared_and_torchs_generator_is_left_alone(torch):
    net = sf.Network([5, 8, 3], seed=0)
    net.truncate(ranks=[2], force=True)
    before = net.parameters.copy()
    state = torch.get_rng_state()
    module = sf.to_torch(net)
    assert torch.equal(torch.get_rng_state(), state)
    again = sf.from_torch(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    np.testing.assert_array_equal(net.parameters, before)
    np.testing.assert_array_equal(again.parameters, before)
    net.parameters[:] = 3
    assert all((p == 7).all() for p in module.parameters())


def test_what_torch_trains_goes_on_in_svdfast(torch):
    """The same gradient on both sides, of a factored network."""
    net = with_biases(sf.Network([5, 8, 6, 3], hidden="tanh", dtype="float64", seed=0))
    net.truncate(ranks=[2, None], force=True)
    X, y = samples(net), np.array([0, 1, 2, 2, 1, 0, 1])
    module = sf.to_torch(net, logits=True)
    loss = torch.nn.functional.cross_entropy(module(torch.tensor(X)), torch.tensor(y))
    loss.backward()
    value, gradient = net.loss_and_gradient(X, y)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    of_module = net.copy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.grad)
    of_module = sf.from_torch(module, output="softmax")
    np.testing.assert_allclose(of_module.parameters, gradient, rtol=0, atol=1e-12)


# ---- from PyTorch


def test_nested_modules_and_those_that_do_nothing_in_inference(torch):
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Identity(), nn.Sequential(), nn.Linear(12, 9, bias=False), nn.Dropout(0.9), nn.ReLU(inplace=True)),
        nn.AlphaDropout(0.5),
        nn.Sequential(nn.Sequential(nn.Linear(9, 4))),
        nn.Identity(),
        nn.Softmax(dim=1),
    )  # fmt: skip
    net = sf.from_torch(module)
    assert net.sizes == (12, 9, 4)
    assert [layer.activation.name for layer in net.layers] == ["relu", "softmax"]
    assert (net.layers[0].b == 0).all()
    close(torch, module, net)
    pictures = np.random.default_rng(0).random((5, 3, 4), dtype="float32")
    np.testing.assert_allclose(
        net.predict(pictures.reshape(5, 12)), computed(torch, module, pictures), atol=1e-6
    )
    assert module.training


def test_a_subclass_of_sequential(torch):
    class Perceptron(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Linear(4, 3), torch.nn.Tanh())

    module = Perceptron()
    close(torch, module, sf.from_torch(module))


def test_a_layer_in_several_places_is_copied(torch):
    linear = torch.nn.Linear(4, 4)
    module = torch.nn.Sequential(linear, torch.nn.ReLU(), linear, torch.nn.ReLU(), linear)
    net = sf.from_torch(module)
    assert net.sizes == (4, 4, 4, 4)
    close(torch, module, net)


def test_a_linear_alone(torch):
    module = torch.nn.Linear(4, 3)
    net = sf.from_torch(module)
    assert net.layers[0].activation.name == "identity"
    close(torch, module, net)


def test_strided_frozen_weights(torch):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    module.requires_grad_(False)
    module[0].weight = torch.nn.Parameter(torch.rand(4, 3).T, requires_grad=False)
    module[2].weight = torch.nn.Parameter(torch.rand(4, 6)[::2, ::2], requires_grad=False)
    close(torch, module, sf.from_torch(module))


def test_on_another_device(torch):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    net = sf.from_torch(module.cuda())
    assert module[0].weight.is_cuda
    close(torch, module.cpu(), net)


@pytest.mark.parametrize(
    "sizes, bias, expected",
    [
        ((6, 2, 5, 3), (False, True, True), [(6, 5, 2), (5, 3, None)]),
        ((6, 2, 2, 3), (False, True, True), [(6, 2, 2), (2, 3, None)]),
        # A bias between; wider than a side; the last layer is dense.
        ((6, 2, 5, 3), (True, True, True), [(6, 2, None), (2, 5, None), (5, 3, None)]),
        ((6, 7, 8, 3), (False, True, True), [(6, 7, None), (7, 8, None), (8, 3, None)]),
        ((6, 5, 4, 3), (False, True, True), [(6, 5, None), (5, 4, None), (4, 3, None)]),
        ((6, 2, 3), (False, True), [(6, 2, None), (2, 3, None)]),
        # No layer is in two pairs.
        ((6, 2, 4, 3), (False, False, True), [(6, 4, 2), (4, 3, None)]),
        ((6, 5, 5, 5, 3), (False, False, True, True), [(6, 5, 5), (5, 5, None), (5, 3, None)]),
        ((6, 5, 5, 5, 5, 3), (False,) * 5, [(6, 5, 5), (5, 5, 5), (5, 3, None)]),
    ],
)
def test_pairs_of_linears(torch, sizes, bias, expected):
    shapes = zip(itertools.pairwise(sizes), bias, strict=True)
    module = torch.nn.Sequential(*[torch.nn.Linear(m, n, bias=b) for (m, n), b in shapes])
    net = sf.from_torch(module)
    assert [(layer.n_in, layer.n_out, layer.rank) for layer in net.layers] == expected
    close(torch, module, net)


def test_an_activation_parts_a_pair(torch):
    nn = torch.nn
    module = nn.Sequential(nn.Linear(6, 2, bias=False), nn.ReLU(), nn.Linear(2, 5), nn.Linear(5, 3))
    net = sf.from_torch(module)
    assert not net.is_factored
    close(torch, module, net)


@pytest.mark.parametrize(
    "rank, last, factored", [(2, False, True), (5, False, False), (2, True, False)]
)
def test_factored_linears(torch, rank, last, factored):
    from svdfast.torch import FactoredLinear

    W1, W2, b = (torch.nn.Parameter(torch.rand(*n)) for n in ((4, rank), (rank, 6), (4,)))
    parts = [FactoredLinear(W1, W2, b), torch.nn.ReLU(), torch.nn.Linear(4, 2)]
    module = torch.nn.Sequential(*parts[:1] if last else parts)
    net = sf.from_torch(module)
    assert net.is_factored == factored
    assert net.layers[-1].rank is None
    close(torch, module, net)


def refused(module, match, **arguments):
    with pytest.raises(ValueError, match=match):
        sf.from_torch(module, **arguments)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda nn: nn.Conv1d(3, 3, 1), r"module\[1\]\[0\]: expected Linear, .* got Conv1d"),
        (lambda nn: nn.LayerNorm(3), r"module\[1\]\[0\]: expected Linear, .* got LayerNorm; pass input="),
        (lambda nn: nn.LogSoftmax(dim=1), r"module\[1\]\[0\]: .*got LogSoftmax; leave it out and pass output=.softmax.; .*probabilities"),
        (lambda nn: nn.ModuleList([nn.ReLU()]), r"module\[1\]\[0\]: .*ModuleList"),
        (lambda nn: nn.Bilinear(3, 3, 3), r"module\[1\]\[0\]: .*Bilinear"),
        (lambda nn: nn.LazyLinear(3), r"module\[1\]\[0\]: .*LazyLinear; run the module on a batch once"),
        (lambda nn: nn.Softplus(threshold=5), r"module\[1\]\[0\]: expected Softplus\(beta=1.0, threshold=20.0\)"),
        (lambda nn: nn.Softplus(beta=0.0), r"module\[1\]\[0\]: Softplus.*beta: expected a finite number > 0"),
        (lambda nn: nn.Hardtanh(-1, 3), r"module\[1\]\[0\]: expected Hardtanh\(min_val=0.0\) or Hardtanh\(min_val=-3.0\)"),
        (lambda nn: nn.Hardtanh(-3, -1), r"module\[1\]\[0\]: Hardtanh.*ceiling: .* > 0"),
        (lambda nn: nn.Softmax(dim=0), r"module\[1\]\[0\]: expected Softmax\(dim=-1\) or Softmax\(dim=1\)"),
        (lambda nn: nn.Softmax(), r"module\[1\]\[0\]: expected Softmax\(dim=-1\) or Softmax\(dim=1\)"),
        (lambda nn: nn.LeakyReLU(-0.1), r"module\[1\]\[0\]: LeakyReLU.*slope: .* ≥ 0"),
        (lambda nn: nn.ELU(0.0), r"module\[1\]\[0\]: ELU.*alpha: .* > 0"),
        (lambda nn: nn.ELU("a"), r"module\[1\]\[0\]: ELU.*alpha: expected a number"),
        (lambda nn: nn.CELU(float("nan")), r"module\[1\]\[0\]: CELU.*alpha: .* > 0"),
        (lambda nn: nn.Flatten(0), r"module\[1\]\[0\]: expected Flatten\(start_dim=1"),
        (lambda nn: nn.Flatten(1, 2), r"module\[1\]\[0\]: expected Flatten\(start_dim=1"),
        (lambda nn: nn.Linear(4, 3), r"module\[1\]\[0\]: expected 3 inputs, .* got 4"),
        (lambda nn: nn.Linear(3, 3).double(), r"module\[1\]\[0\]: expected float32, .* got float64"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named_with_its_place(torch, make, match):
    nn = torch.nn
    refused(nn.Sequential(nn.Linear(5, 3), nn.Sequential(make(nn)), nn.Linear(3, 2)), match)


def test_a_softmax_of_one_output_is_refused(torch):
    nn = torch.nn
    refused(nn.Linear(5, 1), 'got "softmax", which is always 1', output="softmax")
    refused(nn.Sequential(nn.Linear(5, 1), nn.Softmax(dim=1)), 'got "softmax", which is always 1')


def test_activations_stand_after_a_linear(torch):
    nn = torch.nn
    refused(nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), r"module\[0\]: expected a Linear before")
    refused(
        nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Dropout(), nn.Tanh()),
        r"module\[3\]: expected one activation after a Linear, got Tanh",
    )


@pytest.mark.parametrize("kind", ["empty", "flatten", "custom"])
def test_no_linear(torch, kind):
    nn = torch.nn
    module = {"empty": nn.Sequential(), "flatten": nn.Flatten(), "custom": nn.Module()}[kind]
    refused(module, "module: expected .*Linear")


def test_an_output_is_given_once(torch):
    nn = torch.nn
    module = nn.Sequential(nn.Linear(5, 3), nn.Softmax(dim=1))
    refused(module, "output: expected identity .* got softmax", output="softmax")
    refused(nn.Sequential(nn.Linear(5, 3)), "output: expected one of", output="log_softmax")
    net = sf.from_torch(nn.Sequential(nn.Linear(5, 3)), output=activations.elu(0.3))
    assert net.layers[-1].activation == activations.elu(0.3)


def test_subclasses_may_compute_something_else(torch):
    nn = torch.nn

    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Double(nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x - 1)

    refused(nn.Sequential(Twice(3, 3)), r"module\[0\]: .* got Twice")
    double = Double(nn.Linear(3, 3))
    close(torch, double, sf.from_torch(double))
    refused(nn.Sequential(nn.Linear(3, 3), Shifted()), r"module\[1\]: .* got Shifted")
    linear = nn.Linear(3, 3)
    linear.forward = lambda x: x
    refused(nn.Sequential(linear), r"module\[0\]: expected a module with the forward of its class")


@pytest.mark.parametrize("where", ["linear", "sequential"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_may_compute_something_else(torch, where, kind):
    linear = torch.nn.Linear(3, 3)
    module = torch.nn.Sequential(linear)
    hooked = linear if where == "linear" else module
    getattr(hooked, kind)(lambda *_: None)
    refused(module, "expected a module without forward hooks")


def test_computed_weights(torch):
    linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3))
    refused(torch.nn.Sequential(linear), r"module\[0\]: .* got ParametrizedLinear")


@pytest.mark.parametrize("dtype", ["complex64", "float8_e5m2"])
def test_other_dtypes(torch, dtype):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2, device="meta"))
    weight = torch.ones(2, 3).to(getattr(torch, dtype))
    module[0].weight = torch.nn.Parameter(weight, requires_grad=False)
    refused(module, rf"module\[0\]\.weight: expected float32 or float64, got {dtype}")


def test_mixed_dtypes(torch):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    module[0].bias = torch.nn.Parameter(module[0].bias.double())
    refused(module, r"module\[0\]: expected float32, as in the first layer, got float64")


def test_no_numbers(torch):
    refused(torch.nn.Sequential(torch.nn.Linear(3, 2, device="meta")), "device meta")
    with pytest.warns(UserWarning, match="zero-element"):
        empty = torch.nn.Linear(0, 2)
    refused(torch.nn.Sequential(empty), r"module\[0\]: inputs: expected an integer from 1")


def test_arguments(torch):
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Sequential, got Network"):
        sf.from_torch(sf.Network([3, 2]))
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Sequential, got list"):
        sf.from_torch([torch.nn.Linear(3, 2)])
    refused(torch.nn.Linear(3, 2), "uint8_scale: expected a finite number > 0", uint8_scale=0)


# ---- from scikit-learn


@pytest.fixture
def neural_network():
    return pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not there")


def fitted(estimator, X, y):
    """After two passes, for what is learnt does not matter; partial_fit does not warn of that."""
    for _ in range(2):
        if hasattr(estimator, "classes_") or not hasattr(estimator, "predict_proba"):
            estimator.partial_fit(X, y)
        else:
            estimator.partial_fit(X, y, classes=np.unique(y) if np.ndim(y) == 1 else np.arange(y.shape[1]))
    return estimator


def data(dtype, n_samples=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_samples, 5)).astype(dtype), rng.integers(0, 3, n_samples)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("sizes", [(), (7,), (7, 4)], ids=str)
def test_classifiers(neural_network, sizes, activation, dtype):
    X, y = data(dtype)
    names = np.array(["b", "a", "c"])[y]
    mlp = neural_network.MLPClassifier(sizes, activation=activation, random_state=0)
    net = sf.from_sklearn(fitted(mlp, X, names))
    assert net.sizes == (5, *sizes, 3) and net.dtype == dtype
    assert net.layers[-1].activation.name == "softmax"
    np.testing.assert_allclose(net.predict(X), mlp.predict_proba(X), atol=TOLERANCE[net.dtype])
    score = net.score(X, np.searchsorted(mlp.classes_, names))
    assert score == pytest.approx(mlp.score(X, names), abs=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_classes_are_one_output(neural_network, dtype):
    X, y = data(dtype)
    mlp = fitted(neural_network.MLPClassifier((7,), random_state=0), X, np.where(y == 0, 5, -5))
    net = sf.from_sklearn(mlp)
    assert net.sizes == (5, 7, 1) and net.layers[-1].activation.name == "sigmoid"
    expected = mlp.predict_proba(X)[:, 1:]
    np.testing.assert_allclose(net.predict(X), expected, atol=TOLERANCE[net.dtype])


def test_several_labels_at_once(neural_network):
    X, y = data("float64")
    labels = np.stack([y == 0, y == 1, y > 0, y < 5], axis=1).astype(int)
    mlp = fitted(neural_network.MLPClassifier((7,), random_state=0), X, labels)
    net = sf.from_sklearn(mlp)
    assert net.layers[-1].activation.name == "sigmoid"
    np.testing.assert_allclose(net.predict(X), mlp.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_targets", [1, 3])
def test_regressors(neural_network, n_targets, dtype):
    X, _ = data(dtype)
    target = X[:, 0] if n_targets == 1 else X[:, :n_targets]
    mlp = fitted(neural_network.MLPRegressor(hidden_layer_sizes=(7, 4), random_state=0), X, target)
    net = sf.from_sklearn(mlp, uint8_scale=0.5)
    assert net.dtype == dtype and net.uint8_scale == 0.5
    expected = mlp.predict(X).reshape(len(X), n_targets)
    np.testing.assert_allclose(net.predict(X), expected, atol=TOLERANCE[net.dtype])
    assert net.score(X, target) == pytest.approx(mlp.score(X, target), abs=1e-5)


def test_uint8_is_taken_as_scikit_learn_does(neural_network):
    X, y = np.random.default_rng(0).integers(0, 9, (60, 5), dtype=np.uint8), np.arange(60) % 3
    mlp = fitted(neural_network.MLPClassifier((7,), random_state=0), X.astype("float64"), y)
    net = sf.from_sklearn(mlp)
    assert net.uint8_scale == 1
    np.testing.assert_allclose(net.predict(X), mlp.predict_proba(X), atol=1e-12)
    np.testing.assert_array_equal(net.predict(X), net.predict(X.astype("float64")))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "c"], ("a", "b", "c")),
        (["b", "a", "b"], ("a", "b")),
        ([7, -5, 7], (-5, 7)),
        ([7, 5, 6], (5, 6, 7)),
        ([False, True, True], (False, True)),
        ([0.0, 1.0, 2.0], (0.0, 1.0, 2.0)),
        (np.array([1, 2, 2**64 - 1], np.uint64), None),  # more than a file's integers hold
    ],
)
def test_classes_are_kept(neural_network, labels, classes, tmp_path):
    X, y = data("float64")
    y = np.asarray(labels)[y]
    mlp = fitted(neural_network.MLPClassifier((7,), random_state=0), X, y)
    net = sf.from_sklearn(mlp)
    assert net.classes == classes and net.feature_names is None
    if classes is None:
        return
    assert [type(label) for label in net.classes] == [type(label) for label in classes]
    if isinstance(classes[0], str):
        assert net.score(X, y) == mlp.score(X, y)
    sf.save(net, tmp_path / "net.npz")
    assert sf.load(tmp_path / "net.npz").classes == classes


def test_classes_that_are_no_classes_of_a_sample(neural_network):
    X, y = data("float64")
    bits = np.stack([y == 0, y == 1, y > 0], axis=1).astype(int)
    assert sf.from_sklearn(fitted(neural_network.MLPClassifier((7,)), X, bits)).classes is None
    assert sf.from_sklearn(fitted(neural_network.MLPRegressor(hidden_layer_sizes=(7,)), X, X[:, 0])).classes is None


def test_names_of_features_are_kept(neural_network):
    pd = pytest.importorskip("pandas")
    X, _ = data("float64")
    table = pd.DataFrame(X, columns=list("abcde"))
    mlp = fitted(neural_network.MLPRegressor(hidden_layer_sizes=(7,), random_state=0), table, X[:, 0])
    net = sf.from_sklearn(mlp)
    assert net.feature_names == tuple("abcde")
    np.testing.assert_allclose(net.predict(table)[:, 0], mlp.predict(table), atol=1e-12)
    with pytest.raises(ValueError, match="in the order of"):
        net.predict(table[list("edcba")])


def test_the_estimator_keeps_its_weights(neural_network):
    X, y = data("float64")
    mlp = fitted(neural_network.MLPClassifier((7,), random_state=0), X, y)
    before = mlp.predict_proba(X)
    sf.from_sklearn(mlp).parameters[:] = 3
    np.testing.assert_array_equal(mlp.predict_proba(X), before)


def test_factors_of_an_estimators_network_are_trained_on(neural_network):
    X, y = data("float32")
    mlp = fitted(neural_network.MLPClassifier((30, 20), random_state=0), X, y)
    net = sf.from_sklearn(mlp)
    net.truncate(rank_fraction=0.25, force=True)
    before = net.evaluate(X, y).loss
    result = sf.train(net, X, y, epochs=20, factoring=sf.Factoring(recompose=False))
    assert {row["phase"] for row in result.history} == {"factored"}
    assert net.is_factored and net.evaluate(X, y).loss < before


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_estimators_that_are_not_fitted(neural_network, kind):
    with pytest.raises(ValueError, match=f"{kind} instance is not fitted"):
        sf.from_sklearn(getattr(neural_network, kind)())


def test_other_estimators(neural_network):
    with pytest.raises(TypeError, match=r"estimator: .* got BernoulliRBM"):
        sf.from_sklearn(neural_network.BernoulliRBM())
    with pytest.raises(TypeError, match=r"estimator: .* got ABCMeta"):
        sf.from_sklearn(neural_network.MLPClassifier)
    X, y = data("float64")
    mlp = fitted(neural_network.MLPClassifier((7,), random_state=0), X, y)
    with pytest.raises(ValueError, match="uint8_scale"):
        sf.from_sklearn(mlp, uint8_scale=-1)
    mlp.coefs_[1] = mlp.coefs_[1].astype("float16")
    with pytest.raises(ValueError, match=r"coefs_\[1\]: expected float32 or float64, got float16"):
        sf.from_sklearn(mlp)


def test_an_activation_that_svdfast_has_not(neural_network):
    X, y = data("float64")
    mlp = fitted(neural_network.MLPRegressor(hidden_layer_sizes=(7,), random_state=0), X, y)
    expected = np.exp(mlp.predict(X))
    mlp.out_activation_ = "exp"  # as with the Poisson loss
    np.testing.assert_allclose(sf.from_sklearn(mlp).predict(X)[:, 0], expected, rtol=1e-12)
    mlp.out_activation_ = "swish"
    with pytest.raises(ValueError, match="layer 1 uses the activation 'swish', which svdfast does not support"):
        sf.from_sklearn(mlp)


# ---- without the others


@pytest.mark.parametrize(
    "module, extra, call",
    [
        ("torch", "torch", lambda: sf.from_torch(None)),
        ("torch", "torch", lambda: sf.to_torch(sf.Network([3, 2]))),
        ("sklearn.neural_network", "sklearn", lambda: sf.from_sklearn(None)),
    ],
)
def test_absent_packages_are_named_with_their_extra(module, extra, call, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "svdfast\[{extra}\]"'):
        call()


def test_an_activation_without_a_counterpart_is_refused(torch, monkeypatch):
    without = dataclasses.replace(activations.FACTS["tanh"], torch=None)
    monkeypatch.setitem(activations.FACTS, "tanh", without)
    net = sf.Network([4, 3, 2], hidden="tanh")
    with pytest.raises(ValueError, match=r"net: layer 0: expected .* torch\.nn, got tanh"):
        sf.to_torch(net)
    refused(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()), r"module\[1\]: .* got Tanh")
