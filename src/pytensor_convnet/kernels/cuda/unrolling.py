"""A pass of a few images as one of many: columns take the place of images.

What is fast here has images innermost, in runs of 16 and more. One image is no run, but a row of its pixels is. So of a
few images each column of the target becomes an image of its own, as wide as what that column sees of the source:

    unrolled[(b, n), c, y, q] = source[b, c, y, n * step + first + q * gap]

or 0 where the source has no such column. The pass of *its* geometry, rows as they were, has as many images as the
target has columns, and a target of one column. Where columns are a multiple of 8, one image's batch-last maps are those
of bc01, element for element. With a stride the gradient of the images is taken by patches of so many columns, each of
which becomes one image.

It takes the memory of the source, ``taps / stride`` times over: little for one image. Floor: the source read once and
what is unrolled written, which is less than a launch takes for a layer of an image. Not measured by itself, but as part
of the passes of *A few images* in `docs/cuda-kernels.md`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import empty
from pytensor_convnet.kernels.cuda.gathering import Geometry

IMAGES_MULTIPLE = 8
"""What is unrolled is filled up to a multiple of so many images, which all kernels take in runs."""

TILE, MOST_COLUMNS = 1024, 256
"""Elements of a program's tile, and columns."""


@dataclass(frozen=True)
class Unrolling:
    """Where the elements of an unrolled source come from.

    Attributes
    ----------
    geometry : Geometry
        Of the pass of what is unrolled.
    images : int
        That an image becomes.
    first, step, gap, columns : int
        See above; ``columns`` are those of an unrolled image.
    """

    geometry: Geometry
    images: int
    first: int
    step: int
    gap: int
    columns: int


@functools.lru_cache(maxsize=1024)
def unrolling(geometry: Geometry, gradient: bool) -> Unrolling:
    """Of images, or, for their gradient, of maps."""
    batch, channels, rows, columns = geometry.images
    stride, dilation, taps = geometry.stride[1], geometry.dilation[1], geometry.filters[3]
    before = geometry.padding[1][0]
    if not gradient:
        images = geometry.maps[3]
        unrolled = replace(
            geometry,
            images=(_filled_up(batch * images), channels, rows, taps),
            stride=(geometry.stride[0], 1),
            padding=(geometry.padding[0], (0, 0)),
            dilation=(geometry.dilation[0], 1),
        )
        return Unrolling(unrolled, images, -before, stride, dilation, taps)
    # Column n * stride + r of the images sees column n + a of the maps by tap t, where a * stride == before + r - t *
    # dilation. An image that has the columns r alone, and maps from the first of these on, are padded so that this
    # stays what it is.
    images, span = -(-columns // stride), (taps - 1) * dilation
    seen = [
        (before + residue - tap * dilation) // stride
        for residue in range(stride)
        for tap in range(taps)
        if (before + residue - tap * dilation) % stride == 0
    ]
    first, last = min([before // stride, *seen]), max([before // stride, *seen])
    padding = before - first * stride, max(0, last * stride + span + 1 - stride - before)
    unrolled = replace(
        geometry,
        images=(_filled_up(batch * images), channels, rows, stride),
        padding=(geometry.padding[0], padding),
    )
    return Unrolling(unrolled, images, first, 1, 1, unrolled.maps[3])


def _filled_up(images: int) -> int:
    return triton.cdiv(images, IMAGES_MULTIPLE) * IMAGES_MULTIPLE


def unroll(source: torch.Tensor, plan: Unrolling) -> torch.Tensor:
    """The source of the pass, (images, channels, rows, columns), batch-last."""
    batch, channels, rows, length = source.shape
    count = _filled_up(batch * plan.images)
    unrolled = empty((count, channels, rows, plan.columns), "batch_last", source.dtype, source.device)
    if not unrolled.numel():
        return unrolled
    columns = min(MOST_COLUMNS, triton.next_power_of_2(count))
    lines = min(TILE // columns, triton.next_power_of_2(channels * rows))
    programs = triton.cdiv(channels * rows, lines) * triton.cdiv(count, columns) * plan.columns
    _unroll[(programs,)](
        source, unrolled, batch * plan.images, count, channels * rows, rows, length, plan.images, plan.first, plan.step,
        plan.gap, plan.columns, source.stride(0), source.stride(1), source.stride(2), source.stride(3),
        lines, columns, num_warps=4, **launch_options(source.device),
    )  # fmt: skip
    return unrolled


def unroll_maps(maps: torch.Tensor, plan: Unrolling) -> torch.Tensor:
    """The maps of the pass, one column wide: those of one image, filled up by nothing, are there already."""
    batch, _, rows, columns = maps.shape
    shape = plan.geometry.maps
    if batch == 1 and shape[0] == columns and maps.stride()[1:] == (rows * columns, columns, 1):
        return maps.as_strided(shape, (1, rows * columns, columns, columns))
    return unroll(maps, replace(plan, first=0, step=1, gap=1, columns=1))


def rolled(target: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The pass's target, of a bc01 shape, from that of what is unrolled: a view, where a column is an image."""
    count, channels, rows, width = target.shape
    batch, *_, columns = shape
    images = -(-columns // width)
    steps = images, rows * width * count, width * count, 1, count
    result = target.as_strided((batch, channels, rows, images, width), steps)
    return result[..., 0] if width == 1 else result.flatten(3)[..., :columns]


@triton.jit(
    do_not_specialize=["wanted", "count", "line_count", "rows", "length", "images", "first", "step", "gap",
                       "unrolled_columns", "batch_stride", "channel_stride", "row_stride"]
)  # fmt: skip
def _unroll(
    source, unrolled, wanted, count, line_count, rows, length, images, first, step, gap, unrolled_columns,
    batch_stride, channel_stride, row_stride, column_stride,
    LINES: tl.constexpr, COLUMNS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    q = program % unrolled_columns
    program = program // unrolled_columns
    blocks = tl.cdiv(count, COLUMNS)
    image = (program % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    line = (program // blocks) * LINES + tl.arange(0, LINES)  # a row of a channel
    column = image % images * step + first + q * gap
    there = (image < wanted) & (column >= 0) & (column < length)
    place = (image // images).to(tl.int64) * batch_stride + column.to(tl.int64) * column_stride
    place_of_line = (line // rows).to(tl.int64) * channel_stride + (line % rows).to(tl.int64) * row_stride
    exists = line < line_count
    await_predecessor(DEPENDENT)
    values = tl.load(
        source + (place_of_line[:, None] + place[None, :]), mask=exists[:, None] & there[None, :], other=0.0
    )
    target = (line.to(tl.int64) * unrolled_columns + q) * count
    tl.store(unrolled + (target[:, None] + image[None, :]), values, mask=exists[:, None] & (image < count)[None, :])
