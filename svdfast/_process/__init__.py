# SPDX-License-Identifier: BSD-3-Clause
"""What the process owns: threads and kernels of BLAS, who uses what, checks, files, clocks. Knows nothing of networks."""
