# SPDX-License-Identifier: BSD-3-Clause
"""The operations that programs are made of, compiled from src/ops: a module each, with its capsule `KIND`.

operation.pxd defines an operation for the engine. Elsewhere: the order of operations
(svdfast/model/program.py).
"""
