"""The gradient of what tanh was applied to, and its sum over each channel, in one pass over bc01 tensors.

gradient[b, c, y, x] = tanhs_grad[b, c, y, x] * (1 - tanhs[b, c, y, x]**2)
sums[c] = sum of gradient[b, c, y, x]
"""

import numpy as np
from llvmlite import ir
from numba import types

from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.jit import any_layout, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.packing import follow_each_other
from pytensor_convnet.kernels.cpu.pool_checks import useful_threads

_SLICES = 32
"""Pieces of a batch that are summed apart. Fixed, so that sums do not depend on the number of threads."""


@emitted(arrays=1)
def _along_planes(e, vector, planes, size, tanhs, gradients, target, sums_at):
    """Write the gradient of ``planes`` planes of ``size`` numbers, which follow each other, and add each up, by lanes.

    The sums, one for each plane and lane, have 64 bits.
    """
    item, lanes = item_bytes(vector), vector.count
    wide = ir.VectorType(ir.DoubleType(), lanes)
    whole = size // lanes * lanes
    with e.range(0, planes) as plane:
        begin, place = plane * size * item, sums_at + plane * (8 * lanes)

        def passed(tanh, gradient, total):
            shown = gradient * (1 - tanh * tanh)
            return shown, total + shown.widened()

        def pass_vector(offset, totals, begin=begin, passed=passed):
            at = begin + offset * item
            shown, total = passed(e.load(vector, tanhs + at), e.load(vector, gradients + at), totals[0])
            e.store(target + at, shown)
            return [total]

        (total,) = e.fold(0, whole, lanes, [e.load(wide, place)], pass_vector)
        e.store(place, total)
        with e.when(whole < size):
            at, few, none = begin + whole * item, size - whole, e.constant(vector, 0)
            shown, total = passed(e.load_first(tanhs + at, few, none), e.load_first(gradients + at, few, none), total)
            e.store_first(target + at, few, shown)
            e.store(place, total)


def _signature(number):
    source = types.Array(number, 4, "A", readonly=True)
    return source, source, number[:, :, :, ::1], types.float64[:, :, ::1]


@chunked(_signature)
@plain_part
def _of_images(chunk, chunks, tanhs, tanhs_grad, gradient, sums):
    """Chunk ``chunk`` of all slices of the batch, whose channels add to the slice's sums."""
    batch, channels, size = tanhs.shape[0], tanhs.shape[1], tanhs.shape[2] * tanhs.shape[3]
    slices = sums.shape[0]
    for number in range(chunk * slices // chunks, (chunk + 1) * slices // chunks):
        sums[number] = 0
        for image in range(number * batch // slices, (number + 1) * batch // slices):
            shift = image * channels * size * tanhs.itemsize
            _along_planes(
                tanhs, channels, size, address_of(tanhs) + shift, address_of(tanhs_grad) + shift,
                address_of(gradient) + shift, address_of(sums) + number * sums.strides[0],
            )  # fmt: skip


@plain_part
def _in_order(array):
    """The array, or a copy whose numbers follow each other in memory."""
    if follow_each_other(array):
        return array
    copy = new_array(array.shape, array.dtype)
    for b in range(array.shape[0]):
        for c in range(array.shape[1]):
            for y in range(array.shape[2]):
                for x in range(array.shape[3]):
                    copy[b, c, y, x] = array[b, c, y, x]
    return any_layout(copy)


def _grad_signature(number):
    source = types.Array(number, 4, "A", readonly=True)
    return types.Tuple((number[:, :, :, ::1], number[::1]))(source, source)


@detached(_grad_signature)
@plain_part
def _tanh_grad(tanhs, tanhs_grad):
    for axis in range(4):
        if tanhs.shape[axis] != tanhs_grad.shape[axis]:
            raise ValueError("tanhs_grad must have the shape of tanhs: there is a gradient for each number")
    channels = tanhs.shape[1]
    gradient, total = new_array(tanhs.shape, tanhs.dtype), new_array((channels,), tanhs.dtype)
    sums = new_array((min(_SLICES, tanhs.shape[0]), channels, VECTOR_BYTES // tanhs.itemsize), np.float64)
    _of_images(useful_threads(tanhs.size), _in_order(tanhs), _in_order(tanhs_grad), gradient, sums)
    for c in range(channels):
        added = 0.0
        for number in range(sums.shape[0]):
            for lane in range(sums.shape[2]):
                added += sums[number, c, lane]
        total[c] = added
    return gradient, total


@plain_kernel
def tanh_grad(tanhs, tanhs_grad):
    """The gradient for what tanh was applied to, and its sum for each channel; see `reference.tanh_grad`.

    Sums have 64 bits. Floor: both tensors read once, the gradient written once.
    """
    return _tanh_grad(any_layout(tanhs), any_layout(tanhs_grad))
