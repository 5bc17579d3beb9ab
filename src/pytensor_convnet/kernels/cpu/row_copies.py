"""Rows of planes between memory and bands (see `bands`), in either direction."""

from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import MASK_REGISTERS, item_bytes

AHEAD = 8192
"""How far ahead of what is copied, in bytes, memory is told to bring the next. Short rows with work between them are
too irregular for the processor to foresee."""

CACHED_BYTES = 1 << 25
"""Images of fewer bytes are taken to be in a cache."""


@part
def fetch_ahead(nbytes):
    """How far ahead of what is read to fetch, for images of so many bytes: not at all where caches have them.

    There, fetching took half as long as all the rest.
    """
    return 0 if nbytes < CACHED_BYTES else AHEAD


# ------------------------------------------------------------------------------------------- to a band


def _emit_copy_rows(e, vector, source, row_bytes, rows, count, target, pitch, filling_at):
    """Copy rows of ``count`` adjacent numbers; after fewer than a vector has, the filling follows them."""
    item, lanes = item_bytes(vector), vector.count
    filling = e.load(vector, filling_at)

    def copy_short_row(place, line):
        e.fetch(place + AHEAD)
        e.store(line, e.load_first(place, count, filling))

    def copy_row(place, line):
        with e.range(0, count - (lanes - 1), lanes) as column:
            e.fetch(place + column * item + AHEAD)
            e.store(line + column * item, e.load(vector, place + column * item))
        last = (count - lanes) * item
        e.store(line + last, e.load(vector, place + last))

    with e.range(0, rows) as row:
        place, line = source + row * row_bytes, target + row * pitch
        e.choose(count < lanes, lambda: copy_short_row(place, line), lambda: copy_row(place, line))


@emitted(arrays=1)
def _copy_rows(e, vector, *arguments):
    _emit_copy_rows(e, vector, *arguments)


@emitted(arrays=2)
def _copy_rows_beside(e, _, vector, *arguments):
    _emit_copy_rows(e, vector, *arguments)


@emitted(arrays=1)
def _split_rows(e, vector, source, row_bytes, rows, count, even_target, odd_target, pitch, filling_at):
    """Copy the numbers at even places of each row to one phase and those at odd places to another."""
    item, lanes = item_bytes(vector), vector.count
    filling = e.load(vector, filling_at)
    evens, odds = range(0, 2 * lanes, 2), range(1, 2 * lanes, 2)
    rest = count // (2 * lanes) * (2 * lanes)

    def split(offset, half, row, load):
        place = source + row * row_bytes + offset
        e.fetch(place + AHEAD)
        e.fetch(place + AHEAD + lanes * item)
        a, b = load(place, 0), load(place + lanes * item, lanes)
        e.store(even_target + row * pitch + half, e.shuffle(a, b, evens))
        e.store(odd_target + row * pitch + half, e.shuffle(a, b, odds))

    with e.range(0, rows) as row:
        with e.range(0, rest, 2 * lanes) as column:
            split(column * item, column * (item // 2), row, lambda place, _: e.load(vector, place))
        with e.when(rest < count):
            some = count - rest
            split(
                rest * item, rest * (item // 2), row, lambda place, at: e.load_first(place, some - at, filling)
            )  # fmt: skip


@emitted(arrays=1)
def _deal_rows(
    e, vector, source, row_bytes, pixel_bytes, rows, count, target, pitch, step, phase_bytes, phase, cell_offset
):
    """Copy numbers one by one, in turn to each phase; the first to ``phase``, ``cell_offset`` bytes into its line."""
    with e.range(0, rows) as row:
        line = target + row * pitch + cell_offset
        place = e.variable(line + phase * phase_bytes)
        turn = e.variable(phase)
        with e.range(0, count) as column:
            number = e.load(vector.element, source + row * row_bytes + column * pixel_bytes)
            e.store(place.get(), number)
            _turn(e, turn, place, step, phase_bytes, item_bytes(vector))


def _turn(e, turn, place, step, phase_bytes, item):
    """Go on to the place of the next number (or row), in the next phase; after the last phase, one ``item`` on."""
    following = turn.get() + 1
    ended = following >= step
    turn.set(e.select(ended, e.integer(0), following))
    there = place.get() + phase_bytes
    place.set(e.select(ended, there - step * phase_bytes + item, there))


@emitted(arrays=1)
def _transpose_rows(
    e, vector, source, row_bytes, pixel_bytes, rows, count, target, pitch, step, phase_bytes, plane_bytes, phase,
    cell_offset, filling_at,
):  # fmt: skip
    """Copy rows of as many neighbouring planes as a vector has lanes, sorted by phase."""
    item, lanes = item_bytes(vector), vector.count
    with e.range(0, rows) as row, e.range(0, e.minimum(step, count)) as first:
        turn = phase + first
        wrapped = turn >= step
        offset = e.select(wrapped, (turn - step) * phase_bytes + item, turn * phase_bytes)
        line, place = target + row * pitch + cell_offset + offset, source + row * row_bytes + first * pixel_bytes
        cells = (count - first + step - 1) // step
        with e.range(0, cells, lanes) as cell:
            vectors = []
            for lane in range(lanes):
                pixel = place + (cell + lane) * step * pixel_bytes
                vectors.append(e.load(vector, e.select(cell + lane < cells, pixel, filling_at)))
            for lane, values in enumerate(e.transpose(vectors)):
                e.store(line + lane * plane_bytes + cell * item, values)


@part
def copy_band(array, image, channel, first, rows, target, sorted_, together, filling_at):
    """Copy ``rows`` rows from ``first`` on, of one plane or of ``together``, to the lines from ``target`` on."""
    s, item = sorted_, array.itemsize
    pixel_bytes, row_bytes, count = array.strides[3], array.strides[2], array.shape[3]
    source = address_of(array) + image * array.strides[0] + channel * array.strides[1] + first * row_bytes
    if together > 1:
        _transpose_rows(
            array, source, row_bytes, pixel_bytes, rows, count, target, s.pitch, s.step, s.phase, s.plane,
            s.first_phase, s.first_cell, filling_at,
        )  # fmt: skip
    elif pixel_bytes == item and s.step == 1:
        _copy_rows(array, source, row_bytes, rows, count, target + s.first_cell, s.pitch, filling_at)
    elif pixel_bytes == item and s.step == 2:
        even = target + s.first_phase * s.phase + s.first_cell
        odd = target + (1 - s.first_phase) * s.phase + s.first_cell + s.first_phase * item
        _split_rows(array, source, row_bytes, rows, count, even, odd, s.pitch, filling_at)
    else:
        _deal_rows(
            array, source, row_bytes, pixel_bytes, rows, count, target, s.pitch, s.step, s.phase, s.first_phase,
            s.first_cell,
        )  # fmt: skip


@emitted(arrays=1)
def clear(e, vector, target, count):
    """Write ``count`` bytes of zeros, or up to a vector more."""
    with e.range(0, count, item_bytes(vector) * vector.count) as offset:
        e.store(target + offset, e.constant(vector, 0))


@part
def copy_beside(floats, array, image, channel, first, rows, target, before, pitch, filling_at):
    """Copy rows of one plane to lines of one phase, a vector of the lanes that ``floats`` have at a time.

    ``pitch`` and ``before`` are in cells.
    """
    item, pixel_bytes, row_bytes, count = array.itemsize, array.strides[3], array.strides[2], array.shape[3]
    source = address_of(array) + image * array.strides[0] + channel * array.strides[1] + first * row_bytes
    target += before * item
    if pixel_bytes == item:
        _copy_rows_beside(floats, array, source, row_bytes, rows, count, target, pitch * item, filling_at)
    else:
        _deal_rows(array, source, row_bytes, pixel_bytes, rows, count, target, pitch * item, 1, 0, 0, 0)


# ----------------------------------------------------------------------------------------- from a band


def store_within(e, place, column, count, room, values, offset=0):
    """Write a vector of a row's numbers from ``column`` on, ``offset`` bytes after a place.

    Only the row's ``count`` if masks cost nothing. Else whole, if ``room`` numbers from the row's start on may be
    overwritten, as later rows will overwrite them.
    """
    if MASK_REGISTERS:
        e.store_first(place, count - column, values, offset)
        return

    def store_some():
        with e.when(column < count):
            e.store_first(place, count - column, values, offset)

    e.choose(column + values.type.count <= room, lambda: e.store(place, values, offset), store_some)


def _store_row(e, vector, line, count, target, room):
    with e.range(0, count, vector.count) as column:
        offset = column * item_bytes(vector)
        store_within(e, target + offset, column, count, room, e.load(vector, line + offset))


def _interleave_row(e, vector, even, odd, count, target, room):
    item, lanes = item_bytes(vector), vector.count
    low = [place for lane in range(lanes // 2) for place in (lane, lanes + lane)]
    high = [place + lanes // 2 for place in low]
    with e.range(0, count, 2 * lanes) as column:
        offset = column * (item // 2)
        a, b = e.load(vector, even + offset), e.load(vector, odd + offset)
        store_within(e, target + column * item, column, count, room, e.shuffle(a, b, low))
        later = column + lanes
        with e.when(later < count):
            store_within(e, target + later * item, later, count, room, e.shuffle(a, b, high))


def _deal_back_row(e, vector, line, phase, step, phase_bytes, count, target):
    item = item_bytes(vector)
    place, turn = e.variable(line + phase * phase_bytes), e.variable(phase)
    with e.range(0, count) as column:
        e.store(target + column * item, e.load(vector.element, place.get()))
        _turn(e, turn, place, step, phase_bytes, item)


@emitted(arrays=1)
def _store_rows(
    e, vector, lines, pitch, phase_bytes, plane_bytes, step, phase, row_step, row_phase, rows, count, room,
    target,
):  # fmt: skip
    """Write contiguous rows from lines that are sorted by phase in both directions.

    ``lines`` is the first pixel's cell in its line of phase 0.
    """
    item = item_bytes(vector)
    line, turn = e.variable(lines + row_phase * plane_bytes), e.variable(row_phase)
    with e.range(0, rows) as row:
        here, left, place = line.get(), room - row * count, target + row * count * item
        even, odd = here + phase * phase_bytes, here + (1 - phase) * phase_bytes + phase * item
        e.choose(
            step <= 1,
            lambda: _store_row(e, vector, here, count, place, left),
            lambda: e.choose(
                step <= 2,
                lambda: _interleave_row(e, vector, even, odd, count, place, left),
                lambda: _deal_back_row(e, vector, here, phase, step, phase_bytes, count, place),
            ),
        )
        _turn(e, turn, line, row_step, plane_bytes, pitch)


@part
def store_band(lines, sorted_, row_step, row_phase, rows, room, array, target):
    """Write ``rows`` rows of ``array`` to ``target``, from lines sorted by phase in both directions.

    ``room`` numbers from there on may be overwritten.

    Line ``row`` of row phase ``phase`` lies ``phase * sorted_.plane + row * sorted_.pitch`` after ``lines``; the
    first row comes from line 0 of phase ``row_phase``.
    """
    s = sorted_
    _store_rows(
        array, lines + s.first_cell, s.pitch, s.phase, s.plane, s.step, s.first_phase, row_step, row_phase, rows,
        array.shape[3], room, target,
    )  # fmt: skip
