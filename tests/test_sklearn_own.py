# SPDX-License-Identifier: BSD-3-Clause
"""scikit-learn's own tests of its MLPs, run on our estimators without factors. Not here: tests of our own (test_sklearn.py).

The installed file is read and run with our estimators in the place of MLPClassifier and MLPRegressor; nothing of it is copied.
"""

import functools
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import sklearn.neural_network

from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor

def scikit_learns_tests():
    folder = Path(sklearn.neural_network.__file__).parent
    path = folder / "tests" / "test_mlp.py"
    if not path.exists():
        pytest.skip("this scikit-learn is installed without its tests", allow_module_level=True)
    namespace = {"__name__": "test_mlp"}
    with pytest.MonkeyPatch.context() as patch:
        for name, ours in (("MLPClassifier", SVDMLPClassifier), ("MLPRegressor", SVDMLPRegressor)):
            patch.setattr(sklearn.neural_network, name, functools.partial(ours, rank_fraction=None))
        exec(compile(path.read_text(), str(path), "exec"), namespace)
    return {name: test for name, test in namespace.items() if name.startswith("test_")}

globals().update(scikit_learns_tests())

@pytest.fixture
def global_random_seed():
    return 42
