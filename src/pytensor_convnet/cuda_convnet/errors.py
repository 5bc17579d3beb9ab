"""Misfits told in the terms of c01b too.

All Ops of this package are defined on bc01, and so are the sentences of `geometry`. A program in c01b sees its own
shapes, in its own order and under the names of cuda-convnet's arguments, beside them: `in_c01b_terms` adds them while
a graph is built, `in_c01b` when a compiled function runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pytensor.graph.basic import Variable

from pytensor_convnet import geometry
from pytensor_convnet.geometry import Shape, format_shape

IMAGE_AXES = "(channels, rows, columns, batch)"
FILTER_AXES = "(channels // groups, rows, columns, filters)"
LOCAL_FILTER_AXES = "(output rows, output columns, channels // groups, rows, columns, filters)"

_START = " In c01b, "


def _axes_of(name: str, ndim: int) -> str:
    axes = IMAGE_AXES if name != "filters" else FILTER_AXES if ndim == 4 else LOCAL_FILTER_AXES
    return axes.replace(",", " x")


def described(shapes: Mapping[str, Shape]) -> str:
    """Named c01b shapes, the first of each kind with its axes.

    Examples
    --------
    >>> described({"images": (3, 8, 9, 2), "gz": (3, 4, 4, 2)})
    'images are 3x8x9x2 (channels x rows x columns x batch), gz is 3x4x4x2'
    """
    seen, parts = set(), []
    for name, shape in shapes.items():
        axes = _axes_of(name, len(shape))
        verb = "are" if name.endswith("s") else "is"
        parts.append(f"{name} {verb} {format_shape(shape)}" + ("" if axes in seen else f" {axes}"))
        seen.add(axes)
    return ", ".join(parts)


def bc01_hint(images: Shape, filters: Shape, groups: int) -> str:
    """What to do if c01b images and filters of these shapes do not fit, and one of them looks like bc01.

    Examples
    --------
    >>> bc01_hint((3, 8, 8, 2), (5, 3, 3, 3), 1)
    ' If filters are bc01, (filters, channels, rows, columns), pass filters.dimshuffle(1, 2, 3, 0).'
    """
    channels, expected = images[0], filters[-4]
    if channels is None or expected is None or expected * groups == channels:
        return ""
    if images[1] == expected * groups:
        return " If images are bc01, (batch, channels, rows, columns), pass images.dimshuffle(1, 2, 3, 0)."
    if len(filters) == 4 and channels == (filters[1] or 0) * groups:
        return " If filters are bc01, (filters, channels, rows, columns), pass filters.dimshuffle(1, 2, 3, 0)."
    return ""


@contextmanager
def in_c01b_terms(**variables: Variable) -> Iterator[None]:
    """Within it, a ValueError of shapes that do not fit also tells the c01b shapes of these variables."""
    try:
        yield
    except ValueError as error:
        if _START in str(error):
            raise
        shapes = {name: variable.type.shape for name, variable in variables.items()}
        raise ValueError(f"{error}{_START}{described(shapes)}.") from error


# --------------------------------------------------------------------------------------- at run time


def _c01b(bc01: Sequence[int]) -> tuple[int, ...]:
    return (*bc01[1:], bc01[0])


def _of_correlation(n: Sequence[int]) -> str:
    taps = len(n) - 13
    shapes = {"images": _c01b(n[:4]), "filters": _c01b(n[4 : 4 + taps])}
    return f"{described(shapes)}.{bc01_hint(shapes['images'], shapes['filters'], n[-1])}"


def _of_maps(n: Sequence[int]) -> str:
    taps = len(n) - 17
    filters, maps = n[4 : 4 + taps], n[4 + taps : 8 + taps]
    shapes = {"images": _c01b(n[:4]), "filters": _c01b(filters), "hid_acts": _c01b(maps)}
    return f"{described(shapes)} (of `WeightActs`: hid_grads; they have the shape of the output of `FilterActs`)."


def _of_windows(n: Sequence[int]) -> str:
    images, window, stride = described({"images": _c01b(n[:4])}), format_shape(n[4:6]), format_shape(n[6:8])
    return f"{images}, ds {window}, stride {stride}: start and outputs must leave each window a pixel."


def _of_pooled(n: Sequence[int]) -> str:
    return f"{described({'images': _c01b(n[:4]), 'maxout': _c01b(n[4:8])})}."


def _of_winners(n: Sequence[int]) -> str:
    return f"{described({'maxout': _c01b(n[:4]), 'gz': _c01b(n[4:])})}."


def _of_normalised(n: Sequence[int]) -> str:
    return f"{described({'images': _c01b(n[:4]), 'dout': _c01b(n[4:])})}."


_SENTENCES: dict[int, Callable[[Sequence[int]], str]] = {
    geometry.CORRELATION: _of_correlation,
    geometry.MAPS: _of_maps,
    geometry.POOL: _of_windows,
    geometry.POOLED: _of_pooled,
    geometry.WINNERS: _of_winners,
    geometry.NORMALISED: _of_normalised,
}


def in_c01b(kind: int, numbers: Sequence[int]) -> str:
    """What a misfit is in the terms of c01b: added to the sentence of a `ShapeError` of these numbers.

    Examples
    --------
    >>> in_c01b(geometry.NORMALISED, (2, 3, 8, 8, 2, 3, 7, 8))
    ' In c01b, images are 3x8x8x2 (channels x rows x columns x batch), dout is 3x7x8x2.'
    """
    sentence: Any = _SENTENCES.get(kind)
    return _START + sentence(numbers) if sentence else ""


def speak_c01b() -> None:
    """From now on misfits of compiled functions are told in the terms of c01b too."""
    if in_c01b not in geometry.TRANSLATIONS:
        geometry.TRANSLATIONS.append(in_c01b)
