"""A small data set that is learnt in a moment, and what tests of training share."""

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode

from pytensor_convnet.datasets import Dataset
from pytensor_convnet.models import Lenet

QUICK = Mode(linker="py", optimizer="fast_compile")
SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "momentum": 0.9, "mode": QUICK}


def made_up_dataset(number=60, seed=0, noise=0.2):
    """Noisy images with one bright bar: its position is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 3).astype("int32")
    images = rng.uniform(0, noise, (number, 1, 16, 16))
    for image, label in zip(images, labels):
        image[0, :, 5 * label : 5 * label + 5] += 0.7
    images = images.astype("float32")
    half = number * 2 // 3
    return Dataset("bars", images[:half], labels[:half], images[half:], labels[half:], ("left", "middle", "right"))


def make_lenet(dataset, seed=0):
    return Lenet(np.random.default_rng(seed), dataset.image_shape, dataset.number_of_classes)


def same_values(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


class Dropout(Lenet):
    """LeNet that forgets half of its images' pixels, while it learns and while it is judged."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.rng = pytensor.shared(np.random.default_rng(5))

    def logits(self, images):
        draws = pt.random.uniform(0, 1, size=images.shape, rng=self.rng).owner
        self.rng.default_update, drawn = draws.outputs
        return super().logits(images * (drawn < 0.5).astype("float32"))
