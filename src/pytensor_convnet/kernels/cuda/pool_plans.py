"""What the pooling kernels share before they run: arguments checked, tensors as planes, and tiles of work.

A pool moves along rows and columns only. So a tensor in any of the three formats is, to these kernels, a number of
*planes* of rows x columns *pixels*, each pixel ``inner`` numbers that lie side by side and are treated alike:

=============  ==================  ========
format         planes              inner
=============  ==================  ========
bc01           batch x channels    1
channels_last  batch               channels
batch_last     channels            batch
=============  ==================  ========

The numbers of a pixel are read as vectors of up to 16 bytes, a *unit* each.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch

from pytensor_convnet import geometry
from pytensor_convnet.geometry import Padding, Pair
from pytensor_convnet.kernels.cuda.checks import check_padding, check_tensors, raise_problem
from pytensor_convnet.kernels.cuda.formats import check_format
from pytensor_convnet.kernels.cuda.formats import memory_format as format_of

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Besides floats, max pooling takes integers and bool."""

Function = TypeVar("Function", bound=Callable[..., Any])

VECTOR_BYTES = 16
STRIP_ROWS = 4
"""So many rows of windows that overlap are computed together, or of pixels that share windows; twice as many where
windows move by one row and a thread holds single numbers, which leaves it registers."""

LARGEST_PATCH = 32
"""A thread keeps so many sums of pixels in registers."""

ENOUGH_PROGRAMS = 1024
"""With fewer programs, multiprocessors would wait: then strips are made of fewer rows."""

UNROLLED_TAPS = 36
"""Windows of more taps are walked by loops; those of fewer are written out, each tap a constant."""


@dataclass(frozen=True)
class Windows:
    """Windows that slide over images: lengths of images and maps, and how the windows move."""

    rows: int
    columns: int
    out_rows: int
    out_columns: int
    window: Pair
    stride: Pair
    padding: Padding

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    def lengths(self) -> tuple[int, int, int, int]:
        """What a kernel is told when it is launched."""
        return self.rows, self.columns // self.column_group, self.out_rows, self.out_columns

    @property
    def column_group(self) -> int:
        """1 or 2 columns, which surely divide a row: what the compiler may count on."""
        return 2 - self.columns % 2

    def is_paired(self, inner: int) -> bool:
        """Whether taps are read in pairs: see `pool_tiles.load_tap`."""
        return inner == 1 and self.stride[1] == self.column_group == 2

    def constants(self) -> dict[str, int]:
        """What a kernel knows when it is compiled."""
        return {
            "COLUMN_GROUP": self.column_group,
            "WINDOW_ROWS": self.window[0],
            "WINDOW_COLUMNS": self.window[1],
            "STRIDE_ROWS": self.stride[0],
            "STRIDE_COLUMNS": self.stride[1],
            "TOP": self.padding[0][0],
            "LEFT": self.padding[1][0],
        }


def _resolved(window: Any, stride: Any, padding: Any, prefix: str) -> tuple[Pair, Pair, Padding]:
    sides = check_padding(padding, f"{prefix}padding")
    return geometry.as_pair(window, "window", least=1), geometry.as_pair(stride, f"{prefix}stride", least=1), sides


def on_its_device(function: Function) -> Function:
    """Let a function run where its first argument, a tensor, is: Triton launches kernels on the current device."""

    @functools.wraps(function)
    def there(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cuda":  # the function refuses the former
            return function(tensor, *arguments, **named)
        with torch.cuda.device(tensor.device):
            return function(tensor, *arguments, **named)

    return cast(Function, there)


def check_pool(
    shape: Sequence[int], window: Any, stride: Any, padding: Any, ignore_border: bool, prefix: str = ""
) -> Windows:
    """The `Windows` of pooling images of ``shape``; ValueError when there are none.

    ``prefix`` stands before the names stride and padding in what is said of them, where the caller has them so.
    """
    window, stride, padding = _resolved(window, stride, padding, prefix)
    problem = geometry.pool_problem(shape, window, stride, padding, ignore_border)
    numbers = (*shape, *window, *stride, *padding[0], *padding[1], ignore_border)
    raise_problem(problem, geometry.POOL, *numbers)
    rows, columns = (
        geometry.pool_length(
            shape[axis - 2], window[axis], stride[axis], padding[axis][0], padding[axis][1], ignore_border
        )
        for axis in range(2)
    )
    return Windows(shape[2], shape[3], rows, columns, window, stride, padding)


def check_pooled(
    shape: Sequence[int], pooled: Sequence[int], window: Any, stride: Any, padding: Any, prefix: str = ""
) -> Windows:
    """The `Windows` that pooled images of ``shape`` to maps of shape ``pooled``; ValueError when none do.

    Both counts of windows are admitted, with and without partial ones. ``prefix`` is as for `check_pool`.
    """
    window, stride, padding = _resolved(window, stride, padding, prefix)
    problem = geometry.pooled_problem(shape, pooled, window, stride, padding)
    raise_problem(problem, geometry.POOLED, *shape, *pooled, *window, *stride, *padding[0], *padding[1])
    return Windows(shape[2], shape[3], pooled[2], pooled[3], window, stride, padding)


def check_operand(dtypes: Sequence[torch.dtype], memory_format: str | None, **tensors: torch.Tensor) -> str:
    """The format to compute in: the one asked for, else that of the first tensor, else bc01."""
    check_tensors(dtypes, **tensors)
    check_format(memory_format)
    return memory_format or format_of(next(iter(tensors.values()))) or "bc01"


class Planes(NamedTuple):
    """A tensor as planes of rows x columns pixels of ``inner`` numbers."""

    number: int
    inner: int

    @classmethod
    def of(cls, shape: Sequence[int], format: str) -> "Planes":
        batch, channels = shape[:2]
        return {
            "bc01": cls(batch * channels, 1),
            "channels_last": cls(batch, channels),
            "batch_last": cls(channels, batch),
        }[format]

    def vector(self, itemsize: int) -> int:
        """How many numbers of a pixel a vector holds: the largest power of two that fits and divides them."""
        return min(VECTOR_BYTES // itemsize, self.inner & -self.inner)


@dataclass(frozen=True)
class Tile:
    """What one program computes: ``strips`` x ``cells`` vectors; a strip is ``rows`` rows of the result."""

    strips: int
    cells: int
    rows: int
    warps: int

    def constants(self) -> dict[str, int]:
        """What a kernel knows when it is compiled."""
        return {"TILE_STRIPS": self.strips, "TILE_CELLS": self.cells, "num_warps": self.warps}


def tile_for(strips: int, cells: int, rows: int, vector: int, warps: int = 4) -> Tile:
    """A tile no wider than a row of ``cells`` vectors needs, with one vector, or two numbers, for each thread."""
    threads = 32 * warps
    vectors = threads if vector > 1 else 2 * threads
    width = min(vectors, power_of_two(cells))
    return Tile(min(max(1, vectors // width), power_of_two(strips)), width, rows, warps)


def _most_rows(windows: Windows, vector: int) -> int:
    return 2 * STRIP_ROWS if vector == windows.stride[0] == 1 else STRIP_ROWS


def strip_tile(planes: Planes, windows: Windows, vector: int) -> Tile:
    """The tile of a pass forward: strips of several rows where windows share rows of the image."""
    cells = windows.out_columns * (planes.inner // vector)
    rows = 1
    if windows.window[0] > windows.stride[0]:
        rows = min(_most_rows(windows, vector), power_of_two(windows.out_rows))
    while True:
        strips = planes.number * -(-windows.out_rows // rows)
        tile = tile_for(strips, cells, rows, vector)
        if rows == 1 or grid(tile, strips, cells)[0] >= ENOUGH_PROGRAMS:
            return tile
        rows //= 2


class Patch(NamedTuple):
    """Pixels that a gradient computes together: a multiple of the windows' stride along each axis."""

    rows: int
    columns: int

    def counts(self, planes: Planes, windows: Windows, vector: int) -> tuple[int, int]:
        """How many strips of patches there are, and how many cells in one."""
        strips = planes.number * -(-windows.rows // self.rows)
        return strips, -(-windows.columns // self.columns) * (planes.inner // vector)

    def is_paired(self, inner: int) -> bool:
        """Whether two columns are stored side by side: see `pool_tiles.store_patch`."""
        return inner == 1 and self.columns == 2


def patch_for(planes: Planes, windows: Windows, vector: int) -> Patch | None:
    """The patch of pixels for the gradient of pooling, or None where loops are better.

    Where windows overlap, a patch of more pixels reads each window once for all of them.
    """
    (row_step, column_step), (window_rows, window_columns) = windows.stride, windows.window
    most = min(LARGEST_PATCH // vector, 9)
    if not is_written_out(windows) or row_step * column_step > most:
        return None
    columns = 2 if column_step == 1 and window_columns > 1 and vector > 4 else column_step
    patch = Patch(row_step, columns)
    while window_rows > row_step and patch.rows < _most_rows(windows, vector) and 2 * patch.rows * columns <= most:
        larger = Patch(2 * patch.rows, columns)
        strips, cells = larger.counts(planes, windows, vector)
        if grid(tile_for(strips, cells, larger.rows, vector), strips, cells)[0] < ENOUGH_PROGRAMS:
            break
        patch = larger
    return patch


def is_written_out(windows: Windows) -> bool:
    """Whether kernels treat each tap of a window as a constant."""
    return windows.taps <= UNROLLED_TAPS


def grid(tile: Tile, strips: int, cells: int) -> tuple[int]:
    """How many programs cover all strips and cells."""
    return (-(-strips // tile.strips) * -(-cells // tile.cells),)


def power_of_two(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(0, number - 1).bit_length()
