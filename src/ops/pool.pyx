# SPDX-License-Identifier: BSD-3-Clause
"""The largest value of each channel under a window, or their mean: code. sizes: as of convolution.pyx, the window for the kernel.

    X (p·height·width, c)  positions of images, c channels      Y (p·positions, c)

If several values are the largest, the first gets the gradient. Only numbers within the image count,
also for a mean. Elsewhere: the loops (src/loops/windows.h).
"""

from cython cimport floating

from svdfast._elementwise cimport SVDFAST_LARGEST, SVDFAST_MEAN, elementwise, svdfast_window
from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds

LARGEST, MEAN = SVDFAST_LARGEST, SVDFAST_MEAN


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    elementwise(sizeof(floating)).pool(op.code, <const svdfast_window*> op.sizes, tile.p, op.m, tile.X, tile.Y)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL:
        elementwise(sizeof(floating)).pool_backward(op.code, <const svdfast_window*> op.sizes, tile.p, op.m, tile.X, tile.Y,
                                                    tile.dY, tile.dX)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
