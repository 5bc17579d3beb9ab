"""Our Ops in mode CUDA, by the CPU's kernels and by Triton's."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import conv2d, max_pool_2d, pool_2d
from pytensor_convnet.cuda import cuda_mode
from pytensor_convnet.cuda_convnet import CrossMapNorm, FilterActs, StochasticMaxPool
from pytensor_convnet.learning import Learner
from pytensor_convnet.minibatches import SharedImages
from pytensor_convnet.models import CudaConvnet, Lenet
from pytensor_convnet.ops import CorrelateMaxPool2d, RectifiedAveragePool2d, RectifiedAveragePool2dGrad

RNG = np.random.default_rng(0)


def assert_same(mode, inputs, outputs, *values, tolerance=2e-5):
    expected = pytensor.function(inputs, outputs, mode="FAST_COMPILE")(*values)
    function = pytensor.function(inputs, outputs, mode=mode)
    for _ in range(2):
        for got, want in zip(function(*values), expected):
            assert got.shape == want.shape
            assert np.linalg.norm(got - want) <= tolerance * max(np.linalg.norm(want), 1e-6)


def with_gradients(output, *wrt):
    weights = pt.cos(pt.arange(output.size).reshape(output.shape).astype(output.dtype))
    return [output, *pt.grad((output * weights).sum(), list(wrt))]


NETWORKS = {
    "convolution": lambda x, w: conv2d(x, w),
    "correlation": lambda x, w: conv2d(x, w, filter_flip=False, border_mode="half"),
    "strided": lambda x, w: conv2d(x, w, subsample=(2, 1), border_mode=(1, 2)),
    "uneven padding": lambda x, w: conv2d(x, w, border_mode=((0, 2), (1, 0))),
    "dilated": lambda x, w: conv2d(x, w, filter_dilation=(2, 1)),
    "max pooled": lambda x, w: max_pool_2d(conv2d(x, w), (2, 2), ignore_border=True),
    "overlapping": lambda x, w: max_pool_2d(conv2d(x, w), (3, 3), st=(2, 2), ignore_border=False),
    "averaged": lambda x, w: pool_2d(conv2d(x, w), (3, 2), stride=(2, 2), pad=(1, 0), mode="average_exc_pad",
                                     ignore_border=True),
    "rectified and averaged": lambda x, w: pool_2d(pt.maximum(conv2d(x, w) + w[:, 0, 0, 0][:, None, None], 0), (3, 3),
                                                   stride=(2, 2), pad=(1, 1), mode="average_inc_pad",
                                                   ignore_border=True),
    "summed": lambda x, w: pool_2d(conv2d(x, w), (2, 2), ignore_border=True, mode="sum"),
}  # fmt: skip


@pytest.mark.parametrize("batch", [2, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_their_gradients(mode, name, batch):
    x, w = pt.ftensor4("x"), pt.ftensor4("w")
    images = RNG.normal(size=(batch, 3, 9, 8)).astype("float32")
    filters = RNG.normal(size=(4, 3, 3, 2)).astype("float32")
    assert_same(mode, [x, w], with_gradients(NETWORKS[name](x, w), x, w), images, filters)


@pytest.mark.parametrize("name", ["convolution", "strided", "overlapping", "averaged", "rectified and averaged"])
def test_networks_by_tritons_kernels(interpreter, mode, name):
    x, w = pt.ftensor4("x"), pt.ftensor4("w")
    images = RNG.normal(size=(17, 2, 6, 7)).astype("float32")
    filters = RNG.normal(size=(3, 2, 3, 2)).astype("float32")
    assert_same(mode, [x, w], with_gradients(NETWORKS[name](x, w), x, w), images, filters)


@pytest.mark.parametrize("kernels", ["cpu_kernels", "interpreter"])
@pytest.mark.parametrize("activation", [lambda x: x, pt.tanh, lambda x: pt.maximum(x, 0)])
def test_correlation_and_pooling_in_one_step(request, device, kernels, activation):
    request.getfixturevalue(kernels)
    mode = cuda_mode("high", device, compile=False)
    x, w, b = pt.ftensor4("x"), pt.ftensor4("w"), pt.fvector("b")
    maps = max_pool_2d(conv2d(x, w), (3, 3), st=(2, 2), ignore_border=True) + b.dimshuffle("x", 0, "x", "x")
    outputs = with_gradients(activation(maps), x, w, b)
    nodes = pytensor.function([x, w, b], outputs, mode=mode).maker.fgraph.apply_nodes
    assert any(isinstance(node.op, CorrelateMaxPool2d) for node in nodes)
    images = RNG.normal(size=(17, 2, 8, 7)).astype("float32")
    filters, biases = RNG.normal(size=(3, 2, 3, 2)).astype("float32"), RNG.normal(size=3).astype("float32")
    # A tanh near 1 makes errors of its argument, 2e-5, large ones of its slope.
    tolerance = 5e-4 if activation is pt.tanh else 1e-4
    assert_same(mode, [x, w, b], outputs, images, filters, biases, tolerance=tolerance)


def test_bias_rectifier_and_average_pool_are_one_step(device):
    x, b = pt.ftensor4("x"), pt.fvector("b")
    maps = pool_2d(pt.maximum(pt.exp(x) + b[:, None, None], 0), 3, True, 2, 1, mode="average_inc_pad")
    function = pytensor.function([x, b], with_gradients(maps, x, b), mode=cuda_mode("high", device, compile=False))
    ops = [type(node.op) for node in function.maker.fgraph.apply_nodes]
    assert [ops.count(op) for op in (RectifiedAveragePool2d, RectifiedAveragePool2dGrad)] == [1, 1]


def test_float64_by_torchs_own_operations(interpreter, mode):
    x, w = pt.dtensor4("x"), pt.dtensor4("w")
    images, filters = RNG.normal(size=(2, 4, 7, 6)), RNG.normal(size=(4, 2, 3, 2))
    output = conv2d(x, w, subsample=(2, 1), border_mode=((1, 0), (2, 1)), num_groups=2)
    assert_same(mode, [x, w], with_gradients(output, x, w), images, filters, tolerance=1e-12)


@pytest.fixture
def calls_together(monkeypatch):
    """The names of kernels that were called at once, for each of such calls."""
    from pytensor_convnet.lowering.cuda import operators

    together = []

    def noted(said):
        together.append([call.name for call, *_ in understood(said)])
        return understood(said)

    understood = operators._understood
    monkeypatch.setattr(operators, "_understood", noted)
    return together


@pytest.mark.parametrize(
    ("activation", "precision", "tolerance"),
    [(pt.tanh, "high", 5e-4), (lambda x: pt.maximum(x, 0), "high", 1e-4), (lambda x: pt.maximum(x, 0), "bf16", 3e-2)],
    ids=["tanh", "relu", "relu in bfloat16"],
)
def test_gradients_that_read_the_same_are_computed_together(
    interpreter, device, activation, precision, tolerance, calls_together
):
    x, w, b = pt.ftensor4("x"), pt.ftensor4("w"), pt.fvector("b")
    maps = max_pool_2d(conv2d(x, w), (2, 2), ignore_border=True) + b.dimshuffle("x", 0, "x", "x")
    weights = pt.cos(pt.arange(maps.size).reshape(maps.shape)).astype("float32")
    gradients = pt.grad((activation(maps) * weights).sum(), [x, w, b])
    mode = cuda_mode(precision, device, compile=False)
    # Whole numbers, which bfloat16 holds: rounded maps would have other winners.
    images, filters = (RNG.integers(-3, 4, size=size).astype("float32") for size in [(17, 2, 7, 7), (3, 2, 3, 2)])
    biases = np.array([-1.5, 0.5, 2.5], "float32")
    assert_same(mode, [x, w, b], gradients, images, filters, biases, tolerance=tolerance)
    assert {"correlate2d_max_pool2d_grads", "sum_over_pixels"} in map(set, calls_together)


def test_gradients_of_a_correlation_alone_are_computed_together(interpreter, device, calls_together):
    x, w = pt.ftensor4("x"), pt.ftensor4("w")
    images, filters = RNG.normal(size=(17, 2, 7, 7)).astype("float32"), RNG.normal(size=(3, 2, 3, 2)).astype("float32")
    gradients = with_gradients(conv2d(x, w, subsample=(2, 1), border_mode="half"), x, w)[1:]
    for precision, tolerance in (("high", 1e-4), ("bf16", 3e-2)):
        mode = cuda_mode(precision, device, compile=False)
        assert_same(mode, [x, w], gradients, images, filters, tolerance=tolerance)
        assert ["correlate2d_grads"] in calls_together
        calls_together.clear()


@pytest.mark.parametrize(
    ("precision", "count", "format"), [("bf16", 8, "batch_last"), ("bf16", 3, "bc01"), ("high", 8, "bc01")]
)
def test_filters_are_brought_to_the_format_in_which_they_are_read_fastest(
    precision, count, format, interpreter, device, monkeypatch
):
    import pytensor_convnet.kernels.cuda as kernels

    formats, correlate2d = [], kernels.correlate2d

    def noted(images, filters, *settings, **keywords):
        formats.append(kernels.memory_format(filters))
        return correlate2d(images, filters, *settings, **keywords)

    monkeypatch.setattr(kernels, "correlate2d", noted)
    x, w = pt.ftensor4("x"), pt.ftensor4("w")
    images, filters = (
        RNG.normal(size=(17, 2, 7, 7)).astype("float32"),
        RNG.normal(size=(count, 2, 3, 2)).astype("float32"),
    )
    assert_same(cuda_mode(precision, device, compile=False), [x, w], [conv2d(x, w)], images, filters, tolerance=3e-2)
    assert set(formats) == {format}


def test_gradients_of_several_correlations_that_read_the_same_are_each_computed_together(
    interpreter, device, calls_together
):
    x, y, w, v = (pt.ftensor4(name) for name in "xywv")
    maps = conv2d(x, w) + conv2d(y, v)  # whose gradient both read
    weights = pt.cos(pt.arange(maps.size).reshape(maps.shape)).astype("float32")
    operands = [RNG.normal(size=(17, channels, 6, 5)).astype("float32") for channels in (2, 3)]
    operands += [RNG.normal(size=(3, channels, 3, 2)).astype("float32") for channels in (2, 3)]
    mode = cuda_mode("high", device, compile=False)
    assert_same(mode, [x, y, w, v], pt.grad((maps * weights).sum(), [x, y, w, v]), *operands, tolerance=1e-4)
    assert ["correlate2d_grads"] * 2 in calls_together
    calls_together.clear()
    # The gradient of one's images and that of the other's filters have nothing to share but maps.
    assert_same(mode, [x, y, w, v], pt.grad((maps * weights).sum(), [x, v]), *operands, tolerance=1e-4)
    assert {"correlate2d_input_grad", "correlate2d_filter_grad"} in map(set, calls_together)


def test_sums_of_large_maps_are_not_computed_beside_other_gradients(interpreter, mode, monkeypatch):
    from pytensor_convnet.lowering.cuda import elementwise

    x, w = pt.ftensor4("x"), pt.ftensor4("w")
    b = pt.fvector("b")
    maps = pt.tanh(conv2d(x, w) + b.dimshuffle("x", 0, "x", "x"))
    images, filters = RNG.normal(size=(17, 2, 5, 6)).astype("float32"), RNG.normal(size=(3, 2, 3, 2)).astype("float32")
    gradients, biases = pt.grad((maps**3).sum(), [w, b]), RNG.normal(size=3).astype("float32")
    for most in (0, elementwise.MOST_SUMMED_BESIDE):
        monkeypatch.setattr(elementwise, "MOST_SUMMED_BESIDE", most)
        assert_same(mode, [x, w, b], gradients, images, filters, biases)


@pytest.mark.parametrize("activation", [lambda x: x, lambda x: pt.maximum(x, 0)])
def test_float64_correlation_and_pooling_in_one_step(interpreter, mode, activation):
    x, w, b = pt.dtensor4("x"), pt.dtensor4("w"), pt.dvector("b")
    maps = max_pool_2d(conv2d(x, w, subsample=(1, 2)), (2, 2), ignore_border=False) + b.dimshuffle("x", 0, "x", "x")
    images, filters, biases = RNG.normal(size=(17, 2, 8, 7)), RNG.normal(size=(3, 2, 3, 2)), RNG.normal(size=3)
    outputs = [activation(maps), *with_gradients(activation(maps), x, w, b)]
    assert_same(mode, [x, w, b], outputs, images, filters, biases, tolerance=1e-12)


@pytest.mark.parametrize("kernels", ["cpu_kernels", "interpreter"])
def test_the_cuda_convnet_family(request, mode, kernels):
    request.getfixturevalue(kernels)
    x, w = pt.ftensor4("x"), pt.ftensor4("w")
    maps = FilterActs(pad=1, stride=2)(x, w)
    normalised = CrossMapNorm(size_f=3, add_scale=0.1, pow_scale=0.75, blocked=False)(maps)[0]
    images = RNG.normal(size=(3, 7, 7, 18)).astype("float32")
    filters = RNG.normal(size=(3, 3, 3, 4)).astype("float32")
    assert_same(mode, [x, w], with_gradients(normalised, x, w), images, filters)


@pytest.mark.parametrize("kernels", ["cpu_kernels", "interpreter"])
def test_filters_that_are_not_shared(request, mode, kernels):
    request.getfixturevalue(kernels)
    x, w = pt.ftensor4("x"), pt.tensor("w", shape=(None,) * 6, dtype="float32")
    images = RNG.normal(size=(3, 2, 5, 6)).astype("float32")
    filters = RNG.normal(size=(4, 3, 5, 2, 3, 2)).astype("float32")
    assert_same(mode, [x, w], with_gradients(conv2d(x, w, unshared=True), x, w), images, filters)


def test_drawn_winners_are_the_cpus(interpreter, mode):
    from pytensor_convnet.ops import DrawWinners2d

    x, u = pt.ftensor4("x"), pt.ftensor4("u")
    images = RNG.normal(size=(2, 3, 7, 6)).astype("float32")
    images[0, 0] = -1  # nothing to draw in proportion to
    uniforms = RNG.random(size=(2, 3, 4, 3)).astype("float32")
    winners = DrawWinners2d()(x, u, [3, 3], [2, 2], [[1, 0], [1, 0]])
    assert_same(mode, [x, u], [winners], images, uniforms, tolerance=0)


def test_stochastic_pooling_runs(mode):
    x = pt.ftensor4("x")
    pooled = StochasticMaxPool(ds=2, stride=2)(x)
    images = RNG.random(size=(3, 6, 6, 4)).astype("float32")
    function = pytensor.function([x], pooled, mode=mode)
    assert np.isin(np.asarray(function(images)), images).all()


def losses_of(model, images, labels, mode, steps):
    """Sums of losses over steps from minibatches of 16 images."""
    data = SharedImages([(images, labels)])
    learner = Learner(model, data, 16, mode)
    learner.set_steps(0.02, 0.9)
    minibatches = list(data.minibatches(16))
    return [float(learner.step(*minibatches[i % len(minibatches)])) for i in range(steps)]


@pytest.mark.parametrize(("network", "shape"), [(Lenet, (1, 20, 20)), (CudaConvnet, (3, 12, 12))])
def test_networks_learn_as_on_the_cpu(mode, network, shape):
    images = RNG.random(size=(56, *shape)).astype("float32")
    labels = RNG.integers(0, 10, 56)
    losses, parameters = [], []
    for each in (mode, "FAST_COMPILE"):
        model = network(np.random.default_rng(0), shape, 10)
        losses.append(losses_of(model, images, labels, each, 10))
        parameters.append(model.get_values())
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for name, value in parameters[0].items():
        np.testing.assert_allclose(value, parameters[1][name], rtol=1e-3, atol=1e-5)


def test_maps_are_kept_in_bfloat16_where_that_is_asked_for(interpreter, device):
    model = Lenet(np.random.default_rng(0), (1, 16, 16), 10)
    images, labels = RNG.random(size=(16, 1, 16, 16)).astype("float32"), RNG.integers(0, 10, 16)
    losses = []
    for mode in (cuda_mode("bf16", device), "FAST_COMPILE"):
        model = Lenet(np.random.default_rng(0), (1, 16, 16), 10)
        losses.append(losses_of(model, images, labels, mode, 2))
        assert all(value.dtype == np.float32 for value in model.get_values().values())
    np.testing.assert_allclose(*losses, rtol=2e-2)
