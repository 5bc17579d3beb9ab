"""Which methods are worth measuring for a task, the most promising first."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import ceil
from typing import Any

import torch

from pytensor_convnet.kernels.cuda.carrying_out import unrolled_task, unrolling_of
from pytensor_convnet.kernels.cuda.cudnn import input_grad_as_forward, is_deterministic
from pytensor_convnet.kernels.cuda.estimates import FAR, FEW, LEAST_IMAGES, boxing_time, size
from pytensor_convnet.kernels.cuda.filter_grad_candidates import filter_grad_time, filter_grads
from pytensor_convnet.kernels.cuda.gather_candidates import gather_time, gathers
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.methods import Cudnn, FilterGrad, Method, Share, SlidingShare, Task, Unrolled, ours
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks
from pytensor_convnet.kernels.cuda.window_candidates import windows
from pytensor_convnet.kernels.cuda.window_grad_candidates import window_grads

FLOAT32_RATE = 60e12
"""Of multiply-adds in float32, at most."""

HOPELESS = 1.0
"""What is bound to take so many times as long as our best estimate is not measured. (Estimates are some 1.4 times too
long; it is their order that counts.)"""

WINDOWS = 0.6
"""Of the methods that are measured, so many at most are over windows, where these are possible."""

FEW_BOXED = 3
"""So many of a filter gradient whose operands have to be filled up for it."""

UNROLLED, MOST_UNROLLED = 0.75, 2**28
"""Of the methods for few images, so many at most have columns in the place of images; and the most bytes that these
make of a source."""


def candidates(task: Task, limit: int) -> list[Method]:
    """At most ``limit`` of our own methods, by estimate, and cuDNN in each of its layouts.

    cuDNN is left out where there is no GPU, and where it must do without tensor cores and would be far behind: it takes
    seconds to find that out by its own measurements.
    """
    ordered = _by_estimate(task)
    share = int(limit * WINDOWS)
    of_grads = share if boxing_time(task) == 0 else min(share, FEW_BOXED)
    others: list[Any] = _unrolled(task, ceil(limit * UNROLLED))
    others = others or [*windows(task, share), *window_grads(task, of_grads)]
    chosen = [*_selected(ordered, limit - len(others)), *others]
    if task.device.type != "cuda" or _cudnn_time(task) > HOPELESS * ordered[0][1]:
        return chosen
    return [*chosen, *_cudnn_methods(task)]


def _unrolled(task: Task, limit: int) -> list[Unrolled]:
    """At most so many methods with columns in the place of images.

    None where images are enough, columns too few, or the unrolled source too large.
    """
    images = task.geometry.images[0]
    if images >= LEAST_IMAGES or images * unrolling_of(task).images < LEAST_IMAGES:
        return []
    inner = unrolled_task(task)
    source = inner.geometry.maps if task.name == "correlate2d_input_grad" else inner.geometry.images
    if size(source) * task.dtype.itemsize > MOST_UNROLLED:
        return []
    return [Unrolled(method) for method in ours(candidates(inner, limit))]


def prepared_candidates(task: Task, product: str, limit: int) -> list[Any]:
    """At most ``limit`` of our own methods that take operands prepared for a product; none where it does without."""
    ordered = _by_estimate(task)
    return _selected([pair for pair in ordered if pair[0].prepared and pair[0].product == product], limit)


def candidates_of_product(task: Task, product: str, limit: int) -> list[Any]:
    """At most ``limit`` of our own methods of a product."""
    return _selected([pair for pair in _by_estimate(task) if pair[0].product == product], limit)


def _cudnn_methods(task: Task) -> list[Cudnn]:
    """cuDNN in each of its layouts, and its forward pass as an input gradient.

    The latter only where results must be the same bits in every run: free to choose, cuDNN has gradients as fast.
    """
    plain = [Cudnn("channels_last"), Cudnn("bc01")]
    if task.name != "correlate2d_input_grad" or not is_deterministic() or input_grad_as_forward(task.geometry) is None:
        return plain
    return [*plain, *(replace(method, as_forward=True) for method in plain)]


def _by_estimate(task: Task) -> list[tuple[Any, float]]:
    """Our own methods and their seconds, the fastest first: some hundreds or thousands."""
    return _estimated(replace(task, device=torch.device("meta")))


@functools.lru_cache(maxsize=64)
def _estimated(task: Task) -> list[tuple[Any, float]]:
    gradient_of_filters = task.name == "correlate2d_filter_grad"
    estimate: Any = filter_grad_time if gradient_of_filters else gather_time
    methods: Iterable[Any] = filter_grads(task) if gradient_of_filters else gathers(task)
    return sorted({method: estimate(task, method) for method in methods}.items(), key=lambda pair: pair[1])


def _selected(ordered: list[tuple[Any, float]], limit: int) -> list[Any]:
    """The first methods, of different kinds."""
    fastest: dict[str, float] = {}
    for method, seconds in ordered:
        fastest.setdefault(method.product, seconds)
    if not ordered or not isinstance(ordered[0][0], FilterGrad):
        far = [product for product, seconds in fastest.items() if seconds > FAR * min(fastest.values())]
        near = max(limit // 2, limit - FEW * (len(fastest) - 1))  # for estimates may be wrong about products, too
        return _diverse(ordered, limit, {name: FEW if name in far else near for name in fastest})

    def of_kind(wanted: Callable[[Any], bool], count: int) -> list[Any]:
        found = [pair for pair in ordered if wanted(pair[0])]
        return _diverse(found, count, dict.fromkeys(fastest, count if len(fastest) == 1 else count // 2 + 1))

    # Patches move less and sum more, sliding moves less and waits longer: estimates do not know which is better.
    sliding = of_kind(lambda method: isinstance(method, SlidingShare), limit // 6)
    patched = of_kind(lambda method: isinstance(method, Share) and method.patch != (1, 1), limit // 3)
    left = limit - len(sliding) - len(patched)
    return of_kind(lambda method: isinstance(method, Share) and method.patch == (1, 1), left) + patched + sliding


def _cudnn_time(task: Task) -> float:
    """A bound of cuDNN's seconds in float32 without tf32; 0 where it may use tensor cores."""
    if task.dtype != torch.float32 or task.precision == "medium":
        return 0.0
    minimal_filtering = max(task.geometry.stride) == 1 and max(task.geometry.filters[2:]) <= 5
    return 2 * task.geometry.multiply_adds / (FLOAT32_RATE * (2.25 if minimal_filtering else 1))


def _diverse(ordered: list[tuple[Any, float]], limit: int, most_of_product: dict[str, int]) -> list[Method]:
    """The first methods, but few of a product and tile, or but for their stages; of swapped axes of patches, one."""
    chosen: list[Method] = []
    kinds: Counter[Any] = Counter()
    seen = set()
    for method, seconds in ordered:
        if len(chosen) == limit:
            break
        blocks = method.blocks
        twin = method.product, blocks, round(seconds * 1e9)
        kind = method.product, _tile(method)
        pipeline = replace(method, blocks=replace(blocks, stages=0))
        most = {kind: (limit + 2) // 5, pipeline: limit // 8, method.product: most_of_product[method.product]}
        if twin in seen or any(kinds[group] >= max(1, count) for group, count in most.items()):
            continue
        seen.add(twin)
        kinds.update(most.keys())
        chosen.append(method)
    return chosen


def _tile(method: Any) -> tuple:
    """What methods that are much alike have in common."""
    blocks = method.blocks
    if isinstance(blocks, Blocks):
        return blocks.outputs, method.joined, blocks.pixels
    if isinstance(blocks, SlidingBlocks):
        return blocks.rows, blocks.filters, blocks.columns
    return blocks.rows, blocks.filters, blocks.pixels
