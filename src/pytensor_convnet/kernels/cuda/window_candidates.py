"""Ways to correlate over windows in shared memory, and about how long each takes."""

import itertools
from collections import Counter
from collections.abc import Iterator
from math import ceil

import torch

from pytensor_convnet.kernels.cuda.estimates import LAUNCH, MEMORY_RATE, bytes_moved, search_time
from pytensor_convnet.kernels.cuda.gathering import Gathering, gathering
from pytensor_convnet.kernels.cuda.hardware import CLOCK, MULTIPROCESSORS
from pytensor_convnet.kernels.cuda.methods import Task, Window, plan_of_windows
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile
from pytensor_convnet.kernels.cuda.window_kernel import IMAGES, MOST_OUTPUTS, WindowBlocks, WindowPlan, fits_windows

SHARED, WINDOWED, CACHED, STORED = 128, 0.75, 32, 18
"""Bytes that a multiprocessor reads or writes in a cycle: of shared memory, of which a step takes this part of the
time, as fitted; of the second-level cache; and of results."""

STAGE_CYCLES, LATENCY, START = 60, 1500, 3e-6
"""Cycles that a stage takes however small it is, and those from asking for one until it is there; and seconds of a
launch until the first product."""

CONVERTING, CONVERTING_CYCLES = 150, 600
"""Cycles in which a warp converts 32 cells of 8 numbers, and which it takes besides for a stage, however small."""

ALONE = 0.65
"""Of fetching and multiplying, which go on side by side, the part of the shorter one that nothing hides.

All were fitted to 348 ways to compute 31 passes: the best of the first four takes 1% more than the best of all, in the
mean, and 10% more at most."""

MOST_WORK = 3.0
"""Patches may multiply so many times what they must."""

MOST_BLOCKS = 2
"""Outputs, channels of the target times pixels of a patch, fill so many of the widest instructions at most."""

CHUNKS, POSITIONS = (8, 16, 32, 64), (1, 2, 3, 4, 6, 8)
"""Channels of a stage, if not all, and positions of a warpgroup."""

MOST_ALIKE = 2
"""So many methods of a patch, and of a tile of one or two rows, are measured."""


def windows(task: Task, limit: int) -> list[Window]:
    """At most ``limit`` methods over windows, the most promising first; none where they cannot be compiled."""
    narrow, coarse = task.dtype == torch.bfloat16, task.dtype == torch.float32 and task.precision == "medium"
    possible = task.name in ("correlate2d", "correlate2d_input_grad") and task.formats[0] == "batch_last"
    if limit < 1 or not possible or not (narrow or coarse) or not can_compile(task.device):
        return []
    seconds = {}
    for method in _methods(task, "native" if narrow else "float16"):
        plan, how = plan_of_windows(task, method)
        if how is not None:
            seconds[method] = window_time(task, method, plan, how)
    chosen: list[Window] = []
    alike: Counter[tuple[tuple[int, int], int]] = Counter()
    for method in sorted(seconds, key=lambda method: seconds[method]):
        kind = method.patch, method.blocks.rows
        if len(chosen) < limit and alike[kind] < MOST_ALIKE:
            alike[kind] += 1
            chosen.append(method)
    return chosen


def _methods(task: Task, product: str) -> Iterator[Window]:
    gradient, geometry = task.name == "correlate2d_input_grad", task.geometry
    steps = geometry.stride if gradient else (1, 1)
    least = gathering(geometry, gradient, steps)
    if not fits_windows(least, product == "native"):
        return
    channels = least.source_channels
    chunks = [count for count in (*CHUNKS, channels) if channels % count == 0]
    for times_down, times_across in itertools.product((1, 2, 4, 8), repeat=2):
        patch = steps[0] * times_down, steps[1] * times_across
        plan = gathering(geometry, gradient, patch)
        if (
            not fits_windows(plan, product == "native")
            or plan.multiply_adds > MOST_WORK * least.multiply_adds
            or plan.outputs > MOST_BLOCKS * MOST_OUTPUTS
        ):
            continue
        cuts = {ceil(plan.outputs / most) for most in (MOST_OUTPUTS, MOST_OUTPUTS // 2)}
        for count, positions, rows, blocks in itertools.product(set(chunks), POSITIONS, (1, 2), cuts):
            yield Window(product, patch, WindowBlocks(positions, rows, count, blocks))


def window_time(task: Task, method: Window, plan: Gathering, how: WindowPlan) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    constants, item = how.constants, task.dtype.itemsize
    outputs, stage_rows = how.stage.outputs, constants["STAGE_ROWS"]
    instructions = 2 * method.blocks.positions * how.stage.rows // 16
    products = instructions * max(outputs / 2, 16 + outputs / 4)  # the least, and reading both tiles
    source = stage_rows * IMAGES
    filters = 0 if constants["RESIDENT"] else constants["FILTER_BYTES"]
    cached = (item * source + filters) / CACHED
    shared = instructions * (16 + outputs / 4) + (2 * source + filters) / SHARED
    converted = 0.0
    if method.product == "float16":
        cells = constants["PITCH_ROWS"] * IMAGES / 8
        converted = CONVERTING_CYCLES + CONVERTING * cells / 32 / constants["TEAM_WARPS"]
        shared += 8 * source / SHARED
    multiplied = STAGE_CYCLES + max(products, WINDOWED * shared)
    around = (LATENCY + cached + converted + multiplied) / constants["STAGES"]  # until a place of stages is free again
    stages = (constants["PLACES_DOWN"] + (method.blocks.rows - 1) * constants["STEP_ROWS"]) * constants["CHUNKS"]
    fetching = stages * max(cached, converted / constants["TEAMS"], around)
    storing = 2 * method.blocks.positions * outputs * IMAGES * item / STORED
    multiplying = stages * max(multiplied, around) + storing
    tile = max(fetching, multiplying) + ALONE * min(fetching, multiplying)
    rounds = ceil(constants["TILES"] / MULTIPROCESSORS)
    seconds = START + max(rounds * tile / CLOCK, bytes_moved(task) / MEMORY_RATE)
    if method.product == "float16":
        seconds += search_time(plan.source_shape)
    return seconds + LAUNCH
