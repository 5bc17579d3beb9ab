"""Locally connected layers of c01b images: as in `acts`, but every position has filters of its own.

    LocalFilterActs(images, filters) -> maps
    LocalImageActs(maps, filters, output_shape) -> images
    LocalWeightActs(images, maps, output_shape) -> filters

Filters are (output rows, output columns, channels // groups, rows, columns, filters), as the local layers of
cuda-convnet keep them.
"""

from typing import Any

from pytensor.graph.basic import Variable

from pytensor_convnet.cuda_convnet.acts import FilterActs, ImageActs, WeightActs
from pytensor_convnet.cuda_convnet.errors import LOCAL_FILTER_AXES
from pytensor_convnet.cuda_convnet.layouts import from_bc01
from pytensor_convnet.ops.locally_connected import LocallyConnected2d


class LocalFilterActs(FilterActs):
    """Correlate each position of c01b images with filters of its own; see `FilterActs`.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import LocalFilterActs
    >>> images = pt.tensor("images", shape=(3, 8, 8, 128), dtype="float32")
    >>> filters = pt.tensor("filters", shape=(4, 4, 3, 3, 3, 16), dtype="float32")
    >>> LocalFilterActs(stride=2)(images, filters).type.shape
    (16, 4, 4, 128)
    """

    _op_type = LocallyConnected2d
    _filter_axes = LOCAL_FILTER_AXES


class LocalImageActs(ImageActs):
    """The gradient of `LocalFilterActs` for its images; see `ImageActs`."""

    _op_type = LocallyConnected2d
    _filter_axes = LOCAL_FILTER_AXES


class LocalWeightActs(WeightActs):
    """The gradient of `LocalFilterActs` for its filters; there are no partial sums, positions do not add up."""

    _op_type = LocallyConnected2d

    def __call__(self, images: Any, hid_grads: Any, output_shape: Any = None) -> Variable:
        """The gradient for the filters.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
        hid_grads : tensor of shape (filters, output rows, output columns, batch)
        output_shape : (rows, columns), optional
            Of each filter. May be left out for stride 1.

        Returns
        -------
        tensor of shape (output rows, output columns, channels // groups, rows, columns, filters)

        Raises
        ------
        ValueError
            If the shapes do not fit each other.
        """
        return from_bc01(self._gradient(images, hid_grads, output_shape))
