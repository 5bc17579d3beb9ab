"""`theano.tensor.signal`: pooling and convolution without channels, and Theano's warnings."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from pytensor_convnet import reference
from pytensor_convnet.geometry import pool_length
from tests.compat.values import gradient_of, numbers, value_of

pytestmark = pytest.mark.usefixtures("old_imports")

IMAGES = numbers(2, 3, 7, 6)
MODES = ("max", "sum", "average_inc_pad", "average_exc_pad")


@pytest.fixture
def signal(old_imports):
    import theano.tensor.signal

    return theano.tensor.signal


def pooled(images, ws, stride, pad, mode, ignore_border):
    padding = tuple((one, one) for one in pad)
    if mode == "max":
        return reference.max_pool2d(images, "uint8", ws, stride, padding, ignore_border)[0]
    return reference.average_pool2d(images, ws, stride, padding, ignore_border, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ignore_border", [True, False])
def test_pool_2d_has_the_values_of_its_definition(signal, mode, ignore_border):
    result = value_of(signal.pool.pool_2d(IMAGES, (3, 2), ignore_border, (2, 2), (1, 1), mode))
    np.testing.assert_allclose(result, pooled(IMAGES, (3, 2), (2, 2), (1, 1), mode, ignore_border), rtol=1e-12)


def test_old_argument_names_work_with_a_warning(signal):
    with (
        pytest.warns(UserWarning, match="'ds' argument of pool_2d has been renamed: use 'ws'"),
        pytest.warns(UserWarning, match="'st' argument of pool_2d has been renamed: use 'stride'"),
        pytest.warns(UserWarning, match="'padding' argument of pool_2d has been renamed: use 'pad'"),
    ):
        old = signal.pool.pool_2d(IMAGES, ds=(3, 3), ignore_border=True, st=(2, 2), padding=(1, 1))
    new = signal.pool.pool_2d(IMAGES, ws=(3, 3), ignore_border=True, stride=(2, 2), pad=(1, 1))
    np.testing.assert_array_equal(*value_of(old, new))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"ws": 2, "ds": 2}, "ws and ds"),
        ({"ws": 2, "stride": 2, "st": 2}, "stride and st"),
        ({"ws": 2, "pad": (1, 1), "padding": (1, 1)}, "pad and padding"),
    ],
)
def test_an_argument_is_given_by_one_of_its_names(signal, arguments, names):
    with pytest.raises(ValueError, match=f"{names} are two names of one argument of pool_2d"):
        signal.pool.pool_2d(IMAGES, ignore_border=True, **arguments)


@pytest.mark.parametrize("function", ["pool_2d", "max_pool_2d", "pool_3d"])
def test_an_unspecified_border_is_warned_about_and_kept(signal, function):
    where = signal.downsample if function == "max_pool_2d" else signal.pool
    with pytest.warns(UserWarning, match=f"{function} keeps partial windows unless told otherwise"):
        result = getattr(where, function)(IMAGES, (2, 4, 4)[: 3 if function == "pool_3d" else 2])
    assert value_of(result.shape)[-2:].tolist() == ([2, 2] if function == "pool_3d" else [4, 2])


def test_max_pool_2d_pools_the_last_two_axes_of_any_tensor(signal):
    result = value_of(signal.downsample.max_pool_2d(IMAGES[0, 0], (2, 2), ignore_border=True))
    np.testing.assert_array_equal(result, IMAGES[0, 0, :6].reshape(3, 2, 3, 2).max((1, 3)))


def test_pooling_as_objects(signal):
    expected = pooled(IMAGES, (3, 2), (1, 2), (1, 0), "sum", True)
    one = signal.downsample.DownsampleFactorMax((3, 2), True, (1, 2), (1, 0), "sum")(IMAGES)
    other = signal.pool.Pool(True, "sum")(IMAGES, (3, 2), (1, 2), (1, 0))
    for result in value_of(one, other):
        np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize(("ignore_border", "expected"), [(True, [2, 3, 3, 3]), (False, [2, 3, 4, 3])])
def test_output_shapes_are_known_beforehand(signal, ignore_border, expected):
    for arguments in ({"ds": (3, 2), "st": (2, 2)}, {"ws": (3, 2), "stride": (2, 2)}):
        shape = signal.pool.Pool.out_shape((2, 3, 8, 6), ignore_border=ignore_border, **arguments)
        assert list(shape) == expected
    [result] = [value_of(signal.pool.Pool(ignore_border)(numbers(2, 3, 8, 6), (3, 2), (2, 2)))]
    assert list(result.shape) == expected


def in_boxes(volume, ws, stride, pad, mode, ignore_border):
    """Pooling of one volume, box by box."""
    counts = [pool_length(*lengths, ignore_border) for lengths in zip(volume.shape, ws, stride, pad, pad)]
    result = np.empty(counts)
    for place in np.ndindex(*counts):
        starts = [i * s - p for i, s, p in zip(place, stride, pad)]
        stops = [min(start + w, n + p) for start, w, n, p in zip(starts, ws, volume.shape, pad)]
        box = volume[tuple(slice(max(start, 0), stop) for start, stop in zip(starts, stops))]
        area = np.prod([stop - start for start, stop in zip(starts, stops)])
        result[place] = {
            "max": box.max(),
            "sum": box.sum(),
            "average_exc_pad": box.mean(),
            "average_inc_pad": box.sum() / area,
        }[mode]
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ignore_border", [True, False])
def test_pool_3d_pools_boxes(signal, mode, ignore_border):
    volumes = numbers(2, 5, 7, 6)
    settings = (3, 2, 2), (2, 2, 1), (1, 0, 1)
    result = value_of(signal.pool.pool_3d(volumes, settings[0], ignore_border, *settings[1:], mode))
    expected = [in_boxes(volume, *settings, mode, ignore_border) for volume in volumes]
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_the_gradient_of_pool_3d_goes_to_the_maxima(signal):
    volumes = numbers(1, 1, 4, 4, 4)
    [gradient] = gradient_of(lambda x: signal.pool.pool_3d(x, (2, 2, 2), True), volumes)
    spread = value_of(gradient)
    weights = np.cos(np.arange(8)).reshape(2, 2, 2)
    for place in np.ndindex(2, 2, 2):
        box = (0, 0, *(slice(2 * i, 2 * i + 2) for i in place))
        np.testing.assert_allclose(spread[box], weights[place] * (volumes[box] == volumes[box].max()), rtol=1e-12)


def test_pool_3d_needs_three_axes(signal):
    with pytest.raises(ValueError, match="input must have at least 3 axes"):
        signal.pool.pool_3d(IMAGES[0, 0], (1, 1, 1), True)
    with pytest.raises(ValueError, match="ws must give depth, rows and columns"):
        signal.pool.pool_3d(IMAGES, (1, 1), True)


def test_only_the_largest_pixel_of_each_patch_is_left(signal):
    result = value_of(signal.pool.max_pool_2d_same_size(IMAGES, (2, 3)))
    expected = np.zeros_like(IMAGES)
    for b, c, y, x in np.ndindex(2, 3, 3, 2):
        patch = np.s_[b, c, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3]
        expected[patch] = np.where(IMAGES[patch] == IMAGES[patch].max(), IMAGES[patch], 0)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("border_mode", ["valid", "full"])
@pytest.mark.parametrize(
    ("images", "filters"), [((6, 5), (3, 2)), ((4, 6, 5), (3, 2)), ((6, 5), (2, 3, 2)), ((4, 6, 5), (2, 3, 2))]
)
def test_every_image_meets_every_filter(signal, images, filters, border_mode):
    x, w = numbers(*images), numbers(*filters, seed=1)
    result = value_of(signal.conv.conv2d(x, w, image_shape=images, filter_shape=filters, border_mode=border_mode))
    pairs = [[convolve2d(image, taps, border_mode) for taps in w.reshape(-1, 3, 2)] for image in x.reshape(-1, 6, 5)]
    expected = np.array(pairs).reshape(*images[:-2], *filters[:-2], *pairs[0][0].shape)
    np.testing.assert_allclose(result, expected, rtol=1e-10)


def test_images_with_channels_are_refused(signal):
    with pytest.raises(ValueError, match=r"input must have 2 or 3 axes \(\[number,\] rows, columns\)"):
        signal.conv.conv2d(IMAGES, numbers(3, 3))
