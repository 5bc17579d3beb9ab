"""A network's training step in PyTensor's modes, each in a process of its own.

    python benchmarks/linkers.py [--network lenet|cuda_convnet] [--batch 500] [MODE ...]

Prints, for each mode, the median of 25 steps in milliseconds and what compiling and the first steps took in seconds.
"""

import argparse
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np

NETWORKS = {"lenet": ("Lenet", (1, 28, 28)), "cuda_convnet": ("CudaConvnet", (3, 32, 32))}
MODES = ("NUMBA", "JAX", "PYTORCH")
STEPS = 25


def training_step(name: str, mode: str) -> Any:
    """A compiled step of training on images and labels, which returns their mean loss."""
    import pytensor
    import pytensor.tensor as pt

    from pytensor_convnet import models
    from pytensor_convnet.learning import momentum_updates, negative_log_likelihood

    network, image_shape = NETWORKS[name]
    model = getattr(models, network)(np.random.default_rng(0), image_shape, 10)
    images, labels = pt.tensor("images", shape=(None, *image_shape), dtype="float32"), pt.ivector("labels")
    loss = negative_log_likelihood(model.log_probabilities(images), labels).mean()
    gradients = dict(zip(model.parameters, pytensor.grad(loss, list(model.parameters.values()))))
    updates = momentum_updates(model.parameters, gradients, np.float32(0.01), np.float32(0.9))
    return pytensor.function([images, labels], loss, updates=updates, mode=mode)


def measure(name: str, mode: str, batch: int) -> str:
    """A row of the table, measured in this process."""
    start = time.perf_counter()
    step, random = training_step(name, mode), np.random.default_rng(0)
    images = random.random((batch, *NETWORKS[name][1]), dtype="float32")
    labels = random.integers(0, 10, batch).astype("int32")

    def seconds() -> float:
        before = time.perf_counter()
        float(np.asarray(step(images, labels)))  # which waits for the step
        return time.perf_counter() - before

    for _ in range(3):
        seconds()
    compiling = time.perf_counter() - start
    return f"{mode:8} {1e3 * median(seconds() for _ in range(STEPS)):8.1f} ms, the first three in {compiling:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description="A network's training step in PyTensor's modes.")
    parser.add_argument("modes", nargs="*", default=MODES)
    parser.add_argument("--network", choices=NETWORKS, default="lenet")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--here", action="store_true", help="measure in this process")
    given = parser.parse_args()
    for mode in given.modes:
        if given.here:
            print(measure(given.network, mode, given.batch))
            continue
        options = ["--here", "--network", given.network, "--batch", str(given.batch)]
        subprocess.run([sys.executable, __file__, mode, *options], check=True)


if __name__ == "__main__":
    main()
