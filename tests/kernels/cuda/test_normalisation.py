"""Normalisation across maps on the GPU computes its definition, in every format."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the CUDA kernels work on torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton: pip install triton")

from pytensor_convnet.kernels.cuda import normalisation as module  # noqa: E402
from pytensor_convnet.kernels.cuda.formats import FORMATS, empty, memory_format, to_format  # noqa: E402
from pytensor_convnet.kernels.cuda.normalisation import cross_map_norm, cross_map_norm_grad  # noqa: E402

SETTINGS = [
    (5, 0.3, 0.75, False),
    (4, 0.2, 1.5, False),
    (3, 0.5, 0.5, True),
    (20, 0.1, 0.75, False),
    (1, 1.0, 1.0, True),
    (1, 1.0, 1.0, False),
]


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    monkeypatch.setattr(module, "empty", lambda *arguments: empty(*arguments).fill_(float("nan")))


def definition(images, size, scale, power, blocked):
    """The result of one pixel after the other, in torch, so that it has a gradient."""
    channels = images.shape[1]
    maps = []
    for c in range(channels):
        first = c // size * size if blocked else c - size // 2
        neighbours = images[:, max(first, 0) : min(first + size, channels)]
        maps.append(images[:, c] * (1 + scale * (neighbours**2).sum(1)) ** -power)
    return torch.stack(maps, 1)


def random(*shape):
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_definition(device, setting, format):
    images, maps = random(5, 7, 3, 4).requires_grad_(), random(5, 7, 3, 4)
    expected = definition(images, *setting)
    grad = torch.autograd.grad(expected, images, maps)[0]
    single, maps = (to_format(array.detach().float().to(device), format) for array in (images, maps))
    ours, our_grad = cross_map_norm(single, *setting), cross_map_norm_grad(single, maps, *setting)
    assert memory_format(ours) == memory_format(our_grad) == format
    torch.testing.assert_close(ours.cpu().double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_grad.cpu().double(), grad, rtol=1e-5, atol=1e-5)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 5), st.integers(1, 5)),
    setting=st.tuples(st.integers(1, 11), st.floats(0, 2), st.floats(0, 2), st.booleans()),
    formats=st.tuples(*[st.sampled_from(FORMATS)] * 3),
)
def test_drawn_shapes(device, shape, setting, formats):
    images, maps = random(*shape).requires_grad_(), random(*shape[::-1]).permute(3, 2, 1, 0)
    expected = definition(images, *setting)
    grad = torch.autograd.grad(expected, images, maps)[0]
    before, of_maps, after = formats
    single, maps = to_format(images.detach().to(device), before), to_format(maps.to(device), of_maps)
    ours, our_grad = cross_map_norm(single, *setting, after), cross_map_norm_grad(single, maps, *setting, after)
    torch.testing.assert_close(ours.cpu(), expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(our_grad.cpu(), grad, rtol=1e-12, atol=1e-12)


def test_offsets_of_64_bits(device, monkeypatch):
    monkeypatch.setattr(module, "is_wide", lambda *_: True)
    images = random(5, 11, 30, 4).requires_grad_()
    expected = definition(images, 5, 0.3, 0.75, False)
    torch.testing.assert_close(
        cross_map_norm(images.detach().to(device), 5, 0.3, 0.75).cpu(), expected, rtol=1e-12, atol=1e-12
    )
    grad = torch.autograd.grad(expected.sum(), images)[0]
    ours = cross_map_norm_grad(images.detach().to(device), torch.ones_like(images, device=device), 5, 0.3, 0.75)
    torch.testing.assert_close(ours.cpu(), grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats(device, dtype):
    images = random(4, 8, 3, 3).to(dtype)
    expected = definition(images.float(), 5, 0.3, 0.75, False)
    ours = cross_map_norm(images.to(device), 5, 0.3, 0.75).cpu()
    torch.testing.assert_close(ours.float(), expected, rtol=1e-2, atol=1e-3)


def test_no_images(device):
    assert cross_map_norm(torch.zeros(0, 3, 4, 4, device=device), 5, 1.0, 1.0).shape == (0, 3, 4, 4)


def test_the_gradient_must_have_the_shape_of_the_images(device):
    images = random(2, 3, 4, 4).to(device)
    with pytest.raises(ValueError, match="maps are 1x3x4x4 but images 2x3x4x4"):
        cross_map_norm_grad(images, images[:1], 5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": None}, "size must be an integer, got None"),
        ({"size": 2.5}, "size must be an integer, got 2.5"),
        ({"scale": None}, "scale must be a number, got None"),
        ({"scale": "0.3"}, "scale must be a number, got '0.3'"),
        ({"power": torch.ones(2)}, r"power must be a number, got tensor\(\[1., 1.\]\)"),
    ],
)
def test_settings_that_are_none_are_refused_by_both_passes(device, change, message):
    images = random(2, 3, 4, 4).to(device)
    named = {"size": 5, "scale": 1.0, "power": 1.0, **change}
    for call in (cross_map_norm, lambda *tensors, **named: cross_map_norm_grad(*tensors, *tensors, **named)):
        with pytest.raises(ValueError, match=f"^{message}$"):
            call(images, **named)


@pytest.mark.parametrize("scale", [1, np.float32(1), np.array(1.0), torch.tensor(1.0)])
def test_a_scale_is_any_number(device, scale):
    images = random(2, 3, 4, 4).to(device)
    assert torch.equal(cross_map_norm(images, 5, scale, 1.0), cross_map_norm(images, 5, 1.0, 1.0))
