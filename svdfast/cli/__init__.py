# SPDX-License-Identifier: BSD-3-Clause
"""The command `svdfast`: its arguments, its data and its output."""
