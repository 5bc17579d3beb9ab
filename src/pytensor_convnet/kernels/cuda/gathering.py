"""Forward pass and input gradient as one computation: which elements of the source each output needs.

Both passes are correlations over a *source* (images, or the gradient of the maps) that make a *target* (maps, or the
gradient of the images). Along an axis, target rows are taken in patches of ``patch`` consecutive ones. Row ``patch * q
+ residue`` of the target sums, over source rows ``step * q + a``, the source times the filter's tap ``t`` for which

    t * dilation == row_factor * a + residue_factor * residue + before

where that is a tap. In the forward pass ``row_factor`` is 1, ``residue_factor`` is -stride and ``step`` stride *
patch; in the input gradient they are -stride, 1 and patch / stride, so that the patch must be a multiple of the
stride.

All residues of a patch may be *joined*: they become rows of one product of matrices, (channels of the target x
residues) by (a x channels of the source), which reads the source once for the whole patch and fills the matrix unit
where channels are few, but multiplies by zeros where a residue has no tap. Else each residue has a *class* of its own,
with just the taps that it needs. Either way a strided gradient becomes a dense correlation, without a scatter.
"""

import functools
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pytensor_convnet.geometry import Padding, Pair, correlation_length

SPARE_ROWS = 128
"""Rows of no effect after those of each class: a block of the largest kernel may begin at any row of a class."""

NOWHERE = 1 << 30
"""The coordinate of source elements of rows of no effect: outside of every image."""


@dataclass(frozen=True)
class Geometry:
    """Shapes of a correlation and how its filters move.

    Attributes
    ----------
    images, filters, maps : tuple of int
        bc01 images, (filters, channels // groups, rows, columns), bc01 maps.
    """

    images: tuple[int, ...]
    filters: tuple[int, ...]
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int
    flip: bool

    @functools.cached_property
    def maps(self) -> tuple[int, int, int, int]:
        rows, columns = (
            correlation_length(
                self.images[2 + i], self.filters[2 + i], self.stride[i], *self.padding[i], self.dilation[i]
            )
            for i in range(2)
        )
        return self.images[0], self.filters[0], rows, columns

    @property
    def multiply_adds(self) -> int:
        """Of any of the three passes, taps on padding counted."""
        return int(np.prod(self.maps, dtype=object) * np.prod(self.filters[1:], dtype=object))


@dataclass(frozen=True)
class AxisClass:
    """Residues that are computed together, along one axis.

    Attributes
    ----------
    first, count : int
        The residues ``first ... first + count - 1``.
    places : tuple of int
        The values of ``a``, increasing.
    """

    first: int
    count: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of a gathering correlation."""

    source_length: int
    target_length: int
    taps: int
    dilation: int
    before: int
    patch: int
    step: int
    row_factor: int
    residue_factor: int
    classes: tuple[AxisClass, ...]

    @property
    def positions(self) -> int:
        """How many patches cover the target."""
        return -(-self.target_length // self.patch)

    @property
    def place_step(self) -> int:
        """From each place of a class to its next one, where that is the same everywhere; else 0."""
        steps = {after - before for entry in self.classes for before, after in pairwise(entry.places)}
        return steps.pop() if len(steps) == 1 else int(not steps)

    @property
    def leaves_source(self) -> bool:
        """Whether any position reads beyond the source."""
        return any(
            places and (places[0] < 0 or self.step * (self.positions - 1) + places[-1] >= self.source_length)
            for places in (entry.places for entry in self.classes)
        )


def axis_plan(geometry: Geometry, axis: int, gradient: bool, patch: int, joined: bool) -> Axis:
    """How rows (``axis`` 0) or columns (1) of the target gather from the source."""
    stride, dilation, taps = geometry.stride[axis], geometry.dilation[axis], geometry.filters[2 + axis]
    before = geometry.padding[axis][0]
    image_length, map_length = geometry.images[2 + axis], geometry.maps[2 + axis]
    if gradient:
        source, target, step, row_factor, residue_factor = map_length, image_length, patch // stride, -stride, 1
    else:
        source, target, step, row_factor, residue_factor = image_length, map_length, stride * patch, 1, -stride

    def places(residues: range) -> tuple[int, ...]:
        found = set()
        for residue in residues:
            for tap in range(taps):
                place, rest = divmod(tap * dilation - residue_factor * residue - before, row_factor)
                if rest == 0:
                    found.add(place)
        return tuple(sorted(found))

    groups = [range(patch)] if joined else [range(residue, residue + 1) for residue in range(patch)]
    classes = tuple(AxisClass(group.start, len(group), places(group)) for group in groups)
    return Axis(source, target, taps, dilation, before, patch, step, row_factor, residue_factor, classes)


@dataclass(frozen=True)
class Gathering:
    """A pass as a product of matrices, but for the strides of the source and tables on the device.

    Rows of the matrix of filters, over which the product sums, are in the order (class, a of rows, a of columns,
    channel of the source); its columns (residue of rows, residue of columns, channel of the target).

    Attributes
    ----------
    rows, columns : Axis
    source_channels, target_channels : int
        Of one group.
    padded_channels : int
        The source's channels as they count in rows of the matrix.
    """

    rows: Axis
    columns: Axis
    batch: int
    source_channels: int
    target_channels: int
    padded_channels: int
    groups: int

    @property
    def source_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.source_channels * self.groups, self.rows.source_length, self.columns.source_length

    @property
    def target_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.target_channels * self.groups, self.rows.target_length, self.columns.target_length

    @property
    def residues(self) -> int:
        """How many residues each class has."""
        return self.rows.classes[0].count * self.columns.classes[0].count

    @property
    def outputs(self) -> int:
        """Columns of the matrix of filters."""
        return self.residues * self.target_channels

    @property
    def class_count(self) -> int:
        return len(self.rows.classes) * len(self.columns.classes)

    @property
    def leaves_source(self) -> bool:
        return self.rows.leaves_source or self.columns.leaves_source

    @property
    def leaves_target(self) -> bool:
        """Whether some patches hang over the edge of the target."""
        return any(axis.target_length % axis.patch for axis in (self.rows, self.columns))

    @property
    def is_regular(self) -> bool:
        """Whether places follow each other by steps, so that a kernel may count instead of looking them up."""
        return self.rows.place_step > 0 and self.columns.place_step > 0

    def class_rows(self) -> list[int]:
        """The rows of the matrix that each class has, without the spare ones."""
        return [
            len(rows.places) * len(columns.places) * self.padded_channels
            for rows in self.rows.classes
            for columns in self.columns.classes
        ]

    @property
    def multiply_adds(self) -> int:
        """What the product does, multiplications by zeros included."""
        positions = self.rows.positions * self.columns.positions * self.batch * self.groups
        return positions * self.outputs * sum(self.class_rows())


@functools.lru_cache(maxsize=1024)
def gathering(
    geometry: Geometry, gradient: bool, patch: Pair = (1, 1), joined: bool = True, channel_multiple: int = 1
) -> Gathering:
    """The forward pass or the input gradient, in patches, with the source's channels padded to a multiple."""
    filters, channels = geometry.filters[0] // geometry.groups, geometry.filters[1]
    source_channels, target_channels = (filters, channels) if gradient else (channels, filters)
    rows, columns = (axis_plan(geometry, axis, gradient, patch[axis], joined) for axis in range(2))
    padded = -(-source_channels // channel_multiple) * channel_multiple
    return Gathering(rows, columns, geometry.images[0], source_channels, target_channels, padded, geometry.groups)


@dataclass(frozen=True)
class Tables:
    """What a kernel looks up, on its device.

    Attributes
    ----------
    gather : tensor of int32 or int64, (4, rows)
        For each row of the matrix: its offset in the source in units, its ``a`` of rows and of columns, its channel.
    taps : tensor of int32, (3, rows)
        For each row of the matrix: ``t * dilation`` of residue 0 on both axes, and the source's channel, -1 where none.
    ranges : tensor of int32, (classes, positions of rows, 2)
        The rows of the matrix that lie inside the source, for each row of positions.
    origins : tensor of int32, (classes, 4)
        The first row of the matrix of each class, its first ``a`` of rows and of columns, and how many of columns.
    row_count : int
    """

    gather: torch.Tensor
    taps: torch.Tensor
    ranges: torch.Tensor
    origins: torch.Tensor
    row_count: int


@functools.cache  # without an end: captured graphs go on reading what is here
def tables(
    plan: Gathering, channel_stride: int, row_stride: int, column_stride: int, wide: bool, device: torch.device
) -> Tables:
    """The tables of a gathering for a source of such strides, in units."""
    gather, taps, ranges, origins, start = [], [], [], [], 0
    channel = np.arange(plan.padded_channels)
    exists = channel < plan.source_channels
    for rows in plan.rows.classes:
        for columns in plan.columns.classes:
            y, x, c = (
                entry.ravel()
                for entry in np.meshgrid(_array(rows.places), _array(columns.places), channel, indexing="ij")
            )
            present = np.tile(exists, len(rows.places) * len(columns.places))
            offset = c * channel_stride + y * row_stride + x * column_stride
            spare = np.zeros(SPARE_ROWS + -len(y) % SPARE_ROWS, np.int64)
            coordinates = (_then(np.where(present, place, NOWHERE), spare + NOWHERE) for place in (y, x))
            gather.append([_then(np.where(present, offset, 0), spare), *coordinates, _then(c, spare)])
            taps.append(
                [
                    _then(_first_tap(plan.rows, rows.first, y), spare),
                    _then(_first_tap(plan.columns, columns.first, x), spare),
                    _then(np.where(present, c, -1), spare - 1),
                ]
            )
            origins.append([start, *(entry.places[0] if entry.places else 0 for entry in (rows, columns))])
            origins[-1].append(len(columns.places))
            ranges.append(start + _inside(plan.rows, rows) * len(columns.places) * plan.padded_channels)
            start += len(y) + len(spare)
    return Tables(
        gather=_on(np.concatenate(gather, axis=1), torch.int64 if wide else torch.int32, device),
        taps=_on(np.concatenate(taps, axis=1), torch.int32, device),
        ranges=_on(np.stack(ranges), torch.int32, device),
        origins=_on(np.array(origins), torch.int32, device),
        row_count=start,
    )


@functools.cache  # without an end: captured graphs go on reading what is here
def stage_taps(plan: Gathering, channels: int, stage_rows: int, places: int, device: torch.device) -> torch.Tensor:
    """`Tables.taps` of a matrix in stages: for so many places of rows and each chunk of channels, all columns.

    The rows of a stage, in the order (column, row, channel), are filled up to ``stage_rows``; the last stages with rows
    of no effect, where the number of places is no multiple.
    """
    rows, columns = plan.rows.classes[0], plan.columns.classes[0]
    stages_down = -(-len(rows.places) // places)
    axes = (
        places * np.arange(stages_down),
        np.arange(0, plan.source_channels, channels),
        _array(columns.places),
        np.arange(places),
        np.arange(channels),
    )
    down, first, x, i, c = np.meshgrid(*axes, indexing="ij")
    exists = down + i < len(rows.places)
    y = _array(rows.places)[np.where(exists, down + i, 0)]
    taps = _first_tap(plan.rows, rows.first, y), _first_tap(plan.columns, columns.first, x)
    count = len(columns.places) * places * channels
    filled = np.full((3, y.size // count, stage_rows), -1)
    filled[:, :, :count] = np.stack([*taps, np.where(exists, first + c, -1)]).reshape(3, -1, count)
    return _on(filled.reshape(3, -1), torch.int32, device)


def _array(places: tuple[int, ...]) -> np.ndarray:
    return np.array(places, np.int64)


def _then(values: np.ndarray, spare: np.ndarray) -> np.ndarray:
    return np.concatenate([values, spare])


def _first_tap(axis: Axis, first_residue: int, places: np.ndarray) -> np.ndarray:
    """``t * dilation`` of the first residue of a class, were there a tap."""
    return axis.row_factor * places + axis.residue_factor * first_residue + axis.before


def _inside(axis: Axis, entry: AxisClass) -> np.ndarray:
    """For each position, from where to where ``places`` lie inside the source; (positions, 2)."""
    origin = axis.step * np.arange(axis.positions)
    places = _array(entry.places)
    return np.stack([np.searchsorted(places, -origin), np.searchsorted(places, axis.source_length - origin)], axis=1)


def _on(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)
