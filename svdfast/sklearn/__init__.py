# SPDX-License-Identifier: BSD-3-Clause
"""Estimators that replace scikit-learn's MLPClassifier and MLPRegressor, trained by the four steps.

Names, defaults, first weights and stopping rules are scikit-learn's. Additions have names of their
own. Elsewhere: the training itself (svdfast/training), and the conversion of scikit-learn's own
models (interop/sklearn_networks.py).
"""

try:
    import sklearn.base  # noqa: F401
except ImportError:
    raise ImportError('svdfast.sklearn needs scikit-learn: pip install "svdfast[sklearn]"') from None

from svdfast.sklearn.classifier import SVDMLPClassifier
from svdfast.sklearn.regressor import SVDMLPRegressor

__all__ = ["SVDMLPClassifier", "SVDMLPRegressor"]
