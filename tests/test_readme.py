# SPDX-License-Identifier: BSD-3-Clause
"""The README's example gives the output that it shows."""

import doctest
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_examples():
    pytest.importorskip("sklearn", reason="the example's data comes with scikit-learn")
    results = doctest.testfile(str(README), module_relative=False, encoding="utf-8")
    assert results.attempted >= 8
    assert results.failed == 0
