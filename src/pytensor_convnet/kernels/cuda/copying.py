"""Copies in another physical format, and the source of a product prepared: batch innermost, in the product's dtype.

All formats keep rows and columns together, as one axis of pixels. A copy goes by tiles of two axes, the one that is
innermost before and the one that is innermost after, for every index of the rest.

Floor: the tensor read and written once. Measured on an H100 (`docs/cuda-kernels.md`): 92% of it where 268 MB of float32
become float16 (145 of 134 us, 144 with the largest noted on the way). Changes of format are not measured by themselves;
for cb3's filter gradient in float32 cuDNN takes 449 us with them and 371 in bc01 without, where the floor of what
they move is 73.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.checks import check_bc01
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import AXES, empty, fits, memory_format, to_format, unit_dividing
from pytensor_convnet.kernels.cuda.magnitudes import exceeds_bound, finite_magnitudes, sampled_part
from pytensor_convnet.kernels.cuda.products import DTYPES, power_of_two, scale_exponent, split

TILE = 64

AGAIN_PROGRAMS = 264
"""How many programs copy again: two on each multiprocessor of an H100, as mostly they find nothing to do."""

BOXED_BYTES = 16
"""What the copying engine reads begins at multiples of so many bytes."""

BATCH_MULTIPLE = 16
"""Prepared batches are filled up to a multiple of this with zeros, so that kernels load 16 or 32 bytes at a time."""


COUNTS = ["outer_count", "inner_units", "target_units", "along_blocks", "across_blocks", "source_step", "source_rest",
          "target_step", "target_rest", "target_plane_units"]  # fmt: skip
"""The integers of a copy, which no kernel is compiled for.

In the source one of a tile's axes is innermost, and has so many units; the other one has a count and a step. Steps of
source and target, and lengths of their innermost axes, are in units that divide all of a tensor's (`formats.UNIT`).
"""


@triton.jit
def copy_tile(
    program, source, target, magnitudes, outer_count, inner_units, target_units, along_blocks, across_blocks,
    source_step, source_rest, target_step, target_rest, target_plane_units,
    PRODUCT: tl.constexpr, PARTIALS: tl.constexpr, BOUNDS: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr,
    ALONG_INNERMOST: tl.constexpr, UNIT: tl.constexpr, TARGET_UNIT: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Copy the tile of a program.

    Of ``PARTIALS`` magnitudes the first ``BOUNDS`` tell the scale. In the others, if any, the tile's largest is noted.
    """
    if PRODUCT == "float16" and BOUNDS < PARTIALS:
        note = magnitudes + BOUNDS + program % (PARTIALS - BOUNDS)
    along = ((program % along_blocks) * ALONG + tl.arange(0, ALONG)).to(tl.int64)
    program = program // along_blocks
    across = ((program % across_blocks) * ACROSS + tl.arange(0, ACROSS)).to(tl.int64)
    rest = (program // across_blocks).to(tl.int64)
    if ALONG_INNERMOST:
        along_count = inner_units * UNIT
        across_count = outer_count
        offset = along[:, None] + (across * source_step * UNIT)[None, :]
    else:
        along_count = outer_count
        across_count = inner_units * UNIT
        offset = (along * source_step * UNIT)[:, None] + across[None, :]
    mask = (along < along_count)[:, None] & (across < across_count)[None, :]
    await_predecessor(DEPENDENT)
    values = tl.load(source + rest * source_rest * UNIT + offset, mask=mask, other=0.0)
    mask = (along < along_count)[:, None] & (across < target_units * TARGET_UNIT)[None, :]
    target += rest * target_rest * TARGET_UNIT + ((along * target_step * TARGET_UNIT)[:, None] + across[None, :])
    if PRODUCT == "float16":
        if BOUNDS < PARTIALS:
            tl.atomic_max(note, tl.max(tl.max(finite_magnitudes(values), axis=1), axis=0), sem="relaxed")
        values = values * power_of_two(scale_exponent(magnitudes, BOUNDS))
    if PRODUCT == "bf16x3":
        high, low = split(values)
        tl.store(target, high, mask=mask)
        tl.store(target + target_plane_units.to(tl.int64) * TARGET_UNIT, low, mask=mask)
    else:
        tl.store(target, values.to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=COUNTS)
def _copy(
    source, target, magnitudes, outer_count, inner_units, target_units, along_blocks, across_blocks,
    source_step, source_rest, target_step, target_rest, target_plane_units,
    PRODUCT: tl.constexpr, PARTIALS: tl.constexpr, BOUNDS: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr,
    ALONG_INNERMOST: tl.constexpr, UNIT: tl.constexpr, TARGET_UNIT: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    copy_tile(
        tl.program_id(0), source, target, magnitudes, outer_count, inner_units, target_units, along_blocks,
        across_blocks, source_step, source_rest, target_step, target_rest, target_plane_units,
        PRODUCT, PARTIALS, BOUNDS, ALONG, ACROSS, ALONG_INNERMOST, UNIT, TARGET_UNIT, DEPENDENT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["programs", *COUNTS])
def _copy_again(
    programs, source, target, magnitudes, scale, outer_count, inner_units, target_units, along_blocks, across_blocks,
    source_step, source_rest, target_step, target_rest, target_plane_units,
    PARTIALS: tl.constexpr, BOUNDS: tl.constexpr, TELLS_SCALE: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr,
    ALONG_INNERMOST: tl.constexpr, UNIT: tl.constexpr, TARGET_UNIT: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    await_predecessor(DEPENDENT)
    if exceeds_bound(magnitudes, PARTIALS, BOUNDS):
        for program in range(tl.program_id(0), programs, tl.num_programs(0)):
            copy_tile(
                program, source, target, magnitudes, outer_count, inner_units, target_units, along_blocks,
                across_blocks, source_step, source_rest, target_step, target_rest, target_plane_units,
                "float16", PARTIALS, PARTIALS, ALONG, ACROSS, ALONG_INNERMOST, UNIT, TARGET_UNIT, DEPENDENT,
            )  # fmt: skip
        if TELLS_SCALE and tl.program_id(0) == 0:
            tl.store(scale, power_of_two(-scale_exponent(magnitudes, PARTIALS)))


@dataclass(frozen=True)
class Copy:
    """A copy as a kernel's arguments.

    Attributes
    ----------
    programs : int
    source, target : tensor
    counts : tuple of int
        In the order of `COUNTS`.
    settings : tuple
        The kernel's ``ALONG``, ``ACROSS``, ``ALONG_INNERMOST``, ``UNIT`` and ``TARGET_UNIT``.
    """

    programs: int
    source: torch.Tensor
    target: torch.Tensor
    counts: tuple[int, ...]
    settings: tuple[int, ...]


def change_format(tensor: torch.Tensor, format: str) -> torch.Tensor:
    """``tensor`` itself, or a view of its memory, where it is in ``format``, else a copy that is.

    Parameters, result and errors as for `to_format`; the copy is a kernel's, but of a tensor that is in no format.
    """
    check_bc01(tensor, "tensor")
    before = memory_format(tensor)
    if before is None or fits(tensor, format) or not tensor.numel():
        return to_format(tensor, format)
    result = empty(tensor.shape, format, tensor.dtype, tensor.device)
    launch_copy(_copy_of(tensor, before, result, format, tensor.shape[0], 0), "native", None)
    return result


def prepare(source: torch.Tensor, product: str, magnitudes: torch.Tensor | None) -> torch.Tensor:
    """The source of a product with the batch innermost, (planes, batch, channels, rows, columns) by its axes.

    Parameters
    ----------
    source : tensor, bc01 in any format
    product : str
        See `products`. bf16x3 gives two planes, high and low halves; the others one.
    magnitudes : tensor or None
        The row of `largest_magnitudes` that is the source's, for float16 alone.

    Returns
    -------
    tensor
        Strides are those of batch-last memory. The batch is the source's; memory behind it, up to a multiple of
        `BATCH_MULTIPLE`, holds zeros.
    """
    prepared, copy = preparation(source, product)
    launch_copy(copy, product, magnitudes)
    return prepared


def boxable(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in batch-last memory as the copying engine reads it: where it begins, and its pixels, 16 bytes divide.

    It is the tensor itself where that is so, else a copy, with the batch filled up as `prepare` does.
    """
    planes, copy = boxable_preparation(tensor)
    launch_copy(copy, "native", None)
    return planes[0]


def boxable_preparation(tensor: torch.Tensor) -> tuple[torch.Tensor, Copy | None]:
    """`boxable` as the one plane of a `preparation`, and the copy that fills it up, if that has to be."""
    if has_to_be_filled_up(tensor.shape[0], tensor.element_size()):
        return preparation(tensor, "native")
    return aligned(change_format(tensor, "batch_last"))[None], None


def has_to_be_filled_up(batch: int, itemsize: int) -> bool:
    """Whether pixels of a batch are not such that the copying engine reads them."""
    return batch * itemsize % BOXED_BYTES != 0


def is_boxable(batch: int, itemsize: int) -> bool:
    """Whether the copying engine reads such a batch as it is, or filled up to less than twice as much."""
    return batch >= BATCH_MULTIPLE or not has_to_be_filled_up(batch, itemsize)


def filled_up(batch: int) -> int:
    """The images that memory holds of a batch that is prepared."""
    return -(-batch // BATCH_MULTIPLE) * BATCH_MULTIPLE


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that begins at a multiple of 16 bytes."""
    return tensor if tensor.device.type == "meta" or tensor.data_ptr() % BOXED_BYTES == 0 else tensor.clone()


def preparation(source: torch.Tensor, product: str) -> tuple[torch.Tensor, Copy | None]:
    """What `prepare` returns, before it holds anything, and the copy that fills it, if there is anything to copy."""
    before = memory_format(source)
    if before is None:
        return preparation(to_format(source, "batch_last"), product)
    batch, channels, rows, columns = source.shape
    padded = filled_up(batch)
    planes = 2 if product == "bf16x3" else 1
    dtype = DTYPES.get(product, source.dtype)
    memory = torch.empty((planes, channels, rows, columns, padded), dtype=dtype, device=source.device)
    prepared = memory.permute(0, 4, 1, 2, 3)
    copy = None
    if source.numel():
        copy = _copy_of(source, before, prepared[0], "batch_last", padded, memory.stride(0))
    return prepared[:, :batch], copy


def _copy_of(source, before: str, target, after: str, padded_batch: int, plane_stride: int) -> Copy:
    """The copy of ``source`` in format ``before`` to ``target``, which has the strides of ``after``."""
    batch, channels, rows, columns = source.shape
    counts = {"batch": batch, "channels": channels, "pixels": rows * columns}
    from_steps, to_steps = _steps(counts, before), _steps({**counts, "batch": padded_batch}, after)
    if before == after:  # one axis of channels and pixels; the batch stays innermost
        counts = {"batch": batch, "rows": channels * rows * columns, "rest": 1}
        from_steps, to_steps = ({"batch": 1, "rows": step, "rest": 0} for step in (batch, padded_batch))
        along, across, rest = "rows", "batch", "rest"
    else:
        along, across = _innermost(before), _innermost(after)
        (rest,) = set(counts) - {along, across}
    across_padded = padded_batch if across == "batch" else counts[across]
    tiles = tuple(min(TILE, triton.next_power_of_2(count)) for count in (counts[along], across_padded))
    blocks = tuple(triton.cdiv(count, tile) for count, tile in zip((counts[along], across_padded), tiles))
    inner, outer = (along, across) if before != after else (across, along)
    from_numbers = counts[inner], from_steps[outer], from_steps[rest]
    to_numbers = across_padded, to_steps[along], to_steps[rest], plane_stride
    unit, target_unit = unit_dividing(*from_numbers), unit_dividing(*to_numbers)
    inner_units, *from_units = (number // unit for number in from_numbers)
    target_units, *to_units = (number // target_unit for number in to_numbers)
    numbers = counts[outer], inner_units, target_units, *blocks, *from_units, *to_units
    settings = *tiles, before != after, unit, target_unit
    return Copy(blocks[0] * blocks[1] * counts[rest], source, target, numbers, settings)


def launch_copy(copy: Copy | None, product: str, magnitudes: torch.Tensor | None) -> None:
    """Do a copy, if there is one; see `prepare`."""
    if copy is None:
        return
    partials = 0 if magnitudes is None else magnitudes.numel()
    _copy[(copy.programs,)](
        copy.source, copy.target, magnitudes, *copy.counts, product, partials, sampled_part(magnitudes),
        *copy.settings, num_warps=4, **launch_options(copy.source.device),
    )  # fmt: skip
    copy_again(copy, magnitudes, None)


def copy_again(copy: Copy, magnitudes: torch.Tensor | None, scale: torch.Tensor | None) -> None:
    """Copy once more, where more was noted than a sample's bound.

    Parameters
    ----------
    magnitudes : tensor or None
        The source's row. Nothing is done where that is of no sample.
    scale : tensor or None
        Gets the inverse of the factor that was multiplied in, if that is another one now.
    """
    bounds = sampled_part(magnitudes)
    if magnitudes is None or bounds == magnitudes.numel():
        return
    _copy_again[(min(copy.programs, AGAIN_PROGRAMS),)](
        copy.programs, copy.source, copy.target, magnitudes, scale, *copy.counts, magnitudes.numel(), bounds,
        scale is not None, *copy.settings, num_warps=4, **launch_options(copy.source.device),
    )  # fmt: skip


def _order(format: str) -> list[str]:
    """Batch, channels and pixels in the order of memory, slowest first."""
    names = {0: "batch", 1: "channels", 2: "pixels"}
    return [names[axis] for axis in AXES[format] if axis in names]


def _innermost(format: str) -> str:
    return _order(format)[-1]


def _steps(counts: dict[str, int], format: str) -> dict[str, int]:
    """The strides of batch, channels and pixels."""
    steps, step = {}, 1
    for axis in reversed(_order(format)):
        steps[axis] = step
        step *= counts[axis]
    return steps
