"""Correlations over windows: their plan, packed filters and addresses in NumPy, and the kernel itself on a GPU."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import reference  # noqa: E402
from pytensor_convnet.kernels.cuda import runtime_compiler, to_format, window_candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.candidates import candidates  # noqa: E402
from pytensor_convnet.kernels.cuda.carrying_out import carry_out, plan_of_windows  # noqa: E402
from pytensor_convnet.kernels.cuda.gathering import Geometry, gathering, stage_taps  # noqa: E402
from pytensor_convnet.kernels.cuda.hopper_sources import FETCHING_REGISTERS, MULTIPLYING_REGISTERS, ROW_BYTES, THREADS  # noqa: E402
from pytensor_convnet.kernels.cuda.magnitudes import LEAST_SAMPLED, largest_magnitudes  # noqa: E402
from pytensor_convnet.kernels.cuda.methods import Task, Window  # noqa: E402
from pytensor_convnet.kernels.cuda.packing import pack  # noqa: E402
from pytensor_convnet.kernels.cuda.runtime_compiler import compiled  # noqa: E402
from pytensor_convnet.kernels.cuda.window_candidates import windows  # noqa: E402
from pytensor_convnet.kernels.cuda.window_filters import boxes_of_stage, format_to_read  # noqa: E402
from pytensor_convnet.kernels.cuda.window_kernel import WindowBlocks, fits_windows, window_plan  # noqa: E402
from tests.kernels.cuda.common import whole  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

NO_PADDING = ((0, 0), (0, 0))
FORWARD, INPUT_GRAD = "correlate2d", "correlate2d_input_grad"
PRODUCTS = {"tf32": torch.float32, "float16": torch.float32, "native": torch.bfloat16}
WIDE_PRODUCTS = ("tf32", "float16")

LAYERS = {
    "padded": Geometry((96, 3, 7, 6), (9, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, True),
    "strided": Geometry((72, 2, 9, 12), (16, 2, 3, 5), (2, 2), ((1, 0), (2, 1)), (1, 1), 1, False),
    "strides_differ": Geometry((8, 8, 9, 7), (21, 8, 5, 3), (2, 1), ((2, 2), (0, 0)), (1, 1), 1, True),
    "mostly_padding": Geometry((64, 5, 3, 4), (8, 5, 3, 2), (1, 1), ((5, 4), (0, 6)), (1, 1), 1, False),
    "many_channels": Geometry((24, 24, 5, 6), (40, 24, 2, 2), (1, 1), NO_PADDING, (1, 1), 1, False),
}

LARGE = Geometry((256, 4, 64, 65), (16, 4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False)
"""Of whose images a sample is searched."""


def task_of(geometry, name, dtype=torch.float32, device="cpu", precision="medium", formats=("batch_last",) * 2):
    return Task(name, geometry, dtype, precision, formats, torch.device(device))


def defined(task, filters, source):
    geometry = task.geometry
    moves = geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip
    if task.name == FORWARD:
        return reference.correlate2d(source, filters, *moves)
    return reference.correlate2d_input_grad(filters, source, *geometry.images[2:], *moves)


def methods_of(task, product, count):
    """The most promising windows that multiply so, of which there must be some."""
    methods = [method for method in windows(task, 10**6) if method.product == product][:count]
    assert methods
    return methods


def operands_of(task, filters, source):
    tensors = [torch.from_numpy(array).to(device=task.device, dtype=task.dtype) for array in (filters, source)]
    filters, source = tensors[0], to_format(tensors[1], "batch_last")
    return (source, filters) if task.name == FORWARD else (filters, source)


def source_shape(task):
    return task.geometry.images if task.name == FORWARD else task.geometry.maps


# -------------------------------------------------------------------------------- the kernel's arithmetic in NumPy


def computed_in_numpy(task, method, filters, source):
    """What the kernel does, cell by cell, with the constants and packed filters that it gets."""
    gathered, how = plan_of_windows(task, method)
    k = how.constants
    tensors = [torch.from_numpy(array).to(device=task.device, dtype=task.dtype) for array in (source, filters)]
    magnitudes = largest_magnitudes(*tensors) if method.product == "float16" else None
    factor = 1.0
    if k["PACKED"]:
        taps = stage_taps(gathered, k["CHANNELS"], how.stage.rows, k["PLACES"], task.device)
        packed = pack(
            tensors[1], gathered, taps, task.name == INPUT_GRAD, task.geometry.flip, method.product, magnitudes,
            how.stage.outputs, stage_rows=how.stage.rows,
        )  # fmt: skip
        factor = float(packed.scales[1]) if method.product == "float16" else 1.0
        stages = matrices(packed.matrix.double().cpu().numpy(), k)
    else:
        stages = filters_as_they_are(filters, k)
    target = np.full((k["TARGET_CHANNELS"], k["TARGET_ROWS"], k["TARGET_COLUMNS"], k["BATCH"]), np.nan)
    for tile in range(k["TILES"]):
        batch, tile = tile % k["BATCH_BLOCKS"] * 64, tile // k["BATCH_BLOCKS"]
        block, tile = tile % k["OUTPUT_BLOCKS"], tile // k["OUTPUT_BLOCKS"]
        column, row = tile % k["COLUMN_BLOCKS"] * k["TILE_COLUMNS"], tile // k["COLUMN_BLOCKS"] * k["TILE_ROWS"]
        for warpgroup in range(2):
            row_of_positions = row + (warpgroup if k["TILE_ROWS"] > 1 else 0)
            first = 0 if k["TILE_ROWS"] > 1 else warpgroup * k["POSITIONS"]
            if row_of_positions >= k["POSITION_ROWS"]:
                continue
            totals = np.zeros((k["POSITIONS"], 64, k["OUTPUTS"]))
            top = row_of_positions * k["STEP_ROWS"] + k["FIRST_ROW"]
            low = max(0, -top) // k["PLACES"]
            for a in range(low, -(-min(k["PLACES_DOWN"], k["SOURCE_ROWS"] - top) // k["PLACES"])):
                for chunk in range(k["CHUNKS"]):
                    cells = fetched(k, source, top + a * k["PLACES"], chunk, column, batch)
                    for p in range(k["POSITIONS"]):
                        start = (first + p) * k["STEP_COLUMNS"] * k["PLACES"] * k["CHANNELS"]
                        window = cells[start : start + k["PRODUCT_ROWS"]].copy()
                        if not k["NARROW"]:
                            window[k["WINDOW_ROWS"] :] = 0
                        totals[p] += window.T @ stages[block, a, chunk]
            if k["COLLECTED"]:
                for p in range(k["POSITIONS"]):
                    collect(k, target, totals[p], row_of_positions, column + first + p, block, batch)
                continue
            for p, m in np.ndindex(k["POSITIONS"], k["OUTPUTS"]):
                store(
                    k,
                    target,
                    totals[p, :, m] * factor,
                    row_of_positions,
                    column + first + p,
                    block * k["OUTPUTS"] + m,
                    batch,
                )
    return target.transpose(3, 0, 1, 2)


def matrices(packed, k):
    """The packed filters of all stages, (..., rows, outputs), of the cells in which tensor cores read them."""
    shape = k["OUTPUT_BLOCKS"], k["STAGES_DOWN"], k["CHUNKS"]
    rows, outputs = k["PRODUCT_ROWS"], k["OUTPUTS"]
    if k["TF32"]:  # 8 rows: 4 even ones, then 4 odd ones
        cells = packed.reshape(*shape, rows // 8, 2, outputs, 4).transpose(0, 1, 2, 3, 6, 4, 5)
    else:
        cells = packed.reshape(*shape, outputs // 8, rows, 8).transpose(0, 1, 2, 4, 3, 5)
    assert k["FILTER_BYTES"] == (4 if k["TF32"] else 2) * rows * outputs
    return cells.reshape(*shape, rows, outputs)


def filters_as_they_are(filters, k):
    """The filters of all stages, (..., rows, outputs), as tensor cores find them where boxes bring them."""
    of_row, by_outputs = k["FILTER_ROW_BYTES"] // 2, k["OUTPUTS_INNERMOST"]
    rows, outputs = k["PRODUCT_ROWS"], k["OUTPUTS"]
    box_rows = rows if by_outputs else outputs
    shape = k["OUTPUT_BLOCKS"], k["STAGES_DOWN"], k["CHUNKS"], rows, outputs
    stages = np.empty(shape, "float32")
    for block, stage, chunk in np.ndindex(*shape[:3]):
        memory = np.full((k["FILTER_BYTES"] // k["FILTER_ROW_BYTES"], of_row), np.nan)
        if by_outputs:
            memory.reshape(-1, rows, of_row)[:, k["WINDOW_ROWS"] :] = 0
        brought, rows_of_a_box = 0, k["WINDOW_ROWS"] * (1 if by_outputs else k["BOX_OUTPUTS"] / of_row)
        for row, place, lengths in boxes_of_filters(k, block, stage * k["PLACES"], chunk * k["CHANNELS"]):
            assert row * k["FILTER_ROW_BYTES"] % 128 == 0
            box = cut_out(filters, place, lengths).transpose().reshape(-1, of_row)
            assert np.isnan(memory[row : row + len(box)]).all(), "brought twice"
            memory[row : row + len(box)] = box
            brought += len(box)
        assert brought == k["FILTER_BOXES"] * rows_of_a_box  # as many as the kernel waits for
        boxes = memory.reshape(-1, box_rows, of_row)
        if by_outputs:
            stages[block, stage, chunk] = np.concatenate(list(boxes), axis=1)[:, :outputs]
        else:
            stages[block, stage, chunk] = np.concatenate([box.T for box in boxes])
    return stages


def boxes_of_filters(k, block, y, channel):
    """Of each box of a stage, the row of shared memory that it begins at, and its first element and lengths."""

    def tap(place, pixel):
        i = k["FIRST_TAP_ROW"] + (y + place % k["PLACES"]) * k["TAP_ROW_STEP"] + pixel // k["PATCH_COLUMNS"]
        j = k["FIRST_TAP_COLUMN"] + place // k["PLACES"] * k["TAP_COLUMN_STEP"] + pixel % k["PATCH_COLUMNS"]
        return (k["TAPS_DOWN"] - 1 - i, k["TAPS_ACROSS"] - 1 - j) if k["FLIPPED"] else (i, j)

    innermost, places, first = k["FILTER_ROW_BYTES"] // 2, k["PLACES"] * k["PLACES_ACROSS"], block * k["OUTPUTS"]
    if k["OUTPUTS_INNERMOST"]:
        taps = (1, 1) if k["BOX_PLACES"] == 1 else (k["PLACES"], k["PLACES_ACROSS"])
        for box, place in itertools.product(range(k["FILTER_BOXES"]), range(0, places, k["BOX_PLACES"])):
            row = box * k["PRODUCT_ROWS"] + place * k["CHANNELS"]
            yield row, (first + box * innermost, channel, *tap(place, 0)), (innermost, k["CHANNELS"], *taps)
        return
    parts = k["CHANNELS"] // innermost
    for place, part, box in itertools.product(range(places), range(parts), range(k["FILTER_BOXES"])):
        of_block = box * k["BOX_OUTPUTS"]
        pixel, output = divmod(first + of_block, k["TARGET_CHANNELS"])
        row = (place * parts + part) * k["OUTPUTS"] + of_block
        yield row, (channel + part * innermost, output, *tap(place, pixel)), (innermost, k["BOX_OUTPUTS"], 1, 1)


def cut_out(tensor, first, lengths):
    """A part of a tensor, zeros where it has nothing."""
    part = np.zeros(lengths)
    ranges = [
        (max(0, start), max(0, start, min(start + length, end)))
        for start, length, end in zip(first, lengths, tensor.shape)
    ]
    here = tuple(slice(low - start, high - start) for start, (low, high) in zip(first, ranges))
    if all(low < high for low, high in ranges):
        part[here] = tensor[tuple(slice(low, high) for low, high in ranges)]
    return part


def fetched(k, source, top, chunk, column, batch):
    """A stage of shared memory: rows (column, row, channel) of 64 images; behind them zeros, or of float32 anything."""
    cells = np.full((k["PITCH_BYTES"] // ROW_BYTES, 64), 0.0 if k["NARROW"] else np.nan)
    cells[: k["STAGE_ROWS"]] = 0
    for r in range(k["STAGE_ROWS"]):
        x, rest = divmod(r, k["PLACES"] * k["CHANNELS"])
        y, channel = divmod(rest, k["CHANNELS"])
        x, y = column * k["STEP_COLUMNS"] + k["FIRST_COLUMN"] + x, top + y
        if 0 <= x < source.shape[3] and 0 <= y < source.shape[2]:
            run = source[batch : batch + 64, chunk * k["CHANNELS"] + channel, y, x]
            cells[r, : len(run)] = run
    return cells


def collect(k, target, totals, row, column, block, batch):
    """Store what is collected of a position, piece by piece, as boxes of channels that end where the target does."""
    channels, box_rows = k["BOX_CHANNELS"], k["BOX_ROWS"]
    piece = k["PIECE_BOXES"] * channels
    assert piece % 8 == 0 or piece >= k["OUTPUTS"]
    for first in range(0, k["OUTPUTS"], piece):
        cells = np.full((k["PIECE_BOXES"] * box_rows, 64), np.nan)
        for output in range(first, min(first + piece, k["OUTPUTS"])):
            box, channel = divmod(output - first, channels)
            cells[box * box_rows + channel] = totals[:, output]
        for box in range(k["PIECE_BOXES"]):
            m = block * k["OUTPUTS"] + first + box * channels
            if first + box * channels >= k["OUTPUTS"] or m >= k["ALL_OUTPUTS"]:
                break
            for channel in range(min(channels, k["TARGET_CHANNELS"] - m % k["TARGET_CHANNELS"])):
                store(k, target, cells[box * box_rows + channel], row, column, m + channel, batch)


def store(k, target, values, row, column, m, batch):
    residue, channel = divmod(m, k["TARGET_CHANNELS"])
    y = row * k["PATCH_ROWS"] + residue // k["PATCH_COLUMNS"]
    x = column * k["PATCH_COLUMNS"] + residue % k["PATCH_COLUMNS"]
    if m < k["ALL_OUTPUTS"] and column < k["POSITION_COLUMNS"] and y < k["TARGET_ROWS"] and x < k["TARGET_COLUMNS"]:
        there = target[channel, y, x, batch : batch + 64]
        assert np.isnan(there).all(), "written twice"
        assert not np.isnan(values).any(), "nothing to write"
        there[:] = values[: len(there)]


def check_in_numpy(task, method):
    filters, source = whole(task.geometry.filters), whole(source_shape(task), 1)
    result = computed_in_numpy(task, method, filters, source)
    np.testing.assert_array_equal(result, defined(task, filters, source))


@pytest.mark.parametrize("blocks", [(1, 1), (3, 1), (2, 2)], ids=["one", "three", "two_rows"])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", [FORWARD, INPUT_GRAD])
@pytest.mark.parametrize("layer", LAYERS)
def test_windows_and_packed_filters_give_the_correlation(layer, name, product, blocks, device):
    geometry = LAYERS[layer]
    task = task_of(geometry, name, torch.bfloat16 if product == "native" else torch.float32, device)
    patch = geometry.stride if name == INPUT_GRAD else (1, 2)
    channels = source_shape(task)[1]
    method = Window(product, patch, WindowBlocks(*blocks, channels if channels < 24 else 8, 1))
    check_in_numpy(task, method)


@pytest.mark.parametrize("product", WIDE_PRODUCTS)
@pytest.mark.parametrize(("channels", "output_blocks"), [(8, 1), (24, 3), (8, 2)])
def test_channels_in_chunks_and_outputs_in_blocks(channels, output_blocks, product, device):
    task = task_of(LAYERS["many_channels"], FORWARD, device=device)
    check_in_numpy(task, Window(product, (2, 1), WindowBlocks(2, 1, channels, output_blocks)))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("places", [2, 3])
@pytest.mark.parametrize("layer", ["strided", "strides_differ", "mostly_padding"])
def test_rows_of_the_source_are_joined_in_a_stage(layer, places, product, device):
    geometry = LAYERS[layer]
    task = task_of(geometry, FORWARD, PRODUCTS[product], device)
    check_in_numpy(task, Window(product, (2, 1), WindowBlocks(1, 1, geometry.images[1], 1, places)))


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize(("name", "patch", "output_blocks"), [(FORWARD, 1, 1), (FORWARD, 1, 2), (INPUT_GRAD, 2, 1)])
@pytest.mark.parametrize("layer", LAYERS)
def test_results_are_collected_as_boxes_of_channels(layer, name, patch, output_blocks, positions, device):
    geometry = LAYERS[layer]
    task = task_of(geometry, name, torch.bfloat16, device)
    steps = geometry.stride if name == INPUT_GRAD else (1, 1)
    channels = source_shape(task)[1]
    chunk = channels if channels < 24 else 8
    method = Window(
        "native", (steps[0] * patch, steps[1]), WindowBlocks(positions, 1, chunk, output_blocks, collected=True)
    )
    if output_blocks > 1 and geometry.filters[0] <= 8:
        assert plan_of_windows(task, method)[1] is None
    else:
        check_in_numpy(task, method)


def test_results_that_do_not_fit_are_collected_in_pieces(device):
    geometry = Geometry((64, 8, 9, 9), (200, 8, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False)
    task = task_of(geometry, FORWARD, torch.bfloat16, device)
    method = Window("native", (1, 1), WindowBlocks(1, 1, 8, 1, collected=True))
    k = plan_of_windows(task, method)[1].constants
    assert k["BOX_CHANNELS"] == 40
    check_in_numpy(task, method)


READ_AS_THEY_ARE = {
    "padded": (FORWARD, (96, 3, 7, 6), (16, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), WindowBlocks(2, 1, 3, 1)),
    "rows_joined": (FORWARD, (96, 3, 7, 6), (16, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1),
                    WindowBlocks(1, 1, 3, 1, places=2)),
    "strided": (FORWARD, (72, 8, 9, 12), (96, 8, 3, 5), (2, 2), ((1, 0), (2, 1)), (1, 1),
                WindowBlocks(1, 2, 8, 1, collected=True)),
    "in_blocks": (FORWARD, (24, 24, 5, 6), (152, 24, 2, 2), (1, 1), NO_PADDING, (1, 1), WindowBlocks(1, 1, 8, 2)),
    "not_resident": (FORWARD, (72, 64, 16, 21), (128, 64, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1),
                     WindowBlocks(1, 1, 16, 1)),
    "gradient": (INPUT_GRAD, (96, 8, 7, 6), (64, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), WindowBlocks(2, 1, 64, 1)),
    "gradient_of_narrow_rows": (INPUT_GRAD, (96, 5, 7, 6), (64, 5, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1),
                                WindowBlocks(1, 2, 32, 1, collected=True)),
    "gradient_of_patches": (INPUT_GRAD, (72, 12, 9, 12), (64, 12, 3, 5), (2, 2), ((1, 0), (2, 1)), (2, 4),
                            WindowBlocks(1, 1, 32, 1, places=2)),
    "gradient_in_blocks": (INPUT_GRAD, (24, 96, 6, 7), (128, 96, 3, 2), (1, 2), ((1, 1), (0, 0)), (2, 2),
                           WindowBlocks(1, 1, 64, 2)),
    "gradient_in_blocks_of_channels": (INPUT_GRAD, (24, 152, 5, 6), (64, 152, 2, 2), (1, 1), NO_PADDING, (1, 1),
                                       WindowBlocks(1, 1, 64, 2)),
}  # fmt: skip
"""Layers whose filters the copying engine reads: pass, images, filters, stride, padding, patch and how it is cut."""


def of_filters_as_they_are(layer, flip, device):
    name, images, filters, stride, padding, patch, blocks = READ_AS_THEY_ARE[layer]
    geometry = Geometry(images, filters, stride, padding, (1, 1), 1, flip)
    task = task_of(geometry, name, torch.bfloat16, device)
    return task, Window("native", patch, replace(blocks, packed=False))


def test_of_each_pass_filters_that_are_read_as_they_are_stay_or_come_with_each_stage():
    planned = [of_filters_as_they_are(layer, False, "cpu") for layer in READ_AS_THEY_ARE]
    assert {(task.name, plan_of_windows(task, method)[1].constants["RESIDENT"]) for task, method in planned} == {
        (FORWARD, 0), (FORWARD, 1), (INPUT_GRAD, 0), (INPUT_GRAD, 1)
    }  # fmt: skip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("layer", READ_AS_THEY_ARE)
def test_filters_that_are_read_as_they_are_give_the_correlation(layer, flip, device):
    task, method = of_filters_as_they_are(layer, flip, device)
    check_in_numpy(task, method)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(data=st.data())
def test_drawn_layers(device, data):
    few, two = st.integers(1, 4), st.integers(1, 2)
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    padding = tuple((data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in range(2))
    taps = data.draw(st.integers(1, rows + sum(padding[0]))), data.draw(st.integers(1, columns + sum(padding[1])))
    channels = data.draw(few)
    images, filters = (2 * data.draw(few), channels, rows, columns), (data.draw(few), channels, *taps)
    stride = data.draw(few), data.draw(few)
    geometry = Geometry(images, filters, stride, padding, (1, 1), 1, data.draw(st.booleans()))
    name = data.draw(st.sampled_from([FORWARD, INPUT_GRAD]))
    task, steps = task_of(geometry, name, device=device), geometry.stride if name == INPUT_GRAD else (1, 1)
    method = Window(
        data.draw(st.sampled_from(WIDE_PRODUCTS)), (steps[0] * data.draw(two), steps[1] * data.draw(two)),
        WindowBlocks(data.draw(few), data.draw(two), source_shape(task)[1], 1, data.draw(two)),
    )  # fmt: skip
    assume(fits_windows(gathering(geometry, name == INPUT_GRAD, method.patch)))
    assume(plan_of_windows(task, method)[1] is not None)
    check_in_numpy(task, method)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(data=st.data())
def test_drawn_layers_whose_filters_are_read_as_they_are(device, data):
    few, two, name = st.integers(1, 4), st.integers(1, 2), data.draw(st.sampled_from([FORWARD, INPUT_GRAD]))
    lengths = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    padding = tuple((data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in range(2))
    taps = [data.draw(st.integers(1, length + sum(sides))) for length, sides in zip(lengths, padding)]
    count = data.draw(st.sampled_from([32, 64, 96] if name == INPUT_GRAD else [8, 24, 32, 72, 96]))
    channels = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    images, filters = (2 * data.draw(few), channels, *lengths), (count, channels, *taps)
    stride = data.draw(two), data.draw(few)
    geometry = Geometry(images, filters, stride, padding, (1, 1), 1, data.draw(st.booleans()))
    task = task_of(geometry, name, torch.bfloat16, device)
    patch = (1, 1) if name == FORWARD else (stride[0] * data.draw(two), stride[1] * data.draw(two))
    chunk = channels if name == FORWARD else data.draw(st.sampled_from([32, count]))
    blocks = WindowBlocks(data.draw(two), 1, chunk, data.draw(two), data.draw(two), packed=False)
    method = Window("native", patch, blocks)
    assume(fits_windows(gathering(geometry, name == INPUT_GRAD, method.patch)))
    assume(plan_of_windows(task, method)[1] is not None)
    check_in_numpy(task, method)


# ------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("product", PRODUCTS)
def test_what_is_planned_fits_into_a_multiprocessor(product):
    plan = gathering(Geometry((128, 64, 32, 32), (128, 64, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1, False), False)
    two_rows = [(2, 2, 8)] if product == "native" else []  # filters of the others leave no room for both
    for positions, rows, channels in ((1, 1, 16), (2, 1, 16), (2, 1, 8), *two_rows):
        how = window_plan(plan, WindowBlocks(positions, rows, channels, 1), product, False)
        assert how is not None
        k = how.constants
        registers = 256 * MULTIPLYING_REGISTERS + (THREADS - 256) * FETCHING_REGISTERS
        assert k["STAGES"] >= 2
        assert how.shared_bytes <= 227 * 1024
        assert registers <= 65536


@pytest.mark.parametrize(("channels", "positions"), [(3, 1), (8, 1), (24, 1), (8, 3), (16, 2)])
def test_operands_of_float32_are_loaded_in_an_even_number_of_groups(channels, positions):
    plan = gathering(Geometry((64, channels, 9, 9), (16, channels, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False), False)
    k = window_plan(plan, WindowBlocks(positions, 1, channels, 1), "tf32", False).constants
    products = k["PRODUCT_ROWS"] // 8 * positions
    assert k["GROUPS"] % 2 == 0
    assert (k["GROUPS"] - 1) * k["GROUP"] <= products <= k["GROUPS"] * k["GROUP"]


@pytest.mark.parametrize(
    "blocks", [WindowBlocks(1, 1, 5, 1), WindowBlocks(8, 1, 64, 1), WindowBlocks(1, 2, 64, 2)],
    ids=["no_divisor", "too_many_sums", "rows_without_filters"],
)  # fmt: skip
def test_what_does_not_fit_is_no_plan(blocks):
    plan = gathering(Geometry((128, 64, 32, 32), (256, 64, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False), False)
    assert window_plan(plan, blocks, "float16", False) is None


@pytest.mark.parametrize(("batch", "is_collected"), [(104, True), (100, False)])
def test_results_are_collected_where_the_copying_engine_can_write_them(batch, is_collected):
    plan = gathering(Geometry((batch, 8, 9, 9), (16, 8, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False), False)
    collecting, storing = (WindowBlocks(1, 1, 8, 1, collected=collected) for collected in (True, False))
    assert (window_plan(plan, collecting, "native", False) is not None) == is_collected
    assert window_plan(plan, storing, "native", False) is not None


@pytest.mark.parametrize(
    ("name", "change", "patch", "product", "is_planned"),
    [
        (FORWARD, {}, (1, 1), "native", True),
        (FORWARD, {}, (1, 1), "tf32", False),
        (FORWARD, {}, (1, 2), "native", False),
        (FORWARD, {"filters": (12, 8, 3, 3)}, (1, 1), "native", False),
        (INPUT_GRAD, {}, (2, 2), "native", True),
        (INPUT_GRAD, {"filters": (24, 8, 3, 3)}, (2, 2), "native", False),
        (INPUT_GRAD, {"images": (64, 3, 9, 9), "filters": (32, 3, 3, 3)}, (2, 2), "native", False),
        (INPUT_GRAD, {"stride": (2, 2), "dilation": (2, 2)}, (2, 2), "native", False),
    ],
    ids=["forward", "float32", "patches", "count", "gradient", "part_of_a_row", "part_of_a_pattern", "dilation"],
)
def test_what_the_copying_engine_cannot_read_of_filters_is_no_plan(name, change, patch, product, is_planned):
    geometry = replace(Geometry((64, 8, 9, 9), (32, 8, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False), **change)
    plan = gathering(geometry, name == INPUT_GRAD, patch)
    assert fits_windows(plan)
    for packed, expected in ((True, True), (False, is_planned)):
        blocks = WindowBlocks(1, 1, plan.source_channels, 1, packed=packed)
        assert (window_plan(plan, blocks, product, False) is not None) == expected


@pytest.mark.parametrize("flip", [False, True])
def test_rows_of_filters_are_as_long_as_the_copying_engine_can_place_them(flip):
    plan = gathering(Geometry((64, 3, 9, 9), (96, 3, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, flip), False)
    k = window_plan(plan, WindowBlocks(1, 1, 3, 1, packed=False), "native", False, flipped=flip).constants
    assert k["FILTER_ROW_BYTES"] == (128 if flip else 64)  # 3 channels of 64 bytes are no multiple of 128
    assert k["FILTER_BOXES"] == (2 if flip else 3)


@pytest.mark.parametrize("format", ["bc01", "batch_last"])
@pytest.mark.parametrize(("name", "layer"), [(FORWARD, "padded"), (INPUT_GRAD, "gradient")])
def test_filters_are_read_as_they_are_where_their_format_says_so(name, layer, format, monkeypatch):
    monkeypatch.setattr(window_candidates, "can_compile", lambda device: True)
    task, _ = of_filters_as_they_are(layer, False, "cpu")
    methods = windows(replace(task, format_to_read=format), 10**6)
    assert {method.blocks.packed for method in methods} == ({True} if format == "bc01" else {True, False})


def test_some_methods_with_packed_filters_are_measured_beside_those_that_read_them(monkeypatch):
    monkeypatch.setattr(window_candidates, "can_compile", lambda device: True)
    task, _ = of_filters_as_they_are("gradient", False, "cpu")
    packed = [method.blocks.packed for method in windows(replace(task, format_to_read="batch_last"), 7)]
    assert (packed.count(False), packed.count(True)) == (5, 2)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("layer", READ_AS_THEY_ARE)
def test_estimates_know_how_many_boxes_bring_filters(layer, flip):
    task, method = of_filters_as_they_are(layer, flip, "cpu")
    how = plan_of_windows(task, method)[1]
    assert boxes_of_stage(how.constants) == len(list(boxes_of_filters(how.constants, 0, 0, 0)))
    packed = replace(method, blocks=replace(method.blocks, packed=True))
    assert boxes_of_stage(plan_of_windows(task, packed)[1].constants) == 0


@pytest.mark.parametrize(
    ("shape", "format", "dtype", "is_read"),
    [
        ((16, 3, 5, 5), "batch_last", torch.bfloat16, True),
        ((16, 3, 5, 5), "bc01", torch.bfloat16, False),
        ((16, 3, 5, 5), "batch_last", torch.float32, False),
        ((20, 3, 5, 5), "batch_last", torch.bfloat16, False),
    ],
    ids=["possible", "format", "dtype", "count"],
)
def test_which_filters_the_copying_engine_reads(shape, format, dtype, is_read):
    assert format_to_read(to_format(torch.zeros(shape, dtype=dtype), format)) == ("batch_last" if is_read else "bc01")


def test_more_columns_than_can_be_copied_at_a_time_are_no_plan():
    plan = gathering(Geometry((64, 1, 5, 700), (8, 1, 3, 3), (1, 17), NO_PADDING, (1, 1), 1, False), False)
    assert window_plan(plan, WindowBlocks(7, 1, 1, 1), "native", False) is not None
    assert window_plan(plan, WindowBlocks(8, 1, 1, 1), "native", False) is None


@pytest.mark.parametrize(
    "change",
    [
        {"groups": 2, "filters": (4, 1, 3, 3)},
        {"dilation": (2, 1)},
        {"images": (17, 2, 9, 9)},
        {"images": (2, 2, 9, 9)},
        {"images": (0, 2, 9, 9)},
    ],
    ids=["groups", "dilation", "odd_batch", "small_batch", "empty"],
)
def test_what_windows_cannot_do_is_left_to_others(change, monkeypatch):
    monkeypatch.setattr(window_candidates, "can_compile", lambda device: True)
    geometry = Geometry((16, 2, 9, 9), (4, 2, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False)
    assert windows(task_of(geometry, FORWARD), 4)
    assert not windows(task_of(replace(geometry, **change), FORWARD), 4)


@pytest.mark.parametrize(
    "change", [{"precision": "high"}, {"formats": ("bc01", "bc01")}, {"name": "correlate2d_filter_grad"}], ids=str
)
def test_windows_are_for_coarse_products_of_batch_last_sources(change, monkeypatch):
    monkeypatch.setattr(window_candidates, "can_compile", lambda device: True)
    assert not windows(replace(task_of(LAYERS["padded"], FORWARD), **change), 4)


def test_without_a_hopper_gpu_no_window_is_a_candidate():
    assert not any(isinstance(method, Window) for method in candidates(task_of(LAYERS["padded"], FORWARD), 12))


def test_filters_that_32_bits_cannot_count_are_no_plan():
    large = Geometry((8, 65536, 3, 3), (512, 65536, 4, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False)
    half = replace(large, images=(8, 32768, 3, 3), filters=(512, 32768, 4, 4))
    blocks = WindowBlocks(1, 1, 16, 2)
    assert fits_windows(gathering(large, False))
    assert window_plan(gathering(large, False), blocks, "tf32", False) is None
    assert window_plan(gathering(half, False), blocks, "tf32", False) is not None


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", [FORWARD, INPUT_GRAD])
@pytest.mark.parametrize("layer", ["padded", "many_channels", "large"])
def test_the_kernel_compiles(layer, name, product, monkeypatch, tmp_path):
    if runtime_compiler._nvrtc() is None:
        pytest.skip("there is no NVRTC")
    monkeypatch.setattr(window_candidates, "can_compile", lambda device: True)
    monkeypatch.setenv("PYTENSOR_CONVNET_CUBIN_CACHE", str(tmp_path))
    geometry = LARGE if layer == "large" else LAYERS[layer]
    task = task_of(geometry, name, PRODUCTS[product])
    for method in methods_of(task, product, 2):
        how = plan_of_windows(task, method)[1]
        assert how.constants["SAMPLED"] == (layer == "large" and product == "float16")
        assert compiled(how.source).startswith(b"\x7fELF")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("layer", READ_AS_THEY_ARE)
def test_the_kernel_that_reads_filters_as_they_are_compiles(layer, flip, monkeypatch, tmp_path):
    if runtime_compiler._nvrtc() is None:
        pytest.skip("there is no NVRTC")
    monkeypatch.setenv("PYTENSOR_CONVNET_CUBIN_CACHE", str(tmp_path))
    how = plan_of_windows(*of_filters_as_they_are(layer, flip, "cpu"))[1]
    assert compiled(how.source).startswith(b"\x7fELF")


# ------------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", [FORWARD, INPUT_GRAD])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_kernel_gives_the_correlation(layer, name, product, hopper):
    task = task_of(LAYERS[layer], name, PRODUCTS[product], hopper)
    filters, source = whole(task.geometry.filters), whole(source_shape(task), 1)
    expected = torch.from_numpy(defined(task, filters, source)).to(task.dtype).float().numpy()
    for method in methods_of(task, product, 6):
        result = carry_out(task, method, *operands_of(task, filters, source))
        np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


@pytest.mark.parametrize("way", ["joined", "collected"])
@pytest.mark.parametrize("name", [FORWARD, INPUT_GRAD])
@pytest.mark.parametrize("layer", LAYERS)
def test_rows_joined_or_results_collected_give_the_correlation(layer, name, way, hopper):
    task = task_of(LAYERS[layer], name, torch.bfloat16, hopper)
    filters, source = whole(task.geometry.filters), whole(source_shape(task), 1)
    expected = torch.from_numpy(defined(task, filters, source)).to(task.dtype).float().numpy()
    methods = windows(task, 10**6)
    chosen = [
        method for method in methods if (method.blocks.places > 1 if way == "joined" else method.blocks.collected)
    ]
    assert chosen
    for method in chosen[:4]:
        result = carry_out(task, method, *operands_of(task, filters, source))
        np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


@pytest.mark.parametrize(
    ("batch", "product"),
    [(4, "tf32"), (4, "float16"), (8, "native"), *itertools.product([60, 132, 50, 100], PRODUCTS)],
)
@pytest.mark.parametrize("name", [FORWARD, INPUT_GRAD])
def test_a_batch_that_ends_within_a_tile(batch, name, product, hopper):
    layer = LAYERS["padded"]
    task = task_of(replace(layer, images=(batch, *layer.images[1:])), name, PRODUCTS[product], hopper)
    filters, source = whole(task.geometry.filters), whole(source_shape(task), 1)
    expected = torch.from_numpy(defined(task, filters, source)).to(task.dtype).float().numpy()
    for method in methods_of(task, product, 2):
        result = carry_out(task, method, *operands_of(task, filters, source))
        np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


WIDE_LAYERS = {
    "outputs_in_blocks": (64, 256, WindowBlocks(1, 1, 16, 2)),
    "channels_in_chunks": (384, 384, WindowBlocks(1, 1, 16, 2)),
    "two_positions": (192, 128, WindowBlocks(2, 1, 16, 1)),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", WIDE_LAYERS)
def test_many_channels_and_filters(layer, product, hopper):
    channels, outputs, blocks = WIDE_LAYERS[layer]
    geometry = Geometry((72, channels, 12, 21), (outputs, channels, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, True)
    task, method = task_of(geometry, FORWARD, PRODUCTS[product], hopper), Window(product, (1, 1), blocks)
    constants = plan_of_windows(task, method)[1].constants
    assert not constants["RESIDENT"]
    assert constants["TILES"] > 132  # more than there are multiprocessors
    filters, source = whole(geometry.filters), whole(geometry.images, 1)
    result = carry_out(task, method, *operands_of(task, filters, source))
    expected = torch.from_numpy(defined(task, filters, source)).to(task.dtype).float().numpy()
    np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


MANY_TILES = {
    "collected_in_pieces": (Geometry((72, 8, 24, 31), (200, 8, 3, 3), (1, 1), NO_PADDING, (1, 1), 1, False),
                            WindowBlocks(1, 1, 8, 1, collected=True)),
    "collected_pixels": (Geometry((72, 8, 24, 31), (16, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False),
                         WindowBlocks(2, 1, 8, 1, collected=True)),
    "rows_joined": (Geometry((72, 3, 24, 31), (32, 3, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1, False),
                    WindowBlocks(1, 1, 3, 1, places=3)),
    "many_resident_stages": (Geometry((64, 64, 32, 20), (16, 64, 11, 5), (1, 1), ((5, 5), (2, 2)), (1, 1), 1, True),
                             WindowBlocks(1, 2, 16, 1)),
}  # fmt: skip
"""Of which a program computes several tiles, of several pieces each, of filters that come 32 times and more."""


def of_many_tiles(layer, device):
    geometry, blocks = MANY_TILES[layer]
    task = task_of(geometry, FORWARD, torch.bfloat16, device)
    return task, Window("native", (1, 2) if layer == "collected_pixels" else (1, 1), blocks)


@pytest.mark.parametrize("layer", MANY_TILES)
def test_many_tiles_in_numpy(layer, device):
    task, method = of_many_tiles(layer, device)
    k = plan_of_windows(task, method)[1].constants
    assert k["TILES"] > 132
    assert k["RESIDENT"]
    assert layer != "many_resident_stages" or k["STAGES_DOWN"] * k["CHUNKS"] > 32
    assert layer != "collected_in_pieces" or k["PIECE_BOXES"] * k["BOX_CHANNELS"] < k["OUTPUTS"]
    check_in_numpy(task, method)


@pytest.mark.parametrize("layer", MANY_TILES)
def test_programs_of_many_tiles(layer, hopper):
    task, method = of_many_tiles(layer, hopper)
    filters, source = whole(task.geometry.filters), whole(task.geometry.images, 1)
    result = carry_out(task, method, *operands_of(task, filters, source))
    expected = torch.from_numpy(defined(task, filters, source)).to(task.dtype).float().numpy()
    np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("layer", READ_AS_THEY_ARE)
def test_the_kernel_reads_filters_as_they_are(layer, flip, hopper):
    task, method = of_filters_as_they_are(layer, flip, hopper)
    filters, source = whole(task.geometry.filters), whole(source_shape(task), 1)
    operands = [to_format(operand, "batch_last") for operand in operands_of(task, filters, source)]
    result = carry_out(task, method, *operands)
    expected = torch.from_numpy(defined(task, filters, source)).to(task.dtype).float().numpy()
    np.testing.assert_array_equal(result.float().cpu().numpy(), expected)


@pytest.mark.parametrize("product", WIDE_PRODUCTS)
@pytest.mark.parametrize("rows", [1, 2])
def test_many_tiles_and_places(rows, product, hopper):
    geometry = Geometry((1024, 64, 32, 32), (32, 64, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1, False)
    task, method = task_of(geometry, FORWARD, device=hopper), Window(product, (1, 1), WindowBlocks(1, rows, 16, 1))
    constants = plan_of_windows(task, method)[1].constants
    assert constants["TILES"] > 10 * 132
    source, filters = torch.randn(geometry.images, device=hopper), torch.randn(geometry.filters, device=hopper)
    result = carry_out(task, method, to_format(source, "batch_last"), filters)
    expected = torch.nn.functional.conv2d(source[-8:].double(), filters.double(), stride=2, padding=1)
    assert float((result[-8:] - expected).norm() / expected.norm()) <= 5e-4


@pytest.mark.parametrize("product", WIDE_PRODUCTS)
@pytest.mark.parametrize("spike", [1e6, 1e38])
@pytest.mark.parametrize("batch", [256, 254])
def test_numbers_far_above_a_sample_do_not_overflow(batch, spike, product, hopper):
    geometry = replace(LARGE, images=(batch, *LARGE.images[1:]))
    assert np.prod(geometry.images) >= LEAST_SAMPLED
    task = task_of(geometry, FORWARD, device=hopper)
    generator = torch.Generator("cuda").manual_seed(0)
    source = torch.randn(geometry.images, device=hopper, generator=generator)
    source[-1, 3, 63, 64] = spike
    filters = torch.randn(LARGE.filters, device=hopper, generator=generator) * 1e-3
    for method in methods_of(task, product, 2):
        assert plan_of_windows(task, method)[1].constants["SAMPLED"] == (product == "float16")
        result = carry_out(task, method, to_format(source, "batch_last"), filters)
        expected = torch.nn.functional.conv2d(source.double(), filters.double(), padding=1)
        assert torch.isfinite(result).all()
        assert float((result - expected).norm() / expected.norm()) <= 1e-3


@pytest.mark.parametrize("product", WIDE_PRODUCTS)
def test_infinities_and_nan_of_a_large_source_stay_near(product, hopper):
    task = task_of(LARGE, FORWARD, device=hopper)
    source = torch.randn(LARGE.images, device=hopper)
    filters = torch.randn(LARGE.filters, device=hopper)
    source[17, 2, 40, 50], source[18, 1, 40, 50] = float("nan"), float("inf")
    expected = torch.nn.functional.conv2d(source.nan_to_num(0.0, 0.0).double(), filters.double(), padding=1)
    for method in methods_of(task, product, 2):
        assert plan_of_windows(task, method)[1].constants["SAMPLED"] == (product == "float16")
        result = carry_out(task, method, to_format(source, "batch_last"), filters)
        assert not torch.isfinite(result[17, :, 39:42, 49:52]).any()
        assert not torch.isfinite(result[18, :, 40, 50]).any()
        away = torch.ones_like(result, dtype=torch.bool)
        down, across = method.patch
        away[17:19, :, 40 - down : 41 + down, 50 - across : 51 + across] = False
        error = (result - expected)[away].norm() / expected[away].norm()
        assert float(error) <= 1e-3


def test_the_kernel_is_captured_by_a_graph(hopper):
    task = task_of(LAYERS["strided"], FORWARD, device=hopper)
    filters, source = whole(task.geometry.filters), whole(source_shape(task), 1)
    operands = operands_of(task, filters, source)
    [method] = windows(task, 1)
    carry_out(task, method, *operands)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = carry_out(task, method, *operands)
    result.zero_()
    graph.replay()
    np.testing.assert_array_equal(result.cpu().numpy(), defined(task, filters, source))
