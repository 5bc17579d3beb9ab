"""Whether tf32 is allowed is told from all of torch's settings, and these are put back after they were changed."""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import cudnn, tf32  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402

needs_precisions = pytest.mark.skipif(not tf32.HAS_PRECISIONS, reason="torch < 2.9 has flags only")

PRECISIONS = [
    {place: value for place, value in zip(("all", "library", "operation"), values) if value is not None}
    for values in itertools.product((None, "ieee", "tf32"), repeat=3)
]
"""Everything that may have been set of the three."""


def places_of(operation):
    library = torch.backends.cudnn
    own = library.conv if operation == "conv" else torch.backends.cuda.matmul
    return {"all": torch.backends, "library": library, "operation": own}


def reading(operation):
    return {name: place.fp32_precision for name, place in places_of(operation).items()}


def read_as_others_change(operation):
    """What precisions read while others are changed, which tells those that were set from those that were not."""
    places, seen = places_of(operation), [reading(operation)]
    for name, value in itertools.product(("all", "library"), ("ieee", "tf32", "none")):
        places[name].fp32_precision = value
        seen.append(reading(operation))
    return seen


@pytest.fixture
def settings():
    """Put torch's settings back to its defaults, after the test too; and allow tf32 or not by flags."""

    libraries = torch.backends.cuda, torch.backends.mkldnn

    def defaults():
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
        if tf32.HAS_PRECISIONS:
            products = [library.matmul for library in libraries if hasattr(library, "matmul")]
            for place in (torch.backends, torch.backends.cudnn, *products):
                place.fp32_precision = "none"

    def put(convolutions=True, products=False):
        defaults()
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products

    yield put
    defaults()


def put_precisions(settings, precisions, operation):
    settings()
    for name, value in precisions.items():
        places_of(operation)[name].fp32_precision = value


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
def test_convolutions_after_a_flag(settings, flag, allowed):
    settings(convolutions=flag)
    with tf32.tf32_convolutions(allowed):
        assert tf32.allows_tf32_convolutions() == allowed
    assert tf32.allows_tf32_convolutions() == torch.backends.cudnn.allow_tf32 == flag


@needs_precisions
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("precisions", PRECISIONS, ids=str)
def test_convolutions_after_precisions(settings, precisions, allowed):
    put_precisions(settings, precisions, "conv")
    expected = read_as_others_change("conv")
    put_precisions(settings, precisions, "conv")
    with tf32.tf32_convolutions(allowed):
        assert tf32.allows_tf32_convolutions() == allowed
    assert read_as_others_change("conv") == expected


@needs_precisions
@pytest.mark.parametrize("allowed", [True, False])
def test_convolutions_after_an_error(settings, allowed):
    put_precisions(settings, {"library": "ieee"}, "conv")
    before = reading("conv")
    with pytest.raises(KeyError), tf32.tf32_convolutions(allowed):
        raise KeyError
    assert reading("conv") == before


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
def test_products_after_a_flag(settings, flag, allowed):
    settings(products=flag)
    with tf32.tf32_products(allowed):
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
    assert torch.backends.cuda.matmul.allow_tf32 == flag


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("level", ["highest", "high", "medium"])
def test_products_after_a_level(settings, level, allowed):
    settings()
    torch.set_float32_matmul_precision(level)
    with tf32.tf32_products(allowed):
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
        assert (torch.get_float32_matmul_precision() != "highest") == allowed
    assert torch.get_float32_matmul_precision() == level


@needs_precisions
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("everything", ["tf32", "ieee"])
def test_products_follow_the_precision_of_everything_as_before(settings, everything, allowed):
    put_precisions(settings, {"operation": "none", "all": everything}, "matmul")
    with tf32.tf32_products(allowed):
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
    torch.backends.fp32_precision = other = "ieee" if everything == "tf32" else "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == other


@needs_precisions
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("precisions", PRECISIONS, ids=str)
def test_products_after_precisions(settings, precisions, allowed):
    put_precisions(settings, precisions, "matmul")
    before = reading("matmul")
    with tf32.tf32_products(allowed):
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
        assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == allowed
    assert reading("matmul") == before


@needs_precisions
@pytest.mark.parametrize("precision", ["medium", "ieee"])
@pytest.mark.parametrize("precisions", [{"all": "ieee"}, {"library": "tf32"}, {"operation": "ieee"}], ids=str)
def test_cudnn_is_told_what_to_do_and_left_as_it_was(settings, monkeypatch, precisions, precision):
    put_precisions(settings, precisions, "conv")

    def said(*operands):
        library = torch.backends.cudnn
        return library.enabled, library.benchmark, library.deterministic, reading("conv")

    monkeypatch.setattr(torch.nn.functional, "conv2d", said)
    before, images, filters = said(), torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 2, 2)
    geometry = Geometry((1, 1, 3, 3), (1, 1, 2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)
    *flags, meanwhile = cudnn.correlate2d(geometry, images, filters, "bc01", precision)
    assert flags == [True, True, True]
    assert meanwhile["operation"] == ("tf32" if precision == "medium" else "ieee")
    assert said() == before
