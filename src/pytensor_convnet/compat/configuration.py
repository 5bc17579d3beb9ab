"""``theano.config``: PyTensor's settings under Theano's names, and those that only Theano had.

Theano grouped settings by dots (``config.scan.allow_gc``) where PyTensor writes ``scan__allow_gc``. What PyTensor does
not know (``device``, ``lib.cnmem``, ``compute_test_value``, ...) is kept, so that a program reads back what it wrote.
"""

import configparser
import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import ContextDecorator
from pathlib import Path
from typing import Any

from pytensor.configdefaults import config as pytensor_config

from pytensor_convnet.compat.device import note_device

ONLY_THEANOS: dict[str, Any] = {
    "device": "cpu",
    "init_gpu_device": "",
    "force_device": False,
    "contexts": "",
    "print_active_device": True,
    "assert_no_cpu_op": "ignore",
    "compute_test_value": "off",
    "compute_test_value_opt": "off",
    "print_test_value": False,
    "int_division": "int",
    "enable_initial_driver_test": True,
    "deterministic": "default",
    "gpuarray__preallocate": 0.0,
    "lib__cnmem": 0.0,
    "dnn__enabled": "auto",
    "dnn__conv__algo_fwd": "small",
    "dnn__conv__algo_bwd": "none",
    "dnn__conv__algo_bwd_filter": "none",
    "dnn__conv__algo_bwd_data": "none",
    "nvcc__fastmath": False,
    "nvcc__flags": "",
    "cuda__root": "",
    "reoptimize_unpickled_function": False,
    "pickle_test_value": True,
    "gpuelemwise__sync": True,
    "numpy__seterr_all": "ignore",
    "unittests__rseed": 666,
    "warn__round": False,
    "warn__signal_conv2d_interface": False,
    "experimental__unpickle_gpu_on_cpu": False,
    "experimental__local_alloc_elemwise": False,
    "conv__assert_shape": False,
}
"""Settings of Theano's that PyTensor does not have, and the values they had by default."""

_SECTIONS = (
    "gpuarray", "lib", "dnn", "nvcc", "cuda", "warn", "experimental", "conv", "magma", "gpuelemwise", "numpy",
    "unittests",
)  # fmt: skip
"""Groups in which any setting is taken: whatever they tuned, there is nothing to tune here."""


class Configuration:
    """Theano's settings, or one dotted group of them; reading and setting attributes.

    Examples
    --------
    >>> config = Configuration()
    >>> config.device, config.lib.cnmem
    ('cpu', 0.0)
    >>> with config.change_flags(floatX="float32"):
    ...     config.floatX
    'float32'
    """

    def __init__(self, group: str = "", kept: dict[str, Any] | None = None):
        object.__setattr__(self, "_group", group)
        object.__setattr__(self, "_kept", dict(ONLY_THEANOS) if kept is None else kept)

    def __getattr__(self, name: str) -> Any:
        flag = self._group + name
        if flag in self._kept:
            return self._kept[flag]
        if _is_pytensors(flag):
            return getattr(pytensor_config, flag)
        if flag in _SECTIONS or any(known.startswith(f"{flag}__") for known in self._known()):
            return Configuration(f"{flag}__", self._kept)
        raise AttributeError(
            f"theano.config.{flag.replace('__', '.')} is no setting of Theano's that is known here, nor of PyTensor's: "
            "print(theano.config) lists those that are"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        flag = self._group + name
        if flag == "optimizer":
            _set_optimizer(value)
        elif _is_pytensors(flag) and self._group != "warn__":  # of bugs in old versions of Theano
            setattr(pytensor_config, flag, value)
        elif flag in self._kept or flag.partition("__")[0] in _SECTIONS:
            self._kept[flag] = value
        else:
            raise AttributeError(f"theano.config.{flag.replace('__', '.')} is no setting that is known here")
        if flag in ("device", "init_gpu_device"):
            note_device(str(value))

    def _known(self) -> Iterator[str]:
        yield from self._kept
        yield from pytensor_config._config_var_dict

    def __str__(self) -> str:
        flags = sorted({flag for flag in self._known() if flag.startswith(self._group)})
        return "\n".join(f"{flag.replace('__', '.')} = {_value(self, flag[len(self._group) :])}" for flag in flags)

    def change_flags(self, *args: dict[str, Any], **flags: Any) -> "changed_flags":
        """A context manager (and decorator) within which settings have other values."""
        return changed_flags(self, {**dict(*args), **flags})


def _is_pytensors(flag: str) -> bool:
    return flag in pytensor_config._config_var_dict


def _set_optimizer(value: Any) -> None:
    """Change the setting, as Theano let one do; PyTensor refuses, as it keeps the default mode once it has used it.

    Modes made before stay as they are, and so does the default mode after the first function.
    """
    parameter = pytensor_config._config_var_dict["optimizer"]
    applied = parameter.apply(value)
    parameter.validate(applied)
    parameter.val = applied


def _value(settings: Any, flag: str) -> Any:
    for name in flag.split("__"):
        settings = getattr(settings, name)
    return settings


class changed_flags(ContextDecorator):
    """``theano.configparser.change_flags``: settings that hold inside a ``with`` block or a function."""

    def __init__(self, settings: Configuration, flags: dict[str, Any]):
        self.settings = settings
        self.flags = {flag.replace(".", "__"): value for flag, value in flags.items()}

    def __enter__(self) -> None:
        self.old = {flag: getattr(self.settings, flag) for flag in self.flags}
        for flag, value in self.flags.items():
            setattr(self.settings, flag, value)

    def __exit__(self, *exception: object) -> None:
        for flag, value in self.old.items():
            setattr(self.settings, flag, value)


def read_settings(environment: Any = os.environ) -> dict[str, str]:
    """Settings from ``.theanorc`` (or the files that ``THEANORC`` names) and, before those, ``THEANO_FLAGS``.

    Examples
    --------
    >>> read_settings({"THEANORC": "", "THEANO_FLAGS": "floatX=float32,lib.cnmem=0.8"})
    {'floatX': 'float32', 'lib__cnmem': '0.8'}
    """
    settings = {}
    files = environment.get("THEANORC", str(Path("~/.theanorc"))).split(os.pathsep)
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read([Path(file).expanduser() for file in files if file])
    for section in parser.sections():
        group = "" if section == "global" else section.replace(".", "__") + "__"
        settings.update({group + option: value for option, value in parser.items(section)})
    lexer = shlex.shlex(environment.get("THEANO_FLAGS", ""), posix=True)
    lexer.whitespace, lexer.whitespace_split = ",", True
    for flag in lexer:
        name, _, value = flag.partition("=")
        settings[name.strip().replace(".", "__")] = value.strip()
    return settings


def apply_settings(settings: dict[str, str], configuration: Configuration) -> None:
    """Set each; what PyTensor cannot change any more, or does not know, is said and left."""
    for flag, value in settings.items():
        try:
            setattr(configuration, flag, value)
        except Exception as error:  # PyTensor raises a bare Exception for a setting that cannot change any more
            if _is_pytensors(flag) and str(getattr(pytensor_config, flag)) == value:
                continue
            warnings.warn(f"Theano's flag {flag.replace('__', '.')}={value} has no effect: {error}", stacklevel=2)


config = Configuration()
