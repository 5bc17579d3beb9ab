"""Strips: how pooling kernels turn short rows of images into long vector loops.

A window's taps lie ``stride`` apart from those of its neighbour, and rows are often shorter than a few vector
registers. So the kernels copy a *strip*, some output rows of a plane or several small planes, into a scratch
buffer sorted by phase: pixel ``(row, column)`` of the padded image goes to phase
``(row % stride_rows, column % stride_columns)``, line ``row // stride_rows``, cell ``column // stride_columns``.
There the values of one tap for *all* windows of the strip, over the ends of rows and planes, are one contiguous
run, and the loop over windows is an ordinary vector loop whatever the stride. Cells between the rows compute
values that nobody reads.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from pytensor_convnet.kernels.cpu.chunks import part

SCRATCH_CELLS = 4096
"""Cells of a strip: in float32 a strip and its results fill half of a 32 KiB level 1 cache."""

CACHE_LINE_BYTES = 64


@intrinsic
def run(typing_context, array, indices, length):
    """The ``length`` elements from ``array[indices]`` on, as a contiguous vector.

    The caller knows that they are adjacent and inside, and keeps ``array`` alive: the vector holds no
    reference, because counting references from several threads costs more than copying a row.
    """
    vector = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def codegen(context, builder, signature, arguments):
        array_type, indices_type, _ = signature.args
        source = context.make_array(array_type)(context, builder, arguments[0])
        positions = cgutils.unpack_tuple(builder, arguments[1], indices_type.count)
        pointer = cgutils.get_item_pointer(context, builder, array_type, source, positions)
        result = context.make_array(vector)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        context.populate_array(
            result, data=pointer, shape=[arguments[2]], strides=[itemsize], itemsize=itemsize, meminfo=None
        )
        return result._getvalue()

    return vector(array, indices, types.intp), codegen


@intrinsic
def fetch(typing_context, array, indices):
    """Start to read the cache line of ``array[indices]``, without waiting for it."""

    def codegen(context, builder, signature, arguments):
        array_type, indices_type = signature.args
        source = context.make_array(array_type)(context, builder, arguments[0])
        positions = cgutils.unpack_tuple(builder, arguments[1], indices_type.count)
        pointer = cgutils.get_item_pointer(context, builder, array_type, source, positions)
        address = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, indices), codegen


def lowest(array):
    """The value of ``array``'s dtype that no other is below."""
    raise NotImplementedError


@overload(lowest)
def _lowest(array):
    if isinstance(array.dtype, types.Float):
        return lambda array: -np.inf
    if isinstance(array.dtype, types.Boolean):
        return lambda array: False
    least = array.dtype.minval
    return lambda array: least


class Strips(NamedTuple):
    """How planes are cut into strips. A strip has several planes, or several rows of one, or one row."""

    planes: int
    rows: int
    bands: int  # strips that it takes to cover a plane's rows
    total: int  # strips of all planes
    row_phases: int
    column_phases: int
    lines: int  # of one plane in one phase
    pitch: int  # cells of a line
    cells: int  # of one phase, all planes


@part
def cut(planes, windows):
    """Cut ``planes`` planes into strips of about `SCRATCH_CELLS` cells."""
    row_phases = min(windows.stride_rows, windows.window_rows)
    column_phases = min(windows.stride_columns, windows.window_columns)
    overhang = (windows.window_rows - 1) // windows.stride_rows
    pitch = windows.out_columns + (windows.window_columns - 1) // windows.stride_columns
    line_cells = row_phases * column_phases * pitch
    # A strip loads `overhang` more lines than it has rows: not too many for too few.
    rows = max(SCRATCH_CELLS // line_cells - overhang, 1 + overhang // 4)
    planes_of_strip = 1
    if rows >= windows.out_rows:
        rows = windows.out_rows
        planes_of_strip = max(1, min(planes, SCRATCH_CELLS // (line_cells * (rows + overhang))))
    lines = rows + overhang
    bands = (windows.out_rows + rows - 1) // rows
    total = bands * ((planes + planes_of_strip - 1) // planes_of_strip)
    cells = planes_of_strip * lines * pitch
    return Strips(planes_of_strip, rows, bands, total, row_phases, column_phases, lines, pitch, cells)


@part
def place(strip, strips, windows, planes):
    """Where a strip lies: its first plane, number of planes, first row, number of rows."""
    first_plane = strip // strips.bands * strips.planes
    first_row = strip % strips.bands * strips.rows
    return (
        first_plane,
        min(strips.planes, planes - first_plane),
        first_row,
        min(strips.rows, windows.out_rows - first_row),
    )


@part
def _copy_every(source, target, step):
    """``target[t] = source[t * step]``."""
    for t in range(target.size):
        target[t] = source[step * t]


@part
def new_scratch(filling, images, strips, windows):
    """A scratch buffer full of ``filling``, and where in its lines the images go.

    The second is, for each column phase, the first cell inside the image, the first cell after it and the column
    of the former. The cells outside are padding; they keep their filling from strip to strip.
    """
    scratch = np.empty(strips.row_phases * strips.column_phases * strips.cells, images.dtype)
    scratch[:] = filling
    insides = np.empty((strips.column_phases, 3), np.int64)
    step = windows.stride_columns
    for phase in range(strips.column_phases):
        origin = phase - windows.left
        begin = min(strips.pitch, (max(0, -origin) + step - 1) // step)
        end = max(begin, min(strips.pitch, (windows.columns - origin + step - 1) // step))
        insides[phase, 0], insides[phase, 1], insides[phase, 2] = begin, end, origin + begin * step
    return scratch, insides


@part
def _load_line(images, b, c, row, scratch, start, insides, strips, windows):
    """Copy one row of an image to its line, which begins at ``start``, in every column phase."""
    step = windows.stride_columns
    adjacent = images.strides[3] == images.itemsize
    for phase in range(strips.column_phases):
        begin, end, first = insides[phase, 0], insides[phase, 1], insides[phase, 2]
        line = run(scratch, (start + phase * strips.cells + begin,), end - begin)
        # With a constant step the loop becomes vector loads and shuffles.
        if adjacent and step == 1:
            _copy_every(run(images, (b, c, row, first), line.size), line, 1)
        elif adjacent and step == 2:
            _copy_every(run(images, (b, c, row, first), 2 * line.size - 1), line, 2)
        else:
            for t in range(line.size):
                line[t] = images[b, c, row, first + t * step]


@part
def _fetch_row(images, b, c, row, windows):
    """Start to read a row of an image, if there is such a row."""
    if row < windows.rows:
        for column in range(0, windows.columns, CACHE_LINE_BYTES // images.itemsize):
            fetch(images, (b, c, row, column))


@part
def load_strip(images, scratch, insides, filling, where, strips, windows):
    """Copy a strip of padded images into ``scratch``, sorted by phase; rows of padding become ``filling``.

    Beside each row, the processor is told to read what the next strip has in its place: short rows with work
    between them are too irregular for it to foresee, and every line of memory would be waited for.
    """
    first_plane, planes, first_row, rows = where
    origin = first_row * windows.stride_rows - windows.top
    needed = (rows - 1) * windows.stride_rows + windows.window_rows
    phase_cells = strips.column_phases * strips.cells
    planes_ahead = strips.planes if strips.bands == 1 else 0
    rows_ahead = strips.rows * windows.stride_rows if strips.bands > 1 else 0
    last_plane = images.shape[0] * images.shape[1] - 1
    for p in range(planes):
        b, c = divmod(first_plane + p, images.shape[1])
        next_b, next_c = divmod(min(first_plane + p + planes_ahead, last_plane), images.shape[1])
        phase, start = 0, p * strips.lines * strips.pitch
        for row in range(origin, origin + needed):
            if phase < strips.row_phases:
                if 0 <= row < windows.rows:
                    _fetch_row(images, next_b, next_c, row + rows_ahead, windows)
                    _load_line(images, b, c, row, scratch, start, insides, strips, windows)
                else:
                    for column_phase in range(strips.column_phases):
                        run(scratch, (start + column_phase * strips.cells,), strips.pitch)[:] = filling
            phase, start = phase + 1, start + phase_cells
            if phase == windows.stride_rows:
                phase, start = 0, start - windows.stride_rows * phase_cells + strips.pitch


@part
def tap_start(i, j, strips, windows):
    """Where in the scratch the run of tap ``(i, j)`` begins."""
    phase = (i % windows.stride_rows) * strips.column_phases + j % windows.stride_columns
    return phase * strips.cells + (i // windows.stride_rows) * strips.pitch + j // windows.stride_columns
