"""Winners must be pixels of their windows inside the image: whether they are, and the first that is none."""

from typing import NamedTuple

from llvmlite import ir

from pytensor_convnet.kernels.cpu.emission import emitted
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, int32, int64, item_bytes


class Fits(NamedTuple):
    """What fits each window; sets of taps are bits, at two addresses, if there are fewer than 64."""

    row_taps_at: int  # for each row of windows, the taps whose rows are inside
    column_taps_at: int  # for each column of windows, the taps whose columns are inside
    first_row: int  # windows from here
    end_row: int  # to before here are wholly inside
    first_column: int
    end_column: int


@emitted(arrays=2, returns=True)
def _first_misfit(
    e, vector, winners, lines, pitch, y, end_y, rows, window_rows, stride_rows, top,
    out_columns, columns, window_columns, step, left,
):  # fmt: skip
    """Of a band's rows ``y`` to ``end_y`` of winners the place of one that is no pixel of its window, or -1.

    A winner is ``i * window_columns + j`` for one of the window's rows ``i`` inside the image, and ``j`` between
    ``least`` and ``least + more``, its columns inside.
    """
    lanes, element, size = winners.count, winners.element, item_bytes(winners)
    wide = ir.VectorType(int64, lanes)
    found = e.variable(e.integer(-1))
    with e.range(0, out_columns, lanes) as x:
        start = e.lane_numbers(wide) * step + (x * step - left)
        least = e.maximum(0 - start, e.constant(wide, 0))
        more = (e.minimum(columns - start, e.constant(wide, window_columns)) - least - 1).to(winners)
        least, real = least.to(winners), e.lane_numbers(wide) < out_columns - x
        with e.range(y, end_y) as y_:
            top_row = y_ * stride_rows - top
            first, end = e.maximum(0 - top_row, e.integer(0)), e.minimum(window_rows, rows - top_row)
            winner = e.load(winners, lines + (y_ - y) * pitch + x * size) - least
            column = e.variable(winner - (first * window_columns).to(element))
            misfit = e.variable(real)
            with e.range(first, end):
                misfit.set(misfit.get() & column.get().exceeds(more))
                column.set(column.get() - window_columns.to(element))
            lane = misfit.get().first_set()
            with e.when(lane < lanes), e.when(found.get() < 0):
                found.set(y_ * out_columns + x + lane)
    return found.get()


@part
def _whole_windows(count, length, window, stride, before):
    """Windows from the first to before the second are wholly inside the image, along one axis."""
    first = min(count, (before + stride - 1) // stride)
    return first, max(first, min(count, (length + before - window) // stride + 1))


@emitted(arrays=1)
def _list_taps(e, _, target, count, length, window, stride, before, taps_apart, copies):
    """For each window along an axis the set of taps inside the image, as bits ``taps_apart``, times ``copies``."""
    with e.range(0, count) as y:
        start = y * stride - before
        first, end = e.maximum(0 - start, e.integer(0)), e.minimum(window, length - start)
        one = e.integer(1)
        e.store(target + y * 8, ((one << end * taps_apart) - (one << first * taps_apart)) * copies)


@emitted(arrays=2, returns=True)
def _all_fit(
    e, _, winners, lines, pitch, y, end_y, out_columns, taps, row_taps, column_taps, first_row, end_row, first, end
):
    """Whether each of a band's winners is a tap of its window inside the image.

    Windows in rows ``first_row`` to ``end_row`` and columns ``first`` to ``end`` are wholly inside.
    """
    size = item_bytes(winners)
    wide = ir.VectorType(winners.element, VECTOR_BYTES // size)
    greatest, fit = e.variable(e.constant(wide, 0)), e.variable(e.integer(1))
    with e.range(0, (end_y - y) * pitch, VECTOR_BYTES) as place:
        some, known = e.load(wide, lines + place), greatest.get()
        greatest.set(e.select(some.exceeds(known), some, known))
    with e.range(y, end_y) as y_:
        inside, row = e.load(int64, row_taps + y_ * 8), lines + (y_ - y) * pitch
        clipped = (y_ < first_row) | (y_ >= end_row)
        for start, stop in (
            (0, e.select(clipped, out_columns, first)),
            (e.select(clipped, out_columns, end), out_columns),
        ):
            with e.range(start, stop) as x:
                winner = e.load(winners.element, row + x * size).unsigned() & 63
                fit.set(fit.get() & ((inside & e.load(int64, column_taps + x * 8)) >> winner))
    misfit = greatest.get().exceeds(e.splat(wide, taps - 1)).first_set()
    return e.select(misfit < wide.count, e.integer(0), fit.get())


@part
def list_fits(maps, tap_sets_at, windows):
    """The `Fits` of windows; their sets of taps are written to an address."""
    w = windows
    taps, column_taps_at = w.window_rows * w.window_columns, tap_sets_at + 8 * w.out_rows
    if taps < 64:
        _list_taps(
            maps, tap_sets_at, w.out_rows, w.rows, w.window_rows, w.stride_rows, w.top, w.window_columns, 1
        )  # fmt: skip
        _list_taps(
            maps, column_taps_at, w.out_columns, w.columns, w.window_columns, w.stride_columns, w.left, 1,
            ((1 << taps) - 1) // ((1 << w.window_columns) - 1),
        )  # fmt: skip
    first_row, end_row = _whole_windows(w.out_rows, w.rows, w.window_rows, w.stride_rows, w.top)
    first_column, end_column = _whole_windows(w.out_columns, w.columns, w.window_columns, w.stride_columns, w.left)
    return Fits(tap_sets_at, column_taps_at, first_row, end_row, first_column, end_column)


@part
def find_misfit(maps, winners, lines, pitch, y, end_y, step, fits, windows):
    """Of a band's rows ``y`` to ``end_y`` of winners the place of one that is no pixel of its window, or -1."""
    w, taps = windows, windows.window_rows * windows.window_columns
    if taps < 64 and _all_fit(
        maps, winners, lines, pitch, y, end_y, w.out_columns, taps, fits.row_taps_at, fits.column_taps_at,
        fits.first_row, fits.end_row, fits.first_column, fits.end_column,
    ):  # fmt: skip
        return -1
    return _first_misfit(
        maps, winners, lines, pitch, y, end_y, w.rows, w.window_rows, w.stride_rows, w.top, w.out_columns, w.columns,
        w.window_columns, step, w.left,
    )  # fmt: skip


class Fit:
    """Whether winners are taps of their windows inside the image; `list_fits` listed those of each row of windows."""

    def __init__(self, e, winners, cells, misfits, row_taps_at, left, columns):
        self._e, self._misfits, self._row_taps_at = e, misfits, row_taps_at
        window, stride, _ = cells.common
        # The windows of each strip are these, so that all strips have all.
        self._shift = 0 if stride > 1 else -1
        windows, self._real = cells.windows[self._shift], cells.inside[self._shift]
        taps = e.constant(windows.type, 0)
        for j in range(window):
            inside = e.splat(taps.type, columns).exceeds(windows * stride + (j - left))
            taps |= e.select(inside, e.constant(taps.type, sum(1 << i * window + j for i in range(window))), 0)
        self._column_taps = taps  # those whose columns are inside, as bits

    def look(self, number, found):
        """Look at the winners of a row of windows."""
        e, winner, numbers = self._e, found[self._shift], self._column_taps.type
        none = e.constant(winner.type, 31)
        tap = e.constant(numbers, 1) << e.select(winner.exceeds(none), none, winner).to(numbers)
        fits = self._column_taps & e.splat(numbers, e.load(int32, self._row_taps_at + number * 8))
        self._misfits.set(self._misfits.get() | e.select(self._real, tap & ~fits, 0))
