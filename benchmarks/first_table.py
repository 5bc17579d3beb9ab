"""The first table of the README: our CPU kernels and torch's, float32, taking turns on the same data.

    python benchmarks/first_table.py [--threads 2] [CASE ...]

Needs torch beside pytensor-convnet. Prints medians; a convolution's figure is GFLOP/s (nominal), a pool's is ms.
"""

import argparse
import statistics
import time

import numba
import numpy as np
import torch
from torch.nn import functional

from pytensor_convnet.bench.cases import CONV, POOL
from pytensor_convnet.kernels import cpu

CASES = (
    *("lenet1", "lenet2", "cifar1", "cifar2", "cifar3", "stride2_5x5", "alex1", "odd", "single"),
    *("lenet_p22", "cifar_p32", "avg_p32"),
)


def medians(calls, turns=15):
    """Median seconds of each call, all of them taking turns."""
    times = [[] for _ in calls]
    for call in calls * 2:
        call()
    for _ in range(turns):
        for call, seconds in zip(calls, times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def both_layouts(array):
    tensor = torch.from_numpy(array)
    return tensor, tensor.to(memory_format=torch.channels_last)


def measure_conv(case):
    random = np.random.default_rng(0)
    shapes = case.image_shape, case.filter_shape, case.map_shape
    arrays = [random.standard_normal(shape, dtype="float32") for shape in shapes]
    images, filters, maps = arrays
    layouts = list(zip(*map(both_layouts, arrays)))
    window = case.stride, case.padding, (1, 1), 1, False
    stride, padding = list(case.stride), [case.padding[0][0], case.padding[1][0]]

    def gradient(tensors, *which):
        x, w, g = tensors
        return torch.ops.aten.convolution_backward(
            g, x, w, None, stride, padding, [1, 1], False, [0, 0], 1, [*which, False]
        )

    passes = {
        "forward": (
            lambda: cpu.correlate2d(images, filters, *window),
            lambda t: functional.conv2d(t[0], t[1], stride=stride, padding=padding),
        ),
        "input grad": (
            lambda: cpu.correlate2d_input_grad(filters, maps, case.rows, case.columns, *window),
            lambda t: gradient(t, True, False),
        ),
        "filter grad": (
            lambda: cpu.correlate2d_filter_grad(images, maps, *case.taps, *window),
            lambda t: gradient(t, False, True),
        ),
    }
    for name, (ours, torchs) in passes.items():
        seconds = medians([ours, *(lambda t=t, torchs=torchs: torchs(t) for t in layouts)])
        yield name, [f"{case.flops / s / 1e9:.0f} GF/s" for s in seconds], min(seconds[1:]) / seconds[0]


def measure_pool(case):
    random = np.random.default_rng(0)
    images = random.standard_normal(case.image_shape, dtype="float32")
    maps = random.standard_normal(case.map_shape, dtype="float32")
    windows = case.window, case.stride, case.padding
    padding = case.padding[0][0], case.padding[1][0]
    function = functional.max_pool2d if case.mode == "max" else functional.avg_pool2d
    learning = [tensor.clone().requires_grad_() for tensor in both_layouts(images)]
    pooled = [function(tensor, case.window, case.stride, padding) for tensor in learning]
    if case.mode == "max":
        winners = cpu.max_pool2d(images, np.uint8, *windows, True)[1]
        forward = lambda: cpu.max_pool2d(images, np.uint8, *windows, True)  # noqa: E731
        backward = lambda: cpu.max_pool2d_grad(winners, maps, *images.shape[2:], *windows)  # noqa: E731
    else:
        mode = cpu.MODES[case.mode]
        forward = lambda: cpu.average_pool2d(images, *windows, True, mode)  # noqa: E731
        backward = lambda: cpu.average_pool2d_grad(maps, *images.shape[2:], *windows, mode)  # noqa: E731
    calls = {
        "forward": [forward, *(lambda x=x: function(x.detach(), case.window, case.stride, padding) for x in learning)],
        "gradient": [
            backward,
            *(
                lambda x=x, y=y, g=g: torch.autograd.grad(y, x, g, retain_graph=True)
                for x, y, g in zip(learning, pooled, both_layouts(maps))
            ),
        ],
    }
    for name, functions in calls.items():
        seconds = medians(functions)
        yield name, [f"{s * 1e3:.2f} ms" for s in seconds], min(seconds[1:]) / seconds[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    options = parser.parse_args()
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    print("| case | pass | ours | torch bc01 | torch channels-last | torch's best / ours |\n|---|---|---|---|---|---|")
    for name in options.cases:
        rows = measure_conv(CONV[name].for_cpu()) if name in CONV else measure_pool(POOL[name])
        for operation, figures, ratio in rows:
            print(f"| {name} | {operation} | {' | '.join(figures)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
