"""Which methods are timed, in which order they are tried, and on which operands."""

from concurrent.futures import Future
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import measuring  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Cudnn, Pair  # noqa: E402
from tests.kernels.cuda.test_tuning import task_of  # noqa: E402


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


def fails(*arguments):
    raise RuntimeError("an illegal memory access was encountered")


@pytest.mark.parametrize("error", [RuntimeError, torch.cuda.OutOfMemoryError])
def test_a_candidate_that_fails_while_the_gpu_goes_on_is_left_out(error, no_gpu):
    def carry_out(task, method):
        if method == Cudnn("bc01"):
            raise error("no room")

    assert not measuring._works(carry_out, task_of(), Cudnn("bc01"), ())
    assert measuring._works(carry_out, task_of(), Cudnn("channels_last"), ())


def test_a_candidate_after_which_nothing_runs_is_named(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(measuring.GpuStopped, match=r"stopped at Cudnn\(format='bc01'.*\), .*correlate2d.*illegal"):
        measuring._works(lambda *arguments: None, task_of(), Cudnn("bc01"), ())


def test_what_need_not_be_compiled_is_tried_while_the_rest_is(no_gpu, monkeypatch):
    compiling, done = Future(), []
    monkeypatch.setattr(measuring, "compile_ahead", lambda carry_out, task, methods, operands: [compiling])
    monkeypatch.setattr(measuring, "await_all", lambda jobs: done.append(jobs))
    methods = ["a", Pair(), Cudnn("bc01"), "b"]
    usable = measuring._usable(lambda task, method: done.append(method), task_of(), methods, ())
    assert done == [Pair(), Cudnn("bc01"), [compiling], "a", "b"]
    assert usable == [Pair(), Cudnn("bc01"), "a", "b"]


@pytest.mark.parametrize(
    ("cache", "sets"),
    [(23, 1), (24 * 8, 9), (24 * 3, 4), (24 * 8 + 1, 1)],
    ids=["no cache holds them", "an eighth of the cache", "a third", "all in the cache"],
)
def test_operands_that_are_not_small_are_copied_past_the_cache(cache, sets, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=cache))
    images = torch.arange(6.0).reshape(2, 3).T
    found = measuring._sets((images,))
    assert len(found) == sets


def test_copies_of_operands_lie_in_memory_as_they_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=100))
    images, stretched = torch.arange(6.0).reshape(2, 3).T, torch.ones(1).expand(6)
    first, second, *_ = measuring._sets((images, stretched))
    assert first[0] is images
    assert first[1] is stretched
    assert second[0].stride() == images.stride()
    assert second[0].data_ptr() != images.data_ptr()
    assert torch.equal(second[0], images)
    assert second[1] is stretched
