"""`theano.function`, `theano.shared` and what belongs to them."""

import copy
import pickle

import numpy as np
import pytest

from tests.compat.values import value_of
from tests.ops.common import PYTHON

pytestmark = pytest.mark.usefixtures("old_imports")


@pytest.fixture
def theano(old_imports):
    import theano

    return theano


@pytest.fixture
def scaled(theano):
    """x * rate + offset, of which rate and offset have defaults."""
    T = theano.tensor
    x, rate, offset = T.dscalar("x"), T.dscalar("rate"), T.dscalar()
    inputs = [x, theano.In(rate, value=0.5), theano.Param(offset, default=1.0, name="offset")]
    return theano.function(inputs, x * rate + offset, mode=PYTHON)


@pytest.mark.parametrize(
    ("args", "kwargs", "result"),
    [
        ((4.0,), {}, 3.0),
        ((4.0, 2.0), {}, 9.0),
        ((4.0, 2.0, 0.0), {}, 8.0),
        ((4.0,), {"rate": 3.0}, 13.0),
        ((), {"x": 4.0, "offset": 0.0}, 2.0),
        ((4.0,), {"offset": 5.0, "rate": 0.0}, 5.0),
    ],
)
def test_inputs_have_default_values(scaled, args, kwargs, result):
    assert scaled(*args, **kwargs) == result


def test_an_input_without_default_is_asked_for(scaled):
    with pytest.raises(TypeError, match="missing input: x of"):
        scaled(rate=1.0)


def test_a_function_with_defaults_is_otherwise_pytensors(scaled):
    assert len(scaled.maker.fgraph.inputs) == 3
    assert pickle.loads(pickle.dumps(scaled))(4.0) == 3.0
    assert copy.deepcopy(scaled)(4.0) == copy.copy(scaled)(4.0) == 3.0


def test_an_input_that_remembers_is_a_shared_variable_now(theano):
    state, more = theano.tensor.dscalars("state", "more")
    with pytest.raises(ValueError, match=r"input state has both a value and an update: make it theano.shared"):
        theano.In(state, value=0.0, update=state + more)


def test_outputs_may_have_names(theano):
    x = theano.tensor.dscalar("x")
    named = theano.function([x], {"double": 2 * x, "square": x**2}, mode=PYTHON)
    assert named(3.0) == {"double": 6, "square": 9}


def test_givens_updates_and_borrowed_values(theano):
    data = theano.shared(np.arange(6.0).reshape(3, 2), borrow=True)
    count = theano.shared(0, name="count")
    index, x = theano.tensor.lscalar(), theano.tensor.dmatrix()
    step = theano.function(
        [index], x.sum(), updates=theano.OrderedUpdates([(count, count + 1)]), givens={x: data[index : index + 2]},
        name="step", profile=False, on_unused_input="raise", allow_input_downcast=None, mode=PYTHON,
    )  # fmt: skip
    assert [float(step(i)) for i in range(2)] == [6, 14]
    assert count.get_value(borrow=True) == 2
    data.set_value(np.zeros((5, 2)), borrow=True)
    assert step(0) == 0


def test_integers_of_a_shared_variable_are_cast_in_the_graph(theano):
    labels = theano.tensor.cast(theano.shared(np.array([1.0, 2.0])), "int32")
    y = theano.tensor.ivector()
    assert theano.function([], y + 1, givens={y: labels[:1]}, mode=PYTHON)().dtype == "int32"


@pytest.mark.parametrize("downcast", [True, None])
def test_doubles_are_taken_for_floats_only_if_allowed(theano, downcast):
    x = theano.tensor.fvector()
    double = theano.function([x], 2 * x, allow_input_downcast=downcast, mode=PYTHON)
    if downcast:
        assert double(np.ones(2)).dtype == "float32"
    else:
        with pytest.raises(TypeError):
            double(np.ones(2))


def test_unused_inputs_are_told_as_asked(theano):
    x, y = theano.tensor.dscalars("x", "y")
    theano.function([x, y], x, on_unused_input="ignore", mode=PYTHON)
    with pytest.warns(UserWarning, match="not part of the computational graph"):
        theano.function([x, y], x, on_unused_input="warn", mode=PYTHON)


def test_shared_variables_keep_axes_of_length_one(theano):
    row = theano.shared(np.ones((1, 3)), broadcastable=(True, False), target="cpu")
    assert row.broadcastable == (True, False)
    assert value_of(row + np.zeros((2, 3))).shape == (2, 3)


def test_updates_of_two_functions_add_up_unless_they_disagree(theano):
    a, b = theano.shared(0.0), theano.shared(0.0)
    one = theano.OrderedUpdates({a: a + 1})
    assert list(one + {b: b + 1}) == [a, b]
    with pytest.raises(KeyError, match="two different updates"):
        one + {a: a + 2}
    with pytest.raises(TypeError, match="the keys of updates must be shared variables"):
        one[theano.tensor.scalar()] = 1


def test_clones_have_their_own_or_the_same_inputs(theano):
    x, y = theano.tensor.dscalar("x"), theano.tensor.dscalar("y")
    assert theano.clone(2 * x, replace={x: y}).eval({y: 3.0}) == 6
    assert x in theano.gof.graph.inputs([theano.clone(x + y)])
    assert x not in theano.gof.graph.inputs([theano.clone(x + y, share_inputs=False)])
    assert theano.gof.graph.is_same_graph(x + 1, y + 1, givens={y: x})


def test_an_operator_of_ones_own_follows_theanos_protocol(theano):
    class Triple(theano.Op):
        __props__ = ()

        def make_node(self, x):
            x = theano.tensor.as_tensor_variable(x)
            return theano.Apply(self, [x], [x.type()])

        def perform(self, node, inputs, output_storage):
            output_storage[0][0] = 3 * inputs[0]

        def infer_shape(self, node, i0_shapes):
            return i0_shapes

        def grad(self, inputs, output_grads):
            return [3 * output_grads[0]]

    x = theano.tensor.dvector()
    tripled = Triple()(x)
    gradient = theano.grad(tripled.sum(), x)
    values = theano.function([x], [tripled, gradient, tripled.shape], mode=PYTHON)(np.ones(2))
    assert [value.tolist() for value in values] == [[3, 3], [3, 3], [2]]
    assert isinstance(tripled.owner.op, theano.Op)
    assert isinstance((x + 1).owner.op, theano.gof.Op)
    assert not isinstance((x + 1).owner.op, Triple)


def test_modes_are_named_and_made(theano):
    from theano.compile.mode import FAST_RUN, Mode, get_default_mode

    x = theano.tensor.dscalar()
    for mode in ("FAST_COMPILE", Mode(linker="py", optimizer="fast_compile"), Mode("py", None)):
        assert theano.function([x], x + 1, mode=mode)(1.0) == 2
    assert isinstance(FAST_RUN, Mode)
    assert isinstance(get_default_mode().excluding("conv_gemm", "conv_dnn").including("fusion"), Mode)


def test_a_graph_is_printed_and_watched(theano, capsys):
    x = theano.tensor.dvector("x")
    assert theano.pp(x + 1) == "(x + 1)"
    watched = theano.printing.Print("seen")(x)
    theano.function([x], watched, mode=PYTHON)(np.array([7.0]))
    assert "seen" in capsys.readouterr().out
    assert "Add" in theano.printing.debugprint(x + 1, file="str")


def test_a_graph_is_printed_with_arguments_in_theanos_order(theano, tmp_path):
    x = theano.tensor.dvector("x")
    with open(tmp_path / "graph.txt", "w") as file:
        theano.printing.debugprint(x + 1, -1, True, file, "int")
    assert "Vector(float64, shape=(?,))" in (tmp_path / "graph.txt").read_text()
    assert theano.printing.debugprint(x + 1, ids="", file="str").count("[id") == 0


def test_a_function_with_defaults_is_printed(theano, scaled):
    assert "rate" in theano.printing.debugprint(scaled, file="str")
    assert "rate" in theano.printing.debugprint([scaled], file="str")


def test_functions_that_watch_operators_take_theanos_arguments(theano):
    from theano.compile.monitormode import detect_nan

    seen = []

    def before(i, node, fn):
        seen.append((i, str(node.op), float(fn.inputs[0][0])))

    x = theano.tensor.dscalar("x")
    mode = theano.compile.MonitorMode(pre_func=before, post_func=detect_nan).excluding("fusion", "inplace")
    assert theano.function([x], theano.tensor.exp(x), mode=mode)(0.0) == 1
    assert seen == [(0, "Exp", 0.0)]


def test_nans_are_detected_and_printed(theano, capsys):
    x = theano.tensor.dscalar("x")
    mode = theano.compile.MonitorMode(post_func=theano.compile.monitormode.detect_nan)
    with np.errstate(invalid="ignore"):
        theano.function([x], theano.tensor.log(x), mode=mode)(-1.0)
    assert "NaN detected" in capsys.readouterr().out


@pytest.fixture
def square(theano):
    x = theano.tensor.dvector("x")
    return lambda **settings: theano.OpFromGraph([x], [x**2], **settings)


def gradient_at_3(theano, op):
    x = theano.tensor.dvector("x")
    return theano.function([x], theano.grad(op(x).sum(), x), mode=PYTHON)([3.0]).tolist()


def test_the_gradient_of_a_graph_can_be_another_by_setting_it(theano, square):
    op = square()
    assert gradient_at_3(theano, op) == [6]
    op.grad = lambda inputs, output_gradients: (10 * output_gradients[0] * (inputs[0] > 0),)
    assert gradient_at_3(theano, op) == [10]


@pytest.mark.parametrize(
    "settings",
    [
        {"grad_overrides": lambda inputs, output_gradients: [7 * output_gradients[0]]},
        {"grad_overrides": [lambda inputs, output_gradients: 7 * output_gradients[0]]},
        {"lop_overrides": lambda inputs, outputs, output_gradients: [7 * output_gradients[0]]},
        {"lop_overrides": "default", "grad_overrides": lambda inputs, output_gradients: [7 * output_gradients[0]]},
    ],
)
def test_the_gradient_of_a_graph_can_be_given(theano, square, settings):
    assert gradient_at_3(theano, square(**settings)) == [7]


def test_a_function_of_arrays_becomes_an_operator_whose_shapes_are_told_by_its_node(theano):
    @theano.compile.ops.as_op(
        itypes=[theano.tensor.dmatrix], otypes=[theano.tensor.dvector], infer_shape=lambda node, shapes: [shapes[0][:1]]
    )
    def first_column(x):
        return x[:, 0].copy()

    x = theano.tensor.dmatrix("x")
    column = first_column(x)
    values = theano.function([x], [column, column.shape], mode=PYTHON)(np.arange(6.0).reshape(3, 2))
    assert [value.tolist() for value in values] == [[0, 2, 4], [3]]
