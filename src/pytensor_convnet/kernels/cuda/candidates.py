"""Which methods are worth measuring for a task, the most promising first.

A program's time is bounded by what it reads through the second-level cache, by the tensor cores, and by what the pass
moves through memory. Estimates from these bounds need not be right, only good enough that the best method is among the
first few. Rates are those of an H100; on another GPU they keep their order.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any

import torch
import triton

from pytensor_convnet.kernels.cuda.copying import BATCH_MULTIPLE
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.gathering import Gathering, gathering
from pytensor_convnet.kernels.cuda.methods import Cudnn, Gather, Method, Share, Task
from pytensor_convnet.kernels.cuda.products import chain_of

MULTIPROCESSORS = 132
SHARED_BYTES = 227 * 1024
MEMORY_RATE, CACHE_RATE = 2.8e12, 6e12
"""Bytes a second from memory, and from the second-level cache to all multiprocessors."""

PRODUCT_RATES = {"native": 600e12, "float16": 600e12, "bf16x3": 200e12, "tf32": 150e12, "ieee": 35e12}
"""Floating-point operations a second, about as gathering kernels reach them."""

SHARE_TF32_RATE = 300e12
"""The filter gradient's tf32 is faster."""

FLOAT32_RATE = 60e12
"""Of multiply-adds in float32, at most."""

HOPELESS = 1.5
"""What is bound to take so many times as long as our best estimate is not measured."""

LAUNCH = 2e-6
"""Seconds that a kernel takes, however little it does."""

PRODUCTS = {"medium": ("float16", "bf16x3", "tf32"), "high": ("bf16x3",), "ieee": ("ieee",)}
"""What may stand for float32 in each precision."""

LEAST_IMAGES = 16
"""Smaller batches are not worth the preparation that brings images into runs."""

STAGES, LOOKUP_STAGES = (4, 8), (3, 5)
"""Of the pipeline of a gathering. Loads that wait for looked-up offsets take two stages each."""

IN_FLIGHT = 0.8e-6
"""Seconds from the issue of a load to its arrival, where many are in flight."""

START = 1.5e-6
"""Seconds in which a program finds out what to load, waits for the first of it, and stores its results."""

REGISTERS, THREADS = 65536, 2048
"""Of a multiprocessor."""


def products_of(task: Task) -> tuple[str, ...]:
    """The products whose error suits the task."""
    return PRODUCTS[task.precision] if task.dtype == torch.float32 else ("native",)


def candidates(task: Task, limit: int) -> list[Method]:
    """At most ``limit`` of our own methods, by estimate, and cuDNN in each of its layouts.

    cuDNN is left out where there is no GPU, and where it must do without tensor cores and would be far behind: it takes
    seconds to find that out by its own measurements.
    """
    gradient_of_filters = task.name == "correlate2d_filter_grad"
    estimate: Any = _share_time if gradient_of_filters else _gather_time
    methods: Iterable[Any] = _shares(task) if gradient_of_filters else _gathers(task)
    ordered = sorted({method: estimate(task, method) for method in methods}.items(), key=lambda pair: pair[1])
    chosen = _diverse(ordered, limit)
    if task.device.type != "cuda" or _cudnn_time(task) > HOPELESS * ordered[0][1]:
        return chosen
    return [*chosen, Cudnn("channels_last"), Cudnn("bc01")]


def _cudnn_time(task: Task) -> float:
    """A bound of cuDNN's seconds in float32 without tf32; 0 where it may use tensor cores."""
    if task.dtype != torch.float32 or task.precision == "medium":
        return 0.0
    minimal_filtering = max(task.geometry.stride) == 1 and max(task.geometry.filters[2:]) <= 5
    return 2 * task.geometry.multiply_adds / (FLOAT32_RATE * (2.25 if minimal_filtering else 1))


def _diverse(ordered: list[tuple[Any, float]], limit: int) -> list[Method]:
    """The first methods, but few of the same product and the same tile; of patches that only swap axes, one."""
    chosen: list[Method] = []
    kinds: Counter[tuple] = Counter()
    seen = set()
    for method, seconds in ordered:
        blocks = method.blocks
        twin = method.product, blocks, round(seconds * 1e9)
        tile = (blocks.outputs, method.joined) if isinstance(blocks, Blocks) else (blocks.rows, blocks.filters)
        kind = method.product, tile, blocks.pixels
        if twin in seen or kinds[kind] >= max(1, limit // 5) or kinds[method.product] >= limit // 2 + 1:
            continue
        seen.add(twin)
        kinds[kind] += 1
        kinds[method.product] += 1
        chosen.append(method)
        if len(chosen) == limit:
            break
    return chosen


# ----------------------------------------------------------------------- forward pass and input gradient


def _patches(task: Task, gradient: bool) -> Iterator[tuple[tuple[int, int], bool]]:
    """Patches, and whether their residues are joined, that may suit."""
    geometry = task.geometry
    channels = geometry.filters[1] if gradient else geometry.filters[0] // geometry.groups
    steps = geometry.stride if gradient else (1, 1)
    lengths = geometry.images[2:] if gradient else geometry.maps[2:]
    if max(steps) > 1:
        yield steps, False
    sizes = [
        [step * times for times in range(1, 9) if times == 1 or step * (times - 1) < length]
        for step, length in zip(steps, lengths)
    ]
    for rows, columns in itertools.product(*sizes):
        smallest = (rows, columns) == tuple(steps)
        if smallest or rows * columns * channels <= 128:
            yield (rows, columns), True


def _gathers(task: Task) -> Iterator[Gather]:
    gradient = task.name == "correlate2d_input_grad"
    batch = task.geometry.images[0]
    for product in products_of(task):
        for (patch, joined), prepared in itertools.product(_patches(task, gradient), _preparations(task, product)):
            plan = gathering(task.geometry, gradient, patch, joined)
            least = min(128, max(16, triton.next_power_of_2(plan.outputs)))
            tiles = itertools.product(
                sorted({least, max(16, least // 2)}), *_TILES.get(product, ((64, 128, 256), (32, 64)))
            )
            for outputs, pixels, rows in tiles:
                chained = chain_of(product, max(plan.class_rows())) > 0
                most_of_four_warps = 64 * 128 if chained else 128 * 128  # a chain's sum takes registers, too
                warps = 2 if product == "tf32" else 4 if outputs * pixels <= most_of_four_warps else 8
                if product == "tf32" and outputs * pixels > 64 * 128:
                    continue
                images = min(pixels, _images(batch, prepared))
                images_first = outputs <= 32 and product != "tf32"
                multiple = rows if plan.source_channels % rows == 0 else 1
                for stages in STAGES if multiple == rows and plan.is_regular else LOOKUP_STAGES:
                    blocks = Blocks(outputs, pixels, images, rows, warps, stages, images_first)
                    method = Gather(prepared, "batch_last", product, patch, joined, multiple, blocks)
                    if _shared_bytes(plan, method) <= SHARED_BYTES:
                        yield method


_TILES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {"tf32": ((64, 128), (16, 32)), "ieee": ((128,), (32,))}
"""Pixels and rows of tiles, where not the usual ones.

The instruction by which four warps multiply tf32 wants both operands summed along their innermost axis, which the
source is not. That of single warps does not; so tiles of tf32 are small, for two warps.
"""


def _preparations(task: Task, product: str) -> tuple[bool, ...]:
    """Whether operands are prepared: for the product's sake, or to have images in long aligned runs; or both ways."""
    batch, batch_last = task.geometry.images[0], set(task.formats) == {"batch_last"}
    if product in ("float16", "bf16x3"):
        return (True,)
    if batch < LEAST_IMAGES or (batch_last and batch % BATCH_MULTIPLE == 0):
        return (False,)
    return (True, False) if batch_last and batch % 4 == 0 else (True,)


def _images(batch: int, prepared: bool) -> int:
    """How many images a block takes of one position: the most, up to a tile, that waste few lanes of the last block."""
    if batch < LEAST_IMAGES and not prepared:
        return triton.next_power_of_2(max(batch, 1))
    sizes = [size for size in (16, 32, 64, 128, 256) if size < 2 * batch or size == LEAST_IMAGES]
    padded = {size: ceil(batch / size) * size for size in sizes}
    return max(size for size in sizes if padded[size] <= 1.06 * min(padded.values()))


def _element_bytes(product: str) -> int:
    """Bytes that a product reads for one element of an operand."""
    return 2 if product in ("native", "float16") else 4


def _step_bytes(method: Gather) -> int:
    """Of the tiles of one step."""
    blocks = method.blocks
    return blocks.rows * (blocks.outputs + blocks.pixels) * _element_bytes(method.product)


def _shared_bytes(plan: Gathering, method: Gather) -> int:
    """Of the tiles that are in flight."""
    looked_up = method.channel_multiple != method.blocks.rows or not plan.is_regular
    return (method.blocks.stages - 1) // (2 if looked_up else 1) * _step_bytes(method)


def _residents(programs: int, shared: int, blocks: Blocks | GradBlocks, outputs: int) -> int:
    """How many programs a multiprocessor runs at once, of the pass's or of as many as it has room for."""
    threads = 32 * blocks.warps
    registers = threads * (outputs // threads + 64)
    room = min(SHARED_BYTES // shared, REGISTERS // registers, THREADS // threads)
    return max(1, min(ceil(programs / MULTIPROCESSORS), room))


def _gather_time(task: Task, method: Gather) -> float:
    """A lower bound of the seconds that a method takes, about."""
    gradient = task.name == "correlate2d_input_grad"
    plan = gathering(task.geometry, gradient, method.patch, method.joined, method.channel_multiple)
    blocks = method.blocks
    positions = ceil(plan.rows.positions * plan.columns.positions * blocks.images / blocks.pixels)
    programs = ceil(plan.outputs / blocks.outputs) * positions * ceil(plan.batch / blocks.images) * plan.groups
    steps = sum(ceil(rows / blocks.rows) for rows in plan.class_rows()) + plan.class_count
    cache = programs * steps * _step_bytes(method)
    flops = 2 * programs * steps * blocks.rows * blocks.outputs * blocks.pixels
    programs *= plan.class_count
    shared = _shared_bytes(plan, method)
    residents = _residents(programs, shared, blocks, blocks.outputs * blocks.pixels)
    rate = min(CACHE_RATE, MULTIPROCESSORS * residents * shared / IN_FLIGHT)
    busy = programs / MULTIPROCESSORS
    idle = min(ceil(busy) / max(busy, 1e-9), 4.0)
    times = cache / rate * idle, flops / PRODUCT_RATES[method.product] * idle
    seconds = _overlapped(*times, _moved(task) / MEMORY_RATE) + START * ceil(busy / residents)
    return seconds + _preparation(task, method)


def _overlapped(*seconds: float) -> float:
    """The time of activities that mostly overlap."""
    return max(seconds) + 0.2 * (sum(seconds) - max(seconds))


def _moved(task: Task) -> int:
    """Bytes of images and maps."""
    return task.dtype.itemsize * (_size(task.geometry.images) + _size(task.geometry.maps))


def _preparation(task: Task, method: Gather) -> float:
    source = _size(task.geometry.maps if task.name == "correlate2d_input_grad" else task.geometry.images)
    element, prepared = task.dtype.itemsize, _element_bytes(method.product)
    seconds = 2 * LAUNCH
    if method.prepared:
        seconds += source * (element + prepared) / MEMORY_RATE
    if method.product == "float16":
        seconds += LAUNCH + source * element / MEMORY_RATE
    return seconds


def _size(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


# ------------------------------------------------------------------------------------- filter gradient


def _shares(task: Task) -> Iterator[Share]:
    geometry = task.geometry
    rows = geometry.filters[1] * geometry.filters[2] * geometry.filters[3]
    filters = geometry.filters[0] // geometry.groups
    most_rows, most_filters = (max(16, triton.next_power_of_2(count)) for count in (rows, filters))
    for product in products_of(task):
        preparations = _preparations(task, product)
        if product == "bf16x3":  # may be split as it is read
            preparations += tuple(way for way in _preparations(task, "tf32") if way not in preparations)
        element = _element_bytes(product)
        for row_tile, filter_tile, pixels, prepared in itertools.product(
            (16, 32, 64, 128, 256), (16, 32, 64, 128), (32, 64, 128), preparations
        ):
            fits = min(most_rows, 64) <= row_tile <= most_rows and min(most_filters, 64) <= filter_tile <= most_filters
            if not fits or row_tile * filter_tile > 128 * 128:
                continue
            images = min(pixels, _images(geometry.images[0], prepared))
            warps = 4 if row_tile * filter_tile <= 64 * 128 else 8
            tiles = ceil(rows / row_tile) * ceil(filters / filter_tile) * geometry.groups
            for stages, programs in itertools.product((3, 4), (1, 2, 4)):
                shares = max(1, MULTIPROCESSORS * programs // tiles)
                blocks = GradBlocks(row_tile, filter_tile, pixels, images, shares, warps, stages)
                if stages * pixels * (row_tile + filter_tile) * element <= SHARED_BYTES:
                    yield Share(prepared, product, (1, 1), blocks)


def _share_time(task: Task, method: Share) -> float:
    geometry, blocks, element = task.geometry, method.blocks, _element_bytes(method.product)
    rows = geometry.filters[1] * geometry.filters[2] * geometry.filters[3]
    filters = geometry.filters[0] // geometry.groups
    tiles = ceil(rows / blocks.rows) * ceil(filters / blocks.filters) * geometry.groups
    depth = geometry.maps[2] * geometry.maps[3] * ceil(geometry.images[0] / blocks.images) * blocks.images
    flops = 2 * tiles * depth * blocks.rows * blocks.filters
    cache = tiles * depth * (blocks.rows + blocks.filters) * element
    partial = 8 * blocks.shares * rows * filters * geometry.groups
    busy = tiles * blocks.shares / MULTIPROCESSORS
    idle = ceil(busy) / max(busy, 1e-9)
    rate = SHARE_TF32_RATE if method.product == "tf32" else PRODUCT_RATES[method.product]
    times = cache / CACHE_RATE * min(idle, 4.0), flops / rate * min(idle, 4.0)
    few = max(1.0, (4 * MULTIPROCESSORS / (tiles * blocks.shares)) ** 0.25)  # more programs hide more latency
    seconds = few * _overlapped(*times, _moved(task) / MEMORY_RATE) + 2 * LAUNCH + partial / CACHE_RATE
    if method.prepared:
        seconds += 2 * LAUNCH + _moved(task) / task.dtype.itemsize * (task.dtype.itemsize + element) / MEMORY_RATE
    if method.product == "float16":
        seconds += LAUNCH + _moved(task) / MEMORY_RATE
    return seconds * (1 + 4 / blocks.pixels)  # a step must be worth its overhead
