# SPDX-License-Identifier: BSD-3-Clause
"""A few processes that are killed: see kills.py; the record of many is looked at in test_recorded.py."""

import pytest

pytest.importorskip("resource", reason="no kills on Windows")


def test_killed_trainings_end_as_others(kills):
    happened = kills.survive(kills=3, seed=1)
    assert happened["killed"] >= 3
    assert happened["trainings"] >= 1

