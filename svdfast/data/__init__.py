# SPDX-License-Identifier: BSD-3-Clause
"""Checks samples, targets and weights, and reads them in batches. All data come in by open.py.

This package knows the requirements of a network (`Spec`), not the network.
"""
