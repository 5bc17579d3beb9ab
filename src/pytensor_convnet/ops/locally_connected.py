"""Correlation whose filters are not shared between positions: each output pixel has its own.

The same family as in `correlation`, with filters of six axes,
``(filters, output rows, output columns, channels // groups, rows, columns)``.
"""

from pytensor_convnet import geometry
from pytensor_convnet.ops.base import check_no_problem
from pytensor_convnet.ops.correlation import Correlation, FilterGrad, Forward, InputGrad


class LocallyConnected2d(Forward):
    """Correlate every position of the images with filters of its own; `reference.locally_connected2d` defines it."""

    gufunc_signature = "(b,c,h,w),(f,y,x,k,r,s)->(b,f,y,x)"
    filter_ndim = 6

    def check_static(self, images, filters):
        maps = (images[0], *filters[:3])
        check_no_problem(geometry.maps_problem(images, filters, maps, *self._window_facts()))


class LocallyConnected2dInputGrad(InputGrad):
    """The gradient of `LocallyConnected2d` for its images."""

    gufunc_signature = "(f,y,x,k,r,s),(b,f,y,x),(),()->(b,c,h,w)"
    filter_ndim = 6


class LocallyConnected2dFilterGrad(FilterGrad):
    """The gradient of `LocallyConnected2d` for its filters."""

    gufunc_signature = "(b,c,h,w),(b,f,y,x),(),()->(f,y,x,k,r,s)"
    filter_ndim = 6

    def output_shapes(self, shapes, *integers):
        images, maps = shapes
        return [(maps[1], maps[2], maps[3], images[1] // self.groups, *integers)]


_FAMILY: dict[str, type[Correlation]] = {
    "forward": LocallyConnected2d,
    "input_grad": LocallyConnected2dInputGrad,
    "filter_grad": LocallyConnected2dFilterGrad,
}
for _member in _FAMILY.values():
    _member.family = _FAMILY
