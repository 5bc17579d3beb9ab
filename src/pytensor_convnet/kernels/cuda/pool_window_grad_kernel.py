"""The kernel of a pooled correlation's filter gradient over windows, which spreads pooled gradients as it goes.

It is that of `window_grad_kernel`, but no maps lie in memory: half of its threads compute them, from pooled gradients
and winners, stage by stage, while the others multiply the stage before. The input gradient needs them in memory; there
they are `kept` on the way, and no kernel reads pooled gradients only to write maps.

Floors: images, pooled gradients and winners read once, maps written once where they are kept; two floating-point
operations a multiply-add, at the product's rate.
"""

from math import ceil, prod

import torch

from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.hopper_sources import MOST_BYTES
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.runtime_compiler import launch
from pytensor_convnet.kernels.cuda.window_grad_kernel import (
    WindowGradBlocks,
    WindowGradPlan,
    add_shares,
    boxes_of_images,
    window_grad_plan,
)

THREADS, REGISTERS = 512, 256
"""Of a program: two warpgroups multiply, two spread; and what a thread of each kind has together."""

BESIDE_SUMS, FEWEST_REGISTERS = 32, 104
"""Registers of a multiplying thread besides its sums, and how many it has at least."""

FILTERS_AT_ONCE = 32
"""Whose images the spreading threads have, 8 each."""

MOST_TAPS = 128
"""Of a window; 255 stands for none."""


def pool_window_grad_plan(
    geometry: Geometry, windows: Windows, blocks: WindowGradBlocks, product: str, kept: bool
) -> WindowGradPlan | None:
    """The constants of a kernel; None where it does not fit into a multiprocessor.

    Parameters
    ----------
    product : {'native', 'float16'}
        Of bfloat16, or of float32, whose images were brought to float16.
    kept : bool
        Whether the maps are written to memory, too.
    """
    plan = window_grad_plan(geometry, blocks, product)
    if plan is None or windows.taps > MOST_TAPS or 2 * prod(geometry.maps) >= MOST_BYTES:
        return None
    k = plan.constants
    sums = k["TILES_EACH"] * k["TILE_N"] // 2
    multiplying = max(FEWEST_REGISTERS, 8 * ceil((sums + BESIDE_SUMS) / 8))
    spreading = REGISTERS - multiplying
    (rows, columns), (step_rows, step_columns) = windows.window, windows.stride
    each, down = ceil(blocks.filters / FILTERS_AT_ONCE), ceil(rows / step_rows)
    cell = 6 if product == "native" else 10
    width = max(columns, step_columns)
    held = each * (down * cell + 4 * width + 4 * (width - step_columns)) + 24
    if spreading < min(held, 72):
        return None
    constants = {
        "BATCH": geometry.images[0], "POOL_ROWS": rows, "POOL_COLUMNS": columns, "POOL_STEP_ROWS": step_rows,
        "POOL_STEP_COLUMNS": step_columns, "POOL_TOP": windows.padding[0][0], "POOL_LEFT": windows.padding[1][0],
        "OUT_ROWS": windows.out_rows, "OUT_COLUMNS": windows.out_columns, "KEPT": int(kept),
        "AHEAD": int(spreading >= held + each * down * cell), "THREADS": THREADS, "FETCHING_REGISTERS": spreading,
        "MULTIPLYING_REGISTERS": multiplying,
    }  # fmt: skip
    return WindowGradPlan(k | constants, ("window_grad_parts.cu", "pool_window_grad_kernel.cu"))


def pooled_window_filter_grad(
    images: torch.Tensor, winners: torch.Tensor, maps: torch.Tensor, plan: WindowGradPlan, filters: torch.Tensor,
    magnitudes: torch.Tensor | None, kept: torch.Tensor | None,
) -> None:  # fmt: skip
    """Write the filter gradient that ``plan`` describes to ``filters``, contiguous, and the maps to ``kept``.

    Parameters
    ----------
    images : tensor
        Batch-last, prepared if the product is float16.
    winners, maps : tensor
        Of the pooled shape, uint8 and as the task has it, both dense and batch-last.
    magnitudes : tensor or None
        Rows of `largest_magnitudes`, of images and of maps times their `geometry.overlap`, for float16.
    kept : tensor or None
        Batch-last, of 16 bits.
    """
    partial = torch.empty(plan.partial_shape, dtype=torch.float32, device=images.device)
    found = partial if magnitudes is None else magnitudes.contiguous()
    finders = 0 if magnitudes is None else magnitudes.shape[1]
    launch(
        plan.source, "pooled_window_filter_grad", plan.programs, THREADS, plan.shared_bytes,
        *boxes_of_images(images, plan), maps, winners, found, finders, partial if kept is None else kept, partial,
    )  # fmt: skip
    add_shares(partial, plan, found, finders, filters)
