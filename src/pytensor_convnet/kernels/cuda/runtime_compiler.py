"""CUDA C++ compiled where it runs, for what Triton cannot say: NVRTC translates, the driver loads and launches.

NVRTC comes with torch. What it makes of a source, half a second's work, lies on disk (`disk_caches`), and is made anew
where what is read is not what was written. Where there is no NVRTC, or the GPU is not of the kind that a source is for,
nothing is missing but the methods that need it.

``PYTENSOR_CONVNET_CUBIN_CACHE`` is the folder, by default ``pytensor-convnet/cubins`` in the user's cache folder.
"""

import ctypes
import functools
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytensor_convnet.kernels.cuda.compiling_ahead import is_launching
from pytensor_convnet.kernels.cuda.disk_caches import file_of, folder_of, keep
from pytensor_convnet.kernels.cuda.formats import pixel_step
from pytensor_convnet.kernels.cuda.hardware import capability_of

ARCHITECTURE, CAPABILITY = "sm_90a", (9, 0)
"""Instructions of Hopper alone, which later GPUs do not have."""

OPTIONS = (f"--gpu-architecture={ARCHITECTURE}".encode(), b"-default-device", b"--std=c++17")

SHARED_MEMORY_ATTRIBUTE, OVERLAPPING_ATTRIBUTE = 8, 6
"""Of the driver: a function's largest dynamic shared memory; a launch that starts while the one before it ends."""

MAP_BYTES, MAP_ALIGNMENT, SWIZZLE_64, SWIZZLE_128, PROMOTION_256 = 128, 64, 2, 3, 3
MAP_TYPES = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
"""The driver's numbers for a tensor map: its size and alignment, the order of 16-byte parts, what a read brings to the
second-level cache, dtypes."""


class CudaError(RuntimeError):
    """What NVRTC or the driver could not do."""


def can_compile(device: torch.device) -> bool:
    """Whether sources can be compiled for a device and run there."""
    return capability_of(device) == CAPABILITY and _nvrtc() is not None


# -------------------------------------------------------------------------------------------- compiling


@functools.cache
def _nvrtc() -> Any:
    """NVRTC, or None where there is none."""
    for place in (*_nvrtc_files(), "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        with suppress(OSError):
            return ctypes.CDLL(str(place))
    return None


def _nvrtc_files() -> Iterator[Path]:
    """Those of the packages that torch needs, and of an installed toolkit; those of torch's CUDA first."""
    root = Path(torch.__file__).parent.parent
    version = str(torch.version.cuda or "").split(".")[0]
    folders = [root / "nvidia", root / "torch" / "lib", *sorted(Path("/usr/local").glob("cuda*/lib64"))]
    found = [file for folder in folders for file in sorted(folder.rglob("libnvrtc.so.*")) if ".alt." not in file.name]
    yield from sorted(found, key=lambda file: file.suffix != f".{version}")


@functools.lru_cache(maxsize=256)
def compiled(source: str) -> bytes:
    """The machine code of a source, from disk where it is there.

    Raises
    ------
    CudaError
        The source is none that NVRTC takes; the message has what NVRTC says.
    """
    if _nvrtc() is None:
        raise CudaError("there is no NVRTC, which comes with torch's CUDA packages")
    major, minor = ctypes.c_int(), ctypes.c_int()
    _checked(_nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    facts = f"{major.value}.{minor.value} {OPTIONS}\n{source}"
    file = file_of(cubin_folder(), facts, ".cubin")
    with suppress(OSError):
        content = file.read_bytes()
        if content[:32] == hashlib.sha256(content[32:]).digest():
            return content[32:]
    code = _compile(source)
    keep(file, hashlib.sha256(code).digest() + code)
    return code


def cubin_folder() -> Path:
    """Where machine code is kept."""
    return folder_of("PYTENSOR_CONVNET_CUBIN_CACHE", "cubins")


def _compile(source: str) -> bytes:
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    _checked(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"source.cu", 0, None, None),
        "nvrtcCreateProgram",
    )
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
        if failed:
            raise CudaError(f"NVRTC: {_output(program, 'ProgramLog').decode(errors='replace')}")
        return _output(program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _checked(status: int, what: str) -> None:
    if status:
        raise CudaError(f"NVRTC: {what}, status {status}")


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _checked(getattr(_nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    content = ctypes.create_string_buffer(size.value)
    _checked(getattr(_nvrtc(), f"nvrtcGet{what}")(program, content), what)
    return content.raw


# -------------------------------------------------------------------------------------------- launching


class _Attribute(ctypes.Structure):
    """The driver's CUlaunchAttribute, of a value that is an integer."""

    _fields_ = (("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _Launch(ctypes.Structure):
    """The driver's CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


@dataclass(frozen=True)
class TensorMap:
    """A tensor as the copying engine sees it, and the box that a copy brings.

    Attributes
    ----------
    tensor : tensor
        float32, bfloat16 or float16, its memory aligned to 16 bytes.
    lengths, box : tuple of int
        Of all dimensions, the innermost first, whose elements follow each other. A box has 256 a dimension at most.
    strides : tuple of int
        Of all but the innermost dimension, in elements; multiples of 16 bytes.
    swizzled : bool
        Whether the 16-byte parts of each row of a box, of 64 or 128 bytes of shared memory, are in the order that
        tensor cores read at once.
    """

    tensor: torch.Tensor
    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzled: bool

    @functools.cached_property  # several launches may read the same
    def encoded(self) -> tuple[Any, int]:
        """The driver's CUtensorMap: memory, and the place in it where the map begins, a multiple of 64.

        Raises
        ------
        CudaError
            The driver takes no such map.
        """
        memory = ctypes.create_string_buffer(MAP_BYTES + MAP_ALIGNMENT)
        address = -(-ctypes.addressof(memory) // MAP_ALIGNMENT) * MAP_ALIGNMENT
        rank, item = len(self.lengths), self.tensor.element_size()
        swizzling = SWIZZLE_64 if self.box[0] * item == 64 else SWIZZLE_128
        status = _driver().cuTensorMapEncodeTiled(
            ctypes.c_void_p(address), MAP_TYPES[self.tensor.dtype], rank, ctypes.c_void_p(self.tensor.data_ptr()),
            (ctypes.c_uint64 * rank)(*self.lengths), (ctypes.c_uint64 * rank)(*(item * s for s in self.strides)),
            (ctypes.c_uint32 * rank)(*self.box), (ctypes.c_uint32 * rank)(*[1] * rank),
            0, swizzling if self.swizzled else 0, PROMOTION_256, 0,
        )  # fmt: skip
        _driven(status, f"map of a box {self.box} of {self.lengths}")
        return memory, address


def batch_last_map(tensor: torch.Tensor, box: tuple[int, int, int, int]) -> TensorMap:
    """A batch-last tensor, and a swizzled box of its batch, channels, rows and columns."""
    (batch, channels, rows, columns), step = tensor.shape, pixel_step(tensor)
    strides = rows * columns * step, columns * step, step
    return TensorMap(tensor, (batch, channels, rows, columns), strides, box, swizzled=True)


def launch(
    source: str, name: str, grid: int, threads: int, shared_bytes: int, *arguments: torch.Tensor | TensorMap | int
) -> None:
    """Launch the kernel ``name`` of a source on the current stream of the device of its first tensor.

    It may start while its predecessor ends, and has to wait for that before it reads or writes (`dependent_launch`).
    On tensors without memory it is compiled and not launched.

    Raises
    ------
    CudaError
        It cannot be compiled, loaded or launched.
    """
    device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
    if device.type == "meta":
        if is_launching():
            compiled(source)
        return
    function = _function(source, name, shared_bytes, device.index)
    values = [_value(argument) for argument in arguments]
    pointers = (ctypes.c_void_p * len(values))(*(address for _, address in values))
    overlapping = _Attribute(id=OVERLAPPING_ATTRIBUTE, value=1)
    stream = torch.cuda.current_stream(device).cuda_stream
    how = _Launch((grid, 1, 1), (threads, 1, 1), shared_bytes, stream, ctypes.pointer(overlapping), 1)
    _driven(_driver().cuLaunchKernelEx(ctypes.byref(how), function, pointers, None), f"launch of {name}")


def _value(argument: torch.Tensor | TensorMap | int) -> tuple[Any, int]:
    """What a kernel gets, and its address."""
    if isinstance(argument, TensorMap):
        return argument.encoded
    value: Any = ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, torch.Tensor) else ctypes.c_int(argument)
    return value, ctypes.addressof(value)


@functools.cache  # without an end: captured graphs go on launching what is here
def _function(source: str, name: str, shared_bytes: int, device: int) -> ctypes.c_void_p:
    """A kernel loaded on the current device."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _driven(_driver().cuModuleLoadData(ctypes.byref(module), compiled(source)), f"loading {name}")
    _driven(_driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), f"finding {name}")
    _driven(_driver().cuFuncSetAttribute(function, SHARED_MEMORY_ATTRIBUTE, shared_bytes), f"shared memory of {name}")
    return function


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _driven(status: int, what: str) -> None:
    """Raise what the driver says was wrong."""
    if status:
        said = ctypes.c_char_p()
        _driver().cuGetErrorName(status, ctypes.byref(said))
        raise CudaError(f"{what}: {(said.value or b'').decode()} ({status})")
