# SPDX-License-Identifier: BSD-3-Clause
"""The version, as pyproject.toml has it; what files name as their writer."""

__version__ = "0.1.0"
