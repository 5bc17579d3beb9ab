"""Ways to compute a filter gradient over windows in shared memory, and about how long each takes."""

import itertools
from collections import Counter
from collections.abc import Iterator

import torch

from pytensor_convnet.kernels.cuda.estimates import LAUNCH, MEMORY_RATE, bytes_moved
from pytensor_convnet.kernels.cuda.hardware import CLOCK, MULTIPROCESSORS
from pytensor_convnet.kernels.cuda.methods import Task, WindowShare, plan_of_window_share
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile
from pytensor_convnet.kernels.cuda.window_grad_kernel import IMAGES, WindowGradBlocks, WindowGradPlan, fits_window_grads
from pytensor_convnet.kernels.cuda.window_kernel import ROW_BYTES

CACHED, START, ALONE = 26, 6e-6, 0.5
"""Bytes that a multiprocessor reads of the second-level cache in a cycle; seconds of two launches and the first rows;
and of fetching and multiplying, which go on side by side, the part of the shorter one that nothing hides."""

CHUNKS, FILTERS, RUNS, PIXELS = (8, 16, 32, 64), (64, 128), (1, 2, 3, 4, 5, 6, 8), (1, 2, 4)
"""Channels and filters of a program, if not all; map pixels of a window, and those fetched at a time."""

MOST_ALIKE = 2
"""So many methods of the same channels, roles and split are measured."""


def window_grads(task: Task, limit: int) -> list[WindowShare]:
    """At most ``limit`` methods over windows, the most promising first; none where they cannot be compiled."""
    narrow, coarse = task.dtype == torch.bfloat16, task.dtype == torch.float32 and task.precision == "medium"
    possible = task.name == "correlate2d_filter_grad" and set(task.formats) == {"batch_last"}
    if limit < 1 or not possible or not (narrow or coarse) or not can_compile(task.device):
        return []
    if not fits_window_grads(task.geometry, narrow):
        return []
    seconds = {}
    for method in _methods(task, "native" if narrow else "tf32"):
        how = plan_of_window_share(task, method)
        if how is not None:
            seconds[method] = window_grad_time(task, how)
    chosen: list[WindowShare] = []
    alike: Counter[tuple[bool, int, int]] = Counter()
    for method in sorted(seconds, key=lambda method: seconds[method]):
        kind = method.blocks.taps_as_rows, method.blocks.channels, method.blocks.split
        if len(chosen) < limit and alike[kind] < MOST_ALIKE:
            alike[kind] += 1
            chosen.append(method)
    return chosen


def _methods(task: Task, product: str) -> Iterator[WindowShare]:
    filters, channels = task.geometry.filters[:2]
    chunks = {count for count in (*CHUNKS, channels) if channels % count == 0}
    parts = {count for count in (*FILTERS, filters) if count <= filters}
    for as_rows, run, pixels, chunk, part, split in itertools.product(
        (True, False), RUNS, PIXELS, sorted(chunks), sorted(parts), (1, 2)
    ):
        yield WindowShare(product, WindowGradBlocks(as_rows, run, pixels, chunk, part, split))


def window_grad_time(task: Task, how: WindowGradPlan) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    k = how.constants
    instruction = max(k["TILE_N"] / 2, 16 + k["TILE_N"] / 4)
    instructions = 4 * k["TILES_EACH"] * 2 / k["SUM_SPLIT"]
    rows = (k["TAPS_DOWN"] + (k["LONGEST"] - 1) * k["STEP_ROWS"]) / k["LONGEST"]  # of the source, for each map row
    read = ROW_BYTES * (k["CHANNELS"] * rows * k["COLUMNS"] / k["RUN"] + k["FILTERS"])
    pixels = k["MAP_ROWS"] * k["MAP_COLUMNS"] * -(-task.geometry.images[0] // IMAGES[bool(k["NARROW"])])
    multiplying, fetching = (pixels / k["SHARES"] * cycles for cycles in (instructions * instruction, read / CACHED))
    cycles = max(multiplying, fetching) + ALONE * min(multiplying, fetching)
    cycles *= -(-k["SHARES"] * k["BLOCKS"] // MULTIPROCESSORS)
    sums = 4 * k["SHARES"] * k["SUM_SPLIT"] * k["BLOCKS"] * k["PARTIAL_ROWS"] * k["TILE_N"]
    return START + max(cycles / CLOCK, bytes_moved(task) / MEMORY_RATE) + 2 * sums / MEMORY_RATE + LAUNCH
