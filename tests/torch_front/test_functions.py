"""The functions compute what those of torch.nn.functional do."""

from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="the front door is for programs of torch: pip install torch")

import torch.nn.functional as F  # noqa: E402

from pytensor_convnet.torch import avg_pool2d, conv2d, conv_max_pool2d, max_pool2d, placing  # noqa: E402
from pytensor_convnet.torch import to_batch_last as batch_last  # noqa: E402

if placing.HAS_TRITON:
    from pytensor_convnet.kernels.cuda import correlation

needs_triton = pytest.mark.skipif(
    not placing.HAS_TRITON, reason="the kernels are written in Triton: pip install triton"
)
"""Without it nothing but torch's own functions can be called."""


def random(*shape, device):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


def agree(ours, theirs, tensors, tolerance=1e-5):
    """Both give the same, and so do their gradients for all of ``tensors``."""
    results = []
    for function in (ours, theirs):
        learning = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        result = function(*learning)
        outer = torch.cos(torch.arange(result.numel(), device=result.device)).reshape(result.shape)
        results.append([result, *torch.autograd.grad(result, learning, outer.to(result.dtype))])
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


MAX_POOLS = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": [2], "ceil_mode": True},
]
AVERAGES = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 3, "stride": (2, 1), "padding": (1, 0), "count_include_pad": False},
    {"kernel_size": (3, 2), "divisor_override": 5},
]
CONVOLUTIONS = [
    {},
    {"stride": 2, "padding": (1, 0)},
    {"padding": "same", "dilation": (1, 2)},
    {"padding": "valid", "groups": 2},
    {"stride": [2], "padding": (1,), "dilation": [2]},
]


@needs_triton
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (3, 7, 8)], ids=["batch", "image"])
@pytest.mark.parametrize("settings", MAX_POOLS)
def test_max_pool2d(device, kernels, settings, shape):
    x = random(*shape, device=device)
    agree(lambda x: max_pool2d(x, **settings), lambda x: F.max_pool2d(x, **settings), [x])


@needs_triton
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (3, 7, 8)], ids=["batch", "image"])
@pytest.mark.parametrize("settings", AVERAGES)
def test_avg_pool2d(device, kernels, settings, shape):
    x = random(*shape, device=device)
    agree(lambda x: avg_pool2d(x, **settings), lambda x: F.avg_pool2d(x, **settings), [x])


@needs_triton
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_conv2d(device, kernels, settings, with_bias):
    groups = settings.get("groups", 1)
    tensors = [random(2, 4, 6, 7, device=device), random(6, 4 // groups, 3, 2, device=device)]
    tensors += [random(6, device=device)] if with_bias else []
    agree(lambda *t: conv2d(*t, **settings, precision="ieee"), lambda *t: F.conv2d(*t, **settings), tensors, 1e-4)


@needs_triton
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", None])
def test_conv_max_pool2d(device, kernels, activation):
    tensors = random(2, 3, 8, 9, device=device), random(4, 3, 3, 3, device=device), random(4, device=device)

    def theirs(x, w, b):
        maps = F.conv2d(x, w, b, padding=1)
        return F.max_pool2d(getattr(torch, activation)(maps) if activation else maps, 3, 2, 1)

    def ours(x, w, b):
        pool = {"pool_size": 3, "pool_stride": 2, "pool_padding": 1}
        return conv_max_pool2d(x, w, b, padding=1, **pool, activation=activation, precision="ieee")

    agree(ours, theirs, tensors, 1e-4)


@needs_triton
def test_results_are_in_the_format_of_the_images(device, kernels):
    x = batch_last(random(4, 3, 8, 6, device=device)).requires_grad_()
    pooled = conv_max_pool2d(x, random(4, 3, 3, 3, device=device), random(4, device=device), padding=1, pool_size=2)
    assert pooled.stride(0) == avg_pool2d(pooled, 2).stride(0) == 1
    assert torch.autograd.grad(pooled.sum(), x)[0].stride(0) == 1


@needs_triton
@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (4, 3, 1, 1), (4, 1, 3, 3), (1, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("with_images", [True, False])
@pytest.mark.parametrize("function", [conv2d, partial(conv_max_pool2d, pool_size=2)], ids=["conv2d", "conv_max_pool2d"])
def test_the_gradient_of_a_weight_lies_as_the_weight_does(device, kernels, function, memory_format, shape, with_images):
    x = random(2, shape[1], 6, 7, device=device).to(memory_format=torch.channels_last)
    w = random(*shape, device=device).contiguous(memory_format=memory_format).requires_grad_()
    maps = function(x.requires_grad_(with_images), w, padding=1)
    given = []
    w.register_hook(lambda gradient: given.append((gradient.data_ptr(), gradient.stride())))
    maps.sum().backward()
    assert given == [(w.grad.data_ptr(), w.stride())]  # torch would have copied one that lies otherwise


def test_max_pool_dilation_and_indices_are_torchs(device):
    x = random(1, 2, 8, 8, device=device)
    assert torch.equal(max_pool2d(x, 2, dilation=2), F.max_pool2d(x, 2, dilation=2))
    for ours, theirs in zip(max_pool2d(x, 2, return_indices=True), F.max_pool2d(x, 2, return_indices=True)):
        assert torch.equal(ours, theirs)


def test_on_the_cpu_the_functions_are_torchs():
    x, w, b = random(2, 3, 8, 8, device="cpu"), random(4, 3, 3, 3, device="cpu"), random(4, device="cpu")
    assert torch.equal(conv2d(x, w, b, padding="same"), F.conv2d(x, w, b, padding="same"))
    assert torch.equal(max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))
    assert torch.equal(avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1))
    expected = torch.relu(F.max_pool2d(F.conv2d(x, w, b), 2))
    assert torch.equal(conv_max_pool2d(x, w, b, pool_size=2, activation="relu"), expected)


def test_a_gpu_without_triton(monkeypatch):
    class OnGpu:
        device, dtype = torch.device("cuda"), torch.float32

    monkeypatch.setattr(placing, "HAS_TRITON", False)
    with pytest.raises(ImportError, match=r"needs Triton: pip install 'pytensor-convnet\[cuda\]'"):
        placing.is_for_kernels(OnGpu, [torch.float32])


def layer(x, w, b):
    return avg_pool2d(conv_max_pool2d(x, w, b, padding=1, pool_size=2, activation="tanh"), 2).square()


def two_operators(x, w, b):
    return max_pool2d(conv2d(x, w, b, padding=1), 2).square()


@needs_triton
@pytest.mark.parametrize("function", [layer, two_operators])
def test_under_torch_compile(device, kernels, function):
    backend = "inductor" if device == "cuda" else "aot_eager"  # inductor wants a C++ compiler on a CPU
    tensors = random(2, 3, 8, 8, device=device), random(4, 3, 3, 3, device=device), random(4, device=device)
    agree(torch.compile(function, backend=backend, fullgraph=True), function, tensors)


@needs_triton
@pytest.mark.parametrize("function", [layer, two_operators])
def test_under_torch_compile_batches_need_not_be_known(device, kernels, function):
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    filters, biases = random(4, 3, 3, 3, device=device), random(4, device=device)
    for batch in (2, 3):
        images = random(batch, 3, 8, 8, device=device)
        torch.testing.assert_close(compiled(images, filters, biases), function(images, filters, biases))


@pytest.fixture
def tf32_is_told():
    """Say by the newer of torch's interfaces whether tf32 is allowed; after "ieee" its flag cannot be read."""
    yield lambda precision: setattr(torch.backends.cudnn.conv, "fp32_precision", precision)
    torch.backends.cudnn.allow_tf32 = True


@needs_triton
@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch < 2.9 has flags only")
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("told", "expected"), [("ieee", "ieee"), ("tf32", "medium")])
def test_the_precision_is_what_torch_was_told(device, kernels, monkeypatch, tf32_is_told, compiled, told, expected):
    used, correlate2d = [], correlation.correlate2d

    def spy(*operands, precision):
        used.append(precision)
        return correlate2d(*operands, precision=precision)

    monkeypatch.setattr(correlation, "correlate2d", spy)
    tf32_is_told(told)
    function = torch.compile(conv2d, backend="aot_eager", fullgraph=True) if compiled else conv2d
    function(random(1, 2, 4, 4, device=device), random(2, 2, 3, 3, device=device))
    assert used == [expected]


@needs_triton
@pytest.mark.parametrize(("asked", "called"), [("xw", "grads"), ("x", "input_grad"), ("w", "filter_grad")])
def test_both_gradients_of_a_convolution_are_one_call(device, kernels, asked, called):
    tensors = {"x": random(2, 3, 8, 8, device=device), "w": random(4, 3, 3, 3, device=device)}
    asked = [tensors[name].requires_grad_() for name in asked]
    maps = conv2d(tensors["x"], tensors["w"])
    with torch.profiler.profile() as profile:
        torch.autograd.grad(maps.sum(), asked)
    ours = [event.name for event in profile.events() if event.name.startswith("pytensor_convnet::")]
    assert ours == [f"pytensor_convnet::correlate2d_{called}"]


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast(device, kernels, dtype):
    x, w, b = random(8, 3, 8, 8, device=device), random(4, 3, 3, 3, device=device), random(4, device=device)
    w.requires_grad_()
    with torch.autocast(device, dtype):
        ours, theirs = conv2d(x, w, b), F.conv2d(x, w, b)
        pooled = conv_max_pool2d(x, w, b, pool_size=2)
    assert ours.dtype == theirs.dtype == pooled.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(pooled, F.max_pool2d(theirs, 2), rtol=2e-2, atol=2e-2)
    assert torch.autograd.grad(ours.float().sum(), w)[0].dtype == torch.float32


@needs_triton
@pytest.mark.parametrize("function", [conv2d, lambda x, w, b: conv_max_pool2d(x, w, b, pool_size=1)])
def test_autocast_of_torchs_own_functions(function):
    x, w, b = random(2, 3, 8, 8, device="cpu"), random(4, 3, 3, 3, device="cpu"), random(4, device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = function(x, w, b), F.conv2d(x, w, b)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_autocast_leaves_float64_as_it_is():
    x, w, b = (random(*shape, device="cpu").double() for shape in [(2, 3, 8, 8), (4, 3, 3, 3), (4,)])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv2d(x, w, b), F.conv2d(x, w, b))
        assert conv_max_pool2d(x, w, b, pool_size=2).dtype == torch.float64


def test_autocast_leaves_integers_as_they_are():
    x, w = torch.arange(32).reshape(1, 2, 4, 4), torch.arange(8).reshape(1, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv2d(x, w), F.conv2d(x, w))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: graphs are for GPUs")
@pytest.mark.parametrize("function", [layer, two_operators])
def test_in_a_cuda_graph(function):
    x, w, b = random(8, 3, 8, 8, device="cuda"), random(4, 3, 3, 3, device="cuda"), random(4, device="cuda")
    x.requires_grad_()
    w.requires_grad_()

    def step():
        result = function(x, w, b)
        return result, *torch.autograd.grad(result.sum(), (x, w))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(random(8, 3, 8, 9, device="cuda")[..., :8])
    graph.replay()
    for one, other in zip(captured, step(), strict=True):
        torch.testing.assert_close(one, other)
