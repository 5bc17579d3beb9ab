"""The kernel of correlation, max pooling, bias and activation as one: maps are pooled where they are computed.

The loop nest, for each group, block of filters m, block of images b, row y of windows and run of windows along it::

    for each group of pixels i of the maps under the run:
        map[i, m, b]  = sum over k of  filters[i, m, k] * source[offset[k] + origin(first pixel of the group), b]
        window[m, b]  = max(window, key(map[i], tap));   in a column that the next window shares, next = max(next, ...)
      after a window's last group:
        maxima, winners [m, y, x, b] = activation(value(window) + bias), tap(window);  window = next

The batch is innermost in memory, so map pixels are a product of a matrix of filters, which stays in shared memory, and
a tile of source rows, each a run of images. A group is one row or all rows of a window, in one column or in all that
the window before has not: its pixels read one tile, of all that any of them needs, by filters that move from pixel to
pixel, zeros elsewhere. Of filters of 5 x 5 and windows of three rows, one column is 7 x 5 pixels of the source instead
of 3 x 5 x 5, two are 7 x 6, and one wide product instead of several narrow ones. By the zeros an infinity or NaN of an
image makes its whole group NaN.

A column that two windows share is computed once, but for the first of a run of groups of several columns, which begins
a group earlier; a row of the maps that two rows of windows share is computed for each, 3/2 times in all for windows of
3 x 3 that move by 2.

A map and its tap are one integer, of which the maximum is taken (`conv_pool_keys.py`). What is going to be rectified is
biased before that: maps that are negative then need not be told apart, which saves half of what a number costs.

Floors: images read, maxima and winners written once; two floating-point operations a multiply-add of `correlate2d`, at
the product's rate. Measured on an H100 before there was `pool_window_kernel`, which is mostly faster where channels are
few: 12 to 35% of the floor (lenet1 28% still), 1.0 to 4.0 times as fast as `correlate2d` and `max_pool2d`; held back by
the latency of each map pixel, by what is read of the second-level cache, and by instructions that are no products.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
import triton.language as tl

from pytensor_convnet.geometry import Pair
from pytensor_convnet.kernels.cuda.activations import NO_TAP, activated
from pytensor_convnet.kernels.cuda.conv_pool_keys import (
    along_lines,
    are_numbers,
    key_values,
    keys_of,
    largest_of_lines,
)
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import unit_of
from pytensor_convnet.kernels.cuda.gathering import Axis, Gathering, Tables
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.pool_tiles import no_tensors
from pytensor_convnet.kernels.cuda.products import add_product, power_of_two, scale_exponent, split, times_powers_of_two


@dataclass(frozen=True)
class PoolBlocks:
    """How a pooled correlation is cut into programs.

    Attributes
    ----------
    filters, images : int
        The tile of a map pixel. A product has as many for each pixel of a group, counted up to a power of two.
    group : (int, int)
        How many rows and columns of the maps are a group, that is read as one tile of the source: a row or all of a
        window, and a column or all `new_columns`.
    rows : tuple of int
        How many rows of the matrix of filters each product takes, powers of two; together all.
    windows : int
        How many windows along a row a program computes, at most.
    warps, stages : int
    images_first : bool
        Whether images are the product's rows, which tensor cores take 64 at a time.
    """

    filters: int
    images: int
    group: Pair
    rows: tuple[int, ...]
    windows: int
    warps: int
    stages: int
    images_first: bool


def new_columns(windows: Windows) -> int:
    """How many columns of the maps a window has that the one before it has not, where they share at most one."""
    shared = windows.window[1] == windows.stride[1] + 1
    return windows.stride[1] if shared else windows.window[1]


@triton.jit
def _loaded_filters(filters, in_tile, PRODUCT: tl.constexpr, magnitudes, PARTIALS: tl.constexpr):
    """A tile of filters as the product takes it: one part, or high and low halves for bf16x3."""
    w = tl.load(filters, mask=in_tile, other=0.0)
    if PRODUCT == "float16":
        return ((w * power_of_two(scale_exponent(magnitudes + PARTIALS, PARTIALS))).to(tl.float16),)
    elif PRODUCT == "bf16x3":
        return split(w)
    else:
        return (w,)


@triton.jit
def _within(places, length):
    """Whether places are from 0 to below ``length``: one comparison, as negative ones count as large."""
    return places.to(tl.uint32) < length.to(tl.uint32)


@triton.jit
def _taps(distances, moved, length, DILATION: tl.constexpr):
    """Which taps of a filter that moved so far reach so many pixels, along an axis, and whether these are there.

    Of shape (distances, moves).
    """
    distance = distances[:, None] - moved[None, :]
    tap = distance // DILATION
    return tap, _within(tap, length) & (tap * DILATION == distance)


@triton.jit
def _add_products(parts, tiles, block: tl.constexpr, total, PRODUCT: tl.constexpr, IMAGES_FIRST: tl.constexpr):
    """Add the product of a part of the filters and a tile of the source, or of the halves of both."""
    if PRODUCT == "bf16x3":
        total = _add_product(parts[2 * block], tiles[2 * block + 1], total, PRODUCT, IMAGES_FIRST)
        total = _add_product(parts[2 * block + 1], tiles[2 * block], total, PRODUCT, IMAGES_FIRST)
        total = _add_product(parts[2 * block], tiles[2 * block], total, PRODUCT, IMAGES_FIRST)
    else:
        total = _add_product(parts[block], tiles[block], total, PRODUCT, IMAGES_FIRST)
    return total


@triton.jit
def _add_product(filters, values, total, PRODUCT: tl.constexpr, IMAGES_FIRST: tl.constexpr):
    if IMAGES_FIRST:
        total = add_product(tl.trans(values), filters, total, PRODUCT)
    else:
        total = add_product(tl.trans(filters), values, total, PRODUCT)
    return total


@triton.jit(
    do_not_specialize=["batch_units", "target_batch_units", "source_rows", "source_columns", "source_row_stride",
                       "source_column_stride", "source_group_stride", "source_plane_units", "filters_start",
                       "filter_stride", "filter_channel_stride", "filter_row_stride", "filter_column_stride",
                       "filter_rows", "filter_columns", "row_count", "used_rows", "filter_count", "step_rows",
                       "step_columns", "map_rows", "map_columns", "out_rows", "out_columns", "target_channel_stride",
                       "target_row_stride", "target_column_stride", "filter_blocks", "runs", "batch_blocks",
                       "run_windows"]
)  # fmt: skip
def _correlate_max_pool(
    source, filters, gather, taps, magnitudes, biases, maxima, winners,
    batch_units, target_batch_units, source_rows, source_columns, source_row_stride, source_column_stride,
    source_group_stride, source_plane_units, filters_start, filter_stride, filter_channel_stride, filter_row_stride,
    filter_column_stride, filter_rows, filter_columns, row_count, used_rows, filter_count, step_rows, step_columns,
    map_rows, map_columns, out_rows, out_columns, target_channel_stride, target_row_stride, target_column_stride,
    filter_blocks, runs, batch_blocks, run_windows,
    ROW_DILATION: tl.constexpr, COLUMN_DILATION: tl.constexpr, GROUP_ROWS: tl.constexpr, GROUP_COLUMNS: tl.constexpr,
    LINES: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, ACTIVATION: tl.constexpr, PRODUCT: tl.constexpr, PREPARED: tl.constexpr,
    LEAVES_SOURCE: tl.constexpr, UNIT: tl.constexpr, TARGET_UNIT: tl.constexpr, WIDE: tl.constexpr,
    FILTERS: tl.constexpr, IMAGES: tl.constexpr, ROWS: tl.constexpr, STARTS: tl.constexpr,
    IMAGES_FIRST: tl.constexpr, PARTIALS: tl.constexpr, TAP_BITS: tl.constexpr, STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    filter_block = program % filter_blocks
    program = program // filter_blocks
    run = program % runs
    program = program // runs
    y = program % out_rows
    program = program // out_rows
    batch_block = program % batch_blocks
    group = program // batch_blocks

    m = filter_block * FILTERS + tl.arange(0, FILTERS)
    image = batch_block * IMAGES + tl.arange(0, IMAGES)
    batch = batch_units * UNIT
    if WIDE:
        source_plane_units = source_plane_units.to(tl.int64)
        target_row_stride = target_row_stride.to(tl.int64)
    source += group.to(tl.int64) * source_group_stride * UNIT
    filters += group.to(tl.int64) * filter_count * filter_stride + filters_start
    # Columns of the matrix of filters: all filters for each pixel of a group; lines of zeros up to a power of two.
    line = tl.arange(0, LINES * FILTERS) // FILTERS
    line_row, line_column = line // GROUP_COLUMNS, line % GROUP_COLUMNS
    number = filter_block * FILTERS + tl.arange(0, LINES * FILTERS) % FILTERS
    line_exists = (line_row < GROUP_ROWS) & (number < filter_count)
    of_line = filters + number.to(tl.int64) * filter_stride

    await_predecessor(DEPENDENT)
    # Of each block of rows: the filters, and where the source rows lie, from the origin of a pixel.
    parts = no_tensors()
    offsets = no_tensors()
    downs = no_tensors()
    acrosses = no_tensors()
    exist = no_tensors()
    for block in tl.static_range(len(ROWS)):
        k = STARTS[block] + tl.arange(0, ROWS[block])
        used = k < used_rows
        exist = exist + (used,)
        far_down, far_across = tl.load(taps + k, mask=used, other=-1), tl.load(taps + row_count + k)
        tap_row, row_exists = _taps(far_down, step_rows * line_row, filter_rows, ROW_DILATION)
        tap_column, column_exists = _taps(far_across, step_columns * line_column, filter_columns, COLUMN_DILATION)
        in_tile = line_exists[None, :] & row_exists & column_exists
        place = (tl.load(taps + 2 * row_count + k) * filter_channel_stride)[:, None]
        from_place = of_line[None, :] + (place + tap_row * filter_row_stride + tap_column * filter_column_stride)
        parts = parts + _loaded_filters(from_place, in_tile, PRODUCT, magnitudes, PARTIALS)
        offsets = offsets + (tl.load(gather + k),)
        downs = downs + (tl.load(gather + row_count + k),)
        acrosses = acrosses + (tl.load(gather + 2 * row_count + k),)

    # What is rectified needs to know which maps are negative, and so to be biased, before it is compared.
    RECTIFIED: tl.constexpr = ACTIVATION == "relu" or ACTIVATION == "muting_relu"
    source_exponent, filter_exponent = 0, 0
    if PRODUCT == "float16":
        source_exponent = -scale_exponent(magnitudes, PARTIALS)
        filter_exponent = -scale_exponent(magnitudes + PARTIALS, PARTIALS)
    bias = tl.load(biases + group * filter_count + m, mask=m < filter_count, other=0.0).to(tl.float32)
    if IMAGES_FIRST:
        bias = bias[None, :]
    else:
        bias = bias[:, None]
    pixel_of_line = tl.arange(0, LINES)
    row_of_line, column_of_line = pixel_of_line // GROUP_COLUMNS, pixel_of_line % GROUP_COLUMNS

    # A column that a window shares with the next is carried over to it.
    CARRIED: tl.constexpr = WINDOW_COLUMNS == STRIDE_COLUMNS + 1
    NEW: tl.constexpr = STRIDE_COLUMNS if CARRIED else WINDOW_COLUMNS
    first_x = run * run_windows
    window_count = tl.minimum(run_windows, out_columns - first_x)
    column_count = window_count * (NEW // GROUP_COLUMNS) + (1 if CARRIED else 0)
    first_row = y * STRIDE_ROWS - TOP
    LEAST: tl.constexpr = -(2**31)
    # Before any map: what is below all; or zero, of the first tap or, where that is to be told from a map, of none.
    NO_MAP: tl.constexpr = 0 if ACTIVATION == "muting_relu" else (1 << TAP_BITS) - 1 if RECTIFIED else LEAST
    if IMAGES_FIRST:
        window = tl.full((IMAGES, FILTERS), NO_MAP, tl.int32)
    else:
        window = tl.full((FILTERS, IMAGES), NO_MAP, tl.int32)
    next_window = window
    GROUPS: tl.constexpr = WINDOW_ROWS // GROUP_ROWS
    for t in tl.range(0, column_count * GROUPS, num_stages=STAGES):
        i = t % GROUPS * GROUP_ROWS
        c = t // GROUPS
        if GROUP_COLUMNS > 1:
            j = 1 if CARRIED else 0
            x = first_x + c - j
        elif CARRIED:
            j = tl.where(c == 0, 0, (c + STRIDE_COLUMNS - 1) % STRIDE_COLUMNS + 1)
            x = first_x + tl.maximum(c - 1, 0) // STRIDE_COLUMNS
        else:
            j = c % WINDOW_COLUMNS
            x = first_x + c // WINDOW_COLUMNS
        row = first_row + i
        column = x * STRIDE_COLUMNS - LEFT + j
        column_inside = _within(column, map_columns)

        source_row = row * step_rows
        source_column = column * step_columns
        if WIDE:
            origin = source_row.to(tl.int64) * source_row_stride + source_column.to(tl.int64) * source_column_stride
        else:
            origin = source_row * source_row_stride + source_column * source_column_stride
        pixel = source + origin * UNIT
        if GROUP_COLUMNS > 1:
            present = image < batch
        else:
            present = image < tl.where(column_inside, batch, 0)
        tiles = no_tensors()
        for block in tl.static_range(len(ROWS)):
            valid = exist[block]
            if LEAVES_SOURCE:
                valid = _within(downs[block] + source_row, source_rows)
                valid = valid & _within(acrosses[block] + source_column, source_columns)
            mask = valid[:, None] & present[None, :]
            at = pixel + ((offsets[block] * UNIT)[:, None] + image[None, :])
            values = tl.load(at, mask=mask, other=0.0)
            if PRODUCT != "bf16x3":
                tiles = tiles + (values,)
            elif PREPARED:
                tiles = tiles + (values, tl.load(at + source_plane_units * 16, mask=mask, other=0.0))
            else:
                tiles = tiles + split(values)

        if IMAGES_FIRST:
            total = tl.zeros((IMAGES, LINES * FILTERS), tl.float32)
        else:
            total = tl.zeros((LINES * FILTERS, IMAGES), tl.float32)
        for block in tl.static_range(len(ROWS)):
            total = _add_products(parts, tiles, block, total, PRODUCT, IMAGES_FIRST)
        inside = _within(row + row_of_line, map_rows) & _within(column + column_of_line, map_columns)
        inside = along_lines(inside & (row_of_line < GROUP_ROWS), IMAGES_FIRST)
        tap = along_lines((i + row_of_line) * WINDOW_COLUMNS + j + column_of_line, IMAGES_FIRST)
        if IMAGES_FIRST:
            maps = tl.reshape(total, (IMAGES, LINES, FILTERS))
        else:
            maps = tl.reshape(total, (LINES, FILTERS, IMAGES))
        if RECTIFIED:
            if PRODUCT == "float16":
                maps = times_powers_of_two(maps, source_exponent, filter_exponent)
            maps += tl.expand_dims(bias, 1 if IMAGES_FIRST else 0)
        keys = keys_of(maps, inside, tap, RECTIFIED, TAP_BITS)
        largest = largest_of_lines(keys, IMAGES_FIRST)
        window = tl.maximum(window, largest)
        if j + GROUP_COLUMNS == WINDOW_COLUMNS:
            if CARRIED:  # there the tap is earlier by so many
                if GROUP_COLUMNS > 1:
                    last = along_lines(column_of_line == GROUP_COLUMNS - 1, IMAGES_FIRST)
                    largest = largest_of_lines(tl.where(last, keys, LEAST), IMAGES_FIRST)
                next_window = tl.maximum(next_window, largest + (WINDOW_COLUMNS - 1))
            if i == WINDOW_ROWS - GROUP_ROWS:
                result, winner = key_values(window, TAP_BITS)
                if not RECTIFIED:
                    if PRODUCT == "float16":
                        result = times_powers_of_two(result, source_exponent, filter_exponent)
                    result = activated(result + bias, ACTIVATION)
                elif ACTIVATION == "muting_relu":
                    winner = tl.where(are_numbers(window, TAP_BITS), winner, NO_TAP)
                channel = group * filter_count + m
                offset = channel.to(tl.int64) * target_channel_stride
                offset = (offset + y * target_row_stride + x * target_column_stride) * TARGET_UNIT
                image_fits = image < tl.where(x < first_x, 0, target_batch_units * TARGET_UNIT)
                if IMAGES_FIRST:
                    offset = offset[None, :] + image[:, None]
                    stored = (m < filter_count)[None, :] & image_fits[:, None]
                else:
                    offset = offset[:, None] + image[None, :]
                    stored = (m < filter_count)[:, None] & image_fits[None, :]
                tl.store(maxima + offset, result.to(maxima.dtype.element_ty), mask=stored)
                tl.store(winners + offset, winner.to(winners.dtype.element_ty), mask=stored)
                window = next_window
                next_window = tl.full(window.shape, NO_MAP, tl.int32)


def _leaves_source(plan: Gathering, windows: Windows) -> bool:
    """Whether a group of pixels reads beyond the source."""
    top, left = windows.padding[0][0], windows.padding[1][0]
    last = (windows.out_rows - 1) * windows.stride[0] + windows.window[0] - plan.rows.patch - top
    if _reads_beyond(plan.rows, -top, last):
        return True
    if plan.columns.patch == 1:  # of a column that is not one of the maps nothing is read
        return plan.columns.leaves_source
    shared = windows.window[1] - plan.columns.patch  # 1 or no column; with one, runs begin a group earlier
    last = (windows.out_columns - 1) * windows.stride[1] + shared - left
    return _reads_beyond(plan.columns, (1 - windows.stride[1]) * shared - left, last)


def _reads_beyond(axis: Axis, first: int, last: int) -> bool:
    """Whether groups that begin at these pixels do, along an axis."""
    step, places = axis.step // axis.patch, axis.classes[0].places
    return places[0] + first * step < 0 or places[-1] + last * step >= axis.source_length


def correlate_max_pool(
    source_planes: torch.Tensor, filters: torch.Tensor, biases: torch.Tensor, plan: Gathering, tables: Tables,
    windows: Windows, flip: bool, activation: str, maxima: torch.Tensor, winners: torch.Tensor, product: str,
    magnitudes: torch.Tensor | None, blocks: PoolBlocks, unit: int, prepared: bool, wide: bool,
) -> None:  # fmt: skip
    """Write the pooled and activated forward pass to ``maxima`` and ``winners``, both batch-last.

    Parameters
    ----------
    source_planes : tensor, (planes, batch, channels, rows, columns)
        Images with the batch innermost in memory; two planes for bf16x3 where ``prepared``, else one.
    plan : Gathering
        That of the forward pass, in patches of ``blocks.group``.
    magnitudes : tensor or None
        Of `largest_magnitudes` of source and filters, for float16 alone.
    unit : int
        Divides the strides of the source, whose batch may be read up to a multiple of it.
    """
    source = source_planes[0]
    target_unit = unit_of(maxima)
    group_rows, group_columns = plan.rows.patch, plan.columns.patch
    filter_blocks = triton.cdiv(plan.target_channels, blocks.filters)
    runs = triton.cdiv(windows.out_columns, blocks.windows)
    batch_blocks = triton.cdiv(plan.batch, blocks.images)
    programs = filter_blocks * runs * windows.out_rows * batch_blocks * plan.groups
    if programs == 0:
        return
    _, sc, sh, sw = source.stride()
    _, tc, th, tw = maxima.stride()
    start, (filter_stride, channel_stride, row_stride, column_stride) = 0, filters.stride()
    if flip:
        start = (plan.rows.taps - 1) * row_stride + (plan.columns.taps - 1) * column_stride
        row_stride, column_stride = -row_stride, -column_stride
    _correlate_max_pool[(programs,)](
        source, filters, tables.gather, tables.taps, magnitudes, biases, maxima, winners,
        -(-plan.batch // unit), plan.batch // target_unit, plan.rows.source_length, plan.columns.source_length,
        sh // unit, sw // unit, plan.source_channels * sc // unit, source_planes.stride(0) // 16, start,
        filter_stride, channel_stride, row_stride, column_stride, plan.rows.taps, plan.columns.taps,
        tables.row_count, plan.class_rows()[0], plan.target_channels, plan.rows.step // group_rows,
        plan.columns.step // group_columns,
        windows.rows, windows.columns, windows.out_rows, windows.out_columns,
        tc // target_unit, th // target_unit, tw // target_unit, filter_blocks, runs, batch_blocks, blocks.windows,
        plan.rows.dilation, plan.columns.dilation, group_rows, group_columns,
        triton.next_power_of_2(group_rows * group_columns), *windows.window, *windows.stride,
        windows.padding[0][0], windows.padding[1][0], activation, product, prepared, _leaves_source(plan, windows),
        unit, target_unit, wide,
        blocks.filters, blocks.images, blocks.rows, (0, *accumulate(blocks.rows[:-1])), blocks.images_first,
        0 if magnitudes is None else magnitudes.shape[1], windows.taps.bit_length(), blocks.stages,
        num_warps=blocks.warps, **launch_options(source.device),
    )  # fmt: skip
