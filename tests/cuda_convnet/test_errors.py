"""Misfits are told in c01b's terms, when the graph is built or when the function runs."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet.cuda_convnet import (
    CrossMapNormUndo,
    FilterActs,
    ImageActs,
    LocalFilterActs,
    MaxPool,
    MaxPoolGrad,
    MaxPoolRop,
    ProbMaxPool,
    StochasticMaxPool,
    WeightActs,
)
from tests.ops.common import PYTHON

MODES = [pytest.param(PYTHON, id="python"), pytest.param("NUMBA", id="numba")]

IMAGES = "images are {0} .channels x rows x columns x batch."
FILTERS = "filters are {1} .channels // groups x rows x columns x filters."

MISFITS = [
    pytest.param(FilterActs(), [(4, 8, 9, 2), (3, 3, 3, 5)], f"{IMAGES}, {FILTERS}", id="channels"),
    pytest.param(FilterActs(), [(3, 4, 4, 2), (3, 7, 7, 5)], f"{IMAGES}, {FILTERS}", id="large-filters"),
    pytest.param(FilterActs(groups=2), [(4, 8, 9, 2), (2, 3, 3, 5)], f"{IMAGES}, {FILTERS}", id="groups"),
    pytest.param(
        FilterActs(),
        [(3, 8, 9, 2), (5, 3, 3, 3)],
        r"filters are {1} .* If filters are bc01, .* pass filters.dimshuffle\(1, 2, 3, 0\)",
        id="filters-bc01",
    ),
    pytest.param(
        FilterActs(),
        [(7, 3, 9, 9), (3, 3, 3, 5)],
        r"images are {0} .* If images are bc01, .* pass images.dimshuffle\(1, 2, 3, 0\)",
        id="images-bc01",
    ),
    pytest.param(
        LocalFilterActs(),
        [(3, 8, 8, 2), (5, 6, 3, 3, 3, 4)],
        "filters are {1} .output rows x output columns x channels // groups x rows x columns x filters.",
        id="local",
    ),
    pytest.param(lambda h, w: ImageActs(stride=2)(h, w, (8, 8)), [(5, 6, 6, 2), (3, 3, 3, 5)], "hid_acts", id="images"),
    pytest.param(
        lambda x, h: WeightActs(stride=2)(x, h, (3, 3))[0],
        [(3, 8, 8, 2), (5, 6, 6, 2)],
        "images are {0} .*(hid_acts|hid_grads) are {1}",
        id="weights",
    ),
    pytest.param(lambda x, h: MaxPoolGrad(3, 2)(x, x, h), [(3, 8, 8, 2), (3, 2, 2, 2)], "gz is {1}", id="pool-grad"),
    pytest.param(MaxPoolRop(3, 2), [(3, 8, 8, 2), (3, 7, 8, 2)], "3x7x8x2", id="pool-rop"),
    pytest.param(
        lambda x, h: CrossMapNormUndo(3, 1.0, 1.0)(x, x, x, h)[0],
        [(3, 8, 8, 2), (3, 7, 8, 2)],
        f"{IMAGES}, dout is {{1}}",
        id="norm",
    ),
    pytest.param(
        lambda x, t: ProbMaxPool(2)(x, t)[0],
        [(3, 8, 8, 2), (3, 3, 3, 2)],
        "top_down must have the shape of the pooling units, .channels, output rows, output columns, batch.",
        id="top-down",
    ),
]


def names(shapes):
    return ["x".join(map(str, shape)) for shape in shapes]


@pytest.mark.parametrize(("function", "shapes", "sentence"), MISFITS)
def test_static_shapes_show_a_misfit_when_the_graph_is_built(function, shapes, sentence):
    tensors = [pt.tensor(dtype="float32", shape=shape) for shape in shapes]
    with pytest.raises(ValueError, match=sentence.format(*names(shapes))):
        function(*tensors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("function", "shapes", "sentence"), MISFITS)
def test_unknown_shapes_show_a_misfit_when_the_function_runs(function, shapes, sentence, mode):
    tensors = [pt.tensor(dtype="float32", shape=(None,) * len(shape)) for shape in shapes]
    compiled = pytensor.function(tensors, function(*tensors), mode=mode)
    with pytest.raises(ValueError, match=sentence.format(*names(shapes))):
        compiled(*(np.ones(shape, "float32") for shape in shapes))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pool", [MaxPool(3, 2, outputs=9), StochasticMaxPool(3, 2, outputs=9), MaxPool(3, 2, start=9)])
def test_a_window_without_a_pixel_is_told_when_the_function_runs(pool, mode):
    images = pt.tensor("images", dtype="float32", shape=(None,) * 4)
    compiled = pytensor.function([images], pool(images), mode=mode)
    with pytest.raises(ValueError, match="ds 3x3, stride 2x2: start and outputs must leave each window a pixel"):
        compiled(np.ones((3, 8, 8, 2), "float32"))
