"""`theano.tensor`: the functions of which PyTensor's differ in name, arguments or meaning."""

import numpy as np
import pytest

from tests.compat.values import numbers, value_of

pytestmark = pytest.mark.usefixtures("old_imports")


@pytest.fixture
def T(old_imports):
    import theano.tensor

    return theano.tensor


@pytest.mark.parametrize(
    ("name", "ndim"), [("scalar", 0), ("vector", 1), ("matrix", 2), ("tensor3", 3), ("tensor5", 5)]
)
def test_constructors_take_the_dtype_by_position(T, name, ndim):
    variable = getattr(T, name)("x", "int16")
    assert (variable.name, variable.type.dtype, variable.ndim) == ("x", "int16", ndim)


def test_a_tensor_is_made_from_dtype_and_broadcastable(T):
    variable = T.tensor("float32", (False, True), "x")
    assert (variable.name, variable.type.dtype, variable.broadcastable) == ("x", "float32", (False, True))
    assert T.TensorType("float32", (False,) * 5)("volume").ndim == 5
    assert T.TensorType(dtype="int8", broadcastable=(False, True))().broadcastable == (False, True)


@pytest.mark.parametrize("arguments", [{"outdim": 2}, {"ndim": 2}])
def test_flatten_keeps_the_first_axes(T, arguments):
    x = numbers(2, 3, 4)
    np.testing.assert_array_equal(value_of(T.flatten(T.constant(x), **arguments)), x.reshape(2, 12))
    np.testing.assert_array_equal(value_of(T.flatten(x)), x.ravel())
    np.testing.assert_array_equal(value_of(T.constant(x).flatten(2)), x.reshape(2, 12))


def test_flatten_takes_one_of_its_two_names(T):
    with pytest.raises(ValueError, match="ndim and outdim are two names of one argument"):
        T.flatten(numbers(2, 3), 1, 2)


def test_reshape_and_split_take_all_arguments_by_position(T):
    x = T.constant(numbers(2, 6))
    assert value_of(T.reshape(x, T.stack(3, 4), 2)).shape == (3, 4)
    parts = T.split(x, [2, 4], 2, 1)
    assert [value_of(part).shape for part in parts] == [(2, 2), (2, 4)]


def test_axes_are_marked_as_of_length_one_by_an_operator(T):
    x = T.tensor3()
    assert T.Rebroadcast((0, True), (2, False))(x).broadcastable == (True, False, False)
    assert T.patternbroadcast(x, (False, True, False)).broadcastable == (False, True, False)


def test_stack_takes_a_list_or_each_tensor_by_itself(T):
    a, b = numbers(3), numbers(3, seed=1)
    for stacked in (T.stack([a, b]), T.stack(a, b), T.stack(T.constant(a), b), T.stack([a, b], 0)):
        np.testing.assert_array_equal(value_of(stacked), np.stack([a, b]))
    for stacked in (T.stack([a, b], axis=1), T.stack([a, b], 1)):
        np.testing.assert_array_equal(value_of(stacked), np.stack([a, b], 1))


NUMPYS = [
    ("mean", lambda T, x: T.mean(x, axis=[0, 2], op=True), lambda x: x.mean((0, 2))),
    ("mean of flags", lambda T, x: T.mean(T.neq(x, 0)), lambda x: 1.0),
    ("inv", lambda T, x: T.inv(x), lambda x: 1 / x),
    ("abs_", lambda T, x: T.abs_(x), abs),
    ("sgn", lambda T, x: T.sgn(x), np.sign),
    ("tile", lambda T, x: T.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3))),
    ("tile to more axes", lambda T, x: T.tile(x, (2,), ndim=3), lambda x: np.tile(x, (1, 1, 2))),
    ("repeat", lambda T, x: T.repeat(x, 2, axis=1), lambda x: np.repeat(x, 2, 1)),
    ("squeeze", lambda T, x: T.squeeze(x[:, :1]), lambda x: x[:, 0]),
    ("max over two axes", lambda T, x: T.max(x, axis=(1, 2)), lambda x: x.max((1, 2))),
    ("dot", lambda T, x: T.dot(x, x[0].T), lambda x: x @ x[0].T),
    ("batched_dot", lambda T, x: T.batched_dot(x, x.dimshuffle(0, 2, 1)), lambda x: x @ x.transpose(0, 2, 1)),
    ("batched_dot of a matrix", lambda T, x: T.batched_dot(x, x[:, 0]), lambda x: np.einsum("bij,bj->bi", x, x[:, 0])),
    ("batched_dot of rows", lambda T, x: T.batched_dot(x[:, 0], x[:, 1]), lambda x: (x[:, 0] * x[:, 1]).sum(1)),
    (
        "batched_tensordot",
        lambda T, x: T.batched_tensordot(x, x, axes=[[1], [1]]),
        lambda x: np.einsum("bij,bik->bjk", x, x),
    ),
    ("batched_tensordot of axes", lambda T, x: T.batched_tensordot(x, x, 2), lambda x: (x * x).sum((1, 2))),
    ("identity_like", lambda T, x: T.identity_like(x[0]), lambda x: np.eye(*x[0].shape)),
    ("topk", lambda T, x: T.topk(x, 2), lambda x: np.sort(x)[..., -2:]),
    ("smallest", lambda T, x: T.topk(x, -2, axis=0), lambda x: np.sort(x, 0)[:2]),
    ("argtopk", lambda T, x: T.argtopk(x, 1), lambda x: x.argmax(-1)[..., None]),
    ("nonzero", lambda T, x: T.nonzero(T.gt(x, 0))[1], lambda x: np.nonzero(x > 0)[1]),
    ("var", lambda T, x: T.var(x, axis=0), lambda x: x.var(0)),
    ("std", lambda T, x: T.std(x, axis=0), lambda x: x.std(0)),
    ("sort", lambda T, x: T.sort(x, axis=1), lambda x: np.sort(x, 1)),
    ("cumsum", lambda T, x: T.extra_ops.cumsum(x, axis=0), lambda x: np.cumsum(x, 0)),
    ("norm", lambda T, x: x.norm(2), lambda x: np.linalg.norm(x.ravel())),
    ("switch", lambda T, x: T.switch(T.gt(x, 0), x, 0), lambda x: np.maximum(x, 0)),
    ("arange", lambda T, x: T.arange(x.shape[0]), lambda x: np.arange(x.shape[0])),
    ("patternbroadcast", lambda T, x: T.patternbroadcast(x[:, :1], (0, 1, 0)) + x, lambda x: x[:, :1] + x),
    ("addbroadcast", lambda T, x: T.addbroadcast(x[:, :1], 1) + x, lambda x: x[:, :1] + x),
    ("unbroadcast", lambda T, x: T.unbroadcast(x[:, :1], 1), lambda x: x[:, :1]),
    ("horizontal_stack", lambda T, x: T.horizontal_stack(x[0], x[1]), lambda x: np.hstack([x[0], x[1]])),
    ("set_subtensor", lambda T, x: T.set_subtensor(x[0], 0)[0], lambda x: 0 * x[0]),
]


@pytest.mark.parametrize(("ours", "numpys"), [pytest.param(a, b, id=name) for name, a, b in NUMPYS])
def test_functions_have_numpys_values(T, ours, numpys):
    x = numbers(3, 4, 5)
    np.testing.assert_allclose(value_of(ours(T, T.constant(x))), numpys(x), rtol=1e-12)


def test_one_hot_rows_have_the_floats_of_the_configuration(T, old_imports):
    old_imports.floatX = "float32"
    rows = value_of(T.extra_ops.to_one_hot(T.constant([1, 0, 2]), 3))
    np.testing.assert_array_equal(rows, np.eye(3)[[1, 0, 2]])
    assert rows.dtype == "float32"


def test_names_that_only_pytensor_has_work_too(T):
    import pytensor.tensor as pt

    assert T.vectorize is pt.vectorize
    assert T.signal.convolve1d is pt.signal.convolve1d


def test_shared_variables_and_constants_are_no_tensor_variables(T):
    import theano
    from theano.tensor.var import TensorVariable

    x, shared = T.matrix(), theano.shared(numbers(2, 2))
    assert isinstance(x, T.TensorVariable)
    assert isinstance(x + shared, TensorVariable)
    for known in (shared, T.constant(1.0)):
        assert not isinstance(known, T.TensorVariable)
        assert isinstance(known, theano.Variable)
    assert isinstance(shared, T.sharedvar.TensorSharedVariable)
    assert isinstance(T.constant(1.0), T.TensorConstant)


@pytest.mark.parametrize("ndims", [(1, 2), (4, 3)])
def test_batched_dot_says_what_it_takes(T, ndims):
    with pytest.raises(ValueError, match="batched_dot takes tensors of 2 or 3 axes"):
        T.batched_dot(*(numbers(*(2,) * ndim) for ndim in ndims))


def test_right_and_left_products_with_a_jacobian(T):
    import theano

    x, v = T.constant(numbers(3)), numbers(3, seed=1)
    W = numbers(2, 3, seed=2)
    y = T.dot(W, x) ** 2
    jacobian = 2 * (W @ x.data)[:, None] * W
    np.testing.assert_allclose(value_of(T.Rop(y, x, T.constant(v))), jacobian @ v, rtol=1e-12)
    weights = numbers(2, seed=3)
    np.testing.assert_allclose(value_of(T.Lop(y, x, T.constant(weights))), weights @ jacobian, rtol=1e-12)
    [only] = theano.gradient.Lop([y], [x], [T.constant(weights)])
    np.testing.assert_allclose(value_of(only), weights @ jacobian, rtol=1e-12)


def test_a_function_of_a_linear_functions_derivative_takes_what_it_was_derived_by(T, old_imports):
    import theano

    weights, directions, x = T.dmatrix("weights"), T.dmatrix("directions"), T.dvector("x")
    product = theano.function([weights, directions, x], T.Rop(T.dot(x, weights), weights, directions))
    assert product([[np.nan, 1], [1, 1]], [[2, 2], [3, 3]], [0, 1]).tolist() == [3, 3]
    graph = product.maker.fgraph
    assert not graph.clients[graph.inputs[0]], "nothing is computed of it"


def test_logarithms_of_zero_count_for_nothing(T):
    x, y = T.constant([0.0, 0.0, 2.0]), T.constant([0.0, 1.0, 3.0])
    np.testing.assert_allclose(value_of(T.xlogx.xlogy0(x, y)), [0, 0, 2 * np.log(3)])
    np.testing.assert_allclose(value_of(T.xlogx.xlogx(x)), [0, 0, 2 * np.log(2)])
