"""Networks that classify images, each readable alone and known to the command line by its name."""

from pytensor_convnet.models.base import Classifier, Normalisation
from pytensor_convnet.models.lenet import Lenet

__all__ = ["MODELS", "Classifier", "Lenet", "Normalisation"]

MODELS: dict[str, type[Classifier]] = {model.name: model for model in (Lenet,)}
"""Every network by its name. Whoever adds one adds it here."""
