"""Average pooling of rectified, biased maps computes what pooling, a rectifier and a bias after each other define."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import ShapeError
from tests.strategies import pools

torch = pytest.importorskip("torch", reason="the CUDA kernels work on torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton: pip install triton")

from pytensor_convnet.kernels.cuda.average_pooling import MODES  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import FORMATS, memory_format  # noqa: E402
from pytensor_convnet.kernels.cuda.rectified_pooling import (  # noqa: E402
    rectified_average_pool2d,
    rectified_average_pool2d_grad,
)
from tests.kernels.cuda.test_pooling import SPECIAL, TOLERANCE, WAYS, close, random, tensor, way  # noqa: E402

OVERLAPPING = (3, 3), (2, 2), ((1, 1), (1, 1))


def expected_average(images, biases, windows, ignore_border, mode):
    return reference.average_pool2d(np.maximum(images + biases[:, None, None], 0), *windows, ignore_border, mode)


def expected_grad(images, biases, maps, windows, mode):
    spread = reference.average_pool2d_grad(maps, *images.shape[2:], *windows, mode)
    return np.where(images + biases[:, None, None] >= 0, spread, 0)


def check(device, images, biases, windows, ignore_border, mode, format):
    """Compare both passes with what defines them."""
    expected = expected_average(images, biases, windows, ignore_border, mode)
    maps = random(*expected.shape, seed=1)
    there, biases_there = tensor(images, format, device), torch.tensor(biases, device=device)
    averages = rectified_average_pool2d(there, biases_there, *windows, ignore_border, mode)
    grad, sums = rectified_average_pool2d_grad(there, biases_there, tensor(maps, format, device), *windows, mode)
    close(averages, expected)
    of_images = expected_grad(images, biases, maps, windows, mode)
    close(grad, of_images)
    np.testing.assert_allclose(sums.cpu().numpy(), of_images.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
    for result in (averages, grad):
        assert memory_format(result) == format or min(result.shape) < 2  # several formats fit then


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=6)
@given(case=pools(dtype="float32"), format=st.sampled_from(FORMATS))
def test_both_passes_are_those_of_a_rectifier_before_a_pool(device, name, mode, case, format):
    biases = random(case.images.shape[1], seed=2)
    with way(name):
        check(device, case.images, biases, case.windows, case.ignore_border, mode, format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("shape", "window", "stride", "padding"), SPECIAL)
def test_special_geometry(device, shape, window, stride, padding, format):
    with way("many programs"):
        check(device, random(*shape), random(shape[1]), (window, stride, padding), False, "average_inc_pad", format)


def test_a_pixel_that_its_bias_makes_zero_passes_its_gradient(device):
    images, biases = np.array([-1, -2, 0, 3], "float32").reshape(1, 1, 2, 2), np.ones(1, "float32")
    maps = torch.full((1, 1, 1, 1), 8.0, device=device)
    windows = (2, 2), (2, 2), ((0, 0), (0, 0))
    grad, sums = rectified_average_pool2d_grad(
        tensor(images, "bc01", device), torch.tensor(biases, device=device), maps, *windows, "average_inc_pad"
    )
    np.testing.assert_array_equal(grad.cpu().numpy().ravel(), [2, 0, 2, 2])
    assert sums.tolist() == [6]


def test_nan_stays_nan_and_passes_no_gradient(device):
    images = np.ones((16, 2, 4, 4), "float32")
    images[3, 1, 0, 0] = np.nan
    there, biases = tensor(images, "batch_last", device), torch.zeros(2, device=device)
    averages = rectified_average_pool2d(there, biases, *OVERLAPPING, True, "average_exc_pad")
    assert np.argwhere(np.isnan(averages.cpu().numpy())).tolist() == [[3, 1, 0, 0]]
    grad, _ = rectified_average_pool2d_grad(there, biases, torch.ones_like(averages), *OVERLAPPING, "sum")
    assert np.argwhere(grad.cpu().numpy() == 0).tolist() == [[3, 1, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats(device, dtype):
    images, biases = random(16, 3, 8, 8), random(3)
    there, biases_there = tensor(images, "batch_last", device).to(dtype), torch.tensor(biases, device=device).to(dtype)
    exact, exact_biases = (x.to(torch.float64).cpu().numpy() for x in (there, biases_there))
    expected = expected_average(exact, exact_biases, OVERLAPPING, True, "average_inc_pad")
    averages = rectified_average_pool2d(there, biases_there, *OVERLAPPING, True, "average_inc_pad")
    grad, sums = rectified_average_pool2d_grad(there, biases_there, averages, *OVERLAPPING, "average_inc_pad")
    assert averages.dtype == grad.dtype == dtype
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = TOLERANCE.get(dtype, 1e-12)
    np.testing.assert_allclose(averages.double().cpu().numpy(), expected, rtol=tolerance, atol=tolerance)
    of_images = expected_grad(exact, exact_biases, averages.double().cpu().numpy(), OVERLAPPING, "average_inc_pad")
    np.testing.assert_allclose(grad.double().cpu().numpy(), of_images, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        sums.double().cpu().numpy(), of_images.sum((0, 2, 3)), rtol=tolerance, atol=10 * tolerance
    )


@pytest.mark.parametrize("windows", [OVERLAPPING, ((17, 17), (5, 5), ((8, 8), (8, 8)))])
def test_narrow_floats_beside_float32_biases(device, windows):
    images, biases = tensor(random(16, 3, 8, 8), "batch_last", device).bfloat16(), random(3)
    averages = rectified_average_pool2d(images, torch.tensor(biases, device=device), *windows, True, "average_inc_pad")
    assert averages.dtype == torch.bfloat16
    expected = expected_average(images.double().cpu().numpy(), biases, windows, True, "average_inc_pad")
    tolerance = TOLERANCE[torch.bfloat16]
    np.testing.assert_allclose(averages.double().cpu().numpy(), expected, rtol=tolerance, atol=tolerance)


def test_many_parts_of_a_channel_are_all_summed(device):
    """More programs share a channel than one program adds at a time."""
    images, biases = random(64, 1, 130, 66), random(1)
    there, biases_there = tensor(images, "batch_last", device), torch.tensor(biases, device=device)
    maps = np.ones((64, 1, 65, 33), "float32")
    windows = (2, 2), (2, 2), ((0, 0), (0, 0))
    with way("many programs"):
        _, sums = rectified_average_pool2d_grad(
            there, biases_there, tensor(maps, "batch_last", device), *windows, "sum"
        )
    assert sums.item() == np.sum(images + biases >= 0)


@pytest.mark.parametrize(
    ("biases", "maps", "error", "message"),
    [
        (torch.zeros(2), torch.zeros(2, 3, 2, 2), ValueError, "a number for each of the 3 channels, got 2$"),
        (torch.zeros(3).double(), torch.zeros(2, 3, 2, 2), ValueError, "they must be alike"),
        (torch.zeros(3), torch.zeros(2, 3, 4, 2), ShapeError, "do not come from"),
        (None, torch.zeros(2, 3, 2, 2), ValueError, "^biases must be a torch tensor .* got NoneType$"),
        (torch.zeros(3), np.zeros((2, 3, 2, 2), "float32"), ValueError, "^maps must be a torch tensor .* got ndarray$"),
    ],
)
def test_what_does_not_fit_is_refused(device, biases, maps, error, message):
    images = torch.zeros(2, 3, 4, 4, device=device)
    biases, maps = (x.to(device) if isinstance(x, torch.Tensor) else x for x in (biases, maps))
    with pytest.raises(error, match=message):
        rectified_average_pool2d_grad(images, biases, maps, (2, 2), (2, 2), ((0, 0), (0, 0)), "sum")


def test_no_images_have_no_averages_and_no_gradient(device):
    images, biases = torch.zeros(0, 3, 8, 8, device=device), torch.zeros(3, device=device)
    averages = rectified_average_pool2d(images, biases, *OVERLAPPING, True, "sum")
    grad, sums = rectified_average_pool2d_grad(images, biases, averages, *OVERLAPPING, "sum")
    assert (averages.shape, grad.shape, sums.tolist()) == ((0, 3, 4, 4), images.shape, [0, 0, 0])
