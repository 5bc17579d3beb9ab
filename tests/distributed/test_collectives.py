"""Means of torch tensors: formats, dtypes and sizes. Over two processes they are tested in `test_all_mean`."""

import numpy as np
import torch

from pytensor_convnet.kernels.collectives import all_mean, all_mean_of_arrays


def test_tensors_of_any_dtype_shape_and_format_come_back_contiguous():
    tensors = [
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(2.0, dtype=torch.float64),
        torch.zeros(0, 4),
        torch.arange(4.0, dtype=torch.bfloat16)[::2],
    ]
    means = all_mean(tensors)
    for mean, tensor in zip(means, tensors, strict=True):
        assert mean.dtype == tensor.dtype
        assert mean.is_contiguous()
        assert torch.equal(mean, tensor)


def test_means_share_no_memory():
    tensor = torch.zeros(3)
    means = all_mean([tensor, tensor])
    means[0] += 1
    assert torch.equal(means[1], tensor)
    assert len({mean.untyped_storage().data_ptr() for mean in [*means, tensor]}) == 3


def test_arrays_come_back_contiguous():
    array = np.arange(6.0).reshape(2, 3).T
    [mean] = all_mean_of_arrays([array])
    assert mean.flags.c_contiguous
    np.testing.assert_array_equal(mean, array)
