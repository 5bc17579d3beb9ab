"""What is known on the host: kinds of variables, and what captured graphs depend on."""

import pytensor.tensor as pt
from pytensor.graph.fg import FunctionGraph

from pytensor_convnet.cuda.hosting import HostProgram, Kind, kinds_of, windows_of


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


def test_a_windows_length_is_in_the_key_and_its_start_is_fed():
    x, i = pt.fvector("x"), pt.lscalar("i")
    graph = FunctionGraph([x, i], [x[i * 4 : (i + 1) * 4]], clone=False)
    found = kinds_of(graph, {i})
    program = HostProgram(graph, found, windows_of(graph, found), [], [])
    numbers = [program((k,), ((10,), ())) for k in range(3)]
    assert [n.feeds for n in numbers] == [(0,), (4,), (8,)]
    assert [n.windows for n in numbers] == [((4, 1),), ((4, 1),), ((2, 1),)]
    assert numbers[0].key == numbers[1].key != numbers[2].key


def test_other_shapes_give_other_numbers():
    x, i = pt.fvector("x"), pt.lscalar("i")
    graph = FunctionGraph([x, i], [x[i:]], clone=False)
    found = kinds_of(graph, {i})
    program = HostProgram(graph, found, windows_of(graph, found), [], [])
    assert program((2,), ((10,), ())).windows == ((8, 1),)
    assert program((2,), ((5,), ())).windows == ((3, 1),)
