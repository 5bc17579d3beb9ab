"""Pooled correlations against the NumPy definitions: every way to compute them, ties, NaN, outputs poisoned."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import geometry as rules  # noqa: E402
from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.bench.cases import CONV  # noqa: E402
from pytensor_convnet.kernels import cuda  # noqa: E402
from pytensor_convnet.kernels.cuda import FORMATS, conv_pool_methods, memory_format, to_format, tuning  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_candidates import POOL_CANDIDATES, pool_candidates, row_blocks  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_grad_kernel import PoolGradBlocks  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_kernel import PoolBlocks, new_columns  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_methods import (  # noqa: E402
    Pair,
    PoolGather,
    PoolShare,
    PoolTask,
    Spread,
    carry_out,
)
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import strides  # noqa: E402
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry, gathering  # noqa: E402
from pytensor_convnet.kernels.cuda.magnitudes import largest_magnitudes  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Gather, Share  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_plans import check_pool  # noqa: E402
from pytensor_convnet.kernels.cuda.spreading import spread  # noqa: E402
from tests.kernels.cuda.common import addresses, pooled_layers, whole  # noqa: E402
from tests.strategies import correlations  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

NO_PADDING = ((0, 0), (0, 0))
FORWARD = "correlate2d_max_pool2d"
GRADIENTS = tuple(f"{FORWARD}_{name}" for name in ("input_grad", "filter_grad", "grads"))
MOST_ERROR = {"native": 8e-3, "float16": 1e-3, "bf16x3": 4e-5}

LAYERS = {
    # a correlation; window, stride, padding of the pool, and whether partial windows are left out
    "overlapping": (
        Geometry((17, 4, 9, 8), (6, 2, 3, 2), (2, 1), ((1, 2), (0, 3)), (1, 1), 2, True),
        ((3, 3), (2, 2), ((1, 1), (1, 1)), True),
    ),
    "side_by_side": (
        Geometry((16, 3, 7, 9), (5, 3, 2, 3), (1, 2), ((0, 1), (2, 0)), (2, 1), 1, False),
        ((2, 2), (2, 2), NO_PADDING, False),
    ),
    "by_one": (
        Geometry((18, 1, 6, 7), (3, 1, 3, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((3, 4), (1, 2), ((2, 0), (1, 2)), False),
    ),
    "with_gaps": (
        Geometry((20, 2, 8, 8), (17, 2, 2, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((1, 2), (2, 3), NO_PADDING, True),
    ),
}


def task_of(layer, name=FORWARD, dtype=torch.float32, device="cpu", activation="identity", precision="medium"):
    geometry, (window, stride, padding, ignore_border) = layer
    windows = check_pool(geometry.maps, window, stride, padding, ignore_border)
    formats = ("batch_last",) * (3 if name.endswith("grads") else 2)
    return PoolTask(name, geometry, dtype, precision, formats, torch.device(device), windows, activation, torch.uint8)


def moves_of(geometry):
    return geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip


def defined(task, images, filters, biases, ignore_border):
    windows = task.windows
    return reference.correlate2d_max_pool2d(
        images, filters, np.uint8, *moves_of(task.geometry), windows.window, windows.stride, windows.padding,
        ignore_border, biases, task.activation,
    )  # fmt: skip


def put(array, task, format="batch_last"):
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device=task.device, dtype=task.dtype)
    return to_format(tensor, format) if tensor.ndim == 4 else tensor


def relative_error(result, expected):
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(result.double().cpu().numpy() - expected)
    return error / norm if norm > 0 else error


# ------------------------------------------------------------------------------------------------ forward


WAYS = [("native", True, True), ("float16", True, False), ("bf16x3", True, True), ("bf16x3", False, False)]


def check_forward(layer, product, prepared, images_first, group, device):
    dtype = torch.bfloat16 if product == "native" else torch.float32
    task = task_of(layer, dtype=dtype, device=device)
    rows = gathering(task.geometry, False, group).class_rows()[0]
    blocks = PoolBlocks(16, 16, group, (16,) * -(-rows // 16), 2, warps=4, stages=1, images_first=images_first)
    images, filters = whole(task.geometry.images), whole(task.geometry.filters, 1)
    biases = whole(task.geometry.filters[0], 2)
    maxima, winners = carry_out(
        task, PoolGather(prepared, product, blocks), put(images, task), put(filters, task, "bc01"), put(biases, task)
    )
    expected = defined(task, images, filters, biases, layer[1][-1])
    np.testing.assert_array_equal(winners.cpu().numpy(), expected[1])
    np.testing.assert_array_equal(maxima.float().cpu().numpy(), torch.from_numpy(expected[0]).to(dtype).float().numpy())


@pytest.mark.parametrize("together", ["pixel", "column", "row", "window"])
@pytest.mark.parametrize(("product", "prepared", "images_first"), WAYS)
@pytest.mark.parametrize("layer", LAYERS)
def test_maxima_and_winners_in_every_way(layer, product, prepared, images_first, together, device):
    windows = task_of(LAYERS[layer]).windows
    rows = windows.window[0] if together in ("column", "window") else 1
    columns = new_columns(windows) if together in ("row", "window") else 1
    check_forward(LAYERS[layer], product, prepared, images_first, (rows, columns), device)


def test_a_column_of_a_window_in_two_groups_of_rows(device):
    geometry, _ = LAYERS["side_by_side"]
    pool = (4, 2), (3, 1), ((2, 1), (1, 0)), False
    check_forward((replace(geometry, images=(16, 3, 9, 9)), pool), "bf16x3", True, True, (2, 1), device)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=correlations(dtype="float32"), data=st.data())
def test_drawn_layers(device, case, data):
    batch = data.draw(st.sampled_from([16, 19]), "batch")
    moves = case.stride, case.padding, case.dilation, case.groups, case.flip
    geometry = Geometry((batch, *case.images.shape[1:]), case.filters.shape, *moves)
    pool = [data.draw(drawn_windows(length), name) for length, name in zip(geometry.maps[2:], ("rows", "columns"))]
    ignore_border = data.draw(st.booleans(), "ignore_border")
    window, stride, padding = zip(*pool)
    if rules.pool_problem(geometry.maps, window, stride, padding, ignore_border):
        return
    layer = geometry, (window, stride, padding, ignore_border)
    images, filters, biases = whole(geometry.images), whole(geometry.filters, 1), whole(geometry.filters[0], 2)
    task = task_of(layer, device=device, activation=data.draw(st.sampled_from(["identity", "relu"]), "activation"))
    maxima, winners = defined(task, images, filters, biases, ignore_border)
    maps = whole(maxima.shape, 3)
    results = []
    for name in (FORWARD, *GRADIENTS[:2]):
        task_ = replace(task, name=name)
        way = data.draw(st.sampled_from(pool_candidates(task_, 6)), name)
        sources = {FORWARD: (images, filters), GRADIENTS[0]: (filters,), GRADIENTS[1]: (images,)}[name]
        operands = [put(source, task, "bc01" if source is filters else "batch_last") for source in sources]
        if name == FORWARD:
            results += carry_out(task_, way, *operands, put(biases, task))
        else:
            numbers = to_format(torch.from_numpy(winners).to(device), "batch_last")
            results += carry_out(task_, way, *operands, numbers, put(maps, task))
    lengths = geometry.maps[2:]
    sliding = window, stride, padding
    expected = [
        maxima,
        winners,
        reference.correlate2d_max_pool2d_input_grad(
            filters, winners, maps, *geometry.images[2:], *lengths, *moves, *sliding
        ),
        reference.correlate2d_max_pool2d_filter_grad(
            images, winners, maps, *geometry.filters[2:], *lengths, *moves, *sliding
        ),
    ]
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.cpu().numpy(), value)


@st.composite
def drawn_windows(draw, length):
    window = draw(st.integers(1, 4))
    return window, draw(st.integers(1, 3)), (draw(st.integers(0, window - 1)), draw(st.integers(0, window - 1)))


@pytest.mark.parametrize("product", ["native", "float16"])
def test_ties_infinities_and_nan(product, device):
    """Filters of one tap make maps what the images are."""
    random = np.random.default_rng(0)
    images = random.choice(np.array([0, -1, 2, np.nan, np.inf, -np.inf], "float32"), (32, 1, 9, 8))
    images[0] = -np.inf
    geometry = Geometry(images.shape, (1, 1, 1, 1), (1, 1), NO_PADDING, (1, 1), 1, False)
    layer = geometry, ((3, 3), (2, 2), ((1, 1), (1, 1)), True)
    task = task_of(layer, dtype=torch.bfloat16 if product == "native" else torch.float32, device=device)
    filters, biases = np.ones((1, 1, 1, 1), "float32"), np.zeros(1, "float32")
    method = PoolGather(True, product, PoolBlocks(16, 16, (1, 1), (16,), 2, 4, 1, False))
    results = carry_out(task, method, put(images, task), put(filters, task), put(biases, task))
    for result, expected in zip(results, reference.max_pool2d(images, np.uint8, *layer[1])):
        np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


def test_an_infinity_or_nan_spoils_the_windows_that_read_it_and_no_others(device):
    images = whole((32, 1, 9, 8))
    images[3, 0, 4, 4], images[5, 0, 1, 2], images[31, 0, 8, 7] = np.nan, -np.inf, np.inf
    geometry = Geometry(images.shape, (1, 1, 1, 1), (1, 1), NO_PADDING, (1, 1), 1, False)
    layer = geometry, ((3, 3), (2, 2), ((1, 1), (1, 1)), True)
    task = task_of(layer, dtype=torch.bfloat16, device=device)
    filters, biases = np.ones((1, 1, 1, 1), "float32"), np.zeros(1, "float32")
    method = PoolGather(True, "native", PoolBlocks(16, 16, (3, 1), (16,), 2, 4, 1, True))
    maxima, winners = carry_out(task, method, put(images, task), put(filters, task), put(biases, task))
    spoiled = np.where(np.isfinite(images), images, np.nan)
    expected, won = reference.max_pool2d(spoiled, np.uint8, *layer[1])
    np.testing.assert_array_equal(maxima.float().cpu().numpy(), expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(winners.cpu().numpy()[finite], won[finite])


IN_ONE = PoolGather(True, "bf16x3", PoolBlocks(16, 16, (3, 1), (16,), 3, 4, 1, True))


@pytest.mark.parametrize("activation", ["identity", "relu", "muting_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("method", [Pair(), IN_ONE], ids=["pair", "in one"])
def test_activations(activation, method, device):
    task = task_of(LAYERS["by_one"], device=device, activation=activation)
    random = np.random.default_rng(0)
    images, filters, biases = (
        random.standard_normal(shape).astype("float32")
        for shape in (task.geometry.images, task.geometry.filters, task.geometry.filters[0])
    )
    maxima, winners = carry_out(task, method, put(images, task), put(filters, task, "bc01"), put(biases, task))
    expected, won = defined(replace(task, activation="identity"), images, filters, biases, False)
    functions = {"identity": lambda x: x, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
    functions["muting_relu"] = functions["relu"]
    functions["sigmoid"] = lambda x: 1 / (1 + np.exp(-x))
    assert relative_error(maxima, functions[activation](expected)) <= MOST_ERROR["float16"]
    winners = winners.cpu().numpy()
    if activation == "relu":  # any tap of windows that it makes zero
        assert winners.max() < task.windows.taps
        winners, won = winners[expected > 0], won[expected > 0]
    won = np.where(expected < 0, 255, won) if activation == "muting_relu" else won
    np.testing.assert_array_equal(winners, won)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("window", [(2, 3), (9, 9)], ids=["few taps", "many taps"])
@pytest.mark.parametrize(
    ("dtype", "winners_dtype", "batch"),
    [(torch.float32, torch.uint8, 8), (torch.bfloat16, torch.int32, 8), (torch.float32, torch.int64, 7)],
)
def test_the_pair_activates_in_every_format(dtype, winners_dtype, batch, window, format, device):
    geometry = Geometry((batch, 2, 11, 12), (16, 2, 2, 2), (1, 1), NO_PADDING, (1, 1), 1, False)
    task = task_of((geometry, (window, (2, 1), NO_PADDING, True)), dtype=dtype, device=device, activation="muting_relu")
    task = replace(task, formats=(format, format), winners=winners_dtype)
    images, filters, biases = whole(geometry.images), whole(geometry.filters, 1), 4 * whole(16, 2) - 15
    operands = put(images, task, format), put(filters, task, "bc01"), put(biases, task)
    maxima, winners = carry_out(task, Pair(), *operands)
    expected, won = defined(replace(task, activation="identity"), images, filters, biases, True)
    assert 0.1 < (expected < 0).mean() < 0.9
    np.testing.assert_array_equal(maxima.float().cpu().numpy(), np.maximum(expected, 0))
    muted = 255 if winners_dtype == torch.uint8 else -1
    np.testing.assert_array_equal(winners.cpu().numpy(), np.where(expected < 0, muted, won.astype(int)))


def test_a_pair_of_maxima_that_are_nan_keeps_them_and_mutes_their_winners(device):
    geometry = Geometry((8, 1, 5, 5), (4, 1, 2, 2), (1, 1), NO_PADDING, (1, 1), 1, False)
    task = task_of((geometry, ((2, 2), (2, 2), NO_PADDING, True)), device=device, activation="muting_relu")
    images = whole(geometry.images)
    images[2, 0, 0, 0] = np.nan
    operands = put(images, task), put(whole(geometry.filters, 1), task, "bc01"), put(whole(4, 2), task)
    maxima, winners = carry_out(task, Pair(), *operands)
    assert maxima[2, :, 0, 0].isnan().all()
    assert winners[2, :, 0, 0].eq(255).all()
    assert maxima.isnan().sum() == 4


@pytest.mark.parametrize("product", MOST_ERROR)
def test_errors_of_maxima_are_those_of_the_product(product, device):
    task = task_of(LAYERS["overlapping"], dtype=torch.bfloat16 if product == "native" else torch.float32, device=device)
    random = np.random.default_rng(0)
    images, filters = (random.standard_normal(shape) for shape in (task.geometry.images, task.geometry.filters))
    images, filters = put(images, task), put(filters, task, "bc01")
    biases = torch.zeros(task.geometry.filters[0], dtype=task.dtype, device=device)
    method = PoolGather(True, product, PoolBlocks(16, 16, (1, 1), (16,), 2, 4, 1, False))
    maxima, winners = carry_out(task, method, images, filters, biases)
    doubles = [tensor.double().cpu().numpy() for tensor in (images, filters, biases)]
    expected, _ = defined(task, *doubles, True)
    assert relative_error(maxima, expected) <= MOST_ERROR[product]
    maps = reference.correlate2d(*doubles[:2], *moves_of(task.geometry))
    windows = task.windows
    at_winners = reference.max_pool2d_gather(
        maps, winners.cpu().numpy(), windows.window, windows.stride, windows.padding
    )
    assert relative_error(torch.from_numpy(at_winners), expected) <= MOST_ERROR[product]


# ---------------------------------------------------------------------------------------------- gradients

GATHER = Gather(True, "batch_last", "float16", (2, 2), True, 1, Blocks(16, 16, 16, 16, 4, 3, images_first=False))
SHARE = Share(True, "float16", (1, 1), GradBlocks(16, 16, 16, 16, 3, warps=4, stages=3))
POOL_SHARE = PoolShare(True, "float16", PoolGradBlocks(16, 16, 16, 3, warps=4, stages=1))


def with_product(method, product):
    return method and replace(method, product=product)


GRADIENT_WAYS = {
    "pair": Pair(),
    "spread": Spread(GATHER, SHARE),
    "spread for images": Spread(GATHER, POOL_SHARE),
    "spread for filters": Spread(None, SHARE),
    "not spread": Spread(None, POOL_SHARE),
}


@pytest.mark.parametrize("method", GRADIENT_WAYS.values(), ids=GRADIENT_WAYS)
@pytest.mark.parametrize(
    ("layer", "product"),
    [*zip(LAYERS, (*MOST_ERROR, "float16")), ("overlapping", "bf16x3"), ("side_by_side", "bf16x3")],
)
def test_gradients_in_every_way(layer, product, method, device):
    check_gradients(LAYERS[layer], product, method, device)


def check_gradients(layer, product, method, device):
    dtype = torch.bfloat16 if product == "native" else torch.float32
    filters_alone = isinstance(method, Spread) and method.input is None
    task = task_of(layer, GRADIENTS[1 if filters_alone else 2], dtype, device)
    geometry, (*sliding, ignore_border) = layer
    if isinstance(method, Spread):
        method = Spread(with_product(method.input, product), with_product(method.filters, product))
        if method.input:
            patch = tuple(2 * step for step in geometry.stride)
            method = replace(method, input=replace(method.input, patch=patch))
    images, filters = whole(geometry.images), whole(geometry.filters, 1)
    _, winners = defined(task, images, filters, np.zeros(geometry.filters[0], "float32"), ignore_border)
    maps = whole(winners.shape, 2)
    sources = [put(images, task)] if filters_alone else [put(images, task), put(filters, task, "bc01")]
    numbers = to_format(torch.from_numpy(winners).to(device), "batch_last")
    results = carry_out(task, method, *sources, numbers, put(maps, task))
    settings_ = *geometry.maps[2:], *moves_of(geometry), *sliding
    expected = [
        reference.correlate2d_max_pool2d_input_grad(filters, winners, maps, *geometry.images[2:], *settings_),
        reference.correlate2d_max_pool2d_filter_grad(images, winners, maps, *geometry.filters[2:], *settings_),
    ]
    for result, value in zip(results, expected[1 if filters_alone else 0 :], strict=True):
        assert relative_error(result, value) <= MOST_ERROR[product]


@pytest.mark.parametrize("product", MOST_ERROR)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    layer=pooled_layers(st.sampled_from([3, 16, 19]), most_filters=3, most_pixels=6),
    method=st.sampled_from([*GRADIENT_WAYS.values()][1:]),
)
def test_gradients_of_drawn_layers_from_spread_maps(device, layer, product, method):
    check_gradients(layer, product, method, device)


@pytest.mark.parametrize("product", MOST_ERROR)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(layer=pooled_layers(st.sampled_from([3, 16, 19]), most_filters=3, most_pixels=6))
def test_what_is_spread_is_the_gradient_of_the_pool(device, layer, product):
    task = task_of(layer, dtype=torch.bfloat16 if product == "native" else torch.float32, device=device)
    windows, lengths = task.windows, task.geometry.maps[2:]
    sliding = windows.window, windows.stride, windows.padding
    _, winners = reference.max_pool2d(whole(task.geometry.maps), np.uint8, *sliding, layer[1][-1])
    maps = whole(winners.shape, 1)
    expected = reference.max_pool2d_grad(winners, maps, *lengths, *sliding)
    muted = np.random.default_rng(2).random(winners.shape) < 0.1
    expected -= reference.max_pool2d_grad(winners, np.where(muted, maps, 0), *lengths, *sliding)
    magnitudes, scale = None, 1.0
    if product == "float16":
        most = float(rules.overlap(*sliding[:2]))
        magnitudes = largest_magnitudes(*[put(maps, task)] * 2, factors=(most, 1.0), copied=(True, False))[0]
        scale = 2.0 ** (14 - np.floor(np.log2(most * np.abs(maps).max() or 1)))
    numbers = torch.from_numpy(np.where(muted, np.uint8(255), winners)).to(device)
    planes = spread(to_format(numbers, "batch_last"), put(maps, task), windows, product, magnitudes)
    np.testing.assert_array_equal(planes.double().sum(0).cpu().numpy() / scale, expected)


@pytest.mark.parametrize("way", ["spread", "spread for images"])
def test_the_filter_gradient_may_run_beside_others(way, device, monkeypatch):
    launched = []

    def both(of_images, of_filters, *read, device):
        assert addresses(of_filters.args) <= addresses(read)
        result = of_images()
        launched.append(addresses(read))
        return result, of_filters()

    def noting(what, function):
        return lambda *given, **named: launched.append(what) or function(*given, **named)

    monkeypatch.setattr(conv_pool_methods, "both", both)
    gradients = {"gather_from": "images", "filter_grad_from": "filters", "pooled_filter_grad": "filters"}
    for name, what in gradients.items():
        monkeypatch.setattr(conv_pool_methods, name, noting(what, getattr(conv_pool_methods, name)))
    task = task_of(LAYERS["side_by_side"], GRADIENTS[2], device=device)
    images, filters = whole(task.geometry.images), whole(task.geometry.filters, 1)
    _, winners = defined(task, images, filters, np.zeros(task.geometry.filters[0], "float32"), False)
    images, maps, filters = put(images, task), put(whole(winners.shape, 2), task), put(filters, task, "bc01")
    numbers = to_format(torch.from_numpy(winners).to(device), "batch_last")
    carry_out(task, GRADIENT_WAYS[way], images, filters, numbers, maps)
    before, read, after = launched
    assert (before, after) == ("images", "filters")
    assert addresses([images, numbers, maps]) <= read


def test_sums_of_windows_that_share_a_pixel_do_not_overflow_float16(device):
    task = task_of(LAYERS["by_one"], GRADIENTS[2], device=device)
    geometry, (*sliding, _) = LAYERS["by_one"]
    images, filters = whole(geometry.images), whole(geometry.filters, 1)
    maps = np.full((*geometry.maps[:2], task.windows.out_rows, task.windows.out_columns), 3e30, "float32")
    _, winners = defined(task, images, filters, np.zeros(geometry.filters[0], "float32"), False)
    numbers = to_format(torch.from_numpy(winners).to(device), "batch_last")
    operands = put(images, task), put(filters / 64, task, "bc01"), numbers, put(maps, task)
    result = carry_out(task, Spread(GATHER, POOL_SHARE), *operands)[0]
    settings_ = *geometry.images[2:], *geometry.maps[2:], *moves_of(geometry), *sliding
    expected = reference.correlate2d_max_pool2d_input_grad(filters / 64.0, winners, maps / 1e30, *settings_)
    assert relative_error(result.double() / 1e30, expected) <= MOST_ERROR["float16"]


@pytest.mark.parametrize("group", [(3, 1), (1, 2)], ids=["column", "row"])
def test_offsets_of_64_bits_where_tensors_are_that_large(group, device, monkeypatch):
    monkeypatch.setattr(conv_pool_methods, "is_wide", lambda *tensors: True)
    check_forward(LAYERS["overlapping"], "bf16x3", True, False, group, device)
    test_gradients_in_every_way("overlapping", "bf16x3", Spread(None, POOL_SHARE), device)


# ------------------------------------------------------------------------------------------ the front door


def arguments(task, name, format="batch_last"):
    """Of a public function, and what its definition gives."""
    geometry, sliding = task.geometry, (task.windows.window, task.windows.stride, task.windows.padding)
    images, filters, biases = whole(geometry.images), whole(geometry.filters, 1), whole(geometry.filters[0], 2)
    maxima, winners = defined(task, images, filters, biases, True)
    if name == FORWARD:
        given = put(images, task, format), put(filters, task, "bc01"), torch.uint8, *moves_of(geometry), *sliding, True
        return (*given, put(biases, task), task.activation), maxima
    maps = whole(maxima.shape, 3)
    first, lengths = {
        "input_grad": ((filters,), geometry.images[2:]),
        "filter_grad": ((images,), geometry.filters[2:]),
        "grads": ((images, filters), ()),
    }[name.removeprefix(f"{FORWARD}_")]
    placed = [put(array, task, "bc01" if array is filters else format) for array in first]
    numbers = to_format(torch.from_numpy(winners).to(task.device), format)
    settings_ = *lengths, *geometry.maps[2:], *moves_of(geometry), *sliding
    both = (
        (f"{FORWARD}_input_grad", (filters,), geometry.images[2:]),
        (f"{FORWARD}_filter_grad", (images,), geometry.filters[2:]),
    )
    expected = [
        getattr(reference, each)(*source, winners, maps, *lengths_, *geometry.maps[2:], *moves_of(geometry), *sliding)
        for each, source, lengths_ in both
        if name in (each, f"{FORWARD}_grads")
    ]
    return (*placed, numbers, put(maps, task, format), *settings_), expected[0]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", [FORWARD, *GRADIENTS])
def test_functions_take_and_give_every_format(name, format, device):
    given, expected = arguments(task_of(LAYERS["overlapping"], device=device), name, format)
    result = getattr(cuda, name)(*given)
    first = result[0] if isinstance(result, tuple) else result
    np.testing.assert_array_equal(first.cpu().numpy(), expected)
    if name != GRADIENTS[1]:
        assert memory_format(first) == format


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("name", "argument"), [(GRADIENTS[1], "memory_format"), (GRADIENTS[2], "filter_format")])
def test_the_gradient_of_filters_is_in_the_format_asked_for(name, argument, format, device):
    layer = LAYERS["overlapping"]
    _, expected = arguments(task_of(layer, device=device), GRADIENTS[1])
    given, _ = arguments(task_of(layer, device=device), name)
    result = getattr(cuda, name)(*given, **{argument: format})
    gradient = result[1] if isinstance(result, tuple) else result
    np.testing.assert_array_equal(gradient.cpu().numpy(), expected)
    assert gradient.stride() == strides(layer[0].filters, format)


@pytest.mark.parametrize("format", ["nhwc", None])
@pytest.mark.parametrize(("name", "argument"), [(GRADIENTS[1], "memory_format"), (GRADIENTS[2], "filter_format")])
def test_formats_of_filters_that_there_are_not(name, argument, format, device):
    given, _ = arguments(task_of(LAYERS["overlapping"], device=device), name)
    message = f"^{argument} must be one of bc01, channels_last, batch_last, got {format!r}$"
    with pytest.raises(ValueError, match=message):
        getattr(cuda, name)(*given, **{argument: format})


@pytest.mark.parametrize("name", [FORWARD, *GRADIENTS])
@pytest.mark.parametrize("precision", ["ieee", "high"])
def test_functions_in_every_precision(name, precision, device):
    given, expected = arguments(task_of(LAYERS["overlapping"], device=device), name)
    result = getattr(cuda, name)(*given, precision=precision)
    np.testing.assert_array_equal((result[0] if isinstance(result, tuple) else result).cpu().numpy(), expected)


def test_biases_may_lie_apart(device):
    given, expected = arguments(task_of(LAYERS["overlapping"], device=device), FORWARD)
    apart = torch.stack([given[-2], given[-2] + 1], dim=1)[:, 0]
    maxima, _ = cuda.correlate2d_max_pool2d(*given[:-2], apart, given[-1])
    np.testing.assert_array_equal(maxima.cpu().numpy(), expected)


def test_an_empty_batch_gives_an_empty_result(device):
    geometry = replace(LAYERS["overlapping"][0], images=(0, 4, 9, 8))
    given, expected = arguments(task_of((geometry, LAYERS["overlapping"][1]), device=device), FORWARD)
    maxima, winners = cuda.correlate2d_max_pool2d(*given)
    assert maxima.shape == winners.shape == expected.shape


REFUSED = [
    (1, torch.ones((6, 3, 3, 2)), "input has 4 channels but filters expect 6"),
    (2, torch.float32, "winners_dtype must be torch.uint8, torch.int32 or torch.int64, got torch.float32"),
    (8, (9, 3), "ws spans 9 rows but the padded input has only 7"),
    (9, 0, "^pool_stride must be at least 1, got 0$"),
    (10, "half", r"^pool_padding must be \(\(top, bottom\), \(left, right\)\), got 'half'$"),
    (12, None, "^biases must be a torch tensor .* got NoneType$"),
    (12, torch.ones(5), "biases must hold a number for each of the 6 filters, got 5"),
    (12, torch.ones(6, dtype=torch.float64), "biases are torch.float64 on .*, but images torch.float32"),
    (13, "softmax", "activation must be one of identity, relu, muting_relu, tanh, sigmoid, got 'softmax'"),
]


@pytest.mark.parametrize(("place", "value", "message"), REFUSED)
def test_what_does_not_fit_is_refused_with_a_sentence(place, value, message, device):
    given = list(arguments(task_of(LAYERS["overlapping"], device=device), FORWARD)[0])
    given[place] = value.to(device) if isinstance(value, torch.Tensor) else value
    with pytest.raises(ValueError, match=message):
        cuda.correlate2d_max_pool2d(*given)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_names_the_arguments_of_its_pool(name, device):
    given = arguments(task_of(LAYERS["overlapping"], device=device), name)[0]
    with pytest.raises(ValueError, match="^pool_stride must be at least 1, got 0$"):
        getattr(cuda, name)(*given[:-2], 0, given[-1])
    with pytest.raises(ValueError, match="^pool_padding must be .*, got 'full'$"):
        getattr(cuda, name)(*given[:-1], "full")


@pytest.mark.parametrize("name", GRADIENTS)
def test_winners_of_another_shape_are_refused(name, device):
    given = list(arguments(task_of(LAYERS["overlapping"], device=device), name)[0])
    place = next(i for i, value in enumerate(given) if isinstance(value, torch.Tensor) and value.dtype == torch.uint8)
    given[place] = given[place][:, :, 1:]
    with pytest.raises(ValueError, match="each window has one winner"):
        getattr(cuda, name)(*given)


# ---------------------------------------------------------------------------------------------- the choice

POOLS = {
    "lenet1": ((2, 2), (2, 2), NO_PADDING, True),
    "cifar1": ((3, 3), (2, 2), ((1, 1), (1, 1)), True),
    "alex1": ((3, 3), (2, 2), NO_PADDING, True),
    "alex2": ((3, 3), (2, 2), NO_PADDING, True),
}


def suite_task(case, name, dtype=torch.float32, precision="medium"):
    layer = CONV[case]
    geometry = Geometry(layer.image_shape, layer.filter_shape, layer.stride, layer.padding, (1, 1), 1, False)
    return task_of((geometry, POOLS[case]), name, dtype, "cuda", precision=precision)


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("name", [FORWARD, *GRADIENTS])
@pytest.mark.parametrize("precision", ["medium", "high", "ieee"])
def test_candidates_are_few_and_end_with_the_pair(case, name, precision):
    found = pool_candidates(suite_task(case, name, precision=precision), tuning.CANDIDATES)
    assert found[-1] == Pair()
    too_large = (case, name) == ("alex2", FORWARD) or (case, name, precision) == ("alex1", FORWARD, "high")
    others_suit = precision != "ieee" and not too_large  # filters have to stay in shared memory
    assert others_suit < len(found) <= tuning.CANDIDATES + 1
    for method in found:
        assert tuning.method_from_json(json.loads(json.dumps(tuning.method_to_json(method)))) == method


@pytest.mark.parametrize("case", POOLS)
def test_gradients_of_each_product_are_among_the_candidates(case):
    found = pool_candidates(suite_task(case, GRADIENTS[-1]), tuning.CANDIDATES)[:-1]
    for part in ("input", "filters"):
        assert {getattr(way, part).product for way in found} == {"float16", "bf16x3"}


@pytest.mark.parametrize(("case", "dtype"), [("cifar1", torch.float32), ("lenet1", torch.bfloat16)])
def test_groups_along_rows_and_along_columns_are_measured(case, dtype):
    found = pool_candidates(suite_task(case, FORWARD, dtype), tuning.CANDIDATES)[:-1]
    assert len(found) <= POOL_CANDIDATES
    assert {method.blocks.group for method in found} >= {(POOLS[case][0][0], 1), (1, 2)}


def test_columns_whose_filters_do_not_fit_are_computed_by_single_pixels():
    found = pool_candidates(suite_task("alex1", FORWARD), tuning.CANDIDATES)[:-1]
    assert {method.blocks.group[0] for method in found} == {1}


def test_many_channels_are_left_to_the_pair():
    assert isinstance(tuning.fixed_choice(suite_task("cifar1", FORWARD)), PoolGather)
    assert tuning.fixed_choice(suite_task("alex2", FORWARD)) == Pair()


@pytest.mark.parametrize(
    ("rows", "blocks"), [(1, (16,)), (25, (32,)), (75, (64, 16)), (363, (256, 128)), (512, (512,)), (150, (128, 32))]
)
def test_rows_of_filters_are_cut_into_powers_of_two(rows, blocks):
    assert row_blocks(rows) == blocks


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures on a GPU")
def test_the_best_candidate_is_chosen_on_a_gpu(device):
    task = suite_task("cifar1", FORWARD)
    operands = [torch.randn(shape, device=device) for shape in (task.geometry.images, task.geometry.filters, (32,))]
    seconds = tuning.measured(task, (to_format(operands[0], "batch_last"), *operands[1:]))
    assert Pair() in seconds
    assert len(seconds) > 3
