"""Max pooling of bfloat16 in bc01, and its gradient: rows of an image in shared memory, each number read once.

In bc01 neighbouring numbers belong to neighbouring windows, so no vector of them is treated alike, and a kernel of
single numbers spends most of its instructions on where they lie and whether they are there. Here a program brings the
rows that a few strips of windows see to shared memory, with borders, and from there taps lie where constants say::

    for each row and column of a strip's pixels:  tile[row, column] = key of images[row, column];  borders = the least
    for each column of windows, for each row of the tile:  best[row] = largest of the taps' keys in it
      for each window of the column:  its key = largest of  best[row] - row's first tap

and the gradient::

    for each row and column of the windows that a strip of pixels sees:  tile = value and winner;  borders = 0
    for each column of pixels, for each window that touches it, for each pixel of both:  add the value if the pixel won

Keys are those of `bfloat16_keys`. Floors as of `max_pool2d` and `max_pool2d_grad`; on an H100 large cases reach 72% to
86% of them forward and 72% to 93% in gradients. What holds them back is said in `docs/cuda-pooling.md`.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from pytensor_convnet.kernels.cuda.hopper_sources import constants_of_pool, source_of
from pytensor_convnet.kernels.cuda.pool_plans import Windows, is_written_out
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile, launch

MOST_ROWS, MOST_PIXEL_ROWS = 16, 16
"""Rows of windows, and in gradients of pixels, of a strip, at most; half as many where windows move by more than a row
and where programs would be few."""

MOST_THREADS, SHARED_BYTES = 128, 48 * 1024
"""Of a program."""

ENOUGH_PROGRAMS = 4096

MOST_TILE_ROWS, MOST_SUMS = 24, 32
"""What a thread has in registers: numbers of a column, and in gradients sums of pixels."""

CELL = 8
"""Numbers that are stored at once: those of a strip's pixels follow each other in memory."""


@dataclass(frozen=True)
class RowsPlan:
    """All constants of a kernel, as the source has them, and what it is told: one source is for every number of planes.

    Attributes
    ----------
    strips : int
        Of all planes.
    """

    constants: dict[str, int]
    file: str
    strips: int

    @property
    def programs(self) -> int:
        return -(-self.strips // self.constants["STRIPS"])

    @property
    def shared_bytes(self) -> int:
        k = self.constants
        return 4 * (k["STRIPS"] * k["TILE_ROWS"] * k["PITCH"] + k["PADDING"]) + 2 * k["STRIPS"] * k["RUN_PITCH"]

    @cached_property
    def source(self) -> str:
        """The kernel's source, constants and all."""
        return source_of(self.constants, "", "pool_rows_strips.cu", self.file)


def goes_by_rows(images: torch.Tensor, winners: torch.Tensor | None, format: str, windows: Windows) -> bool:
    """Whether these kernels are for a pool at all, or for its gradient."""
    of_bytes = winners is None or winners.dtype == torch.uint8
    return of_bytes and suits_rows(images.dtype, format, windows, images.device)


def suits_rows(dtype: torch.dtype, format: str, windows: Windows, device: torch.device) -> bool:
    """Whether they are, if winners are bytes."""
    return dtype == torch.bfloat16 and format == "bc01" and is_written_out(windows) and can_compile(device)


@lru_cache(maxsize=4096)
def rows_plan(planes: int, windows: Windows, with_winners: bool) -> RowsPlan | None:
    """The constants of a pass forward over so many planes; None where a strip does not fit into shared memory."""
    (down, across), (step_down, step_across) = windows.window, windows.stride
    most = MOST_ROWS if step_down == 1 else MOST_ROWS // 2
    if planes * windows.out_rows * windows.out_columns < ENOUGH_PROGRAMS * MOST_THREADS * most:
        most //= 2
    most = max(1, min(most, (MOST_TILE_ROWS - down) // step_down + 1))
    strip, strips_each = _strips(windows.out_rows, most, 1)
    return _plan(
        planes, windows, "pool_rows_kernel.cu", windows.out_columns, strip, strips_each, RUN_PITCH=0,
        TILE_ROWS=(strip - 1) * step_down + down, WITH_WINNERS=with_winners,
        PITCH=max(windows.padding[1][0] + windows.columns, (windows.out_columns - 1) * step_across + across),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def rows_grad_plan(planes: int, windows: Windows) -> RowsPlan | None:
    """The constants of a gradient, likewise; None, too, where a thread would have too many pixels."""
    (down, across), (step_down, step_across) = windows.window, windows.stride
    top, left = windows.padding[0][0], windows.padding[1][0]
    patch = 2 if step_across == 1 < across else step_across
    if patch * step_down > MOST_SUMS:
        return None
    strip, strips_each = _strips(windows.rows, min(MOST_PIXEL_ROWS, MOST_SUMS // patch), step_down)
    patches = -(-windows.columns // patch)
    rows_before, columns_before = (
        (down - 1 - top % step_down) // step_down,
        (across - 1 - left % step_across) // step_across,
    )
    patch_windows = columns_before + (patch - 1 + left % step_across) // step_across + 1
    return _plan(
        planes, windows, "pool_rows_grad_kernel.cu", patches, strip, strips_each,
        TILE_ROWS=rows_before + (strip - 1 + top % step_down) // step_down + 1,
        PITCH=(patches - 1) * (patch // step_across) + patch_windows, ROWS_BEFORE=rows_before,
        COLUMNS_BEFORE=columns_before, PATCH_COLUMNS=patch, PATCHES=patches, PATCH_WINDOWS=patch_windows,
        RUN_PITCH=CELL * -(-(strip * windows.columns + CELL - 1) // CELL),
    )  # fmt: skip


def _strips(rows: int, most: int, step: int) -> tuple[int, int]:
    """Rows of a strip, a multiple of ``step`` and at most ``most``, or ``step``; and how many strips make ``rows``."""
    strips = -(-rows // max(step, most // step * step))
    strip = -(-rows // (strips * step)) * step
    return strip, -(-rows // strip)


def _plan(
    planes: int, windows: Windows, file: str, items: int, strip: int, strips_each: int, **of_kernel: int
) -> RowsPlan | None:
    """A plan whose strips have so many items, one for a thread, and so many of which make a plane."""
    strips = max(1, MOST_THREADS // items)
    strip_bytes = 4 * of_kernel["TILE_ROWS"] * of_kernel["PITCH"] + 2 * of_kernel["RUN_PITCH"]
    all_strips = planes * strips_each
    strips = min(strips, (SHARED_BYTES - 16) // strip_bytes, all_strips)
    if strips == 0 or all_strips >= 2**31 - MOST_THREADS or windows.rows * windows.columns >= 2**31:
        return None
    threads = min(MOST_THREADS, 32 * -(-strips * items // 32))
    constants = {
        "THREADS": threads, "ROWS": windows.rows, "COLUMNS": windows.columns, "STRIP": strip, "STRIPS": strips,
        "STRIPS_EACH": strips_each, **of_kernel, "PADDING": -strips * of_kernel["TILE_ROWS"] * of_kernel["PITCH"] % 4,
    }  # fmt: skip
    named = {name: int(value) for name, value in (constants | constants_of_pool(windows)).items()}
    return RowsPlan(named, file, all_strips)


def pool_rows(images: torch.Tensor, maxima: torch.Tensor, winners: torch.Tensor | None, plan: RowsPlan) -> None:
    """Write ``maxima`` and ``winners``, dense bc01 as ``images`` are."""
    arguments = images, maxima, maxima if winners is None else winners, plan.strips
    launch(plan.source, "pooled_rows", plan.programs, plan.constants["THREADS"], plan.shared_bytes, *arguments)


def pool_rows_grad(winners: torch.Tensor, maps: torch.Tensor, images: torch.Tensor, plan: RowsPlan) -> None:
    """Write the gradient ``images``, dense bc01 as ``winners`` and ``maps`` are."""
    arguments = winners, maps, images, plan.strips
    launch(plan.source, "pooled_rows_grad", plan.programs, plan.constants["THREADS"], plan.shared_bytes, *arguments)
