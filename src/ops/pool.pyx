# SPDX-License-Identifier: BSD-3-Clause
"""The largest value of each channel under a window, or their mean (code: MEAN). sizes: as of patches.pyx, the window for the kernel.

    X (p·height·width, c)  positions of images, c channels      Y (p·positions, c)

Where several values are the largest, the first has the gradient. What lies beyond the image counts for nothing: a mean is of what
lies within.
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds

LARGEST, MEAN = range(2)

cdef enum:
    HEIGHT, WIDTH, WINDOW_HEIGHT, WINDOW_WIDTH, DOWN, ACROSS, TOP, LEFT, ROWS, COLUMNS


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        Py_ssize_t* s = <Py_ssize_t*> op.sizes
        Py_ssize_t c = op.m, i, row, column, y, x, top, bottom, left, right, j
        const floating* image
        const floating* at
        floating* out = <floating*> tile.Y
        floating share
    for i in range(tile.p):
        image = <const floating*> tile.X + i * s[HEIGHT] * s[WIDTH] * c
        for row in range(s[ROWS]):
            top, bottom = max(0, row * s[DOWN] - s[TOP]), min(s[HEIGHT], row * s[DOWN] - s[TOP] + s[WINDOW_HEIGHT])
            for column in range(s[COLUMNS]):
                left, right = max(0, column * s[ACROSS] - s[LEFT]), min(s[WIDTH], column * s[ACROSS] - s[LEFT] + s[WINDOW_WIDTH])
                memcpy(out, image + (top * s[WIDTH] + left) * c, c * sizeof(floating))
                for y in range(top, bottom):
                    for x in range(left, right):
                        if y == top and x == left:
                            continue
                        at = image + (y * s[WIDTH] + x) * c
                        if op.code == 0:
                            for j in range(c):
                                out[j] = out[j] if out[j] >= at[j] or out[j] != out[j] else at[j]
                        else:
                            for j in range(c):
                                out[j] += at[j]
                if op.code != 0:
                    share = <floating> 1 / ((bottom - top) * (right - left))
                    for j in range(c):
                        out[j] *= share
                out += c


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        Py_ssize_t* s = <Py_ssize_t*> op.sizes
        Py_ssize_t c = op.m, i, row, column, y, x, top, bottom, left, right, j, place
        const floating* out = <const floating*> tile.Y
        floating* g = <floating*> tile.dY
        const floating* at
        floating* to
        floating share
        bint here
    if tile.dX == NULL:
        return
    memset(tile.dX, 0, tile.rows * c * sizeof(floating))
    for i in range(tile.p):
        for row in range(s[ROWS]):
            top, bottom = max(0, row * s[DOWN] - s[TOP]), min(s[HEIGHT], row * s[DOWN] - s[TOP] + s[WINDOW_HEIGHT])
            for column in range(s[COLUMNS]):
                left, right = max(0, column * s[ACROSS] - s[LEFT]), min(s[WIDTH], column * s[ACROSS] - s[LEFT] + s[WINDOW_WIDTH])
                share = <floating> 1 / ((bottom - top) * (right - left))
                for y in range(top, bottom):
                    for x in range(left, right):
                        place = (i * s[HEIGHT] * s[WIDTH] + y * s[WIDTH] + x) * c
                        at, to = <const floating*> tile.X + place, <floating*> tile.dX + place
                        if op.code != 0:
                            for j in range(c):
                                to[j] += share * g[j]
                        else:
                            # What has found its largest value has no gradient left for others.
                            for j in range(c):
                                here = at[j] == out[j]
                                to[j] += g[j] if here else 0
                                g[j] = 0 if here else g[j]
                out += c
                g += c


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL)
KIND = capsule(kinds)
