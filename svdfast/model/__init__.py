# SPDX-License-Identifier: BSD-3-Clause
"""Networks: their layers, the form of each weight, the layout of parameters, and what is computed.

Training is in svdfast/training.
"""
