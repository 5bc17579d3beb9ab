"""Locally connected correlation of bc01 images on the CPU: every output pixel has filters of its own.

    maps[b, f, y, x] = sum over c, i, j of  images[b, c, y * stride + i * dilation - top, ...]
                                            * filters[f, y, x, c, i, j]

The filters are as many as a dense layer's and each is used once an image, so with small batches all three
passes are bound by reading (or writing) the filters. Hence the order of the loops: a thread goes from output
pixel to output pixel, gathers the pixel's patch of every image, and walks each filter once along memory, its
taps ``(c, i, j)`` innermost.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.geometry import CORRELATION, MAPS, ShapeError, correlation_length, dilated_length
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import bytes_of, int64
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.structures import make_array
from pytensor_convnet.kernels.cpu.threads import thread_count

SERIAL_PRODUCTS = 1 << 15
"""Below so many multiplications, waking a thread takes longer than the work."""

PATCH_CELLS = 1 << 15
"""Patches of as many images are gathered at once as fit this many cells, well inside a level 2 cache."""


class Connection(NamedTuple):
    """Every number that the loops of a locally connected correlation need."""

    batch: int
    groups: int
    channels: int  # of one group
    filters: int  # of one group
    rows: int
    columns: int
    out_rows: int
    out_columns: int
    filter_rows: int
    filter_columns: int
    stride_rows: int
    stride_columns: int
    top: int
    left: int
    dilation_rows: int
    dilation_columns: int
    flip: bool


CONNECTION = types.NamedTuple([types.intp] * (len(Connection._fields) - 1) + [types.boolean], Connection)
"""`Connection` as Numba's type."""


def _signature(first, second, result):
    """The types of a kernel's two operands and its result, given their numbers of axes."""

    def of(number):
        operands = (types.Array(number, axes, "A", readonly=True) for axes in (first, second))
        return *operands, types.Array(number, result, "C"), CONNECTION

    return of


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
        return make_array(context, builder, vector, pointer, [arguments[2]], [int64(bytes_of(array.dtype))])

    return vector(array, indices, types.intp), codegen


@part
def _check(images, filters, maps, stride, padding, dilation, groups, flip):
    """The `Connection` of arrays of these shapes; raises `ShapeError` when they do not fit."""
    top, bottom, left, right = padding[0][0], padding[0][1], padding[1][0], padding[1][1]
    fits = images[1] % groups == 0 and filters[0] % groups == 0 and filters[3] * groups == images[1]
    fits &= 0 < dilated_length(filters[4], dilation[0]) <= images[2] + top + bottom
    fits &= 0 < dilated_length(filters[5], dilation[1]) <= images[3] + left + right
    if not fits:
        raise ShapeError(
            CORRELATION,
            images[0], images[1], images[2], images[3],
            filters[0], filters[1], filters[2], filters[3], filters[4], filters[5],
            stride[0], stride[1], top, bottom, left, right, dilation[0], dilation[1], groups,
        )  # fmt: skip
    rows = correlation_length(images[2], filters[4], stride[0], top, bottom, dilation[0])
    columns = correlation_length(images[3], filters[5], stride[1], left, right, dilation[1])
    # Filters for other output pixels than there are: they, too, are maps of a wrong shape.
    if filters[1] != rows or filters[2] != columns:
        maps = (images[0], filters[0], filters[1], filters[2])
    if maps[0] != images[0] or maps[1] != filters[0] or maps[2] != rows or maps[3] != columns:
        raise ShapeError(
            MAPS,
            images[0], images[1], images[2], images[3],
            filters[0], filters[1], filters[2], filters[3], filters[4], filters[5],
            maps[0], maps[1], maps[2], maps[3],
            stride[0], stride[1], top, bottom, left, right, dilation[0], dilation[1], groups,
        )  # fmt: skip
    return Connection(
        images[0], int(groups), filters[3], filters[0] // int(groups), images[2], images[3], rows, columns,
        filters[4], filters[5], int(stride[0]), int(stride[1]), int(top), int(left),
        int(dilation[0]), int(dilation[1]), bool(flip),
    )  # fmt: skip


@part
def _useful_threads(connection):
    """How many threads to share the work among."""
    c = connection
    taps = c.channels * c.filter_rows * c.filter_columns
    products = c.batch * c.groups * c.filters * c.out_rows * c.out_columns * taps
    return thread_count() if products > SERIAL_PRODUCTS else 1


# -------------------------------------------------------------------------------------------- patches


@part
def _along(tap, taps, place, stride, before, dilation, length, flip):
    """The row (or column) that a filter at output ``place`` meets with ``tap``; -1 in the padding."""
    if flip:
        tap = taps - 1 - tap
    position = place * stride - before + tap * dilation
    return position if position < length else -1


@part
def _gather_patch(images, b, first, y, x, patch, connection):
    """Copy what image ``b`` has under the filters of pixel ``(y, x)``, channels from ``first`` on, to ``patch``."""
    c = connection
    t = 0
    for channel in range(first, first + patch.size // (c.filter_rows * c.filter_columns)):
        for i in range(c.filter_rows):
            row = _along(i, c.filter_rows, y, c.stride_rows, c.top, c.dilation_rows, c.rows, c.flip)
            for j in range(c.filter_columns):
                column = _along(j, c.filter_columns, x, c.stride_columns, c.left, c.dilation_columns, c.columns, c.flip)
                inside = row >= 0 and column >= 0
                patch[t] = images[b, channel, row, column] if inside else 0
                t += 1


@part
def _scatter_patch(patch, images, b, first, y, x, connection):
    """The transpose of `_gather_patch`: add ``patch`` to the pixels it stands for."""
    c = connection
    t = 0
    for channel in range(first, first + patch.size // (c.filter_rows * c.filter_columns)):
        for i in range(c.filter_rows):
            row = _along(i, c.filter_rows, y, c.stride_rows, c.top, c.dilation_rows, c.rows, c.flip)
            for j in range(c.filter_columns):
                column = _along(j, c.filter_columns, x, c.stride_columns, c.left, c.dilation_columns, c.columns, c.flip)
                if row >= 0 and column >= 0:
                    images[b, channel, row, column] += patch[t]
                t += 1


@part
def _filter(filters, f, y, x, first, buffer):
    """One filter's taps from channel ``first`` on as a vector: a view if they are adjacent, else a copy."""
    rows, columns = filters.shape[4], filters.shape[5]
    item = filters.itemsize
    adjacent = (filters.strides[5] == item) & (filters.strides[4] == columns * item)
    if adjacent & (filters.strides[3] == rows * columns * item):
        return run(filters, (f, y, x, first, 0, 0), buffer.size)
    t = 0
    for channel in range(first, first + buffer.size // (rows * columns)):
        for i in range(rows):
            for j in range(columns):
                buffer[t] = filters[f, y, x, channel, i, j]
                t += 1
    return run(buffer, (0,), buffer.size)


# ------------------------------------------------------------------------------------- vectors of taps


@part(fastmath={"reassoc", "contract", "nsz"})
def _add_dots(taps, patches, results):
    """``results[n] += sum of taps * patches[n]``, four patches to each walk along the taps."""
    fours = results.size // 4 * 4
    for n in range(0, fours, 4):
        p, q = run(patches, (n, 0), taps.size), run(patches, (n + 1, 0), taps.size)
        r, s = run(patches, (n + 2, 0), taps.size), run(patches, (n + 3, 0), taps.size)
        a, b, c, d = results[n], results[n + 1], results[n + 2], results[n + 3]
        for t in range(taps.size):
            a += taps[t] * p[t]
            b += taps[t] * q[t]
            c += taps[t] * r[t]
            d += taps[t] * s[t]
        results[n], results[n + 1], results[n + 2], results[n + 3] = a, b, c, d
    for n in range(fours, results.size):
        p, a = run(patches, (n, 0), taps.size), results[n]
        for t in range(taps.size):
            a += taps[t] * p[t]
        results[n] = a


@part(fastmath={"contract"})
def _add_scaled(scales, vectors, target):
    """``target += sum over n of scales[n] * vectors[n]``, four vectors to each walk along the target."""
    fours = scales.size // 4 * 4
    for n in range(0, fours, 4):
        p, q = run(vectors, (n, 0), target.size), run(vectors, (n + 1, 0), target.size)
        r, s = run(vectors, (n + 2, 0), target.size), run(vectors, (n + 3, 0), target.size)
        a, b, c, d = scales[n], scales[n + 1], scales[n + 2], scales[n + 3]
        for t in range(target.size):
            target[t] += a * p[t] + b * q[t] + c * r[t] + d * s[t]
    for n in range(fours, scales.size):
        p, a = run(vectors, (n, 0), target.size), scales[n]
        for t in range(target.size):
            target[t] += a * p[t]


# ---------------------------------------------------------------------------------------------- passes


@part
def _block(count, taps):
    """Of ``count`` vectors of ``taps`` taps, how many to hold at once."""
    return max(1, min(count, PATCH_CELLS // max(taps, 1)))


@chunked(_signature(4, 6, 4), thorough=True)
@part
def _forward(chunk, chunks, images, filters, maps, connection):
    """Correlate at one chunk of the output pixels of every group."""
    c = connection
    taps = c.channels * c.filter_rows * c.filter_columns
    block = _block(c.batch, taps)
    patches = np.empty((block, taps), images.dtype)
    results, buffer = np.empty(block, images.dtype), np.empty(taps, images.dtype)
    pixels = c.out_rows * c.out_columns
    for place in range(chunk * c.groups * pixels // chunks, (chunk + 1) * c.groups * pixels // chunks):
        g, pixel = divmod(place, pixels)
        y, x = divmod(pixel, c.out_columns)
        for first in range(0, c.batch, block):
            sums = run(results, (0,), min(block, c.batch - first))
            for n in range(sums.size):
                patch = run(patches, (n, 0), taps)
                _gather_patch(images, first + n, g * c.channels, y, x, patch, connection)
            for f in range(g * c.filters, (g + 1) * c.filters):
                sums[:] = 0
                _add_dots(_filter(filters, f, y, x, 0, buffer), patches, sums)
                for n in range(sums.size):
                    maps[first + n, f, y, x] = sums[n]


@kernel
def locally_connected2d(images, filters, stride, padding, dilation, groups, flip):
    """Correlate every position of ``images`` with its own filters; see `reference.locally_connected2d`.

    For each output pixel, for each of its filters, for each image: the dot product of filter and patch. Reads
    every filter once (while `PATCH_CELLS` holds the batch's patches), which is the floor in bytes.
    """
    maps_shape = (images.shape[0], filters.shape[0], filters.shape[1], filters.shape[2])
    connection = _check(images.shape, filters.shape, maps_shape, stride, padding, dilation, groups, flip)
    maps = new_array(maps_shape, images.dtype)
    _forward(_useful_threads(connection), any_layout(images), any_layout(filters), maps, connection)
    return maps


@chunked(_signature(6, 4, 4), thorough=True)
@part
def _input_grad(chunk, chunks, filters, maps, images, connection):
    """The gradient of some channels of every group, or, if there are few channels, of some images.

    So that no two threads add to one pixel.
    """
    c = connection
    first_channel, channels, first_image, batch = 0, c.channels, 0, c.batch
    if c.channels >= chunks:
        first_channel = chunk * c.channels // chunks
        channels = (chunk + 1) * c.channels // chunks - first_channel
    else:
        first_image = chunk * c.batch // chunks
        batch = (chunk + 1) * c.batch // chunks - first_image
    taps = channels * c.filter_rows * c.filter_columns
    block = _block(c.filters, taps)
    vectors = np.empty((block, taps), images.dtype)
    scales, patch = np.empty(block, images.dtype), np.empty(taps, images.dtype)
    for g in range(c.groups):
        channel = g * c.channels + first_channel
        for b in range(first_image, first_image + batch):
            run(images, (b, channel, 0, 0), channels * c.rows * c.columns)[:] = 0
        for y in range(c.out_rows):
            for x in range(c.out_columns):
                for n in range(0, c.filters, block):
                    f = g * c.filters + n
                    shares = run(scales, (0,), min(block, c.filters - n))
                    for k in range(shares.size):
                        taps_of_filter = _filter(filters, f + k, y, x, first_channel, patch)
                        for t in range(taps):
                            vectors[k, t] = taps_of_filter[t]
                    for b in range(first_image, first_image + batch):
                        for k in range(shares.size):
                            shares[k] = maps[b, f + k, y, x]
                        patch[:] = 0
                        _add_scaled(shares, vectors, patch)
                        _scatter_patch(patch, images, b, channel, y, x, connection)


@kernel
def locally_connected2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient for the images; see `reference.locally_connected2d_input_grad`.

    For each output pixel, for each image: the sum of the pixel's filters, scaled by the image's maps, is added
    to the image. Reads every filter once, which is the floor in bytes; if there are fewer channels than threads,
    once a thread.
    """
    shape = (maps.shape[0], filters.shape[3] * groups, int(rows), int(columns))
    connection = _check(shape, filters.shape, maps.shape, stride, padding, dilation, groups, flip)
    images = new_array(shape, maps.dtype)
    _input_grad(_useful_threads(connection), any_layout(filters), any_layout(maps), images, connection)
    return images


@chunked(_signature(4, 4, 6), thorough=True)
@part
def _filter_grad(chunk, chunks, images, maps, filters, connection):
    """The gradient for the filters of one chunk of the output pixels of every group."""
    c = connection
    taps = c.channels * c.filter_rows * c.filter_columns
    block = _block(c.batch, taps)
    patches, scales = np.empty((block, taps), images.dtype), np.empty(block, images.dtype)
    pixels = c.out_rows * c.out_columns
    for place in range(chunk * c.groups * pixels // chunks, (chunk + 1) * c.groups * pixels // chunks):
        g, pixel = divmod(place, pixels)
        y, x = divmod(pixel, c.out_columns)
        for f in range(g * c.filters, (g + 1) * c.filters):
            run(filters, (f, y, x, 0, 0, 0), taps)[:] = 0
        for first in range(0, c.batch, block):
            shares = run(scales, (0,), min(block, c.batch - first))
            for n in range(shares.size):
                patch = run(patches, (n, 0), taps)
                _gather_patch(images, first + n, g * c.channels, y, x, patch, connection)
            for f in range(g * c.filters, (g + 1) * c.filters):
                for n in range(shares.size):
                    shares[n] = maps[first + n, f, y, x]
                _add_scaled(shares, patches, run(filters, (f, y, x, 0, 0, 0), taps))


@kernel
def locally_connected2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient for the filters, of six axes; see `reference.locally_connected2d_filter_grad`.

    For each output pixel, for each of its filters: the sum of all images' patches, scaled by their maps. Writes
    every filter once (while `PATCH_CELLS` holds the batch's patches), which is the floor in bytes.
    """
    # fmt: off
    shape = (
        maps.shape[1], maps.shape[2], maps.shape[3], images.shape[1] // groups, int(rows), int(columns),
    )
    # fmt: on
    connection = _check(images.shape, shape, maps.shape, stride, padding, dilation, groups, flip)
    filters = new_array(shape, images.dtype)
    _filter_grad(_useful_threads(connection), any_layout(images), any_layout(maps), filters, connection)
    return filters
