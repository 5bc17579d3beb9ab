"""Convolutions under Theano's names: values by SciPy, arguments by what Theano took."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.signal import convolve, correlate

from tests import independent
from tests.compat.values import gradient_of, numbers, value_of

pytestmark = pytest.mark.usefixtures("old_imports")

IMAGES, FILTERS = numbers(2, 3, 7, 6), numbers(4, 3, 3, 2, seed=1)


@pytest.fixture
def T(old_imports):
    import theano.tensor

    return theano.tensor


def convolved(images, filters, border_mode="valid", stride=(1, 1), flip=True):
    taps = filters.shape[2:]
    pads = {"valid": [0, 0], "full": [tap - 1 for tap in taps], "half": [tap // 2 for tap in taps]}
    pad = pads[border_mode] if isinstance(border_mode, str) else border_mode
    padding = tuple((one, one) for one in pad)
    return independent.correlate2d(images, filters, stride, padding, (1, 1), 1, flip)


@pytest.mark.parametrize("subsample", [(1, 1), (2, 1)])
@pytest.mark.parametrize("border_mode", ["valid", "full", "half", (1, 2)])
def test_conv2d(T, border_mode, subsample):
    result = value_of(T.nnet.conv2d(IMAGES, FILTERS, border_mode=border_mode, subsample=subsample))
    np.testing.assert_allclose(result, convolved(IMAGES, FILTERS, border_mode, subsample), rtol=1e-10)


def test_the_oldest_conv2d_takes_hints_of_how_to_compute(T):
    with pytest.warns(UserWarning, match="version, unroll_batch has no effect"):
        maps = T.nnet.conv.conv2d(
            IMAGES, FILTERS, image_shape=(2, 3, 7, 6), filter_shape=(4, 3, 3, 2), version=-1, unroll_batch=2
        )
    np.testing.assert_allclose(value_of(maps), convolved(IMAGES, FILTERS), rtol=1e-10)


@pytest.mark.parametrize("module", ["nnet", "nnet.conv", "nnet.abstract_conv"])
def test_other_batches_than_announced_are_taken(T, module):
    conv2d = {"nnet": T.nnet, "nnet.conv": T.nnet.conv, "nnet.abstract_conv": T.nnet.abstract_conv}[module].conv2d
    maps = conv2d(IMAGES, FILTERS, (500, 3, 7, 6), (4, 3, 3, 2))
    assert value_of(maps).shape[0] == 2


def test_image_shape_is_warned_about(T):
    with pytest.warns(UserWarning, match="'image_shape' argument of conv2d has been renamed: use 'input_shape'"):
        T.nnet.conv2d(IMAGES, FILTERS, image_shape=(2, 3, 7, 6))
    with (
        pytest.warns(UserWarning, match="image_shape"),
        pytest.raises(ValueError, match="two names of one argument"),
    ):
        T.nnet.conv2d(IMAGES, FILTERS, input_shape=(2, 3, 7, 6), image_shape=(2, 3, 7, 6))


def test_unknown_arguments_are_named(T):
    with pytest.warns(UserWarning, match="conv2d ignores arguments that older versions had: version"):
        T.nnet.conv2d(IMAGES, FILTERS, version=-1)
    with pytest.raises(TypeError, match="conv2d has no argument filter_flip"):
        T.nnet.conv.conv2d(IMAGES, FILTERS, filter_flip=False)


@pytest.mark.parametrize("module", ["nnet", "conv"])
def test_upsampling_by_logical_shapes_is_refused(T, module):
    conv2d = T.nnet.conv2d if module == "nnet" else T.nnet.conv.conv2d
    with pytest.raises(ValueError, match="use conv2d_transpose"):
        conv2d(IMAGES, FILTERS, kshp_logical=(5, 5))


def test_conv_op_is_conv2d_as_an_object(T):
    op = T.nnet.ConvOp((3, 7, 6), (3, 2), 4, 2, dx=2, dy=1, output_mode="full")
    np.testing.assert_allclose(value_of(op(IMAGES, FILTERS)), convolved(IMAGES, FILTERS, "full", (2, 1)), rtol=1e-10)
    assert T.nnet.ConvOp.getOutputShape((7, 6), (3, 2), (2, 1), "full") == (5, 7)


def test_abstract_convolutions_and_their_gradients_are_objects_too(T):
    conv = T.nnet.abstract_conv
    settings = {"border_mode": "half", "subsample": (2, 2), "filter_flip": False}
    maps = conv.AbstractConv2d(**settings)(IMAGES, FILTERS)
    expected = convolved(IMAGES, FILTERS, "half", (2, 2), flip=False)
    np.testing.assert_allclose(value_of(maps), expected, rtol=1e-10)
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape)
    by_images, by_filters = gradient_of(conv.AbstractConv2d(**settings), IMAGES, FILTERS)
    ours = (
        conv.AbstractConv2d_gradInputs(**settings)(FILTERS, weights, (7, 6)),
        conv.AbstractConv2d_gradWeights(**settings)(IMAGES, weights, (3, 2)),
    )
    for one, other in zip(value_of(*ours), value_of(by_images, by_filters)):
        np.testing.assert_allclose(one, other, rtol=1e-8)


@pytest.mark.parametrize("module", ["corr", "cuda"])
def test_correlations_as_objects_do_not_flip(T, module):
    from theano.sandbox.cuda import blas

    names = {"corr": ("CorrMM", T.nnet.corr), "cuda": ("GpuCorrMM", blas)}
    prefix, where = names[module]
    op = getattr(where, prefix)(subsample=(1, 2), border_mode=(1, 1))
    expected = convolved(IMAGES, FILTERS, (1, 1), (1, 2), flip=False)
    np.testing.assert_allclose(value_of(op(IMAGES, FILTERS)), expected, rtol=1e-10)
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape)
    settings = {"subsample": (1, 2), "border_mode": (1, 1)}
    ours = (
        getattr(where, f"{prefix}_gradInputs")(**settings)(FILTERS, weights, (7, 6)),
        getattr(where, f"{prefix}_gradWeights")(**settings)(IMAGES, weights, (3, 2)),
    )
    for one, other in zip(value_of(*ours), value_of(*gradient_of(op, IMAGES, FILTERS))):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_padding_of_gpu_correlations_has_two_names(T):
    from theano.sandbox.cuda.blas import GpuCorrMM, GpuCorrMM_gradWeights

    expected = convolved(IMAGES, FILTERS, (1, 1), flip=False)
    np.testing.assert_allclose(value_of(GpuCorrMM(pad=(1, 1))(IMAGES, FILTERS)), expected, rtol=1e-10)
    shape = GpuCorrMM_gradWeights(pad=(1, 1))(IMAGES, expected).shape
    assert value_of(shape).tolist() == [4, 3, 3, 2]
    with pytest.raises(ValueError, match="border_mode and pad are two names of one argument"):
        GpuCorrMM("half", pad=(1, 1))


def test_causal_convolution_sees_no_later_input(T):
    x, w = numbers(2, 3, 8), numbers(4, 3, 3, seed=1)
    result = value_of(T.nnet.abstract_conv.causal_conv1d(x, w, w.shape, filter_dilation=2))
    spread = np.zeros((4, 3, 5))
    spread[:, :, ::2] = w
    expected = np.array(
        [[sum(convolve(x[b, c], spread[f, c])[:8] for c in range(3)) for f in range(4)] for b in range(2)]
    )
    np.testing.assert_allclose(result, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (((10, 3, 28, 28), (20, 3, 5, 5), "valid", (1, 1)), (10, 20, 24, 24)),
        (((10, 3, 28, None), (20, 3, 5, 5), "half", (2, 2)), (10, 20, 14, None)),
        (((10, 3, 9, 9), (20, 3, 3, 3), (1, 2), (2, 1), (2, 1)), (10, 20, 4, 11)),
        (((1, 1, 5, 6, 7), (2, 1, 2, 2, 2), "full", (1, 1, 1)), (1, 2, 6, 7, 8)),
    ],
)
def test_output_shapes_are_computed(T, arguments, expected):
    assert T.nnet.abstract_conv.get_conv_output_shape(*arguments) == expected


# --------------------------------------------------------------------------------------------- three dimensions

VOLUMES, BANK = numbers(2, 2, 5, 6, 4), numbers(3, 2, 2, 3, 2, seed=1)


def convolved_volumes(volumes, bank, flip=True):
    operation = convolve if flip else correlate
    return np.array(
        [[operation(volume, taps, "valid")[0] for taps in (bank[:, ::-1] if flip else bank)] for volume in volumes]
    )


@pytest.mark.parametrize("flip", [True, False])
def test_conv3d(T, flip):
    result = value_of(T.nnet.conv3d(VOLUMES, BANK, (9, 2, 5, 6, 4), BANK.shape, filter_flip=flip))
    np.testing.assert_allclose(result, convolved_volumes(VOLUMES, BANK, flip), rtol=1e-10)


@pytest.mark.parametrize(
    ("border_mode", "pads"), [("full", (1, 2, 1)), ("half", (1, 1, 1)), ((2, 1, 0), (2, 1, 0)), (1, (1,) * 3)]
)
def test_conv3d_with_borders_and_strides(T, border_mode, pads):
    padded = np.pad(VOLUMES, ((0, 0), (0, 0), *((pad, pad) for pad in pads)))
    result = value_of(T.nnet.conv3d(VOLUMES, BANK, border_mode=border_mode, subsample=(2, 1, 2)))
    np.testing.assert_allclose(result, convolved_volumes(padded, BANK)[:, :, ::2, :, ::2], rtol=1e-10)


def test_conv3d_with_dilation_and_groups(T):
    bank = numbers(4, 1, 2, 2, 2)
    result = value_of(T.nnet.conv3d(VOLUMES, bank, filter_dilation=(2, 1, 3), num_groups=2))
    spread = np.zeros((4, 1, 3, 2, 4))
    spread[:, :, ::2, :, ::3] = bank
    halves = [convolved_volumes(VOLUMES[:, g : g + 1], spread[2 * g : 2 * g + 2]) for g in range(2)]
    np.testing.assert_allclose(result, np.concatenate(halves, 1), rtol=1e-10)


def test_gradients_of_conv3d(T):
    conv = T.nnet.abstract_conv
    by_volumes, by_bank = value_of(*gradient_of(conv.conv3d, VOLUMES, BANK))
    maps = convolved_volumes(VOLUMES, BANK)
    weights = np.cos(np.arange(maps.size)).reshape(maps.shape)
    # the gradient for one pixel, by moving it
    step = np.zeros_like(VOLUMES)
    step[1, 0, 2, 3, 1] = 1
    np.testing.assert_allclose(by_volumes[1, 0, 2, 3, 1], (convolved_volumes(step, BANK) * weights).sum(), rtol=1e-8)
    ours = (
        conv.conv3d_grad_wrt_inputs(weights, BANK, VOLUMES.shape),
        conv.conv3d_grad_wrt_weights(VOLUMES, weights, BANK.shape),
    )
    for one, other in zip(value_of(*ours), (by_volumes, by_bank)):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_films_have_time_before_channels(T):
    films, bank = VOLUMES.transpose(0, 2, 1, 3, 4), BANK.transpose(0, 2, 1, 3, 4)
    result = value_of(T.nnet.conv3d2d.conv3d(films, bank, films.shape, bank.shape))
    np.testing.assert_allclose(result.transpose(0, 2, 1, 3, 4), convolved_volumes(VOLUMES, BANK), rtol=1e-10)


def test_the_first_convolution_of_volumes_has_channels_last_and_a_bias(T):
    from theano.tensor.nnet.Conv3D import conv3D

    order, bias = (0, 2, 3, 4, 1), numbers(3)
    result = value_of(conv3D(VOLUMES.transpose(order), BANK.transpose(order), bias, (1, 1, 1)))
    expected = convolved_volumes(VOLUMES, BANK, flip=False).transpose(order) + bias
    np.testing.assert_allclose(result, expected, rtol=1e-10)


def test_volumes_with_a_missing_axis_are_refused(T):
    with pytest.raises(ValueError, match=r"input must have 5 axes \(batch, channels, depth, rows, columns\)"):
        T.nnet.conv3d(IMAGES, BANK)


# --------------------------------------------------------------------------------------------- upsampling


@pytest.mark.parametrize(
    ("arguments", "ratios"),
    [
        ({"ratio": 2}, ((2, 1), (2, 1))),
        ({"ratio": 3, "batch_size": 2, "num_input_channels": 3, "use_1D_kernel": False}, ((3, 1), (3, 1))),
        ({"frac_ratio": (5, 2), "use_1D_kernel": False}, ((5, 2), (5, 2))),
        ({"frac_ratio": ((3, 2), (4, 1)), "use_1D_kernel": False}, ((3, 2), (4, 1))),
    ],
)
def test_bilinear_upsampling(T, arguments, ratios):
    places = []
    for length, (numerator, denominator) in zip(IMAGES.shape[2:], ratios):
        outputs = np.arange(-(-length * numerator // denominator))
        places.append((outputs * denominator - (numerator - 1) // 2) / numerator)
    grid = np.meshgrid(*places, indexing="ij")
    expected = [[map_coordinates(image, grid, order=1, mode="nearest") for image in images] for images in IMAGES]
    result = value_of(T.nnet.abstract_conv.bilinear_upsampling(IMAGES, **arguments))
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


def test_bilinear_upsampling_is_theanos_transposed_convolution(T):
    # repeated edges, a transposed convolution with a tent, and Theano's cropping, written out
    ratio, image = 3, numbers(4)
    padded = np.concatenate([image[:1], image, image[-1:]])
    tent = value_of(T.nnet.abstract_conv.bilinear_kernel_1D(ratio))
    spread = np.zeros((len(padded) - 1) * ratio + 1)
    spread[::ratio] = padded
    crop = 2 * ratio - (ratio - 1) // 2 - 1
    expected = np.convolve(spread, tent)[crop : crop + len(image) * ratio]
    result = value_of(T.nnet.abstract_conv.bilinear_upsampling(image[None, None, None], ratio=ratio))
    np.testing.assert_allclose(result[0, 0, 0], expected, rtol=1e-6)


def test_upsampling_needs_one_ratio(T):
    with pytest.raises(ValueError, match="give either ratio or frac_ratio"):
        T.nnet.abstract_conv.bilinear_upsampling(IMAGES)
