"""Filter gradients that spread pooled gradients as they go, against NumPy definitions, in NumPy and on a GPU; plans."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.kernels.cuda import (  # noqa: E402
    conv_pool_methods,
    magnitudes,
    pool_window_candidates,
    to_format,
    tuning,
    window_candidates,
    window_grad_candidates,
    window_grad_kernel,
)
from pytensor_convnet.kernels.cuda.conv_pool_candidates import pool_candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_methods import (  # noqa: E402
    PoolShare,
    PoolTask,
    PoolWindowShare,
    Spread,
    carry_out,
    plan_of_pool_window_share,
)
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Window, WindowShare  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_plans import check_pool  # noqa: E402
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks  # noqa: E402
from pytensor_convnet.kernels.cuda.window_kernel import WindowBlocks  # noqa: E402
from tests.kernels.cuda.common import addresses, pooled_layers, whole  # noqa: E402
from tests.kernels.cuda.pool_windows_in_numpy import spread_in_numpy  # noqa: E402
from tests.kernels.cuda.window_grads_in_numpy import computed_in_numpy  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

NO_PADDING = ((0, 0), (0, 0))
LAYERS = {
    # a correlation; window, stride, padding of the pool, and whether partial windows are left out; how it is cut
    "side_by_side": (
        Geometry((64, 3, 9, 12), (16, 3, 2, 3), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((2, 2), (2, 2), NO_PADDING, True),
        WindowGradBlocks(True, 2, 1, 3, 16, 1),
    ),
    "overlapping": (
        Geometry((80, 3, 13, 12), (40, 3, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1, False),
        ((3, 3), (2, 2), ((1, 1), (1, 1)), True),
        WindowGradBlocks(True, 4, 2, 3, 40, 1),
    ),
    "strided, filters as rows": (
        Geometry((144, 2, 23, 21), (72, 2, 5, 4), (2, 2), ((1, 0), (0, 2)), (1, 1), 1, True),
        ((3, 3), (2, 2), NO_PADDING, False),
        WindowGradBlocks(False, 4, 2, 2, 72, 2),
    ),
    "blocks of channels and filters": (
        Geometry((16, 4, 12, 19), (24, 4, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((3, 2), (1, 2), ((0, 1), (1, 0)), True),
        WindowGradBlocks(True, 8, 4, 2, 16, 1),
    ),
    "windows that move by one": (
        Geometry((16, 1, 9, 11), (8, 1, 3, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((2, 4), (1, 1), ((1, 0), (2, 3)), True),
        WindowGradBlocks(True, 3, 1, 1, 8, 1),
    ),
    "windows with gaps": (
        Geometry((32, 2, 10, 11), (8, 2, 2, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((1, 2), (2, 3), NO_PADDING, True),
        WindowGradBlocks(True, 4, 2, 2, 8, 2),
    ),
    "a row of many strips": (
        Geometry((64, 1, 6, 40), (8, 1, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((2, 3), (2, 2), ((0, 0), (1, 1)), True),
        WindowGradBlocks(True, 3, 3, 1, 8, 1),
    ),
}
PRODUCTS = {"native": torch.bfloat16, "float16": torch.float32}


def task_of(layer, name, product, device="cuda"):
    return task_of_layer(LAYERS[layer], name, product, device)


def task_of_layer(layer, name, product, device):
    geometry, (window, stride, padding, ignore_border), _ = layer
    windows = check_pool(geometry.maps, window, stride, padding, ignore_border)
    formats, dtype = ("batch_last",) * (3 if name == "grads" else 2), PRODUCTS[product]
    return PoolTask(
        f"correlate2d_max_pool2d_{name}", geometry, dtype, "medium", formats, torch.device(device), windows, "relu",
        torch.uint8,
    )  # fmt: skip


def operands_of(layer, task, device, muted=0.1):
    """Whole images, filters, winners (some none) and pooled gradients, as arrays and as tensors in batch-last."""
    arrays = arrays_of(task, LAYERS[layer][1][-1], muted)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    tensors = [tensor if tensor.dtype == torch.uint8 else tensor.to(task.dtype) for tensor in tensors]
    return arrays, [tensor if i == 1 else to_format(tensor, "batch_last") for i, tensor in enumerate(tensors)]


def arrays_of(task, ignore_border, muted=0.1):
    geometry, windows = task.geometry, task.windows
    images, filters = whole(geometry.images), whole(geometry.filters, 1)
    moves = geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip
    full = reference.correlate2d(images, filters, *moves)
    _, winners = reference.max_pool2d(full, np.uint8, windows.window, windows.stride, windows.padding, ignore_border)
    maps = whole(winners.shape, 2)
    winners[np.random.default_rng(3).random(winners.shape) < muted] = 255
    return tuple(map(np.ascontiguousarray, (images, filters, winners, maps)))


def spread_maps(task, winners, maps):
    """Pooled gradients at the map pixels that won. Where none did, the first tap adds a zero, within maps or not."""
    windows, none = task.windows, winners == 255
    (top, _), (left, _) = windows.padding
    padded = reference.max_pool2d_grad(
        np.where(none, 0, winners), np.where(none, 0, maps), top + windows.rows + windows.window[0],
        left + windows.columns + windows.window[1], windows.window, windows.stride, NO_PADDING,
    )  # fmt: skip
    return padded[:, :, top : top + windows.rows, left : left + windows.columns]


def expected_of(task, arrays):
    images, filters, winners, maps = arrays
    geometry, spread = task.geometry, spread_maps(task, winners, maps)
    moves = geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip
    of_images = reference.correlate2d_input_grad(filters, spread, *geometry.images[2:], *moves)
    return of_images, reference.correlate2d_filter_grad(images, spread, *geometry.filters[2:], *moves)


def rounded(array, product):
    return torch.from_numpy(np.ascontiguousarray(array)).to(PRODUCTS[product]).float().numpy()


# -------------------------------------------------------------------------------- the kernel's arithmetic in NumPy


def check_in_numpy(task, method, ignore_border):
    """The filter gradient, and the maps where these are kept."""
    is_kept = task.name.endswith("grads")
    plan = plan_of_pool_window_share(task, method, is_kept)
    images, filters, winners, maps = arrays = arrays_of(task, ignore_border)
    kept = np.full(task.geometry.maps, np.nan).transpose(0, 1, 3, 2)
    item_bytes = 4 if method.product == "float16" and not method.prepared else 2
    result = computed_in_numpy(
        plan.constants, filters.shape, spread_in_numpy(plan.constants, images, maps, winners, item_bytes, kept)
    )
    np.testing.assert_array_equal(result, expected_of(task, arrays)[1])
    expected = spread_maps(task, winners, maps) if is_kept else np.nan
    np.testing.assert_array_equal(kept.transpose(0, 1, 3, 2), expected)


WAYS = [
    # product, prepared, what is asked for, threads that spread, multiprocessors
    ("native", False, "filter_grad", 256, 1),
    ("native", False, "grads", 512, 132),
    ("float16", False, "grads", 384, 3),
    ("float16", True, "filter_grad", 384, 132),
]


@pytest.mark.parametrize(("product", "prepared", "name", "spreading", "multiprocessors"), WAYS)
@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_shared_memory_give_the_gradient(
    layer, product, prepared, name, spreading, multiprocessors, on_so_many
):
    on_so_many(multiprocessors)
    task = task_of(layer, name, product, "meta")
    method = PoolWindowShare(product, prepared, LAYERS[layer][-1], spreading)
    check_in_numpy(task, method, LAYERS[layer][1][-1])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layer=pooled_layers(st.integers(1, 8).map(lambda count: 16 * count)), data=st.data())
def test_drawn_layers(on_so_many, layer, data):
    product, prepared, name, spreading, multiprocessors = data.draw(st.sampled_from(WAYS), "way")
    geometry, pool = layer
    if not prepared and data.draw(st.booleans(), "half the batch"):
        geometry = replace(geometry, images=(geometry.images[0] // 2, *geometry.images[1:]))
    all_filters, all_channels = geometry.filters[:2]
    pixels = data.draw(st.integers(1, 2), "pixels")
    blocks = WindowGradBlocks(
        data.draw(st.booleans(), "taps_as_rows"),
        pixels * data.draw(st.integers(1, 4), "run / pixels"),
        pixels,
        data.draw(st.sampled_from([n for n in range(1, all_channels + 1) if all_channels % n == 0]), "channels"),
        data.draw(st.integers(1, all_filters), "filters"),
        data.draw(st.integers(1, pixels), "split"),
    )
    on_so_many(multiprocessors)
    task = task_of_layer((geometry, pool, blocks), name, product, "meta")
    method = PoolWindowShare(product, prepared, blocks, spreading)
    assume(plan_of_pool_window_share(task, method, name == "grads") is not None)
    check_in_numpy(task, method, pool[-1])


# ------------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.parametrize(("spreading", "multiprocessors"), [(256, 1), (256, 3), (256, 132), (384, 2), (512, 132)])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_filter_gradient_of_whole_numbers(layer, product, spreading, multiprocessors, hopper, on_so_many):
    on_so_many(multiprocessors)
    task = task_of(layer, "filter_grad", product)
    arrays, (images, _, winners, maps) = operands_of(layer, task, hopper)
    method = Spread(None, PoolWindowShare(product, False, LAYERS[layer][-1], spreading))
    (result,) = carry_out(task, method, images, winners, maps)
    np.testing.assert_array_equal(result.float().cpu().numpy(), rounded(expected_of(task, arrays)[1], product))


@pytest.mark.parametrize("spreading", [256, 512, None], ids=["as it goes", "by more threads", "before"])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_both_gradients_of_whole_numbers(layer, product, spreading, hopper):
    task = task_of(layer, "grads", product)
    arrays, operands = operands_of(layer, task, hopper)
    blocks = LAYERS[layer][-1]
    of_images = Window(product, task.geometry.stride, WindowBlocks(2, 1, 8, 1), prepared=product == "float16")
    of_filters = WindowShare(product, blocks)
    if spreading:
        of_filters = PoolWindowShare(product, product == "float16", blocks, spreading)
    method = Spread(of_images, of_filters)
    for result, expected in zip(carry_out(task, method, *operands), expected_of(task, arrays), strict=True):
        np.testing.assert_array_equal(result.float().cpu().numpy(), rounded(expected, product))


@pytest.mark.parametrize(("product", "most"), [("native", 4e-3), ("float16", 6e-4)])
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_errors_are_those_of_the_product_at_every_size(size, product, most, hopper):
    task = task_of("overlapping", "filter_grad", product)
    arrays, _ = operands_of("overlapping", task, hopper, muted=0)
    random = torch.Generator(hopper).manual_seed(0)
    images, maps = (
        size * torch.randn(arrays[i].shape, device=hopper, generator=random, dtype=torch.float32) for i in (0, 3)
    )
    images, maps = images.to(task.dtype), (maps / size**1.5).to(task.dtype)
    tensors = to_format(images, "batch_last"), to_format(torch.from_numpy(arrays[2]).to(hopper), "batch_last")
    method = Spread(None, PoolWindowShare(product, False, LAYERS["overlapping"][-1], 256))
    (result,) = carry_out(task, method, *tensors, to_format(maps, "batch_last"))
    doubles = images.double().cpu().numpy(), None, arrays[2], maps.double().cpu().numpy()
    geometry, windows = task.geometry, task.windows
    spread = reference.max_pool2d_grad(
        doubles[2], doubles[3], *geometry.maps[2:], windows.window, windows.stride, windows.padding
    )
    expected = reference.correlate2d_filter_grad(
        doubles[0], spread, *geometry.filters[2:], geometry.stride, geometry.padding, (1, 1), 1, geometry.flip
    )
    assert np.linalg.norm(result.double().cpu().numpy() - expected) <= most * np.linalg.norm(expected)


@pytest.mark.parametrize("stray", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_filter(stray, hopper):
    task = task_of("overlapping", "filter_grad", "float16")
    _, (images, _, winners, maps) = operands_of("overlapping", task, hopper)
    method = Spread(None, PoolWindowShare("float16", True, LAYERS["overlapping"][-1], 256))
    (expected,) = carry_out(task, method, images, winners, maps)
    maps[:, 5] = stray
    (result,) = carry_out(task, method, images, winners, maps)
    others = [f for f in range(result.shape[0]) if f != 5]
    assert not torch.isfinite(result[5]).any()
    assert torch.equal(result[others], expected[others])


@pytest.mark.parametrize("spreading", [None, 256])
@pytest.mark.parametrize("product", PRODUCTS)
def test_all_that_the_filter_gradient_reads_is_kept_while_it_runs_beside_others(
    product, spreading, device, monkeypatch
):
    def both(of_images, of_filters, *read, device):
        kept.append((addresses(of_filters.args), addresses(read)))
        return of_images(), of_images()

    kept: list[tuple[set[int], set[int]]] = []
    monkeypatch.setattr(conv_pool_methods, "both", both)
    monkeypatch.setattr(conv_pool_methods, "window_launched", lambda *given: lambda: torch.empty(0))
    monkeypatch.setattr(conv_pool_methods, "pooled_window_shares", lambda *given: torch.ones(3, device=device))
    task = task_of("side_by_side", "grads", product, device)
    _, operands = operands_of("side_by_side", task, device)
    blocks = LAYERS["side_by_side"][-1]
    of_filters = PoolWindowShare(product, False, blocks, spreading) if spreading else WindowShare(product, blocks)
    of_images = Window(product, (1, 1), WindowBlocks(2, 1, 8, 1), prepared=product == "float16")
    carry_out(task, Spread(of_images, of_filters), *operands)
    [(needed, read)] = kept
    assert len(needed) >= 2
    assert needed <= read


# ------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("spreading", [256, 384, 512])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_registers_of_a_program_are_enough_and_not_too_many(layer, product, spreading):
    method = PoolWindowShare(product, False, LAYERS[layer][-1], spreading)
    k = plan_of_pool_window_share(task_of(layer, "grads", product, "meta"), method, False).constants
    asked = 256 * k["MULTIPLYING_REGISTERS"] + spreading * k["SPREADING_REGISTERS"]
    begun = k["LAUNCHED_REGISTERS"]
    assert k["THREADS"] == 256 + spreading
    assert asked <= k["THREADS"] * begun <= 65536  # more, and a warpgroup that asks for its part would wait for ever
    assert begun % 8 == k["MULTIPLYING_REGISTERS"] % 8 == k["SPREADING_REGISTERS"] % 8 == 0
    assert k["TILES_EACH"] * k["TILE_N"] // 2 + 24 <= k["MULTIPLYING_REGISTERS"]
    each, down = -(-k["FILTERS"] * 8 // spreading), -(-k["POOL_ROWS"] // k["POOL_STEP_ROWS"])
    read = (k["AHEAD"] + 1) * each * down * (2 * k["MAP_BYTES"] + 2)
    assert read + 4 * each * k["POOL_COLUMNS"] <= k["SPREADING_REGISTERS"]


def test_what_registers_do_not_hold_is_no_plan():
    task = task_of("overlapping", "filter_grad", "native", "meta")
    blocks = WindowGradBlocks(False, 1, 1, 3, 256, 1)
    task = replace(task, geometry=replace(task.geometry, filters=(256, 3, 5, 5)))
    assert window_grad_kernel.window_grad_plan(task.geometry, blocks, "native") is not None
    assert plan_of_pool_window_share(task, PoolWindowShare("native", False, blocks, 256), False) is None


@pytest.mark.parametrize(("spreading", "is_planned"), [(256, True), (384, False)])
def test_products_need_no_more_registers_than_threads_begin_with(spreading, is_planned):
    task = task_of("overlapping", "filter_grad", "native", "meta")
    task = replace(task, geometry=replace(task.geometry, filters=(64, 3, 7, 7)))  # tiles of 152 columns
    method = PoolWindowShare("native", False, WindowGradBlocks(False, 2, 1, 3, 64, 1), spreading)
    assert (plan_of_pool_window_share(task, method, False) is not None) == is_planned


@pytest.mark.parametrize(("window", "is_planned"), [((15, 16), True), ((16, 16), False)])
def test_windows_of_more_taps_than_a_byte_tells_are_no_plan(window, is_planned):
    task = task_of("overlapping", "grads", "native", "meta")
    method = PoolWindowShare("native", False, WindowGradBlocks(True, 4, 2, 3, 8, 1), 256)
    windows = check_pool(task.geometry.maps, window, (8, 8), ((8, 8), (8, 8)), True)
    assert (plan_of_pool_window_share(replace(task, windows=windows), method, True) is not None) == is_planned


def test_the_last_batch_may_be_filled_in_part(hopper):
    task = task_of("overlapping", "filter_grad", "native")
    task = replace(task, geometry=replace(task.geometry, images=(24, *task.geometry.images[1:])))
    arrays, (images, _, winners, maps) = operands_of("overlapping", task, hopper)
    method = Spread(None, PoolWindowShare("native", False, LAYERS["overlapping"][-1], 256))
    (result,) = carry_out(task, method, images, winners, maps)
    np.testing.assert_array_equal(result.float().cpu().numpy(), rounded(expected_of(task, arrays)[1], "native"))
    prepared = PoolWindowShare("float16", True, LAYERS["overlapping"][-1], 256)
    assert plan_of_pool_window_share(task, prepared, False) is None


def test_both_gradients_of_a_batch_filled_in_part(hopper):
    task = task_of("side_by_side", "grads", "native")
    task = replace(task, geometry=replace(task.geometry, images=(24, *task.geometry.images[1:])))
    arrays, operands = operands_of("side_by_side", task, hopper)
    of_images = Window("native", (1, 1), WindowBlocks(2, 1, 8, 1))
    method = Spread(of_images, PoolWindowShare("native", False, LAYERS["side_by_side"][-1], 384))
    for result, expected in zip(carry_out(task, method, *operands), expected_of(task, arrays), strict=True):
        np.testing.assert_array_equal(result.float().cpu().numpy(), rounded(expected, "native"))


@pytest.mark.parametrize("way", ["as it goes, prepared", "as it goes", "before"])
@pytest.mark.parametrize("outlier", [1.0, 1e6])
def test_gradients_are_the_same_by_a_sample(outlier, way, hopper, monkeypatch):
    task = task_of("overlapping", "grads", "float16")
    _, (images, filters, winners, maps) = operands_of("overlapping", task, hopper, muted=0)
    images[3, 1, 6, 5], maps[7, 20, 3, 2] = outlier, outlier  # in no sample
    blocks = LAYERS["overlapping"][-1]
    of_filters = WindowShare("float16", blocks) if way == "before" else PoolWindowShare(
        "float16", way.endswith("prepared"), blocks, 256
    )  # fmt: skip
    method = Spread(Window("float16", (1, 1), WindowBlocks(2, 1, 8, 1), prepared=True), of_filters)
    whole_, by_sample = [], []
    for least, results in ((2**40, whole_), (1, by_sample)):
        for name, value in {"SEARCHERS": 16, "BLOCK": 4, "UNIT": 4, "LEAST_SAMPLED": least}.items():
            monkeypatch.setattr(magnitudes, name, value)
        results.extend(carry_out(task, method, images, filters, winners, maps))
    for result, expected in zip(by_sample, whole_, strict=True):
        assert torch.isfinite(result).all()
        assert float((result - expected).norm()) <= 1e-6 * float(expected.norm())


# ---------------------------------------------------------------------------------------------- candidates


@pytest.fixture
def compiling(monkeypatch):
    for module in (pool_window_candidates, window_candidates, window_grad_candidates):
        monkeypatch.setattr(module, "can_compile", lambda device: True)


def kinds_of(task, part):
    return {type(getattr(method, part)) for method in pool_candidates(task, tuning.CANDIDATES)[:-1]}


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("product", PRODUCTS)
def test_filter_gradients_that_spread_as_they_go_are_among_the_first_candidates(product):
    task = task_of("overlapping", "filter_grad", product, "meta")
    first = pool_candidates(task, tuning.CANDIDATES)[0]
    assert isinstance(first.filters, PoolWindowShare)
    assert plan_of_pool_window_share(task, first.filters, False) is not None
    assert tuning.fixed_choice(task) == first
    assert kinds_of(task, "filters") >= {PoolWindowShare, PoolShare, WindowShare}
    assert tuning.method_from_json(json.loads(json.dumps(tuning.method_to_json(first)))) == first


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("filters", [8, 16, 64])
@pytest.mark.parametrize("size", [12, 30])
def test_what_spreads_as_it_goes_stands_beside_input_gradients_over_windows(size, filters, product):
    geometry = Geometry((24, 64, size, size), (filters, 64, 3, 3), (2, 2), NO_PADDING, (1, 1), 1, False)
    windows = check_pool(geometry.maps, (2, 2), (2, 2), NO_PADDING, True)
    task = replace(task_of("overlapping", "grads", product, "meta"), geometry=geometry, windows=windows)
    ways = [way for way in pool_candidates(task, tuning.CANDIDATES)[:-1] if isinstance(way.filters, PoolWindowShare)]
    assert all(isinstance(way.input, Window) for way in ways)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("name", ["filter_grad", "grads"])
def test_float16_tensors_are_left_to_others(name):
    task = replace(task_of("overlapping", name, "float16", "meta"), dtype=torch.float16)
    kinds = kinds_of(task, "filters") | kinds_of(task, "input")
    assert not kinds & {PoolWindowShare, WindowShare, Window}


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("change", [{"groups": 3, "filters": (39, 1, 5, 5)}, {"dilation": (2, 1)}])
def test_groups_and_dilation_are_left_to_others(change):
    task = task_of("overlapping", "filter_grad", "native", "meta")
    geometry = replace(task.geometry, **change)
    windows = check_pool(geometry.maps, (3, 3), (2, 2), ((1, 1), (1, 1)), True)
    assert PoolWindowShare not in kinds_of(replace(task, geometry=geometry, windows=windows), "filters")


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("product", PRODUCTS)
def test_gradients_of_maps_spread_before_and_as_it_goes_are_candidates(product):
    task = task_of("overlapping", "grads", product, "meta")
    assert kinds_of(task, "filters") >= {PoolWindowShare, WindowShare}
    assert Window in kinds_of(task, "input")
    [product_] = {m.input.product for m in pool_candidates(task, 4)[:-1]}
    assert product_ == product


@pytest.mark.usefixtures("compiling")
def test_winners_of_more_than_a_byte_and_other_precisions_are_left_to_others():
    task = task_of("overlapping", "filter_grad", "float16", "meta")
    for other in (replace(task, winners=torch.int32), replace(task, precision="high")):
        assert PoolWindowShare not in kinds_of(other, "filters")
