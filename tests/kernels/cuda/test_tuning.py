"""Choices are measured once, kept on disk whole or not at all, and made anew where what is there cannot be read."""

import json
import multiprocessing
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.bench.cases import CONV  # noqa: E402
from pytensor_convnet.kernels.cuda import tuning, window_candidates, window_grad_candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.candidates import WINDOWS, candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.estimates import SHARED_BYTES, products_of  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Cudnn, Task, Window, WindowShare  # noqa: E402

KEY_OF = tuning._key

PASSES = ("correlate2d", "correlate2d_input_grad", "correlate2d_filter_grad")


def task_of(case="cifar1", name="correlate2d", dtype=torch.float32, precision="medium", device="cuda"):
    layer = CONV[case]
    geometry = Geometry(layer.image_shape, layer.filter_shape, layer.stride, layer.padding, (1, 1), 1, False)
    return Task(name, geometry, dtype, precision, ("batch_last", "batch_last"), torch.device(device))


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    """The tasks that were measured; a stand-in for measuring, and a cache of the test's own."""
    counted = []

    def best_method(task, operands):
        counted.append(task)
        return candidates(task, 3)[-1], 1e-3

    monkeypatch.setattr(tuning, "best_method", best_method)
    monkeypatch.setattr(tuning, "_key", repr)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setenv("PYTENSOR_CONVNET_TUNING_CACHE", str(tmp_path))
    tuning.forget()
    yield counted
    tuning.forget()


def test_a_task_is_measured_once(measurements):
    chosen = [tuning.choose(task_of(), ()) for _ in range(3)]
    assert len(measurements) == 1
    assert len(set(chosen)) == 1


def test_another_process_finds_the_choice_on_disk(measurements):
    before = [tuning.choose(task_of(name=name), ()) for name in PASSES]
    tuning.forget()
    assert [tuning.choose(task_of(name=name), ()) for name in PASSES] == before
    assert len(measurements) == len(PASSES)


def test_a_filter_gradient_is_measured_in_each_format_that_it_is_asked_for(measurements):
    task = task_of(name="correlate2d_filter_grad")
    for format in ("bc01", "channels_last", "bc01"):
        tuning.choose(replace(task, filter_format=format), ())
    assert [task.filter_format for task in measurements] == ["bc01", "channels_last"]


def of_batch(batch, name="correlate2d"):
    task = task_of(name=name)
    return replace(task, geometry=replace(task.geometry, images=(batch, *task.geometry.images[1:])))


@pytest.mark.parametrize(
    ("batch", "measured"),
    [(80, 1), (64, 1), (48, 2), (72, 2), (144, 2)],
    ids=["smaller", "half", "less than half", "less aligned", "larger"],
)
def test_a_smaller_last_minibatch_takes_the_method_of_the_others(measurements, tmp_path, batch, measured):
    chosen = tuning.choose(of_batch(128), ())
    of_the_last = tuning.choose(of_batch(batch), ())
    assert len(measurements) == measured
    assert measured == 2 or of_the_last == chosen
    assert len(list(tmp_path.iterdir())) == measured  # what was not measured is not kept


def test_a_batch_is_not_compared_with_one_that_was_not_measured(measurements):
    for batch in (128, 80, 48):
        tuning.choose(of_batch(batch), ())
    assert len(measurements) == 2


def test_a_smaller_minibatch_of_another_pass_is_measured(measurements):
    tuning.choose(of_batch(128), ())
    tuning.choose(of_batch(80, "correlate2d_input_grad"), ())
    assert len(measurements) == 2


def test_processes_that_compile_start_early_only_where_nothing_was_measured(measurements, monkeypatch):
    started = []
    monkeypatch.setattr(tuning, "start_processes", lambda: started.append(True))
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "0")
    tuning.prepare()
    assert not started
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "1")
    tuning.prepare()
    assert len(started) == 1
    tuning.choose(task_of(), ())
    tuning.prepare()
    assert len(started) == 1


def test_what_is_foreseen_is_begun_before_the_first_measurement(measurements):
    begun = []
    with tuning.foreseeing(lambda: begun.append(len(measurements))):
        tuning.choose(task_of(), ())
        tuning.choose(task_of(name="correlate2d_input_grad"), ())
    assert begun == [0]


def test_what_was_planned_and_not_needed_is_forgotten(measurements, monkeypatch):
    forgotten = []
    monkeypatch.setattr(tuning, "forget_plans", lambda: forgotten.append(True))
    with tuning.foreseeing(lambda: None):
        pass
    assert not forgotten
    with tuning.foreseeing(lambda: None):
        tuning.choose(task_of(), ())
        assert not forgotten
    assert len(forgotten) == 1


def test_a_choice_is_open_until_it_is_known_for_this_batch_or_a_larger_one(measurements):
    assert tuning.is_open(of_batch(100))
    tuning.choose(of_batch(100), ())
    assert not tuning.is_open(of_batch(100))
    assert not tuning.is_open(of_batch(60))
    assert tuning.is_open(of_batch(20))


def test_what_is_foreseen_is_not_begun_where_everything_is_known(measurements):
    tuning.choose(task_of(), ())
    with tuning.foreseeing(lambda: pytest.fail("nothing has to be measured")):
        tuning.choose(task_of(), ())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}', '{"key": KEY, "method": {"kind": "Nothing"}}'])
def test_a_file_that_cannot_be_read_is_made_anew(measurements, content, tmp_path):
    task = task_of()
    before = tuning.choose(task, ())
    (file,) = tmp_path.glob("*.json")
    file.write_text(content.replace("KEY", json.dumps(repr(task))))
    tuning.forget()
    assert tuning.choose(task, ()) == before
    assert len(measurements) == 2
    assert json.loads(file.read_text())["key"] == repr(task)


def test_choices_are_files_of_their_own_and_no_part_of_one_is_left(measurements, tmp_path):
    tasks = [task_of(case, name) for case in ("cifar1", "alex1", "lenet1") for name in PASSES]
    threads = [threading.Thread(target=tuning._store, args=(task, Cudnn("bc01"), 1.0)) for task in tasks * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == len(tasks)
    assert all(tuning._load(task) == Cudnn("bc01") for task in tasks)


def store_in_turn(folder, me, meeting, rounds):
    """What a process does that keeps its own choices, and a choice that all keep, again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTENSOR_CONVNET_TUNING_CACHE", folder)
        patch.setattr(tuning, "_key", repr)
        meeting.wait()
        for _ in range(rounds):
            for task in (of_batch(16 + me), of_batch(16)):
                tuning._store(task, Cudnn("bc01", as_forward=bool(me % 2)), float(me))
                assert isinstance(tuning._load(task), Cudnn)  # and nothing of a file that is being written


def test_processes_that_store_at_once_lose_nothing(measurements, tmp_path):
    context, count = multiprocessing.get_context("spawn"), 2
    meeting = context.Barrier(count)
    processes = [
        context.Process(target=store_in_turn, args=(str(tmp_path), me, meeting, 100)) for me in range(1, count + 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count
    assert len(list(tmp_path.iterdir())) == count + 1
    assert [tuning._load(of_batch(16 + me)) for me in (1, 2)] == [Cudnn("bc01", True), Cudnn("bc01", False)]
    assert isinstance(tuning._load(of_batch(16)), Cudnn)


# --------------------------------------------------------------------------------- what a file on disk is for


@pytest.fixture
def facts(monkeypatch, tmp_path):
    """What a choice depends on besides its task, on a GPU that need not be there; tests change it."""
    source = tmp_path / "kernel.py"
    source.write_text("a kernel")
    known = SimpleNamespace(gpu="NVIDIA H100", cudnn=91002, compiles=True, source=source)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: known.gpu)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: known.cudnn)
    monkeypatch.setattr(tuning, "can_compile", lambda device: known.compiles)
    monkeypatch.setattr(tuning, "SOURCES", (source,))
    monkeypatch.setattr(tuning, "digest_of", tuning.digest_of.__wrapped__)  # a process reads sources but once
    return known


CHANGES = {
    "gpu": lambda facts, patch: patch.setattr(facts, "gpu", "NVIDIA H200"),
    "torch": lambda facts, patch: patch.setattr(torch, "__version__", "99.0"),
    "triton": lambda facts, patch: patch.setattr(tuning.triton, "__version__", "99.0"),
    "cudnn": lambda facts, patch: patch.setattr(facts, "cudnn", 91003),
    "sources": lambda facts, patch: facts.source.write_text("another kernel"),
    "deterministic": lambda facts, patch: patch.setenv("PYTENSOR_CONVNET_DETERMINISTIC", "0"),
    "compiles": lambda facts, patch: patch.setattr(facts, "compiles", False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_choice_depends_on_is_part_of_its_key(change, facts, monkeypatch):
    before = tuning._key(task_of())
    change(facts, monkeypatch)
    assert tuning._key(task_of()) != before


@pytest.mark.parametrize(
    "other",
    [
        task_of(name="correlate2d_input_grad"),
        task_of(dtype=torch.bfloat16),
        task_of(precision="high"),
        replace(task_of(), formats=("bc01", "batch_last")),
        replace(task_of(), filter_format="channels_last"),
        replace(task_of(), format_to_read="batch_last"),
        task_of("alex1"),
    ],
    ids=["pass", "dtype", "precision", "formats", "filter format", "format to read", "geometry"],
)
def test_tasks_have_keys_of_their_own(other, facts):
    assert tuning._key(other) != tuning._key(task_of())


def test_a_task_keeps_its_key_on_every_gpu_of_a_kind(facts):
    keys = {tuning._key(task_of(device=device)) for device in ("cuda", "cuda:0", "cuda:1")}
    assert keys == {tuning._key(task_of())}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_choice_is_made_anew_where_what_it_depends_on_has_changed(change, facts, measurements, monkeypatch):
    monkeypatch.setattr(tuning, "_key", KEY_OF)
    for _ in range(2):
        tuning.choose(task_of(), ())
        tuning.forget()
    assert len(measurements) == 1
    change(facts, monkeypatch)
    tuning.choose(task_of(), ())
    assert len(measurements) == 2


def test_a_file_of_another_key_is_not_taken(facts, measurements, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_key", KEY_OF)
    chosen = tuning.choose(task_of(), ())
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    assert tuning._load(task_of()) == chosen
    file.write_text(json.dumps(content | {"key": content["key"].replace("H100", "H200")}))
    assert tuning._load(task_of()) is None


def test_a_folder_that_cannot_be_written_costs_only_the_memory_of_it(measurements, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTENSOR_CONVNET_TUNING_CACHE", str(tmp_path / "file" / "folder"))
    assert tuning.choose(task_of(), ()) == tuning.choose(task_of(), ())
    assert len(measurements) == 1


def test_nothing_is_measured_where_that_is_switched_off(measurements, monkeypatch):
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "0")
    assert tuning.choose(task_of(), ()) == tuning.fixed_choice(task_of())
    assert not measurements


def test_nothing_is_measured_while_a_graph_is_captured(measurements, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert tuning.choose(task_of(), ()) == tuning.fixed_choice(task_of())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tuning.choose(task_of(), ())
    assert len(measurements) == 1


def test_nothing_is_kept_where_no_candidate_works(measurements, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "best_method", lambda task, operands: None)
    assert tuning.choose(task_of(), ()) == tuning.fixed_choice(task_of())
    assert not list(tmp_path.iterdir())


def test_nothing_is_measured_on_an_empty_batch(measurements):
    empty = torch.empty((0, 3, 32, 32))
    assert tuning.choose(task_of(), (empty, empty)) == tuning.fixed_choice(task_of())
    assert not measurements


def test_without_measurements_cudnn_takes_many_channels_in_its_own_formats_and_we_the_rest():
    many = task_of("vgg3")
    in_cudnn_format = Task(many.name, many.geometry, many.dtype, "medium", ("channels_last",) * 2, many.device)
    assert tuning.fixed_choice(in_cudnn_format) == Cudnn("channels_last")
    assert not isinstance(tuning.fixed_choice(many), Cudnn)
    assert not isinstance(tuning.fixed_choice(task_of("alex1")), Cudnn)


@pytest.mark.parametrize("case", CONV)
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("precision", ["medium", "high", "ieee"])
def test_there_are_few_candidates_all_of_the_precision_asked_for(case, name, precision):
    task = task_of(case, name, precision=precision)
    found = candidates(task, tuning.CANDIDATES)
    ours = [method for method in found if not isinstance(method, Cudnn)]
    assert 1 <= len(ours) <= tuning.CANDIDATES
    cudnn = [Cudnn("channels_last"), Cudnn("bc01")]
    if name == "correlate2d_input_grad" and CONV[case].stride == (1, 1):
        cudnn += [Cudnn("channels_last", as_forward=True), Cudnn("bc01", as_forward=True)]
    assert found[len(ours) :] in ([cudnn] if precision == "medium" else [cudnn, []])
    assert {method.product for method in ours} <= set(products_of(task))
    for method in found:
        assert remembered(method) == method
    assert SHARED_BYTES < 228 * 1024


def remembered(method):
    """What is read back of a method that was written down."""
    return tuning.method_from_json(json.loads(json.dumps(tuning.method_to_json(method))))


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_windows_are_candidates_that_can_be_remembered(name, dtype, monkeypatch):
    for module in (window_candidates, window_grad_candidates):
        monkeypatch.setattr(module, "can_compile", lambda device: True)
    found = candidates(task_of("alex1", name, dtype), tuning.CANDIDATES)
    over_windows = [method for method in found if isinstance(method, Window | WindowShare)]
    assert 3 <= len(over_windows) <= tuning.CANDIDATES * WINDOWS
    assert [remembered(method) for method in over_windows] == over_windows


def moving(stride=(1, 1), padding=((1, 1), (1, 1))):
    geometry = Geometry((128, 64, 32, 32), (64, 64, 3, 4), stride, padding, (1, 1), 1, False)
    return replace(task_of(name="correlate2d_input_grad"), geometry=geometry)


@pytest.mark.parametrize(
    ("task", "deterministic", "offered"),
    [
        (moving(), "1", True),
        (moving(padding=((2, 0), (3, 1))), "1", True),
        (moving(padding=((3, 1), (1, 1))), "1", False),
        (moving(padding=((1, 1), (1, 4))), "1", False),
        (moving(stride=(1, 2)), "1", False),
        (moving(), "0", False),
        (replace(moving(), name="correlate2d"), "1", False),
    ],
    ids=["plain", "widest padding", "too high", "too wide", "stride", "free to choose", "another pass"],
)
def test_a_gradient_is_tried_as_a_forward_pass_where_it_is_one(task, deterministic, offered, monkeypatch):
    monkeypatch.setenv("PYTENSOR_CONVNET_DETERMINISTIC", deterministic)
    as_forward = [method for method in candidates(task, 1) if isinstance(method, Cudnn) and method.as_forward]
    assert {method.format for method in as_forward} == ({"channels_last", "bc01"} if offered else set())


@pytest.mark.parametrize("as_forward", [True, False])
def test_cudnns_way_to_a_gradient_is_kept_on_disk(measurements, as_forward):
    tuning._store(moving(), Cudnn("channels_last", as_forward), 1.0)
    assert tuning._load(moving()) == Cudnn("channels_last", as_forward)


def test_cudnn_is_not_measured_where_it_is_bound_to_be_far_behind():
    assert not any(isinstance(method, Cudnn) for method in candidates(task_of("cb1", precision="high"), 3))
    assert any(isinstance(method, Cudnn) for method in candidates(task_of("cb1", precision="ieee"), 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures on a GPU")
def test_the_best_candidate_is_chosen_on_a_gpu(device):
    task = task_of("odd")
    images = torch.randn(task.geometry.images, device=device)
    filters = torch.randn(task.geometry.filters, device=device)
    seconds = tuning.measured(task, (images, filters))
    assert min(seconds.values()) < 1e-3
    assert any(isinstance(method, Cudnn) for method in seconds)
