"""Minibatches brought to a GPU; where there is none, these tests are left out."""

import numpy as np
import pytest
import torch

from pytensor_convnet.uploading import Uploader

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_minibatches_arrive_whole_and_stay_until_they_are_used():
    rng = np.random.default_rng(0)
    images, labels = rng.random((1000, 3, 32, 32), "float32"), np.arange(1000, dtype="int32")
    order = rng.permutation(1000)
    minibatches = [order[start : start + 64] for start in range(0, 1000, 64)]
    sums, found = [], []
    busy = torch.rand(2000, 2000, device="cuda")
    for some_images, some_labels in Uploader("cuda", 64, slots=3).uploaded(images, labels, iter(minibatches)):
        busy = busy @ busy.softmax(0)  # the GPU falls behind the host, which must not overwrite what is not read yet
        sums.append(some_images.double().sum((1, 2, 3)))
        found.append(some_labels.clone())
    assert torch.cat(found).cpu().numpy().tolist() == order.tolist()
    expected = images[order].astype("float64").sum((1, 2, 3))
    np.testing.assert_allclose(torch.cat(sums).cpu().numpy(), expected, rtol=1e-12)
