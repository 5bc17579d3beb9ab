"""A correlation needs its inputs, its outputs and a few megabytes a thread: no buffer grows with the images."""

import json
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from pytensor_convnet.bench.measure import extra_bytes
from tests.kernels.cpu.passes import PASSES

ROOT = Path(__file__).parents[3]
CASES = ("cb3", "cb5", "vgg3")
BYTES_A_THREAD = 8 << 20
HUGE_PAGE = 2 << 20  # measurements are exact to one

PROGRAM = """
import json
import sys
from pytensor_convnet.bench.cases import CONV
from pytensor_convnet.bench.measure import extra_bytes
from tests.kernels.cpu.passes import PASSES, Geometry

case = CONV[sys.argv[1]].for_cpu()
geometry = Geometry(case.image_shape, case.filter_shape, case.stride, case.padding)
arrays = geometry.arrays()
# Huge pages round a measurement up, now this way and now that.
least = {name: min(extra_bytes(lambda: geometry.run(name, *arrays)) for _ in range(3)) for name in PASSES}
print(json.dumps(least))
"""


@pytest.fixture(scope="module", params=CASES)
def measured(request):
    """The extra bytes of each pass of a case, in a process of its own."""
    if extra_bytes(lambda: None) is None:
        pytest.skip("the system does not tell how much memory a call needs at its peak; Linux does")
    command = [sys.executable, "-c", PROGRAM, request.param]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_needs_a_few_megabytes_a_thread(measured, name):
    assert measured[name] <= BYTES_A_THREAD * numba.get_num_threads() + HUGE_PAGE
