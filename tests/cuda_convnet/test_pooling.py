"""MaxPool and its gradients mean what cuda-convnet's did, on rectangles too."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet.cuda_convnet import MaxPool, MaxPoolGrad, MaxPoolRop, max_pool_c01b
from tests.cuda_convnet.common import evaluate, pool, symbols
from tests.ops.common import PYTHON, close

CASES = [
    # images (channels, rows, columns, batch), then ds, stride, start, outputs
    pytest.param((1, 4, 4, 1), (2, 2), id="plain"),
    pytest.param((3, 8, 8, 5), (3, 2), id="overlapping-over-the-edge"),
    pytest.param((2, 7, 9, 3), ((3, 2), (2, 1), (-1, 0)), id="rectangles"),
    pytest.param((5, 8, 7, 2), (3, 2, (2, 1)), id="starts-inside"),
    pytest.param((2, 9, 8, 3), (3, 2, 0, (2, 3)), id="few-outputs"),
    pytest.param((7, 6, 6, 130), (3, 2, -1, 4), id="one-more-output"),
    pytest.param((2, 8, 8, 2), (2, 3, 0, 0), id="gaps"),
]
every_case = pytest.mark.parametrize(("shape", "windows"), CASES)


def distinct(shape):
    """Images without ties, whose pixels lie so far apart that finite differences change no winner."""
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) / 10.0


def maxima(images, windows):
    return pool(images, lambda pixels: pixels.max(axis=1), *windows)


@every_case
@pytest.mark.parametrize("static", [True, False])
def test_maxima_follow_the_definition(shape, windows, static):
    images = distinct(shape)
    expected = maxima(images, windows)
    if static:
        pooled = MaxPool(*windows)(images)
        assert pooled.type.shape == expected.shape
        close(evaluate(pooled), expected)
    else:
        tensors = symbols(images)
        close(pytensor.function(tensors, MaxPool(*windows)(*tensors), mode=PYTHON)(images), expected)


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_gradients_match_finite_differences(index):
    (channels, *lengths, batch), windows = CASES[index].values
    images = distinct((min(channels, 2), *lengths, min(batch, 2)))
    verify_grad(MaxPool(*windows), [images], mode=PYTHON, rng=np.random.default_rng(0))


@every_case
def test_max_pool_grad_is_the_gradient(shape, windows):
    images = pt.as_tensor(distinct(shape))
    pooled = MaxPool(*windows)(images)
    gz = np.random.default_rng(1).standard_normal(pooled.type.shape)
    gradient = MaxPoolGrad(*windows)(images, pooled, gz)
    assert gradient.type.shape == shape
    close(evaluate(gradient), evaluate(pytensor.grad((pooled * gz).sum(), images)))


@every_case
def test_max_pool_rop_is_the_directional_derivative(shape, windows):
    images, direction = distinct(shape), np.random.default_rng(1).standard_normal(shape)
    step = 1e-4
    expected = (maxima(images + step * direction, windows) - maxima(images - step * direction, windows)) / (2 * step)
    close(evaluate(MaxPoolRop(*windows)(images, direction)), expected, 1e-6)


def test_the_function_is_the_operator():
    images = distinct((2, 7, 9, 3))
    close(evaluate(max_pool_c01b(images, (3, 2), (2, 1), -1)), evaluate(MaxPool((3, 2), (2, 1), -1)(images)))


def test_a_window_larger_than_the_images_covers_them():
    images = distinct((2, 3, 4, 2))
    close(evaluate(MaxPool(5, 2)(images)), images.max(axis=(1, 2), keepdims=True))


IMAGES = pt.tensor("images", shape=(3, 8, 8, 4), dtype="float32")
REFUSED = {
    "start": (lambda: MaxPool(2, 2, start=-2), "start must be greater than -ds"),
    "three-starts": (lambda: MaxPool(2, 2, start=(0, 0, 0)), "start must be an integer or a pair"),
    "ds": (lambda: MaxPool(0, 2), "ds must be at least 1"),
    "stride": (lambda: MaxPool(2, 0), "stride must be at least 1"),
    "outputs": (lambda: MaxPool(2, 2, outputs=-1), "outputs must be at least 0"),
    "too-many-outputs": (
        lambda: MaxPool(2, 2, outputs=5)(IMAGES),
        "outputs 5 put a window at 8, outside the 8 rows of images 3x8x8x4",
    ),
    "starts-beyond": (lambda: MaxPool(2, 2, start=8)(IMAGES), "start 8 .* a window at 8, outside the 8 rows"),
    "axis-missing": (lambda: MaxPool(2, 2)(IMAGES[0]), "images must have 4 axes .*channels are, because there is one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse_is_told_in_a_sentence(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        build()
