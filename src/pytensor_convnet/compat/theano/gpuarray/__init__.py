"""``theano.gpuarray``: Theano's second way to a GPU, with what the first had."""

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.gpuarray import basic_ops, blas, dnn
from pytensor_convnet.compat.theano.sandbox.cuda import use

__all__ = ["basic_ops", "blas", "dnn", "pygpu_activated", "use"]

pygpu_activated = True

__getattr__, __dir__ = mirror(
    __name__,
    missing={
        "GpuArrayType": "there is one kind of array here: use TensorType of theano.tensor",
        "GpuArrayVariable": "there is one kind of array here: use TensorVariable of theano.tensor",
    },
)
