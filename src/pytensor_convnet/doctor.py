"""The command ``pytensor-convnet doctor``: what this machine has, what is missing, and which kernels would be used.

Nothing is measured, and no GPU's cache is changed.
"""

import functools
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pytensor_convnet import __version__
from pytensor_convnet.bench.cases import CONV, GPU_FORMATS, ConvCase
from pytensor_convnet.bench.table import cases_table
from pytensor_convnet.command_line import names_among

PACKAGES = ("pytensor", "numba", "llvmlite", "numpy", "torch", "triton", "jax")
PASSES = ("forward", "input_grad", "filter_grad")
WIDTH_OF_FILES = 140
"""How wide tables may be where there is no terminal to tell."""


def doctor(
    formats: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help=f"For convolutions on a GPU, how tensors lie in memory, a table each: {', '.join(GPU_FORMATS)}.",
        ),
    ] = "batch_last",
) -> None:
    """Show what this machine has: devices, versions, caches, and the kernel that each case of the benchmark takes."""
    in_formats = names_among(formats, GPU_FORMATS, "--formats")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_FILES)

    def tell(lines: Iterable[str]) -> None:
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    tell(version_lines())
    tell(device_lines())
    tell(cache_lines())
    console.print(cpu_table())
    if gpu_problem() is None:
        for table in gpu_tables(in_formats):
            console.print(table)


def version_lines() -> Iterator[str]:
    """A line for each package that matters."""
    yield f"pytensor-convnet {__version__}, Python {platform.python_version()}"
    for name in PACKAGES:
        yield f"  {name:10s}{_version(name) or 'not installed'}"


def device_lines() -> Iterator[str]:
    """A line for each device, and what is missing where there is none."""
    import numba

    yield f"CPU: {platform.machine()}, {os.cpu_count()} cores, {numba.config.NUMBA_NUM_THREADS} threads"
    problem = gpu_problem()
    if problem is not None:
        yield f"GPU: none that can be used. {problem}"
        return
    import torch

    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        yield (
            f"GPU {number}: {gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.multi_processor_count} "
            f"multiprocessors, {gpu.total_memory / 2**30:.0f} GiB; CUDA {torch.version.cuda}, "
            f"cuDNN {torch.backends.cudnn.version()}"
        )


def gpu_problem() -> str | None:
    """Why no GPU can be used, and what to do about it; None where one can."""
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'pytensor-convnet[cuda]'"
    import torch

    if torch.version.cuda is None:
        return (
            "This torch was built without CUDA: install one that has it, as https://pytorch.org/get-started says, "
            "and a driver of NVIDIA's."
        )
    if not torch.cuda.is_available():
        return (
            "torch finds no NVIDIA GPU: is one in this machine, and does nvidia-smi, which its driver brings, see it?"
        )
    return None


def cache_lines() -> Iterator[str]:
    """A line for each folder in which something compiled or measured is kept."""
    yield "Caches:"
    for name, folder, files in caches():
        sizes = [file.stat().st_size for file in folder.rglob(files) if file.is_file()] if folder.is_dir() else []
        yield f"  {name}: {folder}, {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def caches() -> Iterator[tuple[str, Path, str]]:
    """Name, folder and kind of files of each cache."""
    from pytensor import config

    import pytensor_convnet.kernels.cpu

    yield "PyTensor", Path(config.compiledir), "*"
    yield "CPU kernels", Path(pytensor_convnet.kernels.cpu.__file__).parent, "*.nb[ic]"
    if find_spec("triton"):
        yield "Triton", Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"), "*"
    if find_spec("torch") and find_spec("triton"):
        from pytensor_convnet.kernels.cuda.runtime_compiler import cubin_folder
        from pytensor_convnet.kernels.cuda.tuning import cache_folder

        yield "choices for GPUs", cache_folder(), "*.json"
        yield "compiled CUDA C++", cubin_folder(), "*.cubin"


# ------------------------------------------------------------------------------------------- kernels


def cpu_table() -> Table:
    """The form of minimal filtering with which the CPU computes each pass of each case."""
    title = "Convolutions on the CPU, float32: direct, or by minimal filtering F(outputs, taps)"
    table = cases_table(title, *(name.replace("_", " ") for name in PASSES))
    for case in CONV.values():
        case = case.for_cpu()
        table.add_row(case.name, str(case), *(cpu_form(case, name) for name in PASSES))
    return table


def cpu_form(case: ConvCase, name: str) -> str:
    """The form of minimal filtering that the CPU's plan of a pass chooses."""
    from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS

    axes = []
    for axis in range(2):
        lengths = case.map_shape[2 + axis], case.image_shape[2 + axis]
        if name == "input_grad":
            lengths = lengths[::-1]
        axes.append((*lengths, case.taps[axis], case.stride[axis], case.padding[axis][0], 1))
    depths = (case.filters, case.channels) if name == "input_grad" else (case.channels, case.filters)
    form = _form_chooser(name == "input_grad")(case.batch, *axes, *depths)
    return "direct" if form == 0 else "F({}, {})".format(*FORMS[form])


@functools.cache
def _form_chooser(gradient: bool) -> Callable[..., int]:
    """The number of the form that a plan chooses; what makes plans can be called from compiled code only."""
    import numba

    from pytensor_convnet.kernels.cpu.packing import correlation_axis, gradient_axis
    from pytensor_convnet.kernels.cpu.planning import plan_pass

    make_axis = gradient_axis if gradient else correlation_axis

    @numba.njit
    def form(batch, row_axis, column_axis, channels, filters):
        _, reads = plan_pass(batch, make_axis(*row_axis), make_axis(*column_axis), channels, filters, 4, False)
        return reads.form

    return form


def gpu_tables(formats: Iterable[str]) -> Iterator[Table]:
    """The kernels with which the current GPU computes convolutions in these formats, and pools."""
    import torch

    from pytensor_convnet.bench.cuda.choices import convolutions_table, pools_table

    device = torch.device("cuda", torch.cuda.current_device())
    for format in formats:
        yield convolutions_table(format, device)
    yield pools_table()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
