# SPDX-License-Identifier: BSD-3-Clause
"""Product with the patches of images: Y = P·Wᵀ, a row of P for each position of the kernel, the stretch of the image under it. sizes: the
image's height and width, the kernel's, the steps down and across, the padding above and to the left, the positions down and across.

    X (p·height·width, c)  positions of images, c channels      Y (p·positions, n)      W (n, kernel's height·width·c)

Everything beyond the image is 0. Products of float read patches in place (src/products/convolution_kernels.h).
Other products form P strip by strip, in memory that stays in the cache, forward and again for the
gradient: those of other types, rounded to bfloat16, of few places, and back from strides. The whole
of P would be as large as the image times the kernel. Elsewhere: products of plain rows (product.pyx).
"""

from cython cimport floating
from libc.string cimport memset

from svdfast._blas cimport convolution, convolution_back, convolution_gradient, convolves, convolves_back, gemm
from svdfast._elementwise cimport elementwise, svdfast_window
from svdfast.ops.operation cimport Gradient, Kind, Operation, Pass, Tile, capsule
from svdfast.ops.packing cimport pack, packed_size


cdef extern from "strip.h" nogil:
    enum:
        SVDFAST_STRIP_BYTES
    void* svdfast_strip()

cdef Kind[2] kinds

cdef enum:
    HEIGHT, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, DOWN, ACROSS, TOP, LEFT, ROWS, COLUMNS, CHANNELS

cdef enum:
    FEW_ROWS = 9    # rows of strips whose halves, of nearly equal height, may be very few

# Elements of a patch at most: of it a strip has a row at least.
MOST = SVDFAST_STRIP_BYTES // 8


cdef inline Py_ssize_t strip_rows(const Operation* op, Py_ssize_t itemsize) noexcept nogil:
    """Rows of P that are there at a time."""
    return max(1, SVDFAST_STRIP_BYTES // (itemsize * op.m))


cdef inline void patches(const Operation* op, const Tile* tile, Py_ssize_t begin, Py_ssize_t end, floating* P) noexcept nogil:
    """P := rows begin .. end of the tile's."""
    elementwise(sizeof(floating)).patches(<const svdfast_window*> op.sizes, op.sizes[CHANNELS], begin, end, tile.p, tile.X, P)


cdef inline bint in_place(const Operation* op, const Tile* tile, bint is_double) noexcept nogil:
    """True if patches need not be formed."""
    return not is_double and not tile.bfloat16 and convolves(<const svdfast_window*> op.sizes, op.sizes[CHANNELS])


cdef inline Py_ssize_t part(Py_ssize_t i, Py_ssize_t size, Py_ssize_t count) noexcept nogil:
    return i * size // count


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    # Y = P · Wᵀ, in strips of nearly equal height
    cdef:
        Py_ssize_t rows = tile.p * op.sizes[ROWS] * op.sizes[COLUMNS], height = strip_rows(op, sizeof(floating))
        Py_ssize_t count = (rows + height - 1) // height, i, first, stop
        floating* P = <floating*> svdfast_strip()
    if in_place(op, tile, floating is double):
        convolution(<const svdfast_window*> op.sizes, tile.p, op.sizes[CHANNELS], op.n, <const float*> tile.X, <const float*> W,
                    <float*> tile.Y)
        return
    for i in range(count):
        first, stop = part(i, rows, count), part(i + 1, rows, count)
        if height < FEW_ROWS:
            # All of one height, whatever the tile's: products of very few rows are taken another way, in other bits.
            first = max(0, min(i * height, rows - height))
            stop = min(rows, first + height)
        patches[floating](op, tile, first, stop, P)
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
    if floating is float and not tile.bfloat16 and convolves_back(<const svdfast_window*> op.sizes, op.sizes[CHANNELS], op.n):
        convolution_back(<const svdfast_window*> op.sizes, tile.p, op.sizes[CHANNELS], op.n, <const float*> tile.dY, <const float*> W,
                         <float*> tile.dX)
        return
    memset(tile.dX, 0, tile.p * op.sizes[HEIGHT] * op.sizes[WIDTH] * op.sizes[CHANNELS] * sizeof(floating))
    for i in range(count):
        first, stop = part(i, rows, count), part(i + 1, rows, count)
        gemm[floating](tile.bfloat16, False, False, stop - first, op.m, op.n, <const floating*> tile.dY + first * op.n, op.n,
                       W, op.m, False, P, op.m)
        elementwise(sizeof(floating)).add_patches(<const svdfast_window*> op.sizes, op.sizes[CHANNELS], first, stop, P, tile.dX)


cdef void gradient(const Operation* op, const Tile* tile, Py_ssize_t begin, Py_ssize_t end, bint accumulate,
                   floating* g) noexcept nogil:
    # dW (n×m) = dYᵀ · P
    cdef:
        Py_ssize_t rows = tile.p * op.sizes[ROWS] * op.sizes[COLUMNS], height = strip_rows(op, sizeof(floating))
        Py_ssize_t count = (rows + height - 1) // height, i, first, stop
        floating* P = <floating*> svdfast_strip()
    if in_place(op, tile, floating is double):
        convolution_gradient(<const svdfast_window*> op.sizes, tile.p, op.sizes[CHANNELS], op.n, <const float*> tile.X,
                             <const float*> tile.dY, begin, end, accumulate, <float*> g)
        return
    for i in range(count):
        first, stop = part(i, rows, count), part(i + 1, rows, count)
        patches[floating](op, tile, first, stop, P)
        gemm[floating](tile.bfloat16, True, False, end - begin, op.m, stop - first,
                       <const floating*> tile.dY + first * op.n + begin, op.n, P, op.m, accumulate or i > 0, g, op.m)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], <Gradient> gradient[float], packed_size, pack, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], <Gradient> gradient[double], NULL, NULL, NULL)
KIND = capsule(kinds)
