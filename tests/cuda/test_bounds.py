"""What bounds a gradient of averages is found in every window, and told to the gradients of the correlation before."""

import json

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="mode CUDA is built on torch: pip install torch")
pytest.importorskip("triton", reason="the kernels are Triton's: pip install triton")

from pytensor_convnet import conv2d, pool_2d, reference  # noqa: E402
from pytensor_convnet.geometry import overlap  # noqa: E402
from pytensor_convnet.lowering.cuda import operators  # noqa: E402
from tests.strategies import pools  # noqa: E402


@settings(max_examples=40)
@given(case=pools(dtype="float32"), mode=st.sampled_from(["sum", "average_inc_pad", "average_exc_pad"]))
def test_no_pixel_gets_more_than_from_so_many_windows(case, mode):
    expected = reference.average_pool2d(case.images, *case.windows, case.ignore_border, mode)
    spread = reference.average_pool2d_grad(np.ones_like(expected), *case.rows_and_columns, *case.windows, mode)
    window, stride, _ = case.windows
    assert np.max(spread, initial=0) <= overlap(window, stride) * (1 + 1e-6)


def test_the_pooled_gradient_is_searched_in_the_place_of_the_maps(interpreter, mode, monkeypatch):
    said = []
    kernels = operators.kernels

    def noted(tensors, calls):
        said.extend(json.loads(calls))
        return kernels(tensors, calls)

    x, w, b = pt.ftensor4("x"), pt.ftensor4("w"), pt.fvector("b")
    y = pt.maximum(conv2d(x, w) + b[:, None, None], 0)
    z = pool_2d(y, (3, 3), stride=(2, 2), ignore_border=True, mode="average_inc_pad")
    function = pytensor.function([x, w, b], pt.grad(pt.sqr(z).sum(), [x, w, b]), mode=mode)
    monkeypatch.setattr(operators, "kernels", noted)
    random = np.random.default_rng(0)
    function(*(random.standard_normal(shape).astype("float32") for shape in ((16, 2, 8, 8), (3, 2, 3, 3), (3,))))
    call, *_ = [call for call in said if call[0] == "correlate2d_grads"]  # foreseen, and made
    assert call[2] == ["searched"]
    assert call[4]["factor"] == 4.0
