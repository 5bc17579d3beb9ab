"""The three passes of a correlation: their shapes, their plans, and how far they are from their definitions."""

import functools
import itertools
from dataclasses import dataclass

import numba
import numpy as np

from pytensor_convnet import reference
from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels import cpu
from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS
from pytensor_convnet.kernels.cpu.packing import correlation_axis, gradient_axis
from pytensor_convnet.kernels.cpu.planning import plan_pass

PASSES = ("correlate2d", "correlate2d_input_grad", "correlate2d_filter_grad")
FORM_IDS = [f"F({outputs},{taps})" for outputs, taps in FORMS]


@dataclass(frozen=True)
class Geometry:
    """Shapes of images and filters, and how the filters move."""

    images: tuple
    filters: tuple
    stride: tuple = (1, 1)
    padding: tuple = ((0, 0), (0, 0))
    dilation: tuple = (1, 1)
    groups: int = 1
    flip: bool = False

    @property
    def moves(self):
        return self.stride, self.padding, self.dilation, self.groups, self.flip

    @property
    def maps(self):
        lengths = (
            correlation_length(
                self.images[2 + i], self.filters[2 + i], self.stride[i], *self.padding[i], self.dilation[i]
            )
            for i in range(2)
        )
        return (self.images[0], self.filters[0], *lengths)

    @property
    def multiply_adds(self):
        return int(np.prod(self.maps) * np.prod(self.filters[1:]))

    def summed_terms(self, name):
        """How many products an element of a pass's result sums, about."""
        taps = self.filters[2] * self.filters[3]
        return {
            "correlate2d": self.filters[1] * taps,
            "correlate2d_input_grad": self.filters[0] * taps / (self.groups * self.stride[0] * self.stride[1]),
            "correlate2d_filter_grad": self.maps[0] * self.maps[2] * self.maps[3],
        }[name]

    def operands(self, name, images, filters, maps):
        """What a pass takes, in its order."""
        return {
            "correlate2d": (images, filters),
            "correlate2d_input_grad": (filters, maps, *self.images[2:]),
            "correlate2d_filter_grad": (images, maps, *self.filters[2:]),
        }[name]

    def arrays(self, dtype="float32", seed=0):
        """Random images, filters and maps."""
        random = np.random.default_rng(seed)
        return tuple(random.standard_normal(shape).astype(dtype) for shape in (self.images, self.filters, self.maps))

    def run(self, name, *arrays):
        """A pass, by its kernel."""
        return getattr(cpu, name)(*self.operands(name, *arrays), *self.moves)

    def define(self, name, *arrays):
        """A pass, by its definition, in float64."""
        arrays = (array.astype("float64") for array in arrays)
        return getattr(reference, name)(*self.operands(name, *arrays), *self.moves)

    def error(self, name, *arrays):
        """The relative error of a pass."""
        result, expected = self.run(name, *arrays), self.define(name, *arrays)
        assert result.dtype == arrays[0].dtype
        assert result.shape == expected.shape
        assert result.flags.c_contiguous
        return relative_error(result, expected)

    def plan(self, name, whole=False):
        """The tiling and the reads of a pass in float32; ``whole`` where images must not be cut into tiles."""
        # The filter gradient's plan is that of the forward pass.
        planner = _plan_input_grad if name == "correlate2d_input_grad" else _plan_forward
        shapes = self.images, self.filters, self.maps
        return planner(*shapes, self.stride, self.padding, self.dilation, self.groups, whole)


def relative_error(result, expected):
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(result - expected)
    return error / norm if norm > 0 else error


def most_error(terms, dtype):
    """The relative error that sums of so many products may have."""
    return 2e-6 * (terms / 100) ** 0.5 if dtype == "float32" else 1e-14


@numba.njit
def _plan_forward(images, filters, maps, stride, padding, dilation, groups, whole):
    rows = correlation_axis(maps[2], images[2], filters[2], stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(maps[3], images[3], filters[3], stride[1], padding[1][0], dilation[1])
    return plan_pass(images[0], rows, columns, filters[1], filters[0] // groups, 4, whole)


@numba.njit
def _plan_input_grad(images, filters, maps, stride, padding, dilation, groups, whole):
    rows = gradient_axis(images[2], maps[2], filters[2], stride[0], padding[0][0], dilation[0])
    columns = gradient_axis(images[3], maps[3], filters[3], stride[1], padding[1][0], dilation[1])
    return plan_pass(images[0], rows, columns, filters[0] // groups, filters[1], 4, whole)


# -------------------------------------------------------------------------------- geometries for every form


@functools.cache
def _candidates():
    """Geometries of many kinds, small ones first."""
    widths, sides = (*range(3, 14), 16, 17, 18, 24, 35), ((0, 0), (1, 0), (1, 1), (2, 2))
    depths = (4, 8), (3, 12), (16, 24), (32, 64)
    found = []
    for stride, taps, columns, padding in itertools.product((1, 2, 3), range(1, 14), widths, sides):
        for channels, filters in depths if taps <= columns + sum(padding) else ():
            images, moves = (19, channels, 5, columns), ((1, stride), ((1, 0), padding))
            found.append(Geometry(images, (filters, channels, 3, taps), *moves, flip=taps % 2 == 0))
    return sorted(found, key=lambda geometry: geometry.multiply_adds)


@functools.cache
def _geometries_by_form(name, whole):
    """For each number of a form, the geometries for which the plan chooses it."""
    found = {form: [] for form in range(len(FORMS))}
    for geometry in _candidates():
        found[geometry.plan(name, whole)[1].form].append(geometry)
    return found


def geometry_with_form(name, form, *, whole=False, least_multiply_adds=0, least_columns=0):
    """The smallest of many geometries for whose pass the plan chooses a form; one as large as asked, if there is."""
    geometries = _geometries_by_form(name, whole)[form]
    assert geometries, f"no geometry makes the plan of {name} choose {FORM_IDS[form]}"
    enough = (
        geometry
        for geometry in geometries
        if geometry.multiply_adds >= least_multiply_adds and geometry.maps[3] >= least_columns
    )
    return next(enough, geometries[-1])
