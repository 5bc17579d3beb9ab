"""What may run beside what follows: on which stream, who waits for whom, whose memory is kept. Streams are fake."""

import gc
import weakref
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import streams  # noqa: E402
from pytensor_convnet.kernels.cuda.streams import allowed, awaited, beside, both, late_product  # noqa: E402

DEVICE = torch.device("cpu")


class Stream:
    """A stream that notes for which others it waits."""

    device = DEVICE

    def __init__(self, name, events):
        self.name, self.events = name, events
        self.cuda_stream = name

    def wait_stream(self, other):
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def events(monkeypatch):
    """What happens, in order, while a graph is captured on the stream 'main'."""
    found = []
    present = [Stream("main", found)]
    others = {}

    @contextmanager
    def on(stream):
        present.append(stream)
        try:
            yield
        finally:
            present.pop()

    monkeypatch.setattr(streams, "_stream", lambda device, name: others.setdefault(name, Stream(name, found)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: present[-1])
    monkeypatch.setattr(streams, "_is_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "stream", on)
    return found


def launch(events, what):
    events.append(f"{what} on {torch.cuda.current_stream().name}")


def test_what_is_allowed_runs_beside_what_follows_and_is_awaited(events):
    with awaited(DEVICE):
        with allowed(True), beside(torch.ones(2), None):
            launch(events, "filters")
        launch(events, "next")
    launch(events, "update")
    assert events == [
        "late waits for main", "filters on late", "next on main", "main waits for late", "update on main",
    ]  # fmt: skip


@pytest.mark.parametrize("lacking", ["awaited", "allowed", "capture"])
def test_elsewhere_it_is_launched_where_it_stands(events, lacking, monkeypatch):
    monkeypatch.setattr(streams, "_is_capturing", lambda: lacking != "capture")

    def step():
        with allowed(lacking != "allowed"), beside(torch.ones(2)):
            launch(events, "filters")

    if lacking == "awaited":
        step()
    else:
        with awaited(DEVICE):
            step()
    assert events == ["filters on main"]


def test_what_is_launched_within_runs_beside_nothing_else(events):
    with awaited(DEVICE), allowed(True), beside(torch.ones(2)), beside(torch.ones(2)):
        launch(events, "filters")
    assert events == ["late waits for main", "filters on late", "main waits for late"]


def test_what_is_read_is_kept_until_it_is_awaited(events):
    with awaited(DEVICE):
        read = torch.ones(2)
        kept = weakref.ref(read)
        with allowed(True), beside(read):
            del read
        gc.collect()
        assert kept() is not None
    gc.collect()
    assert kept() is None


def test_after_an_error_it_is_awaited_too(events):
    def step():
        with awaited(DEVICE):
            with allowed(True), beside(torch.ones(2)):
                launch(events, "filters")
            raise MemoryError

    with pytest.raises(MemoryError):
        step()
    assert events[-1] == "main waits for late"
    with allowed(True), beside(torch.ones(2)):
        launch(events, "another")
    assert events[-1] == "another on main"


def both_gradients(events, *read):
    def launched(what):
        launch(events, what)
        return what

    return both(lambda: launched("images"), lambda: launched("filters"), *read, device=DEVICE)


def test_gradients_run_beside_each_other_and_end_when_both_have(events):
    launch(events, "maps")
    assert both_gradients(events) == ("images", "filters")
    launch(events, "next")
    assert events == [
        "maps on main", "side of main waits for main", "filters on side of main", "images on main",
        "main waits for side of main", "next on main",
    ]  # fmt: skip


def test_streams_do_not_share_a_side(events):
    with torch.cuda.stream(Stream("other", events)):
        both_gradients(events)
    both_gradients(events)
    assert [event for event in events if event.startswith("filters")] == [
        "filters on side of other", "filters on side of main",
    ]  # fmt: skip


def test_where_that_of_filters_may_be_late_that_of_images_comes_first(events):
    with awaited(DEVICE), allowed(True):
        assert both_gradients(events, torch.ones(2)) == ("images", "filters")
        launch(events, "next")
    assert events == [
        "images on main", "late waits for main", "filters on late", "next on main", "main waits for late",
    ]  # fmt: skip


@pytest.mark.usefixtures("events")
def test_all_that_a_late_gradient_reads_is_kept_until_it_is_awaited():
    read = [torch.ones(2), torch.ones(3)]
    kept = [weakref.ref(tensor) for tensor in read]
    with awaited(DEVICE):
        with allowed(True):
            both(lambda: None, lambda: None, read[0], None, read[1], device=DEVICE)
        read.clear()
        gc.collect()
        assert all(tensor() is not None for tensor in kept)
    gc.collect()
    assert all(tensor() is None for tensor in kept)


def test_without_a_capture_gradients_are_launched_one_after_the_other(events, monkeypatch):
    monkeypatch.setattr(streams, "_is_capturing", lambda: False)
    assert both_gradients(events) == ("images", "filters")
    assert events == ["images on main", "filters on main"]


@pytest.mark.parametrize("failing", ["images", "filters"])
def test_after_an_error_the_gradient_beside_is_awaited_too(events, failing):
    def gradient(what):
        launch(events, what)
        if what == failing:
            raise MemoryError

    with pytest.raises(MemoryError):
        both(lambda: gradient("images"), lambda: gradient("filters"), device=DEVICE)
    assert events[-1] == "main waits for side of main"


@pytest.fixture
def products(events, monkeypatch):
    """Products of matrices are noted as well."""
    product = torch.mm

    def noted(*operands, **settings):
        launch(events, "product")
        return product(*operands, **settings)

    monkeypatch.setattr(torch, "mm", noted)


@pytest.mark.usefixtures("products")
def test_a_late_product_is_launched_behind_the_next_that_is_beside_and_not_small(events):
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    with awaited(DEVICE):
        product = late_product(a, b, a.dtype)
        launch(events, "next")
        with allowed(True), beside(a, small=True):
            launch(events, "biases")
        with allowed(True), beside(a):
            launch(events, "filters")
    assert events == [
        "next on main", "late waits for main", "biases on late", "late waits for main", "filters on late",
        "product on late", "main waits for late",
    ]  # fmt: skip
    assert product.tolist() == [[3.0] * 4] * 2


@pytest.mark.usefixtures("products")
def test_a_late_product_is_launched_at_the_end_where_nothing_is_beside(events):
    with awaited(DEVICE):
        product = late_product(torch.ones(2, 3), torch.ones(3, 1), torch.float32)
        launch(events, "next")
    assert events == ["next on main", "product on main"]
    assert product.tolist() == [[3.0]] * 2


def test_a_late_product_is_the_product_where_nothing_is_captured(monkeypatch):
    monkeypatch.setattr(streams, "_is_capturing", lambda: False)
    with awaited(DEVICE):
        assert late_product(torch.ones(2, 3), torch.ones(3, 1), torch.float32).tolist() == [[3.0]] * 2


def test_products_of_parts_are_summed(monkeypatch):
    monkeypatch.setattr(streams, "_is_capturing", lambda: False)
    a, b = torch.ones(4, 2, 3, dtype=torch.bfloat16), torch.ones(4, 3, 1, dtype=torch.bfloat16)
    product = late_product(a, b, torch.float32)
    assert (product.dtype, product.tolist()) == (torch.float32, [[12.0]] * 2)
