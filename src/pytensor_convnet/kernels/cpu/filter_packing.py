"""Filters in the order in which a correlation's register blocks read them."""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.detached import inner_kernel
from pytensor_convnet.kernels.cpu.packing import block_filters


def _view(context, builder, array_type, given, shape, strides):
    """An array of ``array_type`` on the memory of ``given``."""
    view = context.make_array(array_type)(context, builder)
    names = ("data", "parent", "meminfo", "itemsize")
    attributes = {name: getattr(given, name) for name in names}
    attributes["nitems"] = given.nitems
    for name, value in attributes.items():
        setattr(view, name, value)
    view.shape, view.strides = cgutils.pack_array(builder, shape), cgutils.pack_array(builder, strides)
    if context.enable_nrt:
        context.nrt.incref(builder, array_type, view._getvalue())
    return view._getvalue()


@intrinsic
def split_groups(typing_context, filters, groups):
    """Filters ``(filters, channels, rows, columns)`` as ``(groups, filters // groups, channels, rows, columns)``.

    A view, whatever the strides; Numba's `reshape` wants contiguous arrays.
    """
    result = types.Array(filters.dtype, 5, "A", readonly=True)

    def codegen(context, builder, signature, arguments):
        given = context.make_array(signature.args[0])(context, builder, arguments[0])
        count, *shape = cgutils.unpack_tuple(builder, given.shape)
        step, *strides = cgutils.unpack_tuple(builder, given.strides)
        part = builder.sdiv(count, arguments[1])
        shape, strides = [arguments[1], part, *shape], [builder.mul(part, step), step, *strides]
        return _view(context, builder, result, given, shape, strides)

    return result(filters, types.intp), codegen


@intrinsic
def swap_roles(typing_context, filters):
    """Filters ``(groups, filters, channels, rows, columns)`` with the axes of filters and channels exchanged.

    Numba's `transpose` does the same and takes a second to compile.
    """

    def codegen(context, builder, signature, arguments):
        given = context.make_array(filters)(context, builder, arguments[0])
        groups, count, channels, *taps = cgutils.unpack_tuple(builder, given.shape)
        group_step, step, channel_step, *steps = cgutils.unpack_tuple(builder, given.strides)
        shape, strides = [groups, channels, count, *taps], [group_step, channel_step, step, *steps]
        return _view(context, builder, filters, given, shape, strides)

    return filters(filters), codegen


@inner_kernel
def pack_filters(filters, rows, columns, packed):
    """Write filters ``(groups, filters, channels, rows, columns)`` in the order in which register blocks read
    them::

        for group: for row_phase: for column_phase: for block of filters:
            for row tap: for channel: for column tap: for filter in block
    """
    groups, count, channels = filters.shape[:3]
    at = 0
    for group in range(groups):
        for row_phase in range(rows.out_step):
            for column_phase in range(columns.out_step):
                first = 0
                while first < count:
                    stop = first + block_filters(count - first)
                    for r in rows.taps[rows.starts[row_phase] : rows.starts[row_phase + 1]]:
                        for channel in range(channels):
                            for c in columns.taps[columns.starts[column_phase] : columns.starts[column_phase + 1]]:
                                for f in range(first, stop):
                                    packed[at] = filters[group, f, channel, r, c]
                                    at += 1
                    first = stop
