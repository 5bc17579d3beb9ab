"""The kernel of the filter gradient over windows: pixels in shared memory that all taps share.

The loop nest, for a share of all map rows y, runs of map columns and images b::

    for each map row y of a run, from the top:
        window[j, a, c] = source[y * step + a, j, c, b]  for the columns j under the run, rows a of taps, channels c
        for each pixel q of the run:
            sums[(j, a, c), m] += window[q * step + j, a, c, b] * maps[m, y, q, b]

Images are what is summed over. They lie innermost, so both operands are rows of 128 bytes in shared memory, as the
copying engine brings them and tensor cores read them; float32 as it is, multiplied as tf32. What that cuts off is given
back: a sample of both operands tells how much. The taps of a pixel are consecutive rows. Going down one map row, a
window needs only ``step`` new rows of the source: they lie behind the others of their column, where the next column has
rows that nobody needs any more.

A pixel beyond the last of a row of maps has maps of zero, and the window of the last one: an infinity there may become
NaN where the sum would be infinite.

Floors: images and maps read once; two floating-point operations a multiply-add, at the product's rate. Measured on an
H100 (`docs/cuda-kernels.md`): 64 to 105% of the floor in float32 and 53 to 89% in bfloat16 for alex1, cb1,
cifar1_b1024, stride2_1024 and vgg3, held back by waiting for maps and windows; of lenet1, cifar1 and the layers with
strides at batch 128 25 to 53%, by what each map row takes besides its products, and by sums of all shares that go
through memory.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, prod

import torch

from pytensor_convnet.kernels.cuda.copying import filled_up, has_to_be_filled_up
from pytensor_convnet.kernels.cuda.formats import pixel_step
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.hardware import MULTIPROCESSORS, SHARED_BYTES
from pytensor_convnet.kernels.cuda.hopper_sources import (
    BARRIER_BYTES,
    MOST_BYTES,
    MOST_COLUMNS,
    MOST_OF_A_BOX,
    ROW_BYTES,
    THREADS,
    add_product,
    constants_of_correlation,
    source_of,
    whole_patterns,
)
from pytensor_convnet.kernels.cuda.runtime_compiler import TensorMap, batch_last_map, launch

IMAGES_OF_A_ROW = {True: 64, False: 32}
"""Of 16 bits and of float32."""

MOST_STAGES, FEWEST_STAGES = 32, 2
MOST_REGISTERS = 200
"""For the sums of a thread."""

MOST_IDLE = 0.1
"""What of the multiprocessors may be left idle so that programs which run together read all images of a pixel."""

RUNS_OF_SAMPLE = 3
"""Of 128 numbers, that each program looks at to learn what tf32 cuts off."""

ADDED_AT_ONCE, ADDING_THREADS = 32, 288
"""Sums of a program that adds up shares, and its threads."""


@dataclass(frozen=True)
class WindowGradBlocks:
    """How a filter gradient over windows is cut.

    Attributes
    ----------
    taps_as_rows : bool
        Whether taps are the rows of the product, 64 each, and filters its columns, or filters the rows.
    run : int
        Map pixels of a window. Two windows are fetched in turn.
    pixels : int
        Map pixels that are fetched at a time; a divisor.
    channels, filters : int
        Of a program: all, or a divisor; and any number.
    split : int
        1, or 2 where the two multiplying warpgroups take pixels in turn, each for all sums.
    """

    taps_as_rows: bool
    run: int
    pixels: int
    channels: int
    filters: int
    split: int


@dataclass(frozen=True)
class WindowGradPlan:
    """All constants of a kernel, as the source has them, and the files of its code."""

    constants: dict[str, int]
    files: tuple[str, ...] = "window_grad_parts.cu", "window_grad_kernel.cu"

    @property
    def shared_bytes(self) -> int:
        k = self.constants
        return BARRIER_BYTES + 2 * k["WINDOW_BYTES"] + k["STAGES"] * k["STAGE_BYTES"]

    @property
    def programs(self) -> int:
        return self.constants["SHARES"] * self.constants["BLOCKS"]

    @property
    def partial_shape(self) -> tuple[int, int, int, int]:
        k = self.constants
        return k["SHARES"] * k["SUM_SPLIT"], k["BLOCKS"], k["PARTIAL_ROWS"], k["TILE_N"]

    @cached_property
    def source(self) -> str:
        """The kernels' source, constants and all."""
        kind, orders = "k8.f32.tf32.tf32", ""
        if self.constants["NARROW"]:
            kind, orders = f"k16.f32.{'f16.f16' if self.constants['SCALED'] else 'bf16.bf16'}", ", 0, 0"
        return source_of(self.constants, add_product(self.constants["TILE_N"], kind, orders), *self.files)


def fits_window_grads(geometry: Geometry) -> bool:
    """Whether a filter gradient can be computed so at all."""
    plain = geometry.groups == 1 and geometry.dilation == (1, 1)
    some = min(prod(geometry.images), prod(geometry.maps), prod(geometry.filters)) > 0
    return plain and some


@lru_cache(maxsize=4096)
def window_grad_plan(geometry: Geometry, blocks: WindowGradBlocks, product: str) -> WindowGradPlan | None:
    """The constants of a kernel; None where it does not fit into a multiprocessor.

    Parameters
    ----------
    product : {'native', 'tf32', 'float16'}
        Of bfloat16, of float32 as it is, or of operands that are float16 already, of a gradient of float32.
    """
    narrow = product != "tf32"
    batch, all_channels = geometry.images[:2]
    all_filters, _, down, across = geometry.filters
    (step_down, step_across), (map_rows, map_columns) = geometry.stride, geometry.maps[2:]
    images, channels, filters = IMAGES_OF_A_ROW[narrow], blocks.channels, blocks.filters
    taps = down * across * channels
    row_count, column_count = (taps, filters) if blocks.taps_as_rows else (filters, taps)
    tile_columns, groups = 8 * ceil(column_count / 8), 2 // blocks.split
    tiles_each = ceil(ceil(row_count / 64) / groups)
    columns = (blocks.run - 1) * step_across + across
    if (
        all_channels % channels
        or blocks.run % blocks.pixels
        or blocks.pixels % blocks.split
        or tile_columns > MOST_COLUMNS
        or tiles_each * tile_columns // 2 > MOST_REGISTERS
        or max(columns, channels, down, filters, step_down, blocks.pixels) > MOST_OF_A_BOX
    ):
        return None
    taps_read, filters_read = tiles_each * groups * 64, tile_columns
    if not blocks.taps_as_rows:
        taps_read, filters_read = filters_read, taps_read
    stage_bytes = whole_patterns(ROW_BYTES * ((blocks.pixels - 1) * filters + max(filters, filters_read)))
    strips, batch_blocks = ceil(map_columns / (2 * blocks.run)), ceil(batch / images)
    chunks, filter_blocks = all_channels // channels, ceil(all_filters / filters)
    program_blocks, units = chunks * filter_blocks, batch_blocks * strips * map_rows
    shares = max(1, min(MULTIPROCESSORS // program_blocks, units))
    if shares % batch_blocks <= MOST_IDLE * shares:  # all images of a pixel lie together, and so are read together
        shares -= shares % batch_blocks

    def window_bytes(longest: int) -> int:
        last = (blocks.run - 1) * step_across * down * channels
        rows = (longest - 1) * step_down * channels + max(columns * down * channels, last + taps_read)
        return whole_patterns(ROW_BYTES * rows)

    if 4 * shares * blocks.split * program_blocks * row_count * tile_columns >= MOST_BYTES:
        return None
    in_memory = filled_up(batch) if has_to_be_filled_up(batch, torch.float32.itemsize) else batch
    room = SHARED_BYTES - BARRIER_BYTES
    wanted = min(map_rows, ceil(units / shares) + 1) if step_down < down else 1
    fewest = max(FEWEST_STAGES, min(4, blocks.run // blocks.pixels))
    longest = next((n for n in range(wanted, 0, -1) if room - 2 * window_bytes(n) >= fewest * stage_bytes), 0)
    if not longest:
        return None
    stages = min(MOST_STAGES, (room - 2 * window_bytes(longest)) // stage_bytes)
    constants = {
        "NARROW": narrow, "SCALED": product == "float16", "IMAGES": images, "CHANNELS": channels,
        "ALL_CHANNELS": all_channels, "CHUNKS": chunks,
        "FILTERS": filters, "ALL_FILTERS": all_filters, "BLOCKS": program_blocks, "RUN": blocks.run,
        "STAGE_PIXELS": blocks.pixels, "STRIPS": strips, "UNITS": units, "SHARES": shares, "LONGEST": longest,
        "COLUMNS": columns, "WINDOW_BYTES": window_bytes(longest), "STAGES": stages,
        "STAGE_BYTES": stage_bytes, "TAPS_AS_ROWS": blocks.taps_as_rows, "TILE_N": tile_columns,
        "TILES_EACH": tiles_each, "SUM_SPLIT": blocks.split, "PARTIAL_ROWS": row_count,
        "ADDING_THREADS": ADDING_THREADS, "IMAGE_ELEMENTS": in_memory * prod(geometry.images[1:]),
        "MAP_ELEMENTS": in_memory * prod(geometry.maps[1:]),
        "RUNS_OF_SAMPLE": RUNS_OF_SAMPLE,
    } | constants_of_correlation(geometry)  # fmt: skip
    return WindowGradPlan({name: int(value) for name, value in constants.items()})


def window_filter_grad(
    images: torch.Tensor, maps: torch.Tensor, plan: WindowGradPlan, filters: torch.Tensor,
    magnitudes: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Write the filter gradient that ``plan`` describes to ``filters``.

    Images and maps are batch-last, and `copying.boxable`.
    Prepared operands of float16 come with the two rows of `largest_magnitudes` that they were scaled by.
    """
    partial = torch.empty(plan.partial_shape, dtype=torch.float32, device=images.device)
    samples = torch.empty((plan.programs, 4), dtype=torch.float32, device=images.device)
    launch(
        plan.source, "window_filter_grad", plan.programs, THREADS, plan.shared_bytes, *boxes_of_images(images, plan),
        boxes_of_maps(maps, plan), images, maps, samples, partial,
    )  # fmt: skip
    if magnitudes is None:
        add_shares(partial, plan, samples, plan.programs, filters)
    else:
        add_shares(partial, plan, magnitudes.contiguous(), magnitudes.shape[1], filters)


def boxes_of_images(images: torch.Tensor, plan: WindowGradPlan) -> tuple[TensorMap, TensorMap]:
    """What copies bring: a whole window, and of a column of it what is new one map row further down."""
    k = plan.constants
    boxes = (k["TAPS_DOWN"], k["COLUMNS"]), (k["STEP_ROWS"], 1)
    whole, added = (batch_last_map(images, (k["IMAGES"], k["CHANNELS"], *box)) for box in boxes)
    return whole, added


def boxes_of_maps(maps: torch.Tensor, plan: WindowGradPlan) -> TensorMap:
    """What copies bring, or write: a stage of pixels of a row."""
    (batch, channels, rows, columns), step, k = maps.shape, pixel_step(maps), plan.constants
    steps, box = (rows * columns * step, step, columns * step), (k["IMAGES"], k["FILTERS"], k["STAGE_PIXELS"], 1)
    return TensorMap(maps, (batch, channels, columns, rows), steps, box, swizzled=True)


def add_shares(
    partial: torch.Tensor, plan: WindowGradPlan, found: torch.Tensor, finders: int, filters: torch.Tensor
) -> None:
    """Add up what programs summed, by what they, or so many searchers of magnitudes, found."""
    sums = ceil(prod(plan.partial_shape[1:]) / ADDED_AT_ONCE)
    launch(plan.source, "add_partials", sums, ADDING_THREADS, 0, partial, found, finders, filters, *filters.stride())
