"""`Op.perform`, which PyTensor's C and Python linkers run, computes with the CPU kernels."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

from pytensor_convnet import conv2d, pool_2d, reference
from tests.ops.common import close

LINKERS = ["py", "vm", *(["cvm"] if pytensor.config.cxx else [])]


@pytest.mark.parametrize("linker", LINKERS)
def test_every_linker_computes_the_same(linker):
    images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
    pooled = pool_2d(conv2d(images, filters, filter_flip=False), 2, True, mode="sum")
    function = pytensor.function([images, filters], pooled, mode=Mode(linker=linker, optimizer="fast_compile"))
    random = np.random.default_rng(0)
    x, w = random.standard_normal((3, 2, 7, 6)), random.standard_normal((4, 2, 3, 2))
    none = ((0, 0), (0, 0))
    maps = reference.correlate2d(x, w, (1, 1), none, (1, 1), 1, False)
    close(function(x, w), reference.average_pool2d(maps, (2, 2), (2, 2), none, True, "sum"))


def test_perform_runs_the_kernels_and_not_the_reference(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the slow definition was run")

    monkeypatch.setattr(reference, "correlate2d", refuse)
    images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
    function = pytensor.function([images, filters], conv2d(images, filters), mode=Mode(linker="py"))
    np.testing.assert_array_equal(function(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2))), [[[[4.0]]]])
