# SPDX-License-Identifier: BSD-3-Clause
"""A fully connected network in plain float64 NumPy: what the compiled core is compared with.

Written from the equations (docs of svdfast.model.losses, svdfast.training.optimizers; the report, chapter 3), one array operation for
each, whole batches at a time. It shares no code with svdfast; it reads only a network's sizes, ranks and activations.
Tests get this module by the fixture `reference` (conftest.py).
"""

import numpy as np
from scipy.special import logsumexp, ndtr, xlogy


def unpack(vector, sizes, ranks):
    """The matrices and biases in a flat vector: all weights, layer by layer (W, or W1 then W2), then all biases."""
    vector = np.asarray(vector, dtype=np.float64)
    weights, biases, place = [], [], 0
    for m, n, rank in zip(sizes[:-1], sizes[1:], ranks, strict=True):
        shapes = [(n, m)] if rank is None else [(n, rank), (rank, m)]
        matrices = []
        for shape in shapes:
            count = shape[0] * shape[1]
            matrices.append(vector[place : place + count].reshape(shape))
            place += count
        weights.append(matrices)
    n_weights = place
    for n in sizes[1:]:
        biases.append(vector[place : place + n])
        place += n
    assert place == len(vector)
    return weights, biases, n_weights


def rounded_to_bfloat16(x):
    """To bfloat16, the upper half of a float32: to the nearest, to even between two; denormals are zero."""
    bits = np.where(abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(x), nearest.view(np.float32), x)


def activate(name, parameter, z):
    a = parameter
    if name == "identity":
        return z
    if name == "relu":
        return np.maximum(z, 0)
    if name == "leaky_relu":
        return np.where(z > 0, z, a * z)
    if name == "elu":
        return np.where(z > 0, z, a * np.expm1(np.minimum(z, 0)))
    if name == "celu":
        return np.where(z > 0, z, a * np.expm1(np.minimum(z, 0) / a))
    if name == "gelu":
        return z * ndtr(z)
    if name == "clipped_relu":
        return np.clip(z, 0, a)
    if name == "hardtanh":
        return np.clip(z, -a, a)
    if name == "gelu_tanh":
        return z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
    if name == "silu":
        return z * np.exp(-np.logaddexp(0, -z))
    if name == "softplus":
        return np.where(z > 20, z, np.logaddexp(0, z))
    if name == "tanh":
        return np.tanh(z)
    if name == "sigmoid":
        return np.exp(-np.logaddexp(0, -z))
    if name == "exp":
        return np.exp(z)
    if name == "softmax":
        return np.exp(z - logsumexp(z, axis=1, keepdims=True))
    raise AssertionError(name)


def backpropagate(name, parameter, z, dA):
    """dZ from dA, by the derivative in z."""
    a = parameter
    if name == "identity":
        return dA
    if name == "relu":
        return dA * (z > 0)
    if name == "leaky_relu":
        return dA * np.where(z > 0, 1, a)
    if name == "elu":
        return dA * np.where(z > 0, 1, a * np.exp(np.minimum(z, 0)))
    if name == "celu":
        return dA * np.where(z > 0, 1, np.exp(np.minimum(z, 0) / a))
    if name == "gelu":
        return dA * (ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
    if name == "clipped_relu":
        return dA * ((z > 0) & (z < a))
    if name == "hardtanh":
        return dA * (abs(z) < a)
    if name == "gelu_tanh":
        t = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
        return dA * ((1 + t) / 2 + z * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2) / 2)
    if name == "silu":
        s = np.exp(-np.logaddexp(0, -z))
        return dA * (s + z * s * (1 - s))
    if name == "softplus":
        return dA * np.exp(-np.logaddexp(0, -z))
    if name == "tanh":
        return dA / np.cosh(z) ** 2
    if name == "sigmoid":
        return dA * np.exp(-np.logaddexp(0, -z) - np.logaddexp(0, z))
    if name == "exp":
        return dA * np.exp(z)
    if name == "softmax":
        s = activate(name, parameter, z)
        jacobian = s[:, :, None] * (np.eye(z.shape[1]) - s[:, None, :])
        return np.einsum("ij,ijk->ik", dA, jacobian)
    raise AssertionError(name)


def forward(net, vector, X):
    """For each layer its input, the product H (None where dense), Z and A."""
    weights, biases, _ = unpack(vector, net.sizes, net.layout.ranks)
    A = np.asarray(X, dtype=np.float64)
    passed = []
    for matrices, b, spec in zip(weights, biases, net.layout.layers, strict=True):
        X_in = A
        H = None if len(matrices) == 1 else X_in @ matrices[1].T
        Z = (X_in if H is None else H) @ matrices[0].T + b
        A = activate(spec.activation.name, spec.activation.parameter, Z)
        passed.append((X_in, H, Z, A))
    return passed


def predict(net, X, vector=None):
    return forward(net, net.parameters if vector is None else vector, X)[-1][3]


# Losses that include the output's activation.
OF_Z = ("cross_entropy", "binary_cross_entropy", "poisson")


def sample_losses(loss, Z, A, Y):
    """The loss of each sample, and its derivative: by Z for those of OF_Z, by A for the others."""
    n = Z.shape[1]
    if loss == "cross_entropy":
        log_softmax = Z - logsumexp(Z, axis=1, keepdims=True)
        return -(Y * log_softmax).sum(1), np.exp(log_softmax) * Y.sum(1, keepdims=True) - Y
    if loss == "binary_cross_entropy":
        losses = Y * np.logaddexp(0, -Z) + (1 - Y) * np.logaddexp(0, Z)
        return losses.mean(1), (np.exp(-np.logaddexp(0, -Z)) - Y) / n
    if loss == "poisson":
        return (xlogy(Y, Y) - Y * Z - Y + np.exp(Z)).mean(1), (np.exp(Z) - Y) / n
    D = A - Y
    if loss == "mean_absolute_error":
        return abs(D).mean(1), np.sign(D) / n
    if loss == "huber":
        return np.where(abs(D) <= 1, D**2 / 2, abs(D) - 1 / 2).mean(1), np.clip(D, -1, 1) / n
    assert loss == "mean_squared_error"
    return (D**2).mean(1), 2 * D / n


def as_rows(y, n_out):
    """Targets as float64 rows; class numbers become one-hot rows."""
    y = np.asarray(y)
    if y.ndim == 1 and n_out > 1:
        return np.eye(n_out)[y]
    return y.astype(np.float64).reshape(len(y), n_out)


def loss_and_gradient(net, X, y, loss, *, vector=None, sample_weight=None, l1=0.0, l2=0.0):
    vector = np.asarray(net.parameters if vector is None else vector, dtype=np.float64)
    passed = forward(net, vector, X)
    weights, _, n_weights = unpack(vector, net.sizes, net.layout.ranks)
    Z, A = passed[-1][2:]
    p = len(Z)
    w = np.ones(p) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    losses, delta = sample_losses(loss, Z, A, as_rows(y, Z.shape[1]))
    value = (w @ losses) / w.sum()
    delta = delta * (w / w.sum())[:, None]
    weight_parts, bias_parts = [], []
    for i in range(len(weights) - 1, -1, -1):
        X_in, H, Z, _ = passed[i]
        activation = net.layout.layers[i].activation
        if i < len(weights) - 1 or loss not in OF_Z:
            delta = backpropagate(activation.name, activation.parameter, Z, delta)
        bias_parts.insert(0, delta.sum(0))
        if H is None:
            weight_parts.insert(0, [delta.T @ X_in])
            delta = delta @ weights[i][0]
        else:
            W1, W2 = weights[i]
            weight_parts.insert(0, [delta.T @ H, (delta @ W1).T @ X_in])
            delta = delta @ W1 @ W2
    gradient = np.concatenate([M.ravel() for part in weight_parts for M in part] + bias_parts)
    v = vector[:n_weights]
    total = p if sample_weight is None else np.sum(sample_weight)
    value += (l1 * np.abs(v).sum() + l2 / 2 * (v**2).sum()) / total
    gradient[:n_weights] += (l1 * np.sign(v) + l2 * v) / total
    return value, gradient


class Updates:
    """An optimizer: `kind` is "gradient_descent" or "adam"; the state starts at zero."""

    def __init__(self, kind, *, momentum=0.0, nesterov=False, beta1=0.9, beta2=0.999,
                 epsilon=1e-8, weight_decay=0.0):  # fmt: skip
        self.kind, self.momentum, self.nesterov = kind, momentum, nesterov
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.weight_decay = weight_decay
        self.restart()

    def restart(self):
        self.m = self.v = 0.0
        self.t = 0

    def __call__(self, w, g, rate, n_weights):
        """The parameters after one update; weight decay is for the first n_weights of them."""
        self.t += 1
        if self.kind == "adam":
            self.m = self.beta1 * self.m + (1 - self.beta1) * g
            self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
            m_hat = self.m / (1 - self.beta1**self.t)
            v_hat = self.v / (1 - self.beta2**self.t)
            step = m_hat / (np.sqrt(v_hat) + self.epsilon)
        else:
            self.v = self.momentum * self.v + g
            step = g + self.momentum * self.v if self.nesterov else self.v
        new = w - rate * step
        new[:n_weights] -= rate * self.weight_decay * w[:n_weights]
        return new


def batches(n_samples, batch_size, epochs, *, seed=0, shuffle=True):
    """The rows of each mini-batch of a training."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        rows = np.arange(n_samples)
        if shuffle and batch_size < n_samples:
            rows = rng.permutation(n_samples)
        for start in range(0, n_samples, batch_size):
            yield rows[start : start + batch_size]
