"""The three passes against the NumPy definitions: every geometry, format, product and tile, outputs poisoned."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.kernels import cuda  # noqa: E402
from pytensor_convnet.kernels.cuda import FORMATS, carrying_out, memory_format, to_format  # noqa: E402
from pytensor_convnet.kernels.cuda.candidates import candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.carrying_out import carry_out  # noqa: E402
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import empty, strides  # noqa: E402
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry, gathering  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Gather, Share, SlidingShare, Task, ours  # noqa: E402
from pytensor_convnet.kernels.cuda.products import CHAINS  # noqa: E402
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks, shares_of  # noqa: E402
from tests.strategies import correlations  # noqa: E402

PASSES = ("correlate2d", "correlate2d_input_grad", "correlate2d_filter_grad")
EVERY_PASS = pytest.mark.parametrize("name", PASSES)
NO_PADDING = ((0, 0), (0, 0))

MOST_ERROR = {"native": 8e-3, "float16": 1e-3, "bf16x3": 4e-5, "tf32": 1.5e-3, "ieee": 1e-6}
"""Relative errors. Triton's interpreter cuts bfloat16 off where a GPU rounds, so bf16x3 is granted twice its bound."""

GEOMETRIES = {
    "strides_groups_flip": Geometry((5, 4, 6, 5), (6, 2, 3, 2), (2, 1), ((1, 2), (0, 3)), (1, 1), 2, True),
    "dilation": Geometry((3, 2, 7, 9), (3, 2, 2, 3), (1, 2), ((0, 1), (2, 0)), (2, 3), 1, False),
    "valid": Geometry((17, 1, 5, 4), (2, 1, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False),
}


pytestmark = pytest.mark.usefixtures("poisoned")


@dataclass(frozen=True)
class Operands:
    """What a pass takes, in its order, with its definition's result."""

    tensors: tuple
    shapes: tuple
    expected: np.ndarray


def operands(geometry, name, dtype, device, formats=("batch_last", "batch_last"), seed=0):
    random = np.random.default_rng(seed)
    shapes = geometry.images, geometry.filters, geometry.maps
    images, filters, maps = (torch.from_numpy(random.standard_normal(shape)).to(dtype) for shape in shapes)
    moves = geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip
    taken, sizes = {
        "correlate2d": ((images, filters), ()),
        "correlate2d_input_grad": ((filters, maps), geometry.images[2:]),
        "correlate2d_filter_grad": ((images, maps), geometry.filters[2:]),
    }[name]
    expected = getattr(reference, name)(*(tensor.double().numpy() for tensor in taken), *sizes, *moves)
    placed = tuple(
        tensor.to(device) if tensor is filters else to_format(tensor.to(device), format)
        for tensor, format in zip(taken, formats)
    )
    return Operands(placed, (*sizes, *moves), expected)


def relative_error(result, expected):
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(result.double().cpu().numpy() - expected)
    return error / norm if norm > 0 else error


# -------------------------------------------------------------------------------- drawn geometries, the front door


@EVERY_PASS
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=correlations(dtype="float32"))
def test_passes_equal_their_definitions(name, device, case):
    arrays = {
        "correlate2d": (case.images, case.filters),
        "correlate2d_input_grad": (case.filters, case.maps),
        "correlate2d_filter_grad": (case.images, case.maps),
    }[name]
    sizes = {"correlate2d": (), "correlate2d_input_grad": case.rows_and_columns, "correlate2d_filter_grad": case.taps}
    settings_ = (*sizes[name], *case.window)
    tensors = (torch.from_numpy(np.array(array)).to(device) for array in arrays)
    result = getattr(cuda, name)(*tensors, *settings_, precision="ieee")
    expected = getattr(reference, name)(*(array.astype("float64") for array in arrays), *settings_)
    squares = getattr(reference, name)(*(array.astype("float64") ** 2 for array in arrays), *settings_)
    assert result.shape == expected.shape
    # A result that happens to be small has a large relative error; compare it with what its terms come to.
    assert np.linalg.norm(result.cpu().numpy() - expected) <= 2e-6 * np.sqrt(squares.sum()) + 1e-30


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "medium"), (torch.float32, "high"), (torch.bfloat16, "medium")], ids=str
)
@EVERY_PASS
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=correlations(dtype="float32"), data=st.data())
def test_errors_of_drawn_shapes_are_those_of_the_product(name, dtype, precision, device, case, data):
    batch = data.draw(st.sampled_from([2, 16, 19]), "batch")
    geometry = Geometry((batch, *case.images.shape[1:]), case.filters.shape, *case.window)
    formats = data.draw(st.sampled_from(FORMATS), "before"), data.draw(st.sampled_from(FORMATS), "after")
    task = Task(name, geometry, dtype, precision, formats, torch.device(device))
    method = data.draw(st.sampled_from(ours(candidates(task, 6))), "method")
    given = operands(geometry, name, dtype, device, formats, seed=data.draw(st.integers(0, 99), "seed"))
    result = carry_out(task, method, *given.tensors)
    squares = getattr(reference, name)(*(tensor.double().cpu().numpy() ** 2 for tensor in given.tensors), *given.shapes)
    error = np.linalg.norm(result.double().cpu().numpy() - given.expected)
    # There may be but one term, which is cut off twice, and whose product of what was cut off is left out.
    most = 3 * 2.0**-14 if method.product == "bf16x3" else MOST_ERROR[method.product]
    assert error <= most * np.sqrt(squares.sum())


@pytest.mark.parametrize(("channels", "filters"), [(0, 3), (2, 0), (0, 0)])
def test_a_filter_gradient_of_no_channels_or_filters_is_empty(channels, filters, device):
    images, maps = torch.ones(4, channels, 5, 12, device=device), torch.ones(4, filters, 3, 10, device=device)
    moves = (1, 1), NO_PADDING, (1, 1), 1, False
    assert cuda.correlate2d_filter_grad(images, maps, 3, 3, *moves).shape == (filters, channels, 3, 3)


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
@pytest.mark.parametrize("name", PASSES[:2])
def test_the_result_is_in_the_format_asked_for(name, before, after, device):
    case = operands(GEOMETRIES["dilation"], name, torch.bfloat16, device, (before, before))
    result = getattr(cuda, name)(*case.tensors, *case.shapes, memory_format=after)
    assert memory_format(result) == after
    assert relative_error(result, case.expected) <= MOST_ERROR["native"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_filter_gradient_is_in_the_format_asked_for(geometry, format, device):
    case = operands(GEOMETRIES[geometry], "correlate2d_filter_grad", torch.bfloat16, device)
    result = cuda.correlate2d_filter_grad(*case.tensors, *case.shapes, memory_format=format)
    assert result.stride() == strides(result.shape, format)
    assert relative_error(result, case.expected) <= MOST_ERROR["native"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", PASSES[:2])
def test_filters_are_taken_in_every_format(name, geometry, format, device):
    case = operands(GEOMETRIES[geometry], name, torch.bfloat16, device)
    placed = (to_format(x, format) if x.shape == GEOMETRIES[geometry].filters else x for x in case.tensors)
    result = getattr(cuda, name)(*placed, *case.shapes)
    assert relative_error(result, case.expected) <= MOST_ERROR["native"]


@EVERY_PASS
def test_operands_that_are_dense_in_no_format_are_taken(name, device):
    case = operands(GEOMETRIES["valid"], name, torch.float32, device)
    spread = tuple(torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in case.tensors)
    result = getattr(cuda, name)(*spread, *case.shapes, precision="ieee")
    assert relative_error(result, case.expected) <= MOST_ERROR["ieee"]


# ----------------------------------------------------------------------------------- every product, every tile


def tasks(geometry, name, product, device):
    dtype = torch.bfloat16 if product == "native" else torch.float32
    return Task(name, geometry, dtype, "medium", ("batch_last", "batch_last"), torch.device(device))


GATHERS = [
    # prepared, patch (times the stride), joined, multiple of channels, (outputs, pixels, images, rows), images first
    (True, (1, 1), True, 1, (16, 32, 16, 16), False),
    (True, (2, 3), True, 1, (16, 16, 16, 32), True),
    (True, (1, 2), False, 16, (16, 32, 16, 16), False),
    (False, (2, 1), True, 16, (16, 16, 4, 16), True),
    (False, (1, 1), False, 1, (16, 16, 1, 16), False),
]


@pytest.mark.parametrize("way", GATHERS, ids=str)
@pytest.mark.parametrize("product", MOST_ERROR)
@pytest.mark.parametrize(("name", "geometry"), [*zip(PASSES[:2] * 2, GEOMETRIES)])
def test_gathering_in_every_way(name, geometry, product, way, device):
    prepared, patch, joined, multiple, tile, images_first = way
    if not prepared and product in ("float16", "bf16x3"):
        pytest.skip("this product takes a prepared source")
    geometry = GEOMETRIES[geometry]
    if name == "correlate2d_input_grad":
        patch = patch[0] * geometry.stride[0], patch[1] * geometry.stride[1]
    outputs, pixels, images, rows = tile
    blocks = Blocks(outputs, pixels, images, rows, warps=4, stages=3, images_first=images_first)
    method = Gather(prepared, "batch_last", product, patch, joined, multiple, blocks)
    task = tasks(geometry, name, product, device)
    case = operands(geometry, name, task.dtype, device)
    assert relative_error(carry_out(task, method, *case.tensors), case.expected) <= MOST_ERROR[product]


SHARES = [
    # patch, (rows, filters, pixels, images, shares)
    ((1, 1), (16, 16, 32, 16, 1)),
    ((2, 3), (32, 16, 16, 4, 3)),
    ((1, 2), (16, 32, 16, 1, 50)),
    ((2, 1), (16, 16, 16, 16, 2)),
]


@pytest.mark.parametrize(("patch", "tile"), SHARES, ids=str)
@pytest.mark.parametrize("product", MOST_ERROR)
@pytest.mark.parametrize(("geometry", "prepared"), [*zip(GEOMETRIES, (True, False, True))])
def test_filter_gradients_in_every_way(geometry, prepared, product, patch, tile, device):
    rows, filters, pixels, images, shares = tile
    blocks = GradBlocks(rows, filters, pixels, images, shares, warps=4, stages=3)
    task = tasks(GEOMETRIES[geometry], "correlate2d_filter_grad", product, device)
    if not gathering(task.geometry, False, patch).is_regular:
        pytest.skip("dilated filters leave gaps between what such a patch reads")
    case = operands(task.geometry, task.name, task.dtype, device)
    method = Share(prepared or product == "float16", product, patch, blocks)
    assert relative_error(carry_out(task, method, *case.tensors), case.expected) <= MOST_ERROR[product]


SLIDES = [
    # (rows, filters, columns, images, shares)
    (16, 16, 2, 16, 1),
    (32, 16, 4, 16, 3),
    (16, 32, 1, 32, 50),
]


@pytest.mark.parametrize("tile", SLIDES, ids=str)
@pytest.mark.parametrize("product", ["native", "float16", "bf16x3", "tf32"])
@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if name != "dilation"])
def test_filter_gradients_that_slide_in_every_way(geometry, product, tile, device):
    task = tasks(GEOMETRIES[geometry], "correlate2d_filter_grad", product, device)
    case = operands(task.geometry, task.name, task.dtype, device)
    prepared = product in ("float16", "bf16x3") or geometry == "valid"
    method = SlidingShare(prepared, product, SlidingBlocks(*tile, warps=4, stages=2))
    assert relative_error(carry_out(task, method, *case.tensors), case.expected) <= MOST_ERROR[product]


def test_a_filter_gradient_slides_over_dilated_rows(device):
    geometry = Geometry((3, 2, 9, 7), (3, 2, 3, 2), (2, 1), ((2, 1), (1, 0)), (2, 1), 1, False)
    task = tasks(geometry, "correlate2d_filter_grad", "native", device)
    case = operands(geometry, task.name, task.dtype, device)
    method = SlidingShare(True, "native", SlidingBlocks(16, 16, 2, 16, 2, warps=4, stages=2))
    assert relative_error(carry_out(task, method, *case.tensors), case.expected) <= MOST_ERROR["native"]


def test_a_filter_gradient_that_slides_has_more_shares_where_its_sums_would_be_too_long(device, monkeypatch):
    monkeypatch.setitem(CHAINS, "bf16x3", 32)
    task = tasks(GEOMETRIES["valid"], "correlate2d_filter_grad", "bf16x3", device)
    blocks = SlidingBlocks(16, 16, 2, 16, 1, warps=4, stages=2)
    positions = task.geometry.maps[2] * -(-task.geometry.maps[3] // 2)
    assert shares_of(gathering(task.geometry, False), "bf16x3", blocks) == (2 * positions, 1)
    assert shares_of(gathering(task.geometry, False), "float16", blocks) == (1, 2 * positions)
    case = operands(task.geometry, task.name, task.dtype, device)
    result = carry_out(task, SlidingShare(True, "bf16x3", blocks), *case.tensors)
    assert relative_error(result, case.expected) <= MOST_ERROR["bf16x3"]


@pytest.mark.parametrize("product", ["native", "bf16x3"])
def test_a_filter_gradient_that_slides_over_tensors_of_64_bit_offsets(product, device, monkeypatch):
    monkeypatch.setattr(carrying_out, "is_wide", lambda *tensors: True)
    task = tasks(GEOMETRIES["strides_groups_flip"], "correlate2d_filter_grad", product, device)
    case = operands(task.geometry, task.name, task.dtype, device)
    method = SlidingShare(True, product, SlidingBlocks(16, 16, 2, 16, 2, warps=4, stages=2))
    assert relative_error(carry_out(task, method, *case.tensors), case.expected) <= MOST_ERROR[product]


@EVERY_PASS
def test_offsets_of_64_bits_where_tensors_are_that_large(name, device, monkeypatch):
    monkeypatch.setattr(carrying_out, "is_wide", lambda *tensors: True)
    case = operands(GEOMETRIES["strides_groups_flip"], name, torch.bfloat16, device)
    result = getattr(cuda, name)(*case.tensors, *case.shapes)
    assert relative_error(result, case.expected) <= MOST_ERROR["native"]


@EVERY_PASS
def test_no_result_takes_part_in_automatic_differentiation(name, device):
    case = operands(GEOMETRIES["valid"], name, torch.float32, device)
    tensors = (tensor.requires_grad_() for tensor in case.tensors)
    assert not getattr(cuda, name)(*tensors, *case.shapes).requires_grad


@EVERY_PASS
@pytest.mark.parametrize("product", ["bf16x3", "ieee"])
def test_sums_of_several_chains(name, product, device, monkeypatch):
    monkeypatch.setitem(CHAINS, product, 32)
    task = tasks(GEOMETRIES["strides_groups_flip"], name, product, device)
    case = operands(task.geometry, name, task.dtype, device)
    if name == "correlate2d_filter_grad":
        method = Share(True, product, (2, 2), GradBlocks(16, 16, 16, 16, 1, warps=4, stages=3))
    else:
        method = Gather(True, "batch_last", product, (2, 2), True, 1, Blocks(16, 16, 16, 16, 4, 3, images_first=False))
    assert relative_error(carry_out(task, method, *case.tensors), case.expected) <= MOST_ERROR[product]


# ------------------------------------------------------------------------------------ values out of the ordinary


@EVERY_PASS
@pytest.mark.parametrize(("factor", "other"), [(1e-30, 1), (1e30, 1), (1e-36, 1e36), (1e36, 1e-36)])
def test_float16_products_reach_as_far_as_float32(name, factor, other, device):
    task = tasks(GEOMETRIES["dilation"], name, "float16", device)
    case = operands(task.geometry, name, torch.float32, device)
    first, second = case.tensors
    result = carry_out(task, float16_method(name), first * factor, second * other) / (factor * other)
    assert relative_error(result, case.expected) <= MOST_ERROR["float16"]


def test_a_nan_and_an_infinity_stay_within_their_image(device):
    task = tasks(GEOMETRIES["dilation"], "correlate2d", "float16", device)
    case = operands(task.geometry, task.name, torch.float32, device)
    images, filters = case.tensors
    images[0, 0, 3, 4], images[1, 0, 3, 4] = float("nan"), float("inf")
    result = carry_out(task, float16_method(task.name), images, filters).cpu()
    assert result[0].isnan().any()
    assert result[1].isinf().any()
    assert relative_error(result[2:], case.expected[2:]) <= MOST_ERROR["float16"]


def float16_method(name):
    if name == "correlate2d_filter_grad":
        return Share(True, "float16", (1, 1), GradBlocks(16, 16, 16, 16, 2, warps=4, stages=3))
    patch = (1, 2)
    return Gather(True, "batch_last", "float16", patch, True, 1, Blocks(16, 16, 16, 16, 4, 3, images_first=False))


@EVERY_PASS
def test_an_empty_batch_gives_an_empty_or_a_zero_result(name, device):
    geometry = Geometry((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False)
    case = operands(geometry, name, torch.float32, device)
    for result in (
        getattr(cuda, name)(*case.tensors, *case.shapes),
        carry_out(tasks(geometry, name, "float16", device), float16_method(name), *case.tensors),
    ):
        assert result.shape == case.expected.shape
        assert not result.any()


# -------------------------------------------------------------------------------------------------- what is refused

IMAGES, FILTERS = (2, 4, 6, 6), (3, 4, 3, 3)
MOVES = ((1, 1), NO_PADDING, (1, 1), 1, False)
REFUSED = [
    ({"filters": (3, 2, 3, 3)}, "input has 4 channels but filters expect 2"),
    ({"filters": (3, 4, 7, 3)}, "filters span 7 rows but the padded input has only 6"),
    ({"moves": ((0, 1), *MOVES[1:])}, "stride must be at least 1"),
    ({"moves": (*MOVES[:3], 3, False)}, "num_groups=3 does not divide the 4 channels"),
    ({"precision": "low"}, "precision must be one of ieee, high, medium, got 'low'"),
    ({"memory_format": "nhwc"}, "memory_format must be one of bc01, channels_last, batch_last"),
    ({"dtype": torch.float64}, r"images \(2x4x6x6\) must be float32, bfloat16, float16, got float64"),
    ({"filter_dtype": torch.bfloat16}, "filters .* is bfloat16 on .*, but images .* is float32"),
    ({"images": (4, 6, 6)}, "images must have four axes"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_does_not_fit_is_refused_with_a_sentence(change, message, device):
    dtype = change.get("dtype", torch.float32)
    images = torch.ones(change.get("images", IMAGES), dtype=dtype, device=device)
    filters = torch.ones(change.get("filters", FILTERS), dtype=change.get("filter_dtype", dtype), device=device)
    named = {name: change[name] for name in ("precision", "memory_format") if name in change}
    with pytest.raises(ValueError, match=message):
        cuda.correlate2d(images, filters, *change.get("moves", MOVES), **named)


@pytest.mark.parametrize("name", ["images", "filters"])
def test_an_array_is_no_operand(name, device):
    given = {"images": torch.ones(IMAGES, device=device), "filters": torch.ones(FILTERS, device=device)}
    given[name] = given[name].numpy(force=True)
    with pytest.raises(ValueError, match=f"^{name} must be a torch tensor .* got ndarray$"):
        cuda.correlate2d(*given.values(), *MOVES)


def test_a_gradient_of_another_shape_is_refused(device):
    maps = torch.ones((2, 3, 5, 4), device=device)
    with pytest.raises(ValueError, match="output_grad is 2x3x5x4 but this convolution's output is 2x3x4x4"):
        cuda.correlate2d_input_grad(torch.ones(FILTERS, device=device), maps, 6, 6, *MOVES)


# ------------------------------------------------------------------------------------ on a GPU only


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the interpreter would take hours")
def test_images_of_more_than_2_to_the_31_numbers(device):
    """The first and the last images, whose last pixels lie beyond, have the maps that they have alone."""
    geometry = Geometry((128, 3, 2400, 2400), (1, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False)
    small = replace(geometry, images=(16, *geometry.images[1:]))
    blocks = Blocks(16, 32, 16, 32, warps=4, stages=3, images_first=False)
    method = Gather(False, "batch_last", "native", (1, 1), True, 1, blocks)
    images = empty(geometry.images, "batch_last", torch.bfloat16, device).random_(-2, 3)
    filters = torch.randint(-2, 3, geometry.filters, device=device).bfloat16()
    assert images.numel() > 2**31
    maps = carry_out(tasks(geometry, "correlate2d", "native", device), method, images, filters)
    for part in (slice(16), slice(-16, None)):
        alone = to_format(images[part].contiguous(), "batch_last")
        expected = carry_out(tasks(small, "correlate2d", "native", device), method, alone, filters)
        assert torch.equal(maps[part], expected)
    del images, maps, alone, expected
    torch.cuda.empty_cache()
