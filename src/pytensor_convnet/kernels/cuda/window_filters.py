"""Filters that windows read as they lie in memory: batch-last ones of bfloat16, whose own axis is innermost.

The copying engine brings rows of shared memory that tensor cores take as they are. In a forward pass filters are the
columns of the product: a row has 64 or 32 of them, for one channel and tap. In an input gradient they are what is
summed over: a row has so many, for one channel of the target, a column of the product. A pixel of a patch that has no
tap at a place reads beyond the filters' ends, which is zeros. So nothing is packed before, which takes a launch of 2 to
5 us. (Rows of 16 were up to 1.2 times slower than packed filters.)
"""

from math import ceil

import torch

from pytensor_convnet.kernels.cuda.formats import memory_format
from pytensor_convnet.kernels.cuda.gathering import Axis, Gathering
from pytensor_convnet.kernels.cuda.hopper_sources import BATCH_MULTIPLES, BOX_ALIGNMENT, MOST_OF_A_BOX
from pytensor_convnet.kernels.cuda.runtime_compiler import TensorMap, batch_last_map

WIDTHS = (64, 32)
"""Filters of a row of shared memory, of 128 or 64 bytes."""


def can_be_read(filters: torch.Tensor) -> bool:
    """Whether the copying engine can read filters as they are, if they are batch-last."""
    return filters.dtype == torch.bfloat16 and filters.shape[0] % BATCH_MULTIPLES[True] == 0


def format_to_read(filters: torch.Tensor) -> str:
    """'batch_last' of filters that it does read so; 'bc01' of others, whatever their format is."""
    return "batch_last" if can_be_read(filters) and memory_format(filters) == "batch_last" else "bc01"


def filter_rows(plan: Gathering, cut: dict[str, int], flipped: bool) -> dict[str, int] | None:
    """How a stage's filters lie in shared memory; None where they cannot.

    Parameters
    ----------
    cut : dict of str to int
        Constants of the kernel: how tiles, stages and products are cut.
    flipped : bool
        Whether taps come in the other order.
    """
    gradient, channels, outputs = _is_gradient(plan), cut["CHANNELS"], cut["OUTPUTS"]
    dilated = max(plan.rows.dilation, plan.columns.dilation) > 1
    if dilated or (plan.source_channels if gradient else plan.outputs) % BATCH_MULTIPLES[True]:
        return None
    places = 1 if flipped or gradient else cut["PLACES"] * cut["PLACES_ACROSS"]
    if gradient:
        width = next((width for width in WIDTHS if channels % width == 0), 0)
        of_box = plan.target_channels if plan.residues > 1 else outputs
        boxes, rest = (plan.residues, 0) if cut["OUTPUT_BLOCKS"] == 1 else divmod(outputs, of_box)
        aligned = boxes == 1 or of_box * 2 * width % BOX_ALIGNMENT == 0
        if not width or rest or not aligned or of_box > MOST_OF_A_BOX:
            return None
        filter_bytes = 2 * cut["WINDOW_ROWS"] * outputs
    else:
        suited = [w for w in WIDTHS if outputs % w == 0 and (not flipped or channels * 2 * w % BOX_ALIGNMENT == 0)]
        width, of_box = max(suited, default=WIDTHS[0]), 0
        if plan.residues > 1:
            return None
        boxes = ceil(outputs / width)
        filter_bytes = 2 * cut["PRODUCT_ROWS"] * boxes * width
    return {
        "FILTER_BYTES": filter_bytes, "FILTER_BOXES": boxes, "FILTER_ROW_BYTES": 2 * width, "BOX_OUTPUTS": of_box,
        "BOX_PLACES": places, "OUTPUTS_INNERMOST": not gradient, "FLIPPED": flipped,
        "FIRST_TAP_ROW": _first_tap(plan.rows), "FIRST_TAP_COLUMN": _first_tap(plan.columns),
        "TAP_ROW_STEP": plan.rows.row_factor, "TAP_COLUMN_STEP": plan.columns.row_factor,
        "TAPS_DOWN": plan.rows.taps, "TAPS_ACROSS": plan.columns.taps,
    }  # fmt: skip


def _is_gradient(plan: Gathering) -> bool:
    """Whether this is an input gradient, in which places follow each other against taps."""
    return plan.rows.row_factor < 0


def _first_tap(axis: Axis) -> int:
    """That of the first place, for the first pixel of a patch."""
    return axis.row_factor * axis.classes[0].places[0] + axis.before


def boxes_of_stage(k: dict[str, int]) -> int:
    """How many boxes bring a stage's filters, by the constants of a kernel; 0 where they are packed."""
    if k["PACKED"]:
        return 0
    of_place = k["FILTER_BOXES"] * (1 if k["OUTPUTS_INNERMOST"] else 2 * k["CHANNELS"] // k["FILTER_ROW_BYTES"])
    return of_place * (k["PLACES"] * k["PLACES_ACROSS"] // k["BOX_PLACES"])


def boxes_of_filters(filters: torch.Tensor, k: dict[str, int]) -> TensorMap:
    """What one copy brings, by the constants of a kernel."""
    if not k["OUTPUTS_INNERMOST"]:
        box = k["BOX_OUTPUTS"], 1, 1
    elif k["BOX_PLACES"] == 1:
        box = k["CHANNELS"], 1, 1
    else:
        box = k["CHANNELS"], k["PLACES"], k["PLACES_ACROSS"]
    return batch_last_map(filters, (k["FILTER_ROW_BYTES"] // 2, *box))
