"""What may run beside what follows: on which stream, who waits for whom, whose memory is kept. Streams are fake."""

import gc
import weakref
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import streams  # noqa: E402
from pytensor_convnet.kernels.cuda.streams import allowed, awaited, beside, both, late_product, rejoined  # noqa: E402

DEVICE = torch.device("cpu")


class Stream:
    """A stream that notes for which others it waits."""

    device = DEVICE

    def __init__(self, name, events):
        self.name, self.events = name, events

    def wait_stream(self, other):
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def events(monkeypatch):
    """What happens, in order, while a graph is captured on the stream 'main'."""
    found = []
    present = [Stream("main", found)]
    others = {name: Stream(name, found) for name in ("late", "side")}

    @contextmanager
    def on(stream):
        present.append(stream)
        yield
        present.pop()

    monkeypatch.setattr(streams, "_stream", lambda device, name: others[name])
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


def test_what_is_aside_runs_beside_the_rest_which_ends_when_both_have(events):
    with rejoined(DEVICE) as aside:
        launch(events, "magnitudes")
        with aside():
            launch(events, "filters")
        launch(events, "maps")
    launch(events, "product")
    assert events == [
        "magnitudes on main", "side waits for main", "filters on side", "maps on main", "main waits for side",
        "product on main",
    ]  # fmt: skip


def test_nobody_waits_where_nothing_was_aside(events):
    with rejoined(DEVICE):
        launch(events, "maps")
    assert events == ["maps on main"]


def test_what_is_aside_of_what_is_aside_stands_there(events):
    with rejoined(DEVICE) as aside, aside(), rejoined(DEVICE) as again, again():
        launch(events, "filters")
    assert events == ["side waits for main", "filters on side", "main waits for side"]


def test_without_a_capture_nothing_is_aside(events, monkeypatch):
    monkeypatch.setattr(streams, "_is_capturing", lambda: False)
    with rejoined(DEVICE) as aside, aside():
        launch(events, "filters")
    assert events == ["filters on main"]


def test_after_an_error_who_was_aside_is_awaited_too(events):
    def step():
        with rejoined(DEVICE) as aside:
            with aside():
                launch(events, "filters")
            raise MemoryError

    with pytest.raises(MemoryError):
        step()
    assert events[-1] == "main waits for side"


def both_gradients(events):
    def launched(what):
        launch(events, what)
        return what

    read = torch.ones(2)
    return both(lambda: launched("images"), lambda: launched("filters"), read, device=DEVICE)


def test_gradients_run_beside_each_other(events):
    assert both_gradients(events) == ("images", "filters")
    assert events == ["side waits for main", "filters on side", "images on main", "main waits for side"]


def test_where_that_of_filters_may_be_late_that_of_images_comes_first(events):
    with awaited(DEVICE), allowed(True):
        assert both_gradients(events) == ("images", "filters")
        launch(events, "next")
    assert events == [
        "images on main", "late waits for main", "filters on late", "next on main", "main waits for late",
    ]  # fmt: skip


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
