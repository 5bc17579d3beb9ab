"""Ways to compute a filter gradient over windows in shared memory, and about how long each takes."""

import itertools
from collections.abc import Iterator
from math import ceil

from pytensor_convnet.kernels.cuda.carrying_out import plan_of_window_share
from pytensor_convnet.kernels.cuda.copying import is_boxable
from pytensor_convnet.kernels.cuda.estimates import (
    FAR,
    FEW,
    MEMORY_RATE,
    boxing_time,
    bytes_moved,
    most_promising,
    preparation_time,
    window_products,
)
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.hardware import CLOCK, MULTIPROCESSORS
from pytensor_convnet.kernels.cuda.hopper_sources import ROW_BYTES
from pytensor_convnet.kernels.cuda.methods import Task, WindowShare
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks, WindowGradPlan, fits_window_grads

CACHED, START = 64, 4.5e-6
"""Bytes that a multiprocessor reads of the second-level cache in a cycle; and seconds of launches and first rows."""

UNIT, LATENCY = 1000, 1300
"""Cycles that a map row of two windows takes besides products and bytes, and those until a whole window is there."""

ALONE, REST, SUMS = 0.1, 0.15, 1.5
"""What of the shorter is not hidden by the longer: of fetching and multiplying; of both and of what memory moves; and
how long it takes to add up shares, beside moving their sums once.

All were fitted to 268 ways to compute 34 filter gradients, before there were so many cuts: the best of the first four
took 0.2% more than the best of all, in the mean, and 2% at most."""

CHUNKS, FILTERS = (4, 8, 12, 16, 24, 32, 48, 64), (64, 96, 128, 192)
RUNS, PIXELS = (1, 2, 3, 4, 5, 6, 8), (1, 2, 4)
"""Channels and filters of a program, if not all; map pixels of a window, and those fetched at a time."""

MOST_ALIKE = 2
"""So many methods of the same product, roles, channels and split are measured."""


def window_grads(task: Task, limit: int, prepared: bool = False) -> list[WindowShare]:
    """At most ``limit`` methods over windows, the most promising first; none where they cannot be compiled.

    Of operands that are ``prepared``: bfloat16, or float16 that stands for float32. float32 that is not may be
    prepared for it: that is worth it where there is much to multiply.
    """
    boxable = is_boxable(task.geometry.images[0], task.dtype.itemsize)
    if limit < 1 or task.name != "correlate2d_filter_grad" or not boxable or not can_compile(task.device):
        return []
    by_product = [
        seconds for product in window_products(task, prepared) if (seconds := _seconds(task, product, prepared))
    ]
    first, *others = sorted(by_product, key=lambda seconds: min(seconds.values())) or [{}]
    few = [
        method
        for seconds in others
        if min(seconds.values()) < FAR * min(first.values())
        for method in most_promising(seconds, min(FEW, limit // 3), _kind, MOST_ALIKE)
    ]
    return [*most_promising(first, limit - len(few), _kind, MOST_ALIKE), *few]


def _seconds(task: Task, product: str, prepared: bool) -> dict[WindowShare, float]:
    """All methods of a product, and estimates; none where operands do not suit it."""
    prepares = product == "float16" and not prepared
    batch_last = set(task.formats) == {"batch_last"}
    if not fits_window_grads(task.geometry) or not (batch_last or prepares):
        return {}
    before = preparation_time(task, product) if prepares else 0.0 if prepared else boxing_time(task)
    methods = (WindowShare(product, blocks) for blocks in blocks_of(task.geometry, RUNS))
    plans = ((method, plan_of_window_share(task, method)) for method in methods)
    return {method: before + window_grad_time(task, how) for method, how in plans if how is not None}


def _kind(method: WindowShare) -> tuple:
    """What methods of a product that are much alike have in common."""
    return method.blocks.taps_as_rows, method.blocks.channels, method.blocks.split


def blocks_of(
    geometry: Geometry, runs: tuple[int, ...], some_filters: tuple[int, ...] = FILTERS
) -> Iterator[WindowGradBlocks]:
    """How a gradient may be cut, into windows of so many map pixels, and programs of so many filters, or of all."""
    filters, channels = geometry.filters[:2]
    chunks = {count for count in (*CHUNKS, channels) if channels % count == 0}
    parts = {count for count in (*some_filters, filters) if count <= filters}
    for as_rows, run, pixels, chunk, part, split in itertools.product(
        (True, False), runs, PIXELS, sorted(chunks), sorted(parts), (1, 2)
    ):
        yield WindowGradBlocks(as_rows, run, pixels, chunk, part, split)


def window_grad_time(task: Task, how: WindowGradPlan) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    k, cycles = how.constants, window_grad_cycles(how)
    working = cycles * ceil(k["SHARES"] * k["BLOCKS"] / MULTIPROCESSORS) / CLOCK
    moving = bytes_moved(task) * (2 if k["NARROW"] else 4) / task.dtype.itemsize / MEMORY_RATE
    sums = 4 * k["SHARES"] * k["SUM_SPLIT"] * k["BLOCKS"] * k["PARTIAL_ROWS"] * k["TILE_N"]
    return START + max(working, moving) + REST * min(working, moving) + SUMS * sums / MEMORY_RATE


def window_grad_cycles(how: WindowGradPlan) -> float:
    """What a program fetches and multiplies, in cycles of a multiprocessor."""
    k = how.constants
    instruction = max(k["TILE_N"] / 2, 16 + k["TILE_N"] / 4)
    instructions = 4 * k["TILES_EACH"] * 2 / k["SUM_SPLIT"]
    rows = (k["TAPS_DOWN"] + (k["LONGEST"] - 1) * k["STEP_ROWS"]) / k["LONGEST"]  # of the source, for each map row
    read = ROW_BYTES * (k["CHANNELS"] * rows * k["COLUMNS"] / k["RUN"] + k["FILTERS"])
    units = ceil(k["UNITS"] / k["SHARES"])
    pixels = units * k["MAP_COLUMNS"] / k["STRIPS"]
    multiplying, fetching = pixels * instructions * instruction, (pixels * read + 2 * k["WINDOW_BYTES"]) / CACHED
    return max(multiplying, fetching) + ALONE * min(multiplying, fetching) + units * (UNIT + LATENCY / k["LONGEST"])
