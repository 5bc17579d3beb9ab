"""How filter gradients are cut into tasks."""

import numba
import pytest

from pytensor_convnet.bench.cases import CONV
from pytensor_convnet.kernels.cpu.filter_grad_blocking import Blocking, choose_blocking, piece
from pytensor_convnet.kernels.cpu.packing import correlation_axis
from pytensor_convnet.kernels.cpu.planning import plan_pass


@numba.njit
def _choose(batch, row_axis, column_axis, channels, filters):
    rows, columns = correlation_axis(*row_axis), correlation_axis(*column_axis)
    tiling, reads = plan_pass(batch, rows, columns, channels, filters, 4, False)
    return tiling, choose_blocking(1, filters, channels, rows, reads, tiling, 4)


def _plan(name):
    """The tiling and the blocking of a case's filter gradient."""
    case = CONV[name].for_cpu()
    axes = [
        (maps, images, taps, stride, before, 1)
        for maps, images, taps, stride, (before, _) in zip(
            case.map_shape[2:], case.image_shape[2:], case.taps, case.stride, case.padding
        )
    ]
    return _choose(case.batch, *axes, case.channels, case.filters)


def _tasks(blocking: Blocking) -> int:
    return blocking.groups * blocking.filter_blocks * blocking.channel_blocks * blocking.slices


@pytest.mark.parametrize(("pieces", "total"), [(1, 7), (3, 9), (4, 10), (7, 3)])
def test_pieces_follow_each_other_and_are_alike(pieces, total):
    found = [piece.py_func(number, pieces, total) for number in range(pieces)]
    assert [first for first, _ in found] == [sum(size for _, size in found[:n]) for n in range(pieces)]
    assert sum(size for _, size in found) == total
    assert max(size for _, size in found) - min(size for _, size in found) <= 1


@pytest.mark.parametrize("name", CONV)
def test_no_block_band_or_slice_is_empty(name):
    tiling, blocking = _plan(name)
    assert blocking.filter_blocks <= blocking.filters
    assert blocking.channel_blocks <= blocking.channels
    assert blocking.bands <= tiling.rows
    assert 1 <= blocking.slices <= tiling.lane_groups * blocking.bands


@pytest.mark.parametrize("name", ["alex1", "cb4", "stride2", "vgg3"])
def test_two_threads_have_alike_many_tasks(name):
    assert _tasks(_plan(name)[1]) % 2 == 0
