"""Minimal filtering along columns: fewer multiplications than outputs times taps.

``outputs`` neighbouring outputs of a correlation with ``taps`` taps need only ``points = outputs + taps - 1``
multiplications (Toom 1963, Cook 1966; Winograd, "Arithmetic Complexity of Computations", 1980, for filters; Lavin and
Gray, arXiv:1509.09308, for networks)::

    outputs = A' ((G taps) * (B inputs))        A' is (outputs, points), G (points, taps), B (points, points)

where the product in the middle is elementwise. A sum over channels and filter rows moves inside the outer bracket, so
that a convolution spends its time in the middle: 8 multiplications instead of 20 for 5 taps, 8 instead of 18 for 3.
The filter gradient is the transpose of that line and uses the same matrices. Only columns are treated so: in one
dimension float32 loses less than a decimal digit, and rows keep any stride and skip their padding.

Why it works: the correlation's transpose multiplies two polynomials, ``taps`` and ``outputs`` coefficients long. Its
product is known from its values at ``points`` places, infinity (the leading coefficient) among them. A evaluates one
factor, G the other, and B, which is the transpose of interpolation, does the rest.
"""

from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.llvm import (
    array_data,
    define_function,
    element_type,
    int64,
    load_vector,
    offset_pointer,
    store_vector,
    vector_suffix,
    vector_type,
)
from pytensor_convnet.kernels.cpu.register_blocks import MOST_FILTERS

FORMS = ((1, 1), (4, 2), (2, 3), (4, 3), (5, 3), (6, 3), (4, 4), (2, 5), (4, 5), (3, 6))
"""(outputs, taps) of every form that kernels may choose. The first is the direct algorithm.

A longer filter is cut into parts of ``taps`` taps. Their inputs then begin at multiples of ``taps``, and those of
outputs at multiples of ``outputs``: where one divides the other, parts share the transformed inputs.
"""

_PLACES = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
"""Where polynomials are evaluated, beside infinity: small, and in pairs whose sums share work."""

MOST_POINTS = max(outputs + taps - 1 for outputs, taps in FORMS)
MOST_OUTPUTS = max(outputs for outputs, _ in FORMS)
MOST_TAPS = max(taps for _, taps in FORMS)


def _evaluation(coefficients, points):
    """The matrix that evaluates a polynomial of so many coefficients at so many places, the last being infinity."""
    rows = [[Fraction(place) ** power for power in range(coefficients)] for place in _PLACES[: points - 1]]
    return [*rows, [Fraction(0)] * (coefficients - 1) + [Fraction(1)]]


def _inverse(matrix):
    """The exact inverse of a square matrix of fractions, by Gauss-Jordan elimination."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(r for r in range(i, size) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(size):
            if r != i:
                factor = rows[r][i]
                rows[r] = [value - factor * base for value, base in zip(rows[r], rows[i])]
    return [row[size:] for row in rows]


def matrices(outputs, taps):
    """``A'``, ``G`` and ``B`` of a form, float64.

    Each row of B is scaled to small whole numbers and the row of G that it meets by the inverse.

    Examples
    --------
    >>> output_matrix, filter_matrix, input_matrix = matrices(2, 3)
    >>> inputs, filters = np.array([1.0, 2, 3, 4]), np.array([1.0, 10, 100])
    >>> output_matrix @ ((filter_matrix @ filters) * (input_matrix @ inputs))
    array([321., 432.])
    """
    points = outputs + taps - 1
    interpolation = _inverse(_evaluation(points, points))
    input_matrix, filter_matrix = [list(column) for column in zip(*interpolation)], _evaluation(taps, points)
    for i, row in enumerate(input_matrix):
        scale = 1 / min(abs(value) for value in row if value)
        input_matrix[i] = [value * scale for value in row]
        filter_matrix[i] = [value / scale for value in filter_matrix[i]]
    output_matrix = zip(*_evaluation(outputs, points))
    a, g, b = (np.array([[float(x) for x in row] for row in m]) for m in (output_matrix, filter_matrix, input_matrix))
    return a, g, b


_MATRICES = [matrices(*form) for form in FORMS]

FILTER_MATRICES = np.zeros((len(FORMS), MOST_POINTS, MOST_TAPS))
"""``G`` of each form, in the top left corner."""
for _form, (_, _g, _) in enumerate(_MATRICES):
    FILTER_MATRICES[_form, : _g.shape[0], : _g.shape[1]] = _g

FORM_OUTPUTS, FORM_TAPS = (np.array(numbers) for numbers in zip(*FORMS))


# ------------------------------------------------------------------------------- matrices as instructions


def _emit_sum(builder, coefficients, vectors, multiply_add):
    """Emit the sum of ``vectors`` times constant ``coefficients``; ``None`` if they are all zero."""
    total = None
    # Ones first: they need no multiplication.
    for factor, vector in sorted(zip(coefficients, vectors), key=lambda pair: abs(pair[0]) != 1):
        if factor == 0:
            continue
        if total is None and factor == 1:
            total = vector
        elif total is None:
            total = builder.fmul(vector, ir.Constant(vector.type, [factor] * vector.type.count))
        elif abs(factor) == 1:
            total = (builder.fadd if factor == 1 else builder.fsub)(total, vector)
        else:
            constant = ir.Constant(vector.type, [factor] * vector.type.count)
            total = builder.call(multiply_add, [constant, vector, total])
    return total


def _join_columns(builder, matrix, vectors):
    """Replace two operands that meet only factors of equal size by their sum and their difference."""
    matrix, vectors = matrix.copy(), list(vectors)
    for p in range(len(vectors)):
        for q in range(p + 1, len(vectors)):
            same = matrix[:, p] == matrix[:, q]
            opposite = matrix[:, p] == -matrix[:, q]
            if (same | opposite).all() and np.count_nonzero(matrix[:, p]) > 1 and not (same & opposite).all():
                a, b = vectors[p], vectors[q]
                vectors[p], vectors[q] = builder.fadd(a, b), builder.fsub(a, b)
                sums, differences = np.where(same, matrix[:, p], 0), np.where(same, 0, matrix[:, p])
                matrix[:, p], matrix[:, q] = sums, differences
    return matrix, vectors


def _emit_product(builder, matrix, vectors, multiply_add):
    """Emit ``matrix @ vectors``; rows that are sum and difference of shorter ones are computed from those."""
    matrix, vectors = _join_columns(builder, matrix, vectors)
    results = [None] * len(matrix)
    for p in range(len(matrix)):
        if results[p] is not None:
            continue
        for q in range(p + 1, len(matrix)):
            even, odd = (matrix[p] + matrix[q]) / 2, (matrix[p] - matrix[q]) / 2
            apart = np.count_nonzero(matrix[p]) + np.count_nonzero(matrix[q])
            if results[q] is None and np.count_nonzero(even) + np.count_nonzero(odd) + 2 < apart:
                even, odd = (_emit_sum(builder, part, vectors, multiply_add) for part in (even, odd))
                results[p], results[q] = builder.fadd(even, odd), builder.fsub(even, odd)
                break
        else:
            results[p] = _emit_sum(builder, matrix[p], vectors, multiply_add)
    return results


def _transform_function(module, element, name, matrix):
    """A function that applies ``matrix`` to vectors of each tile in a row of tiles."""
    vector, pointer = vector_type(element), element.as_pointer()
    arguments = [pointer, int64, int64, pointer, int64, int64, int64]
    function, builder = define_function(module, f"pytensor_convnet.{name}_{vector_suffix(vector)}", arguments)
    if builder is None:
        return function
    source, source_step, source_tile, target, target_step, target_tile, tiles = function.args
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{vector_suffix(vector)}"
    )
    with cgutils.for_range(builder, tiles) as loop:
        first = offset_pointer(builder, source, builder.mul(loop.index, source_tile))
        operands = [
            load_vector(builder, vector, offset_pointer(builder, first, builder.mul(source_step, int64(j))))
            for j in range(matrix.shape[1])
        ]
        first = offset_pointer(builder, target, builder.mul(loop.index, target_tile))
        for i, value in enumerate(_emit_product(builder, matrix, operands, multiply_add)):
            store_vector(builder, value, offset_pointer(builder, first, builder.mul(target_step, int64(i))))
    builder.ret_void()
    return function


def _transform(kind, pick):
    """The intrinsic that applies a form's matrix, chosen by ``pick``, to each tile of a row::

        for tile in range(tiles):
            for i: target[target_at + tile * target_tile + i * target_step] = sum(
                matrix[i, j] * source[source_at + tile * source_tile + j * source_step] for j
            )

    where an element is the first of a vector, and the steps count numbers.
    """

    @intrinsic
    def transform(
        typing_context,
        form,
        source,
        source_at,
        source_step,
        source_tile,
        target,
        target_at,
        target_step,
        target_tile,
        tiles,
    ):
        integer = types.intp
        signature = types.void(
            integer, source, integer, integer, integer, target, integer, integer, integer, integer
        )  # fmt: skip

        def codegen(context, builder, signature, arguments):
            form, source, source_at, step, tile, target, target_at, target_step, target_tile, tiles = arguments
            source = offset_pointer(builder, array_data(context, builder, signature.args[1], source), source_at)
            target = offset_pointer(builder, array_data(context, builder, signature.args[5], target), target_at)
            element = element_type(signature.args[1])
            done = builder.append_basic_block("done")
            choice = builder.switch(form, done)
            for number in range(1, len(FORMS)):
                block = builder.append_basic_block(f"form_{number}")
                choice.add_case(int64(number), block)
                with builder.goto_block(block):
                    outputs, taps = FORMS[number]
                    name = f"{kind}_{outputs}_{taps}"
                    function = _transform_function(builder.module, element, name, pick(_MATRICES[number]))
                    builder.call(function, [source, step, tile, target, target_step, target_tile, tiles])
                    builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    return transform


transform_inputs = _transform("transform_inputs", lambda form: form[2])
transform_outputs = _transform("transform_outputs", lambda form: form[0])
transform_maps = _transform("transform_maps", lambda form: form[0].T.copy())
transform_sums = _transform("transform_sums", lambda form: form[1].T.copy())


def _filters_function(module, element, form, filters):
    """The instructions of `transform_filters` for one form."""
    wide, narrow = ir.VectorType(ir.DoubleType(), filters), ir.VectorType(element, filters)
    arguments = [ir.DoubleType().as_pointer(), *(element.as_pointer(),) * 3, int64]
    outputs, taps = FORMS[form]
    name = f"pytensor_convnet.transform_filters_{outputs}_{taps}_{vector_suffix(narrow)}"
    function, builder = define_function(module, name, arguments)
    if builder is None:
        return function
    numbers, zero, infinity, between, point_step = function.args
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(wide, [wide] * 3), f"llvm.fmuladd.{vector_suffix(wide)}"
    )
    operands = [
        load_vector(builder, wide, offset_pointer(builder, numbers, int64(tap * filters))) for tap in range(taps)
    ]
    values = _emit_product(builder, _MATRICES[form][1], operands, multiply_add)
    for point, value in enumerate(values):
        if narrow != wide:
            value = builder.fptrunc(value, narrow)
        if point == 0:
            place = zero
        elif point == len(values) - 1:
            place = infinity
        else:
            place = offset_pointer(builder, between, builder.mul(point_step, int64(point - 1)))
        store_vector(builder, value, place)
    builder.ret_void()
    return function


@intrinsic
def transform_filters(typing_context, form, numbers, packed, zero, infinity, between, point_step):
    """Apply ``G`` of a form to the taps of `MOST_FILTERS` filters, float64 before they are rounded::

    for point: for f in range(MOST_FILTERS):
        packed[at + f] = sum(G[point, tap] * numbers[tap, f] for tap)

    where ``at`` is ``zero`` for the first point, ``infinity`` for the last if that is another, and
    ``between + (point - 1) * point_step`` for the others.
    """
    integer = types.intp
    signature = types.void(integer, numbers, packed, integer, integer, integer, integer)

    def codegen(context, builder, signature, arguments):
        form, numbers, packed, *places, point_step = arguments
        numbers = array_data(context, builder, signature.args[1], numbers)
        packed = array_data(context, builder, signature.args[2], packed)
        places = [offset_pointer(builder, packed, place) for place in places]
        element = element_type(signature.args[2])
        done = builder.append_basic_block("done")
        choice = builder.switch(form, done)
        for number in range(len(FORMS)):
            block = builder.append_basic_block(f"form_{number}")
            choice.add_case(int64(number), block)
            with builder.goto_block(block):
                function = _filters_function(builder.module, element, number, MOST_FILTERS)
                builder.call(function, [numbers, *places, point_step])
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen
