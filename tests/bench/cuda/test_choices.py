"""Which kernel the GPU takes for each case, told without one: tasks of a device that is not there."""

import io

import pytest
from rich.console import Console

pytest.importorskip("torch", reason="kernels of the GPU take torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="kernels of the GPU are written in Triton: pip install triton")

import torch

from pytensor_convnet.bench.cases import CONV, POOL, PoolCase
from pytensor_convnet.bench.cuda import choices
from pytensor_convnet.bench.cuda.choices import BOTH, described, kernel_of, pool_plan, task_of
from pytensor_convnet.bench.cuda.conv import Ours
from pytensor_convnet.kernels import cuda as kernels
from pytensor_convnet.kernels.cuda import correlation, tuning
from pytensor_convnet.kernels.cuda.correlation_grads import GradsTask, Joint
from pytensor_convnet.kernels.cuda.methods import Cudnn, Pair, SlidingShare, Unrolled, WindowShare
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks

DTYPES = (torch.float32, torch.bfloat16)
FORMATS = ("batch_last", "channels_last", "bc01")
CPU = torch.device("cpu")
META = torch.device("meta")


@pytest.fixture
def remembered(monkeypatch, tmp_path):
    """A folder of choices that is empty, and a GPU's name for what is put into it."""
    monkeypatch.setenv("PYTENSOR_CONVNET_TUNING_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "1")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A GPU")
    tuning.forget()
    yield tmp_path
    tuning.forget()


def rows_of(table):
    """The cells of a table's rows."""
    return list(zip(*(column.cells for column in table.columns)))


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Cudnn("bc01"), "cuDNN bc01"),
        (Cudnn("bc01", as_forward=True), "cuDNN bc01 as forward"),
        (SlidingShare(True, "tf32", SlidingBlocks(16, 32, 4, 64, 132, 4, 3)), "sliding sum tf32"),
        (WindowShare("tf32", WindowGradBlocks(True, 3, 1, 3, 96, 1)), "windows tf32"),
        (Unrolled(WindowShare("tf32", WindowGradBlocks(True, 1, 1, 3, 64, 1))), "windows tf32 of columns"),
        (Pair(), "each by itself"),
        (Joint("bf16x3"), "prepared once, bf16x3"),
    ],
)
def test_methods_are_described_in_a_word_or_two(method, told):
    assert described(method) == told


@pytest.mark.parametrize(("name", "kind"), [("forward", "gather"), ("filter_grad", "split sum")])
def test_what_was_not_measured_is_marked(remembered, name, kind):
    kernel = kernel_of(task_of(CONV["odd"], name, torch.float32, "bc01", CPU))
    assert kernel.startswith(kind)
    assert kernel.endswith("*")


@pytest.mark.parametrize(("name", "method"), [("forward", Cudnn("channels_last")), (BOTH, Joint("float16"))])
def test_what_another_process_measured_is_told(remembered, name, method):
    task = task_of(CONV["cifar2"], name, torch.float32, "bc01", CPU)
    tuning._store(task, method, 1e-5)
    assert kernel_of(task) == described(method)


def test_where_nothing_is_measured_nothing_that_was_counts(remembered, monkeypatch):
    task = task_of(CONV["odd"], "forward", torch.float32, "bc01", CPU)
    tuning._store(task, Cudnn("bc01"), 1e-5)
    monkeypatch.setenv("PYTENSOR_CONVNET_AUTOTUNE", "0")
    assert kernel_of(task).startswith("gather")


def test_telling_measures_nothing_and_keeps_nothing(remembered, monkeypatch):
    monkeypatch.setattr(tuning, "best_method", lambda task, operands: pytest.fail("measured"))
    for name in ("forward", BOTH):
        kernel_of(task_of(CONV["odd"], name, torch.bfloat16, "channels_last", CPU))
    assert not list(remembered.iterdir())
    assert not tuning._chosen


@pytest.fixture
def chosen_for(monkeypatch):
    """The tasks for which kernels would choose, which then stop."""
    tasks = []

    class Chosen(Exception):
        pass

    def choose(task, operands):
        tasks.append(task)
        raise Chosen

    monkeypatch.setattr(correlation, "choose", choose)

    def of(call):
        with pytest.raises(Chosen):
            call()
        return tasks[-1]

    return of


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["forward", "input_grad", "filter_grad"])
def test_passes_are_those_that_the_benchmark_chooses_for(chosen_for, name, dtype, format):
    from pytensor_convnet.bench.cuda.conv import ConvOperation

    case = CONV["cifar2"]
    shapes = {"forward": (case.image_shape, case.filter_shape), "input_grad": (case.filter_shape, case.map_shape)}
    operands = [
        torch.empty(shape, dtype=dtype, device=META) for shape in shapes.get(name, (case.image_shape, case.map_shape))
    ]
    call = Ours(format)._call(ConvOperation(case, name, dtype, "medium"), tuple(operands))
    assert chosen_for(call) == task_of(case, name, dtype, format, META)


@pytest.mark.parametrize(
    ("format", "filter_format", "gradient_format"),
    [
        ("batch_last", "batch_last", "bc01"),  # mode CUDA
        ("channels_last", "channels_last", "channels_last"),  # torch's autograd
        ("bc01", "bc01", "bc01"),
    ],
)
def test_both_gradients_are_those_that_training_chooses_for(chosen_for, format, filter_format, gradient_format):
    case = CONV["cifar2"]

    def tensor(shape, format):
        return kernels.empty(shape, format, torch.bfloat16, META)

    images, maps = tensor(case.image_shape, format), tensor(case.map_shape, format)
    filters, moves = tensor(case.filter_shape, filter_format), (case.stride, case.padding, (1, 1), 1, False)
    task = chosen_for(lambda: kernels.correlate2d_grads(images, filters, maps, *moves, filter_format=gradient_format))
    assert isinstance(task, GradsTask)
    assert task == task_of(case, BOTH, torch.bfloat16, format, META)


def test_the_table_has_a_row_for_each_pass_of_each_case_and_a_column_for_each_dtype(remembered, monkeypatch):
    monkeypatch.setattr(choices, "CONV", {name: CONV[name] for name in ("cifar2", "odd")})
    table = choices.convolutions_table("batch_last", CPU)
    assert [column.header for column in table.columns] == ["case", "shapes", "pass", "float32", "bfloat16"]
    passes = ["forward", "input grad", "filter grad", "both gradients"]
    assert [(row[0], row[2]) for row in rows_of(table)] == [
        (case, name) for case in ("cifar2", "odd") for name in passes
    ]
    assert all(cell.endswith("*") for row in rows_of(table) for cell in row[3:])


def test_every_pool_has_a_plan_in_every_format():
    rows = rows_of(choices.pools_table())
    assert [(row[0], row[2]) for row in rows] == [(case, format) for case in POOL for format in FORMATS]
    assert all(" x " in cell for row in rows for cell in row[3:])


@pytest.mark.parametrize(
    ("case", "name", "dtype", "format", "plan"),
    [
        ("cifar_p32_b1024", "forward", torch.float32, "batch_last", "4 rows x 4"),
        ("cifar_p32_b1024", "forward", torch.bfloat16, "channels_last", "4 rows x 8"),
        ("cifar_p32_b1024", "backward", torch.float32, "bc01", "4x2 x 1"),
        ("vgg_p22", "forward", torch.float32, "bc01", "1 row x 1"),
        ("vgg_p22", "backward", torch.bfloat16, "batch_last", "2x2 x 8"),
    ],
)
def test_a_pool_is_cut_into_strips_or_patches(case, name, dtype, format, plan):
    assert pool_plan(POOL[case], name, dtype, format) == plan


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_large_windows_are_walked_by_loops(name):
    large = PoolCase("large", 2, 3, 20, 20, (7, 7), (1, 1), ((0, 0), (0, 0)))
    assert pool_plan(large, name, torch.float32, "bc01") == "loops"


@pytest.mark.parametrize("table", [choices.pools_table, lambda: choices.convolutions_table("channels_last", CPU)])
def test_a_table_is_as_wide_as_what_files_get(remembered, monkeypatch, table):
    from pytensor_convnet.doctor import WIDTH_OF_FILES

    monkeypatch.setattr(choices, "CONV", {"odd": CONV["odd"]})
    console = Console(file=io.StringIO(), width=WIDTH_OF_FILES)
    console.print(table())
    assert "…" not in console.file.getvalue()
