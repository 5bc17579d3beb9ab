"""Every misfit is a ValueError that names the argument and shows the shapes, at build time or at run time.

Static shapes show a misfit when the graph is built. With unknown shapes the same sentence comes from the
compiled function; both linkers of `MODES` must say it.
"""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import (
    conv2d,
    conv2d_grad_wrt_inputs,
    conv2d_grad_wrt_weights,
    max_pool_2d,
    pool_2d,
)
from tests.ops.common import PYTHON

MODES = [pytest.param(PYTHON, id="python"), pytest.param("NUMBA", id="numba")]

MISFITS = [
    pytest.param(conv2d, [(1, 3, 8, 8), (2, 2, 3, 3)], {}, "input has 3 channels but filters expect 2", id="channels"),
    pytest.param(
        conv2d,
        [(3, 8, 9, 4), (5, 3, 3, 3)],
        {},
        r"input has 8 channels but .* If input is c01b.* pass .dimshuffle\(3, 0, 1, 2\)",
        id="input-c01b",
    ),
    pytest.param(
        conv2d, [(4, 3, 8, 8), (3, 5, 5, 7)], {}, "input has 3 channels but .* If filters are c01b", id="filters-c01b"
    ),
    pytest.param(
        conv2d,
        [(3, 8, 9, 4), (3, 5, 5, 7)],
        {},
        "If input and filters are c01b.* or use pytensor_convnet.cuda_convnet.FilterActs",
        id="both-c01b",
    ),
    pytest.param(
        conv2d, [(1, 3, 8, 8), (2, 3, 9, 3)], {}, "filters span 9 rows but the padded input", id="large-filter"
    ),
    pytest.param(
        conv2d,
        [(1, 3, 8, 8), (2, 3, 3, 5)],
        {"filter_dilation": (1, 2)},
        r"filters span 9 columns \(5 taps with filter_dilation 2\)",
        id="dilated-filter",
    ),
    pytest.param(
        conv2d,
        [(1, 3, 8, 8), (4, 1, 3, 3)],
        {"num_groups": 2},
        "num_groups=2 does not divide the 3 channels",
        id="groups",
    ),
    pytest.param(
        conv2d,
        [(1, 4, 8, 8), (3, 2, 3, 3)],
        {"num_groups": 2},
        "num_groups=2 does not divide the 3 filters",
        id="filters",
    ),
    pytest.param(conv2d, [(1, 3, 8, 8), (2, 3, 0, 3)], {}, "filters have no rows", id="empty-filter"),
    pytest.param(
        conv2d, [(1, 1, 4, 4), (1, 2, 2, 1, 2, 2)], {"unshared": True}, "output_grad is|output is", id="unshared"
    ),
    pytest.param(
        lambda g, w: conv2d_grad_wrt_inputs(g, w, (None, None, 8, 8)),
        [(1, 2, 5, 6), (2, 3, 3, 3)],
        {},
        "output_grad is 1x2x5x6 but this convolution's output is 1x2x6x6",
        id="input-grad",
    ),
    pytest.param(
        lambda x, g: conv2d_grad_wrt_weights(x, g, (None, None, 3, 3)),
        [(1, 3, 8, 8), (2, 2, 6, 6)],
        {},
        "output_grad is 2x2x6x6 but this convolution's output is 1x2x6x6",
        id="filter-grad",
    ),
    pytest.param(
        lambda x: max_pool_2d(x, (9, 2), True), [(1, 3, 8, 8)], {}, "ws spans 9 rows but the padded input", id="window"
    ),
    pytest.param(
        lambda x: pool_2d(x, (2, 9), True, mode="sum"), [(1, 3, 8, 8)], {}, "ws spans 9 columns", id="average-window"
    ),
    pytest.param(lambda x: max_pool_2d(x, 2), [(1, 3, 0, 8)], {}, "input has no rows to pool", id="no-rows"),
]


@pytest.mark.parametrize(("function", "shapes", "arguments", "sentence"), MISFITS)
def test_static_shapes_show_a_misfit_when_the_graph_is_built(function, shapes, arguments, sentence):
    tensors = [pt.tensor(dtype="float64", shape=shape) for shape in shapes]
    with pytest.raises(ValueError, match=sentence) as caught:
        function(*tensors, **arguments)
    assert "x".join(map(str, shapes[0])) in str(caught.value), "the sentence shows the shapes that met"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("function", "shapes", "arguments", "sentence"), MISFITS)
def test_unknown_shapes_show_a_misfit_when_the_function_runs(function, shapes, arguments, sentence, mode):
    tensors = [pt.tensor(dtype="float64", shape=(None,) * len(shape)) for shape in shapes]
    compiled = pytensor.function(tensors, function(*tensors, **arguments), mode=mode)
    with pytest.raises(ValueError, match=sentence) as caught:
        compiled(*map(np.ones, shapes))
    assert "x".join(map(str, shapes[0])) in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("window", "stride", "pad", "sentence"),
    [
        (0, 1, 0, "ws must be at least 1"),
        (2, 0, 0, "stride must be at least 1"),
        (2, -1, 0, "stride must be at least 1"),
        (2, 1, -1, "pad must not be negative"),
        (2, 1, 2, "pad 2 is not smaller than the window's 2 rows"),
    ],
)
@pytest.mark.parametrize("pooling", ["max", "average_exc_pad"])
def test_wrong_symbolic_windows_are_refused_when_the_function_runs(pooling, window, stride, pad, sentence, mode):
    images, *symbols = pt.tensor4(dtype="float64"), pt.lscalar(), pt.lscalar(), pt.lscalar()
    ws, st, padding = symbols
    pooled = pool_2d(images, ws, False, st, padding, mode=pooling)
    compiled = pytensor.function([images, *symbols], pooled, mode=mode)
    with pytest.raises(ValueError, match=sentence):
        compiled(np.ones((1, 1, 4, 4)), window, stride, pad)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_gives_an_empty_result(mode):
    images, filters = pt.tensor4(dtype="float64"), pt.tensor4(dtype="float64")
    maps = max_pool_2d(conv2d(images, filters, border_mode="half"), 2, st=1)
    gradients = pytensor.grad(maps.sum(), [images, filters])
    compiled = pytensor.function([images, filters], [maps, *gradients], mode=mode)
    pooled, by_images, by_filters = compiled(np.ones((0, 3, 6, 6)), np.ones((2, 3, 3, 3)))
    assert pooled.shape == (0, 2, 5, 5)
    assert by_images.shape == (0, 3, 6, 6)
    np.testing.assert_array_equal(by_filters, np.zeros((2, 3, 3, 3)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"input": pt.matrix()}, "input must have 4 axes"),
        ({"filters": pt.tensor3()}, "filters must have 4 axes"),
        ({"unshared": True}, "filters must have 6 axes"),
        ({"input": pt.tensor4(dtype="complex64")}, "input has dtype complex64"),
        ({"input": pt.tensor4(dtype="int64"), "filters": pt.tensor4(dtype="int64")}, "at least one must be float32"),
        ({"input": None}, "input must be a tensor"),
        ({"input": "pixels"}, "input"),
        ({"subsample": (2, 0)}, "subsample must be at least 1"),
        ({"subsample": (2, 2, 2)}, "subsample must be an integer or a pair"),
        ({"filter_dilation": 0}, "filter_dilation must be at least 1"),
        ({"num_groups": 0}, "num_groups must be at least 1"),
        ({"num_groups": 1.5}, "num_groups must be an integer"),
        ({"num_groups": "2"}, "num_groups must be an integer"),
        ({"border_mode": "same"}, "border_mode must be 'valid', 'full', 'half'"),
        ({"border_mode": (-1, 0)}, "border_mode must be at least 0"),
        ({"input_shape": (1, 2, 3)}, "input_shape must have 4 entries"),
        ({"input_shape": (1, 2, 3, -4)}, "input_shape must be at least 0"),
        ({"filter_shape": 3}, "filter_shape must be a sequence of 4 lengths"),
        ({"input_shape": (1,) * 4, "image_shape": (1,) * 4}, "two names of one argument"),
    ],
)
def test_wrong_arguments_of_conv2d_are_refused_by_name(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        conv2d(**({"input": pt.tensor4(), "filters": pt.tensor4()} | arguments))


@pytest.mark.parametrize("shape", [None, (1, 2, None, 4), (1, 2, 3), (1, 2, 3.5, 4)])
def test_gradient_functions_need_rows_and_columns(shape):
    with pytest.raises(ValueError, match="input_shape must"):
        conv2d_grad_wrt_inputs(pt.tensor4(), pt.tensor4(), shape)
