"""What estimates of both kinds of passes take into account: rates, and how operands may be prepared.

A program's time is bounded by what it reads through the second-level cache, by the tensor cores, by what the pass moves
through memory and, in small layers, by how many steps it takes, one after the other. Estimates from these bounds need
not be right, only good enough that the best method is among the first few. Rates are those of an H100; on another GPU
they keep their order.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from math import ceil
from typing import Any, TypeVar

import torch
import triton

from pytensor_convnet.kernels.cuda.copying import BATCH_MULTIPLE, has_to_be_filled_up
from pytensor_convnet.kernels.cuda.hardware import MULTIPROCESSORS, REGISTERS, SHARED_BYTES, THREADS
from pytensor_convnet.kernels.cuda.magnitudes import BLOCK, LEAST_SAMPLED, SEARCHERS
from pytensor_convnet.kernels.cuda.methods import Task

M = TypeVar("M")

MEMORY_RATE, CACHE_RATE = 2.8e12, 15e12
"""Bytes a second from memory, and from the second-level cache to all multiprocessors."""

LAUNCH = 2e-6
"""Seconds that a kernel takes, however little it does."""

PRODUCTS = {"medium": ("float16", "bf16x3", "tf32"), "high": ("bf16x3",), "ieee": ("ieee",)}
"""What may stand for float32 in each precision."""

LEAST_IMAGES = 16
"""Smaller batches are not worth the preparation that brings images into runs."""

LEAST_OF_EIGHT_WARPS = 64 * 32
"""Sums of a tile that is worth eight warps."""

FAR, FEW = 1.25, 2
"""A product of which the best estimate is so many times that of the fastest product is far from it. Estimates may be
wrong about products, and few methods are measured of those that are not the fastest."""


def products_of(task: Task) -> tuple[str, ...]:
    """The products whose error suits the task."""
    return PRODUCTS[task.precision] if task.dtype == torch.float32 else ("native",)


def window_products(task: Task, prepared: bool = False) -> tuple[str, ...]:
    """Those of them that are computed over windows, of operands as they are or prepared; none of other tasks."""
    if task.dtype == torch.bfloat16:
        return ("native",)
    if "tf32" not in products_of(task):
        return ()
    return ("float16",) if prepared else ("tf32", "float16")


def preparations(task: Task, product: str) -> tuple[bool, ...]:
    """Whether operands are prepared: for the product's sake, or to have images in long aligned runs; or both ways."""
    batch, batch_last = task.geometry.images[0], set(task.formats) == {"batch_last"}
    if product in ("float16", "bf16x3"):
        return (True,)
    if batch < LEAST_IMAGES or (batch_last and batch % BATCH_MULTIPLE == 0):
        return (False,)
    return (True, False) if batch_last and batch % 4 == 0 else (True,)


def images_of_block(batch: int, prepared: bool) -> int:
    """How many images a block takes of one position: the most, up to a tile, that waste few lanes of the last block."""
    if batch < LEAST_IMAGES and not prepared:
        return triton.next_power_of_2(max(batch, 1))
    sizes = [size for size in (16, 32, 64, 128, 256) if size < 2 * batch or size == LEAST_IMAGES]
    padded = {size: ceil(batch / size) * size for size in sizes}
    return max(size for size in sizes if padded[size] <= 1.06 * min(padded.values()))


def element_bytes(product: str) -> int:
    """Bytes that a product reads for one element of an operand."""
    return 2 if product in ("native", "float16") else 4


def warps_of(numbers: int, most_of_four: int) -> tuple[int, ...]:
    """How many warps may compute a tile of so many sums, which four can as long as registers do.

    Where there is one program to a multiprocessor, eight wait less than four.
    """
    return (8,) if numbers > most_of_four else (4,) if numbers < LEAST_OF_EIGHT_WARPS else (4, 8)


def residents_of(programs: int, shared: int, blocks: Any, outputs: int) -> int:
    """How many programs a multiprocessor runs at once, of the pass's or of as many as it has room for."""
    threads = 32 * blocks.warps
    registers = threads * (outputs // threads + 64)
    room = min(SHARED_BYTES // shared, REGISTERS // registers, THREADS // threads)
    return max(1, min(ceil(programs / MULTIPROCESSORS), room))


def search_time(*shapes: Iterable[int]) -> float:
    """Seconds to find the scales of operands that are copied to float16: a launch, and one for each that is sampled."""
    seconds = LAUNCH
    for elements in map(size, shapes):
        if elements >= LEAST_SAMPLED:
            seconds += LAUNCH
            elements = SEARCHERS * BLOCK
        seconds += 4 * elements / MEMORY_RATE
    return seconds


def preparation_time(task: Task, product: str) -> float:
    """Seconds in which images and maps, both operands of a filter gradient, are prepared."""
    item, element = task.dtype.itemsize, element_bytes(product)
    seconds = 2 * LAUNCH + bytes_moved(task) / item * (item + element) / MEMORY_RATE
    return seconds + (search_time(task.geometry.images, task.geometry.maps) if product == "float16" else 0.0)


def boxing_time(task: Task) -> float:
    """Seconds in which images and maps are filled up where the copying engine cannot read them as they are."""
    if not has_to_be_filled_up(task.geometry.images[0], task.dtype.itemsize):
        return 0.0
    return 2 * LAUNCH + 2 * bytes_moved(task) / MEMORY_RATE


def bytes_moved(task: Task) -> int:
    """Bytes of images and maps."""
    return task.dtype.itemsize * (size(task.geometry.images) + size(task.geometry.maps))


def size(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def most_promising(seconds: dict[M, float], limit: int, kind: Callable[[M], Hashable], alike: int) -> list[M]:
    """At most ``limit`` methods, of the shortest estimates, and at most ``alike`` of them of one kind."""
    chosen: list[M] = []
    found: Counter[Hashable] = Counter()
    for method in sorted(seconds, key=lambda method: seconds[method]):
        if len(chosen) < limit and found[kind(method)] < alike:
            found[kind(method)] += 1
            chosen.append(method)
    return chosen
