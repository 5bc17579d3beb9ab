"""Gradients of parameters that only updates read may be late. (They run beside others on GPUs alone.)"""

import json

import pytest

torch = pytest.importorskip("torch", reason="mode CUDA is built on torch: pip install torch")
pytest.importorskip("triton", reason="the kernels are Triton's: pip install triton")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from pytensor_convnet.cuda import overlapping  # noqa: E402
from pytensor_convnet.cuda.compiling import without_updates  # noqa: E402
from pytensor_convnet.cuda.overlapping import KERNELS, let_gradients_be_late  # noqa: E402
from pytensor_convnet.lowering.cuda.operators import KernelCall, call, kernels  # noqa: E402

IMAGES, FILTERS = (17, 2, 4, 4), (2, 2, 1, 1)


def gradients(images, filters):
    """Both gradients of a correlation with filters of one pixel, of which the images are the maps, too."""
    arguments = [[1, 1], [[0, 0], [0, 0]], [1, 1], 1, False]
    results = [(IMAGES, images.dtype, "bc01"), (FILTERS, images.dtype, "bc01")]
    [said] = [KernelCall("correlate2d_grads", [images, filters, images], arguments, results).said()]
    return kernels([images, filters, images], json.dumps([said]))


def a_last_call(images):
    return call(KernelCall("sum_over_pixels", [images], (), [((2,), images.dtype, "")]))


def layer(images, filters):
    of_images, of_filters = gradients(images + 1, filters)
    filters.copy_(filters - of_filters)
    return a_last_call(of_images)


def returned(images, filters):
    of_images, of_filters = gradients(images + 1, filters)
    filters.copy_(filters - of_filters)
    return [*a_last_call(of_images), of_filters]


def read_by_another(images, filters):
    of_images, of_filters = gradients(images + 1, filters)
    filters.copy_(filters - of_filters)
    return [*a_last_call(of_images), of_filters.sum()]


def last(images, filters):
    of_images, of_filters = gradients(images + 1, filters)
    filters.copy_(filters - of_filters)
    return [of_images]


def in_bfloat16(images, filters):
    of_images, of_filters = gradients((images + 1).bfloat16(), filters.bfloat16())
    filters.copy_(filters - of_filters.float())
    return a_last_call(of_images)


def dense(inputs, weights):
    outputs = (inputs + 1) @ weights
    weights.copy_(weights - (inputs + 1).t() @ outputs)
    return [outputs.sum()]


def dense_in_parts(inputs, weights):
    outputs = (inputs + 1) @ weights
    left, right = (inputs + 1).t().reshape(4, 2, 3).transpose(0, 1), outputs.reshape(2, 3, 3)
    weights.copy_(weights - torch.bmm(left, right).sum(dim=0, dtype=torch.float32))
    return [outputs.sum()]


def dense_read_by_another(inputs, weights):
    outputs = (inputs + 1) @ weights
    gradient = (inputs + 1).t() @ outputs
    weights.copy_(weights - gradient)
    return [outputs.sum(), gradient.sum()]


def divided(step, *tensors):
    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*(tensor.clone() for tensor in tensors))
    compute, update, count = without_updates(graph)
    held = let_gradients_be_late(compute, count)
    calls = [call for node in compute.graph.find_nodes(op="call_function", target=KERNELS)
             for call in json.loads(node.args[1])]  # fmt: skip
    return compute, update, count, held, [call[4].get("late", False) for call in calls]


def operands(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device) for shape in (IMAGES, FILTERS)]


@pytest.mark.parametrize(
    ("step", "late"),
    [
        (layer, [True, False]),
        (returned, [False, False]),
        (read_by_another, [False, False]),
        (last, [False]),
        (in_bfloat16, [True, False]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_gradients_of_filters_are_late_where_only_updates_read_them(interpreter, step, late):
    *_, found = divided(step, *operands())
    assert found == late


def matrices(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device) for shape in ((6, 4), (4, 3))]


@pytest.mark.parametrize(("step", "late"), [(dense, 1), (dense_in_parts, 1), (dense_read_by_another, 0)])
def test_products_of_matrices_are_late_where_only_updates_read_them(interpreter, step, late):
    compute, _, _, held, _ = divided(step, *matrices())
    names = [json.loads(node.args[1])[0][0] for node in compute.graph.find_nodes(op="call_function", target=KERNELS)]
    assert names == ["late_product"] * late
    assert held == 2 * late


@pytest.mark.parametrize(("step", "given"), [(layer, operands), (dense, matrices), (dense_in_parts, matrices)])
def test_the_step_stays_what_it_is(interpreter, device, step, given):
    whole, parts = given(device), given(device)
    compute, update, count, held, _ = divided(step, *whole)
    expected = step(*whole)
    results = compute(*parts)
    update(*parts, *results[count : len(results) - held])
    for got, want in zip([*results[:count], *parts], [*expected, *whole], strict=True):
        torch.testing.assert_close(got, want)


def test_what_is_read_late_is_held_as_a_result(interpreter):
    compute, _, _, held, _ = divided(layer, *operands())
    [results] = compute.graph.output_node().args
    first, _ = compute.graph.find_nodes(op="call_function", target=KERNELS)
    assert held == 1  # images + 1; filters are the caller's
    assert results[-1] is first.args[0][0]


def test_calls_that_read_much_are_waited_for(interpreter, monkeypatch):
    monkeypatch.setattr(overlapping, "MOST_HELD", 8)
    *_, held, late = divided(layer, *operands())
    assert (held, late) == (0, [False, False])
