"""The cases: their shapes, sizes and names."""

import pytest

from pytensor_convnet.bench.cases import CONV, POOL
from pytensor_convnet.bench.nets import NET
from pytensor_convnet.models import MODELS


def test_shapes_and_sizes():
    alex1 = CONV["alex1"].for_cpu()
    assert alex1.image_shape == (16, 3, 224, 224)
    assert alex1.map_shape == (16, 96, 54, 54)
    assert alex1.flops == 2 * 16 * 96 * 54 * 54 * 3 * 11 * 11
    assert POOL["avg_p32"].bytes(4) == 4 * 128 * 32 * (16 * 16 + 8 * 8)
    assert POOL["cifar_p32"].bytes(4) == 4 * 128 * 32 * (32 * 32 + 16 * 16) + 128 * 32 * 16 * 16


@pytest.mark.parametrize(("case", "expected"), [("lenet1", 500), ("cb1", 16), ("single", 1)])
def test_a_cpu_runs_large_cases_with_few_images(case, expected):
    assert CONV[case].for_cpu().batch == expected


@pytest.mark.parametrize(
    ("operation", "expected"), [("forward", 5 * 15), ("input_grad", 53), ("filter_grad", 37 * 10 * 23)]
)
def test_how_many_products_an_element_sums(operation, expected):
    case = CONV["odd"]  # 37x5x19x23, 7 @ 3x5, stride (2, 1), padding (1, 2): 7 * 15 / 2 is 52.5
    assert case.map_shape[2:] == (10, 23)
    assert case.summed_terms(operation) == expected


@pytest.mark.parametrize("name", NET)
def test_networks_have_the_parameters_of_the_models_of_their_name(name):
    case = NET[name]
    assert case.parameter_shapes() == list(MODELS[name].parameter_shapes(case.image_shape, case.classes).values())
