"""Pooled correlations over windows in shared memory, in NumPy and on a GPU, against definitions; plans, candidates."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.kernels.cuda import pool_window_candidates, pool_window_kernel, to_format, tuning  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_candidates import pool_candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_methods import (  # noqa: E402
    PoolGather,
    PoolTask,
    PoolWindow,
    carry_out,
    plan_of_pool_window,
)
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_plans import check_pool  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_window_kernel import PoolWindowBlocks, fits_pool_windows  # noqa: E402
from tests.kernels.cuda.common import pooled_layers, whole  # noqa: E402
from tests.kernels.cuda.pool_windows_in_numpy import pooled_in_numpy  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

NO_PADDING = ((0, 0), (0, 0))
SIDE_BY_SIDE = ((2, 2), (2, 2), NO_PADDING, True)
OVERLAPPING = ((3, 3), (2, 2), ((1, 1), (1, 1)), True)
LAYERS = {
    # a correlation; window, stride, padding of the pool, and whether partial windows are left out
    "side by side": (Geometry((64, 3, 9, 12), (16, 3, 2, 3), (1, 1), NO_PADDING, (1, 1), 1, False), SIDE_BY_SIDE),
    "overlapping": (
        Geometry((80, 3, 13, 12), (40, 3, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1, False),
        OVERLAPPING,
    ),
    "true convolution": (
        Geometry((16, 2, 9, 11), (20, 2, 4, 3), (1, 1), ((1, 2), (0, 1)), (1, 1), 1, True),
        OVERLAPPING,
    ),
    "strided": (
        Geometry((144, 2, 23, 21), (64, 2, 5, 4), (2, 2), ((1, 0), (0, 2)), (1, 1), 1, False),
        ((3, 3), (2, 2), NO_PADDING, False),
    ),
    "strides differ": (
        Geometry((16, 1, 21, 12), (24, 1, 5, 3), (3, 1), ((2, 1), (1, 1)), (1, 1), 1, True),
        ((3, 2), (1, 2), ((0, 1), (1, 0)), True),
    ),
    "mostly padding": (
        Geometry((16, 1, 4, 3), (8, 1, 5, 4), (1, 1), ((4, 4), (3, 5)), (1, 1), 1, False),
        ((2, 2), (2, 2), ((1, 0), (0, 1)), True),
    ),
    "windows that move by one": (
        Geometry((16, 1, 9, 11), (8, 1, 3, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((2, 2), (1, 1), ((1, 0), (1, 1)), True),
    ),
    "windows with gaps": (
        Geometry((32, 2, 10, 11), (8, 2, 2, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
        ((1, 2), (2, 3), NO_PADDING, True),
    ),
    "a batch of which 8 are no divisor": (
        Geometry((100, 1, 12, 12), (20, 1, 5, 5), (1, 1), NO_PADDING, (1, 1), 1, False),
        SIDE_BY_SIDE,
    ),
    "few images": (
        Geometry((20, 3, 16, 15), (33, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1, True),
        ((3, 3), (2, 2), ((1, 1), (1, 1)), True),
    ),
}
PRODUCTS = {"native": torch.bfloat16, "float16": torch.float32}
NAME = "correlate2d_max_pool2d"


def task_of(layer, product, activation="relu", device="cuda", formats=("batch_last", "batch_last")):
    geometry, (window, stride, padding, ignore_border) = layer
    windows = check_pool(geometry.maps, window, stride, padding, ignore_border)
    return PoolTask(
        NAME, geometry, PRODUCTS[product], "medium", formats, torch.device(device), windows, activation, torch.uint8
    )


def operands_of(task, device):
    """Whole images, filters and biases, as arrays and as tensors."""
    geometry = task.geometry
    arrays = whole(geometry.images), whole(geometry.filters, 1), whole(geometry.filters[:1], 2)
    images, filters, biases = (torch.from_numpy(array).to(device, task.dtype) for array in arrays)
    return arrays, (to_format(images, task.formats[0]), filters, biases)


def expected_of(task, ignore_border, arrays):
    """Rectified maxima, and winners, 255 where there is no maximum above zero."""
    images, filters, biases = arrays
    geometry, windows = task.geometry, task.windows
    moves = geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip
    maps = reference.correlate2d(images, filters, *moves) + biases[:, None, None]
    maxima, winners = reference.max_pool2d(
        maps, np.uint8, windows.window, windows.stride, windows.padding, ignore_border
    )
    return np.maximum(maxima, 0), np.where(maxima >= 0, winners, 255)


# -------------------------------------------------------------------------------- the kernel's arithmetic in NumPy


def check_in_numpy(task, blocks, ignore_border, programs):
    product = "native" if task.dtype == torch.bfloat16 else "float16"
    plan = plan_of_pool_window(task, PoolWindow(product, blocks))
    geometry = task.geometry
    arrays = whole(geometry.images), whole(geometry.filters, 1), whole(geometry.filters[:1], 2)
    maxima, winners = pooled_in_numpy(plan, *arrays, programs, task.dtype.itemsize)
    expected, won = expected_of(task, ignore_border, arrays)
    np.testing.assert_array_equal(maxima, expected)
    counted = expected > 0 if task.activation == "relu" else slice(None)
    np.testing.assert_array_equal(winners[counted], won[counted])


@pytest.mark.parametrize(("run", "rows", "programs"), [(1, 1, 132), (2, 2, 3), (3, 1, 1), (99, 3, 2)])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_cells_of_shared_memory_give_maxima_and_winners(layer, product, run, rows, programs):
    task = task_of(LAYERS[layer], product, "relu" if rows > 1 else "muting_relu", "meta")
    blocks = PoolWindowBlocks(min(run, task.windows.out_columns), min(rows, task.windows.window[0]))
    check_in_numpy(task, blocks, LAYERS[layer][1][-1], programs)


@settings(max_examples=100)
@given(layer=pooled_layers(st.integers(2, 35).map(lambda count: 4 * count), most_shared=1), data=st.data())
def test_drawn_layers(layer, data):
    activation, product = data.draw(st.sampled_from(["relu", "muting_relu"])), data.draw(st.sampled_from([*PRODUCTS]))
    task = task_of(layer, product, activation, "meta")
    assume(fits_pool_windows(task.geometry, task.windows, activation))
    run = data.draw(st.integers(1, task.windows.out_columns), "run")
    rows = data.draw(st.integers(1, task.windows.window[0]), "rows")
    check_in_numpy(task, PoolWindowBlocks(run, rows), layer[1][-1], data.draw(st.sampled_from([1, 3]), "programs"))


# ------------------------------------------------------------------------------------------------------ on a GPU


def check(task, method, ignore_border, device):
    arrays, operands = operands_of(task, device)
    maxima, winners = carry_out(task, method, *operands)
    expected, won = expected_of(task, ignore_border, arrays)
    expected = torch.from_numpy(expected).to(task.dtype).float().numpy()
    np.testing.assert_array_equal(maxima.float().cpu().numpy(), expected)
    winners = winners.cpu().numpy()
    np.testing.assert_array_equal(winners[expected > 0], won[expected > 0])
    return winners, won


@pytest.mark.parametrize("multiprocessors", [1, 3, 132])
@pytest.mark.parametrize(("run", "rows"), [(1, 1), (2, 2), (3, 1), (99, 3)])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_maxima_and_winners_of_whole_numbers(layer, product, run, rows, multiprocessors, hopper, monkeypatch):
    monkeypatch.setattr(pool_window_kernel, "MULTIPROCESSORS", multiprocessors)
    task = task_of(LAYERS[layer], product)
    windows = task.windows
    blocks = PoolWindowBlocks(min(run, windows.out_columns), min(rows, windows.window[0]))
    check(task, PoolWindow(product, blocks), LAYERS[layer][1][-1], hopper)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_windows_without_a_maximum_are_muted(layer, product, hopper):
    task = task_of(LAYERS[layer], product, "muting_relu")
    winners, expected = check(task, PoolWindow(product, PoolWindowBlocks(2, 1)), LAYERS[layer][1][-1], hopper)
    np.testing.assert_array_equal(winners, expected)


@pytest.mark.parametrize("after", ["batch_last", "bc01", "channels_last"])
@pytest.mark.parametrize("before", ["batch_last", "bc01", "channels_last"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_formats_of_images_and_results(product, before, after, hopper):
    task = task_of(LAYERS["overlapping"], product, formats=(before, after))
    check(task, PoolWindow(product, PoolWindowBlocks(3, 3)), True, hopper)


@pytest.mark.parametrize(("product", "most"), [("native", 4e-3), ("float16", 6e-4)])
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_errors_are_those_of_the_product_at_every_size(size, product, most, hopper):
    task = task_of(LAYERS["overlapping"], product)
    random = torch.Generator(hopper).manual_seed(0)
    shapes = task.geometry.images, task.geometry.filters, task.geometry.filters[:1]
    tensors = [torch.randn(shape, device=hopper, generator=random) for shape in shapes]
    images, filters, biases = (
        (factor * tensor).to(task.dtype) for factor, tensor in zip((size, size**-0.5, size**0.5), tensors)
    )
    method = PoolWindow(product, PoolWindowBlocks(3, 3))
    maxima, _ = carry_out(task, method, to_format(images, "batch_last"), filters, biases)
    expected, _ = expected_of(task, True, [tensor.double().cpu().numpy() for tensor in (images, filters, biases)])
    assert np.linalg.norm(maxima.double().cpu().numpy() - expected) <= most * np.linalg.norm(expected)


@pytest.mark.parametrize("product", PRODUCTS)
def test_nan_is_the_largest_and_stays_in_its_image(product, hopper):
    task = task_of(LAYERS["overlapping"], product)
    _, (images, filters, biases) = operands_of(task, hopper)
    method = PoolWindow(product, PoolWindowBlocks(3, 3))
    expected, _ = carry_out(task, method, images, filters, biases)
    images[17, 1, 6, 6] = float("nan")
    maxima, _ = carry_out(task, method, images, filters, biases)
    others = [b for b in range(80) if b != 17]
    assert torch.isnan(maxima[17, :, 2:4, 2:4]).all()
    assert torch.equal(maxima[others], expected[others])


@pytest.mark.parametrize("stray", [float("nan"), float("inf")])
@pytest.mark.parametrize("product", PRODUCTS)
def test_what_is_not_finite_reaches_few_maps(product, stray, hopper):
    task = task_of(LAYERS["overlapping"], product)
    _, (images, filters, biases) = operands_of(task, hopper)
    images[17, 1, 2, 1] = stray
    maxima, _ = carry_out(task, PoolWindow(product, PoolWindowBlocks(3, 3)), images, filters, biases)
    assert not torch.isfinite(maxima[17, :, :3, :3]).all()
    assert torch.isfinite(maxima[17, :, 4:]).all()
    assert torch.isfinite(maxima[17, :, :, 4:]).all()


# ------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("product", PRODUCTS)
def test_without_measurements_the_shortest_estimate_is_taken(product):
    small = Geometry((1024, 1, 28, 28), (20, 1, 5, 5), (1, 1), NO_PADDING, (1, 1), 1, False)
    large = Geometry((1024, 3, 32, 32), (64, 3, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1, False)
    assert isinstance(tuning.fixed_choice(task_of((large, OVERLAPPING), product, device="meta")), PoolWindow)
    assert isinstance(tuning.fixed_choice(task_of((small, SIDE_BY_SIDE), product, device="meta")), PoolGather)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_plans_stay_within_a_multiprocessor(layer, product):
    task = task_of(LAYERS[layer], product, device="meta")
    plan = plan_of_pool_window(task, PoolWindow(product, PoolWindowBlocks(2, 1)))
    k = plan.constants
    assert plan.shared_bytes <= 227 * 1024
    assert k["STAGES_START"] % 1024 == k["STAGE_BYTES"] % 1024 == k["COLLECTED_BYTES"] % 1024 == 0
    assert k["SLICE_COLUMNS"] * k["SLICES"] >= k["TAPS_ACROSS"]
    assert 16 * k["SLICE_STEPS"] >= ((k["SLICE_COLUMNS"] - 1) * k["TILE_ROWS"] + k["TAPS_DOWN"]) * k["CHANNELS"]


@pytest.mark.parametrize("filters", [256, 200])
def test_what_registers_do_not_hold_is_no_plan(filters):
    geometry, pool = LAYERS["overlapping"]
    task = task_of((replace(geometry, filters=(filters, 3, 5, 5)), pool), "native", device="meta")
    assert plan_of_pool_window(task, PoolWindow("native", PoolWindowBlocks(2, 1))) is None


# ---------------------------------------------------------------------------------------------- candidates


@pytest.fixture
def compiling(monkeypatch):
    monkeypatch.setattr(pool_window_candidates, "can_compile", lambda device: True)


def windows_among_candidates(task):
    return [m for m in pool_candidates(task, tuning.CANDIDATES)[:-1] if isinstance(m, PoolWindow)]


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_they_are_among_the_candidates(layer, product):
    task = task_of(LAYERS[layer], product, device="meta")
    found = windows_among_candidates(task)
    assert 1 <= len(found) <= 2
    for method in found:
        assert plan_of_pool_window(task, method) is not None
        assert tuning.method_from_json(json.loads(json.dumps(tuning.method_to_json(method)))) == method


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(
    "change",
    [
        {"activation": "tanh"},
        {"winners": torch.int32},
        {"precision": "high"},
        {"dtype": torch.float16},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_tasks_are_left_to_others(change):
    task = replace(task_of(LAYERS["overlapping"], "float16", device="meta"), **change)
    assert windows_among_candidates(task) == []


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(
    "layer",
    [
        (replace(LAYERS["overlapping"][0], groups=3, filters=(39, 1, 5, 5)), OVERLAPPING),
        (replace(LAYERS["overlapping"][0], dilation=(2, 1)), OVERLAPPING),
        (replace(LAYERS["overlapping"][0], images=(78, 3, 13, 12)), OVERLAPPING),
        (LAYERS["overlapping"][0], ((3, 3), (1, 1), NO_PADDING, True)),
    ],
    ids=["groups", "dilation", "a batch that 4 does not divide", "two columns that windows share"],
)
def test_other_layers_are_left_to_others(layer):
    assert windows_among_candidates(task_of(layer, "native", device="meta")) == []
