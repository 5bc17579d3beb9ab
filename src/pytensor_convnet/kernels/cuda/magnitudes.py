"""How large the numbers of an operand are, which decides by what power of two float16 scales them.

Small tensors are searched whole. Of a large one that is going to be copied, a sample is enough: what was found in it,
times `HEADROOM`, is taken for a bound. The copy, which sees every element, notes the largest. Should that exceed the
bound, another launch copies once more with the right scale; else it ends at once (`copying.copy_again`). So a large
operand is read once instead of twice, and the result depends on nothing but its elements.

A row of what `largest_magnitudes` returns is about one operand. Its largest number is the bound; where a sample was
searched, the first half of the row is from the sample, and the second takes what copies note.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import UNIT

BLOCK = 4096
"""How many elements a program searches at once."""

SEARCHERS = 256
"""How many programs search a large operand."""

LEAST_SAMPLED = 2**22
"""Elements of an operand of which a sample, one block of each program, is worth another launch: 16 MB."""

HEADROOM = 2.0**6
"""So many times what was found in a sample may the largest be without a second copy.

float16 loses what is smaller than 2**-33 of the largest then, instead of 2**-39.
"""


class Bound(NamedTuple):
    """No element of a tensor is larger than ``factor`` times the largest of another one, which is smaller to search."""

    tensor: torch.Tensor
    factor: float


@triton.jit
def finite_magnitudes(values):
    """Magnitudes, 0 of what is infinite or NaN."""
    magnitudes = tl.abs(values)
    return tl.where(magnitudes < float("inf"), magnitudes, 0.0)


@triton.jit
def exceeds_bound(magnitudes, PARTIALS: tl.constexpr, BOUNDS: tl.constexpr):
    """Whether more was noted in the rest of a row than the sample's bound."""
    bound = tl.max(tl.load(magnitudes + tl.arange(0, BOUNDS)), axis=0)
    return tl.max(tl.load(magnitudes + BOUNDS + tl.arange(0, PARTIALS - BOUNDS)), axis=0) > bound


@triton.jit(do_not_specialize=["a_size", "b_size", "c_size", "a_units", "b_units", "c_units"])
def _largest_magnitudes(
    a, b, c, found, a_size, b_size, c_size, a_units, b_units, c_units, a_factor, b_factor, c_factor,
    PARTIALS: tl.constexpr, SEARCHERS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    await_predecessor(DEPENDENT)
    program = tl.program_id(0)
    operand = program // SEARCHERS
    searcher = program % SEARCHERS
    values = a
    size = a_size.to(tl.int64)  # all of one type, however large each is
    units = a_units.to(tl.int64)
    factor = a_factor
    if operand == 1:
        values = b
        size = b_size.to(tl.int64)
        units = b_units.to(tl.int64)
        factor = b_factor
    if operand == 2:
        values = c
        size = c_size.to(tl.int64)
        units = c_units.to(tl.int64)
        factor = c_factor
    distance = units * UNIT  # blocks begin at multiples of 16 elements, and so are loaded 16 bytes at a time
    start = searcher * distance
    largest = tl.zeros((BLOCK,), tl.float32)
    while start < size:
        place = start + tl.arange(0, BLOCK)
        if start + BLOCK <= size:
            found_here = tl.load(values + place)
        else:
            found_here = tl.load(values + place, mask=place < size, other=0.0)
        largest = tl.maximum(largest, finite_magnitudes(found_here))
        start += SEARCHERS * distance
    found += operand * PARTIALS + searcher
    tl.store(found, tl.max(largest, axis=0) * factor)
    if PARTIALS > SEARCHERS:
        tl.store(found + SEARCHERS, 0.0)


def largest_magnitudes(
    *tensors: torch.Tensor,
    factors: tuple[float, ...] = (1.0, 1.0, 1.0),
    copied: tuple[bool, ...] = (False, False, False),
) -> torch.Tensor:
    """The largest finite magnitudes of parts of two or three dense float32 tensors, times a factor each.

    Floor: each is read once; of those that are sampled, four megabytes. Measured on an H100 (`docs/cuda-kernels.md`):
    99% of it where 268 MB are searched whole (90 of 89 us). Samples are not measured by themselves, but as part of the
    passes: in stride2_1024's forward pass of float16 the search, packing and the look at what did not fit take 8 us.

    Parameters
    ----------
    copied : tuple of bool
        Which of them are copied by what is found here, for these a sample will do.

    Returns
    -------
    tensor, (tensors, parts)
        Two neighbouring rows are what a product of these two operands takes.
    """
    operands = (*tensors, tensors[-1])[:3]
    sizes = [operand.numel() for operand in operands]
    samples = [of_copy and size >= LEAST_SAMPLED for of_copy, size in zip((*copied, False), sizes)]
    blocks = max(sizes) / BLOCK
    searchers = SEARCHERS if any(samples) else next((count for count in (1, 16) if blocks <= count), SEARCHERS)
    partials = 2 * searchers if any(samples) else searchers
    # Of a sample the programs' blocks lie far from each other, and each has but one.
    units = [max(size // searchers, BLOCK) // UNIT if sample else BLOCK // UNIT for size, sample in zip(sizes, samples)]
    scales = [factor * (HEADROOM if sample else 1.0) for factor, sample in zip((*factors, 1.0), samples)]
    found = torch.empty((len(tensors), partials), dtype=torch.float32, device=tensors[0].device)
    _largest_magnitudes[(len(tensors) * searchers,)](
        *operands, found, *sizes, *units, *scales, partials, searchers, BLOCK, UNIT,
        num_warps=8, **launch_options(found.device),
    )  # fmt: skip
    return found


def as_found(magnitudes: torch.Tensor | None, otherwise: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Rows as kernels in CUDA C++ take them: what searchers found, and how many they were; else any tensor, and 0."""
    return (otherwise, 0) if magnitudes is None else (magnitudes.contiguous(), magnitudes.shape[1])


def sampled_part(found: torch.Tensor | None) -> int:
    """How many numbers at the beginning of a row are not for copies to note in; all of a row without a sample."""
    if found is None:
        return 0
    return found.shape[-1] // 2 if found.shape[-1] > SEARCHERS else found.shape[-1]
