"""Gradients of the windows that nearly everybody uses, their taps written out.

A loop over the taps of a small window costs more than the taps. For the windows in `COMMON` everything about a tap but
the address is known when the kernel is compiled, and pixels go from registers to where they belong; all other windows
take the loops of the kernels themselves.
"""

from typing import NamedTuple

from llvmlite import ir

from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import MASKS, int32, item_bytes
from pytensor_convnet.kernels.cpu.row_copies import AHEAD, store_within


class Common(NamedTuple):
    """A square window with a stride that is the same for rows and columns."""

    window: int
    stride: int
    left: int  # padding on the left, modulo the stride


COMMON = (Common(2, 2, 0), Common(3, 2, 0), Common(3, 2, 1), Common(3, 1, 0))


@part
def is_common(windows, row_step, step):
    """Whether `COMMON` has the windows, which are so many rows and columns apart."""
    w = windows
    if w.window_rows != w.window_columns or row_step != step:
        return False
    return (w.window_rows == 3 and step <= 2) or (w.window_rows == 2 and step == 2 and w.left % 2 == 0)


@part
def in_strips(array, windows, row_step, step):
    """Whether strips of the windows go straight over the rows of an array, which are contiguous."""
    return MASKS and array.strides[3] == array.itemsize and is_common(windows, row_step, step)


def for_common(e, window, stride, left, body):
    """Emit ``body(common)`` for each of `COMMON`; the one that the windows are is run."""
    for common in COMMON:
        known = window.equals(common.window) & stride.equals(common.stride)
        if common.stride > 1:
            known &= (left - left // common.stride * common.stride).equals(common.left)
        with e.when(known):
            body(common)


def _taps_of_phases(common):
    """For each phase of an image's columns the columns of taps that are such pixels.

    Each with how many cells further than the pixel's, by number, the cell of its window is.
    """
    window, step, left = common
    return [[((p + left) // step - j // step, j) for j in range((p + left) % step, window, step)] for p in range(step)]


def _interleave(e, phases):
    """Vectors of neighbouring numbers, from a vector of each phase."""
    if len(phases) == 1:
        return phases
    lanes = phases[0].type.count
    places = [place for lane in range(lanes) for place in (lane, lanes + lane)]
    return [e.shuffle(*phases, places[:lanes]), e.shuffle(*phases, places[lanes:])]


class Cells:
    """As many windows as a vector has lanes, from column ``x`` on, or if ``paired`` whole rows of two planes.

    What is read begins ``offset`` columns further.
    """

    def __init__(self, e, common, lanes, x, offset, paired, plane, begin, end, columns, zeros_at):
        self._e, self._lanes, self._first, self._columns = e, lanes, x + offset, columns
        self._begin, self._end, self._zeros_at, self.common, self.x = begin, end, zeros_at, common, x
        self.paired, self.planes = paired, [plane, plane + 1] if paired else [plane]
        numbers = ir.VectorType(int32, lanes)
        lane = [place % (lanes // 2) for place in range(lanes)] if paired else range(lanes)
        self.windows = e.numbers(numbers, lane) + e.splat(numbers, x)
        """The column of each lane's window."""
        self.real = self._are_there(self.windows)
        """Whether there is one."""
        shifts = {shift for phase in _taps_of_phases(common) for shift, _ in phase}
        self._inside = {shift: self._are_there(self.windows + (offset + shift)) for shift in shifts}

    def _are_there(self, columns):
        return self._e.splat(columns.type, self._columns).exceeds(columns)

    def has_line(self, number):
        """Whether there is a row of windows, in the memory that is read."""
        return (self._end - self._begin).exceeds(number - self._begin)

    def lines(self, number, address, plane_bytes, row_bytes):
        """Where a row of windows is, in each plane; zeros where there is none."""
        e, inside = self._e, self.has_line(number)
        return [
            e.select(inside, address + plane * plane_bytes + number * row_bytes, self._zeros_at)
            for plane in self.planes
        ]

    def read(self, lines, padding):
        """The windows' numbers, by how many columns further; what is ``padding`` beside the row."""
        e, vector, half = self._e, padding.type, self._lanes // 2
        item = item_bytes(vector)
        if self.paired:
            few = ir.VectorType(vector.element, half)
            values = e.shuffle(*(e.load(few, line) for line in lines), range(self._lanes))
            beside = {
                0: range(self._lanes),
                1: [*range(1, half), self._lanes, *range(half + 1, self._lanes), self._lanes],
                -1: [self._lanes, *range(half - 1), self._lanes, *range(half, self._lanes - 1)],
            }
            return {shift: e.shuffle(values, padding, beside[shift]) for shift in self._inside}
        e.fetch(lines[0] + self._first * item + AHEAD)
        return {
            shift: self.load(lines[0] + (self._first + shift) * item, inside, padding)
            for shift, inside in self._inside.items()
        }

    def of_columns(self, place, padding):
        """What each column of windows has at ``place``, by how many columns further; the same for all rows."""
        if self.paired:
            return self.read([place, place], padding)
        item = item_bytes(padding.type)
        return {
            shift: self._e.load_where(place + (self._first + shift) * item, inside, padding)
            for shift, inside in self._inside.items()
        }

    def load(self, place, inside, padding):
        """The numbers from a place on, some of which are beside the row. Without masks there is padding in memory."""
        return self._e.load_where(place, inside, padding) if MASKS else self._e.load(padding.type, place)


def spread_rows(
    e, vector, reader, add, planes, begin_line, end_line, first_line, window, stride, left, row_phase, rows, columns,
    out_columns, zeros_at, room, target,
):  # fmt: skip
    """Write ``rows`` rows of the gradients of some planes, the first of which has phase ``row_phase``.

    The loop nest: for each plane, for each strip of columns, for each step of rows, for each phase of rows and of
    columns, for each tap. Down a strip, what a row of windows gives is read once for all rows of pixels that get it.

    ``first_line`` is the row of windows whose first tap is pixel row ``-row_phase``; those from ``begin_line`` to
    ``end_line`` are there, ``out_columns`` windows each, and at ``zeros_at`` is one of zeros. ``reader(cells)`` gives a
    function that reads from a row of windows, by how many columns further they are, what ``add(total, values, tap)``
    adds to those pixels that are their tap; ``total`` is None at first. From ``target`` on ``room`` numbers may be
    overwritten, in any order.
    """
    lanes, item = vector.count, item_bytes(vector)

    def down(common, plane, column, paired):
        """A strip of columns."""
        step, window = common.stride, common.window
        x, offset = column // step, left // step
        read = reader(Cells(e, common, lanes, x, offset, paired, plane, begin_line, end_line, out_columns, zeros_at))
        earlier = [
            {shift: [e.variable(value) for value in values] for shift, values in read(first_line - m).items()}
            for m in range(1, (window - 1) // step + 1)
        ]
        with e.range(0, (row_phase + rows + (step - 1)) // step) as v:
            lines = [read(first_line + v)]
            lines += [{shift: [value.get() for value in values] for shift, values in line.items()} for line in earlier]
            for a in range(step):
                row = v * step + a - row_phase
                with e.when(rows.exceeds(row)):
                    done = (plane * rows + row) * columns
                    place, left_over = target + (done + column) * item, room - done
                    for n, values in enumerate(_of_row(e, common, lines, a, add)):
                        if paired:
                            e.store(place + n * rows * columns * item, values)
                        else:
                            far = column + n * lanes
                            store_within(e, place + n * lanes * item, far, columns, left_over, values)
            for variables, values in zip(earlier, lines):
                for shift in variables:
                    for variable, value in zip(variables[shift], values[shift]):
                        variable.set(value)

    def body(common):
        paired = e.integer(0)
        if common.stride > 1:
            whole = out_columns.equals(lanes // 2) & columns.equals(lanes) & (left < common.stride)
            paired = e.select(whole, planes // 2 * 2, 0)
            with e.range(0, paired, 2) as plane:
                down(common, plane, e.integer(0), True)
        width = common.stride * lanes
        strips = (columns + (width - 1)) // width
        with e.range(paired, planes) as plane, e.range(0, strips) as strip:
            # The last strip first: where it runs over the ends of rows, the others write later.
            down(common, plane, (strips - 1 - strip) * width, False)

    for_common(e, window, stride, left, body)


def _of_row(e, common, lines, a, add):
    """Vectors of neighbouring pixels, in a row of phase ``a``."""
    phases = []
    for phase in _taps_of_phases(common):
        total = None
        for i in range(a, common.window, common.stride):
            for shift, j in phase:
                total = add(total, lines[i // common.stride][shift], i * common.window + j)
        phases.append(total)
    return _interleave(e, phases)
