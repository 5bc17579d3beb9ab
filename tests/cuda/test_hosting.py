"""What is known on the host: kinds of variables, and numbers computed in Python."""

import numpy as np
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.fg import FunctionGraph

from pytensor_convnet.cuda.hosting import HostProgram, Kind, kinds_of, numbers_function, windows_of


def kinds(inputs, outputs, on_host):
    graph = FunctionGraph(inputs, outputs, clone=False)
    found = kinds_of(graph, set(on_host))
    return [found[output] for output in outputs]


def test_kinds_of_variables():
    x, i = pt.fmatrix("x"), pt.lscalar("i")
    outputs = [x.shape[0] * 2, i * 3, i + x.shape[1], pt.exp(x), pt.exp(x)[:2].shape[0] + 1, pt.argmax(x)]
    assert kinds([x, i], outputs, [i]) == [Kind.SHAPE, Kind.CALL, Kind.CALL, Kind.DEVICE, Kind.LATE, Kind.DEVICE]


def test_an_integer_that_is_not_on_the_host_is_data():
    i = pt.lscalar("i")
    assert kinds([i], [i + 1], []) == [Kind.DEVICE]


@pytest.mark.parametrize("number", [-7, 0, 3, 12])
def test_numbers_are_those_of_numpy(number):
    i, n = pt.lscalar("i"), pt.lscalar("n")
    wanted = [
        i + 2 * n, i - n, i // 4, i % 4, -i, pt.maximum(i, n), pt.minimum(i, 2), pt.switch(i < n, i, n), pt.eq(i, 3),
        pt.switch(pt.eq(i, 0), 0, n // i), pt.sqr(i), pt.stack([i, n]), pt.stack([i, n]).prod(), pt.abs(i),
    ]  # fmt: skip
    graph = FunctionGraph([i, n], wanted, clone=False)
    function = numbers_function([i, n], wanted, graph.toposort())
    for got, variable in zip(function({}, number, 5), wanted):
        np.testing.assert_array_equal(got, variable.eval({i: number, n: 5}, on_unused_input="ignore"))


def test_a_windows_length_is_in_the_key_and_its_start_is_fed():
    x, i = pt.fvector("x"), pt.lscalar("i")
    graph = FunctionGraph([x, i], [x[i * 4 : (i + 1) * 4]], clone=False)
    found = kinds_of(graph, {i})
    program = HostProgram(graph, found, windows_of(graph, found), [], [])
    numbers = [program((k,), ((10,), ())) for k in range(3)]
    assert [n.feeds for n in numbers] == [(0,), (4,), (8,)]
    assert [n.windows for n in numbers] == [((4, 1),), ((4, 1),), ((2, 1),)]
    assert numbers[0].key == numbers[1].key != numbers[2].key


def test_what_numpy_computes_follows_its_numbers():
    i = pt.lscalar("i")
    wanted = [pt.cast(i, "float32") / 4, pt.stack([i, i + 1]).sum()]
    function = numbers_function([i], wanted, FunctionGraph([i], wanted, clone=False).toposort())
    assert [function({}, number) for number in (2, 2, 3, 2)] == [[0.5, 5], [0.5, 5], [0.75, 7], [0.5, 5]]


def test_other_shapes_give_other_numbers():
    x, i = pt.fvector("x"), pt.lscalar("i")
    graph = FunctionGraph([x, i], [x[i:]], clone=False)
    found = kinds_of(graph, {i})
    program = HostProgram(graph, found, windows_of(graph, found), [], [])
    assert program((2,), ((10,), ())).windows == ((8, 1),)
    assert program((2,), ((5,), ())).windows == ((3, 1),)


@pytest.mark.parametrize(("dtype", "numbers"), [("int8", (100, -128, 3)), ("uint8", (200, 3)), ("int64", (2**62, -3))])
def test_integers_begin_anew_where_numpys_do(dtype, numbers):
    i = pt.scalar("i", dtype=dtype)
    wanted = [i + i, i * i, -i, pt.neq(i + i, 0) + (i > 0)]
    graph = FunctionGraph([i], wanted, clone=False)
    function = numbers_function([i], wanted, graph.toposort())
    program = HostProgram(graph, kinds_of(graph, {i}), [], [], [])
    for number in numbers:
        expected = [x.eval({i: number}, mode=Mode("py", None), on_unused_input="ignore") for x in wanted]
        for variable, got, want in zip(wanted, function({}, number), expected):
            assert got == want == program.values((number,), ((),))[variable]
