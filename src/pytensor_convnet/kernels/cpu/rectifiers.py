"""Planes of images biased and rectified, and planes of gradients muted where a rectifier muted its images.

Rows are contiguous; where they follow each other, a plane is one row.
"""

import functools
import operator

from llvmlite import ir

from pytensor_convnet.kernels.cpu.emission import emitted
from pytensor_convnet.kernels.cpu.llvm import item_bytes


def rectified(e, pixels, bias):
    """Vectors biased and rectified. NaN stays NaN, and what is -inf, as padding may be, becomes zero."""
    biased = pixels + bias
    return e.select(biased < 0, e.constant(biased.type, 0), biased)


def _along_rows(e, vector, sources, columns, rows, target, of_numbers):
    """Write ``columns`` numbers of each of ``rows`` contiguous rows to ``target``, a vector of them at a time.

    ``of_numbers(*vectors)`` gives what they are, of a vector from each source; those are an address and the bytes from
    one row to the next.
    """
    item, lanes = item_bytes(vector), vector.count
    joined = functools.reduce(operator.and_, (row_bytes.equals(columns * item) for _, row_bytes in sources))
    rows, columns = e.select(joined, e.integer(1), rows), e.select(joined, rows * columns, columns)
    whole = columns // lanes * lanes
    with e.range(0, rows) as row:
        lines, line = [place + row * row_bytes for place, row_bytes in sources], target + row * columns * item
        with e.range(0, whole * item, lanes * item) as offset:
            e.store(line + offset, of_numbers(*(e.load(vector, place + offset) for place in lines)))
        with e.when(whole < columns):
            few, offset = columns - whole, whole * item
            last = [e.load_first(place + offset, few, e.constant(vector, 0)) for place in lines]
            e.store_first(line + offset, few, of_numbers(*last))


@emitted(arrays=1)
def rectify_plane(e, vector, source, row_bytes, rows, columns, bias_at, target):
    """Copy a plane, biased and rectified."""
    bias = e.splat(vector, e.load(vector.element, bias_at))
    _along_rows(
        e, vector, [(source, row_bytes)], columns, rows, target, lambda pixels: rectified(e, pixels, bias)
    )  # fmt: skip


@emitted(arrays=1)
def mute_planes(
    e, vector, planes, source, plane_bytes, row_bytes, rows, columns, biases_at, gradients, gradients_plane,
    gradients_row, target, sums_at,
):  # fmt: skip
    """Copy neighbouring planes of gradients, zero where biased images are negative or NaN, and add each up, by lanes.

    They may be at ``target`` already. The sums, one for each plane and lane, have 64 bits.
    """
    wide = ir.VectorType(ir.DoubleType(), vector.count)
    with e.range(0, planes) as plane:
        bias = e.splat(vector, e.load(vector.element, biases_at + plane * item_bytes(vector)))
        place = sums_at + plane * (8 * vector.count)
        total = e.variable(e.load(wide, place))

        def muted(pixels, values, bias=bias, total=total):
            shown = e.select(pixels + bias >= 0, values, 0)
            total.set(total.get() + shown.widened())
            return shown

        sources = [(source + plane * plane_bytes, row_bytes), (gradients + plane * gradients_plane, gradients_row)]
        _along_rows(e, vector, sources, columns, rows, target + plane * rows * columns * item_bytes(vector), muted)
        e.store(place, total.get())
