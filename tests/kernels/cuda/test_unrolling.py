"""Passes of a few images with columns in the place of images, against the NumPy definitions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import memory_format, tuning  # noqa: E402
from pytensor_convnet.kernels.cuda.candidates import candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.carrying_out import carry_out, unrolled_task  # noqa: E402
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks  # noqa: E402
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Gather, Share, Task, Unrolled  # noqa: E402
from pytensor_convnet.kernels.cuda.unrolling import rolled, unroll, unroll_maps, unrolling  # noqa: E402
from pytensor_convnet.kernels.cuda.window_candidates import windows  # noqa: E402
from pytensor_convnet.kernels.cuda.window_grad_candidates import window_grads  # noqa: E402
from tests.kernels.cuda.test_correlation import EVERY_PASS, MOST_ERROR, operands, relative_error  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

GEOMETRIES = {
    "stride": Geometry((1, 3, 8, 22), (4, 3, 3, 5), (2, 2), ((1, 1), (2, 2)), (1, 1), 1, False),
    "two_images": Geometry((2, 2, 5, 11), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, True),
    "filled_up": Geometry((1, 4, 6, 19), (6, 2, 2, 3), (1, 1), ((0, 0), (0, 1)), (1, 1), 2, False),
    "dilation": Geometry((3, 2, 7, 13), (3, 2, 2, 3), (2, 3), ((0, 1), (4, 0)), (2, 2), 1, False),
    "stride_beyond_taps": Geometry((1, 2, 4, 33), (2, 2, 1, 2), (1, 3), ((0, 0), (1, 1)), (1, 1), 1, False),
    "nothing_to_fill_up": Geometry((1, 2, 4, 18), (2, 2, 2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False),
}
EVERY_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES)


def inner_of(name, product, geometry):
    """A method for what is unrolled."""
    if name == "correlate2d_filter_grad":
        return Share(product != "native", product, (1, 1), GradBlocks(16, 16, 32, 16, 3, 4, 2))
    patch = geometry.stride if name == "correlate2d_input_grad" else (1, 1)
    return Gather(product != "native", "batch_last", product, patch, False, 1, Blocks(16, 32, 16, 16, 4, 2, True))


@EVERY_GEOMETRY
@EVERY_PASS
@pytest.mark.parametrize("format", ["bc01", "channels_last"])
@pytest.mark.parametrize("product", ["native", "bf16x3"])
def test_columns_in_the_place_of_images_give_what_images_give(name, geometry, format, product, device):
    geometry = GEOMETRIES[geometry]
    dtype = torch.bfloat16 if product == "native" else torch.float32
    case = operands(geometry, name, dtype, device, (format, format))
    task = Task(name, geometry, dtype, "high", (format, format), torch.device(device))
    result = carry_out(task, Unrolled(inner_of(name, product, geometry)), *case.tensors)
    assert relative_error(result, case.expected) <= MOST_ERROR[product]
    assert memory_format(result) == ("bc01" if name == "correlate2d_filter_grad" else format)


def test_an_unrolled_image_has_what_its_column_sees(device):
    geometry = Geometry((2, 1, 1, 4), (1, 1, 1, 3), (1, 2), ((0, 0), (1, 0)), (1, 1), 1, False)
    plan = unrolling(geometry, False)
    images = torch.arange(1.0, 9.0).reshape(geometry.images)
    unrolled = unroll(images.to(device), plan)
    expected = [[0, 1, 2], [2, 3, 4], [0, 5, 6], [6, 7, 8], *[[0, 0, 0]] * 4]
    np.testing.assert_array_equal(unrolled[:, 0, 0].cpu(), expected)


def test_maps_of_one_image_are_unrolled_as_they_are():
    geometry = GEOMETRIES["nothing_to_fill_up"]
    maps = torch.empty(geometry.maps)
    plan = unrolling(geometry, False)
    assert unroll_maps(maps, plan).data_ptr() == maps.data_ptr()
    assert rolled(unroll_maps(maps, plan), geometry.maps).stride()[1:] == maps.stride()[1:]


@EVERY_PASS
@pytest.mark.parametrize(
    ("batch", "columns", "found"),
    [(1, 24, True), (15, 24, True), (16, 24, False), (1, 15, False), (1, 16, True), (2, 8, True)],
)
def test_few_images_of_columns_enough_have_methods_that_unroll(name, batch, columns, found):
    geometry = Geometry((batch, 3, 8, columns), (16, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False)
    task = Task(name, geometry, torch.float32, "medium", ("bc01", "bc01"), torch.device("cpu"))
    methods = candidates(task, 12)
    assert any(isinstance(method, Unrolled) for method in methods) == found
    assert any(isinstance(method, Gather | Share) for method in methods)


@EVERY_PASS
def test_a_large_source_is_not_unrolled(name):
    geometry = Geometry((15, 3, 2048, 2048), (64, 3, 11, 11), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)
    task = Task(name, geometry, torch.float32, "medium", ("bc01", "bc01"), torch.device("cpu"))
    assert not any(isinstance(method, Unrolled) for method in candidates(task, 12))


@EVERY_PASS
def test_operands_may_be_batch_last_or_begin_anywhere(name, device):
    geometry = GEOMETRIES["two_images"]
    case = operands(geometry, name, torch.float32, device, ("batch_last", "batch_last"))
    moved = [torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape) for tensor in case.tensors]
    for tensors, format in ((case.tensors, "batch_last"), (moved, "bc01")):
        task = Task(name, geometry, torch.float32, "high", (format, format), torch.device(device))
        result = carry_out(task, Unrolled(inner_of(name, "bf16x3", geometry)), *tensors)
        assert relative_error(result, case.expected) <= MOST_ERROR["bf16x3"]


def test_methods_that_unroll_are_kept_on_disk():
    method = Unrolled(inner_of("correlate2d", "native", GEOMETRIES["stride"]))
    assert tuning.method_from_json(tuning.method_to_json(method)) == method


@EVERY_PASS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("geometry", ["stride", "two_images", "nothing_to_fill_up"])
def test_windows_of_unrolled_images_give_what_images_give(name, dtype, geometry, hopper):
    geometry, dtype = GEOMETRIES[geometry], getattr(torch, dtype)
    case = operands(geometry, name, dtype, hopper, ("bc01", "bc01"))
    task = Task(name, geometry, dtype, "medium", ("bc01", "bc01"), hopper)
    inner = unrolled_task(task)
    found = [*windows(inner, 2), *window_grads(inner, 2)]
    assert found
    for method in found:
        result = carry_out(task, Unrolled(method), *case.tensors)
        assert relative_error(result, case.expected) <= (MOST_ERROR["native"] if dtype == torch.bfloat16 else 1e-3)
