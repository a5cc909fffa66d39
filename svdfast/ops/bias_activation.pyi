# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/ops/bias_activation.pyx."""

from typing import Any

KIND: Any
