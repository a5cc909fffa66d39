# SPDX-License-Identifier: BSD-3-Clause
"""Rows of mean 0 and variance 1: y = (x - μ)/σ, σ² = the row's variance + ε. parameter: ε.

There is no scale and no shift: the weight of the next layer absorbs them (Ba et al. 2016, layer
normalisation).
"""

from cython cimport floating
from libc.math cimport sqrt

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef inline double moments(const floating* x, Py_ssize_t m, double epsilon, double* mean) noexcept nogil:
    """1/σ, and μ."""
    cdef double total = 0, squares = 0
    cdef Py_ssize_t j
    for j in range(m):
        total += x[j]
    mean[0] = total / m
    for j in range(m):
        squares += (x[j] - mean[0]) * (x[j] - mean[0])
    return 1 / sqrt(squares / m + epsilon)


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        Py_ssize_t i, j, m = op.m
        const floating* x = <const floating*> tile.X
        floating* y = <floating*> tile.Y
        double mean, scale
    for i in range(tile.rows):
        scale = moments[floating](x + i * m, m, op.parameter, &mean)
        for j in range(m):
            y[i * m + j] = <floating> ((x[i * m + j] - mean) * scale)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    # dx = (g - mean(g) - y mean(g y)) / σ
    cdef:
        Py_ssize_t i, j, m = op.m
        const floating* x = <const floating*> tile.X
        const floating* y = <const floating*> tile.Y
        const floating* g = <const floating*> tile.dY
        floating* out = <floating*> tile.dX
        double mean, scale, of_g, of_gy
    if tile.dX == NULL:
        return
    for i in range(tile.rows):
        scale = moments[floating](x + i * m, m, op.parameter, &mean)
        of_g = of_gy = 0
        for j in range(m):
            of_g += g[i * m + j]
            of_gy += <double> g[i * m + j] * y[i * m + j]
        of_g /= m
        of_gy /= m
        for j in range(m):
            out[i * m + j] = <floating> (scale * (g[i * m + j] - of_g - y[i * m + j] * of_gy))


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
