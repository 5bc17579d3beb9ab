"""Geometry of pooling's gradients: which maps each pixel of an image gets something from.

A pixel in padded row ``stride * v + a`` lies in the windows of rows ``v - m`` with the tap ``a + stride * m``, and
likewise for columns. So, sorted by the phases ``a`` and ``p``, the image's gradient is a sum of runs of maps that
are shifted by whole cells: maps lie in a band with ``overhang`` zeros before each line and as many lines of zeros
around, and a pass over the band has no edges. Reading, where scattering would write, it adds in a fixed order.
"""

from typing import NamedTuple

from pytensor_convnet.kernels.cpu.bands import (
    Planes,
    Sorting,
    cells_of_band,
    first_plane,
    group_planes,
    rows_of_band,
    sorting,
)
from pytensor_convnet.kernels.cpu.common_windows import SPARE_BYTES, in_strips
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.row_copies import clear, copy_band, fetch_ahead
from pytensor_convnet.kernels.cpu.stages import place_results


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
    direct: bool  # maps are read from where they are
    cells: int  # that a thread takes at once, about
    ahead: int  # bytes, of what is read, that memory is told to bring


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
    # Each window is among those of some strip that `Fit` looks at.
    seen = w.left <= 1 and w.out_columns <= (w.columns + w.left - 1 if step == 1 else (w.columns + 1) // 2)
    direct = seen and in_strips(maps, w, row_step, step)
    nbytes = maps.shape[0] * maps.shape[1] * w.rows * w.columns * item
    cells = cells_of_band(direct, nbytes)
    steps = rows_of_band(last - first, pitch * row_step * step, planes, cells)
    bands = (last - first + steps - 1) // steps
    sorted_maps = sorting(1, before, pitch, steps + overhang, item)
    return Spread(
        planes, sorted_maps, sorting(step, w.left, pitch, steps, item),
        row_step, pitch, overhang, first, steps, bands, last, direct, cells, fetch_ahead(nbytes),
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


# --------------------------------------------------------------------------------------------- turns


class SpreadTurn(NamedTuple):
    """What a thread does next: one band, or some neighbouring planes of an image that are a band each."""

    units: int
    plane: int  # the number of the first
    first: int  # number of the first pixel
    pixels: int
    target: int  # address of the first
    room: int  # how many pixels from there on may be overwritten


@part
def turn_pixels(spread, windows):
    """Most pixels of a turn."""
    return max(spread.cells, spread.steps * spread.row_step * windows.columns)


@part
def place_spread_turn(images, stage, streaming, unit, unit_after, spread, windows):
    """The `SpreadTurn` that begins with a unit of a chunk of work that ends before another."""
    w, channels = windows, images.shape[1]
    band = place_spread(unit, spread, images.shape, w)
    units, pixels = 1, band.rows * w.columns
    if spread.planes.together == 1 and spread.bands == 1:
        units = min(max(1, spread.cells // pixels), unit_after - unit, channels - band.channel)
    plane = band.image * channels + band.channel
    first = (plane * w.rows + band.first_row) * w.columns
    target, room = place_results(images, first, stage, streaming), spread_room(first, unit_after, spread, w)
    return SpreadTurn(units, plane, first, units * pixels, target, room)


@part
def place_rows(plane, band, turn, spread, windows):
    """How many pixels after the first of a turn a band's rows of a plane begin, and how many may be overwritten."""
    at = (plane * windows.rows + band.first_row) * windows.columns - turn.first
    return at, turn.room - at if spread.planes.together == 1 else band.rows * windows.columns


@part
def spare_memory(images):
    """Where what is written of rows that are not there may go."""
    return new_array((SPARE_BYTES // images.itemsize,), images.dtype)
