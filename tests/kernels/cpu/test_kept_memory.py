"""What freed arrays leave is given to the next ones, within a limit, by any thread and in forked processes."""

import multiprocessing
import os
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

from pytensor_convnet.kernels.cpu.kept_memory import kept_bytes, kept_limit, release_memory
from pytensor_convnet.kernels.cpu.memory import KEPT_BYTES, new_array

NUMBERS = 1 << 16


@numba.njit(nogil=True)
def array(numbers):
    return new_array((numbers,), np.float32)


@pytest.fixture(autouse=True)
def nothing_kept():
    release_memory()
    assert kept_bytes() == 0
    yield
    release_memory()


def test_a_freed_array_is_kept_and_used_again():
    first = array(NUMBERS)
    place = first.ctypes.data
    assert kept_bytes() == 0
    del first
    assert kept_bytes() == 4 * NUMBERS
    second = array(NUMBERS)
    assert second.ctypes.data == place
    assert kept_bytes() == 0


@pytest.mark.parametrize(("numbers", "reused"), [(NUMBERS - 100, True), (NUMBERS + 1, False), (NUMBERS // 2, False)])
def test_only_for_arrays_of_about_its_size(numbers, reused):
    place = array(NUMBERS).ctypes.data
    other = array(numbers)
    assert (other.ctypes.data == place) == reused


def test_arrays_in_use_share_nothing():
    arrays = [array(NUMBERS) for _ in range(5)]
    del arrays[1:3]
    arrays += [array(NUMBERS) for _ in range(4)]
    for number, each in enumerate(arrays):
        each[:] = number
    assert [each.min() == each.max() == number for number, each in enumerate(arrays)] == [True] * 7


def test_small_arrays_are_left_to_malloc():
    array(KEPT_BYTES // 4 - 1)
    assert kept_bytes() == 0


def test_more_blocks_than_there_are_places_for_give_up_the_oldest():
    arrays = [array(NUMBERS + 64 * i) for i in range(100)]
    last = arrays[-1].ctypes.data
    for _ in range(len(arrays)):
        del arrays[0]
    assert 0 < kept_bytes() < 100 * 4 * (NUMBERS + 6400)
    assert array(NUMBERS + 64 * 99).ctypes.data == last


PROGRAM = """
import numba, numpy as np
from pytensor_convnet.kernels.cpu.kept_memory import kept_bytes, kept_limit
from pytensor_convnet.kernels.cpu.memory import new_array

@numba.njit
def array(numbers):
    return new_array((numbers,), np.float32)

arrays = [array(1 << 18) for _ in range(5)]
while arrays:
    arrays.pop()
    assert kept_bytes() <= kept_limit()
still_there_at_exit = array(1 << 18)
print(kept_limit(), kept_bytes())
"""


def limited(nbytes):
    command = [sys.executable, "-c", PROGRAM]
    environment = {"PYTENSOR_CONVNET_KEPT_BYTES": nbytes}
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("limit", "kept"), [(3 << 20, 2 << 20), (0, 0)])
def test_no_more_than_the_limit_is_kept(limit, kept):
    run = limited(str(limit))
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(limit), str(kept)]


def test_a_limit_that_is_no_number_is_refused():
    assert "PYTENSOR_CONVNET_KEPT_BYTES must be a number of bytes, not 'much'" in limited("much").stderr


def test_by_default_a_sixteenth_of_the_memory():
    assert 1 << 24 < kept_limit() < 1 << 45


def test_threads_may_make_and_free_arrays_at_once():
    wrong = []

    def work(number):
        for i in range(300):
            arrays = [array(NUMBERS // 4 + 64 * ((i + j) % 7)) for j in range(3)]
            for each in arrays:
                each[:] = number
            wrong.extend(each for each in arrays if (each != number).any())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _make_and_free():
    array(NUMBERS)[:] = 1
    assert array(NUMBERS).size == NUMBERS


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system does not fork")
def test_a_forked_child_may_use_what_was_kept():
    array(NUMBERS)
    child = multiprocessing.get_context("fork").Process(target=_make_and_free)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert kept_bytes() == 4 * NUMBERS
