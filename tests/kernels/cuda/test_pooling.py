"""The CUDA pooling kernels compute what the reference defines, in every format, and refuse what does not fit."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import ShapeError
from tests.strategies import pools

torch = pytest.importorskip("torch", reason="the CUDA kernels work on torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton: pip install triton")

from pytensor_convnet.kernels.cuda import average_pooling, max_pooling, max_pooling_grad, pool_plans  # noqa: E402
from pytensor_convnet.kernels.cuda.average_pooling import MODES, average_pool2d, average_pool2d_grad  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import FORMATS, empty, memory_format, to_format  # noqa: E402
from pytensor_convnet.kernels.cuda.max_pooling import max_pool2d, max_pool2d_maxima  # noqa: E402
from pytensor_convnet.kernels.cuda.max_pooling_grad import max_pool2d_gather, max_pool2d_grad  # noqa: E402

NO_PADDING = ((0, 0), (0, 0))
NARROW = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LARGE_WINDOWS = (3, 3), (2, 2), ((1, 1), (1, 1))

WAYS = {
    "many programs": {"ENOUGH_PROGRAMS": 1},  # strips and patches of several rows, which small images else never have
    "few programs": {},
    "loops": {"UNROLLED_TAPS": 0},
}


@contextlib.contextmanager
def way(name="few programs"):
    """Let kernels take one of `WAYS`, and give them outputs full of what they must overwrite."""

    def poisoned(shape, format, dtype, device):
        return empty(shape, format, dtype, device).fill_(float("nan") if dtype.is_floating_point else 101)

    with pytest.MonkeyPatch.context() as patch:
        for module in (max_pooling, max_pooling_grad, average_pooling):
            patch.setattr(module, "empty", poisoned)
        for setting, value in WAYS[name].items():
            patch.setattr(pool_plans, setting, value)
        yield


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def tensor(array, format, device):
    return to_format(torch.tensor(np.ascontiguousarray(array), device=device), format)


def same(actual, expected, format=None):
    assert format is None or memory_format(actual) == format or min(actual.shape) < 2  # several formats fit then
    np.testing.assert_array_equal(actual.cpu().numpy(), expected)


def close(actual, expected):
    np.testing.assert_allclose(
        actual.cpu().to(torch.float64).numpy(), expected, atol=TOLERANCE[actual.dtype], rtol=TOLERANCE[actual.dtype]
    )


# ------------------------------------------------------------------------------------ any geometry


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=6)
@given(case=pools(dtype="float32"), special=st.sampled_from([np.nan, -np.inf, 0.0]))
def test_max_pool_and_its_gradients(device, format, name, case, special):
    images = np.where(case.images == 3, np.float32(special), case.images)
    expected = reference.max_pool2d(images, np.uint8, *case.windows, case.ignore_border)
    maps = random(*expected[0].shape)
    with way(name):
        maxima, winners = max_pool2d(tensor(images, format, device), torch.uint8, *case.windows, case.ignore_border)
        grad = max_pool2d_grad(winners, tensor(maps, format, device), *case.rows_and_columns, *case.windows)
        gathered = max_pool2d_gather(tensor(case.images, format, device), winners, *case.windows)
    for one, other in zip((maxima, winners), expected):
        same(one, other, format)
    close(grad, reference.max_pool2d_grad(expected[1], maps, *case.rows_and_columns, *case.windows))
    same(gathered, reference.max_pool2d_gather(case.images, expected[1], *case.windows), format)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=6)
@given(case=pools(dtype="float32"), special=st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, -0.0]))
def test_maxima_of_bfloat16_are_exact_and_the_first_of_equals_wins(device, format, name, case, special):
    images = tensor(case.images, format, device).bfloat16()
    images[images == 3] = special
    expected = reference.max_pool2d(images.float().cpu().numpy(), np.uint8, *case.windows, case.ignore_border)
    with way(name):
        maxima, winners = max_pool2d(images, torch.uint8, *case.windows, case.ignore_border)
    same(maxima.float(), expected[0])
    same(winners, expected[1], format)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=6)
@given(case=pools(dtype="float32"), format=st.sampled_from(FORMATS))
def test_average_pool_and_its_gradient(device, name, mode, case, format):
    expected = reference.average_pool2d(case.images, *case.windows, case.ignore_border, mode)
    maps = random(*expected.shape)
    with way(name):
        averages = average_pool2d(tensor(case.images, format, device), *case.windows, case.ignore_border, mode)
        grad = average_pool2d_grad(tensor(maps, format, device), *case.rows_and_columns, *case.windows, mode)
    close(averages, expected)
    close(grad, reference.average_pool2d_grad(maps, *case.rows_and_columns, *case.windows, mode))


# --------------------------------------------------------------------------------- special geometry

SPECIAL = [
    ((3, 2, 7, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),  # an even number of columns: taps are read in pairs
    ((2, 3, 6, 10), (2, 4), (2, 2), NO_PADDING),
    ((2, 3, 6, 10), (2, 5), (2, 2), ((0, 1), (3, 2))),
    ((8, 16, 5, 5), (3, 3), (1, 1), ((1, 1), (1, 1))),  # vectors of channels and of images
    ((20, 12, 6, 6), (2, 2), (2, 2), NO_PADDING),
    ((1, 1, 18, 17), (17, 16), (9, 9), ((0, 4), (0, 8))),  # windows of more than 256 taps
    ((2, 1, 3, 2), (5, 7), (4, 4), ((2, 3), (3, 6))),  # a window larger than the image
    ((1, 1, 1, 1), (1, 1), (1, 1), NO_PADDING),
    ((2, 2, 11, 13), (1, 2), (3, 4), NO_PADDING),  # gaps between windows
    ((1, 1, 4, 300), (3, 3), (2, 2), ((1, 1), (1, 1))),  # rows wider than a tile
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("shape", "window", "stride", "padding"), SPECIAL)
def test_special_geometry(device, shape, window, stride, padding, format):
    images, windows = random(*shape), (window, stride, padding)
    winners_dtype = "uint8" if window[0] * window[1] <= 256 else "int64"
    expected = reference.max_pool2d(images, winners_dtype, *windows, False)
    maps = random(*expected[0].shape, seed=1)
    with way("many programs"):
        maxima, winners = max_pool2d(tensor(images, format, device), getattr(torch, winners_dtype), *windows, False)
        grad = max_pool2d_grad(winners, tensor(maps, format, device), *shape[2:], *windows)
        averages = average_pool2d(tensor(images, format, device), *windows, False, "average_inc_pad")
    same(maxima, expected[0])
    same(winners, expected[1])
    close(grad, reference.max_pool2d_grad(expected[1], maps, *shape[2:], *windows))
    close(averages, reference.average_pool2d(images, *windows, False, "average_inc_pad"))


@pytest.mark.parametrize("format", FORMATS)
def test_offsets_of_64_bits(device, format):
    images = random(3, 4, 7, 9)
    expected = reference.max_pool2d(images, np.uint8, *LARGE_WINDOWS, True)
    with way("many programs"), pytest.MonkeyPatch.context() as patch:
        for module in (max_pooling, max_pooling_grad, average_pooling):
            patch.setattr(module, "is_wide", lambda *_: True)
        maxima, winners = max_pool2d(tensor(images, format, device), torch.uint8, *LARGE_WINDOWS, True)
        grad = max_pool2d_grad(winners, maxima, 7, 9, *LARGE_WINDOWS)
        averages = average_pool2d(tensor(images, format, device), *LARGE_WINDOWS, True, "sum")
        gathered = max_pool2d_gather(grad, winners, *LARGE_WINDOWS)
    same(maxima, expected[0])
    close(grad, reference.max_pool2d_grad(expected[1], expected[0], 7, 9, *LARGE_WINDOWS))
    close(averages, reference.average_pool2d(images, *LARGE_WINDOWS, True, "sum"))
    same(gathered, reference.max_pool2d_gather(grad.cpu().numpy(), expected[1], *LARGE_WINDOWS))


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 0, 5, 6)])
def test_no_images_give_no_maps(device, shape):
    images = torch.zeros(shape, device=device)
    maxima, winners = max_pool2d(images, torch.uint8, *LARGE_WINDOWS, True)
    assert maxima.shape == winners.shape == (*shape[:2], 3, 3)
    assert max_pool2d_grad(winners, maxima, 5, 6, *LARGE_WINDOWS).shape == shape
    assert max_pool2d_gather(images, winners, *LARGE_WINDOWS).shape == maxima.shape
    assert average_pool2d(images, *LARGE_WINDOWS, True, "sum").shape == maxima.shape


# ------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "bool"])
def test_max_pool_of_integers(device, dtype, name):
    low, high = (0, 2) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    images = np.random.default_rng(0).integers(low, high, (2, 3, 6, 8)).astype(dtype)
    images[:, :, :3, :3] = low
    expected = reference.max_pool2d(images, np.uint8, *LARGE_WINDOWS, True)
    with way(name):
        maxima, winners = max_pool2d(torch.tensor(images, device=device), torch.uint8, *LARGE_WINDOWS, True)
    same(maxima, expected[0])
    same(winners, expected[1])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_floats(device, dtype, format):
    images = to_format(torch.tensor(random(8, 8, 6, 8)).to(dtype).to(device), format)
    images[0, 0, :4, :4] = -torch.inf
    images[1, 1, 3, 3] = torch.nan
    exact = images.cpu().float().numpy()
    expected = reference.max_pool2d(exact, np.uint8, *LARGE_WINDOWS, True)
    with way("many programs"):
        maxima, winners = max_pool2d(images, torch.uint8, *LARGE_WINDOWS, True)
        grad = max_pool2d_grad(winners, images[:, :, :3, :4].contiguous(), 6, 8, *LARGE_WINDOWS)
        averages = average_pool2d(images[2:], *LARGE_WINDOWS, True, "average_exc_pad")
    assert maxima.dtype == grad.dtype == averages.dtype == dtype
    same(maxima.float(), expected[0])
    same(winners, expected[1])
    close(grad, reference.max_pool2d_grad(expected[1], exact[:, :, :3, :4], 6, 8, *LARGE_WINDOWS))
    close(averages, reference.average_pool2d(exact[2:], *LARGE_WINDOWS, True, "average_exc_pad"))


def test_float64_keeps_its_precision(device):
    images = np.random.default_rng(0).standard_normal((2, 3, 6, 7))
    maxima, winners = max_pool2d(torch.tensor(images, device=device), torch.uint8, *LARGE_WINDOWS, True)
    grad = max_pool2d_grad(winners, maxima, 6, 7, *LARGE_WINDOWS)
    expected = reference.max_pool2d(images, np.uint8, *LARGE_WINDOWS, True)
    same(maxima, expected[0])
    error = grad.cpu().numpy() - reference.max_pool2d_grad(expected[1], expected[0], 6, 7, *LARGE_WINDOWS)
    assert np.abs(error).max() < 1e-14


# ------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("asked", FORMATS)
@pytest.mark.parametrize("given_format", FORMATS)
def test_the_result_has_the_format_asked_for(device, given_format, asked):
    images = random(4, 4, 6, 6)
    expected = reference.max_pool2d(images, np.uint8, *LARGE_WINDOWS, True)
    maxima, winners = max_pool2d(tensor(images, given_format, device), torch.uint8, *LARGE_WINDOWS, True, asked)
    same(maxima, expected[0], asked)
    same(winners, expected[1], asked)
    grad = max_pool2d_grad(winners, tensor(expected[0], given_format, device), 6, 6, *LARGE_WINDOWS)
    assert memory_format(grad) == given_format
    close(grad, reference.max_pool2d_grad(expected[1], expected[0], 6, 6, *LARGE_WINDOWS))


def test_images_that_are_in_no_format(device):
    images = random(2, 3, 9, 14)[:, :, ::-1, ::2]
    strided = torch.tensor(random(2, 3, 9, 14), device=device).flip(2)[:, :, :, ::2]
    assert memory_format(strided) is None
    same(
        max_pool2d_maxima(strided, *LARGE_WINDOWS, True),
        reference.max_pool2d(images, np.uint8, *LARGE_WINDOWS, True)[0],
    )


@pytest.mark.parametrize("format", FORMATS)
def test_maxima_without_winners(device, format):
    images = random(2, 3, 6, 7)
    with way():
        maxima = max_pool2d_maxima(tensor(images, format, device), *LARGE_WINDOWS, True)
    same(maxima, reference.max_pool2d(images, np.uint8, *LARGE_WINDOWS, True)[0], format)


def test_results_are_the_same_in_every_run(device):
    winners = torch.tensor(np.random.default_rng(0).integers(0, 9, (4, 4, 6, 6)).astype("uint8"), device=device)
    maps = torch.tensor(random(4, 4, 6, 6), device=device)
    first, second = (max_pool2d_grad(winners, maps, 6, 6, (3, 3), (1, 1), ((1, 1), (1, 1))) for _ in range(2))
    assert torch.equal(first, second)


# ------------------------------------------------------------------------------------------ refusals


def test_winners_that_are_no_pixels_are_never_read(device):
    images = torch.tensor(random(1, 1, 4, 4), device=device)
    winners = torch.tensor([[[[0, 200], [-5, 3]]]], device=device)
    gathered = max_pool2d_gather(images, winners, (2, 2), (2, 2), NO_PADDING)[0, 0]
    assert gathered[0, 0] == images[0, 0, 0, 0]
    assert gathered[1, 1] == images[0, 0, 3, 3]
    assert gathered[0, 1].isnan()
    assert gathered[1, 0].isnan()
    grad = max_pool2d_grad(winners, images[:, :, :2, :2].contiguous(), 4, 4, (2, 2), (2, 2), NO_PADDING)
    assert torch.count_nonzero(grad) == 2


REFUSED = [
    (lambda x: max_pool2d(x, torch.uint8, (9, 2), (1, 1), NO_PADDING, True), ShapeError, "ws spans 9 rows .* only 6"),
    (lambda x: max_pool2d(x, torch.uint8, (2, 2), (1, 1), ((2, 0), (0, 0)), True), ShapeError, "pad 2 is not smaller"),
    (lambda x: max_pool2d(x, torch.uint8, (2, 2), (0, 1), NO_PADDING, True), ValueError, "stride must be at least 1"),
    (lambda x: max_pool2d(x, torch.uint8, (17, 16), (1, 1), NO_PADDING, False), ValueError, "number the 272 taps"),
    (lambda x: max_pool2d(x[0], torch.uint8, (2, 2), (1, 1), NO_PADDING, True), ValueError, "four axes"),
    (lambda x: max_pool2d(x, torch.uint8, (2, 2), (1, 1), NO_PADDING, True, "c01b"), ValueError, "memory_format must"),
    (lambda x: average_pool2d(x, (2, 2), (1, 1), NO_PADDING, True, "mean"), ValueError, "mode must be one of sum"),
    (lambda x: average_pool2d(x.int(), (2, 2), (1, 1), NO_PADDING, True, "sum"), ValueError, "must be .* int32"),
    (lambda x: average_pool2d_grad(x, 20, 20, (2, 2), (2, 2), NO_PADDING, "sum"), ShapeError, "do not come from"),
    (lambda x: max_pool2d_grad(x, x, 12, 12, (2, 2), (2, 2), NO_PADDING), ValueError, "winners must be uint8"),
    (lambda x: max_pool2d_grad(x[:1].byte(), x, 12, 12, (2, 2), (2, 2), NO_PADDING), ValueError, "winners are 1x3x6x7"),
    (lambda x: max_pool2d_gather(x, x.byte(), (2, 2), (2, 2), NO_PADDING), ShapeError, "do not come from an input"),
    (lambda x: max_pool2d(x, "uint8", (2, 2), (1, 1), NO_PADDING, True), ValueError, "be torch.uint8, .* got 'uint8'$"),
    (lambda x: average_pool2d(x, (2, 2), (1, 1), NO_PADDING, True, ["sum"]), ValueError, r"mode must .* got \['sum'\]"),
    (lambda x: max_pool2d(x.numpy(force=True), torch.uint8, (2, 2), (1, 1), NO_PADDING, True), ValueError,
     r"^images must be a torch tensor \(torch.as_tensor makes one\), got ndarray$"),
    (lambda x: max_pool2d_grad(None, x, 12, 12, (2, 2), (2, 2), NO_PADDING), ValueError, "^winners must be a torch"),
    (lambda x: average_pool2d_grad(None, 12, 12, (2, 2), (2, 2), NO_PADDING, "sum"), ValueError, "maps must be a tor"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused(device, call, error, message):
    with pytest.raises(error, match=message):
        call(torch.tensor(random(2, 3, 6, 7), device=device))


@pytest.mark.parametrize("name", ["rows", "columns"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [("a", "an integer"), (6.5, "an integer"), (None, "an integer"), (0, "at least 1"), (-2, "at least 1")],
)
def test_a_length_that_is_no_positive_integer_is_refused(device, name, value, rule):
    maps = torch.zeros(2, 3, 3, 3, device=device)
    lengths = {"rows": 6, "columns": 6, name: value}
    windows = {"window": (2, 2), "stride": (2, 2), "padding": NO_PADDING}
    for call in (
        lambda: max_pool2d_grad(maps.byte(), maps, **lengths, **windows),
        lambda: average_pool2d_grad(maps, **lengths, **windows, mode="sum"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be {rule}.*, got {value!r}$"):
            call()


def test_a_length_is_any_integer(device):
    maps = torch.ones(2, 3, 3, 3, device=device)
    spread = average_pool2d_grad(maps, np.int64(6), torch.tensor(7), (2, 2), (2, 2), NO_PADDING, "sum")
    assert spread.shape == (2, 3, 6, 7)


# ------------------------------------------------------------------------------------ on a GPU only


def on_gpu(test):
    return pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the interpreter would take hours")(test)


@on_gpu
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2), (7, 7, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_images_agree_with_torch(window, stride, padding, format, dtype):
    images = to_format(torch.randn(64, 96, 55, 54, device="cuda").to(dtype), format)
    windows = (window,) * 2, (stride,) * 2, ((padding,) * 2,) * 2
    learning = images.float().contiguous().requires_grad_()
    expected = torch.nn.functional.max_pool2d(learning, window, stride, padding)
    maps = torch.randn_like(expected).to(dtype)
    maxima, winners = max_pool2d(images, torch.uint8, *windows, True)
    assert torch.equal(maxima.float(), expected)
    grad = max_pool2d_grad(winners, to_format(maps, format), 55, 54, *windows)
    torch.testing.assert_close(
        grad.float(), torch.autograd.grad(expected, learning, maps.float())[0], rtol=1e-2, atol=1e-3
    )
    averages = torch.nn.functional.avg_pool2d(learning, window, stride, padding)
    ours = average_pool2d(images, *windows, True, "average_inc_pad")
    torch.testing.assert_close(ours.float(), averages, rtol=1e-2, atol=1e-3)
    spread = average_pool2d_grad(to_format(maps, format), 55, 54, *windows, "average_inc_pad")
    torch.testing.assert_close(
        spread.float(), torch.autograd.grad(averages, learning, maps.float())[0], rtol=1e-2, atol=1e-3
    )


@on_gpu
@pytest.mark.parametrize("format", FORMATS)
def test_more_than_2_to_the_31_numbers(format):
    images = empty((3, 2, 20000, 20000), format, torch.int8, "cuda").random_(-100, 100)
    maxima, winners = max_pool2d(images, torch.uint8, (2, 2), (2, 2), NO_PADDING, True)
    last = images[2, 1, -2:, -200:].reshape(2, 100, 2).permute(1, 0, 2).reshape(100, 4)
    assert torch.equal(maxima[2, 1, -1, -100:], last.amax(1))
    assert torch.equal(winners[2, 1, -1, -100:].long(), last.int().argmax(1))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_where_their_tensors_are():
    images = torch.randn(2, 3, 8, 8, device="cuda:1")
    maxima, winners = max_pool2d(images, torch.uint8, *LARGE_WINDOWS, True)
    assert torch.equal(maxima, torch.nn.functional.max_pool2d(images, 3, 2, 1))
    assert max_pool2d_grad(winners, maxima, 8, 8, *LARGE_WINDOWS).device == images.device
