"""Max pooling of bfloat16 by rows in shared memory: plans carried out in NumPy, and on a Hopper GPU as they are."""

import numpy as np
import pytest
from hypothesis import given, settings

from pytensor_convnet import reference
from tests.strategies import pools

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from pytensor_convnet.kernels.cuda import max_pooling, max_pooling_grad, pool_rows_kernel  # noqa: E402
from pytensor_convnet.kernels.cuda.max_pooling import max_pool2d, max_pool2d_maxima  # noqa: E402
from pytensor_convnet.kernels.cuda.max_pooling_grad import max_pool2d_grad  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_plans import check_pool  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_rows_kernel import rows_grad_plan, rows_plan  # noqa: E402

LEAST = -1000
"""Of a border, below all numbers here."""

CASES = {
    "overlapping": ((3, 4, 21, 17), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "by two": ((2, 3, 19, 55), (3, 3), (2, 2), ((0, 0), (0, 0))),
    "by two, padded": ((2, 3, 32, 32), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "side by side": ((2, 2, 37, 30), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "with gaps": ((2, 2, 40, 31), (2, 1), (5, 3), ((1, 0), (0, 0))),
    "wide": ((1, 2, 9, 700), (2, 5), (1, 3), ((1, 1), (4, 2))),
    "mostly padding": ((5, 1, 3, 2), (5, 4), (1, 2), ((4, 4), (3, 3))),
}


def whole_numbers(shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype("float32")


def tiles(plan, rows):
    """Of each strip of a plan: its plane, the row that it begins at, and a tile of as many zeros as it holds."""
    k = plan.constants
    for strip in range(min(plan.programs * k["STRIPS"], plan.strips)):
        yield strip // k["STRIPS_EACH"], strip % k["STRIPS_EACH"] * k["STRIP"], np.zeros((rows, k["PITCH"]))


def pooled_by(plan, images):
    """Maxima and winners, as the kernel finds them."""
    k = plan.constants
    planes = images.reshape(-1, k["ROWS"], k["COLUMNS"])
    maxima = np.full((len(planes), k["OUT_ROWS"], k["OUT_COLUMNS"]), np.nan)
    winners = np.full(maxima.shape, -1)
    for plane, row, tile in tiles(plan, k["TILE_ROWS"]):
        tile[:] = LEAST
        first = row * k["POOL_STEP_ROWS"] - k["POOL_TOP"]
        for r in range(k["TILE_ROWS"]):
            if 0 <= first + r < k["ROWS"]:
                tile[r, k["POOL_LEFT"] : k["POOL_LEFT"] + k["COLUMNS"]] = planes[plane, first + r]
        for y in range(row, min(row + k["STRIP"], k["OUT_ROWS"])):
            for x in range(k["OUT_COLUMNS"]):
                down, across = (y - row) * k["POOL_STEP_ROWS"], x * k["POOL_STEP_COLUMNS"]
                window = tile[down : down + k["POOL_ROWS"], across : across + k["POOL_COLUMNS"]]
                assert window.shape == (k["POOL_ROWS"], k["POOL_COLUMNS"])
                maxima[plane, y, x], winners[plane, y, x] = window.max(), window.argmax()
    return maxima, winners


def gradient_by(plan, winners, maps):
    """The gradient, as the kernel sums it."""
    k = plan.constants
    winners, maps = (each.reshape(-1, k["OUT_ROWS"], k["OUT_COLUMNS"]) for each in (winners, maps))
    images = np.full((len(maps), k["ROWS"], k["COLUMNS"]), np.nan)
    for plane, strip_row, values in tiles(plan, k["TILE_ROWS"]):
        taps = np.full(values.shape, -1)
        first_y = (strip_row + k["POOL_TOP"]) // k["POOL_STEP_ROWS"] - k["ROWS_BEFORE"]
        first_x = k["POOL_LEFT"] // k["POOL_STEP_COLUMNS"] - k["COLUMNS_BEFORE"]
        for (m, n), _ in np.ndenumerate(values):
            y, x = first_y + m, first_x + n
            if 0 <= y < k["OUT_ROWS"] and 0 <= x < k["OUT_COLUMNS"]:
                values[m, n], taps[m, n] = maps[plane, y, x], winners[plane, y, x]
        i = np.arange(k["TILE_ROWS"]) - k["ROWS_BEFORE"], k["POOL_TOP"] % k["POOL_STEP_ROWS"]
        j = np.arange(k["PATCH_WINDOWS"]) - k["COLUMNS_BEFORE"], k["POOL_LEFT"] % k["POOL_STEP_COLUMNS"]
        for r in range(min(k["STRIP"], k["ROWS"] - strip_row)):
            for column in range(k["COLUMNS"]):
                patch, q = divmod(column, k["PATCH_COLUMNS"])
                assert patch < k["PATCHES"]
                seen = patch * (k["PATCH_COLUMNS"] // k["POOL_STEP_COLUMNS"]) + np.arange(k["PATCH_WINDOWS"])
                row_taps = (r + i[1] - i[0] * k["POOL_STEP_ROWS"])[:, None]
                column_taps = q + j[1] - j[0] * k["POOL_STEP_COLUMNS"]
                held = (row_taps >= 0) & (row_taps < k["POOL_ROWS"])
                held = held & (column_taps >= 0) & (column_taps < k["POOL_COLUMNS"])
                won = taps[:, seen] == row_taps * k["POOL_COLUMNS"] + column_taps
                images[plane, strip_row + r, column] = values[:, seen][held & won].sum()
    return images


def check_plans(shape, windows, ignore_border):
    images = whole_numbers(shape)
    found = check_pool(shape, *windows, ignore_border)
    maxima, winners = reference.max_pool2d(images, np.uint8, *windows, ignore_border)
    pooled = pooled_by(rows_plan(shape[0] * shape[1], found, True), images)
    np.testing.assert_array_equal(pooled[0].reshape(maxima.shape), maxima)
    np.testing.assert_array_equal(pooled[1].reshape(maxima.shape), winners)
    maps = whole_numbers(maxima.shape, 1)
    gradient = gradient_by(rows_grad_plan(shape[0] * shape[1], found), winners, maps)
    expected = reference.max_pool2d_grad(winners, maps, *shape[2:], *windows)
    np.testing.assert_array_equal(gradient.reshape(shape), expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ignore_border", [True, False])
def test_plans_make_every_maximum_and_every_pixel(case, ignore_border):
    shape, *windows = CASES[case]
    check_plans(shape, windows, ignore_border)


@settings(max_examples=40)
@given(case=pools(dtype="float32"))
def test_plans_of_drawn_pools(case):
    if case.images.size:
        check_plans(case.images.shape, case.windows, case.ignore_border)


def test_a_row_that_shared_memory_does_not_hold_is_no_plan():
    windows = check_pool((1, 1, 40, 9000), (3, 3), (1, 1), ((1, 1), (1, 1)), True)
    assert rows_plan(1, windows, True) is None
    assert rows_grad_plan(1, windows) is None


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (128, 64, 56, 56), (1, 1, 20, 400), (7, 9, 300, 5)])
@pytest.mark.parametrize("move", [(1, 1), (2, 2), (3, 1)])
def test_programs_are_within_limits(shape, move):
    windows = check_pool(shape, (3, 3), move, ((1, 1), (1, 1)), True)
    for plan in (rows_plan(shape[0] * shape[1], windows, True), rows_grad_plan(shape[0] * shape[1], windows)):
        assert plan.shared_bytes <= pool_rows_kernel.SHARED_BYTES
        assert plan.constants["THREADS"] in range(32, pool_rows_kernel.MOST_THREADS + 1, 32)
        assert plan.programs * plan.constants["STRIPS"] >= plan.strips


@pytest.mark.parametrize("case", ["by two, padded", "side by side"])
def test_batches_of_any_size_share_a_kernel(case):
    (_, channels, *image), *moves = CASES[case]
    windows = check_pool((1, channels, *image), *moves, True)
    for plan_of in (lambda planes: rows_plan(planes, windows, True), lambda planes: rows_grad_plan(planes, windows)):
        batch, last = plan_of(128 * channels), plan_of(37 * channels)
        assert batch.source == last.source
        assert 37 * batch.strips == 128 * last.strips


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_registers_hold_what_a_thread_has(side, step):
    windows = check_pool((4, 4, 61, 61), (side, side), (step, step), ((0, 0), (0, 0)), True)
    assert rows_plan(16, windows, True).constants["TILE_ROWS"] <= pool_rows_kernel.MOST_TILE_ROWS
    plan = rows_grad_plan(16, windows)
    assert (plan is None) == (step == 6)
    if plan is not None:
        assert plan.constants["STRIP"] * plan.constants["PATCH_COLUMNS"] <= pool_rows_kernel.MOST_SUMS


# ------------------------------------------------------------------------------------------- on a GPU


@pytest.fixture
def only_rows(hopper, monkeypatch):
    """A GPU that takes these kernels, whose outputs are full of what they must overwrite, and no other."""

    def poisoned(shape, format, dtype, device):
        return torch.full(shape, float("nan") if dtype.is_floating_point else 101, dtype=dtype, device=device)

    for module in (max_pooling, max_pooling_grad):
        monkeypatch.setattr(module, "empty", poisoned)
        monkeypatch.setattr(module, "tile_for", None)
    monkeypatch.setattr(max_pooling, "strip_tile", None)
    monkeypatch.setattr(max_pooling_grad, "patch_for", None)
    return hopper


@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-40])
@pytest.mark.parametrize("case", CASES)
def test_maxima_winners_and_gradients(case, special, only_rows):
    shape, *windows = CASES[case]
    images = torch.tensor(whole_numbers(shape), device=only_rows).bfloat16()
    images[images == 3] = special
    expected = reference.max_pool2d(images.float().cpu().numpy(), np.uint8, *windows, False)
    maxima, winners = max_pool2d(images, torch.uint8, *windows, False)
    np.testing.assert_array_equal(maxima.float().cpu().numpy(), expected[0])
    np.testing.assert_array_equal(winners.cpu().numpy(), expected[1])
    alone = max_pool2d_maxima(images, *windows, False)
    np.testing.assert_array_equal(alone.float().cpu().numpy(), expected[0])
    maps = torch.tensor(whole_numbers(expected[0].shape, 1), device=only_rows)
    grad = max_pool2d_grad(winners, maps.bfloat16(), *shape[2:], *windows)
    exact = reference.max_pool2d_grad(expected[1], maps.cpu().numpy(), *shape[2:], *windows)
    np.testing.assert_array_equal(grad.float().cpu().numpy(), exact)


def test_sums_are_rounded_once(only_rows):
    images = torch.zeros((1, 1, 3, 3), device=only_rows, dtype=torch.bfloat16)
    images[0, 0, 1, 1] = 1
    windows = (3, 3), (1, 1), ((1, 1), (1, 1))
    _, winners = max_pool2d(images, torch.uint8, *windows, True)
    maps = torch.tensor([256.0] + 8 * [1.0], device=only_rows).reshape(1, 1, 3, 3).bfloat16()
    assert max_pool2d_grad(winners, maps, 3, 3, *windows)[0, 0, 1, 1].item() == 264


def test_what_is_no_tap_wins_nothing(only_rows):
    winners = torch.full((1, 2, 4, 4), 255, dtype=torch.uint8, device=only_rows)
    maps = torch.ones((1, 2, 4, 4), device=only_rows, dtype=torch.bfloat16)
    assert not max_pool2d_grad(winners, maps, 8, 8, (2, 2), (2, 2), ((0, 0), (0, 0))).any()
