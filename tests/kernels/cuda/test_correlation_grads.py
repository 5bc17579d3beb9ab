"""Both gradients of a correlation as one, against the NumPy definitions, and how they are chosen; outputs poisoned."""

import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.bench.cases import CONV  # noqa: E402
from pytensor_convnet.kernels import cuda  # noqa: E402
from pytensor_convnet.kernels.cuda import (  # noqa: E402
    FORMATS,
    carrying_out,
    copying,
    correlation,
    correlation_grads,
    memory_format,
    to_format,
    tuning,
)
from pytensor_convnet.kernels.cuda.candidates import prepared_candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.correlation_grads import (  # noqa: E402
    GradsTask,
    Joint,
    PreparedTask,
    carry_out,
    grads_candidates,
)
from pytensor_convnet.kernels.cuda.formats import strides  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.magnitudes import largest_magnitudes  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Cudnn, FilterGrad, Gather, Pair  # noqa: E402
from tests.kernels.cuda.common import addresses  # noqa: E402
from tests.strategies import correlations  # noqa: E402

NO_PADDING = ((0, 0), (0, 0))
MOST_ERROR = {"native": 8e-3, "float16": 1e-3, "bf16x3": 4e-5, "ieee": 1e-6}
PRODUCTS = ("native", "float16", "bf16x3")

LAYERS = {
    "strides_groups_flip": Geometry((17, 4, 6, 5), (6, 2, 3, 2), (2, 1), ((1, 2), (0, 3)), (1, 1), 2, True),
    "dilation": Geometry((18, 2, 7, 9), (3, 2, 2, 3), (1, 2), ((0, 1), (2, 0)), (2, 3), 1, False),
    "one_channel": Geometry((33, 1, 5, 4), (2, 1, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False),
}


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch, poisoned):
    """Each gradient by its fixed choice, on a GPU as well."""
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "0")


def task_of(geometry, product, device, formats=("batch_last",) * 3):
    dtype = torch.bfloat16 if product == "native" else torch.float32
    return GradsTask("correlate2d_grads", geometry, dtype, "medium", formats, torch.device(device))


def moves_of(geometry):
    return geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip


def operands(task, seed=0):
    """Images, filters and maps of a task, and the two gradients."""
    geometry, random = task.geometry, np.random.default_rng(seed)
    shapes = geometry.images, geometry.filters, geometry.maps
    tensors = [torch.from_numpy(random.standard_normal(shape)).to(task.dtype) for shape in shapes]
    images, filters, maps = (tensor.double().numpy() for tensor in tensors)
    expected = (
        reference.correlate2d_input_grad(filters, maps, *geometry.images[2:], *moves_of(geometry)),
        reference.correlate2d_filter_grad(images, maps, *geometry.filters[2:], *moves_of(geometry)),
    )
    images, filters, maps = (tensor.to(task.device) for tensor in tensors)
    return (to_format(images, task.formats[0]), filters, to_format(maps, task.formats[1])), expected


@pytest.mark.parametrize("format", ["bc01", "batch_last"])
def test_the_gradient_of_images_is_told_how_filters_lie(format):
    task = task_of(LAYERS["one_channel"], "native", "cpu")
    of_images, of_filters = replace(task, format_to_read=format).parts
    assert (of_images.format_to_read, of_filters.filter_format) == (format, "bc01")


def assert_close(results, expected, most):
    for result, value in zip(results, expected, strict=True):
        assert result.shape == value.shape
        assert np.linalg.norm(result.double().cpu().numpy() - value) <= most * np.linalg.norm(value)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_joint_gradients_in_every_product(layer, product, device):
    task = task_of(LAYERS[layer], product, device)
    given, expected = operands(task)
    assert_close(carry_out(task, Joint(product), *given), expected, MOST_ERROR[product])


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("maps_format", FORMATS)
@pytest.mark.parametrize("images_format", FORMATS)
def test_joint_gradients_of_every_format(images_format, maps_format, product, device):
    task = task_of(LAYERS["dilation"], product, device, (images_format, maps_format, images_format))
    given, expected = operands(task)
    results = carry_out(task, Joint(product), *given)
    assert_close(results, expected, MOST_ERROR[product])
    assert memory_format(results[0]) == images_format


@pytest.mark.parametrize("product", PRODUCTS)
def test_gradients_each_by_its_own_choice(product, device):
    task = task_of(LAYERS["strides_groups_flip"], product, device)
    given, expected = operands(task)
    assert_close(carry_out(task, Pair(), *given), expected, MOST_ERROR["native" if product == "native" else "float16"])


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=correlations(dtype="float32"))
def test_drawn_layers(device, case):
    images, filters, maps = (
        torch.from_numpy(np.array(array)).to(device) for array in (case.images, case.filters, case.maps)
    )
    results = cuda.correlate2d_grads(images, filters, maps, *case.window, precision="high")
    taken = [
        (reference.correlate2d_input_grad, (case.filters, case.maps), case.rows_and_columns),
        (reference.correlate2d_filter_grad, (case.images, case.maps), case.taps),
    ]
    for result, (defined, arrays, sizes) in zip(results, taken, strict=True):
        expected = defined(*(array.astype("float64") for array in arrays), *sizes, *case.window)
        squares = defined(*(array.astype("float64") ** 2 for array in arrays), *sizes, *case.window)
        # A result that happens to be small has a large relative error; compare it with what its terms come to.
        assert np.linalg.norm(result.cpu().numpy() - expected) <= 1e-4 * np.sqrt(squares.sum()) + 1e-30


@pytest.mark.parametrize("precision", ["ieee", "high", "medium"])
@pytest.mark.parametrize("after", FORMATS)
def test_the_function_in_every_precision_and_format(precision, after, device):
    geometry = LAYERS["dilation"]
    given, expected = operands(task_of(geometry, "float32", device))
    results = cuda.correlate2d_grads(*given, *moves_of(geometry), precision=precision, memory_format=after)
    product = {"ieee": "ieee", "high": "bf16x3", "medium": "float16"}[precision]
    assert_close(results, expected, MOST_ERROR[product])
    assert memory_format(results[0]) == after
    assert results[1].is_contiguous()


def test_the_gradient_of_images_is_in_their_format(device):
    geometry = LAYERS["dilation"]
    given, expected = operands(task_of(geometry, "float32", device, ("channels_last", "batch_last", "channels_last")))
    results = cuda.correlate2d_grads(*given, *moves_of(geometry))
    assert_close(results, expected, MOST_ERROR["float16"])
    assert memory_format(results[0]) == "channels_last"


@pytest.mark.parametrize("method", [Pair(), Joint("float16"), Joint("bf16x3")], ids=str)
def test_the_gradient_of_filters_is_in_the_format_asked_for(method, device, monkeypatch):
    geometry = LAYERS["strides_groups_flip"]
    given, expected = operands(task_of(geometry, "float32", device))
    monkeypatch.setattr(correlation, "choose", lambda task, operands: method)
    results = cuda.correlate2d_grads(*given, *moves_of(geometry), filter_format="channels_last")
    assert_close(results, expected, MOST_ERROR["float16"])
    assert results[1].stride() == strides(geometry.filters, "channels_last")


def test_the_format_of_filters_is_no_matter_of_the_gradient_of_images(device):
    task = task_of(LAYERS["dilation"], "float32", device)
    in_another = replace(task, filter_format="channels_last")
    assert in_another.parts[0] == task.parts[0]
    assert in_another.parts[1] != task.parts[1]


def test_operands_that_are_dense_in_no_format_are_taken(device):
    geometry = LAYERS["one_channel"]
    given, expected = operands(task_of(geometry, "float32", device))
    spread = (torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in given)
    assert_close(cuda.correlate2d_grads(*spread, *moves_of(geometry)), expected, MOST_ERROR["float16"])


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_float16_products_reach_as_far_as_float32(factor, device):
    task = task_of(LAYERS["dilation"], "float16", device)
    (images, filters, maps), expected = operands(task)
    of_images, of_filters = carry_out(task, Joint("float16"), images, filters, maps * factor)
    assert_close((of_images.double() / factor, of_filters.double() / factor), expected, MOST_ERROR["float16"])


@pytest.mark.parametrize("product", PRODUCTS)
def test_an_empty_batch_gives_an_empty_and_a_zero_gradient(product, device):
    task = task_of(replace(LAYERS["dilation"], images=(0, 2, 7, 9)), product, device, ("bc01",) * 3)
    given, expected = operands(task)
    of_images, of_filters = cuda.correlate2d_grads(*given, *moves_of(task.geometry))
    assert of_images.shape == expected[0].shape
    assert of_filters.shape == expected[1].shape
    assert not of_filters.any()


def test_offsets_of_64_bits_where_tensors_are_that_large(device, monkeypatch):
    monkeypatch.setattr(carrying_out, "is_wide", lambda *tensors: True)
    test_joint_gradients_in_every_product("strides_groups_flip", "bf16x3", device)


def test_no_result_takes_part_in_automatic_differentiation(device):
    geometry = LAYERS["one_channel"]
    given, _ = operands(task_of(geometry, "float32", device))
    results = cuda.correlate2d_grads(*(tensor.requires_grad_() for tensor in given), *moves_of(geometry))
    assert not any(result.requires_grad for result in results)


def test_maps_of_another_shape_are_refused(device):
    images, filters, maps = (torch.ones(shape, device=device) for shape in ((2, 4, 6, 6), (3, 4, 3, 3), (2, 3, 5, 4)))
    with pytest.raises(ValueError, match="output_grad is 2x3x5x4 but this convolution's output is 2x3x4x4"):
        cuda.correlate2d_grads(images, filters, maps, (1, 1), NO_PADDING, (1, 1), 1, False)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"memory_format": "nhwc"}, "memory_format must be one of bc01, .*, or None, got 'nhwc'"),
        ({"filter_format": "nhwc"}, "filter_format must be one of bc01, channels_last, batch_last, got 'nhwc'"),
        ({"filter_format": None}, "filter_format must be one of bc01, channels_last, batch_last, got None"),
        ({"searched": [1.0]}, "searched must be a torch tensor .* got list"),
        ({"searched": torch.ones(1), "factor": None}, "factor must be a number, got None"),
    ],
)
def test_a_setting_that_is_none_is_refused_by_its_name(named, message, device):
    images, filters, maps = (torch.ones(shape, device=device) for shape in ((2, 4, 6, 6), (3, 4, 3, 3), (2, 3, 4, 4)))
    with pytest.raises(ValueError, match=f"^{message}$"):
        cuda.correlate2d_grads(images, filters, maps, (1, 1), NO_PADDING, (1, 1), 1, False, **named)


# ------------------------------------------------------------------------------------ what is done only once


def test_three_tensors_are_searched_by_one_launch(device):
    random = np.random.default_rng(0)
    tensors = [torch.from_numpy(random.standard_normal(n).astype("float32")).to(device) for n in (3, 20000, 5)]
    tensors[1][-1], tensors[2][0] = 100, float("inf")
    factors = 1.0, 3.0, 0.5
    found = largest_magnitudes(*tensors, factors=factors).amax(1).cpu().numpy()
    finite = [tensor[tensor.isfinite()].abs().max().item() * factor for tensor, factor in zip(tensors, factors)]
    np.testing.assert_allclose(found, finite, rtol=1e-6)


@pytest.mark.parametrize("product", PRODUCTS)
def test_operands_are_searched_and_prepared_once(product, device, monkeypatch):
    searched, prepared = [], []

    def noting(function, taken):
        def noted(*arguments, **settings):
            taken.extend(id(argument) for argument in arguments if isinstance(argument, torch.Tensor))
            return function(*arguments, **settings)

        return noted

    monkeypatch.setattr(correlation_grads, "largest_magnitudes", noting(largest_magnitudes, searched))
    monkeypatch.setattr(correlation_grads, "preparation", noting(correlation_grads.preparation, prepared))
    monkeypatch.setattr(correlation_grads, "prepare", noting(correlation_grads.prepare, prepared))
    task = task_of(LAYERS["strides_groups_flip"], product, device)
    images, filters, maps = operands(task)[0]
    carry_out(task, Joint(product), images, filters, maps)
    assert sorted(searched) == (sorted(map(id, (images, filters, maps))) if product == "float16" else [])
    assert {id(images), id(maps)} == {id_ for id_ in prepared if id_ in (id(images), id(maps), id(filters))}
    assert len(set(prepared)) == len(prepared)


@pytest.mark.parametrize("method", [Pair(), Joint("float16"), Joint("bf16x3")], ids=str)
def test_a_smaller_tensor_is_searched_in_the_place_of_maps(method, device, monkeypatch):
    searched = []

    def noted(*tensors, **settings):
        searched.extend(tensors)
        return largest_magnitudes(*tensors, **settings)

    task = replace(task_of(LAYERS["strides_groups_flip"], "float16", device), factor=3.0)
    (images, filters, maps), expected = operands(task)
    smaller = maps.abs().amax().reshape(1, 1, 1, 1) / 2
    for module in (correlation_grads, carrying_out):
        monkeypatch.setattr(module, "largest_magnitudes", noted)
    if method == Pair():
        monkeypatch.setattr(correlation_grads, "choose", lambda part, _: prepared_candidates(part, "float16", 1)[0])
    results = carry_out(task, method, images, filters, maps, smaller)
    assert_close(results, expected, MOST_ERROR["float16"])
    assert any(tensor is smaller for tensor in searched) == (method != Joint("bf16x3"))
    if method != Pair():  # of which the gradient of filters searches for itself
        assert not any(tensor is maps for tensor in searched)


def test_the_function_takes_a_tensor_to_search(device):
    geometry = LAYERS["strides_groups_flip"]
    given, expected = operands(task_of(geometry, "float32", device))
    smaller = given[2].abs().amax().reshape(1, 1, 1, 1)
    results = cuda.correlate2d_grads(*given, *moves_of(geometry), searched=smaller, factor=1.0)
    assert_close(results, expected, MOST_ERROR["float16"])


@pytest.mark.parametrize("method", [Pair(), Joint("float16")], ids=str)
def test_the_filter_gradient_may_run_beside_others(method, device, monkeypatch):
    within, prepared = [], set()  # what was launched and read; what is made beside, of memory that is used there

    @contextmanager
    def beside(*read, small=False):
        within.append(read)
        yield
        within.append("end")

    def both(of_images, of_filters, *read, device):
        assert addresses(of_filters.args) <= addresses([*chain(*within), *read]) | prepared
        result = of_images()
        within.append(read)
        return result, of_filters()

    def prepare(*given):
        planes = copying.prepare(*given)
        prepared.update(addresses([planes]))
        return planes

    def noting(what, function):
        return lambda *given: within.append(what) or function(*given)

    monkeypatch.setattr(correlation_grads, "beside", beside)
    monkeypatch.setattr(correlation_grads, "both", both)
    monkeypatch.setattr(correlation_grads, "prepare", prepare)
    for module in (correlation_grads, carrying_out):
        monkeypatch.setattr(module, "filter_grad_from", noting("filters", module.filter_grad_from))
    monkeypatch.setattr(carrying_out, "gather_correlate", noting("images", carrying_out.gather_correlate))
    task = task_of(LAYERS["strides_groups_flip"], "float16", device)
    given, _ = operands(task)
    carry_out(task, method, *given)
    *before, read, filters = within
    assert (before[-1], filters) == ("images", "filters")
    if isinstance(method, Joint):  # whose images are prepared beside that of maps
        read, *rest = before
        assert rest == ["end", "images"]
    assert any(tensor is given[0] for tensor in read)


# ---------------------------------------------------------------------------------------------- the choice


def suite_task(case, dtype=torch.float32, precision="medium", formats=("batch_last",) * 3):
    layer = CONV[case]
    geometry = Geometry(layer.image_shape, layer.filter_shape, layer.stride, layer.padding, (1, 1), 1, False)
    return GradsTask("correlate2d_grads", geometry, dtype, precision, formats, torch.device("cuda"))


@pytest.mark.parametrize("case", CONV)
@pytest.mark.parametrize(
    ("precision", "products"), [("medium", ("float16", "bf16x3")), ("high", ("bf16x3",)), ("ieee", ())]
)
def test_candidates_are_a_way_for_each_product_and_end_with_the_pair(case, precision, products):
    found = grads_candidates(suite_task(case, precision=precision), tuning.CANDIDATES)
    assert found == [*map(Joint, products), Pair()]
    for method in found:
        assert tuning.method_from_json(json.loads(json.dumps(tuning.method_to_json(method)))) == method


@pytest.mark.parametrize("formats", [("batch_last",) * 3, ("channels_last", "bc01", "channels_last")], ids=str)
def test_bfloat16_is_shared_where_it_has_to_be_prepared(formats):
    found = grads_candidates(suite_task("cifar1", torch.bfloat16, formats=formats), tuning.CANDIDATES)
    assert (Joint("native") in found) == ("batch_last" not in formats)
    assert found[-1] == Pair()


@pytest.mark.parametrize("case", ["lenet1", "cifar2", "alex1"])
@pytest.mark.parametrize("product", ["float16", "bf16x3"])
def test_few_methods_that_take_prepared_operands_are_measured(case, product):
    for part in suite_task(case).parts:
        task = PreparedTask(part.name, part.geometry, part.dtype, part.precision, part.formats, part.device, product)
        found = tuning._families[PreparedTask].candidates(task, tuning.CANDIDATES)
        assert 2 <= len(found) <= correlation_grads.PREPARED_CANDIDATES
        assert all(isinstance(method, Gather | FilterGrad) and method.prepared for method in found)
        assert {method.product for method in found} == {product}
        assert tuning.fixed_choice(task) == found[0]


def test_a_gradients_own_choice_is_taken_where_it_fits(monkeypatch, device):
    task = task_of(LAYERS["strides_groups_flip"], "float16", device)
    given, expected = operands(task)
    asked = []

    def choose(part, operands):
        asked.append((type(part), part.name))
        return tuning.fixed_choice(part)

    monkeypatch.setattr(correlation_grads, "choose", choose)
    own = [tuning.fixed_choice(part).product for part in task.parts]
    for product in ("float16", "bf16x3"):
        asked.clear()
        assert_close(carry_out(task, Joint(product), *given), expected, MOST_ERROR[product])
        measured = [name for kind, name in asked if kind is PreparedTask]
        assert measured == [part.name for part, used in zip(task.parts, own) if used != product]


def test_without_measurements_maps_are_shared_that_are_prepared_anyway():
    assert tuning.fixed_choice(suite_task("cifar2")) == Joint("float16")
    assert tuning.fixed_choice(suite_task("cifar2", precision="ieee")) == Pair()
    assert tuning.fixed_choice(suite_task("cifar2", torch.bfloat16)) == Pair()
    in_cudnn_format = suite_task("vgg3", formats=("channels_last",) * 3)
    assert isinstance(tuning.fixed_choice(in_cudnn_format.parts[0]), Cudnn)
    assert tuning.fixed_choice(in_cudnn_format) == Pair()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures on a GPU")
def test_the_best_candidate_is_chosen_on_a_gpu(device, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "1")
    monkeypatch.setenv("PYTENSOR_CONVNET_TUNING_CACHE", str(tmp_path))
    task = suite_task("cifar1")
    shapes = task.geometry.images, task.geometry.filters, task.geometry.maps
    images, filters, maps = (torch.randn(shape, device=device) for shape in shapes)
    seconds = tuning.measured(task, (to_format(images, "batch_last"), filters, to_format(maps, "batch_last")))
    assert set(seconds) == {Joint("float16"), Joint("bf16x3"), Pair()}
    assert min(seconds.values()) < 1e-3
