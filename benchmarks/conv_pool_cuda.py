"""Pooled correlations against the pair of a correlation and a pool, on a GPU: microseconds and errors.

python benchmarks/conv_pool_cuda.py --json benchmarks/results/conv-pool-h100.json

The pair is `correlate2d`, `max_pool2d`, a bias and relu of the maxima, and their gradients, each as it is tuned; those
of images and of filters one by one and, "joint", by `correlate2d_grads`. All are timed as CUDA graphs that go through
several sets of inputs, larger together than the second-level cache, in batch-last. Errors are those of the fused
functions against float64.
"""

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pytensor_convnet.bench.cases import CONV, ConvCase
from pytensor_convnet.bench.cuda.findings import package_versions
from pytensor_convnet.bench.cuda.timing import GpuMachine, graph_seconds
from pytensor_convnet.kernels import cuda

POOLS = {
    "lenet1": ((2, 2), (2, 2), ((0, 0), (0, 0))),
    "cifar1": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "cifar1_b1024": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "alex1": ((3, 3), (2, 2), ((0, 0), (0, 0))),
}
"""Window, stride and padding of the pool after each layer."""

CACHE_BYTES = 1e8


class Layer:
    """A layer of the suite in a dtype: the functions to be timed, and inputs."""

    def __init__(self, case: ConvCase, dtype: torch.dtype, precision: str):
        self.case, self.dtype, self.precision = case, dtype, precision
        self.pool: Any = POOLS[case.name]
        self.moves: Any = case.stride, case.padding, (1, 1), 1, False
        self.full: Any = case.map_shape[2:]
        self.taps: Any = case.filter_shape[2:]

    def inputs(self, seed: int) -> tuple[torch.Tensor, ...]:
        """Images, filters, biases, winners and pooled gradients."""
        torch.manual_seed(seed)
        images = cuda.to_format(torch.randn(self.case.image_shape, device="cuda", dtype=self.dtype), "batch_last")
        filters = 0.1 * torch.randn(self.case.filter_shape, device="cuda", dtype=self.dtype)
        biases = torch.randn(self.case.filters, device="cuda", dtype=self.dtype)
        maxima, winners = self.forward(images, filters, biases)
        return images, filters, biases, winners, torch.randn_like(maxima)

    def forward(self, images, filters, biases, *_):
        return cuda.correlate2d_max_pool2d(
            images, filters, torch.uint8, *self.moves, *self.pool, True, biases, "relu", precision=self.precision
        )

    def gradients(self, images, filters, _, winners, maps):
        return cuda.correlate2d_max_pool2d_grads(
            images, filters, winners, maps, *self.full, *self.moves, *self.pool, precision=self.precision
        )

    def filter_gradient(self, images, _, __, winners, maps):
        return cuda.correlate2d_max_pool2d_filter_grad(
            images, winners, maps, *self.taps, *self.full, *self.moves, *self.pool, precision=self.precision
        )

    def pair_forward(self, images, filters, biases, *_):
        maps = cuda.correlate2d(images, filters, *self.moves, precision=self.precision)
        maxima, winners = cuda.max_pool2d(maps, torch.uint8, self.pool[0], self.pool[1], self.pool[2], True)
        return torch.relu(maxima + biases[:, None, None]), winners

    def spread(self, winners, maps):
        return cuda.max_pool2d_grad(winners, maps, *self.full, *self.pool)

    def pair_filter_gradient(self, images, filters, _, winners, maps):
        spread = self.spread(winners, maps)
        return cuda.correlate2d_filter_grad(images, spread, *self.taps, *self.moves, precision=self.precision)

    def pair_gradients(self, images, filters, _, winners, maps):
        spread = self.spread(winners, maps)
        lengths = images.shape[2:]
        return (
            cuda.correlate2d_input_grad(filters, spread, *lengths, *self.moves, precision=self.precision),
            cuda.correlate2d_filter_grad(images, spread, *self.taps, *self.moves, precision=self.precision),
        )

    def pair_joint_gradients(self, images, filters, _, winners, maps):
        spread = self.spread(winners, maps)
        return cuda.correlate2d_grads(images, filters, spread, *self.moves, precision=self.precision)

    def errors(self, images, filters, biases, winners, maps) -> dict[str, float]:
        """Of what the fused functions give, relative to float64."""
        (top, bottom), (left, right) = self.case.padding
        padded, weights = F.pad(images.double(), (left, right, top, bottom)), filters.double()
        full = F.conv2d(padded, weights, None, self.case.stride)
        maxima, _ = cuda.max_pool2d(full, torch.uint8, self.pool[0], self.pool[1], self.pool[2], True)
        expected = torch.relu(maxima + biases.double()[:, None, None])
        spread = self.spread(winners, maps.double()).contiguous()
        of_images, of_filters, _ = torch.ops.aten.convolution_backward(
            spread, padded, weights, None, list(self.case.stride), [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        of_images = of_images[:, :, top : top + images.shape[2], left : left + images.shape[3]]
        found = self.gradients(images, filters, biases, winners, maps)
        return {
            "maxima": relative_error(self.forward(images, filters, biases)[0], expected),
            "input_grad": relative_error(found[0], of_images),
            "filter_grad": relative_error(found[1], of_filters),
        }


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


def measured(name: str, dtype: torch.dtype, precision: str) -> dict:
    """All figures of a layer."""
    layer = Layer(CONV[name], dtype, precision)
    first = layer.inputs(0)
    size = sum(tensor.numel() * tensor.element_size() for tensor in first)
    sets = [first, *(layer.inputs(seed) for seed in range(1, min(8, 1 + int(CACHE_BYTES // size))))]
    functions = {
        "forward": layer.forward,
        "gradients": layer.gradients,
        "filter_gradient": layer.filter_gradient,
        "pair_forward": layer.pair_forward,
        "pair_gradients": layer.pair_gradients,
        "pair_joint_gradients": layer.pair_joint_gradients,
        "pair_filter_gradient": layer.pair_filter_gradient,
    }
    calls = {key: [partial(function, *inputs) for inputs in sets] for key, function in functions.items()}
    times = {key: round(1e6 * graph_seconds(each), 1) for key, each in calls.items()}
    dtype_name = str(dtype).removeprefix("torch.")
    return {
        "case": name, "dtype": dtype_name, "precision": precision, "microseconds": times, "errors": layer.errors(*first)
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    path = parser.parse_args().json
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs an NVIDIA GPU")
    machine = dataclasses.asdict(GpuMachine.measured(package_versions(())))
    records = []
    for name in POOLS:
        for dtype in (torch.float32, torch.bfloat16):
            records.append(measured(name, dtype, "medium"))
            print(json.dumps(records[-1]), flush=True)
            if path:
                path.write_text(json.dumps({"machine": machine, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
