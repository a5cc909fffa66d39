# SPDX-License-Identifier: BSD-3-Clause
"""The version in pyproject.toml, which files name as their writer."""

__version__ = "0.1.0"
