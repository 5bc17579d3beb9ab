"""The gradient of a correlation with respect to its images where its maps were max pooled, from winners alone.

Each pixel that won adds the weights of its filters, times what they are worth, to the patch that it saw (`patches`). To
keep the sums in registers, the winners of all filters are sorted by the pixel first.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.checks import SLIDING
from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.emission import address_of
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.lane_pooling import WINNERS
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.packing import AXIS, ceil_div, correlation_axis, integers, useful_threads, vectors
from pytensor_convnet.kernels.cpu.patches import plan_sharing_patches, rows_together, sharing_blocks, unpack_patches
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS
from pytensor_convnet.kernels.cpu.winner_blocks import add_listed, move_entries, sort_winners
from pytensor_convnet.kernels.cpu.winner_planning import PASS, Pass

_LISTED = 4096
"""Winners that are sorted at once."""


@plain_part
def _pack_weights(filters, rows, columns, plan):
    """Filters ``(groups, filters, channels, rows, columns)`` by group, block, run and filter, as patches."""
    lanes = VECTOR_BYTES // filters.itemsize
    groups, count = filters.shape[:2]
    weights = vectors(groups * count * plan.vectors, filters)
    weights[:] = 0
    at = 0
    for group in range(groups):
        for block in range(plan.blocks):
            p = plan_sharing_patches(block, plan.blocks, plan.channels, rows, columns, lanes)
            for r in range(p.runs):
                for f in range(count):
                    for s in range(columns.taps.size):
                        for c in range(p.channels):
                            weights[at + s * p.apart + c] = filters[group, f, p.first + c, r, s]
                    at += p.vectors * lanes
    return weights


class Lists(NamedTuple):
    """Memory for sorted winners: entries, lists of them, and those of one window."""

    places: np.ndarray
    values: np.ndarray
    lists: np.ndarray
    some_places: np.ndarray
    some_values: np.ndarray
    counts: np.ndarray


@plain_part
def _new_lists(filters, windows, like):
    lanes, taps = VECTOR_BYTES // like.itemsize, windows.window_rows * windows.window_columns
    entries = max(_LISTED, filters)
    return Lists(
        integers(entries + lanes), vectors(ceil_div(entries, lanes) + 1, like),
        integers(3 * entries), integers(taps * filters + lanes),
        vectors(ceil_div(taps * filters, lanes) + 1, like), integers(taps),
    )  # fmt: skip


@leaf_part
def _list_window(winners, maps, windows, plane, filters, window, p, rows, number, count, found):
    """Append a window's winners, sorted by tap, to ``number`` lists of ``count`` entries.

    Returns both, and how many do not fit.
    """
    w, item = windows, maps.itemsize
    planes = w.out_rows * w.out_columns
    at = plane * planes + window
    taps = w.window_rows * w.window_columns
    misfits = sort_winners(
        maps, winners, address_of(winners) + at * winners.itemsize, address_of(maps) + at * item, planes, filters, taps,
        p.vectors * VECTOR_BYTES, address_of(found.counts), address_of(found.some_places),
        address_of(found.some_values),
    )  # fmt: skip
    y, x = divmod(window, w.out_columns)
    for tap in range(taps):
        some = found.counts[tap]
        if some > 0:
            i, j = divmod(tap, w.window_columns)
            row, column = y * w.stride_rows - w.top + i, x * w.stride_columns - w.left + j
            if not (0 <= row < w.rows and 0 <= column < w.columns):
                misfits += 1
                continue
            found.lists[3 * number] = row * rows.in_step * p.row_step + column * p.column_step
            found.lists[3 * number + 1], found.lists[3 * number + 2] = count, count + some
            number += 1
            move_entries(
                maps, address_of(found.some_places) + tap * filters * 8,
                address_of(found.some_values) + tap * filters * item, some,
                address_of(found.places) + count * 8, address_of(found.values) + count * item,
            )  # fmt: skip
            count += some
    return number, count, misfits


def _images_signature(number):
    maps = types.Array(number, 4, "A", readonly=True)
    return WINNERS, maps, number[::1], number[:, :, :, ::1], types.intp[::1], WINDOWS, AXIS, AXIS, PASS


@chunked(_images_signature)
@plain_part
def _sum_images(chunk, chunks, winners, maps, weights, images, misfits, windows, rows, columns, plan):
    """Chunk ``chunk`` of all blocks of channels of all images::

        for image: for group: for block of channels:
            for some windows:
                for window: sort the winners of all filters by tap
                for run: for window: for tap: add the weights of the filters that it won
            write the block

    Floor: that of `add_listed`, for each winner; images written once.
    """
    item = maps.itemsize
    lanes = VECTOR_BYTES // item
    most, lines = 0, (windows.rows - 1) * rows.in_step + rows.span
    for block in range(plan.blocks):
        p = plan_sharing_patches(block, plan.blocks, plan.channels, rows, columns, lanes)
        most = max(most, p.row_step)
    lines = max(lines, rows.inputs - rows.first)
    packed = vectors(lines * most // VECTOR_BYTES + columns.taps.size + 1, images)
    run = ceil_div(rows_together(columns.inputs) * columns.inputs, lanes) * lanes
    folded, turned = vectors(run, images), vectors(run, images)
    found = _new_lists(plan.filters, windows, images)
    misfits[chunk] = 0
    planes, together = windows.out_rows * windows.out_columns, max(1, _LISTED // plan.filters)
    units = images.shape[0] * plan.groups * plan.blocks
    for unit in range(chunk * units // chunks, (chunk + 1) * units // chunks):
        image, part_ = divmod(unit, plan.groups * plan.blocks)
        group, block = divmod(part_, plan.blocks)
        p = plan_sharing_patches(block, plan.blocks, plan.channels, rows, columns, lanes)
        before = group * plan.filters * plan.vectors
        for earlier in range(block):
            q = plan_sharing_patches(earlier, plan.blocks, plan.channels, rows, columns, lanes)
            before += plan.filters * q.runs * q.vectors
        packed[:] = 0
        for first in range(0, planes, together):
            number, count = 0, 0
            for window in range(first, min(first + together, planes)):
                plane = image * maps.shape[1] + group * plan.filters
                number, count, misfitting = _list_window(
                    winners, maps, windows, plane, plan.filters, window, p, rows, number, count, found
                )  # fmt: skip
                misfits[chunk] += misfitting
            for r in range(p.runs):
                run = before + r * plan.filters * p.vectors
                add_listed(
                    images, p.vectors, address_of(weights) + run * VECTOR_BYTES, address_of(found.lists), number,
                    address_of(found.places), address_of(found.values), address_of(packed) + r * p.run_step,
                )  # fmt: skip
        unpack_patches(packed, p, rows, columns, images, image, group * plan.channels, folded, turned)


def _input_grad_signature(number):
    maps, filters = (types.Array(number, axes, "A", readonly=True) for axes in (4, 5))
    return types.intp(filters, WINNERS, maps, number[:, :, :, ::1], WINDOWS, *SLIDING[:3])


@detached(_input_grad_signature, loops=True)
@plain_part
def input_grad_of_winners(filters, winners, maps, images, windows, stride, padding, dilation):
    """The gradient for images and filters ``(groups, filters, channels, rows, columns)``, into ``images``; returns
    how many winners do not fit."""
    groups, count, channels, row_taps, column_taps = filters.shape
    lanes = VECTOR_BYTES // images.itemsize
    rows = correlation_axis(windows.rows, images.shape[2], row_taps, stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(windows.columns, images.shape[3], column_taps, stride[1], padding[1][0], dilation[1])
    blocks, size = sharing_blocks(channels, columns, lanes), 0
    for block in range(blocks):
        p = plan_sharing_patches(block, blocks, channels, rows, columns, lanes)
        size += p.runs * p.vectors
    plan = Pass(groups, count, channels, blocks, size)
    threads = useful_threads(images.shape[0] * windows.out_rows * windows.out_columns * filters.size)
    weights, misfits = _pack_weights(filters, rows, columns, plan), integers(threads)
    misfits[:] = 0
    _sum_images(threads, winners, maps, weights, images, misfits, windows, rows, columns, plan)
    total = 0
    for found in misfits:
        total += found
    return total
