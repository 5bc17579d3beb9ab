"""Where functions run that an old program compiles for a GPU."""

import copy
import pickle
import warnings

import numpy as np
import pytest

from pytensor_convnet.compat import device as devices
from pytensor_convnet.compat import mirror
from pytensor_convnet.cuda import DeviceUnavailable
from tests.ops.common import PYTHON


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Nothing is known of devices yet, and nothing has been said of them."""
    monkeypatch.setattr(mirror, "_NOTED", set())
    devices.gpu_mode.cache_clear()
    yield
    devices.gpu_mode.cache_clear()


@pytest.fixture
def theano(old_imports):
    import theano

    old_imports.mode = "Mode"
    return theano


@pytest.fixture
def no_gpu(monkeypatch):
    def find_device(name=None):
        raise DeviceUnavailable("mode CUDA needs an NVIDIA GPU, but there is none. Check the driver.")

    monkeypatch.setattr(devices, "find_device", find_device)


@pytest.fixture
def gpu(monkeypatch):
    """torch's CPU device in place of a GPU: everything but capture is as it would be there."""
    pytest.importorskip("torch")
    monkeypatch.setenv("PYTENSOR_CONVNET_DEVICE", "cpu")


@pytest.mark.parametrize("name", ["gpu", "gpu0", "cuda", "cuda1", "opencl0:0"])
def test_without_a_gpu_a_program_is_told_once_that_it_runs_on_the_cpu(theano, no_gpu, name):
    with pytest.warns(UserWarning, match=rf"^device={name}: mode CUDA needs .* none\. .*nothing needs changing"):
        theano.config.device = name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theano.config.device = "gpu7"
        assert type(theano.compile.get_default_mode()).__name__ == "Mode"
        theano.sandbox.cuda.synchronize()
    assert theano.config.device == "gpu7"


@pytest.fixture
def doubled(theano):
    """A function of a program that leaves the mode as it is."""
    x = theano.tensor.fmatrix("x")
    weights = theano.shared(np.ones((3, 2), "float32"))
    outputs = [theano.tensor.dot(x, weights).sum(), theano.tensor.dot(x, weights)]

    def compiled(**settings):
        return theano.function([x], outputs, updates=[(weights, 2 * weights)], **settings)

    compiled.weights = weights
    return compiled


def runs_in_mode_cuda(function):
    return type(function.maker.linker).__name__ == "CudaLinker"


@pytest.mark.parametrize("settings", [{}, {"mode": None}, {"mode": "FAST_RUN"}])
def test_a_function_of_a_program_for_a_gpu_runs_there(theano, gpu, doubled, settings):
    theano.config.device = "gpu"
    function = doubled(**settings)
    assert runs_in_mode_cuda(function)
    function(np.ones((2, 3)).astype("float32"))
    total, product = function(np.ones((2, 3), "float32"))
    assert isinstance(product, np.ndarray)
    assert (float(total), product.tolist()) == (24, [[6, 6], [6, 6]])
    assert doubled.weights.get_value().tolist() == [[4, 4]] * 3
    theano.sandbox.cuda.synchronize()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda function: pickle.loads(pickle.dumps(function))])
def test_a_copy_of_such_a_function_gives_arrays_too(theano, gpu, duplicate):
    theano.config.device = "gpu"
    x = theano.tensor.fvector("x")
    function = duplicate(theano.function([x], 2 * x))
    assert isinstance(function(np.ones(2, "float32")), np.ndarray)


def test_modes_made_of_the_default_one_run_there_too(theano, gpu, doubled):
    theano.sandbox.cuda.use("gpu0")
    mode = theano.compile.get_default_mode().excluding("conv_gemm", "conv_dnn")
    assert runs_in_mode_cuda(doubled(mode=mode))


@pytest.mark.parametrize("settings", [{"mode": "FAST_COMPILE"}, {"mode": PYTHON}])
def test_a_mode_that_a_program_asks_for_is_the_one_it_gets(theano, gpu, doubled, settings):
    theano.config.device = "gpu"
    assert not runs_in_mode_cuda(doubled(**settings))


def test_a_program_for_the_cpu_runs_on_the_cpu(theano, gpu, doubled):
    theano.config.device = "cpu"
    assert not runs_in_mode_cuda(doubled())


def test_what_the_gpu_cannot_compute_runs_on_the_cpu_and_is_named(theano, gpu):
    theano.config.device = "gpu"
    powers, _ = theano.scan(lambda x: 2 * x, outputs_info=[theano.tensor.constant(np.float32(1))], n_steps=3)
    with pytest.warns(UserWarning, match="mode CUDA cannot compute Scan.*: the function that needs it runs on the CPU"):
        function = theano.function([], powers)
    assert function().tolist() == [2, 4, 8]


def test_defaults_of_inputs_and_names_of_outputs_are_kept_there(theano, gpu):
    theano.config.device = "cuda"
    x, rate = theano.tensor.fvector("x"), theano.tensor.fscalar("rate")
    function = theano.function([x, theano.In(rate, value=np.float32(0.5))], {"scaled": rate * x})
    assert runs_in_mode_cuda(function)
    assert function(np.ones(2, "float32"))["scaled"].tolist() == [0.5, 0.5]
