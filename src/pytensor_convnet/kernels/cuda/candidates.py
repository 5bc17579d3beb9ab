"""Which methods are worth measuring for a task, the most promising first.

A program's time is bounded by what it reads through the second-level cache, by the tensor cores, by what the pass moves
through memory and, in small layers, by how many steps it takes, one after the other. Estimates from these bounds need
not be right, only good enough that the best method is among the first few. Rates are those of an H100; on another GPU
they keep their order.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
MEMORY_RATE, CACHE_RATE = 2.8e12, 11e12
"""Bytes a second from memory, and from the second-level cache to all multiprocessors."""

PRODUCT_RATES = {"native": 700e12, "float16": 700e12, "bf16x3": 230e12, "tf32": 150e12, "ieee": 35e12}
"""Floating-point operations a second, about as gathering kernels reach them."""

SHARE_TF32_RATE = 350e12
"""The filter gradient's tf32 is faster."""

SHARE_STEP, SHARE_START, SHARE_IN_FLIGHT = 0.32e-6, 9e-6, 0.64e-6
"""What `STEP`, `START` and `IN_FLIGHT` are for a filter gradient, whose start includes adding up."""

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

STAGES = 3, 4, 6, 8
"""Of the pipeline of a gathering."""

STEP, START = 0.23e-6, 3e-6
"""Seconds that a step of a gathering takes, however small its tiles are, and a program, however few its steps are."""

IN_FLIGHT = 0.5e-6
"""Seconds from the issue of a load to its arrival."""

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
    ordered = _by_estimate(task)
    chosen = _selected(ordered, limit)
    if task.device.type != "cuda" or _cudnn_time(task) > HOPELESS * ordered[0][1]:
        return chosen
    return [*chosen, Cudnn("channels_last"), Cudnn("bc01")]


def prepared_candidates(task: Task, product: str, limit: int) -> list[Any]:
    """At most ``limit`` of our own methods that take operands prepared for a product; none where it does without."""
    ordered = _by_estimate(task)
    return _selected([pair for pair in ordered if pair[0].prepared and pair[0].product == product], limit)


def _by_estimate(task: Task) -> list[tuple[Any, float]]:
    """Our own methods and their seconds, the fastest first."""
    gradient_of_filters = task.name == "correlate2d_filter_grad"
    estimate: Any = _share_time if gradient_of_filters else _gather_time
    methods: Iterable[Any] = _shares(task) if gradient_of_filters else _gathers(task)
    return sorted({method: estimate(task, method) for method in methods}.items(), key=lambda pair: pair[1])


def _selected(ordered: list[tuple[Any, float]], limit: int) -> list[Any]:
    """The first methods, of different kinds."""
    if not ordered or not isinstance(ordered[0][0], Share):
        return _diverse(ordered, limit)
    # Patches move less and sum more: estimates do not know which is better.
    chosen = _diverse([pair for pair in ordered if pair[0].patch == (1, 1)], limit - limit // 2)
    return chosen + _diverse([pair for pair in ordered if pair[0].patch != (1, 1)], limit // 2)


def _cudnn_time(task: Task) -> float:
    """A bound of cuDNN's seconds in float32 without tf32; 0 where it may use tensor cores."""
    if task.dtype != torch.float32 or task.precision == "medium":
        return 0.0
    minimal_filtering = max(task.geometry.stride) == 1 and max(task.geometry.filters[2:]) <= 5
    return 2 * task.geometry.multiply_adds / (FLOAT32_RATE * (2.25 if minimal_filtering else 1))


def _diverse(ordered: list[tuple[Any, float]], limit: int) -> list[Method]:
    """The first methods, but few of a product and tile, or but for their stages; of swapped axes of patches, one."""
    chosen: list[Method] = []
    of_a_product = limit if len({method.product for method, _ in ordered}) == 1 else limit // 2 + 1
    kinds: Counter[Any] = Counter()
    seen = set()
    for method, seconds in ordered:
        if len(chosen) == limit:
            break
        blocks = method.blocks
        twin = method.product, blocks, round(seconds * 1e9)
        tile = (blocks.outputs, method.joined) if isinstance(blocks, Blocks) else (blocks.rows, blocks.filters)
        kind = method.product, tile, blocks.pixels
        pipeline = replace(method, blocks=replace(blocks, stages=0))
        most = {kind: (limit + 2) // 5, pipeline: limit // 8, method.product: of_a_product}
        if twin in seen or any(kinds[group] >= max(1, count) for group, count in most.items()):
            continue
        seen.add(twin)
        kinds.update(most.keys())
        chosen.append(method)
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
                sorted({least, max(16, least // 2)}), *_TILES.get(product, ((64, 128, 256), (32, 64, 128)))
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
                for stages in STAGES:
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


def _in_flight(plan: Gathering, method: Gather) -> int:
    """How many steps ahead loads are issued; those that wait for looked-up offsets take two stages each."""
    return (method.blocks.stages - 1) // (1 if plan.is_regular else 2)


def _shared_bytes(plan: Gathering, method: Gather) -> int:
    """Of the tiles that are in flight, and of those that tensor cores still read."""
    return (_in_flight(plan, method) + 1) * _step_bytes(method)


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
    programs *= plan.class_count
    steps = sum(ceil(rows / blocks.rows) for rows in plan.class_rows()) / plan.class_count
    residents = _residents(programs, _shared_bytes(plan, method), blocks, blocks.outputs * blocks.pixels)
    rounds = ceil(programs / (MULTIPROCESSORS * residents))
    # What all residents of a multiprocessor take for a step of each.
    cache = residents * _step_bytes(method) * MULTIPROCESSORS / CACHE_RATE
    flops = 2 * residents * blocks.rows * blocks.outputs * blocks.pixels
    product = flops * MULTIPROCESSORS / PRODUCT_RATES[method.product]
    products = 2 if method.product == "bf16x3" else 1  # three, that partly overlap
    wait = IN_FLIGHT / _in_flight(plan, method)
    step = max(products * STEP, cache, product, wait) + 0.25 * (cache + product) + 0.15 * wait
    start = START * (1 + (rounds - 1) / residents)
    return start + max(rounds * steps * step, _moved(task) / MEMORY_RATE) + _preparation(task, method)


def _moved(task: Task) -> int:
    """Bytes of images and maps."""
    return task.dtype.itemsize * (_size(task.geometry.images) + _size(task.geometry.maps))


def _preparation(task: Task, method: Gather) -> float:
    source = _size(task.geometry.maps if task.name == "correlate2d_input_grad" else task.geometry.images)
    element, prepared = task.dtype.itemsize, _element_bytes(method.product)
    seconds = LAUNCH
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
    for patch, product in itertools.product(_PATCHES_OF_MAPS, products_of(task)):
        plan = gathering(geometry, False, patch)
        small = patch == (1, 1) or plan.outputs <= 256
        if (
            not small
            or not plan.is_regular
            or patch[0] > plan.rows.target_length
            or patch[1] > plan.columns.target_length
        ):
            continue
        rows, columns = plan.class_rows()[0], plan.outputs
        most_rows, most_columns = (max(16, triton.next_power_of_2(count)) for count in (rows, columns))
        preparations = _preparations(task, product)
        if product == "bf16x3":  # may be split as it is read
            preparations += tuple(way for way in _preparations(task, "tf32") if way not in preparations)
        element = _element_bytes(product)
        for row_tile, column_tile, pixels, prepared in itertools.product(
            (16, 32, 64, 128, 256), (16, 32, 64, 128), (32, 64, 128), preparations
        ):
            fits = min(most_rows, 64) <= row_tile <= most_rows and min(most_columns, 64) <= column_tile <= most_columns
            if not fits or row_tile * column_tile > 128 * 128:
                continue
            images = min(pixels, _images(geometry.images[0], prepared))
            warps = 4 if row_tile * column_tile <= 64 * 128 else 8
            tiles = ceil(rows / row_tile) * ceil(columns / column_tile) * geometry.groups
            for stages, programs in itertools.product((3, 4, 6), (1, 2, 4)):
                shares = max(1, MULTIPROCESSORS * programs // tiles)
                blocks = GradBlocks(row_tile, column_tile, pixels, images, shares, warps, stages)
                if stages * pixels * (row_tile + column_tile) * element <= SHARED_BYTES:
                    yield Share(prepared, product, patch, blocks)


_PATCHES_OF_MAPS = (1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (2, 4), (4, 4)


def _share_time(task: Task, method: Share) -> float:
    geometry, blocks, element = task.geometry, method.blocks, _element_bytes(method.product)
    plan = gathering(geometry, False, method.patch)
    rows, columns = plan.class_rows()[0], plan.outputs
    tiles = ceil(rows / blocks.rows) * ceil(columns / blocks.filters) * geometry.groups
    positions = ceil(plan.rows.positions * plan.columns.positions * blocks.images / blocks.pixels)
    all_steps = positions * ceil(geometry.images[0] / blocks.images)
    steps = ceil(all_steps / blocks.shares)
    shares = ceil(all_steps / max(steps, 1))
    step_bytes = blocks.pixels * (blocks.rows + blocks.filters) * element
    residents = _residents(tiles * shares, blocks.stages * step_bytes, blocks, blocks.rows * blocks.filters)
    rounds = ceil(tiles * shares / (MULTIPROCESSORS * residents))
    rate = SHARE_TF32_RATE if method.product == "tf32" else PRODUCT_RATES[method.product]
    cache = residents * step_bytes * MULTIPROCESSORS / CACHE_RATE
    product = 2 * residents * blocks.rows * blocks.filters * blocks.pixels * MULTIPROCESSORS / rate
    products = 3 if method.product == "bf16x3" else 1
    wait = SHARE_IN_FLIGHT / (blocks.stages - 1)
    step = max(products * SHARE_STEP, cache, product, wait) + 0.25 * (cache + product) + 0.15 * wait
    partial = 4 * shares * rows * columns * geometry.groups
    seconds = SHARE_START + max(rounds * steps * step, _moved(task) / MEMORY_RATE) + partial / MEMORY_RATE
    if method.prepared:
        seconds += 2 * LAUNCH + _moved(task) / task.dtype.itemsize * (task.dtype.itemsize + element) / MEMORY_RATE
    if method.product == "float16":
        seconds += LAUNCH + _moved(task) / MEMORY_RATE
    return seconds
