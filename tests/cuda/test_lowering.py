"""Every Op that mode CUDA computes gives what PyTensor's own modes give."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.builders import OpFromGraph

from pytensor_convnet.lowering.cuda import UnsupportedOp

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 3)).astype("float32")
POSITIVE = np.abs(MATRIX) + 0.1
UNIT = 0.9 * np.tanh(MATRIX)
NUMBERS = np.array([[3, -2, 5], [0, 7, -1]], "int64")


def computed(mode, inputs, outputs, *values):
    """What a function of mode CUDA returns at its first call, and at the third, which may be captured."""
    function = pytensor.function(inputs, outputs, mode=mode, on_unused_input="ignore")
    first = [np.array(result) for result in function(*values)]
    function(*values)
    third = [np.array(result) for result in function(*values)]
    for a, b in zip(first, third):
        np.testing.assert_array_equal(a, b)
    return first


def assert_same(mode, inputs, outputs, *values, rtol=1e-5, atol=1e-6):
    """Mode CUDA gives the same values, shapes and dtypes as PyTensor's Python mode."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    expected = pytensor.function(inputs, outputs, mode="FAST_COMPILE", on_unused_input="ignore")(*values)
    for got, want, variable in zip(computed(mode, inputs, outputs, *values), expected, outputs):
        assert got.dtype == variable.type.dtype
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


UNARY = {
    "neg": MATRIX, "abs": MATRIX, "sign": MATRIX, "ceil": MATRIX, "floor": MATRIX, "trunc": MATRIX, "sqr": MATRIX,
    "sqrt": POSITIVE, "exp": MATRIX, "exp2": MATRIX, "expm1": MATRIX, "log": POSITIVE, "log2": POSITIVE,
    "log10": POSITIVE, "log1p": POSITIVE, "sin": MATRIX, "cos": MATRIX, "tan": MATRIX, "arcsin": UNIT, "arccos": UNIT,
    "arctan": MATRIX, "sinh": MATRIX, "cosh": MATRIX, "tanh": MATRIX, "arcsinh": MATRIX, "arccosh": POSITIVE + 1,
    "arctanh": UNIT, "sigmoid": MATRIX, "softplus": MATRIX, "erf": MATRIX, "erfc": MATRIX, "erfinv": UNIT,
    "gammaln": POSITIVE, "psi": POSITIVE, "reciprocal": POSITIVE, "isnan": MATRIX, "isinf": MATRIX,
    "log1mexp": -POSITIVE, "round_half_away_from_zero": MATRIX, "deg2rad": MATRIX, "rad2deg": MATRIX,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number(mode, name):
    x = pt.fmatrix("x")
    assert_same(mode, [x], getattr(pt, name)(x), UNARY[name], rtol=2e-5)


BINARY = {
    "sum": lambda x, y: x + y, "difference": lambda x, y: x - y, "product": lambda x, y: x * y,
    "quotient": lambda x, y: x / y, "floor quotient": lambda x, y: x // y, "remainder": lambda x, y: x % y,
    "power": lambda x, y: abs(x) ** y, "maximum": pt.maximum, "minimum": pt.minimum, "lower": lambda x, y: x < y,
    "at least": lambda x, y: x >= y, "equal": pt.eq, "unequal": pt.neq, "arctan2": pt.arctan2,
    "switch": lambda x, y: pt.switch(x > y, x, 2), "clip": lambda x, y: pt.clip(x, 0, 1),
    "or": lambda x, y: pt.or_(x > 0, y > 0), "xor": lambda x, y: pt.xor(x > 0, y > 0), "not": lambda x, y: ~(x > y),
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers(mode, name):
    x, y = pt.fmatrices("x", "y")
    assert_same(mode, [x, y], BINARY[name](x, y), MATRIX, POSITIVE[::-1].copy())


def test_integers_and_floats_meet_as_pytensor_has_it(mode):
    x, n = pt.fmatrix("x"), pt.matrix("n", dtype="int64")
    assert_same(mode, [x, n], [n / 2, n // 2, n % 4, n * n - 1, pt.cast(n, "float32") * 0.5], MATRIX, NUMBERS)


def test_lengths_that_differ_are_not_stretched(mode):
    x, y = pt.fmatrices("x", "y")
    with pytest.raises(ValueError, match="broadcast"):
        computed(mode, [x, y], [x + y], MATRIX, MATRIX[:1])


REDUCTIONS = {
    "sum": pt.sum, "mean": pt.mean, "product": pt.prod, "maximum": pt.max, "minimum": pt.min, "variance": pt.var,
    "any": lambda x, axis: pt.any(x > 0, axis=axis), "all": lambda x, axis: pt.all(x > -9, axis=axis),
}  # fmt: skip


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(mode, name, axis):
    x = pt.ftensor3("x")
    assert_same(mode, [x], REDUCTIONS[name](x, axis=axis), RNG.normal(size=(2, 3, 4)).astype("float32"))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_argmax_and_softmax(mode, axis):
    x = pt.fmatrix("x")
    assert_same(
        mode,
        [x],
        [pt.argmax(x, axis=axis), pt.special.softmax(x, axis=axis), pt.special.log_softmax(x, axis=axis)],
        MATRIX,
    )


def test_sums_of_each_channel(mode):
    x = pt.ftensor4("x")
    images = RNG.normal(size=(3, 4, 5, 32)).astype("float32")
    assert_same(mode, [x], x.transpose(3, 0, 1, 2).sum(axis=(0, 2, 3)), images, rtol=1e-4)


def test_products_of_matrices(mode):
    x, y, v = pt.fmatrix("x"), pt.fmatrix("y"), pt.fvector("v")
    a, b = RNG.normal(size=(6, 1024)).astype("float32"), RNG.normal(size=(1024, 3)).astype("float32")
    assert_same(mode, [x, y, v], [x @ y, y.T @ v, pt.outer(v[:5], v[:4]), v @ v], a, b, a[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (1, 7), (5, 1)])
def test_gradients_for_what_a_dense_layer_read_have_the_batch_innermost(mode, rows, columns):
    x, w = pt.fmatrix("x"), pt.fmatrix("w")
    gradients, weights = (RNG.normal(size=(length, 3)).astype("float32") for length in (rows, columns))
    assert_same(mode, [x, w], x @ w.T, gradients, weights)
    [result] = pytensor.function([x, w], [x @ w.T], mode=mode)(gradients, weights)
    assert result.tensor.T.is_contiguous()


def test_products_over_batches(mode):
    x, y = pt.ftensor3s("x", "y")
    a, b = RNG.normal(size=(2, 3, 4)).astype("float32"), RNG.normal(size=(2, 4, 5)).astype("float32")
    assert_same(mode, [x, y], x @ y, a, b)


def graph_of(function, x):
    """What a function gives, as one Op."""
    inner = x.type()
    return OpFromGraph([inner], [function(inner)])(x)


SHAPING = {
    "shuffle": lambda x: x.dimshuffle(2, "x", 0, 1), "flatten": lambda x: x.flatten(2),
    "reshape": lambda x: x.reshape((4, -1)), "join": lambda x: pt.join(1, x, x[:, :1]),
    "stack": lambda x: pt.stack([x, x]),
    "shape": lambda x: x.shape, "length": lambda x: x.shape[1] * 2, "ones": pt.ones_like,
    "filled": lambda x: pt.full((x.shape[0], 2), 3.5), "range": lambda x: pt.arange(x.shape[2]),
    "identity": lambda x: pt.eye(x.shape[2], 5, 1), "vector": lambda x: pt.stack([x[0, 0, 0], x[1, 1, 1]]),
    "repeat": lambda x: pt.repeat(x, 2, axis=0), "tile": lambda x: pt.tile(x, (1, 2, 1)),
    "split": lambda x: pt.split(x, [1, 3], axis=2)[1], "specified": lambda x: pt.specify_shape(x, (2, None, 4)),
    "repeat by entry": lambda x: pt.repeat(x, [1, 0, 3], axis=1), "repeat by all": lambda x: pt.repeat(x, [2], axis=1),
    "cumulated": lambda x: pt.cumsum(x, axis=1), "multiplied up": lambda x: pt.cumprod(x, axis=0),
    "sorted": lambda x: pt.sort(x, axis=2), "sorted from the end": lambda x: pt.sort(x, axis=-3, kind="stable"),
    "order": lambda x: pt.argsort(x, axis=1),
    "gradient of sorted": lambda x: pt.grad((pt.sort(x)[..., 1:] ** 3).sum(), x),
    "padded": lambda x: pt.pad(x, 1),
    "graphs in a graph": lambda x: graph_of(lambda y: 2 * graph_of(lambda z: pt.exp(z) + 1, y), x),
    "diagonal": lambda x: pt.diag(x[0]),
    "triangle": lambda x: pt.tril(x[0]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPING)
def test_making_and_viewing_tensors(mode, name):
    x = pt.ftensor3("x")
    assert_same(mode, [x], SHAPING[name](x), RNG.normal(size=(2, 3, 4)).astype("float32"))


PARTS = {
    "position": lambda x, i: x[1], "from the end": lambda x, i: x[-2], "slice": lambda x, i: x[1:3],
    "step": lambda x, i: x[::2, 1:], "reversed": lambda x, i: x[::-1], "reversed part": lambda x, i: x[4:1:-2],
    "reversed columns": lambda x, i: x[1:, ::-1], "positions": lambda x, i: x[i], "pairs": lambda x, i: x[i, i],
    "beside a slice": lambda x, i: x[1:, i], "mask": lambda x, i: x[x[:, 0] > 0],
    "position on the device": lambda x, i: x[pt.argmax(x[:, 0])], "two axes": lambda x, i: x[1:4, 2],
    "empty": lambda x, i: x[3:3],
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.filterwarnings("ignore:this function cannot be captured")
def test_reading_parts(mode, name):
    x, i = pt.fmatrix("x"), pt.lvector("i")
    assert_same(mode, [x, i], PARTS[name](x, i), RNG.normal(size=(6, 4)).astype("float32"), np.array([2, 0, -1]))


WRITES = {
    "set position": lambda x, i: x[1].set(7.0), "add to slice": lambda x, i: x[1:3].inc(x[:2]),
    "set reversed": lambda x, i: x[::-2].set(1.0), "add at positions": lambda x, i: x[i].inc(1.0),
    "set at positions": lambda x, i: x[i[:2]].set(x[:2]), "add at pairs": lambda x, i: x[i, i].inc(2.0),
    "add to columns": lambda x, i: x[:, i].inc(1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_writing_parts(mode, name):
    x, i = pt.fmatrix("x"), pt.lvector("i")
    assert_same(mode, [x, i], WRITES[name](x, i), RNG.normal(size=(6, 4)).astype("float32"), np.array([2, 0, 2]))


def test_positions_outside_are_errors(mode):
    x, i = pt.fmatrix("x"), pt.lscalar("i")
    with pytest.raises(IndexError, match="index 9 is out of bounds for axis 0"):
        computed(mode, [x, i], [x[i]], MATRIX, 9)


def test_the_gradient_of_a_softmaxs_loss(mode):
    scores, labels = pt.fmatrix("scores"), pt.ivector("labels")
    loss = -pt.special.log_softmax(scores, axis=1)[pt.arange(labels.shape[0]), labels].mean()
    assert_same(mode, [scores, labels], [loss, pt.grad(loss, scores)], MATRIX, np.array([2, 0, 1, 1], "int32"))


def test_conditions(mode):
    from pytensor import ifelse

    x, n = pt.fmatrix("x"), pt.lscalar("n")
    outputs = [ifelse(x.sum() > 0, x, -x), ifelse(n > 2, x[:1], x)]
    for number in (1, 5):
        assert_same(mode, [x, n], outputs, MATRIX, number)


def test_an_op_without_a_lowering_is_named_with_the_graph_around_it(mode):
    from pytensor.tensor.fft import rfft

    x = pt.fmatrix("x")
    with pytest.raises(UnsupportedOp, match=r"mode CUDA cannot compute (?s:.*)RFFTOp(?s:.*)Exp"):
        pytensor.function([x], rfft(pt.exp(x)), mode=mode)


def test_errors_name_the_node(mode):
    x, y = pt.fmatrices("x", "y")
    with pytest.raises(RuntimeError) as caught:
        computed(mode, [x, y], [x @ y], MATRIX, MATRIX)
    assert any("Dot" in note and "(4, 3)" in note for note in caught.value.__notes__)


APART = {
    "a number first": lambda x, i: x[0, :, i], "on the device": lambda x, i: x[i[0], :, i],
    "pairs": lambda x, i: x[i, :, i],
    "a mask, then reversed": lambda x, i: x[x[:, :, 0] > 0, ::-1], "set": lambda x, i: x[0, :, i].set(x[1]),
    "set pairs": lambda x, i: x[i, :, i].set(x[0, 0]), "a matrix": lambda x, i: x[i[None], 1:].inc(x[i[None], 1:]),
    "set by a mask": lambda x, i: x[x[:, 0, 0] > 0, 1:].set(7.0),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
@pytest.mark.filterwarnings("ignore:this function cannot be captured")
def test_axes_of_positions_come_where_numpy_puts_them(mode, name):
    x, i = pt.ftensor3("x"), pt.lvector("i")
    assert_same(mode, [x, i], APART[name](x, i), RNG.normal(size=(3, 3, 3)).astype("float32"), np.array([0, 2, -2]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_constant_positions_of_any_dtype(mode, dtype):
    x, positions = pt.fmatrix("x"), pt.constant(np.array([0, 1, 1, 0], dtype))
    assert_same(mode, [x], [x[positions], x[positions, ::-1], x[positions].inc(1.0)], MATRIX)


def test_what_nan_and_zero_and_crossing_limits_give(mode):
    x, n, m = pt.dvector("x"), pt.lvector("n"), pt.lvector("m")
    outputs = [pt.sign(x), pt.clip(x, 2, 1), pt.softplus(x), pt.round(x, mode="half_away_from_zero"), n // m, n % m]
    values = np.array([np.nan, 0.25, -2.5, 22.0, 2.0**52 + 1])
    assert_same(mode, [x, n, m], outputs, values, np.array([7, -7, 1]), np.array([0, 2, -2]), rtol=1e-13)


def test_integers_are_compared_with_floats_exactly(mode):
    n, x = pt.lvector("n"), pt.fvector("x")
    assert_same(mode, [n, x], [pt.eq(n, x), n > x], np.array([2**24 + 1, 3]), np.array([2**24, 3], "float32"))
