"""The kernel of forward pass and input gradient where channels are few: windows of pixels that share what they read.

The loop nest, for each tile of positions p in a row and 64 images b, and all outputs m or a block of them::

    for some rows a of places, for each chunk of channels:
        window[j, a, c, b] = source[a, j, c, b]  for all columns j under the tile, as float16 or bfloat16
        for each position p:
            target[m, p, b] += filters[a, j, c, m] * window[p * step + j, a, c, b]

`gather_kernel` reads each tap's run of images again for each pixel, through the second-level cache, which is what binds
it where channels are few. Here a row of pixels is fetched once for all positions of a tile, by the copying engine, and
nothing is copied beforehand. Products then read at shifted places: in shared memory one run of channels x columns is
the window of a position, and that of the next begins a few rows further (`window_kernel.cu`). Tensor cores read
bfloat16 from there. float32, whose tiles they want by columns, goes through registers: rounded to tf32, of which
nothing has to be known beforehand, or scaled to float16, for twice the rate and half the shared memory of filters.
Triton has no such tiles, so this is CUDA C++, compiled for each geometry (`runtime_compiler`), for Hopper alone.

Where rows of a window of 16 bits are filled up to a multiple of 16, columns beyond it are multiplied by zero, and
places that several rows at a time have beyond the last: an infinity or NaN of the source may reach a few pixels to the
left of those that see it, or above, and all pixels of their patches.

Floors: source and target moved once; two floating-point operations a multiply-add, at the product's rate. Measured on
an H100 for alex1, cb1 and cifar1_b1024 (`docs/cuda-kernels.md`): 66 to 84% of the floor in forward passes, 42 to 66% in
input gradients; held back by stores of float32, which nothing overlaps, and in input gradients by rows of the source
that several tiles read. Of lenet1, cifar1 and the layers with strides at batch 128 20 to 79%: a multiprocessor has a
tile or two, whose ends overlap with nothing, and filters that are packed, or batches that are filled up, take a launch
before.
"""

import functools
from dataclasses import dataclass
from math import ceil, prod
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda import runtime_compiler
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.gathering import Gathering
from pytensor_convnet.kernels.cuda.hardware import MULTIPROCESSORS, SHARED_BYTES
from pytensor_convnet.kernels.cuda.hopper_sources import (
    BARRIER_BYTES,
    BATCH_MULTIPLES,
    MOST_BYTES,
    MOST_COLUMNS,
    MOST_OF_A_BOX,
    ROW_BYTES,
    THREADS,
    add_product,
    source_of,
    whole_patterns,
)
from pytensor_convnet.kernels.cuda.magnitudes import BLOCK, SEARCHERS, finite_magnitudes
from pytensor_convnet.kernels.cuda.packing import Packed
from pytensor_convnet.kernels.cuda.window_filters import boxes_of_filters, filter_rows

IMAGES = 64
"""Of a tile: as many rows as tensor cores take at a time."""

STORED_TOGETHER = 2
"""Images of a target whose results are stored by one instruction: the batch is a multiple."""

MOST_COLLECTED = 16384
"""Bytes of results that a warpgroup collects at a time."""

MOST_STAGES, FEWEST_STAGES, FEWEST_BESIDE_FILTERS = 16, 2, 3

MOST_SUMS, SUMS_AND_OPERANDS, MOST_AT_ONCE = {True: 200, False: 168}, 200, 8
"""Registers of a multiplying thread: sums of bfloat16 and of float32, and sums with operands of float32, of which two
groups have four a product, and so many again while they are converted; and the most products of a group."""


@dataclass(frozen=True)
class WindowBlocks:
    """How a correlation over windows is cut.

    Attributes
    ----------
    positions : int
        Of a row of patches, that one of the two multiplying warpgroups computes.
    rows : int
        1, or 2 where the two compute neighbouring rows, instead of neighbouring runs of one row.
    channels : int
        Of a stage: all, or a divisor.
    output_blocks : int
        Into how many blocks outputs are cut.
    places : int
        Rows of the source that a stage has. Of several, rows of taps fill a product's depth together.
    collected : bool
        Whether results, of bfloat16, are collected in shared memory, from where the copying engine writes them.
    packed : bool
        Whether filters are packed first, or read as they are; see `window_filters`.
    """

    positions: int
    rows: int
    channels: int
    output_blocks: int
    places: int = 1
    collected: bool = False
    packed: bool = True


class Stage(NamedTuple):
    """What packed filters are for: stages of so many ``rows``, a multiple of 8, and so many ``outputs``."""

    rows: int
    outputs: int


@dataclass(frozen=True)
class WindowPlan:
    """All constants of a kernel.

    Attributes
    ----------
    constants : dict of str to int
        As the source has them.
    """

    constants: dict[str, int]

    @property
    def stage(self) -> Stage:
        return Stage(self.constants["PRODUCT_ROWS"], self.constants["OUTPUTS"])

    @property
    def shared_bytes(self) -> int:
        return self.constants["STAGES_START"] + self.constants["STAGES"] * self.constants["STAGE_BYTES"]

    @functools.cached_property
    def source(self) -> str:
        """The kernel's source, constants and all."""
        outputs = self.constants["OUTPUTS"]
        if self.constants["NARROW"]:
            kind = "f16" if self.constants["SCALED"] else "bf16"
            summed_innermost = not self.constants["PACKED"] and not self.constants["OUTPUTS_INNERMOST"]
            product = add_product(outputs, f"k16.f32.{kind}.{kind}", ", 1, 0" if summed_innermost else ", 1, 1")
        elif self.constants["TF32"]:
            product = add_product(outputs, "k8.f32.tf32.tf32", "", from_registers=True)
        else:
            product = add_product(outputs, "k16.f32.f16.f16", ", 1", from_registers=True)
        return source_of(self.constants, product, "window_filters.cu", "window_results.cu", "window_kernel.cu")


def fits_windows(plan: Gathering) -> bool:
    """Whether a gathering can be computed so at all."""
    regular = plan.class_count == plan.groups == 1 and plan.rows.place_step == plan.columns.place_step == 1
    elements = prod(plan.source_shape), prod(plan.target_shape)
    places = all(axis.classes[0].places for axis in (plan.rows, plan.columns))
    return regular and places and plan.batch % STORED_TOGETHER == 0 and min(elements) > 0 and max(elements) < 2**31


@functools.lru_cache(maxsize=4096)
def window_plan(
    plan: Gathering, blocks: WindowBlocks, product: str, sampled: bool, prepared: bool = False, flipped: bool = False
) -> WindowPlan | None:
    """The constants of a kernel; None where it does not fit into a multiprocessor.

    Parameters
    ----------
    product : {'native', 'float16', 'tf32'}
        Of source and target of bfloat16, or of float32 as either of two.
    sampled : bool
        Whether numbers that do not fit into float16 are to be noted.
    prepared : bool
        Whether the source is float16 already, of a target of float32.
    flipped : bool
        Whether taps of filters that are read as they are come in the other order.
    """
    narrow = product == "native" or prepared
    cut = _cut(plan, blocks, product, narrow)
    memory = _shared_memory(plan, blocks, product, narrow, cut, flipped) if cut else None
    if not cut or not memory:
        return None
    constants = {
        "NARROW": narrow, "TF32": product == "tf32", "SCALED": product == "float16", "SAMPLED": sampled,
        "BATCH": plan.batch, "SOURCE_ROWS": plan.rows.source_length, "TARGET_ROWS": plan.rows.target_length,
        "TARGET_COLUMNS": plan.columns.target_length, "TARGET_CHANNELS": plan.target_channels,
        "PATCH_ROWS": plan.rows.patch, "PATCH_COLUMNS": plan.columns.patch, "STEP_ROWS": plan.rows.step,
        "STEP_COLUMNS": plan.columns.step, "FIRST_ROW": plan.rows.classes[0].places[0],
        "FIRST_COLUMN": plan.columns.classes[0].places[0], "POSITION_ROWS": plan.rows.positions,
        "POSITION_COLUMNS": plan.columns.positions,
    } | cut | memory  # fmt: skip
    return WindowPlan({name: int(value) for name, value in constants.items()})


def _cut(plan: Gathering, blocks: WindowBlocks, product: str, narrow: bool) -> dict[str, int] | None:
    """How tiles, stages and products are cut; None where registers or instructions do not hold them."""
    places_down, places_across = (len(axis.classes[0].places) for axis in (plan.rows, plan.columns))
    outputs = 8 * ceil(plan.outputs / blocks.output_blocks / 8)
    too_many_blocks = outputs * (blocks.output_blocks - 1) >= plan.outputs
    sums = blocks.positions * outputs // 2
    if plan.source_channels % blocks.channels or outputs > MOST_COLUMNS or too_many_blocks or sums > MOST_SUMS[narrow]:
        return None
    tile_columns = blocks.positions * (1 if blocks.rows == 2 else 2)
    stage_columns = (tile_columns - 1) * plan.columns.step + places_across
    if max(stage_columns, blocks.channels, blocks.places) > MOST_OF_A_BOX:
        return None
    of_column, depth = blocks.places * blocks.channels, 8 if product == "tf32" else 16
    product_rows = depth * ceil(places_across * of_column / depth)
    groups, group = _groups(product_rows // depth * blocks.positions, sums, narrow)
    row_blocks, column_blocks = ceil(plan.rows.positions / blocks.rows), ceil(plan.columns.positions / tile_columns)
    batch_blocks = ceil(plan.batch / IMAGES)
    return {
        "ALL_OUTPUTS": plan.outputs, "OUTPUTS": outputs, "OUTPUT_BLOCKS": blocks.output_blocks,
        "PLACES_DOWN": places_down, "PLACES_ACROSS": places_across, "CHANNELS": blocks.channels,
        "CHUNKS": plan.source_channels // blocks.channels,
        "PLACES": blocks.places, "STAGES_DOWN": ceil(places_down / blocks.places),
        "WINDOW_ROWS": places_across * of_column, "PRODUCT_ROWS": product_rows, "POSITIONS": blocks.positions,
        "GROUPS": groups, "GROUP": group, "TILE_COLUMNS": tile_columns, "TILE_ROWS": blocks.rows,
        "STAGE_ROWS": stage_columns * of_column, "COLUMN_BLOCKS": column_blocks, "BATCH_BLOCKS": batch_blocks,
        "TILES": blocks.output_blocks * batch_blocks * row_blocks * column_blocks,
    }  # fmt: skip


def _shared_memory(
    plan: Gathering, blocks: WindowBlocks, product: str, narrow: bool, cut: dict[str, int], flipped: bool
) -> dict[str, int] | None:
    """Where filters that stay, what is collected, and stages lie; None where they do not fit."""
    collection = _collection(plan, cut["OUTPUTS"], blocks.output_blocks) if blocks.collected else Collection(0, 0, 0)
    collects = product == "native" and plan.batch % BATCH_MULTIPLES[narrow] == 0
    if collection is None or (blocks.collected and not collects):
        return None
    between = plan.columns.step * blocks.places * blocks.channels  # rows, of the windows of neighbours
    last_window = (cut["TILE_COLUMNS"] - 1) * between + cut["PRODUCT_ROWS"]
    boxes, pitch_bytes = 1 if narrow else 2, whole_patterns(max(cut["STAGE_ROWS"], last_window) * ROW_BYTES)
    rows: dict[str, int] | None = {
        "FILTER_BYTES": (4 if product == "tf32" else 2) * cut["PRODUCT_ROWS"] * cut["OUTPUTS"]
    }
    if not blocks.packed:
        rows = filter_rows(plan, cut, flipped) if product == "native" else None
    if rows is None:
        return None
    filter_bytes = rows["FILTER_BYTES"]
    filter_stages = cut["STAGES_DOWN"] * cut["CHUNKS"]
    collected_bytes = 2 * collection.boxes * collection.rows * ROW_BYTES
    room, resident_bytes = SHARED_BYTES - BARRIER_BYTES - collected_bytes, whole_patterns(filter_stages * filter_bytes)
    resident = blocks.output_blocks == 1 and room - resident_bytes >= FEWEST_BESIDE_FILTERS * boxes * pitch_bytes
    if not resident:
        resident_bytes = 0
    stage_bytes = boxes * pitch_bytes + (0 if resident else whole_patterns(filter_bytes))
    stages = min(MOST_STAGES, (room - resident_bytes) // stage_bytes)
    alone = blocks.rows == 1 or (resident and blocks.places == 1)
    if stages < FEWEST_STAGES or not alone or blocks.output_blocks * filter_stages * filter_bytes >= MOST_BYTES:
        return None
    return {
        "BOXES": boxes, "PITCH_BYTES": pitch_bytes, "STAGES": stages, "PACKED": blocks.packed,
        "STAGE_BYTES": stage_bytes, "RESIDENT": resident, "COLLECTED": blocks.collected,
        "BOX_CHANNELS": collection.channels, "BOX_ROWS": collection.rows, "PIECE_BOXES": collection.boxes,
        "COLLECTION_START": BARRIER_BYTES + resident_bytes,
        "STAGES_START": BARRIER_BYTES + resident_bytes + collected_bytes,
    } | rows  # fmt: skip


class Collection(NamedTuple):
    """How results are collected: in so many ``boxes``, of so many ``channels`` in ``rows`` of shared memory."""

    channels: int
    boxes: int
    rows: int


def _collection(plan: Gathering, outputs: int, output_blocks: int) -> Collection | None:
    """As many channels of a pixel as have room; of patches several pixels, whole ones. None where none has."""
    most = MOST_COLLECTED // ROW_BYTES
    if plan.residues == 1:
        counts = [count for count in range(8, outputs + 1, 8) if outputs % count == 0 and count <= most]
        return Collection(max(counts), 1, max(counts))
    channels, rows = plan.target_channels, 8 * ceil(plan.target_channels / 8)
    if output_blocks > 1 and outputs % channels:
        return None
    pixels = ceil(outputs / channels)
    counts = [n for n in range(1, pixels + 1) if n * rows <= most and (n == pixels or n * channels % 8 == 0)]
    return Collection(channels, max(counts), rows) if counts else None


def _groups(products: int, sums: int, narrow: bool) -> tuple[int, int]:
    """Into how many groups a stage's products are cut, and how many a group has.

    Operands of bfloat16 need no registers, and one group has all. Those of float32 are four registers a product, of two
    groups at a time: a stage has an even number of groups, so that each knows which registers it has.
    """
    if narrow:
        return 1, products
    most = max(1, min(MOST_AT_ONCE, (SUMS_AND_OPERANDS - sums) // 16))
    groups = 2 * ceil(products / (2 * most))
    return groups, ceil(products / groups)


def window_correlate(
    source: torch.Tensor, filters: Packed | torch.Tensor, plan: WindowPlan, target: torch.Tensor
) -> None:
    """Write the pass that ``plan`` describes to ``target``, dense and batch-last.

    Parameters
    ----------
    source : tensor
        Batch-last, and `copying.boxable`.
    filters : Packed or tensor
        As ``plan.stage`` has them; or, where the plan says so, batch-last ones (`window_filters`).
    """
    grid = min(plan.constants["TILES"], MULTIPROCESSORS)
    read, scales = (
        (filters.matrix, filters.scales)
        if isinstance(filters, Packed)
        else (boxes_of_filters(filters, plan.constants), target)
    )
    launched = functools.partial(
        runtime_compiler.launch, plan.source, "window_correlate", grid, THREADS, plan.shared_bytes,
        _stages_of(source, plan), read, _boxes_of(target, plan) if plan.constants["COLLECTED"] else target, scales,
    )  # fmt: skip
    launched(0)
    if plan.constants["SAMPLED"]:
        # In memory, with what the batch was filled up by.
        in_memory = 1 + sum((length - 1) * step for length, step in zip(source.shape, source.stride()))
        _search_all[(SEARCHERS,)](source, scales, in_memory, BLOCK, num_warps=8, **launch_options(source.device))
        launched(1)


def _stages_of(source: torch.Tensor, plan: WindowPlan) -> runtime_compiler.TensorMap:
    """What one copy brings: the columns, rows and channels of a stage, 128 bytes of images of each."""
    k = plan.constants
    columns = k["STAGE_ROWS"] // (k["PLACES"] * k["CHANNELS"])
    return runtime_compiler.batch_last_map(source, (IMAGES // k["BOXES"], k["CHANNELS"], k["PLACES"], columns))


def _boxes_of(target: torch.Tensor, plan: WindowPlan) -> runtime_compiler.TensorMap:
    """What one copy writes: channels of a pixel, 128 bytes of images of each."""
    return runtime_compiler.batch_last_map(target, (IMAGES, plan.constants["BOX_CHANNELS"], 1, 1))


@triton.jit(do_not_specialize=["size"])
def _search_all(source, scales, size, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Where numbers of a source did not fit into float16, find the largest of all that are finite."""
    await_predecessor(DEPENDENT)
    if tl.load(scales + 2) != 0:
        largest = tl.zeros((BLOCK,), tl.float32)
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, tl.num_programs(0) * BLOCK):
            place = start + tl.arange(0, BLOCK)
            values = tl.load(source + place, mask=place < size, other=0.0)
            largest = tl.maximum(largest, finite_magnitudes(values))
        tl.atomic_max(scales + 3, tl.max(largest, axis=0), sem="relaxed")
