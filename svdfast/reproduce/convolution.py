# SPDX-License-Identifier: BSD-3-Clause
"""The method on convolutional networks, future work in the paper: digits, clothes and photos."""

from __future__ import annotations

from svdfast import layers as L
from svdfast.model.describe import Input, Layer
from svdfast.model.network import Network
from svdfast.reproduce._experiment import Experiment
from svdfast.reproduce._layered import ACCURACY, Task, Tasks


def lenet(first: int, second: int, seed: int) -> Network:
    """Convolutions to `first` and `second` channels, and three fully connected layers.

    With 6 and 16 channels it is close to LeNet-5 of LeCun et al. (1998).
    """
    layers = [
        L.Conv2d(first, 5, "relu", padding="same"), L.MaxPool2d(2), L.Conv2d(second, 5, "relu"), L.MaxPool2d(2), L.Flatten(),
        L.Linear(120, "relu"), L.Linear(84, "relu"), L.Linear(10, "softmax"),
    ]  # fmt: skip
    return Network(Input(28, 28, 1), layers, seed=seed)


def vgg(seed: int) -> Network:
    """Six 3×3 convolutions as in Simonyan & Zisserman (2015), without normalisation."""
    layers: list[Layer] = []
    for channels in (64, 128, 256):
        layers += [L.Conv2d(channels, 3, "relu", padding="same") for _ in range(2)] + [L.MaxPool2d(2)]
    layers += [L.Flatten(), L.Linear(256, "relu"), L.Linear(10, "softmax")]
    return Network(Input(32, 32, 3), layers, init="he", seed=seed)


LENET = {"learning_rate": 1e-3, "epochs": 5, "batch_size": 128}
TASKS = Tasks(
    Task("MNIST, LeNet-5", "mnist", lambda seed: lenet(6, 16, seed), ACCURACY, LENET),
    Task("Fashion-MNIST, LeNet-5", "fashion-mnist", lambda seed: lenet(6, 16, seed), ACCURACY, LENET),
    Task("MNIST, LeNet 32-64", "mnist", lambda seed: lenet(32, 64, seed), ACCURACY, LENET),
    Task("Fashion-MNIST, LeNet 32-64", "fashion-mnist", lambda seed: lenet(32, 64, seed), ACCURACY, LENET),
    Task(
        "a third of CIFAR-10, VGG-like", "cifar10-part", vgg, ACCURACY,
        {"learning_rate": 5e-4, "epochs": 8, "batch_size": 64},
    ),
)  # fmt: skip

EXPERIMENT = Experiment(
    "convolution", "Convolutional layers (section 6)", 3, 1, TASKS.require, (TASKS.trainings, TASKS.turns), TASKS.run, TASKS.tables,
    lambda runs: {"convolution": TASKS.figure(runs)}, TASKS.missing,
)  # fmt: skip
