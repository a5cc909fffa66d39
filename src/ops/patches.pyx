# SPDX-License-Identifier: BSD-3-Clause
"""Patches of images: for each position of a kernel the stretch of the image under it, as a row. sizes: the image's height and width, the
kernel's, the steps down and across, the padding above and to the left, the positions down and across.

    X (p·height·width, c)  positions of images, c channels      Y (p·positions, kernel's height·width·c)

What lies beyond the image is 0. Not here: the kernel's weights, a product with Y.
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds

cdef enum:
    HEIGHT, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, DOWN, ACROSS, TOP, LEFT, ROWS, COLUMNS


cdef inline void add(Py_ssize_t n, const floating* x, floating* y) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] += x[i]


cdef void walk(const Operation* op, Py_ssize_t p, floating* X, floating* Y, bint back) noexcept nogil:
    """Copies rows of the kernel from images to patches, or adds those of patches to images."""
    cdef:
        const Py_ssize_t* s = op.sizes
        Py_ssize_t c = op.m, of_row = s[KERNEL_WIDTH] * c, i, row, column, k, y, x, first, stop
        floating* image
        floating* patch = Y
        floating* at
    for i in range(p):
        image = X + i * s[HEIGHT] * s[WIDTH] * c
        for row in range(s[ROWS]):
            for column in range(s[COLUMNS]):
                x = column * s[ACROSS] - s[LEFT]
                first = max(0, -x)
                stop = max(first, min(s[KERNEL_WIDTH], s[WIDTH] - x))
                for k in range(s[KERNEL_HEIGHT]):
                    y = row * s[DOWN] - s[TOP] + k
                    if y < 0 or y >= s[HEIGHT]:
                        if not back:
                            memset(patch, 0, of_row * sizeof(floating))
                    else:
                        at = image + (y * s[WIDTH] + x + first) * c
                        if back:
                            add[floating]((stop - first) * c, patch + first * c, at)
                        else:
                            if first > 0:
                                memset(patch, 0, first * c * sizeof(floating))
                            memcpy(patch + first * c, at, (stop - first) * c * sizeof(floating))
                            if stop < s[KERNEL_WIDTH]:
                                memset(patch + stop * c, 0, (s[KERNEL_WIDTH] - stop) * c * sizeof(floating))
                    patch += of_row


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    walk[floating](op, tile.p, <floating*> tile.X, <floating*> tile.Y, False)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL:
        memset(tile.dX, 0, tile.rows * op.m * sizeof(floating))
        walk[floating](op, tile.p, <floating*> tile.dX, <floating*> tile.dY, True)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL)
KIND = capsule(kinds)
