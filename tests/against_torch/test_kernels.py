"""The kernels agree with torch in float64. Collected where torch is installed; it is no test dependency."""

import numpy as np
import pytest
import torch

from pytensor_convnet.kernels.cpu import (
    MODES,
    average_pool2d,
    average_pool2d_grad,
    correlate2d,
    correlate2d_filter_grad,
    correlate2d_input_grad,
    max_pool2d,
    max_pool2d_grad,
)
from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS
from tests.kernels.cpu.passes import FORM_IDS, PASSES, geometry_with_form, most_error, relative_error


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("flip", [False, True])
def test_passes_agree_with_torch(flip):
    images, filters = random(20, 6, 15, 14), random(9, 2, 3, 4)
    stride, padding, dilation, groups = (2, 1), ((2, 2), (1, 1)), (1, 2), 3
    x, w = (torch.tensor(array, requires_grad=True) for array in (images, filters))
    y = torch.nn.functional.conv2d(
        x, w.flip(2, 3) if flip else w, stride=stride, padding=(2, 1), dilation=dilation, groups=groups
    )
    maps = random(*y.shape, seed=1)
    y.backward(torch.tensor(maps))
    moves = (stride, padding, dilation, groups, flip)
    close(correlate2d(images, filters, *moves), y.detach().numpy())
    close(correlate2d_input_grad(filters, maps, 15, 14, *moves), x.grad.numpy())
    close(correlate2d_filter_grad(images, maps, 3, 4, *moves), w.grad.numpy())


def torch_pass(geometry, name, images, filters, maps):
    """A pass of a correlation by torch, in float64."""
    x, w = (torch.tensor(array.astype("float64"), requires_grad=True) for array in (images, filters))
    (top, bottom), (left, right) = geometry.padding
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, w.flip(2, 3) if geometry.flip else w, stride=geometry.stride)
    y.backward(torch.tensor(maps.astype("float64")))
    return dict(zip(PASSES, (y.detach(), x.grad, w.grad)))[name].numpy()


@pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)
@pytest.mark.parametrize("name", PASSES)
def test_every_form_agrees_with_torch_up_to_rounding(name, form):
    geometry = geometry_with_form(name, form, least_columns=20)
    arrays = geometry.arrays()
    error = relative_error(geometry.run(name, *arrays), torch_pass(geometry, name, *arrays))
    assert error <= most_error(geometry.summed_terms(name), "float32")


TORCH_CASES = [
    ((3, 4, 12, 13), 3, 2, 1, False),
    ((3, 4, 12, 13), 3, 2, 1, True),
    ((2, 3, 9, 10), 2, 2, 0, True),
    ((2, 3, 9, 10), 4, 1, 2, False),
]


@pytest.mark.parametrize(("shape", "window", "stride", "padding", "partial"), TORCH_CASES)
def test_max_pool_and_gradient_agree_with_torch(shape, window, stride, padding, partial):
    images = torch.from_numpy(random(*shape)).requires_grad_()
    expected = torch.nn.functional.max_pool2d(images, window, stride, padding, ceil_mode=partial)
    grad = torch.from_numpy(random(*expected.shape, seed=1))
    expected.backward(grad)

    windows = (window, window), (stride, stride), ((padding, padding),) * 2
    maxima, winners = max_pool2d(images.detach().numpy(), np.uint8, *windows, not partial)
    close(maxima, expected.detach().numpy())
    close(max_pool2d_grad(winners, grad.numpy(), *shape[2:], *windows), images.grad.numpy())


@pytest.mark.parametrize("mode", ["average_inc_pad", "average_exc_pad"])
@pytest.mark.parametrize(("shape", "window", "stride", "padding", "partial"), TORCH_CASES)
def test_average_pool_and_gradient_agree_with_torch(shape, window, stride, padding, partial, mode):
    images = torch.from_numpy(random(*shape)).requires_grad_()
    expected = torch.nn.functional.avg_pool2d(
        images, window, stride, padding, ceil_mode=partial, count_include_pad=mode == "average_inc_pad"
    )
    grad = torch.from_numpy(random(*expected.shape, seed=1))
    expected.backward(grad)

    windows = (window, window), (stride, stride), ((padding, padding),) * 2
    close(average_pool2d(images.detach().numpy(), *windows, not partial, MODES[mode]), expected.detach().numpy())
    close(average_pool2d_grad(grad.numpy(), *shape[2:], *windows, MODES[mode]), images.grad.numpy())
