"""Numbers computed on the host, in Python, are those of NumPy."""

import numpy as np
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.fg import FunctionGraph

from pytensor_convnet.cuda.host_arithmetic import numbers_function
from pytensor_convnet.cuda.hosting import HostProgram, kinds_of


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


def test_what_numpy_computes_follows_its_numbers():
    i = pt.lscalar("i")
    wanted = [pt.cast(i, "float32") / 4, pt.stack([i, i + 1]).sum()]
    function = numbers_function([i], wanted, FunctionGraph([i], wanted, clone=False).toposort())
    assert [function({}, number) for number in (2, 2, 3, 2)] == [[0.5, 5], [0.5, 5], [0.75, 7], [0.5, 5]]


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
