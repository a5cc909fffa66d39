# SPDX-License-Identifier: BSD-3-Clause
"""The operations that programs are made of, compiled from src/ops: a module each, with its capsule `KIND`.

What an operation is to the engine is in operation.pxd. Elsewhere: the order of operations (svdfast/model/program.py).
"""
