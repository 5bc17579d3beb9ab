"""Filter gradients over windows: their plan, rows of shared memory in NumPy, and the kernel itself on a GPU."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.kernels.cuda import (  # noqa: E402
    runtime_compiler,
    to_format,
    window_grad_candidates,
)
from pytensor_convnet.kernels.cuda.carrying_out import carry_out, plan_of_window_share  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Task, WindowShare  # noqa: E402
from pytensor_convnet.kernels.cuda.runtime_compiler import compiled  # noqa: E402
from pytensor_convnet.kernels.cuda.window_grad_candidates import window_grads  # noqa: E402
from pytensor_convnet.kernels.cuda.window_grad_kernel import (  # noqa: E402
    WindowGradBlocks,
    fits_window_grads,
    window_grad_plan,
)
from tests.kernels.cuda.common import whole  # noqa: E402
from tests.kernels.cuda.window_grads_in_numpy import Program, computed_in_numpy  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

NO_PADDING = ((0, 0), (0, 0))
DTYPES = {torch.float32: "tf32", torch.bfloat16: "native"}

MIDDLE = ((1, 1), (1, 1))


def layer(images, filters, stride, padding, flip, *blocks):
    return Geometry(images, filters, stride, padding, (1, 1), 1, flip), WindowGradBlocks(*blocks)


LAYERS = {
    "narrow_maps": layer((16, 2, 8, 3), (8, 2, 3, 3), (1, 1), ((1, 1), (0, 0)), False, True, 2, 1, 2, 8, 1),
    "filters_as_rows": layer((64, 1, 9, 9), (20, 1, 5, 5), (1, 1), NO_PADDING, False, False, 2, 2, 1, 20, 2),
    "strides_differ": layer((72, 3, 12, 13), (9, 3, 3, 5), (2, 1), ((2, 1), (2, 0)), True, True, 3, 1, 3, 9, 1),
    "strided": layer((40, 3, 19, 19), (16, 3, 5, 5), (2, 2), NO_PADDING, False, True, 2, 1, 3, 16, 1),
    "blocks": layer((8, 4, 7, 9), (24, 4, 3, 3), (2, 2), MIDDLE, True, False, 4, 2, 2, 8, 1),
    "gaps": layer((136, 5, 6, 7), (70, 5, 2, 2), (3, 3), ((0, 1), (1, 1)), False, False, 2, 1, 5, 64, 1),
    "alexnet": layer((128, 3, 23, 23), (96, 3, 11, 11), (4, 4), NO_PADDING, False, True, 2, 1, 3, 96, 1),
    "a_window_alone": layer((72, 2, 7, 5), (8, 2, 3, 3), (1, 1), MIDDLE, False, True, 2, 1, 2, 8, 1),
    "split": layer((24, 8, 10, 11), (40, 8, 3, 3), (1, 1), MIDDLE, False, True, 4, 4, 4, 40, 2),
}


def task_of(geometry, dtype=torch.float32, device="cpu", precision="medium", formats=("batch_last",) * 2):
    return Task("correlate2d_filter_grad", geometry, dtype, precision, formats, torch.device(device))


def defined(geometry, images, maps):
    moves = geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip
    return reference.correlate2d_filter_grad(images, maps, *geometry.filters[2:], *moves)


# -------------------------------------------------------------------------------- the kernel's arithmetic in NumPy


@pytest.mark.parametrize("multiprocessors", [132, 1], ids=["many_shares", "one_share"])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_shared_memory_give_the_gradient(layer, narrow, multiprocessors, on_so_many):
    on_so_many(multiprocessors)
    check_in_numpy(*LAYERS[layer], narrow)


def check_in_numpy(geometry, blocks, narrow):
    how = window_grad_plan(geometry, blocks, "native" if narrow else "tf32")
    images, maps = whole(geometry.images), whole(geometry.maps, 1)
    result = computed_in_numpy(
        how.constants, geometry.filters, lambda share, block: Program(how.constants, images, maps, share, block)
    )
    np.testing.assert_array_equal(result, defined(geometry, images, maps))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(data=st.data())
def test_drawn_layers(on_so_many, data):
    few, narrow = st.integers(1, 4), data.draw(st.booleans())
    lengths = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    padding = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(2))
    taps = tuple(data.draw(st.integers(1, length + sum(pad))) for length, pad in zip(lengths, padding))
    channels, filters = data.draw(few), data.draw(st.integers(1, 12))
    images = 8 * data.draw(few), channels, *lengths
    stride = data.draw(few), data.draw(few)
    geometry = Geometry(images, (filters, channels, *taps), stride, padding, (1, 1), 1, data.draw(st.booleans()))
    pixels = data.draw(st.sampled_from([1, 2]))
    blocks = WindowGradBlocks(
        data.draw(st.booleans()), pixels * data.draw(few), pixels, channels, filters, data.draw(st.integers(1, pixels))
    )
    on_so_many(data.draw(st.sampled_from([1, 3, 132])))
    assume(fits_window_grads(geometry))
    assume(window_grad_plan(geometry, blocks, "native" if narrow else "tf32") is not None)
    check_in_numpy(geometry, blocks, narrow)


# ------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_planned_fits_into_a_multiprocessor(layer, narrow):
    geometry, blocks = LAYERS[layer]
    how = window_grad_plan(geometry, blocks, "native" if narrow else "tf32")
    assert how.shared_bytes <= 227 * 1024
    assert how.constants["STAGES"] >= 2
    assert how.constants["SHARES"] * how.constants["BLOCKS"] <= 132


@pytest.mark.parametrize(
    "blocks",
    [
        WindowGradBlocks(True, 2, 1, 5, 64, 1),
        WindowGradBlocks(True, 3, 2, 8, 64, 1),
        WindowGradBlocks(True, 2, 1, 64, 128, 1),
        WindowGradBlocks(True, 250, 1, 8, 64, 1),
        WindowGradBlocks(False, 60, 1, 8, 64, 1),
    ],
    ids=["no_divisor", "part_of_a_stage", "too_many_sums", "more_than_a_box", "no_room"],
)
def test_what_does_not_fit_is_no_plan(blocks):
    geometry = Geometry((128, 64, 34, 300), (128, 64, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False)
    assert window_grad_plan(geometry, WindowGradBlocks(True, 2, 1, 8, 64, 1), "tf32") is not None
    assert window_grad_plan(geometry, blocks, "tf32") is None


@pytest.mark.parametrize(
    "change",
    [{"groups": 2, "filters": (4, 1, 3, 3)}, {"dilation": (2, 1)}, {"images": (2, 2, 9, 9)}, {"images": (0, 2, 9, 9)}],
    ids=["groups", "dilation", "small_batch", "empty"],
)
def test_what_windows_cannot_do_is_left_to_others(change, monkeypatch):
    monkeypatch.setattr(window_grad_candidates, "can_compile", lambda device: True)
    geometry = Geometry((16, 2, 9, 9), (4, 2, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False)
    assert window_grads(task_of(geometry), 4)
    assert not window_grads(task_of(replace(geometry, **change)), 4)


@pytest.mark.parametrize(
    ("change", "products"),
    [
        ({}, ["float16", "tf32"]),
        ({"dtype": torch.bfloat16}, ["native"]),
        ({"formats": ("bc01", "batch_last")}, ["float16"]),
        ({"formats": ("bc01", "batch_last"), "dtype": torch.bfloat16}, []),
        ({"precision": "high"}, []),
        ({"name": "correlate2d"}, []),
    ],
    ids=str,
)
def test_windows_are_for_coarse_products_of_operands_that_are_batch_last_or_prepared(change, products, monkeypatch):
    monkeypatch.setattr(window_grad_candidates, "can_compile", lambda device: True)
    much = Geometry((128, 128, 16, 16), (128, 128, 7, 7), (1, 1), NO_PADDING, (1, 1), 1, False)
    found = window_grads(replace(task_of(much), **change), 12)
    assert sorted({method.product for method in found}) == products


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layer", ["strided", "split"])
def test_the_kernel_compiles(layer, dtype, monkeypatch, tmp_path):
    if runtime_compiler._nvrtc() is None:
        pytest.skip("there is no NVRTC")
    monkeypatch.setattr(window_grad_candidates, "can_compile", lambda device: True)
    monkeypatch.setenv("PYTENSOR_CONVNET_CUBIN_CACHE", str(tmp_path))
    task = task_of(LAYERS[layer][0], dtype)
    methods = window_grads(task, 2)
    assert methods
    for method in methods:
        assert compiled(plan_of_window_share(task, method).source).startswith(b"\x7fELF")


# ------------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.parametrize("multiprocessors", [1, 3, 132])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_kernel_gives_the_gradient(layer, dtype, multiprocessors, hopper, on_so_many):
    on_so_many(multiprocessors)
    geometry, blocks = LAYERS[layer]
    task = task_of(geometry, dtype, hopper)
    images, maps = whole(geometry.images), whole(geometry.maps, 1)
    operands = [to_format(torch.from_numpy(array).to(hopper, dtype), "batch_last") for array in (images, maps)]
    expected = torch.from_numpy(defined(geometry, images, maps).copy()).to(dtype).float().numpy()
    others = window_grads(task, 6)
    assert others
    for method in (WindowShare(DTYPES[dtype], blocks), *others):
        result = carry_out(task, method, *operands)
        np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


@pytest.mark.parametrize("formats", [("bc01", "batch_last"), ("channels_last", "channels_last")], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_operands_of_other_formats_are_prepared(layer, formats, hopper):
    geometry, blocks = LAYERS[layer]
    task = task_of(geometry, device=hopper, formats=formats)
    images, maps = whole(geometry.images), whole(geometry.maps, 1)
    operands = [to_format(torch.from_numpy(x).float().to(hopper), format) for x, format in zip((images, maps), formats)]
    if plan_of_window_share(task, WindowShare("float16", blocks)) is None:
        blocks = window_grads(task, 1)[0].blocks
    result = carry_out(task, WindowShare("float16", blocks), *operands)
    np.testing.assert_array_equal(result.cpu().numpy(), defined(geometry, images, maps))


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [37, 50, 100])
def test_batches_that_the_copying_engine_cannot_read_as_they_are(batch, dtype, hopper):
    geometry = Geometry((batch, 3, 9, 8), (9, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, True)
    task = task_of(geometry, dtype, hopper)
    images, maps = whole(geometry.images, most=1), whole(geometry.maps, 1, most=1)
    operands = [to_format(torch.from_numpy(array).to(hopper, dtype), "batch_last") for array in (images, maps)]
    expected = torch.from_numpy(defined(geometry, images, maps).copy()).to(dtype).float().numpy()
    for method in window_grads(task, 4):
        result = carry_out(task, method, *operands)
        np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


def test_a_share_goes_down_many_rows(hopper):
    geometry = Geometry((256, 3, 70, 40), (32, 3, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1, False)
    task, method = task_of(geometry, device=hopper), WindowShare("tf32", WindowGradBlocks(True, 4, 2, 3, 32, 1))
    assert plan_of_window_share(task, method).constants["LONGEST"] > 8
    images, maps = torch.randn(geometry.images, device=hopper), torch.randn(geometry.maps, device=hopper)
    result = carry_out(task, method, to_format(images, "batch_last"), to_format(maps, "batch_last"))
    again = carry_out(task, method, to_format(images, "batch_last"), to_format(maps, "batch_last"))
    expected = torch.nn.grad.conv2d_weight(images.double(), geometry.filters, maps.double(), padding=2)
    assert torch.equal(result, again)
    assert float((result - expected).norm() / expected.norm()) <= 4e-4


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_what_tf32_cuts_off_is_given_back(scale, hopper):
    geometry, blocks = LAYERS["split"]
    images, maps = torch.randn(geometry.images, device=hopper) * scale, torch.randn(geometry.maps, device=hopper)
    operands = to_format(images, "batch_last"), to_format(maps, "batch_last")
    result = carry_out(task_of(geometry, device=hopper), WindowShare("tf32", blocks), *operands)
    expected = torch.nn.grad.conv2d_weight(images.double(), geometry.filters, maps.double(), padding=1)
    assert float((result - expected).norm() / expected.norm()) <= 4e-4  # 8e-4 were it lost


@pytest.mark.parametrize("stray", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_channel(stray, hopper):
    geometry, blocks = LAYERS["split"]
    images, maps = torch.randn(geometry.images, device=hopper), torch.randn(geometry.maps, device=hopper)
    images[:, 3] = stray
    operands = to_format(images, "batch_last"), to_format(maps, "batch_last")
    result = carry_out(task_of(geometry, device=hopper), WindowShare("tf32", blocks), *operands)
    images[:, 3] = 0
    expected = torch.nn.grad.conv2d_weight(images.double(), geometry.filters, maps.double(), padding=1)
    assert not torch.isfinite(result[:, 3]).any()
    result[:, 3] = 0
    assert float((result - expected).norm() / expected.norm()) <= 1e-3
