"""Both gradients of a correlation as one: what the two read is searched and prepared once.

The ways to compute them, how each is carried out, and which are worth measuring.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from pytensor_convnet.kernels.cuda import carrying_out
from pytensor_convnet.kernels.cuda.candidates import prepared_candidates
from pytensor_convnet.kernels.cuda.carrying_out import dense, filter_grad_from, gather, gather_launched
from pytensor_convnet.kernels.cuda.copying import preparation, prepare
from pytensor_convnet.kernels.cuda.estimates import products_of
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.magnitudes import Bound, largest_magnitudes
from pytensor_convnet.kernels.cuda.methods import Composed, FilterGrad, Gather, Pair, Share, Task
from pytensor_convnet.kernels.cuda.streams import beside, both
from pytensor_convnet.kernels.cuda.tuning import Family, choose, fixed_choice, register

PRODUCTS = ("float16", "bf16x3", "native")
"""What operands may be prepared for, for both gradients."""

PREPARED_CANDIDATES = 4
"""How many methods of each gradient and product are measured."""


@dataclass(frozen=True)
class GradsTask(Task):
    """Both gradients, 'correlate2d_grads'; ``formats`` are those of images, maps and the gradient of images.

    Attributes
    ----------
    factor : float
        Of the `Bound` that the maps have, of which the tensor is the last operand; 0 where none is known.
    """

    factor: float = 0.0

    @property
    def parts(self) -> tuple[Task, Task]:
        """The gradient of images and that of filters."""
        images, maps, result = self.formats
        of_images = self.part("correlate2d_input_grad", (maps, result))
        return (
            replace(of_images, format_to_read=self.format_to_read),
            self.part("correlate2d_filter_grad", (images, maps)),
        )


@dataclass(frozen=True)
class PreparedTask(Task):
    """One of the gradients, by a method that takes operands prepared for a product."""

    product: str


@dataclass(frozen=True)
class Joint(Composed):
    """Both gradients from maps that are prepared once, for ``product``, each by the best method that takes these."""

    product: str


def carry_out(
    task: GradsTask, method: Pair | Joint, images: torch.Tensor, filters: torch.Tensor, maps: torch.Tensor,
    *searched: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Compute the gradients of images and of filters by a method."""
    if task.device.type == "cuda" and task.device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(task.device):  # Triton launches on the current one
            return carry_out(task, method, images, filters, maps, *searched)
    bound = Bound(searched[0], task.factor) if searched else None
    if isinstance(method, Joint):
        return _joint(task, method.product, images, filters, maps, bound)
    input_task, filter_task = task.parts
    input_method, filter_method = choose(input_task, (filters, maps)), choose(filter_task, (images, maps))
    of_images = partial(carrying_out.carry_out, input_task, input_method, filters, maps)
    if isinstance(input_method, Gather):
        of_images = partial(gather, input_task, input_method, filters, maps, bound)
    of_filters = partial(carrying_out.carry_out, filter_task, filter_method, images, maps)
    return both(of_images, of_filters, images, maps, device=maps.device)


def _joint(
    task: GradsTask, product: str, images, filters, maps, bound: Bound | None
) -> tuple[torch.Tensor, torch.Tensor]:
    input_task, filter_task = task.parts
    input_method = _prepared_choice(input_task, product, (filters, maps))
    share = _prepared_choice(filter_task, product, (images, maps))
    scaled = product == "float16"
    of_maps_and_filters = of_images_and_maps = None
    if scaled and bound is not None:
        of_maps_and_filters = largest_magnitudes(bound.tensor, dense(filters), factors=(bound.factor, 1.0))
    elif scaled:
        magnitudes = largest_magnitudes(images, maps, dense(filters), copied=(True, True, False))
        of_maps_and_filters, of_images_and_maps = magnitudes[1:], magnitudes[:2]
    searched = None if bound is None else bound.tensor
    with beside(images, of_images_and_maps, searched, small=True):  # which need not wait for maps
        if scaled and bound is not None:
            factors = 1.0, bound.factor
            of_images_and_maps = largest_magnitudes(images, bound.tensor, factors=factors, copied=(True, False))
        image_planes = prepare(images, product, None if of_images_and_maps is None else of_images_and_maps[0])
    map_planes, copy = preparation(maps, product)
    of_images = gather_launched(input_task, input_method, filters, map_planes, of_maps_and_filters, copy)
    of_filters = partial(filter_grad_from, filter_task, share, image_planes, map_planes, of_images_and_maps)
    return both(of_images, of_filters, map_planes, device=maps.device)


def _prepared_choice(task: Task, product: str, operands: tuple[torch.Tensor, ...]) -> Any:
    """The gradient's own choice, where that takes operands prepared for the product, or else the best that does."""
    method = choose(task, operands)
    if isinstance(method, Gather | FilterGrad) and method.prepared and method.product == product:
        return method
    return choose(PreparedTask(**vars(task), product=product), operands)


# -------------------------------------------------------------------------------------------- the choice


def grads_candidates(task: GradsTask, limit: int) -> list[Any]:
    """The joint ways, where operands have to be prepared anyway, and the pair."""
    products = [product for product in products_of(task) if product in PRODUCTS]
    joint = [Joint(name) for name in products if all(prepared_candidates(part, name, 1) for part in task.parts)]
    return [*joint[:limit], Pair()]


def grads_fixed_choice(task: GradsTask) -> Any:
    """Maps that are prepared for the gradient of images anyway are that for both."""
    method = fixed_choice(task.parts[0])
    if isinstance(method, Gather) and method.prepared and Joint(method.product) in grads_candidates(task, 3):
        return Joint(method.product)
    return Pair()


def _prepared_candidates(task: PreparedTask, limit: int) -> list[Any]:
    return prepared_candidates(task, task.product, min(limit, PREPARED_CANDIDATES))


def _prepared_fixed_choice(task: PreparedTask) -> Any:
    return prepared_candidates(task, task.product, 1)[0]


register(GradsTask, Family(grads_candidates, grads_fixed_choice, carry_out, (Pair, Joint)))
register(
    PreparedTask,
    Family(
        _prepared_candidates,
        _prepared_fixed_choice,
        carrying_out.carry_out,
        (Gather, Share, Blocks, GradBlocks),
    ),
)
