# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent and convolutional networks as ONNX models: onnxruntime computes what they do, and factored layers stay factored.

Not here: fully connected networks, and the file (test_onnx.py).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from test_layers_torch import networks, samples

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def computed(net, X):
    from svdfast.onnx import to_onnx

    session = onnxruntime.InferenceSession(to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"])
    (given_to,), (returned,) = session.get_inputs(), session.get_outputs()
    assert given_to.shape == ["n_samples", *net.layout.input_shape]
    assert returned.shape == ["n_samples", *net.layout.output_shape]
    (y,) = session.run(["y"], {"X": X})
    return y


def close(net, X, atol):
    y, expected = computed(net, X), net.predict(X)
    assert y.dtype == net.dtype and y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=0, atol=atol)


@given(networks())
@settings(max_examples=100, deadline=None)
def test_onnxruntime_gives_the_same_in_float64(net):
    close(net, samples(net), 1e-10)


@given(networks(dtype="float32"))
@settings(max_examples=100, deadline=None)
def test_onnxruntime_gives_the_same_in_float32(net):
    close(net, samples(net), 1e-5)
