"""How large operands are: searched whole, or by a sample whose bound a copy checks."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import FORMATS, magnitudes, to_format  # noqa: E402
from pytensor_convnet.kernels.cuda.carrying_out import carry_out  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_kernel import PoolBlocks  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_methods import PoolGather, PoolTask  # noqa: E402
from pytensor_convnet.kernels.cuda.conv_pool_methods import carry_out as carry_out_pooled  # noqa: E402
from pytensor_convnet.kernels.cuda.copying import preparation, prepare  # noqa: E402
from pytensor_convnet.kernels.cuda.correlation_grads import GradsTask, Joint  # noqa: E402
from pytensor_convnet.kernels.cuda.correlation_grads import carry_out as carry_out_both  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry, gathering, stage_taps  # noqa: E402
from pytensor_convnet.kernels.cuda.magnitudes import HEADROOM, largest_magnitudes  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Task  # noqa: E402
from pytensor_convnet.kernels.cuda.packing import pack  # noqa: E402
from pytensor_convnet.kernels.cuda.pool_plans import check_pool  # noqa: E402
from pytensor_convnet.kernels.cuda.spreading import spread  # noqa: E402
from tests.kernels.cuda.test_conv_pool import GRADIENT_WAYS  # noqa: E402
from tests.kernels.cuda.test_correlation import EVERY_PASS, float16_method  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned", "unmeasured")

SEARCHERS, BLOCK, UNIT = 16, 4, 4
NO_PADDING = ((0, 0), (0, 0))
GEOMETRY = Geometry((17, 4, 5, 6), (4, 2, 3, 2), (2, 1), ((1, 2), (0, 3)), (1, 1), 2, True)
WHOLE, SAMPLED = 2**40, 1


@pytest.fixture
def unmeasured(monkeypatch):
    """The fixed choices, on a GPU as well."""
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "0")


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    """Samples of 64 elements."""
    for name, value in {"SEARCHERS": SEARCHERS, "BLOCK": BLOCK, "UNIT": UNIT, "LEAST_SAMPLED": SAMPLED}.items():
        monkeypatch.setattr(magnitudes, name, value)


def normal(shape, device, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    return to_format(torch.from_numpy(values).to(device), "batch_last")


def flat(tensor):
    """The elements of a batch-last tensor as they lie in memory."""
    return tensor.permute(1, 2, 3, 0).reshape(-1)


def is_in_sample(tensor):
    """Which elements of a batch-last tensor a sample has, in the order of memory."""
    distance = tensor.numel() // SEARCHERS // UNIT * UNIT
    place = torch.arange(tensor.numel(), device=tensor.device)
    return place % distance < BLOCK


def as_expected(tensor):
    pass


def beyond_the_sample(tensor):
    """One element is a million times as large as the others, and in no sample."""
    place = (~is_in_sample(tensor)).nonzero()[100]
    flat(tensor)[place] = 1e6


def nothing_in_the_sample(tensor):
    """The sample is zero, and the others are small."""
    flat(tensor).mul_(1e-20)[is_in_sample(tensor)] = 0


DISTRIBUTIONS = pytest.mark.parametrize(
    "distribution", [as_expected, beyond_the_sample, nothing_in_the_sample], ids=lambda function: function.__name__
)


def test_of_a_sample_comes_a_bound_and_a_place_for_what_copies_find(device):
    images, filters = normal((17, 4, 7, 9), device), torch.full((5,), 3.0, device=device)
    found = largest_magnitudes(images, filters, factors=(2.0, 1.0), copied=(True, False)).cpu()
    of_sample = flat(images)[is_in_sample(images)].abs().max().item()
    assert found.shape == (2, 2 * SEARCHERS)
    assert found[0].max().item() == pytest.approx(2 * HEADROOM * of_sample, rel=1e-6)
    assert found[1].max().item() == 3
    assert not found[:, SEARCHERS:].any()


@pytest.mark.parametrize("copied", [False, True])
def test_what_is_small_or_not_copied_is_searched_whole(copied, device, monkeypatch):
    monkeypatch.setattr(magnitudes, "LEAST_SAMPLED", WHOLE if copied else SAMPLED)
    images = normal((17, 4, 7, 9), device)
    beyond_the_sample(images)
    found = largest_magnitudes(images, images, copied=(copied, copied))
    assert found.shape == (2, SEARCHERS)
    assert (found.amax(1) == 1e6).all()


@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_notes_the_largest_it_sees(format, device):
    images = normal((17, 4, 7, 9), device)
    beyond_the_sample(images)
    images[3, 2, 5, 6], images[4, 2, 5, 6] = float("inf"), float("nan")
    images = to_format(images, format)
    row = largest_magnitudes(images, images, copied=(True, True))[0]
    row[:SEARCHERS] = HEADROOM
    copy = prepare(images, "float16", row)[0].double()
    assert row[SEARCHERS:].max().item() == 1e6
    scale = 2.0 ** (14 - int(np.log2(1e6)))
    assert copy[3, 2, 5, 6].isinf()
    assert copy[4, 2, 5, 6].isnan()
    torch.testing.assert_close(copy, (images * scale).half().double(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bound", [1e6, 1e9])
def test_a_bound_that_holds_is_the_scale(bound, device):
    images = normal((17, 4, 7, 9), device)
    beyond_the_sample(images)
    row = largest_magnitudes(images, images, copied=(True, True))[0]
    row[:SEARCHERS] = bound
    copy = prepare(images, "float16", row)[0]
    assert copy.abs().max().item() == pytest.approx(1e6 * 2.0 ** (14 - int(np.log2(bound))), rel=1e-3)


@pytest.mark.parametrize("least", [WHOLE, SAMPLED])
@DISTRIBUTIONS
def test_filters_are_packed_while_something_else_is_copied(distribution, least, device, monkeypatch):
    monkeypatch.setattr(magnitudes, "LEAST_SAMPLED", least)
    geometry = Geometry((17, 2, 5, 6), (3, 2, 3, 2), (1, 1), NO_PADDING, (1, 1), 1, True)
    images, maps, filters = (
        normal(shape, device, seed) for seed, shape in enumerate((geometry.images, geometry.maps, geometry.filters))
    )
    distribution(images)
    plan = gathering(geometry, True, (1, 1))
    how = plan, stage_taps(plan, 3, 16, 1, device), True, geometry.flip, "float16"

    def searched():
        return largest_magnitudes(images, maps, filters, copied=(True, False, False))

    apart, together = searched(), searched()
    expected_copy = prepare(images, "float16", apart[0])
    expected = pack(filters, *how, apart[1:], 8, stage_rows=16)
    copied, copy = preparation(images, "float16")
    packed = pack(filters, *how, together[1:], 8, copy, 16, together[0])
    assert torch.equal(copied, expected_copy)
    assert torch.equal(together, apart)
    assert torch.equal(packed.matrix, expected.matrix)
    assert torch.equal(packed.scales, expected.scales)
    assert packed.matrix.count_nonzero() == filters.numel()


def with_and_without_samples(compute, monkeypatch):
    results = []
    for least in (WHOLE, SAMPLED):
        monkeypatch.setattr(magnitudes, "LEAST_SAMPLED", least)
        results.append([result.double().cpu() for result in compute()])
    return zip(*results, strict=True)


def assert_same(pairs):
    """Scales are powers of two, so with another one the same bits come out, but for what is too small to matter."""
    for whole, sampled in pairs:
        assert whole.isfinite().all()
        assert (sampled - whole).norm() <= 1e-6 * whole.norm()
        assert whole.norm() > 0


@EVERY_PASS
@DISTRIBUTIONS
def test_every_pass_is_the_same_by_a_sample(distribution, name, device, monkeypatch):
    task = Task(name, GEOMETRY, torch.float32, "medium", ("batch_last",) * 2, torch.device(device))
    images, maps = normal(GEOMETRY.images, device), normal(GEOMETRY.maps, device)
    filters = normal(GEOMETRY.filters, device)
    for tensor in (images, maps):
        distribution(tensor)
    taken = {"correlate2d": (images, filters), "correlate2d_input_grad": (filters, maps)}.get(name, (images, maps))
    assert_same(with_and_without_samples(lambda: [carry_out(task, float16_method(name), *taken)], monkeypatch))


@pytest.mark.parametrize("is_bounded", [False, True])
@DISTRIBUTIONS
def test_joint_gradients_are_the_same_by_a_sample(distribution, is_bounded, device, monkeypatch):
    images, maps = normal(GEOMETRY.images, device), normal(GEOMETRY.maps, device)
    filters = normal(GEOMETRY.filters, device)
    for tensor in (images, maps):
        distribution(tensor)
    searched = (maps.abs().amax().reshape(1, 1, 1, 1),) if is_bounded else ()
    formats = ("batch_last",) * 3
    task = GradsTask("correlate2d_grads", GEOMETRY, torch.float32, "medium", formats, torch.device(device), 1.0)
    method = Joint("float16")
    assert_same(
        with_and_without_samples(lambda: carry_out_both(task, method, images, filters, maps, *searched), monkeypatch)
    )


@DISTRIBUTIONS
def test_a_pooled_correlation_is_the_same_by_a_sample(distribution, device, monkeypatch):
    geometry = Geometry((17, 4, 7, 9), (6, 4, 3, 2), (1, 1), NO_PADDING, (1, 1), 1, False)
    windows = check_pool(geometry.maps, (2, 2), (2, 2), NO_PADDING, True)
    how = torch.float32, "medium", ("batch_last",) * 3, torch.device(device), windows, "relu", torch.uint8
    method = PoolGather(True, "float16", PoolBlocks(16, 64, (2, 1), (32,), 4, 1, 1, True))
    images, filters = normal(geometry.images, device), normal(geometry.filters, device)
    biases = torch.zeros(6, device=device)
    distribution(images)
    task = PoolTask("correlate2d_max_pool2d", geometry, *how)
    assert_same(
        with_and_without_samples(lambda: carry_out_pooled(task, method, images, filters, biases)[:1], monkeypatch)
    )


@pytest.mark.parametrize("way", ["spread", "spread for images", "spread for filters", "not spread"])
@DISTRIBUTIONS
def test_pooled_gradients_are_the_same_by_a_sample(distribution, way, device, monkeypatch):
    geometry = Geometry((17, 2, 8, 9), (3, 2, 3, 2), (1, 1), NO_PADDING, (1, 1), 1, False)
    windows = check_pool(geometry.maps, (3, 3), (2, 2), NO_PADDING, True)
    method = GRADIENT_WAYS[way]
    name = "correlate2d_max_pool2d_" + ("grads" if method.input else "filter_grad")
    how = torch.float32, "medium", ("batch_last",) * 3, torch.device(device), windows, "relu", torch.uint8
    images, filters = normal(geometry.images, device), normal(geometry.filters, device)
    maps = normal((17, 3, windows.out_rows, windows.out_columns), device)
    winners = torch.full(maps.shape, 8, dtype=torch.uint8, device=device)
    winners[:, :, 1:, 1:] = 0  # so windows share pixels
    for tensor in (images, maps):
        distribution(tensor)
    sources = (images, filters) if method.input else (images,)
    operands = *sources, to_format(winners, "batch_last"), maps
    task = PoolTask(name, geometry, *how)
    assert_same(with_and_without_samples(lambda: carry_out_pooled(task, method, *operands), monkeypatch))


def test_what_is_spread_is_scaled_by_the_largest_sum(device):
    windows = check_pool((16, 1, 5, 5), (3, 3), (2, 2), NO_PADDING, True)
    maps = torch.full((16, 1, 2, 2), 1.0, device=device)
    winners = torch.tensor([[8, 6], [2, 0]], dtype=torch.uint8, device=device).expand(16, 1, 2, 2)
    maps, winners = to_format(maps, "batch_last"), to_format(winners.contiguous(), "batch_last")
    row = torch.zeros(2 * SEARCHERS, device=device)
    row[:SEARCHERS] = 1e-6  # what a sample might have found
    spread_ = spread(winners, maps, windows, "float16", row)[0].double()
    assert row[SEARCHERS:].max().item() == 4
    assert spread_[:, 0, 2, 2].eq(4 * 2.0**12).all()
    assert spread_.count_nonzero() == 16
