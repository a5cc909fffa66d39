# SPDX-License-Identifier: BSD-3-Clause
"""A few processes that are killed: see kills.py; the record of many is looked at in test_recorded.py."""

import pytest

pytest.importorskip("resource", reason="no kills on Windows")


@pytest.mark.parametrize("layered", range(6))
def test_killed_trainings_end_as_others(kills, layered):
    happened = kills.survive(kills=3 if layered == 0 else 1, seed=1, first=kills.LAYERED[layered - 1] if layered else 0)
    assert happened["killed"] >= (1 if layered else 3)
    assert happened["trainings"] >= 1

