"""The kernel of correlation, bias, relu and max pooling as one where channels are few: pixels in shared memory.

The loop nest, for a run of windows of the pool along a row, and 64 images b::

    tile = the source's pixels under the run, all channels
    for each window, for each column of the maps that the window before has not:
        largest[m, b] = the largest of the column's key(bias[m] + sum over k of  filters[m, k] * tile[pixel + k, b])
        window[m, b] = max(window, largest);   of a column that the next window shares, next = largest, too
      after a window's last column:
        maxima, winners [m, window, b] = value(window), tap(window);  window = next

As in `window_kernel` a tile lies in shared memory as the copying engine brings it, images innermost, and what a map
pixel sees are rows of it, from the pixel's on, by which tensor cores multiply. Keys are those of `conv_pool_keys` for
what is rectified. A row of the maps that two rows of windows share is computed for each. By filters of zero that meet
other pixels of the tile, an infinity or NaN of an image may reach maps a little further than filters do.

Floors: images read, maxima and winners written once; two floating-point operations a multiply-add of `correlate2d`, at
the rate of bfloat16 or tf32. Measured on an H100 (`docs/cuda-kernels.md`), preparation counted: 38% of the floor
(cifar1_b1024) and 21% (cifar1) in bfloat16, 45% and 19% in float32; held back by products, keys and stores that wait
for each other, with two warps to a scheduler, and in cifar1 by the latency of the first tile and the filters.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, prod

import torch

from pytensor_convnet.kernels.cuda.conv_pool_keys import MOST_TAPS
from pytensor_convnet.kernels.cuda.copying import is_boxable
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.hardware import MULTIPROCESSORS, SHARED_BYTES
from pytensor_convnet.kernels.cuda.hopper_sources import (
    BARRIER_BYTES,
    MOST_BYTES,
    MOST_COLUMNS,
    MOST_OF_A_BOX,
    MULTIPLYING_REGISTERS,
    ROW_BYTES,
    THREADS,
    add_product,
    constants_of_correlation,
    constants_of_pool,
    source_of,
    whole_patterns,
)
from pytensor_convnet.kernels.cuda.magnitudes import as_found
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.runtime_compiler import batch_last_map, launch

IMAGES, DEPTH = 64, 16
"""Of a tile; and rows of a product."""

FEWEST_STORED = 4
"""Images whose maxima are stored at once, a divisor of the batch; twice as many of bfloat16 where these divide it."""

SUM_PITCH = 4 * (IMAGES + 4)
"""Bytes from one filter's maxima of float32 to the next: four numbers more, so that threads meet all banks."""

MOST_STAGES, FEWEST_STAGES = 4, 1
BESIDE_SUMS = 48
"""Registers of a multiplying thread besides sums, keys and biases."""

RECTIFIERS = ("relu", "muting_relu")


@dataclass(frozen=True)
class PoolWindowBlocks:
    """How a pooled correlation over windows is cut.

    Attributes
    ----------
    run : int
        Windows of the pool that see a tile.
    rows : int
        Rows of a window whose maps are multiplied together.
    """

    run: int
    rows: int


@dataclass(frozen=True)
class PoolWindowPlan:
    """All constants of a kernel, as the source has them."""

    constants: dict[str, int]

    @property
    def shared_bytes(self) -> int:
        k = self.constants
        return k["STAGES_START"] + k["STAGES"] * k["STAGE_BYTES"]

    @cached_property
    def source(self) -> str:
        """The kernel's source, constants and all."""
        kind = "f16.f16" if self.constants["SCALED"] else "bf16.bf16"
        product = add_product(self.constants["FILTERS"], f"k16.f32.{kind}", ", 1, 0")
        return source_of(self.constants, product, "pool_window_kernel.cu")


def fits_pool_windows(geometry: Geometry, windows: Windows, activation: str) -> bool:
    """Whether a pooled correlation can be computed so at all."""
    plain = geometry.groups == 1 and geometry.dilation == (1, 1) and activation in RECTIFIERS
    pooled = prod(geometry.maps[:2]) * windows.out_rows * windows.out_columns
    sizes = prod(geometry.images), prod(geometry.filters), pooled
    batches = geometry.images[0] % FEWEST_STORED == 0 and is_boxable(geometry.images[0], 2)
    alike = windows.taps <= MOST_TAPS and windows.window[1] <= windows.stride[1] + 1
    return plain and batches and alike and min(sizes) > 0 and 4 * max(sizes) < MOST_BYTES


@lru_cache(maxsize=4096)
def pool_window_plan(
    geometry: Geometry, windows: Windows, blocks: PoolWindowBlocks, product: str, muting: bool
) -> PoolWindowPlan | None:
    """The constants of a kernel; None where it does not fit into a multiprocessor.

    Parameters
    ----------
    product : {'native', 'float16'}
        Of bfloat16, or of float32 whose images were brought to float16.
    muting : bool
        Whether windows without a maximum that is more than zero have no winner.
    """
    batch, channels = geometry.images[:2]
    all_filters, _, down, across = geometry.filters
    step_down, step_across = geometry.stride
    filters, scaled = 8 * ceil(all_filters / 8), product == "float16"
    rows = (windows.window[0] - 1) * step_down + down
    map_columns = (blocks.run - 1) * windows.stride[1] + windows.window[1]
    columns, of_column = (map_columns - 1) * step_across + across, rows * channels
    slice_columns, steps = _slices(across, of_column, down * channels)
    slices = ceil(across / slice_columns)
    sums = blocks.rows * filters // 2 + 5 * filters // 4  # besides maps: keys of a column and of a window, biases
    too_many = max(columns, rows, channels) > MOST_OF_A_BOX or filters > MOST_COLUMNS
    if too_many or sums + BESIDE_SUMS > MULTIPLYING_REGISTERS:
        return None
    last = (map_columns - 1) * step_across * of_column + (windows.window[0] - 1) * step_down * channels
    last += (slices - 1) * slice_columns * of_column + DEPTH * steps  # of the rows that products read
    stage_bytes = whole_patterns(ROW_BYTES * max(columns * of_column, last))
    collected_start = BARRIER_BYTES + ceil(slices * steps / 4) * filters * ROW_BYTES
    collected_bytes = whole_patterns(filters * (ROW_BYTES + (SUM_PITCH if scaled else ROW_BYTES)))
    stages_start = whole_patterns(collected_start) + 2 * collected_bytes
    stages = min(MOST_STAGES, (SHARED_BYTES - stages_start) // stage_bytes)
    if stages < FEWEST_STAGES:
        return None
    stored = FEWEST_STORED if scaled or batch % (2 * FEWEST_STORED) else 2 * FEWEST_STORED
    runs, batch_blocks = ceil(windows.out_columns / blocks.run), ceil(batch / IMAGES)
    constants = {
        "SCALED": scaled, "MUTING": muting, "BATCH": batch, "FILTERS": filters, "ALL_FILTERS": all_filters,
        "CHANNELS": channels, "RUN": blocks.run, "RUNS": runs, "BATCH_BLOCKS": batch_blocks,
        "UNITS": batch_blocks * runs * windows.out_rows, "TILE_ROWS": rows, "TILE_COLUMNS": columns,
        "SLICE_COLUMNS": slice_columns, "SLICES": slices, "SLICE_STEPS": steps,
        "AT_ONCE": blocks.rows, "ONES": 2 ** windows.taps.bit_length() - 1, "SUM_PITCH": SUM_PITCH,
        "CELL_IMAGES": stored, "COLLECTED_START": whole_patterns(collected_start), "COLLECTED_BYTES": collected_bytes,
        "STAGES_START": stages_start, "STAGE_BYTES": stage_bytes, "STAGES": stages,
    } | constants_of_correlation(geometry) | constants_of_pool(windows)  # fmt: skip
    return PoolWindowPlan({name: int(value) for name, value in constants.items()})


def _slices(taps: int, of_column: int, of_tap: int) -> tuple[int, int]:
    """How many columns of taps are multiplied together, and in how many products: the fewest in all."""
    steps = {n: ceil(((n - 1) * of_column + of_tap) / DEPTH) for n in range(1, taps + 1)}
    return min(steps.items(), key=lambda slice: ceil(taps / slice[0]) * slice[1])


def pooled_windows(
    images: torch.Tensor, filters: torch.Tensor, biases: torch.Tensor, plan: PoolWindowPlan,
    magnitudes: torch.Tensor | None, maxima: torch.Tensor, winners: torch.Tensor,
) -> None:  # fmt: skip
    """Write the pass that ``plan`` describes to ``maxima`` and ``winners``, dense and batch-last.

    Parameters
    ----------
    images : tensor
        Batch-last, `copying.boxable`, prepared if the product is float16.
    filters, biases : tensor
        As they are.
    magnitudes : tensor or None
        Rows of `largest_magnitudes`, of images and of filters, for float16.
    """
    k = plan.constants
    tiles = batch_last_map(images, (IMAGES, k["CHANNELS"], k["TILE_ROWS"], k["TILE_COLUMNS"]))
    launch(
        plan.source, "pooled_windows", min(k["UNITS"], MULTIPROCESSORS), THREADS, plan.shared_bytes, tiles, filters,
        *filters.stride(), biases, *as_found(magnitudes, maxima), maxima, winners,
    )  # fmt: skip
