"""Geometry of pooling's gradients: which maps each pixel of an image gets something from.

A pixel in padded row ``stride * v + a`` lies in the windows of rows ``v - m`` with the tap ``a + stride * m``, and
likewise for columns. So, sorted by the phases ``a`` and ``p``, the image's gradient is a sum of runs of maps that
are shifted by whole cells: maps lie in a band with ``overhang`` zeros before each line and as many lines of zeros
around, and a pass over the band has no edges. Reading, where scattering would write, it adds in a fixed order.
"""

from typing import NamedTuple

from pytensor_convnet.kernels.cpu.bands import Planes, Sorting, first_plane, group_planes, rows_of_band, sorting
from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.row_copies import clear, copy_band
from pytensor_convnet.kernels.cpu.simd import copy_run, finish_streaming


class Spread(NamedTuple):
    """Into which bands images are cut for the windows that spread over them."""

    planes: Planes  # of the maps
    maps: Sorting
    images: Sorting  # of one phase of rows
    row_step: int
    pitch: int  # cells of a line
    overhang: int  # rows that a window reaches beyond those of its first tap's phase, in steps
    first: int  # step of the first row of the image
    steps: int  # that a band has
    bands: int  # of a plane
    last: int  # step after the last row of the image


class SpreadBand(NamedTuple):
    """One band: steps of rows, the rows of maps that reach it, and the rows of the image in it."""

    image: int
    channel: int
    step: int  # its first
    steps: int
    first_map: int  # row of maps
    maps: int
    maps_line: int  # of the first row of maps
    first_row: int  # of the image
    rows: int
    row_phase: int  # of the first row of the image


@part
def plan_spread(maps, windows):
    """The `Spread` of ``maps``."""
    w, item = windows, maps.itemsize
    planes = group_planes(maps)
    row_step, step = min(w.stride_rows, w.top + w.rows), min(w.stride_columns, w.left + w.columns)
    overhang, before = (w.window_rows - 1) // row_step, (w.window_columns - 1) // step
    pitch = (w.left + w.columns - 1) // step + 1 + before
    first, last = w.top // row_step, (w.top + w.rows - 1) // row_step + 1
    steps = rows_of_band(last - first, pitch * row_step * step, planes)
    bands = (last - first + steps - 1) // steps
    sorted_maps = sorting(1, before, pitch, steps + overhang, item)
    return Spread(
        planes, sorted_maps, sorting(step, w.left, pitch, steps, item),
        row_step, pitch, overhang, first, steps, bands, last,
    )  # fmt: skip


@part
def place_spread(unit, spread, shape, windows):
    """Band number ``unit`` of all groups of planes of maps of ``shape``."""
    w = windows
    group, band = divmod(unit, spread.bands)
    image, channel = first_plane(group, spread.planes, shape)
    step = spread.first + band * spread.steps
    end = min(step + spread.steps, spread.last)
    first_map = min(max(0, step - spread.overhang), w.out_rows)
    end_map = max(first_map, min(end, w.out_rows))
    first_row = max(0, step * spread.row_step - w.top)
    end_row = min(w.rows, end * spread.row_step - w.top)
    return SpreadBand(
        image, channel, step, end - step, first_map, end_map - first_map, first_map - (step - spread.overhang),
        first_row, end_row - first_row, first_row + w.top - step * spread.row_step,
    )  # fmt: skip


@part
def clear_around(maps, plane_at, spread, band):
    """Write the lines of zeros before and after a band's maps in the lines of one plane."""
    line_bytes, after = spread.maps.pitch, band.maps_line + band.maps
    clear(maps, plane_at, band.maps_line * line_bytes)
    clear(maps, plane_at + after * line_bytes, (band.steps + spread.overhang - after) * line_bytes)


@part
def copy_maps(maps, target, spread, band, filling_at):
    """Copy the rows of maps that reach a band to the lines from ``target`` on."""
    copy_band(
        maps, band.image, band.channel, band.first_map, band.maps, target, spread.maps, spread.planes.together,
        filling_at,
    )  # fmt: skip


@part
def spread_room(number, unit_after, spread, windows):
    """How many numbers of the images from ``number`` on a chunk of work may overwrite that ends before a unit.

    It writes them in order if it takes one plane at a time. A vector may then run over the end of its row.
    """
    w = windows
    group, band = divmod(unit_after, spread.bands)
    first_row = max(0, (spread.first + band * spread.steps) * spread.row_step - w.top)
    return (group * w.rows + first_row) * w.columns - number


# ------------------------------------------------------------------------------------ past the caches

STREAMED_BYTES = 1 << 25
"""Images of so many bytes are written past the caches, which saves reading what is overwritten."""


@part
def new_stage(spread, images):
    """Memory where the rows of a band wait, whole vectors of which then leave past the caches."""
    rows = spread.steps * spread.row_step if images.nbytes >= STREAMED_BYTES else 0
    return new_array((rows * images.shape[3] + 5 * VECTOR_BYTES // images.itemsize,), images.dtype)


@part
def _stage_start(stage):
    return (address_of(stage) + VECTOR_BYTES - 1) // VECTOR_BYTES * VECTOR_BYTES


@part
def _stage_place(stage, images, number):
    """Where on the stage rows wait that begin with a number of ``images``: as far from the start of a vector."""
    return _stage_start(stage) + (address_of(images) + number * images.itemsize) % VECTOR_BYTES


@part
def place_rows(images, plane, band, stage, streaming, unit_after, spread, windows):
    """For a band's rows of a plane of ``images``: the number of the first pixel, where they go, and how many numbers
    from there on may be overwritten. With ``streaming`` they go to the stage."""
    w = windows
    number = (plane * w.rows + band.first_row) * w.columns
    place, room = address_of(images) + number * images.itemsize, band.rows * w.columns
    if streaming:
        place, room = _stage_place(stage, images, number), room + VECTOR_BYTES
    elif spread.planes.together == 1:
        room = spread_room(number, unit_after, spread, w)
    return number, place, room


@emitted(arrays=1)
def _write_vectors(e, vector, start, end, target):
    with e.range(0, end - start, VECTOR_BYTES) as offset:
        e.stream(target + offset, e.load(vector, start + offset))


@emitted(arrays=1)
def _move_vector(e, vector, source, target):
    e.store(target, e.load(vector, source))


@part
def leave_stage(stage, images, begin, number, count, last):
    """Write ``count`` numbers that wait on the stage to ``images`` from ``number`` on, in whole vectors.

    What fills none waits for the following, at the start of the stage, unless these are the ``last``. All before
    number ``begin`` are another's.
    """
    item, start, first = images.itemsize, _stage_start(stage), address_of(images)
    held = (first + number * item) % VECTOR_BYTES
    line, end = number * item - held, held + count * item
    whole, skipped = end // VECTOR_BYTES * VECTOR_BYTES, 0
    if whole > 0:
        if line < begin * item:
            skipped = VECTOR_BYTES
            few = (line + skipped) // item - begin
            copy_run(stage, start + skipped - few * item - address_of(stage), images, begin * item, few, False)
        _write_vectors(images, start + skipped, start + whole, first + line + skipped)
        _move_vector(images, start + whole, start)
    if last:
        rest = max(line + whole, begin * item)
        few = (line + end - rest) // item
        copy_run(stage, start + rest - line - whole - address_of(stage), images, rest, few, False)
        finish_streaming()
