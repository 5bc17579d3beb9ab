"""Whatever is thrown at the public functions, the answer is a clear ValueError or the right result."""

import numpy as np
import pytensor
import pytensor.tensor as pt
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_convnet import conv2d, pool_2d, reference
from pytensor_convnet.geometry import as_padding, resolve_padding
from tests.ops.common import PYTHON, close

lengths = st.integers(0, 6)
numbers = st.integers(-1, 4)
odd_values = st.sampled_from([None, "2", 1.5, (1,), (1, 2, 3), [], {}, np.array([1, 2, 3]), pt.dvector()])
pairs = numbers | st.tuples(numbers, numbers) | odd_values
border_modes = (
    st.sampled_from(["valid", "half", "full", "same"])
    | pairs
    | st.tuples(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
)
dtypes = st.sampled_from(["float32", "float64", "float64", "float64", "int8", "bool", "complex64"])


def shapes(ndim):
    return st.lists(lengths, min_size=ndim, max_size=ndim) | st.lists(lengths, min_size=0, max_size=6)


def ones(shape, dtype):
    return (np.arange(np.prod(shape)) % 7 - 3).reshape(shape).astype(dtype)


def says_what_is_wrong(error):
    """Names an argument of the public functions and shows a value."""
    names = (
        "input",
        "filters",
        "ws",
        "stride",
        "pad",
        "mode",
        "subsample",
        "border_mode",
        "filter_dilation",
        "num_groups",
    )
    assert any(name in str(error) for name in names), error
    assert len(str(error)) > 20, error


@settings(max_examples=400)
@given(
    shapes(4),
    shapes(4),
    dtypes,
    dtypes,
    border_modes,
    pairs,
    pairs,
    st.integers(-1, 3) | odd_values,
    st.booleans(),
    st.data(),
)
def test_conv2d(
    image_shape, filter_shape, image_dtype, filter_dtype, border_mode, stride, dilation, groups, flip, data
):
    images, filters = ones(image_shape, image_dtype), ones(filter_shape, filter_dtype)
    static = data.draw(st.booleans())
    symbols = [pt.tensor(dtype=x.dtype, shape=x.shape if static else (None,) * x.ndim) for x in (images, filters)]
    try:
        maps = conv2d(
            *symbols,
            border_mode=border_mode,
            subsample=stride,
            filter_dilation=dilation,
            num_groups=groups,
            filter_flip=flip,
        )
        result = pytensor.function(symbols, maps, mode=PYTHON)(images, filters)
    except ValueError as error:
        return says_what_is_wrong(error)
    op = maps.owner.op
    padding = resolve_padding(as_padding(border_mode), filter_shape[-2:], op.dilation)
    dtype = maps.type.dtype
    expected = reference.correlate2d(
        images.astype(dtype), filters.astype(dtype), op.stride, padding, op.dilation, op.groups, flip
    )
    close(result, expected, 1e-4)


@settings(max_examples=400)
@given(
    shapes(4),
    dtypes,
    pairs,
    pairs | st.none(),
    border_modes,
    st.booleans() | st.none(),
    st.sampled_from(["max", "sum", "average_inc_pad", "average_exc_pad", "min"]),
    st.data(),
)
def test_pool_2d(shape, dtype, window, stride, pad, ignore_border, mode, data):
    images = ones(shape, dtype)
    symbol = pt.tensor(dtype=dtype, shape=shape if data.draw(st.booleans()) else (None,) * images.ndim)
    try:
        pooled = pool_2d(symbol, window, ignore_border, stride, pad, mode)
        result = pytensor.function([symbol], pooled, mode=PYTHON)(images)
    except ValueError as error:
        return says_what_is_wrong(error)

    def pair(value):
        return (value, value) if isinstance(value, int) else tuple(value)

    windows = pair(window), pair(window if stride is None else stride), tuple(map(pair, pair(pad)))
    planes = images.reshape((1, int(np.prod(images.shape[:-2])), *images.shape[-2:]))
    if mode == "max":
        expected, _ = reference.max_pool2d(planes, np.uint8, *windows, bool(ignore_border))
    else:
        expected = reference.average_pool2d(planes, *windows, bool(ignore_border), mode)
    close(result, expected.reshape((*images.shape[:-2], *expected.shape[-2:])), 1e-5)
