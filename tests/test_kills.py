# SPDX-License-Identifier: BSD-3-Clause
"""A few processes that are killed, and the record of many: see kills.py."""

import json

import pytest

pytest.importorskip("resource", reason="no kills on Windows")


def test_killed_trainings_end_as_others(kills):
    happened = kills.survive(kills=3, seed=1)
    assert happened["killed"] >= 3
    assert happened["trainings"] >= 1


def test_the_record(kills):
    record = json.loads(kills.RECORD.read_text())
    assert record["killed"] >= 200
    assert min(record[name] for name in ("interrupted", "full", "read-only", "left in the midst of writing")) > 0
