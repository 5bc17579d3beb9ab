"""Ways to correlate over windows in shared memory, and about how long each takes."""

import functools
import itertools
from collections.abc import Iterator
from math import ceil, prod

import torch

from pytensor_convnet.kernels.cuda.carrying_out import plan_of_windows
from pytensor_convnet.kernels.cuda.copying import is_boxable
from pytensor_convnet.kernels.cuda.estimates import LAUNCH, MEMORY_RATE, bytes_moved, most_promising, window_products
from pytensor_convnet.kernels.cuda.gathering import Gathering, gathering
from pytensor_convnet.kernels.cuda.hardware import CLOCK, MULTIPROCESSORS
from pytensor_convnet.kernels.cuda.hopper_sources import MOST_COLUMNS, ROW_BYTES
from pytensor_convnet.kernels.cuda.methods import Task, Window
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile
from pytensor_convnet.kernels.cuda.window_filters import boxes_of_stage
from pytensor_convnet.kernels.cuda.window_kernel import IMAGES, WindowBlocks, WindowPlan, fits_windows

SHARED, CACHED = 128, 64
"""Bytes that a multiprocessor reads or writes in a cycle: of shared memory; of the second-level cache."""

STORED, SPILLED, COLLECTED = 35, 10, 50
"""Bytes of results that it stores in a cycle; and where there are so many sums that not all of what their places in
memory are is in registers; and where they are collected."""

STAGE_CYCLES, LATENCY, ASKING = 20, 2800, 50
"""Cycles that a stage takes however small it is, those from asking for one until it is there, and those in which a
thread asks for a box of filters that are read as they are (a guess)."""

LOADED = {"native": 0, "tf32": 34, "float16": 42}
"""Cycles in which a warp brings its part of a product to registers."""

START, PACKING = {"native": 5.8e-6, "tf32": 5.1e-6, "float16": 10.5e-6}, 2.5e-6
"""Seconds until the first product, filters packed and magnitudes found, and after the last; and those of packing."""

REST = 0.16
"""Of computing and of what memory moves, the part of the shorter one that is not hidden by the other."""

LEAST_READ_AGAIN, READ_AGAIN = 50e6, 0.35
"""Bytes of a source that the second-level cache does not hold, and how much of what several tiles read of such a one
comes from memory each time.

All were fitted to 677 ways to compute 60 passes, before results were collected and rows joined. Of 500 ways to compute
42 passes since, the best of the first seven takes 0.4% more than the best of all, in the mean, and 5% at most."""

MOST_WORK = 3.0
"""Patches may multiply so many times what they must."""

MOST_BLOCKS = 2
"""Outputs, channels of the target times pixels of a patch, fill so many of the widest instructions at most."""

CHUNKS, POSITIONS = (4, 8, 16, 32, 64), (1, 2, 3, 4, 5, 6, 8)
"""Channels of a stage, if not all, and positions of a warpgroup."""

MOST_BESIDE_PLACES = 160
"""Sums of a thread beside which registers hold the places of a patch's outputs."""

WORTH_JOINING = 0.95
"""Rows of the source are joined in a stage where that leaves so much of the products, or less."""

PACKED_BESIDE = 2
"""Methods with packed filters that are measured, beside those that read filters as they are."""

MOST_ALIKE = 2
"""So many methods of a product, a patch and a tile are measured, with results collected and without."""


def windows(task: Task, limit: int, prepared: bool = False) -> list[Window]:
    """At most ``limit`` methods over windows, the most promising first; none where they cannot be compiled.

    Of a source that is ``prepared``: bfloat16, or float16 that stands for float32.
    """
    products = window_products(task, prepared)
    possible = task.name in ("correlate2d", "correlate2d_input_grad") and task.formats[0] == "batch_last"
    boxable = is_boxable(task.geometry.images[0], task.dtype.itemsize)
    if limit < 1 or not possible or not products or not boxable or not can_compile(task.device):
        return []
    packed, as_they_are = {}, {}
    for method in _methods(task, products, prepared and products != ("native",)):
        _, how = plan_of_windows(task, method)
        if how is not None and method.blocks.packed:
            packed[method] = window_time(task, method, how)
        elif how is not None:
            as_they_are[method] = window_time(task, method, how)
    first = most_promising(as_they_are, limit - min(limit // 2, PACKED_BESIDE), _kind, MOST_ALIKE)
    return [*first, *most_promising(packed, limit - len(first), _kind, MOST_ALIKE)]


def _kind(method: Window) -> tuple:
    """What methods that are much alike have in common."""
    blocks = method.blocks
    return method.product, method.patch, blocks.rows, blocks.positions, blocks.collected, blocks.packed


def _methods(task: Task, products: tuple[str, ...], prepared: bool) -> Iterator[Window]:
    gradient, geometry = task.name == "correlate2d_input_grad", task.geometry
    steps = geometry.stride if gradient else (1, 1)
    least = gathering(geometry, gradient, steps)
    narrow = task.dtype == torch.bfloat16
    if not fits_windows(least):
        return
    channels = least.source_channels
    chunks = [count for count in (*CHUNKS, channels) if channels % count == 0]
    for times_down, times_across in itertools.product((1, 2, 4, 8), repeat=2):
        patch = steps[0] * times_down, steps[1] * times_across
        plan = gathering(geometry, gradient, patch)
        if (
            not fits_windows(plan)
            or plan.multiply_adds > MOST_WORK * least.multiply_adds
            or plan.outputs > MOST_BLOCKS * MOST_COLUMNS
        ):
            continue
        cuts = {ceil(plan.outputs / most) for most in (MOST_COLUMNS, MOST_COLUMNS // 2, MOST_COLUMNS // 4)}
        collections = (False, True) if narrow else (False,)
        as_they_are = narrow and task.format_to_read == "batch_last"
        packings = (False, True) if as_they_are else (True,)
        for product, count in itertools.product(products, sorted(set(chunks))):
            ways = POSITIONS, (1, 2), sorted(cuts), _places(plan, product, count), collections, packings
            for positions, rows, blocks, places, *rest in itertools.product(*ways):
                yield Window(product, patch, WindowBlocks(positions, rows, count, blocks, places, *rest), prepared)


def _places(plan: Gathering, product: str, channels: int) -> list[int]:
    """Rows of the source that a stage may have: 1, and others by which there is less to multiply.

    Of float32 divisors alone: what a row beyond the taps has reaches no result, then, be it infinite.
    """
    down, across = (len(axis.classes[0].places) for axis in (plan.rows, plan.columns))
    depth = 8 if product == "tf32" else 16

    def products(places: int) -> int:
        return ceil(down / places) * ceil(across * places * channels / depth)

    several = {ceil(down / stages) for stages in range(1, down) if product == "native" or down % stages == 0}
    return [1, *(places for places in sorted(several) if products(places) < WORTH_JOINING * products(1))]


def window_time(task: Task, method: Window, how: WindowPlan) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    k, outputs = how.constants, how.stage.outputs
    depth, operand = (8, 16) if k["TF32"] else (16, 16 if k["NARROW"] else 32)  # rows, and cycles to read 64 images
    products = 2 * k["POSITIONS"] * k["PRODUCT_ROWS"] // depth
    fetched = k["BOXES"] * k["STAGE_ROWS"] * ROW_BYTES + (0 if k["RESIDENT"] else k["FILTER_BYTES"])
    reading = products * (operand + outputs / 4) + fetched / SHARED
    loaded = 0 if method.prepared else LOADED[method.product]
    multiplied = STAGE_CYCLES + max(products * max(outputs / 2, loaded), reading)
    cached = fetched / CACHED
    around = (LATENCY + cached + multiplied) / k["STAGES"]  # until a place of stages is free again
    rows = k["PLACES_DOWN"] + (k["TILE_ROWS"] - 1) * k["STEP_ROWS"]  # of the source, for a tile
    stages, most_stages = _stages_down(*(k[name] for name in _ROWS))
    item, sums = task.dtype.itemsize, k["POSITIONS"] * outputs // 2
    spills = sums > MOST_BESIDE_PLACES and k["PATCH_ROWS"] * k["PATCH_COLUMNS"] > 1
    rate = COLLECTED if k["COLLECTED"] else SPILLED if spills else STORED
    storing = 4 * sums * IMAGES * item / rate
    asking = ASKING * boxes_of_stage(k)
    stage = k["CHUNKS"] * max(cached, multiplied, around, 0 if k["RESIDENT"] else asking)
    tiles = max(most_stages * stage + storing, ceil(k["TILES"] / MULTIPROCESSORS) * (stages * stage + storing))
    filters = k["STAGES_DOWN"] * k["CHUNKS"] * (k["FILTER_BYTES"] / CACHED + asking) if k["RESIDENT"] else 0
    working = (tiles + filters) / CLOCK
    source = item * prod(task.geometry.images if task.name == "correlate2d" else task.geometry.maps)
    again = max(0.0, rows / (k["STEP_ROWS"] * k["TILE_ROWS"]) - 1) * READ_AGAIN if source > LEAST_READ_AGAIN else 0.0
    moving = (bytes_moved(task) + again * source) / MEMORY_RATE
    start = START[method.product] - (0.0 if method.blocks.packed else PACKING)
    seconds = start + max(working, moving) + REST * min(working, moving)
    return seconds + (LAUNCH if k["SAMPLED"] else 0.0)


_ROWS = "PLACES", "PLACES_DOWN", "STEP_ROWS", "FIRST_ROW", "SOURCE_ROWS", "TILE_ROWS", "POSITION_ROWS"


@functools.lru_cache(maxsize=1024)
def _stages_down(
    places: int, places_down: int, step_rows: int, first_row: int, source_rows: int, tile_rows: int, position_rows: int
) -> tuple[float, int]:
    """How many stages tiles have one below the other, in the mean and at most: some rows lie beyond the source."""
    counts = []
    for row in range(0, position_rows, tile_rows):
        top = row * step_rows + first_row
        rows = places_down + (min(row + tile_rows, position_rows) - 1 - row) * step_rows
        counts.append(max(0, ceil(min(rows, source_rows - top) / places) - max(0, -top) // places))
    return sum(counts) / len(counts), max(counts)
