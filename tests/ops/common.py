"""What tests of several Ops share: evaluating one Op, and checking what every Op promises."""

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from pytensor.gradient import pushforward
from pytensor.graph.replace import vectorize_graph

from pytensor_convnet.ops.base import evaluate

PYTHON = Mode(linker="py", optimizer="fast_run")
"""Runs every Op's ``perform``, without compiling."""


def run(op, *inputs):
    """The outputs of ``op`` for arrays, by its ``perform``."""
    node = op.make_node(*map(pt.as_tensor, inputs))
    return evaluate(op, node, *map(np.asarray, inputs))


def symbols_like(arrays, *, static=False):
    """A symbolic variable for each array."""
    return [
        pt.tensor(f"x{i}", dtype=array.dtype, shape=array.shape if static else (None,) * array.ndim)
        for i, array in enumerate(arrays)
    ]


def close(ours, other, tolerance=1e-10):
    np.testing.assert_allclose(ours, other, rtol=tolerance, atol=tolerance)


def check_static_shapes(op, arrays, integers=()):
    """Static output shapes are the shapes that come out."""
    node = op.make_node(*symbols_like(arrays, static=True), *integers)
    for output, result in zip(node.outputs, run(op, *arrays, *integers)):
        assert output.type.shape == result.shape
        assert output.type.dtype == result.dtype


def check_infer_shape(op, arrays, integers=()):
    """The output's shape is found without computing the output."""
    tensors = symbols_like(arrays)
    outputs = op.make_node(*tensors, *integers).outputs
    shapes = pytensor.function(tensors, [output.shape for output in outputs], mode=PYTHON, on_unused_input="ignore")
    assert op not in [node.op for node in shapes.maker.fgraph.apply_nodes]
    for found, result in zip(shapes(*arrays), run(op, *arrays, *integers)):
        assert tuple(found) == result.shape


def check_pushforward(op, arrays, integers=(), linear=None):
    """The Jacobian-vector product is what central differences say."""
    tensors = symbols_like(arrays)
    wanted = [i for i, array in enumerate(arrays) if array.dtype.kind == "f"] if linear is None else linear
    output = op.make_node(*tensors, *integers).outputs[0]
    tangents = [tensors[i].type(f"t{i}") for i in wanted]
    product = pushforward(output, [tensors[i] for i in wanted], tangents, use_op_pushforward=True)
    function = pytensor.function([*tensors, *tangents], product, mode=PYTHON, on_unused_input="ignore")
    random = np.random.default_rng(1)
    values = [random.standard_normal(arrays[i].shape) for i in wanted]
    moved = dict(zip(wanted, values))

    def at(step):
        return run(op, *(x + step * moved[i] if i in moved else x for i, x in enumerate(arrays)), *integers)[0]

    step = 1e-4
    close(function(*arrays, *values), (at(step) - at(-step)) / (2 * step), 1e-6)


def check_vectorized(op, arrays, integers=(), batched=(0,)):
    """`vectorize_graph` over two leading axes gives the stack of the Op's results."""
    tensors = symbols_like(arrays)
    outputs = op.make_node(*tensors, *integers).outputs
    with_batch = {
        tensors[i]: pt.tensor(f"v{i}", dtype=arrays[i].dtype, shape=(None,) * (2 + arrays[i].ndim)) for i in batched
    }
    function = pytensor.function(
        [with_batch.get(x, x) for x in tensors], vectorize_graph(outputs, with_batch), mode=PYTHON
    )
    random = np.random.default_rng(2)

    def stack(array):
        # Winners belong to their windows: only other arrays may be shuffled.
        shuffled = (array if array.dtype == np.uint8 else random.permuted(array, axis=-1) for _ in range(6))
        return np.stack(list(shuffled)).reshape((2, 3, *array.shape))

    stacks = {i: stack(arrays[i]) for i in batched}
    results = function(*(stacks.get(i, x) for i, x in enumerate(arrays)))
    for place in np.ndindex(2, 3):
        single = run(op, *(stacks[i][place] if i in stacks else x for i, x in enumerate(arrays)), *integers)
        for result, alone in zip(results, single):
            close(result[place], alone)
