"""Ways to gather, for the forward pass and the input gradient, and about how long each takes."""

import itertools
from collections.abc import Iterator
from math import ceil

import triton

from pytensor_convnet.kernels.cuda.estimates import (
    CACHE_RATE,
    LAUNCH,
    MEMORY_RATE,
    bytes_moved,
    element_bytes,
    images_of_block,
    preparations,
    products_of,
    residents_of,
    search_time,
    size,
    warps_of,
)
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.gathering import Gathering, gathering
from pytensor_convnet.kernels.cuda.hardware import MULTIPROCESSORS, SHARED_BYTES
from pytensor_convnet.kernels.cuda.methods import Gather, Task
from pytensor_convnet.kernels.cuda.products import chain_of

STAGES = 3, 4, 6, 8
"""Of the pipeline of a gathering."""

PRODUCT_RATES = {"native": 650e12, "float16": 650e12, "bf16x3": 250e12, "tf32": 200e12, "ieee": 35e12}
"""Floating-point operations a second, about as these kernels reach them."""

EIGHT_WARPS, PARTLY, PARTLY_WAITING = 1.9, 0.9, 0.3
"""What the least time of a step is multiplied by where eight warps take it that have a multiprocessor for themselves
(as fitted, though in places they are the faster ones: they are among the first for the sake of diversity); and how much
of what else a step does, and waits for, adds to the largest part."""

STEP, START = 0.085e-6, 6.5e-6
"""Seconds that a step of a gathering takes, however small its tiles are, and a program, however few its steps are."""

IN_FLIGHT = 0.25e-6
"""Seconds from the issue of a load to its arrival."""


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


def gathers(task: Task) -> Iterator[Gather]:
    gradient = task.name == "correlate2d_input_grad"
    batch = task.geometry.images[0]
    for product in products_of(task):
        for (patch, joined), prepared in itertools.product(_patches(task, gradient), preparations(task, product)):
            plan = gathering(task.geometry, gradient, patch, joined)
            least = min(128, max(16, triton.next_power_of_2(plan.outputs)))
            tiles = itertools.product(
                sorted({least, max(16, least // 2)}), *_TILES.get(product, ((64, 128, 256), (32, 64, 128)))
            )
            for outputs, pixels, rows in tiles:
                chained = chain_of(product, max(plan.class_rows())) > 0
                if product == "tf32" and outputs * pixels > 64 * 128:
                    continue
                most_of_four_warps = 64 * 128 if chained else 128 * 128  # a chain's sum takes registers, too
                counts = (2,) if product == "tf32" else warps_of(outputs * pixels, most_of_four_warps)
                images = min(pixels, images_of_block(batch, prepared))
                images_first = outputs <= 32 and product != "tf32"
                multiple = rows if plan.source_channels % rows == 0 else 1
                for stages, warps in itertools.product(STAGES, counts):
                    blocks = Blocks(outputs, pixels, images, rows, warps, stages, images_first)
                    method = Gather(prepared, "batch_last", product, patch, joined, multiple, blocks)
                    if _shared_bytes(plan, method) <= SHARED_BYTES:
                        yield method


_TILES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {"tf32": ((64, 128), (16, 32)), "ieee": ((128,), (32,))}
"""Pixels and rows of tiles, where not the usual ones.

The instruction by which four warps multiply tf32 wants both operands summed along their innermost axis, which the
source is not. That of single warps does not; so tiles of tf32 are small, for two warps.
"""


def _step_bytes(method: Gather) -> int:
    """Of the tiles of one step."""
    blocks = method.blocks
    return blocks.rows * (blocks.outputs + blocks.pixels) * element_bytes(method.product)


def _in_flight(plan: Gathering, method: Gather) -> int:
    """How many steps ahead loads are issued; those that wait for looked-up offsets take two stages each."""
    return (method.blocks.stages - 1) // (1 if plan.is_regular else 2)


def _shared_bytes(plan: Gathering, method: Gather) -> int:
    """Of the tiles that are in flight, and of those that tensor cores still read."""
    return (_in_flight(plan, method) + 1) * _step_bytes(method)


def gather_time(task: Task, method: Gather) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    gradient = task.name == "correlate2d_input_grad"
    plan = gathering(task.geometry, gradient, method.patch, method.joined, method.channel_multiple)
    blocks = method.blocks
    positions = ceil(plan.rows.positions * plan.columns.positions * blocks.images / blocks.pixels)
    programs = ceil(plan.outputs / blocks.outputs) * positions * ceil(plan.batch / blocks.images) * plan.groups
    programs *= plan.class_count
    steps = sum(ceil(rows / blocks.rows) for rows in plan.class_rows()) / plan.class_count
    residents = residents_of(programs, _shared_bytes(plan, method), blocks, blocks.outputs * blocks.pixels)
    rounds = ceil(programs / (MULTIPROCESSORS * residents))
    # What all residents of a multiprocessor take for a step of each.
    cache = residents * _step_bytes(method) * MULTIPROCESSORS / CACHE_RATE
    flops = 2 * residents * blocks.rows * blocks.outputs * blocks.pixels
    product = flops * MULTIPROCESSORS / PRODUCT_RATES[method.product]
    products = 2 if method.product == "bf16x3" else 1  # three, that partly overlap
    wait = IN_FLIGHT / _in_flight(plan, method)
    least = products * STEP * (EIGHT_WARPS if blocks.warps == 8 and residents == 1 else 1)
    step = max(least, cache, product, wait) + PARTLY * (cache + product) + PARTLY_WAITING * wait
    start = START * (1 + (rounds - 1) / residents)
    return start + max(rounds * steps * step, bytes_moved(task) / MEMORY_RATE) + _preparation(task, method)


def _preparation(task: Task, method: Gather) -> float:
    shape = task.geometry.maps if task.name == "correlate2d_input_grad" else task.geometry.images
    element, prepared = task.dtype.itemsize, element_bytes(method.product)
    seconds = LAUNCH
    if method.prepared:
        seconds += size(shape) * (element + prepared) / MEMORY_RATE
    if method.product == "float16":
        seconds += search_time(shape)
    return seconds
