# SPDX-License-Identifier: BSD-3-Clause
"""scikit-learn's own tests of its MLPs, run on our estimators without factors. Elsewhere: tests of our own (test_sklearn.py).

The installed file is read and run with our estimators in the place of MLPClassifier and MLPRegressor; nothing of it is copied.
"""

import functools
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import sklearn.neural_network

from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor

# Tests that fail, and why. A test that passes after all is a failure, too.
EXPECTED = {
    "test_gradient": "calls _loss_grad_lbfgs, a private method; Network.loss_and_gradient is tested in test_gradients.py",
}

# They look for the warnings that they mean.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def global_random_seed():
    """A fixture of scikit-learn's conftest.py."""
    return 42


def scikit_learns_tests():
    """The test functions of the installed scikit-learn, by name."""
    path = Path(sklearn.neural_network.__file__).parent / "tests" / "test_mlp.py"
    if not path.exists():
        pytest.skip("this scikit-learn is installed without its tests", allow_module_level=True)
    names = {"__name__": "sklearn.neural_network.tests.test_mlp"}
    with pytest.MonkeyPatch.context() as patch:
        for ours in (SVDMLPClassifier, SVDMLPRegressor):
            name = ours.__name__.removeprefix("SVD")
            patch.setattr(sklearn.neural_network, name, functools.partial(ours, rank_fraction=None))
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), names)
    return {name: test for name, test in names.items() if name.startswith("test_")}


THEIRS = scikit_learns_tests()
for name, reason in EXPECTED.items():
    THEIRS[name] = pytest.mark.xfail(reason=reason, strict=True, raises=AttributeError)(THEIRS[name])
globals().update(THEIRS)


def test_there_are_as_many_as_there_were():
    assert len(THEIRS) >= 39 and EXPECTED.keys() <= THEIRS.keys()
