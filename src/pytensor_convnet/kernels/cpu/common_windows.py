"""Gradients of the windows that nearly everybody uses, their taps written out.

A loop over the taps of a small window costs more than the taps. For the windows in `COMMON` everything about a tap but
the address is known when the kernel is compiled, and pixels go from registers to where they belong; all other windows
take the loops of the kernels themselves.
"""

from typing import NamedTuple

from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import item_bytes
from pytensor_convnet.kernels.cpu.row_copies import store_within


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


def spread_rows(e, vector, read, add, first, pitch, window, stride, left, row_phase, rows, columns, room, target):
    """Write ``rows`` rows of an image's gradient, the first of which has phase ``row_phase``.

    The loop nest: for each strip of columns, for each step of rows, for each phase of rows and of columns, for each
    tap. Down a strip, what a row of windows gives is read once for all rows of pixels that get it.

    ``first`` is the cell of the window whose first tap is pixel ``(-row_phase, 0)``, were there no padding on the left;
    lines lie ``pitch`` cells apart. ``read(cell)`` gets from a vector of windows what ``add(total, values, tap)`` adds
    to those pixels that are their tap; ``total`` is None at first. From ``target`` on ``room`` numbers may be
    overwritten, in any order.
    """

    def body(common):
        _spread_common(e, vector, common, read, add, first, pitch, left, row_phase, rows, columns, room, target)

    for_common(e, window, stride, left, body)


def _spread_common(e, vector, common, read, add, first, pitch, left, row_phase, rows, columns, room, target):
    lanes, item = vector.count, item_bytes(vector)
    window, step = common.window, common.stride
    taps = _taps_of_phases(common)
    shifts = {shift for phase in taps for shift, _ in phase}

    def read_line(cell):
        return {shift: read(cell + shift) for shift in shifts}

    def of_row(lines, a):
        """Vectors of neighbouring pixels, in a row of phase ``a``."""
        phases = []
        for phase in taps:
            total = None
            for i in range(a, window, step):
                for shift, j in phase:
                    total = add(total, lines[i // step][shift], i * window + j)
            phases.append(total)
        return _interleave(e, phases)

    width = step * lanes
    strips = (columns + (width - 1)) // width
    with e.range(0, strips) as strip:
        # The last strip first: where it runs over the ends of rows, the others write later.
        column = (strips - 1 - strip) * width
        start = first + left // step + column // step
        earlier = [
            {shift: [e.variable(value) for value in values] for shift, values in read_line(start - m * pitch).items()}
            for m in range(1, (window - 1) // step + 1)
        ]
        with e.range(0, (row_phase + rows + (step - 1)) // step) as v:
            lines = [read_line(start + v * pitch)]
            lines += [{shift: [value.get() for value in values] for shift, values in line.items()} for line in earlier]
            for a in range(step):
                row = v * step + a - row_phase
                with e.when((row >= 0) & (row < rows)):
                    place, left_over = target + (row * columns + column) * item, room - row * columns
                    for n, values in enumerate(of_row(lines, a)):
                        store_within(e, place + n * lanes * item, column + n * lanes, columns, left_over, values)
            for variables, values in zip(earlier, lines):
                for shift in shifts:
                    for variable, value in zip(variables[shift], values[shift]):
                        variable.set(value)
