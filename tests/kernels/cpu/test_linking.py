"""Kernels are compiled once, with their parts, and kept on disk under names of their own."""

import multiprocessing
import sys

import numba
import numpy as np
import pytest
from numba import types
from numba.core.codegen import JITCodeLibrary

from pytensor_convnet.kernels.cpu.jit import keep_on_disk, kernel, part
from pytensor_convnet.kernels.cpu.linking import KernelCompiler


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder in which kernels of a test are kept."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


@part
def _halve(number):
    if number < 0:
        raise ValueError("a negative number")
    return number / 2


@part
def _quarters(count, number):
    return np.full(count, _halve(_halve(number)))


def _sum_of_quarters(count, number):
    return _quarters(count, number).sum()


def test_a_kernel_is_the_only_machine_code_made(monkeypatch):
    finished, finish = [], JITCodeLibrary._finalize_final_module

    def note(library):
        finished.append(library.name)
        finish(library)

    monkeypatch.setattr(JITCodeLibrary, "_finalize_final_module", note)
    compiled = numba.njit(pipeline_class=KernelCompiler)(_sum_of_quarters)
    compiled.compile((types.int64, types.float32))
    assert finished == ["_sum_of_quarters"]
    assert compiled(3, np.float32(8)) == 6


def test_parts_raise_what_they_raise():
    with pytest.raises(ValueError, match="a negative number"):
        numba.njit(pipeline_class=KernelCompiler)(_sum_of_quarters)(3, -8.0)


def test_parts_of_a_kernel_serve_other_functions():
    """Numba's own functions among them, which the kernel was the first to call."""
    assert numba.njit(pipeline_class=KernelCompiler)(_sum_of_quarters)(2, 12) == 6

    @numba.njit
    def other(number):
        return _halve(number) + np.full(2, number / 4)[1]

    assert other(12) == 9
    with pytest.raises(ValueError, match="a negative number"):
        other(-1)


def test_a_kernel_read_from_disk_has_its_parts(cache):
    assert kernel(_sum_of_quarters)(3, 8.0) == 6
    again = kernel(_sum_of_quarters)
    assert again(5, 8.0) == 10
    assert sum(again.stats.cache_hits.values()) == 1


def _compile_at_the_same_time(dispatcher, barrier, number):
    files = dispatcher._cache._cache_file
    save = files._save_index
    files._save_index = lambda versions: [barrier.wait(60), save(versions)]  # both have chosen a name by now
    dispatcher.compile((number,))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_forked_processes_store_different_versions_in_different_files(cache):
    def double(number):
        return number * 2

    dispatcher = numba.njit(double)
    keep_on_disk(dispatcher)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(2)
    processes = [
        fork.Process(target=_compile_at_the_same_time, args=(dispatcher, barrier, number))
        for number in (types.int64, types.float64)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(cache.rglob("*.nbc"))) == 2


def test_arithmetic_is_as_written_whoever_calls_first():
    @part
    def what_is_left(a, b):
        return (a + b) - a

    @numba.njit(fastmath=True)
    def caller(a, b):
        return what_is_left(a, b)

    assert caller(1e20, 1.0) == 0  # and not 1, as it would be reordered
