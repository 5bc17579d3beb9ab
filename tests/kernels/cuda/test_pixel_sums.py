"""Sums of channels over batch, rows and columns, on a GPU or in Triton's interpreter."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the kernels are of torch tensors: pip install torch triton")
pytest.importorskip("triton", reason="the kernels are written in Triton: pip install triton")

from pytensor_convnet.kernels.cuda import FORMATS, pixel_sums, sum_over_pixels, to_format  # noqa: E402
from tests.kernels.cuda.common import whole  # noqa: E402

SHAPES = [(16, 3, 5, 7), (130, 2, 9, 1), (1, 5, 3, 3), (3, 700, 1, 2), (0, 2, 3, 3), (2, 0, 3, 3)]


def operands(shape, device, dtype=torch.float32):
    random = np.random.default_rng(0)
    return torch.from_numpy(random.standard_normal(shape).astype("float32")).to(device, dtype)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_in_every_format(shape, format, device, poisoned):
    maps = operands(shape, device)
    sums = sum_over_pixels(to_format(maps, format))
    assert sums.dtype == torch.float32
    np.testing.assert_allclose(sums.cpu(), maps.double().sum((0, 2, 3)).cpu(), rtol=1e-5, atol=1e-4)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    formats=st.tuples(*[st.sampled_from(FORMATS)] * 2),
    is_muted=st.booleans(),
    block=st.sampled_from([16, 1024]),
    programs=st.sampled_from([1, 512]),
)
def test_whole_numbers_of_drawn_shapes(shape, dtype, formats, is_muted, block, programs, device, poisoned):
    maps, winners = whole(shape), np.random.default_rng(1).choice(np.array([0, 3, 255], "uint8"), shape)
    tensor = to_format(torch.from_numpy(maps).to(device, dtype), formats[0])
    muting = [to_format(torch.from_numpy(winners).to(device), formats[1])] if is_muted else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_sums, "BLOCK", block)
        patch.setattr(pixel_sums, "PROGRAMS", programs)
        sums = sum_over_pixels(tensor, *muting)
    expected = np.where(winners == 255, 0, maps) if is_muted else maps
    np.testing.assert_array_equal(sums.cpu(), expected.sum((0, 2, 3)))


@pytest.mark.parametrize(("dtype", "no_tap"), [(torch.uint8, 255), (torch.int32, -1), (torch.int64, -1)], ids=str)
@pytest.mark.parametrize("format", ["batch_last", "bc01"])
def test_windows_without_a_winner_are_left_out(dtype, no_tap, format, device):
    maps = operands((33, 3, 4, 5), device)
    winners = torch.from_numpy(np.random.default_rng(1).integers(0, 4, maps.shape)).to(device, dtype)
    muted = operands(maps.shape, device) < 0.3
    maps[muted & (maps < -1)] = float("nan")
    winners[muted] = no_tap
    if dtype != torch.uint8:
        winners[0, 0, 0, 0] = 255  # a tap of a window that large
    sums = sum_over_pixels(to_format(maps, format), to_format(winners, format))
    expected = maps.where(winners != no_tap, 0).double().sum((0, 2, 3))
    np.testing.assert_allclose(sums.cpu(), expected.cpu(), rtol=1e-5, atol=1e-4)


def test_bfloat16_is_summed_in_float32(device):
    maps = to_format(operands((256, 2, 8, 8), device, torch.bfloat16), "batch_last")
    expected = maps.double().sum((0, 2, 3)).cpu()
    np.testing.assert_allclose(sum_over_pixels(maps).cpu(), expected, rtol=1e-5, atol=1e-3)


def test_float64_is_summed_in_float64(device):
    maps = operands((16, 2, 8, 8), device, torch.float64)
    assert sum_over_pixels(maps).dtype == torch.float64
    np.testing.assert_allclose(sum_over_pixels(maps).cpu(), maps.sum((0, 2, 3)).cpu(), rtol=1e-13)


@pytest.mark.parametrize(
    ("maps", "winners", "message"),
    [
        (torch.zeros(2, 3, 4), None, "maps"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5, dtype=torch.uint8), "winners are 2x3x4x5"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), "winners must be uint8"),
    ],
    ids=["no axes", "shape", "dtype"],
)
def test_misfits_are_refused(maps, winners, message):
    with pytest.raises(ValueError, match=message):
        sum_over_pixels(maps, winners)
