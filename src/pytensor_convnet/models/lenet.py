"""LeNet, as the Theano tutorial taught it: two convolutions, each pooled, and a perceptron on top.

    images          (batch, channels, 28, 28)
    convolution     20 filters of 5 x 5         (batch, 20, 24, 24)
    max pooling     2 x 2                       (batch, 20, 12, 12)     + bias, tanh
    convolution     50 filters of 5 x 5         (batch, 50, 8, 8)
    max pooling     2 x 2                       (batch, 50, 4, 4)       + bias, tanh
    hidden layer    500 units, tanh             (batch, 500)
    softmax         one unit a class            (batch, classes)

After Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition" (1998).
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.conv import conv2d
from pytensor_convnet.models.base import Classifier, Shape, glorot_uniform
from pytensor_convnet.pool import max_pool_2d

FIRST_FILTERS = 20
SECOND_FILTERS = 50
FILTER_LENGTH = 5
POOL_LENGTH = 2
HIDDEN_UNITS = 500


class Lenet(Classifier):
    """The network of the Theano tutorial.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial parameters.
    image_shape : (int, int, int)
        (channels, rows, columns) of the images: any number of channels, at least 16 rows and 16 columns.
    number_of_classes : int
    normalisation : Normalisation, optional
        Pixel statistics. By default images are used as they are.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> lenet = Lenet(np.random.default_rng(0), image_shape=(1, 28, 28), number_of_classes=10)
    >>> images = pt.tensor("images", shape=(None, 1, 28, 28), dtype="float32")
    >>> lenet.probabilities(images).type.shape
    (None, 10)
    >>> lenet.parameters["conv1_filters"].get_value().shape
    (20, 1, 5, 5)
    """

    name = "lenet"

    @staticmethod
    def parameter_shapes(image_shape: Shape, number_of_classes: int) -> dict[str, Shape]:
        channels, rows, columns = image_shape
        pooled_area = pooled_length(pooled_length(rows)) * pooled_length(pooled_length(columns))
        if min(image_shape) < 1 or pooled_area == 0:
            raise ValueError(
                f"image_shape must be (channels, rows, columns) with at least 16 rows and columns, got {image_shape}"
            )
        return {
            "conv1_filters": (FIRST_FILTERS, channels, FILTER_LENGTH, FILTER_LENGTH),
            "conv1_biases": (FIRST_FILTERS,),
            "conv2_filters": (SECOND_FILTERS, FIRST_FILTERS, FILTER_LENGTH, FILTER_LENGTH),
            "conv2_biases": (SECOND_FILTERS,),
            "hidden_weights": (SECOND_FILTERS * pooled_area, HIDDEN_UNITS),
            "hidden_biases": (HIDDEN_UNITS,),
            "softmax_weights": (HIDDEN_UNITS, number_of_classes),
            "softmax_biases": (number_of_classes,),
        }

    @staticmethod
    def initial_value(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
        # Biases break no symmetry, and a softmax of zeros begins without prejudice: every class equally probable.
        if name.endswith("biases") or name == "softmax_weights":
            return np.zeros(shape, np.float32)
        if name == "hidden_weights":
            return glorot_uniform(rng, shape, *shape)
        filters, channels, rows, columns = shape
        # Of the outputs that a pixel reaches, pooling lets one in four through.
        fan_out = filters * rows * columns // POOL_LENGTH**2
        return glorot_uniform(rng, shape, channels * rows * columns, fan_out)

    def logits(self, images: Variable) -> Variable:
        p = self.parameters
        first = convolution_layer(images, p["conv1_filters"], p["conv1_biases"])
        second = convolution_layer(first, p["conv2_filters"], p["conv2_biases"])
        hidden = hidden_layer(second.flatten(2), p["hidden_weights"], p["hidden_biases"])
        return hidden @ p["softmax_weights"] + p["softmax_biases"]


def convolution_layer(images: Variable, filters: Variable, biases: Variable) -> Variable:
    """Convolve, keep the maximum of each 2 x 2 pixels, add the biases, take the hyperbolic tangent.

    Pooling comes first because tanh is increasing: the maximum of the tanh is the tanh of the maximum, and this way
    it is computed for a quarter of the pixels.

    Parameters
    ----------
    images : float32 tensor, (batch, channels, rows, columns)
    filters : float32 tensor, (filters, channels, filter rows, filter columns)
    biases : float32 tensor, (filters,)

    Returns
    -------
    float32 tensor, (batch, filters, (rows - filter rows + 1) // 2, (columns - filter columns + 1) // 2)

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> images = pt.tensor("images", shape=(None, 1, 28, 28), dtype="float32")
    >>> filters = pt.tensor("filters", shape=(20, 1, 5, 5), dtype="float32")
    >>> convolution_layer(images, filters, pt.fvector("biases")).type.shape
    (None, 20, 12, 12)
    """
    maps = conv2d(images, filters)
    pooled = max_pool_2d(maps, ds=(POOL_LENGTH, POOL_LENGTH), ignore_border=True)
    return pt.tanh(pooled + biases.dimshuffle("x", 0, "x", "x"))


def hidden_layer(inputs: Variable, weights: Variable, biases: Variable) -> Variable:
    """A fully connected layer of tanh units.

    Parameters
    ----------
    inputs : float32 tensor, (batch, inputs)
    weights : float32 tensor, (inputs, units)
    biases : float32 tensor, (units,)

    Returns
    -------
    float32 tensor, (batch, units)

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> hidden_layer(pt.as_tensor([[1.0, 2.0]]), np.array([[2.0], [-1.0]]), np.array([0.0])).eval().tolist()
    [[0.0]]
    """
    return pt.tanh(inputs @ weights + biases)


def pooled_length(length: int) -> int:
    """How many rows (or columns) a convolution layer makes of ``length``.

    Examples
    --------
    >>> pooled_length(28), pooled_length(12), pooled_length(3)
    (12, 4, 0)
    """
    return max(length - FILTER_LENGTH + 1, 0) // POOL_LENGTH
