"""Which ways to compute a pooled correlation are worth measuring, and what is taken without measurements.

Estimates as in `candidates`: bounds of what a multiprocessor does for each map pixel, not predictions.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import ceil, prod
from typing import Any

import torch
import triton

from pytensor_convnet.kernels.cuda.candidates import candidates_of_product
from pytensor_convnet.kernels.cuda.conv_pool_grad_kernel import PoolGradBlocks
from pytensor_convnet.kernels.cuda.conv_pool_kernel import PoolBlocks, new_columns
from pytensor_convnet.kernels.cuda.conv_pool_keys import MOST_TAPS
from pytensor_convnet.kernels.cuda.conv_pool_methods import (
    Pair,
    PoolGather,
    PoolShare,
    PoolTask,
    PoolWindow,
    PoolWindowShare,
    Spread,
    carry_out,
    plan_of_pool_window,
)
from pytensor_convnet.kernels.cuda.copying import BATCH_MULTIPLE
from pytensor_convnet.kernels.cuda.estimates import (
    LAUNCH,
    LEAST_IMAGES,
    MEMORY_RATE,
    search_time,
)
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.gathering import gathering
from pytensor_convnet.kernels.cuda.hardware import CLOCK, MULTIPROCESSORS, REGISTERS, SHARED_BYTES
from pytensor_convnet.kernels.cuda.methods import Gather, Share, SlidingShare, Window, WindowShare
from pytensor_convnet.kernels.cuda.pool_window_candidates import pool_window_shares, pool_window_time, pool_windows
from pytensor_convnet.kernels.cuda.pool_window_kernel import PoolWindowBlocks
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks
from pytensor_convnet.kernels.cuda.tuning import Family, register
from pytensor_convnet.kernels.cuda.window_candidates import windows as over_windows
from pytensor_convnet.kernels.cuda.window_grad_candidates import window_grads
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks
from pytensor_convnet.kernels.cuda.window_kernel import WindowBlocks

OVER_WINDOWS = 3
"""Methods of each gradient of spread maps that are over windows, where these are possible."""

FORWARD_WINDOWS = 2
"""Forward passes over windows, where these are possible."""

KEEPING = 2
"""Of filter gradients that spread as they go, where the input gradient is asked for, too."""

PRODUCTS = {"medium": ("float16", "bf16x3"), "high": ("bf16x3",), "ieee": ()}
"""What may stand for float32 in each precision; for `ieee`, the keys by which maxima are compared are too coarse."""

MOST_ROWS = 512
"""Filters of more channels x taps do not stay in shared memory."""

MOST_PATCH = 9
"""Patches of more pixels, or that more windows touch, are not written out."""

MOST_STAGES = 3
"""Of the pipeline of a forward pass."""

OPERATIONS, COMPARED, LOADED, LATENCY = 3000, 14, 26, 900
"""Of a multiprocessor: floating-point operations, numbers compared and bytes of the source read in a cycle, about as
these kernels reach them; and the cycles that a step takes besides, which other programs fill if there are any."""

FULL_WIDTH = 40
"""Products of fewer columns wait for their rows to be read from shared memory."""

PACKED, START = 12, 2000
"""How many filters' elements a multiprocessor puts in place in a cycle, and how long a program waits for the first."""

MOST_LINES = 128
"""Of filters times pixels of the maps that are computed together: accumulators of more do not stay in registers."""

MOST_ALIKE = 2
"""So many of the methods measured may be of one kind, where kinds are many."""


def _products(task: PoolTask) -> tuple[tuple[str, bool], ...]:
    """Products, and whether images are prepared for them."""
    batch = task.geometry.images[0]
    as_it_is = task.formats[0] == "batch_last" and batch % 4 == 0
    if task.dtype != torch.float32:
        if not as_it_is:
            return (("native", True),)
        return (("native", False),) if batch % BATCH_MULTIPLE == 0 else (("native", False), ("native", True))
    found = tuple((product, True) for product in PRODUCTS[task.precision])
    return (*found, ("bf16x3", False)) if found and as_it_is else found


POOL_CANDIDATES = 8
"""How many methods without maps are measured: of 24 forward ones that gather, one of the first six by estimate was the
fastest, in each of ten layers and dtypes on an H100; two over windows go before them."""


def pool_candidates(task: PoolTask, limit: int) -> list[Any]:
    """At most ``limit`` methods without maps in memory, or with maps that are spread, by estimate; and the pair.

    No more than `POOL_CANDIDATES`.
    """
    limit = min(limit, POOL_CANDIDATES)
    if task.name == "correlate2d_max_pool2d":
        over = pool_windows(task, FORWARD_WINDOWS)
        gathers = sorted(_gathers(task), key=lambda method: _seconds(task, method))
        fused: Iterator[Any] = itertools.chain(over, _diverse(gathers, limit - len(over)))
    else:
        fused = _gradients(task, limit)
    return [*itertools.islice(dict.fromkeys(fused), limit), Pair()]


def pool_fixed_choice(task: PoolTask) -> Any:
    """The forward pass by the shortest estimate; the filter gradient alone by windows that spread as they go, where
    these are possible, or if channels are few; both gradients of float32, which spread maps have as float16."""
    if task.name == "correlate2d_max_pool2d":
        return min(pool_candidates(task, POOL_CANDIDATES), key=lambda method: _seconds(task, method))
    found = pool_candidates(task, 1)
    few = prod(task.geometry.filters[1:]) <= 128
    as_it_goes = isinstance(found[0], Spread) and isinstance(found[0].filters, PoolWindowShare)
    narrow = task.dtype != torch.float32
    return Pair() if not as_it_goes and (narrow or (task.name.endswith("filter_grad") and not few)) else found[0]


# ----------------------------------------------------------------------------------------------- forward


def row_blocks(rows: int) -> tuple[int, ...]:
    """So many rows as a sum of few powers of two, of at least 16; a little more where that saves one."""
    blocks: list[int] = []
    left = rows
    while left > 0:
        above = max(16, triton.next_power_of_2(left))
        blocks.append(above if above - left <= rows // 8 or above == 16 else above // 2)
        left -= blocks[-1]
    together = triton.next_power_of_2(sum(blocks))
    return (together,) if together == sum(blocks) else tuple(blocks)


def _gathers(task: PoolTask) -> Iterator[PoolGather]:
    geometry, windows = task.geometry, task.windows
    widest = min(128, max(16, triton.next_power_of_2(geometry.filters[0] // geometry.groups)))
    if geometry.images[0] < LEAST_IMAGES or windows.taps > MOST_TAPS:
        return
    runs = sorted({ceil(windows.out_columns / parts) for parts in (1, 2, 3, 4, 6, 8)})
    for group in dict.fromkeys([(1, 1), (windows.window[0], 1), (1, new_columns(windows))]):
        rows = gathering(geometry, False, group).class_rows()[0]
        if rows > MOST_ROWS:
            continue
        for images, (product, prepared) in itertools.product((32, 64, 128), _products(task)):
            if images < 2 * geometry.images[0]:
                for run, blocks in itertools.product(runs, _tiles(product, prepared, widest, images, group, rows)):
                    yield PoolGather(prepared, product, replace(blocks, windows=run))


def _tiles(
    product: str, prepared: bool, widest: int, images: int, group: tuple[int, int], rows: int
) -> Iterator[PoolBlocks]:
    """Blocks, but for the run of windows, that fit into a multiprocessor."""
    lines = triton.next_power_of_2(prod(group))
    blocks, filters, most_numbers, four_warps = row_blocks(rows), widest, 128 * 64, 64 * 64
    if lines > 1:
        filters, most_numbers, four_warps = max(16, min(widest, MOST_LINES // lines)), MOST_LINES * 128, MOST_LINES * 64
        together = max(16, triton.next_power_of_2(rows))
        if together <= 1.25 * rows:  # one product that does a little more is faster than a few
            blocks = (together,)
    numbers = lines * filters * images
    images_first = filters <= 32 or lines > 1
    if numbers > most_numbers or (images_first and images == 32):
        return
    halves = 2 if product == "bf16x3" else 1
    room = (SHARED_BYTES - 4 * filters * images) // (2 * halves * sum(blocks)) - lines * filters
    # What is split in registers is not pipelined.
    most_stages = min(room // images, MOST_STAGES if prepared or product == "native" else 1)
    for stages in {most_stages, min(most_stages, 1)} if lines > 1 else {most_stages}:
        if stages > 0:
            warps = 4 if numbers <= four_warps else 8
            yield PoolBlocks(filters, images, group, blocks, 0, warps, stages, images_first)


def _diverse(methods: list[PoolGather], limit: int) -> Iterator[PoolGather]:
    """The first methods, but of each kind, and of each of its tiles, only some."""
    kinds = len({_kind(method) for method in methods})
    seen: Counter[tuple] = Counter()
    for method in methods:
        kind = _kind(method)
        tile = (*kind, method.blocks.images, method.blocks.stages)
        if seen[kind] < max(MOST_ALIKE, ceil(limit / kinds)) and seen[tile] < max(1, limit // 4):
            seen.update([kind, tile])
            yield method


def _kind(method: PoolGather) -> tuple[str, bool, tuple[int, int]]:
    return method.product, method.prepared, method.blocks.group


def _seconds(task: PoolTask, method: PoolGather | PoolWindow | Pair) -> float:
    geometry, windows = task.geometry, task.windows
    pooled = geometry.images[0] * geometry.filters[0] * windows.out_rows * windows.out_columns
    images, item = prod(geometry.images), task.dtype.itemsize
    if isinstance(method, Pair):
        maps = prod(geometry.maps)
        moved = (images + 2 * maps + 3 * pooled) * item + pooled
        operations = 2 * geometry.multiply_adds / (MULTIPROCESSORS * OPERATIONS * CLOCK)
        return max(operations, (images + maps) * item / MEMORY_RATE) + (moved - images * item) / MEMORY_RATE
    if isinstance(method, PoolWindow):
        how = plan_of_pool_window(task, method)
        assert how is not None
        return pool_window_time(task, method, how)
    blocks = method.blocks
    programs = ceil(geometry.filters[0] / geometry.groups / blocks.filters) * geometry.groups
    programs *= ceil(windows.out_columns / blocks.windows) * windows.out_rows * ceil(geometry.images[0] / blocks.images)
    new = new_columns(windows)
    steps = blocks.windows * (new // blocks.group[1]) + (new < windows.window[1])
    steps *= windows.window[0] // blocks.group[0]
    halves = 2 if method.product == "bf16x3" else 1
    together = _together(blocks, halves)
    parts = _step_cycles(blocks, method.product, halves)
    latency = sum(parts[:2]) + LATENCY * (1 if blocks.stages > 1 else 2)
    lines = triton.next_power_of_2(prod(blocks.group)) * blocks.filters
    start = START + together * sum(blocks.rows) * lines / PACKED
    waves = ceil(programs / (MULTIPROCESSORS * together))
    seconds = waves * (start + steps * max(latency, *(together * part for part in parts))) / CLOCK
    seconds += LAUNCH
    if method.product == "float16":
        seconds += search_time(task.geometry.images)
    if method.prepared:
        seconds += LAUNCH + images * (item + 2 * halves) / MEMORY_RATE
    return max(seconds, (images + pooled) * item / MEMORY_RATE)


def _step_cycles(blocks: PoolBlocks, product: str, halves: int) -> tuple[float, float, float]:
    """What products, keys and reading the source take of a multiprocessor in a step."""
    numbers = triton.next_power_of_2(prod(blocks.group)) * blocks.filters * blocks.images
    width = numbers // blocks.images if blocks.images_first else blocks.images
    products = 2 * (3 if product == "bf16x3" else 1) * sum(blocks.rows) * numbers
    read = 2 * halves * sum(blocks.rows) * blocks.images
    return products / (OPERATIONS * min(1, width / FULL_WIDTH)), numbers / COMPARED, read / LOADED


def _together(blocks: PoolBlocks, halves: int) -> int:
    """How many programs a multiprocessor runs at once."""
    numbers, lines = blocks.filters * blocks.images, triton.next_power_of_2(prod(blocks.group))
    threads = 32 * blocks.warps
    registers = threads * min(255, 90 + (2 + lines) * numbers // threads)
    memory = 2 * halves * sum(blocks.rows) * (lines * blocks.filters + blocks.stages * blocks.images) + 4 * numbers
    return max(1, min(REGISTERS // registers, SHARED_BYTES // memory))


# --------------------------------------------------------------------------------------------- gradients


def _gradients(task: PoolTask, limit: int) -> Iterator[Spread]:
    """Ways to compute the gradients asked for; the most promising first."""
    windows = task.windows
    touching = prod(
        (step - 1 + before) // step + 1 + (length - 1 - before) // step
        for length, step, (before, _) in zip(windows.window, windows.stride, windows.padding)
    )
    if prod(windows.stride) > MOST_PATCH or touching > MOST_PATCH or task.geometry.images[0] < LEAST_IMAGES:
        return
    products = list(dict.fromkeys(product for product, _ in _products(task)))
    each = max(1, limit // (2 * max(1, len(products))))
    if task.name.endswith("filter_grad"):
        yield from (Spread(None, method) for method in pool_window_shares(task, OVER_WINDOWS, kept=False))
        yield from (Spread(None, method) for method in itertools.islice(_shares(task), max(1, limit // 4)))
    for product in products:
        inputs = _spread_parts(task, "correlate2d_input_grad", product, 2 * each)
        filters = _spread_parts(task, "correlate2d_filter_grad", product, each)
        if product in ("native", "float16"):
            of_images, of_filters = _over_windows(task)
            inputs, filters = [*of_images, *inputs], [*of_filters, *filters]
            if of_images and task.name.endswith("grads"):  # before all others, which follow below
                yield from map(Spread, of_images[:2], of_filters[:2])
                # What spreads as it goes stands beside an input gradient over windows: others want batches filled up.
                yield from (Spread(of_images[0], method) for method in pool_window_shares(task, KEEPING, kept=True))
        if task.name.endswith("input_grad"):
            yield from (Spread(method, None) for method in inputs)
        elif task.name.endswith("filter_grad"):
            yield from (Spread(None, method) for method in filters)
        else:
            yield from map(Spread, inputs, filters)


def _over_windows(task: PoolTask) -> tuple[list[Any], list[Any]]:
    """Methods over windows for each of the gradients, of maps that are spread before."""
    parts = [task.part(name, ("batch_last",) * 2) for name in ("correlate2d_input_grad", "correlate2d_filter_grad")]
    return over_windows(parts[0], OVER_WINDOWS, prepared=True), window_grads(parts[1], OVER_WINDOWS, prepared=True)


def _spread_parts(task: PoolTask, name: str, product: str, limit: int) -> list[Any]:
    """Methods for one of the gradients alone that take prepared maps."""
    ways = candidates_of_product(task.part(name, ("batch_last",) * 2), product, limit)
    return list(dict.fromkeys(replace(way, prepared=True) for way in ways))


def _shares(task: PoolTask) -> Iterator[PoolShare]:
    geometry = task.geometry
    rows, filters = prod(geometry.filters[1:]), geometry.filters[0] // geometry.groups
    width = min(128, max(16, triton.next_power_of_2(filters)))
    height = min(128, max(16, triton.next_power_of_2(rows)))
    tiles = ceil(rows / height) * ceil(filters / width) * geometry.groups
    for (product, prepared), images, programs in itertools.product(_products(task), (32, 64), (4, 2)):
        if images >= 2 * max(BATCH_MULTIPLE, geometry.images[0]):
            continue
        shares = max(1, MULTIPROCESSORS * programs // tiles)
        warps = 4 if height * width * images <= 128 * 32 * 32 else 8
        yield PoolShare(prepared, product, PoolGradBlocks(height, width, images, shares, warps, 1))


register(
    PoolTask,
    Family(
        pool_candidates,
        pool_fixed_choice,
        carry_out,
        (
            Pair,
            PoolGather,
            PoolShare,
            Spread,
            Gather,
            Share,
            SlidingShare,
            PoolBlocks,
            PoolGradBlocks,
            Blocks,
            GradBlocks,
            SlidingBlocks,
            Window,
            WindowShare,
            PoolWindow,
            PoolWindowBlocks,
            PoolWindowShare,
            WindowBlocks,
            WindowGradBlocks,
        ),
    ),
)
