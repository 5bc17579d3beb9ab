"""Old module names are other names of the mirrors, and what is missing is explained."""

import importlib
import pickle
import sys
import types

import pytest

from pytensor_convnet import compat
from tests.ops.common import PYTHON

OLD_MODULES = [
    "theano",
    "theano.tensor",
    "theano.tensor.basic",
    "theano.tensor.nnet",
    "theano.tensor.nnet.conv",
    "theano.tensor.nnet.abstract_conv",
    "theano.tensor.nnet.bn",
    "theano.tensor.nnet.nnet",
    "theano.tensor.nnet.sigm",
    "theano.tensor.nnet.neighbours",
    "theano.tensor.nnet.corr",
    "theano.tensor.nnet.conv3d2d",
    "theano.tensor.nnet.Conv3D",
    "theano.tensor.signal",
    "theano.tensor.signal.conv",
    "theano.tensor.signal.downsample",
    "theano.tensor.signal.pool",
    "theano.tensor.shared_randomstreams",
    "theano.tensor.raw_random",
    "theano.tensor.extra_ops",
    "theano.tensor.subtensor",
    "theano.tensor.elemwise",
    "theano.tensor.var",
    "theano.tensor.type",
    "theano.tensor.sharedvar",
    "theano.tensor.sort",
    "theano.tensor.nlinalg",
    "theano.tensor.slinalg",
    "theano.tensor.fft",
    "theano.tensor.blas",
    "theano.tensor.opt",
    "theano.tensor.utils",
    "theano.sandbox.rng_mrg",
    "theano.sandbox.neighbours",
    "theano.sandbox.softsign",
    "theano.sandbox.linalg",
    "theano.sandbox.cuda",
    "theano.sandbox.cuda.basic_ops",
    "theano.sandbox.cuda.dnn",
    "theano.sandbox.cuda.blas",
    "theano.sandbox.cuda.fftconv",
    "theano.sandbox.cuda.rng_curand",
    "theano.sandbox.cuda.type",
    "theano.sandbox.cuda.var",
    "theano.gpuarray.dnn",
    "theano.sandbox.gpuarray.dnn",
    "theano.compile",
    "theano.compile.mode",
    "theano.compile.io",
    "theano.compile.sharedvalue",
    "theano.compile.nanguardmode",
    "theano.compile.debugmode",
    "theano.compile.pfunc",
    "theano.compile.ops",
    "theano.compile.profiling",
    "theano.compile.builders",
    "theano.compile.function_module",
    "theano.compile.monitormode",
    "theano.gof",
    "theano.gof.graph",
    "theano.gof.op",
    "theano.gof.opt",
    "theano.gof.utils",
    "theano.gof.fg",
    "theano.gof.type",
    "theano.gradient",
    "theano.printing",
    "theano.ifelse",
    "theano.updates",
    "theano.scan_module",
    "theano.scan_module.scan_utils",
    "theano.scan_module.scan_op",
    "theano.scan_module.scan_views",
    "theano.configparser",
    "theano.configdefaults",
    "theano.scalar",
    "theano.scalar.basic",
    "theano.sparse",
    "theano.typed_list",
    "theano.raise_op",
    "theano.compat",
    "theano.compat.python2x",
    "theano.misc.safe_asarray",
    "theano.misc.pkl_utils",
    "theano.d3viz",
    "theano.version",
    "pylearn2.sandbox.cuda_convnet",
    "pylearn2.sandbox.cuda_convnet.filter_acts",
    "pylearn2.sandbox.cuda_convnet.img_acts",
    "pylearn2.sandbox.cuda_convnet.weight_acts",
    "pylearn2.sandbox.cuda_convnet.pool",
    "pylearn2.sandbox.cuda_convnet.stochastic_pool",
    "pylearn2.sandbox.cuda_convnet.probabilistic_max_pooling",
    "pylearn2.sandbox.cuda_convnet.response_norm",
]


@pytest.mark.parametrize("name", OLD_MODULES)
def test_an_old_module_is_its_mirror_under_another_name(old_imports, name):
    module = importlib.import_module(name)
    assert module is importlib.import_module(f"pytensor_convnet.compat.{name}")
    assert module.__spec__.name == f"pytensor_convnet.compat.{name}"


OLD_NAMES = [
    ("theano", "function shared grad clone scan config In Out Param Mode pp pprint Rop Lop OrderedUpdates map"),
    ("theano", "reduce"),
    ("theano", "Op Apply Variable Type OpFromGraph as_op ProfileStats _asarray dot tensor sandbox ifelse"),
    ("theano", "__version__"),
    ("theano.tensor", "matrix ivector lscalar tensor4 ftensor4 dmatrix wmatrix scalars cast eq neq dot mean log"),
    ("theano.tensor", "arange"),
    ("theano.tensor", "argmax switch nonzero Rop Lop grad jacobian hessian flatten sqr sqrt exp tanh clip"),
    ("theano.tensor", "minimum"),
    ("theano.tensor", "concatenate stack join set_subtensor inc_subtensor shape_padright addbroadcast"),
    ("theano.tensor", "patternbroadcast"),
    ("theano.tensor", "Elemwise DimShuffle TensorType TensorVariable TensorConstant Argmax Subtensor"),
    ("theano.tensor", "float_dtypes"),
    ("theano.tensor", "eye tri tril triu diag tensordot batched_dot sum prod max min any all std var sort"),
    ("theano.tensor", "argsort ones"),
    ("theano.tensor", "zeros_like ones_like alloc fill tile repeat outer inv abs_ sgn gammaln erf round floor"),
    ("theano.tensor", "ceil"),
    ("theano.tensor", "max_and_argmax and_ or_ xor invert isnan isinf allclose constant as_tensor_variable"),
    ("theano.tensor", "horizontal_stack"),
    ("theano.gradient", "grad disconnected_grad grad_clip zero_grad consider_constant verify_grad"),
    ("theano.gradient", "DisconnectedType"),
    ("theano.scan_module.scan_op", "Scan"),
    ("theano.scan_module.scan_views", "map reduce foldl foldr"),
    ("theano.printing", "Print debugprint pp pprint pydotprint min_informative_str"),
    ("theano.compile", "SharedVariable FunctionMaker Function ViewOp DeepCopyOp optdb register_mode SpecifyShape"),
    ("theano.gof", "Op Apply Variable FunctionGraph local_optimizer Optimizer Container PerformLinker"),
    ("theano.gof", "EquilibriumDB"),
    ("theano.gof.graph", "inputs ancestors io_toposort Constant is_same_graph"),
    ("theano.tensor.nnet", "softmax sigmoid relu elu conv2d conv3d conv2d_transpose categorical_crossentropy bn"),
    ("theano.tensor.nnet", "conv"),
    ("theano.tensor.nnet", "conv3d2d ConvOp neighbours corr softplus ultra_fast_sigmoid hard_sigmoid logsoftmax"),
    ("theano.tensor.nnet", "selu"),
    ("theano.sandbox.cuda", "use cuda_available cuda_enabled dnn CudaNdarray shared_constructor gpu_from_host"),
    ("theano.sandbox.cuda.basic_ops", "gpu_contiguous gpu_from_host host_from_gpu GpuFromHost HostFromGpu"),
    ("theano.sandbox.cuda.blas", "GpuCorrMM GpuCorrMM_gradInputs GpuCorrMM_gradWeights GpuDownsampleFactorMax"),
    ("pylearn2.sandbox.cuda_convnet.filter_acts", "FilterActs ImageActs WeightActs gpu_contiguous"),
    ("pylearn2.sandbox.cuda_convnet.pool", "MaxPool MaxPoolGrad MaxPoolRop max_pool_c01b"),
    ("pylearn2.sandbox.cuda_convnet.stochastic_pool", "StochasticMaxPool WeightedMaxPool"),
    ("pylearn2.sandbox.cuda_convnet.stochastic_pool", "stochastic_max_pool_c01b"),
    ("pylearn2.sandbox.cuda_convnet.probabilistic_max_pooling", "ProbMaxPool prob_max_pool_c01b"),
    ("pylearn2.sandbox.cuda_convnet.response_norm", "CrossMapNorm"),
    ("pylearn2.sandbox.cuda_convnet.convnet_compile", "convnet_available"),
    ("pylearn2.sandbox.cuda_convnet", "check_cuda cuda_convnet_available FilterActs"),
]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in OLD_NAMES for name in names.split()])
def test_old_names_are_there(old_imports, module, name):
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("import theano.nothing", "theano.nothing is not mirrored: neither .* has 'nothing' there; docs/migrating.md"),
        ("from theano.tensor import nothing", "theano.tensor.nothing is not mirrored"),
        ("from theano.tensor.nnet.conv import nothing", "theano.tensor.nnet.conv.nothing is not mirrored"),
        ("from theano.tensor.nnet import h_softmax", "h_softmax is not mirrored: build it from two T.nnet.softmax"),
        ("import theano.tensor.nnet.ctc", "theano.tensor.nnet.ctc is not mirrored: connectionist temporal"),
        ("from theano.tensor.nnet.blocksparse import sparse_block_dot", "blocksparse is not mirrored: .* use dense"),
        ("from theano.gpuarray import GpuArrayType", "GpuArrayType is not mirrored: .* use TensorType"),
        ("from theano.sandbox.cuda.blas import GpuConv", "GpuConv is not mirrored: use theano.tensor.nnet.conv2d"),
        ("from theano.gpuarray.type import GpuArrayType", "there is one kind of array here: use the types"),
        ("import theano.misc.pycuda_init", "PyCUDA have no counterpart: use the operators of pytensor_convnet"),
        ("from theano.compile import ProfileMode", r"use theano.function\(..., profile=True\)"),
        ("from pylearn2.models.mlp import MLP", "pylearn2.models is not mirrored: only pylearn2.sandbox.cuda_convnet"),
        ("from pytensor_convnet.compat.theano.tensor import nothing", "theano.tensor.nothing is not mirrored"),
    ],
)
def test_importing_what_is_missing_says_what_to_use(old_imports, statement, sentence):
    with pytest.raises(ImportError, match=sentence):
        exec(statement, {})


def test_an_attribute_that_is_missing_says_so(old_imports):
    import theano.tensor as T

    with pytest.raises(AttributeError, match="theano.tensor.nnet.h_softmax is not mirrored: build it"):
        T.nnet.h_softmax  # noqa: B018
    assert not hasattr(T, "nothing")


def test_submodules_are_there_without_importing_them(old_imports):
    import theano

    assert theano.sandbox.cuda.dnn.dnn_available()
    assert callable(theano.tensor.nnet.conv3d2d.conv3d)


@pytest.mark.parametrize("name", ["tensor.var", "tensor.sort", "compile.function"])
def test_a_function_keeps_its_name_although_a_submodule_has_the_same(old_imports, name):
    package, _, last = name.rpartition(".")
    module = importlib.import_module(f"theano.{name}")
    assert isinstance(module, types.ModuleType)
    assert not isinstance(getattr(importlib.import_module(f"theano.{package}"), last), types.ModuleType)
    assert not isinstance(
        getattr(importlib.import_module(f"pytensor_convnet.compat.theano.{package}"), last), types.ModuleType
    )


def test_a_mirror_is_pickled_by_its_name(old_imports):
    import theano.tensor as T

    assert pickle.loads(pickle.dumps(T)) is T


def test_a_star_import_gives_theanos_names(old_imports):
    names = {}
    exec("from theano import *\nfrom theano.tensor import *", names)
    assert {"function", "shared", "config", "matrix", "dot", "nnet", "exp", "ivector"} <= set(names)


def test_uninstall_frees_the_old_names():
    compat.install()
    importlib.import_module("theano.tensor")
    compat.uninstall()
    assert not [name for name in sys.modules if name.split(".")[0] in ("theano", "pylearn2")]
    with pytest.raises(ModuleNotFoundError, match="No module named 'pylearn2'"):
        importlib.import_module("pylearn2")


def test_another_theano_is_not_replaced(monkeypatch):
    monkeypatch.setitem(sys.modules, "theano", types.ModuleType("theano"))
    with pytest.raises(RuntimeError, match="theano has already been imported .*: call install"):
        compat.install()


def test_the_prefix_alone_will_do():
    code = "from pytensor_convnet.compat.theano.tensor.nnet import conv2d, relu"
    names = {}
    exec(code, names)
    assert names["relu"].__module__ == "pytensor_convnet.compat.theano.tensor.nnet.nnet"
    assert "theano" not in sys.modules


def test_variables_are_true_and_comparisons_have_no_truth_value(old_imports):
    import theano
    import theano.tensor as T

    weights = theano.shared(0.0)
    assert weights
    assert T.matrix() + 1
    with pytest.raises(TypeError, match="T.switch"):
        bool(weights > 0)
    assert theano.function([], weights, mode=PYTHON)() == 0


def test_importing_a_mirror_leaves_the_truth_of_variables_to_pytensor():
    from pytensor_convnet.compat.theano import tensor as T

    compat.install()
    assert T.matrix()
    compat.uninstall()
    with pytest.raises(TypeError, match="boolean"):
        bool(T.matrix())
