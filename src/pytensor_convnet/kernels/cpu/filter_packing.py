"""Filters in the order in which a correlation's register blocks read them."""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.column_reads import READS, reads_at
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import array_data
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import MOST_POINTS, transform_filters
from pytensor_convnet.kernels.cpu.packing import AXIS, block_filters, ceil_div
from pytensor_convnet.kernels.cpu.register_blocks import MOST_FILTERS
from pytensor_convnet.kernels.cpu.structures import array_fields, view


def _regroup(context, builder, signature, given, group):
    """An array on all the memory of ``given``, whose shape and strides ``group`` makes of the given ones."""
    (given_type, *_), result = signature.args, signature.return_type
    fields = (array_fields(context, builder, given_type, given, name) for name in ("shape", "strides"))
    data = array_data(context, builder, given_type, given)
    array = view(context, builder, result, given_type, given, data, *group(*fields))
    if context.enable_nrt:
        context.nrt.incref(builder, result, array)
    return array


@intrinsic
def split_groups(typing_context, filters, groups):
    """Filters ``(filters, channels, rows, columns)`` as ``(groups, filters // groups, channels, rows, columns)``.

    A view, whatever the strides; Numba's `reshape` wants contiguous arrays.
    """
    result = types.Array(filters.dtype, 5, "A", readonly=True)

    def codegen(context, builder, signature, arguments):
        given, groups = arguments

        def group(lengths, steps):
            part = builder.sdiv(lengths[0], groups)
            return [groups, part, *lengths[1:]], [builder.mul(part, steps[0]), *steps]

        return _regroup(context, builder, signature, given, group)

    return result(filters, types.intp), codegen


@intrinsic
def swap_roles(typing_context, filters):
    """Filters ``(groups, filters, channels, rows, columns)`` with the axes of filters and channels exchanged.

    Numba's `transpose` does the same and takes a second to compile.
    """

    def codegen(context, builder, signature, arguments):
        def swap(*numbers):
            return [[groups, channels, count, *taps] for groups, count, channels, *taps in numbers]

        return _regroup(context, builder, signature, arguments[0], swap)

    return filters(filters), codegen


MOST_PRODUCTS = 192
"""Products that a register block adds up at a time, a *panel*. What it reads of the inputs then stays in first-level
cache while one block of filters after the other meets it, and a panel of all filters in second-level cache while
one row after the other does."""


class FilterOrder(NamedTuple):
    """Where packed filters are. The order is that in which register blocks read them::

        for group: for row phase: for column phase: for point: for panel: for block of filters:
            for product in panel: for filter in block

    where products are numbered by row tap, channel, read; a point has those of `reads_at`, and room for all.
    """

    groups: int
    filters: int
    channels: int


@leaf_part
def packed_filters_size(rows, reads, order):
    """Numbers in all packed filters."""
    return order.groups * order.filters * order.channels * rows.taps.size * reads.offsets.size * reads.points


@leaf_part
def packed_filters_at(group, row_phase, column_phase, point, rows, reads, order):
    """Where the filters of a group and phases begin, for one point."""
    row_taps = rows.starts[row_phase + 1] - rows.starts[row_phase]
    number_of_reads = reads.first[column_phase + 1] - reads.first[column_phase]
    in_row = reads.points * reads.offsets.size
    earlier = (group * rows.taps.size + rows.starts[row_phase]) * in_row
    earlier += row_taps * (reads.points * reads.first[column_phase] + point * number_of_reads)
    return earlier * order.filters * order.channels


@leaf_part
def panel_size(depth):
    """Products in a panel of filters that sum ``depth`` of them: panels are alike."""
    return max(1, ceil_div(depth, max(1, ceil_div(depth, MOST_PRODUCTS))))


class _Point(NamedTuple):
    """Where one point's filters of a phase are, and the reads that it has."""

    at: int
    begin: int
    end: int
    depth: int
    panel: int
    stop: int
    """Where its room ends. There is room for all products, also those that the point does not have."""


@leaf_part
def _describe_point(point, group, row_phase, column_phase, rows, reads, order):
    begin, end = reads_at(point, column_phase, reads)
    lines = (rows.starts[row_phase + 1] - rows.starts[row_phase]) * order.channels
    at = packed_filters_at(group, row_phase, column_phase, point, rows, reads, order)
    room = order.filters * lines * (reads.first[column_phase + 1] - reads.first[column_phase])
    depth = lines * (end - begin)
    return _Point(at, begin, end, depth, panel_size(depth), at + room)


@leaf_part
def _packed_at(line, read, point, first, count, order):
    """Where the filters ``first`` to ``first + count`` of a product are; a *line* is a row of a channel's taps."""
    if not point.begin <= read < point.end:
        return point.stop - count
    product = line * (point.end - point.begin) + read - point.begin
    panel = product - product % point.panel
    return point.at + order.filters * panel + first * min(point.panel, point.depth - panel) + (product - panel) * count


@plain_part
def _pack_block(filters, group, first, count, rows, reads, order, packed):
    """Transform and pack one block of filters."""
    taps, last = reads.taps.shape[1], reads.points - 1
    numbers, narrow = (
        new_array((taps, MOST_FILTERS), np.float64),
        new_array((MOST_POINTS * MOST_FILTERS,), packed.dtype),
    )
    numbers[:] = 0
    for row_phase in range(rows.out_step):
        row_taps = rows.taps[rows.starts[row_phase] : rows.starts[row_phase + 1]]
        for column_phase in range(reads.first.size - 1):
            zero = _describe_point(0, group, row_phase, column_phase, rows, reads, order)
            infinity = _describe_point(last, group, row_phase, column_phase, rows, reads, order)
            between = _describe_point(min(1, last), group, row_phase, column_phase, rows, reads, order)
            step = between.at - zero.at
            for channel in range(order.channels):
                for t in range(row_taps.size):
                    some = filters[group, first : first + count, channel, row_taps[t]]
                    line = t * order.channels + channel
                    for read in range(reads.first[column_phase], reads.first[column_phase + 1]):
                        for tap in range(taps):
                            column = reads.taps[read, tap]
                            if column < 0:
                                numbers[tap] = 0
                            else:
                                for f in range(count):
                                    numbers[tap, f] = some[f, column]
                        at_zero = _packed_at(line, read, zero, first, count, order)
                        at_infinity = _packed_at(line, read, infinity, first, count, order)
                        at_others = _packed_at(line, read, between, first, count, order)
                        if count == MOST_FILTERS:
                            transform_filters(reads.form, numbers, packed, at_zero, at_infinity, at_others, step)
                            continue
                        transform_filters(
                            reads.form, numbers, narrow, 0, last * MOST_FILTERS, MOST_FILTERS, MOST_FILTERS
                        )
                        for f in range(count):
                            packed[at_zero + f] = narrow[f]
                            packed[at_infinity + f] = narrow[last * MOST_FILTERS + f]
                            for point in range(1, last):
                                packed[at_others + (point - 1) * step + f] = narrow[point * MOST_FILTERS + f]


def _pack_signature(number):
    filters = types.Array(number, 5, "A", readonly=True)
    return filters, AXIS, READS, types.NamedUniTuple(types.intp, 3, FilterOrder), number[::1]


@chunked(_pack_signature)
@plain_part
def pack_filters(chunk, chunks, filters, rows, reads, order, packed):
    """Write chunk ``chunk`` of filters ``(groups, filters, channels, rows, columns)``, transformed, to ``packed``."""
    blocks = 0
    first = 0
    while first < order.filters:
        first += block_filters(order.filters - first)
        blocks += 1
    number = 0
    for group in range(order.groups):
        first = 0
        while first < order.filters:
            count = block_filters(order.filters - first)
            if number * chunks // (blocks * order.groups) == chunk:
                _pack_block(filters, group, first, count, rows, reads, order, packed)
            first += count
            number += 1
