"""What does not fit is refused under the names that the caller knows."""

import re

import pytest

torch = pytest.importorskip("torch", reason="the front door is for programs of torch: pip install torch")
pytest.importorskip("triton", reason="its kernels are written in Triton: pip install triton")

from pytensor_convnet.torch import avg_pool2d, conv2d, conv_max_pool2d, max_pool2d  # noqa: E402

TENSORS = [
    ({"input": (8, 8)}, "input must be (batch, channels, rows, columns) or (channels, rows, columns), got (8, 8)"),
    ({"weight": (3, 3, 3)}, "weight must be (filters, channels // groups, rows, columns), got (3, 3, 3)"),
    ({"weight": (3, 3), "padding": "same"}, "weight must be (filters, channels // groups, rows, columns), got (3, 3)"),
    ({"weight": (4, 2, 3, 3)}, "input has 3 channels but weight expects 2 (its channels x groups = 2 x 1): input is"),
    ({"weight": (4, 3, 0, 3)}, "weight has no rows: input is 2x3x8x8, weight is 4x3x0x3"),
    ({"weight": (4, 3, 9, 3)}, "weight spans 9 rows but the padded input has only 8 (8 + padding 0 + 0): input is"),
    ({"bias": (2,)}, "bias must have a number for each of the 4 filters, got (2,)"),
    ({"bias": (1, 4)}, "bias must have a number for each of the 4 filters, got (1, 4)"),
]
SETTINGS = [
    ({"stride": 0}, "stride must be at least 1, got 0"),
    ({"stride": (1, 2, 3)}, "stride must be an integer or a pair (rows, columns) of integers, got (1, 2, 3)"),
    ({"padding": "full"}, "padding must be 'valid', 'same', an integer or a pair (rows, columns), got 'full'"),
    ({"padding": -1}, "padding must be at least 0, got -1"),
    ({"padding": "same", "stride": [2]}, "padding='same' needs a stride of 1, got (2, 2)"),
    ({"dilation": None}, "dilation must be an integer, got None"),
    ({"dilation": 4}, "weight spans 9 rows (3 taps with dilation 4) but the padded input has only 8"),
    ({"groups": 2}, "groups=2 does not divide the 3 channels of input: input is 2x3x8x8, weight is 4x3x3x3"),
    ({"groups": 3}, "groups=3 does not divide the 4 filters of weight"),
    ({"groups": 1.0}, "groups must be an integer, got 1.0"),
    ({"precision": "low"}, "precision must be one of medium, high, ieee, or None, got 'low'"),
    ({"precision": ["ieee"]}, "precision must be one of medium, high, ieee, or None, got ['ieee']"),
    ({"weight": [1.0]}, "weight must be a tensor, got list"),
    ({"input": None}, "input must be a tensor, got NoneType"),
    ({"bias": 1.0}, "bias must be a tensor, got float"),
]
WINDOWS = [
    ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
    ({"kernel_size": "a"}, "kernel_size must be an integer, got 'a'"),
    ({"kernel_size": 9}, "kernel_size spans 9 rows but the padded {images} only 8 (8 + padding 0 + 0): {images} "),
    ({"kernel_size": 9}, "kernel_size 9x9, padding 0x0. Use a smaller window, or ceil_mode=True to keep partial"),
    ({"stride": 0}, "stride must be at least 1, got 0"),
    ({"stride": 1.5}, "stride must be an integer, got 1.5"),
    ({"padding": -1}, "padding must be at least 0, got -1"),
    ({"padding": 2}, "padding 2 is not smaller than the 2 rows of kernel_size: {images} "),
    ({"ceil_mode": "a"}, "ceil_mode must be True or False, got 'a'"),
]
POOL_NAMES = {"kernel_size": "pool_size", "stride": "pool_stride", "padding": "pool_padding"}


def random(*shape, device):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


@pytest.mark.parametrize("function", [conv2d, lambda **given: conv_max_pool2d(**given, pool_size=2)])
@pytest.mark.parametrize(("changed", "message"), TENSORS + SETTINGS, ids=str)
def test_convolutions(device, kernels, function, changed, message):
    arguments = {"input": (2, 3, 8, 8), "weight": (4, 3, 3, 3), "bias": (4,)} | changed
    for name in ("input", "weight", "bias"):
        if isinstance(arguments[name], tuple):
            arguments[name] = random(*arguments[name], device=device)
    with pytest.raises(ValueError, match=re.escape(message)):
        function(**arguments)


@pytest.mark.parametrize("function", [conv2d, lambda *given: conv_max_pool2d(*given, pool_size=2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_operands_of_several_dtypes(device, kernels, function, dtype):
    x, w, b = random(2, 3, 8, 8, device=device), random(4, 3, 3, 3, device=device), random(4, device=device)
    other = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"weight is {other} on {device}.*, but input is float32 on {device}"):
        function(x, w.to(dtype), b)
    with pytest.raises(ValueError, match=f"bias is {other} on {device}.*, but weight is float32 on {device}"):
        function(x, w, b.to(dtype))


def test_a_bias_of_another_dtype_where_torchs_own_functions_are_called():
    x, w, b = random(2, 3, 8, 8, device="cpu"), random(4, 3, 3, 3, device="cpu"), random(4, device="cpu")
    with pytest.raises(ValueError, match="bias is float64 on cpu, but weight is float32 on cpu"):
        conv_max_pool2d(x, w, b.double(), pool_size=2)


@pytest.mark.parametrize("function", [max_pool2d, avg_pool2d])
@pytest.mark.parametrize(("changed", "message"), WINDOWS, ids=str)
def test_pools(device, kernels, function, changed, message):
    with pytest.raises(ValueError, match=re.escape(message.format(images="input"))):
        function(random(2, 3, 8, 8, device=device), **{"kernel_size": 2} | changed)


@pytest.mark.parametrize("function", [max_pool2d, avg_pool2d])
def test_images_of_pools(device, kernels, function):
    with pytest.raises(ValueError, match="input must be .batch, channels, rows, columns. or .* got \\(8, 8\\)"):
        function(random(8, 8, device=device), 2)
    with pytest.raises(ValueError, match="input has no rows to pool: input 2x3x0x8"):
        function(random(2, 3, 0, 8, device=device), 2)
    with pytest.raises(ValueError, match="input must be a tensor, got NoneType"):
        function(None, 2)


@pytest.mark.parametrize("by_kernels", [True, False])
@pytest.mark.parametrize(("changed", "message"), WINDOWS, ids=str)
def test_pools_of_convolutions(device, request, by_kernels, changed, message):
    if by_kernels:
        request.getfixturevalue("kernels")
    message = message.format(images="maps")
    for name, own in POOL_NAMES.items():
        message = message.replace(name, own)
    changed = {POOL_NAMES.get(name, name): value for name, value in changed.items()}
    x, w = random(2, 3, 8, 8, device=device), random(4, 3, 1, 1, device=device)
    with pytest.raises(ValueError, match=re.escape(message)):
        conv_max_pool2d(x, w, **{"pool_size": 2} | changed)


@pytest.mark.parametrize("activation", ["softmax", ["relu"], 1], ids=str)
def test_activations(device, activation):
    x, w = random(2, 3, 8, 8, device=device), random(4, 3, 3, 3, device=device)
    with pytest.raises(ValueError, match="activation must be one of relu, sigmoid, tanh, or None, got"):
        conv_max_pool2d(x, w, pool_size=2, activation=activation)


@pytest.mark.parametrize("divisor", [0, 1.5, "a"])
def test_divisors_of_averages(device, kernels, divisor):
    with pytest.raises(ValueError, match=f"divisor_override must be an integer other than zero, .* got {divisor!r}"):
        avg_pool2d(random(2, 3, 8, 8, device=device), 2, divisor_override=divisor)


def test_flags(device, kernels):
    x = random(2, 3, 8, 8, device=device)
    with pytest.raises(ValueError, match="count_include_pad must be True or False, got 'a'"):
        avg_pool2d(x, 2, count_include_pad="a")
    with pytest.raises(ValueError, match="return_indices must be True or False, got 'a'"):
        max_pool2d(x, 2, return_indices="a")
