"""What is known of a variable at the pixels that won."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet.ops import MaxPool2d, MaxPool2dGather
from pytensor_convnet.rewriting.resolution import at_winners, constant_values, pooled_by
from tests.ops.common import PYTHON

WINDOWS = (3, 2), (2, 2), ((1, 1), (0, 0))
images = pt.tensor("images", dtype="float64", shape=(2, 3, 9, 8))
bias = pt.tensor("bias", dtype="float64", shape=(1, 3, 1, 1))
inputs = [images, bias]
values = [np.random.default_rng(0).standard_normal(x.type.shape) for x in inputs]

KNOWN = {
    "images": images,
    "function": pt.tanh(images + bias) * 2 - abs(images),
    "filled": images * pt.alloc(3.0, *images.shape),
    "condition": pt.switch(images > bias, images, 0),
}
UNKNOWN = {
    "channels-moved": images[:, ::-1],
    "other-images": images + pt.tensor4("other", dtype="float64"),
    "rows": images + images[:, :, :, :1],
    "pixelwise-constant": images * np.ones((1, 1, 9, 8)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_is_what_gathering_finds(name):
    maxima, winners = MaxPool2d()(images, *WINDOWS)
    gathered = MaxPool2dGather()(KNOWN[name], winners, *WINDOWS)
    known = at_winners(KNOWN[name], images, maxima)
    ours, other = pytensor.function(inputs, [known, gathered], mode=PYTHON, on_unused_input="ignore")(*values)
    np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown(name):
    assert at_winners(UNKNOWN[name], images, MaxPool2d()(images, *WINDOWS)[0]) is None


def test_what_is_constant_over_windows_needs_no_images():
    assert at_winners(bias, None, None) is bias
    assert at_winners(images, None, None) is None


def test_winners_know_what_was_pooled_with_the_same_windows_only():
    maxima, winners = MaxPool2d()(images, *WINDOWS)
    assert pooled_by(winners, winners.owner.inputs[1:]) == (images, maxima)
    assert pooled_by(winners, MaxPool2d()(images, *WINDOWS)[1].owner.inputs[1:]) == (images, maxima)
    assert pooled_by(winners, MaxPool2d()(images, (3, 3), *WINDOWS[1:])[1].owner.inputs[1:]) is None
    assert pooled_by(winners.type(), winners.owner.inputs[1:]) is None
    assert pooled_by(maxima, winners.owner.inputs[1:]) is None


def test_values_of_constants():
    assert constant_values(pt.as_tensor([1.0, -2.0, 5.0])) == (-2, 5)
    assert constant_values(pt.alloc(3.0, images.shape[0], 1)) == (3, 3)
    for variable in (images, pt.as_tensor([1.0, np.nan]), pt.as_tensor(np.inf), pt.as_tensor(np.zeros(0))):
        assert constant_values(variable) is None
