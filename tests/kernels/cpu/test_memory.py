"""Outputs in huge pages are ordinary arrays, and the disk cache keeps the code that asks for them."""

import subprocess
import sys

import numba
import numpy as np
import pytest

from pytensor_convnet.kernels.cpu.memory import HUGE_BYTES, new_array

PROGRAM = """
import numba, numpy as np
from pytensor_convnet.kernels.cpu.memory import new_array

@numba.njit(cache=True)
def ones(rows):
    array = new_array((rows, 1024), np.float32)
    array[:] = 1
    return array

assert ones(4096).sum() == 4096 * 1024
print(sum(ones.stats.cache_hits.values()))
"""


@numba.njit
def numbered(shape, dtype):
    array = new_array(shape, dtype)
    array.ravel()[:] = np.arange(array.size)
    return array


@pytest.mark.parametrize("shape", [(0, 3), (5, 7), (HUGE_BYTES // 8, 1), (1000, 1231)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_outputs_are_arrays_like_any_other(shape, dtype):
    array = numbered(shape, dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    np.testing.assert_array_equal(array, np.arange(array.size, dtype=dtype).reshape(shape))


def test_the_disk_cache_keeps_it(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    hits = [subprocess.run([sys.executable, program], check=True, capture_output=True, text=True) for _ in range(2)]
    assert [int(run.stdout) for run in hits] == [0, 1]
