"""A traced step in two parts: what computes, and what updates; and what the compiler keeps on disk."""

import pytest

torch = pytest.importorskip("torch", reason="mode CUDA is built on torch: pip install torch")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from pytensor_convnet.cuda import compiling  # noqa: E402
from pytensor_convnet.cuda.compiling import compile_step, joined_groups, make_constants, without_updates  # noqa: E402


def traced(step, tensors):
    return make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*(tensor.clone() for tensor in tensors))


def momentum(x, weights, velocity):
    hidden = torch.relu(x @ weights)
    gradient = x.t() @ (hidden > 0).to(x.dtype)
    new_velocity = torch.full((1, 1), 0.9) * velocity - 0.1 * (gradient + 1e-3 * weights)
    results = [hidden.sum(), hidden + 1]
    weights.copy_(weights + new_velocity)
    velocity.copy_(new_velocity)
    return results


def exchange(first, second, factor):
    results = [first * factor]
    old = first.clone()
    first.copy_(second)
    second.copy_(old)
    return results


def shifted(x, weights, counter):
    results = [x + counter]
    counter.copy_(counter + 1)
    return results


def turned(first, second, x):
    results = [(x @ first).sum()]
    old, other = first.t().clone(), second.t().clone()
    first.copy_(other)
    second.copy_(old)
    return results


def split(weights, velocity, x):
    first, second = torch.split(weights, [2, 3])
    results = [(x * second).sum()]
    new_velocity = velocity + first * 2
    weights.copy_(weights * 3)
    velocity.copy_(new_velocity)
    return results


STEPS = {
    "momentum": (momentum, [(4, 3), (3, 5), (3, 5)]),
    "exchange": (exchange, [(3,), (3,), ()]),
    "views": (turned, [(3, 3), (3, 3), (2, 3)]),
    "parts of an input": (split, [(5,), (2,), (3,)]),
    "nothing between": (shifted, [(2, 3), (1,), ()]),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_parts_do_what_the_step_does(name):
    step, shapes = STEPS[name]
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(shape, generator=generator) for shape in shapes]
    parts = [tensor.clone() for tensor in whole]
    compute, update, count = without_updates(traced(step, whole))
    expected = step(*whole)
    results = compute(*parts)
    assert update(*parts, *results[count:]) == []
    assert len(expected) == count
    for got, want in zip([*results[:count], *parts], [*expected, *whole], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_computing_changes_no_input():
    step, shapes = STEPS["momentum"]
    tensors = [torch.ones(shape) for shape in shapes]
    compute, _, _ = without_updates(traced(step, tensors))
    compute(*tensors)
    assert all(bool((tensor == 1).all()) for tensor in tensors)


def test_between_the_parts_goes_only_what_must_be_computed():
    step, shapes = STEPS["momentum"]
    compute, _, count = without_updates(traced(step, [torch.ones(shape) for shape in shapes]))
    between = compute(*(torch.ones(shape) for shape in shapes))[count:]
    assert [tuple(tensor.shape) for tensor in between] == [(3, 5)]  # the gradient, and no constant


@pytest.mark.parametrize("name", ["views", "parts of an input"])
def test_no_view_of_an_input_goes_between_the_parts(name):
    step, shapes = STEPS[name]
    compute, _, count = without_updates(traced(step, [torch.ones(shape) for shape in shapes]))
    assert not compute(*(torch.ones(shape) for shape in shapes))[count:]


def test_a_step_without_updates_stays_whole():
    assert without_updates(traced(lambda x: [x.sum()], [torch.ones(3)])) is None


def test_what_follows_from_no_input_is_no_kernel_before_a_product_of_matrices():
    def step(x):
        constant = torch.arange(6.0).reshape(3, 2) + 1
        return [x @ constant, constant.t(), x * torch.full((1, 1), 2.0)]

    module = traced(step, [torch.ones(4, 3)])
    make_constants(module)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for got, want in zip(module(x), step(x), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    products = [node for node in module.graph.nodes if node.target is torch.ops.aten.mm.default]
    assert [operand.op for node in products for operand in node.args] == ["placeholder", "get_attr"]
    [results] = module.graph.output_node().args
    assert [result.op for result in results] == ["call_function", "get_attr", "call_function"]


def hits_and_misses():
    from torch._dynamo.utils import counters

    found = counters["inductor"]
    return found["fxgraph_cache_hit"], found["fxgraph_cache_miss"], found["fxgraph_cache_bypass"]


def test_what_the_compiler_made_is_found_again_on_disk(tmp_path, monkeypatch, device):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def step(x, weights):
        return [x @ weights]  # which needs no C++ compiler

    tensors = [torch.randn(shape, device=device) for shape in [(4, 3), (3, 5)]]
    differences = []
    for _ in range(2):
        before = hits_and_misses()
        [result] = compile_step(step, tensors)(*tensors)
        differences.append(tuple(now - then for now, then in zip(hits_and_misses(), before)))
        torch.testing.assert_close(result, tensors[0] @ tensors[1])
    assert differences == [(0, 1, 0), (1, 0, 0)]


def test_what_the_compiler_made_goes_when_our_operators_change(tmp_path, monkeypatch, device):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    x = torch.randn((4, 4), device=device)
    compile_step(lambda x: [x @ x], [x])
    _, before, _ = hits_and_misses()
    monkeypatch.setattr(compiling, "_sources_digest", lambda: "of other sources")
    compile_step(lambda x: [x @ x], [x])
    assert hits_and_misses()[1] == before + 1


def test_a_number_that_several_updates_read_is_computed_once_before_them():
    def step(losses, total, shown):
        new = total + losses.sum()
        shown.copy_(torch.where(torch.arange(3) == 1, new, shown))
        total.copy_(new)
        return []

    tensors = [torch.arange(4.0), torch.tensor(10.0), torch.zeros(3)]
    compute, update, count = without_updates(traced(step, tensors))
    between = compute(*tensors)[count:]
    assert [value.item() for value in between if value.ndim == 0] == [16]
    update(*tensors, *between)
    assert tensors[1] == 16
    assert tensors[2].tolist() == [0, 16, 0]


class Part:
    """A small kernel, as torch's scheduler holds it."""

    def __init__(self, device):
        self.get_device = lambda: device


def test_groups_of_one_level_and_device_become_one_as_far_as_they_may(monkeypatch):
    first, second, other = [Part("cuda") for _ in range(11)], [Part("cuda")], [Part("cuda:1")]
    levels = dict.fromkeys([*first, *other], 0) | dict.fromkeys(second, 1)
    cut = [first[:8], first[8:], other, second]
    assert joined_groups(cut, levels) == [first, other, second]
    mixed = [first[:4] + other, first[4:8], first[8:]]
    assert joined_groups(mixed, levels) == [mixed[0], first[4:]]
    monkeypatch.setattr(compiling, "MOST_COMBINED", 10)
    assert joined_groups(cut, levels) == cut


def test_factors_of_products_are_not_padded(monkeypatch):
    import torch._inductor
    from torch._inductor import config

    asked = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, _: asked.append(config.shape_padding) or graph)
    assert config.shape_padding
    compiling.compile_step(lambda a, b: [a @ b], [torch.ones(50, 6), torch.ones(6, 3)])
    assert asked == [False]
    assert config.shape_padding


def test_torchs_own_way_to_group_comes_back(monkeypatch):
    import torch._inductor.config
    from torch._inductor import scheduler

    class Older:
        """Settings of a torch that has none for this."""

    monkeypatch.setattr(torch._inductor, "config", Older)
    before = scheduler.ForeachKernelSchedulerNode.group_algorithm_for_combo_kernels
    with compiling._whole_levels_combined():
        assert scheduler.ForeachKernelSchedulerNode.group_algorithm_for_combo_kernels is not before
    assert scheduler.ForeachKernelSchedulerNode.group_algorithm_for_combo_kernels is before
