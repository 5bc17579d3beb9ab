"""Pieces of the pooling kernels: where a program stands, how it reads taps of windows, what sums of windows are
divided by, how it stores patches of pixels.

Pointers are computed once for a program and moved by whole rows and columns, as constants where these are: address
arithmetic would otherwise take longer than all else. `LENGTHS` are not specialised by their alignment: what is aligned
only by chance in some shapes makes Triton prefer orders of threads that read strided pixels badly.
"""

import triton
import triton.language as tl

LENGTHS = (
    "strips", "strips_each", "cells", "units", "rows", "columns", "out_rows", "out_columns",
)  # fmt: skip
"""The arguments of pooling kernels that are lengths."""


@triton.jit
def tile_place(cells, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr):
    """The numbers of the strips and of the cells that a program computes."""
    tiles = tl.cdiv(cells, TILE_CELLS)
    program = tl.program_id(0)
    strip = (program // tiles) * TILE_STRIPS + tl.arange(0, TILE_STRIPS)
    cell = (program % tiles) * TILE_CELLS + tl.arange(0, TILE_CELLS)
    if WIDE:
        strip, cell = strip.to(tl.int64), cell.to(tl.int64)
    return strip, cell


@triton.jit
def no_tensors():
    """An empty tuple, for a tensor after the other to be added."""
    return ()


@triton.jit
def vectors_at(row_offset, cell_offset, VECTOR: tl.constexpr):
    """Offsets (strips, cells, VECTOR) of vectors; the arguments count in vectors."""
    start = (row_offset[:, None] + cell_offset[None, :]) * VECTOR
    return start[:, :, None] + tl.arange(0, VECTOR)[None, None, :]


@triton.jit
def both(strips, cells):
    """The mask (strips, cells, 1) of where both hold."""
    return (strips[:, None] & cells[None, :])[:, :, None]


@triton.jit
def working(values):
    """Narrow floats as float32: what is exact in them stays exact, and sums do not overflow.

    bfloat16 is the upper half of float32. Told so, the compiler does not return to comparing bfloat16, which is slow.
    """
    if values.dtype == tl.bfloat16:
        return (values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif values.dtype == tl.float16:
        return values.to(tl.float32)
    else:
        return values


@triton.jit
def beats(value, best):
    """Where a value takes the place of the best so far: it is greater, or NaN, and the best is not NaN."""
    if value.dtype.is_floating():
        return (best == best) & ~(value <= best)
    else:
        return value > best


@triton.jit
def load(pointers, inside, fill):
    """What lies at ``pointers``, and ``fill`` where there is nothing inside.

    (Triton 3.6 fills vectors of narrow integers with -1 where it is told another negative number.)
    """
    if pointers.dtype.element_ty.is_floating():
        return tl.load(pointers, mask=inside, other=fill)
    else:
        value = tl.load(pointers, mask=inside, other=0)
        return tl.where(inside, value, tl.full(value.shape, fill, value.dtype))


@triton.jit
def first_pixels(
    pixels, line, cell, units, STRIDE: tl.constexpr, LEFT: tl.constexpr, PAIRED: tl.constexpr, VECTOR: tl.constexpr
):
    """Pointers to the first tap of each window, of rows of pixels that begin at ``line``; if PAIRED, see `load_tap`."""
    if PAIRED:
        return pixels + (line[:, None] + pair_columns(cell)[None, :])
    else:
        x, unit = cell // units, cell % units
        return pixels + vectors_at(line, (x * STRIDE - LEFT) * units + unit, VECTOR)


@triton.jit
def pair_columns(cell):
    """The columns of pairs of pixels, of which each cell has one."""
    return 2 * tl.min(cell, axis=0) + tl.arange(0, 2 * cell.shape[0])


@triton.jit
def load_tap(
    first, row_inside, cell, cells, columns, units, fill, j: tl.constexpr, STRIDE: tl.constexpr, LEFT: tl.constexpr,
    PAIRED: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Tap j of a row of taps of every window, (strips, cells, VECTOR); ``fill`` where that is outside the image.

    PAIRED is for windows that move by two columns over pixels of one number. Reading every second pixel takes as many
    accesses as reading all, so a tap is read with the pixel beside it; the compiler sees that another tap reads both
    too.
    """
    if PAIRED:
        parity: tl.constexpr = (j - LEFT) % 2
        shift: tl.constexpr = j - LEFT - parity
        column = pair_columns(cell) + shift
        inside = row_inside[:, None] & ((column >= 0) & (column < columns))[None, :]
        pair = load(first + shift, inside, fill)
        even, odd = tl.split(tl.reshape(pair, (pair.shape[0], cell.shape[0], 2)))
        if parity == 0:
            return even[:, :, None]
        else:
            return odd[:, :, None]
    else:
        column = cell // units * STRIDE - LEFT + j
        inside = both(row_inside, (cell < cells) & (column >= 0) & (column < columns))
        return load(first + j * units * VECTOR, inside, fill)


@triton.jit
def store_patch(
    sums, images, plane, strip_inside, patch_row, cell, cells, units, rows, columns, PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr, PAIRED: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store patches of pixels, of which ``sums`` holds a tensor (strips, cells, VECTOR) each.

    Where a pixel is one number and patches are two columns wide (PAIRED), both are stored side by side.
    """
    line = (plane * rows + patch_row * PATCH_ROWS) * columns * units
    first = first_pixels(images, line, cell, units, PATCH_COLUMNS, 0, PAIRED, VECTOR)
    for r in tl.static_range(PATCH_ROWS):
        row_inside = strip_inside & (patch_row * PATCH_ROWS + r < rows)
        at = first + r * columns * units * VECTOR
        if PAIRED:
            pair = tl.join(sums[2 * r], sums[2 * r + 1])
            pair = tl.reshape(pair, (pair.shape[0], 2 * pair.shape[1]))
            inside = row_inside[:, None] & (pair_columns(cell) < columns)[None, :]
            tl.store(at, pair.to(images.dtype.element_ty), mask=inside)
        else:
            for q in tl.static_range(PATCH_COLUMNS):
                inside = both(row_inside, (cell < cells) & (cell // units * PATCH_COLUMNS + q < columns))
                value = sums[r * PATCH_COLUMNS + q].to(images.dtype.element_ty)
                tl.store(at + q * units * VECTOR, value, mask=inside)


@triton.jit
def _counted(start, length, WINDOW: tl.constexpr, AFTER: tl.constexpr, MODE: tl.constexpr):
    """How many taps along one axis count, of windows that start at pixel ``start``."""
    if MODE == 2:
        count = tl.minimum(start + WINDOW, length) - tl.maximum(start, 0)
    else:
        count = tl.minimum(start + WINDOW, length + AFTER) - start
    return tl.maximum(count, 1)  # of what is no window, too


@triton.jit
def window_share(
    y, x, rows, columns, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr,
    STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, BELOW: tl.constexpr, BESIDE: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """What the sums of windows y, x are divided by, (strips, cells, 1); for MODE see `average_pooling.MODES`."""
    if MODE == 0:
        return tl.full((y.shape[0], x.shape[0], 1), 1, tl.int32)
    else:
        high = _counted(y * STRIDE_ROWS - TOP, rows, WINDOW_ROWS, BELOW, MODE)
        wide = _counted(x * STRIDE_COLUMNS - LEFT, columns, WINDOW_COLUMNS, BESIDE, MODE)
        return (high[:, None] * wide[None, :])[:, :, None]
