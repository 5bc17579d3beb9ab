"""The kernels are right with vectors of every width that the host has, not only with its widest.

Each narrower width runs a part of the kernels' tests in a process, and a cache, of its own; with the widest the suite
itself runs.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.codegen import get_host_cpu_features

from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES

ROOT = Path(__file__).parents[3]

POOLING = [
    "tests/kernels/cpu/test_pooling_vectors.py::test_rows_about_as_long_as_vectors",
    "tests/kernels/cpu/test_pooling_vectors.py::test_layouts_of_more_planes_than_a_vector_has_lanes",
    "tests/kernels/cpu/test_rectified_pooling.py::test_rows_about_as_long_as_vectors",
]
CORRELATION = [
    "tests/kernels/cpu/test_minimal_filtering.py",
    "tests/kernels/cpu/test_correlation.py::test_error_of_every_form",
    "tests/kernels/cpu/test_correlation.py::test_passes_agree_with_the_definition",
    "tests/kernels/cpu/test_correlation.py::test_passes_agree_with_the_definition_for_any_geometry_and_memory",
    "tests/kernels/cpu/test_correlation.py::test_minimal_filtering_agrees_with_the_definition_for_any_geometry_and_memory",
    "tests/kernels/cpu/test_winner_grads.py::test_every_shape_of_patches",
    "tests/kernels/cpu/test_conv_pool.py::test_biases_and_activations",
]
CHOICE = "float32 or not test_pooling_vectors"

_SSE = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16"
_AVX2 = f"{_SSE},+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
_AVX512 = f"{_AVX2},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"

X86_WIDTHS = {
    "sse2": ("generic", "", 16),
    "avx2": ("haswell", _AVX2, 32),
    "avx512": ("skylake-avx512", _AVX512, 64),
}
"""The name of a processor, its features, and the bytes of its vectors."""

WIDTHS = X86_WIDTHS if platform.machine() in {"x86_64", "AMD64"} else {}


def missing_features(features):
    """What the host does not have of a list of features."""
    host = set(get_host_cpu_features().split(","))
    return [feature for feature in features.split(",") if feature and feature not in host]


@pytest.mark.parametrize("width", WIDTHS)
def test_kernels_with_vectors_of_each_width(width, tmp_path):
    name, features, size = WIDTHS[width]
    missing = missing_features(features)
    if missing:
        pytest.skip(f"this machine has no {width}: it lacks {', '.join(missing)}")
    if size == VECTOR_BYTES:
        pytest.skip(f"the suite itself runs with {width}")
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOICE, *POOLING, *CORRELATION]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
