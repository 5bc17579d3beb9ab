"""Ways to compute a pooled correlation and its filter gradient over windows, and about how long each takes."""

import itertools
from dataclasses import replace
from math import ceil

import torch

from pytensor_convnet.kernels.cuda.conv_pool_kernel import new_columns
from pytensor_convnet.kernels.cuda.conv_pool_methods import (
    PoolTask,
    PoolWindow,
    PoolWindowShare,
    plan_of_pool_window,
    plan_of_pool_window_share,
)
from pytensor_convnet.kernels.cuda.copying import has_to_be_filled_up
from pytensor_convnet.kernels.cuda.estimates import (
    LAUNCH,
    MEMORY_RATE,
    most_promising,
    search_time,
    size,
    window_products,
)
from pytensor_convnet.kernels.cuda.hardware import CLOCK, MULTIPROCESSORS
from pytensor_convnet.kernels.cuda.pool_window_grad_kernel import OF_A_FILTER
from pytensor_convnet.kernels.cuda.pool_window_kernel import PoolWindowBlocks, PoolWindowPlan, fits_pool_windows
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile
from pytensor_convnet.kernels.cuda.window_grad_candidates import blocks_of, window_grad_cycles
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradPlan, fits_window_grads

COLUMN, FILTER, WAITED = 400, {2: 19, 4: 24}, {2: 350, 4: 300}
"""Cycles that a window of the pool takes: any; for each filter that threads have room for, by the bytes of a pooled
gradient; and if nothing is read ahead. Fitted, as what follows, to 102 ways to compute gradients of three layers."""

SPREADING = {256: 1.0, 384: 0.94, 512: 0.88}
"""Threads of a program that spread, and how long they take for the same."""

START, REST = 5e-6, 0.3
"""Seconds of launches and first rows; and what of the shorter of spreading and multiplying the longer does not hide."""

SOME_FILTERS = (32, 48, 64, 96, 128)
"""Of a program, if not all."""

RUNS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
"""Map pixels of a window: where rows are cut less, fewer windows of the pool are read twice."""

MOST_ALIKE = 1
"""So many methods of the same filters, roles, split and pixels of a window are measured; or of the same run."""


PARTS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
"""Into how many runs a row of windows may be cut."""

KEY_CYCLES, WRITTEN, TILE, FIRST = 2.5, 1200, 900, 2500
"""Cycles that a scheduler takes for keys of a map pixel, for each filter; that a window takes besides, to be written;
and a tile; and those until filters are there. As measured for three layers."""


def pool_windows(task: PoolTask, limit: int) -> list[PoolWindow]:
    """At most ``limit`` methods for the forward pass, the most promising first; none where none is possible."""
    products = window_products(task, prepared=True)
    possible = task.winners == torch.uint8 and fits_pool_windows(task.geometry, task.windows, task.activation)
    if limit < 1 or not products or not possible or not can_compile(task.device):
        return []
    [product] = products
    runs = {ceil(task.windows.out_columns / parts) for parts in PARTS}
    seconds = {}
    for run, rows in itertools.product(sorted(runs), range(1, task.windows.window[0] + 1)):
        method = PoolWindow(product, PoolWindowBlocks(run, rows))
        how = plan_of_pool_window(task, method)
        if how is not None:
            seconds[method] = pool_window_time(task, method, how)
    return most_promising(seconds, limit, lambda method: method.blocks.run, MOST_ALIKE)


def pool_window_time(task: PoolTask, method: PoolWindow, how: PoolWindowPlan) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    k, windows, images = how.constants, task.windows, task.geometry.images
    new = new_columns(windows)
    columns = ceil(k["RUN"] / 2) * new + windows.window[1] - new
    products = k["SLICES"] * k["SLICE_STEPS"] * max(k["FILTERS"] / 2, 16)
    keys, latency = KEY_CYCLES * k["FILTERS"], 150 / method.blocks.rows
    of_unit = 2 * columns * windows.window[0] * (max(products, keys) + REST * min(products, keys) + latency)
    of_unit += TILE + ceil(k["RUN"] / 2) * WRITTEN + (0 if k["STAGES"] > 1 else k["STAGE_BYTES"] / 30)
    seconds = LAUNCH + (FIRST + ceil(k["UNITS"] / MULTIPROCESSORS) * of_unit) / CLOCK
    if method.product == "float16":
        seconds += search_time(images) + LAUNCH + 6 * size(images) / MEMORY_RATE
    elif task.formats[0] != "batch_last" or has_to_be_filled_up(images[0], task.dtype.itemsize):
        seconds += LAUNCH + 4 * size(images) / MEMORY_RATE
    return seconds


def pool_window_shares(task: PoolTask, limit: int, kept: bool) -> list[PoolWindowShare]:
    """At most ``limit`` methods, the most promising first, whose maps are kept or not; none where none is possible."""
    products = window_products(task, prepared=True)
    possible = products and task.winners == torch.uint8
    if limit < 1 or not possible or not can_compile(task.device) or not fits_window_grads(task.geometry):
        return []
    [product] = products
    all_blocks = list(blocks_of(task.geometry, RUNS, SOME_FILTERS))
    preparations, seconds = (False,) if product == "native" else (False, True), {}
    for prepared, blocks, spreading in itertools.product(preparations, all_blocks, SPREADING):
        method = PoolWindowShare(product, prepared, blocks, spreading)
        how = plan_of_pool_window_share(task, method, kept)
        if how is not None:
            seconds[method] = pool_window_share_time(task, method, how)
    return most_promising(
        seconds, limit, lambda method: replace(method, blocks=replace(method.blocks, pixels=1, channels=1)), MOST_ALIKE
    )


def pool_window_share_time(task: PoolTask, method: PoolWindowShare, how: WindowGradPlan) -> float:
    """An estimate of the seconds that a method takes; it is the order of estimates that counts."""
    k, windows, images = how.constants, task.windows, task.geometry.images
    columns = 2 * k["RUN"] / windows.stride[1] + ceil(max(windows.window[1] - windows.stride[1], 0) / windows.stride[1])
    room = ceil(k["FILTERS"] * OF_A_FILTER / k["SPREADING"]) * k["SPREADING"] / OF_A_FILTER
    each = COLUMN + FILTER[k["MAP_BYTES"]] * room * windows.taps / (windows.stride[0] * 4.5)
    waited = 0 if k["AHEAD"] else WAITED[k["MAP_BYTES"]]
    spreading = ceil(k["UNITS"] / k["SHARES"]) * columns * (each + waited) * SPREADING[k["SPREADING"]]
    multiplying = window_grad_cycles(how)
    seconds = START + (max(spreading, multiplying) + REST * min(spreading, multiplying)) / CLOCK
    if method.product == "float16":
        pooled = (*task.geometry.maps[:2], windows.out_rows, windows.out_columns)
        seconds += search_time(images) + 4 * size(pooled) / MEMORY_RATE + LAUNCH + 6 * size(images) / MEMORY_RATE
        seconds += method.prepared * (LAUNCH + 6 * size(pooled) / MEMORY_RATE)
    return seconds
