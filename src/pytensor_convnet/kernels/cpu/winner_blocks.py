"""The loops over winners: gradients of filters and of images from what won alone.

A pixel that won has a *patch*, the part of an image that the filter saw there. Its gradient times the patch adds to
the filter's gradient, and its gradient times the filter adds to the patch of the image's gradient; all other pixels
add nothing. Patches overlap and lie anywhere, so lanes are neighbours within a patch here: channels of one or more of
its columns (`patches`).

A patch is some *runs* of vectors, one for each row of the filter or for a few. Numbers that say where patches are, and
the winners that they come from, are integers as wide as the floats and travel as the bits of floats.
"""

from llvmlite import ir

from pytensor_convnet.kernels.cpu.emission import Value, emitted
from pytensor_convnet.kernels.cpu.llvm import REGISTERS, VECTOR_BYTES, int64, item_bytes

_MOST = REGISTERS - REGISTERS // 4 + 1
"""Vectors of a block: they stay in registers, beside a factor and what is loaded."""

BLOCK_RUNS = (5, 3, 2, 1)
"""Runs that a block of `sum_patches` may have."""

BLOCK_VECTORS = min(5, _MOST // max(BLOCK_RUNS))
"""The most vectors in each. Of longer ones a part is taken at a time: few sizes, so that little needs compiling."""

MOST_VECTORS = min(8, _MOST)
"""The most vectors of a block of `add_listed`, which has one run."""

_INDEPENDENT = 10
"""Multiply-adds that should not wait for each other."""


def numbers_type(vector):
    """Integers as wide as the floats of ``vector``."""
    return ir.VectorType(ir.IntType(8 * item_bytes(vector)), vector.count)


@emitted(arrays=1)
def place_windows(e, vector, out_rows, out_columns, stride_rows, stride_columns, top, left, rows, columns):
    """Write, for all windows of a plane in order, the row and the column of their first taps in the maps to ``rows``
    and ``columns``; a vector more is overwritten."""
    wide = numbers_type(vector)
    place = e.variable(e.integer(0))
    with e.range(0, out_rows) as y:
        row = e.splat(wide, y * stride_rows - top)
        with e.range(0, out_columns, vector.count) as x:
            at = place.get() + x * item_bytes(vector)
            e.store(rows + at, row)
            e.store(columns + at, (e.lane_numbers(wide) + x) * stride_columns - left)
        place.set(place.get() + out_columns * item_bytes(vector))


@emitted(arrays=2, returns=True)
def list_winners(
    e, vector, narrow, winners, count, window_rows, window_columns, first_rows, first_columns, rows, columns,
    row_step, column_step, shift, places,
):  # fmt: skip
    """Write, for ``count`` windows, where the patches of their winners are.

    A winner in row i and column j of its window, which starts at ``(y, x)`` of maps of ``rows`` by ``columns``, has its
    patch at ``shift + (y + i) * row_step + (x + j) * column_step``. Returns how many vectors have winners that are
    none of their window's pixels; what is written for these is nonsense. A vector more is overwritten.
    """
    wide = numbers_type(vector)
    found = e.variable(e.integer(0))
    inverse = (window_columns + 65535) // window_columns  # exact for numbers of one byte

    def place(first, left):
        at = first * item_bytes(vector)
        few = e.load(narrow, winners + first)
        if left is not None:
            few = e.load_first(winners + first, left, e.constant(narrow, 0))
        winner = Value(e, e.builder.zext(few.value, wide))
        i = (winner * inverse) >> 16
        row = e.load(wide, first_rows + at) + i
        column = e.load(wide, first_columns + at) + (winner - i * window_columns)
        outside = i.exceeds(window_rows - 1) | row.exceeds(rows - 1) | column.exceeds(columns - 1)
        if left is not None:
            outside &= e.lane_numbers(wide) < left
        with e.when(outside.first_set() < vector.count):
            found.set(found.get() + 1)
        e.store(places + at, row * row_step + column * column_step + shift)

    whole = count // vector.count * vector.count
    with e.range(0, whole, vector.count) as first:
        place(first, None)
    with e.when(whole < count):
        place(whole, count - whole)
    return found.get()


def _for_size(e, sizes, most, runs, vectors, body):
    """Emit ``body(r, v)`` for each size of block of so many runs, and at most so many vectors in each; that of the
    run-time values ``runs`` and ``vectors`` is run."""
    done = e.builder.append_basic_block("done")
    choice = e.builder.switch((runs * 16 + vectors).value, done)
    for r in sizes:
        for v in range(1, most + 1):
            block = e.builder.append_basic_block(f"size_{r}_{v}")
            choice.add_case(int64(16 * r + v), block)
            e.builder.position_at_end(block)
            body(r, v)
            e.builder.branch(done)
    e.builder.position_at_end(done)


def _listed(e, vector, places, factors, n):
    """Entry ``n`` of a list: the place, and the factor in all lanes."""
    size = item_bytes(vector)
    place = e.load(ir.IntType(8 * size), places + n * size).to(int64)
    return place, e.splat(vector, e.load(vector.element, factors + n * size))


@emitted(arrays=1)
def sum_patches(e, vector, runs, vectors, packed, places, factors, count, run_step, out, out_step):
    """Add to a block of a filter's gradient what ``count`` listed winners contribute::

        for n in range(count): for r in range(runs): for v in range(vectors):
            out[r * out_step + v] += factors[n] * packed[places[n] + r * run_step + v]

    where a number of ``out`` and ``packed`` is a vector. Floor: a multiply-add, and a load, for each trip of the nest.
    """

    def body(r, v):
        size, unrolled = r * v, max(1, _INDEPENDENT // (r * v))

        def add(n, sums):
            """One winner after the other, each to the next ``size`` of the sums."""
            totals: list[Value] = []
            for u in range(len(sums) // size):
                place, factor = _listed(e, vector, places, factors, n + u)
                for i in range(r):
                    line = packed + place + run_step * i
                    for j in range(v):
                        pixels = e.load(vector, line + j * VECTOR_BYTES)
                        totals.append(e.multiply_add(factor, pixels, sums[len(totals)]))
            return totals

        sums = [e.constant(vector, 0)] * (size * unrolled)
        sums = e.fold(0, count - unrolled + 1, unrolled, sums, add)
        if unrolled > 1:
            sums[:size] = e.fold(count // unrolled * unrolled, count, 1, sums[:size], add)
        for i in range(r):
            for j in range(v):
                to = out + out_step * i + j * VECTOR_BYTES
                e.store(to, sum(sums[i * v + j :: size], e.load(vector, to)))

    _for_size(e, BLOCK_RUNS, BLOCK_VECTORS, runs, vectors, body)


@emitted(arrays=2, returns=True)
def sort_winners(e, vector, narrow, winners, values, plane, filters, taps, weights_step, counts, places, factors):
    """Sort ``filters`` values of one window, which lie ``plane`` windows apart, by the taps that won.

    Tap t gets ``counts[t]`` values: from entry ``t * filters`` on in ``factors``, and the places of their filters'
    weights in ``places``. Places and counts are 8 bytes each. Returns how many winners are no taps.
    """
    with e.range(0, taps) as tap:
        e.store(counts + tap * 8, e.integer(0))
    found = e.variable(e.integer(0))
    with e.range(0, filters) as f:
        winner = e.load(narrow.element, winners + f * plane).unsigned()
        fits = winner < taps
        found.set(e.select(fits, found.get(), found.get() + 1))
        tap = e.select(fits, winner, 0)
        count = e.load(int64, counts + tap * 8)
        entry = tap * filters + count
        e.store(places + entry * 8, f * weights_step)
        size = item_bytes(vector)
        e.store(factors + entry * size, e.load(vector.element, values + f * plane * size))
        e.store(counts + tap * 8, count + 1)
    return found.get()


@emitted(arrays=1)
def move_entries(e, vector, places, factors, count, to_places, to_factors):
    """Copy ``count`` entries of a list; a few more are overwritten."""
    wide = ir.VectorType(int64, VECTOR_BYTES // 8)
    with e.range(0, count, wide.count) as n:
        e.store(to_places + n * 8, e.load(wide, places + n * 8))
    size = item_bytes(vector)
    with e.range(0, count, vector.count) as n:
        e.store(to_factors + n * size, e.load(vector, factors + n * size))


@emitted(arrays=1)
def add_listed(e, vector, vectors, weights, lists, count, places, factors, packed):
    """Add to an image's gradient what the winners at some pixels contribute, for a run of all filters::

        for target, begin, end in lists[:count]: for v in range(vectors):
            packed[target + v] += sum(factors[n] * weights[places[n] + v] for n in range(begin, end))

    where a number of ``weights`` and ``packed`` is a vector. Floor: a multiply-add, and a load, for each trip of the
    nest.
    """

    def body(_, v):
        with e.range(0, count) as number:
            target, begin, end = (e.load(int64, lists + number * 24 + 8 * i) for i in range(3))

            def add(n, sums):
                place = weights + e.load(int64, places + n * 8)
                factor = e.splat(vector, e.load(vector.element, factors + n * item_bytes(vector)))
                pixels = (e.load(vector, place + j * VECTOR_BYTES) for j in range(v))
                return [e.multiply_add(factor, some, total) for some, total in zip(pixels, sums)]

            for j, total in enumerate(e.fold(begin, end, 1, [e.constant(vector, 0)] * v, add)):
                to = packed + target + j * VECTOR_BYTES
                e.store(to, e.load(vector, to) + total)

    _for_size(e, (1,), MOST_VECTORS, e.integer(1), vectors, body)
