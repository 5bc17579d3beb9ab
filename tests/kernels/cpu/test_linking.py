"""Kernels are compiled once, with their parts, and kept on disk under names of their own."""

import ctypes
import multiprocessing
import sys

import numba
import numpy as np
import pytest
from numba import types
from numba.core.codegen import JITCodeLibrary

from pytensor_convnet.kernels.cpu import linking
from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.jit import callback, keep_on_disk, kernel, part
from pytensor_convnet.kernels.cpu.linking import BriefCompiler, KernelCompiler


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


@pytest.mark.parametrize("compiler", [KernelCompiler, BriefCompiler])
def test_a_kernel_that_only_pointers_reach_is_read_from_disk(cache, compiler):
    def third(count):
        return _quarters(count, 8.0)[2]

    pointers = []
    for hits in (0, 1):
        dispatcher = part(third, pipeline_class=compiler)
        keep_on_disk(dispatcher)
        dispatcher.compile((types.int64,))
        assert sum(dispatcher.stats.cache_hits.values()) == hits
        compiled = dispatcher.overloads[types.int64,]
        pointers.append(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
    assert all(pointers)


def test_brief_kernels_compute_the_same():
    compiled = numba.njit(pipeline_class=BriefCompiler)(_sum_of_quarters)
    assert compiled(3, 8.0) == 6
    with pytest.raises(ValueError, match="a negative number"):
        compiled(3, -8.0)


@emitted(arrays=1)
def _add_one(e, vector, address, count):
    with e.range(0, count) as i:
        place = address + i * 4
        e.store(place, e.load(vector.element, place) + e.constant(vector.element, 1))


@pytest.mark.parametrize("compiler", [KernelCompiler, BriefCompiler])
def test_emitted_loops_of_several_kernels_are_optimised_once(compiler):
    @part
    def add_one(numbers):
        _add_one(numbers, address_of(numbers), numbers.size)

    def add_two(numbers):
        add_one(numbers)
        _add_one(numbers, address_of(numbers), numbers.size)

    linking._optimised.cache_clear()
    kernels = [numba.njit(pipeline_class=compiler)(function) for function in (add_one.py_func, add_two)]
    numbers = np.arange(5, dtype=np.float32)
    for each in kernels:
        each(numbers)
    np.testing.assert_array_equal(numbers, np.arange(5) + 3)
    assert linking._optimised.cache_info().misses == 1


def test_emitted_loops_serve_functions_that_are_no_kernels():
    @numba.njit
    def add_one(numbers):
        _add_one(numbers, address_of(numbers), numbers.size)

    numbers = np.arange(5, dtype=np.float32)
    add_one(numbers)
    np.testing.assert_array_equal(numbers, np.arange(5) + 1)


def test_a_callback_is_called_from_c(cache):
    for _ in range(2):  # the second is read from disk

        @callback(types.intp(types.intp))
        def double(number):
            return 2 * number

        assert ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(double.address)(21) == 42


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
