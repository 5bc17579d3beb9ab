"""CrossMapNorm in c01b, blocked and not, with the gradients of both its outputs."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet.cuda_convnet import CrossMapNorm, CrossMapNormUndo
from tests.cuda_convnet.common import evaluate
from tests.ops.common import PYTHON, close

random = np.random.default_rng(0)
SETTINGS = [(5, 0.5, 0.75, False), (4, 0.3, 0.5, False), (3, 0.7, 1.25, True)]
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def denominators(images, size, scale, blocked):
    """Map by map, as cuda-convnet's kernel walks over them."""
    result = np.ones_like(images)
    for f in range(len(images)):
        start = f // size * size if blocked else f - size // 2
        for g in range(max(start, 0), min(start + size, len(images))):
            result[f] += scale * images[g] ** 2
    return result


@every_setting
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 5, 130), (17, 2, 2, 3)])
def test_values_follow_the_definition(shape, setting):
    size, scale, power, blocked = setting
    images = random.standard_normal(shape)
    expected = denominators(images, size, scale, blocked)
    targets, denoms = evaluate(CrossMapNorm(*setting)(images))
    close(denoms, expected)
    close(targets, images / expected**power)


@every_setting
@pytest.mark.parametrize("output", [0, 1])
def test_gradients_match_finite_differences(setting, output):
    def normalised(images):
        return CrossMapNorm(*setting)(images)[output]

    verify_grad(normalised, [random.standard_normal((6, 2, 3, 2))], mode=PYTHON, rng=np.random.default_rng(0))


@every_setting
def test_undo_is_the_gradient(setting):
    images = pt.as_tensor(random.standard_normal((6, 2, 3, 4)))
    dout = random.standard_normal((6, 2, 3, 4))
    acts, denoms = CrossMapNorm(*setting)(images)
    gradient, out_acts = CrossMapNormUndo(*setting)(images, acts, denoms, dout)
    assert out_acts is acts
    close(evaluate(gradient), evaluate(pytensor.grad((acts * dout).sum(), images)))


def test_float32_stays_float32():
    images = pt.tensor4("images", dtype="float32")
    assert [x.type.dtype for x in CrossMapNorm(5, 1e-4, 0.75, False)(images)] == ["float32", "float32"]


REFUSED = {
    "size": (lambda: CrossMapNorm(0, 1.0, 1.0, False), "size_f must be at least 1"),
    "scale": (lambda: CrossMapNorm(3, float("nan"), 1.0, False), "add_scale must be a finite number"),
    "power": (lambda: CrossMapNorm(3, 1.0, None, False), "pow_scale must be a finite number"),
    "batch-missing": (lambda: CrossMapNorm(3, 1.0, 1.0, False)(pt.tensor3()), "batch axis is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse_is_told_in_a_sentence(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        build()
