"""The network that cuda-convnet taught CIFAR-10: three convolutions, each pooled with overlap, and a softmax.

    images          (batch, channels, 32, 32)
    convolution     32 filters of 5 x 5, padded by 2    (batch, 32, 32, 32)
    max pooling     3 x 3, stride 2, padded by 1        (batch, 32, 16, 16)     + bias, relu
    convolution     32 filters of 5 x 5, padded by 2    (batch, 32, 16, 16)     + bias, relu
    mean pooling    3 x 3, stride 2, padded by 1        (batch, 32, 8, 8)
    convolution     64 filters of 5 x 5, padded by 2    (batch, 64, 8, 8)       + bias, relu
    mean pooling    3 x 3, stride 2, padded by 1        (batch, 64, 4, 4)
    softmax         one unit a class                    (batch, classes)

After A. Krizhevsky's cuda-convnet (2011), its layers-80sec; without local response normalisation.
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.conv import conv2d
from pytensor_convnet.models.base import Classifier, Shape, he_normal
from pytensor_convnet.pool import max_pool_2d, pool_2d

FILTERS = (32, 32, 64)
FILTER_LENGTH = 5
POOL_LENGTH = 3
POOL_STRIDE = 2
POOL_PADDING = 1


class CudaConvnet(Classifier):
    """cuda-convnet's network for CIFAR-10.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial parameters.
    image_shape : (int, int, int)
        (channels, rows, columns) of the images: any number of each.
    number_of_classes : int
    normalisation : Normalisation, optional
        Pixel statistics. By default images are used as they are.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> network = CudaConvnet(np.random.default_rng(0), image_shape=(3, 32, 32), number_of_classes=10)
    >>> images = pt.tensor("images", shape=(None, 3, 32, 32), dtype="float32")
    >>> network.probabilities(images).type.shape
    (None, 10)
    >>> network.parameters["softmax_weights"].get_value().shape
    (1024, 10)
    """

    name = "cuda_convnet"

    @staticmethod
    def parameter_shapes(image_shape: Shape, number_of_classes: int) -> dict[str, Shape]:
        if min(image_shape) < 1:
            raise ValueError(f"image_shape must be (channels, rows, columns), all positive, got {image_shape}")
        channels, rows, columns = image_shape
        shapes: dict[str, Shape] = {}
        for number, filters in enumerate(FILTERS, start=1):
            shapes[f"conv{number}_filters"] = (filters, channels, FILTER_LENGTH, FILTER_LENGTH)
            shapes[f"conv{number}_biases"] = (filters,)
            channels, rows, columns = filters, pooled_length(rows), pooled_length(columns)
        shapes["softmax_weights"] = (channels * rows * columns, number_of_classes)
        shapes["softmax_biases"] = (number_of_classes,)
        return shapes

    @staticmethod
    def initial_value(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
        # Biases break no symmetry, and a softmax of zeros begins without prejudice: every class equally probable.
        if name.endswith("biases") or name == "softmax_weights":
            return np.zeros(shape, np.float32)
        return he_normal(rng, shape, fan_in=shape[1] * shape[2] * shape[3])

    def logits(self, images: Variable) -> Variable:
        p = self.parameters
        maps = conv2d(images, p["conv1_filters"], border_mode="half")
        # The maximum of the relu is the relu of the maximum; after pooling it is computed for a quarter of the pixels.
        pooled = max_pool_2d(
            maps,
            ds=(POOL_LENGTH, POOL_LENGTH),
            st=(POOL_STRIDE, POOL_STRIDE),
            padding=(POOL_PADDING, POOL_PADDING),
            ignore_border=True,
        )
        first = pt.maximum(pooled + p["conv1_biases"].dimshuffle("x", 0, "x", "x"), 0)
        second = mean_pooled_layer(first, p["conv2_filters"], p["conv2_biases"])
        third = mean_pooled_layer(second, p["conv3_filters"], p["conv3_biases"])
        return third.flatten(2) @ p["softmax_weights"] + p["softmax_biases"]


def mean_pooled_layer(images: Variable, filters: Variable, biases: Variable) -> Variable:
    """Convolve, add the biases, rectify, and take the mean of each 3 x 3 pixels, two pixels apart.

    Parameters
    ----------
    images : float32 tensor, (batch, channels, rows, columns)
    filters : float32 tensor, (filters, channels, filter rows, filter columns)
    biases : float32 tensor, (filters,)

    Returns
    -------
    float32 tensor, (batch, filters, (rows + 1) // 2, (columns + 1) // 2)

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> images = pt.tensor("images", shape=(None, 32, 16, 16), dtype="float32")
    >>> filters = pt.tensor("filters", shape=(64, 32, 5, 5), dtype="float32")
    >>> mean_pooled_layer(images, filters, pt.fvector("biases")).type.shape
    (None, 64, 8, 8)
    """
    maps = pt.maximum(conv2d(images, filters, border_mode="half") + biases.dimshuffle("x", 0, "x", "x"), 0)
    return pool_2d(
        maps,
        ws=(POOL_LENGTH, POOL_LENGTH),
        ignore_border=True,
        stride=(POOL_STRIDE, POOL_STRIDE),
        pad=(POOL_PADDING, POOL_PADDING),
        mode="average_inc_pad",
    )


def pooled_length(length: int) -> int:
    """How many rows (or columns) a layer makes of ``length``.

    Examples
    --------
    >>> pooled_length(32), pooled_length(15), pooled_length(1)
    (16, 8, 1)
    """
    return (length + 2 * POOL_PADDING - POOL_LENGTH) // POOL_STRIDE + 1
