"""Physical formats are told from strides."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import FORMATS, empty, memory_format, to_format  # noqa: E402
from pytensor_convnet.kernels.cuda.copying import boxable, change_format, is_boxable, prepare  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import is_wide, pixel_step  # noqa: E402

SHAPES = [(5, 3, 4, 7), (1, 3, 4, 7), (5, 1, 4, 7), (5, 3, 1, 1), (0, 3, 4, 7), (70, 66, 2, 3)]
ONES = torch.ones(2, 3, 4, 5)
EVERY_FORMAT = pytest.mark.parametrize("format", FORMATS)


@EVERY_FORMAT
@pytest.mark.parametrize("shape", SHAPES)
def test_an_empty_tensor_is_in_the_format_asked_for(shape, format):
    assert memory_format(empty(shape, format, torch.float32, "cpu")) == format


def test_formats_are_those_of_torch():
    images = torch.empty(5, 3, 4, 7)
    assert memory_format(images) == "bc01"
    assert memory_format(images.to(memory_format=torch.channels_last)) == "channels_last"


def test_a_view_of_c01b_memory_is_batch_last():
    assert memory_format(torch.empty(3, 4, 7, 5).permute(3, 0, 1, 2)) == "batch_last"


def test_a_length_of_one_fits_where_its_stride_says_nothing():
    one = torch.empty(3, 4, 7).as_strided((1, 3, 4, 7), (999, 28, 7, 1))
    assert memory_format(one) == "bc01"


@pytest.mark.parametrize(
    "tensor", [torch.empty(5, 3, 4, 14)[..., ::2], torch.empty(1, 3, 4, 7).expand(5, 3, 4, 7), torch.empty(3, 4)]
)
def test_what_is_dense_in_no_format_has_none(tensor):
    assert memory_format(tensor) is None


@EVERY_FORMAT
def test_nothing_is_copied_where_the_format_is_right(format):
    tensor = empty((5, 3, 4, 7), format, torch.float32, "cpu")
    assert to_format(tensor, format) is tensor
    assert change_format(tensor, format) is tensor


@EVERY_FORMAT
@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_changed_format_keeps_every_element(shape, before, format, device):
    tensor = to_format(torch.randn(shape, device=device), before)
    changed = change_format(tensor, format)
    assert changed.stride() == empty(shape, format, torch.float32, device).stride()
    assert torch.equal(changed, tensor)


@EVERY_FORMAT
@pytest.mark.parametrize("shape", [(5, 3, 4, 7), (70, 2, 2, 3)])
def test_a_prepared_source_is_split_and_its_batch_filled_up_with_zeros(shape, format, device):
    source = to_format(torch.randn(shape, device=device), format)
    planes = prepare(source, "bf16x3", None)
    assert planes.dtype == torch.bfloat16
    assert torch.allclose(planes.float().sum(0), source, rtol=1e-4)
    batch, channels, rows, columns = shape
    padded = -(-batch // 16) * 16
    memory = planes.as_strided((2, channels, rows, columns, padded), (planes.stride(0), *planes.stride()[2:], 1))
    assert not memory[..., batch:].any()


@EVERY_FORMAT
@pytest.mark.parametrize("batch", [16, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_pixels_of_a_boxable_tensor_begin_at_multiples_of_16_bytes(dtype, batch, format, device):
    tensor = to_format(torch.randn(batch, 3, 4, 7, device=device).to(dtype), format)
    boxed = boxable(tensor)
    assert torch.equal(boxed, tensor)
    assert boxed.stride(0) == 1
    assert boxed.data_ptr() % 16 == 0
    assert pixel_step(boxed) * boxed.element_size() % 16 == 0
    readable = format == "batch_last" and (batch == 16 or dtype == torch.float32)
    assert (boxed.data_ptr() == tensor.data_ptr()) == readable


@pytest.mark.parametrize(
    ("batch", "itemsize", "expected"), [(4, 4, True), (4, 2, False), (8, 2, True), (15, 4, False), (17, 2, True)]
)
def test_batches_are_filled_up_to_less_than_twice_as_much(batch, itemsize, expected):
    assert is_boxable(batch, itemsize) == expected


@pytest.mark.parametrize("format", ["nchw", None, ["bc01"]])
def test_an_unknown_format_is_refused(format):
    message = rf"^format must be one of bc01, channels_last, batch_last, got {re.escape(repr(format))}$"
    for call in (lambda: empty((1, 2, 3, 4), format, torch.float32, "cpu"), lambda: to_format(ONES, format)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(("shape", "message"), [((2, 3, 4), "got 2x3x4$"), ((2,) * 5, "got 2x2x2x2x2$"), ((), "none$")])
def test_a_shape_of_other_than_four_lengths_is_refused(shape, message):
    with pytest.raises(ValueError, match=rf"^shape must be four lengths .*{message}"):
        empty(shape, "bc01", torch.float32, "cpu")


@pytest.mark.parametrize("change", [to_format, change_format])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3, 4, 5), "must have four axes .* got 3x4x5$"),
        (torch.tensor(1.0), "must have four axes .* got a scalar$"),
        (np.ones((2, 3, 4, 5), "float32"), "must be a torch tensor .* got ndarray$"),
        (None, "must be a torch tensor .* got NoneType$"),
    ],
    ids=["three_axes", "a_scalar", "an_array", "nothing"],
)
def test_what_is_no_bc01_tensor_has_no_format_to_change(change, value, message):
    with pytest.raises(ValueError, match=f"^tensor {message}"):
        change(value, "batch_last")


def test_an_array_has_no_memory_format():
    with pytest.raises(ValueError, match="^tensor must be a torch tensor .* got ndarray$"):
        memory_format(np.ones((2, 3, 4, 5)))


def test_tensors_past_two_to_the_31_elements_are_wide():
    assert is_wide(torch.empty((2**16, 2**15, 1, 1), device="meta"))
    assert not is_wide(torch.empty((2**10, 2**15, 1, 1), device="meta"))
    filled_up = torch.empty((2**13, 2**7, 2**7, 16), device="meta").permute(3, 0, 1, 2)
    assert is_wide(filled_up[:1])
