# SPDX-License-Identifier: BSD-3-Clause
"""Samples, targets and weights: checked, and read in batches. Knows what a network asks of its data, not the network."""
