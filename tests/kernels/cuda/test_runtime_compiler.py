"""Compiled CUDA C++: kept on disk, made anew where that is spoilt, left out where there is no NVRTC."""

import ctypes

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import runtime_compiler  # noqa: E402
from pytensor_convnet.kernels.cuda.runtime_compiler import (  # noqa: E402
    CudaError,
    TensorMap,
    can_compile,
    compiled,
    launch,
)


class NvrtcOfVersion12:
    """What `compiled` asks of NVRTC but for the compilation itself."""

    def nvrtcVersion(self, major, minor):
        return 0


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    """The sources that are compiled, each to the bytes of its own."""
    sources = []

    def compile_(source):
        sources.append(source)
        return b"code of " + source.encode()

    monkeypatch.setenv("PYTENSOR_CONVNET_CUBIN_CACHE", str(tmp_path / "cubins"))
    monkeypatch.setattr(runtime_compiler, "_nvrtc", NvrtcOfVersion12)
    monkeypatch.setattr(runtime_compiler, "_compile", compile_)
    compiled.cache_clear()
    yield sources
    compiled.cache_clear()


def test_a_source_is_compiled_once_and_then_read(compilations):
    assert compiled("a") == b"code of a"
    compiled.cache_clear()
    assert compiled("a") == b"code of a"
    assert compilations == ["a"]


def test_other_sources_have_other_files(compilations):
    assert compiled("a") != compiled("b")
    assert len(list(runtime_compiler.cubin_folder().iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * 100])
def test_a_spoilt_file_is_made_anew(compilations, content):
    compiled("a")
    [file] = runtime_compiler.cubin_folder().iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    compiled.cache_clear()
    assert compiled("a") == b"code of a"
    assert compilations == ["a", "a"]
    assert file.read_bytes() == whole


def test_where_the_disk_refuses_it_is_compiled_all_the_same(compilations, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTENSOR_CONVNET_CUBIN_CACHE", str(tmp_path / "file"))
    assert compiled("a") == b"code of a"


def test_without_nvrtc_nothing_can_be_compiled(monkeypatch):
    monkeypatch.setattr(runtime_compiler, "capability_of", lambda device: runtime_compiler.CAPABILITY)
    monkeypatch.setattr(runtime_compiler, "_nvrtc", lambda: None)
    assert not can_compile(torch.device("cuda", 0))


def test_a_processor_is_no_gpu_of_hopper():
    assert not can_compile(torch.device("cpu"))


def test_on_tensors_without_memory_it_is_compiled_and_not_launched(compilations):
    launch("a", "kernel", 1, 32, 0, torch.empty(4, device="meta"), 7)
    assert compilations == ["a"]


def test_the_compiler_says_what_is_wrong():
    if runtime_compiler._nvrtc() is None:
        pytest.skip("there is no NVRTC")
    with pytest.raises(CudaError, match="error"):
        runtime_compiler._compile("__global__ void kernel() { undefined; }")


class DriverThatNotes:
    """The driver's tensor maps, and what was asked for."""

    def __init__(self, status=0):
        self.status, self.asked = status, None

    def cuTensorMapEncodeTiled(self, place, dtype, rank, address, lengths, strides, box, steps, *rest):
        self.asked = (
            place.value,
            dtype,
            address.value,
            *(list(numbers)[:rank] for numbers in (lengths, strides, box)),
            rest,
        )
        return self.status

    def cuGetErrorName(self, status, said):
        return 0


def map_of(tensor, box=(64, 3, 5, 1), swizzled=True):
    batch, channels, rows, columns = tensor.shape
    lengths, strides = (batch, channels, columns, rows), (rows * columns * batch, batch, columns * batch)
    return TensorMap(tensor, lengths, strides, box, swizzled)


@pytest.mark.parametrize(
    ("dtype", "number", "item", "swizzled"), [(torch.float32, 7, 4, False), (torch.bfloat16, 9, 2, True)], ids=str
)
def test_a_tensor_map_tells_the_driver_lengths_steps_and_box(dtype, number, item, swizzled, monkeypatch):
    driver = DriverThatNotes()
    monkeypatch.setattr(runtime_compiler, "_driver", lambda: driver)
    tensor = torch.zeros((128, 3, 6, 7), dtype=dtype)
    memory, place = map_of(tensor, swizzled=swizzled).encoded
    start = ctypes.addressof(memory)
    assert place % 64 == 0
    assert start <= place
    assert place + 128 <= start + len(memory)
    asked_place, asked_dtype, address, lengths, strides, box, rest = driver.asked
    assert (asked_place, asked_dtype, address) == (place, number, tensor.data_ptr())
    assert lengths == [128, 3, 7, 6]
    assert strides[:3] == [item * 42 * 128, item * 128, item * 7 * 128]
    assert box == [64, 3, 5, 1]
    interleaved, swizzling, promoted, filling = rest
    assert (interleaved, promoted) == (0, 3)  # no; reads bring 256 bytes to the second-level cache
    assert (swizzling, filling) == (3 if swizzled else 0, 0)  # 128 bytes or none; zeros beyond borders


@pytest.mark.parametrize(("images", "swizzling"), [(64, 3), (32, 2)])
def test_rows_of_64_bytes_are_swizzled_in_patterns_of_their_own(images, swizzling, monkeypatch):
    driver = DriverThatNotes()
    monkeypatch.setattr(runtime_compiler, "_driver", lambda: driver)
    _ = map_of(torch.zeros((128, 3, 6, 7), dtype=torch.bfloat16), box=(images, 3, 5, 1)).encoded
    assert driver.asked[-1][1] == swizzling


def test_a_box_that_the_driver_refuses_is_told(monkeypatch):
    monkeypatch.setattr(runtime_compiler, "_driver", lambda: DriverThatNotes(status=1))
    with pytest.raises(CudaError, match=r"map of a box \(512, 3, 5, 1\)"):
        _ = map_of(torch.zeros((128, 3, 6, 7)), box=(512, 3, 5, 1)).encoded


def test_a_tensor_map_without_memory_is_not_asked_for(compilations):
    launch("a", "kernel", 1, 32, 0, map_of(torch.empty((128, 3, 6, 7), device="meta")), torch.empty(4, device="meta"))
    assert compilations == ["a"]
