"""Every kernel compiled for an H100, by Triton and ptxas, which needs no GPU.

What the interpreter computes, NumPy computes: it knows no layouts, multiplies and stores any dtypes, lets a loop change
the type of what it carries, takes any number where a constant must be, pipelines nothing and has no end of shared
memory. Kernels may also ask whether they are interpreted. Faults of that kind are found here; what kernels compute is
for the other tests. Convolutions are layers of LeNet, of cuda-convnet's network and of AlexNet, by each kind of method
that would be measured for them. What Triton's cache has is not compiled again.
"""

import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from triton import knobs  # noqa: E402
from triton.backends import backends  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from pytensor_convnet.bench.cases import CONV  # noqa: E402
from pytensor_convnet.kernels import cuda  # noqa: E402
from pytensor_convnet.kernels.cuda import tuning  # noqa: E402
from pytensor_convnet.kernels.cuda.compiling_ahead import without_gpu  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_methods import PoolTask, Spread  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Task  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_plans import check_pool  # noqa: E402

H100, META = GPUTarget("cuda", 90, 32), torch.device("meta")

SHARED_BYTES = 232448
"""What a program may have of an H100's shared memory."""

PASSES = ("correlate2d", "correlate2d_input_grad", "correlate2d_filter_grad", "correlate2d_max_pool2d",
          "correlate2d_max_pool2d_filter_grad")  # fmt: skip

LAYERS = {"lenet1": (2, 2, 0), "cifar1": (3, 2, 1), "cifar2": (3, 2, 1), "alex1": (3, 2, 0)}
"""Convolutions of `bench.cases`; side, stride and padding of the windows that pool their maps."""

PRECISIONS = (*cuda.PRECISIONS, "bfloat16")

POOLS = {"overlapping": (3, 2, 1), "side_by_side": (2, 2, 0), "of_many_taps": (17, 5, 8)}
"""Side, stride and padding of windows."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLACED = (("float32", "bc01"), ("float32", "channels_last"), ("bfloat16", "batch_last"))


def windows_of(side: int, step: int, padding: int):
    return (side, side), (step, step), ((padding, padding), (padding, padding))


def empty(shape, dtype, format="batch_last"):
    """A tensor without memory."""
    return cuda.empty(shape, format, dtype, META)


# ------------------------------------------------------------------- what the other process compiles


def convolution(layer: str, name: str, precision: str) -> None:
    """A pass of a layer, images batch-last, by the first of the ways to compute it with each kernel and product."""
    case = CONV[layer]
    geometry = Geometry(case.image_shape, case.filter_shape, case.stride, case.padding, (1, 1), 1, True)
    dtype, precision = (torch.bfloat16, "medium") if precision == "bfloat16" else (torch.float32, precision)
    facts = name, geometry, dtype, precision, ("batch_last", "batch_last"), META
    images, filters, maps = empty(geometry.images, dtype), empty(geometry.filters, dtype, "bc01"), geometry.maps
    operands = {
        "correlate2d": (images, filters),
        "correlate2d_input_grad": (filters, empty(maps, dtype)),
        "correlate2d_filter_grad": (images, empty(maps, dtype)),
    }
    if name in operands:
        compile_ways(Task(*facts), *operands[name])
        return
    windows = check_pool(maps, *windows_of(*LAYERS[layer]), True)
    pooled = *maps[:2], windows.out_rows, windows.out_columns
    if name == "correlate2d_max_pool2d":
        given, activation = (filters, torch.empty(maps[1], dtype=dtype, device=META)), "muting_relu"
    else:
        given, activation = (empty(pooled, torch.uint8), empty(pooled, dtype)), "identity"
    compile_ways(PoolTask(*facts, windows, activation, torch.uint8), images, *given)


def compile_ways(task: Task, *operands: torch.Tensor) -> None:
    """Of all methods that would be measured, the first of each kernel and product."""
    family = tuning._families[type(task)]
    ways = {}
    for method in family.candidates(task, tuning.CANDIDATES):
        parts = (method.input, method.filters) if isinstance(method, Spread) else (method,)
        ways.setdefault(tuple((type(part), getattr(part, "product", None)) for part in parts), method)
    assert ways
    for method in ways.values():
        family.carry_out(task, method, *operands)


def max_pool(pool: str, dtype: str, format: str) -> None:
    images, windows = empty((32, 8, 20, 21), DTYPES[dtype], format), windows_of(*POOLS[pool])
    winners_dtype = torch.int64 if pool == "of_many_taps" else torch.uint8
    maxima, winners = cuda.max_pool2d(images, winners_dtype, *windows, True)
    cuda.max_pool2d_maxima(images, *windows, True)
    cuda.max_pool2d_grad(winners, maxima, *images.shape[2:], *windows)
    cuda.max_pool2d_gather(images, winners, *windows)
    cuda.sum_over_pixels(maxima, winners)


def average_pool(pool: str, dtype: str, format: str) -> None:
    images, windows = empty((32, 8, 20, 21), DTYPES[dtype], format), windows_of(*POOLS[pool])
    for mode in cuda.MODES:
        maps = cuda.average_pool2d(images, *windows, True, mode)
        cuda.average_pool2d_grad(maps, *images.shape[2:], *windows, mode)


def rectified_average_pool(pool: str, dtype: str, format: str) -> None:
    images, windows = empty((32, 8, 20, 21), DTYPES[dtype], format), windows_of(*POOLS[pool])
    biases = torch.empty(8, device=META)
    maps = cuda.rectified_average_pool2d(images, biases, *windows, True, "average_exc_pad")
    cuda.rectified_average_pool2d_grad(images, biases, maps, *windows, "average_exc_pad")


def normalisation(dtype: str, format: str) -> None:
    images = empty((32, 24, 6, 7), DTYPES[dtype], format)
    for blocked in (False, True):
        maps = cuda.cross_map_norm(images, 5, 1e-4, 0.75, blocked)
        cuda.cross_map_norm_grad(images, maps, 5, 1e-4, 0.75, blocked)


def problem(function: Callable[..., None], *case: str) -> str:
    """What was wrong when the kernels that a function launches were compiled; '' if nothing."""
    knobs.compilation.listener = check_memory
    try:
        with without_gpu(H100):
            function(*case)
    except Exception:  # not all of them could be sent to another process
        return traceback.format_exc()
    return ""


def check_memory(metadata: dict, **_) -> None:
    assert metadata["shared"] <= SHARED_BYTES, f"{metadata['name']}: {metadata['shared']} bytes of shared memory"


# --------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def compiled():
    """`problem` in another process. In this one Triton interprets: it decides on that when it is imported."""
    if "nvidia" not in backends:
        pytest.skip("this Triton does not compile for NVIDIA's GPUs")
    try:
        _ = knobs.nvidia.ptxas
    except RuntimeError as error:
        pytest.skip(f"nothing can be compiled: {error}")
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield lambda *case: pool.submit(problem, *case).result()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_convolutions(layer, name, precision, compiled):
    found = compiled(convolution, layer, name, precision)
    assert not found, found


@pytest.mark.parametrize(("dtype", "format"), PLACED)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", [max_pool, average_pool, rectified_average_pool])
def test_pools(kind, pool, dtype, format, compiled):
    found = compiled(kind, pool, dtype, format)
    assert not found, found


@pytest.mark.parametrize(("dtype", "format"), PLACED)
def test_normalisation(dtype, format, compiled):
    found = compiled(normalisation, dtype, format)
    assert not found, found
