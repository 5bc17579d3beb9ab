"""Networks that classify images, each readable alone and known to the command line by its name."""

from pytensor_convnet.models.alexnet import Alexnet, AlexnetSmall
from pytensor_convnet.models.base import Classifier, Normalisation
from pytensor_convnet.models.cuda_convnet import CudaConvnet
from pytensor_convnet.models.lenet import Lenet

__all__ = ["MODELS", "Alexnet", "AlexnetSmall", "Classifier", "CudaConvnet", "Lenet", "Normalisation"]

MODELS: dict[str, type[Classifier]] = {model.name: model for model in (Lenet, CudaConvnet, Alexnet, AlexnetSmall)}
"""Every network by its name. Whoever adds one adds it here."""
