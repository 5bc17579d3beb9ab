"""Which kernel a GPU takes for each case of the suite, as far as that is known: nothing is measured for it."""

from typing import Any

import torch
from rich.table import Table

from pytensor_convnet.bench.cases import CONV, GPU_FORMATS, POOL, ConvCase, PoolCase
from pytensor_convnet.bench.cuda.conv import OPERATIONS
from pytensor_convnet.bench.table import cases_table
from pytensor_convnet.kernels.cuda import tuning
from pytensor_convnet.kernels.cuda.correlation_grads import GradsTask
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.methods import Task
from pytensor_convnet.kernels.cuda.pool_plans import Planes, check_pool, is_written_out, patch_for, strip_tile
from pytensor_convnet.kernels.cuda.pool_rows_kernel import rows_grad_plan, rows_plan, suits_rows
from pytensor_convnet.kernels.cuda.window_filters import can_be_read

NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BOTH = "both gradients"

OWN = {
    "Gather": "gather", "Window": "windows", "Share": "split sum", "SlidingShare": "sliding sum",
    "WindowShare": "windows",
}  # fmt: skip
"""Words for our methods."""


def convolutions_table(format: str, device: torch.device) -> Table:
    """A row for each pass of each convolution, and for both gradients as one, in one physical format."""
    title = f"Convolutions on the GPU, {format}, precision 'medium'"
    table = cases_table(f"{title}; *: not measured yet, taken without measurements", "pass", *NAMES)
    for case in CONV.values():
        for name in (*OPERATIONS, BOTH):
            kernels = [kernel_of(task_of(case, name, dtype, format, device)) for dtype in NAMES.values()]
            table.add_row(case.name, str(case) if name == "forward" else "", name.replace("_", " "), *kernels)
    return table


def task_of(case: ConvCase, name: str, dtype: torch.dtype, format: str, device: torch.device) -> Task:
    """What is to be chosen for: a pass of `OPERATIONS`, or `BOTH` gradients.

    Filters and their gradient are as `bench conv` has them. Of both gradients that of filters is bc01 beside batch-last
    images, as mode CUDA has it.
    """
    geometry = Geometry(case.image_shape, case.filter_shape, case.stride, case.padding, (1, 1), 1, False)
    same_format = "bc01" if format == "batch_last" and (dtype == torch.float32 or name == BOTH) else format
    filters = torch.empty(case.filter_shape, dtype=dtype, device="meta")
    to_read = "batch_last" if format == "batch_last" and can_be_read(filters) else "bc01"
    if name == BOTH:
        return GradsTask(
            "correlate2d_grads", geometry, dtype, "medium", (format,) * 3, device, filter_format=same_format,
            format_to_read=to_read,
        )  # fmt: skip
    filters_of = {"filter_format": same_format} if name == "filter_grad" else {"format_to_read": to_read}
    return Task(OPERATIONS[name], geometry, dtype, "medium", (format,) * 2, device, **filters_of)


def kernel_of(task: Task) -> str:
    """The method that is taken for a task, in a word or two."""
    method = tuning.known_choice(task) if tuning.is_tuned() else None
    return described(method) if method is not None else f"{described(tuning.fixed_choice(task))}*"


def described(method: Any) -> str:
    """A method of `kernels.cuda.methods`, or of both gradients, in a word or two."""
    kind = type(method).__name__
    if kind == "Pair":
        return "each by itself"
    if kind == "Joint":
        return f"prepared once, {method.product}"
    if kind == "Cudnn":
        return f"cuDNN {method.format}" + (" as forward" if method.as_forward else "")
    if kind == "Unrolled":
        return f"{described(method.method)} of columns"
    return f"{OWN[kind]} {method.product}"


def pools_table() -> Table:
    """A row for each pool in each physical format: what its kernels compute together, which follows from the shape."""
    title = (
        "Pools on the GPU: rows of windows forward, pixels backward, x numbers side by side that one thread computes"
    )
    passes = [(pass_, name) for name in NAMES for pass_ in PoolCase.operations]
    table = cases_table(title, "format", *(f"{pass_}\n{name}" for pass_, name in passes))
    for case in POOL.values():
        for format in GPU_FORMATS:
            plans = [pool_plan(case, pass_, NAMES[name], format) for pass_, name in passes]
            table.add_row(case.name, str(case) if format == GPU_FORMATS[0] else "", format, *plans)
    return table


def pool_plan(case: PoolCase, name: str, dtype: torch.dtype, format: str) -> str:
    """How a pass is cut: into strips of rows or patches of pixels; or that it loops over the taps of windows."""
    windows = check_pool(case.image_shape, case.window, case.stride, case.padding, True)
    planes = Planes.of(case.image_shape, format)
    if case.mode == "max" and suits_rows(dtype, format, windows, torch.device("cuda")):
        forward = name == "forward"
        plan = rows_plan(planes.number, windows, True) if forward else rows_grad_plan(planes.number, windows)
        if plan is not None:
            return f"{plan.constants['STRIP']} rows, shared"
    vector = planes.vector(dtype.itemsize)
    patch = patch_for(planes, windows, vector)
    if not is_written_out(windows) or (name == "backward" and patch is None):
        return "loops"
    if name == "forward":
        rows = strip_tile(planes, windows, vector).rows
        return f"{rows} row{'s' if rows > 1 else ''} x {vector}"
    assert patch is not None
    return f"{patch.rows}x{patch.columns} x {vector}"
