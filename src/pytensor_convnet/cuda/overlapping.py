"""Gradients of filters that only updates read, computed beside what the step goes on with.

Where both gradients of a correlation are one call, it is told that the one of the filters may be late; the step waits
for it before parameters are updated. What the call reads must not be overwritten meanwhile: for torch's compiler it is
a result of the step, which it neither frees nor uses again.
"""

import json

from torch.fx import GraphModule, Node

from pytensor_convnet.lowering.cuda.operators import kernels

GRADIENTS = ("correlate2d_grads", "correlate2d_max_pool2d_grads")
"""Functions of our operator that give the gradients of images and of filters."""

KERNELS = kernels._opoverload
"""Our operator, as graphs name it."""

MOST_HELD = 32 << 20
"""Bytes that a call may read for this: kernels of larger maps fill a GPU alone, and memory is held."""


def let_filters_be_late(module: GraphModule, count: int) -> int:
    """Tell calls that give both gradients of a correlation that the second may be late, where only updates read it.

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
    [results] = output.args
    held: dict[Node, None] = {}
    for node in module.graph.find_nodes(op="call_function", target=KERNELS)[:-1]:  # nothing follows the last one
        tensors, said = node.args
        read_early = {part.args[1] for part in node.users if set(part.users) - {output} or part in results[:count]}
        calls, first, place = json.loads(said), 0, 0
        for name, given, _, _, keywords, described in calls:
            read = tensors[first : first + given]
            if name in GRADIENTS and place + 1 not in read_early and _bytes(read) <= MOST_HELD:
                keywords["filters_late"] = True
                held.update(dict.fromkeys(x for x in read if x.op == "call_function"))
            first, place = first + given, place + len(described)
        node.args = (tensors, json.dumps(calls))
    output.args = ([*results, *held],)
    module.recompile()
    return len(held)


def _bytes(nodes: list[Node]) -> int:
    values = [node.meta["val"] for node in nodes]
    return sum(value.numel() * value.element_size() for value in values)
