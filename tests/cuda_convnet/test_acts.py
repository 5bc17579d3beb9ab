"""FilterActs, ImageActs and WeightActs mean what cuda-convnet's did, without its limits."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet import conv2d, ops
from pytensor_convnet.cuda_convnet import (
    FilterActs,
    ImageActs,
    LocalFilterActs,
    LocalImageActs,
    LocalWeightActs,
    WeightActs,
)
from pytensor_convnet.cuda_convnet.acts import rounded_up
from tests.cuda_convnet.common import evaluate, filter_acts, symbols
from tests.ops.common import PYTHON, close

random = np.random.default_rng(0)

CASES = [
    # images (channels, rows, columns, batch), filters (rows, columns, number), pad, stride, groups
    pytest.param((1, 6, 6, 1), (3, 3, 1), 0, 1, 1, id="one-of-each"),
    pytest.param((3, 8, 8, 5), (3, 3, 16), 1, 2, 1, id="last-column-hangs-over"),
    pytest.param((5, 9, 7, 3), (4, 2, 7), (1, 0), (3, 2), 1, id="rectangles"),
    pytest.param((7, 6, 11, 130), (1, 5, 17), ((0, 2), (3, 1)), (1, 4), 1, id="asymmetric-padding"),
    pytest.param((6, 7, 8, 2), (3, 3, 9), 2, (2, 3), 3, id="groups"),
    pytest.param((4, 3, 3, 4), (4, 5, 2), 0, 3, 1, id="filter-hangs-over-both-edges"),
]
every_case = pytest.mark.parametrize(("shape", "bank", "pad", "stride", "groups"), CASES)


def drawn(shape, bank, groups):
    rows, columns, number = bank
    return random.standard_normal(shape), random.standard_normal((shape[0] // groups, rows, columns, number))


def local_drawn(shape, bank, pad, stride, groups):
    images, filters = drawn(shape, bank, groups)
    positions = filter_acts(images, filters, pad, stride, groups).shape[1:3]
    return images, random.standard_normal((*positions, *filters.shape))


@every_case
def test_maps_follow_the_definition(shape, bank, pad, stride, groups):
    images, filters = drawn(shape, bank, groups)
    maps = FilterActs(pad=pad, stride=stride, groups=groups)(images, filters)
    expected = filter_acts(images, filters, pad, stride, groups)
    assert maps.type.shape == expected.shape
    close(evaluate(maps), expected)


@every_case
def test_shapes_may_be_unknown_until_the_function_runs(shape, bank, pad, stride, groups):
    arrays = drawn(shape, bank, groups)
    tensors = symbols(*arrays)
    maps = FilterActs(pad=pad, stride=stride, groups=groups)(*tensors)
    close(pytensor.function(tensors, maps, mode=PYTHON)(*arrays), filter_acts(*arrays, pad, stride, groups))


@every_case
def test_image_acts_and_weight_acts_are_the_gradients(shape, bank, pad, stride, groups):
    images, filters = map(pt.as_tensor, drawn(shape, bank, groups))
    settings = {"pad": pad, "stride": stride, "groups": groups}
    maps = FilterActs(**settings)(images, filters)
    hid_grads = random.standard_normal(maps.type.shape)
    expected = pytensor.grad(None, [images, filters], known_grads={maps: pt.as_tensor(hid_grads)})
    ours = [
        ImageActs(**settings)(hid_grads, filters, images.shape[1:3]),
        WeightActs(**settings)(images, hid_grads, filters.shape[1:3])[0],
    ]
    assert [x.type.shape for x in ours] == [shape, (shape[0] // groups, *bank)]
    for one, other in zip(evaluate(ours), evaluate(expected), strict=True):
        close(one, other)


@pytest.mark.parametrize("index", [2, 4, 5])
def test_gradients_match_finite_differences(index):
    shape, bank, pad, stride, groups = CASES[index].values
    op = FilterActs(pad=pad, stride=stride, groups=groups)
    verify_grad(op, list(drawn((*shape[:3], 2), bank, groups)), mode=PYTHON, rng=np.random.default_rng(0))


@pytest.mark.parametrize("index", [1, 2, 4])
def test_local_filters_follow_the_definition(index):
    shape, bank, pad, stride, groups = CASES[index].values
    images, filters = map(pt.as_tensor, local_drawn(shape, bank, pad, stride, groups))
    settings = {"pad": pad, "stride": stride, "groups": groups}
    maps = LocalFilterActs(**settings)(images, filters)
    close(evaluate(maps), filter_acts(images.data, filters.data, pad, stride, groups))
    hid_grads = random.standard_normal(maps.type.shape)
    expected = pytensor.grad(None, [images, filters], known_grads={maps: pt.as_tensor(hid_grads)})
    ours = [
        LocalImageActs(**settings)(hid_grads, filters, images.shape[1:3]),
        LocalWeightActs(**settings)(images, hid_grads, bank[:2]),
    ]
    for one, other in zip(evaluate(ours), evaluate(expected), strict=True):
        close(one, other)


def test_it_correlates():
    images, filters = drawn((3, 8, 8, 4), (3, 3, 5), 1)
    turned = filters[:, ::-1, ::-1].transpose(3, 0, 1, 2)
    convolved = conv2d(images.transpose(3, 0, 1, 2), turned)
    close(evaluate(FilterActs()(images, filters)), evaluate(convolved).transpose(1, 2, 3, 0))


@pytest.mark.parametrize(("partial_sum", "runs"), [(None, 1), (5, 4), (20, 1)])
@pytest.mark.parametrize("static", [True, False])
def test_partial_sums_are_what_each_run_of_positions_adds(partial_sum, runs, static):
    images, hid_grads = random.standard_normal((4, 6, 7, 3)), random.standard_normal((6, 4, 5, 3))
    tensors = [pt.as_tensor(images), pt.as_tensor(hid_grads)] if static else symbols(images, hid_grads)
    outputs = WeightActs(partial_sum=partial_sum, groups=2)(*tensors, (3, 3))
    gradient, parts = pytensor.function([] if static else tensors, outputs, mode=PYTHON)(
        *(() if static else (images, hid_grads))
    )
    assert parts.shape == (runs, 2, 3, 3, 6)
    close(parts.sum(axis=0), gradient)
    first = hid_grads.reshape(6, 20, 3).copy()
    first[:, partial_sum or 20 :] = 0
    alone = WeightActs(groups=2)(images, first.reshape(hid_grads.shape), (3, 3))[0]
    close(parts[0], evaluate(alone))


def test_gradients_need_no_shape_at_stride_one():
    images, filters = drawn((3, 6, 7, 2), (3, 2, 4), 1)
    pad = (1, 0)
    maps = FilterActs(pad=pad)(images, filters)
    assert ImageActs(pad=pad)(maps, filters).type.shape == images.shape
    gradient, _ = WeightActs(pad=pad)(images, maps)
    assert gradient.type.shape == filters.shape
    close(evaluate(gradient), evaluate(WeightActs(pad=pad)(images, maps, (3, 2))[0]))


def test_partial_sums_of_uneven_runs_are_refused_when_the_function_runs():
    tensors = symbols(np.ones((1, 4, 4, 1)), np.ones((1, 3, 3, 1)))
    function = pytensor.function(tensors, WeightActs(partial_sum=2)(*tensors, (2, 2))[1], mode=PYTHON)
    with pytest.raises(ValueError, match=r"partial_sum must divide the number of positions .*, but is 2"):
        function(np.ones((1, 4, 4, 1)), np.ones((1, 3, 3, 1)))


def test_operators_with_equal_arguments_are_equal():
    assert FilterActs(pad=1) == FilterActs(1)
    assert hash(FilterActs(pad=1)) == hash(FilterActs(1))
    assert FilterActs(pad=1) != FilterActs(pad=2)
    assert FilterActs() != ImageActs()


def test_padding_grows_only_by_what_is_needed():
    assert rounded_up(((1, 2), (0, 0)), (2, 3), (32, 32), (4, 2)) == ((1, 3), (0, 0))
    assert rounded_up(((1, 2), (0, 0)), (2, 3), (None, 32), (4, None)) == ((1, 3), (0, 2))


def test_there_is_one_convolution():
    images, filters = (pt.tensor4(name, dtype="float32") for name in ("images", "filters"))
    maps = FilterActs(pad=2)(images, filters)
    outputs = [maps, *pytensor.grad(maps.sum(), [images, filters])]
    function = pytensor.function([images, filters], outputs, mode=PYTHON)
    convolutions = [n for n in function.maker.fgraph.toposort() if isinstance(n.op, ops.correlation.Correlation)]
    assert {type(n.op) for n in convolutions} == {
        ops.Correlate2d,
        ops.Correlate2dInputGrad,
        ops.Correlate2dFilterGrad,
    }
    assert len(convolutions) == 3


IMAGES = pt.tensor("images", shape=(3, 32, 32, 128), dtype="float32")
FILTERS = pt.tensor("filters", shape=(3, 5, 5, 64), dtype="float32")
REFUSED = {
    "batch-missing": (lambda: FilterActs()(IMAGES[..., 0], FILTERS), "images must have 4 axes .*batch axis is missing"),
    "channels": (lambda: FilterActs()(IMAGES[:2], FILTERS), "images have 2 channels but filters expect 3"),
    "images-bc01": (
        lambda: FilterActs()(IMAGES.dimshuffle(3, 0, 1, 2), FILTERS),
        r"If images are bc01.*images.dimshuffle\(1, 2, 3, 0\)",
    ),
    "filters-bc01": (
        lambda: FilterActs()(IMAGES, FILTERS.dimshuffle(3, 0, 1, 2)),
        r"If filters are bc01.*filters.dimshuffle\(1, 2, 3, 0\)",
    ),
    "groups": (lambda: FilterActs(groups=2)(IMAGES, FILTERS), "filters expect 6"),
    "filter-too-long": (lambda: FilterActs()(IMAGES[:, :4], FILTERS), "filters span 5 rows but .* only 4"),
    "maps-of-other-filters": (lambda: ImageActs()(IMAGES, FILTERS), "maps of 3 filters but there are 64"),
    "shape-needed": (
        lambda: ImageActs(stride=2)(pt.tensor(shape=(64, 5, 5, 2), dtype="float32"), FILTERS),
        "output_shape.* is needed with stride 2",
    ),
    "filter-shape-needed": (
        lambda: WeightActs(stride=(1, 2))(IMAGES, pt.tensor(shape=(64, 28, 14, 128), dtype="float32")),
        r"output_shape, the \(rows, columns\) of filters, is needed",
    ),
    "partial-sum": (
        lambda: WeightActs(partial_sum=3)(IMAGES, pt.tensor(shape=(64, 28, 28, 128), dtype="float32"), (5, 5)),
        "partial_sum must divide the number of positions, got 3 for 784",
    ),
    "pad": (lambda: FilterActs(pad=-1), "pad must be at least 0"),
    "pad-half": (lambda: FilterActs(pad="half"), "pad must be"),
    "stride": (lambda: FilterActs(stride=0), "stride must be at least 1"),
    "no-tensor": (lambda: FilterActs()("images", FILTERS), "images must be a tensor with 4 axes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse_is_told_in_a_sentence(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        build()
