"""Gradients of gradients: each operator that is itself a derivative has one, by finite differences."""

import numpy as np
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet.cuda_convnet import (
    CrossMapNormUndo,
    FilterActs,
    ImageActs,
    LocalFilterActs,
    LocalImageActs,
    LocalWeightActs,
    MaxPoolGrad,
    MaxPoolRop,
    WeightActs,
)
from tests.ops.common import PYTHON

random = np.random.default_rng(0)

SLIDING = {"pad": ((1, 0), (0, 2)), "stride": (2, 1), "groups": 2}
IMAGES, FILTERS, MAPS = (4, 5, 3, 2), (2, 3, 2, 4), (4, 3, 4, 2)
LOCAL_FILTERS = (*MAPS[1:3], *FILTERS)


def pooled_images(shape):
    """Images without ties."""
    return random.permutation(np.prod(shape)).reshape(shape).astype("float64")


images = pooled_images((2, 5, 4, 2))

OPERATORS = {
    "FilterActs": (FilterActs(**SLIDING), [IMAGES, FILTERS]),
    "ImageActs": (lambda maps, filters: ImageActs(**SLIDING)(maps, filters, IMAGES[1:3]), [MAPS, FILTERS]),
    "WeightActs": (lambda x, maps: WeightActs(**SLIDING)(x, maps, FILTERS[1:3])[0], [IMAGES, MAPS]),
    "partial sums": (
        lambda x, maps: WeightActs(partial_sum=4, **SLIDING)(x, maps, FILTERS[1:3])[1],
        [IMAGES, MAPS],
    ),
    "LocalFilterActs": (LocalFilterActs(**SLIDING), [IMAGES, LOCAL_FILTERS]),
    "LocalImageActs": (
        lambda maps, filters: LocalImageActs(**SLIDING)(maps, filters, IMAGES[1:3]),
        [MAPS, LOCAL_FILTERS],
    ),
    "LocalWeightActs": (lambda x, maps: LocalWeightActs(**SLIDING)(x, maps, FILTERS[1:3]), [IMAGES, MAPS]),
    "MaxPoolGrad": (lambda gz: MaxPoolGrad(3, 2, start=-1)(images, images, gz), [(2, 3, 2, 2)]),
    "MaxPoolRop": (lambda evals: MaxPoolRop(3, 2, start=-1)(images, evals), [(2, 5, 4, 2)]),
    "CrossMapNormUndo": (
        lambda x, dout: CrossMapNormUndo(3, 0.5, 0.75)(x, x, x, dout)[0],
        [(5, 2, 3, 2), (5, 2, 3, 2)],
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_match_finite_differences(name):
    operator, shapes = OPERATORS[name]
    arguments = [random.standard_normal(shape) for shape in shapes]
    verify_grad(operator, arguments, mode=PYTHON, rng=np.random.default_rng(1))
