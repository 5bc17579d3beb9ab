"""Whole functions in PyTensor's modes JAX, MLX and PYTORCH do what they do in mode NUMBA."""

from inspect import getmembers, isclass

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import get_mode
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import vectorize_graph

from pytensor_convnet import conv2d, conv2d_transpose, max_pool_2d, ops, pool_2d
from pytensor_convnet.distributed import all_mean
from pytensor_convnet.learning import momentum_updates, negative_log_likelihood
from pytensor_convnet.lowering.arrays.operations import BUILDERS
from pytensor_convnet.models import CudaConvnet, Lenet
from tests.lowering.libraries import skip_where_mlx_has_no_float64
from tests.ops.common import PYTHON, close
from tests.test_errors import MISFITS
from tests.test_import import in_a_fresh_process

MODES = {"JAX": "jax", "MLX": "mlx", "PYTORCH": "torch"}
"""The library that each needs."""

random = np.random.default_rng(0)


@pytest.fixture(params=MODES)
def mode(request):
    pytest.importorskip(MODES[request.param])
    if request.param == "MLX":  # on a CPU it compiles by way of C++, half a minute for a network
        skip_where_mlx_has_no_float64()
        mx = pytest.importorskip("mlx.core")
        mx.disable_compile()
        yield request.param
        mx.enable_compile()
    else:
        yield request.param


def one_step(network, image_shape, mode):
    """The loss before a step of training, and the parameters after it."""
    model = network(np.random.default_rng(1), image_shape, 10)
    batch = 130 if mode == "MLX" else None  # to count rows, PyTensor's conversion to MLX must know how many there are
    images = pt.tensor("images", shape=(batch, *image_shape), dtype="float32")
    labels = pt.tensor("labels", shape=(batch,), dtype="int32")
    loss = negative_log_likelihood(model.log_probabilities(images), labels).mean()
    gradients = dict(zip(model.parameters, pytensor.grad(loss, list(model.parameters.values()))))
    updates = momentum_updates(model.parameters, gradients, np.float32(0.1), np.float32(0.9))
    step = pytensor.function([images, labels], loss, updates=updates, mode=mode)
    data = np.random.default_rng(2)
    result = step(data.random((130, *image_shape), "float32"), data.integers(0, 10, 130).astype("int32"))
    return float(result), {name: np.asarray(parameter.get_value()) for name, parameter in model.parameters.items()}


@pytest.mark.parametrize(
    ("network", "image_shape"),
    [pytest.param(Lenet, (1, 28, 28), id="lenet"), pytest.param(CudaConvnet, (3, 32, 32), id="cuda_convnet")],
)
def test_a_step_of_training(mode, network, image_shape):
    loss, parameters = one_step(network, image_shape, mode)
    expected_loss, expected = one_step(network, image_shape, "NUMBA")
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, value in expected.items():
        assert parameters[name].dtype == np.float32
        np.testing.assert_allclose(parameters[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def every_kind_of_op():
    """A graph, and its gradients, that hold every kind of Op a user can ask for, no shape known; with values."""
    images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
    local = pt.tensor("local", dtype="float64", shape=(None,) * 6)
    hidden = max_pool_2d(pt.tanh(conv2d(images, filters, border_mode="half")), (3, 3), True, (2, 2), (1, 1))
    hidden = conv2d(hidden, local, unshared=True)
    hidden = pool_2d(hidden, (2, 2), False, mode="average_exc_pad")
    hidden = ops.CrossMapNorm(3, 0.1, 0.75)(pt.maximum(hidden, 0))
    cost = all_mean((hidden.flatten(2) ** 2).mean())
    inputs = [images, filters, local]
    gradients = pytensor.grad(cost, inputs)
    second = [pytensor.grad((gradients[0] ** 2).sum(), local)]
    values = [random.standard_normal(shape) for shape in [(3, 2, 9, 8), (4, 2, 3, 3), (3, 4, 3, 4, 2, 2)]]
    return inputs, [cost, *gradients, *second], values


def test_gradients_where_no_shape_is_known(mode):
    inputs, outputs, values = every_kind_of_op()
    function = pytensor.function(inputs, outputs, mode=mode)
    reference = pytensor.function(inputs, outputs, mode=PYTHON)
    for arguments in (values, [values[0][:2], *values[1:]]):
        for result, expected in zip(function(*arguments), reference(*arguments), strict=True):
            close(np.asarray(result), expected)


def test_rewrites_leave_only_ops_that_are_lowered(mode):
    inputs, outputs, _ = every_kind_of_op()
    graph = FunctionGraph(inputs, outputs, clone=True)
    get_mode(mode).optimizer(graph)
    ours = {type(node.op) for node in graph.apply_nodes if type(node.op).__module__.startswith("pytensor_convnet.ops")}
    assert len(ours & set(BUILDERS)) >= 10
    assert {op.__name__ for op in ours - set(BUILDERS)} <= {"KnownLength", "KnownLengths"}


def test_all_ops_but_those_that_rewrites_make_for_other_backends_are_lowered():
    made_by_rewrites = {name for name in ops.__all__ if name.startswith(("CorrelateMaxPool2d", "Rectified", "Tanh"))}
    public = {name for name, _ in getmembers(ops, isclass) if name in ops.__all__}
    assert {op.__name__ for op in BUILDERS} == public - made_by_rewrites


def test_windows_may_be_as_large_as_images(mode):
    images = pt.tensor4("images", dtype="float64")
    pooled = pool_2d(images, (images.shape[2], images.shape[3]), True, mode="average_inc_pad")
    function = pytensor.function([images], [pooled, pytensor.grad((pooled**2).sum(), images)], mode=mode)
    for shape in [(2, 3, 4, 5), (1, 2, 3, 3)]:
        value = random.standard_normal(shape)
        average, gradient = function(value)
        mean = value.mean(axis=(2, 3), keepdims=True)
        close(average, mean)
        close(gradient, np.broadcast_to(2 * mean / (shape[2] * shape[3]), shape))


def test_torch_takes_windows_that_depend_on_values():
    pytest.importorskip("torch")
    images, window = pt.tensor4("images", dtype="float64"), pt.lscalar("window")
    function = pytensor.function([images, window], max_pool_2d(images, window), mode="PYTORCH")
    expected = pytensor.function([images, window], max_pool_2d(images, window), mode=PYTHON)
    value = random.standard_normal((2, 3, 7, 6))
    for length in (2, 3):
        np.testing.assert_array_equal(function(value, length), expected(value, length))


@pytest.mark.parametrize(
    ("name", "of_length"),
    [
        ("ws", lambda images, n: max_pool_2d(images, n)),
        ("stride", lambda images, n: pool_2d(images, 2, True, n, mode="sum")),
        ("pad", lambda images, n: pool_2d(images, 2, True, 1, n, mode="sum")),
        ("rows", lambda images, n: conv2d_transpose(images, np.ones((2, 1, 2, 2)), (None, None, n, 5))),
    ],
)
@pytest.mark.parametrize("mode", ["JAX", "MLX"])
def test_what_must_not_depend_on_values_is_named(mode, name, of_length):
    pytest.importorskip(MODES[mode])
    images, length = pt.tensor("images", shape=(None, 2, None, None), dtype="float64"), pt.lscalar("length")
    function = pytensor.function([images, length], of_length(images, length), mode=mode)
    with pytest.raises(ValueError, match=f"^{name} must be constant, or follow from shapes alone, in mode {mode}"):
        function(np.ones((1, 2, 4, 4)), 1)


@pytest.mark.parametrize(("function", "shapes", "arguments", "sentence"), MISFITS)
def test_misfits_are_told_when_the_function_runs(mode, function, shapes, arguments, sentence):
    tensors = [pt.tensor(dtype="float64", shape=(None,) * len(shape)) for shape in shapes]
    compiled = pytensor.function(tensors, function(*tensors, **arguments), mode=mode)
    with pytest.raises(ValueError, match=sentence) as caught:
        compiled(*map(np.ones, shapes))
    assert "x".join(map(str, shapes[0])) in str(caught.value)


@pytest.mark.parametrize("batched", [(0,), (1,), (0, 1)])
def test_vectorized_graphs(mode, batched):
    shapes = (3, 2, 6, 6), (4, 2, 3, 3)
    tensors = [pt.tensor(dtype="float64", shape=shape) for shape in shapes]
    maps = max_pool_2d(conv2d(*tensors), 2)
    # PyTensor's PyTorch linker hands an Op's integers on as one for each entry of the batch, of which no shape follows.
    outputs = [conv2d(*tensors)] if mode == "PYTORCH" else [maps, pytensor.grad(maps.sum(), tensors[1])]
    replacements = {tensors[i]: pt.tensor(dtype="float64", shape=(2, *shapes[i])) for i in batched}
    inputs = [replacements.get(x, x) for x in tensors]
    values = [random.standard_normal(x.type.shape) for x in inputs]
    vectorized = vectorize_graph(outputs, replacements)
    ours, other = (pytensor.function(inputs, vectorized, mode=m)(*values) for m in (mode, PYTHON))
    for result, expected in zip(ours, other, strict=True):
        close(np.asarray(result), expected)


@pytest.mark.parametrize("library", ["jax", "mlx", "pytorch"])
def test_a_backend_is_registered_with_when_pytensor_loads_it(library):
    pytest.importorskip({"pytorch": "torch"}.get(library, library))
    ours = f"pytensor_convnet.lowering.{library}"
    code = f"""
import pytensor_convnet, sys
print({ours!r} in sys.modules)
import pytensor.link.{library}.dispatch
print({ours!r} in sys.modules)
"""
    assert in_a_fresh_process(code).split() == ["False", "True"]


@pytest.mark.parametrize(("library", "package"), [("jax", "jax"), ("mlx", "mlx"), ("pytorch", "torch")])
def test_without_its_library_a_mode_fails_as_pytensor_does_and_others_work(library, package):
    code = f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Without())
import numpy as np, pytensor.tensor as pt
from pytensor_convnet import conv2d
maps = conv2d(np.ones((1, 1, 3, 3)), pt.as_tensor(np.ones((1, 1, 3, 3))))
try:
    maps.eval(mode={library.upper()!r})
except ImportError as error:
    print(error.name)
from pytensor.compile.mode import Mode
print(maps.eval(mode=Mode(linker="py")).item())
"""
    assert in_a_fresh_process(code).split() == [package, "9.0"]
