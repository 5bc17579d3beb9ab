"""Convolution of c01b images under cuda-convnet's names: `FilterActs` and its two gradients.

    FilterActs(images, filters) -> maps
    ImageActs(maps, filters, output_shape) -> images
    WeightActs(images, maps, output_shape) -> filters

Images and maps are (channels, rows, columns, batch), filters (channels // groups, rows, columns, filters). All three
correlate: filters are not turned. Along each axis there are

    targets = ceil((length + padding - taps) / stride) + 1

positions, which is what A. Krizhevsky's cuda-convnet (2011) computes (``outputs`` in its ``layer.py``): with a stride
the last filter may hang over the edge, where it reads zeros. So every pixel is seen by some filter.

A correlation whose length is rounded down, as everywhere else in this package, has the same length if the images are
padded further on their far side (`rounded_up`). That is all that distinguishes these operations from `conv2d`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import infer_static_shape

from pytensor_convnet import geometry
from pytensor_convnet.cuda_convnet.errors import FILTER_AXES, bc01_hint, described, in_c01b_terms
from pytensor_convnet.cuda_convnet.layouts import as_c01b, c01b_name, from_bc01, to_bc01
from pytensor_convnet.geometry import Padding, Pair
from pytensor_convnet.ops.base import as_integers, known_values
from pytensor_convnet.ops.correlation import Correlate2d, Correlation


def rounded_up(padding: Padding, stride: Pair, images: Sequence[int | None], taps: Sequence[int | None]) -> Padding:
    """``padding``, and so much more after the last row and column that the last, partial position counts.

    Parameters
    ----------
    padding : ((top, bottom), (left, right))
    stride : (int, int)
    images, taps : (rows, columns)
        Of the images and of the filters, None where not known. A stride less one is always enough; where lengths are
        known, only what is needed is added.

    Returns
    -------
    ((top, bottom), (left, right))

    Examples
    --------
    >>> rounded_up(((0, 0), (0, 0)), (2, 2), (32, 33), (5, 5))
    ((0, 1), (0, 0))
    >>> rounded_up(((2, 2), (2, 2)), (4, 1), (None, None), (11, 11))
    ((2, 5), (2, 2))
    """

    def along(axis: int) -> Pair:
        before, after = padding[axis]
        length, size = images[axis], taps[axis]
        if length is None or size is None:
            return before, after + stride[axis] - 1
        return before, after + (size - length - before - after) % stride[axis]

    return along(0), along(1)


@dataclass(frozen=True)
class Acts:
    """What `FilterActs`, `ImageActs` and `WeightActs` share.

    Parameters
    ----------
    pad : int, (int, int) or ((int, int), (int, int))
        Zeros around the images: the same everywhere, for (rows, columns), or for ((top, bottom), (left, right)).
    partial_sum : int, optional
        How many positions cuda-convnet's kernels summed at a time. Decides the second output of `WeightActs`, and
        nothing else.
    stride : int or (int, int)
        How far the filters move from one position to the next.
    groups : int
        Splits channels and filters into groups that do not see each other, as cuda-convnet2 does.

    Raises
    ------
    ValueError
        If an argument has no meaning.
    """

    _op_type: ClassVar[type[Correlation]] = Correlate2d
    _filter_axes: ClassVar[str] = FILTER_AXES

    pad: Any = 0
    partial_sum: int | None = None
    stride: Any = 1
    groups: int = 1

    def __post_init__(self) -> None:
        self._sliding()
        geometry.as_count(self.groups, "groups", least=1)
        if self.partial_sum is not None:
            geometry.as_count(self.partial_sum, "partial_sum", least=1)

    def _sliding(self) -> tuple[Padding, Pair]:
        """Padding and stride in numbers."""
        padding = geometry.as_padding(self.pad, "pad")
        if isinstance(padding, str):
            raise ValueError(f"pad must be an int or pairs, got {self.pad!r}")
        return padding, geometry.as_pair(self.stride, "stride", least=1)

    def _correlation(self, images: Sequence[int | None], taps: Sequence[int | None]) -> Correlation:
        """The correlation of images with filters of so many rows and columns."""
        padding, stride = self._sliding()
        return self._op_type(stride, rounded_up(padding, stride, images, taps), groups=self.groups)

    def _dense_lengths(self, first: Variable, maps: Variable, name: str, sign: int) -> list[Any]:
        """Rows and columns of ``name``, told from the others at stride 1: filters from images, or the other way round.

        ``images + padding = maps + filters - 1``; the sign is that of the padding.
        """
        padding, stride = self._sliding()
        if stride != (1, 1):
            raise ValueError(
                f"output_shape, the (rows, columns) of {name}, is needed with stride {self.stride}: {name} of several "
                f"sizes have the same maps. Pass, for example, {name}.shape[1:3]."
            )
        ends = [(length_of(first, axis - 3), length_of(maps, axis - 3), sign * sum(padding[axis])) for axis in range(2)]
        return [length - count + 1 + extra if sign > 0 else length + count - 1 + extra for length, count, extra in ends]


class FilterActs(Acts):
    """Correlate c01b images with a bank of filters: ``FilterActs(pad, partial_sum, stride)(images, filters)``.

    ``maps[f, y, x, b] = sum over c, i, j of images[c, y * stride + i - top, x * stride + j - left, b] *
    filters[c, i, j, f]``, pixels outside the images counting as zero.

    Parameters
    ----------
    pad, partial_sum, stride, groups
        See `Acts`.

    Notes
    -----
    The name and the arguments are those of ``pylearn2.sandbox.cuda_convnet.filter_acts``, the meaning cuda-convnet's.
    There, channels had to be at most three or a multiple of four, filters square and a multiple of 16, images square
    and batches a multiple of 128 to be fast; here, none of it matters.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import FilterActs
    >>> images = pt.tensor("images", shape=(3, 32, 32, 128), dtype="float32")
    >>> filters = pt.tensor("filters", shape=(3, 5, 5, 64), dtype="float32")
    >>> FilterActs(stride=2)(images, filters).type.shape  # ceil((32 - 5) / 2) + 1
    (64, 15, 15, 128)
    """

    def __call__(self, images: Any, filters: Any) -> Variable:
        """The maps of ``images`` and ``filters``.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
            float32 or float64.
        filters : tensor of shape (channels // groups, rows, columns, filters)

        Returns
        -------
        tensor of shape (filters, output rows, output columns, batch)

        Raises
        ------
        ValueError
            If the shapes do not fit each other: at once where static shapes show it, else when the function runs.
        """
        images, filters = as_c01b(images, "images"), as_c01b(filters, "filters", self._filter_axes)
        check_layouts(images, filters, self.groups)
        op = self._correlation(images.type.shape[1:3], filters.type.shape[-3:-1])
        with in_c01b_terms(images=images, filters=filters):
            return from_bc01(op(to_bc01(images), to_bc01(filters)))


class ImageActs(Acts):
    """The gradient of `FilterActs` for its images: ``ImageActs(pad, partial_sum, stride)(maps, filters, shape)``.

    Also the transposed convolution, which raises resolution.

    Parameters
    ----------
    pad, partial_sum, stride, groups
        See `Acts`.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import ImageActs
    >>> maps = pt.tensor("maps", shape=(64, 15, 15, 128), dtype="float32")
    >>> filters = pt.tensor("filters", shape=(3, 5, 5, 64), dtype="float32")
    >>> ImageActs(stride=2)(maps, filters, (32, 32)).type.shape
    (3, 32, 32, 128)
    """

    def __call__(self, hid_acts: Any, filters: Any, output_shape: Any = None) -> Variable:
        """The images whose maps have the gradient ``hid_acts``.

        Parameters
        ----------
        hid_acts : tensor of shape (filters, output rows, output columns, batch)
            The gradient for the output of `FilterActs`.
        filters : tensor of shape (channels // groups, rows, columns, filters)
        output_shape : (rows, columns), optional
            Of the images: ints, symbolic scalars, or a symbolic vector such as ``images.shape[1:3]``. May be left out
            for stride 1; with a stride, images of several sizes have the same maps.

        Returns
        -------
        tensor of shape (channels, rows, columns, batch)

        Raises
        ------
        ValueError
            If the shapes do not fit each other, or ``output_shape`` is needed.
        """
        hid_acts, filters = as_c01b(hid_acts, "hid_acts"), as_c01b(filters, "filters", self._filter_axes)
        check_filter_count(hid_acts, filters)
        if output_shape is None:
            output_shape = self._dense_lengths(filters, hid_acts, "images", -1)
        rows, columns = as_lengths(output_shape, "output_shape")
        op = self._correlation([known_values(rows), known_values(columns)], filters.type.shape[-3:-1])
        with in_c01b_terms(hid_acts=hid_acts, filters=filters):
            return from_bc01(op.partner("input_grad")(to_bc01(filters), to_bc01(hid_acts), rows, columns))


class WeightActs(Acts):
    """The gradient of `FilterActs` for its filters: ``WeightActs(pad, partial_sum, stride)(images, maps, shape)``.

    Parameters
    ----------
    pad, partial_sum, stride, groups
        See `Acts`.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import WeightActs
    >>> images = pt.tensor("images", shape=(3, 32, 32, 128), dtype="float32")
    >>> maps = pt.tensor("maps", shape=(64, 15, 15, 128), dtype="float32")
    >>> gradient, partial_sums = WeightActs(stride=2, partial_sum=25)(images, maps, (5, 5))
    >>> gradient.type.shape, partial_sums.type.shape
    ((3, 5, 5, 64), (9, 3, 5, 5, 64))
    """

    def __call__(self, images: Any, hid_grads: Any, output_shape: Any = None) -> list[Variable]:
        """The gradient for the filters, and the parts that it is the sum of.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
        hid_grads : tensor of shape (filters, output rows, output columns, batch)
            The gradient for the output of `FilterActs`.
        output_shape : (rows, columns), optional
            Of the filters: ints, symbolic scalars, or a symbolic vector such as ``filters.shape[1:3]``. May be left out
            for stride 1.

        Returns
        -------
        weights_grads : tensor of shape (channels // groups, rows, columns, filters)
        partial_sums : tensor of shape (positions // partial_sum, channels // groups, rows, columns, filters)
            What each run of ``partial_sum`` positions, in row-major order, adds to the gradient; without
            ``partial_sum`` all of it. Nothing is computed unless it is used. (cuda-convnet needed the memory.)

        Raises
        ------
        ValueError
            If the shapes do not fit each other, or ``partial_sum`` does not divide the number of positions: at once
            where static shapes show it, else when the function runs.
        """
        gradient = self._gradient(images, hid_grads, output_shape)
        filters = from_bc01(gradient)
        if self.partial_sum is None:
            return [filters, filters.dimshuffle("x", 0, 1, 2, 3)]
        return [filters, self._partial_sums(gradient.owner.op, *gradient.owner.inputs)]

    def _gradient(self, images: Any, hid_grads: Any, output_shape: Any) -> Variable:
        """The gradient, bc01."""
        images, hid_grads = as_c01b(images, "images"), as_c01b(hid_grads, "hid_grads")
        if output_shape is None:
            output_shape = self._dense_lengths(images, hid_grads, "filters", 1)
        rows, columns = as_lengths(output_shape, "output_shape")
        op = self._correlation(images.type.shape[1:3], [known_values(rows), known_values(columns)])
        with in_c01b_terms(images=images, hid_grads=hid_grads):
            return op.partner("filter_grad")(to_bc01(images), to_bc01(hid_grads), rows, columns)

    def _partial_sums(self, op: Correlation, images: Variable, maps: Variable, *taps: Variable) -> Variable:
        assert self.partial_sum is not None
        size, positions = self.partial_sum, length_of(maps, 2) * length_of(maps, 3)
        if isinstance(positions, int) and positions % size:
            raise ValueError(
                f"partial_sum must divide the number of positions, got {size} for {positions} positions "
                f"(hid_grads is {c01b_name(from_bc01(maps))})"
            )
        if not isinstance(positions, int):
            message = f"partial_sum must divide the number of positions (rows x columns of hid_grads), but is {size}"
            positions = CheckAndRaise(ValueError, message)(positions, pt.eq(positions % size, 0))
        # The maps once for each run, with zeros elsewhere, as filters of their own: one pass then sums each run.
        runs = positions // size
        run_of = (pt.arange(positions) // size).reshape((1, 1, 1, *maps.shape[2:]))
        inside = pt.eq(run_of, pt.arange(runs).dimshuffle("x", "x", 0, "x", "x")).astype(maps.type.dtype)
        batch, count = length_of(maps, 0), length_of(maps, 1)
        masked = (maps.dimshuffle(0, 1, "x", 2, 3) * inside).reshape((batch, count * runs, *maps.shape[2:]))
        parts = op(images, masked, *taps)
        parts = parts.reshape((count, runs, *(length_of(parts, axis) for axis in (1, 2, 3))))
        return parts.dimshuffle(1, 2, 3, 4, 0)


# --------------------------------------------------------------------------------------------- arguments


def as_lengths(lengths: Any, name: str) -> tuple[Variable, Variable]:
    """A pair of ints or symbolic scalars, or a symbolic vector of two, as two symbolic scalars."""
    if isinstance(lengths, Sequence) and not isinstance(lengths, str):
        if len(lengths) != 2:
            raise ValueError(f"{name} must be two lengths, (rows, columns), got {lengths!r}")
        rows, columns = (as_integers(length, name) for length in lengths)
        return rows, columns
    vector = as_integers(lengths, name, (2,))
    scalars = [vector[axis] for axis in range(2)]
    _, known = infer_static_shape(scalars)  # of ``images.shape[1:3]``, say
    rows, columns = (x if length is None else as_integers(length, name) for x, length in zip(scalars, known))
    return rows, columns


def length_of(tensor: Variable, axis: int) -> Any:
    """A length of a variable, as an int where its type tells."""
    known = tensor.type.shape[axis]
    return tensor.shape[axis] if known is None else known


def check_layouts(images: Variable, filters: Variable, groups: int) -> None:
    """Raise a ValueError if the static shapes of c01b images and filters do not fit, and say what they look like."""
    channels, expected = images.type.shape[0], filters.type.shape[-4]
    if channels is None or expected is None or expected * groups == channels:
        return
    shapes = {"images": images.type.shape, "filters": filters.type.shape}
    raise ValueError(
        f"images have {channels} channels but filters expect {expected * groups} (filters' channels x groups = "
        f"{expected} x {groups}): {described(shapes)}.{bc01_hint(shapes['images'], shapes['filters'], groups)}"
    )


def check_filter_count(maps: Variable, filters: Variable) -> None:
    """Raise a ValueError if maps are known to be of another number of filters."""
    count, expected = maps.type.shape[0], filters.type.shape[-1]
    if count is not None and expected is not None and count != expected:
        raise ValueError(
            f"hid_acts are maps of {count} filters but there are {expected} filters: hid_acts are {c01b_name(maps)} "
            f"(filters x rows x columns x batch), filters are {c01b_name(filters)} (their number is the last axis)."
        )
