"""What the kernels over windows share: limits of a Hopper multiprocessor, and how their CUDA C++ is put together.

A source is its constants, the instruction of tensor cores that it multiplies by, and the code of files of this folder.
"""

import functools
from math import ceil
from pathlib import Path

from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.pool_plans import Windows

BATCH_MULTIPLES = {True: 8, False: 4}
"""Of 16 bits and of float32: 16 bytes, of which steps in memory are multiples where the copying engine reads. Other
batches are filled up first (`copying.boxable`)."""

BARRIER_BYTES = 1024
"""Of shared memory, at its beginning."""

ROW_BYTES, PATTERN_BYTES = 128, 1024
"""Of a row of images in shared memory, 64 of 16 bits or 32 of float32, and after how many bytes the order of its parts
repeats."""

BOX_ALIGNMENT = 128
"""Of bytes of shared memory that a copy begins at."""

MOST_OF_A_BOX = 256
"""Elements along a dimension that can be copied at a time."""

MOST_COLUMNS = 256
"""Of an instruction's product."""

THREADS, FETCHING_REGISTERS, MULTIPLYING_REGISTERS = 384, 24, 240
"""Of a program, where its source says nothing else: two warpgroups multiply, a third fetches. Together they have
exactly the registers that they began with, 168 a thread: a warpgroup that asked for more would wait for ever."""

SHARED_CONSTANTS = {
    "ROW_BYTES": ROW_BYTES, "THREADS": THREADS, "FETCHING_REGISTERS": FETCHING_REGISTERS,
    "MULTIPLYING_REGISTERS": MULTIPLYING_REGISTERS,
}  # fmt: skip
"""That every source has, besides its own."""

MOST_BYTES = 2**31
"""Of what is told apart by integers of 32 bits."""


def constants_of_correlation(geometry: Geometry) -> dict[str, int]:
    """How filters move over images, and the maps."""
    (down, across), (step_down, step_across) = geometry.filters[2:], geometry.stride
    map_rows, map_columns = geometry.maps[2:]
    return {
        "TAPS_DOWN": down, "TAPS_ACROSS": across, "STEP_ROWS": step_down, "STEP_COLUMNS": step_across,
        "TOP": geometry.padding[0][0], "LEFT": geometry.padding[1][0], "FLIP": int(geometry.flip),
        "MAP_ROWS": map_rows, "MAP_COLUMNS": map_columns,
    }  # fmt: skip


def constants_of_pool(windows: Windows) -> dict[str, int]:
    """How windows of a pool move over maps."""
    (rows, columns), (step_rows, step_columns) = windows.window, windows.stride
    return {
        "POOL_ROWS": rows, "POOL_COLUMNS": columns, "POOL_STEP_ROWS": step_rows, "POOL_STEP_COLUMNS": step_columns,
        "POOL_TOP": windows.padding[0][0], "POOL_LEFT": windows.padding[1][0], "OUT_ROWS": windows.out_rows,
        "OUT_COLUMNS": windows.out_columns,
    }  # fmt: skip


def whole_patterns(count: int) -> int:
    """So many bytes of shared memory as whole patterns."""
    return PATTERN_BYTES * ceil(count / PATTERN_BYTES)


def source_of(constants: dict[str, int], product: str, *files: str) -> str:
    """The source of a kernel: constants, the product's instruction, and the code of files of this folder."""
    defines = "".join(f"#define {name} ({value})\n" for name, value in (SHARED_CONSTANTS | constants).items())
    return defines + product + "".join(map(_code, ("hopper_instructions.cu", *files)))


@functools.cache
def _code(file: str) -> str:
    return Path(__file__).with_name(file).read_text()


def add_product(columns: int, kind: str, orders: str, from_registers: bool = False) -> str:
    """CUDA C++ of ``add_product(total, a, b, adds)``: sums in registers become, or are added to by, a product.

    Parameters
    ----------
    columns : int
        Of ``b`` and of the sums; ``a`` has 64 rows.
    kind : str
        Of the instruction: depth and types, as ``"k16.f32.bf16.bf16"``.
    orders : str
        Of the operands in shared memory, ``", 1"`` for each that is not summed along its innermost axis, ``", 0"`` for
        others; none for tf32, which knows but one.
    from_registers : bool
        Whether ``a`` is in registers, instead of shared memory.
    """
    count = columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    totals = ", ".join(f'"+f"(total[{i}])' for i in range(count))
    if from_registers:
        type_, a = "const unsigned int (&a)[4]", "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
        inputs = [f'"r"(a[{i}])' for i in range(4)]
    else:
        type_, a, inputs = "unsigned long long a", f"%{count}", ['"l"(a)']
    b = count + len(inputs)
    return f"""
__device__ __forceinline__ void add_product(float (&total)[{count}], {type_}, unsigned long long b, int adds)
{{
    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{b + 1}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{columns}{kind} {{{sums}}}, {a}, %{b}, p, 1, 1{orders};\\n}}\\n"
        : {totals} : {", ".join(inputs)}, "l"(b), "r"(adds));
}}
"""
