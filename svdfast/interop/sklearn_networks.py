# SPDX-License-Identifier: BSD-3-Clause
"""Networks from scikit-learn's multi-layer perceptrons: the numbers are copied, the function stays the same.

Elsewhere: estimators of our own (svdfast/sklearn); how scikit-learn calls an activation
(model/activations.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svdfast._process.checks import positive_number
from svdfast.interop.linears import Linear, network_of
from svdfast.model.activations import FACTS, resolve
from svdfast.model.heads import head_of
from svdfast.model.network import Network
from svdfast.model.origin import Label, Origin

__all__ = ["from_sklearn"]


def from_sklearn(estimator: Any, *, uint8_scale: float = 1.0) -> Network:
    """A network that computes what a fitted multi-layer perceptron of scikit-learn does.

    Truncate its hidden weights with `Network.truncate`; `train` then continues with the factors.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        A fitted estimator. For a pipeline, pass its last step and transform the inputs by the steps
        before.
    uint8_scale : float
        As for `Network`, but 1 by default, as scikit-learn does not scale uint8.

    Returns
    -------
    Network
        A network with the dtype of ``coefs_``. A classifier's outputs are those of
        ``predict_proba``, a regressor's those of ``predict``: one column for each class or target.
        A classifier of two classes has one sigmoid output, the probability of ``classes_[1]``. A
        multi-label classifier has a sigmoid for each label. The network has ``classes_`` as
        `classes`, and ``feature_names_in_`` as `feature_names`. If the classes are text, targets
        are labels; else they are indices in ``classes_``, as from
        ``numpy.searchsorted(estimator.classes_, y)``.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    TypeError
        `estimator` has another type.
    ValueError
        The estimator is not fitted, or an activation has no counterpart.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> import svdfast as sf
    >>> X, y = load_digits(return_X_y=True)
    >>> X = (X / 16).astype("float32")
    >>> mlp = MLPClassifier((128, 64), tol=0.01, random_state=0).fit(X[:1500], y[:1500])
    >>> net = sf.from_sklearn(mlp)
    >>> classes = np.searchsorted(mlp.classes_, y)
    >>> dense = net.score(X[1500:], classes[1500:])
    >>> abs(dense - mlp.score(X[1500:], y[1500:])) < 0.01
    True

    Truncated to rank 16 and trained for some more epochs, it classifies about as well with less than half of the
    multiplications:

    >>> [t.rank for t in net.truncate(ranks=[16, 16], inputs=X[:1500])]
    [16, 16]
    >>> method = sf.Factoring(recompose=False)
    >>> result = sf.train(net, X[:1500], classes[:1500], epochs=5, factoring=method)
    >>> abs(net.score(X[1500:], classes[1500:]) - dense) < 0.02
    True
    >>> print(sf.count_multiplications(net, mode="forward"))
    layer    rank   dense  forward  ratio
    64-128     16   8,192    3,072   2.67
    128-64     16   8,192    3,072   2.67
    64-10   dense     640      640   1.00
    total          17,024    6,784   2.51
    """
    try:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.utils.validation import check_is_fitted
    except ImportError:
        raise ImportError(
            'from_sklearn needs scikit-learn: pip install "svdfast[sklearn]"', name="sklearn"
        ) from None
    if not isinstance(estimator, MLPClassifier | MLPRegressor):
        got = type(estimator).__name__
        raise TypeError(f"estimator: expected an MLPClassifier or MLPRegressor, got {got}")
    check_is_fitted(estimator, "coefs_")
    uint8_scale = positive_number("uint8_scale", uint8_scale)
    n_hidden = len(estimator.coefs_) - 1
    names = [estimator.activation] * n_hidden + [estimator.out_activation_]
    layers = []
    found = zip(estimator.coefs_, estimator.intercepts_, names, strict=True)
    for i, (W, b, name) in enumerate(found):
        ours = next((ours for ours, facts in FACTS.items() if facts.sklearn == name), None)
        if ours is None:
            raise ValueError(
                f"estimator: layer {i} uses the activation {name!r}, which svdfast does not support"
            )
        if W.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ValueError(f"estimator: coefs_[{i}]: expected float32 or float64, got {W.dtype}")
        layers.append(Linear(f"estimator: layer {i}", (W.T,), b, resolve(ours)))
    net = network_of(layers, uint8_scale)
    net.origin = origin_of(estimator, net)
    return net


def origin_of(estimator: Any, net: Network) -> Origin:
    """The estimator's knowledge of the data that its network was trained on."""
    return Origin(_classes(estimator, net), _feature_names(estimator))


def _classes(estimator: Any, net: Network) -> tuple[Label, ...] | None:
    """The classes of the network's outputs.

    None for numbers, for several labels of one sample, and for kinds of labels that network files
    can't store.
    """
    head = head_of(net.layout.layers[-1].activation)
    n_out = net.sizes[-1]
    found = getattr(estimator, "classes_", None)
    if not isinstance(found, np.ndarray) or head.n_targets(n_out) != 1 or len(found) != head.n_values(n_out):
        return None
    try:
        return Origin.parse({**Origin().header(), "classes": found.tolist()}).classes
    except (TypeError, ValueError):
        return None


def _feature_names(estimator: Any) -> tuple[str, ...] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else tuple(map(str, names))
