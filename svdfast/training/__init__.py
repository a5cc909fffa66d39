# SPDX-License-Identifier: BSD-3-Clause
"""The four steps: the loop over mini-batches, and the work between steps.

The computation of a step is elsewhere (src/engine).
"""
