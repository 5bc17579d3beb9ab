"""The public pooling functions: Theano's arguments mean what they meant."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given

from pytensor_convnet import max_pool_2d, pool_2d, reference
from pytensor_convnet.pool import MODES
from tests.ops.common import PYTHON, close
from tests.strategies import pools

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 7, 8))


def value(variable):
    return variable.eval(mode=PYTHON)


def expected(images, window, stride=None, padding=((0, 0), (0, 0)), ignore_border=True, mode="max"):
    arguments = images, *((np.uint8,) if mode == "max" else ()), window, stride or window, padding, ignore_border
    return reference.max_pool2d(*arguments)[0] if mode == "max" else reference.average_pool2d(*arguments, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        ({"ws": (2, 3)}, {"window": (2, 3), "ignore_border": False}),
        ({"ws": 2, "ignore_border": True}, {"window": (2, 2)}),
        ({"ws": np.int64(2), "ignore_border": True}, {"window": (2, 2)}),
        ({"ws": np.array([2, 3]), "ignore_border": True}, {"window": (2, 3)}),
        ({"ws": (3, 3), "stride": (2, 1), "ignore_border": True}, {"window": (3, 3), "stride": (2, 1)}),
        ({"ws": 3, "pad": (1, 2), "ignore_border": True}, {"window": (3, 3), "padding": ((1, 1), (2, 2))}),
        ({"ws": 3, "pad": ((1, 0), (2, 1))}, {"window": (3, 3), "padding": ((1, 0), (2, 1)), "ignore_border": False}),
        ({"ds": (2, 2), "st": (1, 1), "padding": 1}, {"window": (2, 2), "stride": (1, 1), "padding": ((1, 1), (1, 1))}),
    ],
)
def test_pool_2d_arguments(arguments, meaning, mode):
    ignore_border = arguments.get("ignore_border", False)
    meaning = {"ignore_border": ignore_border} | meaning
    close(value(pool_2d(pt.as_tensor(IMAGES), **arguments, mode=mode)), expected(IMAGES, mode=mode, **meaning))


@given(pools())
def test_max_pool_2d_is_max_pooling(case):
    maxima = max_pool_2d(
        pt.as_tensor(case.images), case.window, case.ignore_border, case.stride, tuple(map(tuple, case.padding))
    )
    np.testing.assert_array_equal(value(maxima), expected(case.images, *case.windows, case.ignore_border))


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3), (0, 2, 1, 3)])
@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_leading_axes_runs_along(leading, mode):
    images = np.random.default_rng(1).standard_normal((*leading, 5, 6))
    symbol = pt.tensor("images", dtype="float64", shape=(None,) * images.ndim)
    pooled = pool_2d(symbol, (2, 2), mode=mode)
    gradient = pytensor.grad(pooled.sum(), symbol)
    ours, ours_gradient = pytensor.function([symbol], [pooled, gradient], mode=PYTHON)(images)
    planes = images.reshape((1, int(np.prod(leading)), 5, 6))
    close(ours, expected(planes, (2, 2), ignore_border=False, mode=mode).reshape((*leading, 3, 3)))
    assert ours_gradient.shape == images.shape


def test_leading_axes_keep_their_static_lengths():
    images = pt.tensor("images", shape=(None, 2, 3, 9, 9))
    assert pool_2d(images, 3).type.shape[1:] == (2, 3, 3, 3)


@pytest.mark.parametrize("symbolic_stride", [pt.lscalar("s"), pt.iscalar("s")])
def test_window_stride_and_pad_may_be_symbolic(symbolic_stride):
    window, pad = pt.lvector("window"), pt.lscalar("pad")
    pooled = pool_2d(pt.as_tensor(IMAGES), window, True, symbolic_stride, pad)
    function = pytensor.function([window, symbolic_stride, pad], pooled, mode=PYTHON)
    close(function([3, 2], 2, 1), expected(IMAGES, (3, 2), (2, 2), ((1, 1), (1, 1))))
    close(function([7, 8], 1, 0), expected(IMAGES, (7, 8), (1, 1)))


def test_one_of_a_pair_may_be_symbolic():
    rows = pt.lscalar("rows")
    pooled = pool_2d(pt.as_tensor(IMAGES), (rows, 2), True)
    assert pooled.type.shape == (2, 3, None, 4)
    close(pooled.eval({rows: 3}, mode=PYTHON), expected(IMAGES, (3, 2)))


def test_max_pooling_takes_integers_and_averages_do_not():
    images = pt.as_tensor(np.arange(16).reshape(4, 4))
    assert pool_2d(images, 2, mode="max").type.dtype == "int64"
    with pytest.raises(ValueError, match="input has dtype int64; mode 'sum' takes float32, float64"):
        pool_2d(images, 2, mode="sum")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "ws is missing"),
        ({"ws": 2, "ds": 2}, "ws and ds are two names of one argument"),
        ({"ws": 2, "stride": 2, "st": 2}, "stride and st are two names of one argument"),
        ({"ws": 2, "pad": (1, 1), "padding": 1}, "pad and padding are two names of one argument"),
        ({"ws": (2, 2, 2)}, "ws must be an integer or a pair"),
        ({"ws": 2.5}, "ws must be integers"),
        ({"ws": "22"}, "ws must be"),
        ({"ws": 0}, "ws must be at least 1"),
        ({"ws": 2, "stride": (1, 0)}, "stride must be at least 1"),
        ({"ws": 2, "pad": -1}, "pad must not be negative"),
        ({"ws": 2, "pad": 2}, "pad 2 is not smaller than the window's 2 rows"),
        ({"ws": 2, "pad": ((0, 0),)}, "pad must"),
        ({"ws": 2, "mode": "median"}, "mode must be one of max, sum"),
        ({"ws": (2, 9), "ignore_border": True}, "ws spans 9 columns but the padded input has only 8"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        pool_2d(pt.as_tensor(IMAGES), **arguments)


def test_a_vector_cannot_be_pooled():
    with pytest.raises(ValueError, match="input must have at least 2 axes"):
        pool_2d(pt.vector(), 2)
