"""What ran on a GPU runs on what there is: values of cuDNN's functions and descriptors, moves that move nothing."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.compat.test_convolutions import BANK, FILTERS, IMAGES, VOLUMES, convolved, convolved_volumes
from tests.compat.test_signal import pooled
from tests.compat.values import gradient_of, numbers, value_of

pytestmark = pytest.mark.usefixtures("old_imports")


@pytest.fixture(params=["theano.sandbox.cuda", "theano.gpuarray", "theano.sandbox.gpuarray"])
def dnn(request, old_imports):
    import importlib

    return importlib.import_module(f"{request.param}.dnn")


def test_everything_is_available(dnn):
    import theano.sandbox.cuda as cuda

    assert dnn.dnn_available()
    assert cuda.cuda_available
    assert cuda.cuda_enabled
    assert dnn.version() > 5000


@pytest.mark.parametrize(("conv_mode", "flip"), [("conv", True), ("cross", False)])
def test_dnn_conv_flips_in_mode_conv(dnn, conv_mode, flip):
    maps = dnn.dnn_conv(IMAGES, FILTERS, (1, 1), (2, 1), conv_mode=conv_mode, workmem="small", algo="time_once")
    np.testing.assert_allclose(value_of(maps), convolved(IMAGES, FILTERS, (1, 1), (2, 1), flip), rtol=1e-10)


def test_dnn_conv_takes_the_mode_where_theano_first_had_it(dnn):
    maps = dnn.dnn_conv(IMAGES, FILTERS, "valid", (1, 1), "cross")
    np.testing.assert_allclose(value_of(maps), convolved(IMAGES, FILTERS, flip=False), rtol=1e-10)
    with pytest.raises(ValueError, match="conv_mode must be 'conv'"):
        dnn.dnn_conv(IMAGES, FILTERS, conv_mode="flip")


def test_gradients_and_descriptors_agree_with_dnn_conv(dnn):
    settings = (1, 1), (2, 2), "conv"
    maps = convolved(IMAGES, FILTERS, *settings[:2])
    weights = np.cos(np.arange(maps.size)).reshape(maps.shape)
    by_images, by_filters = value_of(
        *gradient_of(lambda x, w: dnn.dnn_conv(x, w, *settings[:2], conv_mode="conv"), IMAGES, FILTERS)
    )
    desc = dnn.GpuDnnConvDesc(*settings)(IMAGES.shape, FILTERS.shape)
    empty = [np.empty_like(x) for x in (IMAGES, FILTERS, maps)]
    import theano.tensor as T

    out = [T.constant(x) for x in empty]
    for ours, expected in [
        (dnn.dnn_gradinput(FILTERS, weights, IMAGES.shape, *settings), by_images),
        (dnn.dnn_gradweight(IMAGES, weights, FILTERS.shape, *settings), by_filters),
        (dnn.GpuDnnConvGradI()(FILTERS, weights, out[0], desc), by_images),
        (dnn.GpuDnnConvGradW()(IMAGES, weights, out[1], desc), by_filters),
        (dnn.GpuDnnConv()(IMAGES, FILTERS, out[2], desc), maps),
    ]:
        np.testing.assert_allclose(value_of(ours), expected, rtol=1e-8)


@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad"])
def test_dnn_pool_ignores_borders(dnn, mode):
    expected = pooled(IMAGES, (3, 2), (2, 2), (1, 1), mode, True)
    desc = dnn.GpuDnnPoolDesc((3, 2), (2, 2), mode, (1, 1))()
    for ours in (
        dnn.dnn_pool(IMAGES, (3, 2), (2, 2), mode, (1, 1)),
        dnn.GpuDnnPool()(IMAGES, desc),
        dnn.GpuDnnPool(mode)(IMAGES, (3, 2), (2, 2), (1, 1)),
    ):
        np.testing.assert_allclose(value_of(ours), expected, rtol=1e-12)


def test_dnn_pool_moves_by_one_unless_told_otherwise(dnn):
    assert value_of(dnn.dnn_pool(IMAGES, (2, 2)).shape).tolist() == [2, 3, 6, 5]
    np.testing.assert_array_equal(
        *value_of(dnn.dnn_pool(IMAGES, (2, 2), mode="average"), dnn.dnn_pool(IMAGES, (2, 2), mode="average_inc_pad"))
    )
    assert value_of(dnn.dnn_pool(VOLUMES, (2, 2, 2), (2, 2, 2)).shape).tolist() == [2, 2, 2, 3, 2]


def test_dnn_conv3d(dnn):
    np.testing.assert_allclose(value_of(dnn.dnn_conv3d(VOLUMES, BANK)), convolved_volumes(VOLUMES, BANK), rtol=1e-10)


def test_softmax_over_channels_or_over_whole_images(dnn):
    x = IMAGES
    np.testing.assert_allclose(value_of(dnn.GpuDnnSoftmax("bc01", "accurate", "channel")(x)), softmax(x, 1), rtol=1e-12)
    np.testing.assert_allclose(value_of(dnn.GpuDnnSoftmax("b01c", "fast", "channel")(x)), softmax(x, 3), rtol=1e-12)
    np.testing.assert_allclose(value_of(dnn.GpuDnnSoftmax("log", "channel")(x)), log_softmax(x, 1), rtol=1e-12)
    instance = value_of(dnn.GpuDnnSoftmax("accurate", "instance")(x))
    np.testing.assert_allclose(instance, softmax(x, (1, 2, 3)), rtol=1e-12)


def test_batch_normalisation_names_its_axes_mode(dnn):
    import theano.tensor as T

    gamma, beta = 1 + numbers(3), numbers(3, seed=1)
    train = dnn.dnn_batch_normalization_train(IMAGES, gamma, beta, mode="spatial")
    test = dnn.dnn_batch_normalization_test(IMAGES, gamma, beta, beta, gamma**2, mode="spatial")
    ours = T.nnet.bn.batch_normalization_train(IMAGES, gamma, beta, "spatial")
    same = T.nnet.bn.batch_normalization_test(IMAGES, gamma, beta, beta, gamma**2, "spatial")
    for one, other in zip([*train, test], [*ours, same]):
        np.testing.assert_array_equal(*value_of(one, other))


def test_moves_between_host_and_gpu_change_nothing():
    from theano.sandbox import cuda
    from theano.sandbox.cuda import basic_ops

    moves = (
        basic_ops.gpu_contiguous,
        basic_ops.GpuContiguous(),
        basic_ops.gpu_from_host,
        basic_ops.host_from_gpu,
        basic_ops.GpuFromHost(),
        basic_ops.HostFromGpu(),
        basic_ops.as_cuda_ndarray_variable,
    )
    for move in moves:
        np.testing.assert_array_equal(value_of(move(IMAGES)), IMAGES)
    assert value_of(basic_ops.gpu_alloc_empty(2, 3)).shape == (2, 3)
    np.testing.assert_array_equal(value_of(basic_ops.gpu_alloc(7.0, 2)), [7, 7])
    assert cuda.shared_constructor(np.ones(2)).get_value().dtype == "float32"
    assert cuda.CudaNdarray(np.ones(2)).dtype == "float32"
    assert cuda.CudaNdarray.zeros((2, 3)).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:device=gpu0")
def test_the_device_asked_for_is_read_back():
    import theano
    from theano.sandbox import cuda

    cuda.use("gpu0")
    assert theano.config.device == "gpu0"
    cuda.synchronize()
    cuda.unuse()
    assert theano.config.device == "cpu"


@pytest.mark.parametrize("border_mode", ["valid", "full"])
def test_convolution_by_fourier_transforms_is_the_one_convolution(border_mode):
    from theano.sandbox.cuda.fftconv import conv2d_fft, conv3d_fft

    maps = conv2d_fft(IMAGES, FILTERS, IMAGES.shape, FILTERS.shape, border_mode, pad_last_dim=True)
    np.testing.assert_allclose(value_of(maps), convolved(IMAGES, FILTERS, border_mode), rtol=1e-10)
    np.testing.assert_allclose(value_of(conv3d_fft(VOLUMES, BANK)), convolved_volumes(VOLUMES, BANK), rtol=1e-10)


def test_what_was_on_a_gpu_is_known_by_its_dtype(old_imports):
    import theano
    from theano.sandbox import cuda
    from theano.sandbox.cuda.var import CudaNdarrayConstant, CudaNdarraySharedVariable, CudaNdarrayVariable

    single, double = theano.tensor.ftensor4(), theano.tensor.dtensor4()
    assert isinstance(single.type, cuda.CudaNdarrayType)
    assert not isinstance(double.type, cuda.CudaNdarrayType)
    assert cuda.CudaNdarrayType((False, True))().type == theano.tensor.TensorType("float32", (False, True))
    shared, constant = theano.shared(np.float32(1)), theano.tensor.constant(np.float32(1))
    kinds = (CudaNdarrayVariable, CudaNdarraySharedVariable, CudaNdarrayConstant)
    assert [isinstance(single, kind) for kind in kinds] == [True, False, False]
    assert [isinstance(shared, kind) for kind in kinds] == [True, True, False]
    assert [isinstance(constant, kind) for kind in kinds] == [True, False, True]
    assert not any(isinstance(double, kind) for kind in kinds)
