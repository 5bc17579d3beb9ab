"""Trains a small network on made-up images, alone or under torchrun; process 0 writes what was reported to FILE."""

import sys

import numpy as np

from pytensor_convnet import sessions, training
from pytensor_convnet.cuda import cuda_mode
from pytensor_convnet.datasets import Dataset
from pytensor_convnet.distributed import joined
from pytensor_convnet.models import Lenet
from pytensor_convnet.placement import gpu_of


def made_up(images_to_train):
    """Noise with a bright quarter that tells the class: no two pixels are equal, so rounding decides no maximum."""
    random = np.random.default_rng(0)
    labels = random.integers(4, size=images_to_train + 60).astype("int32")
    images = random.uniform(0, 0.5, (len(labels), 1, 16, 16)).astype("float32")
    for image, label in zip(images, labels):
        image[0, 8 * (label // 2) :, 8 * (label % 2) :][:8, :8] += 0.3
    n = images_to_train
    return Dataset("quarters", images[:n], labels[:n], images[n:], labels[n:], tuple("abcd"))


def main(file, images_to_train, mode, stream):
    if mode == "CUDA":
        mode = cuda_mode("ieee")
    sessions.REPORT_SECONDS = 0  # reports each minibatch
    with joined(gpu_of(mode) or "cpu") as processes:
        dataset = made_up(int(images_to_train))
        # Each process begins with parameters of its own; those of process 0 must count.
        network = Lenet(np.random.default_rng(processes.rank), dataset.image_shape, dataset.number_of_classes)
        losses, states = [], []
        history = training.train(
            network,
            dataset,
            epochs=2,
            batch_size=48,
            mode=mode,
            stream=stream == "stream",
            on_batch=lambda report: losses.append(report.loss),
            on_state=states.append,
            processes=processes,
        )
        scores = [history.train, history.validation, history.test]
        scores += [report.validation for report in history.epochs]
        state = states[-1]
        if processes.is_first:
            np.savez(
                file,
                count=processes.count,
                losses=losses,
                score_losses=[score.loss for score in scores],
                accuracies=[score.accuracy for score in scores],
                **{f"parameter {name}": value for name, value in state.parameters.items()},
                **{f"velocity {name}": value for name, value in state.velocities.items()},
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
