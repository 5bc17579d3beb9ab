"""``theano.tensor.nnet.Conv3D``: Theano's first convolution in three dimensions, with channels last."""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet import three_dimensions


def conv3D(V: Any, W: Any, b: Any, d: Any) -> Variable:
    """Correlate volumes with filters (they are not flipped), and add a bias.

    Parameters
    ----------
    V : tensor of shape (batch, rows, columns, time, channels)
    W : tensor of shape (filters, rows, columns, time, channels)
    b : tensor of shape (filters,)
    d : (int, int, int)
        The stride.

    Returns
    -------
    tensor of shape (batch, output rows, output columns, output time, filters)
    """
    volumes = pt.as_tensor_variable(V).dimshuffle(0, 4, 1, 2, 3)
    filters = pt.as_tensor_variable(W).dimshuffle(0, 4, 1, 2, 3)
    maps = three_dimensions.conv3d(volumes, filters, subsample=tuple(d), filter_flip=False)
    return maps.dimshuffle(0, 2, 3, 4, 1) + b


def Conv3D() -> Any:
    """The Op's name in Theano: gives `conv3D`."""
    return conv3D


__getattr__, __dir__ = mirror(
    __name__,
    missing={
        "convTransp3D": "use theano.tensor.nnet.abstract_conv.conv3d_grad_wrt_inputs",
        "convGrad3D": "use theano.tensor.nnet.abstract_conv.conv3d_grad_wrt_weights",
    },
)
