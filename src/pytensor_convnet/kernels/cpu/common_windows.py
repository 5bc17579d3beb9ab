"""Gradients of the windows that nearly everybody uses, their taps written out.

A loop over the taps of a small window costs more than the taps. For the windows in `COMMON` everything about a tap but
the address is known when the kernel is compiled, and pixels go from registers to where they belong; all other windows
take the loops of the kernels themselves.
"""

from typing import NamedTuple

from llvmlite import ir

from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import MASKS, VECTOR_BYTES, int32, item_bytes
from pytensor_convnet.kernels.cpu.row_copies import store_within


class Common(NamedTuple):
    """A square window with a stride that is the same for rows and columns."""

    window: int
    stride: int
    left: int  # padding on the left, modulo the stride


SPARE_BYTES = 2 * VECTOR_BYTES
"""What is written of a row that is not there."""

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


def taps_of_phases(common):
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

    def __init__(self, e, common, lanes, x, offset, paired, columns, ahead):
        self._e, self._lanes, self._first, self._ahead, self.common = e, lanes, x + offset, ahead, common
        self.paired = paired
        numbers = ir.VectorType(int32, lanes)
        lane = [place % (lanes // 2) for place in range(lanes)] if paired else range(lanes)
        self.windows = {
            shift: e.numbers(numbers, lane) + e.splat(numbers, self._first + shift)
            for phase in taps_of_phases(common)
            for shift, _ in phase
        }
        """The column of each lane's window, by how many columns further it is read."""
        self.inside = {shift: e.splat(numbers, columns).exceeds(windows) for shift, windows in self.windows.items()}
        """Whether there is one."""

    def read(self, plane, number, address, plane_bytes, row_bytes, padding):
        """The numbers of a row of windows, by how many columns further; what is ``padding`` beside the row."""
        line = address + plane * plane_bytes + number * row_bytes
        if self.paired:
            return self._read_pairs([line, line + plane_bytes], padding)
        place = line + self._first * item_bytes(padding.type)
        self._e.fetch(place + self._ahead)
        return self._read(place, padding) if MASKS else self._read_all(place, padding.type)

    def of_columns(self, address, padding):
        """What each column of windows has at an address, by how many columns further; the same for all rows."""
        if self.paired:
            return self._read_pairs([address, address], padding)
        return self._read(address + self._first * item_bytes(padding.type), padding)

    def _read(self, place, padding):
        item = item_bytes(padding.type)
        return {
            shift: self._e.load_where(place, inside, padding, shift * item) for shift, inside in self.inside.items()
        }

    def _read_all(self, place, vector):
        """The same where there is padding in memory, beside the row."""
        return {shift: self._e.load(vector, place, shift * item_bytes(vector)) for shift in self.inside}

    def _read_pairs(self, lines, padding):
        e, lanes, half = self._e, self._lanes, self._lanes // 2
        few = ir.VectorType(padding.type.element, half)
        values = e.shuffle(*(e.load(few, line) for line in lines), range(lanes))
        beside = {
            0: range(lanes),
            1: [*range(1, half), lanes, *range(half + 1, lanes), lanes],
            -1: [lanes, *range(half - 1), lanes, *range(half, lanes - 1)],
        }
        return {shift: e.shuffle(values, padding, beside[shift]) for shift in self.windows}


def spread_rows(
    e, vector, spreading, planes, begin_line, end_line, first_line, window, stride, left, row_phase, rows, columns,
    out_columns, ahead, spare_at, room, target,
):  # fmt: skip
    """Write ``rows`` rows of the gradients of some planes, the first of which has phase ``row_phase``.

    The loop nest: for each strip of columns, for each plane, for each step of rows, for each row of taps, for each
    phase of columns, for each tap. Down a strip a row of windows is read once, and gives to all rows of pixels that it
    reaches. Nothing branches but the loops: what a row of pixels would get that is not there goes to spare memory.

    ``first_line`` is the row of windows whose first tap is pixel row ``-row_phase``. Those from ``begin_line``, which
    is no later, to ``end_line`` are there, ``out_columns`` windows each. ``spreading(cells)`` gives two functions:
    ``read(plane, number)`` reads a row of windows, and ``give(total, line, i, phase)`` adds to ``total``, None at
    first, what the row gives to the pixels of a phase by its taps in row ``i``. From ``target`` on ``room`` numbers may
    be overwritten, in any order; at ``spare_at`` `SPARE_BYTES`. ``ahead`` is that of `row_copies.fetch_ahead`.
    """
    lanes, item = vector.count, item_bytes(vector)

    def down(common, column, paired, first_plane, end_plane):
        """A strip of columns."""
        cells = Cells(e, common, lanes, column // common.stride, left // common.stride, paired, out_columns, ahead)
        read, give = spreading(cells)
        with e.range(first_plane, end_plane, 2 if paired else 1) as plane:
            down_plane(common, plane, column, paired, read, give)

    def down_plane(common, plane, column, paired, read, give):
        step, window, phases = common.stride, common.window, range(common.stride)
        reach = (window - 1) // step

        def write(row, vectors):
            for p in range(2 if paired else 1):
                done = ((plane + p) * rows + row) * columns
                place = e.select(rows.exceeds(row), target + (done + column) * item, spare_at)
                if paired:
                    e.store(place, vectors[p])
                    continue
                for n, values in enumerate(vectors):
                    store_within(e, place, column + n * lanes, columns, room - done, values, n * lanes * item)

        # What earlier rows of windows gave to rows of pixels further on, by how many steps and phase of rows.
        given = {
            (m, a): [e.variable(e.constant(vector, 0)) for _ in phases]
            for m in range(1, reach + 1)
            for a in phases[: window - m * step]
        }

        def take_step(v, line):
            for m, a in [(0, a) for a in phases] + list(given):
                earlier = [variable.get() for variable in given.get((m + 1, a), ())] or [None for _ in phases]
                totals = [
                    total if line is None else give(total, line, m * step + a, p) for p, total in enumerate(earlier)
                ]
                totals = [e.constant(vector, 0) if total is None else total for total in totals]
                for variable, total in zip(given.get((m, a), ()), totals):
                    variable.set(total)
                if m == 0:
                    write(v * step + a - row_phase, _interleave(e, totals))

        begin, end = e.maximum(begin_line - first_line, e.integer(-reach)), (row_phase + rows + (step - 1)) // step
        known = e.maximum(e.minimum(end_line - first_line, end), begin)
        with e.range(begin, known) as v:
            take_step(v, read(plane, first_line + v))
        with e.range(known, end) as v:
            take_step(v, None)

    def body(common):
        paired = e.integer(0)
        if common.stride > 1:
            whole = out_columns.equals(lanes // 2) & columns.equals(lanes) & (left < common.stride)
            paired = e.select(whole, planes // 2 * 2, 0)
            down(common, e.integer(0), True, 0, paired)
        width = common.stride * lanes
        strips = (columns + (width - 1)) // width
        # The last strip first: where it runs over the ends of rows, the others write later.
        with e.range(0, strips) as strip:
            down(common, (strips - 1 - strip) * width, False, paired, planes)

    for_common(e, window, stride, left, body)
