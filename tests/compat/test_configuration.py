"""Theano's settings: PyTensor's under their old names, and those that only Theano had."""

import os

import pytensor
import pytest
from pytensor.compile.mode import Mode

from pytensor_convnet.compat.configuration import Configuration, apply_settings, read_settings


def test_floatX_is_pytensors(old_imports):
    import theano
    import theano.tensor as T

    for dtype in ("float64", "float32"):
        theano.config.floatX = dtype
        assert pytensor.config.floatX == dtype
        assert T.matrix().dtype == dtype
        assert theano._asarray([1], dtype="floatX").dtype == dtype


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "cpu"), ("compute_test_value", "off"), ("exception_verbosity", "low"), ("profile", False)],
)
def test_settings_have_theanos_defaults(name, value):
    assert getattr(Configuration(), name) == value


def test_the_optimizer_can_be_chosen():
    before = pytensor.config.optimizer
    config = Configuration()
    with config.change_flags(optimizer="fast_compile"):
        assert str(Mode("py").provided_optimizer) == str(Mode("py", "fast_compile").provided_optimizer)
    assert pytensor.config.optimizer == before
    with pytest.raises(ValueError, match="optimizer"):
        config.optimizer = "nothing"


@pytest.mark.filterwarnings("ignore:PyTensor could not link")
def test_settings_in_groups_are_read_and_kept():
    config = Configuration()
    config.lib.cnmem = 0.8
    config.gpuarray.preallocate = 0.5
    config.dnn.conv.algo_fwd = "time_once"
    config.nvcc.compiler_bindir = "somewhere"
    config.warn.ignore_bug_before = "all"
    config.warn.subtensor_merge_bug = False
    assert (config.lib.cnmem, config.gpuarray.preallocate) == (0.8, 0.5)
    assert config.dnn.conv.algo_fwd == "time_once"
    assert config.nvcc.compiler_bindir == "somewhere"
    assert (config.warn.ignore_bug_before, config.warn.subtensor_merge_bug) == ("all", False)
    assert config.numpy.seterr_all == "ignore"
    assert isinstance(config.scan.allow_gc, bool)
    assert "lib.cnmem = 0.8" in str(config)


def test_unknown_settings_are_refused():
    config = Configuration()
    with pytest.raises(AttributeError, match=r"theano.config.nothing is no setting"):
        config.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"theano.config.nothing is no setting"):
        config.nothing = 1
    with pytest.raises(AttributeError, match=r"theano.config.scan.nothing is no setting"):
        config.scan.nothing  # noqa: B018


def test_the_device_is_read_back():
    config = Configuration()
    config.device = "cpu0"
    assert config.device == "cpu0"


def test_change_flags_holds_in_a_block_and_in_a_function(old_imports):
    import theano

    before = theano.config.floatX

    @theano.configparser.change_flags(floatX="float16")
    def inside():
        return theano.config.floatX

    assert inside() == "float16"
    with theano.change_flags({"floatX": "float16"}, **{"lib.cnmem": 1}):
        assert (theano.config.floatX, theano.config.lib.cnmem) == ("float16", 1)
    assert (theano.config.floatX, theano.config.lib.cnmem) == (before, 0.0)


def test_flags_come_before_files(tmp_path):
    file = tmp_path / "theanorc"
    file.write_text("[global]\nfloatX = float32\ndevice = cpu\n[lib]\ncnmem = 0.9\n[nvcc]\nfastmath = True\n")
    environment = {"THEANORC": os.pathsep.join([str(file), str(tmp_path / "none")]), "THEANO_FLAGS": "floatX=float64"}
    settings = read_settings(environment)
    assert settings == {"floatX": "float64", "device": "cpu", "lib__cnmem": "0.9", "nvcc__fastmath": "True"}


def test_flags_that_have_no_effect_are_named():
    apply_settings({"check_stack_trace": str(pytensor.config.check_stack_trace)}, Configuration())  # as it is anyway
    with pytest.warns(UserWarning, match="Theano's flag nothing=1 has no effect") as warned:
        apply_settings({"nothing": "1", "lib__cnmem": "1"}, Configuration())
    assert len(warned) == 1
