"""PyTorch on the CPU: oneDNN and ATen, in its users' layout and in channels-last."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.nets import Conv, Dense, Layer, NetCase, NetData, Pool
from pytensor_convnet.bench.peers.base import ConvData, Operation, Peer, PoolData


class Torch(Peer):
    """`torch.nn.functional`, with `aten::convolution_backward` for one gradient at a time."""

    name = "torch"
    package = "torch"
    layouts = ("bc01", "channels_last")

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def conv(self, case: ConvCase, data: ConvData, layout: str) -> Mapping[str, Operation]:
        import torch
        from torch.nn.functional import conv2d

        images, filters, maps = (_tensor(array, layout) for array in (data.images, data.filters, data.maps))
        stride, padding = list(case.stride), _one_side(case)

        def gradient(wanted: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(
                maps, images, filters, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
            )[wanted.index(True)]

        return {
            "forward": Operation(lambda: conv2d(images, filters, stride=stride, padding=padding)),
            "input_grad": Operation(lambda: gradient([True, False, False])),
            "filter_grad": Operation(lambda: gradient([False, True, False])),
        }

    def pool(self, case: PoolCase, data: PoolData, layout: str) -> Mapping[str, Operation]:
        import torch
        from torch.nn.functional import avg_pool2d, max_pool2d

        functions: dict[str, Any] = {"max": max_pool2d, "average_inc_pad": avg_pool2d}
        function = functions[case.mode]
        images, maps = _tensor(data.images, layout), _tensor(data.maps, layout)
        windows = case.window, case.stride, _one_side(case)
        learning = images.clone().requires_grad_()
        pooled = function(learning, *windows)
        return {
            "forward": Operation(lambda: function(images, *windows)),
            "backward": Operation(lambda: torch.autograd.grad(pooled, learning, maps, retain_graph=True)[0]),
        }

    def net(self, case: NetCase, data: NetData, layout: str) -> Mapping[str, Operation]:
        import torch
        from torch.nn.functional import cross_entropy

        network = network_of(case, data.parameters)
        if layout == "channels_last":
            network = network.to(memory_format=torch.channels_last)
        images, labels = _tensor(data.images, layout), torch.from_numpy(data.labels.astype(np.int64))
        optimiser = torch.optim.SGD(network.parameters(), lr=case.learning_rate, momentum=case.momentum)

        def step() -> float:
            optimiser.zero_grad()
            loss = cross_entropy(network(images), labels)
            loss.backward()
            optimiser.step()
            return loss.item()

        return {"step": Operation(step)}


def network_of(case: NetCase, initial: Sequence[np.ndarray]) -> Any:
    """The network as a `torch.nn.Module`, from the parameters that all start from."""
    import torch
    from torch import nn

    network = nn.Sequential(*(_module(*both) for both in zip(case.layers, case.input_shapes())))
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), initial, strict=True):
            parameter.copy_(torch.from_numpy(value.T if value.ndim == 2 else value))
    return network


def _tensor(array: np.ndarray, layout: str) -> Any:
    import torch

    tensor = torch.from_numpy(array)
    return tensor.to(memory_format=torch.channels_last) if layout == "channels_last" else tensor


def _one_side(case: ConvCase | PoolCase) -> list[int]:
    """The padding on each axis, which torch wants to be the same before and after."""
    (top, bottom), (left, right) = case.padding
    assert (top, left) == (bottom, right)
    return [top, left]


def _module(layer: Layer, input_shape: tuple[int, int, int]) -> Any:
    from torch import nn

    channels, rows, columns = input_shape
    if isinstance(layer, Conv):
        return nn.Conv2d(channels, layer.filters, layer.size, layer.stride, layer.padding)
    if isinstance(layer, Pool):
        kind = nn.MaxPool2d if layer.mode == "max" else nn.AvgPool2d
        return kind(layer.size, layer.stride, layer.padding)
    if isinstance(layer, Dense):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * rows * columns, layer.units))
    return {"relu": nn.ReLU, "tanh": nn.Tanh}[layer]()
