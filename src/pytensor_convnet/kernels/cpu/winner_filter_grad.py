"""The gradient of a correlation with respect to its filters where its maps were max pooled, from winners alone.

Of the maps' gradient all but the pixels that won are zero: three of four for windows of 2 x 2. So the sum runs over
windows, not over pixels; each has one patch of an image (`patches`), which its value is multiplied with. No minimal
filtering here: that saves a half, or a little more.
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
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    ceil_div,
    correlation_axis,
    integers,
    new_runs,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.patches import lines_of, pack_patches, plan_patches
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS
from pytensor_convnet.kernels.cpu.simd import copy_run
from pytensor_convnet.kernels.cpu.winner_blocks import (
    BLOCK_RUNS,
    BLOCK_VECTORS,
    list_winners,
    place_windows,
    sum_patches,
)
from pytensor_convnet.kernels.cpu.winner_planning import PASS, Pass, plan_bands

_TASKS = 32
"""Pieces into which the work is cut. Fixed, so that the order of summation, and with it the result, does not
depend on the number of threads."""

_FEWEST_TASKS = 8
"""So few only if the sums of a piece are large."""

_ALL_BYTES = 2 << 20
"""Sums of all pieces, if there are more than the fewest."""


class Winners(NamedTuple):
    """Memory for a list of winners' places and values, and where in the maps all windows of a plane begin."""

    places: np.ndarray
    values: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


@plain_part
def _new_winners(listed, windows, like):
    """Memory for ``listed`` entries."""
    lanes = VECTOR_BYTES // like.itemsize
    w = windows
    size, plane = ceil_div(listed, lanes) + 1, ceil_div(w.out_rows * w.out_columns, lanes) + 1
    found = Winners(vectors(size, like), vectors(size, like), vectors(plane, like), vectors(plane, like))
    place_windows(
        like, w.out_rows, w.out_columns, w.stride_rows, w.stride_columns, w.top, w.left,
        address_of(found.rows), address_of(found.columns),
    )  # fmt: skip
    return found


@leaf_part
def _list_plane(winners, maps, windows, plane, first_y, end_y, patches, rows, shift, count, found):
    """Append the places of a plane's rows of windows to those of ``count``; how many vectors have misfits."""
    w, item = windows, maps.itemsize
    before = first_y * w.out_columns
    return list_winners(
        maps, winners, address_of(winners) + (plane * w.out_rows * w.out_columns + before) * winners.itemsize,
        (end_y - first_y) * w.out_columns, w.window_rows, w.window_columns,
        address_of(found.rows) + before * item, address_of(found.columns) + before * item, w.rows, w.columns,
        rows.in_step * patches.row_step, patches.column_step, shift, address_of(found.places) + count * item,
    )  # fmt: skip


@leaf_part
def _block_runs(left):
    """Runs of the next block when so many are left."""
    for runs in BLOCK_RUNS:
        if runs <= left:
            return runs
    return 1


@leaf_part
def _sum_listed(images, packed, found, values, count, patches, out):
    """Add a list's patches to a filter's sums at the address ``out``; the listed values are at ``values``."""
    p = patches
    pieces = ceil_div(p.vectors, BLOCK_VECTORS)
    for piece in range(pieces):
        v = piece * p.vectors // pieces
        some = (piece + 1) * p.vectors // pieces - v
        r = 0
        while r < p.runs:
            runs = _block_runs(p.runs - r)
            sum_patches(
                images, runs, some, address_of(packed) + r * p.run_step + v * VECTOR_BYTES,
                address_of(found.places), values, count, p.run_step,
                out + (p.at + r * p.vectors + v) * VECTOR_BYTES, p.vectors * VECTOR_BYTES,
            )  # fmt: skip
            r += runs


@leaf_part
def _sum_unit(
    unit, group, images, winners, maps, sums, windows, rows, columns, plan, p, bands, packed, flat, runs, found
):  # fmt: skip
    """Some images' band of a block of channels: pack it; for each filter list winners and add their patches.

    Returns how many vectors have misfits.
    """
    w, item = windows, images.itemsize
    some, band = divmod(unit, bands.number)
    first_image, end_image = some * bands.images, min(images.shape[0], (some + 1) * bands.images)
    first_y, end_y = band * bands.rows, min(w.out_rows, (band + 1) * bands.rows)
    if first_y >= end_y:
        return 0
    top = max(0, first_y * w.stride_rows - w.top)
    bottom = min(w.rows, (end_y - 1) * w.stride_rows - w.top + w.window_rows)
    for image in range(first_image, end_image):
        pack_patches(
            images, image, group * plan.channels, p, rows, columns, top * rows.in_step, lines_of(bottom - top, p, rows),
            flat, packed, (image - first_image) * bands.nbytes, runs,
        )  # fmt: skip
    size, misfits = (end_y - first_y) * w.out_columns, 0
    for f in range(group * plan.filters, (group + 1) * plan.filters):
        count, misfitting, values = 0, 0, address_of(found.values)
        for image in range(first_image, end_image):
            shift = (image - first_image) * bands.nbytes - top * rows.in_step * p.row_step
            plane = image * maps.shape[1] + f
            misfitting += _list_plane(winners, maps, w, plane, first_y, end_y, p, rows, shift, count, found)
            byte = (plane * w.out_rows + first_y) * w.out_columns * item
            if end_image - first_image > 1:
                copy_run(maps, byte, found.values, count * item, size, False)
            else:
                values = address_of(maps) + byte
            count += size
        misfits += misfitting
        if misfitting == 0:
            out = address_of(sums) + f * plan.vectors * VECTOR_BYTES
            _sum_listed(images, packed, found, values, count, p, out)
    return misfits


def _sums_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    return images, WINNERS, images, number[:, ::1], types.intp[::1], WINDOWS, AXIS, AXIS, PASS


@chunked(_sums_signature)
@plain_part
def _sum_slices(chunk, chunks, images, winners, maps, partials, misfits, windows, rows, columns, plan):
    """Chunk ``chunk`` of all slices of the work::

        for group: for block of channels: for some images: for band of rows of windows:
            pack the lines that the windows' pixels see
            for filter: list winners; add their patches to the filter's sums

    Floor: that of `sum_patches`, for each window.
    """
    lanes = VECTOR_BYTES // images.itemsize
    listed, nbytes = 0, 0
    for block in range(plan.blocks):
        p = plan_patches(block, plan.channels, rows, columns, 0, lanes)
        bands = plan_bands(images.shape[0], windows, p, rows)
        listed = max(listed, bands.images * bands.rows * windows.out_columns)
        nbytes = max(nbytes, bands.images * bands.nbytes)
    packed = vectors(nbytes // VECTOR_BYTES, images)
    width = (columns.outputs - 1) * columns.in_step + columns.span
    flat = vectors(2 * width + columns.taps.size + 2, images)
    runs, found = new_runs(1, lanes), _new_winners(listed, windows, images)
    misfits[chunk] = 0
    slices = partials.shape[0]
    for slice_ in range(chunk * slices // chunks, (chunk + 1) * slices // chunks):
        sums = partials[slice_]
        sums[:] = 0
        for group in range(plan.groups):
            at = 0
            for block in range(plan.blocks):
                p = plan_patches(block, plan.channels, rows, columns, at, lanes)
                at += p.runs * p.vectors
                bands = plan_bands(images.shape[0], windows, p, rows)
                units = ceil_div(images.shape[0], bands.images) * bands.number
                for unit in range(slice_ * units // slices, (slice_ + 1) * units // slices):
                    misfits[chunk] += _sum_unit(
                        unit, group, images, winners, maps, sums, windows, rows, columns, plan, p, bands,
                        packed, flat, runs, found,
                    )  # fmt: skip


def _gradient_signature(number):
    return number[:, ::1], types.Array(number, 4, "A"), AXIS, AXIS, PASS


@chunked(_gradient_signature)
@plain_part
def _add_slices(chunk, chunks, partials, gradient, rows, columns, plan):
    """Chunk ``chunk`` of all filters: add up their sums in all slices, in order, and place them."""
    lanes = VECTOR_BYTES // partials.itemsize
    filters, size = gradient.shape[0], plan.vectors * lanes
    total = vectors(plan.vectors, partials)
    for f in range(chunk * filters // chunks, (chunk + 1) * filters // chunks):
        total[:] = 0
        for slice_ in range(partials.shape[0]):
            more = partials[slice_, f * size : (f + 1) * size]
            for i in range(size):
                total[i] += more[i]
        at = 0
        for block in range(plan.blocks):
            p = plan_patches(block, plan.channels, rows, columns, at, lanes)
            at += p.runs * p.vectors
            for r in range(rows.taps.size):
                run, t = divmod(r, p.joined)
                for s in range(columns.taps.size):
                    place = (p.at + run * p.vectors) * lanes + s * p.apart + t * p.channels
                    for c in range(p.channels):
                        gradient[f, p.first + c, r, s] = total[place + c]


def _filter_grad_signature(number):
    source = types.Array(number, 4, "A", readonly=True)
    return types.intp(source, WINNERS, source, types.Array(number, 4, "A"), WINDOWS, *SLIDING)


@detached(_filter_grad_signature)
@plain_part
def filter_grad_of_winners(images, winners, maps, gradient, windows, stride, padding, dilation, groups):
    """The gradient for filters, into ``gradient``; returns how many vectors of winners do not fit."""
    count, channels, row_taps, column_taps = gradient.shape
    rows = correlation_axis(windows.rows, images.shape[2], row_taps, stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(windows.columns, images.shape[3], column_taps, stride[1], padding[1][0], dilation[1])
    lanes = VECTOR_BYTES // images.itemsize
    blocks, at = ceil_div(channels, lanes), 0
    for block in range(blocks):
        p = plan_patches(block, channels, rows, columns, at, lanes)
        at += p.runs * p.vectors
    plan = Pass(groups, count // groups, channels, blocks, at)
    size = count * plan.vectors
    slices = max(_FEWEST_TASKS, min(_TASKS, _ALL_BYTES // (size * VECTOR_BYTES)))
    slices = min(slices, images.shape[0] * windows.out_rows)
    threads = useful_threads(images.shape[0] * windows.out_rows * windows.out_columns * gradient.size)
    partials = new_array((slices, size * lanes), images.dtype)
    misfits = integers(threads)
    misfits[:] = 0
    _sum_slices(threads, images, winners, maps, partials, misfits, windows, rows, columns, plan)
    _add_slices(threads, partials, gradient, rows, columns, plan)
    total = 0
    for found in misfits:
        total += found
    return total
