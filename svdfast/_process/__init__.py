# SPDX-License-Identifier: BSD-3-Clause
"""State and tools of the process: BLAS threads and kernels, objects in use, checks, files, clocks.

This package does not know networks.
"""
