# SPDX-License-Identifier: BSD-3-Clause
"""What a network is: layers, how their weights are represented, where they lie, what is computed. Not here: how they are trained."""
