# SPDX-License-Identifier: BSD-3-Clause
"""Networks to and from files and other libraries."""
