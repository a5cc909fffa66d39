# SPDX-License-Identifier: BSD-3-Clause
"""Samples, targets and weights: checked, and read in batches. Knows what a network asks of its data (`Spec`), not the network.

Everything comes in by open.py.
"""
