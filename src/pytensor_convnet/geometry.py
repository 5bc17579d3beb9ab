"""The arithmetic of sliding windows: output lengths, padding, and the sentences that explain a misfit.

Nothing here knows PyTensor. The length formulas use only ``+ - * //`` and ``abs``, so the same few lines
serve Python integers, symbolic scalars and Numba's compiler.

Vocabulary, used everywhere in the package: images are bc01 ``(batch, channels, rows, columns)``; filters are
``(filters, channels // groups, rows, columns)``; a *pair* is ``(rows, columns)``; a padding is
``((top, bottom), (left, right))``. In shapes handed to the ``*_problem`` functions ``None`` is a length that
is not known yet: what cannot be judged passes.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Length = Any
"""An ``int``, or a symbolic integer scalar."""
Shape = Sequence[int | None]
BorderMode = Literal["valid", "full", "half"] | int | Sequence[int | Sequence[int]]

# --------------------------------------------------------------------------------------------- lengths


def minimum(a: Length, b: Length) -> Length:
    """The smaller of two lengths, by the one formula that ints, symbols and Numba all read."""
    return (a + b - abs(a - b)) // 2


def maximum(a: Length, b: Length) -> Length:
    """The larger of two lengths."""
    return (a + b + abs(a - b)) // 2


def dilated_length(taps: Length, dilation: Length) -> Length:
    """The span of a filter of ``taps`` taps that lie ``dilation`` apart."""
    return (taps - 1) * dilation + 1


def correlation_length(
    length: Length, taps: Length, stride: Length, before: Length, after: Length, dilation: Length
) -> Length:
    """Number of positions a filter takes along one axis of ``length`` padded by ``before`` and ``after``."""
    return (length + before + after - dilated_length(taps, dilation)) // stride + 1


def overlap(window: Pair, stride: Pair) -> int:
    """How many windows may hold the same pixel.

    The gradient for what windows pool is at most so many times as large as that of the pooled maps.

    Examples
    --------
    >>> overlap((3, 2), (2, 2))
    2
    """
    down, across = (-(-length // step) for length, step in zip(window, stride, strict=True))
    return down * across


def pool_length(
    length: Length, window: Length, stride: Length, before: Length, after: Length, ignore_border: bool
) -> Length:
    """Number of pooling windows along one axis.

    With ``ignore_border`` only windows inside the padded image count. Without it, as many as it takes to
    cover the padded image; but no window starts beyond the image, where it would hold padding alone.
    """
    if ignore_border:
        return (length + before + after - window) // stride + 1
    covering = maximum(length + before + after - window + stride - 1, 0) // stride + 1
    starting_inside = (length + before - 1) // stride + 1
    return minimum(covering, starting_inside)


# --------------------------------------------------------------------------------------------- padding


def half_padding(taps: Length, dilation: Length) -> Length:
    """Padding on both sides that keeps the length for odd ``taps`` at stride 1 (Theano's 'half', 'same')."""
    return dilated_length(taps, dilation) // 2


def full_padding(taps: Length, dilation: Length) -> Length:
    """Padding on both sides that admits every position where filter and image overlap at all."""
    return dilated_length(taps, dilation) - 1


def _plain(value: Any) -> Any:
    """``value`` with NumPy's arrays and numbers as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def as_count(value: Any, name: str, *, least: int) -> int:
    """``value`` as an int of at least ``least``; floats and strings that merely look like one are refused."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return count


def as_pair(value: Any, name: str, *, least: int) -> Pair:
    """``value``, an int or two of them, as ``(rows, columns)``, each at least ``least``."""
    value = _plain(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or a pair (rows, columns) of integers, got {value!r}")
        rows, columns = (as_count(entry, name, least=least) for entry in value)
        return rows, columns
    count = as_count(value, name, least=least)
    return count, count


def as_padding(border_mode: BorderMode, name: str = "border_mode") -> Padding | Literal["half", "full"]:
    """Theano's ``border_mode`` as ``((top, bottom), (left, right))``.

    'half' and 'full' depend on the filters' shape and come back as they are; `resolve_padding` turns them
    into numbers once that shape is known.
    """
    border_mode = _plain(border_mode)
    if isinstance(border_mode, str):
        if border_mode == "valid":
            return (0, 0), (0, 0)
        if border_mode == "half" or border_mode == "full":
            return border_mode
        raise ValueError(f"{name} must be 'valid', 'full', 'half', an int or pairs, got {border_mode!r}")
    sides = border_mode if isinstance(border_mode, Sequence) else (border_mode, border_mode)
    if len(sides) != 2:
        raise ValueError(
            f"{name} must give padding for two axes, (rows, columns) or ((top, bottom), (left, right)), "
            f"got {border_mode!r}"
        )
    rows, columns = (as_pair(side, name, least=0) for side in sides)
    return rows, columns


def resolve_padding(
    padding: Padding | Literal["half", "full"], taps: tuple[Length, Length], dilation: Pair
) -> tuple[tuple[Length, Length], tuple[Length, Length]]:
    """``padding`` in numbers (symbolic where ``taps``, the filters' rows and columns, are)."""
    if not isinstance(padding, str):
        return padding
    one_side = {"half": half_padding, "full": full_padding}[padding]
    rows, columns = one_side(taps[0], dilation[0]), one_side(taps[1], dilation[1])
    return (rows, rows), (columns, columns)


# ---------------------------------------------------------------------------------------------- misfits


def format_shape(shape: Shape) -> str:
    """A shape as people write it: ``128x3x32x32``, with ``?`` for what is unknown."""
    return "x".join("?" if length is None else str(length) for length in shape)


def _differ(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None and a != b


def _layout_hint(images: Shape, filters: Shape, groups: int) -> str:
    """What to do if shapes that do not fit as bc01 would fit in c01b, (channels, rows, columns, batch)."""
    seen, c01b_filters = filters[-3], filters[0] if len(filters) == 4 else None
    if seen is not None and images[0] == seen * groups:
        meant = "input is"
    elif c01b_filters is not None and c01b_filters * groups == images[1]:
        meant = "filters are"
    elif c01b_filters is not None and c01b_filters * groups == images[0]:
        meant = "input and filters are"
    else:
        return ""
    return (
        f" If {meant} c01b, their last axis that of the batch or of the filters, pass .dimshuffle(3, 0, 1, 2) of them, "
        "or use pytensor_convnet.cuda_convnet.FilterActs."
    )


def correlation_problem(
    images: Shape, filters: Shape, stride: Pair, padding: Any, dilation: Pair, groups: int
) -> str | None:
    """Why ``filters`` cannot be correlated with ``images``, in one sentence; ``None`` if they can.

    ``padding`` may be 'half' or 'full'. The sentence uses the argument names of `pytensor_convnet.conv2d`.
    """
    met = f"input is {format_shape(images)} (batch x channels x rows x columns), filters are {format_shape(filters)}"
    channels, count = images[1], filters[0]
    if channels is not None and channels % groups:
        return (
            f"num_groups={groups} does not divide the {channels} channels of input: {met}. "
            "Choose num_groups that divides the channels."
        )
    if count is not None and count % groups:
        return (
            f"num_groups={groups} does not divide the {count} filters: {met}. "
            "Choose num_groups that divides the number of filters."
        )
    if channels is not None and filters[-3] is not None and filters[-3] * groups != channels:
        return (
            f"input has {channels} channels but filters expect {filters[-3] * groups} "
            f"(filters' channels x num_groups = {filters[-3]} x {groups}): {met}. "
            f"The filters' channel axis must be input channels // num_groups.{_layout_hint(images, filters, groups)}"
        )
    for axis, name in enumerate(("rows", "columns")):
        length, taps = images[axis - 2], filters[axis - 2]
        if taps == 0:
            return f"filters have no {name}: {met}. Filters need at least one tap on each axis."
        if length is None or taps is None:
            continue
        before, after = resolve_padding(padding, (taps, taps), (dilation[axis],) * 2)[axis]
        span = dilated_length(taps, dilation[axis])
        if span > length + before + after:
            dilated = f" ({taps} taps with filter_dilation {dilation[axis]})" if dilation[axis] > 1 else ""
            return (
                f"filters span {span} {name}{dilated} but the padded input has only {length + before + after} "
                f"({length} + padding {before} + {after}): {met}. Use smaller filters or a border_mode that pads more."
            )
    return None


def maps_problem(
    images: Shape, filters: Shape, maps: Shape, stride: Pair, padding: Any, dilation: Pair, groups: int
) -> str | None:
    """Why ``maps`` cannot be the output of this correlation (or its gradient); ``None`` if they can."""
    problem = correlation_problem(images, filters, stride, padding, dilation, groups)
    if problem is not None:
        return problem
    expected: list[int | None] = [images[0], filters[0]]
    for axis in range(2):
        length, taps = images[axis - 2], filters[axis - 2]
        if length is None or taps is None:
            expected.append(None)
            continue
        before, after = resolve_padding(padding, (taps, taps), (dilation[axis],) * 2)[axis]
        expected.append(correlation_length(length, taps, stride[axis], before, after, dilation[axis]))
    if any(map(_differ, expected, maps)):
        return (
            f"output_grad is {format_shape(maps)} but this convolution's output is {format_shape(expected)}: "
            f"input is {format_shape(images)}, filters are {format_shape(filters)}, subsample {tuple(stride)}, "
            f"padding {padding}, filter_dilation {tuple(dilation)}. output_grad must have the output's shape."
        )
    return None


def pool_problem(
    images: Shape,
    window: Sequence[int | None],
    stride: Sequence[int | None],
    padding: Sequence[Sequence[int | None]],
    ignore_border: bool,
) -> str | None:
    """Why windows cannot slide over ``images`` (the last two axes are pooled); ``None`` if they can."""
    met = f"input is {format_shape(images)}, ws {format_shape(window)}, stride {format_shape(stride)}, pad {padding}"
    for axis, name in enumerate(("rows", "columns")):
        length, size, step = images[axis - 2], window[axis], stride[axis]
        before, after = padding[axis]
        padded = None if length is None or before is None or after is None else length + before + after
        if size is not None and size < 1:
            return f"ws must be at least 1 on each axis, got {size} {name}: {met}."
        if step is not None and step < 1:
            return f"stride must be at least 1 on each axis, got {step} for {name}: {met}."
        for side in (before, after):
            if side is not None and side < 0:
                return f"pad must not be negative, got {side} for {name}: {met}."
            if side is not None and size is not None and side >= size:
                return (
                    f"pad {side} is not smaller than the window's {size} {name}: {met}. "
                    "A window must never hold padding alone: pad less."
                )
        if length == 0:
            return f"input has no {name} to pool: {met}."
        if ignore_border and size is not None and padded is not None and size > padded:
            return (
                f"ws spans {size} {name} but the padded input has only {padded} "
                f"({length} + pad {before} + {after}): {met}. "
                "Use a smaller window, or ignore_border=False to keep partial windows."
            )
    return None


def pooled_problem(
    images: Shape,
    pooled: Shape,
    window: Sequence[int | None],
    stride: Sequence[int | None],
    padding: Sequence[Sequence[int | None]],
) -> str | None:
    """Why ``pooled`` (a gradient, or winners) cannot come from these windows; ``None`` if it can.

    Both counts of windows are admitted, with and without partial ones.
    """
    problem = pool_problem(images, window, stride, padding, ignore_border=False)
    if problem is not None:
        return problem
    fits = not any(map(_differ, images[:-2], pooled[:-2]))
    for axis in range(2):
        length, size, step, (before, after) = images[axis - 2], window[axis], stride[axis], padding[axis]
        count = pooled[axis - 2]
        if count is not None and None not in (length, size, step, before, after):
            counts = [pool_length(length, size, step, before, after, ignored) for ignored in (True, False)]
            fits &= count in counts
    if fits:
        return None
    return (
        f"pooled maps of {format_shape(pooled)} do not come from an input of {format_shape(images)} with "
        f"ws {format_shape(window)}, stride {format_shape(stride)}, pad {padding}."
    )


def normalised_problem(images: Shape, maps: Shape) -> str | None:
    """Why ``maps`` cannot be a gradient for normalised ``images``; ``None`` if they can."""
    if not any(map(_differ, images, maps)):
        return None
    return (
        f"output_grad is {format_shape(maps)} but input is {format_shape(images)}: "
        "normalisation keeps the shape, so both must have the same."
    )


TRANSLATIONS: list[Callable[[int, Sequence[int]], str]] = []
"""What is added to the sentence of a `ShapeError`, from its kind and numbers: the same in another layout's terms."""


class ShapeError(ValueError):
    """A misfit found while a compiled function runs.

    Compiled code can raise only with numbers: it hands over ``(kind, *numbers)``, and the sentence is written
    here, by the same functions that check static shapes.
    """

    def __init__(self, *facts: Any):
        if len(facts) > 1:
            kind, *numbers = facts
            facts = ("".join((_SENTENCES[kind](numbers), *(translate(kind, numbers) for translate in TRANSLATIONS))),)
        super().__init__(*facts)


def _correlation_sentence(n: Sequence[int]) -> str | None:
    # images (4), filters (4 or 6), then stride, padding, dilation, groups
    taps = len(n) - 13
    return correlation_problem(n[:4], n[4 : 4 + taps], *_window_facts(n[4 + taps :]))


def _maps_sentence(n: Sequence[int]) -> str | None:
    # images (4), filters (4 or 6), maps (4), then stride, padding, dilation, groups
    taps = len(n) - 17
    return maps_problem(n[:4], n[4 : 4 + taps], n[4 + taps : 8 + taps], *_window_facts(n[8 + taps :]))


def _window_facts(n: Sequence[int]) -> tuple[Pair, Padding, Pair, int]:
    return (n[0], n[1]), ((n[2], n[3]), (n[4], n[5])), (n[6], n[7]), n[8]


def _pool_sentence(n: Sequence[int]) -> str | None:
    # images (4), window, stride, padding, ignore_border
    return pool_problem(n[:4], n[4:6], n[6:8], ((n[8], n[9]), (n[10], n[11])), bool(n[12]))


def _pooled_sentence(n: Sequence[int]) -> str | None:
    # images (4), pooled (4), window, stride, padding
    return pooled_problem(n[:4], n[4:8], n[8:10], n[10:12], ((n[12], n[13]), (n[14], n[15])))


def _winner_sentence(n: Sequence[int]) -> str:
    # the winner, then window rows and columns
    return (
        f"winners hold {n[0]}, which is not a tap inside the image of a window of {n[1]}x{n[2]}: "
        "pass the winners that max pooling gave for the same window, stride and pad."
    )


def _winners_sentence(n: Sequence[int]) -> str:
    # winners (4), maps (4)
    return (
        f"winners are {format_shape(n[:4])} but output_grad is {format_shape(n[4:])}: "
        "each value of output_grad goes to one winner, so both must have the pooled shape."
    )


def _normalised_sentence(n: Sequence[int]) -> str | None:
    # images (4), maps (4)
    return normalised_problem(n[:4], n[4:])


CORRELATION, MAPS, POOL, POOLED, WINNER, WINNERS, NORMALISED = range(7)
_SENTENCES: dict[int, Any] = {
    CORRELATION: _correlation_sentence,
    MAPS: _maps_sentence,
    POOL: _pool_sentence,
    POOLED: _pooled_sentence,
    WINNER: _winner_sentence,
    WINNERS: _winners_sentence,
    NORMALISED: _normalised_sentence,
}
