"""The operators keep torch's contract: schemas, results that look as they were said to, derivatives to second order."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the front door is for programs of torch: pip install torch")
pytest.importorskip("triton", reason="its operators are written in Triton: pip install triton")

from pytensor_convnet.kernels.cuda.formats import FORMATS, to_format  # noqa: E402
from pytensor_convnet.torch import conv_pool_operators, convolution_operators, pooling_operators  # noqa: E402, F401

OPERATORS = torch.ops.pytensor_convnet
WINDOWS = [3, 2], [2, 2], [1, 0]
MOVES = [2, 1], [1, 0, 2, 1], [1, 2], 2, "ieee"


def random(*shape, device, format="bc01", dtype=torch.float32):
    array = np.random.default_rng(sum(shape)).permutation(int(np.prod(shape))).reshape(shape) / np.prod(shape) - 0.5
    return to_format(torch.tensor(array, dtype=dtype, device=device), format)


def arguments(name, device, format, filter_format="bc01"):
    """What an operator is called with; the images are 2x4x7x6."""
    images = random(2, 4, 7, 6, device=device, format=format)
    filters = random(6, 2, 3, 2, device=device, format=filter_format)
    if "correlate2d_max_pool2d" in name:
        biases, windows = random(6, 1, 1, 1, device=device).flatten(), [[2, 3], [2, 2], [1, 1]]
        forward = images, filters, biases, *MOVES, *windows, False, "tanh"
        maxima, winners = OPERATORS.correlate2d_max_pool2d(*forward)
        maps, pooled = random(*maxima.shape, device=device, format=format), (3, 7, *MOVES, *windows)
        return {
            "correlate2d_max_pool2d": forward,
            "correlate2d_max_pool2d_input_grad": (filters, winners, maps, 7, 6, format, *pooled),
            "correlate2d_max_pool2d_filter_grad": (images, winners, maps, 3, 2, filter_format, *pooled),
            "correlate2d_max_pool2d_grads": (images, filters, winners, maps, *pooled),
        }[name]
    if "correlate" in name:
        maps = random(2, 6, 3, 7, device=device, format=format)
        return {
            "correlate2d": (images, filters, *MOVES),
            "correlate2d_input_grad": (filters, maps, 7, 6, format, *MOVES),
            "correlate2d_filter_grad": (images, maps, 3, 2, filter_format, *MOVES),
            "correlate2d_grads": (images, filters, maps, *MOVES),
        }[name]
    maps = random(2, 4, 4, 3, device=device, format=format)
    _, winners = OPERATORS.max_pool2d(images, *WINDOWS, False)
    return {
        "max_pool2d": (images, *WINDOWS, False),
        "max_pool2d_grad": (winners, maps, 7, 6, *WINDOWS),
        "max_pool2d_gather": (images, winners, *WINDOWS),
        "average_pool2d": (images, *WINDOWS, True, "average_exc_pad"),
        "average_pool2d_grad": (maps, 7, 6, format, *WINDOWS, True, "average_exc_pad"),
    }[name]


NAMES = [
    "max_pool2d", "max_pool2d_grad", "max_pool2d_gather", "average_pool2d", "average_pool2d_grad",
    "correlate2d", "correlate2d_input_grad", "correlate2d_filter_grad", "correlate2d_grads",
    "correlate2d_max_pool2d", "correlate2d_max_pool2d_input_grad", "correlate2d_max_pool2d_filter_grad",
    "correlate2d_max_pool2d_grads",
]  # fmt: skip


def learning(given):
    """What an operator is called with, the gradients of all of which are wanted."""
    return tuple(
        value.requires_grad_() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for value in given
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_contract(device, name, format):
    torch.library.opcheck(getattr(OPERATORS, name).default, learning(arguments(name, device, format)))


@pytest.mark.parametrize("filter_format", [format for format in FORMATS if format != "bc01"])
@pytest.mark.parametrize("name", [name for name in NAMES if "correlate" in name])
def test_contract_with_filters_of_every_format(device, name, filter_format):
    given = arguments(name, device, "channels_last", filter_format)
    torch.library.opcheck(getattr(OPERATORS, name).default, learning(given))


@pytest.mark.parametrize("name", [name for name in NAMES if "correlate" not in name])
def test_derivatives_of_pools(device, name):
    given = [value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
             for value in arguments(name, device, "bc01")]  # fmt: skip
    place = next(i for i, value in enumerate(given) if isinstance(value, torch.Tensor) and value.is_floating_point())

    def function(tensor):
        result = getattr(OPERATORS, name)(*given[:place], tensor, *given[place + 1 :])
        return result[0] if name == "max_pool2d" else result

    assert torch.autograd.gradcheck(function, given[place].requires_grad_(), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given[place], fast_mode=True)


@pytest.mark.parametrize("name", [name for name in NAMES if "correlate" in name and "pool" not in name])
def test_derivatives_of_correlations(device, name):
    """Each result is linear in each operand, so torch's derivatives in float64 are what ours must be."""
    given = arguments(name, device, "bc01")
    count = 3 if name == "correlate2d_grads" else 2
    tensors, rest = given[:count], given[count:]

    def derivatives(function, tensors, learning):
        tensors = [tensor.detach().requires_grad_(i in learning) for i, tensor in enumerate(tensors)]
        chosen, results = [tensors[i] for i in learning], function(*tensors)
        results = [result for result in results if result.requires_grad] if count == 3 else [results]
        outer = [
            torch.linspace(-1, 1, result.numel(), dtype=result.dtype, device=device).reshape(result.shape)
            for result in results
        ]
        grads = torch.autograd.grad(results, chosen, outer, create_graph=True)
        if len(chosen) == 1:  # they do not depend on it
            return grads
        return [*grads, *torch.autograd.grad(sum((grad**2).sum() for grad in grads), chosen)]

    def ours(*tensors):
        return getattr(OPERATORS, name)(*tensors, *rest)

    def theirs(*tensors):
        return correlations_of_torch(name, *tensors)

    doubles = [tensor.double() for tensor in tensors]
    for learning in (*([i] for i in range(count)), range(count)):
        expected = derivatives(theirs, doubles, learning)
        for one, other in zip(derivatives(ours, tensors, learning), expected, strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm()


def correlations_of_torch(name, one, other, maps=None):
    if name == "correlate2d_grads":
        return (
            correlations_of_torch("correlate2d_input_grad", other, maps),
            correlations_of_torch("correlate2d_filter_grad", one, maps),
        )
    stride, (top, bottom, left, right), dilation, groups, _ = MOVES

    def forward(images, filters):
        padded = torch.nn.functional.pad(images, (left, right, top, bottom))
        return torch.nn.functional.conv2d(padded, filters, None, stride, 0, dilation, groups)

    if name == "correlate2d":
        return forward(one, other)
    if name == "correlate2d_input_grad":
        images = torch.zeros(2, 4, 7, 6, dtype=one.dtype, device=one.device, requires_grad=True)
        return torch.autograd.grad(forward(images, one), images, other, create_graph=True)[0]
    filters = torch.zeros(6, 2, 3, 2, dtype=one.dtype, device=one.device, requires_grad=True)
    return torch.autograd.grad(forward(one, filters), filters, other, create_graph=True)[0]


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "sigmoid"])
def test_derivatives_of_a_pooled_correlation(device, activation):
    """To second order, for each of its tensors alone and for all, those of torch's functions in float64."""
    images, filters, biases, *moves = arguments("correlate2d_max_pool2d", device, "bc01")[:-1]
    stride, (top, bottom, left, right), dilation, groups, _, window, pool_stride, pool_padding, _ = moves

    def ours(*tensors):
        return OPERATORS.correlate2d_max_pool2d(*tensors, *moves, activation)[0]

    def theirs(images, filters, biases):
        padded = torch.nn.functional.pad(images, (left, right, top, bottom))
        maps = torch.nn.functional.conv2d(padded, filters, biases, stride, 0, dilation, groups)
        maxima = torch.nn.functional.max_pool2d(maps, window, pool_stride, pool_padding)
        return maxima if activation == "identity" else getattr(torch, activation)(maxima)

    def derivatives(function, tensors, learning):
        tensors = [tensor.detach().requires_grad_(i in learning) for i, tensor in enumerate(tensors)]
        result = function(*tensors)
        chosen = [tensors[i] for i in learning]
        outer = torch.linspace(-1, 1, result.numel(), dtype=result.dtype, device=device).reshape(result.shape)
        outer.requires_grad_()
        grads = torch.autograd.grad(result, chosen, outer, create_graph=True)
        total = sum((grad**2).sum() for grad in grads)
        return [
            result,
            *grads,
            *torch.autograd.grad(total, [*chosen, outer], allow_unused=True, materialize_grads=True),
        ]

    tensors = images, filters, biases
    doubles = [tensor.double() for tensor in tensors]
    for learning in ([0], [1], [2], [0, 1, 2]):
        expected = derivatives(theirs, doubles, learning)
        for one, other in zip(derivatives(ours, tensors, learning), expected, strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6
