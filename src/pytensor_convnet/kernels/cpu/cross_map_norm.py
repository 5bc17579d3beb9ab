"""Local response normalisation across maps, its gradient, and sums over neighbouring maps, on the CPU.

    maps[b, f, y, x] = images[b, f, y, x] / (1 + scale * sum over neighbours g of images[b, g, y, x] ** 2) ** power

Nothing but maps meet here, so pixels are vectors: a *block* is a run of pixels, of all maps, that stays in the
second-level cache. A map's neighbours are summed anew for each map. (A running sum would save additions that cost
nothing beside the power, and lose a small energy next to a large one.)

Powers that are a multiple of a quarter, 0.75 above all, are square roots and products; any other is the C library's.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.geometry import NORMALISED, ShapeError
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import useful_threads

CELLS = 256
"""Pixels of a block, at most."""

MOST_QUARTERS = 16
"""Up to this multiple of a quarter, products are exact enough and faster than the C library's power."""


# -------------------------------------------------------------------------------------------- vectors


def _over_cells(e, vector, cells, body):
    """Emit ``body(offset, load, store)`` for all vectors of a run of cells, the last of which may be partial."""
    lanes, item = vector.count, item_bytes(vector)
    whole = cells // lanes * lanes
    rest = cells - whole
    with e.range(0, whole, lanes) as cell:
        body(cell * item, lambda at: e.load(vector, at), e.store)
    with e.when(rest > 0):
        nothing = e.constant(vector, 0)
        body(
            whole * item,
            lambda at: e.load_first(at, rest, nothing),
            lambda at, values: e.store_first(at, rest, values),
        )


def _total(e, vector, load, at, pitch, rows, of):
    """The sum over rows that lie ``pitch`` bytes apart of a function of each."""
    total = e.variable(e.constant(vector, 0))
    with e.range(0, rows) as row:
        total.set(total.get() + of(load(at + row * pitch)))
    return total.get()


@emitted(arrays=1)
def _sum_rows(e, vector, source, pitch, rows, target, cells):
    """For each cell the sum over so many rows."""

    def body(offset, load, store):
        store(target + offset, _total(e, vector, load, source + offset, pitch, rows, lambda x: x))

    _over_cells(e, vector, cells, body)


@emitted(arrays=1)
def _denominators(e, vector, source, pitch, rows, scale_at, target, cells):
    """For each cell 1 + scale * the sum of squares over so many rows."""
    scale = e.splat(vector, e.load(vector.element, scale_at))

    def body(offset, load, store):
        energy = _total(e, vector, load, source + offset, pitch, rows, lambda x: x * x)
        store(target + offset, e.constant(vector, 1) + scale * energy)

    _over_cells(e, vector, cells, body)


@emitted(arrays=1)
def _reciprocals(e, vector, source, quarters, target, cells):
    """``source ** (-quarters / 4)``."""

    def body(offset, load, store):
        denominator = load(source + offset)
        power = e.variable(e.constant(vector, 1))
        with e.range(0, quarters // 4):
            power.set(power.get() * denominator)
        with e.when((quarters & 3) > 0):
            root = denominator.sqrt()
            with e.when((quarters & 2) > 0):
                power.set(power.get() * root)
            with e.when((quarters & 1) > 0):
                power.set(power.get() * root.sqrt())
        store(target + offset, e.constant(vector, 1) / power.get())

    _over_cells(e, vector, cells, body)


@emitted(arrays=1)
def _multiply(e, vector, first, second, target, cells):
    def body(offset, load, store):
        store(target + offset, load(first + offset) * load(second + offset))

    _over_cells(e, vector, cells, body)


@emitted(arrays=1)
def _share(e, vector, images, maps, denominators, reciprocals, target, shares, cells):
    """What a map's gradient passes straight on, ``maps * reciprocals``, and what its neighbours share."""

    def body(offset, load, store):
        straight = load(maps + offset) * load(reciprocals + offset)
        store(target + offset, straight)
        store(shares + offset, straight * load(images + offset) / load(denominators + offset))

    _over_cells(e, vector, cells, body)


@emitted(arrays=1)
def _subtract_shares(e, vector, shares, pitch, rows, images, factor_at, target, cells):
    """``target -= factor * images * (the sum of shares)``."""
    factor = e.splat(vector, e.load(vector.element, factor_at))

    def body(offset, load, store):
        total = _total(e, vector, load, shares + offset, pitch, rows, lambda x: x)
        store(target + offset, load(target + offset) - factor * load(images + offset) * total)

    _over_cells(e, vector, cells, body)


# --------------------------------------------------------------------------------------------- blocks


class Blocks(NamedTuple):
    """How images are cut: into runs of pixels that lie side by side, and these into blocks."""

    run: int  # pixels
    in_run: int  # blocks of a run
    in_image: int


class Norm(NamedTuple):
    """What a normalisation is, but for its floats."""

    size: int
    blocked: int
    quarters: int  # the power in quarters, or -1


NORM = types.NamedUniTuple(types.intp, len(Norm._fields), Norm)


@part
def _rows_are_contiguous(array):
    return array.strides[3] == array.itemsize


@part
def _planes_are_contiguous(array):
    """Whether the rows of a plane follow each other, or will, once `_block` has gathered them."""
    return not _rows_are_contiguous(array) or array.strides[2] == array.shape[3] * array.itemsize


@part
def _cut(rows, columns, whole_planes):
    run = rows * columns if whole_planes else columns
    in_run = (run + CELLS - 1) // CELLS
    return Blocks(run, in_run, in_run * (1 if whole_planes else rows))


@part
def _place(unit, blocks):
    """The image, the first pixel and the number of pixels of block ``unit``."""
    image, block = divmod(unit, blocks.in_image)
    run, part_ = divmod(block, blocks.in_run)
    first = part_ * CELLS
    return image, run * blocks.run + first, min(CELLS, blocks.run - first)


@part
def _block(array, image, first, cells, buffer):
    """Where a block begins and how many bytes its rows, one for each map, lie apart.

    Where pixels do not lie side by side they are gathered in ``buffer``.
    """
    columns = array.shape[3]
    if _rows_are_contiguous(array):
        row, column = divmod(first, columns)
        place = image * array.strides[0] + row * array.strides[2] + column * array.itemsize
        return address_of(array) + place, array.strides[1]
    for f in range(array.shape[1]):
        row, column = divmod(first, columns)
        for i in range(cells):
            buffer[f, i] = array[image, f, row, column]
            column += 1
            if column == columns:
                row, column = row + 1, 0
    return address_of(buffer), CELLS * array.itemsize


@part
def _gathering(array):
    """Room for a block that must be gathered."""
    return np.empty((0 if _rows_are_contiguous(array) else array.shape[1], CELLS), array.dtype)


@part
def _neighbours(f, channels, size, blocked, transposed):
    """The first of the maps that are summed for map ``f``, and how many there are."""
    if blocked:
        start = f // size * size
    elif transposed:
        start = f + size // 2 + 1 - size
    else:
        start = f - size // 2
    begin = max(start, 0)
    return begin, min(start + size, channels) - begin


# ------------------------------------------------------------------------------------------- kernels


def _sum_signature(number):
    return types.Array(number, 4, "A", readonly=True), number[:, :, :, ::1], NORM, types.intp


@chunked(_sum_signature)
@part
def _sum_blocks(chunk, chunks, images, sums, norm, transposed):
    """For each block, for each map: add its neighbours."""
    channels, rows, columns = images.shape[1:]
    blocks = _cut(rows, columns, _planes_are_contiguous(images))
    gathered = _gathering(images)
    plane, units = rows * columns * sums.itemsize, images.shape[0] * blocks.in_image
    for unit in range(chunk * units // chunks, (chunk + 1) * units // chunks):
        image, first, cells = _place(unit, blocks)
        source, pitch = _block(images, image, first, cells, gathered)
        target = address_of(sums) + image * channels * plane + first * sums.itemsize
        for f in range(channels):
            begin, count = _neighbours(f, channels, norm.size, norm.blocked, transposed)
            _sum_rows(sums, source + begin * pitch, pitch, count, target + f * plane, cells)
    keep_alive(gathered)


@kernel
def cross_map_sum(images, size, blocked, transposed):
    """The sum of each map's neighbours; see `reference.cross_map_sum`. Floor: images read once, sums written once."""
    sums = new_array(images.shape, images.dtype)
    if sums.size:
        norm = Norm(min(size, 2 * images.shape[1]), int(blocked), 0)
        _sum_blocks(useful_threads(sums.size), any_layout(images), sums, norm, int(transposed))
    return sums


@part
def _raise(denominators, reciprocals, quarters, power, cells):
    """``reciprocals = denominators ** -power`` for the cells of a block."""
    if quarters >= 0:
        _reciprocals(denominators, address_of(denominators), quarters, address_of(reciprocals), cells)
    else:
        for i in range(cells):
            reciprocals[i] = denominators[i] ** -power


def _norm_signature(number):
    return types.Array(number, 4, "A", readonly=True), number[:, :, :, ::1], number[::1], NORM


@chunked(_norm_signature)
@part
def _norm_blocks(chunk, chunks, images, maps, floats, norm):
    """For each block, for each map: denominators, their power, product."""
    channels, rows, columns = images.shape[1:]
    blocks = _cut(rows, columns, _planes_are_contiguous(images))
    gathered = _gathering(images)
    denominators, reciprocals = np.empty(CELLS, maps.dtype), np.empty(CELLS, maps.dtype)
    plane, units = rows * columns * maps.itemsize, images.shape[0] * blocks.in_image
    for unit in range(chunk * units // chunks, (chunk + 1) * units // chunks):
        image, first, cells = _place(unit, blocks)
        source, pitch = _block(images, image, first, cells, gathered)
        target = address_of(maps) + image * channels * plane + first * maps.itemsize
        for f in range(channels):
            begin, count = _neighbours(f, channels, norm.size, norm.blocked, 0)
            _denominators(
                maps, source + begin * pitch, pitch, count, address_of(floats), address_of(denominators), cells
            )  # fmt: skip
            _raise(denominators, reciprocals, norm.quarters, floats[1], cells)
            _multiply(maps, source + f * pitch, address_of(reciprocals), target + f * plane, cells)
    keep_alive(gathered)
    keep_alive(floats)


@part
def _norm_of(channels, size, power, blocked):
    quarters = int(4 * power) if 0 <= power <= MOST_QUARTERS / 4 else -1
    return Norm(min(size, 2 * channels), int(blocked), quarters if quarters == 4 * power else -1)


@part
def _floats(like, scale, power):
    """The scale, the power and the factor of the gradient, of ``like``'s dtype."""
    floats = np.empty(3, like.dtype)
    floats[0], floats[1], floats[2] = scale, power, 2 * scale * power
    return floats


@kernel
def cross_map_norm(images, size, scale, power, blocked):
    """Divide each map by a power of its neighbours' energy; see `reference.cross_map_norm`.

    Floor: images read once, maps written once. Measured on one thread of a Zen 5 EPYC, float32, 5 neighbours to the
    power 0.75: 128x32x16x16 12 GB/s, 16x96x55x55 7 GB/s; by any other power than quarters 1.2 GB/s.
    """
    maps = new_array(images.shape, images.dtype)
    if maps.size:
        norm = _norm_of(images.shape[1], size, power, blocked)
        _norm_blocks(useful_threads(maps.size), any_layout(images), maps, _floats(maps, scale, power), norm)
    return maps


def _grad_signature(number):
    array = types.Array(number, 4, "A", readonly=True)
    return array, array, number[:, :, :, ::1], number[::1], NORM


@chunked(_grad_signature)
@part
def _grad_blocks(chunk, chunks, images, maps, gradient, floats, norm):
    """For each block: what each map passes on and shares; then, for each map, what its neighbours share with it."""
    channels, rows, columns = images.shape[1:]
    blocks = _cut(rows, columns, _planes_are_contiguous(images) and _planes_are_contiguous(maps))
    gathered, gathered_maps = _gathering(images), _gathering(maps)
    denominators, reciprocals = np.empty(CELLS, maps.dtype), np.empty(CELLS, maps.dtype)
    shares = np.empty((channels, CELLS), maps.dtype)
    plane, units, share = rows * columns * maps.itemsize, images.shape[0] * blocks.in_image, CELLS * maps.itemsize
    for unit in range(chunk * units // chunks, (chunk + 1) * units // chunks):
        image, first, cells = _place(unit, blocks)
        source, pitch = _block(images, image, first, cells, gathered)
        above, maps_pitch = _block(maps, image, first, cells, gathered_maps)
        target = address_of(gradient) + image * channels * plane + first * maps.itemsize
        for f in range(channels):
            begin, count = _neighbours(f, channels, norm.size, norm.blocked, 0)
            _denominators(
                gradient, source + begin * pitch, pitch, count, address_of(floats), address_of(denominators), cells
            )  # fmt: skip
            _raise(denominators, reciprocals, norm.quarters, floats[1], cells)
            _share(
                gradient, source + f * pitch, above + f * maps_pitch, address_of(denominators),
                address_of(reciprocals), target + f * plane, address_of(shares) + f * share, cells,
            )  # fmt: skip
        for f in range(channels):
            begin, count = _neighbours(f, channels, norm.size, norm.blocked, 1)
            _subtract_shares(
                gradient, address_of(shares) + begin * share, share, count, source + f * pitch,
                address_of(floats) + 2 * maps.itemsize, target + f * plane, cells,
            )  # fmt: skip
    keep_alive(gathered)
    keep_alive(gathered_maps)
    keep_alive(shares)
    keep_alive(floats)


@kernel
def cross_map_norm_grad(images, maps, size, scale, power, blocked):
    """The gradient of `cross_map_norm`, given that of its output; see `reference.cross_map_norm_grad`.

    Floor: images and maps read once, the gradient written once. Measured as above: 12 GB/s, 7 GB/s and 1.7 GB/s.
    """
    if images.shape != maps.shape:
        raise ShapeError(
            NORMALISED, images.shape[0], images.shape[1], images.shape[2], images.shape[3],
            maps.shape[0], maps.shape[1], maps.shape[2], maps.shape[3],
        )  # fmt: skip
    gradient = new_array(images.shape, images.dtype)
    if gradient.size:
        norm, floats = _norm_of(images.shape[1], size, power, blocked), _floats(gradient, scale, power)
        _grad_blocks(useful_threads(gradient.size), any_layout(images), any_layout(maps), gradient, floats, norm)
    return gradient
