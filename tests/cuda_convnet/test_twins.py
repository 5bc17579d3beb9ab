"""A network in bc01 and its twin in c01b learn the same, and nothing is copied between them."""

import runpy
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet.cuda_convnet.layouts import from_bc01, to_bc01

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "c01b.py"


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def twins(benchmark):
    return [benchmark["Network"](layout, batch=5, mode="NUMBA") for layout in benchmark["LAYOUTS"]]


def test_twins_have_equal_losses_and_filters_over_ten_steps(benchmark, twins):
    before = twins[0].filter_values()
    losses, filters = benchmark["differences"](twins, steps=10)
    assert losses < 1e-5
    assert filters < 1e-5
    assert abs(before[0] - twins[0].filter_values()[0]).max() > 1e-4, "they have learnt"


def test_twins_are_compiled_to_the_same_operations_and_views_of_images_and_filters(twins):
    """The one with shuffles has the images' and, for each bank of filters, one for itself and one for its gradient."""
    operations = [
        [str(node.op) for node in twin.step.maker.fgraph.toposort() if "Shape_i" not in str(node.op)] for twin in twins
    ]
    shuffles = [name for name in operations[1] if "(1, 2, 3, 0)" in name or "(3, 0, 1, 2)" in name]
    assert len(shuffles) == 1 + 3 + 3
    assert sorted(operations[0]) == sorted(name for name in operations[1] if name not in shuffles)


@pytest.mark.parametrize("mode", ["NUMBA", "FAST_COMPILE"])
def test_a_shuffle_is_a_view(mode):
    x = pt.tensor4("x", dtype="float32")
    outputs = [pytensor.Out(shuffle(x), borrow=True) for shuffle in (to_bc01, from_bc01)]
    function = pytensor.function([pytensor.In(x, borrow=True)], outputs, mode=mode)
    value = np.ones((2, 3, 4, 5), "float32")
    for view in function(value):
        assert np.shares_memory(view, value)


def test_kernels_copy_no_c01b_images():
    """A copy of the images would show in the memory that a call needs beyond its result."""
    from pytensor_convnet.bench.measure import extra_bytes
    from pytensor_convnet.kernels.cpu import correlate2d

    images = np.ones((8, 64, 64, 128), "float32").transpose(3, 0, 1, 2)  # 16 MB
    filters = np.ones((8, 3, 3, 4), "float32").transpose(3, 0, 1, 2)
    extra = extra_bytes(lambda: correlate2d(images, filters, (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False))
    assert extra is None or extra < images.nbytes / 2
