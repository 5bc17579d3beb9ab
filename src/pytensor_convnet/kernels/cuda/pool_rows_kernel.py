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

Keys are those of `bfloat16_keys`. Floors as of `max_pool2d` and `max_pool2d_grad`.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from pytensor_convnet.kernels.cuda.hopper_sources import constants_of_pool, source_of
from pytensor_convnet.kernels.cuda.pool_plans import Windows, is_written_out
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile, launch

STRIP_ROWS = 8
"""Rows of windows, or of pixels, of a strip, at most; of windows that move by more than a row half of it."""

MOST_THREADS, SHARED_BYTES = 128, 48 * 1024
"""Of a program."""

CELL = 8
"""Numbers that are stored at once: those of a strip's pixels follow each other in memory."""


@dataclass(frozen=True)
class RowsPlan:
    """All constants of a kernel, as the source has them."""

    constants: dict[str, int]
    file: str

    @property
    def programs(self) -> int:
        return -(-self.constants["ALL_STRIPS"] // self.constants["STRIPS"])

    @property
    def shared_bytes(self) -> int:
        k = self.constants
        return 4 * (k["STRIPS"] * k["TILE_ROWS"] * k["PITCH"] + k["PADDING"]) + 2 * k["STRIPS"] * k["RUN_PITCH"]

    @cached_property
    def source(self) -> str:
        """The kernel's source, constants and all."""
        return source_of(self.constants, "", self.file)


def goes_by_rows(dtype: torch.dtype, device: torch.device, format: str, windows: Windows) -> bool:
    """Whether these kernels are for such images at all."""
    return dtype == torch.bfloat16 and format == "bc01" and is_written_out(windows) and can_compile(device)


@lru_cache(maxsize=4096)
def rows_plan(planes: int, windows: Windows, with_winners: bool) -> RowsPlan | None:
    """The constants of a pass forward over so many planes; None where a strip does not fit into shared memory."""
    (down, across), (step_down, step_across) = windows.window, windows.stride
    strips_each = -(-windows.out_rows // _most_rows(windows))
    strip, left = -(-windows.out_rows // strips_each), windows.padding[1][0]
    return _plan(
        planes, windows, "pool_rows_kernel.cu", windows.out_columns, strip, strips_each, RUN_PITCH=0,
        TILE_ROWS=(strip - 1) * step_down + down, WITH_WINNERS=with_winners,
        PITCH=max(left + windows.columns, (windows.out_columns - 1) * step_across + across),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def rows_grad_plan(planes: int, windows: Windows) -> RowsPlan | None:
    """The constants of a gradient, likewise."""
    (down, across), (step_down, step_across) = windows.window, windows.stride
    top, left = windows.padding[0][0], windows.padding[1][0]
    rows = windows.rows + top % step_down
    strips_each = -(-rows // max(step_down, _most_rows(windows)))
    strip = -(-rows // (strips_each * step_down)) * step_down
    patch = 2 if step_across == 1 < across else step_across
    patches = -(-(windows.columns + left % step_across) // patch)
    rows_before, columns_before = (down - 1) // step_down, (across - 1) // step_across
    return _plan(
        planes, windows, "pool_rows_grad_kernel.cu", patches, strip, strips_each,
        TILE_ROWS=rows_before + strip // step_down, PITCH=columns_before + patches * patch // step_across,
        FIRST_ROW=top - top % step_down, FIRST_COLUMN=left - left % step_across, ROWS_BEFORE=rows_before,
        COLUMNS_BEFORE=columns_before, PATCH_COLUMNS=patch, PATCHES=patches,
        RUN_PITCH=CELL * -(-(strip * windows.columns + CELL - 1) // CELL),
    )  # fmt: skip


def _most_rows(windows: Windows) -> int:
    return STRIP_ROWS if windows.stride[0] == 1 else STRIP_ROWS // 2


def _plan(
    planes: int, windows: Windows, file: str, items: int, strip: int, strips_each: int, **of_kernel: int
) -> RowsPlan | None:
    """A plan whose strips have so many items, one for a thread, and so many of which make a plane."""
    strips = max(1, MOST_THREADS // items)
    strip_bytes = 4 * of_kernel["TILE_ROWS"] * of_kernel["PITCH"] + 2 * of_kernel["RUN_PITCH"]
    strips = min(strips, (SHARED_BYTES - 16) // strip_bytes, planes * strips_each)
    if strips == 0 or planes * strips_each >= 2**31 or windows.rows * windows.columns >= 2**31:
        return None
    threads = min(MOST_THREADS, 32 * -(-strips * items // 32))
    constants = {
        "THREADS": threads, "ROWS": windows.rows, "COLUMNS": windows.columns, "STRIP": strip, "STRIPS": strips,
        "STRIPS_EACH": strips_each, "ALL_STRIPS": planes * strips_each, **of_kernel,
        "PADDING": -strips * of_kernel["TILE_ROWS"] * of_kernel["PITCH"] % 4,
    }  # fmt: skip
    return RowsPlan({name: int(value) for name, value in (constants | constants_of_pool(windows)).items()}, file)


def pool_rows(images: torch.Tensor, maxima: torch.Tensor, winners: torch.Tensor | None, plan: RowsPlan) -> None:
    """Write ``maxima`` and ``winners``, dense bc01 as ``images`` are."""
    arguments = images, maxima, maxima if winners is None else winners
    launch(plan.source, "pooled_rows", plan.programs, plan.constants["THREADS"], plan.shared_bytes, *arguments)


def pool_rows_grad(winners: torch.Tensor, maps: torch.Tensor, images: torch.Tensor, plan: RowsPlan) -> None:
    """Write the gradient ``images``, dense bc01 as ``winners`` and ``maps`` are."""
    arguments = winners, maps, images
    launch(plan.source, "pooled_rows_grad", plan.programs, plan.constants["THREADS"], plan.shared_bytes, *arguments)
