# SPDX-License-Identifier: BSD-3-Clause
"""Files of networks of layers, and descriptions of them, that ask for what can't be: refused by name, before anything is allocated.

Elsewhere: files of fully connected networks (test_io.py), files changed at random (mutants.py).
"""

import copy
import json
import tracemalloc

import numpy as np
import pytest
from test_io import forge_safetensors

import svdfast as sf
from svdfast import layers as L
from svdfast.model.layers import Linear, Scan
from svdfast.model.layers.steps import BySteps
from svdfast.model.layout import Layout
from svdfast.model.structures import Dense

BIG = 2**31 - 1


def images():
    layers = [L.Conv2d(3, 3, "relu", padding="same"), L.Dropout(0.1), L.MaxPool2d(2), L.GlobalAvgPool(), L.Linear(3, "softmax")]
    return sf.Network(sf.Input(6, 5, 2), layers, seed=0)


def sequences():
    layers = [L.Masking(), L.LSTM(3, bidirectional=True, return_sequences=True), L.LayerNorm(), L.GRU(4), L.Linear(3, "softmax")]
    return sf.Network(sf.Input(4, 2), layers, seed=0)


def tokens():
    return sf.Network(sf.Input(5), [L.Embedding(6, 3), L.GRU(4, return_sequences=True), L.Linear(6, "softmax")], seed=0)


NETWORKS = {"images": images, "sequences": sequences, "tokens": tokens}


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"net{request.param}"


def forge(net, path, change):
    """A file of this network whose header is changed, whole by its checksums."""
    sf.save(net, path)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            header, parameters = json.loads(str(archive["header"])), archive["parameters"]
        change(header)
        np.savez(path, header=np.array(json.dumps(header)), parameters=parameters)
        return
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["svdfast"])
    change(header)
    tensors = [tensor for i in range(len(net.layers)) for tensor in net.layout.of(i)]
    parts = {tensor.name: ("F32", list(tensor.shape), tensor.of(net.parameters).tobytes()) for tensor in tensors}
    forge_safetensors(path, json.dumps(header), parts)


def steps(layer, *new):
    """Has a layer of the header these steps."""
    return lambda header: header["layers"][layer].__setitem__("steps", list(new))


def also(layer, *new):
    """Has a layer of the header these steps before its own."""
    return lambda header: header["layers"][layer].__setitem__("steps", [*new, *header["layers"][layer].get("steps", [])])


def value(layer, place, key, new):
    """Another value of a step of a layer."""
    return lambda header: header["layers"][layer]["steps"][place].__setitem__(key, new)


def field(layer, key, new):
    return lambda header: header["layers"][layer].__setitem__(key, new)


def wanting(layer, key):
    return lambda header: header["layers"][layer].pop(key)


def window(*sizes, step="LargestOf"):
    names = ("height", "width", "window_height", "window_width", "down", "across", "top", "left", "bottom", "right")
    return {"step": step} | dict(zip(names, sizes, strict=False))


def step(name, **values):
    return {"step": name} | values


TALL = window(6, 5, 2**16, 1, 1, 1, 2**16 - 1, 0, 2**16 - 1, 0)
FORGED = {
    "images": [
        (lambda header: header.__setitem__("input", [6, 5, 3]), "layers.0.W: expected 27 columns, got 18"),
        (lambda header: header.__setitem__("input", [50_000, 50_000, 1]), "input is not of 1 to 3 sizes"),
        (lambda header: header.__setitem__("input", [6, 5, 2, 1]), "input is not of 1 to 3 sizes"),
        (lambda header: header.__setitem__("input", [6, 5, 2.0]), "input: expected an integer"),
        (lambda header: header.__setitem__("input", [6, 5, -2]), "input: expected an integer"),
        (lambda header: header.__setitem__("input", 6), "not iterable"),
        (value(0, 0, "height", 7), "Patches: expected 7×5 positions, got 30"),
        (value(0, 0, "height", 0), "Patches: expected sizes ≥ 1"),
        (value(0, 0, "height", BIG), f"Patches: expected {BIG}×5 positions, got 30"),
        (value(0, 0, "down", 0), "Patches: expected sizes ≥ 1"),
        (value(0, 0, "window_height", BIG), "Patches: expected an image as large as the window|kernel_size"),
        (value(0, 0, "top", 3), "Patches: expected padding smaller than the window"),
        (value(0, 0, "top", -1), "top: expected an integer from 0"),
        (value(0, 0, "top", 2**31), "top: expected an integer from 0"),
        (value(0, 0, "top", 1.5), "top: expected an integer"),
        (value(0, 0, "top", "1"), "top: expected an integer"),
        (value(0, 0, "more", 1), "more"),
        (value(1, 0, "rate", 1.0), "rate: expected a number from 0 to below 1"),
        (value(1, 0, "rate", -0.5), "rate: expected a number from 0 to below 1"),
        (value(1, 0, "rate", float("nan")), "rate: expected a finite number"),
        (value(1, 0, "rate", "0.5"), "rate: expected a number"),
        (value(1, 0, "by_steps", 1), "Dropout: expected rows step by step, got rows sample by sample"),
        (value(1, 0, "number", -1), "number: expected"),
        (value(1, 1, "step", "Other"), "step: expected one of .*, got 'Other'"),
        (value(1, 1, "step", None), "step: expected one of"),
        (value(1, 1, "step", ["MeanOf"]), "step: expected one of"),
        (value(1, 1, "step", "Step"), "step: expected one of"),
        (value(1, 1, "step", "Window"), "abstract"),
        # Much out of nothing: values of a sample that no weight of the file pays for.
        (steps(1, window(6, 5, 2**15, 2**15, 1, 1, *[2**15 - 1] * 4), step("Flatten")), "layers.1"),
        (steps(1, window(6, 5, BIG, BIG, 1, 1, *[BIG - 1] * 4)), "layers.1"),
        (steps(1, TALL, window(2**16 + 5, 5, 1, 2**16, 1, 1, 0, 2**16 - 1, 0, 2**16 - 1)), "layers.1"),
        (steps(1, step("OneHot", n=4)), "OneHot: expected a token in each row, got 3 numbers"),
        (steps(1, step("Rows", rows=7)), "rows_per_sample: expected a divisor"),
        (steps(1, step("Rows", rows=0)), "rows: expected an integer"),
        (steps(1, step("BySteps")), "expected rows sample by sample, got rows step by step"),
        (steps(1, step("BySteps"), step("Flatten")), "Flatten: expected rows sample by sample, got rows step by step"),
        (steps(1, step("BySamples")), "BySamples: expected rows step by step"),
        (steps(1, step("LastStep")), "LastStep: expected rows step by step"),
        (steps(1, step("BySteps"), step("LastStep", reverse=4)), "LastStep: expected at most 3 columns, got 4"),
        (steps(1, step("Mask")), "Mask: expected rows step by step"),
        (steps(1, step("Normalise", epsilon=0.0)), "epsilon: expected a finite number > 0"),
        (steps(1, step("Normalise", epsilon=-1.0)), "epsilon: expected a finite number > 0"),
        (steps(1, 5), "not subscriptable"),
        (field(1, "steps", 5), "not iterable"),
        (field(0, "n_out", 4), None),
        (wanting(0, "weight"), "weight"),
    ],
    "sequences": [
        (lambda header: header["layers"].pop(0), "lstm: expected the weight of its input before it"),  # a scan of the samples themselves
        (lambda header: header["layers"].pop(1), "lstm: expected the scan from the first step on before it"),
        (lambda header: header["layers"].pop(2), "lstm: expected the scan from the last step back after it"),
        (lambda header: header["layers"].insert(1, header["layers"][1]), "lstm: expected the weight of its input before it|back after it"),
        (field(1, "half", 0), "lstm: expected the scan from the first step on before it"),
        (field(1, "half", 3), "half: expected an integer from 0 to 2"),
        (field(1, "half", True), "half: expected an integer, got bool"),
        (field(2, "half", 0), "lstm: expected the (weight of its input before|scan from the last step back after) it"),
        (field(2, "half", 1), "lstm: expected the (weight of its input before|scan from the last step back after) it"),
        (field(2, "cell", "gru"), "structure: expected 3 gates of 3, got 12 rows"),
        (field(2, "cell", "other"), "cell: expected one of"),
        (field(2, "cell", ["gru"]), "unhashable|cell: expected"),
        (field(1, "n_in", 4), "structure: expected 4 gates of 4, got 12 rows"),
        # The other half of another scan, which would reach beyond the first one's outputs.
        (lambda header: header["layers"][2].update(cell="rnn_tanh", n_in=12, n_out=12), "rnn_tanh: expected the scan from the first"),
        (steps(0, step("Mask")), "Mask: expected rows step by step"),
        (steps(0, step("BySteps"), step("BySteps")), "BySteps: expected rows sample by sample, got rows step by step"),
        (steps(0), "expected rows step by step, got rows sample by sample"),
        (value(0, 1, "value", float("inf")), "value: expected a finite number"),
        (also(2, step("Normalise")), "lstm: expected the scan from the first step on before it"),
        (also(4, step("LastStep"), step("BySamples")), "got rows"),
        (lambda header: header.__setitem__("input", [BIG, 2]), "input is not of 1 to 3 sizes"),
        # Sequences so long that the states of one are more than can be counted.
        (lambda header: header.__setitem__("input", [2**30, 1]), "layers.0"),
        (lambda header: header.__setitem__("input", [2**29, 2]), "layers.0: expected at most 2147483647 numbers of a sample"),
    ],
    "tokens": [
        (value(0, 1, "n", BIG), "n: expected an integer from 1 to 16777216"),
        (value(0, 1, "n", 7), "layers.0.W: expected 7 columns, got 6"),
        (value(0, 1, "n", 0), "n: expected an integer from 1 to"),
        (value(0, 0, "rows", 4), "rows_per_sample: expected a divisor of 5, got 4"),
        (value(0, 0, "rows", BIG), "rows_per_sample: expected a divisor of 5"),
        # So many ones out of five tokens, and then their mean.
        (
            steps(0, step("OneHot", n=2**24), step("Rows", rows=5 * 2**24), window(5, 2**24, 5, 2**24, step="MeanOf")),
            "OneHot: expected a token in each row, got 5 numbers",
        ),
        (
            also(0, step("Rows", rows=5), step("OneHot", n=2**24), step("Rows", rows=5 * 2**24), step("Flatten")),
            "rows_per_sample|OneHot|layers.0",
        ),
        (
            lambda header: header.__setitem__("input", [2**10]) or steps(0, step("Rows", rows=2**10), step("OneHot", n=2**22))(header),
            "layers.0",
        ),
        (lambda header: header["layers"].pop(), "it has no dense output layer|expected"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "i"), [(name, i) for name in FORGED for i in range(len(FORGED[name]))])
def test_forged_headers(name, i, path):
    change, message = FORGED[name][i]
    net = NETWORKS[name]()
    forge(net, path, lambda header: None)
    np.testing.assert_array_equal(sf.load(path).parameters, net.parameters)  # forging works
    forge(net, path, change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"(?s)is not a network file: .*{message or ''}"):
            sf.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_layers_that_no_description_makes():
    """What runs beyond memory, were it run, is not even made."""
    dense, identity = Dense(12, 3), sf.activations.identity()
    first = Linear(Dense(24, 3), identity, (BySteps(),))
    last = Linear(Dense(3, 6), sf.activations.softmax())
    for layers in (
        [Scan(Dense(3, 3), "rnn_tanh"), last],
        [first, Scan(dense, "lstm", 1), last],
        [first, Scan(dense, "lstm", 1), Scan(Dense(12, 12), "rnn_tanh", 2), last],
        [first, Scan(dense, "lstm", 1), Scan(dense, "lstm", 2), last],  # its rows are not put in order again
    ):
        with pytest.raises(ValueError, match="expected"):
            Layout(tuple(layers), (4, 3)).checked()


NETWORK, INPUT = sf.Network, sf.Input
MANY = "layers.0: expected at most 2147483647 numbers of a sample"
ABSURD = [
    (lambda: INPUT(50_000, 50_000, 1), ValueError, "shape: expected at most 2147483647 numbers, got 50000 x 50000 x 1"),
    (lambda: INPUT(2**40), ValueError, r"shape\[0\]: expected an integer from 1"),
    (lambda: NETWORK(INPUT(BIG), [L.Linear(BIG), L.Linear(2)]), ValueError, "layers: expected at most 2147483647 parameters"),
    (lambda: NETWORK(INPUT(10**6, 1), [L.LSTM(10**4), L.Linear(2)]), ValueError, MANY),
    (lambda: NETWORK(INPUT(4, 1), [L.LSTM(10**5), L.Linear(2)]), ValueError, "layers: expected at most 2147483647 parameters, got"),
    (lambda: NETWORK(INPUT(10**6, 1), [L.GRU(10**9), L.Linear(2)]), ValueError, "layers: expected at most 2147483647 parameters"),
    (lambda: NETWORK(INPUT(20_000, 20_000, 1), [L.Conv2d(64, 3), L.GlobalAvgPool(), L.Linear(2)]), ValueError,
     r"layers\[0\]: Conv2d: expected outputs of at most 2147483647 numbers, got shape \(19998, 19998, 64\)"),
    (lambda: NETWORK(INPUT(9, 9, 1), [L.MaxPool2d(BIG, 1, BIG - 1), L.GlobalAvgPool(), L.Linear(2)]), ValueError,
     r"layers\[0\]: MaxPool2d: expected outputs of at most"),
    (lambda: NETWORK(INPUT(9, 9, 1), [L.Conv2d(2, 3, padding=3), L.GlobalAvgPool(), L.Linear(2)]), ValueError,
     r"layers\[0\]: padding: expected less than the kernel's size, 3×3, got 3"),
    (lambda: NETWORK(INPUT(9), [L.Embedding(2**30, 3), L.GRU(3), L.Linear(2)]), ValueError, r"layers\[0\]: n_tokens: expected"),
    (lambda: NETWORK(INPUT(2**30), [L.Embedding(8, 3), L.GRU(3), L.Linear(2)]), ValueError, r"layers\[0\]: Embedding: expected outputs"),
    (lambda: NETWORK(INPUT(9, 2), [L.Dropout("a"), L.GRU(3), L.Linear(2)]), TypeError, "rate: expected a number from 0 to 1"),
    (lambda: NETWORK(INPUT(9, 2), [L.LayerNorm("a"), L.GRU(3), L.Linear(2)]), TypeError, "epsilon: expected a number, got str"),
    (lambda: NETWORK(INPUT(9, 2), [L.LayerNorm(0), L.GRU(3), L.Linear(2)]), ValueError, "epsilon: expected a finite number > 0"),
    (lambda: NETWORK(INPUT(9, 2), [L.Masking(float("nan")), L.GRU(3), L.Linear(2)]), ValueError, r"layers\[0\]: value: expected a finite"),
    (lambda: NETWORK(INPUT(9, 2), [L.GRU(3.5), L.Linear(2)]), TypeError, r"layers\[0\]: n_out: expected an integer, got float"),
    (lambda: NETWORK(INPUT(9, 2), [L.GRU(0), L.Linear(2)]), ValueError, r"layers\[0\]: n_out: expected an integer from 1"),
    (lambda: NETWORK(INPUT(9, 2, 1), [L.Conv2d(3, 2, stride=0), L.Flatten(), L.Linear(2)]), ValueError, r"layers\[0\]: stride: expected"),
    (lambda: NETWORK(INPUT(9, 9, 1), [L.MaxPool2d((2, 2, 2)), L.Flatten(), L.Linear(2)]), ValueError, "kernel_size: expected a"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(ABSURD)))
def test_absurd_sizes_are_refused_by_name(i):
    make, error, message = ABSURD[i]
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            make()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_what_is_described_is_read_again(path):
    net = sequences()
    for other in (net, copy.deepcopy(net), images(), tokens()):
        sf.save(other, path)
        assert sf.load(path).layout == other.layout
