"""What the filter gradient's kernel over windows does, row by row of shared memory, with the constants that it gets."""

import numpy as np

from pytensor_convnet.kernels.cuda.hopper_sources import PATTERN_BYTES, ROW_BYTES


def box(tensor, first, shape):
    """What one copy brings, the innermost dimension first; zeros where the tensor has nothing."""
    places = [np.arange(start, start + length) for start, length in zip(first, shape)]
    inside = [(place >= 0) & (place < length) for place, length in zip(places, tensor.shape)]
    result = np.zeros(shape)
    result[np.ix_(*inside)] = tensor[np.ix_(*(place[there] for place, there in zip(places, inside)))]
    return result.transpose(3, 2, 1, 0).reshape(-1, shape[0])


class Program:
    """One share of the work and one block of sums, with shared memory of NaN."""

    def __init__(self, constants, images, maps, share, block):
        self.k = constants
        self.images, self.maps = images, maps.transpose(0, 1, 3, 2)
        self.channel = block % constants["CHUNKS"] * constants["CHANNELS"]
        self.filter = block // constants["CHUNKS"] * constants["FILTERS"]
        self.units = range(
            constants["UNITS"] * share // constants["SHARES"], constants["UNITS"] * (share + 1) // constants["SHARES"]
        )
        assert constants["WINDOW_BYTES"] % PATTERN_BYTES == constants["STAGE_BYTES"] % PATTERN_BYTES == 0
        rows = constants["WINDOW_BYTES"] // ROW_BYTES
        self.windows = np.full((2, rows, constants["IMAGES"]), np.nan)
        self.column_rows = constants["TAPS_DOWN"] * constants["CHANNELS"]
        self.sums = np.zeros((2, 64 * constants["TILES_EACH"], constants["TILE_N"]))

    def run(self):
        k, march = self.k, 0
        for unit in self.units:
            y, strip = unit % k["MAP_ROWS"], unit // k["MAP_ROWS"] % k["STRIPS"]
            batch = unit // (k["MAP_ROWS"] * k["STRIPS"]) * k["IMAGES"]
            march = 0 if y == 0 or unit == self.units[0] or march == k["LONGEST"] else march
            for window in range(2):
                column = (2 * strip + window) * k["RUN"]
                if column < k["MAP_COLUMNS"]:
                    self.fetch(window, batch, y, column, march)
                    self.multiply(window, batch, y, column, march)
            march += 1

    def fetch(self, window, batch, y, column, march):
        k = self.k
        top, left = y * k["STEP_ROWS"] - k["TOP"], column * k["STEP_COLUMNS"] - k["LEFT"]
        if march == 0:
            rows = box(
                self.images,
                (batch, self.channel, top, left),
                (k["IMAGES"], k["CHANNELS"], k["TAPS_DOWN"], k["COLUMNS"]),
            )
            self.windows[window, : len(rows)] = rows
            return
        top += k["TAPS_DOWN"] - k["STEP_ROWS"]
        down = k["TAPS_DOWN"] + (march - 1) * k["STEP_ROWS"]
        for x in range(k["COLUMNS"]):
            rows = box(
                self.images, (batch, self.channel, top, left + x), (k["IMAGES"], k["CHANNELS"], k["STEP_ROWS"], 1)
            )
            to = x * self.column_rows + down * k["CHANNELS"]
            self.windows[window, to : to + len(rows)] = rows

    def multiply(self, window, batch, y, column, march):
        k = self.k
        pixels = min(k["RUN"], k["MAP_COLUMNS"] - column)
        for i in range(0, pixels, k["STAGE_PIXELS"]):
            stage = self.stage_of_maps(batch, y, column + i)
            for q in range(k["STAGE_PIXELS"]):
                first = march * k["STEP_ROWS"] * k["CHANNELS"]
                first += min(i + q, pixels - 1) * k["STEP_COLUMNS"] * self.column_rows
                taps, filters = self.windows[window, first:], stage[q * k["FILTERS"] :]
                rows, columns = (taps, filters) if k["TAPS_AS_ROWS"] else (filters, taps)
                for warpgroup in range(2):
                    if k["SUM_SPLIT"] == 2 and q % 2 != warpgroup:
                        continue
                    begin = 0 if k["SUM_SPLIT"] == 2 else warpgroup * len(self.sums[0])
                    tile = rows[begin : begin + len(self.sums[0])]
                    assert len(tile) == len(self.sums[0]), "beyond shared memory"
                    self.sums[warpgroup] += tile @ columns[: k["TILE_N"]].T

    def stage_of_maps(self, batch, y, column):
        """Some pixels of a row of maps, and behind them what was there before."""
        k = self.k
        stage = np.full((k["STAGE_BYTES"] // ROW_BYTES, k["IMAGES"]), np.nan)
        rows = box(self.maps, (batch, self.filter, column, y), (k["IMAGES"], k["FILTERS"], k["STAGE_PIXELS"], 1))
        stage[: len(rows)] = rows
        return stage

    def rows_of_product(self):
        both = self.sums.sum(0) if self.k["SUM_SPLIT"] == 2 else self.sums.reshape(-1, self.k["TILE_N"])
        return both[: self.k["PARTIAL_ROWS"]]


def computed_in_numpy(k, shape, program_of):
    """The filter gradient, of ``shape``, that programs of all shares and blocks compute together.

    Parameters
    ----------
    program_of : function of a share and a block
    """
    result = np.full(shape, np.nan)
    taps = [
        (j, i, c) for j in range(k["TAPS_ACROSS"]) for i in range(k["TAPS_DOWN"]) for c in range(k["CHANNELS"])
    ]  # fmt: skip
    for block in range(k["BLOCKS"]):
        programs = [program_of(share, block) for share in range(k["SHARES"])]
        for program in programs:
            program.run()
        sums = sum(program.rows_of_product() for program in programs)
        sums = sums if k["TAPS_AS_ROWS"] else sums.T
        for (j, i, c), row in zip(taps, sums):
            if k["FLIP"]:
                i, j = k["TAPS_DOWN"] - 1 - i, k["TAPS_ACROSS"] - 1 - j
            filters = slice(programs[0].filter, min(programs[0].filter + k["FILTERS"], k["ALL_FILTERS"]))
            result[filters, programs[0].channel + c, i, j] = row[: filters.stop - filters.start]
    return result
