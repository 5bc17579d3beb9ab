"""A step fused by torch's compiler: traced, cut in two, and each part compiled.

The second part updates shared variables. For the compiler an update can be computed as soon as its gradient is known,
each in a kernel of its own between two of ours; cut off and compiled alone, they all become one kernel at the end.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pytensor_convnet.cuda.overlapping import KERNELS, let_gradients_be_late
from pytensor_convnet.kernels.cuda.streams import awaited
from pytensor_convnet.kernels.garbage import no_garbage_collection
from pytensor_convnet.kernels.sources import digest_of

Step = Callable[..., Sequence[torch.Tensor]]
"""From inputs and feeds to the outputs that are returned; new values are written into inputs."""

MOST_COMBINED = 24
"""How many small kernels become one at most."""

MOST_IN_KEYS = 2**18
"""Numbers in a step's constants, up to which torch's compiler may look for the step on disk: it would list them all."""


@no_garbage_collection()  # nor while torch's compiler is imported
def compile_step(step: Step, tensors: list[torch.Tensor]) -> Step:
    """The step traced on fake tensors and fused by torch's compiler, or what this made of it before, from disk."""
    from torch._inductor import compile as inductor_compile
    from torch._inductor import config
    from torch.fx.experimental.proxy_tensor import make_fx

    # Small kernels that need nothing of each other become one. And products are of factors as they are: if these were
    # padded, results would lie in memory as nobody expects who was traced with them.
    settings: dict[str, Any] = {"combo_kernels": True, "shape_padding": False}
    if hasattr(config, "combo_kernel_max_num_nodes"):
        settings["combo_kernel_max_num_nodes"] = MOST_COMBINED
    if hasattr(config, "reorder_for_peak_memory"):
        # Or sums that only updates read would come before what the step goes on with.
        settings["reorder_for_peak_memory"] = False
    if hasattr(config.triton, "enable_pdl"):
        settings["triton.enable_pdl"] = True  # kernels start while the one before ends, as ours do
    with torch.no_grad(), config.patch(settings), _whole_levels_combined(), _cacheable() as fake:
        examples = [fake.from_tensor(tensor) for tensor in tensors]
        graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
        make_constants(graph)
        with _without_long_keys(graph):
            parts = without_updates(graph)
            if parts is None:
                return inductor_compile(graph, examples)
            compute, update, count = parts
            held = let_gradients_be_late(compute, count)
            with fake:
                between = [_like(node) for node in update.graph.find_nodes(op="placeholder")[len(tensors) :]]
            computed = inductor_compile(compute, examples)
            updated = inductor_compile(update, [*examples, *between])

    def both(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        with awaited(tensors[0].device):
            results = computed(*tensors)
        updated(*tensors, *results[count : len(results) - held])
        return results[:count]

    return both


@contextmanager
def _whole_levels_combined() -> Iterator[None]:
    """Let small kernels that need nothing of each other become one though they are many, where torch has no setting."""
    from torch._inductor import config, scheduler

    kernels: Any = getattr(scheduler, "ForeachKernelSchedulerNode", None)
    grouped = getattr(kernels, "group_algorithm_for_combo_kernels", None)
    if hasattr(config, "combo_kernel_max_num_nodes") or grouped is None:
        yield
        return
    kernels.set_group_algorithm_for_combo_kernels(lambda whole: joined_groups(grouped(whole), levels_of(whole)))
    try:
        yield
    finally:
        kernels.set_group_algorithm_for_combo_kernels(grouped)


def levels_of(scheduler: Any) -> dict[Any, int]:
    """How many others come before each of a scheduler's nodes at least."""
    levels = enumerate(scheduler._topological_sort_nodes())
    return {node: number for number, nodes in levels for node in nodes}


def joined_groups(groups: Sequence[Sequence[Any]], levels: dict[Any, int]) -> list[list[Any]]:
    """Groups of nodes, into which torch cuts each level, joined again as far as `MOST_COMBINED` nodes go."""
    joined: list[list[Any]] = []
    for group in groups:
        last = joined[-1] if joined else []
        kinds = {(levels[node], node.get_device()) for node in (*last, *group)}
        if last and len(kinds) == 1 and len(last) + len(group) <= MOST_COMBINED:
            last.extend(group)
        else:
            joined.append([*group])
    return joined


@contextmanager
def _cacheable() -> Iterator[FakeTensorMode]:
    """Let torch's compiler keep on disk what it makes of tensors of this mode.

    It wants a tracing context that has a `ShapeEnv`, though all shapes are numbers here. And what it keeps has to go
    when our operators change, or what is asked of it here.
    """
    config: Any = getattr(torch.compiler, "config", None)
    has_tag = hasattr(config, "cache_key_tag")
    fake = FakeTensorMode(shape_env=ShapeEnv() if has_tag else None, static_shapes=True, allow_non_fake_inputs=True)
    tag = config.patch(cache_key_tag=config.cache_key_tag + _sources_digest()) if has_tag else nullcontext()
    with tracing(TracingContext(fake)), tag:
        yield fake


def _sources_digest() -> str:
    """A digest of the sources that say what our operators give, and how steps are compiled."""
    from pytensor_convnet.kernels.cuda import formats
    from pytensor_convnet.lowering.cuda import collectives, operators

    return digest_of(__file__, *(str(module.__file__) for module in (collectives, formats, operators)))


def _without_long_keys(module: GraphModule) -> AbstractContextManager[Any]:
    """Settings of torch's compiler with which it does not list so many constants to know a step again."""
    import torch._functorch.config as config

    if sum(constant.numel() for constant in module.buffers()) <= MOST_IN_KEYS:
        return nullcontext()
    return config.patch(enable_autograd_cache=False)


def without_updates(module: GraphModule) -> tuple[GraphModule, GraphModule, int] | None:
    """A traced step in two: what computes, and what updates its inputs.

    Parameters
    ----------
    module : GraphModule
        Returns a list.

    Returns
    -------
    compute : GraphModule
        From the step's inputs to its results, followed by what ``update`` reads of what is between.
    update : GraphModule
        From the step's inputs and those values to nothing; writes into inputs.
    count : int
        How many results the step has.
    None, where nothing is updated
    """
    updates = _updates(module.graph)
    if not updates:
        return None
    read = [node for node in module.graph.nodes if node not in updates and updates.intersection(node.users)]
    views = _views_of_inputs(module.graph)
    between = [node for node in read if node not in views]
    compute, update = Graph(), Graph()
    in_compute: dict[Node, Node] = {}
    in_update: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            in_update[node] = update.node_copy(node)
    for node in between:  # the last placeholders
        in_update[node] = update.placeholder(f"computed_{node.name}")
        in_update[node].meta = dict(node.meta)
    for node in module.graph.nodes:
        if node.op == "output":
            [results] = node.args
            compute.output([in_compute[entry] for entry in (*results, *between)])
            update.output([])
        elif node in updates:
            in_update[node] = update.node_copy(node, in_update.__getitem__)
        else:
            in_compute[node] = compute.node_copy(node, in_compute.__getitem__)
            if node in views and node.op != "placeholder":
                in_update[node] = update.node_copy(node, in_update.__getitem__)
    return GraphModule(module, compute), GraphModule(module, update), len(results)


def _updates(graph: Graph) -> set[Node]:
    """The nodes that write into inputs, and the elementwise ones that nothing else needs."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op != "call_function":
            continue
        writes = node.target is torch.ops.aten.copy_.default and not node.users
        goes_along = node.users and found.issuperset(node.users) and _is_elementwise(node.target)
        if writes or (goes_along and not _is_shared_number(node)):
            found.add(node)
    return found


def _is_shared_number(node: Node) -> bool:
    """Whether several nodes read a number: a total, say, and the ring that shows it.

    Each would compute it from what it was before; so one of them would have to wait for the other, in another kernel.
    """
    value = node.meta.get("val")
    return len(node.users) > 1 and isinstance(value, torch.Tensor) and value.ndim == 0


def make_constants(module: GraphModule) -> None:
    """Compute now what follows from no input and would become a kernel, since ours, or products of matrices, read it.

    Such a kernel loads nothing, so torch's compiler does not let it wait for the one before, and who waits for it would
    not know that one to have ended.
    """
    made: set[Node] = set()
    for node in [*module.graph.nodes]:
        if node.op == "get_attr":
            made.add(node)
        if node.op != "call_function" or not made.issuperset(node.all_input_nodes):
            continue
        made.add(node)
        readers = [user for user in node.users if not _is_fused(user)]
        if readers and isinstance(node.meta["val"], torch.Tensor):
            name = f"_made_{node.name}"
            module.register_buffer(name, _value_of(module, node))
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta = dict(node.meta)
            for reader in readers:
                reader.replace_input_with(node, constant)
    module.recompile()


def _is_fused(reader: Node) -> bool:
    """Whether what a node reads is computed where it is read."""
    opaque = (KERNELS, torch.ops.aten.mm.default, torch.ops.aten.addmm.default,
              torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default)  # fmt: skip
    return reader.op != "output" and reader.target not in opaque


def _value_of(module: GraphModule, node: Node) -> torch.Tensor:
    """The value of a node that no input has a part in."""
    if node.op == "get_attr":
        return getattr(module, str(node.target))
    arguments, named = torch.fx.map_arg((node.args, node.kwargs), lambda entry: _value_of(module, entry))
    return node.target(*arguments, **named)


def _views_of_inputs(graph: Graph) -> set[Node]:
    """Inputs, constants and views of them, which each part makes for itself.

    The compiler takes what a part is given for different memory, and might write an input before it reads a view of it.
    """
    found: set[Node] = set()
    for node in graph.nodes:
        made_of_them = node.op == "call_function" and found.issuperset(node.all_input_nodes)
        if node.op in ("placeholder", "get_attr") or (
            made_of_them and (not node.all_input_nodes or _is_view(node.target))
        ):
            found.add(node)
    return found


def _is_view(target: Any) -> bool:
    if target is operator.getitem:  # one of several
        return True
    schema = getattr(target, "_schema", None)
    return schema is not None and any(
        result.alias_info is not None and not result.alias_info.is_write for result in schema.returns
    )


def _is_elementwise(target: Any) -> bool:
    casts = torch.ops.aten._to_copy.default
    return target is casts or torch.Tag.pointwise in getattr(target, "tags", ())


def _like(node: Node) -> torch.Tensor:
    """A tensor such as a node makes."""
    fake = node.meta["val"]
    return torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device=fake.device)
