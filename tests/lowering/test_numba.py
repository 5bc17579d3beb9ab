"""PyTensor's Numba backend runs the kernels: right values, cached on disk, safe in threads and forked workers."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.graph.replace import vectorize_graph

from pytensor_convnet import conv2d, max_pool_2d, pool_2d
from tests.ops.common import PYTHON, close

random = np.random.default_rng(0)


def small_network(dtype="float64"):
    """A graph that holds every kind of Op, with its inputs and some values."""
    images, filters = pt.tensor4("images", dtype=dtype), pt.tensor4("filters", dtype=dtype)
    local = pt.tensor("local", dtype=dtype, shape=(None,) * 6)
    hidden = max_pool_2d(conv2d(images, filters, border_mode="half"), (3, 3), True, (2, 2), (1, 1))
    hidden = conv2d(hidden, local, unshared=True)
    pooled = pool_2d(hidden, (2, 2), False, mode="average_exc_pad")
    cost = (pooled**2).sum()
    gradients = pytensor.grad(cost, [images, filters, local])
    curvature = pytensor.grad(sum((g**2).sum() for g in gradients), [images, filters, local])
    inputs = [images, filters, local]
    values = [random.standard_normal(shape).astype(dtype) for shape in [(3, 2, 9, 8), (4, 2, 3, 3), (3, 4, 3, 4, 2, 2)]]
    return inputs, [pooled, *gradients, *curvature], values


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-3)])
def test_numba_agrees_with_the_python_linker(dtype, tolerance):
    inputs, outputs, values = small_network(dtype)
    compiled = pytensor.function(inputs, outputs, mode="NUMBA")(*values)
    for ours, other in zip(compiled, pytensor.function(inputs, outputs, mode=PYTHON)(*values)):
        assert ours.dtype == dtype
        close(ours, other, tolerance)


def test_one_compiled_function_takes_every_shape_and_layout():
    images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
    maps = conv2d(images, filters, border_mode="full", subsample=(2, 1))
    outputs = [maps, *pytensor.grad((maps**2).sum(), [images, filters])]
    ours, other = (pytensor.function([images, filters], outputs, mode=mode) for mode in ("NUMBA", PYTHON))
    for batch, channels, number in [(1, 1, 1), (5, 3, 2), (17, 2, 9), (0, 2, 3)]:
        x = random.standard_normal((batch, channels, 6, 7))
        w = random.standard_normal((number, channels, 3, 2))
        for a, b in ((x, w), (x[:, :, ::-1], w[::-1]), (x.transpose(0, 1, 3, 2), w), (np.asfortranarray(x), w)):
            for result, expected in zip(ours(a, b), other(a, b)):
                close(result, expected)


@pytest.mark.parametrize("batched", [(0,), (1,), (0, 1)])
def test_vectorized_graphs_compile(batched):
    tensors = [pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")]
    maps = max_pool_2d(conv2d(*tensors), 2)
    outputs = [maps, pytensor.grad(maps.sum(), tensors[1])]
    replacements = {tensors[i]: pt.tensor(f"v{i}", dtype="float64", shape=(None,) * 5) for i in batched}
    inputs = [replacements.get(x, x) for x in tensors]
    values = [random.standard_normal((2, 3, 2, 6, 6)), random.standard_normal((2, 4, 2, 3, 3))]
    values = [value if i in batched else value[0] for i, value in enumerate(values)]
    vectorized = vectorize_graph(outputs, replacements)
    ours, other = (pytensor.function(inputs, vectorized, mode=mode)(*values) for mode in ("NUMBA", PYTHON))
    for result, expected in zip(ours, other):
        close(result, expected)


SCRIPT = """
import sys, time
import numpy as np, pytensor, pytensor.tensor as pt
from pytensor_convnet import conv2d, max_pool_2d
images, filters = pt.tensor4("images", dtype="float32"), pt.tensor4("filters", dtype="float32")
maps = max_pool_2d(conv2d(images, filters), 2)
function = pytensor.function([images, filters], pytensor.grad(maps.sum(), [images, filters]), mode="NUMBA")
function(np.ones((2, 3, 8, 8), "float32"), np.ones((4, 3, 3, 3), "float32"))
from pytensor_convnet.kernels import cpu
misses = sum(sum(kernel.stats.cache_misses.values()) for kernel in cpu.KERNELS)
print("compiled", misses)
"""


def test_a_second_process_compiles_nothing(tmp_path):
    environment = os.environ | {
        "PYTENSOR_FLAGS": f"base_compiledir={tmp_path}/pytensor",
        "NUMBA_CACHE_DIR": f"{tmp_path}/numba",
    }
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    first, second = (int(run.stdout.split()[-1]) for run in runs)
    assert first > 0
    assert second == 0


def test_two_threads_may_call_compiled_functions_at_once():
    inputs, outputs, values = small_network()
    function = pytensor.function(inputs, outputs, mode="NUMBA")
    expected = function(*values)
    failures = []

    def call():
        own = function.copy()
        for _ in range(20):
            if not all(np.array_equal(a, b) for a, b in zip(own(*values), expected)):
                failures.append("wrong result")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


THREADS = """
import threading
import numpy as np, pytensor, pytensor.tensor as pt
from pytensor_convnet import conv2d
images = pt.tensor4("images", dtype="float32")
function = pytensor.function([images], conv2d(images, np.ones((16, 8, 3, 3), "float32")), mode="NUMBA")
value = np.ones((64, 8, 32, 32), "float32")
expected = function(value)
def call(own):
    for _ in range(20):
        assert np.array_equal(own(value), expected)
threads = [threading.Thread(target=call, args=(function.copy(),)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import numba
print(numba.threading_layer(), "done")
"""


def test_threads_do_not_abort_numbas_workqueue_layer():
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["workqueue", "done"], run.stderr


WORKERS = """
import multiprocessing, sys
import numpy as np, pytensor, pytensor.tensor as pt
from pytensor_convnet import conv2d
images = pt.tensor4("images", dtype="float32")
function = pytensor.function([images], conv2d(images, np.ones((16, 8, 3, 3), "float32")).sum(), mode="NUMBA")
value = np.ones((64, 8, 32, 32), "float32")
def work(i):
    return float(function(value))
if __name__ == "__main__":
    here = work(0)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(work, range(4)) == [here] * 4
    print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_forked_and_spawned_workers_may_call_a_compiled_function(method, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    run = subprocess.run([sys.executable, str(script), method], capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == ["done"], run.stderr


def test_a_function_can_be_pickled():
    import pickle

    images = pt.tensor4("images", dtype="float64")
    function = pytensor.function([images], pool_2d(images, 2, mode="sum"), mode="NUMBA")
    value = random.standard_normal((2, 2, 4, 4))
    close(pickle.loads(pickle.dumps(function))(value), function(value))


def test_constant_inputs_are_folded():
    maps = conv2d(pt.as_tensor(np.ones((1, 1, 4, 4))), np.ones((1, 1, 2, 2)))
    function = pytensor.function([], maps)
    assert not function.maker.fgraph.apply_nodes or len(function.maker.fgraph.apply_nodes) == 1
    np.testing.assert_array_equal(function(), np.full((1, 1, 3, 3), 4.0))
