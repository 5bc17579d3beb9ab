"""The kernels are right with vectors of every width that the host has, not only with its widest.

Each width runs a part of the kernels' tests in a process, and a cache, of its own.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.codegen import get_host_cpu_features

from pytensor_convnet import reference
from pytensor_convnet.kernels import cpu

ROOT = Path(__file__).parents[3]

TESTS = [
    "tests/kernels/cpu/test_pooling_vectors.py::test_rows_about_as_long_as_vectors",
    "tests/kernels/cpu/test_pooling_vectors.py::test_layouts_of_more_planes_than_a_vector_has_lanes",
    "tests/kernels/cpu/test_widths.py::test_correlations",
]
DTYPE = "float32"

_SSE = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16"
_AVX2 = f"{_SSE},+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
_AVX512 = f"{_AVX2},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"

X86_WIDTHS = {
    "sse2": ("generic", ""),
    "avx2": ("haswell", _AVX2),
    "avx512": ("skylake-avx512", _AVX512),
}
WIDTHS = X86_WIDTHS if platform.machine() in {"x86_64", "AMD64"} else {"native": (None, None)}


def missing_features(features):
    """What the host does not have of a list of features."""
    host = set(get_host_cpu_features().split(","))
    return [feature for feature in (features or "").split(",") if feature and feature not in host]


@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
@pytest.mark.parametrize("taps", [(3, 3), (5, 2)])
@pytest.mark.parametrize("batch", [3, 17])
@pytest.mark.parametrize("dtype", [DTYPE])
def test_correlations(dtype, batch, taps, stride):
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 4, 9, 11)).astype(dtype)
    filters = random.standard_normal((6, 2, *taps)).astype(dtype)
    window = stride, ((1, 0), (2, 1)), (1, 1), 2, True
    maps = reference.correlate2d(images, filters, *window)
    arguments = {
        "correlate2d": (images, filters),
        "correlate2d_input_grad": (filters, maps, 9, 11),
        "correlate2d_filter_grad": (images, maps, *taps),
    }
    for name, operands in arguments.items():
        expected = getattr(reference, name)(*operands, *window)
        actual = getattr(cpu, name)(*operands, *window)
        assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected), name


@pytest.mark.parametrize("width", WIDTHS)
def test_kernels_with_vectors_of_each_width(width, tmp_path):
    name, features = WIDTHS[width]
    missing = missing_features(features)
    if missing:
        pytest.skip(f"this machine has no {width}: it lacks {', '.join(missing)}")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    if name is not None:
        environment |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", DTYPE, *TESTS]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
