# SPDX-License-Identifier: BSD-3-Clause
"""The four steps: the loop over mini-batches, and what happens between steps. Not here: what a step computes (src/engine)."""
