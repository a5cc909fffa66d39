# SPDX-License-Identifier: BSD-3-Clause
"""A short training gives the losses that were recorded, for each type of number and instruction set, within what losses.py there allows."""

import importlib.util
import json
from pathlib import Path

import pytest

from svdfast import _elementwise

PATH = Path(__file__).parent / "recorded" / "losses.py"
spec = importlib.util.spec_from_file_location("recorded_losses", PATH)
recorded_losses = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorded_losses)


@pytest.mark.parametrize("instruction_set", _elementwise.INSTRUCTION_SETS)
def test_losses_are_those_recorded(instruction_set):
    if instruction_set not in _elementwise.available_instruction_sets():
        pytest.skip(f"this CPU, or this build, has no {instruction_set}")
    recorded = json.loads(recorded_losses.RECORDED.read_text(encoding="utf-8"))[instruction_set]
    losses = recorded_losses.trained(instruction_set)
    assert losses.keys() == recorded.keys() == recorded_losses.ALLOWED.keys()
    for number, allowed in recorded_losses.ALLOWED.items():
        assert losses[number][-1] < losses[number][0]
        apart = recorded_losses.units_apart(number, losses[number], recorded[number])
        assert apart <= allowed, f"{number}: {apart:.1f} units of rounding from the recorded losses"
