"""Choosing between sums over winners and sums over all pixels, and what is packed together for the former.

As in `planning`, a model of the loops decides, in cycles; the same shapes always take the same way.
"""

from typing import NamedTuple

from numba import types

from pytensor_convnet.kernels.cpu.checks import SLIDING
from pytensor_convnet.kernels.cpu.column_reads import reads_at
from pytensor_convnet.kernels.cpu.detached import NO_ARRAYS, detached
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.packing import ceil_div, correlation_axis, gradient_axis
from pytensor_convnet.kernels.cpu.patches import lines_of, plan_patches, plan_sharing_patches, sharing_blocks
from pytensor_convnet.kernels.cpu.planning import plan_pass
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS

_BAND_BYTES = 48 * 1024
"""Lines that all filters meet while they are in first-level cache."""

_SUMS_BYTES = 768 * 1024
"""Sums of all filters."""

_IMAGE_BYTES = 2 << 20
"""Lines of a block of an image's gradient."""

_WEIGHTS_BYTES = 1 << 22
"""Filters as patches, of which all threads share one copy."""

_FEWEST_UNITS = 16
"""Blocks of images' gradients: each is one thread's."""

_PACKING_CYCLES = 4
"""To pack a vector of a line, or to fold and write one."""

_LISTING_CYCLES = 4
"""To find a winner's place in a line, and to begin with its patch."""

_PATCH_CYCLES = 1.2
"""To multiply and add a vector of a patch; up to twice that where the lines of a row of windows are many."""

_IMAGE_PATCH_CYCLES = 1.2
"""The same where a patch is added to an image's gradient; up to half as much again where the filters are many."""

_ADDING_CYCLES = 4
"""To add a vector of a band's sum to that of a slice, which is in another cache."""

_SORTING_CYCLES = 10
"""To sort a winner."""

_LIST_CYCLES = 10
"""To begin and end a list."""

_SPREADING_CYCLES = 25, 10
"""To make a vector of maps from winners, and for each window that its pixels are in."""

_DENSE_OVERHEAD = 1.3
"""What multiply-adds over all pixels take, packing included, over their floor."""


class Pass(NamedTuple):
    """How a gradient is computed."""

    groups: int
    filters: int
    """Of a group."""
    channels: int
    blocks: int
    """Of channels."""
    vectors: int
    """Of a filter's sums, or of its weights."""


PASS = types.NamedUniTuple(types.intp, 5, Pass)


class Bands(NamedTuple):
    """What is packed together of a block."""

    images: int
    rows: int
    """Of windows."""
    number: int
    """Bands of an image."""
    nbytes: int
    """Of an image's lines."""


@leaf_part
def _band_bytes(band, windows, patches, rows):
    """Lines of a block that so many rows of windows need."""
    map_rows = min(windows.rows, (band - 1) * windows.stride_rows + windows.window_rows)
    return lines_of(map_rows, patches, rows) * patches.row_step


@leaf_part
def plan_bands(batch, windows, patches, rows):
    """Bands that fit, all about as high; several images if they fit whole."""
    most = windows.out_rows
    while most > 1 and _band_bytes(most, windows, patches, rows) > _BAND_BYTES:
        most -= 1
    number = ceil_div(windows.out_rows, most)
    band = ceil_div(windows.out_rows, number)
    nbytes = _band_bytes(band, windows, patches, rows)
    images = max(1, min(batch, _BAND_BYTES // nbytes)) if number == 1 else 1
    return Bands(images, band, number, nbytes)


@plain_part
def _dense_cycles(batch, rows, columns, channels, filters, item_bytes):
    """The same pass over all pixels, as `planning` would have it, for an image."""
    tiling, reads = plan_pass(batch, rows, columns, channels, filters, item_bytes, True)
    products, row_taps = 0, 0
    for point in range(reads.points):
        for phase in range(columns.out_step):
            begin, end = reads_at(point, phase, reads)
            products += end - begin
    for base in range(tiling.rows):
        for offset in rows.offsets:
            row_taps += 0 <= base * rows.in_step + offset < rows.inputs
    lanes = VECTOR_BYTES // item_bytes
    return _DENSE_OVERHEAD * channels * filters * row_taps * reads.tiles * products / lanes


@leaf_part
def _spreading_cycles(filters, windows, lanes):
    of_vector, of_window = _SPREADING_CYCLES
    windows_of_pixel = windows.window_rows * windows.window_columns / (windows.stride_rows * windows.stride_columns)
    return windows.rows * windows.columns * filters * (of_vector + of_window * windows_of_pixel) / lanes


@leaf_part
def _sums_bytes(filters, channels, rows, columns, lanes):
    """Sums of all filters of a group."""
    size = 0
    for block in range(ceil_div(channels, lanes)):
        p = plan_patches(block, channels, rows, columns, 0, lanes)
        size += p.runs * p.vectors
    return filters * size * VECTOR_BYTES


_SHAPE = types.UniTuple(types.intp, 4)


def _pays_signature():
    return types.boolean(_SHAPE, _SHAPE, WINDOWS, *SLIDING, types.intp)


@detached(_pays_signature, NO_ARRAYS, loops=True)
@plain_part
def filter_grad_pays(images, filters, windows, stride, padding, dilation, groups, item_bytes):
    """Whether sums over winners promise to be faster than sums over all pixels, for tensors of such shapes."""
    lanes, count, channels = VECTOR_BYTES // item_bytes, filters[0] // groups, filters[1]
    planes, total = windows.out_rows * windows.out_columns, 0.0
    if dilation[1] > 1 or planes * count * channels * filters[2] * filters[3] == 0:
        return False
    rows = correlation_axis(windows.rows, images[2], filters[2], stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(windows.columns, images[3], filters[3], stride[1], padding[1][0], dilation[1])
    width = (columns.outputs - 1) * columns.in_step + columns.span
    for block in range(ceil_div(channels, lanes)):
        p = plan_patches(block, channels, rows, columns, 0, lanes)
        bands = plan_bands(images[0], windows, p, rows)
        patch = p.runs * p.vectors
        far = max(1.0, min(2.0, bands.nbytes / _BAND_BYTES))
        total += count * planes * (_PATCH_CYCLES * far * patch + _LISTING_CYCLES)
        total += count * (_ADDING_CYCLES * patch + 4 * _LIST_CYCLES) * bands.number / bands.images
        numbers = p.channels * p.joined * width * bands.nbytes // p.row_step if p.sharing else 0
        total += bands.number * _PACKING_CYCLES * (bands.nbytes / VECTOR_BYTES + numbers)
    dense = _dense_cycles(images[0], rows, columns, channels, count, item_bytes)
    small = groups * _sums_bytes(count, channels, rows, columns, lanes) <= _SUMS_BYTES
    return small and total <= dense + _spreading_cycles(count, windows, lanes)


@detached(_pays_signature, NO_ARRAYS, loops=True)
@plain_part
def input_grad_pays(images, filters, windows, stride, padding, dilation, groups, item_bytes):
    """As `filter_grad_pays`."""
    lanes, count, channels = VECTOR_BYTES // item_bytes, filters[0] // groups, filters[1]
    planes, taps, total = windows.out_rows * windows.out_columns, windows.window_rows * windows.window_columns, 0.0
    if dilation[1] > 1 or planes * count * channels * filters[2] * filters[3] == 0:
        return False
    rows = correlation_axis(windows.rows, images[2], filters[2], stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(windows.columns, images[3], filters[3], stride[1], padding[1][0], dilation[1])
    # How many taps win something, if each is as likely to.
    nbytes, size, losing = 0, 0, 1.0
    for _ in range(count):
        losing *= 1 - 1 / taps
    lists = taps * (1 - losing)
    blocks = sharing_blocks(channels, columns, lanes)
    for block in range(blocks):
        p = plan_sharing_patches(block, blocks, channels, rows, columns, lanes)
        far = 1 + min(0.5, count * p.vectors * VECTOR_BYTES / (4 * _BAND_BYTES))
        total += planes * count * (_SORTING_CYCLES + p.runs * (_IMAGE_PATCH_CYCLES * far * p.vectors + 2))
        total += planes * lists * p.runs * (2 * p.vectors + _LIST_CYCLES)
        total += _PACKING_CYCLES * images[2] * images[3] * columns.taps.size
        total += images[2] * p.row_step / VECTOR_BYTES
        nbytes = max(nbytes, images[2] * p.row_step)
        size += groups * count * p.runs * p.vectors * VECTOR_BYTES
    rows = gradient_axis(images[2], windows.rows, filters[2], stride[0], padding[0][0], dilation[0])
    columns = gradient_axis(images[3], windows.columns, filters[3], stride[1], padding[1][0], dilation[1])
    dense = _dense_cycles(images[0], rows, columns, count, channels, item_bytes)
    small = nbytes <= _IMAGE_BYTES and size <= _WEIGHTS_BYTES and images[0] * groups * blocks >= _FEWEST_UNITS
    return small and total <= dense + _spreading_cycles(count, windows, lanes)
