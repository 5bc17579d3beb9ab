"""Names that NumPy itself had in those years and has since removed, for scripts that we run unmodified."""

import numpy as np

OLD_NAMES = {
    "float": float,
    "int": int,
    "bool": bool,
    "object": object,
    "complex": complex,
    "str": str,
    "long": int,
    "float_": np.float64,
    "complex_": np.complex128,
    "bool8": np.bool_,
    "int0": np.intp,
    "string_": np.bytes_,
    "unicode_": np.str_,
    "Inf": np.inf,
    "Infinity": np.inf,
    "PINF": np.inf,
    "NINF": -np.inf,
    "infty": np.inf,
    "NaN": np.nan,
    "product": np.prod,
    "cumproduct": np.cumprod,
    "alltrue": np.all,
    "sometrue": np.any,
    "row_stack": np.vstack,
    "round_": np.round,
    "rank": np.ndim,
    "alen": len,
    "asscalar": np.ndarray.item,
    "in1d": np.isin,
    "trapz": getattr(np, "trapezoid", None),  # NumPy 2's name; before, trapz itself is there
    "asfarray": lambda a, dtype=np.float64: np.asarray(a, dtype),
}


class _Casts(dict):
    """``numpy.cast['float32'](x)``."""

    def __missing__(self, dtype):
        return lambda x: np.asarray(x).astype(dtype)


def restore_old_names() -> None:
    """Give NumPy back the names of `OLD_NAMES` and ``numpy.cast``, where it no longer has them."""
    for name, value in {**OLD_NAMES, "cast": _Casts()}.items():
        if name not in vars(np):
            setattr(np, name, value)
