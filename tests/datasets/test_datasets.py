import subprocess
import sys

import pytest
from made_up_files import write_mnist

from pytensor_convnet import datasets


def test_digits_need_no_folder():
    assert datasets.load("digits").name == "digits"


def test_the_seed_reaches_the_digits():
    first, second = datasets.load("digits", seed=1), datasets.load("digits", seed=2)
    assert first.test_labels.tolist() != second.test_labels.tolist()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_folder_may_be_a_string(tmp_path, name):
    write_mnist(tmp_path)
    assert datasets.load(name, str(tmp_path)).name == name


@pytest.mark.parametrize("name", [name for name in datasets.NAMES if name != "digits"])
def test_every_name_leads_to_its_own_files(tmp_path, name):
    with pytest.raises(datasets.MissingData, match=f"the data set {name} was not found"):
        datasets.load(name, tmp_path)


def test_an_unknown_name_is_answered_with_the_known_ones():
    sentence = "there is no data set 'MNIST'; choose among digits, mnist, fashion-mnist, cifar10"
    with pytest.raises(ValueError, match=sentence):
        datasets.load("MNIST")


def test_importing_the_readers_imports_no_heavy_library():
    heavy = ["pytensor", "sklearn", "numba", "torch", "jax"]
    program = (
        "import sys, types, numpy; package = types.ModuleType('pytensor_convnet'); "
        f"package.__path__ = {[datasets.__path__[0].rsplit('/', 1)[0]]!r}; "
        "sys.modules['pytensor_convnet'] = package; import pytensor_convnet.datasets; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
