# SPDX-License-Identifier: BSD-3-Clause
"""Product with the patches of images: Y = P·Wᵀ, a row of P for each position of the kernel, the stretch of the image under it. sizes: the
image's height and width, the kernel's, the steps down and across, the padding above and to the left, the positions down and across.

    X (p·height·width, c)  positions of images, c channels      Y (p·positions, n)      W (n, kernel's height·width·c)

What lies beyond the image is 0. P is formed strip by strip, in memory that stays in the cache, forward and again for the gradient: as a
whole it would be as large as the image times the kernel. Not here: products of rows as they are (product.pyx).
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from svdfast._blas cimport gemm
from svdfast.ops.operation cimport Gradient, Kind, Operation, Pass, Tile, capsule
from svdfast.ops.packing cimport pack, packed_size


cdef extern from "strip.h" nogil:
    enum:
        SVDFAST_STRIP_BYTES
    void* svdfast_strip()

cdef Kind[2] kinds

cdef enum:
    HEIGHT, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, DOWN, ACROSS, TOP, LEFT, ROWS, COLUMNS, CHANNELS

# Elements of a patch at most: of it a strip has a row at least.
MOST = SVDFAST_STRIP_BYTES // 8


cdef inline Py_ssize_t strip_rows(const Operation* op, Py_ssize_t itemsize) noexcept nogil:
    """Rows of P that are there at a time."""
    return max(1, SVDFAST_STRIP_BYTES // (itemsize * op.m))


cdef inline void copy(Py_ssize_t n, const floating* x, floating* y) noexcept nogil:
    # Short ones, which are the most, by vectors that may overlap: a call of memcpy would take longer.
    cdef Py_ssize_t i
    if n > 32:
        memcpy(y, x, n * sizeof(floating))
    elif n >= 16:
        memcpy(y, x, 16 * sizeof(floating))
        memcpy(y + n - 16, x + n - 16, 16 * sizeof(floating))
    elif n >= 8:
        memcpy(y, x, 8 * sizeof(floating))
        memcpy(y + n - 8, x + n - 8, 8 * sizeof(floating))
    elif n >= 4:
        memcpy(y, x, 4 * sizeof(floating))
        memcpy(y + n - 4, x + n - 4, 4 * sizeof(floating))
    else:
        for i in range(n):
            y[i] = x[i]


cdef inline void zero(Py_ssize_t n, floating* y) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = 0


cdef inline void add(Py_ssize_t n, const floating* x, floating* y) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] += x[i]


cdef void walk(const Operation* op, floating* X, Py_ssize_t begin, Py_ssize_t end, floating* P, bint back) noexcept nogil:
    """Rows begin .. end of P copied from images, or added to images' positions."""
    cdef:
        Py_ssize_t* s = <Py_ssize_t*> op.sizes
        Py_ssize_t c = s[CHANNELS], of_row = s[KERNEL_WIDTH] * c, positions = s[ROWS] * s[COLUMNS]
        Py_ssize_t row = begin % positions // s[COLUMNS], column = begin % s[COLUMNS], _, k, y, x, first, stop
        floating* image = X + begin // positions * s[HEIGHT] * s[WIDTH] * c
        floating* at
    for _ in range(begin, end):
        x = column * s[ACROSS] - s[LEFT]
        first = max(0, -x)
        stop = max(first, min(s[KERNEL_WIDTH], s[WIDTH] - x))
        for k in range(s[KERNEL_HEIGHT]):
            y = row * s[DOWN] - s[TOP] + k
            if y < 0 or y >= s[HEIGHT]:
                if not back:
                    zero[floating](of_row, P)
            else:
                at = image + (y * s[WIDTH] + x + first) * c
                if back:
                    add[floating]((stop - first) * c, P + first * c, at)
                else:
                    if first > 0:
                        zero[floating](first * c, P)
                    copy[floating]((stop - first) * c, at, P + first * c)
                    if stop < s[KERNEL_WIDTH]:
                        zero[floating]((s[KERNEL_WIDTH] - stop) * c, P + stop * c)
            P += of_row
        column += 1
        if column == s[COLUMNS]:
            column = 0
            row += 1
            if row == s[ROWS]:
                row = 0
                image += s[HEIGHT] * s[WIDTH] * c


cdef inline Py_ssize_t part(Py_ssize_t i, Py_ssize_t size, Py_ssize_t count) noexcept nogil:
    return i * size // count


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    # Y = P · Wᵀ, in strips of nearly equal height
    cdef:
        Py_ssize_t rows = tile.p * op.sizes[ROWS] * op.sizes[COLUMNS], height = strip_rows(op, sizeof(floating))
        Py_ssize_t count = (rows + height - 1) // height, i, first, stop
        floating* P = <floating*> svdfast_strip()
    for i in range(count):
        first, stop = part(i, rows, count), part(i + 1, rows, count)
        walk[floating](op, <floating*> tile.X, first, stop, P, False)
        gemm[floating](tile.bfloat16, False, True, stop - first, op.n, op.m, P, op.m, W, op.m, False,
                       <floating*> tile.Y + first * op.n, op.n)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    # dP = dY · W, each of its rows added where it came from
    cdef:
        Py_ssize_t rows = tile.p * op.sizes[ROWS] * op.sizes[COLUMNS], height = strip_rows(op, sizeof(floating))
        Py_ssize_t count = (rows + height - 1) // height, i, first, stop
        floating* P = <floating*> svdfast_strip()
    if tile.dX == NULL:
        return
    memset(tile.dX, 0, tile.p * op.sizes[HEIGHT] * op.sizes[WIDTH] * op.sizes[CHANNELS] * sizeof(floating))
    for i in range(count):
        first, stop = part(i, rows, count), part(i + 1, rows, count)
        gemm[floating](tile.bfloat16, False, False, stop - first, op.m, op.n, <const floating*> tile.dY + first * op.n, op.n,
                       W, op.m, False, P, op.m)
        walk[floating](op, <floating*> tile.dX, first, stop, P, True)


cdef void gradient(const Operation* op, const Tile* tile, Py_ssize_t begin, Py_ssize_t end, bint accumulate,
                   floating* g) noexcept nogil:
    # dW (n×m) = dYᵀ · P
    cdef:
        Py_ssize_t rows = tile.p * op.sizes[ROWS] * op.sizes[COLUMNS], height = strip_rows(op, sizeof(floating))
        Py_ssize_t count = (rows + height - 1) // height, i, first, stop
        floating* P = <floating*> svdfast_strip()
    for i in range(count):
        first, stop = part(i, rows, count), part(i + 1, rows, count)
        walk[floating](op, <floating*> tile.X, first, stop, P, False)
        gemm[floating](tile.bfloat16, True, False, end - begin, op.m, stop - first,
                       <const floating*> tile.dY + first * op.n + begin, op.n, P, op.m, accumulate or i > 0, g, op.m)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], <Gradient> gradient[float], packed_size, pack)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], <Gradient> gradient[double], NULL, NULL)
KIND = capsule(kinds)
