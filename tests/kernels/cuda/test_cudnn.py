"""The passes by cuDNN, here by whatever torch has on this device, against the NumPy definitions."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.kernels.cuda import FORMATS, cudnn, memory_format, to_format  # noqa: E402
from pytensor_convnet.kernels.cuda.carrying_out import carry_out  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import strides  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Cudnn, Task  # noqa: E402

PASSES = ("correlate2d", "correlate2d_input_grad", "correlate2d_filter_grad")
LAYOUTS = tuple(cudnn.LAYOUTS)

STRIDES = Geometry((3, 4, 9, 8), (6, 2, 3, 2), (2, 1), ((1, 2), (0, 3)), (1, 1), 2, True)
DENSE = {
    "same": Geometry((3, 4, 7, 6), (5, 4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False),
    "flip": Geometry((3, 4, 7, 6), (5, 4, 3, 2), (1, 1), ((1, 1), (0, 0)), (1, 1), 1, True),
    "groups": Geometry((2, 6, 5, 7), (9, 2, 2, 3), (1, 1), ((1, 1), (2, 2)), (1, 1), 3, False),
    "a_channel_a_group": Geometry((2, 4, 5, 7), (8, 1, 3, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 4, True),
    "dilation": Geometry((2, 3, 11, 9), (4, 3, 3, 2), (1, 1), ((4, 4), (1, 1)), (2, 3), 1, False),
    "uneven_padding": Geometry((2, 4, 7, 6), (6, 2, 3, 4), (1, 1), ((2, 0), (1, 3)), (1, 1), 2, True),
    "one_tap": Geometry((3, 4, 5, 6), (7, 4, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, True),
}


def moves_of(geometry):
    return geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip


def operands(task, filter_format="bc01"):
    """What a pass takes, and what its definition gives."""
    geometry, random = task.geometry, np.random.default_rng(0)
    shapes = {"images": geometry.images, "filters": geometry.filters, "maps": geometry.maps}
    names, sizes = {
        "correlate2d": (("images", "filters"), ()),
        "correlate2d_input_grad": (("filters", "maps"), geometry.images[2:]),
        "correlate2d_filter_grad": (("images", "maps"), geometry.filters[2:]),
    }[task.name]
    arrays = [random.standard_normal(shapes[name]) for name in names]
    tensors = [
        to_format(
            torch.from_numpy(array).to(task.device, task.dtype),
            filter_format if name == "filters" else task.formats[0],
        )
        for name, array in zip(names, arrays)
    ]
    return tensors, getattr(reference, task.name)(*arrays, *sizes, *moves_of(geometry))


def task_of(geometry, name, device, format="bc01"):
    return Task(name, geometry, torch.float32, "ieee", (format, format), torch.device(device))


def assert_close(result, expected):
    assert result.shape == expected.shape
    assert np.linalg.norm(result.double().cpu().numpy() - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("geometry", [STRIDES, *DENSE.values()], ids=["strides", *DENSE])
def test_passes_equal_their_definitions(geometry, name, layout, device):
    task = task_of(geometry, name, device)
    tensors, expected = operands(task)
    assert_close(carry_out(task, Cudnn(layout), *tensors), expected)


@pytest.mark.parametrize("filter_format", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_filter_gradient_is_in_the_format_of_the_task(layout, filter_format, device):
    task = replace(task_of(STRIDES, "correlate2d_filter_grad", device), filter_format=filter_format)
    tensors, expected = operands(task)
    result = carry_out(task, Cudnn(layout), *tensors)
    assert_close(result, expected)
    assert result.stride() == strides(result.shape, filter_format)


@pytest.mark.parametrize("filter_format", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", DENSE.values(), ids=DENSE)
def test_an_input_gradient_as_a_forward_pass(geometry, layout, filter_format, device):
    task = task_of(geometry, "correlate2d_input_grad", device, layout)
    tensors, expected = operands(task, filter_format)
    result = carry_out(task, Cudnn(layout, as_forward=True), *tensors)
    assert_close(result, expected)
    assert memory_format(result) == layout


@pytest.mark.parametrize("geometry", DENSE.values(), ids=DENSE)
def test_the_forward_pass_of_a_gradient_ends_at_the_images(geometry):
    assert cudnn.input_grad_as_forward(geometry).maps == geometry.images


@pytest.mark.parametrize("change", [{"stride": (1, 2)}, {"padding": ((3, 1), (1, 1))}, {"padding": ((1, 1), (1, 3))}])
def test_where_no_forward_pass_gives_the_gradient(change):
    assert cudnn.input_grad_as_forward(DENSE["same"])
    assert cudnn.input_grad_as_forward(replace(DENSE["same"], **change)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PASSES[1:])
def test_what_a_gradient_does_not_depend_on_is_never_written(name, layout, device, monkeypatch):
    given = []

    def gradient(geometry, images, filters, maps, *rest):
        given.extend((images, filters))
        return torch.zeros_like(images if name == PASSES[1] else filters)

    task = replace(task_of(DENSE["same"], name, device, layout), filter_format=layout)
    tensors, _ = operands(task, layout)
    monkeypatch.setattr(cudnn, "_gradient", gradient)
    with torch.profiler.profile() as profile:
        carry_out(task, Cudnn(layout), *tensors)
    assert [memory_format(tensor) for tensor in given] == [layout] * 2
    assert not [event.name for event in profile.events() if event.name == "aten::copy_"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_filters_in_the_layout_are_not_copied(layout):
    filters = to_format(torch.randn(DENSE["same"].filters), layout)
    assert cudnn._filters(DENSE["same"], filters, layout).data_ptr() == filters.data_ptr()
