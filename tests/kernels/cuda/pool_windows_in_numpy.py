"""What the kernels of pooled correlations over windows do, cell by cell of shared memory, with the constants they get.

The order of work is that of `pool_window_kernel.cu` and `pool_window_grad_kernel.cu`, but threads that do the same to
different numbers do it at once. Sums are not rounded: for whole numbers.
"""

from itertools import pairwise

import numpy as np

from pytensor_convnet.kernels.cuda.hopper_sources import BARRIER_BYTES, MOST_OF_A_BOX, PATTERN_BYTES, ROW_BYTES
from tests.kernels.cuda.window_grads_in_numpy import Program, box

LEAST_KEY = np.int32(-(2**31))
INFINITY = 0x7F800000


# ------------------------------------------------------------------------------------------------ forward


def pooled_in_numpy(plan, images, filters, biases, programs, item_bytes):
    """Maxima, of so many bytes, and winners that so many programs compute together; NaN and -1 where none wrote."""
    k = plan.constants
    shape = k["ALL_FILTERS"], k["OUT_ROWS"], k["OUT_COLUMNS"], k["BATCH"]
    maxima, winners = in_memory(np.full(shape, np.nan), item_bytes), np.full(shape, -1)
    for first in range(min(programs, k["UNITS"])):
        program = PoolProgram(plan, images, biases, maxima, winners.reshape(-1))
        program.pack_filters(filters)
        for turn, unit in enumerate(range(first, k["UNITS"], programs)):
            program.pool(unit, turn % k["STAGES"])
    maxima = maxima[:: item_bytes // 2].reshape(shape)
    return maxima.transpose(3, 0, 1, 2), winners.transpose(3, 0, 1, 2)


def in_memory(array, item_bytes):
    """An array whose elements take so many bytes, as units of 16 bits; NaN in those that no element begins with."""
    units = np.full((array.size, item_bytes // 2), np.nan)
    units[:, 0] = array.reshape(-1)
    return units.reshape(-1)


class PoolProgram:
    """A program of the forward pass, with shared memory of NaN, in numbers of 16 bits."""

    def __init__(self, plan, images, biases, maxima, winners):
        self.k = k = plan.constants
        self.images, self.maxima, self.winners = images, maxima, winners
        self.memory = np.full(plan.shared_bytes // 2, np.nan)
        self.rows = self.memory.reshape(-1, ROW_BYTES // 2)
        self.biases = np.zeros(k["FILTERS"], "float32")
        self.biases[: k["ALL_FILTERS"]] = biases
        self.column_rows = k["TILE_ROWS"] * k["CHANNELS"]
        self.steps = k["SLICES"] * k["SLICE_STEPS"]
        self.is_carried = k["POOL_COLUMNS"] == k["POOL_STEP_COLUMNS"] + 1
        self.no_map = 0 if k["MUTING"] else k["ONES"]
        self.chunks = -(-self.steps // 4)
        self.pitch = k["SUM_PITCH"] if k["SCALED"] else ROW_BYTES  # from the maxima of a filter to those of the next
        parts = sorted([(0, BARRIER_BYTES), *self.parts_of_memory(), (plan.shared_bytes, plan.shared_bytes)])
        for (_, end), (begin, _) in pairwise(parts):
            assert begin >= end, "what others use"
            assert begin % 16 == 0  # of what is stored at once

    def parts_of_memory(self):
        """Where what is used at a time begins and ends: filters, what either warpgroup collects, and stages."""
        k = self.k
        yield BARRIER_BYTES, BARRIER_BYTES + self.chunks * k["FILTERS"] * ROW_BYTES
        for warpgroup in range(2):
            of_maxima, of_winners = self.collected_at(warpgroup)
            yield of_maxima, of_winners
            yield of_winners, of_winners + k["FILTERS"] * ROW_BYTES
        for slot in range(k["STAGES"]):
            begin = k["STAGES_START"] + slot * k["STAGE_BYTES"]
            yield begin, begin + k["STAGE_BYTES"]

    def collected_at(self, warpgroup):
        """Where maxima begin that a warpgroup collects, and where winners."""
        of_maxima = self.k["COLLECTED_START"] + warpgroup * self.k["COLLECTED_BYTES"]
        return of_maxima, of_maxima + self.k["FILTERS"] * self.pitch

    def row_at(self, address):
        """The number of the row that products read from, parts of it in the order that its address says."""
        assert address % PATTERN_BYTES == 0
        return address // ROW_BYTES

    def packed_filters(self):
        first = self.row_at(BARRIER_BYTES)
        packed = self.rows[first : first + self.chunks * self.k["FILTERS"]]
        return packed.reshape(self.chunks, self.k["FILTERS"], 64)

    def pack_filters(self, filters):
        k, packed = self.k, self.packed_filters()
        for row in range(64 * self.chunks):
            slice_, within = divmod(row, 16 * k["SLICE_STEPS"])
            of_slice, rest = divmod(within, self.column_rows)
            i, channel = divmod(rest, k["CHANNELS"])
            j = slice_ * k["SLICE_COLUMNS"] + of_slice
            exists = of_slice < k["SLICE_COLUMNS"] and i < k["TAPS_DOWN"] and j < k["TAPS_ACROSS"]
            if k["FLIP"]:
                i, j = k["TAPS_DOWN"] - 1 - i, k["TAPS_ACROSS"] - 1 - j
            packed[row // 64, :, row % 64] = 0
            if exists:
                packed[row // 64, : k["ALL_FILTERS"], row % 64] = filters[:, channel, i, j]

    def pool(self, unit, slot):
        k = self.k
        batch, unit = unit % k["BATCH_BLOCKS"] * 64, unit // k["BATCH_BLOCKS"]
        first, row = unit % k["RUNS"] * k["RUN"], unit // k["RUNS"]
        windows = min(k["RUN"], k["OUT_COLUMNS"] - first)
        tile = self.fetch(slot, batch, row, first)
        each = (windows + 1) // 2
        for warpgroup in range(2):
            begin = warpgroup * each
            end = min(begin + each, windows)
            if begin < end:
                self.pool_run(tile, warpgroup, batch, row, first, begin, end)

    def fetch(self, slot, batch, row, first):
        """Bring what a run of windows sees, zeros behind it, and tell the row that it begins at."""
        k = self.k
        top = (row * k["POOL_STEP_ROWS"] - k["POOL_TOP"]) * k["STEP_ROWS"] - k["TOP"]
        left = (first * k["POOL_STEP_COLUMNS"] - k["POOL_LEFT"]) * k["STEP_COLUMNS"] - k["LEFT"]
        shape = 64, k["CHANNELS"], k["TILE_ROWS"], k["TILE_COLUMNS"]
        assert max(shape) <= MOST_OF_A_BOX
        tile = self.row_at(k["STAGES_START"] + slot * k["STAGE_BYTES"])
        brought = box(self.images, (batch, 0, top, left), shape)
        stage = self.rows[tile : tile + k["STAGE_BYTES"] // ROW_BYTES]
        stage[: len(brought)] = brought
        stage[len(brought) :] = 0
        return tile

    def pool_run(self, tile, warpgroup, batch, row, first, begin, end):
        k = self.k
        window = np.full((64, k["FILTERS"]), self.no_map, "int32")
        map_row = row * k["POOL_STEP_ROWS"] - k["POOL_TOP"]

        def find(c, j):
            map_column = first * k["POOL_STEP_COLUMNS"] - k["POOL_LEFT"] + c
            column = tile + c * k["STEP_COLUMNS"] * self.column_rows
            return self.largest_keys(column, map_row, map_column, j)

        if self.is_carried:
            window = np.maximum(window, find(begin * k["POOL_STEP_COLUMNS"], 0))
        for x in range(begin, end):
            for j in range(1 if self.is_carried else 0, k["POOL_COLUMNS"]):
                largest = find(x * k["POOL_STEP_COLUMNS"] + j, j)
                window = np.maximum(window, largest)
            self.write_window(window, warpgroup, batch, row, first + x)
            window = np.full_like(window, self.no_map)
            if self.is_carried:  # its last column is the first of the next window
                window = np.maximum(window, largest + np.int32(k["POOL_COLUMNS"] - 1))

    def largest_keys(self, column, map_row, map_column, j):
        k = self.k
        largest = np.full((64, k["FILTERS"]), LEAST_KEY)
        if not 0 <= map_column < k["MAP_COLUMNS"]:
            return largest
        step = np.arange(self.steps)
        of_steps = step // k["SLICE_STEPS"] * k["SLICE_COLUMNS"] * self.column_rows + step % k["SLICE_STEPS"] * 16
        of_steps = (of_steps[:, None] + np.arange(16)).reshape(-1)
        packed = self.packed_filters().transpose(0, 2, 1).reshape(-1, k["FILTERS"])[: len(of_steps)]
        for first in range(0, k["POOL_ROWS"], k["AT_ONCE"]):
            for i in range(first, min(first + k["AT_ONCE"], k["POOL_ROWS"])):
                if not 0 <= map_row + i < k["MAP_ROWS"]:
                    continue
                seen = self.rows[column + i * k["STEP_ROWS"] * k["CHANNELS"] + of_steps]
                maps = (seen.T @ packed).astype("float32") + self.biases
                code = k["ONES"] - i * k["POOL_COLUMNS"] - j
                largest = np.maximum(largest, maps.view("int32") & np.int32(~k["ONES"]) | np.int32(code))
        return largest

    def write_window(self, window, warpgroup, batch, row, x):
        """Put a window's maxima and winners into shared memory, and from there some images at a time into memory."""
        k = self.k
        values = (window & np.int32(~k["ONES"])).view("float32")
        winners = ~window & k["ONES"]
        if k["MUTING"]:
            winners = np.where((window - np.int32(1)).view("uint32") >= INFINITY + k["ONES"], 255, winners)
        places = self.places_of_collected(warpgroup)
        for filter in range(k["FILTERS"]):
            for place, collected in zip(places, (values, winners)):
                self.memory[place[filter]] = collected[:, filter]
        images, filters = k["CELL_IMAGES"], np.arange(k["ALL_FILTERS"])
        for cell in range(0, 64, images):
            if batch + cell >= k["BATCH"]:
                continue
            to = ((filters * k["OUT_ROWS"] + row) * k["OUT_COLUMNS"] + x) * k["BATCH"] + batch + cell
            assert not (to % images).any()  # stored at once
            to = to[:, None] + np.arange(images)
            of_maxima = to * (2 if k["SCALED"] else 1)
            assert np.isnan(self.maxima[of_maxima]).all(), "written twice"
            for place, result, at in zip(places, (self.maxima, self.winners), (of_maxima, to)):
                result[at] = self.memory[place[: k["ALL_FILTERS"], cell : cell + images]]

    def places_of_collected(self, warpgroup):
        """Where the maxima of each filter and image lie in shared memory, and the winners."""
        filters, images = np.arange(self.k["FILTERS"])[:, None], np.arange(64)
        of_maxima, of_winners = self.collected_at(warpgroup)
        of_maxima += filters * self.pitch + images * (4 if self.k["SCALED"] else 2)
        return of_maxima // 2, (of_winners + filters * ROW_BYTES + images * 2) // 2


# ---------------------------------------------------------------------------------------------- gradients


class SpreadingProgram(Program):
    """A share of the filter gradient, with stages of maps that are spread from pooled gradients, and may be kept.

    Parameters
    ----------
    pooled : array, (filters, rows, columns, images)
    item_bytes : int
        Of a pooled gradient in memory.
    kept : array or None, (images, filters, columns, rows)
        Where maps are written.
    """

    def __init__(self, constants, images, pooled, winners, share, block, item_bytes, kept):
        super().__init__(constants, images, np.empty((0, 0, 0, 0)), share, block)
        self.pooled, self.winners = in_memory(pooled, item_bytes), winners.reshape(-1)
        self.kept = kept if constants["KEPT"] and block % constants["CHUNKS"] == 0 else None
        self.spread = iter(())
        threads, at_once = np.arange(constants["SPREADING"]), constants["SPREADING"] // 8
        part = np.arange(-(-constants["FILTERS"] // at_once))[:, None]
        self.image = (threads & 7) * 8
        self.filters = part * at_once + (threads >> 3)  # of each part of a thread's filters
        self.has = (self.filters < constants["FILTERS"]) & (self.filter + self.filters < constants["ALL_FILTERS"])

    def run(self):
        super().run()
        assert next(self.spread, None) is None, "a stage that nothing is multiplied by"

    def stage_of_maps(self, batch, y, column):
        k = self.k
        if column % (2 * k["RUN"]) == 0:
            assert next(self.spread, None) is None, "a stage that nothing is multiplied by"
            self.spread = self.spread_row(batch, y, column)
        stage = next(self.spread)
        if self.kept is not None:
            shape = k["STAGE_PIXELS"], k["FILTERS"], k["IMAGES"]
            rows = stage[: k["STAGE_PIXELS"] * k["FILTERS"]].reshape(shape).transpose(2, 1, 0)
            to = self.kept[batch:, self.filter :, column:, y][: shape[2], : shape[1], : shape[0]]
            to[:] = rows[tuple(map(slice, to.shape))]
        return stage

    def spread_row(self, batch, y, start):
        """The stages of a row of maps, from window to window of the pool."""
        k = self.k
        stage_pixels, step = k["STAGE_PIXELS"], k["POOL_STEP_COLUMNS"]
        width = max(k["POOL_COLUMNS"], step)
        later_pixels = width - step
        pixels = min(2 * k["RUN"], k["MAP_COLUMNS"] - start)
        end = start + -(-pixels // stage_pixels) * stage_pixels
        later = np.zeros((later_pixels, *self.filters.shape, 8))
        column = (start + k["POOL_LEFT"]) // step - -(-later_pixels // step)
        ahead = [self.cells_of(batch, y, column + a) for a in range(k["AHEAD"])]
        windows = 0  # of images, asked for
        while column * step - k["POOL_LEFT"] < end:
            ahead.append(self.cells_of(batch, y, column + k["AHEAD"]))
            sums = np.zeros((width, *later.shape[1:]))
            sums[:later_pixels] = later
            for first_winner, values, winners in ahead.pop(0):
                for j in range(k["POOL_COLUMNS"]):
                    sums[j] += np.where(winners == first_winner + j, values, 0)
            later = sums[step : step + later_pixels].copy()
            for j in range(step):
                x = column * step - k["POOL_LEFT"] + j
                if not start <= x < end:
                    continue
                windows += (x - start) % k["RUN"] == 0
                q = (x - start) % stage_pixels
                if q == 0:
                    stage = np.full((k["STAGE_BYTES"] // ROW_BYTES, 64), np.nan)
                self.put_pixel(stage, q, sums[j])
                if q == stage_pixels - 1:
                    yield stage
            column += 1
        assert windows == -(-pixels // k["RUN"])

    def cells_of(self, batch, y, column):
        """Of the windows in a column that may hold a row of maps, each: its first winner there, values and winners."""
        k, cells = self.k, []
        lowest, image = (y + k["POOL_TOP"]) // k["POOL_STEP_ROWS"], batch + self.image
        for r in range(-(-k["POOL_ROWS"] // k["POOL_STEP_ROWS"])):
            row = lowest - r
            within = y + k["POOL_TOP"] - row * k["POOL_STEP_ROWS"]
            there = within < k["POOL_ROWS"] and 0 <= row < k["OUT_ROWS"] and 0 <= column < k["OUT_COLUMNS"]
            read = self.has & there & (image < k["BATCH"])
            place = ((self.filter + self.filters) * k["OUT_ROWS"] + row) * (k["OUT_COLUMNS"] * k["BATCH"]) + image
            place = np.where(read, place + column * k["BATCH"], 0)[..., None] + np.arange(8)
            values, winners = self.pooled[place * (k["MAP_BYTES"] // 2)], self.winners[place]
            cells.append(
                (within * k["POOL_COLUMNS"], *(np.where(read[..., None], found, 0) for found in (values, winners)))
            )
        return cells

    def put_pixel(self, stage, q, pixel):
        for filters, numbers in zip(self.filters, pixel):
            exists = filters < self.k["FILTERS"]
            rows = q * self.k["FILTERS"] + filters[exists]
            stage[rows[:, None], self.image[exists, None] + np.arange(8)] = numbers[exists]


def spread_in_numpy(k, images, pooled, winners, item_bytes, kept):
    """A program of each share and block, for `computed_in_numpy`, of pooled gradients and winners in bc01."""
    pooled, winners = (np.ascontiguousarray(array.transpose(1, 2, 3, 0)) for array in (pooled, winners))
    return lambda share, block: SpreadingProgram(k, images, pooled, winners, share, block, item_bytes, kept)
