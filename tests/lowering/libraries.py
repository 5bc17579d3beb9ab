"""What JAX, MLX and torch compute for one Op, without PyTensor's linkers: a geometry takes no time to compile then."""

import numpy as np
import pytensor.tensor as pt
import pytest

from pytensor_convnet.lowering.arrays.operations import function_of


def by_jax(op, node, tensors, integers):
    import jax

    # Imports JAX as the linker does, which lets it have float64.
    from pytensor.link.jax.dispatch import jax_funcify

    function = jax_funcify(op, node=node)
    return jax.jit(lambda *tensors: function(*tensors, *integers))(*tensors)


def by_mlx(op, node, tensors, integers):
    import mlx.core as mx
    from pytensor.link.mlx.dispatch import mlx_funcify, mlx_typify

    skip_where_mlx_has_no_float64()
    with mx.stream(mx.cpu):  # Apple's GPUs have no float64
        return mlx_funcify(op, node=node)(*map(mlx_typify, tensors), *integers)


def skip_where_mlx_has_no_float64():
    basic = pytest.importorskip("pytensor.link.mlx.dispatch.basic")
    if not hasattr(basic, "float64_supported"):
        pytest.skip("this PyTensor converts all floats to float32 for MLX")


def by_torch(op, node, tensors, integers):
    import torch

    from pytensor_convnet.lowering.pytorch import _Torch

    function = function_of(op, node, _Torch())
    return function(*(torch.from_numpy(np.array(x, order="C")) for x in tensors), *integers)


LIBRARIES = [
    pytest.param(("jax", by_jax), id="jax"),
    pytest.param(("mlx", by_mlx), id="mlx"),
    pytest.param(("torch", by_torch), id="torch"),
]


def run(library, op, tensors, integers=()):
    """The outputs of ``op`` for arrays, as a library computes them; skips the test where there is no such library."""
    name, compute = library
    pytest.importorskip(name)
    node = op.make_node(*(pt.tensor(dtype=x.dtype, shape=(None,) * x.ndim) for x in tensors), *integers)
    results = compute(op, node, tensors, integers)
    results = results if isinstance(results, list | tuple) else [results]
    arrays = [np.asarray(result) for result in results]
    assert [array.dtype for array in arrays] == [output.type.dtype for output in node.outputs]
    return arrays
