"""The parallel loop: all chunks, whatever they need."""

import os
import subprocess
import sys

_PROGRAM = """
import numba
import numpy as np
from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.jit import part

INTEGERS = ((numba.int64,),)


@detached(lambda number: (number[::1], number), INTEGERS, lazily=True)
@part
def mark(numbers, place):
    numbers[place] += place + 1


@chunked(lambda number: (number[::1],), INTEGERS)
@part
def mark_chunk(chunk, chunks, numbers):
    mark(numbers, chunk)


@numba.njit
def mark_all(numbers):
    mark_chunk(numbers.size, numbers)


numbers = np.zeros(7, np.int64)
mark_all(numbers)
print(*numbers)
"""


def test_a_thread_of_the_pool_may_load_a_kernel(tmp_path):
    """For which it needs Python, while the thread that waits for it holds no lock of Python's."""
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stdout.split() == ["1", "2", "3", "4", "5", "6", "7"], run.stderr
