"""Pooling with the windows that nearly everybody uses, straight from memory.

A band (`bands`) serves every window and every layout, for the price of storing and loading each number a few times. For
`COMMON` windows over contiguous rows, a strip of as many windows as a vector has lanes goes down a plane instead: the
taps of a row are sorted by shuffles, what a row gives stays in registers for all windows that it belongs to, and only
results are stored. Masks leave out what is beside an image; rows above and below it are read from a line of padding.
"""

from typing import NamedTuple

from llvmlite import ir

from pytensor_convnet.kernels.cpu.bands import new_buffer, place_band, room_after
from pytensor_convnet.kernels.cpu.common_windows import for_common
from pytensor_convnet.kernels.cpu.emission import address_of
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import int32, item_bytes
from pytensor_convnet.kernels.cpu.row_copies import AHEAD, store_within
from pytensor_convnet.kernels.cpu.stages import place_results


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
    return max(plan.cells, plan.band_rows * windows.out_columns)


@part
def place_turn(images, maps, stage, streaming, unit, unit_after, plan, windows):
    """The `Turn` that begins with a unit of a chunk of work that ends before another."""
    w, channels = windows, images.shape[1]
    band = place_band(unit, plan, images.shape, w)
    units, count = 1, (band.end_y - band.y) * w.out_columns
    if plan.planes.together == 1 and plan.bands == 1:
        units = min(max(1, plan.cells // count), unit_after - unit, channels - band.channel)
    source = address_of(images) + band.image * images.strides[0] + band.channel * images.strides[1]
    number = ((band.image * channels + band.channel) * w.out_rows + band.y) * w.out_columns
    target, room = place_results(maps, number, stage, streaming), room_after(number, unit_after, plan, w)
    return Turn(units, band.y, band.end_y, source, number, units * count, target, room)


@part
def place_windows(plane, band, turn, plan, windows):
    """How many results after the first of a turn a band's windows of a plane begin, and how many may be overwritten."""
    at = (plane * windows.out_rows + band.y) * windows.out_columns - turn.first
    return at, turn.room - at if plan.planes.together == 1 else (band.end_y - band.y) * windows.out_columns


@part
def padding_line(images, direct, filling):
    """A line of padding as long as a row, if it is needed."""
    return new_buffer(images.shape[3] * images.itemsize if direct else 0, images, filling)


class Strip:
    """As many windows as a vector has lanes: neighbours in a row, or if ``paired`` whole rows of two planes."""

    def __init__(
        self, e, vector, common, plane, x, paired, left, columns, out_columns, plane_results, padding_at, ahead
    ):
        self._e, self._vector, self.common, self._columns = e, vector, common, columns
        self._x, self._paired, self._out_columns, self._plane_results = x, paired, out_columns, plane_results
        self._plane, self._ahead = plane, ahead
        self._filling, lanes = e.load(vector, padding_at), vector.count
        numbers, places = ir.VectorType(int32, lanes), list(range(lanes))
        self._order = (places[: lanes // 2] * 2) if paired else places
        self.windows = e.numbers(numbers, self._order) + e.splat(numbers, x)
        """The column of each lane's window."""
        # With a stride, vectors begin with an even phase.
        self._start = x * common.stride - left + (common.left if common.stride > 1 else 0)
        offsets = [0, 0 if paired else lanes] if common.stride > 1 else range(common.window)
        self._inside = {offset: self._are_there(offset) for offset in offsets}
        # The pixel beside those of two vectors is in the last lane of the vector before, or the first of the one after.
        offset = -lanes if common.left else 2 * lanes
        lane = e.lane_numbers(numbers).equals(lanes - 1 if common.left else 0)
        self._beside = offset, self._are_there(offset) & lane

    def _are_there(self, offset):
        """Whether a row has the pixels of a vector that begins so many columns after the first."""
        numbers = self.windows.type
        columns = self._e.lane_numbers(numbers) + self._e.splat(numbers, self._start + offset)
        return self._e.splat(numbers, self._columns).exceeds(columns)

    def of_windows(self, place):
        """The numbers at ``place`` for each column of windows, in the lanes of those."""
        several = self._e.load(self._vector, place + self._x * item_bytes(self._vector))
        return self._e.shuffle(several, several, self._order)

    def of_planes(self, place):
        """The numbers at ``place`` for each plane, in the lanes of those."""
        e, item, half = self._e, item_bytes(self._vector), self._vector.count // 2
        places = [place + (self._plane + p) * item for p in range(2 if self._paired else 1)]
        numbers = [e.splat(self._vector, e.load(self._vector.element, place)) for place in places]
        return e.shuffle(numbers[0], numbers[-1], [*range(half), *range(3 * half, 4 * half)])

    def taps(self, line):
        """The taps in a row of an image."""
        e, common, lanes, item = self._e, self.common, self._vector.count, item_bytes(self._vector)
        place = line + self._start * item
        for n in range(common.stride):
            e.fetch(place + self._ahead, n * lanes * item)
        parts = [self._load(place, offset, inside) for offset, inside in self._inside.items()]
        if common.stride == 1:
            return parts
        even, odd = self._phases(parts)
        if common.window == 2:
            return [even, odd]
        beside = self._load(place, *self._beside)
        if common.left:
            return [e.shuffle(beside, odd, range(lanes - 1, 2 * lanes - 1)), even, odd]
        return [even, odd, e.shuffle(even, beside, range(1, lanes + 1))]

    def taps_of_pairs(self, lines, there):
        """The taps in a row of each of two images, or padding if the rows are not ``there``."""
        e, common, lanes, half = self._e, self.common, self._vector.count, self._vector.count // 2
        inside = e.select(there, self._inside[0], 0)
        places = [line + self._start * item_bytes(self._vector) for line in lines]
        for place in places:
            e.fetch(place, AHEAD)  # caches foresee one run of memory, not two
        even, odd = self._phases([self._load(place, 0, inside) for place in places])
        if common.window == 2:
            return [even, odd]
        if common.left:
            before = [lanes, *range(half - 1), lanes, *range(half, lanes - 1)]
            return [e.shuffle(odd, self._filling, before), even, odd]
        after = [*range(1, half), lanes, *range(half + 1, lanes), lanes]
        return [even, odd, e.shuffle(even, self._filling, after)]

    def _load(self, place, offset, inside):
        """The pixels so many columns after a place that a row has."""
        return self._e.load_where(place, inside, self._filling, offset * item_bytes(self._vector))

    def _phases(self, parts):
        """The pixels of even columns of two vectors, and those of odd ones."""
        return [self._e.shuffle(*parts, range(phase, 2 * self._vector.count, 2)) for phase in range(2)]

    def store(self, target, done, room, values):
        """Write results of a row of windows, ``done`` after ``target``, from where ``room`` may be overwritten."""
        e, half, item, lanes = self._e, values.type.count // 2, item_bytes(values.type), values.type.count
        place = target + (done + self._x) * item
        if self._paired:
            e.store(place, e.shuffle(values, values, range(half)))
            e.store(place + self._plane_results * item, e.shuffle(values, values, range(half, lanes)))
        else:
            store_within(e, place, self._x, self._out_columns, room - done, values)


class Challenge:
    """Of vectors that appear one after the other the greatest, if none is NaN; of equal ones the first."""

    def __init__(self, e, value):
        self._e, self.best = e, value

    def challenge(self, value):
        """Returns where it won."""
        wins = value > self.best
        self.best = self._e.select(wins, value, self.best)
        return wins


def first_greatest(e, values):
    """The greatest of vectors, as `Challenge` finds it."""
    greatest = Challenge(e, values[0])
    for value in values[1:]:
        greatest.challenge(value)
    return greatest.best


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
    e, vector, pooling, source, plane_bytes, row_bytes, planes, y, end_y, rows, columns, window, stride, top, left,
    out_columns, padding_at, ahead,
):  # fmt: skip
    """Emit the loop nest: for each strip of windows, for each plane, for each row of windows, for each of its new rows.

    ``pooling(strip)`` gives two functions: ``of_taps(taps)`` makes some vectors of the taps in a row, and
    ``leave(rows, done, y)`` stores what becomes of those of all rows of the windows, ``done`` results after the first.
    ``source`` is row 0 of the first plane; at ``padding_at`` is a line of padding. ``ahead`` is that of
    `row_copies.fetch_ahead`.
    """

    lanes = vector.count
    plane_results, strips = (end_y - y) * out_columns, (out_columns + (lanes - 1)) // lanes

    def down(common, plane, x, paired):
        """A strip of windows."""
        strip = Strip(e, vector, common, plane, x, paired, left, columns, out_columns, plane_results, padding_at, ahead)
        of_taps, leave = pooling(strip)
        places = [source + (plane + p) * plane_bytes for p in range(2 if paired else 1)]

        def of_row(number):
            inside = rows.exceeds(number)
            lines = [place + number * row_bytes for place in places]
            if paired:
                return of_taps(strip.taps_of_pairs(lines, inside))
            return of_taps(strip.taps(e.select(inside, lines[0], padding_at)))

        step, kept = common.stride, common.window - common.stride
        earlier = [[e.variable(value) for value in of_row(y * step - top + i)] for i in range(kept)]
        with e.range(y, end_y) as y_:
            lines = [[variable.get() for variable in line] for line in earlier]
            lines += [of_row(y_ * step - top + i) for i in range(kept, common.window)]
            leave(lines, plane * plane_results + (y_ - y) * out_columns, y_)
            for variables, values in zip(earlier, lines[step:]):
                for variable, value in zip(variables, values):
                    variable.set(value)

    def body(common):
        paired = e.integer(0)
        if common.stride > 1:
            narrow = out_columns.equals(lanes // 2) & (columns <= lanes)
            paired = e.select(narrow, planes // 2 * 2, 0)
            with e.range(0, paired, 2) as plane:
                down(common, plane, e.integer(0), True)
        # The last strip first: where it runs over the ends of rows, the others write later.
        with e.range(0, strips) as strip, e.range(paired, planes) as plane:
            down(common, plane, (strips - 1 - strip) * lanes, False)

    for_common(e, window, stride, left, body)
