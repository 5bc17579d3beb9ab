"""``theano.tensor.nnet.conv``: the convolution of the first tutorials."""

import warnings
from collections.abc import Sequence
from typing import Any

from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet.abstract_conv import get_conv_shape_1axis, without_batch

HOW_NOT_WHAT = ("version", "unroll_batch", "unroll_kern", "unroll_patch", "openmp", "verbose", "nkern", "bsize")
"""Arguments that told Theano how to compute; nothing depends on them here."""


def conv2d(
    input: Any,
    filters: Any,
    image_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    **kargs: Any,
) -> Variable:
    """Convolve images with a bank of filters: `pytensor_convnet.conv2d` with its oldest arguments.

    Parameters
    ----------
    input : tensor of shape (batch, channels, rows, columns)
    filters : tensor of shape (filters, channels, rows, columns)
    image_shape, filter_shape : sequence of int or None, optional
        What is known beforehand of the shapes. The batch is a hint: other batches are taken too.
    border_mode : {'valid', 'full'}
        Any other border mode of `pytensor_convnet.conv2d` is taken as well.
    subsample : (int, int)
        The stride.
    **kargs
        ``version``, ``unroll_batch`` and the like, which told Theano how to compute: have no effect.

    Returns
    -------
    tensor of shape (batch, filters, output rows, output columns)

    Raises
    ------
    ValueError
        As `pytensor_convnet.conv2d`; or for ``imshp_logical`` and ``kshp_logical``.
    TypeError
        For arguments that never existed.
    """
    _check_arguments("conv2d", kargs)
    return ours.conv2d(input, filters, without_batch(image_shape), filter_shape, border_mode, subsample)


def _check_arguments(function: str, arguments: dict[str, Any]) -> None:
    logical = [name for name in arguments if name.endswith("_logical") and arguments[name] is not None]
    if logical:
        raise ValueError(
            f"{function}: {', '.join(logical)} is not supported: to raise resolution, use conv2d_transpose"
        )
    unknown = [name for name in arguments if name not in HOW_NOT_WHAT and not name.startswith(("imshp_", "kshp_"))]
    if unknown:
        raise TypeError(f"{function} has no argument {', '.join(unknown)}")
    if arguments:
        warnings.warn(f"{function}: {', '.join(arguments)} has no effect here", stacklevel=3)


class ConvOp:
    """The convolution as an object: `conv2d` by the Op's name in Theano.

    Parameters
    ----------
    imshp, kshp, nkern, bsize
        What is known of the shapes: (channels, rows, columns) of an image, (rows, columns) of a filter, the numbers of
        filters and of images. Not needed.
    dx, dy : int
        The stride of rows and of columns.
    output_mode : {'valid', 'full'}
        The border mode.
    **kargs
        Have no effect, as for `conv2d`.
    """

    def __init__(
        self,
        imshp: Any = None,
        kshp: Any = None,
        nkern: int | None = None,
        bsize: int | None = None,
        dx: int = 1,
        dy: int = 1,
        output_mode: Any = "valid",
        **kargs: Any,
    ):
        _check_arguments("ConvOp", kargs)
        self.subsample, self.output_mode = (dx, dy), output_mode

    def __call__(self, inputs: Any, kerns: Any) -> Variable:
        return ours.conv2d(inputs, kerns, border_mode=self.output_mode, subsample=self.subsample)

    @staticmethod
    def getOutputShape(inshp: Any, kshp: Any, stride: Any = (1, 1), mode: str = "valid") -> tuple[Any, ...]:
        """(rows, columns) of the output for images and filters of (rows, columns)."""
        return tuple(get_conv_shape_1axis(length, taps, mode, step) for length, taps, step in zip(inshp, kshp, stride))


__getattr__, __dir__ = mirror(__name__)
