"""Pooling with the windows that nearly everybody uses, straight from memory.

A band (`bands`) serves every window and every layout, for the price of storing and loading each number a few times. For
`COMMON` windows over contiguous rows, a strip of as many windows as a vector has lanes goes down a plane instead: the
taps of a row are sorted by shuffles, what a row gives stays in registers for all windows that it belongs to, and only
results are stored. Masks leave out what is beside an image; rows above and below it are read from a line of padding.
"""

from typing import NamedTuple

from llvmlite import ir

from pytensor_convnet.kernels.cpu.bands import CELLS, new_buffer, place_band, room_after
from pytensor_convnet.kernels.cpu.common_windows import for_common, is_common
from pytensor_convnet.kernels.cpu.emission import address_of
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, int32, item_bytes
from pytensor_convnet.kernels.cpu.row_copies import AHEAD
from pytensor_convnet.kernels.cpu.stages import place_results


@part
def in_strips(images, windows):
    """Whether `slide` takes them. Vectors of 16 bytes have no masks."""
    w = windows
    contiguous = images.strides[3] == images.itemsize
    return VECTOR_BYTES > 16 and contiguous and is_common(w, w.stride_rows, w.stride_columns)


class Turn(NamedTuple):
    """What a thread does next: one band, or some neighbouring planes of an image that are a band each."""

    units: int
    y: int  # the first row of windows
    end_y: int
    source: int  # address of row 0 of the first plane
    first: int  # number of the first result
    results: int  # how many
    target: int  # address of the first
    room: int  # how many results from there on may be overwritten


@part
def turn_results(plan, windows):
    """Most results of a turn."""
    return max(CELLS, plan.band_rows * windows.out_columns)


@part
def place_turn(images, maps, stage, streaming, unit, unit_after, plan, windows):
    """The `Turn` that begins with a unit of a chunk of work that ends before another."""
    w, channels = windows, images.shape[1]
    band = place_band(unit, plan, images.shape, w)
    units, count = 1, (band.end_y - band.y) * w.out_columns
    if plan.planes.together == 1 and plan.bands == 1:
        units = min(max(1, CELLS // count), unit_after - unit, channels - band.channel)
    source = address_of(images) + band.image * images.strides[0] + band.channel * images.strides[1]
    number = ((band.image * channels + band.channel) * w.out_rows + band.y) * w.out_columns
    target, room = place_results(maps, number, stage, streaming), room_after(number, unit_after, plan, w)
    return Turn(units, band.y, band.end_y, source, number, units * count, target, room)


@part
def padding_line(images, direct, filling):
    """A line of padding as long as a row, if it is needed."""
    return new_buffer(images.shape[3] * images.itemsize if direct else 0, images, filling)


class _Taps:
    """What a strip of windows that begins with window ``x`` reads of a row: a vector for each tap."""

    def __init__(self, e, vector, common, x, left, columns, padding_at):
        self._e, self._vector, self._common, self._columns, self._padding_at = e, vector, common, columns, padding_at
        self._filling = e.load(vector, padding_at)
        self._first = x * common.stride - left
        if common.stride > 1:
            self._first += common.left
            starts = [self._first, self._first + vector.count]
        else:
            starts = [self._first + j for j in range(common.window)]
        numbers, limit = ir.VectorType(int32, vector.count), e.splat(ir.VectorType(int32, vector.count), columns)
        lanes = e.lane_numbers(numbers)
        self._parts = [(start, limit.exceeds(lanes + start.to(int32))) for start in starts]

    def of(self, line):
        """The taps in a row of the image."""
        e, common, item, lanes = self._e, self._common, item_bytes(self._vector), self._vector.count
        parts = []
        for start, inside in self._parts:
            parts.append(e.load_where(line + start * item, inside, self._filling))
        for start, _ in self._parts[: common.stride]:
            e.fetch(line + start * item + AHEAD)
        if common.stride == 1:
            return parts
        even, odd = (e.shuffle(*parts, range(phase, 2 * lanes, 2)) for phase in range(2))
        if common.window == 2:
            return [even, odd]
        if common.left:
            before = self._splat(line, self._first - 1)
            return [e.shuffle(before, odd, range(lanes - 1, 2 * lanes - 1)), even, odd]
        return [even, odd, e.shuffle(even, self._splat(line, self._first + 2 * lanes), range(1, lanes + 1))]

    def _splat(self, line, column):
        e, inside = self._e, self._columns.exceeds(column)
        place = e.select(inside, line + column * item_bytes(self._vector), self._padding_at)
        return e.splat(self._vector, e.load(self._vector.element, place))


class Challenge:
    """Of vectors that appear one after the other the greatest, if none is NaN; of equal ones the first."""

    def __init__(self, e, value):
        self._e, self.best = e, value

    def challenge(self, value):
        """Returns where it won."""
        wins = value > self.best
        self.best = self._e.select(wins, value, self.best)
        return wins


class NanWatch:
    """Whether taps held a NaN."""

    def __init__(self, e, vector):
        self._lanes = e.variable(e.constant(vector, 0).or_nan(e.constant(vector, 0)))

    def look(self, taps):
        found = self._lanes.get() | taps[0].or_nan(taps[1])
        if len(taps) > 2:
            found |= taps[2].or_nan(taps[2])
        self._lanes.set(found)

    def found(self, e):
        """1 if there was one, else 0."""
        lanes = self._lanes.get()
        return e.select(lanes.first_set() < lanes.type.count, e.integer(1), 0)


def slide(
    e, vector, of_taps, leave, source, plane_bytes, row_bytes, planes, y, end_y, rows, columns, window, stride, top,
    left, out_columns, padding_at,
):  # fmt: skip
    """Emit the loop nest: for each plane, for each strip of windows, for each row of windows, for each of its new rows.

    ``of_taps(taps, x)`` makes some vectors of the taps in a row of windows ``x`` and following.
    ``leave(rows, done, y, x)`` stores what becomes of those of all rows of the windows, ``done`` results after the
    first. ``source`` is row 0 of the first plane; at ``padding_at`` is a line of padding.
    """

    def body(common):
        _slide_common(
            e, vector, common, of_taps, leave, source, plane_bytes, row_bytes, planes, y, end_y, rows, columns, top,
            left, out_columns, padding_at,
        )  # fmt: skip

    for_common(e, window, stride, left, body)


def _slide_common(
    e, vector, common, of_taps, leave, source, plane_bytes, row_bytes, planes, y, end_y, rows, columns, top, left,
    out_columns, padding_at,
):  # fmt: skip
    lanes, step = vector.count, common.stride
    strips = (out_columns + (lanes - 1)) // lanes
    with e.range(0, planes) as plane, e.range(0, strips) as strip:
        # The last strip first: where it runs over the ends of rows, the others write later.
        x = (strips - 1 - strip) * lanes
        taps = _Taps(e, vector, common, x, left, columns, padding_at)

        def of_row(number, plane_at=source + plane * plane_bytes, taps=taps, x=x):
            line = e.select(rows.exceeds(number), plane_at + number * row_bytes, padding_at)
            return of_taps(taps.of(line), x)

        start = y * step - top
        earlier = [[e.variable(value) for value in of_row(start + i)] for i in range(common.window - step)]
        with e.range(y, end_y) as y_:
            start = y_ * step - top
            lines = [[variable.get() for variable in line] for line in earlier]
            lines += [of_row(start + i) for i in range(common.window - step, common.window)]
            leave(lines, (plane * (end_y - y) + (y_ - y)) * out_columns, y_, x)
            for variables, values in zip(earlier, lines[step:]):
                for variable, value in zip(variables, values):
                    variable.set(value)
