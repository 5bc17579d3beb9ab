"""Rows of outputs leave lanes for their images: whole, in every way that they can lie, and nothing beside them."""

import numba
import numpy as np
import pytest

from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.packing import Tiling, ceil_div, new_runs, new_tiles, place_tiles, plain_axis
from pytensor_convnet.kernels.cpu.simd import finish_streaming
from pytensor_convnet.kernels.cpu.unpacking import Stage, unpack_rows

FILTERS, ROWS = 3, 4


@numba.njit
def unpack(staged, filter_step, out, run_rows, streaming):
    """Write one group of lanes, an image each, all rows of which wait on the stage."""
    batch, filters, height, width = out.shape
    lanes = VECTOR_BYTES // out.itemsize
    rows, columns = plain_axis(height), plain_axis(width)
    tiles, runs = new_tiles(lanes), new_runs(1, lanes)
    place_tiles(Tiling(batch, height, width, 1, 1, 1), 0, tiles)
    turned = np.empty(ceil_div(run_rows * width, lanes) * lanes * lanes, out.dtype)
    stage = Stage(width, height, run_rows, streaming)
    unpack_rows(staged, filter_step, 0, height, filters, 0, out, tiles, rows, columns, stage, runs, turned)
    finish_streaming()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("run_rows", [1, 2, 4])
@pytest.mark.parametrize("width", [1, 5, 16, 27, 32])
@pytest.mark.parametrize("idle", [0, 1], ids=["full", "an idle lane"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_number_reaches_its_place(dtype, idle, width, run_rows, streaming):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    random = np.random.default_rng(0)
    # A run is turned by whole squares of lanes.
    staged = random.standard_normal((FILTERS, ROWS * width + lanes, lanes)).astype(dtype)
    shape = lanes - idle, FILTERS, ROWS, width
    # Lanes' images lie whole cache lines apart, or do not; the first number does not begin one.
    numbers = FILTERS * ROWS * width
    for gap in (0, 1):
        memory = np.full((shape[0], -(-numbers // lanes) * lanes + 2 * lanes + gap), np.nan, dtype)
        out = memory[:, 3 : 3 + numbers].reshape(shape)
        assert np.shares_memory(out, memory)
        unpack(staged.ravel(), staged[0].size, out, run_rows, streaming)
        expected = staged[:, : ROWS * width].reshape(FILTERS, ROWS, width, lanes).transpose(3, 0, 1, 2)
        np.testing.assert_array_equal(out, expected[: shape[0]])
        out[:] = np.nan
        assert np.isnan(memory).all(), "it wrote beside the images"
