"""Gradients of parameters that only updates read, computed beside what the step goes on with.

Where the gradients for images and for parameters are one call, it is told that the latter may be late; a product of
matrices, the gradient of a dense layer's weights, becomes such a call. The step waits for them before parameters are
updated. What they read must not be overwritten meanwhile: for torch's compiler it is a result of the step, which it
neither frees nor uses again.
"""

import json
import operator
from collections.abc import Sequence

import torch
from torch.fx import GraphModule, Node

from pytensor_convnet.lowering.cuda.operators import KernelCall, kernels

GRADIENTS = {"correlate2d_grads": True, "correlate2d_max_pool2d_grads": True, "rectified_average_pool2d_grad": False}
"""Functions of our operator that give the gradients of images and of parameters, which may be late, and whether it is
their own operands that are read late then."""

KERNELS = kernels._opoverload
"""Our operator, as graphs name it."""

MOST_HELD = 32 << 20
"""Bytes that a call may read for this: kernels of larger maps fill a GPU alone, and memory is held."""


def let_gradients_be_late(module: GraphModule, count: int) -> int:
    """Let gradients be late that only updates read: those of parameters beside one of images, and products.

    Parameters
    ----------
    module : GraphModule
        Returns a list, of which the results from ``count`` on are read by updates alone; changed in place.

    Returns
    -------
    int
        How many results were added, at the end, to be held until all is computed.
    """
    output = module.graph.output_node()
    held: dict[Node, None] = {}
    [results] = output.args
    early = set(results[:count])
    for node in [node for node in results[count:] if set(node.users) == {output} and node not in early]:
        factors = _factors(node)
        if factors and _bytes(factors) <= MOST_HELD:
            held.update(dict.fromkeys(x for x in factors if x.op == "call_function"))
            _call_late_product(module, node, factors)
    [results] = output.args
    for node in module.graph.find_nodes(op="call_function", target=KERNELS)[:-1]:  # nothing follows the last one
        tensors, said = node.args
        read_early = {part.args[1] for part in node.users if set(part.users) - {output} or part in results[:count]}
        calls, first, place = json.loads(said), 0, 0
        for name, given, _, _, keywords, described in calls:
            read = tensors[first : first + given]
            late = read if GRADIENTS.get(name) else ()
            if name in GRADIENTS and place + 1 not in read_early and _bytes(late) <= MOST_HELD:
                keywords["late"] = True
                held.update(dict.fromkeys(x for x in late if x.op == "call_function"))
            first, place = first + given, place + len(described)
        node.args = (tensors, json.dumps(calls))
    output.args = ([*results, *held],)
    module.recompile()
    return len(held)


def _factors(node: Node) -> tuple[Node, ...]:
    """Two matrices that a node is the product of, or parts of two whose products it sums; nothing if it is none."""
    if node.target is torch.ops.aten.mm.default:
        return node.args
    if node.target is torch.ops.aten.sum.dim_IntList and node.args[1:2] == ([0],):
        parts = node.args[0]
        if parts.target is torch.ops.aten.bmm.default and set(parts.users) == {node}:
            return parts.args
    return ()


def _call_late_product(module: GraphModule, product: Node, factors: Sequence[Node]) -> None:
    """Compute a product by `kernels.cuda.late_product`."""
    value = product.meta["val"]
    call = KernelCall("late_product", list(factors), (str(value.dtype),), [(tuple(value.shape), value.dtype, "")])
    with module.graph.inserting_before(product):
        results = module.graph.call_function(KERNELS, (call.tensors, json.dumps([call.said()])))
        late = module.graph.call_function(operator.getitem, (results, 0))
    results.meta, late.meta = {"val": [value]}, dict(product.meta)
    product.replace_all_uses_with(late)
    module.graph.erase_node(product)
    module.graph.eliminate_dead_code()


def _bytes(nodes: Sequence[Node]) -> int:
    values = [node.meta["val"] for node in nodes]
    return sum(value.numel() * value.element_size() for value in values)
