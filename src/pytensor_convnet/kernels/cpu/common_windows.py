"""Windows that nearly everybody uses: 2 x 2 and 3 x 3, their taps written out.

A loop over the taps of a small window costs more than the taps. For the windows in `COMMON` everything about a tap but
the address is known when the kernel is compiled; all others take the loops of the kernels themselves.
"""

from typing import NamedTuple

from pytensor_convnet.kernels.cpu.detached import part
from pytensor_convnet.kernels.cpu.llvm import item_bytes
from pytensor_convnet.kernels.cpu.row_copies import store_within


class Common(NamedTuple):
    """A window, square, as its stride is."""

    window: int
    stride: int
    left: int  # padding on the left, modulo the stride


COMMON = (Common(2, 2, 0), Common(3, 2, 0), Common(3, 2, 1), Common(3, 1, 0))


@part
def is_common(windows, row_step, step):
    """Whether `COMMON` has the windows, that lie so many rows and columns apart."""
    w = windows
    square = w.window_rows == w.window_columns and row_step == step
    return square and (
        (w.window_columns == 3 and step <= 2) or (w.window_columns == 2 and step == 2 and w.left % 2 == 0)
    )


def for_common(e, window, stride, left, body):
    """Emit ``body(common)`` for each of `COMMON`, of which the one that a kernel has is run."""
    for common in COMMON:
        known = (window <= common.window) & (window >= common.window)
        known &= (stride <= common.stride) & (stride >= common.stride)
        if common.stride > 1:
            of_left = left - left // common.stride * common.stride
            known &= (of_left <= common.left) & (of_left >= common.left)
        with e.when(known):
            body(common)


def _interleave(e, phases):
    """Vectors of neighbouring numbers, from a vector of each phase."""
    if len(phases) == 1:
        return phases
    lanes = phases[0].type.count
    places = [place for lane in range(lanes) for place in (lane, lanes + lane)]
    return [e.shuffle(*phases, places[:lanes]), e.shuffle(*phases, places[lanes:])]


def spread_rows(e, vector, common, read, add, first, pitch, left, row_phase, rows, columns, room, target):
    """Write ``rows`` rows of an image's gradient, the first of which has phase ``row_phase``.

    Down a strip of columns, so that what a row of windows gives is read once, for all rows of pixels that get it.
    ``first`` is the cell of pixel ``(-row_phase, 0)``, were the image not padded. ``read(cell)`` gets what
    ``add(total, values, tap)`` makes a total of.
    """
    lanes, item = vector.count, item_bytes(vector)
    window, step, before = common
    overhang = (window - 1) // step
    taps = [[((p + before) // step - j // step, j) for j in range((p + before) % step, window, step)] for p in range(step)]
    shifts = {shift for phase in taps for shift, _ in phase}

    def read_line(cell):
        return {shift: read(cell + shift) for shift in shifts}

    width = step * lanes
    strips = (columns + (width - 1)) // width
    with e.range(0, strips) as strip:
        column = (strips - 1 - strip) * width
        start = first + left // step + column // step
        lines = [
            {shift: [e.variable(value) for value in values] for shift, values in read_line(start - m * pitch).items()}
            for m in range(1, overhang + 1)
        ]
        with e.range(0, (row_phase + rows + (step - 1)) // step) as v:
            known = [read_line(start + v * pitch)]
            known += [{shift: [value.get() for value in values] for shift, values in line.items()} for line in lines]
            for a in range(step):
                row = v * step + a - row_phase
                with e.when((row >= 0) & (row < rows)):
                    phases = []
                    for phase in taps:
                        total = None
                        for i in range(a, window, step):
                            for shift, j in phase:
                                total = add(total, known[i // step][shift], i * window + j)
                        phases.append(total)
                    place, left_over = target + (row * columns + column) * item, room - row * columns
                    for n, values in enumerate(_interleave(e, phases)):
                        store_within(e, place + n * lanes * item, column + n * lanes, columns, left_over, values)
            for line, values in zip(lines, known):
                for shift in shifts:
                    for variable, value in zip(line[shift], values[shift]):
                        variable.set(value)
