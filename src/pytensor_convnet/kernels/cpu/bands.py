"""Bands: some rows of a plane, copied so that every tap of every window is a plain vector load.

The taps of neighbouring windows lie ``step`` pixels apart, rows end in the middle of a vector, and windows hang over
the edge. So a band of rows is copied once, on its way from memory to the first-level cache, sorted by phase: pixel
``column`` of a padded row goes to phase ``column % step``, cell ``column // step`` of its line, and the cells around
hold what padding holds. In a phase, line follows line, ``pitch`` cells each. There the values of one tap, for *all*
windows of the band and over the ends of its lines, are one contiguous run, whatever the stride; a pass over it has
nothing to mask and no row to begin. Cells between the lines compute values that nobody reads.

`row_copies` does the copying. Where not the rows are contiguous but the channels (channels-last) or the batch (c01b),
it transposes as many planes at once as a vector has lanes.
"""

from typing import NamedTuple

import numpy as np

from pytensor_convnet.kernels.cpu.common_windows import in_strips
from pytensor_convnet.kernels.cpu.emission import address_of
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.row_copies import CACHED_BYTES, fetch_ahead

CELLS = 1024
"""Cells of a band's results, about: with what they come from they fill a first-level cache."""

STRIP_CELLS = 4 * CELLS
"""The same where nothing but results is stored, for images that a cache holds. Of others, what is fetched ahead must
lie in the bands that follow, for one strip of a band after the other reads its lines."""

VECTORS = 4
"""How many vectors a pass over a band computes side by side, to share what the loop over taps costs."""

TASKS = 32
"""Bands to share among threads, at least, if there are so many rows. Fixed: how the work is cut does not depend on
the number of threads."""


class Planes(NamedTuple):
    """How the planes of an array are grouped: the rows of a group are copied together."""

    together: int
    groups: int
    of_batch: bool  # neighbours in a group are images, not channels


class Sorting(NamedTuple):
    """Where in a buffer a band of rows is, sorted by phase; lengths in bytes."""

    step: int
    before: int  # cells of padding on the left, in the padded row
    pitch: int
    phase: int
    plane: int
    first_phase: int  # of pixel 0
    first_cell: int  # from a line's start to pixel 0's cell


@part
def group_planes(array):
    """One plane at a time if its rows are contiguous, else as many as a vector has lanes where those are."""
    lanes = VECTOR_BYTES // array.itemsize
    batch, channels = array.shape[0], array.shape[1]
    if array.strides[3] != array.itemsize:
        if array.strides[1] == array.itemsize and channels >= lanes:
            return Planes(lanes, batch * ((channels + lanes - 1) // lanes), False)
        if array.strides[0] == array.itemsize and batch >= lanes:
            return Planes(lanes, (batch + lanes - 1) // lanes * channels, True)
    return Planes(1, batch * channels, False)


@part
def first_plane(group, planes, shape):
    """Image and channel of the first plane of a group; the last group of an axis may overlap the one before."""
    if planes.of_batch:
        block, channel = divmod(group, shape[1])
        return min(block * planes.together, shape[0] - planes.together), channel
    image, block = divmod(group, (shape[1] + planes.together - 1) // planes.together)
    return image, min(block * planes.together, shape[1] - planes.together)


@part
def plane_number(image, channel, p, planes, shape):
    """The number of plane ``p`` of the group that begins with ``channel`` of ``image``."""
    return image * shape[1] + channel + p * (shape[1] if planes.of_batch else 1)


@part
def cells_of_band(direct, nbytes):
    """How many cells a band has, about, of images of so many bytes."""
    if not direct:
        return CELLS
    return STRIP_CELLS if nbytes < CACHED_BYTES else CELLS + CELLS // 4


@part
def rows_of_band(rows, cells, planes, most_cells):
    """How many rows a band has, where a row has ``cells`` cells and a plane ``rows`` rows."""
    most = max(1, min(most_cells // cells, rows * planes.groups // TASKS))
    bands = (rows + most - 1) // most
    return (rows + bands - 1) // bands


@part
def sorting(step, before, pitch, rows, item):
    """The place of bands of up to ``rows`` rows, ``pitch`` cells each."""
    phase = (pitch * rows * item + (VECTORS + 2) * VECTOR_BYTES - 1) // VECTOR_BYTES * VECTOR_BYTES
    return Sorting(step, before, pitch * item, phase, step * phase, before % step, before // step * item)


@part
def new_buffer(length, like, filling):
    """A vector and ``length`` bytes more, full of ``filling`` in ``like``'s dtype."""
    buffer = new_array(((length + (VECTORS + 2) * VECTOR_BYTES) // like.itemsize,), like.dtype)
    buffer[:] = filling
    return buffer


@part
def buffer_places(buffer):
    """The addresses, multiples of `VECTOR_BYTES`, of the buffer's vector of filling and of the rest."""
    start = (address_of(buffer) + VECTOR_BYTES - 1) // VECTOR_BYTES * VECTOR_BYTES
    return start, start + VECTOR_BYTES


# ------------------------------------------------------------------------- bands of what windows slide over


class Plan(NamedTuple):
    """Into which bands images are cut for windows that slide over them."""

    planes: Planes
    sorting: Sorting
    item: int  # bytes of a number
    pitch: int  # cells of a line
    band_rows: int  # rows of windows in a band
    bands: int  # of a plane
    taps: int  # in a row of taps, without those that no window has inside the image
    direct: bool  # no bands are needed (`strips`)
    cells: int  # that a thread takes at once, about
    ahead: int  # bytes, of what is read, that memory is told to bring


class Band(NamedTuple):
    """One band: rows of windows, and the rows of the image that they cover."""

    image: int
    channel: int
    y: int
    end_y: int
    first_row: int
    rows: int


@part
def plan_bands(images, windows):
    """The `Plan` for ``images``."""
    w, item = windows, images.itemsize
    planes = group_planes(images)
    step = min(w.stride_columns, w.left + w.columns)
    pitch = max((w.left + w.columns - 1) // step + 1, w.out_columns + (w.window_columns - 1) // step)
    direct = in_strips(images, w, w.stride_rows, w.stride_columns)
    cells = cells_of_band(direct, images.nbytes)
    band_rows = rows_of_band(w.out_rows, pitch * min(w.stride_rows, w.window_rows), planes, cells)
    rows = min(w.rows, (band_rows - 1) * w.stride_rows + w.window_rows)
    bands = (w.out_rows + band_rows - 1) // band_rows
    taps = min(w.window_columns, w.left + w.columns)
    sorted_, ahead = sorting(step, w.left, pitch, rows, item), fetch_ahead(images.nbytes)
    return Plan(planes, sorted_, item, pitch, band_rows, bands, taps, direct, cells, ahead)


@part
def place_band(unit, plan, shape, windows):
    """Band number ``unit`` of all groups of planes."""
    w = windows
    group, band = divmod(unit, plan.bands)
    image, channel = first_plane(group, plan.planes, shape)
    y, end_y = band * plan.band_rows, min((band + 1) * plan.band_rows, w.out_rows)
    first_row = max(0, y * w.stride_rows - w.top)
    end_row = min((end_y - 1) * w.stride_rows - w.top + w.window_rows, w.rows)
    return Band(image, channel, y, end_y, first_row, end_row - first_row)


@part
def room_after(number, unit_after, plan, windows):
    """How many numbers of the results from ``number`` on a chunk of work may overwrite that ends before a unit.

    It writes them in order if it takes one plane at a time. A vector may then run over the end of its row.
    """
    w = windows
    group, band = divmod(unit_after, plan.bands)
    return (group * w.out_rows + band * plan.band_rows) * w.out_columns - number


@part
def tap_offsets(plan):
    """How far, in bytes, the cell of each tap in a row of taps lies after that of the first."""
    step, phase = plan.sorting.step, plan.sorting.phase
    offsets = np.empty(plan.taps, np.int64)
    for tap in range(plan.taps):
        offsets[tap] = tap % step * phase + tap // step * plan.item
    return offsets
