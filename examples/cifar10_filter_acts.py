"""cuda-convnet's network for CIFAR-10, written in c01b as its users wrote it: FilterActs, MaxPool, CrossMapNorm.

    python examples/cifar10_filter_acts.py                                  # CIFAR-10, from its published files
    python examples/cifar10_filter_acts.py --data digits                    # scikit-learn's digits, no files needed
    python examples/cifar10_filter_acts.py --data digits --images 300 --epochs 1    # a minute's trial

    images              (channels, 32, 32, batch)
    FilterActs          32 filters of 5 x 5, padded by 2    (32, 32, 32, batch)
    MaxPool             3 x 3, stride 2                     (32, 16, 16, batch)     + bias, relu, CrossMapNorm
    FilterActs          32 filters of 5 x 5, padded by 2    (32, 16, 16, batch)     + bias, relu
    mean of             3 x 3, stride 2                     (32, 8, 8, batch)       CrossMapNorm
    FilterActs          64 filters of 5 x 5, padded by 2    (64, 8, 8, batch)       + bias, relu
    mean of             3 x 3, stride 2                     (64, 4, 4, batch)
    softmax             one unit a class                    (batch, classes)

In 2015 this ran on a GPU, on square images, with channels and filters in multiples of 16, and between its layers
`gpu_contiguous` copied. Nothing of that is left; what is left is the layout. Windows overlap, and the last of each
row hangs over the edge.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytensor.tensor as pt
from rich.console import Console

from pytensor_convnet import datasets, plots, pool_2d, reports, training
from pytensor_convnet.cuda_convnet import CrossMapNorm, FilterActs, MaxPool
from pytensor_convnet.models import Classifier, Normalisation
from pytensor_convnet.models.base import he_normal

FILTERS = (32, 32, 64)
LENGTH = 5


class FilterActsNet(Classifier):
    """The network above. Its filters are (channels, rows, columns, filters)."""

    name = "filter_acts"

    @staticmethod
    def parameter_shapes(image_shape, number_of_classes):
        channels, rows, columns = image_shape
        shapes = {}
        for number, filters in enumerate(FILTERS, start=1):
            shapes[f"filters{number}"] = (channels, LENGTH, LENGTH, filters)
            shapes[f"biases{number}"] = (filters,)
            channels, rows, columns = filters, pooled_length(rows), pooled_length(columns)
        shapes["softmax_weights"] = (channels * rows * columns, number_of_classes)
        shapes["softmax_biases"] = (number_of_classes,)
        return shapes

    @staticmethod
    def initial_value(rng, name, shape):
        if not name.startswith("filters"):
            return np.zeros(shape, np.float32)
        return he_normal(rng, shape, fan_in=shape[0] * LENGTH * LENGTH)

    def logits(self, images):
        p = self.parameters
        x = images.dimshuffle(1, 2, 3, 0)  # bc01 to c01b: a view
        x = MaxPool(ds=3, stride=2)(FilterActs(pad=2)(x, p["filters1"]))
        x = normalised(rectified(x, p["biases1"]))
        x = normalised(averaged(rectified(FilterActs(pad=2)(x, p["filters2"]), p["biases2"])))
        x = averaged(rectified(FilterActs(pad=2)(x, p["filters3"]), p["biases3"]))
        return x.dimshuffle(3, 0, 1, 2).flatten(2) @ p["softmax_weights"] + p["softmax_biases"]

    def first_filters(self):
        """FilterActs does not turn filters: as they are, they lie on the images."""
        return self.parameters["filters1"].get_value().transpose(3, 0, 1, 2)


def rectified(maps, biases):
    return pt.maximum(maps + biases.dimshuffle(0, "x", "x", "x"), 0)


def normalised(maps):
    """Divide each map by the energy of the nine around it."""
    return CrossMapNorm(size_f=9, add_scale=0.001 / 9, pow_scale=0.75, blocked=False)(maps)[0]


def averaged(maps):
    """The mean of each 3 x 3 pixels, two apart. A function of bc01 between two views: layouts mix at no cost."""
    bc01 = maps.dimshuffle(3, 0, 1, 2)
    pooled = pool_2d(bc01, ws=3, stride=2, ignore_border=False, mode="average_exc_pad")
    return pooled.dimshuffle(1, 2, 3, 0)


def pooled_length(length):
    """cuda-convnet rounds up: ceil((length - 3) / 2) + 1."""
    return -(-(length - 3) // 2) + 1


def some(dataset, count):
    """A data set of the first images of another."""
    return replace(
        dataset,
        train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count],
        test_images=dataset.test_images[:count],
        test_labels=dataset.test_labels[:count],
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=datasets.NAMES, default="cifar10")
    parser.add_argument("--data-folder", type=Path, help="where the files of the data set are")
    parser.add_argument("--images", type=int, help="learn from so many images only")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", help="a mode of PyTensor")
    parser.add_argument("--plots", type=Path, help="draw filters.png and learning_curve.png in this folder")
    options = parser.parse_args(arguments)

    dataset = datasets.load(options.data, options.data_folder, options.seed)
    if options.images:
        dataset = some(dataset, options.images)
    network = FilterActsNet(
        np.random.default_rng(options.seed),
        dataset.image_shape,
        dataset.number_of_classes,
        Normalisation.of(dataset.train_images),
    )
    console = Console()
    with reports.TrainingDisplay(console, options.epochs) as display:
        history = training.train(
            network,
            dataset,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            mode=options.mode,
            seed=options.seed,
            on_compiled=display.on_compiled,
            on_batch=display.on_batch,
            on_epoch=display.on_epoch,
        )
    console.print(reports.training_table(history, options.epochs))
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        plots.save(plots.filters_figure(network.first_filters()), options.plots / "filters.png")
        plots.save(plots.learning_curve_figure(history.epochs), options.plots / "learning_curve.png")
        console.print(f"drawn in {options.plots}", highlight=False)


if __name__ == "__main__":
    main()
