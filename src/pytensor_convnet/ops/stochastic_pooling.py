"""Winners that are drawn: the one step of stochastic pooling that no other Op has.

    DrawWinners2d(images, uniforms) -> winners

Everything after it is the same as for max pooling: values are picked at winners, gradients scattered to them.
"""

import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply

from pytensor_convnet.ops.base import ConvnetOp, as_images
from pytensor_convnet.ops.pooling import as_windows, check_static_pooled, winners_dtype


class DrawWinners2d(ConvnetOp):
    """Draw one pixel of each window, each as probable as its share of the window's sum.

    ``uniforms``, numbers from 0 to 1 of the pooled shape, decide: a window's winner is the first tap, row by row, at
    which the running sum exceeds ``uniforms`` times the whole sum. Negative pixels count as zero. A window without a
    positive pixel gives its first; one with an infinity or NaN what max pooling gives. `reference.draw_winners2d` is
    the definition. Winners are positions in the window, as `MaxPool2d` has them. They have no derivatives.
    """

    __props__ = ()
    gufunc_signature = "(b,c,h,w),(b,c,y,x),(p),(p),(p,p)->(b,c,y,x)"
    tensor_count = 2

    def make_node(self, images, uniforms, window, stride, padding):
        images = as_images(images, "input")
        uniforms = as_images(uniforms, "uniforms").astype(images.type.dtype)
        windows = as_windows(window, stride, padding)
        check_static_pooled(images.type.shape, uniforms.type.shape, windows)
        winners = pt.tensor(dtype=winners_dtype(windows[0]), shape=uniforms.type.shape)
        return Apply(self, [images, uniforms, *windows], [winners])

    def output_shapes(self, shapes, *integers):
        return [tuple(shapes[1])]

    def connection_pattern(self, node):
        return [[False]] * len(node.inputs)

    def pullback(self, inputs, outputs, cotangents):
        return [disconnected_type() for _ in inputs]

    def pushforward(self, inputs, outputs, tangents):
        return [disconnected_type()]
