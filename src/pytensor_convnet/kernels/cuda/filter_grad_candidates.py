"""Ways to compute the filter gradient, and about how long each takes."""

import itertools
from collections.abc import Iterator
from math import ceil

import triton

from pytensor_convnet.kernels.cuda.copying import BATCH_MULTIPLE
from pytensor_convnet.kernels.cuda.estimates import (
    CACHE_RATE,
    LEAST_IMAGES,
    MEMORY_RATE,
    bytes_moved,
    element_bytes,
    images_of_block,
    preparation_time,
    preparations,
    products_of,
    residents_of,
    warps_of,
)
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.gathering import Gathering, gathering
from pytensor_convnet.kernels.cuda.hardware import MULTIPROCESSORS, SHARED_BYTES
from pytensor_convnet.kernels.cuda.methods import FilterGrad, Share, SlidingShare, Task
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks, shares_of

PRODUCT_RATES = {"native": 850e12, "float16": 850e12, "bf16x3": 170e12, "tf32": 280e12, "ieee": 35e12}
"""Floating-point operations a second, about as these kernels reach them."""

STEP, START, IN_FLIGHT = 0.65e-6, 15e-6, 0.4e-6
"""Seconds that a step takes, however small its tiles are, and all, however few steps there are, adding up included; and
those from the issue of a load to its arrival."""


SLIDING_PRODUCT, SLIDING_IN_FLIGHT = 0.03e-6, 1.3e-6
"""Where a kernel slides: seconds of a product, however small, and those from the issue of a step's loads to their
arrival."""

EIGHT_WARPS, PARTLY, PARTLY_WAITING = 0.8, 0.15, 0.25
"""As for `gather_candidates`."""

MOST_ROWS = 64
"""Tap rows x channels where sliding may be faster: of more it was by 2% at most, and mostly took longer."""

MOST_PRODUCTS, MOST_NUMBERS = 45, 144
"""Of a step that slides, whose code has them all; and of sums that a thread keeps in registers."""


def filter_grads(task: Task) -> Iterator[FilterGrad]:
    """All ways."""
    yield from _shares(task)
    yield from _sliding(task)


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
        ways = preparations(task, product)
        if product == "bf16x3":  # may be split as it is read
            ways += tuple(way for way in preparations(task, "tf32") if way not in ways)
        element = element_bytes(product)
        for row_tile, column_tile, pixels, prepared in itertools.product(
            (16, 32, 64, 128, 256), (16, 32, 64, 128), (32, 64, 128), ways
        ):
            fits = min(most_rows, 64) <= row_tile <= most_rows and min(most_columns, 64) <= column_tile <= most_columns
            if not fits or row_tile * column_tile > 128 * 128:
                continue
            images = min(pixels, images_of_block(geometry.images[0], prepared))
            counts = warps_of(row_tile * column_tile, 64 * 128)
            tiles = max(1, ceil(rows / row_tile) * ceil(columns / column_tile) * geometry.groups)
            for stages, programs, warps in itertools.product((3, 4, 6), (1, 2, 4), counts):
                shares = max(1, MULTIPROCESSORS * programs // tiles)
                blocks = GradBlocks(row_tile, column_tile, pixels, images, shares, warps, stages)
                if stages * pixels * (row_tile + column_tile) * element <= SHARED_BYTES:
                    yield Share(prepared, product, patch, blocks)


_PATCHES_OF_MAPS = (1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (2, 4), (4, 4)


def _sliding(task: Task) -> Iterator[SlidingShare]:
    batch, plan = task.geometry.images[0], gathering(task.geometry, False)
    taps, rows = plan.columns.taps, plan.rows.taps * plan.source_channels
    if plan.columns.dilation > 1 or batch < LEAST_IMAGES or rows > MOST_ROWS:
        return
    most_rows, most_filters = (max(16, triton.next_power_of_2(count)) for count in (rows, plan.outputs))
    row_tiles = [tile for tile in (16, 32, 64, 128) if min(most_rows, 32) <= tile <= most_rows]
    filter_tiles = [tile for tile in (32, 64, 128) if min(most_filters, 64) <= tile <= max(32, most_filters)]
    runs = [run for run in (2, 4, 8) if run < 2 * plan.columns.positions and run * taps <= MOST_PRODUCTS]
    images = [count for count in (32, 64) if count < 2 * max(BATCH_MULTIPLE, batch)]
    batch_last = set(task.formats) == {"batch_last"}
    for product in products_of(task):
        if product == "ieee":  # which is no matter of tensor cores
            continue
        ways = [prepared for prepared in preparations(task, product) if prepared or batch_last]
        for row_tile, filter_tile, prepared in itertools.product(row_tiles, filter_tiles, ways):
            numbers = taps * row_tile * filter_tile
            if numbers > 8 * 32 * MOST_NUMBERS:
                continue
            counts = warps_of(numbers, 4 * 32 * MOST_NUMBERS)
            tiles = max(1, ceil(rows / row_tile) * ceil(plan.outputs / filter_tile) * plan.groups)
            for run, count, stages, programs, warps in itertools.product(runs, images, (2, 3), (1, 2), counts):
                shares = max(1, MULTIPROCESSORS * programs // tiles)
                blocks = SlidingBlocks(row_tile, filter_tile, run, count, shares, warps, stages)
                if stages * _sliding_bytes(plan, product, blocks) <= SHARED_BYTES:
                    yield SlidingShare(prepared, product, blocks)


def _sliding_bytes(plan: Gathering, product: str, blocks: SlidingBlocks) -> int:
    """Of the tiles of one step."""
    span = (blocks.columns - 1) * plan.columns.step + plan.columns.taps
    return blocks.images * (span * blocks.rows + blocks.columns * blocks.filters) * element_bytes(product)


def filter_grad_time(task: Task, method: FilterGrad) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    if isinstance(method, SlidingShare):
        computing, partial_numbers = _sliding_time(task, method)
    else:
        computing, partial_numbers = _share_time(task, method)
    seconds = START + max(computing, bytes_moved(task) / MEMORY_RATE) + 4 * partial_numbers / MEMORY_RATE
    return seconds + (preparation_time(task, method.product) if method.prepared else 0.0)


def _sliding_time(task: Task, method: SlidingShare) -> tuple[float, int]:
    """Seconds of the products, and how many numbers are left to be added up."""
    blocks, plan = method.blocks, gathering(task.geometry, False)
    taps, rows = plan.columns.taps, plan.rows.taps * plan.source_channels
    shares, steps = shares_of(plan, method.product, blocks)
    programs = ceil(rows / blocks.rows) * ceil(plan.outputs / blocks.filters) * plan.groups * shares
    step_bytes = _sliding_bytes(plan, method.product, blocks)
    residents = residents_of(programs, blocks.stages * step_bytes, blocks, taps * blocks.rows * blocks.filters)
    rounds = ceil(programs / (MULTIPROCESSORS * residents))
    cache = residents * step_bytes * MULTIPROCESSORS / CACHE_RATE
    products = blocks.columns * taps * blocks.images * blocks.rows * blocks.filters
    product = 2 * residents * products * MULTIPROCESSORS / PRODUCT_RATES[method.product]
    least, wait = SLIDING_PRODUCT * blocks.columns * taps, SLIDING_IN_FLIGHT / (blocks.stages - 1)
    step = _step_time(blocks, residents, least, cache, product, wait)
    return rounds * steps * step, shares * plan.groups * taps * rows * plan.outputs


def _share_time(task: Task, method: Share) -> tuple[float, int]:
    """Likewise."""
    geometry, blocks = task.geometry, method.blocks
    plan = gathering(geometry, False, method.patch)
    rows, columns = plan.class_rows()[0], plan.outputs
    tiles = ceil(rows / blocks.rows) * ceil(columns / blocks.filters) * geometry.groups
    positions = ceil(plan.rows.positions * plan.columns.positions * blocks.images / blocks.pixels)
    all_steps = positions * ceil(geometry.images[0] / blocks.images)
    steps = ceil(all_steps / blocks.shares)
    shares = ceil(all_steps / max(steps, 1))
    step_bytes = blocks.pixels * (blocks.rows + blocks.filters) * element_bytes(method.product)
    residents = residents_of(tiles * shares, blocks.stages * step_bytes, blocks, blocks.rows * blocks.filters)
    rounds = ceil(tiles * shares / (MULTIPROCESSORS * residents))
    cache = residents * step_bytes * MULTIPROCESSORS / CACHE_RATE
    product = (
        2 * residents * blocks.rows * blocks.filters * blocks.pixels * MULTIPROCESSORS / PRODUCT_RATES[method.product]
    )
    products = 3 if method.product == "bf16x3" else 1
    step = _step_time(blocks, residents, products * STEP, cache, product, IN_FLIGHT / (blocks.stages - 1))
    return rounds * steps * step, shares * rows * columns * geometry.groups


def _step_time(
    blocks: GradBlocks | SlidingBlocks, residents: int, least: float, cache: float, product: float, wait: float
) -> float:
    """Seconds of a step of so many programs to a multiprocessor, from those of its parts."""
    least *= EIGHT_WARPS if blocks.warps == 8 and residents == 1 else 1
    return max(least, cache, product, wait) + PARTLY * (cache + product) + PARTLY_WAITING * wait
