"""The kernel of a pooled correlation's filter gradient over windows, which spreads pooled gradients as it goes.

It is that of `window_grad_kernel`, but no maps lie in memory: some of its threads compute them, from pooled gradients
and winners, stage by stage, while the others multiply the stage before. The input gradient needs them in memory; there
the copying engine may put them on the way. Sums of windows that share a pixel are rounded to 16 bits one after the
other, where `spreading.spread` rounds their sum.

Floors: images, pooled gradients and winners read once, maps written once where they are kept; two floating-point
operations a multiply-add, at the rate of bfloat16 or tf32. Measured on an H100 (`docs/cuda-kernels.md`), preparation
counted: 41% of the floor (alex1) and 28% (cifar1_b1024) in bfloat16, 42% and 22% in float32; held back by the
instructions that compare winners and place what they won, and by waiting for pooled gradients and windows.
"""

from math import ceil, prod

import torch

from pytensor_convnet.kernels.cuda.copying import BATCH_MULTIPLE
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.hardware import REGISTERS
from pytensor_convnet.kernels.cuda.hopper_sources import BATCH_MULTIPLES, MOST_BYTES, constants_of_pool
from pytensor_convnet.kernels.cuda.magnitudes import as_found
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.runtime_compiler import launch
from pytensor_convnet.kernels.cuda.window_grad_kernel import (
    WindowGradBlocks,
    WindowGradPlan,
    add_shares,
    boxes_of_images,
    boxes_of_maps,
    window_grad_plan,
)

MULTIPLYING = 256
"""Threads of a program that multiply; besides them some spread."""

BESIDE_A_PRODUCT = 28
"""Registers that an instruction needs besides the sums of its tile, of those that threads begin with (ptxas, C7602)."""

MOST_AHEAD = 2
"""Windows of the pool, in a row, that are read before they are needed."""

BESIDE_SUMS, FEWEST_MULTIPLYING, MOST_REGISTERS = 32, 80, 232
"""Registers of a multiplying thread besides its sums, and how many it has at least; and that any asks for."""

BESIDE_CELLS, FEWEST_SPREADING, MOST_SPILLED = 40, 72, 8
"""Registers of a spreading thread besides what it reads and sums, where it reads ahead; how many it has at least; and
in how many more than those it may read and sum, as not all are needed at once."""

OF_A_FILTER = 8
"""Threads that have 64 images of a filter, 8 each."""

MOST_TAPS = 255
"""Of a window, whose winner is a byte; 255 stands for none."""


def pool_window_grad_plan(
    geometry: Geometry, windows: Windows, blocks: WindowGradBlocks, spreading: int, product: str, prepared: bool,
    kept: bool,
) -> WindowGradPlan | None:  # fmt: skip
    """The constants of a kernel; None where it does not fit into a multiprocessor.

    Parameters
    ----------
    spreading : int
        Threads that spread: whole warpgroups.
    product : {'native', 'float16'}
        Of bfloat16, or of float32 whose images were brought to float16.
    prepared : bool
        Whether pooled gradients of float32 were brought to float16, too.
    kept : bool
        Whether the maps are written to memory, too.
    """
    (rows, columns), (step_rows, step_columns) = windows.window, windows.stride
    plan = window_grad_plan(geometry, blocks, product)
    pooled = prod(geometry.maps[:2]) * windows.out_rows * windows.out_columns
    large = 2 * max(prod(geometry.maps), prod(geometry.images), pooled) >= MOST_BYTES
    multiple = BATCH_MULTIPLE if prepared else BATCH_MULTIPLES[True]  # what is prepared is filled up to it
    if plan is None or geometry.images[0] % multiple or windows.taps > MOST_TAPS or large:
        return None
    k = plan.constants
    threads = MULTIPLYING + spreading
    launched = REGISTERS // threads // 8 * 8
    multiplying = max(FEWEST_MULTIPLYING, 8 * ceil((k["TILES_EACH"] * k["TILE_N"] // 2 + BESIDE_SUMS) / 8))
    registers = min(MOST_REGISTERS, (threads * launched - MULTIPLYING * multiplying) // spreading // 8 * 8)
    each, width = ceil(blocks.filters * OF_A_FILTER / spreading), max(columns, step_columns)
    map_bytes = 4 if product == "float16" and not prepared else 2
    # Registers of the windows that lie in a column, and of the pixels that one holds or the next may hold.
    cells, sums = (2 * map_bytes + 2) * each * ceil(rows / step_rows), 4 * each * (2 * width - step_columns)
    too_few = registers < FEWEST_SPREADING or cells + sums > registers + MOST_SPILLED
    if too_few or k["TILE_N"] // 2 + BESIDE_A_PRODUCT > launched:
        return None
    ahead = max(0, min(MOST_AHEAD, (registers - sums - BESIDE_CELLS) // cells - 1))
    constants = {
        "BATCH": geometry.images[0], "KEPT": int(kept), "SPREADING": spreading, "MAP_BYTES": map_bytes, "AHEAD": ahead,
        "THREADS": threads, "LAUNCHED_REGISTERS": launched, "SPREADING_REGISTERS": registers,
        "MULTIPLYING_REGISTERS": multiplying,
    } | constants_of_pool(windows)  # fmt: skip
    return WindowGradPlan(k | constants, ("window_grad_parts.cu", "pool_window_grad_kernel.cu"))


def pooled_window_shares(
    images: torch.Tensor, winners: torch.Tensor, maps: torch.Tensor, plan: WindowGradPlan,
    magnitudes: torch.Tensor | None, kept: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """What programs sum of the filter gradient that ``plan`` describes; the maps are written to ``kept``.

    Parameters
    ----------
    images : tensor
        Batch-last, prepared if the product is float16.
    maps, winners : tensor
        Of the pooled shape, dense and batch-last, prepared or not, and of bytes.
    magnitudes : tensor or None
        Rows of `largest_magnitudes`, of images and of maps times their `geometry.overlap`, for float16.
    kept : tensor or None
        Dense and batch-last, of 16 bits.
    """
    shares = torch.empty(plan.partial_shape, dtype=torch.float32, device=images.device)
    launch(
        plan.source, "pooled_window_filter_grad", plan.programs, plan.constants["THREADS"], plan.shared_bytes,
        *boxes_of_images(images, plan), maps, winners, *as_found(magnitudes, shares),
        shares if kept is None else boxes_of_maps(kept, plan), shares,
    )  # fmt: skip
    return shares


def add_pooled_shares(
    shares: torch.Tensor, plan: WindowGradPlan, magnitudes: torch.Tensor | None, filters: torch.Tensor
) -> None:
    """Write the filter gradient to ``filters``, from what `pooled_window_shares` gives."""
    add_shares(shares, plan, *as_found(magnitudes, shares), filters)
